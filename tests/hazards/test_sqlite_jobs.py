"""One call is one job on the connection's thread, and its connection may be shared."""

import asyncio
import sqlite3
import sys
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from aioupsert import (
    Action,
    Excluded,
    F,
    Result,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
)
from aioupsert._drivers import session_on
from tests.support.databases import SQLiteDatabase, run_script

TABLE = """
    CREATE TABLE t (
        k TEXT PRIMARY KEY,
        hits INTEGER DEFAULT 0 CHECK (hits >= 0)
    );
    CREATE TABLE log (n INTEGER)
"""


@pytest.fixture
async def conn(lite: SQLiteDatabase) -> aiosqlite.Connection:
    await lite.run(TABLE)
    handle: aiosqlite.Connection = lite.handle
    return handle


async def count(conn: aiosqlite.Connection, key: str = "a") -> Result:
    hits = F("hits") + 1
    return await create_or_update(conn, "t", key={"k": key}, defaults={"hits": hits})


class CountingQueue:
    """Counts what is put on the queue of a connection's thread."""

    def __init__(self, conn: Any) -> None:
        self.jobs = 0
        self._queue = conn._tx
        conn._tx = self

    def __getattr__(self, name: str) -> Any:
        # In older releases the thread looks it up for each job that it takes.
        return getattr(self._queue, name)

    def put_nowait(self, job: Any) -> None:
        self.jobs += 1
        self._queue.put_nowait(job)


CALLS: dict[str, dict[str, Any]] = {
    "plain": {"defaults": {"hits": 1}},
    "expression": {"defaults": {"hits": F("hits") + 1}},
    "returning": {"defaults": {"hits": 1}, "returning": "*"},
    "where": {"defaults": {"hits": 1}, "where": F("hits") > 5},
    "unchanged": {"defaults": {"hits": 1}, "skip_unchanged": True},
    "nothing to set": {},
    "on conflict": {"defaults": {"hits": 1}, "strategy": "on_conflict"},
}


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
async def test_a_call_is_one_job(
    conn: aiosqlite.Connection, options: dict[str, Any], *, inside: bool
) -> None:
    await create_or_update(conn, "t", key={"k": "first"}, **options)
    if inside:
        await conn.execute("BEGIN")
    queue = CountingQueue(conn)
    created = [
        (await create_or_update(conn, "t", key={"k": "a"}, **options)).created
        for _ in range(3)
    ]
    assert (created, queue.jobs) == ([True, False, False], 3)


async def test_get_or_create_is_one_job(conn: aiosqlite.Connection) -> None:
    await get_or_create(conn, "t", key={"k": "first"}, defaults={"hits": 1})
    queue = CountingQueue(conn)
    for _ in range(2):
        await get_or_create(conn, "t", key={"k": "a"}, defaults={"hits": 1})
    assert queue.jobs == 2


async def test_tasks_share_a_connection(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    async def task() -> int:
        return sum([(await count(conn)).created for _ in range(10)])

    created = await asyncio.gather(*(task() for _ in range(16)))
    assert sum(created) == 1
    assert await lite.query("SELECT k, hits FROM t") == [("a", 160)]


async def test_statements_of_other_tasks_stay_out_of_our_transactions(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    async def refused() -> None:
        for _ in range(50):
            with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
                await create_or_update(conn, "t", key={"k": "a"}, defaults={"hits": -1})

    async def writes(first: int) -> None:
        for n in range(first, first + 50):
            await conn.execute("INSERT INTO log VALUES (?)", (n,))

    await asyncio.gather(refused(), writes(0), refused(), writes(50))
    assert await lite.query("SELECT count(*) FROM log") == [(100,)]
    assert await lite.query("SELECT * FROM t") == []


@pytest.mark.parametrize(("end", "stored"), [("COMMIT", [("a", 16)]), ("ROLLBACK", [])])
async def test_a_call_joins_the_transaction_another_task_has_open(
    conn: aiosqlite.Connection,
    lite: SQLiteDatabase,
    end: str,
    stored: list[tuple[Any, ...]],
) -> None:
    begun, called = asyncio.Event(), asyncio.Event()

    async def other() -> None:
        await conn.execute("BEGIN")
        begun.set()
        await called.wait()
        await conn.execute(end)

    task = asyncio.create_task(other())
    await begun.wait()
    await asyncio.gather(*(count(conn) for _ in range(16)))
    assert await lite.query("SELECT * FROM t") == []
    called.set()
    await task
    assert await lite.query("SELECT * FROM t") == stored


async def test_calls_work_while_a_cursor_of_the_caller_is_being_read(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await lite.run(
        "INSERT INTO log WITH RECURSIVE c(n) AS"
        " (VALUES (1) UNION ALL SELECT n + 1 FROM c WHERE n < 200) SELECT n FROM c"
    )
    seen = []
    async with conn.execute("SELECT n FROM log ORDER BY n") as rows:
        async for (n,) in rows:
            seen.append(n)
            await count(conn, str(n))
    assert seen == list(range(1, 201))
    assert await lite.query("SELECT count(*), sum(hits) FROM t") == [(200, 200)]


@pytest.mark.parametrize("known", [False, True], ids=["first call", "table known"])
async def test_a_closed_connection_gives_the_drivers_error(
    lite_path: Path, *, known: bool
) -> None:
    run_script(lite_path, TABLE)
    async with aiosqlite.connect(lite_path) as conn:
        if known:
            await count(conn)
    with pytest.raises(ValueError, match="no active connection"):
        await count(conn)


async def test_a_connection_not_yet_opened_gives_the_drivers_error(
    lite_path: Path,
) -> None:
    with pytest.raises(ValueError, match="no active connection"):
        await count(aiosqlite.connect(lite_path))


async def test_a_call_under_way_ends_before_its_connection_closes(
    lite_path: Path,
) -> None:
    run_script(lite_path, TABLE)
    async with aiosqlite.connect(lite_path) as conn:
        await count(conn)
        call = asyncio.create_task(count(conn))
        await asyncio.sleep(0)
    assert (await call).created is False


PROGRAM = """
import asyncio, sys
import aiosqlite, aioupsert

async def main(path, end):
    async with aiosqlite.connect(path) as conn:
        call = asyncio.ensure_future(
            aioupsert.create_or_update(conn, "t", key={"k": "a"})
        )
        if end == "cancelled":
            await asyncio.sleep(0)
            call.cancel()
        elif end == "raises":
            await call
            sys.exit("raised")
        else:
            await call

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("end", "output"), [("done", ""), ("cancelled", ""), ("raises", "raised\n")]
)
async def test_a_program_that_closes_its_connection_exits(
    lite_path: Path, end: str, output: str
) -> None:
    run_script(lite_path, TABLE)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", PROGRAM, str(lite_path), end),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await asyncio.wait_for(process.communicate(), 5)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert errors.decode() == output


async def test_a_connection_outlives_work_that_is_broken_off(
    conn: aiosqlite.Connection,
) -> None:
    """It is the caller's, and a job ends by itself."""
    async with session_on(conn) as session:
        session.terminate()
    assert (await count(conn)).created


LAYOUTS: tuple[dict[str, Any], ...] = (
    {"n": 1, "m": 5},
    {"n": 1},  # lacks a column that a new row needs
    {"n": 1, "m": 5, "b": "x"},
    {"n": 1, "m": 5},
)


async def test_rows_of_several_layouts_are_numbered_in_their_order(
    lite: SQLiteDatabase,
) -> None:
    await lite.run(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT UNIQUE, n INTEGER,"
        " m INTEGER NOT NULL, b TEXT);"
        " INSERT INTO t VALUES (1, 'k1', 0, 0, 'old'), (2, 'k5', 0, 0, 'old')"
    )
    rows = [{"k": f"k{at % 8}", **LAYOUTS[at % 4]} for at in range(12)]
    done = await create_or_update_many(lite.handle, "t", rows, key="k")
    assert (done.created, done.updated) == (6, 6)
    assert await lite.query("SELECT k, m, b FROM t WHERE n = 1 ORDER BY id") == [
        ("k1", 0, "old"),
        ("k5", 0, "old"),
        ("k0", 5, None),
        ("k2", 5, "x"),
        ("k3", 5, None),
        ("k4", 5, None),
        ("k6", 5, "x"),
        ("k7", 5, None),
    ]


async def test_each_row_of_several_layouts_has_its_result(lite: SQLiteDatabase) -> None:
    await lite.run("CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER, b TEXT)")
    rows: list[dict[str, Any]] = [
        {"k": "a", "n": 1},
        {"k": "a", "n": 2, "b": "x"},
        {"k": "a", "n": 1},
        {"k": "b", "n": 1, "b": "x"},
    ]
    newer = Excluded("n") > F("n")
    actions = [
        result.action
        async for result in iter_create_or_update(
            lite.handle, "t", rows, key="k", where=newer
        )
    ]
    assert actions == [Action.CREATED, Action.UPDATED, Action.SKIPPED, Action.CREATED]
