"""
Many rows on PostgreSQL: by arrays, by a temporary table, and at last one by one.

A group of rows has one request shape, so one statement can write all of it. Up to a few
thousand rows are its arguments, as arrays; more are copied to a temporary table first.
The statement reports every row that it wrote. A row it does not report conflicted with
a concurrent call, has the key of an earlier row of the group, or was refused: such rows
go through the statement again, round after round while that writes at least half of
them, and the last few one by one, by the classic steps, which know why a row is in the
way. Rows that a condition leaves unchanged are found by a query before.

References:
    PostgreSQL, "INSERT" (ON CONFLICT), "COPY", "Query Planning".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from aioupsert._engines.base import (
    ArrayArgument,
    CannotCopyError,
    Command,
    Rows,
    Steps,
    in_scope,
)
from aioupsert._engines.outcomes import BatchOutcome, read_result
from aioupsert._engines.postgresql.steps import PostgresqlCall, scope
from aioupsert._engines.sql import CREATED, UPDATED, CompiledStatement, quote

if TYPE_CHECKING:
    from aioupsert._plan import RowGroup

T = TypeVar("T")

MAX_ARRAY_ROWS: Final = 5_000
"""Up to so many rows arrays are as quick as COPY, and need no temporary table."""
# Up to so many rows are as quick one by one.
_FEW_ROWS: Final = 2


class Input(NamedTuple):
    """
    What every row sends to a statement.

    Attributes:
        parameter: The index of the value.
        type: The type it is sent as.
        encode: Encodes it first, or None.
    """

    parameter: int
    type: str
    encode: Callable[[Any], Any] | None


class BatchStatement(NamedTuple):
    """
    A statement for many rows.

    Attributes:
        arrays: The text with the rows as arguments, after the constants.
        staged: The text with the rows in the temporary table.
        constants: The values that it binds first, the same for all rows.
    """

    arrays: str
    staged: str
    constants: CompiledStatement


class Answers(NamedTuple):
    """
    A statement with two ways to answer.

    Attributes:
        counts: Answers one row (a query for unchanged rows, one for each code), or None
            where a row of the batch may match several of the table, or come twice.
        reports: Answers a row for each one that it wrote, or found unchanged: its
            number, from 1, its code (or NULL), and the columns asked for.
    """

    counts: BatchStatement | None
    reports: BatchStatement


@dataclass(frozen=True, slots=True)
class PostgresqlBatch:
    """
    The statements for rows of one request shape.

    Attributes:
        per_row: Those of one row by itself.
        how: How many rows are written, or why they are written one by one.
        look: Finds the rows that are left unchanged; None where none is.
        upsert: Creates and updates rows; None where they are written one by one.
        inputs: What the rows send, in the order of the arrays.
        stage: The temporary table that rows may be copied to.
        create_stage: Creates it; empty where it cannot be created.
        takes_arrays: Whether arrays can carry the rows.
        joins_table: Whether the statement finds rows by a join with the table.
    """

    per_row: PostgresqlCall
    how: str
    look: Answers | None = None
    upsert: Answers | None = None
    inputs: tuple[Input, ...] = ()
    stage: str = ""
    create_stage: str = ""
    takes_arrays: bool = True
    joins_table: bool = False

    def write(self, group: RowGroup, outcome: BatchOutcome) -> Steps[None]:
        """Write a group of rows in the open transaction."""
        pending: Sequence[int] = range(len(group.positions))
        if self.upsert is not None and len(pending) > _FEW_ROWS:
            pending = yield from _GroupWrite(self, self.upsert, group, outcome).rounds(
                pending
            )
        for row in self._in_key_order(group, pending):
            result = yield from self.per_row.write(group.values(row))
            outcome.add(group.positions[row], result)

    def write_alone(
        self, group: RowGroup, outcome: BatchOutcome
    ) -> Steps[Sequence[int]] | None:
        """
        Write a group of rows by one statement that is a transaction by itself.

        Returns:
            Steps that return the rows which were not reported, and are not written;
            None where it takes more than one statement.
        """
        number = len(group.positions)
        if (
            self.upsert is None
            or self.look is not None
            or not self.takes_arrays
            or self.joins_table
            or number > MAX_ARRAY_ROWS
        ):
            return None
        return _GroupWrite(self, self.upsert, group, outcome).by_arrays(range(number))

    def _in_key_order(self, group: RowGroup, rows: Sequence[int]) -> Sequence[int]:
        """Sort rows by their keys, so that two writers do not wait for each other."""
        if not group.distinct:
            return rows  # keys that the database takes for equal keep their order
        key = [
            group.columns[k.parameter] for k in self.per_row.plan.key if not k.is_null
        ]
        return sorted(rows, key=lambda row: [column[row] for column in key])


class _GroupWrite:
    """One group of rows on its way through the statements of its batch."""

    def __init__(
        self,
        batch: PostgresqlBatch,
        upsert: Answers,
        group: RowGroup,
        outcome: BatchOutcome,
    ) -> None:
        self._batch = batch
        self._upsert = upsert
        self._group = group
        self._outcome = outcome

    def rounds(self, pending: Sequence[int]) -> Steps[Sequence[int]]:
        """Write round after round; return the rows to be written one by one."""
        while len(pending) > _FEW_ROWS:
            left = yield from self._round(pending)
            if len(left) > len(pending) // 2:
                return left
            pending = left
        return pending

    def _round(self, pending: Sequence[int]) -> Steps[Sequence[int]]:
        """Write rows once; return those that were not reported, in their order."""
        batch = self._batch
        if batch.create_stage and (
            len(pending) > MAX_ARRAY_ROWS or not batch.takes_arrays
        ):
            try:
                # In a savepoint: the driver may find out late that it cannot copy.
                return (
                    yield from in_scope(
                        scope(in_transaction=True), self._by_copy(pending)
                    )
                )
            except CannotCopyError:
                pass
        if not batch.takes_arrays:
            return pending
        left: list[int] = []
        for start in range(0, len(pending), MAX_ARRAY_ROWS):
            some = pending[start : start + MAX_ARRAY_ROWS]
            body = self.by_arrays(some)
            left += yield from _planned(_BY_INDEX, body) if batch.joins_table else body
        return left

    def by_arrays(self, some: Sequence[int]) -> Steps[list[int]]:
        """Write rows that are arguments; return those that were not reported."""
        return self._write(some, copied=False)

    def _by_copy(self, some: Sequence[int]) -> Steps[list[int]]:
        """Write rows by way of a temporary table, created and dropped for them."""
        yield Command(self._batch.create_stage, kind="command")
        yield self._copy(some)
        left = yield from _planned(_NO_JIT, self._write(some, copied=True))
        yield Command(f"DROP TABLE pg_temp.{quote(self._batch.stage)}", kind="command")
        return left

    def _copy(self, some: Sequence[int]) -> Command:
        rows = zip(itertools.count(1), *self._columns(some), strict=False)
        return Command(self._batch.stage, rows, kind="copy")

    def _columns(self, some: Sequence[int]) -> list[Sequence[Any]]:
        """Return what the rows send, column by column, with JSON encoded."""
        columns = self._group.some(some)
        return [
            columns[parameter] if encode is None else [*map(encode, columns[parameter])]
            for parameter, _, encode in self._batch.inputs
        ]

    def _write(self, some: Sequence[int], *, copied: bool) -> Steps[list[int]]:
        """Write rows by one statement; return those that it did not report."""
        batch = self._batch
        if batch.look is not None:
            rest = yield from self._find_unchanged(batch.look, some, copied=copied)
            if copied and rest and len(rest) < len(some):
                yield Command(f"TRUNCATE pg_temp.{quote(batch.stage)}", kind="command")
                yield self._copy(rest)
            some = rest
        if not some:
            return []
        counts = self._upsert.counts if self._outcome.results is None else None
        rows = yield self._bind(counts or self._upsert.reports, some, copied=copied)
        if counts is None:
            return self._record(some, rows)
        created, updated, left = rows[0]
        self._outcome.count(CREATED, created)
        self._outcome.count(UPDATED, updated)
        return [some[number - 1] for number in sorted(left or ())]

    def _find_unchanged(
        self, look: Answers, some: Sequence[int], *, copied: bool
    ) -> Steps[list[int]]:
        """Count the rows that are left unchanged; return the others."""
        counts = look.counts if self._outcome.results is None else None
        rows = yield self._bind(counts or look.reports, some, copied=copied)
        if counts is None:
            return self._record(some, rows)
        unchanged: set[int] = set()
        for code, numbers in rows:
            self._outcome.count(code, len(numbers))
            unchanged.update(numbers)
        if not unchanged:
            return [*some]
        return [row for number, row in enumerate(some, 1) if number not in unchanged]

    def _bind(
        self, statement: BatchStatement, some: Sequence[int], *, copied: bool
    ) -> Command:
        """Return the command that sends a statement for some rows."""
        plan = self._batch.per_row.plan
        asked = len(plan.returning)
        values = [*(None,) * plan.row_parameters, *self._group.constants]
        constants = statement.constants.arguments(values)
        if copied:
            return Command(statement.staged, constants, asked=asked)
        arrays = map(ArrayArgument, self._columns(some))
        return Command(statement.arrays, [*constants, *arrays], asked=asked)

    def _record(self, some: Sequence[int], rows: Rows) -> list[int]:
        """Record what happened to each reported row; return those not reported."""
        plan, positions = self._batch.per_row.plan, self._group.positions
        written = [row for row in rows if row[1] is not None]
        reported: dict[int, Any] = {}
        if plan.unique and not plan.returning:
            reported = {row[0]: row[1] for row in written}
            self._outcome.add_codes(
                {positions[some[number - 1]]: code for number, code in reported.items()}
            )
        else:
            for number, *answer in written:
                reported.setdefault(number, []).append(answer)
            for number, answers in reported.items():
                self._outcome.add(
                    positions[some[number - 1]], read_result(plan, answers)
                )
        return [row for number, row in enumerate(some, 1) if number not in reported]


# Compiling a statement takes the server longer than running it once. (Not by "jit", which
# asyncpg sets for the session when it meets a type, to the value it finds then.)
_NO_JIT: Final = {"jit_above_cost": "-1"}
# The server may have planned a statement when the table was small, or take the arrays
# for small: a scan or hash join that is right then is ruinous for many rows. An index
# scan is right in every case.
_BY_INDEX: Final = {
    **_NO_JIT,
    **dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off"),
}


def _planned(settings: Mapping[str, str], body: Steps[T]) -> Steps[T]:
    """Run steps under settings of the planner, and restore those afterwards."""
    now = [f"current_setting('{name}')" for name in settings]
    new = [f"set_config('{name}', '{s}', true)" for name, s in settings.items()]
    rows = yield Command(f"SELECT {', '.join(now + new)}")
    result = yield from body
    back = [f"set_config('{name}', ${n}, true)" for n, name in enumerate(settings, 1)]
    yield Command(f"SELECT {', '.join(back)}", rows[0][: len(settings)])
    return result
