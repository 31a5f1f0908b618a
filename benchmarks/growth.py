"""
One call and many rows as the table grows, and the statement by hand.

One row updated, one created, and 10,000 rows of which half exist, in tables of a thousand
to ten million rows, in turns of one run. The 10,000 by hand are COPY and ON CONFLICT.

Then tables that are filled row by row, in turns, in one transaction or each row in its own:
the ratio to by hand in the first tenth of the calls and in the last one, which a plan for a
small table would make slow, and the highest of the ten. At last ten rows into a table of a hundred partitions.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, NamedTuple

import asyncpg
from rich.table import Table

from aioupsert import F, create_or_update, create_or_update_many, get_or_create
from benchmarks.support.by_hand import copy_rows, count_view
from benchmarks.support.databases import postgresql, postgresql_server
from benchmarks.support.options import add_plot, add_turns
from benchmarks.support.plots import Point, draw_lines
from benchmarks.support.report import show, show_versions
from benchmarks.support.rows import Row, as_dicts, seeded
from benchmarks.support.timing import in_turns, quartiles, ratio, stopwatch

QUICK: Final = {"turns": 1, "most": 1_000, "fill": 500}
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


WAYS: Final = (
    *("by hand", "create_or_update", "skip_unchanged"),
    *("get_or_create", "SELECT and INSERT by hand"),
)
# The calls after which another way takes its turn.
CHUNK: Final = 50


def filling(
    way: str, conn: asyncpg.Connection[asyncpg.Record]
) -> Callable[[str], Awaitable[object]]:
    """Return a way to create a row; each has a table of its own."""
    table = way.replace(" ", "_")
    statement = count_view(table)
    defaults = {"hits": 1, "note": "seen"}
    select = f"SELECT * FROM {table} WHERE path = $1"
    insert = (
        f"INSERT INTO {table} VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING *"
    )

    async def create(path: str) -> object:
        if way == "by hand":
            return await conn.fetchval(statement, path, 1, "seen")
        if way == "SELECT and INSERT by hand":
            found = await conn.fetchrow(select, path)
            return found or await conn.fetchrow(insert, path, 1, "seen")
        if way == "get_or_create":
            return await get_or_create(
                conn, table, key={"path": path}, defaults=defaults
            )
        return await create_or_update(
            *(conn, table),
            key={"path": path},
            defaults=defaults,
            skip_unchanged=way == "skip_unchanged",
        )

    return create


async def empty(
    conns: dict[str, asyncpg.Connection[asyncpg.Record]], start: int
) -> None:
    """Leave so many rows in each table."""
    for way, conn in conns.items():
        table = way.replace(" ", "_")
        await conn.execute(f"TRUNCATE {table}")
        if start:
            await conn.execute(FILL.format(-start, -1).replace("views", table))
            await conn.execute(f"VACUUM ANALYZE {table}")


async def fill(
    conns: dict[str, asyncpg.Connection[asyncpg.Record]], number: int
) -> dict[str, list[float]]:
    """Return the milliseconds of a call in each tenth, in its quicker turns, by way."""
    ways = [*conns]
    create = {way: filling(way, conn) for way, conn in conns.items()}
    times: dict[str, list[float]] = {way: [] for way in conns}
    for tenth in range(10):
        chunks: dict[str, list[float]] = {way: [] for way in conns}
        firsts = range(tenth * number // 10, (tenth + 1) * number // 10, CHUNK)
        for turn, first in enumerate(firsts):
            for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
                with stopwatch() as elapsed:
                    for n in range(first, first + CHUNK):
                        await create[way](f"/page/{n}")
                chunks[way].append(elapsed.wall / CHUNK * 1e3)
        for way, elapsed_each in chunks.items():
            times[way].append(quartiles(elapsed_each).low)
    return times


async def measure_filling(dsn: str, number: int) -> Table:
    table = Table(
        *("rows before", "transaction", "filled by", "first tenth, ms", "last, ms"),
        *("ratio to by hand, first tenth", "last", "highest"),
    )
    async with AsyncExitStack() as stack:
        conns = {
            way: await stack.enter_async_context(postgresql(dsn, way.replace(" ", "_")))
            for way in WAYS
        }
        for start, inside in itertools.product((0, 20), (True, False)):
            await empty(conns, start)
            async with AsyncExitStack() as transactions:
                # In which no ANALYZE comes.
                for conn in conns.values() if inside else ():
                    await transactions.enter_async_context(conn.transaction())
                times = await fill(conns, number)
            for way, ours in times.items():
                ratios = [a / b for a, b in zip(ours, times["by hand"], strict=True)]
                table.add_row(
                    *(str(start), "one" if inside else "each", way),
                    *(f"{ours[0]:.3f}", f"{ours[-1]:.3f}"),
                    *(f"{r:.2f}" for r in (ratios[0], ratios[-1], max(ratios))),
                )
            table.add_section()
    return table


PARTITIONS: Final = 100
PARTITIONED: Final = "; ".join(
    [
        (
            "CREATE TEMPORARY TABLE parts (k integer PRIMARY KEY, v integer)"
            " PARTITION BY RANGE (k)"
        ),
        *(
            f"CREATE TEMPORARY TABLE part_{n} PARTITION OF parts"
            f" FOR VALUES FROM ({n * 1_000}) TO ({n * 1_000 + 1_000})"
            for n in range(PARTITIONS)
        ),
        f"INSERT INTO parts SELECT n * 2, 0 FROM generate_series(0, {PARTITIONS * 500 - 1}) n",
        "ANALYZE parts",
    ]
)
PARTS_BY_HAND: Final = (
    "INSERT INTO parts SELECT * FROM unnest($1::integer[], $2::integer[])"
    " ON CONFLICT (k) DO UPDATE SET v = excluded.v"
)


async def measure_partitions(
    conn: asyncpg.Connection[asyncpg.Record], turns: int
) -> Table:
    await conn.execute(PARTITIONED)
    choose = seeded(PARTITIONS)
    batches = [sorted(choose.sample(range(PARTITIONS * 1_000), 10)) for _ in range(30)]

    async def ours(keys: list[int]) -> object:
        rows = [{"k": key, "v": 1} for key in keys]
        return await create_or_update_many(conn, "parts", rows, key="k")

    async def by_hand(keys: list[int]) -> object:
        async with conn.transaction():
            return await conn.execute(PARTS_BY_HAND, keys, [1] * len(keys))

    async def timed(write: Callable[[list[int]], Awaitable[object]], _: int) -> float:
        with stopwatch() as elapsed:
            for keys in batches:
                await write(keys)
        return elapsed.wall / len(batches) * 1e3

    times = await in_turns(
        {"ours": partial(timed, ours), "by hand": partial(timed, by_hand)}, turns
    )
    table = Table("partitions", "aioupsert, ms", "by hand, ms", "ratio", "quartiles")
    table.add_row(
        str(PARTITIONS),
        *(f"{statistics.median(times[name]):.3f}" for name in ("ours", "by hand")),
        *ratio(times["ours"], times["by hand"]).cells(),
    )
    return table


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 9)
    parser.add_argument(
        "--most", type=int, default=10_000_000, help="rows of the largest table"
    )
    parser.add_argument(
        "--fill", type=int, default=100_000, help="rows of a table that is filled"
    )
    add_plot(parser)


async def measure_all(options: Namespace) -> int:
    table = Table("rows", "case", "aioupsert, ms", "by hand, ms", "ratio", "quartiles")
    panels: dict[str, list[Point]] = {}
    new = itertools.count(10**9)
    size, filled = 1_000, 0
    with postgresql_server() as server:
        # Before the server is busy with what large tables leave behind.
        filled_table = await measure_filling(server.dsn, options.fill)
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
            partitions = await measure_partitions(conn, options.turns)
    show(table)
    show(filled_table)
    show(partitions)
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
