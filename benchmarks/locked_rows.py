"""
A thousand tasks that share a `Coalescer`, while a hundredth of the rows is locked.

Another session holds the locks of some rows for as long as the tasks call. One way, these
are rows that nobody calls for; the other way, a hundredth of the tasks calls for them.
What is measured are the calls for the other rows. Both ways take turns in one run over a
pool of 10; a ratio is the median over the turns.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import asyncpg
from rich.table import Table

from aioupsert import Coalescer, F
from benchmarks.support.callers import POOL_SIZE
from benchmarks.support.databases import postgresql, postgresql_server
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import show, show_versions, verdict
from benchmarks.support.rows import seeded
from benchmarks.support.timing import in_turns, ratio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

QUICK: Final = {"turns": 1, "seconds": 0.2, "tasks": 20}
ROWS: Final = 2_000
# A hundredth of the rows, and as many that nobody calls for.
CALLED: Final = range(ROWS // 100)
UNCALLED: Final = range(ROWS, ROWS + ROWS // 100)
LEAST_RATE: Final = 0.8
MOST_P99: Final = 2.0


class Turn(NamedTuple):
    """
    How the calls for rows that are not locked went.

    Attributes:
        rate: Calls a second.
        p50: In seconds.
        p99: In seconds.
    """

    rate: float
    p50: float
    p99: float


@asynccontextmanager
async def locked(dsn: str, rows: range) -> AsyncGenerator[None]:
    """Hold the locks of rows."""
    conn = await asyncpg.connect(dsn)
    try:
        async with conn.transaction():
            await conn.execute(
                "UPDATE views SET note = note WHERE path = ANY ($1)",
                [*map(str, rows)],
            )
            yield
    finally:
        await conn.close()


async def call_for(
    coalescer: Coalescer, rows: range, until: float, latencies: list[float], seed: int
) -> None:
    """Call for any of the rows, one after the other."""
    choose = seeded(seed)
    while (started := time.perf_counter()) < until:
        await coalescer.create_or_update(
            key={"path": str(choose.choice(rows))},
            defaults={"hits": F("hits") + 1, "note": "seen"},
        )
        latencies.append(time.perf_counter() - started)


async def measure(
    dsn: str,
    pool: asyncpg.Pool[asyncpg.Record],
    options: Namespace,
    rows: range,
    turn: int,
) -> Turn:
    """Measure while these rows are locked."""
    # Neither way has to step over the dead rows of the other.
    await pool.execute("VACUUM views")
    latencies: list[float] = []
    in_vain = options.tasks // 100 or 1
    async with Coalescer(pool, "views", key="path") as coalescer:
        begin = partial(call_for, coalescer)
        until = time.perf_counter() + options.seconds
        async with asyncio.TaskGroup() as group, locked(dsn, rows):
            for task in range(in_vain):
                group.create_task(begin(CALLED, until, [], turn + task))
            others = [
                group.create_task(
                    begin(range(CALLED.stop, ROWS), until, latencies, turn + task)
                )
                for task in range(options.tasks - in_vain)
            ]
            await asyncio.wait(others)
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * share)] for share in (0.5, 0.99))
    return Turn(len(latencies) / options.seconds, p50, p99)


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--tasks", type=int, default=1_000)
    add_check(parser)


async def measure_all(options: Namespace) -> int:
    with postgresql_server() as server:
        async with (
            postgresql(server.dsn, "views") as conn,
            asyncpg.create_pool(
                server.dsn, min_size=POOL_SIZE, max_size=POOL_SIZE
            ) as pool,
        ):
            await conn.execute(
                "INSERT INTO views SELECT i, 0, '' FROM generate_series(0, $1) AS i",
                UNCALLED.stop - 1,
            )
            ways: dict[str, Callable[[int], Awaitable[Turn]]] = {
                "rows that nobody calls for": partial(
                    measure, server.dsn, pool, options, UNCALLED
                ),
                "rows that some call for": partial(
                    measure, server.dsn, pool, options, CALLED
                ),
            }
            turns = await in_turns(ways, options.turns)
    table = Table("locked", "calls a second", "p50, ms", "p99, ms")
    for name, measured in turns.items():
        rate, p50, p99 = (
            statistics.median(each) for each in zip(*measured, strict=True)
        )
        table.add_row(name, f"{rate:,.0f}", f"{p50 * 1e3:.1f}", f"{p99 * 1e3:.1f}")
    usual, hindered = turns.values()
    rates = ratio([t.rate for t in hindered], [t.rate for t in usual])
    p99s = ratio([t.p99 for t in hindered], [t.p99 for t in usual])
    table.add_row("ratio", f"{rates.median:.2f}", "", f"{p99s.median:.2f}")
    show(table)
    show_versions(server)
    missed: list[str] = []
    if rates.median < LEAST_RATE:
        missed.append(f"{rates.median:.2f} of the calls a second")
    if p99s.median > MOST_P99:
        missed.append(f"{p99s.median:.2f} times the p99")
    return verdict(missed, check=options.check)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
