"""
Many rows on PostgreSQL: in rounds of one statement, and the last few one by one.

A group of rows has one request shape, so one statement can write all of it. What a round
sends, in the open transaction:

1. for few rows: nothing, as arrays carry them. For many, or wide ones: a savepoint,
   CREATE TEMPORARY TABLE, unless the session has it, and COPY, which is faster then;
2. if a condition may leave rows unchanged: the query that finds those rows; the others
   go on;
3. the statement of `bulk_compiler`, which reports the rows that it wrote;
4. TRUNCATE: the session keeps the table, as one made for each batch would fill the catalog
   with dead rows. It is dropped behind a pooler, and if it has columns of the caller's types.

No setting of the planner is changed: triggers, foreign keys, policies and functions would
be planned with it, and PL/pgSQL keeps such plans for the session.

Many rows that were looked for in vain are inserted without ON CONFLICT, behind a savepoint;
if that fails by a conflict, all of them take part in the next round.

A row that was not reported conflicted with a concurrent call, or was silently not written.
Such rows take part in the next round, as long as a round writes at least half of its rows.
The rest is written one by one, by the classic steps, which find the reason why a row cannot
be written.

Where only the database knows which keys are equal, it is asked first. Then the first row of
each key is written, the second one after that, and so on.

Where several groups, or several statements, write the rows of a batch, those that exist
are locked before the first round.

Without a condition and with few rows a round is one statement. It is then sent outside
of a transaction, in one round trip, if the caller has none open.

References:
    PostgreSQL, "INSERT" (ON CONFLICT Clause), "COPY", "Populating a Database".
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from aioupsert._engines.base import CompiledBatch, CompiledGroup, read_each
from aioupsert._engines.commands import (
    OWN_SESSION,
    PLAIN_TEXT,
    PREFERS_ARRAYS,
    ArrayArgument,
    CannotCopyError,
    Command,
    FoundRows,
    ResultRow,
    ResultRows,
    StaleTableError,
    Steps,
    in_scope,
)
from aioupsert._engines.outcomes import BatchOutcome, read_result, refused
from aioupsert._engines.postgresql.qualifying import PG_CATALOG
from aioupsert._engines.postgresql.steps import (
    PostgresqlCall,
    check_level,
    is_conflict,
    scope,
)
from aioupsert._engines.sql import CompiledStatement, Encoder, RowCode, quote
from aioupsert._plan import CopiedRows, in_turns
from aioupsert.typing import Value

if TYPE_CHECKING:
    from aioupsert._plan import RowGroup

MAX_ARRAY_ROWS: Final = 5_000
"""The number of rows up to which arrays are as fast as COPY to a temporary table."""
_MAX_ARRAY_CELLS: Final = 20_000
"""The same for their cells."""
_MAX_READ_ROWS: Final = 50_000
"""The number of keys that are looked up by one statement, and then of new rows."""
_MANY_TEXTS: Final = 1_000
"""The number of rows from which on a column of text is sent as one text."""
_MAX_KEY_LOCKS: Final = 1_000
"""The number of keys up to which each has a lock; the server has 6,400 for all sessions."""
_MANY_MISSING: Final = 1_000
"""The number of rows from which on a savepoint costs less than ON CONFLICT does."""
# The number of rows left by a round that are written one by one as fast as by another.
_FEW_ROWS: Final = 2


class BatchColumn(NamedTuple):
    """
    A column of the batch: a value that every row sends.

    Attributes:
        parameter: The parameter whose value it is.
        type: The type that it is sent as.
        encode: What encodes it, or None.
    """

    parameter: int
    type: str
    encode: Encoder | None


class BatchStatement(NamedTuple):
    """
    A statement for many rows.

    Attributes:
        arrays: The text that reads the rows from arrays, which follow the constants.
        staged: The text that reads the rows from the temporary table.
        constants: Binds the values that are the same for all rows; it has no text.
    """

    arrays: str
    staged: str
    constants: CompiledStatement


class ReportingStatement(NamedTuple):
    """
    A statement with ways to report the rows that it has written or found unchanged.

    Attributes:
        counts: Returns counts and the numbers of rows; None if a row of the batch may
            match several rows of the table, or have the key of another one.
        rows: Returns a row for each: its number, from 1, its code (or NULL), and the
            columns that the caller asked for.
        arrays: Returns these rows as an array for each column; None if that is not for
            the columns that the caller asked for.
        writes_all: Whether it never writes some rows without the others.
    """

    counts: BatchStatement | None
    rows: BatchStatement
    arrays: BatchStatement | None = None
    writes_all: bool = False


class KeyLock(NamedTuple):
    """
    A query for the existing rows of some keys, and their locks.

    Attributes:
        sql: Its text, which returns numbers of the keys.
        columns: What its arrays hold.
        locks: Whether it locks them, and does not only find them.
    """

    sql: str
    columns: tuple[BatchColumn, ...]
    locks: bool


class KeyLocks(NamedTuple):
    """
    The advisory locks on keys, each a query that returns the isolation level.

    Attributes:
        each: Takes those of the keys in its arrays; None if there is but one for all.
        every: Takes the one for all keys of the table.
    """

    each: KeyLock | None
    every: str


@dataclass(frozen=True, slots=True)
class PostgresqlBatch:
    """
    The statements for rows of one request shape, and their steps.

    Attributes:
        per_row: The statements for a single row.
        how: The form of the statement, or why the rows are written one by one.
        find_unchanged: Finds the rows that are left unchanged; None if none can be.
        upsert: Updates and inserts rows; None if they are written one by one.
        columns: The columns of the batch, in the order of the arrays.
        staging_table: The name of the temporary table that rows are copied to.
        create_staging_table: Creates it; empty if this role may not.
        keeps_staging_table: Whether it may be emptied after a batch, and not dropped.
        takes_arrays: Whether arrays can carry the rows.
        lock: Locks the existing rows in the order of their keys; None if it cannot.
        draws: Whether new rows take values of a sequence, in the order of the rows.
        draw: The queries for a number of the next values of a sequence, one for each
            column whose values can be taken beforehand.
        create: Inserts rows that did not exist just before; None if it must look again.
        create_all: Does so as well, and fails if one of them exists by now.
        apart: Whether *upsert* only updates rows.
        insert: Inserts the others then, in a statement that fails if one of them exists;
            None if that is not possible, or if *upsert* does it.
        locks: The queries for rows that are locked, and for who has locked them; none
            where this is never asked.
        same_keys: The query for rows that have the key of an earlier one; None if none
            have, or if it cannot be asked.
        same_table: The query for whether the table is the one that was reflected.
        lock_keys: The advisory locks under which rows are written, or else inserted.
    """

    per_row: PostgresqlCall
    how: str
    find_unchanged: ReportingStatement | None = None
    upsert: ReportingStatement | None = None
    columns: tuple[BatchColumn, ...] = ()
    staging_table: str = ""
    create_staging_table: str = ""
    keeps_staging_table: bool = False
    takes_arrays: bool = True
    lock: KeyLock | None = None
    draws: bool = False
    draw: tuple[str, ...] = ()
    create: ReportingStatement | None = None
    create_all: ReportingStatement | None = None
    apart: bool = False
    insert: ReportingStatement | None = None
    locks: tuple[KeyLock, ...] = ()
    same_keys: KeyLock | None = None
    same_table: str = ""
    lock_keys: KeyLocks | None = None

    def find_locked(self, group: RowGroup) -> Steps[FoundRows] | None:
        """Find the rows that cannot be locked now or do not exist."""
        return self._find(self.locks[0], group) if self.locks else None

    def find_holders(self, group: RowGroup) -> Steps[FoundRows] | None:
        """Find the sessions that have locked rows."""
        return self._find(self.locks[1], group) if self.locks else None

    def _find(self, query: KeyLock, group: RowGroup) -> Steps[FoundRows]:
        arguments = map(ArrayArgument, _encoded(query.columns, group.columns))
        # Planned each time: the table may have been small when it was prepared.
        rows = yield Command(query.sql, [*arguments], kind="once")
        return [(group.positions[number - 1], what) for number, what in rows]

    def write(
        self, group: RowGroup, outcome: BatchOutcome, *, alone: bool
    ) -> Steps[None]:
        """
        Write a group of rows in the open transaction.

        Args:
            group: The rows.
            outcome: Where to record what became of them.
            alone: Whether no other group of the batch is written, which may have created
                its rows.
        """
        pending: Sequence[int] = range(len(group.positions))
        # Two rows may refer to each other, and so need one statement.
        few = 0 if group.drawn else 1
        if self.upsert is not None and group.distinct and len(pending) > few:
            write = _GroupWrite(self, self.upsert, group, outcome, alone=alone)
            pending = yield from write.rounds(pending)
            if len(pending) == len(group.positions):
                yield from self._check_table()
        for row in self._in_key_order(group, pending):
            result = yield from self.per_row.write(group.values(row))
            outcome.add(group.positions[row], result)

    def _check_table(self) -> Steps[None]:
        """
        Check that the table is the one whose defaults were written, which is rarely not.

        Raises:
            StaleTableError: It is another one, of which each row would be left.
        """
        # Not prepared: it would be answered as it was when it was planned.
        found = yield Command(self.same_table, kind="once")
        if not found[0][0]:
            label = self.per_row.plan.table.label
            msg = f"{label} has been created again since it was reflected"
            raise StaleTableError(msg)

    def read_existing(
        self, group: RowGroup, outcome: BatchOutcome
    ) -> Steps[Sequence[int]]:
        """Record the existing rows of a group; return those that do not exist."""
        number = len(group.positions)
        if self.upsert is None or self.find_unchanged is None or not self.takes_arrays:
            return (yield from read_each(self.per_row, group, outcome))
        write = _GroupWrite(self, self.upsert, group, outcome)
        left: list[int] = []
        for start in range(0, number, _MAX_READ_ROWS):
            some = range(start, min(start + _MAX_READ_ROWS, number))
            left += yield from write.find_unchanged(self.find_unchanged, some)
        return left

    def write_autocommit(
        self, group: RowGroup, outcome: BatchOutcome, *, whole: bool
    ) -> Steps[Sequence[int]] | None:
        """
        Write a group of rows with one statement, outside of a transaction.

        Returns:
            Steps that return the rows which were not reported, and are not written;
            None if the group takes more than one statement.
        """
        number = len(group.positions)
        if (
            self.upsert is None
            or self.apart
            or self.lock_keys is not None
            or self.find_unchanged is not None
            or not self.takes_arrays
            or not group.distinct
            or number > MAX_ARRAY_ROWS
            or self.copies(number)
            # A value that a driver does not take in an array may pass by itself.
            or (whole and (number == 1 or not self.upsert.writes_all))
        ):
            return None
        return _GroupWrite(self, self.upsert, group, outcome).by_arrays(range(number))

    def keys(self, group: RowGroup) -> list[tuple[Value, ...]]:
        """Return the key of each row."""
        return [*zip(*group.columns[: len(self.per_row.plan.key)], strict=True)]

    def takes_several(self, group: RowGroup) -> bool:
        """Return whether rows are locked by several statements, not in key order."""
        number = len(group.positions)
        if self.upsert is None or not group.distinct:
            return number > 1 and (self.draws or not group.distinct)
        if self.create_staging_table or not self.takes_arrays:
            return False
        return number > _max_array_rows(judged=group.judged)

    def copies(self, number: int, *, judged: bool = False) -> bool:
        """Return whether so many rows are copied to a temporary table."""
        if not self.create_staging_table:
            return False
        is_wide = not judged and number * len(self.columns) > _MAX_ARRAY_CELLS
        is_long = number > _max_array_rows(judged=judged)
        return is_wide or is_long or not self.takes_arrays

    def _in_key_order(self, group: RowGroup, rows: Sequence[int]) -> Sequence[int]:
        """Sort rows by their keys, so that two writers do not deadlock."""
        if not group.distinct or (self.upsert is None and self.draws):
            # Some may be equal for the database, or take values of a sequence.
            return rows
        key = [
            group.columns[k.parameter] for k in self.per_row.plan.key if not k.is_null
        ]
        return sorted(rows, key=lambda row: [column[row] for column in key])


class _NotAllInsertedError(Exception):
    """A trigger has not stored each row, or not under its key."""


class _GroupWrite:
    """The writing of one group of rows."""

    def __init__(
        self,
        batch: PostgresqlBatch,
        upsert: ReportingStatement,
        group: RowGroup,
        outcome: BatchOutcome,
        *,
        alone: bool = False,
    ) -> None:
        self._batch = batch
        self._upsert = upsert
        self._create = batch.create if alone else None
        self._create_all = batch.create_all if alone else None
        self._group = group
        self._outcome = outcome
        # Another group may have created a row that was missing, which ON CONFLICT notices.
        self._judged = group.judged and (alone or not batch.apart)

    def rounds(self, pending: Sequence[int]) -> Steps[Sequence[int]]:
        """Write rows in rounds; return those to be written one by one."""
        while True:
            judged = self._judged
            left = yield from self._round(pending)
            self._judged = False
            # The next round finds those that others have created since they were judged.
            may_give_up = len(left) > len(pending) // 2 and not judged
            if len(left) <= _FEW_ROWS or may_give_up:
                return left
            pending = left

    def _round(self, pending: Sequence[int]) -> Steps[Sequence[int]]:
        """Write rows once; return those that were not reported, in their order."""
        batch = self._batch
        if batch.copies(len(pending), judged=self._judged):
            try:
                # Behind a savepoint, as the driver may notice late that it cannot copy.
                return (
                    yield from in_scope(
                        scope("step", in_transaction=True), self._by_copy(pending)
                    )
                )
            except CannotCopyError:
                pass
        if not batch.takes_arrays:
            return pending
        left: list[int] = []
        size = _max_array_rows(judged=self._judged)
        for start in range(0, len(pending), size):
            left += yield from self.by_arrays(pending[start : start + size])
        return left

    def by_arrays(self, some: Sequence[int]) -> Steps[list[int]]:
        """Write rows as arrays; return those that were not reported."""
        return self._write(some, copied=False)

    def _by_copy(self, some: Sequence[int]) -> Steps[list[int]]:
        """
        Write rows through a temporary table; return those that were not reported.

        Raises:
            CannotCopyError: The session has one of another role.
        """
        batch = self._batch
        table = f"pg_temp.{quote(batch.staging_table)}"
        kept = batch.keeps_staging_table and bool((yield OWN_SESSION))
        is_ours = None
        if kept:
            relation = f"pg_catalog.to_regclass('{table}')::pg_catalog.oid"
            sql = f"SELECT pg_catalog.has_table_privilege({relation}, 'TRUNCATE')"
            is_ours = (yield Command(sql))[0][0]  # NULL if there is none
        if is_ours is None:
            yield Command(batch.create_staging_table, kind="command")
        elif not is_ours:
            raise CannotCopyError
        yield self._copy(some)
        left = yield from self._write(some, copied=True)
        end = "TRUNCATE" if kept else "DROP TABLE"
        yield Command(f"{end} {table}", kind="command")
        return left

    def _copy(self, some: Sequence[int]) -> Command:
        types = [column.type for column in self._batch.columns]
        rows = CopiedRows(self._columns(some, copied=True), types)
        return Command(self._batch.staging_table, rows, kind="copy")

    def _columns(self, some: Sequence[int], *, copied: bool) -> list[Sequence[Value]]:
        """Return the values of the rows, column by column, encoded."""
        values = [*self._group.some(some)]
        if self._batch.draw:
            drawn = [[column[row] for row in some] for column in self._group.drawn]
            # The server makes an array as long as the others, by NULL.
            none = [[None] * len(some) if copied else []] * len(self._batch.draw)
            # From the end, as their parameters are negative.
            values += reversed(drawn or none)
        return _encoded(self._batch.columns, values)

    def _write(self, some: Sequence[int], *, copied: bool) -> Steps[list[int]]:
        """
        Write rows with one statement; return those that it did not report.

        Raises:
            NotAppliedError: It has read no rows, as the table has changed.
        """
        batch = self._batch
        if batch.find_unchanged is not None and not self._judged:
            rest = yield from self.find_unchanged(
                batch.find_unchanged, some, copied=copied
            )
            yield from self._copy_rest(some, rest, copied=copied)
            some = rest
        if not some:
            return []
        if batch.apart:
            return (yield from self._write_apart(some, copied=copied))
        is_many = len(some) >= _MANY_MISSING
        if self._judged and is_many and self._create_all is not None:
            return (yield from self._write_all(self._create_all, some, copied=copied))
        upsert = self._upsert
        if self._judged and self._create is not None:
            upsert = self._create
        return (yield from self._report(upsert, some, copied=copied))

    def _write_all(
        self, create_all: ReportingStatement, some: Sequence[int], *, copied: bool
    ) -> Steps[list[int]]:
        """
        Insert rows that did not exist just before, or none if one of them exists by now.

        This takes two thirds of the time that ON CONFLICT takes, which looks into each
        index beforehand, and writes more to the log.
        """
        body = self._report(create_all, some, copied=copied)
        return (yield from _all_or_none(body, some))

    def _report(
        self, statement: ReportingStatement, some: Sequence[int], *, copied: bool
    ) -> Steps[list[int]]:
        """
        Send a statement, and record what it reports; return the rows it did not write.

        Raises:
            NotAppliedError: It has read no rows, as the table has changed.
        """
        rows = yield from self._send(statement, some, copied=copied)
        if not rows:
            raise refused(self._batch.per_row.plan.table.name)
        return self._read(statement, some, rows)

    def _copy_rest(
        self, some: Sequence[int], rest: Sequence[int], *, copied: bool
    ) -> Steps[None]:
        """Leave only the rest of the rows in the temporary table."""
        if copied and rest and len(rest) < len(some):
            sql = f"TRUNCATE pg_temp.{quote(self._batch.staging_table)}"
            yield Command(sql, kind="command")
            yield self._copy(rest)

    def _write_apart(self, some: Sequence[int], *, copied: bool) -> Steps[list[int]]:
        """
        Update rows, and insert the others if none of them exists by then.

        If one does, or a trigger has not stored each as it was given, none is inserted: no
        trigger has seen a row that is not created then.
        """
        batch, left = self._batch, [*some]
        if batch.per_row.plan.update:
            rows = yield from self._send(self._upsert, some, copied=copied)
            left = self._read(self._upsert, some, rows)
            yield from self._copy_rest(some, left, copied=copied)
        insert = batch.insert
        if not left or insert is None:
            return left
        if batch.lock_keys is not None:
            yield from _lock_keys([(batch.lock_keys, self._group.part(left))])
        body = self._insert_all(insert, left, copied=copied)
        return (yield from _all_or_none(body, left))

    def _insert_all(
        self, insert: ReportingStatement, some: Sequence[int], *, copied: bool
    ) -> Steps[list[int]]:
        rows = yield from self._send(insert, some, copied=copied)
        number = len(rows) if self._counts(insert) is None else rows[0][0]
        if number < len(some):
            raise _NotAllInsertedError
        return self._read(insert, some, rows)

    def _read(
        self, statement: ReportingStatement, some: Sequence[int], rows: ResultRows
    ) -> list[int]:
        """
        Record what a statement reports; return the rows that it did not write.

        Raises:
            NotAppliedError: It has read no rows, as the table has changed.
        """
        if self._counts(statement) is None:
            return self._record(some, rows)
        created, updated, left = rows[0]
        self._outcome.count(RowCode.CREATED, created)
        self._outcome.count(RowCode.UPDATED, updated)
        if created + updated + len(left or ()) < len(some):
            raise refused(self._batch.per_row.plan.table.name)
        return [some[number - 1] for number in sorted(left or ())]

    def find_unchanged(
        self, query: ReportingStatement, some: Sequence[int], *, copied: bool = False
    ) -> Steps[list[int]]:
        """Record the rows that are left unchanged; return the others."""
        rows = yield from self._send(query, some, copied=copied)
        if self._counts(query) is None:
            return self._record(some, rows)
        unchanged: set[int] = set()
        for code, numbers in rows:
            self._outcome.count(code, len(numbers))
            unchanged.update(numbers)
        if not unchanged:
            return [*some]
        return [row for number, row in enumerate(some, 1) if number not in unchanged]

    def _counts(self, statement: ReportingStatement) -> BatchStatement | None:
        """Return the form that reports counts; None if a row for each is needed."""
        return statement.counts if self._outcome.results is None else None

    def _send(
        self, reporting: ReportingStatement, some: Sequence[int], *, copied: bool
    ) -> Steps[ResultRows]:
        """Send a statement for some rows, and return the rows that it reports."""
        statement, arrays = self._counts(reporting), reporting.arrays
        if statement is not None:
            return (yield from self._send_rows(statement, some, copied=copied))
        is_many = len(some) >= _MANY_TEXTS
        if arrays is None or not is_many or not (yield PREFERS_ARRAYS):
            return (yield from self._send_rows(reporting.rows, some, copied=copied))
        (columns,) = yield from self._send_rows(arrays, some, copied=copied)
        # Without rows, the arrays are NULL.
        return [*zip(*columns, strict=True)] if columns[0] else []

    def _send_rows(
        self, statement: BatchStatement, some: Sequence[int], *, copied: bool
    ) -> Steps[ResultRows]:
        """Send one form of a statement for some rows."""
        batch = self._batch
        plan = batch.per_row.plan
        returning = plan.caller_columns
        values = [*(None,) * plan.row_parameters, *self._group.constants]
        constants = statement.constants.arguments(values)
        if copied:
            return (
                yield Command(statement.staged, constants, caller_columns=returning)
            )
        sql, arguments = statement.arrays, [*constants]
        joins = len(some) >= _MANY_TEXTS and bool((yield PLAIN_TEXT))
        columns = self._columns(some, copied=False)
        for column, cells in zip(batch.columns, columns, strict=True):
            text = _joined(cells) if joins and column.type == _TEXT else None
            if text is not None:
                number = len(arguments) + 1
                sql = sql.replace(array(number, _TEXT), _SPLIT.format(number))
            arguments.append(ArrayArgument(cells) if text is None else text)
        return (yield Command(sql, arguments, caller_columns=returning))

    def _record(self, some: Sequence[int], rows: ResultRows) -> list[int]:
        """Record the outcome of each reported row; return those not reported."""
        plan, positions = self._batch.per_row.plan, self._group.positions
        written = [row for row in rows if row[1] is not None]
        if plan.unique and not plan.old:
            numbers: list[int] = [row[0] for row in written]
            at = [positions[some[number - 1]] for number in numbers]
            self._outcome.add_rows(plan.returning, at, written)
            reported = set(numbers)
        else:
            results: dict[int, list[ResultRow]] = {}
            for number, *result in written:
                results.setdefault(number, []).append(result)
            for number, those in results.items():
                self._outcome.add(positions[some[number - 1]], read_result(plan, those))
            reported = set(results)
        return [row for number, row in enumerate(some, 1) if number not in reported]


def _all_or_none(body: Steps[list[int]], some: Sequence[int]) -> Steps[list[int]]:
    """Insert rows behind a savepoint; return all of them if that fails by a conflict."""
    try:
        return (yield from in_scope(scope("insert", in_transaction=True), body))
    except Exception as exc:
        if isinstance(exc, _NotAllInsertedError) or is_conflict(exc):
            return [*some]  # what follows looks for them again
        raise


def array(number: int, type_: str) -> str:
    """Write the array of a column; if it is text, another expression may replace it."""
    return f"${number}::{type_}[]"


_TEXT: Final = f"{PG_CATALOG}.text"
# asyncpg takes ten times as long for an array of text.
_SEPARATOR: Final = "\x1f"
_SPLIT: Final = (
    f"pg_catalog.string_to_array(${{}}::pg_catalog.cstring::{_TEXT}, E'\\x1f')"
)


def _joined(values: Sequence[Value]) -> str | None:
    """Return text with a separator between; None if it cannot be split again."""
    try:
        text = _SEPARATOR.join(values)
    except TypeError:  # NULL, or what the driver refuses
        return None
    return text if text.count(_SEPARATOR) == len(values) - 1 else None


def _max_array_rows(*, judged: bool) -> int:
    """Return the number of rows up to which arrays carry them."""
    # Those that were just looked up were sent as arrays.
    return _MAX_READ_ROWS if judged else MAX_ARRAY_ROWS


def _encoded(
    columns: Sequence[BatchColumn], values: Sequence[Sequence[Value]]
) -> list[Sequence[Value]]:
    """Return the values of rows, column by column, encoded."""
    return [
        values[parameter] if encode is None else [*map(encode, values[parameter])]
        for parameter, _, encode in columns
    ]


def _together(
    columns: Sequence[BatchColumn], groups: Sequence[RowGroup]
) -> list[list[Value]]:
    """Return the values of the rows of several groups, column by column, encoded."""
    sent = [_encoded(columns, group.columns) for group in groups]
    return [
        [*itertools.chain.from_iterable(values)] for values in zip(*sent, strict=True)
    ]


# --- Several statements ---------------------------------------------------------------


def write(groups: Sequence[CompiledGroup], outcome: BatchOutcome) -> Steps[None]:
    """Write the groups of a batch in the open transaction."""
    several = [(_batch_of(compiled), group) for compiled, group in groups]
    locking = [
        (batch.lock_keys, group)
        for batch, group in several
        if batch.per_row.plan.lock and batch.lock_keys is not None
    ]
    if locking:
        check_level((yield from _lock_keys(locking))[0][0])
    if several[0][1].distinct:
        yield from _write_turn(several, outcome)
        return
    for turn in (yield from _in_turns(several)):
        yield from _write_turn(turn, outcome)
        for batch, group in turn:
            updates = bool(batch.per_row.plan.update)
            outcome.add_merged(group.merged, updates=updates)


def _lock_keys(groups: Sequence[tuple[KeyLocks, RowGroup]]) -> Steps[ResultRows]:
    """Take the advisory locks on the keys of rows; return the isolation level."""
    several: dict[KeyLocks, list[RowGroup]] = {}
    for locks, group in groups:
        several.setdefault(locks, []).append(group)
    number = sum(len(group.positions) for _, group in groups)
    found: ResultRows = ()
    for locks in sorted(several, key=lambda of: of.each.sql if of.each else ""):
        if locks.each is None or number > _MAX_KEY_LOCKS:
            return (yield Command(locks.every))
        keys = _together(locks.each.columns, several[locks])
        found = yield Command(locks.each.sql, [*map(ArrayArgument, keys)])
    return found


def _write_turn(groups: Sequence[_Group], outcome: BatchOutcome) -> Steps[None]:
    for batch, group in (yield from _arrange(groups, outcome)):
        yield from batch.write(group, outcome, alone=len(groups) == 1)


def _in_turns(several: Sequence[_Group]) -> Steps[Sequence[Sequence[_Group]]]:
    """
    Put rows in turns, of which only the database knows which have the same key.

    Where it cannot be asked, all are one turn, and each row is written by itself.
    """
    keys = yield from _same_keys(several)
    if keys is None:
        return [_in_row_order(several)]
    groups = [group for _, group in several]
    turns: dict[int, list[_Group]] = {}
    for turn, number, group in in_turns(groups, keys, several[0][0].per_row.plan.table):
        # A row of an earlier turn may have been created since.
        judged = group.judged and not turn
        ready = group._replace(distinct=True, judged=judged)
        turns.setdefault(turn, []).append((several[number][0], ready))
    return [*turns.values()]


def _same_keys(several: Sequence[_Group]) -> Steps[Sequence[Sequence[Value]] | None]:
    """Return a number for the key of each row of the groups; None if it is unknown."""
    alike: dict[tuple[bool, ...], list[int]] = {}
    for number, (batch, _) in enumerate(several):
        # A key with NULL for some value differs from one with another value.
        nulls = tuple(batch.per_row.plan.key_nulls.values())
        alike.setdefault(nulls, []).append(number)
    keys: list[list[Value]] = [[] for _ in several]
    first = 0
    for nulls, numbers in alike.items():
        queries = {several[number][0].same_keys for number in numbers}
        query = queries.pop()
        if queries or (query is None and not all(nulls)):
            return None  # the same column is sent as several types, or as none
        sizes = [len(several[number][1].positions) for number in numbers]
        ids = [*range(first, first + sum(sizes))]
        first += len(ids)
        if query is None:
            ids = [ids[0]] * len(ids)
        else:
            columns = _together(query.columns, [several[n][1] for n in numbers])
            found = yield Command(query.sql, [*map(ArrayArgument, columns)])
            for row, earlier in found:
                ids[row - 1] = ids[earlier - 1]
        rest = iter(ids)
        for number, size in zip(numbers, sizes, strict=True):
            keys[number] = [*itertools.islice(rest, size)]
    return keys


def _arrange(
    several: Sequence[_Group], outcome: BatchOutcome
) -> Steps[Sequence[_Group]]:
    """
    Lock the existing rows of a batch in the order of their keys, if need be.

    One statement locks its rows in that order. Two writers of the same rows, each by
    several statements, would deadlock. Where several groups are written one after the
    other, the values of sequences that new rows need are taken here as well, so that
    they follow the order of the batch.

    Returns:
        The groups as they are to be written.
    """
    if len(several) == 1 and not several[0][0].takes_several(several[0][1]):
        return several
    if several[0][1].distinct:
        several = yield from _leave_unchanged(several, outcome)
    missing = yield from _lock(several)
    if len(several) == 1 or not any(batch.draws for batch, _ in several):
        return several
    if any(batch.upsert is None for batch, _ in several):
        return _in_row_order(several)  # each of its rows takes the values by itself
    if not several[0][1].distinct:
        return several  # they are in the order of the rows
    return (yield from _draw(several, missing))


_Group: TypeAlias = "tuple[PostgresqlBatch, RowGroup]"
_Places: TypeAlias = list[tuple[int, int, int]]
"""Rows: the position in the batch, the group's number, and the row's number in it."""


def _batch_of(compiled: CompiledBatch) -> PostgresqlBatch:
    assert isinstance(compiled, PostgresqlBatch)  # noqa: S101  # by this engine
    return compiled


def _leave_unchanged(
    groups: Sequence[_Group], outcome: BatchOutcome
) -> Steps[list[_Group]]:
    """
    Record the rows that are left unchanged, so that they need not be locked.

    Of several rows with one key only the first can be judged before it is written.
    """
    seen: set[tuple[Value, ...]] = set()
    kept: list[_Group] = []
    for batch, group in groups:
        keys = batch.keys(group)
        if (
            batch.upsert is not None
            and batch.find_unchanged is not None
            and batch.takes_arrays
            and seen.isdisjoint(keys)
        ):
            write = _GroupWrite(batch, batch.upsert, group, outcome)
            rows = range(len(keys))
            rest = yield from write.find_unchanged(batch.find_unchanged, rows)
            group = group.part(rest)._replace(judged=True)  # noqa: PLW2901  # its other rows
        seen.update(keys)
        kept.append((batch, group))
    return kept


def _lock(groups: Sequence[_Group]) -> Steps[_Places]:
    """Lock the existing rows that may be updated; return those that do not exist."""
    missing: _Places = []
    draws = any(batch.draws for batch, _ in groups)
    locked: dict[KeyLock, tuple[_Places, list[list[Value]]]] = {}
    for number, (batch, group) in enumerate(groups):
        if batch.lock is None or not (batch.lock.locks or draws):
            continue
        new: tuple[_Places, list[list[Value]]] = ([], [[] for _ in batch.lock.columns])
        places, keys = locked.setdefault(batch.lock, new)
        places += [(position, number, n) for n, position in enumerate(group.positions)]
        values = _encoded(batch.lock.columns, group.columns)
        for key, column in zip(keys, values, strict=True):
            key.extend(column)
    # In the same order by every writer, too.
    for lock in sorted(locked, key=lambda lock: lock.sql):
        places, keys = locked[lock]
        if places:
            found = yield Command(lock.sql, [*map(ArrayArgument, keys)])
            existing = {*(found[0][0] or ())}
            missing += [p for n, p in enumerate(places, 1) if n not in existing]
    return sorted(missing)


def _in_row_order(groups: Sequence[_Group]) -> list[_Group]:
    """Split groups so that all rows are in the order of the batch."""
    places = sorted(
        (position, number, row)
        for number, (_, group) in enumerate(groups)
        for row, position in enumerate(group.positions)
    )
    parts: list[_Group] = []
    for number, members in itertools.groupby(places, lambda place: place[1]):
        batch, group = groups[number]
        rows = [row for _, _, row in members]
        parts.append((batch, group.part(rows)))
    return parts


def _draw(groups: Sequence[_Group], missing: _Places) -> Steps[Sequence[_Group]]:
    """Take the next values of sequences for rows that do not exist."""
    keys = [batch.keys(group) for batch, group in groups]
    first: dict[tuple[Value, ...], tuple[int, int]] = {}
    for _, number, row in missing:
        first.setdefault(keys[number][row], (number, row))
    drawn = [
        [[None] * len(group.positions) for _ in batch.draw] for batch, group in groups
    ]
    queries = dict.fromkeys(query for batch, _ in groups for query in batch.draw)
    for query in queries:
        rows = [
            (drawn[number][groups[number][0].draw.index(query)], row)
            for number, row in first.values()
            if query in groups[number][0].draw
        ]
        if rows:
            values = yield Command(query, [len(rows)])
            # None, if the table is another one by now.
            for (column, row), (value,) in zip(rows, values, strict=False):
                column[row] = value
    return [
        (batch, group._replace(drawn=columns) if columns else group)
        for (batch, group), columns in zip(groups, drawn, strict=True)
    ]
