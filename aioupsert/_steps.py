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
    STALE,
    UNCHANGED,
    UPDATED,
    Compiled,
)
from aioupsert._sql.sending import Rows, Send, Steps, Surroundings
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


class Attempt(NamedTuple):
    """
    Where a call stands.

    Attributes:
        number: How many attempts went before.
        conflicts: How many of them an insert lost.
        around: What the adapter knows.
    """

    number: int
    conflicts: int
    around: Surroundings


Values: TypeAlias = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Dialect(Generic[P]):
    """
    A database.

    Attributes:
        describe: Reads a table from the catalog.
        compile_plan: Writes the statements of a plan.
        attempt: Makes one attempt.
    """

    describe: Callable[[TableName], Steps[Table]]
    compile_plan: Callable[[Plan], P]
    attempt: Callable[[P, Values, Attempt], Steps[Result | Lost]]


def find(
    program: postgresql.Program | sqlite.Program, values: Values
) -> Steps[Result | None]:
    """Look for a row that would be left alone, and write nothing."""
    rows = (yield _send(program.find, values)) if program.find is not None else ()
    return _result(program.plan, rows) if rows else None


def _send(statement: Compiled, values: Values) -> Send:
    return Send(
        statement.sql, statement.arguments(values), counted=statement.counted
    )


_ACTIONS: Final = {
    CREATED: Action.CREATED,
    UPDATED: Action.UPDATED,
    UNCHANGED: Action.UNCHANGED,
    SKIPPED: Action.SKIPPED,
}
_WRITTEN: Final = frozenset({CREATED, UPDATED})


def _result(plan: Plan, rows: Rows) -> Result:
    """Read the rows of a statement: what happened first, then what was asked for."""
    names = plan.returning
    # Several rows match: one that was written outweighs one left unchanged, and that
    # one outweighs one that was skipped; the codes are in this order.
    code = rows[0][0] if len(rows) == 1 else min(row[0] for row in rows)
    if code == STALE:
        raise NotAppliedError(_RENAMED.format(plan.table.label))
    mappings = (
        tuple(dict(zip(names, row[1:], strict=True)) for row in rows) if names else ()
    )
    return Result(_ACTIONS[code], len(rows) if code in _WRITTEN else 0, mappings)


_RENAMED: Final = "the name {} now means another relation than it did a moment ago"
_REFUSED: Final = (
    "the row of {} was neither created nor updated, and the database gave no error;"
    " likely causes: a BEFORE trigger that returns NULL (RAISE(IGNORE) on SQLite), a"
    " rule, a row-level security policy that hides the row, or a key that is stored as"
    " another value than was given"
)


def refused(plan: Plan) -> NotAppliedError:
    """Make the error for a row that the database refuses silently."""
    return NotAppliedError(_REFUSED.format(plan.table.label))


# --- PostgreSQL -----------------------------------------------------------------------

_savepoints: Final = itertools.count(1)


def _on_postgresql(
    program: postgresql.Program, values: Values, attempt: Attempt
) -> Steps[Result | Lost]:
    body = _classic if attempt.number or not _single(program) else _at_once
    if program.lock is None:
        return (yield from body(program, values, attempt))
    return (yield from _locked(program.lock, body, program, values, attempt))


def _single(program: postgresql.Program) -> Compiled | None:
    return program.on_conflict or program.fast


def _at_once(
    program: postgresql.Program, values: Values, _: Attempt
) -> Steps[Result | Lost]:
    statement = _single(program)
    assert statement is not None  # noqa: S101  # the caller looked
    rows = yield _send(statement, values)
    return _result(program.plan, rows) if rows else Lost()


def _classic(
    program: postgresql.Program, values: Values, attempt: Attempt
) -> Steps[Result | Lost]:
    """Update; if nothing was there, insert; if that is too late, say so."""
    plan = program.plan
    if program.update is not None:
        rows = yield _send(program.update, values)
        if rows:
            return _result(plan, rows)
    if program.find is not None:
        rows = yield _send(program.find, values)
        if any(row[0] == UPDATED for row in rows):
            return Lost(visible=True)
        if rows:
            return _result(plan, rows)
    inserted = yield from _insert(program, values, attempt)
    if not isinstance(inserted, Exception):
        if not inserted:
            raise refused(plan)
        return _result(plan, inserted)
    if not attempt.conflicts:
        return Lost(inserted)
    return (yield from _probe(program, values, attempt, inserted))


def _insert(
    program: postgresql.Program, values: Values, attempt: Attempt
) -> Steps[Rows | Exception]:
    """Insert, behind a savepoint in the caller's transaction; return a conflict."""
    statement = _send(program.insert, values)
    if not attempt.around.in_transaction:
        try:
            return (yield statement)
        except Exception as exc:
            if attempt.around.is_conflict(exc):
                return exc
            raise
    name = f"aioupsert_{next(_savepoints)}"
    try:
        yield Send(f"SAVEPOINT {name}", kind="command")
        rows = yield statement
        yield Send(f"RELEASE SAVEPOINT {name}", kind="command")
    except BaseException as exc:
        yield Send(f"ROLLBACK TO SAVEPOINT {name}", kind="undo")
        yield Send(f"RELEASE SAVEPOINT {name}", kind="undo")
        if isinstance(exc, Exception) and attempt.around.is_conflict(exc):
            return exc
        raise
    return rows


def _probe(
    program: postgresql.Program,
    values: Values,
    attempt: Attempt,
    conflict: Exception,
) -> Steps[Lost]:
    """Tell a row that comes and goes from one that will stay in the way."""
    rows = yield _send(program.probe, values)
    level, visible, *others = rows[0]
    if not visible and any(others):
        raise conflict
    if attempt.around.in_transaction and not visible and level != _READ_COMMITTED:
        msg = (
            f"a row with this key of {program.plan.table.label} was committed after"
            f" this {level} transaction began, so it can neither be seen nor created;"
            " roll back and repeat the transaction"
        )
        raise SerializationConflictError(msg) from conflict
    return Lost(conflict, visible=visible)


_READ_COMMITTED: Final = "read committed"


def _locked(
    lock: Compiled,
    body: Callable[[postgresql.Program, Values, Attempt], Steps[Result | Lost]],
    program: postgresql.Program,
    values: Values,
    attempt: Attempt,
) -> Steps[Result | Lost]:
    """Run an attempt under the advisory lock, which ends with the transaction."""
    inside = attempt._replace(around=attempt.around._replace(in_transaction=True))
    if attempt.around.in_transaction:
        rows = yield _send(lock, values)
        if rows[0][0] != _READ_COMMITTED:
            msg = (
                'without_unique_index="lock" needs a READ COMMITTED transaction: at'
                f" {rows[0][0].upper()} the row of the last holder stays invisible"
            )
            raise UsageError(msg)
        return (yield from body(program, values, inside))
    try:
        yield Send("BEGIN ISOLATION LEVEL READ COMMITTED", kind="command")
        yield _send(lock, values)
        result = yield from body(program, values, inside)
        status = yield Send("COMMIT", kind="command")
        if status[0][0] != "COMMIT":
            raise refused(program.plan)
    except BaseException:
        yield Send("ROLLBACK", kind="undo")
        raise
    return result


POSTGRESQL: Final = Dialect(
    postgresql_catalog.describe, postgresql.compile_plan, _on_postgresql
)

# --- SQLite ---------------------------------------------------------------------------


def _on_sqlite(
    program: sqlite.Program, values: Values, attempt: Attempt
) -> Steps[Result | Lost]:
    """
    Run the classic steps while holding the only write lock, so nobody gets between.

    Meant to be driven in one go, so that no other task's statement gets between either.
    """
    begin, commit, undo = _OWN
    if attempt.around.in_transaction:
        begin, commit, undo = _CALLERS
    try:
        yield Send(begin, kind="command")
        result = yield from _write(program, values)
        yield Send(commit, kind="command")
    except BaseException:
        for sql in undo:
            yield Send(sql, kind="undo")
        raise
    return result


_OWN: Final = ("BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",))
_CALLERS: Final = (
    "SAVEPOINT aioupsert",
    "RELEASE SAVEPOINT aioupsert",
    ("ROLLBACK TO SAVEPOINT aioupsert", "RELEASE SAVEPOINT aioupsert"),
)


def _write(program: sqlite.Program, values: Values) -> Steps[Result]:
    plan = program.plan
    if program.update is not None:
        rows = yield _send(program.update, values)
        if rows:
            return _result(plan, rows)
    there: Rows = ()
    if program.find is not None:
        there = yield _send(program.find, values)
        if there and all(row[0] != UPDATED for row in there):
            return _result(plan, there)
        if there and not plan.on_conflict:
            raise refused(plan)
    rows = yield _send(program.insert, values)
    if not rows:
        raise refused(plan)
    if there:
        rows = [(UPDATED, *row[1:]) for row in rows]
    return _result(plan, rows)


SQLITE: Final = Dialect(sqlite_catalog.describe, sqlite.compile_plan, _on_sqlite)
