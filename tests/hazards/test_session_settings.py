"""The caller's session: its limits hold for a call, and a call leaves it as it was."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import F, Result, create_or_update, get_or_create, is_retryable
from tests.support.databases import PostgresDatabase, close, settings

TABLES: Final = """
CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0);
CREATE TABLE bare (k integer, hits integer DEFAULT 0);
CREATE TABLE classic (k integer UNIQUE DEFERRABLE, hits integer DEFAULT 0)
"""

Call = Callable[[Any], Awaitable[Result]]


async def count(conn: Any, table: str = "t", **options: Any) -> Result:
    hits = F("hits") + 1
    return await create_or_update(
        conn, table, key={"k": 1}, defaults={"hits": hits}, **options
    )


WRITES: Final[dict[str, Call]] = {
    "fast": count,
    "exact": partial(count, strategy="exact"),
    "on_conflict": partial(count, strategy="on_conflict"),
    "lock": partial(count, table="bare", without_unique_index="lock"),
    "classic table": partial(count, table="classic"),
}
CALLS: Final[dict[str, Call]] = {
    **WRITES,
    "get_or_create": partial(get_or_create, table="t", key={"k": 1}),
}

inside_or_not = pytest.mark.parametrize(
    "inside", [False, True], ids=["own", "caller's"]
)


@asynccontextmanager
async def connected(pg: PostgresDatabase, **options: Any) -> AsyncIterator[Any]:
    """Open a connection with options of the driver."""
    conn = await asyncpg.connect(
        pg._dsn, server_settings=settings(pg.schema), **options
    )
    try:
        yield conn
    finally:
        await close(conn)


# What outlives a transaction, and so reaches the next client of a shared session.
SESSION_STATE: Final = {
    "settings": "SELECT name, setting FROM pg_settings ORDER BY name",
    "locks": "SELECT locktype, mode FROM pg_locks"
    " WHERE pid = pg_backend_pid() AND locktype = 'advisory'",
    "temporary tables": "SELECT oid FROM pg_class"
    " WHERE relnamespace = pg_my_temp_schema()",
    "listening": "SELECT pg_listening_channels()",
    "cursors": "SELECT name FROM pg_cursors WHERE is_holdable",
    "statements not of the driver": "SELECT name FROM pg_prepared_statements"
    " WHERE name NOT LIKE '\\_\\_asyncpg\\_%'",
}


@inside_or_not
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_leaves_nothing_behind_in_the_session(
    pg: PostgresDatabase, name: str, *, inside: bool
) -> None:
    await pg.run(TABLES)
    conn: Any = pg.handle
    before = {what: await conn.fetch(sql) for what, sql in SESSION_STATE.items()}
    if inside:
        await conn.execute("BEGIN")
    results = [await CALLS[name](conn) for _ in range(2)]
    if inside:
        await conn.execute("COMMIT")
    after = {what: await conn.fetch(sql) for what, sql in SESSION_STATE.items()}
    assert [result.created for result in results] == [True, False]
    assert after == before


async def clash(conn: Any) -> None:
    """Insert in vain, since another row has the value."""
    with pytest.raises(asyncpg.UniqueViolationError):
        await create_or_update(
            conn, "t", key={"k": 3}, defaults={"hits": 5}, strategy="exact"
        )


@pytest.mark.parametrize("insert", [WRITES["exact"], clash], ids=["done", "undone"])
async def test_a_call_leaves_no_savepoint_behind_in_the_transaction(
    pg: PostgresDatabase, insert: Callable[[Any], Awaitable[Any]]
) -> None:
    await pg.run(f"{TABLES}; ALTER TABLE t ADD UNIQUE (hits)")
    await pg.run("INSERT INTO t VALUES (2, 5)")
    conn: Any = pg.handle
    queries: list[Any] = []
    await conn.execute("BEGIN")
    with conn.query_logger(queries.append):
        await insert(conn)
    await asyncio.sleep(0)  # the loop calls the logger
    words = [query.query.split() for query in queries]
    savepoints = [
        name for command, *names in words if command == "SAVEPOINT" for name in names
    ]
    assert savepoints
    for savepoint in savepoints:
        await conn.execute("SAVEPOINT mine")
        with pytest.raises(asyncpg.InvalidSavepointSpecificationError):
            await conn.execute(f"RELEASE SAVEPOINT {savepoint}")
        await conn.execute("ROLLBACK TO SAVEPOINT mine")


@inside_or_not
@pytest.mark.parametrize("name", CALLS)
async def test_without_a_statement_cache(
    pg: PostgresDatabase, name: str, *, inside: bool
) -> None:
    # As poolers that share a session between transactions need it.
    await pg.run(TABLES)
    async with connected(pg, statement_cache_size=0) as conn:
        if inside:
            await conn.execute("BEGIN")
        results = [await CALLS[name](conn) for _ in range(2)]
        named = await conn.fetch("SELECT name FROM pg_prepared_statements")
        if inside:
            await conn.execute("COMMIT")
    assert [result.created for result in results] == [True, False]
    assert named == []


LIMITS: Final[dict[str, tuple[str, type[Exception]]]] = {
    "statement_timeout": ("SET statement_timeout = 100", asyncpg.QueryCanceledError),
    "lock_timeout": ("SET lock_timeout = 100", asyncpg.LockNotAvailableError),
}


@asynccontextmanager
async def row_held(pg: PostgresDatabase, name: str) -> AsyncIterator[None]:
    """Another session has written the row, and does not end its transaction."""
    async with pg.connect() as other, other.transaction():
        await WRITES[name](other)
        yield


@inside_or_not
@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", WRITES)
async def test_a_limit_of_the_server_ends_the_call(
    pg: PostgresDatabase, name: str, limit: str, *, inside: bool
) -> None:
    await pg.run(TABLES)
    sql, error = LIMITS[limit]
    conn: Any = pg.handle
    await WRITES[name](conn)
    await conn.execute(sql)
    if inside:
        await conn.execute("BEGIN")
    async with row_held(pg, name):
        with pytest.raises(error) as caught:
            await WRITES[name](conn)
    assert not is_retryable(caught.value)
    assert conn.is_in_transaction() == inside
    if inside:
        await conn.execute("ROLLBACK")
    await WRITES[name](conn)
    assert await stored(pg) == 3


@inside_or_not
@pytest.mark.parametrize("name", WRITES)
async def test_a_limit_of_the_driver_ends_the_call(
    pg: PostgresDatabase, name: str, *, inside: bool
) -> None:
    await pg.run(TABLES)
    async with connected(pg, command_timeout=0.3) as conn:
        await WRITES[name](conn)
        if inside:
            await conn.execute("BEGIN")
        async with row_held(pg, name):
            with pytest.raises(TimeoutError):
                await WRITES[name](conn)
            assert conn.is_in_transaction() == inside
            # The driver raises before the server has heard of it, and waits for that
            # before the next statement; until then the row must stay held.
            await conn.execute("ROLLBACK" if inside else "SELECT 1")
        await WRITES[name](conn)
    assert await stored(pg) == 3


async def stored(pg: PostgresDatabase) -> int:
    """Sum what is committed in every table."""
    ((hits,),) = await pg.query(
        "SELECT sum(hits) FROM (SELECT * FROM t UNION ALL SELECT * FROM bare"
        " UNION ALL SELECT * FROM classic) AS a"
    )
    return int(hits)


async def test_calls_through_sessions_that_are_shared_by_transactions(
    pg: PostgresDatabase,
) -> None:
    # More clients than sessions, each call on whichever is free, as behind a pooler.
    await pg.run(TABLES)
    async with asyncpg.create_pool(
        pg._dsn,
        min_size=3,
        max_size=3,
        statement_cache_size=0,
        server_settings=settings(pg.schema),
    ) as pool:
        calls = [call(pool) for call in WRITES.values() for _ in range(12)]
        results = await asyncio.gather(*calls)
    # "t" is written by three of the calls; each table has one creator.
    assert sum(result.created for result in results) == 3
    assert await stored(pg) == len(calls)
