"""The rows that are written."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

Row: TypeAlias = tuple[str, int, str]
"""A path, its hits and a note."""

COLUMNS: Final = ("path", "hits", "note")


def rows_of(number: int, turn: int) -> list[Row]:
    """Return rows that are not in the order of their keys; values differ by turn."""
    return [
        (f"/page/{n * 7919 % number:07d}", n + turn, f"the note of page {n}, {turn}")
        for n in range(number)
    ]


def as_dicts(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Return the rows in the form that aioupsert takes."""
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def seeded(seed: int) -> random.Random:
    """Return random numbers that are the same in every run."""
    return random.Random(seed)  # noqa: S311  # nothing here is secret
