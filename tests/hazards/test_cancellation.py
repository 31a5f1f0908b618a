"""A call cancelled at any instant is stored or not, and its connection as good as new."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import F, Result, create_or_update
from tests.support.cancellation import DELAYS, CancelledAt, delays, twice
from tests.support.databases import PostgresDatabase
from tests.support.pairwise import pairwise
from tests.support.sessions import clients, idle, together, waiting
from tests.support.versions import ASYNCPG, asyncpg_cancels_well

TABLES: Final = """
CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0);
CREATE TABLE bare (k integer, hits integer DEFAULT 0)
"""
TASKS: Final = 8


async def count(conn: Any, key: int, table: str = "t", **options: Any) -> Result:
    hits = F("hits") + 1
    return await create_or_update(
        conn, table, key={"k": key}, defaults={"hits": hits}, **options
    )


fast = count
exact = partial(count, strategy="exact")
lock = partial(count, table="bare", without_unique_index="lock")


CALLS: Final[dict[str, Any]] = {"fast": fast, "exact": exact, "lock": lock}
calls = pytest.mark.parametrize(
    ("name", "delay", "twice"), pairwise(CALLS, DELAYS, [False, True])
)


async def waiting_in(pg: PostgresDatabase, event: str) -> None:
    """Return once the connection of the test waits for an event."""
    pid = pg.handle.get_server_pid()
    await pg.run(
        "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_stat_get_activity("
        f"{pid}) WHERE wait_event = '{event}')"
        " LOOP PERFORM pg_sleep(0.001), pg_stat_clear_snapshot(); END LOOP; END $$"
    )


async def stored(pg: PostgresDatabase, key: int) -> int:
    ((hits,),) = await pg.query(
        f"SELECT sum(hits) FROM (SELECT * FROM t UNION ALL SELECT * FROM bare) AS a"
        f" WHERE k = {key}"
    )
    return hits or 0


@calls
async def test_at_every_suspension_point(
    pg: PostgresDatabase, name: str, delay: float, *, twice: bool
) -> None:
    call = CALLS[name]
    await pg.run(TABLES)
    conn: Any = pg.handle
    await call(conn, 0)
    reached, point = True, 0
    while reached:
        point += 1
        ours = CancelledAt(call(conn, point), point, delay, twice=twice)
        cancelled = await ours.outcome()
        reached = ours.reached
        assert not conn.is_in_transaction()
        await call(conn, point)
        assert await stored(pg, point) in ((1, 2) if cancelled else (2,))
        assert await idle(pg)
    assert point > 1


@twice
@delays
async def test_while_the_table_is_described(
    pg: PostgresDatabase, delay: float, *, twice: bool
) -> None:
    await pg.run(TABLES)
    reached, point = True, 0
    while reached:
        point += 1
        async with pg.connect() as conn:
            ours = CancelledAt(count(conn, point), point, delay, twice=twice)
            cancelled = await ours.outcome()
            reached = ours.reached
            assert not conn.is_in_transaction()
            await count(conn, point)
            assert await stored(pg, point) in ((1, 2) if cancelled else (2,))
    assert point > 1


@calls
async def test_in_a_callers_transaction_at_every_suspension_point(
    pg: PostgresDatabase, name: str, delay: float, *, twice: bool
) -> None:
    call = CALLS[name]
    await pg.run(TABLES)
    conn: Any = pg.handle
    await call(conn, 0)
    reached, point = True, 0
    while reached:
        point += 1
        await conn.execute("BEGIN")
        ours = CancelledAt(call(conn, point), point, delay, twice=twice)
        await ours.outcome()
        reached = ours.reached
        assert conn.is_in_transaction()
        await conn.execute("ROLLBACK")
        assert not conn.is_in_transaction()
        assert await stored(pg, point) == 0
        await call(conn, point)
        assert await stored(pg, point) == 1
        assert await idle(pg)
    assert point > 1


@twice
@delays
async def test_while_a_conflict_is_undone(
    pg: PostgresDatabase, delay: float, *, twice: bool
) -> None:
    await pg.run(
        "CREATE TABLE t (k integer PRIMARY KEY, d integer UNIQUE);"
        "INSERT INTO t VALUES (1, 10)"
    )
    conn: Any = pg.handle

    async def clash() -> None:
        with contextlib.suppress(asyncpg.UniqueViolationError):
            await create_or_update(conn, "t", key={"k": 2}, defaults={"d": 10})

    await clash()
    reached, point = True, 0
    while reached:
        point += 1
        await conn.execute("BEGIN")
        ours = CancelledAt(clash(), point, delay, twice=twice)
        await ours.outcome()
        reached = ours.reached
        assert conn.is_in_transaction()
        await conn.execute("ROLLBACK")
        await create_or_update(conn, "t", key={"k": 1}, defaults={"d": 10 + point})
        assert await pg.query("SELECT d FROM t") == [(10 + point,)]
        await pg.run("UPDATE t SET d = 10")
        assert await idle(pg)
    assert point > 1


@contextlib.asynccontextmanager
async def blocked(pg: PostgresDatabase, key: int) -> AsyncIterator[None]:
    """Another session has created the row, and does not end its transaction."""
    async with pg.connect() as other:
        await other.execute(f"BEGIN; INSERT INTO t VALUES ({key}, 10)")
        yield
        await other.execute("ROLLBACK")


@pytest.mark.parametrize("call", [fast, exact], ids=["fast", "exact"])
async def test_while_another_session_is_waited_for(
    pg: PostgresDatabase, call: Any
) -> None:
    await pg.run(TABLES)
    conn: Any = pg.handle
    async with blocked(pg, 1):
        task = asyncio.create_task(call(conn, 1))
        await waiting(pg, conn)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        # Though the other still holds its row.
        await call(conn, 2)
    assert await pg.query("SELECT * FROM t") == [(2, 1)]


async def test_behind_the_savepoint_the_callers_transaction_goes_on(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLES)
    conn: Any = pg.handle
    async with conn.transaction():
        await count(conn, 2)
        async with blocked(pg, 1):
            task = asyncio.create_task(exact(conn, 1))
            await waiting(pg, conn)
            task.cancel()
            await asyncio.wait([task])
        assert task.cancelled()
        await count(conn, 3)
    assert await pg.query("SELECT k FROM t ORDER BY k") == [(2,), (3,)]


async def test_a_timeout_while_waiting_for_the_lock_ends_the_own_transaction(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLES)
    conn: Any = pg.handle
    async with pg.connect() as other, other.transaction():
        await lock(other, 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await lock(conn, 1)
        assert not conn.is_in_transaction()
        await lock(conn, 2)
    assert await pg.query("SELECT k FROM bare ORDER BY k") == [(1,), (2,)]


@twice
@delays
@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
async def test_through_the_pool_at_every_suspension_point(
    db: PostgresDatabase, delay: float, *, twice: bool
) -> None:
    await db.run(TABLES)
    await count(db.handle, 0)
    reached, point = True, 0
    while reached:
        point += 1
        ours = CancelledAt(count(db.handle, point), point, delay, twice=twice)
        cancelled = await ours.outcome()
        reached = ours.reached
        await count(db.handle, point)
        assert await stored(db, point) in ((1, 2) if cancelled else (2,))
    assert point > 1
    assert await idle(db)


async def test_cancelled_while_it_cancels(pg: PostgresDatabase) -> None:
    """The driver alone: with an older one all that follows is taken for cancelled."""
    sleeping = asyncio.ensure_future(pg.handle.execute("SELECT pg_sleep(60)"))
    await waiting_in(pg, "PgSleep")
    sleeping.cancel()
    await asyncio.wait({sleeping})
    following = asyncio.ensure_future(pg.handle.execute("SELECT 1"))
    await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait({following})
    assert sleeping.cancelled()
    last = asyncio.ensure_future(pg.handle.execute("SELECT 1"))
    await asyncio.wait({last})
    assert last.cancelled() is (ASYNCPG < (0, 32))
    pg.handle.terminate()


@asyncpg_cancels_well
@pytest.mark.parametrize("call", [fast, exact, lock], ids=["fast", "exact", "lock"])
async def test_at_random_instants_nothing_acknowledged_is_lost(
    pg: PostgresDatabase, call: Any
) -> None:
    await pg.run(TABLES)
    instants = random.Random(0)  # noqa: S311  # no secret
    acknowledged = cancelled = 0

    async def work(conn: Any, _: int) -> None:
        nonlocal acknowledged, cancelled
        longest = 0.005
        for _ in range(40):
            try:
                async with asyncio.timeout(instants.uniform(0, longest)):
                    await call(conn, 1)
            except TimeoutError:
                cancelled += 1
                # A busy machine may finish nothing in a short time.
                longest *= 2
            else:
                acknowledged += 1
                longest /= 2
        # Cancelled or not, this one must get through.
        await call(conn, 1)
        acknowledged += 1
        assert not conn.is_in_transaction()

    async with clients(pg, TASKS) as conns:
        await together(conns, work)
        assert await idle(pg)
    assert acknowledged <= await stored(pg, 1) <= acknowledged + cancelled
    assert cancelled > 0
    assert acknowledged > TASKS


@pytest.mark.parametrize(
    "db",
    [
        pytest.param("asyncpg", marks=asyncpg_cancels_well),
        pytest.param("pooled", marks=asyncpg_cancels_well),
        *("pool", "psycopg", "psycopg_pool"),
    ],
    indirect=True,
)
async def test_at_random_instants_of_tasks_that_share_a_handle(
    db: PostgresDatabase,
) -> None:
    await db.run(TABLES)
    instants = random.Random(0)  # noqa: S311  # no secret
    acknowledged = cancelled = 0

    async def work() -> None:
        nonlocal acknowledged, cancelled
        longest = 0.005
        for _ in range(40):
            try:
                async with asyncio.timeout(instants.uniform(0, longest)):
                    await count(db.handle, 1)
            except TimeoutError:
                cancelled += 1
                # A busy machine may finish nothing in a short time.
                longest *= 2
            else:
                acknowledged += 1
                longest /= 2

    await asyncio.gather(*(work() for _ in range(TASKS)))
    await count(db.handle, 1)
    assert acknowledged < await stored(db, 1) <= acknowledged + cancelled + 1
    assert cancelled > 0
    assert acknowledged > 0
    assert await idle(db)
