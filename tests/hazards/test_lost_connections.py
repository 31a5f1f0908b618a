"""A lost connection is the driver's error, and never tried again: nobody knows more."""

import asyncio
import gc
import itertools
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import F, Result, create_or_update, is_retryable
from tests.support.databases import PostgresDatabase, connected, url_in
from tests.support.sessions import waiting
from tests.support.versions import asyncpg_cancels_well
from tests.support.violations import ENDED

TABLES: Final = """
CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0);
CREATE TABLE bare (k integer, hits integer DEFAULT 0)
"""


async def count(conn: Any, key: int = 1, table: str = "t", **options: Any) -> Result:
    hits = F("hits") + 1
    return await create_or_update(
        conn, table, key={"k": key}, defaults={"hits": hits}, **options
    )


CALLS: Final[dict[str, Any]] = {
    "fast": count,
    "exact": partial(count, strategy="exact"),
    "on_conflict": partial(count, strategy="on_conflict"),
    "lock": partial(count, table="bare", without_unique_index="lock"),
}


async def kill(second: Any, pid: int) -> None:
    """End the session by a second connection, and return when it is gone."""
    await second.execute(
        f"SELECT pg_terminate_backend({pid});"
        "DO $$ BEGIN WHILE EXISTS"
        f" (SELECT FROM pg_stat_get_activity({pid}))"
        " LOOP PERFORM pg_sleep(0.001), pg_stat_clear_snapshot(); END LOOP; END $$"
    )


async def total(pg: PostgresDatabase) -> int:
    ((hits,),) = await pg.query(
        "SELECT sum(hits) FROM (SELECT * FROM t UNION ALL SELECT * FROM bare) AS a"
    )
    return hits or 0


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "used"])
@pytest.mark.parametrize("name", CALLS)
async def test_before_the_call(pg: PostgresDatabase, name: str, *, used: bool) -> None:
    await pg.run(TABLES)
    async with pg.connect() as conn:
        if used:
            await CALLS[name](conn)
        await kill(pg._second, conn.get_server_pid())
        with pytest.raises(ENDED) as caught:
            await CALLS[name](conn)
    assert not is_retryable(caught.value)
    assert await total(pg) == used


def kill_from_elsewhere(pg: PostgresDatabase, pid: int) -> None:
    """Kill it while this event loop stands still, so that the driver reads nothing."""

    async def connect_and_kill() -> None:
        async with connected(pg._dsn, pg.schema) as second:
            await kill(second, pid)

    with ThreadPoolExecutor() as pool:
        pool.submit(asyncio.run, connect_and_kill()).result()


async def test_before_the_call_without_a_sign_of_it_yet(pg: PostgresDatabase) -> None:
    await pg.run(TABLES)
    async with pg.connect() as conn:
        await count(conn)
        kill_from_elsewhere(pg, conn.get_server_pid())
        with pytest.raises(ENDED) as caught:
            await count(conn)
    assert not is_retryable(caught.value)
    assert await total(pg) == 1


class ActingAt:
    """
    Awaits, and acts when one of the answers has come, before it is looked at.

    Attributes:
        reached: Whether there were so many.
    """

    def __init__(
        self, awaitable: Awaitable[Any], point: int, act: Callable[[], None]
    ) -> None:
        self.reached = False
        self._awaitable = awaitable
        self._point = point
        self._act = act

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self._awaitable.__await__()
        for number in itertools.count():
            try:
                future = steps.send(None)
            except StopIteration as stop:
                return stop.value
            yield future
            if number == self._point:
                self.reached = True
                self._act()


@pytest.mark.parametrize("name", CALLS)
async def test_terminated_when_an_answer_has_come(
    pg: PostgresDatabase, name: str
) -> None:
    await pg.run(TABLES)
    for point in itertools.count():
        # Nothing is prepared on it, so that there are many answers.
        async with pg.connect() as conn:
            call = ActingAt(CALLS[name](conn), point, conn.terminate)
            try:
                await call
            except ENDED:
                assert call.reached
        if not call.reached:
            break
    assert point >= 4


class Careless(asyncpg.Connection):
    """A connection of the caller's own making, with a mistake in it."""

    mistaken = False

    async def fetch(self, *args: Any, **options: Any) -> list[Any]:
        if self.mistaken:
            args[0].nothing()
        rows: list[Any] = await super().fetch(*args, **options)
        return rows


@pytest.mark.parametrize("name", CALLS)
async def test_a_mistake_of_the_caller_s_is_not_taken_for_a_closed_connection(
    pg: PostgresDatabase, name: str
) -> None:
    await pg.run(TABLES)
    conn = await asyncpg.connect(url_in(pg._dsn, pg.schema), connection_class=Careless)
    try:
        await CALLS[name](conn)
        conn.mistaken = True
        with pytest.raises(AttributeError, match="nothing"):
            await CALLS[name](conn)
    finally:
        await conn.close()
    assert await total(pg) == 1


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("name", CALLS)
async def test_during_the_call(
    pg: PostgresDatabase, name: str, *, inside: bool
) -> None:
    await pg.run(TABLES)
    async with pg.connect() as conn, pg.connect() as other:
        await CALLS[name](conn)
        if inside:
            await conn.execute("BEGIN")
        async with other.transaction():
            await CALLS[name](other)
            call = asyncio.create_task(CALLS[name](conn))
            await waiting(pg, conn)
            await kill(pg._second, conn.get_server_pid())
            with pytest.raises(ENDED) as caught:
                await call
    assert not is_retryable(caught.value)
    assert await total(pg) == 2


# A pool of older releases is not closed in time then.
@asyncpg_cancels_well
@pytest.mark.parametrize("db", ["pool"], indirect=True)
async def test_the_pool_goes_on_with_another_connection(db: PostgresDatabase) -> None:
    await db.run(TABLES)
    await count(db.handle)
    async with db.handle.acquire() as conn:
        pid = conn.get_server_pid()
    await kill(db._second, pid)
    acknowledged = unknown = 0
    for _ in range(3):
        try:
            await count(db.handle)
            acknowledged += 1
        except ENDED:
            unknown += 1
    # At most one of them has met the dead connection, on which nothing can happen.
    assert unknown <= 1
    assert await total(db) == 1 + acknowledged


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("db", ["pooled"], indirect=True)
async def test_a_pool_that_takes_it_back_hides_nothing(
    db: PostgresDatabase, name: str, *, inside: bool
) -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: complaints.append(c))
    await db.run(TABLES)
    async with db.connect() as other, other.transaction():
        await CALLS[name](other)
        if inside:
            await db.handle.execute("BEGIN")
        call = asyncio.create_task(CALLS[name](db.handle))
        await waiting(db, db.handle)
        # Without a word of the server's.
        db.handle._con._transport.abort()
        with pytest.raises(asyncpg.ConnectionDoesNotExistError):
            await call
    del call
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("at", range(0, 60, 4))
async def test_at_any_instant_nothing_is_counted_twice(
    pg: PostgresDatabase, at: int
) -> None:
    await pg.run(TABLES)
    acknowledged = unknown = 0
    now = asyncio.Event()

    async def work(conn: Any) -> None:
        nonlocal acknowledged, unknown
        try:
            while True:
                if acknowledged >= at:
                    now.set()
                await count(conn)
                acknowledged += 1
        except ENDED:
            unknown += 1

    async with pg.connect() as one, pg.connect() as two:
        tasks = [asyncio.create_task(work(conn)) for conn in (one, two)]
        await now.wait()
        await kill(pg._second, one.get_server_pid())
        await kill(pg._second, two.get_server_pid())
        await asyncio.gather(*tasks)
    assert unknown == 2
    assert acknowledged <= await total(pg) <= acknowledged + unknown
