"""A coalescer in service: tenants, and the contexts of its callers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final

import asyncpg
import psycopg
import psycopg_pool
import pytest
from sqlalchemy import event

from aioupsert import Coalescer, F
from tests.support.databases import PostgresDatabase, psycopg_settings, settings
from tests.support.engines import engine_on
from tests.support.servers import Server

ADD: Final = {"n": F("n") + 1}

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
