"""
One to two thousand tasks at once: plain calls, and the same through a `Coalescer`.

On a pool of 10 connections of PostgreSQL, with the calls spread over 100,000 rows, over
100, and all for one; both ways in turns of one run, and every count is checked.
"""

from __future__ import annotations

import asyncio
import statistics
from argparse import ArgumentParser, Namespace
from typing import Final

import asyncpg
from rich.table import Table

from benchmarks.support.callers import (
    COALESCED,
    PLAIN,
    POOL_SIZE,
    Load,
    Store,
    measure,
    postgresql_store,
)
from benchmarks.support.databases import postgresql, postgresql_server
from benchmarks.support.options import add_plot, add_turns
from benchmarks.support.plots import Point, draw_lines
from benchmarks.support.report import show, show_versions
from benchmarks.support.timing import ratio

QUICK: Final = {"turns": 1, "calls": 100, "tasks": [1, 20]}
TASKS: Final = (1, 10, 50, 200, 500, 1_000, 2_000)
KEYS: Final = (100_000, 100, 1)


async def compare(
    store: Store, table: Table, keys: int, options: Namespace
) -> list[Point]:
    """Fill in the table for calls that are spread among so many rows."""
    points: list[Point] = []
    for tasks in options.tasks:
        # Fewer for a lone caller, who is slower; the same number for each task.
        calls = max(tasks, options.calls // (4 if tasks == 1 else 1))
        load = Load(
            f"{keys:,} rows, {tasks:,} tasks", keys, tasks, calls - calls % tasks
        )
        turns = await measure(store, load, options.turns)
        plain = [turn.rate for turn in turns[PLAIN]]
        coalesced = [turn.rate for turn in turns[COALESCED]]
        point = Point(tasks, statistics.median(coalesced), statistics.median(plain))
        points.append(point)
        table.add_row(
            f"{keys:,}",
            f"{tasks:,}",
            f"{point.other:,.0f}",
            f"{point.ours:,.0f}",
            f"{ratio(coalesced, plain).median:.2f}",
        )
    table.add_section()
    return points


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 3)
    parser.add_argument("--calls", type=int, default=4_000, help="plain ones in a turn")
    parser.add_argument("--tasks", type=int, nargs="+", default=TASKS)
    add_plot(parser)


async def measure_all(options: Namespace) -> int:
    table = Table("rows", "tasks", "plain, calls a second", "coalesced", "ratio")
    panels: dict[str, list[Point]] = {}
    with postgresql_server() as server:
        async with (
            postgresql(server.dsn, "views") as conn,
            asyncpg.create_pool(
                server.dsn, min_size=POOL_SIZE, max_size=POOL_SIZE
            ) as pool,
        ):
            store = postgresql_store(conn, pool)
            for keys in KEYS:
                title = f"{keys:,} rows" if keys > 1 else "one row"
                panels[title] = await compare(store, table, keys, options)
    show(table)
    show_versions(server)
    if options.plot:
        draw_lines(
            panels,
            options.plot,
            labels=("coalesced", "plain"),
            x_label="tasks at once",
            y_label="calls a second",
            shared_log_scale=True,
        )
    return 0


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
