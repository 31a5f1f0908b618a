"""One connection shared by several tasks, pools, and connections that are gone."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import F, Result, create_or_update, get_or_create, preview
from tests.support.databases import PostgresDatabase, connected

POSTGRESQL: Final = ["asyncpg", "pooled", "pool", "psycopg", "psycopg_pool"]
TABLES: Final = """
CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0);
CREATE TABLE bare (k integer, hits integer DEFAULT 0)
"""

Call = Callable[[Any], Awaitable[Any]]


async def count(conn: Any, key: int = 1, table: str = "t", **options: Any) -> Result:
    hits = F("hits") + 1
    return await create_or_update(
        conn, table, key={"k": key}, defaults={"hits": hits}, **options
    )


CALLS: Final[dict[str, Call]] = {
    "fast": count,
    "exact": partial(count, strategy="exact"),
    "on_conflict": partial(count, strategy="on_conflict"),
    "lock": partial(count, table="bare", without_unique_index="lock"),
    "get_or_create": partial(get_or_create, table="t", key={"k": 1}),
    "factory": partial(
        get_or_create, table="t", key={"k": 1}, defaults={"hits": lambda: 1}
    ),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("db", POSTGRESQL, indirect=True)
async def test_sixteen_tasks_share_a_handle(db: PostgresDatabase, name: str) -> None:
    await db.run(TABLES)
    results = await asyncio.gather(*(CALLS[name](db.handle) for _ in range(16)))
    assert [result.created for result in results].count(True) == 1


@pytest.mark.parametrize("db", POSTGRESQL, indirect=True)
async def test_sixteen_tasks_preview_on_one_handle(db: PostgresDatabase) -> None:
    await db.run(TABLES)
    calls = (preview(db.handle, "t", key={"k": 1}) for _ in range(16))
    assert len(set(await asyncio.gather(*calls))) == 1


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_tasks_with_different_calls_share_a_connection(
    pg: PostgresDatabase, *, inside: bool
) -> None:
    await pg.run(TABLES)
    conn: Any = pg.handle
    if inside:
        await conn.execute("BEGIN")
    calls = [CALLS["fast"], CALLS["exact"], CALLS["lock"]]
    await asyncio.gather(*(call(conn) for call in calls * 8))
    assert conn.is_in_transaction() == inside
    if inside:
        await conn.execute("COMMIT")
    assert await pg.query("SELECT * FROM t") == [(1, 16)]
    assert await pg.query("SELECT * FROM bare") == [(1, 8)]


async def test_tasks_wait_for_nobody_who_is_not_of_this_library(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLES)
    conn: Any = pg.handle
    await count(conn)
    theirs = asyncio.create_task(conn.fetch("SELECT pg_sleep(0.1)"))
    await asyncio.sleep(0.01)
    with pytest.raises(asyncpg.InterfaceError, match="another operation is in prog"):
        await count(conn)
    await theirs
    await count(conn)
    assert await pg.query("SELECT * FROM t") == [(1, 2)]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("db", ["pool"], indirect=True)
async def test_a_released_connection_says_so(
    db: PostgresDatabase, name: str, *, used: bool
) -> None:
    await db.run(TABLES)
    async with db.handle.acquire() as conn:
        if used:
            await CALLS[name](conn)
    with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
        await CALLS[name](conn)
    # Nothing was sent on the connection that may be another's by now.
    assert await db.query("SELECT count(*) FROM t WHERE hits > 1") == [(0,)]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
async def test_a_closed_connection_says_so(
    pg: PostgresDatabase, name: str, *, used: bool
) -> None:
    await pg.run(TABLES)
    async with pg.connect() as conn:
        if used:
            await CALLS[name](conn)
        await conn.close()
        with pytest.raises(asyncpg.InterfaceError, match="closed"):
            await CALLS[name](conn)


@pytest.mark.parametrize("db", ["pool"], indirect=True)
async def test_a_closed_pool_says_so(db: PostgresDatabase) -> None:
    await db.run(TABLES)
    await db.handle.close()
    with pytest.raises(asyncpg.InterfaceError, match="pool is closed"):
        await count(db.handle)


@pytest.mark.parametrize("db", ["pool"], indirect=True)
async def test_more_tasks_than_the_pool_has_connections(db: PostgresDatabase) -> None:
    await db.run(TABLES)
    results = await asyncio.gather(*(count(db.handle, n % 4) for n in range(64)))
    assert sum(result.created for result in results) == 4
    assert await db.query("SELECT hits FROM t") == [(16,)] * 4
    assert db.handle.get_idle_size() == db.handle.get_size()


@pytest.mark.parametrize("db", ["pool"], indirect=True)
async def test_what_is_known_of_a_table_stays_with_the_pools_connection(
    db: PostgresDatabase,
) -> None:
    await db.run(TABLES)
    queries: list[Any] = []
    async with db.handle.acquire() as conn:
        await count(conn)
    async with db.handle.acquire() as conn:
        with conn.query_logger(queries.append):
            await count(conn)
            await asyncio.sleep(0)  # the loop calls the logger
    assert len(queries) == 1


async def test_what_is_known_keeps_no_connection_alive(pg: PostgresDatabase) -> None:
    await pg.run(TABLES)

    async def use_and_close() -> weakref.ref[Any]:
        async with connected(pg._dsn, pg.schema) as conn:
            for call in CALLS.values():
                await call(conn)
            return weakref.ref(conn)

    reference = await use_and_close()
    # The driver's own callbacks run first.
    await asyncio.sleep(0.01)
    gc.collect()
    assert reference() is None
