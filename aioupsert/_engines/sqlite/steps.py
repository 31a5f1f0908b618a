"""
One row on SQLite: the classic steps, under the write lock.

What one call sends:

1. BEGIN IMMEDIATE, or SAVEPOINT in the caller's transaction;
2. the update; if it returns a row, the call is done;
3. if a condition may leave the row unchanged: a query for the row as it is;
4. if the row does not exist: the insert;
5. COMMIT, or RELEASE.

The update comes first, as the row mostly exists, and because a row that an update finds
needs no default, no NOT NULL value, and no trigger of an insert. BEGIN IMMEDIATE takes
the write lock before anything is read, so that no other connection writes between the
update and the insert, and no race can be lost: one attempt is enough. A plain BEGIN
would take the lock at the first write, and fail with SQLITE_BUSY if another connection
has written since the first read. A call that updates nothing reads first, without the
lock.

The driver runs all steps as one job on the connection's thread, so that no statement of
another task that shares the connection runs between them either.

References:
    SQLite, "Transaction" (2.2, DEFERRED and IMMEDIATE), "SAVEPOINT", "RETURNING".
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from operator import ne
from typing import TYPE_CHECKING, Final, TypeVar

from aioupsert._engines.commands import (
    IN_TRANSACTION,
    Command,
    ResultRow,
    ResultRows,
    StaleTableError,
    Steps,
    TransactionScope,
    in_scope,
)
from aioupsert._engines.outcomes import bind, read_existing, read_result, refused
from aioupsert._engines.sql import CompiledStatement, ParameterValues, RowCode
from aioupsert.errors import UsageError
from aioupsert.results import Action, Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioupsert._plan import Plan

T = TypeVar("T")

_MIXED: Final = (
    "old: several rows of {} have this key, and nothing tells which of them was which"
    " before"
)


@dataclass(frozen=True, slots=True)
class SqliteCall:
    """
    The statements of one plan, and their steps.

    Attributes:
        plan: The plan.
        update: The update, or None if there is nothing to set.
        find: The query for the existing row, or None if an update always applies.
        insert: The insert, or the native upsert with ``strategy="on_conflict"``.
        default_on_update: Whether an update has a default of the description in its text.
        default_on_create: Whether the insert has one.
        lock: Takes the write lock where old values are asked for, which are read first;
            or None.
        identity: How many columns tell the rows of a key apart then.
        single: None; a call is one job, however many statements it has.
        at_any_level: None; there is one isolation level.
        create: None, as *single*.
    """

    plan: Plan
    update: CompiledStatement | None
    find: CompiledStatement | None
    insert: CompiledStatement
    default_on_update: bool = False
    default_on_create: bool = False
    lock: CompiledStatement | None = None
    identity: int = 0
    single: None = None
    at_any_level: None = None
    create: None = None

    def statements(self) -> tuple[CompiledStatement, ...]:
        """Return the statements that a call may send, in order."""
        steps: tuple[CompiledStatement | None, ...]
        steps = (self.update, self.find, self.insert)
        if self.plan.old:
            steps = (self.lock, self.find, self.update, self.insert)
        return tuple(step for step in steps if step is not None)

    def is_counted(self) -> bool:
        """Return whether no more is known of a row that was written than that it was."""
        plan = self.plan
        return not (plan.returning or plan.old or plan.table.written_by_triggers)

    def read_existing(self, values: ParameterValues) -> Steps[Result | None]:
        """Read the existing row of a call that updates nothing; write nothing."""
        if self.plan.old:
            return self._read_as_it_is(values)
        return read_existing(self.find, self.plan, values)

    def attempt(self, values: ParameterValues, _lost: int) -> Steps[Result]:
        """Make the only attempt."""
        inside = bool((yield IN_TRANSACTION))
        if not self.plan.update and not inside:
            # Mostly the row exists, and reading it needs no write lock.
            existing = yield from self.read_existing(values)
            if existing is not None:
                return existing
        body = self._checked(self.write(values))
        return (yield from in_scope(scope(in_transaction=inside), body))

    def _checked(self, body: Steps[Result]) -> Steps[Result]:
        """Do what `checked` does; ask less if no default of the description was used."""
        result = yield from _told_if_stale(self.plan, body)
        created = result.action is Action.CREATED
        identity = self.plan.table.identity
        if not (self.default_on_create if created else self.default_on_update):
            identity = identity[:-1]  # so it matters only which table it is
        yield from _check(self.plan, identity)
        return result

    def write(self, values: ParameterValues) -> Steps[Result]:
        """
        Write a row in the open transaction.

        Raises:
            NotAppliedError: The database silently did not write the row.
        """
        if self.plan.table.written_by_triggers:
            return self._write_view(values)
        return (
            self._write_after_reading(values) if self.plan.old else self._write(values)
        )

    def _write(self, values: ParameterValues) -> Steps[Result]:
        plan = self.plan
        if self.update is not None:
            rows = yield bind(self.update, values)
            if rows:
                return read_result(plan, rows)
        existing: ResultRows = ()
        if self.find is not None:
            existing = yield bind(self.find, values)
            if existing and all(row[0] != RowCode.UPDATED for row in existing):
                return read_result(plan, existing)
            if existing and not plan.on_conflict:
                raise refused(plan.table.name)
        rows = yield bind(self.insert, values)
        if not rows:
            raise refused(plan.table.name)
        if existing:
            rows = [(RowCode.UPDATED, *row[1:]) for row in rows]
        return read_result(plan, rows)

    def _write_after_reading(self, values: ParameterValues) -> Steps[Result]:
        """Write a row whose old values are asked for, and so are read before it."""
        plan = self.plan
        assert self.find is not None and self.lock is not None  # noqa: S101, PT018  # see `compile_call`
        yield bind(self.lock, values)
        before = yield bind(self.find, values)
        if before and all(row[0] != RowCode.UPDATED for row in before):
            return self._result(before, before)
        write = self.insert if not before else self.update
        assert write is not None  # noqa: S101  # the query reports UPDATED only with one
        after = yield bind(write, values)
        if not after:
            raise refused(plan.table.name)
        return self._result(before, after)

    def _read_as_it_is(self, values: ParameterValues) -> Steps[Result | None]:
        assert self.find is not None  # noqa: S101  # see `compile_call`
        rows = yield bind(self.find, values)
        return self._result(rows, rows) if rows else None

    def _result(self, before: ResultRows, after: ResultRows) -> Result:
        """
        Return the result of rows as they were and as they are.

        Raises:
            UsageError: It cannot be told which row was which.
        """
        plan = self.plan
        if not plan.old:
            return read_result(plan, after)
        first = 1 + self.identity
        last = first + len(plan.table.visible)
        known = {tuple(row[1:first]): row for row in before}
        rows: list[ResultRow] = []
        for row in after:
            changed = old = None
            if row[0] != RowCode.CREATED:
                old = known.get(tuple(row[1:first]))
                if old is None or len(known) < len(before):
                    raise UsageError(_MIXED.format(plan.table.label))
                changed = [*map(ne, old[first:last], row[first:last])]
            was = row if old is None else old
            rows.append((row[0], changed, *row[last:], *was[last:]))
        return read_result(plan, rows)

    def _write_view(self, values: ParameterValues) -> Steps[Result]:
        """Write through a view, and read afterwards what its triggers have done."""
        plan, query = self.plan, self.find
        assert query is not None  # noqa: S101  # see Plan.conditional
        before = yield bind(query, values)
        if before and all(row[0] != RowCode.UPDATED for row in before):
            return self._result(before, before)
        code, write = (
            (RowCode.UPDATED, self.update) if before else (RowCode.CREATED, self.insert)
        )
        assert write is not None  # noqa: S101  # the query reports UPDATED only with one
        yield bind(write, values)
        after = yield bind(query, values)
        if not before and not after:
            raise refused(plan.table.name)
        return self._result(before, [(code, *row[1:]) for row in after or before])


def checked(plan: Plan, body: Steps[T], *, is_locked: bool) -> Steps[T]:
    """
    Run steps that write to a table, and check that it is as it was reflected.

    Before they write only if the transaction has the write lock: one that has read first
    may fail to write when others have written meanwhile.

    Raises:
        StaleTableError: It is another one, or has changed.
    """
    if is_locked:
        yield from _check(plan, plan.table.identity)
        return (yield from body)
    result = yield from _told_if_stale(plan, body)
    yield from _check(plan, plan.table.identity)
    return result


def _told_if_stale(plan: Plan, body: Steps[T]) -> Steps[T]:
    """
    Run steps that write to a table; if they fail, check that it is as it was.

    Raises:
        StaleTableError: It is not, which may be why.
    """
    table = plan.table
    try:
        return (yield from body)
    except Exception as exc:
        # Of SQLITE_ERROR, as of a table that is gone, the driver knows it may be stale.
        if getattr(exc, "sqlite_errorcode", None) == _SQLITE_ERROR:
            raise
        stale = False
        with contextlib.suppress(Exception):
            # An error such as of a full disk ends the transaction, and undoes what it has
            # done to the table.
            if (yield IN_TRANSACTION):
                stale = bool((yield Command("", table.identity, "identity")))
        if stale:
            raise StaleTableError(_STALE.format(table.label)) from exc
        raise


def _check(plan: Plan, identity: Sequence[tuple[str, object]]) -> Steps[None]:
    if identity and (yield Command("", identity, "identity")):
        raise StaleTableError(_STALE.format(plan.table.label))


_SQLITE_ERROR: Final = 1
_STALE: Final = "{} has changed since it was reflected"


_OWN: Final = TransactionScope(
    Command("BEGIN IMMEDIATE", kind="command"),
    Command("COMMIT", kind="command"),
    (Command("ROLLBACK", kind="rollback"),),
)
_SAVEPOINT: Final = TransactionScope(
    Command("SAVEPOINT aioupsert", kind="command"),
    Command("RELEASE SAVEPOINT aioupsert", kind="command"),
    (
        Command("ROLLBACK TO SAVEPOINT aioupsert", kind="rollback"),
        Command("RELEASE SAVEPOINT aioupsert", kind="rollback"),
    ),
    (Command("ROLLBACK TO SAVEPOINT aioupsert", kind="rollback"),),
)


def scope(*, in_transaction: bool) -> TransactionScope:
    """Return a transaction, or a savepoint if one is open."""
    return _SAVEPOINT if in_transaction else _OWN
