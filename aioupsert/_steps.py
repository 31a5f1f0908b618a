"""
What a call sends and in which order, as generators that know no driver.

A generator yields a statement and receives its rows, or has its error thrown into it;
an adapter drives it, awaiting each statement or all of them in one job. One generator
is one *attempt*: it ends in a `Result`, or in `Lost` when another attempt is due.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeAlias, TypeVar

from aioupsert._sql import postgresql, postgresql_catalog, sqlite, sqlite_catalog
from aioupsert._sql.rendering import (
    CREATED,
    SKIPPED,
    UNCHANGED,
    UPDATED,
    Compiled,
)
from aioupsert._sql.sending import Rows, Send, Steps
from aioupsert.errors import NotAppliedError, SerializationConflictError, UsageError
from aioupsert.results import Action, Result

if TYPE_CHECKING:
    from aioupsert._plan import Plan
    from aioupsert._schema import Table, TableName

P = TypeVar("P")


class Lost(NamedTuple):
    """
    A concurrent call got in between; the next attempt starts over.

    Attributes:
        error: What the insert failed with, or None.
        visible: Whether a row with the key was there all the same.
    """

    error: Exception | None = None
    visible: bool = False


Values: TypeAlias = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Dialect(Generic[P]):
    """
    A database.

    Attributes:
        describe: Reads a table from the catalog.
        compile_plan: Writes the statements of a plan.
        attempt: Makes one attempt by the classic steps, given how many inserts were
            lost before, and whether the caller has a transaction open.
    """

    describe: Callable[[TableName], Steps[Table]]
    compile_plan: Callable[[Plan], P]
    attempt: Callable[[P, Values, int, bool], Steps[Result | Lost]]


def find(
    program: postgresql.Program | sqlite.Program, values: Values
) -> Steps[Result | None]:
    """Look for the row of a call that has nothing to update; write nothing."""
    assert program.find is not None  # noqa: S101  # see Plan.conditional
    rows = yield _send(program.find, values)
    return read_result(program.plan, rows) if rows else None


def _send(statement: Compiled, values: Values) -> Send:
    return Send(statement.sql, statement.arguments(values), counted=statement.counted)


_ACTIONS: Final = {
    CREATED: Action.CREATED,
    UPDATED: Action.UPDATED,
    UNCHANGED: Action.UNCHANGED,
    SKIPPED: Action.SKIPPED,
}
_WRITTEN: Final = frozenset({CREATED, UPDATED})


def read_result(plan: Plan, rows: Rows) -> Result:
    """Read the rows of a statement: what happened first, then what was asked for."""
    names = plan.returning
    # Several rows match: one that was written outweighs one left unchanged, and that
    # one outweighs one that was skipped; the codes are in this order.
    code = rows[0][0] if len(rows) == 1 else min(row[0] for row in rows)
    mappings = (
        tuple([dict(zip(names, row[1:], strict=True)) for row in rows]) if names else ()
    )
    return Result(_ACTIONS[code], len(rows) if code in _WRITTEN else 0, mappings)


_REFUSED: Final = (
    "the row of {} was neither created nor updated, and the database gave no error;"
    " likely causes: a BEFORE trigger that returns NULL (RAISE(IGNORE) on SQLite), a"
    " rule, a row-level security policy that hides the row, or a key that is stored as"
    " another value than was given"
)


def refused(table: TableName) -> NotAppliedError:
    """Make the error for a row that the database refuses silently."""
    return NotAppliedError(_REFUSED.format(".".join(table)))


# --- PostgreSQL -----------------------------------------------------------------------

_savepoints: Final = itertools.count(1)

# PostgreSQL, "Error Codes": unique_violation, exclusion_violation.
_CONFLICTS: Final = frozenset({"23505", "23P01"})


def _is_conflict(error: Exception) -> bool:
    # Every driver of PostgreSQL gives its errors this attribute.
    return getattr(error, "sqlstate", None) in _CONFLICTS


def _on_postgresql(
    program: postgresql.Program,
    values: Values,
    conflicts: int,
    in_transaction: bool,  # noqa: FBT001  # the adapter's only word to the steps
) -> Steps[Result | Lost]:
    if program.lock is None:
        return _classic(program, values, conflicts, in_transaction=in_transaction)
    # Under the lock there always is a transaction, the caller's or ours.
    body = _classic(program, values, conflicts, in_transaction=True)
    lock = _send(program.lock, values)
    return _locked(lock, body, in_transaction=in_transaction)


def _classic(
    program: postgresql.Program,
    values: Values,
    conflicts: int,
    *,
    in_transaction: bool,
) -> Steps[Result | Lost]:
    """Update; if nothing was there, insert; if that is too late, say so."""
    plan = program.plan
    if program.update is not None:
        rows = yield _send(program.update, values)
        if rows:
            return read_result(plan, rows)
    if program.find is not None:
        rows = yield _send(program.find, values)
        if any(row[0] == UPDATED for row in rows):
            return Lost(visible=True)
        if rows:
            return read_result(plan, rows)
    insert = _behind_savepoint if in_transaction else _plainly
    inserted = yield from insert(_send(program.insert, values))
    if not isinstance(inserted, Exception):
        if not inserted:
            raise refused(plan.table.name)
        return read_result(plan, inserted)
    if not conflicts:
        return Lost(inserted)
    return (yield from _probe(program, values, inserted, in_transaction=in_transaction))


def _plainly(statement: Send) -> Steps[Rows | Exception]:
    """Send a statement; return its error if it is a conflict."""
    try:
        return (yield statement)
    except Exception as exc:
        if _is_conflict(exc):
            return exc
        raise


def _behind_savepoint(statement: Send) -> Steps[Rows | Exception]:
    """Send a statement so that a conflict does not abort the transaction."""
    name = f"aioupsert_{next(_savepoints)}"
    try:
        yield Send(f"SAVEPOINT {name}", kind="command")
        rows = yield statement
        yield Send(f"RELEASE SAVEPOINT {name}", kind="command")
    except BaseException as exc:
        # One message, so that a cancellation cannot get between the two.
        sql = f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}"
        yield Send(sql, kind="undo")
        if isinstance(exc, Exception) and _is_conflict(exc):
            return exc
        raise
    return rows


def _probe(
    program: postgresql.Program,
    values: Values,
    conflict: Exception,
    *,
    in_transaction: bool,
) -> Steps[Lost]:
    """Tell a row that comes and goes from one that will stay in the way."""
    rows = yield _send(program.probe, values)
    level, visible, *others = rows[0]
    if not visible and any(others):
        raise conflict
    if in_transaction and not visible and level != _READ_COMMITTED:
        msg = (
            f"a row with this key of {program.plan.table.label} was committed after"
            f" this {level} transaction began, so it can neither be seen nor created;"
            " roll back and repeat the transaction"
        )
        raise SerializationConflictError(msg) from conflict
    return Lost(conflict, visible=visible)


_READ_COMMITTED: Final = "read committed"


def _locked(
    lock: Send,
    body: Steps[Result | Lost],
    *,
    in_transaction: bool,
) -> Steps[Result | Lost]:
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
    try:
        yield Send("BEGIN ISOLATION LEVEL READ COMMITTED", kind="command")
        yield lock
        result = yield from body
        status = yield Send("COMMIT", kind="command")
        _check_committed(status[0][0])
    except BaseException:
        yield Send("ROLLBACK", kind="undo")
        raise
    return result


def _check_committed(status: str) -> None:
    # A transaction that has failed answers ROLLBACK to COMMIT, and that is no error.
    if status != "COMMIT":
        msg = f"the database answered {status} to COMMIT; nothing is stored"
        raise NotAppliedError(msg)


POSTGRESQL: Final = Dialect(
    postgresql_catalog.describe, postgresql.compile_plan, _on_postgresql
)

# --- SQLite ---------------------------------------------------------------------------


def _on_sqlite(
    program: sqlite.Program,
    values: Values,
    _conflicts: int,
    in_transaction: bool,  # noqa: FBT001  # as above
) -> Steps[Result | Lost]:
    """
    Run the classic steps while holding the only write lock, so nobody gets between.

    Meant to be driven in one go, so that no other task's statement gets between either.
    """
    begin, commit, undo = _CALLERS if in_transaction else _OWN
    if not program.plan.update and not in_transaction:
        # Mostly the row is there and is only read, which needs no write lock.
        there = yield from find(program, values)
        if there is not None:
            return there
    try:
        yield begin
        write = _write_through if program.plan.table.reads_back else _write
        result = yield from write(program, values)
        yield commit
    except BaseException:
        for send in undo:  # noqa: UP028  # the answers cannot be sent to a tuple
            yield send
        raise
    return result


_OWN: Final[tuple[Send, Send, tuple[Send, ...]]] = (
    Send("BEGIN IMMEDIATE", kind="command"),
    Send("COMMIT", kind="command"),
    (Send("ROLLBACK", kind="undo"),),
)
_CALLERS: Final[tuple[Send, Send, tuple[Send, ...]]] = (
    Send("SAVEPOINT aioupsert", kind="command"),
    Send("RELEASE SAVEPOINT aioupsert", kind="command"),
    (
        Send("ROLLBACK TO SAVEPOINT aioupsert", kind="undo"),
        Send("RELEASE SAVEPOINT aioupsert", kind="undo"),
    ),
)


def _write(program: sqlite.Program, values: Values) -> Steps[Result]:
    plan = program.plan
    if program.update is not None:
        rows = yield _send(program.update, values)
        if rows:
            return read_result(plan, rows)
    there: Rows = ()
    if program.find is not None:
        there = yield _send(program.find, values)
        if there and all(row[0] != UPDATED for row in there):
            return read_result(plan, there)
        if there and not plan.on_conflict:
            raise refused(plan.table.name)
    rows = yield _send(program.insert, values)
    if not rows:
        raise refused(plan.table.name)
    if there:
        rows = [(UPDATED, *row[1:]) for row in rows]
    return read_result(plan, rows)


def _write_through(program: sqlite.Program, values: Values) -> Steps[Result]:
    """Write a view, whose triggers do what they like: only a query tells what is there."""
    plan, query = program.plan, program.find
    assert query is not None  # noqa: S101  # see Plan.conditional
    there = yield _send(query, values)
    if there and all(row[0] != UPDATED for row in there):
        return read_result(plan, there)
    code, write = (UPDATED, program.update) if there else (CREATED, program.insert)
    assert write is not None  # noqa: S101  # the query says UPDATED only if there is one
    yield _send(write, values)
    now_there = yield _send(query, values)
    if not there and not now_there:
        raise refused(plan.table.name)
    return read_result(plan, [(code, *row[1:]) for row in now_there or there])


SQLITE: Final = Dialect(sqlite_catalog.describe, sqlite.compile_plan, _on_sqlite)
