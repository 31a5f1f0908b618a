"""
A server that answers no more: a cancelled call ends all the same, and soon.

The network is dead, or the server's process for the connection is stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from aioupsert import Coalescer, Result, create_or_update, create_or_update_many
from tests.support.databases import connected, psycopg_connected
from tests.support.proxy import Proxy, proxied
from tests.support.versions import asyncpg_cancels_well

if TYPE_CHECKING:
    from tests.support.databases import PostgresDatabase
    from tests.support.servers import Server

# Seconds from the cancellation to the end of the call. Half a second of it is for a busy
# machine.
SOON: Final = 2.5
# The processor time of an idle wait; to spin takes as long as the wait.
IDLE: Final = 1.0


async def plain(conn: Any) -> Result:
    return await create_or_update(conn, "t", key={"k": 1}, defaults={"n": 1})


async def exact(conn: Any) -> Result:
    return await create_or_update(
        conn, "t", key={"k": 1}, defaults={"n": 1}, strategy="exact"
    )


async def bulk(conn: Any) -> object:
    rows = [{"k": k, "n": 1} for k in range(50)]
    # In several batches, so that a transaction is open around them.
    return await create_or_update_many(conn, "t", rows, key="k", batch_size=25)


async def coalesced(conn: Any) -> object:
    async with Coalescer(conn, "t", key="k", close_timeout=0) as coalescer:
        calls = (
            coalescer.create_or_update(key={"k": k}, defaults={"n": 1})
            for k in range(5)
        )
        return await asyncio.gather(*calls)


Call = Callable[[Any], Awaitable[object]]
CALLS: Final[tuple[Call, ...]] = (plain, exact, bulk, coalesced)


@asynccontextmanager
async def frozen(
    db: PostgresDatabase, server: Server, call: Call
) -> AsyncIterator[tuple[Any, Proxy]]:
    """A connection that has made the call before, on a network that is dead now."""
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    connect = connected if db.kind == "asyncpg" else psycopg_connected
    async with proxied(server.dsn) as (proxy, dsn), connect(dsn, db.schema) as conn:
        await call(conn)
        proxy.passes.clear()
        proxy.stop()
        try:
            yield conn, proxy
        finally:
            proxy.passes.set()


@asynccontextmanager
async def stopped(
    db: PostgresDatabase, _: Server, call: Call
) -> AsyncIterator[tuple[Any, None]]:
    """The same with a process of the server that is stopped."""
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    async with db.connect() as conn:
        await call(conn)
        process = (
            conn.get_server_pid() if db.kind == "asyncpg" else conn.info.backend_pid
        )
        try:
            os.kill(process, signal.SIGSTOP)
        except OSError:
            pytest.skip("the server is on another machine, or another user's")
        try:
            yield conn, None
        finally:
            os.kill(process, signal.SIGCONT)


def is_closed(conn: Any) -> bool:
    return bool(conn.is_closed() if hasattr(conn, "is_closed") else conn.closed)


drivers = pytest.mark.parametrize(
    "db",
    [pytest.param("asyncpg", marks=asyncpg_cancels_well), "psycopg"],
    indirect=True,
)
calls = pytest.mark.parametrize("call", CALLS)
ways = pytest.mark.parametrize("way", [frozen, stopped])


@drivers
@calls
@ways
async def test_a_cancelled_call_ends_soon(
    db: PostgresDatabase, pg_server: Server, call: Call, way: Any
) -> None:
    async with way(db, pg_server, call) as (conn, _):
        task = asyncio.ensure_future(call(conn))
        await asyncio.sleep(0.05)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < SOON


@drivers
@calls
@ways
async def test_under_anyio_it_does_not_spin(
    db: PostgresDatabase, pg_server: Server, call: Call, way: Any
) -> None:
    async with way(db, pg_server, call) as (conn, _):
        started, used = time.monotonic(), time.process_time()
        with anyio.move_on_after(0.05) as scope:
            await call(conn)
        assert scope.cancelled_caught
        assert time.monotonic() - started < SOON
        assert time.process_time() - used < IDLE


@drivers
async def test_a_connection_whose_transaction_may_be_open_is_closed(
    db: PostgresDatabase, pg_server: Server
) -> None:
    async with frozen(db, pg_server, bulk) as (conn, _):
        task = asyncio.ensure_future(bulk(conn))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert is_closed(conn)
