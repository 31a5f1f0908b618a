"""What SQLite makes of text: the conversions of `convert_text`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aioupsert._plan.key_checks import looks_like_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from aioupsert._plan.schema import Column

_TRUTHS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "on"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "off"), 0),
}
_NUMERIC: Final = frozenset({"sqlite number", "sqlite real"})
_INT64: Final = 2**63


def text_converter(column: Column) -> Callable[[str], Any]:
    """Give what makes of a text what a column's affinity would, or what it means."""
    if column.family == "boolean":
        return _truth
    return _number if column.storage in _NUMERIC else str


def _truth(text: str) -> Any:
    return _TRUTHS.get(text.strip().lower(), text) if text.isalpha() else _number(text)


def _number(text: str) -> int | float | str:
    if not looks_like_number(text):
        return text
    try:
        number = int(text)
    except ValueError:
        return float(text)
    return number if -_INT64 <= number < _INT64 else float(text)
