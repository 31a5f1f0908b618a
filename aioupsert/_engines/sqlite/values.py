"""
How SQLite converts text, for `convert_text`.

References:
    SQLite, "Datatypes In SQLite" (3.1, column affinity).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aioupsert._plan.key_checks import looks_like_number
from aioupsert.typing import Value

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioupsert._plan.schema import Column, Storage

# SQLite has no booleans: these words are stored as the numbers that TRUE and FALSE are.
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "on"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "off"), 0),
}
_NUMERIC: Final[frozenset[Storage]] = frozenset({"sqlite number", "sqlite real"})
_INT64: Final = 2**63


def text_converter(column: Column) -> Callable[[str], Value]:
    """Return the function that converts text as the column's affinity would."""
    if column.family == "boolean":
        return _boolean
    return _number if column.storage in _NUMERIC else str


def _boolean(text: str) -> int | float | str:
    if not text.isalpha():
        return _number(text)
    return _BOOLEANS.get(text.strip().lower(), text)


def _number(text: str) -> int | float | str:
    if not looks_like_number(text):
        return text
    try:
        number = int(text)
    except ValueError:
        return float(text)
    return number if -_INT64 <= number < _INT64 else float(text)
