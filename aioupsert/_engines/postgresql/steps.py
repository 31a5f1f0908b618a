"""
One row on PostgreSQL: the classic steps.

Mostly none of them run: `PostgresqlCall.single` is the whole call as one statement, and
returns no row only if a race was lost or if something permanent blocks the row.

What one attempt sends:

1. under ``without_unique_index="lock"``: an advisory lock on the key, in a transaction;
2. the update; if it returns a row, the call is done;
3. if a condition may leave the row unchanged: a query for the row as it is;
4. the insert, behind a savepoint if a transaction is open, since in PostgreSQL an error
   aborts the whole transaction;
5. if the insert conflicts: nothing more. A concurrent call has created the row, the
   attempt ends in a `LostRace`, and the next attempt updates that row. At READ
   COMMITTED each statement sees what was committed before it began, so this converges.

After a second conflict a query looks for the reason first. A row that blocks the insert
by another unique index, and that no update by this key will ever find, is a permanent
conflict: its error is raised. In a transaction whose snapshot is fixed (REPEATABLE READ
and above) a row that was committed later cannot become visible, so only the whole
transaction can be repeated: `SerializationConflictError`.

References:
    PostgreSQL, "Transaction Isolation" (13.2), "SAVEPOINT", "Explicit Locking" (13.3.5,
    Advisory Locks), "Error Codes".
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aioupsert._engines.base import (
    IN_TRANSACTION,
    Command,
    ParameterValues,
    ResultRows,
    Steps,
    TransactionScope,
    in_scope,
    single_command,
)
from aioupsert._engines.outcomes import (
    MAX_LOST_RACES,
    LostRace,
    bind,
    race_error,
    read_existing,
    read_result,
    refused,
)
from aioupsert._engines.sql import CompiledStatement, RowCode
from aioupsert.errors import SerializationConflictError, UsageError

if TYPE_CHECKING:
    from aioupsert._plan import Plan
    from aioupsert.results import Result


@dataclass(frozen=True, slots=True)
class PostgresqlCall:
    """
    The statements of one plan, and their steps.

    Attributes:
        plan: The plan.
        single: The whole call as one statement, or None if that is not possible.
        update: The update, or None if there is nothing to set.
        find: The query for the existing row, or None if an update always applies.
        insert: The insert.
        probe: The query for the reason why the insert keeps failing.
        lock: The advisory lock on the key if one replaces the unique index, or None.
    """

    plan: Plan
    single: CompiledStatement | None
    update: CompiledStatement | None
    find: CompiledStatement | None
    insert: CompiledStatement
    probe: CompiledStatement
    lock: CompiledStatement | None

    def statements(self) -> tuple[CompiledStatement, ...]:
        """Return the statements that a call may send, in order."""
        steps = (
            *(self.lock, self.single),
            *(self.update, self.find, self.insert, self.probe),
        )
        return tuple(step for step in steps if step is not None)

    def read_existing(self, values: ParameterValues) -> Steps[Result | None]:
        """Read the existing row of a call that updates nothing; write nothing."""
        return read_existing(self.find, self.plan, values)

    def attempt(
        self, values: ParameterValues, conflicts: int
    ) -> Steps[Result | LostRace]:
        """Make one attempt by the classic steps, under the lock if one is needed."""
        inside = bool((yield IN_TRANSACTION))
        return (yield from self._attempt(values, conflicts, in_transaction=inside))

    def write(self, values: ParameterValues) -> Steps[Result]:
        """
        Write one of many rows in the open transaction.

        Raises:
            NotAppliedError: The database silently did not write the row.
        """
        lost = LostRace()
        conflicts = 0
        for number in range(MAX_LOST_RACES):
            outcome: Result | LostRace
            if number == 0 and self.single is not None:
                rows = yield bind(self.single, values, len(self.plan.returning))
                outcome = read_result(self.plan, rows) if rows else LostRace()
            else:
                outcome = yield from self._attempt(
                    values, conflicts, in_transaction=True
                )
            if not isinstance(outcome, LostRace):
                return outcome
            lost = outcome
            conflicts += lost.error is not None
        raise race_error(self.plan.table.name, lost)

    def _attempt(
        self, values: ParameterValues, conflicts: int, *, in_transaction: bool
    ) -> Steps[Result | LostRace]:
        if self.lock is None:
            return self._classic(values, conflicts, in_transaction=in_transaction)
        # The lock ends with the transaction, so one is open, the caller's or our own.
        body = self._classic(values, conflicts, in_transaction=True)
        return _locked(bind(self.lock, values), body, in_transaction=in_transaction)

    def _classic(
        self, values: ParameterValues, conflicts: int, *, in_transaction: bool
    ) -> Steps[Result | LostRace]:
        """Update; insert if no row was updated; report a conflict as a lost race."""
        plan = self.plan
        caller_columns = len(plan.returning)
        if self.update is not None:
            rows = yield bind(self.update, values, caller_columns)
            if rows:
                return read_result(plan, rows)
        if self.find is not None:
            rows = yield bind(self.find, values, caller_columns)
            if any(row[0] == RowCode.UPDATED for row in rows):
                # It was created, or changed, after the update had looked for it.
                return LostRace(visible=True)
            if rows:
                return read_result(plan, rows)
        insert = _behind_savepoint if in_transaction else _plainly
        inserted = yield from insert(bind(self.insert, values, caller_columns))
        if not isinstance(inserted, Exception):
            if not inserted:
                raise refused(plan.table.name)
            return read_result(plan, inserted)
        if not conflicts:
            return LostRace(inserted)
        return (yield from self._probe(values, inserted, in_transaction=in_transaction))

    def _probe(
        self, values: ParameterValues, conflict: Exception, *, in_transaction: bool
    ) -> Steps[LostRace]:
        """Return a lost race, or raise the error of a conflict that is permanent."""
        rows = yield bind(self.probe, values)
        level, visible, *others = rows[0]
        if not visible and any(others):
            raise conflict
        if in_transaction and not visible and level != _READ_COMMITTED:
            msg = (
                f"a row with this key of {self.plan.table.label} was committed after"
                f" this {level} transaction began, so it can neither be seen nor"
                " created; roll back and repeat the transaction"
            )
            raise SerializationConflictError(msg) from conflict
        return LostRace(conflict, visible=visible)


# PostgreSQL, "Error Codes": unique_violation, exclusion_violation.
_CONFLICTS: Final = frozenset({"23505", "23P01"})
_READ_COMMITTED: Final = "read committed"


def _is_conflict(error: Exception) -> bool:
    # The errors of both PostgreSQL drivers have this attribute.
    return getattr(error, "sqlstate", None) in _CONFLICTS


def _plainly(statement: Command) -> Steps[ResultRows | Exception]:
    """Send a statement; return its error if it is a conflict."""
    try:
        return (yield statement)
    except Exception as exc:
        if _is_conflict(exc):
            return exc
        raise


def _behind_savepoint(statement: Command) -> Steps[ResultRows | Exception]:
    """Send a statement so that a conflict does not abort the transaction."""
    try:
        body = single_command(statement)
        return (yield from in_scope(scope(in_transaction=True), body))
    except Exception as exc:
        if _is_conflict(exc):
            return exc
        raise


def _locked(
    lock: Command, body: Steps[Result | LostRace], *, in_transaction: bool
) -> Steps[Result | LostRace]:
    """
    Run an attempt under the advisory lock, which ends with the transaction.

    Raises:
        UsageError: The open transaction is not READ COMMITTED.
    """
    if in_transaction:
        rows = yield lock
        if rows[0][0] != _READ_COMMITTED:
            msg = (
                'without_unique_index="lock" needs a READ COMMITTED transaction: at'
                f" {rows[0][0].upper()} the row of the last holder stays invisible"
            )
            raise UsageError(msg)
        return (yield from body)
    own = _OWN._replace(
        begin=Command("BEGIN ISOLATION LEVEL READ COMMITTED", kind="command")
    )
    return (yield from in_scope(own, _lock_first(lock, body)))


def _lock_first(
    lock: Command, body: Steps[Result | LostRace]
) -> Steps[Result | LostRace]:
    yield lock
    return (yield from body)


_OWN: Final = TransactionScope(
    Command("BEGIN", kind="command"),
    Command("COMMIT", kind="command"),
    (Command("ROLLBACK", kind="rollback"),),
)
# A name is used once, so that it never hides a savepoint of the caller's.
_savepoints: Final = itertools.count(1)


def scope(*, in_transaction: bool) -> TransactionScope:
    """Return a transaction, or a savepoint if one is open."""
    if not in_transaction:
        return _OWN
    name = f"aioupsert_{next(_savepoints)}"
    # One message, so that a cancellation cannot separate the two.
    rollback = f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}"
    return TransactionScope(
        Command(f"SAVEPOINT {name}", kind="command"),
        Command(f"RELEASE SAVEPOINT {name}", kind="command"),
        (Command(rollback, kind="rollback"),),
    )
