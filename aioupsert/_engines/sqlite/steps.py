"""
One row on SQLite: the classic steps, run to the end while the database is locked.

A transaction begins with BEGIN IMMEDIATE, so that no other connection writes between
the update and the insert, and no race can be lost. The steps are meant to be run as one
job of the connection's thread, so that no statement of another task on the same
connection comes between either.

References:
    SQLite, "Transaction", "SAVEPOINT".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aioupsert._engines.base import (
    IN_TRANSACTION,
    Command,
    Rows,
    Steps,
    TransactionScope,
    in_scope,
)
from aioupsert._engines.outcomes import bind, look_up, read_result, refused
from aioupsert._engines.sql import CREATED, UPDATED, CompiledStatement

if TYPE_CHECKING:
    from aioupsert._plan import Plan
    from aioupsert.results import Result


@dataclass(frozen=True, slots=True)
class SqliteCall:
    """
    The statements of one plan.

    Attributes:
        plan: The plan.
        update: The update, or None with nothing to set.
        find: The row as it is, or None when an update always applies.
        insert: The insert, or the native upsert when asked for.
        single: None: a call is one job, whatever the number of its statements.
    """

    plan: Plan
    update: CompiledStatement | None
    find: CompiledStatement | None
    insert: CompiledStatement
    single: None = None

    def statements(self) -> tuple[CompiledStatement, ...]:
        """Return the statements that a call may send, in order."""
        steps = (self.update, self.find, self.insert)
        return tuple(step for step in steps if step is not None)

    def look_up(self, values: Sequence[Any]) -> Steps[Result | None]:
        """Read the row of a call that updates nothing; write nothing."""
        return look_up(self.find, self.plan, values)

    def attempt(self, values: Sequence[Any], _conflicts: int) -> Steps[Result]:
        """Make the only attempt."""
        inside = bool((yield IN_TRANSACTION))
        if not self.plan.update and not inside:
            # Mostly the row exists and is only read, which needs no write lock.
            found = yield from self.look_up(values)
            if found is not None:
                return found
        return (yield from in_scope(scope(in_transaction=inside), self.write(values)))

    def write(self, values: Sequence[Any]) -> Steps[Result]:
        """
        Write a row in the open transaction.

        Raises:
            NotAppliedError: The database silently refuses the row.
        """
        write = self._write_view if self.plan.table.written_by_triggers else self._write
        return write(values)

    def _write(self, values: Sequence[Any]) -> Steps[Result]:
        plan = self.plan
        if self.update is not None:
            rows = yield bind(self.update, values)
            if rows:
                return read_result(plan, rows)
        existing: Rows = ()
        if self.find is not None:
            existing = yield bind(self.find, values)
            if existing and all(row[0] != UPDATED for row in existing):
                return read_result(plan, existing)
            if existing and not plan.on_conflict:
                raise refused(plan.table.name)
        rows = yield bind(self.insert, values)
        if not rows:
            raise refused(plan.table.name)
        if existing:
            rows = [(UPDATED, *row[1:]) for row in rows]
        return read_result(plan, rows)

    def _write_view(self, values: Sequence[Any]) -> Steps[Result]:
        """Write through a view: its triggers decide, so a query reads what they did."""
        plan, query = self.plan, self.find
        assert query is not None  # noqa: S101  # see Plan.conditional
        before = yield bind(query, values)
        if before and all(row[0] != UPDATED for row in before):
            return read_result(plan, before)
        code, write = (UPDATED, self.update) if before else (CREATED, self.insert)
        assert write is not None  # noqa: S101  # the query reports UPDATED only with one
        yield bind(write, values)
        after = yield bind(query, values)
        if not before and not after:
            raise refused(plan.table.name)
        return read_result(plan, [(code, *row[1:]) for row in after or before])


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
)


def scope(*, in_transaction: bool) -> TransactionScope:
    """Return a transaction, or a savepoint in the one that is open."""
    return _SAVEPOINT if in_transaction else _OWN
