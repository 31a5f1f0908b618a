"""Many tasks that call at once: plain calls, and the same through a `Coalescer`."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import aiosqlite
import asyncpg

from aioupsert import Coalescer, F, create_or_update
from benchmarks.support.rows import seeded
from benchmarks.support.timing import in_turns, stopwatch

Call: TypeAlias = Callable[..., Awaitable[object]]
"""Counts a view of the page of a key."""

PLAIN: Final = "plain"
COALESCED: Final = "coalesced"
# Times as many coalesced calls in a turn, so that both ways take about as long.
COALESCED_SHARE: Final = 8
POOL_SIZE: Final = 10


class Load(NamedTuple):
    """
    The calls that are made.

    Attributes:
        name: What it is called.
        keys: Among how many rows the calls are spread.
        tasks: How many tasks make them.
        calls: How many plain calls are made in a turn.
    """

    name: str
    keys: int
    tasks: int
    calls: int


class Turn(NamedTuple):
    """
    How one way went in one turn.

    Attributes:
        rate: Calls per second.
        latencies: The seconds that each call took.
        cpu: Processor time of this process for a call, user and system, in seconds.
        busy: The share of the time in which this process used a processor.
    """

    rate: float
    latencies: list[float]
    cpu: float
    busy: float


class Store(NamedTuple):
    """
    Where the calls go.

    Attributes:
        handle: What is passed to the library.
        empty: Empties the table.
        total: Returns the sum of all hits.
    """

    handle: Any
    empty: Callable[[], Awaitable[object]]
    total: Callable[[], Awaitable[int]]


def postgresql_store(
    conn: asyncpg.Connection[asyncpg.Record], pool: asyncpg.Pool[asyncpg.Record]
) -> Store:
    """Call over the pool; look at the table over the connection."""

    async def total() -> int:
        return int(await conn.fetchval("SELECT coalesce(sum(hits), 0) FROM views"))

    # Not DELETE: later turns would step over the dead rows until they are vacuumed.
    return Store(pool, partial(conn.execute, "TRUNCATE views"), total)


def sqlite_store(conn: aiosqlite.Connection) -> Store:
    """Call over the connection, and look at the table over it."""

    async def total() -> int:
        rows = await conn.execute_fetchall("SELECT total(hits) FROM views")
        return int(next(iter(rows))[0])

    return Store(conn, partial(conn.execute, "DELETE FROM views"), total)


@asynccontextmanager
async def plain_calls(handle: Any) -> AsyncIterator[Call]:
    async def call(**options: Any) -> object:
        return await create_or_update(handle, "views", **options)

    yield call


@asynccontextmanager
async def coalesced_calls(handle: Any) -> AsyncIterator[Call]:
    async with Coalescer(handle, "views", key="path") as coalescer:
        yield coalescer.create_or_update


async def call_from_tasks(call: Call, load: Load, calls: int) -> Turn:
    """Make so many calls from many tasks at once."""
    choose = seeded(0)
    # Before the clock starts, as choosing takes time too.
    paths = [
        [f"/page/{choose.randrange(load.keys)}" for _ in range(calls // load.tasks)]
        for _ in range(load.tasks)
    ]
    latencies: list[float] = []

    async def work(its: list[str]) -> None:
        for path in its:
            started = time.perf_counter()
            await call(
                key={"path": path}, defaults={"hits": F("hits") + 1, "note": "seen"}
            )
            latencies.append(time.perf_counter() - started)

    with stopwatch() as elapsed:
        async with asyncio.TaskGroup() as group:
            for its in paths:
                group.create_task(work(its))
    return Turn(
        rate=len(latencies) / elapsed.wall,
        latencies=latencies,
        cpu=elapsed.cpu / len(latencies),
        busy=elapsed.cpu / elapsed.wall,
    )


async def measure(store: Store, load: Load, turns: int) -> dict[str, list[Turn]]:
    """Measure both ways, from the same empty table each time; every count is checked."""

    async def timed(
        name: str,
        opened: Callable[[Any], AbstractAsyncContextManager[Call]],
        calls: int,
        turn: int,
    ) -> Turn:
        await store.empty()
        async with opened(store.handle) as call:
            result = await call_from_tasks(call, load, calls)
        assert await store.total() == len(result.latencies) == calls
        if turn:
            rate = f"{result.rate:,.0f} calls a second"
            print(f"{load.name}, {name}: {rate}", file=sys.stderr)
        return result

    # Or every garbage collection goes through all that the benchmark imported.
    gc.freeze()
    share = 1 if load.tasks == 1 else COALESCED_SHARE
    return await in_turns(
        {
            PLAIN: partial(timed, PLAIN, plain_calls, load.calls),
            COALESCED: partial(timed, COALESCED, coalesced_calls, load.calls * share),
        },
        turns,
    )
