"""Many rows in one call: where they come from, and how they are stored."""

from aioupsert._bulk.calls import (
    create_or_update_many,
    get_or_create_many,
    iter_create_or_update,
)

__all__ = ["create_or_update_many", "get_or_create_many", "iter_create_or_update"]
