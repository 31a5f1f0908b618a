"""Which Python values PostgreSQL takes for the same key."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioupsert._plan.schema import Column, Storage

# For values of these Python types, Python's equality is that of the column.
_COMPARED_ALIKE: Final[dict[Storage, frozenset[type]]] = {
    "integer": frozenset({int, bool}),
    "boolean": frozenset({bool}),
    "uuid": frozenset({uuid.UUID}),
    "text": frozenset({str}),
    "varchar": frozenset({str}),
    "date": frozenset({dt.date}),
    "timestamptz": frozenset({dt.datetime}),
}


def python_equality_is_sql_equality(column: Column, types: Iterable[type]) -> bool:
    """Return whether equal keys of these Python types are the same row."""
    known = _COMPARED_ALIKE.get(column.storage, frozenset())
    return column.key_type == column.type and known.issuperset(set(types))
