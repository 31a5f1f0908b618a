"""
Many rows on SQLite: one statement, run for each of them, in one transaction.

The transaction is begun around the steps, with BEGIN IMMEDIATE as for one row. One
command then runs the statement for all rows of a group, in their order, so that a row
sees what the rows before it have written, and equal keys need no care. `bulk_compiler`
says how it is known what happened to each row.

References:
    Python, "sqlite3" (`Cursor.executemany`). SQLite, "UPSERT".
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aioupsert._engines.base import Command, Steps
from aioupsert._engines.outcomes import read_each
from aioupsert._engines.sql import RowCode
from aioupsert._engines.sqlite.steps import checked
from aioupsert.typing import Value

if TYPE_CHECKING:
    from aioupsert._engines.outcomes import BatchOutcome
    from aioupsert._engines.sql import Encoders
    from aioupsert._engines.sqlite.steps import SqliteCall
    from aioupsert._plan import RowGroup

NOTE: Final = "aioupsert_note"
"""The SQL function of plain updates: records a row's number and returns NULL."""
MARK: Final = "aioupsert_mark"
"""
The SQL function of conditional updates.

It records a row's number and code, and returns whether to update the row.
"""
ROW_NUMBER: Final = -1
"""The parameter that stands for the row's number."""


@dataclass(frozen=True, slots=True)
class SqliteBatch:
    """
    The statement for rows of one request shape, and its steps.

    Attributes:
        per_row: The statements for a single row.
        upsert: The statement to run for every row, or None to write them one by one.
        parameters: The parameters that its placeholders bind, in their order.
        conditional: Whether an existing row may be left unchanged.
        encoders: The placeholders whose value is encoded.
        how: The form of the statement, or why the rows are written one by one.
    """

    per_row: SqliteCall
    upsert: str | None
    parameters: tuple[int, ...]
    conditional: bool
    encoders: Encoders
    how: str

    def write_autocommit(self, _group: RowGroup, _outcome: BatchOutcome) -> None:
        """Return None: a statement runs for each row, in one transaction around all."""

    def read_existing(
        self, group: RowGroup, outcome: BatchOutcome
    ) -> Steps[Sequence[int]]:
        """Record the existing rows of a group; return those that do not exist."""
        return read_each(self.per_row, group, outcome)

    def find_locked(self, _group: RowGroup) -> None:
        """Return None: the file is locked, not a row."""

    def find_holders(self, _group: RowGroup) -> None:
        """Return None, as SQLite does not tell."""

    def write(self, group: RowGroup, outcome: BatchOutcome) -> Steps[None]:
        """Write a group of rows in the open transaction."""
        return checked(self.per_row.plan, self._write(group, outcome))

    def _write(self, group: RowGroup, outcome: BatchOutcome) -> Steps[None]:
        number = len(group.positions)
        # A single row takes the classic steps: where bisecting a failed batch ends, the
        # error is then the one that the row causes by itself.
        if self.upsert is None or number == 1:
            for row, position in enumerate(group.positions):
                result = yield from self.per_row.write(group.values(row))
                outcome.add(position, result)
            return
        marks = yield Command(self.upsert, self._arguments(group), kind="repeat")
        if outcome.results is None:
            outcome.count(RowCode.CREATED, number - len(marks))
            if not self.conditional:
                outcome.count(RowCode.UPDATED, len(marks))
                return
            for _, code in marks:
                outcome.count(code)
            return
        codes: list[int] = [RowCode.CREATED] * number
        # A note is the row's number, a mark is that and its code.
        marked: Any = (
            marks if self.conditional else zip(marks, itertools.repeat(RowCode.UPDATED))
        )
        for row, code in marked:
            codes[row] = code
        outcome.add_codes(dict(zip(group.positions, codes, strict=True)))

    def _arguments(self, group: RowGroup) -> Iterable[tuple[Value, ...]]:
        """Return the values of each row, in the order of the placeholders."""
        values: list[Iterable[Value]] = [
            *group.columns,
            *map(itertools.repeat, group.constants),
        ]
        numbers = itertools.count()
        bound = [numbers if p == ROW_NUMBER else values[p] for p in self.parameters]
        for position, encode in self.encoders:
            bound[position] = map(encode, bound[position])
        return zip(*bound, strict=False)
