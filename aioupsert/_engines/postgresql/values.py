"""What PostgreSQL makes of values: which keys are one row."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aioupsert._plan.schema import Column

# Values of these Python types are equal exactly if the database takes them for the same.
_COMPARED_ALIKE: Final[dict[str, frozenset[type]]] = {
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
    return column.key_type == column.type and known.issuperset(types)
