"""
A large table is emptied, on PostgreSQL, and filled again over the same connection.

The server plans a kept statement again then, for a table without rows, and keeps that plan
while the table grows: 60,000 rows took ten times as long.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest

from aioupsert import (
    Action,
    Coalescer,
    create_or_update_many,
    get_or_create_many,
    iter_create_or_update,
)
from tests.support.databases import PostgresDatabase

# Two rows to a page.
TABLE: Final = """
    CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, k integer UNIQUE, pad text);
    ALTER TABLE t ALTER pad SET STORAGE PLAIN;
    INSERT INTO t (k, pad) SELECT n, repeat('x', 3500) FROM generate_series(1, 150) n;
    ANALYZE t
"""
ROWS: Final = [{"k": number, "pad": "y"} for number in range(1, 9)]
CREATED: Final = [Action.CREATED] * len(ROWS)
PLANNED_EACH_TIME: Final = "generate_series(1, 1000000000)"


async def looked_up(conn: Any) -> list[Action]:
    results = await get_or_create_many(conn, "t", ROWS, key="k")
    return [result.action for result in results]


async def iterated(conn: Any) -> list[Action]:
    results = iter_create_or_update(conn, "t", ROWS, key="k", skip_unchanged=True)
    return [result.action async for result in results]


async def counted(conn: Any) -> list[Action]:
    done = await create_or_update_many(conn, "t", ROWS, key="k")
    return [Action.CREATED] * done.created + [Action.UPDATED] * done.updated


async def coalesced(conn: Any) -> list[Action]:
    async with Coalescer(conn, "t", key="k") as coalescer:
        results = await asyncio.gather(*map(coalescer.create_or_update, ROWS))
    return [result.action for result in results]


every_way = pytest.mark.parametrize("write", [looked_up, iterated, counted, coalesced])


async def fill_again(pg: PostgresDatabase, write: Callable[..., Any]) -> list[str]:
    """Write the rows to an emptied table; return the statements."""
    sent: list[str] = []
    pg.handle.add_query_logger(lambda query: sent.append(query.query))
    assert await write(pg.handle) == CREATED
    return [sql for sql in sent if "unnest" in sql and "json_build" not in sql]


@every_way
async def test_statements_are_planned_for_what_the_table_is_then(
    pg: PostgresDatabase, write: Callable[..., Any]
) -> None:
    await pg.run(TABLE)
    assert await write(pg.handle) != CREATED
    await pg.run("TRUNCATE t")
    await pg.run("VACUUM ANALYZE t")
    sent = await fill_again(pg, write)
    assert PLANNED_EACH_TIME not in sent[0]
    assert any(PLANNED_EACH_TIME in sql for sql in sent)
    assert await pg.query("SELECT k FROM t ORDER BY k") == [(r["k"],) for r in ROWS]
    # The numbers of rows that were not written are not used up.
    assert await pg.query("SELECT max(id) FROM t") == [(150 + len(ROWS),)]


@every_way
async def test_in_the_transaction_that_empties_it(
    pg: PostgresDatabase, write: Callable[..., Any]
) -> None:
    await pg.run(TABLE)
    await write(pg.handle)
    async with pg.transaction():
        await pg.handle.execute("TRUNCATE t")
        sent = await fill_again(pg, write)
    assert any(PLANNED_EACH_TIME in sql for sql in sent)
    assert await pg.query("SELECT count(*) FROM t") == [(len(ROWS),)]


async def test_a_table_whose_size_the_catalog_overstates_is_written(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLE)
    await pg.run("CREATE TABLE copy (LIKE t INCLUDING ALL)")
    await pg.run("UPDATE pg_class SET relpages = 5000 WHERE oid = 'copy'::regclass")
    for action in ("created", "updated"):
        done = await create_or_update_many(pg.handle, "copy", ROWS, key="k")
        assert getattr(done, action) == len(ROWS)
