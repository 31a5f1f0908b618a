"""
One row on PostgreSQL: the classic steps, as a generator that knows no driver.

A generator yields a statement and receives its rows, or has its error thrown into it;
an adapter drives it, awaiting each statement or all of them in one job. One generator
is one *attempt*: it ends in a `Result`, or in `Lost` when another attempt is due.
"""

from __future__ import annotations

import itertools
from typing import Final

from aioupsert._sql.postgresql import Program
from aioupsert._sql.rendering import UPDATED
from aioupsert._sql.sending import Rows, Send, Steps
from aioupsert._steps.common import (
    MAX_LOST,
    Frame,
    Lost,
    Values,
    framed,
    hopeless,
    read_result,
    refused,
    send,
)
from aioupsert.errors import SerializationConflictError, UsageError
from aioupsert.results import Result

_savepoints: Final = itertools.count(1)

# PostgreSQL, "Error Codes": unique_violation, exclusion_violation.
_CONFLICTS: Final = frozenset({"23505", "23P01"})


def _is_conflict(error: Exception) -> bool:
    # Every driver of PostgreSQL gives its errors this attribute.
    return getattr(error, "sqlstate", None) in _CONFLICTS


def attempt(
    program: Program,
    values: Values,
    conflicts: int,
    in_transaction: bool,  # noqa: FBT001  # the adapter's only word to the steps
) -> Steps[Result | Lost]:
    if program.lock is None:
        return _classic(program, values, conflicts, in_transaction=in_transaction)
    # Under the lock there always is a transaction, the caller's or ours.
    body = _classic(program, values, conflicts, in_transaction=True)
    lock = send(program.lock, values)
    return _locked(lock, body, in_transaction=in_transaction)


def _classic(
    program: Program,
    values: Values,
    conflicts: int,
    *,
    in_transaction: bool,
) -> Steps[Result | Lost]:
    """Update; if nothing was there, insert; if that is too late, say so."""
    plan = program.plan
    asked = len(plan.returning)
    if program.update is not None:
        rows = yield send(program.update, values, asked)
        if rows:
            return read_result(plan, rows)
    if program.find is not None:
        rows = yield send(program.find, values, asked)
        if any(row[0] == UPDATED for row in rows):
            return Lost(visible=True)
        if rows:
            return read_result(plan, rows)
    insert = _behind_savepoint if in_transaction else _plainly
    inserted = yield from insert(send(program.insert, values, asked))
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
    try:
        return (yield from framed(frame(in_transaction=True), _alone(statement)))
    except Exception as exc:
        if _is_conflict(exc):
            return exc
        raise


def _alone(statement: Send) -> Steps[Rows]:
    return (yield statement)


def _probe(
    program: Program,
    values: Values,
    conflict: Exception,
    *,
    in_transaction: bool,
) -> Steps[Lost]:
    """Tell a row that comes and goes from one that will stay in the way."""
    rows = yield send(program.probe, values)
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
    own = _OWN._replace(
        begin=Send("BEGIN ISOLATION LEVEL READ COMMITTED", kind="command")
    )
    return (yield from framed(own, _after(lock, body)))


def _after(lock: Send, body: Steps[Result | Lost]) -> Steps[Result | Lost]:
    yield lock
    return (yield from body)


_OWN: Final = Frame(
    Send("BEGIN", kind="command"),
    Send("COMMIT", kind="command"),
    (Send("ROLLBACK", kind="undo"),),
)


def frame(*, in_transaction: bool) -> Frame:
    """Give a transaction, or a savepoint in the one that is open."""
    if not in_transaction:
        return _OWN
    name = f"aioupsert_{next(_savepoints)}"
    # One message, so that a cancellation cannot get between the two.
    undo = f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}"
    return Frame(
        Send(f"SAVEPOINT {name}", kind="command"),
        Send(f"RELEASE SAVEPOINT {name}", kind="command"),
        (Send(undo, kind="undo"),),
    )


def write_one(program: Program, values: Values) -> Steps[Result]:
    """
    Write one of many rows, in a transaction that is open.

    Raises:
        NotAppliedError: The database silently refuses the row.
    """
    lost = Lost()
    conflicts = 0
    for number in range(MAX_LOST):
        outcome: Result | Lost
        if number == 0 and program.single is not None:
            asked = len(program.plan.returning)
            rows = yield send(program.single, values, asked)
            outcome = read_result(program.plan, rows) if rows else Lost()
        else:
            outcome = yield from attempt(program, values, conflicts, True)  # noqa: FBT003  # as below
        if not isinstance(outcome, Lost):
            return outcome
        lost = outcome
        conflicts += lost.error is not None
    raise hopeless(program.plan.table.name, lost)
