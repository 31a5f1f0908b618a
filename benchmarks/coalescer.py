"""
Many concurrent callers: plain calls, and the same through a `Coalescer`.

    python benchmarks/coalescer.py [--plot docs/images/coalescer.svg]

A thousand tasks upsert rows of (text key, counter, text) over one pool of 10, or one
aiosqlite connection, and every count is checked at the end. Both ways take turns in one
run; a ratio is the median over the pairs of turns. A lone caller is measured too.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiosqlite
import asyncpg
import matplotlib as mpl
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioupsert import Coalescer, F, create_or_update  # the checkout's, see above
from tests.support.servers import (  # as above
    NoServerError,
    session_server,
    stop_session_server,
)

Call = Callable[..., Awaitable[object]]

SCHEMA = """
CREATE TABLE views (path text PRIMARY KEY, hits integer NOT NULL DEFAULT 0, note text)
"""
SPREAD, HOT = 100_000, 100


class Case(NamedTuple):
    """
    What is measured.

    Attributes:
        name: What it is called.
        keys: Among how many rows the calls are spread.
        tasks: How many tasks there are.
        least: How many times the plain calls per second there must be.
    """

    name: str
    keys: int
    tasks: int
    least: float


class Turn(NamedTuple):
    """
    How it went.

    Attributes:
        rate: Calls per second.
        seconds: Every call's.
        busy: The share of the time in which this process used a processor.
    """

    rate: float
    seconds: list[float]
    busy: float


class Database(NamedTuple):
    """Where it is measured."""

    handle: Any
    empty: Callable[[], Awaitable[object]]
    total: Callable[[], Awaitable[int]]


async def on_postgresql(pool: asyncpg.Pool[asyncpg.Record]) -> Database:
    """Measure with an empty table of PostgreSQL."""
    await pool.execute(f"DROP TABLE IF EXISTS views; {SCHEMA}")

    async def total() -> int:
        return int(await pool.fetchval("SELECT coalesce(sum(hits), 0) FROM views"))

    # A deleted row stays for later turns to step over, until it is vacuumed.
    return Database(pool, partial(pool.execute, "TRUNCATE views"), total)


async def measure(call: Call, case: Case, number: int) -> Turn:
    """Make calls from many tasks at once."""
    choose = random.Random(0)  # noqa: S311  # no secret
    # Before the clock is started, which choosing would take part of.
    paths = [
        [f"/page/{choose.randrange(case.keys)}" for _ in range(number // case.tasks)]
        for _ in range(case.tasks)
    ]
    seconds: list[float] = []

    async def work(its: list[str]) -> None:
        for path in its:
            started = time.perf_counter()
            await call(
                key={"path": path}, defaults={"hits": F("hits") + 1, "note": "seen"}
            )
            seconds.append(time.perf_counter() - started)

    started, used = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for its in paths:
            group.create_task(work(its))
    took, used = time.perf_counter() - started, time.process_time() - used
    return Turn(len(seconds) / took, sorted(seconds), used / took)


@asynccontextmanager
async def plainly(handle: Any) -> AsyncIterator[Call]:
    async def call(**options: Any) -> object:
        return await create_or_update(handle, "views", **options)

    yield call


@asynccontextmanager
async def together(handle: Any) -> AsyncIterator[Call]:
    async with Coalescer(handle, "views", key="path") as coalescer:
        yield coalescer.create_or_update


async def turns(
    database: Database, case: Case, number: int, calls: int
) -> AsyncGenerator[tuple[Turn, Turn]]:
    """Measure both ways, one after the other, from the same empty table each."""
    for turn in range(number + 1):
        pair: list[Turn] = []
        # So that both take about as long.
        for way, share in ((plainly, 1), (together, 1 if case.tasks == 1 else 8)):
            await database.empty()
            async with way(database.handle) as call:
                pair.append(await measure(call, case, calls * share))
            assert await database.total() == calls * share
        if turn:  # the first one prepares statements and reads the catalog
            yield pair[0], pair[1]


CASES = (
    Case("spread", SPREAD, 1_000, 5),
    Case("100 hot keys", HOT, 1_000, 10),
    Case("one caller", SPREAD, 1, 1 / 1.3),
)


async def compare(
    engine: str,
    database: Database,
    results: Table,
    options: argparse.Namespace,
    latencies: dict[str, list[float]],
) -> list[str]:
    """Fill in the table and the latencies; name what is below its limit."""
    missed: list[str] = []
    for case in CASES:
        if engine == "aiosqlite" and case.keys == HOT:
            continue
        pairs: list[tuple[Turn, Turn]] = []
        async with aclosing(
            turns(database, case, options.turns, options.calls)
        ) as measured:
            async for plain, ours in measured:
                pairs.append((plain, ours))
                report(f"{engine}, {case.name}", plain, ours)
        ratios = [ours.rate / plain.rate for plain, ours in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        name = f"{engine}, {case.name}"
        for way, some in (
            ("plain", [plain for plain, _ in pairs]),
            ("coalesced", [ours for _, ours in pairs]),
        ):
            seconds = sorted(s for turn in some for s in turn.seconds)
            latencies[f"{name}, {way}"] = seconds
            p50, p99 = (seconds[int(len(seconds) * q)] * 1e3 for q in (0.5, 0.99))
            rate = statistics.median(turn.rate for turn in some)
            is_ours = way == "coalesced"
            results.add_row(
                name if not is_ours else "",
                way,
                f"{rate:,.0f}",
                f"{p50:.2f}",
                f"{p99:.2f}",
                f"{middle:.2f}" if is_ours else "",
                f"{low:.2f} to {high:.2f}" if is_ours else "",
                f"{case.least:.2f}" if is_ours else "",
                f"{100 * statistics.median(turn.busy for turn in some):.0f}",
            )
        results.add_section()
        if middle < case.least:
            missed.append(name)
    return missed


def report(name: str, plain: Turn, ours: Turn) -> None:
    print(f"{name}: {plain.rate:,.0f}/s, {ours.rate:,.0f}/s", file=sys.stderr)


def plot(latencies: dict[str, list[float]], path: Path) -> None:
    """Draw the share of calls that were answered within a time."""
    mpl.use("agg")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    colours = iter(("#1f77b4", "#2ca02c", "#9467bd"))
    for name, seconds in latencies.items():
        if "one caller" in name:
            continue
        is_plain = name.endswith("plain")
        colour = colour_of(name, colours if is_plain else None)
        shares = [100 * n / 200 for n in range(200)]
        times = [seconds[len(seconds) * n // 200] * 1e3 for n in range(200)]
        axes.plot(times, shares, "--" if is_plain else "-", color=colour, label=name)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds from call to answer")
    axes.set_ylabel("% of calls")
    axes.set_title("1,000 tasks at once")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


_drawn: dict[str, str] = {}


def colour_of(name: str, fresh: Any) -> str:
    """Give both ways of a case one colour."""
    case = name.rpartition(", ")[0]
    if fresh is not None:
        _drawn[case] = next(fresh)
    return _drawn[case]


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--calls", type=int, default=5_000, help="plain ones, a turn")
    parser.add_argument("--plot", type=Path, help="draw the latencies to this file")
    parser.add_argument("--check", action="store_true", help="fail below the limits")
    options = parser.parse_args()
    results = Table(
        *("case", "calls", "a second", "p50, ms", "p99, ms"),
        *("times plain", "quartiles", "at least", "busy, %"),
    )
    latencies: dict[str, list[float]] = {}
    # Or every garbage collection goes through the libraries that draw, too.
    gc.freeze()
    server = session_server()
    if isinstance(server, NoServerError):
        raise server
    async with asyncpg.create_pool(server.dsn, min_size=10, max_size=10) as pool:
        database = await on_postgresql(pool)
        missed = await compare("asyncpg", database, results, options, latencies)
    with tempfile.TemporaryDirectory() as folder:
        async with aiosqlite.connect(
            Path(folder) / "bench.db", isolation_level=None
        ) as conn:
            await conn.execute("PRAGMA journal_mode = WAL")
            await conn.execute("PRAGMA synchronous = NORMAL")
            await conn.execute(SCHEMA)

            async def lite_total() -> int:
                rows = await conn.execute_fetchall("SELECT total(hits) FROM views")
                return int(next(iter(rows))[0])

            database = Database(
                conn, partial(conn.execute, "DELETE FROM views"), lite_total
            )
            missed += await compare("aiosqlite", database, results, options, latencies)
    Console().print(results)
    print(f"{server.version} from {server.origin}, Python {sys.version.split()[0]}")
    for case in missed:
        print(f"below its limit: {case}")
    if options.plot is not None:
        plot(latencies, options.plot)
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    finally:
        stop_session_server()
