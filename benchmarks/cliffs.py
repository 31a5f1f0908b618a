"""
Awkward rows, and the time that they take over that of plain ones.

Each case is a bulk call of as many rows as the plain one, in turns of one run: the same
keys again and again, rows of several column layouts, keys in several orders, wide values,
some rows that cannot be stored. A ratio is the median over the turns. Small batches are
compared with `executemany` by hand. The command fails if a ratio is beyond its limit.
"""

from __future__ import annotations

import asyncio
import random
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from rich.table import Table

from aioupsert import (
    Excluded,
    F,
    create_or_update_many,
    get_or_create_many,
    greatest,
)
from benchmarks.support.databases import (
    postgresql,
    postgresql_server,
    sqlite,
    sqlite_path,
)
from benchmarks.support.options import add_turns
from benchmarks.support.report import show, show_versions, verdict
from benchmarks.support.rows import seeded
from benchmarks.support.timing import Elapsed, cpu, in_turns, ratio, stopwatch, wall

Rows = Sequence[Mapping[str, Any]]
Run = Callable[[str], Awaitable[object]]
"""Runs a statement."""

QUICK: Final = {"rows": 200, "turns": 1, "calls": 2, "check": False}
TABLE: Final = """
CREATE TABLE plain (
    path text PRIMARY KEY, hits bigint NOT NULL DEFAULT 0, note text, extra text
)
"""
BY_HAND: Final = """
INSERT INTO plain (path, hits, note) VALUES ({})
ON CONFLICT (path) DO UPDATE SET hits = excluded.hits, note = excluded.note
"""
SUM: Final = {"hits": F("hits") + Excluded("hits"), "note": Excluded("note")}
SMALL: Final = ((1, 2.0), (10, 2.0), (100, 1.5))


class Case(NamedTuple):
    """
    Awkward rows.

    Attributes:
        name: What they are called.
        rows: The rows.
        limit: The highest ratio that is good enough.
        options: Further arguments of the call.
    """

    name: str
    rows: Rows
    limit: float
    options: Mapping[str, Any] = MappingProxyType({})


class Database(NamedTuple):
    """
    What the cases run on.

    Attributes:
        name: What it is called.
        conn: The connection.
        run: Runs a statement.
        marks: The placeholders of the statement by hand.
    """

    name: str
    conn: Any
    run: Run
    marks: str


def plain_rows(number: int, dice: random.Random) -> list[dict[str, Any]]:
    rows = [{"path": f"/page/{n}", "hits": 1, "note": "x"} for n in range(number)]
    dice.shuffle(rows)
    return rows


def cases_of(number: int) -> list[Case]:
    """Return the cases, of so many rows each."""
    dice = seeded(7)
    rows: list[dict[str, Any]] = plain_rows(number, dice)
    hot = [{**row, "path": f"/page/{n % 10}"} for n, row in enumerate(rows)]
    few = max(1, number // 4)
    zipf = [
        {**row, "path": f"/page/{int(dice.paretovariate(1.0)) % few}"} for row in rows
    ]
    mixed = [row | {"extra": "y"} if n % 2 else row for n, row in enumerate(rows)]
    skipping = {"atomic": False, "on_error": "skip"}
    return [
        Case("keys in order", sorted(rows, key=lambda row: row["path"]), 1.5),
        Case("columns that alternate", mixed, 2.5),
        Case("wide values", [row | {"note": "x" * 500} for row in rows], 4.0),
        Case("10 keys, the last wins", hot, 2.5),
        Case("10 keys, texts", [row | {"note": "é"} for row in hot], 2.5),
        Case("10 keys, summed", hot, 2.5, {"update": SUM}),
        Case(
            "10 keys, the greatest",
            hot,
            2.5,
            {"update": {"hits": greatest(F("hits"), Excluded("hits"))}},
        ),
        Case("Zipf keys, the last wins", zipf, 2.5),
        Case("Zipf keys, summed", zipf, 2.5, {"update": SUM}),
        Case(
            "1 % without a value",
            [row if n % 100 else row | {"hits": None} for n, row in enumerate(rows)],
            4.0,
            skipping,
        ),
        Case("10 keys that are only looked up", hot, 10.0, {"each": True}),
    ]


async def write(conn: Any, case: Case) -> None:
    """Make the call of a case."""
    options = {**case.options}
    if options.pop("each", False):
        await get_or_create_many(conn, "plain", case.rows, key="path")
        return
    await create_or_update_many(conn, "plain", case.rows, key="path", **options)


async def measure(database: Database, options: Namespace, table: Table) -> list[str]:
    """Measure all cases on a database; return those beyond their limits."""
    name, conn, run, marks = database
    missed: list[str] = []

    def add(case: str, ours: list[Elapsed], plain: list[Elapsed], limit: float) -> None:
        ratios = ratio(wall(ours), wall(plain))
        of_cpu = ratio(cpu(ours), cpu(plain))
        table.add_row(name, case, *ratios.cells(), f"{limit}", *of_cpu.cells())
        if ratios.median > limit:
            missed.append(f"{name}: {case}")

    async def timed(case: Case, _turn: int) -> Elapsed:
        await run("DELETE FROM plain")
        with stopwatch() as elapsed:
            await write(conn, case)
        return elapsed

    async def many(call: Callable[[], Awaitable[object]], _turn: int) -> Elapsed:
        with stopwatch() as elapsed:
            for _ in range(options.calls):
                await call()
        return elapsed

    cases = cases_of(options.rows)
    plain = Case("plain", plain_rows(options.rows, seeded(7)), 1.0)
    ways = {case.name: partial(timed, case) for case in (plain, *cases)}
    times = await in_turns(ways, options.turns)
    for case in cases:
        add(case.name, times[case.name], times[plain.name], case.limit)
    for size, limit in SMALL:
        rows = plain.rows[:size]
        cells = [tuple(row.values()) for row in rows]
        ours = partial(write, conn, Case("small", rows, limit))
        by_hand = partial(conn.executemany, BY_HAND.format(marks), cells)
        small = await in_turns(
            {"ours": partial(many, ours), "by hand": partial(many, by_hand)},
            options.turns * 5,
        )
        add(f"a batch of {size}, executemany", small["ours"], small["by hand"], limit)
    return missed


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 3)
    parser.add_argument("--rows", type=int, default=20_000, help="of each case")
    parser.add_argument("--calls", type=int, default=60, help="of small batches a turn")
    parser.add_argument(
        "--check",
        action=BooleanOptionalAction,
        default=True,
        help="whether to fail if a figure is beyond its limit",
    )


async def measure_all(options: Namespace) -> int:
    table = Table(
        *("database", "rows", "ratio", "quartiles", "at most"),
        *("CPU ratio", "quartiles"),
    )
    with postgresql_server() as server:
        async with postgresql(server.dsn) as conn:
            await conn.execute("DROP TABLE IF EXISTS plain")
            await conn.execute(TABLE)
            server_side = Database("PostgreSQL", conn, conn.execute, "$1, $2, $3")
            missed = await measure(server_side, options, table)
            await conn.execute("DROP TABLE plain")
    with sqlite_path() as path:
        async with sqlite(path) as lite:
            await lite.execute(TABLE)
            embedded = Database("SQLite", lite, lite.execute, "?, ?, ?")
            missed += await measure(embedded, options, table)
    show(table)
    show_versions(server)
    return verdict(missed, check=options.check)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
