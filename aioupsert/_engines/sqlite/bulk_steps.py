"""Many rows on SQLite: one statement, run for each of them in one transaction."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aioupsert._engines.base import Command, Steps
from aioupsert._engines.sql import CREATED, UPDATED

if TYPE_CHECKING:
    from aioupsert._engines.outcomes import BatchOutcome
    from aioupsert._engines.sqlite.steps import SqliteCall
    from aioupsert._plan import RowGroup

NOTE: Final = "aioupsert_note"
"""The SQL function for plain updates: records a row's number, returns NULL."""
MARK: Final = "aioupsert_mark"
"""The one for conditional updates: records a row's number and code, and returns whether
to update it."""
ROW_NUMBER: Final = -1
"""Stands for the row's number among the parameters of a statement."""


@dataclass(frozen=True, slots=True)
class SqliteBatch:
    """
    The statements for rows of one request shape.

    Attributes:
        per_row: Those of one row by itself.
        upsert: The statement to run for every row, or None.
        parameters: What its placeholders bind, in their order: indexes of values, and
            ROW_NUMBER.
        conditional: Whether an existing row may be left unchanged.
        encoders: Placeholders whose value is encoded first.
        how: How many rows are written, or why they are written one by one.
    """

    per_row: SqliteCall
    upsert: str | None
    parameters: tuple[int, ...]
    conditional: bool
    encoders: tuple[tuple[int, Callable[[Any], Any]], ...]
    how: str

    def write_alone(self, _group: RowGroup, _outcome: BatchOutcome) -> None:
        """Return None: a statement is run for each row, in a transaction around all."""

    def write(self, group: RowGroup, outcome: BatchOutcome) -> Steps[None]:
        """Write a group of rows in the open transaction."""
        number = len(group.positions)
        # A single row is written by the classic steps: bisecting a batch that fails
        # ends here, and so the error is the one that the row causes by itself.
        if self.upsert is None or number == 1:
            for row, position in enumerate(group.positions):
                result = yield from self.per_row.write(group.values(row))
                outcome.add(position, result)
            return
        marks = yield Command(self.upsert, self._arguments(group), kind="repeat")
        if outcome.results is None:
            outcome.count(CREATED, number - len(marks))
            if not self.conditional:
                outcome.count(UPDATED, len(marks))
                return
            for _, code in marks:
                outcome.count(code)
            return
        codes = [CREATED] * number
        marked: Any = (
            marks if self.conditional else zip(marks, itertools.repeat(UPDATED))
        )
        for row, code in marked:
            codes[row] = code
        outcome.add_codes(dict(zip(group.positions, codes, strict=True)))

    def _arguments(self, group: RowGroup) -> Iterable[tuple[Any, ...]]:
        """Return what each row binds, in the order of the placeholders."""
        values: list[Iterable[Any]] = [
            *group.columns,
            *map(itertools.repeat, group.constants),
        ]
        numbers = itertools.count()
        bound = [numbers if p == ROW_NUMBER else values[p] for p in self.parameters]
        for position, encode in self.encoders:
            bound[position] = map(encode, bound[position])
        return zip(*bound, strict=False)
