"""
A thousand tasks that call at once: plain calls, and the same through a `Coalescer`.

They upsert rows of (text key, counter, text) over one pool of 10, or over one aiosqlite
connection, and every count is checked. Both ways take turns in one run; a ratio is the
median over the turns. A lone caller is measured too. CPU is the processor time of this
process for a call (user and system); the last column is the share of the time in which
this process used a processor.
"""

from __future__ import annotations

import asyncio
import statistics
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Final, NamedTuple

import asyncpg
import matplotlib as mpl
from matplotlib import pyplot as plt
from rich.table import Table

from benchmarks.support.callers import (
    COALESCED,
    PLAIN,
    POOL_SIZE,
    Load,
    Store,
    Turn,
    measure,
    postgresql_store,
    sqlite_store,
)
from benchmarks.support.databases import (
    postgresql,
    postgresql_server,
    sqlite,
    sqlite_path,
)
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import microseconds, show, show_versions, verdict
from benchmarks.support.timing import ratio

QUICK: Final = {"turns": 1, "calls": 1_000}
SPREAD: Final = "spread"
HOT: Final = "100 hot keys"
LONE: Final = "one caller"


class Case(NamedTuple):
    """
    What is measured.

    Attributes:
        name: What it is called.
        keys: Among how many rows the calls are spread.
        tasks: How many tasks there are.
        limit: The lowest ratio of the rates that is good enough.
    """

    name: str
    keys: int
    tasks: int
    limit: float


class Latencies(NamedTuple):
    """
    How long the calls of a case took.

    Attributes:
        name: What it is called.
        plain: Seconds, in order.
        coalesced: The same through a `Coalescer`.
    """

    name: str
    plain: list[float]
    coalesced: list[float]


CASES: Final = (
    Case(SPREAD, 100_000, 1_000, 5),
    Case(HOT, 100, 1_000, 10),
    Case(LONE, 100_000, 1, 1 / 1.3),
)


class Comparison:
    """
    The figures of all cases.

    Attributes:
        table: A line for each way of each case.
        too_slow: The cases below their limit.
        latencies: How long the calls took, for cases of many callers.
    """

    def __init__(self) -> None:
        self.table = Table(
            *("case", "calls", "a second", "p50, ms", "p99, ms", "times plain"),
            *("quartiles", "at least", "CPU, µs", "CPU ratio", "quartiles", "busy, %"),
        )
        self.too_slow: list[str] = []
        self.latencies: list[Latencies] = []

    async def measure(
        self, driver: str, store: Store, case: Case, options: Namespace
    ) -> None:
        """Measure a case and add its figures."""
        name = f"{driver}, {case.name}"
        load = Load(name, case.keys, case.tasks, options.calls)
        turns = await measure(store, load, options.turns)
        plain, coalesced = turns[PLAIN], turns[COALESCED]
        rates = ratio(rates_of(coalesced), rates_of(plain))
        cpu = ratio(cpu_of(coalesced), cpu_of(plain))
        self.table.add_row(
            name, PLAIN, *figures(plain), "", "", "", *cpu_figures(plain, "", "")
        )
        self.table.add_row(
            "",
            COALESCED,
            *figures(coalesced),
            *rates.cells(),
            f"{case.limit:.2f}",
            *cpu_figures(coalesced, *cpu.cells()),
        )
        self.table.add_section()
        if rates.median < case.limit:
            self.too_slow.append(name)
        if case.tasks > 1:
            self.latencies.append(
                Latencies(name, sorted_of(plain), sorted_of(coalesced))
            )


def rates_of(turns: list[Turn]) -> list[float]:
    return [turn.rate for turn in turns]


def cpu_of(turns: list[Turn]) -> list[float]:
    return [turn.cpu for turn in turns]


def sorted_of(turns: list[Turn]) -> list[float]:
    return sorted(seconds for turn in turns for seconds in turn.latencies)


def figures(turns: list[Turn]) -> tuple[str, ...]:
    seconds = sorted_of(turns)
    p50, p99 = (seconds[int(len(seconds) * share)] * 1e3 for share in (0.5, 0.99))
    return f"{statistics.median(rates_of(turns)):,.0f}", f"{p50:.2f}", f"{p99:.2f}"


def cpu_figures(turns: list[Turn], *ratios: str) -> tuple[str, ...]:
    busy = 100 * statistics.median(turn.busy for turn in turns)
    return microseconds(cpu_of(turns)), *ratios, f"{busy:.0f}"


def draw(latencies: list[Latencies], path: Path) -> None:
    """Draw the share of calls that were answered within a time."""
    mpl.use("agg")
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    colours = ("#1f77b4", "#2ca02c", "#9467bd")
    percentages = [100 * n / 200 for n in range(200)]
    for case, colour in zip(latencies, colours, strict=True):
        for way, line, seconds in (
            (PLAIN, "--", case.plain),
            (COALESCED, "-", case.coalesced),
        ):
            times = [seconds[len(seconds) * n // 200] * 1e3 for n in range(200)]
            label = f"{case.name}, {way}"
            axes.plot(times, percentages, line, color=colour, label=label)
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds from call to answer")
    axes.set_ylabel("% of calls")
    axes.set_title("1,000 tasks at once")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 7)
    parser.add_argument("--calls", type=int, default=5_000, help="plain ones in a turn")
    parser.add_argument("--plot", type=Path, help="draw the latencies to this file")
    add_check(parser)


async def measure_all(options: Namespace) -> int:
    comparison = Comparison()
    with postgresql_server() as server:
        async with (
            postgresql(server.dsn, "views") as conn,
            asyncpg.create_pool(
                server.dsn, min_size=POOL_SIZE, max_size=POOL_SIZE
            ) as pool,
        ):
            store = postgresql_store(conn, pool)
            for case in CASES:
                await comparison.measure("asyncpg", store, case, options)
    with sqlite_path() as path:
        async with sqlite(path, "views") as lite:
            store = sqlite_store(lite)
            for case in CASES:
                if case.name != HOT:
                    await comparison.measure("aiosqlite", store, case, options)
    show(comparison.table)
    show_versions(server)
    if options.plot is not None:
        draw(comparison.latencies, options.plot)
    return verdict(comparison.too_slow, check=options.check)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
