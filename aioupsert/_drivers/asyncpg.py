"""
asyncpg: connections, pooled connections and pools.

The library never uses `Connection.transaction()`: cancelled while its BEGIN is under
way, it leaves a transaction open that nothing ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Self, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from aioupsert._drivers.base import (
    STATES,
    ConnectionKind,
    ConnectionState,
    ReadOnlyError,
    TransientError,
    drive,
    finish,
    log,
    state_of,
)
from aioupsert._engines.base import (
    CannotCopyError,
    Command,
    Engine,
    Fault,
    ResultRows,
    Steps,
)
from aioupsert._engines.postgresql import engine_of
from aioupsert._engines.postgresql.sqlstates import (
    READ_ONLY,
    STALE,
    TRANSIENT,
    fault_by_sqlstate,
)

T = TypeVar("T")

# invalid_sql_statement_name, duplicate_prepared_statement
_MISPLACED: Final = frozenset({"26000", "42P05"})
_POOLER: Final = (
    "prepared statements belong to a server session, and a pooler seems to switch this"
    " connection between sessions: connect with statement_cache_size=0, or use PgBouncer"
    " 1.21 or later with max_prepared_statements"
)
# Seconds that our ROLLBACK may take before the connection is given up.
_ROLLBACK_TIMEOUT: Final = 10.0


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of a server's error, or an empty string."""
    return (error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else ""


def is_retryable(error: BaseException) -> bool:
    """Return whether repeating the whole transaction is right after an error."""
    return sqlstate(error) in TRANSIENT


_YES: Final[ResultRows] = ((True,),)


class AsyncpgSession:
    """One asyncpg connection, for the time of one call."""

    __slots__ = ("_connection", "_real", "state")

    def __init__(self, connection: Any) -> None:
        """Use a connection, plain or pooled."""
        # A pooled connection stands before the real one, which outlives it. Once
        # released it has none, and says so itself when asked for anything.
        real = getattr(connection, "_con", connection) or connection.get_server_pid()
        self._connection: Any = connection
        self._real: Any = real
        self.state: ConnectionState = STATES.get(real) or state_of(real)

    async def __aenter__(self) -> Self:
        """Return the session."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""

    @property
    def engine(self) -> Engine:
        """Look at what the server reported when it was connected."""
        reported = None if self._is_closed() else self._real.get_settings()
        return engine_of(getattr(reported, "crdb_version", None))

    async def run(self, steps: Steps[T]) -> T:
        """Await one command after the other."""
        async with self.state.lock:
            inside = self.in_transaction()
            try:
                return await drive(steps, self._answer)
            except asyncpg.PostgresError as exc:
                if not inside and is_retryable(exc):
                    raise TransientError from exc
                _explain(exc)
                raise
            except AttributeError as exc:
                self._raise_if_closed(exc)
                raise

    async def fetch(
        self, sql: str, arguments: Sequence[Any], caller_columns: int
    ) -> ResultRows:
        """Await one statement by itself."""
        del caller_columns
        log(sql)
        lock = self.state.lock
        await lock.acquire()  # by hand, since every call comes this way
        try:
            rows: ResultRows = await self._connection.fetch(sql, *arguments)
        except asyncpg.PostgresError as exc:
            if not self.in_transaction():
                if is_retryable(exc):
                    raise TransientError from exc
                if sqlstate(exc) == READ_ONLY:
                    raise ReadOnlyError from exc
            _explain(exc)
            raise
        except AttributeError as exc:
            self._raise_if_closed(exc)
            raise
        finally:
            lock.release()
        return rows

    def may_be_stale(self, error: Exception) -> bool:
        """Look at the SQLSTATE; asyncpg's own errors come from types that it caches."""
        if self._is_closed():
            return False
        return isinstance(error, asyncpg.DataError) or sqlstate(error).startswith(STALE)

    def in_transaction(self) -> bool:
        """Ask the driver, which knows without asking the database."""
        # One that was terminated does not answer.
        return not self._is_closed() and bool(self._connection.is_in_transaction())

    def can_repeat(self) -> bool:
        """Return whether no transaction is open, which an error would have aborted."""
        return not self.in_transaction()

    def fault_of(self, error: Exception) -> Fault:
        """Look at the SQLSTATE; an error without one comes from encoding a row's values."""
        if self._is_closed() or isinstance(error, OSError):
            return "connection"
        if isinstance(error, asyncpg.PostgresError):
            return fault_by_sqlstate(sqlstate(error))
        if isinstance(error, asyncpg.InterfaceError):
            return "row" if isinstance(error, asyncpg.DataError) else "connection"
        return "row"

    def _is_closed(self) -> bool:
        """Ask the real connection: a lost one is returned to its pool, the proxy empty."""
        return bool(self._real.is_closed())

    def _raise_if_closed(self, error: AttributeError) -> None:
        """Raise a clear error where asyncpg, terminated between two steps, does not."""
        if self._is_closed():
            msg = "connection is closed"
            raise asyncpg.InterfaceError(msg) from error

    async def forget(self) -> None:
        """Have types introspected and statements prepared again."""
        await self._connection.reload_schema_state()

    async def _answer(self, command: Command) -> ResultRows:
        kind, sql = command.kind, command.sql
        if kind == "transaction":
            return _YES if self.in_transaction() else ()
        log(sql)
        if kind == "command":
            return [(await self._connection.execute(sql),)]
        if kind == "rollback":
            await self._roll_back(sql)
            return ()
        if kind == "copy":
            await self._copy(sql, command.arguments)
            return ()
        rows: ResultRows = await self._connection.fetch(sql, *command.arguments)
        return rows

    async def _copy(self, table: str, rows: Iterable[Any]) -> None:
        """Copy rows to a temporary table."""
        try:
            await self._connection.copy_records_to_table(
                table, records=rows, schema_name="pg_temp"
            )
        except asyncpg.InternalClientError as exc:
            # The caller has set a text codec, which binary COPY does not take.
            raise CannotCopyError from exc

    async def _roll_back(self, sql: str) -> None:
        """Send a ROLLBACK to its end, however often the caller is cancelled meanwhile."""
        if self._is_closed():
            return  # the server rolls back
        task: asyncio.Task[Any] = asyncio.ensure_future(
            self._connection.execute(sql, timeout=_ROLLBACK_TIMEOUT)
        )
        try:
            await finish(task)
        finally:
            if sql == "ROLLBACK" and self._may_be_open(task):
                # Better no connection than one with our transaction left open.
                with contextlib.suppress(Exception):
                    self._connection.terminate()

    def _may_be_open(self, rollback: asyncio.Task[Any]) -> bool:
        """Return whether our transaction may have survived its ROLLBACK."""
        error = None if rollback.cancelled() else rollback.exception()
        if isinstance(error, asyncpg.InterfaceError):
            # It was not sent: another task is using the connection.
            return self.in_transaction()
        return rollback.cancelled() or error is not None


def _explain(error: asyncpg.PostgresError) -> None:
    """Add to an error what to set, which the driver cannot know."""
    if sqlstate(error) in _MISPLACED:
        error.add_note(_POOLER)


def _acquire(pool: Any) -> AbstractAsyncContextManager[Any]:
    context: AbstractAsyncContextManager[Any] = pool.acquire()
    return context


KINDS: Final = (
    ConnectionKind(asyncpg.Connection, AsyncpgSession),
    ConnectionKind(PoolConnectionProxy, AsyncpgSession),
    ConnectionKind(asyncpg.Pool, AsyncpgSession, _acquire, is_pool=True),
)
