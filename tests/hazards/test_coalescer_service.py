"""A coalescer in service: contexts of callers, shutdown, busy pools."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from itertools import product
from typing import Any, Final

import asyncpg
import psycopg
import psycopg_pool
import pytest
from sqlalchemy import event

from aioupsert import (
    Coalescer,
    CoalescerClosedError,
    PoolTimeoutError,
    Result,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
)
from tests.support.coalescing import (
    ADD,
    NOT_SENT,
    TABLE,
    UNKNOWN,
    begin,
    blocked,
    locked,
    numbers,
    outcomes,
    unblocked,
)
from tests.support.databases import (
    Database,
    PostgresDatabase,
    SQLiteDatabase,
    all_taken,
    every_handle,
    pooling,
    psycopg_pooling,
    psycopg_settings,
    settings,
)
from tests.support.engines import engine_on
from tests.support.proxy import proxied
from tests.support.servers import Server

# --- Contexts -----------------------------------------------------------------------------

tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
SET: Final = "SELECT set_config('app.tenant', '{}', false)"
TENANTS: Final = """
    CREATE TABLE t (
        k text PRIMARY KEY,
        n integer DEFAULT 0,
        tenant text DEFAULT current_setting('app.tenant')
    )
"""


@asynccontextmanager
async def asyncpg_for_tenants(dsn: str, schema: str) -> AsyncIterator[Any]:
    async def setup(connection: Any) -> None:
        await connection.execute(SET.format(tenant.get()))

    async with asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=4,
        setup=setup,
        server_settings=settings(schema),
    ) as pool:
        yield pool


@asynccontextmanager
async def psycopg_for_tenants(dsn: str, schema: str) -> AsyncIterator[Any]:
    async def check(connection: psycopg.AsyncConnection[Any]) -> None:
        await connection.execute(SET.format(tenant.get()).encode())

    async with psycopg_pool.AsyncConnectionPool(
        dsn,
        kwargs={**psycopg_settings(schema), "autocommit": True},
        min_size=1,
        max_size=4,
        check=check,
    ) as pool:
        yield pool


@asynccontextmanager
async def sqlalchemy_for_tenants(dsn: str, schema: str) -> AsyncIterator[Any]:
    engine = engine_on("asyncpg", dsn, schema)

    def check_out(connection: Any, *_: object) -> None:
        connection.run_async(lambda real: real.execute(SET.format(tenant.get())))

    event.listen(engine.sync_engine, "checkout", check_out)
    yield engine
    await engine.dispose()


OF_TENANTS: Final = pytest.mark.parametrize(
    "opened", [asyncpg_for_tenants, psycopg_for_tenants, sqlalchemy_for_tenants]
)


async def handle(coalescer: Coalescer, name: str, *keys: str) -> None:
    """Make calls as the handler of a request does that belongs to a tenant."""
    tenant.set(name)
    await asyncio.gather(
        *(coalescer.create_or_update(key={"k": key}, defaults=ADD) for key in keys)
    )


@OF_TENANTS
async def test_a_batch_runs_in_the_context_in_which_the_coalescer_was_entered(
    pg: PostgresDatabase, pg_server: Server, opened: Any
) -> None:
    await pg.run(TENANTS)
    names = [f"tenant {number}" for number in range(6)]
    async with opened(pg_server.dsn, pg.schema) as pool:
        token = tenant.set("the service")
        coalescer = Coalescer(pool, "t", key="k", max_batch=3)
        async with coalescer:
            tenant.reset(token)
            # At once, behind batches under way, and on closing.
            await handle(coalescer, "alone", "alone")
            await asyncio.gather(
                *(
                    handle(coalescer, name, *(name + key for key in "abc"))
                    for name in names
                )
            )
            last = [
                asyncio.create_task(handle(coalescer, "last", key))
                for key in "abcdefghi"
            ]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await asyncio.gather(*last)
    assert coalescer.stats.batches > 3
    assert await pg.query("SELECT tenant, count(*) FROM t GROUP BY 1") == [
        ("the service", 1 + 3 * len(names) + 9)
    ]


@OF_TENANTS
async def test_a_coalescer_for_each_tenant_keeps_them_apart(
    pg: PostgresDatabase, pg_server: Server, opened: Any
) -> None:
    await pg.run(TENANTS)
    names = ["one", "two", "three"]
    async with opened(pg_server.dsn, pg.schema) as pool:
        coalescers = {}
        for name in names:
            tenant.set(name)
            coalescers[name] = await Coalescer(pool, "t", key="k").__aenter__()
        await asyncio.gather(
            *(
                handle(
                    coalescers[name], "of somebody else", *(name + key for key in "abc")
                )
                for name in names
            )
        )
        for coalescer in coalescers.values():
            await coalescer.aclose()
    assert await pg.query("SELECT k FROM t WHERE NOT starts_with(k, tenant)") == []
    assert await pg.query("SELECT count(*) FROM t") == [(9,)]


async def test_a_batch_changes_no_context(
    pg: PostgresDatabase, pg_server: Server
) -> None:
    """Nor does one batch see what another has set."""
    await pg.run(TENANTS)
    seen = []

    async def setup(connection: Any) -> None:
        seen.append(tenant.get())
        tenant.set(f"connection {len(seen)}")
        await connection.execute(SET.format(tenant.get()))

    async with (
        asyncpg.create_pool(
            pg_server.dsn,
            min_size=2,
            max_size=2,
            setup=setup,
            server_settings=settings(pg.schema),
        ) as pool,
        Coalescer(pool, "t", key="k", max_batch=1) as coalescer,
    ):
        await asyncio.gather(
            *(coalescer.create_or_update(key={"k": key}) for key in "ab")
        )
    assert tenant.get() == "nobody"
    assert seen == ["nobody", "nobody"]


# --- Shutdown -----------------------------------------------------------------------------

# Seconds; the second one is for a busy machine.
SOON: Final = 0.1
IN_TIME: Final = SOON + 1.0

of_postgresql = pytest.mark.parametrize(
    "db",
    [
        *("asyncpg", "pool", "psycopg", "psycopg_pool"),
        *("engine of asyncpg", "engine of psycopg", "connection of asyncpg"),
    ],
    indirect=True,
)


@of_postgresql
@pytest.mark.parametrize("way", ["timeout", "close_timeout"])
async def test_closing_ends_in_time_though_a_row_is_locked(
    db: PostgresDatabase, way: str
) -> None:
    await db.run(TABLE)
    coalescer = Coalescer(
        db.handle,
        "t",
        key="k",
        max_delay=0.01,
        max_pending=4,
        concurrency=1,
        close_timeout=SOON,
    )
    async with locked(db, 1):
        async with coalescer:
            sent = begin(coalescer, 1, 2)
            await blocked(db)
            unsent = begin(coalescer, 1, 3, 4, 5)
            await asyncio.sleep(0)
            started = time.monotonic()
            if way == "timeout":
                await coalescer.aclose(timeout=SOON)
        assert SOON <= time.monotonic() - started < IN_TIME
        assert not coalescer._dispatcher._leases
        results = await outcomes([*sent, *unsent])
        assert [str(r) for r in results] == [UNKNOWN] * 2 + [NOT_SENT] * 4
        assert {type(r) for r in results} == {CoalescerClosedError}
        await unblocked(db)
    assert await numbers(db) == {1: 0}


@every_handle
async def test_closing_in_time_sends_what_is_pending(db: Database) -> None:
    await db.run(TABLE)
    coalescer = Coalescer(
        db.handle, "t", key="k", max_batch=3, max_pending=5, close_timeout=20
    )
    async with coalescer:
        tasks = begin(coalescer, *range(12))
        await asyncio.sleep(0)
    assert all(r.created for r in await outcomes(tasks))


@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
async def test_what_waits_for_a_connection_on_closing_has_not_been_sent(
    db: PostgresDatabase,
) -> None:
    await db.run(TABLE)
    async with all_taken(db.handle):
        async with Coalescer(db.handle, "t", key="k", close_timeout=SOON) as coalescer:
            tasks = begin(coalescer, 1, 2)
            await asyncio.sleep(0)
        assert {str(r) for r in await outcomes(tasks)} == {NOT_SENT}
    assert await numbers(db) == {}


@asynccontextmanager
async def engine_of_psycopg(dsn: str, schema: str) -> AsyncIterator[Any]:
    engine = engine_on("psycopg", dsn, schema)
    yield engine
    await engine.dispose()


@pytest.mark.parametrize(
    ("opened", "number"),
    [
        *product([pooling, psycopg_pooling], [0, 1]),
        (pooling, 3),
        (engine_of_psycopg, 3),
    ],
)
async def test_closing_ends_soon_on_a_dead_network(
    pg: PostgresDatabase, pg_server: Server, opened: Any, number: int
) -> None:
    await pg.run(TABLE)
    async with (
        proxied(pg_server.dsn) as (proxy, dsn),
        opened(dsn, pg.schema) as pool,
    ):
        coalescer = await Coalescer(pool, "t", key="k").__aenter__()
        await coalescer.create_or_update(key={"k": 1})
        if number:
            await asyncio.sleep(0.05)  # else the connection is on its way to the pool
        proxy.passes.clear()
        tasks = begin(coalescer, *range(number))
        await asyncio.sleep(0)
        started = time.monotonic()
        closing = asyncio.create_task(coalescer.aclose(timeout=SOON))
        # Its callers do not wait for the connection to end.
        results = {str(r) for r in await outcomes(tasks)}
        assert results <= {UNKNOWN, NOT_SENT}
        assert (UNKNOWN in results) == (number > 0)
        assert time.monotonic() - started < IN_TIME
        await closing
        assert time.monotonic() - started < SOON + 2.5
        assert not coalescer._dispatcher._leases
        proxy.passes.set()


async def test_closing_ends_in_time_though_another_process_writes(
    lite: SQLiteDatabase,
) -> None:
    await lite.run(TABLE)
    async with lite.connect() as other:
        async with Coalescer(
            lite.handle, "t", key="k", close_timeout=SOON
        ) as coalescer:
            await coalescer.create_or_update(key={"k": 0})
            await other.execute("BEGIN IMMEDIATE")
            tasks = begin(coalescer, 1, 2)
            await asyncio.sleep(0.01)
            started = time.monotonic()
        assert time.monotonic() - started < IN_TIME
        results = await outcomes(tasks)
        assert {str(r) for r in results} <= {UNKNOWN, NOT_SENT}
        await other.execute("ROLLBACK")


async def test_what_is_done_is_done_when_time_is_over(pg: PostgresDatabase) -> None:
    """The first calls of a batch that is sent in parts have been answered."""
    await pg.run(TABLE)
    async with (
        locked(pg, 2),
        Coalescer(pg.handle, "t", key="k", close_timeout=SOON) as coalescer,
    ):
        first = begin(coalescer, 1)
        await asyncio.sleep(0)
        second = begin(coalescer, 2)
        done = await outcomes(first)
        await blocked(pg)
    results = [*done, *await outcomes(second)]
    assert [type(r) for r in results] == [Result, CoalescerClosedError]


# --- Waiting for a connection -------------------------------------------------------------

Call = Callable[[Any, float | None], Awaitable[object]]
ROWS: Final = [{"k": k, "n": 1} for k in range(3)]


async def single(handle: Any, timeout: float | None) -> object:
    return await create_or_update(handle, "t", key={"k": 1}, timeout=timeout)


async def reading(handle: Any, timeout: float | None) -> object:
    return await get_or_create(handle, "t", key={"k": 1}, timeout=timeout)


async def bulk(handle: Any, timeout: float | None) -> object:
    return await create_or_update_many(handle, "t", ROWS, key="k", timeout=timeout)


async def parallel(handle: Any, timeout: float | None) -> object:
    return await create_or_update_many(
        handle, "t", ROWS, key="k", atomic=False, connections=2, timeout=timeout
    )


async def iterated(handle: Any, timeout: float | None) -> object:
    found = iter_create_or_update(handle, "t", ROWS, key="k", timeout=timeout)
    return [result async for result in found]


async def coalesced(handle: Any, timeout: float | None) -> object:
    async with Coalescer(handle, "t", key="k", timeout=timeout) as coalescer:
        results = await outcomes(begin(coalescer, *range(3)))
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


calls = pytest.mark.parametrize(
    "call", [single, reading, bulk, parallel, iterated, coalesced]
)


@calls
@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
async def test_the_timeout_covers_waiting_for_a_connection(
    db: PostgresDatabase, call: Call
) -> None:
    await db.run(TABLE)
    async with all_taken(db.handle):
        started = time.monotonic()
        with pytest.raises(PoolTimeoutError, match=r"within 0\.\d+ seconds"):
            await call(db.handle, SOON)
        assert SOON * 0.9 <= time.monotonic() - started < IN_TIME
    for timeout in (20, None):
        await call(db.handle, timeout)


@calls
@pytest.mark.parametrize("opened", [pooling, psycopg_pooling])
async def test_without_a_timeout_there_is_time_to_connect(
    pg: PostgresDatabase, pg_server: Server, opened: Any, call: Call
) -> None:
    await pg.run(TABLE)
    async with opened(pg_server.dsn, pg.schema) as pool, all_taken(pool, but=9):
        await call(pool, 0)


async def test_an_engine_is_a_pool(pg: PostgresDatabase, pg_server: Server) -> None:
    await pg.run(TABLE)
    engine = engine_on("asyncpg", pg_server.dsn, pg.schema, pool_size=1, max_overflow=0)
    async with engine.connect():
        with pytest.raises(PoolTimeoutError):
            await single(engine, SOON)
    await single(engine, SOON)
    await engine.dispose()


async def test_the_driver_s_own_timeout_stays_its_own(
    pg: PostgresDatabase, pg_server: Server
) -> None:
    await pg.run(TABLE)
    async with (
        proxied(pg_server.dsn) as (proxy, dsn),
        asyncpg.create_pool(dsn, min_size=0, max_size=1, timeout=SOON) as pool,
    ):
        proxy.passes.clear()
        with pytest.raises(TimeoutError) as caught:
            await single(pool, 20)
        assert not isinstance(caught.value, PoolTimeoutError)
        proxy.passes.set()


async def test_calls_behind_others_fail_as_soon_as_those(
    pg: PostgresDatabase, pg_server: Server
) -> None:
    await pg.run(TABLE)
    async with (
        pooling(pg_server.dsn, pg.schema) as pool,
        Coalescer(pool, "t", key="k", max_batch=10, timeout=SOON) as coalescer,
    ):
        async with all_taken(pool):
            started = time.monotonic()
            tasks = begin(coalescer, *range(100))
            results = await outcomes(tasks)
            assert {type(r) for r in results} == {PoolTimeoutError}
            # Three batches at once, each of the others for 0.05 s.
            assert time.monotonic() - started < SOON + 3 * 0.05 + 1
        results = await outcomes(begin(coalescer, *range(100)))
        assert all(r.created for r in results)


# --- What is seen while it lasts ----------------------------------------------------------


@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
async def test_the_statistics_show_who_waits_for_a_connection(
    db: PostgresDatabase,
) -> None:
    await db.run(TABLE)
    async with Coalescer(db.handle, "t", key="k", timeout=20) as coalescer:
        # Then it knows which calls are for different rows.
        await coalescer.create_or_update(key={"k": 0})
        async with all_taken(db.handle):
            tasks = begin(coalescer, 1, 2, 3)
            await asyncio.sleep(0.05)
            tasks.extend(begin(coalescer, 4))
            await asyncio.sleep(0)
            stats = coalescer.stats
            assert (stats.pending, stats.waiting_for_connection) == (4, 3)
            assert 0.04 < stats.oldest_seconds < 5
            # A caller that is gone waits for nothing.
            for task in tasks[:3]:
                task.cancel()
            await asyncio.wait(tasks[:3])
            stats = coalescer.stats
            assert (stats.pending, stats.waiting_for_connection) == (1, 0)
            assert 0 < stats.oldest_seconds < 0.04
        await outcomes(tasks)
    assert coalescer.stats.pending == coalescer.stats.oldest_seconds == 0


@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
async def test_the_statistics_show_how_long_a_locked_row_keeps_its_caller(
    db: PostgresDatabase,
) -> None:
    await db.run(TABLE)
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        async with locked(db, 1):
            tasks = begin(coalescer, 1)
            await blocked(db)
            tasks += begin(coalescer, 1)
            await asyncio.sleep(0.05)
            stats = coalescer.stats
            assert (stats.pending, stats.waiting_for_connection) == (2, 0)
            assert 0.05 <= stats.oldest_seconds < 5
        await outcomes(tasks)
