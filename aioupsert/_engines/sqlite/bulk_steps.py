"""
Many rows on SQLite: one statement, run for each of them, in one transaction.

The transaction is begun around the steps, with BEGIN IMMEDIATE as for one row. One
command then runs the statement for all rows of a group, in their order, or the statements
of several groups, each for its rows, in the order of all rows. So a row sees what the rows
before it have written, and equal keys need no care. `bulk_compiler`
says how it is known what happened to each row.

Where one statement would not do, one command runs the update for all rows, and after each
that it does not find the other statements of the classic steps.

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
    MARKS,
    Command,
    ResultRows,
    Steps,
    in_scope,
    single_command,
)
from aioupsert._engines.outcomes import read_result, refused
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
WORTH_A_LOCK: Final = 100
"""Of fewer rows, recording each costs less than the lock and the counting."""


_MAX_ROWID: Final = 2**63 - 1
"""After this one SQLite takes any rowid that is free."""


@dataclass(frozen=True, slots=True)
class RowStatement:
    """
    A statement to run for every row of a group.

    Attributes:
        sql: The text.
        parameters: The parameters that its placeholders bind, in their order.
        encoders: The placeholders whose value is encoded.
    """

    sql: str
    parameters: tuple[int, ...]
    encoders: Encoders

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


@dataclass(frozen=True, slots=True)
class SqliteBatch:
    """
    The statements for rows of one request shape, and their steps.

    Attributes:
        per_row: The statements for a single row.
        upsert: The statement that records existing rows, or None to write all rows one by
            one.
        conditional: Whether an existing row may be left unchanged.
        how: The form of the statement, or why the rows are written one by one.
        counted: The same statement if the largest rowid tells how many rows it created.
        newest: The query for that rowid.
        lock: Takes the write lock, without which nothing may be read before the rows are
            written.
    """

    per_row: SqliteCall
    upsert: RowStatement | None
    conditional: bool
    how: str
    counted: RowStatement | None = None
    newest: str = ""
    lock: str = ""

    def statement(self, counting: _Counting | None) -> RowStatement | None:
        """Return the statement to run, given what counts created rows."""
        return self.upsert if counting is None else self.counted

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


_Group: TypeAlias = "tuple[SqliteBatch, RowGroup]"


def write(
    groups: Sequence[CompiledGroup], outcome: BatchOutcome, *, is_locked: bool
) -> Steps[None]:
    """Write the rows of a batch, in their order, in the open transaction."""
    several = [(_batch_of(compiled), group) for compiled, group in groups]
    if len(several) == 1:
        body = _write_group(*several[0], outcome, is_locked=is_locked)
    else:
        body = _write_in_row_order(several, outcome, is_locked=is_locked)
    plan = several[0][0].per_row.plan  # all are for one table
    return checked(plan, body, is_locked=is_locked)


def _batch_of(compiled: CompiledBatch) -> SqliteBatch:
    assert isinstance(compiled, SqliteBatch)  # noqa: S101  # by this engine
    return compiled


def _write_group(
    batch: SqliteBatch, group: RowGroup, outcome: BatchOutcome, *, is_locked: bool
) -> Steps[None]:
    # A single row takes the classic steps: where bisecting a failed batch ends, the
    # error is then the one that the row causes by itself.
    if batch.upsert is None or len(group.positions) == 1:
        yield from _write_one_by_one(batch, group, outcome)
        return
    size = len(group.positions)
    counting = yield from _counting([batch], size, outcome, is_locked=is_locked)
    statement = batch.statement(counting)
    assert statement is not None  # noqa: S101  # there is one
    if outcome.skips:
        yield from _write_what_passes(batch, statement, group, counting, outcome)
        return
    marks = yield Command(statement.sql, statement.arguments(group), kind="repeat")
    if counting is not None:
        yield from counting.count(size, outcome)
    else:
        _record(marks, group.positions, outcome, conditional=batch.conditional)


def _write_what_passes(
    batch: SqliteBatch,
    statement: RowStatement,
    group: RowGroup,
    counting: _Counting | None,
    outcome: BatchOutcome,
) -> Steps[None]:
    """
    Write the rows of a group but for those at fault, each after those before it.

    The statement fails at the first row at fault, and leaves the rows before that one.
    Unless the table is a plain one, the statement may leave something of the row as well:
    then all is undone, and the rows before it are written again. The row is written by
    itself, by the classic steps, which may pass.
    """
    is_plain = batch.per_row.plan.table.is_plain
    arguments = [*statement.arguments(group)]
    size = len(arguments)

    def write_some(ahead: Iterator[int]) -> Steps[ResultRows]:
        some = map(arguments.__getitem__, ahead)
        steps = single_command(Command(statement.sql, some, kind="repeat"))
        return steps if is_plain else in_scope(scope(in_transaction=True), steps)

    first = 0
    while first < size:
        failed = size
        ahead = iter(range(first, size))
        try:
            marks = yield from write_some(ahead)
        except Exception as exc:
            if not (yield from _is_of_row(exc)):
                raise
            # The driver takes a row when it has written the one before.
            failed = size - 1 - operator.length_hint(ahead)
            if is_plain:
                at = group.positions[failed]
                recorded = yield MARKS
                marks = [mark for mark in recorded if _position_of(mark) != at]
            else:
                marks = yield from write_some(iter(range(first, failed)))
        passed = group.positions[first:failed]
        if counting is not None:
            yield from counting.count(len(passed), outcome)
        else:
            _record(marks, passed, outcome, conditional=batch.conditional)
        if failed < size:
            body = _write_row(batch, group, failed, outcome)
            if not is_plain:
                body = in_scope(scope(in_transaction=True), body)
            yield from _try_row(body, group.positions[failed], outcome)
            if counting is not None:
                yield from counting.start()
        first = failed + 1


def _try_row(body: Steps[None], position: int, outcome: BatchOutcome) -> Steps[None]:
    """Write a row, if it passes."""
    try:
        yield from body
    except Exception as exc:
        if not (yield from _is_of_row(exc)):
            raise
        # Its traceback would keep all rows in memory.
        error = exc.with_traceback(None)
        outcome.rejected.append(RejectedRow(position, error))


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


def _write_one_by_one(
    batch: SqliteBatch, group: RowGroup, outcome: BatchOutcome
) -> Steps[None]:
    """
    Write rows by the classic steps, each after those before it.

    One command updates all of them, and sends the other statements for each row that the
    update does not find, before it goes on with the next.

    Raises:
        NotAppliedError: The database silently did not write a row.
    """
    call = batch.per_row
    update = call.update
    if len(group.positions) == 1 or update is None or not call.is_counted():
        for row in range(len(group.positions)):
            yield from _write_row(batch, group, row, outcome)
        return
    others = [s for s in (call.find, call.insert) if s is not None]
    rows = zip(*group.columns, *map(itertools.repeat, group.constants), strict=False)
    updates, *copies = itertools.tee(rows, 1 + len(others))
    values = [
        map(other.arguments, copy) for other, copy in zip(others, copies, strict=True)
    ]
    turns = zip(
        map(update.arguments, updates),
        zip(*values, strict=True),
        strict=True,
    )
    answers = yield Command(update.sql, turns, kind="update first", others=others)
    codes: dict[int, int] = {}
    for position, answer in zip(group.positions, answers, strict=True):
        found: Any = answer
        if isinstance(found, int):
            found = [(RowCode.UPDATED,)] * found
        elif not found or any(row[0] == RowCode.UPDATED for row in found):
            # Of a row that should have been updated the query tells that.
            raise refused(call.plan.table.name)
        if len(found) == 1:
            codes[position] = found[0][0]
        else:
            outcome.add(position, read_result(call.plan, found))
    outcome.add_codes(codes)


def _write_in_row_order(
    groups: Sequence[_Group], outcome: BatchOutcome, *, is_locked: bool
) -> Steps[None]:
    """Write the rows of several groups, each by the statement of its group."""
    places = sorted(
        itertools.chain.from_iterable(
            zip(group.positions, itertools.repeat(number))
            for number, (_, group) in enumerate(groups)
        )
    )
    batches = [batch for batch, _ in groups]
    counting = yield from _counting(batches, len(places), outcome, is_locked=is_locked)
    statements = [batch.statement(counting) for batch in batches]
    texts = [statement and statement.sql for statement in statements]
    # What comes next in each group: the values of a row, or its number.
    turns: list[Iterator[Any]] = [
        itertools.count() if statement is None else statement.arguments(group)
        for statement, (_, group) in zip(statements, groups, strict=True)
    ]
    done = 0
    for one_by_one, members in itertools.groupby(
        (number for _, number in places), [text is None for text in texts].__getitem__
    ):
        some = [*members]
        positions = [position for position, _ in places[done : done + len(some)]]
        done += len(some)
        if one_by_one:
            for number, run in itertools.groupby(some):
                batch, group = groups[number]
                part = group.part([next(turns[number]) for _ in run])
                yield from _write_one_by_one(batch, part, outcome)
            continue
        values = map(next, map(turns.__getitem__, some))
        each = zip(map(texts.__getitem__, some), values, strict=True)
        marks = yield Command("", each, kind="each")
        if counting is not None:
            yield from counting.count(len(some), outcome)
        else:
            conditional = any(batch.conditional for batch in batches)
            _record(marks, positions, outcome, conditional=conditional)


class _Counting:
    """Counts the created rows of a table whose largest rowid tells how many they are."""

    def __init__(self, newest: str) -> None:
        self._query = newest
        self.rowid = 0

    def start(self) -> Steps[None]:
        """Read the largest rowid."""
        rows = yield Command(self._query)
        self.rowid = rows[0][0]

    def count(self, rows: int, outcome: BatchOutcome) -> Steps[None]:
        """Count so many rows that were written since the last one was read."""
        before = self.rowid
        yield from self.start()
        created = self.rowid - before
        outcome.count(RowCode.CREATED, created)
        outcome.count(RowCode.UPDATED, rows - created)


def _counting(
    batches: Sequence[SqliteBatch],
    rows: int,
    outcome: BatchOutcome,
    *,
    is_locked: bool,
) -> Steps[_Counting | None]:
    """
    Return what counts created rows; None if they must be recorded one by one.

    This reads before anything is written, and so takes the write lock if the transaction
    may not have it.
    """
    if outcome.results is not None or any(b.counted is None for b in batches):
        return None
    if not is_locked:
        if rows < WORTH_A_LOCK:
            return None
        yield Command(batches[0].lock)
    counting = _Counting(batches[0].newest)  # all are for one table
    yield from counting.start()
    return counting if counting.rowid <= _MAX_ROWID - rows else None


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


def _position_of(mark: Any) -> int:
    position: int = mark if isinstance(mark, int) else mark[0]
    return position
