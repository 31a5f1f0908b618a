"""
A call cancelled at any instant is stored or not, and its connection is as good as new.

All of it with one job for each call, and statement by statement, as where aiosqlite
has no way to run a job.
"""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import aiosqlite
import pytest

from aioupsert import (
    Coalescer,
    F,
    Result,
    create_or_update,
    create_or_update_many,
    get_or_create,
)
from tests.support.cancellation import CancelledAt
from tests.support.databases import SQLiteDatabase

TASKS = 16


@pytest.fixture
async def conn(lite: SQLiteDatabase) -> aiosqlite.Connection:
    await lite.run("CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER DEFAULT 0)")
    handle: aiosqlite.Connection = lite.handle
    return handle


async def count(conn: aiosqlite.Connection, key: str = "a") -> Result:
    hits = F("hits") + 1
    return await create_or_update(conn, "t", key={"k": key}, defaults={"hits": hits})


async def stored(lite: SQLiteDatabase, key: str = "a") -> int:
    rows = await lite.query(f"SELECT hits FROM t WHERE k = '{key}'")
    return rows[0][0] if rows else 0


async def at_point(awaitable: Awaitable[Any], point: int) -> bool:
    """Tell whether it was cancelled; False when it has fewer suspension points."""
    return await CancelledAt(awaitable, point).outcome()


@pytest.mark.usefixtures("conn")
async def test_at_every_suspension_point(lite: SQLiteDatabase) -> None:
    cancelled, point = True, 0
    while cancelled:
        point += 1
        key = str(point)
        # A new state each time, so that the table is read again.
        async with lite.connect() as other:
            cancelled = await at_point(count(other, key), point)
            await count(other, key)
            assert not other.in_transaction
            assert await stored(lite, key) in ((1, 2) if cancelled else (2,))
    assert point > 1


async def test_of_sixteen_tasks_at_every_suspension_point(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await count(conn)
    total = 1
    cancelled, point = TASKS, 0
    while cancelled:
        point += 1
        calls = (
            asyncio.create_task(at_point(count(conn), point)) for _ in range(TASKS)
        )
        cancelled = sum(await asyncio.gather(*calls))
        await count(conn)
        assert not conn.in_transaction
        acknowledged = TASKS - cancelled + 1
        now = await stored(lite)
        assert total + acknowledged <= now <= total + acknowledged + cancelled
        total = now
    assert point > 1


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_at_every_job_of_the_thread(
    conn: Any, lite: SQLiteDatabase, monkeypatch: pytest.MonkeyPatch, *, inside: bool
) -> None:
    execute = conn._execute
    left = 0

    async def counting(*args: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            call.cancel()
        return await execute(*args)

    call = asyncio.create_task(count(conn))
    await call
    monkeypatch.setattr(conn, "_execute", counting)
    reached, point = True, 0
    while reached:
        point += 1
        before = await stored(lite)
        if inside:
            await conn.execute("BEGIN")
        left = point
        call = asyncio.create_task(count(conn))
        await asyncio.wait([call])
        reached, left = left <= 0, 0
        if inside:
            # At once, as a caller would whose own task was cancelled.
            await conn.execute("ROLLBACK")
        await count(conn)
        assert not conn.in_transaction
        ours = await stored(lite) - before - 1
        assert ours in ((0,) if inside else (0, 1) if call.cancelled() else (1,))
    assert not call.cancelled()
    assert point > 1


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_at_random_instants(
    conn: aiosqlite.Connection, lite: SQLiteDatabase, *, inside: bool
) -> None:
    instants = random.Random(inside)  # noqa: S311  # no secret
    acknowledged = cancelled = 0

    async def task() -> None:
        nonlocal acknowledged, cancelled
        for _ in range(15):
            try:
                async with asyncio.timeout(instants.uniform(0, 0.006)):
                    await count(conn)
            except TimeoutError:
                cancelled += 1
            else:
                acknowledged += 1

    await count(conn)
    if inside:
        await conn.execute("BEGIN")
    await asyncio.gather(*(task() for _ in range(TASKS)))
    await count(conn)
    assert conn.in_transaction == inside
    if inside:
        await conn.execute("COMMIT")
    assert acknowledged + 2 <= await stored(lite) <= acknowledged + cancelled + 2
    assert cancelled > 0
    assert await lite.query("PRAGMA integrity_check") == [("ok",)]


async def test_a_cancelled_failure_is_silent_and_undone(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await count(conn)
    for point in range(1, 5):
        wrong = create_or_update(conn, "t", key={"k": "b"}, defaults={"hits": 2**63})
        try:
            await at_point(wrong, point)
        except OverflowError:
            break
    await count(conn)
    assert point > 1
    assert not conn.in_transaction
    assert await lite.query("SELECT * FROM t") == [("a", 2)]


@pytest.mark.usefixtures("conn")
async def test_get_or_create_cancelled_in_a_callers_transaction_is_rolled_back(
    lite: SQLiteDatabase,
) -> None:
    cancelled, point = True, 0
    while cancelled:
        point += 1
        async with lite.connect() as other:
            await other.execute("BEGIN")
            cancelled = await at_point(get_or_create(other, "t", key={"k": "a"}), point)
            await other.rollback()
        assert await lite.query("SELECT * FROM t") == []
    assert point > 1


@asynccontextmanager
async def busy(conn: aiosqlite.Connection) -> AsyncIterator[None]:
    """Keep the connection's thread at work until the block ends."""
    ending = threading.Event()
    await conn.create_function("wait_for_end", 0, ending.wait)
    work = asyncio.create_task(conn.execute_fetchall("SELECT wait_for_end()"))
    await asyncio.sleep(0.01)
    try:
        yield
    finally:
        ending.set()
        await work


@pytest.mark.parametrize("way", ["one", "many"])
async def test_what_nobody_waits_for_any_more_is_not_begun(
    conn: aiosqlite.Connection, lite: SQLiteDatabase, way: str
) -> None:
    async def call(number: int) -> object:
        if way == "one":
            return await count(conn, str(number))
        return await create_or_update_many(conn, "t", [{"k": str(number)}], key="k")

    await call(0)
    async with busy(conn):
        gone = [asyncio.create_task(call(number)) for number in range(1, 101)]
        await asyncio.sleep(0)
        kept = asyncio.create_task(call(101))
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.sleep(0)
    await kept
    assert all(task.cancelled() for task in gone)
    assert await lite.query("SELECT k FROM t ORDER BY k") == [("0",), ("101",)]
    assert not conn.in_transaction


@pytest.mark.parametrize("number", [1, 5])
async def test_a_batch_that_nobody_waits_for_any_more_is_not_begun(
    conn: aiosqlite.Connection, lite: SQLiteDatabase, number: int
) -> None:
    async with Coalescer(conn, "t", key="k", max_delay=0.001) as coalescer:

        def begin(*keys: str) -> list[asyncio.Task[Result]]:
            return [
                asyncio.create_task(coalescer.create_or_update(key={"k": key}))
                for key in keys
            ]

        await asyncio.gather(*begin("0"))
        async with busy(conn):
            gone = begin(*"abcde"[:number])
            await asyncio.sleep(0.02)
            assert coalescer._dispatcher._leases  # it has been sent to the thread
            for task in gone:
                task.cancel()
            kept = begin("1")
            await asyncio.sleep(0)
        await asyncio.gather(*kept)
        # Of a batch of which one is waited for, all are stored.
        async with busy(conn):
            some = begin("2", "3")
            await asyncio.sleep(0.02)
            some[0].cancel()
            await asyncio.sleep(0)
        await asyncio.wait(some)
    assert all(task.cancelled() for task in gone)
    rows = await lite.query("SELECT k FROM t ORDER BY k")
    assert rows == [("0",), ("1",), ("2",), ("3",)]
    assert not conn.in_transaction
