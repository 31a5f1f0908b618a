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

After two lost attempts the row is locked before it is updated, so that it is known
whether the database refuses the update, as a trigger may.

If an attempt was lost before, the reason is looked for first. A row that blocks the insert
by another unique index, or that a policy hides, so that no update by this key will ever
find it, is a permanent conflict: its error is raised. Without a transaction of the
caller's, the insert is sent again in a snapshot that is fixed, which tells the two apart
whatever the cause (`PostgresqlCall._settle`). In one, a query evaluates the violated
index over the row to insert. In a transaction whose snapshot is fixed (REPEATABLE READ
and above) a row that was committed later cannot become visible, so only the whole
transaction can be repeated: `SerializationConflictError`.

References:
    PostgreSQL, "Transaction Isolation" (13.2), "SAVEPOINT", "Explicit Locking" (13.3.5,
    Advisory Locks), "Error Codes".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aioupsert._engines.commands import (
    IN_TRANSACTION,
    Command,
    ResultRows,
    ScopeLevel,
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
from aioupsert._engines.postgresql.sqlstates import TRANSIENT
from aioupsert._engines.sql import CompiledStatement, ParameterValues, RowCode
from aioupsert.errors import SerializationConflictError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioupsert._plan import Plan
    from aioupsert.results import Result
    from aioupsert.typing import Value


@dataclass(frozen=True, slots=True)
class PostgresqlCall:
    """
    The statements of one plan, and their steps.

    Attributes:
        plan: The plan.
        single: The whole call as one statement, or None if that is not possible.
        at_any_level: The call for any isolation level, if this is for READ COMMITTED.
        update: The update, or None if there is nothing to set.
        find: The query for the existing row, or None if an update always applies.
        insert: The insert.
        insert_or_nothing: The insert again, with conflicts ignored; None if the table
            does not support that.
        probe: The query for the reason why the insert keeps failing.
        probed: The names of the indexes that the probe tests, in order.
        look: Waits a moment, and tells whether a row with the key was visible before;
            None if the probe finds every row that may be in the way.
        lock_row: Locks the existing row; None if there is nothing to set, or if rows of
            this table cannot be locked.
        lock: The advisory lock on the key if one replaces the unique index, or None.
        lock_rows: Locks the rows of the key; None unless their old values are asked
            for, and there may be several.
    """

    plan: Plan
    single: CompiledStatement | None
    at_any_level: PostgresqlCall | None
    update: CompiledStatement | None
    find: CompiledStatement | None
    insert: CompiledStatement
    insert_or_nothing: CompiledStatement | None
    probe: CompiledStatement
    probed: tuple[str, ...]
    look: CompiledStatement | None
    lock_row: CompiledStatement | None
    lock: CompiledStatement | None
    lock_rows: CompiledStatement | None = None

    @property
    def create(self) -> CompiledStatement | None:
        """The same for a row that was just looked for in vain."""
        return self.single and (self.insert_or_nothing or self.single)

    def statements(self) -> tuple[CompiledStatement, ...]:
        """Return the statements that a call may send, in order."""
        steps = (
            *(self.lock, self.lock_rows, self.single),
            *(() if self.at_any_level is None else (self.at_any_level.single,)),
            *(self.update, self.find, self.insert),
            *(self.insert_or_nothing, self.probe, self.look, self.lock_row),
        )
        return tuple(step for step in steps if step is not None)

    def read_existing(self, values: ParameterValues) -> Steps[Result | None]:
        """Read the existing row of a call that updates nothing; write nothing."""
        return read_existing(self.find, self.plan, values)

    def attempt(self, values: ParameterValues, lost: int) -> Steps[Result | LostRace]:
        """Make one attempt by the classic steps, under the lock if one is needed."""
        inside = bool((yield IN_TRANSACTION))
        return (yield from self._attempt(values, lost, in_transaction=inside))

    def write(self, values: ParameterValues) -> Steps[Result]:
        """
        Write one of many rows in the open transaction.

        Raises:
            NotAppliedError: The database silently did not write the row.
        """
        lost = LostRace()
        single = (self.at_any_level or self).single
        for number in range(MAX_LOST_RACES):
            outcome: Result | LostRace
            if number == 0 and single is not None:
                rows = yield bind(single, values, self.plan.caller_columns)
                outcome = read_result(self.plan, rows) if rows else LostRace()
            else:
                outcome = yield from self._attempt(values, number, in_transaction=True)
            if not isinstance(outcome, LostRace):
                return outcome
            lost = outcome
        raise race_error(self.plan.table.name, lost)

    def _attempt(
        self, values: ParameterValues, lost: int, *, in_transaction: bool
    ) -> Steps[Result | LostRace]:
        if self.lock is self.lock_rows is None:
            return self._classic(values, lost, in_transaction=in_transaction)
        # A lock ends with the transaction, so one is open, the caller's or our own.
        body = self._classic(values, lost, in_transaction=True)
        if self.lock_rows is not None:
            body = _lock_first(bind(self.lock_rows, values), body)
        if self.lock is None:
            return body if in_transaction else in_scope(_OWN, body)
        return _locked(bind(self.lock, values), body, in_transaction=in_transaction)

    def _classic(
        self, values: ParameterValues, lost: int, *, in_transaction: bool
    ) -> Steps[Result | LostRace]:
        """Update; insert if no row was updated; report a conflict as a lost race."""
        plan = self.plan
        caller_columns = plan.caller_columns
        outcome = yield from self._update_row(
            values, lost, in_transaction=in_transaction
        )
        if outcome is not None:
            return outcome
        insert = _behind_savepoint if in_transaction else _plainly
        inserted = yield from insert(bind(self.insert, values, caller_columns))
        if not isinstance(inserted, Exception):
            if not inserted:
                raise refused(plan.table.name)
            return read_result(plan, inserted)
        if not lost and (self.look is None or not in_transaction):
            return LostRace(inserted)
        rest = (
            self._probe(values, inserted, in_transaction=in_transaction)
            if in_transaction or self.insert_or_nothing is None
            else self._settle(self.insert_or_nothing, values, inserted, _SNAPSHOT)
        )
        return (yield from rest)

    def _update_row(
        self, values: ParameterValues, lost: int, *, in_transaction: bool
    ) -> Steps[Result | LostRace | None]:
        """Update, or see that the row is to be left; return None if it does not exist."""
        plan = self.plan
        caller_columns = plan.caller_columns
        locks = lost >= _LOCKED_FROM and self.lock_row is not None
        if locks:
            level = scope("step", in_transaction=in_transaction)
            result = yield from in_scope(level, self._update_locked(values))
            if result is not None:
                return result
        elif self.update is not None:
            rows = yield bind(self.update, values, caller_columns)
            if rows:
                return read_result(plan, rows)
        if self.find is None:
            return None
        rows = yield bind(self.find, values, caller_columns)
        if any(row[0] == RowCode.UPDATED for row in rows):
            if locks and lost > _LOCKED_FROM and plan.table.row_security:
                raise refused(plan.table.name)  # a policy of updates hides it
            # It was created, or changed, after the update had looked for it.
            return LostRace(visible=True)
        return read_result(plan, rows) if rows else None

    def _update_locked(self, values: ParameterValues) -> Steps[Result | None]:
        """
        Lock the row and update it; return None if it does not exist.

        Raises:
            NotAppliedError: The row that is locked, and is to be updated, is not.
        """
        plan = self.plan
        assert self.lock_row is not None  # noqa: S101  # see _classic
        assert self.update is not None  # noqa: S101  # as there is something to lock
        locked = yield bind(self.lock_row, values)
        if not locked:
            return None
        caller_columns = plan.caller_columns
        rows = yield bind(self.update, values, caller_columns)
        if not rows and self.find is not None:
            rows = yield bind(self.find, values, caller_columns)
            if any(row[0] == RowCode.UPDATED for row in rows):
                rows = ()
        if not rows:
            raise refused(plan.table.name)
        return read_result(plan, rows)

    def _probe(
        self, values: ParameterValues, conflict: Exception, *, in_transaction: bool
    ) -> Steps[Result | LostRace]:
        """Return a lost race, or raise the error of a conflict that is permanent."""
        rows = yield bind(self.probe, values)
        level, visible, *others = rows[0]
        violated = _constraint_of(conflict)
        if violated in self.probed:
            others = [others[self.probed.index(violated)]]
        if not visible and any(others):
            raise conflict
        if in_transaction and not visible and level != _READ_COMMITTED:
            if self.insert_or_nothing is not None:
                settled = yield from self._settle(
                    self.insert_or_nothing,
                    values,
                    conflict,
                    scope("step", in_transaction=True),
                )
                if not isinstance(settled, LostRace):
                    return settled
            msg = (
                f"a row with this key of {self.plan.table.label} was committed after"
                f" this {level} transaction began, so it can neither be seen nor"
                " created; roll back and repeat the transaction"
            )
            raise SerializationConflictError(msg) from conflict
        if self.look is not None and not visible:
            for _ in range(_LOOKS):
                rows = yield bind(self.look, values)
                may_hide, visible, *key = rows[0]
                if visible or not may_hide or self._is_of_key(conflict, key):
                    break
            else:
                raise conflict
        return LostRace(conflict, visible=visible)

    def _is_of_key(self, conflict: Exception, key: Sequence[Value]) -> bool:
        """Return whether the row in the way has this very key, and so can be found."""
        written = {
            k.column.name: value for k, value in zip(self.plan.key, key, strict=True)
        }
        return any(
            index.name == _constraint_of(conflict)
            and written.keys() >= {*index.columns}
            and f"({', '.join(str(c) for c in index.columns)})="
            f"({', '.join(str(written[c or '']) for c in index.columns)})"
            in _detail_of(conflict)
            for index in self.plan.table.unique
        )

    def _settle(
        self,
        insert_or_nothing: CompiledStatement,
        values: ParameterValues,
        conflict: Exception,
        snapshot: TransactionScope,
    ) -> Steps[Result | LostRace]:
        """
        Tell a race from a conflict that stays, whatever causes it, or create the row.

        In a snapshot that is fixed, ON CONFLICT DO NOTHING raises an error if the row in
        the way was committed after the snapshot was taken (a race), and does nothing if
        before. If the same snapshot shows no row with the key then, no update will ever
        find the row in the way.
        """
        body = self._insert_in_snapshot(insert_or_nothing, values, conflict)
        try:
            return (yield from in_scope(snapshot, body))
        except Exception as exc:
            if _sqlstate(exc) in TRANSIENT:
                return LostRace(conflict)
            raise

    def _insert_in_snapshot(
        self,
        insert_or_nothing: CompiledStatement,
        values: ParameterValues,
        conflict: Exception,
    ) -> Steps[Result | LostRace]:
        rows = yield bind(insert_or_nothing, values, self.plan.caller_columns)
        if rows:
            return read_result(self.plan, rows)
        rows = yield bind(self.probe, values)
        if not rows[0][1]:
            raise conflict
        return LostRace(conflict, visible=True)


# PostgreSQL, "Error Codes": unique_violation, exclusion_violation.
_CONFLICTS: Final = frozenset({"23505", "23P01"})
_READ_COMMITTED: Final = "read committed"
# At READ COMMITTED, a row that no query by the key finds cannot be told from one that is
# created and deleted all the time, but by looking several times.
_LOOKS: Final = 5
_LOCKED_FROM: Final = 2
"""The number of lost attempts after which the row is locked first."""


def is_conflict(error: Exception) -> bool:
    """Return whether a row violates a unique index or an exclusion constraint."""
    return _sqlstate(error) in _CONFLICTS


def _sqlstate(error: Exception) -> str | None:
    # The errors of both PostgreSQL drivers have this attribute.
    state: str | None = getattr(error, "sqlstate", None)
    return state


def _constraint_of(error: Exception) -> str | None:
    """Return the name of the violated constraint or index."""
    # psycopg's errors have it in their diagnostics.
    name: str | None = getattr(getattr(error, "diag", error), "constraint_name", None)
    return name


def _detail_of(error: Exception) -> str:
    """Return the detail of an error, in which the server names the key in the way."""
    diagnostics = getattr(error, "diag", None)
    detail: str | None = (
        getattr(error, "detail", None)
        if diagnostics is None
        else diagnostics.message_detail
    )
    return detail or ""


def _plainly(statement: Command) -> Steps[ResultRows | Exception]:
    """Send a statement; return its error if it is a conflict."""
    try:
        return (yield statement)
    except Exception as exc:
        if is_conflict(exc):
            return exc
        raise


def _behind_savepoint(statement: Command) -> Steps[ResultRows | Exception]:
    """Send a statement so that a conflict does not abort the transaction."""
    try:
        body = single_command(statement)
        return (yield from in_scope(scope("step", in_transaction=True), body))
    except Exception as exc:
        if is_conflict(exc):
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
        check_level((yield lock)[0][0])
        return (yield from body)
    own = _OWN._replace(
        begin=Command("BEGIN ISOLATION LEVEL READ COMMITTED", kind="command")
    )
    return (yield from in_scope(own, _lock_first(lock, body)))


def check_level(level: str) -> None:
    """
    Check the isolation level under which an advisory lock replaces a unique index.

    Raises:
        UsageError: It is not READ COMMITTED.
    """
    if level != _READ_COMMITTED:
        msg = (
            'without_unique_index="lock" needs a READ COMMITTED transaction: at'
            f" {level.upper()} the row of the last holder stays invisible"
        )
        raise UsageError(msg)


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
_SNAPSHOT: Final = _OWN._replace(
    begin=Command("BEGIN ISOLATION LEVEL REPEATABLE READ", kind="command")
)


def scope(level: ScopeLevel, *, in_transaction: bool) -> TransactionScope:
    """Return a transaction, or a savepoint if one is open."""
    if not in_transaction:
        return _OWN
    # Few names, as each is an entry in pg_stat_statements; and one for each level, so that
    # a rollback without its savepoint, which was cancelled, never ends an outer one.
    name = f"aioupsert_{level}"
    # One message, so that a cancellation cannot separate the two.
    undo = f"ROLLBACK TO SAVEPOINT {name}"
    rollback = f"{undo}; RELEASE SAVEPOINT {name}"
    return TransactionScope(
        Command(f"SAVEPOINT {name}", kind="command"),
        Command(f"RELEASE SAVEPOINT {name}", kind="command"),
        (Command(rollback, kind="rollback"),),
        (Command(undo, kind="rollback"),),
    )
