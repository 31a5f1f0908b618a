"""`sync_rows` beside other writers, on real connections."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import BulkResult, create_or_update, sync_rows
from tests.support.databases import Database, PostgresDatabase, SQLiteDatabase
from tests.support.sessions import waiting

TABLE: Final = """
    CREATE TABLE t (shop INTEGER, sku TEXT, n INTEGER, PRIMARY KEY (shop, sku))
"""
STORED: Final = (
    "INSERT INTO t VALUES (7, 'a', 1), (7, 'b', 1), (7, 'c', 1), (7, 'd', 1)"
)
KEY: Final = ("shop", "sku")
SOURCE: Final = [{"sku": "a", "n": 1}]


@pytest.fixture
async def table(pg: PostgresDatabase) -> PostgresDatabase:
    await pg.run(TABLE)
    await pg.run(STORED)
    return pg


# What others do after the call began, and the rows that are left.
CHANGES: Final[dict[str, tuple[str, Sequence[str]]]] = {
    "nothing": ("SELECT 1", "a"),
    "a row is created": ("INSERT INTO t VALUES (7, 'x', 1)", "ax"),
    "a row is changed": ("UPDATE t SET n = 2 WHERE sku = 'c'", "a"),
    "a row is changed twice": (
        "UPDATE t SET n = 2 WHERE sku = 'c'; UPDATE t SET n = 3 WHERE sku = 'c'",
        "a",
    ),
    "a row leaves the scope": ("UPDATE t SET shop = 8 WHERE sku = 'c'", "ac"),
    "a row comes into the scope": (
        "INSERT INTO t VALUES (8, 'y', 1); UPDATE t SET shop = 7 WHERE sku = 'y'",
        "ay",
    ),
    "a row gets another key": ("UPDATE t SET sku = 'z' WHERE sku = 'c'", "az"),
    "a row is removed": ("DELETE FROM t WHERE sku = 'c'", "a"),
    "a row is removed and created again": (
        "DELETE FROM t WHERE sku = 'c'; INSERT INTO t VALUES (7, 'c', 1)",
        "ac",
    ),
    "a row is created and changed": (
        "INSERT INTO t VALUES (7, 'x', 1); UPDATE t SET n = 2 WHERE sku = 'x'",
        "ax",
    ),
}


@pytest.mark.parametrize(("change", "left"), CHANGES.values(), ids=list(CHANGES))
async def test_what_others_create_while_the_source_is_read_is_left(
    table: PostgresDatabase, change: str, left: str
) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield SOURCE[0]
        await table.run(change)

    await sync_rows(
        *(table.handle, "t", rows()), key=KEY, scope={"shop": 7}, max_missing=1.0
    )
    assert await table.query("SELECT sku FROM t ORDER BY sku") == [(s,) for s in left]


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
async def test_a_change_that_a_fixed_snapshot_cannot_see_is_an_error(
    table: PostgresDatabase, level: str
) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield SOURCE[0]
        await table.run("UPDATE t SET n = 2 WHERE sku = 'c'")

    with pytest.raises(asyncpg.SerializationError):
        async with table.handle.transaction(isolation=level.lower().replace(" ", "_")):
            await sync_rows(
                *(table.handle, "t", rows()), key=KEY, scope={"shop": 7}, max_missing=9
            )
    assert len(await table.query("SELECT * FROM t")) == 4


@pytest.mark.parametrize("shops", [(7, 7), (7, None), (None, 7)])
async def test_two_calls_of_one_scope_wait_for_each_other(
    table: PostgresDatabase, shops: tuple[int | None, ...]
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[dict[str, Any]]:
        began.set()
        await go_on.wait()
        yield {"shop": 7, "sku": "first", "n": 1}

    async def second() -> AsyncIterator[dict[str, Any]]:
        assert one.done()
        yield {"shop": 7, "sku": "second", "n": 1}

    def scope(shop: int | None) -> dict[str, Any]:
        return {} if shop is None else {"shop": shop}

    async with AsyncExitStack() as stack:
        conns = [await stack.enter_async_context(table.connect()) for _ in shops]
        calls = (
            sync_rows(*(conn, "t", rows), key=KEY, scope=scope(shop), max_missing=1.0)
            for conn, rows, shop in zip(conns, (slow(), second()), shops, strict=True)
        )
        one = asyncio.ensure_future(next(calls))
        await began.wait()
        other = asyncio.ensure_future(next(calls))
        await waiting(table, conns[1])
        go_on.set()
        assert await one == BulkResult(created=1, deleted=4)
        assert await other == BulkResult(created=1, deleted=1)
    assert await table.query("SELECT sku FROM t") == [("second",)]


async def test_calls_of_other_scopes_do_not_wait(table: PostgresDatabase) -> None:
    async with table.connect() as other:

        async def rows() -> AsyncIterator[dict[str, Any]]:
            yield SOURCE[0]
            report = await sync_rows(other, "t", SOURCE, key=KEY, scope={"shop": 8})
            assert report == BulkResult(created=1)

        await sync_rows(
            *(table.handle, "t", rows()), key=KEY, scope={"shop": 7}, max_missing=3
        )


async def test_a_call_that_is_cancelled_stores_nothing(db: Database) -> None:
    await db.run(TABLE)
    await db.run(STORED)
    began = asyncio.Event()

    async def rows() -> AsyncIterator[dict[str, Any]]:
        yield {"sku": "x", "n": 1}
        began.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(
        sync_rows(*(db.handle, "t", rows()), key=KEY, scope={"shop": 7}, batch_size=1)
    )
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.query("SELECT sku FROM t ORDER BY sku") == [(s,) for s in "abcd"]
    # The connection is as it was.
    report = await sync_rows(
        *(db.handle, "t", SOURCE), key=KEY, scope={"shop": 7}, max_missing=3
    )
    assert report == BulkResult(unchanged=1, deleted=3)


async def test_calls_on_one_file_wait_for_each_other(
    lite: SQLiteDatabase, lite_factory: Callable[..., Any]
) -> None:
    await lite.run(TABLE)
    await lite.run(STORED)
    connections = [await lite_factory() for _ in range(4)]
    sources = [[{"sku": f"{n}{m}", "n": n} for m in range(5)] for n in range(4)]
    reports = await asyncio.gather(
        *(
            sync_rows(conn, "t", rows, key=KEY, scope={"shop": 7}, max_missing=1.0)
            for conn, rows in zip(connections, sources, strict=True)
        )
    )
    assert sorted(report.deleted for report in reports) == [4, 5, 5, 5]
    left = await lite.query("SELECT sku, n FROM t ORDER BY sku")
    assert left in [[(row["sku"], row["n"]) for row in rows] for rows in sources]


async def test_a_deadlock_repeats_the_whole_call(table: PostgresDatabase) -> None:
    """Two transactions lock the rows in opposite orders; ours is repeated if it ends."""
    await table.run("INSERT INTO t SELECT 8, 'b', 1")
    locked = asyncio.Event()

    class Rows:
        def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
            return self.rows()

        async def rows(self) -> AsyncIterator[dict[str, Any]]:
            yield {"sku": "a", "n": 2}
            yield {"sku": "c", "n": 1}
            # The first row is written when the one after the next is asked for.
            if not locked.is_set():
                locked.set()
                await other_waits.wait()
            yield {"sku": "b", "n": 2}

    other_waits = asyncio.Event()
    async with table.connect() as other:

        async def opposite() -> None:
            async with other.transaction():
                await other.execute("SET LOCAL deadlock_timeout = '10s'")
                await create_or_update(
                    other, "t", key={"shop": 7, "sku": "b"}, defaults={"n": 3}
                )
                await locked.wait()
                last = asyncio.ensure_future(
                    create_or_update(
                        other, "t", key={"shop": 7, "sku": "a"}, defaults={"n": 3}
                    )
                )
                await waiting(table, other)
                other_waits.set()
                await last

        await table.handle.execute("SET deadlock_timeout = '10ms'")
        _, report = await asyncio.gather(
            opposite(),
            sync_rows(
                *(table.handle, "t", Rows()),
                key=KEY,
                scope={"shop": 7},
                batch_size=1,
                max_missing=1.0,
            ),
        )
    assert report == BulkResult(updated=2, unchanged=1, deleted=1)
