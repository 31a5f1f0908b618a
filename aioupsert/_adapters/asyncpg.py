"""
asyncpg: connections, pooled connections and pools.

Never `Connection.transaction()` for work of our own: cancelled while its BEGIN is under
way, it leaves a transaction open that nobody ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from aioupsert._adapters.base import (
    Kind,
    State,
    TransientError,
    drive,
    finish,
    log,
    state_of,
)
from aioupsert._sql.sending import CannotCopyError, Rows, Send, Steps
from aioupsert._sql.sqlstates import READ_ONLY, ROW, STALE, TRANSIENT
from aioupsert._steps import Dialect, Lost, dialect_of, read_result
from aioupsert.results import Result

T = TypeVar("T")

# invalid_sql_statement_name, duplicate_prepared_statement
_MISPLACED: Final = frozenset({"26000", "42P05"})
_POOLER: Final = (
    "prepared statements stay with a session, and a pooler seems to lend this connection"
    " one after the other: connect with statement_cache_size=0, or use PgBouncer 1.21 or"
    " later with max_prepared_statements"
)
# How long a ROLLBACK of ours may take before the connection is given up, in seconds.
_UNDO_TIMEOUT: Final = 10.0


def sqlstate(error: BaseException) -> str:
    """Give the SQLSTATE of an error of the server, or an empty text."""
    return (error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else ""


def is_retryable(error: BaseException) -> bool:
    """Tell whether repeating the whole transaction is right."""
    return sqlstate(error) in TRANSIENT


class AsyncpgSession:
    """One asyncpg connection, for the time of one call."""

    def __init__(self, connection: Any) -> None:
        """Use a connection, plain or pooled."""
        # A pooled connection stands before the real one, which outlives it. Once
        # released it has none, and says so itself when asked for anything.
        behind = getattr(connection, "_con", connection) or connection.get_server_pid()
        self._connection: Any = connection
        self._behind: Any = behind
        self.state: State = state_of(behind)

    @property
    def dialect(self) -> Dialect[Any, Any]:
        """Look at what the server reported when it was connected."""
        said = None if self._is_closed() else self._behind.get_settings()
        return dialect_of(getattr(said, "crdb_version", None))

    async def run(self, steps: Callable[[bool], Steps[T]]) -> T:
        """Await one statement after the other."""
        async with self.state.turn:
            inside = self.in_transaction()
            try:
                return await drive(steps(inside), self._answer)
            except asyncpg.PostgresError as exc:
                if not inside and is_retryable(exc):
                    raise TransientError from exc
                _explain(exc)
                raise
            except AttributeError as exc:
                self._tell_closed(exc)
                raise

    async def attempt(
        self, program: Any, values: list[Any], number: int, conflicts: int
    ) -> Result | Lost:
        """Await the single statement, or the steps."""
        single = program.single
        if number or single is None:
            steps = partial(self.dialect.attempt, program, values, conflicts)
            return await self.run(steps)
        log(single.sql)
        lock = self.state.turn
        await lock.acquire()  # by hand, since this is every call's way
        try:
            rows = await self._connection.fetch(single.sql, *single.arguments(values))
        except asyncpg.PostgresError as exc:
            if not self.in_transaction():
                if is_retryable(exc):
                    raise TransientError from exc
                if sqlstate(exc) == READ_ONLY:
                    return Lost()  # the steps may find that there is nothing to write
            _explain(exc)
            raise
        except AttributeError as exc:
            self._tell_closed(exc)
            raise
        finally:
            lock.release()
        return read_result(program.plan, rows) if rows else Lost()

    def may_be_stale(self, error: Exception) -> bool:
        """Look at the SQLSTATE; asyncpg's own errors come from types it remembers."""
        if self._is_closed():
            return False
        return isinstance(error, asyncpg.DataError) or sqlstate(error).startswith(STALE)

    def in_transaction(self) -> bool:
        """Ask the driver, which knows without asking the database."""
        # One that was terminated does not answer.
        return not self._is_closed() and bool(self._connection.is_in_transaction())

    def can_repeat(self) -> bool:
        """Tell whether there is no transaction that an error would have aborted."""
        return not self.in_transaction()

    def blames_row(self, error: Exception) -> bool:
        """Look at the SQLSTATE; what has none comes from making a row's arguments."""
        if self._is_closed():
            return False
        if isinstance(error, asyncpg.PostgresError):
            return sqlstate(error).startswith(ROW)
        if isinstance(error, asyncpg.InterfaceError):
            return isinstance(error, asyncpg.DataError)
        return not isinstance(error, OSError)

    def _is_closed(self) -> bool:
        """Ask the real connection: a pool takes a lost one back, and then there is none."""
        return bool(self._behind.is_closed())

    def _tell_closed(self, error: AttributeError) -> None:
        """Say it where asyncpg stumbles: it was terminated between two of its steps."""
        if self._is_closed():
            msg = "connection is closed"
            raise asyncpg.InterfaceError(msg) from error

    async def forget(self) -> None:
        """Have types and statements read afresh."""
        await self._connection.reload_schema_state()

    def _answer(self, send: Send) -> Awaitable[Rows]:
        log(send.sql)
        if send.kind == "command":
            return self._command(send.sql)
        if send.kind == "undo":
            return self._undo(send.sql)
        if send.kind == "copy":
            return self._copy(send.sql, send.arguments)
        rows: Awaitable[Rows] = self._connection.fetch(send.sql, *send.arguments)
        return rows

    async def _command(self, sql: str) -> Rows:
        return [(await self._connection.execute(sql),)]

    async def _copy(self, table: str, rows: Iterable[Any]) -> Rows:
        """Copy rows to a temporary table."""
        try:
            await self._connection.copy_records_to_table(
                table, records=rows, schema_name="pg_temp"
            )
        except asyncpg.InternalClientError as exc:
            # A codec of the caller's that writes text, which binary COPY does not take.
            raise CannotCopyError from exc
        return ()

    async def _undo(self, sql: str) -> Rows:
        """Send a ROLLBACK to its end, however often we are cancelled meanwhile."""
        if self._is_closed():
            return ()  # which has undone it
        task: asyncio.Task[Any] = asyncio.ensure_future(
            self._connection.execute(sql, timeout=_UNDO_TIMEOUT)
        )
        try:
            await finish(task)
        finally:
            if sql == "ROLLBACK" and self._may_be_open(task):
                # Better no connection than one with our transaction open in it.
                with contextlib.suppress(Exception):
                    self._connection.terminate()
        return ()

    def _may_be_open(self, rollback: asyncio.Task[Any]) -> bool:
        """Tell whether a transaction of ours may have survived its ROLLBACK."""
        error = None if rollback.cancelled() else rollback.exception()
        if isinstance(error, asyncpg.InterfaceError):
            # It was not sent, as somebody else is using the connection.
            return self.in_transaction()
        return rollback.cancelled() or error is not None


def _explain(error: asyncpg.PostgresError) -> None:
    """Say what to set, where the driver alone cannot know."""
    if sqlstate(error) in _MISPLACED:
        error.add_note(_POOLER)


def _borrow(pool: Any) -> AbstractAsyncContextManager[Any]:
    context: AbstractAsyncContextManager[Any] = pool.acquire()
    return context


KINDS: Final = (
    Kind(asyncpg.Connection, AsyncpgSession),
    Kind(PoolConnectionProxy, AsyncpgSession),
    Kind(asyncpg.Pool, AsyncpgSession, _borrow, is_pool=True),
)
