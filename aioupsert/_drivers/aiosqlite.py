"""
aiosqlite: a call is one job on the connection's thread.

So no statement of another task runs between its statements, one call costs one hop to
the thread and back, and a cancelled call leaves no transaction open, because the job runs
to its end once it has begun. A job whose caller is gone by then does not begin.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar
from weakref import WeakKeyDictionary

import aiosqlite

from aioupsert._drivers.base import (
    CALLERS,
    STATES,
    YES,
    ConnectionKind,
    ConnectionSession,
    NobodyWaitsError,
    TransientError,
    log,
    state_of,
)
from aioupsert._engines.commands import Command, single_command
from aioupsert._engines.sql import ParameterValues, RowCode
from aioupsert._engines.sqlite import SQLITE
from aioupsert._engines.sqlite.bulk_steps import MARK, NOTE
from aioupsert.typing import Value

if TYPE_CHECKING:
    from aioupsert._engines.base import Engine, Fault
    from aioupsert._engines.commands import ResultRows, Steps

T = TypeVar("T")

# SQLite, "Result and Error Codes"; an extended code has the primary one in its low byte.
_TRANSIENT: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_STALE: Final = frozenset({sqlite3.SQLITE_ERROR, sqlite3.SQLITE_SCHEMA})
# Errors that may come from a row: RAISE in a trigger, a value out of range, ...
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


def _code(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & _PRIMARY


def is_retryable(error: BaseException) -> bool:
    """Return whether repeating the whole transaction is right after an error."""
    return _code(error) in _TRANSIENT


class AiosqliteSession(ConnectionSession):
    """One aiosqlite connection, for the time of one call."""

    __slots__ = ("_fatal",)

    engine: Engine = SQLITE

    def __init__(self, connection: aiosqlite.Connection) -> None:
        """Use a connection."""
        self._connection = connection
        self.state = STATES.get(id(connection)) or state_of(connection)
        # The error that has rolled back the whole transaction, if there was one.
        self._fatal: Exception | None = None

    async def run(self, steps: Steps[T]) -> T:
        """Run all commands as one job on the connection's thread."""
        connection = self._connection
        # First, as a closed connection raises a clear error here.
        raw: sqlite3.Connection = connection._conn  # noqa: SLF001  # it has no public name
        result: T
        waiting = [steps]
        callers = CALLERS.get()
        if not self.state.holds:
            try:
                result = await connection._execute(_run, self, raw, waiting, callers)  # noqa: SLF001  # the only way to run a function on its thread
            except asyncio.CancelledError:
                waiting.clear()  # its caller has gone: it need not begin
                raise
        else:
            # It may be one of several steps, and the one that rolls back: never left out.
            async with self.state.lock:
                result = await connection._execute(_run, self, raw, waiting, ())  # noqa: SLF001  # the only way to run a function on its thread
        return result

    async def fetch(
        self, sql: str, arguments: ParameterValues, caller_columns: int
    ) -> ResultRows:
        """Run a single statement, as one job."""
        return await self.run(
            single_command(Command(sql, arguments, caller_columns=caller_columns))
        )

    def in_transaction(self) -> bool:
        """Return whether a transaction is open, which the driver knows by itself."""
        return bool(self._connection.in_transaction)

    def can_repeat(self, _error: Exception | None = None, /) -> bool:
        """Return True, as an error of a statement does not abort the transaction."""
        return True

    def may_be_stale(self, error: Exception) -> bool:
        """Decide by the code, as of a column that does not exist."""
        return _code(error) in _STALE

    def fault_of(self, error: Exception) -> Fault:
        """Decide by the code; an error without one comes from binding values."""
        if _code(error) not in _ROW:
            return "connection"
        return "transaction" if error is self._fatal else "row"

    def answer(
        self, raw: sqlite3.Connection, cursor: sqlite3.Cursor, command: Command
    ) -> ResultRows:
        """Run one command; executed on the connection's thread."""
        before = raw.in_transaction
        try:
            return _answer(self._connection, raw, cursor, command)
        except Exception as exc:
            # By a conflict clause, RAISE(ROLLBACK), or a full disk.
            if before and not raw.in_transaction and command.kind != "command":
                self._fatal = exc
            raise

    async def forget(self) -> None:
        """Do nothing, as SQLite itself prepares statements again."""

    def terminate(self) -> None:
        """Do nothing, as a job on the connection's thread runs to its end."""


def _run(
    session: AiosqliteSession,
    connection: sqlite3.Connection,
    waiting: list[Steps[T]],
    callers: Sequence[asyncio.Future[Any]],
) -> T:
    """Run the steps that wait for it, if any; executed on the connection's thread."""
    if callers and all(caller.done() for caller in callers):
        raise NobodyWaitsError
    try:
        steps = waiting.pop()
    except IndexError:
        raise asyncio.CancelledError from None
    inside = connection.in_transaction
    cursor = connection.cursor()
    cursor.row_factory = None
    try:
        command = next(steps)
        while True:
            try:
                rows = session.answer(connection, cursor, command)
            except Exception as exc:  # noqa: BLE001  # the steps roll back what is open, then raise it
                command = steps.throw(exc)
            else:
                command = steps.send(rows)
    except StopIteration as stop:
        value: T = stop.value
        return value
    except Exception as exc:
        if not inside and is_retryable(exc):
            raise TransientError from exc
        if inside and not connection.in_transaction:
            exc.add_note(
                "aioupsert: the caller's transaction is gone: a conflict clause or"
                " trigger of the database has rolled it back"
            )
        raise
    finally:
        cursor.close()


def _answer(
    owner: aiosqlite.Connection,
    connection: sqlite3.Connection,
    cursor: sqlite3.Cursor,
    command: Command,
) -> ResultRows:
    kind = command.kind
    if kind == "transaction":
        return YES if connection.in_transaction else ()
    if kind == "identity":
        for query, expected in command.arguments:
            if cursor.execute(query).fetchall() != expected:
                return ((query,),)
        return ()
    if kind in {"repeat", "each"}:
        marks = _marks_of(owner, connection)
        _run_for_rows(cursor, command)
        return tuple(marks)
    if kind == "update first":
        answers: ResultRows = _update_first(cursor, connection.cursor(), command)
        return answers
    if kind == "marks":
        return tuple(_marks[owner])
    log(command.sql)
    if kind == "rollback" and not connection.in_transaction:
        return ()  # a conflict clause or a trigger has ended the transaction
    if kind == "catalog":
        with _names_as_str(connection):
            return _fetch(cursor, command)
    return _fetch(cursor, command)


def _run_for_rows(cursor: sqlite3.Cursor, command: Command) -> None:
    """Run a statement, or several, for the rows of a batch."""
    rows: Any = command.arguments
    if command.kind == "repeat":
        log(command.sql)
        cursor.executemany(command.sql, rows)
        return
    execute = cursor.execute
    logged: set[str] = set()
    for sql, values in rows:
        if sql not in logged:
            log(sql)
            logged.add(sql)
        execute(sql, values)


def _update_first(
    cursor: sqlite3.Cursor, other: sqlite3.Cursor, command: Command
) -> Any:
    """Run the update for each row, and for one that it does not find the others."""
    for sql in (command.sql, *(statement.sql for statement in command.others)):
        log(sql)
    other.row_factory = None
    # A tuple times 1 is itself, so that a list of them is quick to make and to keep.
    others = [
        (s.sql, None if s.counted_as is None else ((s.counted_as,),))
        for s in command.others
    ]
    answers: list[int | ResultRows] = []

    def find(values: Sequence[ParameterValues]) -> ResultRows:
        for (sql, counted), bound in zip(others, values, strict=True):
            other.execute(sql, bound)
            found = other.fetchall() if counted is None else counted * other.rowcount
            if found:
                return found
        return ()

    def updates() -> Generator[ParameterValues]:
        written = 0
        rows: Any = command.arguments
        for values, values_of_others in rows:
            yield values
            # It has been run by now, and the cursor counts what it has written.
            before, written = written, cursor.rowcount
            answers.append(written - before or find(values_of_others))

    cursor.executemany(command.sql, updates())
    return answers


def _fetch(cursor: sqlite3.Cursor, command: Command) -> ResultRows:
    rows = cursor.execute(command.sql, tuple(command.arguments)).fetchall()
    if command.counted_as is not None:
        return [(command.counted_as,)] * cursor.rowcount
    return rows


@contextmanager
def _names_as_str(connection: sqlite3.Connection) -> Generator[None]:
    """Read the catalog's names as str, whatever the caller's text_factory is."""
    chosen = connection.text_factory
    connection.text_factory = str
    try:
        yield
    finally:
        connection.text_factory = chosen


# --- Marking functions ----------------------------------------------------------------

_marks: Final[WeakKeyDictionary[aiosqlite.Connection, list[Value]]] = (
    WeakKeyDictionary()
)


def _marks_of(
    owner: aiosqlite.Connection, connection: sqlite3.Connection
) -> list[Value]:
    """
    Return the list to which the marking functions of a connection append, emptied.

    The functions stay registered on the connection: they cannot be removed while the
    caller reads from a cursor.
    """
    marks = _marks.get(owner)
    if marks is None:
        marks = _marks[owner] = []
        for name, parameters, function in marking_functions(marks):
            connection.create_function(name, parameters, function)
    marks.clear()
    return marks


def marking_functions(
    marks: list[Value],
) -> list[tuple[str, int, Callable[..., bool | None]]]:
    """Return the SQL functions that record what happens to existing rows."""

    def mark(number: int, code: int) -> bool:
        marks.append((number, code))
        return code == RowCode.UPDATED

    # The function of most calls is not written in Python, and so takes a tenth of the time.
    return [(NOTE, 1, marks.append), (MARK, 2, mark)]


KINDS: Final = (ConnectionKind(aiosqlite.Connection, AiosqliteSession),)
