"""
Many rows on SQLite: one statement, run for each of them, in one transaction.

The transaction is begun around the steps, with BEGIN IMMEDIATE as for one row. One
command then runs the statement for all rows of a group, in their order, or the statements
of several groups, each for its rows, in the order of all rows. So a row sees what the rows
before it have written, and equal keys need no care. `bulk_compiler`
says how it is known what happened to each row.

References:
    Python, "sqlite3" (`Cursor.executemany`). SQLite, "UPSERT".
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from aioupsert._engines.base import CompiledBatch, CompiledGroup, read_each
from aioupsert._engines.commands import (
    IN_TRANSACTION,
    Command,
    ResultRows,
    Steps,
    in_scope,
    single_command,
)
from aioupsert._engines.sql import RowCode
from aioupsert._engines.sqlite.steps import checked, scope
from aioupsert._plan import RejectedRow
from aioupsert.errors import NotAppliedError, UsageError
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

    def write_autocommit(
        self, _group: RowGroup, _outcome: BatchOutcome, *, whole: bool
    ) -> None:
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

    def arguments(self, group: RowGroup) -> Iterator[tuple[Value, ...]]:
        """Return the values of each row, in the order of the placeholders."""
        values: list[Iterable[Value]] = [
            *group.columns,
            *map(itertools.repeat, group.constants),
        ]
        bound = [
            group.positions if p == ROW_NUMBER else values[p] for p in self.parameters
        ]
        for position, encode in self.encoders:
            bound[position] = map(encode, bound[position])
        return zip(*bound, strict=False)


_Group: TypeAlias = "tuple[SqliteBatch, RowGroup]"


def write(
    groups: Sequence[CompiledGroup], outcome: BatchOutcome, *, is_locked: bool
) -> Steps[None]:
    """Write the rows of a batch, in their order, in the open transaction."""
    several = [(_batch_of(compiled), group) for compiled, group in groups]
    if len(several) == 1:
        body = _write_group(*several[0], outcome)
    else:
        body = _write_in_row_order(several, outcome)
    plan = several[0][0].per_row.plan  # all are for one table
    return checked(plan, body, is_locked=is_locked)


def _batch_of(compiled: CompiledBatch) -> SqliteBatch:
    assert isinstance(compiled, SqliteBatch)  # noqa: S101  # by this engine
    return compiled


def _write_group(
    batch: SqliteBatch, group: RowGroup, outcome: BatchOutcome
) -> Steps[None]:
    # A single row takes the classic steps: where bisecting a failed batch ends, the
    # error is then the one that the row causes by itself.
    if batch.upsert is None or len(group.positions) == 1:
        for row in range(len(group.positions)):
            yield from _write_row(batch, group, row, outcome)
        return
    if outcome.skips:
        yield from _write_what_passes(batch, batch.upsert, group, outcome)
        return
    marks = yield Command(batch.upsert, batch.arguments(group), kind="repeat")
    _record(marks, group.positions, outcome, conditional=batch.conditional)


def _write_what_passes(
    batch: SqliteBatch, upsert: str, group: RowGroup, outcome: BatchOutcome
) -> Steps[None]:
    """
    Write the rows of a group but for those at fault, each after those before it.

    The statement fails at the first row at fault. It is undone with what it has written,
    of which a trigger may have left something; the rows before that one are written
    again, and it by itself, by the classic steps, which may pass.
    """
    arguments = [*batch.arguments(group)]
    size = len(arguments)

    def write_some(rows: range, ahead: Iterator[int]) -> Steps[None]:
        some = map(arguments.__getitem__, ahead)
        marks = yield from in_scope(
            scope(in_transaction=True),
            single_command(Command(upsert, some, kind="repeat")),
        )
        positions = [group.positions[row] for row in rows]
        _record(marks, positions, outcome, conditional=batch.conditional)

    first = 0
    while first < size:
        rows = range(first, size)
        ahead = iter(rows)
        try:
            yield from write_some(rows, ahead)
        except Exception as exc:
            if not (yield from _is_of_row(exc)):
                raise
        else:
            return
        # The driver takes a row when it has written the one before.
        failed = size - 1 - operator.length_hint(ahead)
        if first < failed:
            passed = range(first, failed)
            yield from write_some(passed, iter(passed))
        body = _write_row(batch, group, failed, outcome)
        try:
            yield from in_scope(scope(in_transaction=True), body)
        except Exception as exc:
            if not (yield from _is_of_row(exc)):
                raise
            # Its traceback would keep all rows in memory.
            error = exc.with_traceback(None)
            outcome.rejected.append(RejectedRow(group.positions[failed], error))
        first = failed + 1


def _is_of_row(error: Exception) -> Steps[bool]:
    """Return whether a row is at fault, and the transaction is still open."""
    code = getattr(error, "sqlite_errorcode", 0) & _PRIMARY
    is_of_row = code == _CONSTRAINT or isinstance(error, (NotAppliedError, UsageError))
    return is_of_row and bool((yield IN_TRANSACTION))


# SQLite, "Result and Error Codes"; an extended code has the primary one in its low byte.
_PRIMARY: Final = 0xFF
_CONSTRAINT: Final = 19


def _write_row(
    batch: SqliteBatch, group: RowGroup, row: int, outcome: BatchOutcome
) -> Steps[None]:
    """Write a row by the classic steps."""
    result = yield from batch.per_row.write(group.values(row))
    outcome.add(group.positions[row], result)


def _write_in_row_order(groups: Sequence[_Group], outcome: BatchOutcome) -> Steps[None]:
    """Write the rows of several groups, each by the statement of its group."""
    places = sorted(
        (position, number, row)
        for number, (_, group) in enumerate(groups)
        for row, position in enumerate(group.positions)
    )
    arguments = [batch.arguments(group) for batch, group in groups]
    statements = [batch.upsert for batch, _ in groups]
    for has_statement, members in itertools.groupby(
        places, lambda place: statements[place[1]] is not None
    ):
        if not has_statement:
            for _, number, row in members:
                yield from _write_row(*groups[number], row, outcome)
            continue
        some = [*members]
        each = [(statements[number], next(arguments[number])) for _, number, _ in some]
        marks = yield Command("", each, kind="each")
        positions = [position for position, _, _ in some]
        conditional = any(batch.conditional for batch, _ in groups)
        _record(marks, positions, outcome, conditional=conditional)


def _record(
    marks: ResultRows,
    positions: Sequence[int],
    outcome: BatchOutcome,
    *,
    conditional: bool,
) -> None:
    """
    Record what happened to rows.

    Args:
        marks: What the functions have recorded: the position of a row that exists or,
            by a conditional update, this and the row's code.
        positions: Those of all rows.
        outcome: Where to.
        conditional: Whether some marks are by a conditional update.
    """
    if outcome.results is None and not conditional:
        outcome.count(RowCode.CREATED, len(positions) - len(marks))
        outcome.count(RowCode.UPDATED, len(marks))
        return
    codes = dict.fromkeys(positions, int(RowCode.CREATED))
    given: Iterable[Any] = marks
    for mark in given:
        position, code = (mark, RowCode.UPDATED) if isinstance(mark, int) else mark
        codes[position] = code
    outcome.add_codes(codes)
