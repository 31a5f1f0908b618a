"""A scope of a table made equal to its source."""

from aioupsert._sync.calls import sync_rows

__all__ = ["sync_rows"]
