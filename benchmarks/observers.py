"""
What observers cost: a call with no observer, and with each kind of them.

On aiosqlite in memory, where a call is quickest and the difference shows most. All take
turns in one run; a ratio is the median over the turns of the time divided by that of a
call with no observer.
"""

from __future__ import annotations

import asyncio
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from typing import Final

import aiosqlite
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from rich.table import Table

from aioupsert import Event, F, create_or_update, observe, on_event
from aioupsert.observers.opentelemetry import spans
from aioupsert.observers.prometheus import metrics
from benchmarks.support.databases import create_table
from benchmarks.support.options import add_turns
from benchmarks.support.report import show, show_versions
from benchmarks.support.timing import in_turns, ratio, stopwatch

Begin = Callable[[], Callable[[], object]]
"""Starts to observe, and returns what ends it."""

QUICK: Final = {"turns": 1, "calls": 50}


def no_observer() -> Callable[[], object]:
    return lambda: None


def a_function() -> Callable[[], object]:
    def seen(event: Event) -> None:
        assert event.error is None

    return on_event(seen)


async def measure(turns: int, calls: int) -> dict[str, list[float]]:
    """Return the microseconds of a call with each observer, turn by turn."""
    async with aiosqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.execute(create_table("views"))

        async def timed(begin: Begin, _turn: int) -> float:
            stop = begin()
            with stopwatch() as elapsed:
                for _ in range(calls):
                    await create_or_update(
                        conn,
                        "views",
                        key={"path": "/"},
                        defaults={"hits": F("hits") + 1},
                    )
            stop()
            return elapsed.wall / calls * 1e6

        ways: dict[str, Begin] = {
            "none": no_observer,
            "none, again": no_observer,
            "a function": a_function,
            "Prometheus": partial(on_event, metrics(CollectorRegistry())),
            # Spans are made and ended, and go nowhere.
            "OpenTelemetry": partial(observe, spans(TracerProvider())),
        }
        timed_ways = {name: partial(timed, begin) for name, begin in ways.items()}
        return await in_turns(timed_ways, turns)


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 30)
    parser.add_argument("--calls", type=int, default=500, help="of each way in a turn")


def run(options: Namespace) -> int:
    times = asyncio.run(measure(options.turns, options.calls))
    table = Table("observer", "µs a call", "ratio", "quartiles")
    for name, its in times.items():
        ratios = ratio(its, times["none"])
        table.add_row(name, f"{statistics.median(its):.1f}", *ratios.cells(digits=3))
    show(table)
    show_versions()
    return 0
