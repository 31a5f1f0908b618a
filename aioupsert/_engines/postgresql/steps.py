"""
One row on PostgreSQL: the classic steps.

An attempt updates; inserts if nothing was updated; and if the insert conflicts with a
row that a concurrent call created meanwhile, ends in a `LostRace`, after which the next
attempt updates that row. A second conflict in a row is looked into first: a row that
blocks the insert and can never be updated by this key is a permanent conflict, whose
error is raised, and in a transaction with a snapshot (REPEATABLE READ and above) the
row cannot become visible, so that only the whole transaction can be repeated.

Mostly none of this runs: `PostgresqlCall.single` is the whole call as one statement,
and answers no row only if a race was lost or something permanent is in the way.

References:
    PostgreSQL, "Transaction Isolation", "SAVEPOINT", "Explicit Locking".
"""

from __future__ import annotations

import itertools
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
from aioupsert._engines.outcomes import (
    MAX_LOST_RACES,
    LostRace,
    bind,
    look_up,
    race_error,
    read_result,
    refused,
)
from aioupsert._engines.sql import UPDATED, CompiledStatement
from aioupsert.errors import SerializationConflictError, UsageError

if TYPE_CHECKING:
    from aioupsert._plan import Plan
    from aioupsert.results import Result


@dataclass(frozen=True, slots=True)
class PostgresqlCall:
    """
    The statements of one plan.

    Attributes:
        plan: The plan.
        single: The whole call as one statement, or None where that cannot work.
        update: The classic steps: the update, or None with nothing to set;
        find: the row as it is, or None when an update always applies;
        insert: the insert;
        probe: why the insert keeps failing;
        lock: the advisory lock on the key, when one replaces the unique index.
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

    def look_up(self, values: Sequence[Any]) -> Steps[Result | None]:
        """Read the row of a call that updates nothing; write nothing."""
        return look_up(self.find, self.plan, values)

    def attempt(
        self, values: Sequence[Any], conflicts: int
    ) -> Steps[Result | LostRace]:
        """Make one attempt by the classic steps, under the lock if there is one."""
        inside = bool((yield IN_TRANSACTION))
        return (yield from self._attempt(values, conflicts, in_transaction=inside))

    def write(self, values: Sequence[Any]) -> Steps[Result]:
        """
        Write one of many rows in the open transaction.

        Raises:
            NotAppliedError: The database silently refuses the row.
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
        self, values: Sequence[Any], conflicts: int, *, in_transaction: bool
    ) -> Steps[Result | LostRace]:
        if self.lock is None:
            return self._classic(values, conflicts, in_transaction=in_transaction)
        # Under the lock a transaction is always open, the caller's or our own.
        body = self._classic(values, conflicts, in_transaction=True)
        return _locked(bind(self.lock, values), body, in_transaction=in_transaction)

    def _classic(
        self, values: Sequence[Any], conflicts: int, *, in_transaction: bool
    ) -> Steps[Result | LostRace]:
        """Update; insert if no row was updated; report a conflict as a lost race."""
        plan = self.plan
        asked = len(plan.returning)
        if self.update is not None:
            rows = yield bind(self.update, values, asked)
            if rows:
                return read_result(plan, rows)
        if self.find is not None:
            rows = yield bind(self.find, values, asked)
            if any(row[0] == UPDATED for row in rows):
                return LostRace(visible=True)
            if rows:
                return read_result(plan, rows)
        insert = _behind_savepoint if in_transaction else _plainly
        inserted = yield from insert(bind(self.insert, values, asked))
        if not isinstance(inserted, Exception):
            if not inserted:
                raise refused(plan.table.name)
            return read_result(plan, inserted)
        if not conflicts:
            return LostRace(inserted)
        return (yield from self._probe(values, inserted, in_transaction=in_transaction))

    def _probe(
        self, values: Sequence[Any], conflict: Exception, *, in_transaction: bool
    ) -> Steps[LostRace]:
        """Distinguish a row that comes and goes from one that stays in the way."""
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
    # The errors of every PostgreSQL driver have this attribute.
    return getattr(error, "sqlstate", None) in _CONFLICTS


def _plainly(statement: Command) -> Steps[Rows | Exception]:
    """Send a statement; return its error if it is a conflict."""
    try:
        return (yield statement)
    except Exception as exc:
        if _is_conflict(exc):
            return exc
        raise


def _behind_savepoint(statement: Command) -> Steps[Rows | Exception]:
    """Send a statement so that a conflict does not abort the transaction."""
    try:
        return (yield from in_scope(scope(in_transaction=True), _alone(statement)))
    except Exception as exc:
        if _is_conflict(exc):
            return exc
        raise


def _alone(statement: Command) -> Steps[Rows]:
    return (yield statement)


def _locked(
    lock: Command, body: Steps[Result | LostRace], *, in_transaction: bool
) -> Steps[Result | LostRace]:
    """Run an attempt under the advisory lock, which ends with the transaction."""
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
    return (yield from in_scope(own, _after(lock, body)))


def _after(lock: Command, body: Steps[Result | LostRace]) -> Steps[Result | LostRace]:
    yield lock
    return (yield from body)


_OWN: Final = TransactionScope(
    Command("BEGIN", kind="command"),
    Command("COMMIT", kind="command"),
    (Command("ROLLBACK", kind="rollback"),),
)
_savepoints: Final = itertools.count(1)


def scope(*, in_transaction: bool) -> TransactionScope:
    """Return a transaction, or a savepoint in the one that is open."""
    if not in_transaction:
        return _OWN
    name = f"aioupsert_{next(_savepoints)}"
    # One message, so that a cancellation cannot come between the two.
    rollback = f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}"
    return TransactionScope(
        Command(f"SAVEPOINT {name}", kind="command"),
        Command(f"RELEASE SAVEPOINT {name}", kind="command"),
        (Command(rollback, kind="rollback"),),
    )
