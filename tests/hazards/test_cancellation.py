"""A call cancelled at any instant is stored or not, and its connection as good as new."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from functools import partial
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import F, Result, create_or_update
from tests.databases import PostgresDatabase
from tests.hazards.sessions import clients, together, waiting

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


class CancelledAt:
    """
    Awaits in a task of its own, and cancels it at one of its suspension points.

    Attributes:
        reached: Whether there was such a point.
    """

    def __init__(
        self, awaitable: Awaitable[Any], point: int, delay: float, *, twice: bool
    ) -> None:
        self.reached = False
        self._awaitable = awaitable
        self._left = point
        self._delay = delay
        self._twice = twice

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self._awaitable.__await__()
        step: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                future = step()
            except StopIteration as stop:
                return stop.value
            self._left -= 1
            if self._left == 0:
                self.reached = True
                self._cancel(self._delay)
            elif self._left == -1 and self._twice:
                # While it cleans up.
                self._cancel(0)
            try:
                value = yield future
            except BaseException as exc:  # noqa: BLE001  # whatever comes goes on inside
                step = partial(steps.throw, exc)
            else:
                step = partial(steps.send, value)

    @staticmethod
    def _cancel(delay: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        if delay:
            asyncio.get_running_loop().call_later(delay, task.cancel)
        else:
            task.cancel()

    async def outcome(self) -> bool:
        """Tell whether it was cancelled; other errors are raised."""

        async def wait() -> None:
            await self

        task = asyncio.create_task(wait())
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        return task.cancelled()


async def idle(pg: PostgresDatabase) -> bool:
    """Tell whether no session of the test has a transaction open."""
    return not await pg.query(
        "SELECT pid, state FROM pg_stat_activity"
        f" WHERE application_name = '{pg.schema}' AND pid <> pg_backend_pid()"
        " AND state <> 'idle'"
    )


async def stored(pg: PostgresDatabase, key: int) -> int:
    ((hits,),) = await pg.query(
        f"SELECT sum(hits) FROM (SELECT * FROM t UNION ALL SELECT * FROM bare) AS a"
        f" WHERE k = {key}"
    )
    return hits or 0


DELAYS: Final = [0, 0.0002, 0.0005, 0.001]
delays = pytest.mark.parametrize("delay", DELAYS)
twice = pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])


@twice
@delays
@pytest.mark.parametrize("call", [fast, exact, lock], ids=["fast", "exact", "lock"])
async def test_at_every_suspension_point(
    pg: PostgresDatabase, call: Any, delay: float, *, twice: bool
) -> None:
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


@twice
@delays
@pytest.mark.parametrize("call", [fast, exact, lock], ids=["fast", "exact", "lock"])
async def test_in_a_callers_transaction_at_every_suspension_point(
    pg: PostgresDatabase, call: Any, delay: float, *, twice: bool
) -> None:
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


@pytest.mark.parametrize("call", [fast, exact, lock], ids=["fast", "exact", "lock"])
async def test_at_random_instants_nothing_acknowledged_is_lost(
    pg: PostgresDatabase, call: Any
) -> None:
    await pg.run(TABLES)
    instants = random.Random(0)  # noqa: S311  # no secret
    acknowledged = cancelled = 0

    async def work(conn: Any, _: int) -> None:
        nonlocal acknowledged, cancelled
        for _ in range(40):
            try:
                async with asyncio.timeout(instants.uniform(0, 0.02)):
                    await call(conn, 1)
            except TimeoutError:
                cancelled += 1
            else:
                acknowledged += 1
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
    "db", ["asyncpg", "pooled", "pool", "psycopg", "psycopg_pool"], indirect=True
)
async def test_at_random_instants_of_tasks_that_share_a_handle(
    db: PostgresDatabase,
) -> None:
    await db.run(TABLES)
    instants = random.Random(0)  # noqa: S311  # no secret
    acknowledged = cancelled = 0

    async def work() -> None:
        nonlocal acknowledged, cancelled
        for _ in range(40):
            try:
                async with asyncio.timeout(instants.uniform(0, 0.02)):
                    await count(db.handle, 1)
            except TimeoutError:
                cancelled += 1
            else:
                acknowledged += 1

    await asyncio.gather(*(work() for _ in range(TASKS)))
    await count(db.handle, 1)
    assert acknowledged < await stored(db, 1) <= acknowledged + cancelled + 1
    assert cancelled > 0
    assert acknowledged > 0
    assert await idle(db)
