"""
SQLAlchemy's connections, sessions and engines, over every supported driver.

Statements go to the driver's own connection; `SQLAlchemySession` does SQLAlchemy's part
of sending them. SQLAlchemy and its adapter of the driver begin a transaction with their
first statement, so both are told first that one is open; statements sent before would
not be part of it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from sqlite3 import SQLITE_BUSY, SQLITE_LOCKED
from typing import Any, Final, NamedTuple

from sqlalchemy import StaticPool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
)

from aioupsert._drivers.base import ConnectionKind, Handle, Session, finish
from aioupsert._engines.postgresql.sqlstates import TRANSIENT
from aioupsert._sqlalchemy.binds import bind_arguments_of
from aioupsert._sqlalchemy.statements import SQLAlchemySession
from aioupsert.errors import UnsupportedConnectionError
from aioupsert.typing import Value


async def _begin_asyncpg(adapted: Handle) -> None:
    if adapted.driver_connection.is_in_transaction():
        return
    # A statement of SQLAlchemy's in another task may be beginning it just now.
    async with adapted._execute_mutex:  # noqa: SLF001  # as its cursor takes it
        if adapted.driver_connection.is_in_transaction():
            return
        # Its cursor does this before the first statement; a statement without effect
        # would cost a round trip. It runs to its end even when cancelled: otherwise
        # the adapter would not know of a transaction that is open.
        begun = adapted._start_transaction()  # noqa: SLF001  # see above
        task = asyncio.ensure_future(begun)
        await finish(task)
        task.result()


async def _begin_aiosqlite(adapted: Handle) -> None:
    connection = adapted.driver_connection
    # None is SQLAlchemy's AUTOCOMMIT. Otherwise sqlite3 begins a transaction itself, but
    # only before statements that it knows to write.
    if connection.isolation_level is not None and not connection.in_transaction:
        # With the write lock: a transaction that has only read may be too late for it.
        await connection.execute("BEGIN IMMEDIATE")


async def _begin_psycopg(_: Any) -> None:
    """Do nothing: psycopg begins a transaction with the first statement sent."""


@asynccontextmanager
async def _unchanged(connection: Handle) -> AsyncGenerator[Any]:
    yield connection


@asynccontextmanager
async def _in_autocommit(connection: Handle) -> AsyncGenerator[Any]:
    psycopg = importlib.import_module("aioupsert._drivers.psycopg")
    async with psycopg.in_autocommit(connection):
        yield connection


_BEGIN: Final[dict[str, Callable[[Any], Awaitable[None]]]] = {
    "asyncpg": _begin_asyncpg,
    "aiosqlite": _begin_aiosqlite,
    "psycopg": _begin_psycopg,
}
_BARE: Final[dict[str, Callable[[Value], Value]]] = {
    "asyncpg": _unchanged,
    "aiosqlite": _unchanged,
    "psycopg": _in_autocommit,
}


HANDLES: Final = (AsyncConnection, AsyncSession, async_scoped_session, AsyncEngine)
"""The classes that callers hold."""


def _driver_of(connection: AsyncConnection) -> str:
    driver = connection.dialect.driver
    if driver not in _BEGIN:
        msg = (
            f"cannot use SQLAlchemy's {connection.dialect.name}+{driver}: create the"
            " engine with postgresql+asyncpg, postgresql+psycopg or sqlite+aiosqlite"
        )
        raise UnsupportedConnectionError(msg)
    return driver


class _Lease:
    """
    A session on a connection, which is invalidated if it is lost meanwhile.

    A class, as generators cost more on every call.
    """

    __slots__ = ("_bind_arguments", "_connection", "_handle", "_session", "raw")

    raw: Handle
    _connection: AsyncConnection
    _session: SQLAlchemySession

    def __init__(
        self,
        handle: AsyncConnection | AsyncSession,
        bind_arguments: Mapping[str, Value] | None,
    ) -> None:
        """
        Lend it later.

        Args:
            handle: A connection, or a session.
            bind_arguments: What tells a session which of its connections is meant; None
                if no transaction is to begin.
        """
        self._handle = handle
        self._bind_arguments = bind_arguments

    async def __aenter__(self) -> SQLAlchemySession:
        """Return the session."""
        handle = self._handle
        arguments = self._bind_arguments
        if isinstance(handle, AsyncSession):
            connection = await _connection_of(handle, arguments or {})
        else:
            connection = handle
        self._connection = connection
        driver = _driver_of(connection)
        if arguments is not None and not connection.in_transaction():
            await connection.begin()
        sync: Handle = connection.sync_connection
        # The first takes long, and is only needed to get another one of the pool.
        proxied = (
            await connection.get_raw_connection()
            if sync.invalidated
            else sync.connection
        )
        adapted = proxied.dbapi_connection
        self.raw = getattr(adapted, "driver_connection", None)
        self._session = SQLAlchemySession(sync, adapted, _session(driver, self.raw))
        if arguments is not None:
            try:
                async with self._session.state.lock:
                    await _BEGIN[driver](adapted)
            except BaseException as exc:
                await self._end(exc)
                raise
        return self._session

    async def __aexit__(
        self, _: object, exc: BaseException | None, traceback: object
    ) -> None:
        """Raise the error of SQLAlchemy's for one of the driver's."""
        del traceback
        if exc is not None or self._session.lost is not None:
            await self._end(exc)

    async def _end(self, exc: BaseException | None) -> None:
        session = self._session
        try:
            if exc is not None and session.lost is None and _is_closed(self.raw):
                session.lost = exc  # a cancellation has ended it
            if isinstance(exc, Exception):
                session.raise_as_host(exc)
        finally:
            if session.lost is not None:
                lost = self._connection.run_sync(_invalidate, session)
                await finish(asyncio.ensure_future(lost))


def _is_closed(raw: Handle) -> bool:
    """Return whether a connection of a driver for PostgreSQL is closed."""
    closed: Any = getattr(raw, "is_closed", None) or getattr(raw, "closed", False)
    return bool(closed() if callable(closed) else closed)


def _invalidate(connection: Handle, session: SQLAlchemySession) -> None:
    """Have the pool replace a connection, and the others if they are lost as well."""
    if connection.closed or connection.invalidated:
        return
    if session.lost_all:
        pooled = connection._dbapi_connection  # noqa: SLF001  # as `Connection` does itself
        connection.engine.pool._invalidate(pooled, session.lost)  # noqa: SLF001  # likewise
    connection.invalidate(session.lost)


async def _connection_of(
    session: AsyncSession, bind_arguments: Mapping[str, Value]
) -> AsyncConnection:
    """Return the connection of a session, after flushing what is pending in it."""
    if session.sync_session.autoflush and (
        session.new or session.dirty or session.deleted
    ):
        await session.flush()
    return await session.connection(bind_arguments={**bind_arguments})


@asynccontextmanager
async def _on_engine(engine: AsyncEngine) -> AsyncGenerator[Session]:
    """Lend a session on a connection on which no transaction is open."""
    async with engine.connect() as connection:
        lease = _Lease(connection, None)
        async with lease as session, _BARE[_driver_of(connection)](lease.raw):
            yield session


def _session(driver: str, connection: Handle) -> Session:
    adapter = importlib.import_module(f"aioupsert._drivers.{driver}")
    session: Session = adapter.KINDS[0].session(connection)
    return session


class BoundHandle(NamedTuple):
    """
    What a caller passed as the connection, and what a session is to be asked with.

    Attributes:
        handle: A connection, session or engine of SQLAlchemy.
        bind_arguments: What tells a session which of its connections is meant.
    """

    handle: Handle
    bind_arguments: Mapping[str, Value]

    def lend(self) -> AbstractAsyncContextManager[Session]:
        """Return a context with a session on the connection."""
        handle = self.handle
        if isinstance(handle, AsyncEngine):
            return _on_engine(handle)
        if not isinstance(handle, (AsyncConnection, AsyncSession)):
            handle = handle()  # of the scope that is current
        return _Lease(handle, self.bind_arguments)


class BoundPool(BoundHandle):
    """The same for an engine, from which several connections can be acquired."""

    __slots__ = ()


def bound(handle: Handle, table: object) -> Handle:
    """Return one of SQLAlchemy's connections, sessions or engines, bound to a table."""
    cls = BoundPool if isinstance(handle, AsyncEngine) else BoundHandle
    return cls(handle, bind_arguments_of(table))


def is_retryable(error: BaseException) -> bool:
    """Return whether repeating the transaction is right, by the driver's error."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    return state in TRANSIENT or code in {SQLITE_BUSY, SQLITE_LOCKED}


def _size_of(handle: BoundHandle) -> int | None:
    """Return how many connections an engine's pool has, if it limits them."""
    pool: Handle = handle.handle.pool
    if isinstance(pool, StaticPool):
        return 1
    overflow: int = getattr(pool, "_max_overflow", -1)
    return None if overflow < 0 else pool.size() + overflow


def _as_it_is(session: Session) -> Session:
    return session


KINDS: Final = (
    ConnectionKind(BoundPool, _as_it_is, BoundPool.lend, is_pool=True, size=_size_of),
    ConnectionKind(BoundHandle, _as_it_is, BoundHandle.lend),
)
