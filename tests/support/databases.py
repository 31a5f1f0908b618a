"""
A database for one test, of each kind that the library takes a connection of.

A `Database` gives the test what to pass to the library, and looks at the result
through a second connection, so that what it sees is committed.
"""

# asyncpg's classes are generic in its stubs only.
from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, get_args
from uuid import uuid4

import aiosqlite
import asyncpg
import psycopg
import psycopg_pool
import pytest
from asyncpg.pool import PoolConnectionProxy
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tests.support.engines import engine_on

DriverKind = Literal[
    "asyncpg", "pooled", "pool", "psycopg", "psycopg_pool", "aiosqlite"
]
SQLAlchemyKind = Literal[
    "connection of asyncpg",
    "connection of psycopg",
    "connection of aiosqlite",
    "engine of asyncpg",
    "engine of psycopg",
    "engine of aiosqlite",
]
Kind = DriverKind | SQLAlchemyKind
Engine = Literal["postgresql", "sqlite"]

# Opens one more connection to the file of the test, in the mode of the options.
LiteFactory = Callable[..., Awaitable[aiosqlite.Connection]]

# One of each driver.
CONNECTIONS: Final[tuple[Kind, ...]] = ("asyncpg", "psycopg", "aiosqlite")
# What `db` is in turn, and what it is in a test of `every_handle`.
KINDS, EVERY_KIND = {
    "all": (CONNECTIONS, get_args(DriverKind)),
    "connections": (CONNECTIONS, CONNECTIONS),
    "sqlalchemy": (get_args(SQLAlchemyKind)[:3], get_args(SQLAlchemyKind)),
}[os.environ.get("AIOUPSERT_TEST_HANDLES", "all")]

# For a test of what depends on how a connection is acquired: it runs on pools and engines
# as well. A test without it runs on one connection of each driver.
every_handle = pytest.mark.parametrize("db", EVERY_KIND, indirect=True)

# How a caller may have opened an aiosqlite connection: options of `sqlite3.connect`.
LITE_MODES: Final[dict[str, dict[str, Any]]] = {
    "none": {"isolation_level": None},
    "deferred": {"isolation_level": ""},
    "immediate": {"isolation_level": "IMMEDIATE"},
}
if sys.version_info >= (3, 12):
    LITE_MODES["autocommit"] = {"autocommit": True}
    LITE_MODES["no-autocommit"] = {"autocommit": False}

# Seconds; long enough for a slow machine, and a test that leaks does not hang the run.
CLOSE_TIMEOUT: Final = 5


class Database(ABC):
    """What a test of any kind of connection needs."""

    engine: ClassVar[Engine]

    # What the handle and the connections are depends on the kind, hence Any.
    def __init__(self, kind: Kind, handle: Any) -> None:
        self.kind = kind
        self.handle = handle

    def sql(self, *, postgresql: str, sqlite: str) -> str:
        """The text for this engine."""
        return {"postgresql": postgresql, "sqlite": sqlite}[self.engine]

    @abstractmethod
    async def run(self, sql: str) -> None:
        """Execute statements on the second connection, each committed at once."""

    @abstractmethod
    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows as the second connection sees them."""

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Any]:
        """One more connection of the driver to the same tables."""

    @abstractmethod
    def transaction(self, conn: Any = None) -> AbstractAsyncContextManager[Any]:
        """
        A caller's transaction, on the handle or the connection given.

        Yields the connection to pass to the library. Commits, or rolls back when the
        block raises.
        """


class PostgresDatabase(Database):
    """A schema of its own on the server of the run."""

    engine = "postgresql"

    def __init__(
        self,
        kind: Kind,
        handle: Any,
        second: asyncpg.Connection[Any],
        dsn: str,
        schema: str,
    ) -> None:
        super().__init__(kind, handle)
        self._second = second
        self._dsn = dsn
        self.schema = schema

    async def run(self, sql: str) -> None:
        await self._second.execute(sql)

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        return [tuple(record) for record in await self._second.fetch(sql)]

    def connect(self) -> AbstractAsyncContextManager[Any]:
        one_of = psycopg_connected if self.kind in PSYCOPG else connected
        return one_of(self._dsn, self.schema)

    @asynccontextmanager
    async def transaction(self, conn: Any = None) -> AsyncIterator[Any]:
        conn = self.handle if conn is None else conn
        if isinstance(conn, (AsyncConnection, AsyncEngine)):
            async with begun(conn) as connection:
                yield connection
            return
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(conn, asyncpg.Pool):
                conn = await stack.enter_async_context(conn.acquire())
            if isinstance(conn, psycopg_pool.AsyncConnectionPool):
                conn = await stack.enter_async_context(conn.connection())
            await stack.enter_async_context(conn.transaction())
            yield conn


class SQLiteDatabase(Database):
    """A file of its own."""

    engine = "sqlite"

    def __init__(self, kind: Kind, handle: Any, path: Path) -> None:
        super().__init__(kind, handle)
        self.path = path

    async def run(self, sql: str) -> None:
        # In a thread: it may have to wait for a connection that another task holds.
        await asyncio.to_thread(run_script, self.path, sql)

    async def query(self, sql: str) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(run_query, self.path, sql)

    def connect(self) -> AbstractAsyncContextManager[aiosqlite.Connection]:
        return opened(self.path)

    @asynccontextmanager
    async def transaction(self, conn: Any = None) -> AsyncIterator[Any]:
        conn = self.handle if conn is None else conn
        if isinstance(conn, (AsyncConnection, AsyncEngine)):
            async with begun(conn) as connection:
                yield connection
            return
        # With autocommit=False one is open already, and commit() opens the next.
        begun_by_driver = conn.in_transaction
        if not begun_by_driver:
            await conn.execute("BEGIN")
        try:
            yield conn
        except BaseException:
            await (conn.rollback() if begun_by_driver else conn.execute("ROLLBACK"))
            raise
        await (conn.commit() if begun_by_driver else conn.execute("COMMIT"))


@asynccontextmanager
async def open_postgresql(dsn: str, kind: Kind) -> AsyncIterator[PostgresDatabase]:
    """A schema, dropped in the end, and a handle of the kind."""
    schema = f"t_{uuid4().hex}"
    async with contextlib.AsyncExitStack() as stack:
        second = await stack.enter_async_context(connected(dsn, schema))
        await second.execute(f"CREATE SCHEMA {schema}")
        stack.push_async_callback(drop_schema, second, schema)
        handle = await stack.enter_async_context(HANDLES[kind](dsn, schema))
        yield PostgresDatabase(kind, handle, second, dsn, schema)


@asynccontextmanager
async def open_sqlite(
    path: Path, kind: Kind = "aiosqlite"
) -> AsyncIterator[SQLiteDatabase]:
    """A file and a handle of the kind on it."""
    # Kept in the file: readers and the writer do not wait for each other.
    run_script(path, "PRAGMA journal_mode = WAL")
    opening: AbstractAsyncContextManager[Any] = (
        opened(path) if kind == "aiosqlite" else HANDLES[kind](str(path), "")
    )
    async with opening as handle:
        yield SQLiteDatabase(kind, handle, path)


def url_in(dsn: str, schema: str) -> str:
    """The address of a schema, for a program or connection of its own."""
    separator = "&" if "?" in dsn else "?"
    return f"{dsn}{separator}options=-csearch_path%3D{schema}"


@asynccontextmanager
async def engine_opened(
    driver: str, place: str, schema: str
) -> AsyncIterator[AsyncEngine]:
    """An engine of SQLAlchemy."""
    engine = engine_on(driver, place, schema)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def engine_connected(
    driver: str, place: str, schema: str
) -> AsyncIterator[AsyncConnection]:
    """A connection of SQLAlchemy, in autocommit as those of the drivers are."""
    async with (
        engine_opened(driver, place, schema) as engine,
        engine.connect() as connection,
    ):
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        yield connection


@asynccontextmanager
async def begun(handle: AsyncConnection | AsyncEngine) -> AsyncIterator[Any]:
    """A transaction of SQLAlchemy."""
    if isinstance(handle, AsyncEngine):
        async with handle.connect() as connection, begun(connection):
            yield connection
        return
    await handle.commit()
    is_sqlite = handle.dialect.name == "sqlite"
    level = "SERIALIZABLE" if is_sqlite else "READ COMMITTED"
    await handle.execution_options(isolation_level=level)
    try:
        async with handle.begin():
            if is_sqlite:
                # sqlite3 does it before some statements only.
                await handle.exec_driver_sql("BEGIN")
            yield handle
    finally:
        await handle.execution_options(isolation_level="AUTOCOMMIT")


@asynccontextmanager
async def connected(dsn: str, schema: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection whose tables are those of the schema."""
    connection = await asyncpg.connect(dsn, server_settings=settings(schema))
    try:
        yield connection
    finally:
        await close(connection)


@asynccontextmanager
async def pooling(dsn: str, schema: str) -> AsyncIterator[asyncpg.Pool[Any]]:
    """A pool of such connections."""
    pool = await asyncpg.create_pool(
        dsn, min_size=1, max_size=10, server_settings=settings(schema)
    )
    try:
        yield pool
    finally:
        await close(pool)


@asynccontextmanager
async def pooled(dsn: str, schema: str) -> AsyncIterator[PoolConnectionProxy[Any]]:
    """A connection out of a pool."""
    async with pooling(dsn, schema) as pool:
        connection = await pool.acquire()
        try:
            yield connection
        finally:
            await pool.release(connection, timeout=CLOSE_TIMEOUT)


@asynccontextmanager
async def psycopg_connected(
    dsn: str, schema: str, *, autocommit: bool = True
) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """The same of psycopg."""
    connection = await psycopg.AsyncConnection.connect(
        dsn, autocommit=autocommit, **psycopg_settings(schema)
    )
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def psycopg_pooling(
    dsn: str, schema: str
) -> AsyncIterator[psycopg_pool.AsyncConnectionPool[Any]]:
    """A pool of such connections, each as psycopg opens it unless told otherwise."""
    async with psycopg_pool.AsyncConnectionPool(
        dsn, kwargs=psycopg_settings(schema), min_size=1, max_size=10
    ) as pool:
        await pool.wait()  # else it opens a second one meanwhile
        yield pool


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[aiosqlite.Connection]:
    """A connection to the file, with the options of `sqlite3.connect`."""
    connection = await aiosqlite.connect(path, **{"isolation_level": None, **options})
    try:
        yield connection
    finally:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await connection.close()
        except BaseException:
            await connection.interrupt()
            raise


HANDLES: Final[dict[str, Callable[[str, str], AbstractAsyncContextManager[Any]]]] = {
    "asyncpg": connected,
    "pooled": pooled,
    "pool": pooling,
    "psycopg": psycopg_connected,
    "psycopg_pool": psycopg_pooling,
    **{
        f"{name} of {driver}": partial(of, driver)
        for name, of in (("connection", engine_connected), ("engine", engine_opened))
        for driver in CONNECTIONS
    },
}
PSYCOPG: Final = frozenset(kind for kind in HANDLES if "psycopg" in kind)


async def execute(handle: Any, sql: str) -> None:
    """Execute it on the handle, whatever that is."""
    if isinstance(handle, AsyncEngine):
        async with handle.connect() as connection:
            await connection.exec_driver_sql(sql)
            await connection.commit()
    elif isinstance(handle, AsyncConnection):
        await handle.exec_driver_sql(sql)
    else:
        await handle.execute(sql)


async def fetched(handle: Any, sql: str) -> list[Any]:
    """The driver's own rows; those of psycopg are dicts, to have names as well."""
    if isinstance(handle, AsyncConnection):
        return [*(await handle.exec_driver_sql(sql)).mappings()]
    if not isinstance(handle, psycopg.AsyncConnection):
        return [*await handle.fetch(sql)]
    async with handle.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(sql.encode())).fetchall()


def lent(pool: Any) -> AbstractAsyncContextManager[Any]:
    """One connection of a pool."""
    is_psycopg = isinstance(pool, psycopg_pool.AsyncConnectionPool)
    lend = pool.connection if is_psycopg else pool.acquire
    context: AbstractAsyncContextManager[Any] = lend()
    return context


@asynccontextmanager
async def all_taken(pool: Any, *, but: int = 0) -> AsyncIterator[list[Any]]:
    """Every connection of a pool, or all but some."""
    is_psycopg = isinstance(pool, psycopg_pool.AsyncConnectionPool)
    number = pool.max_size if is_psycopg else pool.get_max_size()
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(lent(pool)) for _ in range(number - but)]


async def has_all_back(pool: Any) -> bool:
    """Whether no connection of the pool is lent."""
    if not isinstance(pool, psycopg_pool.AsyncConnectionPool):
        return bool(pool.get_idle_size() == pool.get_size())
    # It counts what it is opening of itself like what is lent, so take them all.
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT), all_taken(pool):
            return True
    except TimeoutError:
        return False


def is_open(db: Database) -> bool:
    """Whether the handle has a transaction open; a pool has none."""
    match db.handle:
        case asyncpg.Pool() | psycopg_pool.AsyncConnectionPool() | AsyncEngine():
            return False
        case AsyncConnection():
            return has_begun(driver_connection(db.handle))
        case _:
            return has_begun(db.handle)


def driver_connection(connection: AsyncConnection) -> Any:
    """What a connection of SQLAlchemy has underneath."""
    assert connection.sync_connection is not None
    return connection.sync_connection.connection.driver_connection


def has_begun(connection: Any) -> bool:
    """Whether a transaction is open on a driver's connection."""
    match connection:
        case aiosqlite.Connection():
            return connection.in_transaction
        case psycopg.AsyncConnection():
            return connection.info.transaction_status != TransactionStatus.IDLE
        case _:
            return bool(connection.is_in_transaction())


def settings(schema: str) -> dict[str, str]:
    """Unqualified names are the schema's; its name tells our sessions from others."""
    return {"search_path": f"{schema}, public", "application_name": schema}


def psycopg_settings(schema: str) -> dict[str, Any]:
    """The same for psycopg."""
    return {
        "options": f"-c search_path={schema},public",
        "application_name": schema,
    }


async def close(resource: asyncpg.Connection[Any] | asyncpg.Pool[Any]) -> None:
    """Close it, by force if the test has left it busy, which is an error."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await resource.close()
    except BaseException:
        resource.terminate()
        raise


async def drop_schema(
    second: asyncpg.Connection[Any], schema: str, kept: int | None = None
) -> None:
    """Drop it, after ending what a failed test has left running in it, but for one."""
    await second.execute(
        "SET client_min_messages = error; SET lock_timeout = '5s';"
        # pg_stat_activity, the view over this, takes longer than the DROP.
        " SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL)"
        f" WHERE application_name = '{schema}'"
        f" AND pid NOT IN (pg_backend_pid(), {kept or 0})"
    )
    await second.execute(f"DROP SCHEMA {schema} CASCADE")


def run_script(path: Path, sql: str) -> None:
    """Execute statements, each committed at once."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(sql)


def run_query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """Rows as they are committed."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(sql).fetchall()
