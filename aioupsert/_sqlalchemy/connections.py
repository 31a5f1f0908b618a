"""
SQLAlchemy's connections, sessions and engines, over every supported driver.

Statements go to the driver's own connection. SQLAlchemy and its adapter of the driver
begin a transaction with their first statement, so both are told first that one is open;
statements sent before would not be part of it.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from sqlite3 import SQLITE_BUSY, SQLITE_LOCKED
from typing import Any, Final

from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
)

from aioupsert._drivers.base import ConnectionKind, Session, finish
from aioupsert._engines.postgresql.sqlstates import TRANSIENT
from aioupsert.errors import UnsupportedConnectionError


async def _begin_asyncpg(adapted: Any) -> None:
    if not adapted.driver_connection.is_in_transaction():
        # Its cursor does this before the first statement; a statement without effect
        # would cost a round trip. It runs to its end even when cancelled: otherwise
        # the adapter would not know of a transaction that is open.
        begun = adapted._start_transaction()  # noqa: SLF001  # see above
        task = asyncio.ensure_future(begun)
        await finish(task)
        task.result()


async def _begin_aiosqlite(adapted: Any) -> None:
    connection = adapted.driver_connection
    # None is SQLAlchemy's AUTOCOMMIT. Otherwise sqlite3 begins a transaction itself, but
    # only before statements that it knows to write.
    if connection.isolation_level is not None and not connection.in_transaction:
        # With the write lock: a transaction that has only read may be too late for it.
        await connection.execute("BEGIN IMMEDIATE")


async def _begin_psycopg(_: Any) -> None:
    """Do nothing: psycopg begins a transaction with the first statement sent."""


@asynccontextmanager
async def _unchanged(connection: Any) -> AsyncGenerator[Any]:
    yield connection


@asynccontextmanager
async def _in_autocommit(connection: Any) -> AsyncGenerator[Any]:
    psycopg = importlib.import_module("aioupsert._drivers.psycopg")
    async with psycopg.in_autocommit(connection):
        yield connection


_BEGIN: Final[dict[str, Callable[[Any], Awaitable[None]]]] = {
    "asyncpg": _begin_asyncpg,
    "aiosqlite": _begin_aiosqlite,
    "psycopg": _begin_psycopg,
}
_BARE: Final[dict[str, Callable[[Any], Any]]] = {
    "asyncpg": _unchanged,
    "aiosqlite": _unchanged,
    "psycopg": _in_autocommit,
}


def _driver_of(connection: AsyncConnection) -> str:
    driver = connection.dialect.driver
    if driver not in _BEGIN:
        msg = (
            f"cannot use SQLAlchemy's {connection.dialect.name}+{driver}: create the"
            " engine with postgresql+asyncpg, postgresql+psycopg or sqlite+aiosqlite"
        )
        raise UnsupportedConnectionError(msg)
    return driver


async def _adapted(connection: AsyncConnection) -> Any:
    """Return SQLAlchemy's adapter of the driver's connection."""
    return (await connection.get_raw_connection()).dbapi_connection


@asynccontextmanager
async def _on_connection(connection: AsyncConnection) -> AsyncGenerator[Any]:
    """Lend the driver's connection, in the transaction that the caller ends."""
    begin = _BEGIN[_driver_of(connection)]
    if not connection.in_transaction():
        await connection.begin()
    adapted = await _adapted(connection)
    await begin(adapted)
    yield adapted.driver_connection


@asynccontextmanager
async def _on_session(session: AsyncSession) -> AsyncGenerator[Any]:
    """Lend the same, after flushing what is pending in the session."""
    if session.sync_session.autoflush and (
        session.new or session.dirty or session.deleted
    ):
        await session.flush()
    async with _on_connection(await session.connection()) as connection:
        yield connection


@asynccontextmanager
async def _on_scoped(scoped: async_scoped_session[Any]) -> AsyncGenerator[Any]:
    async with _on_session(scoped()) as connection:
        yield connection


@asynccontextmanager
async def _on_engine(engine: AsyncEngine) -> AsyncGenerator[Any]:
    """Lend a driver's connection on which no transaction is open."""
    async with engine.connect() as connection:
        bare = _BARE[_driver_of(connection)]
        adapted = await _adapted(connection)
        async with bare(adapted.driver_connection):
            yield adapted.driver_connection


def _session(connection: Any) -> Session:
    driver = type(connection).__module__.partition(".")[0]
    adapter = importlib.import_module(f"aioupsert._drivers.{driver}")
    session: Session = adapter.KINDS[0].session(connection)
    return session


def is_retryable(error: BaseException) -> bool:
    """Return whether repeating the transaction is right, by the driver's error."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    return state in TRANSIENT or code in {SQLITE_BUSY, SQLITE_LOCKED}


KINDS: Final = (
    ConnectionKind(AsyncConnection, _session, _on_connection),
    ConnectionKind(AsyncSession, _session, _on_session),
    ConnectionKind(async_scoped_session, _session, _on_scoped),
    ConnectionKind(AsyncEngine, _session, _on_engine, is_pool=True),
)
