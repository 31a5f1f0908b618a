"""Which Python values PostgreSQL takes for the same key."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioupsert._plan.schema import Column, Storage
    from aioupsert.typing import Value

# For values of these Python types, Python's equality is that of the column.
_COMPARED_ALIKE: Final[dict[Storage, frozenset[type]]] = {
    "integer": frozenset({int, bool}),
    "boolean": frozenset({bool}),
    "uuid": frozenset({uuid.UUID}),
    "text": frozenset({str}),
    "varchar": frozenset({str}),
    "date": frozenset({dt.date}),
}


def comparable_types(column: Column) -> frozenset[type]:
    """Return the Python types whose equality is that of the column."""
    if column.key_type != column.type:
        return frozenset()
    return _COMPARED_ALIKE.get(column.storage, frozenset())


def python_equality_is_sql_equality(column: Column, values: Iterable[Value]) -> bool:
    """Return whether these keys are the same row exactly if they are equal."""
    if column.storage == "timestamptz" and column.key_type == column.type:
        return _are_comparable_moments(values)
    # NULL, which None is, means the rows that have it.
    return set(map(type, values)) <= {*comparable_types(column), type(None)}


def _are_comparable_moments(values: Iterable[Value]) -> bool:
    """
    Return whether Python compares these as moments.

    Where a time zone skips or repeats an hour, Python compares the times of day of one
    zone, and takes those of two zones for different ("PEP 495").
    """
    zones: set[dt.tzinfo | None] = set()
    for value in values:
        if type(value) is dt.datetime:
            zones.add(value.tzinfo)
        elif value is not None:
            return False
    return all(type(zone) is dt.timezone or str(zone) == "UTC" for zone in zones)
