"""
Connections that are kept from test to test, and reset in between.

Connecting to PostgreSQL takes longer than most tests: the server starts a process, which
reads much of the catalog before it can plan a statement.
"""

# asyncpg's classes are generic in its stubs only.
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple
from uuid import uuid4

import asyncpg
import psycopg
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus

from aioupsert._drivers import base
from tests.support.databases import (
    CLOSE_TIMEOUT,
    HANDLES,
    Kind,
    PostgresDatabase,
    close,
    drop_schema,
    psycopg_settings,
    settings,
)


class WatchedConnection(asyncpg.Connection):
    """Remembers whether a codec was set, which nothing undoes."""

    has_codecs = False

    async def set_type_codec(self, *args: Any, **kwargs: Any) -> None:
        self.has_codecs = True
        await super().set_type_codec(*args, **kwargs)

    async def set_builtin_type_codec(self, *args: Any, **kwargs: Any) -> None:
        self.has_codecs = True
        await super().set_builtin_type_codec(*args, **kwargs)


async def connect_asyncpg(dsn: str, schema: str) -> Any:
    return await asyncpg.connect(
        dsn, server_settings=settings(schema), connection_class=WatchedConnection
    )


async def reset_asyncpg(connection: Any) -> Any:
    """Return the connection as good as new, or None if it cannot be."""
    if (
        connection.is_closed()
        or connection.is_in_transaction()
        or connection.has_codecs
    ):
        return None
    await connection.reset()
    await connection.execute("DISCARD ALL")
    await connection.reload_schema_state()
    # What the library remembers is of tables that are gone.
    base.STATES.pop(id(connection), None)
    return connection


async def connect_psycopg(dsn: str, schema: str) -> Any:
    return await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, **psycopg_settings(schema)
    )


async def reset_psycopg(connection: Any) -> Any:
    """Return a new object for the same session, or None if it cannot be used."""
    libpq = connection.pgconn
    if (
        libpq.status != ConnStatus.OK
        or libpq.transaction_status != TransactionStatus.IDLE
        or libpq.pipeline_status != PipelineStatus.OFF
    ):
        return None
    # Row factories, adapters, handlers and prepared statements stay with the old one,
    # which would warn that nobody has closed it.
    del connection.pgconn
    renewed: Any = psycopg.AsyncConnection(libpq)
    await renewed.set_autocommit(True)
    await renewed.execute("DISCARD ALL")
    return renewed


class Way(NamedTuple):
    """How a kind of connection is opened, reset, and ended whatever its state."""

    connect: Callable[[str, str], Awaitable[Any]]
    reset: Callable[[Any], Awaitable[Any]]
    pid: Callable[[Any], int]
    end: Callable[[Any], None]


KEPT: Final[dict[Kind, Way]] = {
    "asyncpg": Way(
        connect_asyncpg,
        reset_asyncpg,
        lambda connection: int(connection.get_server_pid()),
        lambda connection: connection.terminate(),
    ),
    "psycopg": Way(
        connect_psycopg,
        reset_psycopg,
        lambda connection: int(connection.info.backend_pid),
        lambda connection: connection.pgconn.finish(),
    ),
}


class Keeper:
    """
    PostgreSQL for one test after the other, over connections that stay open.

    The second connection is one for all tests, and so is the handle of each kind in
    KEPT; a test that leaves one in a state that cannot be reset has it replaced. Other
    handles are opened for each test.
    """

    def __init__(self) -> None:
        self._schemas: dict[Kind, str] = {}
        self._second: asyncpg.Connection[Any] | None = None
        self._handles: dict[Kind, Any] = {}

    @asynccontextmanager
    async def database(self, dsn: str, kind: Kind) -> AsyncIterator[PostgresDatabase]:
        """A schema, dropped in the end, and a handle of the kind."""
        # A kept handle has had its search_path since it was opened.
        schema = self._schemas.setdefault(kind, f"t_{uuid4().hex}")
        second, self._second = self._second, None
        if second is None:
            # What it has prepared for one test would not suit the tables of the next.
            second = await asyncpg.connect(dsn, statement_cache_size=0)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._clean, second, schema, kind)
            await second.execute(
                f"SET search_path = {schema}, public; SET application_name = {schema};"
                f" CREATE SCHEMA {schema}"
            )
            handle: Any
            if way := KEPT.get(kind):
                handle = self._handles.pop(kind, None) or await way.connect(dsn, schema)
                stack.push_async_callback(self._reset, kind, handle)
            else:
                handle = await stack.enter_async_context(HANDLES[kind](dsn, schema))
            await stack.enter_async_context(undisturbed())
            yield PostgresDatabase(kind, handle, second, dsn, schema)

    async def close(self) -> None:
        """Close every connection that is kept."""
        for kind, handle in self._handles.items():
            KEPT[kind].end(handle)
        if self._second is not None:
            await close(self._second)

    async def _reset(self, kind: Kind, handle: Any) -> None:
        way = KEPT[kind]
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                renewed = await way.reset(handle)
        except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError, psycopg.Error):
            renewed = None
        if renewed is None:
            way.end(handle)
        else:
            self._handles[kind] = renewed

    async def _clean(
        self, second: asyncpg.Connection[Any], schema: str, kind: Kind
    ) -> None:
        kept = self._handles.get(kind)
        try:
            await drop_schema(second, schema, kept and KEPT[kind].pid(kept))
            await second.execute("DISCARD ALL")
        except BaseException:
            # What is left is not to be in the way of the next test.
            second.terminate()
            del self._schemas[kind]
            if kept is not None:
                KEPT[kind].end(self._handles.pop(kind))
            raise
        self._second = second


@asynccontextmanager
async def undisturbed() -> AsyncIterator[None]:
    """End the tasks that a test leaves behind, and restore its event loop's handler."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    before = asyncio.all_tasks()
    try:
        yield
    finally:
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        loop.set_exception_handler(handler)
