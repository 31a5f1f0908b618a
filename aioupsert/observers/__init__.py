"""Observers that export events; each needs the extra of the same name."""
