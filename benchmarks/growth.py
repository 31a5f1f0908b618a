"""
One call and many rows as the table grows, and the statement by hand.

One row updated, one created, and 10,000 rows of which half exist, in tables of a thousand
to ten million rows, in turns of one run. The 10,000 by hand are COPY and ON CONFLICT.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Final, NamedTuple

import asyncpg
from rich.table import Table

from aioupsert import F, create_or_update, create_or_update_many
from benchmarks.support.by_hand import copy_rows, count_view
from benchmarks.support.databases import postgresql, postgresql_server
from benchmarks.support.options import add_plot, add_turns
from benchmarks.support.plots import Point, draw_lines
from benchmarks.support.report import show, show_versions
from benchmarks.support.rows import Row, as_dicts, seeded
from benchmarks.support.timing import in_turns, ratio, stopwatch

QUICK: Final = {"turns": 1, "most": 1_000}
FILL: Final = """
INSERT INTO views
SELECT '/page/' || n, n % 100, 'the note of page ' || n FROM generate_series({}, {}) AS n
"""
MANY: Final = 10_000
# Seconds: a table of ten million rows takes a while to fill.
FILL_TIMEOUT: Final = 900

Write = Callable[[], Awaitable[object]]


class Case(NamedTuple):
    """
    Two ways to do the same.

    Attributes:
        name: What it is called.
        ours: Calls aioupsert.
        by_hand: Executes the statements.
        times: How often in a turn.
    """

    name: str
    ours: Write
    by_hand: Write
    times: int


def cases(
    conn: asyncpg.Connection[asyncpg.Record], size: int, new: Iterator[int]
) -> list[Case]:
    """Return what is done to a table of so many rows."""
    choose = seeded(size)
    statement = count_view("views")

    def new_path() -> str:
        return f"/page/{next(new)}"

    def old_path() -> str:
        return f"/page/{choose.randint(1, size)}"

    def half_new() -> list[Row]:
        existing = choose.sample(range(1, size + 1), min(size, MANY // 2))
        paths = [f"/page/{number}" for number in existing]
        paths += [new_path() for _ in range(MANY - len(paths))]
        return [(path, 7, "seen") for path in paths]

    async def ours(path: Callable[[], str]) -> object:
        return await create_or_update(
            conn,
            "views",
            key={"path": path()},
            defaults={"hits": F("hits") + 1, "note": "seen"},
        )

    async def by_hand(path: Callable[[], str]) -> object:
        return await conn.fetchval(statement, path(), 1, "seen")

    async def ours_many() -> object:
        return await create_or_update_many(
            conn, "views", as_dicts(half_new()), key="path"
        )

    async def by_hand_many() -> None:
        await copy_rows(conn, "views", half_new())

    return [
        Case("updated", partial(ours, old_path), partial(by_hand, old_path), 300),
        Case("created", partial(ours, new_path), partial(by_hand, new_path), 300),
        Case(f"{MANY:,} rows", ours_many, by_hand_many, 1),
    ]


async def measure(case: Case, turns: int) -> tuple[list[float], list[float]]:
    """Return milliseconds turn by turn, ours and by hand."""

    async def timed(write: Write, _turn: int) -> float:
        with stopwatch() as elapsed:
            for _ in range(case.times):
                await write()
        return elapsed.wall / case.times * 1e3

    times = await in_turns(
        {"ours": partial(timed, case.ours), "by hand": partial(timed, case.by_hand)},
        turns,
    )
    return times["ours"], times["by hand"]


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 9)
    parser.add_argument(
        "--most", type=int, default=10_000_000, help="rows of the largest table"
    )
    add_plot(parser)


async def measure_all(options: Namespace) -> int:
    table = Table("rows", "case", "aioupsert, ms", "by hand, ms", "ratio", "quartiles")
    panels: dict[str, list[Point]] = {}
    new = itertools.count(10**9)
    size, filled = 1_000, 0
    with postgresql_server() as server:
        async with postgresql(server.dsn, "views") as conn:
            while size <= options.most:
                for sql in (
                    FILL.format(filled + 1, size),
                    "VACUUM ANALYZE views",
                    "CHECKPOINT",
                ):
                    await conn.execute(sql, timeout=FILL_TIMEOUT)
                for case in cases(conn, size, new):
                    ours, by_hand = await measure(case, options.turns)
                    point = Point(
                        size, statistics.median(ours), statistics.median(by_hand)
                    )
                    panels.setdefault(case.name, []).append(point)
                    table.add_row(
                        f"{size:,}",
                        case.name,
                        f"{point.ours:.3f}",
                        f"{point.other:.3f}",
                        *ratio(ours, by_hand).cells(),
                    )
                table.add_section()
                size, filled = size * 10, size
    show(table)
    show_versions(server)
    if options.plot:
        draw_lines(
            panels,
            options.plot,
            labels=("aioupsert", "by hand"),
            x_label="rows in the table",
            y_label="ms",
        )
    return 0


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
