"""
asyncpg: connections, pooled connections and pools.

This library never uses `Connection.transaction()`: if that is cancelled during its BEGIN,
it leaves a transaction open that nothing ends.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from logging import DEBUG
from typing import TYPE_CHECKING, Final, TypeVar

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from aioupsert._drivers.base import (
    LOGGER,
    STATES,
    ConnectionKind,
    Handle,
    TransientError,
    drive,
    log,
    state_of,
)
from aioupsert._drivers.postgresql import ROLLBACK_TIMEOUT, PostgresqlSession
from aioupsert._engines.commands import CannotCopyError
from aioupsert._engines.postgresql import engine_of
from aioupsert._engines.postgresql.sqlstates import STALE, TRANSIENT, fault_by_sqlstate
from aioupsert._engines.sql import ParameterValues
from aioupsert._plan import CopiedRows
from aioupsert.typing import Value

if TYPE_CHECKING:
    from aioupsert._engines.base import Engine, Fault
    from aioupsert._engines.commands import ResultRows, Steps

T = TypeVar("T")

# asyncpg gives no name to a statement that is longer than its max_cacheable_statement_size,
# which is this many bytes unless the caller has chosen another.
_ONCE: Final = 15 * 1024 + 1
# invalid_sql_statement_name, duplicate_prepared_statement
_MISPLACED: Final = frozenset({"26000", "42P05"})
_POOLER: Final = (
    "prepared statements belong to a server session, and a pooler seems to switch this"
    " connection between sessions: connect with statement_cache_size=0, or use PgBouncer"
    " 1.21 or later with max_prepared_statements"
)


# asyncpg could not encode a value for the type that the server, or a COPY, has named.
_UNENCODED: Final = (asyncpg.DataError, TypeError, ValueError, ArithmeticError)


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of a server's error, or an empty string."""
    return (error.sqlstate or "") if isinstance(error, asyncpg.PostgresError) else ""


def is_retryable(error: BaseException) -> bool:
    """Return whether repeating the whole transaction is right after an error."""
    return sqlstate(error) in TRANSIENT


class AsyncpgSession(PostgresqlSession):
    """One asyncpg connection, for the time of one call."""

    __slots__ = ("_real",)
    sends_plain_text: bool = True
    prefers_arrays: bool = True  # a record is an object for the garbage collector

    def __init__(self, connection: Handle) -> None:
        """Use a connection, plain or pooled."""
        real: Handle = connection
        if connection.__class__ is PoolConnectionProxy:
            # It is a proxy of the real one, which outlives it. Once released it has none,
            # and raises a clear error from any of its methods.
            real = real._con or real.get_server_pid()  # noqa: SLF001  # it has no public name
        self._connection = connection
        self._real = real
        self.state = STATES.get(id(real)) or state_of(real)

    @property
    def engine(self) -> Engine:
        """The engine, by what the server reported when the client connected."""
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
        self, sql: str, arguments: ParameterValues, caller_columns: int
    ) -> ResultRows:
        """Await a single statement."""
        del caller_columns
        if LOGGER.isEnabledFor(DEBUG):
            log(sql)
        state = self.state
        lock = state.own_lock if not state.holds else state.lock
        # Not "async with", which costs more on every call.
        if lock.is_held:
            await lock.acquire()
        else:
            lock.is_held = True
        try:
            rows: ResultRows = await self._connection.fetch(sql, *arguments)
        except asyncpg.PostgresError as exc:
            self._raise_internal(exc, sqlstate(exc))
            _explain(exc)
            raise
        except AttributeError as exc:
            self._raise_if_closed(exc)
            raise
        finally:
            if lock.waiters:
                lock.release()
            else:
                lock.is_held = False
        return rows

    def may_be_stale(self, error: Exception) -> bool:
        """Decide by the SQLSTATE; asyncpg's own errors come from types that it caches."""
        if self._is_closed():
            return False
        return isinstance(error, _UNENCODED) or sqlstate(error).startswith(STALE)

    def in_transaction(self) -> bool:
        """Return whether a transaction is open, which the driver knows by itself."""
        # A terminated connection raises an error when asked.
        return not self._is_closed() and bool(self._connection.is_in_transaction())

    def _has_aborted(self, error: Exception) -> bool:
        # asyncpg raises an error of the server's class if it cannot encode a value, and
        # sends nothing then. Only what the server sends has a severity.
        return getattr(error, "severity", None) is not None

    def fault_of(self, error: Exception) -> Fault:
        """Decide by the SQLSTATE; an error without one comes from encoding values."""
        if self._is_closed() or isinstance(error, OSError):
            return "connection"
        if isinstance(error, asyncpg.PostgresError):
            return fault_by_sqlstate(sqlstate(error), str(error))
        if isinstance(error, asyncpg.InterfaceError):
            return "row" if isinstance(error, asyncpg.DataError) else "connection"
        return "row"

    def _is_closed(self) -> bool:
        """Ask the real connection: when it is lost, its proxy is empty."""
        return bool(self._real.is_closed())

    def _raise_if_closed(self, error: AttributeError) -> None:
        """Raise a clear error in place of asyncpg's on a terminated connection."""
        if self._is_closed():
            msg = "connection is closed"
            raise asyncpg.InterfaceError(msg) from error

    async def forget(self) -> None:
        """Make asyncpg introspect types and prepare statements again."""
        await self._connection.reload_schema_state()

    async def _fetch(
        self, sql: str, arguments: Iterable[Value], _caller_columns: int
    ) -> ResultRows:
        rows: ResultRows = await self._connection.fetch(sql, *arguments)
        return rows

    async def _fetch_once(
        self, sql: str, arguments: Iterable[Value], caller_columns: int
    ) -> ResultRows:
        return await self._fetch(sql.ljust(_ONCE), arguments, caller_columns)

    async def _drop_unnamed(self) -> None:
        await self._connection.execute("SELECT 1")  # a simple query ends it

    def _prepares(self) -> bool:
        # Programs set it to 0 behind a pooler.
        return bool(self._real._config.statement_cache_size)  # noqa: SLF001  # it has no public name

    async def _command(self, sql: str) -> ResultRows:
        return [(await self._connection.execute(sql),)]

    async def _copy(self, table: str, rows: Iterable[Value]) -> None:
        text = rows.as_csv() if isinstance(rows, CopiedRows) else None
        if text is not None:
            await self._connection.copy_to_table(
                table,
                source=io.BytesIO(text),
                schema_name="pg_temp",
                format="csv",
                encoding="UTF8",
            )
            return
        try:
            await self._connection.copy_records_to_table(
                table, records=rows, schema_name="pg_temp"
            )
        except asyncpg.InternalClientError as exc:
            # The caller has set a text codec, which binary COPY does not accept.
            raise CannotCopyError from exc

    async def _send_rollback(self, sql: str) -> None:
        if not self._is_closed():  # if it is, the server rolls back
            await self._connection.execute(sql, timeout=ROLLBACK_TIMEOUT)

    def _may_be_open(self, error: BaseException) -> bool:
        if isinstance(error, asyncpg.InterfaceError):
            # It was not sent, as another task is using the connection.
            return self.in_transaction()
        return True

    def terminate(self) -> None:
        """Close the connection at once."""
        # Not the proxy, which is empty while the pool resets the connection.
        with contextlib.suppress(Exception):
            self._real.terminate()


def _explain(error: asyncpg.PostgresError) -> None:
    """Add a note to an error that comes from a pooler between client and server."""
    if sqlstate(error) in _MISPLACED:
        error.add_note(_POOLER)


def _acquire(pool: Handle) -> AbstractAsyncContextManager[Handle]:
    context: AbstractAsyncContextManager[Handle] = pool.acquire()
    return context


def _size_of(pool: Handle) -> int:
    size: int = pool.get_max_size()
    return size


KINDS: Final = (
    ConnectionKind(asyncpg.Connection, AsyncpgSession),
    ConnectionKind(PoolConnectionProxy, AsyncpgSession),
    ConnectionKind(asyncpg.Pool, AsyncpgSession, _acquire, is_pool=True, size=_size_of),
)
