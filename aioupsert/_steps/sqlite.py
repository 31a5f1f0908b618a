"""One row on SQLite: the classic steps, as a generator that knows no driver."""

from __future__ import annotations

from typing import Final

from aioupsert._sql.rendering import CREATED, UPDATED
from aioupsert._sql.sending import Rows, Send, Steps
from aioupsert._sql.sqlite import Program
from aioupsert._steps.common import (
    Frame,
    Lost,
    Values,
    find,
    framed,
    read_result,
    refused,
    send,
)
from aioupsert.results import Result


def attempt(
    program: Program,
    values: Values,
    _conflicts: int,
    in_transaction: bool,  # noqa: FBT001  # as above
) -> Steps[Result | Lost]:
    """
    Run the classic steps while holding the only write lock, so nobody gets between.

    Meant to be driven in one go, so that no other task's statement gets between either.
    """
    if not program.plan.update and not in_transaction:
        # Mostly the row is there and is only read, which needs no write lock.
        there = yield from find(program, values)
        if there is not None:
            return there
    body = write_one(program, values)
    return (yield from framed(frame(in_transaction=in_transaction), body))


_OWN: Final = Frame(
    Send("BEGIN IMMEDIATE", kind="command"),
    Send("COMMIT", kind="command"),
    (Send("ROLLBACK", kind="undo"),),
)
_CALLERS: Final = Frame(
    Send("SAVEPOINT aioupsert", kind="command"),
    Send("RELEASE SAVEPOINT aioupsert", kind="command"),
    (
        Send("ROLLBACK TO SAVEPOINT aioupsert", kind="undo"),
        Send("RELEASE SAVEPOINT aioupsert", kind="undo"),
    ),
)


def frame(*, in_transaction: bool) -> Frame:
    """Give a transaction, or a savepoint in the one that is open."""
    return _CALLERS if in_transaction else _OWN


def write_one(program: Program, values: Values) -> Steps[Result]:
    """
    Write a row in a transaction that is open.

    Raises:
        NotAppliedError: The database silently refuses the row.
    """
    write = _write_through if program.plan.table.reads_back else _write
    return write(program, values)


def _write(program: Program, values: Values) -> Steps[Result]:
    plan = program.plan
    if program.update is not None:
        rows = yield send(program.update, values)
        if rows:
            return read_result(plan, rows)
    there: Rows = ()
    if program.find is not None:
        there = yield send(program.find, values)
        if there and all(row[0] != UPDATED for row in there):
            return read_result(plan, there)
        if there and not plan.on_conflict:
            raise refused(plan.table.name)
    rows = yield send(program.insert, values)
    if not rows:
        raise refused(plan.table.name)
    if there:
        rows = [(UPDATED, *row[1:]) for row in rows]
    return read_result(plan, rows)


def _write_through(program: Program, values: Values) -> Steps[Result]:
    """Write a view, whose triggers do what they like: only a query tells what is there."""
    plan, query = program.plan, program.find
    assert query is not None  # noqa: S101  # see Plan.conditional
    there = yield send(query, values)
    if there and all(row[0] != UPDATED for row in there):
        return read_result(plan, there)
    code, write = (UPDATED, program.update) if there else (CREATED, program.insert)
    assert write is not None  # noqa: S101  # the query says UPDATED only if there is one
    yield send(write, values)
    now_there = yield send(query, values)
    if not there and not now_there:
        raise refused(plan.table.name)
    return read_result(plan, [(code, *row[1:]) for row in now_there or there])
