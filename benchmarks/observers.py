"""
What it costs to be observed: a call with no observer, and with each kind of them.

    python benchmarks/observers.py

On aiosqlite in memory, where a call is quickest, and what is added shows most. All take
turns in one run; a ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import aiosqlite
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioupsert import (  # the checkout's, see above
    Event,
    F,
    create_or_update,
    observe,
    on_event,
)
from aioupsert.observers.opentelemetry import spans
from aioupsert.observers.prometheus import metrics

SCHEMA = "CREATE TABLE views (path text PRIMARY KEY, hits integer DEFAULT 0)"


def seen(event: Event) -> None:
    assert event.error is None


async def turn(conn: aiosqlite.Connection, calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        await create_or_update(
            conn, "views", key={"path": "/"}, defaults={"hits": F("hits") + 1}
        )
    return (time.perf_counter() - started) / calls * 1e6


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    count = metrics(CollectorRegistry())
    # Spans are made and ended, and go nowhere.
    trace = spans(TracerProvider())
    ways: dict[str, Callable[[], Callable[[], object]]] = {
        "none": lambda: lambda: None,
        "none, again": lambda: lambda: None,
        "a function": lambda: on_event(seen),
        "Prometheus": lambda: on_event(count),
        "OpenTelemetry": lambda: observe(trace),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    async with aiosqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.execute(SCHEMA)
        await turn(conn, options.calls)
        for _ in range(options.turns):
            for name, begin in ways.items():
                stop = begin()
                times[name].append(await turn(conn, options.calls))
                stop()
    table = Table("observer", "µs a call", "ratio", "quartiles")
    for name, its in times.items():
        ratios = [a / b for a, b in zip(its, times["none"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        table.add_row(
            name,
            f"{statistics.median(its):.1f}",
            f"{middle:.3f}",
            f"{low:.3f} to {high:.3f}",
        )
    Console().print(table)
    print(f"Python {sys.version.split()[0]}")


if __name__ == "__main__":
    asyncio.run(main())
