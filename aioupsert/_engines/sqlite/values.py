"""
How SQLite converts text, for `convert_text`.

References:
    SQLite, "Datatypes In SQLite" (3.1, column affinity).
"""

from __future__ import annotations

import contextlib
import itertools
import json
from typing import TYPE_CHECKING, Final

from aioupsert._plan.key_checks import looks_like_number
from aioupsert.typing import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioupsert._plan.schema import Column, Storage

# SQLite has no booleans: these words are stored as the numbers that TRUE and FALSE are.
_BOOLEANS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "on"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "off"), 0),
}
_NUMERIC: Final[frozenset[Storage]] = frozenset({"sqlite number", "sqlite real"})
_INT64: Final = 2**63


def convert_text(column: Column, cells: Sequence[Value]) -> Sequence[Value]:
    """Return cells with text converted as the column's affinity would."""
    if column.storage not in _NUMERIC:
        return cells
    classes = set(map(type, cells))
    if classes == {str}:
        return _converted(column, cells)
    if not any(issubclass(cls, str) for cls in classes):
        return cells
    is_text = [isinstance(cell, str) for cell in cells]
    texts = iter(_converted(column, [*itertools.compress(cells, is_text)]))
    return [
        next(texts) if convert else cell
        for cell, convert in zip(cells, is_text, strict=True)
    ]


def _converted(column: Column, texts: Sequence[str]) -> Sequence[Value]:
    # Mostly a column has numbers as JSON has them, which are all read at once.
    joined = ",".join(texts)
    is_of_numbers = not joined.encode(errors="replace").translate(None, _OF_NUMBERS)
    if is_of_numbers and joined.count(",") == len(texts) - 1:
        with contextlib.suppress(ValueError):
            numbers: list[int | float] = json.loads(f"[{joined}]")
            if min(numbers) >= -_INT64 and max(numbers) < _INT64:
                return numbers
    convert = _boolean if column.family == "boolean" else _number
    # Most texts that are not numbers are times.
    return [text if ":" in text else convert(text) for text in texts]


_OF_NUMBERS: Final = b"0123456789eE.+- ,"


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
