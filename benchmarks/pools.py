"""
A hundred tasks over pools of 1, 4 and 20: plain calls, and the same through a `Coalescer`.

The calls are for many rows, for ten, or for rows of which each takes 20 ms in a trigger;
over localhost, and over a network whose round trip takes 1 ms or 10 ms. Both ways take
turns in one run. What is counted are the calls that are answered in the time of a turn; a
ratio is the median over the turns, and no ratio may be below 0.95.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import asyncpg
from rich.table import Table

from aioupsert import Coalescer, F, create_or_update
from benchmarks.support.callers import COALESCED, PLAIN
from benchmarks.support.databases import create_table, postgresql_server
from benchmarks.support.delay import delayed
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import show, show_versions, verdict
from benchmarks.support.rows import seeded
from benchmarks.support.timing import in_turns, ratio

QUICK: Final = {"turns": 1, "seconds": 0.1, "tasks": 5}
POOLS: Final = (1, 4, 20)
LEAST_RATIO: Final = 0.95
SLOW: Final = (
    "CREATE OR REPLACE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;"
    "CREATE TRIGGER slow BEFORE INSERT OR UPDATE ON slow_views"
    " FOR EACH ROW EXECUTE FUNCTION slow()"
)


class Case(NamedTuple):
    """
    What is called for.

    Attributes:
        name: What it is called.
        table: The table.
        keys: Among how many rows the calls are spread.
        trip: How many milliseconds the network adds to a round trip.
    """

    name: str
    table: str
    keys: int
    trip: float


CASES: Final = (
    Case("fast rows", "views", 100_000, 0),
    Case("ten rows", "views", 10, 0),
    Case("slow rows", "slow_views", 100_000, 0),
    Case("fast rows, 1 ms", "views", 100_000, 1),
    Case("ten rows, 1 ms", "views", 10, 1),
    Case("fast rows, 10 ms", "views", 100_000, 10),
    Case("slow rows, 10 ms", "slow_views", 100_000, 10),
)


async def count_calls(
    call: Callable[..., Awaitable[object]], case: Case, options: Namespace
) -> int:
    """Return how many calls are answered in the time of a turn."""
    answered = 0
    # A new coalescer first has to see how long calls take.
    since = time.perf_counter() + options.seconds / 4
    until = since + options.seconds

    async def work(seed: int) -> None:
        nonlocal answered
        choose = seeded(seed)
        while time.perf_counter() < until:
            await call(
                key={"path": f"/page/{choose.randrange(case.keys)}"},
                defaults={"hits": F("hits") + 1, "note": "seen"},
            )
            answered += since <= time.perf_counter() < until

    async with asyncio.TaskGroup() as group:
        for task in range(options.tasks):
            group.create_task(work(task))
    return answered


async def plain(pool: Any, case: Case, options: Namespace, _turn: int) -> int:
    return await count_calls(partial(create_or_update, pool, case.table), case, options)


async def coalesced(pool: Any, case: Case, options: Namespace, _turn: int) -> int:
    async with Coalescer(pool, case.table, key="path") as coalescer:
        return await count_calls(coalescer.create_or_update, case, options)


async def compare(
    dsn: str, case: Case, size: int, options: Namespace, table: Table
) -> str | None:
    """Measure a case over a pool of a size; return its name if it is beyond its limit."""
    async with asyncpg.create_pool(dsn, min_size=size, max_size=size) as pool:
        ways = {
            PLAIN: partial(plain, pool, case, options),
            COALESCED: partial(coalesced, pool, case, options),
        }
        turns = await in_turns(ways, options.turns)
    rates = [
        f"{statistics.median(answered) / options.seconds:,.0f}"
        for answered in turns.values()
    ]
    ratios = ratio(turns[COALESCED], [number or 1 for number in turns[PLAIN]])
    table.add_row(case.name, str(size), *rates, *ratios.cells())
    return f"{case.name}, pool of {size}" if ratios.median < LEAST_RATIO else None


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each turn")
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--only", default="", help="cases with this in their name")
    add_check(parser)


async def measure_all(options: Namespace) -> int:
    table = Table(
        *("calls for", "pool", "plain, calls a second", "coalesced", "ratio"),
        "quartiles",
    )
    missed: list[str] = []
    with postgresql_server() as server:
        conn = await asyncpg.connect(server.dsn)
        for name in ("views", "slow_views"):
            await conn.execute(f"DROP TABLE IF EXISTS {name}; {create_table(name)}")
        await conn.execute(SLOW)
        address = urlsplit(server.dsn)
        for case in CASES:
            if options.only not in case.name:
                continue
            with delayed(
                str(address.hostname), address.port or 5432, case.trip / 1000
            ) as port:
                dsn = server.dsn
                if case.trip:
                    place = address.netloc.replace(f":{address.port}", f":{port}")
                    dsn = address._replace(netloc=place).geturl()
                for size in POOLS:
                    missed += filter(
                        None, [await compare(dsn, case, size, options, table)]
                    )
            table.add_section()
        await conn.execute("DROP TABLE views, slow_views; DROP FUNCTION slow()")
        await conn.close()
    show(table)
    show_versions(server)
    return verdict(missed, check=options.check)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
