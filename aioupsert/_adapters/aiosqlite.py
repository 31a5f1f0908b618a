"""
aiosqlite: a call is one job on the connection's thread.

Nothing of another task gets between its statements, and a cancelled call leaves no
transaction open, because the job runs to its end.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

import aiosqlite

from aioupsert._adapters.base import (
    Kind,
    State,
    TransientError,
    drive,
    finish,
    log,
    state_of,
)
from aioupsert._sql.rendering import UPDATED
from aioupsert._sql.sending import Rows, Send, Steps
from aioupsert._sql.sqlite_bulk import MARK, NOTE
from aioupsert._steps import SQLITE, Dialect, Lost
from aioupsert.results import Result

T = TypeVar("T")

# SQLite, "Result and Error Codes"; an extended code has the primary one in its low byte.
_TRANSIENT: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_STALE: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA})
# What a row may cause, as RAISE in a trigger, a value out of range, or too long.
_ROW: Final = frozenset(
    {
        sqlite3.SQLITE_OK,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_TOOBIG,
    }
)
_PRIMARY: Final = 0xFF

# aiosqlite has no public way to run a function on its thread. Without this one, the
# statements of a call are sent one by one, under a lock.
_HAS_JOBS: Final = hasattr(aiosqlite.Connection, "_execute")


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0)


def is_retryable(error: BaseException) -> bool:
    """Tell whether repeating the whole transaction is right."""
    return _code(error) & _PRIMARY in _TRANSIENT


class AiosqliteSession:
    """One aiosqlite connection, for the time of one call."""

    dialect: Dialect[Any, Any] = SQLITE

    def __init__(self, connection: aiosqlite.Connection) -> None:
        """Use a connection."""
        self._connection: Any = connection
        self.state: State = state_of(connection)

    async def run(self, steps: Callable[[bool], Steps[T]]) -> T:
        """Run all statements as one job on the connection's thread."""
        if not _HAS_JOBS:
            async with self.state.turn:
                # To the end even when cancelled: the caller's next statement comes
                # after it.
                task = asyncio.ensure_future(self._by_hops(steps))
                await finish(task)
            return task.result()
        if self.state.holder is not None:
            async with self.state.turn:
                return await self._in_one_job(steps)
        return await self._in_one_job(steps)

    async def _in_one_job(self, steps: Callable[[bool], Steps[T]]) -> T:
        # Asked for first: it says what is wrong with a connection that is closed.
        raw: sqlite3.Connection = self._connection._conn  # noqa: SLF001  # see _HAS_JOBS
        result: T = await self._connection._execute(_job, raw, steps, self.state)  # noqa: SLF001  # see _HAS_JOBS
        return result

    async def attempt(
        self, program: Any, values: list[Any], _number: int, conflicts: int
    ) -> Result | Lost:
        """Run the steps; the job is one however many statements they have."""
        return await self.run(partial(self.dialect.attempt, program, values, conflicts))

    def may_be_stale(self, error: Exception) -> bool:
        """Look at the code: no such column, a changed schema."""
        return _code(error) & _PRIMARY in _STALE

    def in_transaction(self) -> bool:
        """Ask the driver, which knows without asking the database."""
        return bool(self._connection.in_transaction)

    def can_repeat(self) -> bool:
        """Say yes: an error of a statement aborts no transaction."""
        return True

    def blames_row(self, error: Exception) -> bool:
        """Look at the code; what has none comes from binding a row's values."""
        return _code(error) & _PRIMARY in _ROW

    async def forget(self) -> None:
        """Do nothing: SQLite prepares statements anew by itself."""

    async def _by_hops(self, steps: Callable[[bool], Steps[T]]) -> T:
        inside = self._connection.in_transaction
        try:
            return await drive(steps(inside), self._answer)
        except Exception as exc:
            _explain(exc, self._connection, inside=inside)
            raise

    async def _answer(self, send: Send) -> Rows:
        log(send.sql)
        if send.kind == "undo" and not self._connection.in_transaction:
            return ()
        if send.kind == "repeat":
            return await self._repeat(send)
        if send.kind != "catalog":
            return await self._fetch(send)
        with _names_as_str(self._connection):
            return await self._fetch(send)

    async def _repeat(self, send: Send) -> Rows:
        marks = self.state.marks
        if marks is None:
            marks = self.state.marks = []
            for function in marking(marks):
                await self._connection.create_function(*function)
        marks.clear()
        async with self._connection.cursor() as cursor:
            await cursor.executemany(send.sql, send.arguments)
        return tuple(marks)

    async def _fetch(self, send: Send) -> Rows:
        async with self._connection.cursor() as cursor:
            cursor.row_factory = None
            await cursor.execute(send.sql, tuple(send.arguments))
            rows: Rows = await cursor.fetchall()
            return _counted(send, cursor.rowcount) or rows


def marking(marks: list[Any]) -> list[tuple[str, int, Callable[..., Any]]]:
    """
    Make the functions that write down what happens to rows that are there.

    They stay with the connection: they cannot be taken away while the caller reads from
    a cursor.
    """

    def mark(number: int, code: int) -> bool:
        marks.append((number, code))
        return code == UPDATED

    # The one for most calls is not written in Python, which takes a tenth of the time.
    return [(NOTE, 1, marks.append), (MARK, 2, mark)]


def _job(
    connection: sqlite3.Connection, steps: Callable[[bool], Steps[T]], state: State
) -> T:
    inside = connection.in_transaction
    cursor = connection.cursor()
    cursor.row_factory = None
    try:
        return _drive(connection, cursor, steps(inside), state)
    except Exception as exc:
        _explain(exc, connection, inside=inside)
        raise
    finally:
        cursor.close()


def _explain(
    error: Exception,
    connection: sqlite3.Connection | aiosqlite.Connection,
    *,
    inside: bool,
) -> None:
    if not inside and is_retryable(error):
        raise TransientError from error
    if inside and not connection.in_transaction:
        error.add_note(
            "aioupsert: the caller's transaction is gone: a conflict clause or trigger"
            " of the database has rolled it back"
        )


def _drive(
    connection: sqlite3.Connection,
    cursor: sqlite3.Cursor,
    steps: Steps[T],
    state: State,
) -> T:
    try:
        send = next(steps)
        while True:
            try:
                rows = _answer(connection, cursor, send, state)
            except Exception as exc:  # noqa: BLE001  # the steps undo what is open, and raise it again
                send = steps.throw(exc)
            else:
                send = steps.send(rows)
    except StopIteration as stop:
        value: T = stop.value
        return value


def _answer(
    connection: sqlite3.Connection, cursor: sqlite3.Cursor, send: Send, state: State
) -> Rows:
    log(send.sql)
    # A conflict clause or a trigger may have ended the transaction already.
    if send.kind == "undo" and not connection.in_transaction:
        return ()
    if send.kind == "repeat":
        if state.marks is None:
            state.marks = []
            for function in marking(state.marks):
                connection.create_function(*function)
        state.marks.clear()
        cursor.executemany(send.sql, send.arguments)
        return tuple(state.marks)
    if send.kind != "catalog":
        return _fetch(cursor, send)
    with _names_as_str(connection):
        return _fetch(cursor, send)


def _fetch(cursor: sqlite3.Cursor, send: Send) -> Rows:
    rows: Rows = cursor.execute(send.sql, tuple(send.arguments)).fetchall()
    return _counted(send, cursor.rowcount) or rows


@contextmanager
def _names_as_str(
    connection: sqlite3.Connection | aiosqlite.Connection,
) -> Generator[None]:
    """Read the catalog's names as str, whatever the caller's text_factory is."""
    chosen = connection.text_factory
    connection.text_factory = str
    try:
        yield
    finally:
        connection.text_factory = chosen


def _counted(send: Send, written: int) -> Rows:
    return [] if send.counted is None else [(send.counted,)] * written


KINDS: Final = (Kind(aiosqlite.Connection, AiosqliteSession),)
