"""Observers that pass on what they see; each needs the extra of its name."""
