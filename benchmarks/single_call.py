"""
One call, and the same statement by hand on the same connection.

Both take turns of some hundred calls in one run, so that other load on the machine
affects both. The ratio is the median over the turns, with the quartiles beside it: of
the time by the clock, and of the processor time of this process (user and system). On
SQLite that includes the database's work, on PostgreSQL it does not.

Then forms of the call beside its plain one, which stands in the place of the statement: a
whole row, whose limit is one of processor time, and the row as it was.
"""

from __future__ import annotations

import asyncio
import itertools
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple

import aiosqlite
import psycopg
from rich.table import Table

from aioupsert import F, create_or_update
from benchmarks.support.by_hand import count_view
from benchmarks.support.databases import (
    postgresql,
    postgresql_server,
    sqlite,
    sqlite_path,
)
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import microseconds, show, show_versions, verdict
from benchmarks.support.timing import Elapsed, cpu, in_turns, ratio, stopwatch, wall

Call = Callable[[str], Awaitable[object]]

QUICK: Final = {"turns": 1, "calls": 50}
TABLES: Final = ("by_hand", "ours")
PSYCOPG: Final = """
INSERT INTO by_hand AS t (path, hits, note) VALUES (%s, %s, %s)
ON CONFLICT (path) DO UPDATE SET hits = t.hits + excluded.hits, note = excluded.note
RETURNING (xmax = 0) AS created
"""
SQLITE: Final = """
INSERT INTO by_hand AS t (path, hits, note) VALUES (?, ?, ?)
ON CONFLICT (path) DO UPDATE SET hits = t.hits + excluded.hits, note = excluded.note
RETURNING hits
"""


class Case(NamedTuple):
    """
    Two ways to do the same.

    Attributes:
        name: What it is called.
        by_hand: Executes the statement.
        ours: Calls aioupsert.
        limit: The highest ratio that is good enough.
        creates: Whether each call creates a row; otherwise all update the same one.
        clock: What the limit is for: the time by the clock, or processor time.
    """

    name: str
    by_hand: Call
    ours: Call
    limit: float
    creates: bool
    clock: Literal["wall", "cpu"] = "wall"


def by_aioupsert(conn: Any) -> Call:
    async def call(path: str) -> None:
        await create_or_update(
            conn,
            "ours",
            key={"path": path},
            defaults={"hits": F("hits") + 1, "note": "seen"},
        )

    return call


def forms(conn: Any, driver: str) -> list[Case]:
    """Return the forms of the call, each beside the plain one."""
    values = {"hits": 1, "note": "seen"}

    async def plain(path: str) -> None:
        await create_or_update(conn, "ours", key={"path": path}, defaults=values)

    async def row_form(path: str) -> None:
        await create_or_update(conn, "ours", {"path": path, **values}, key="path")

    async def with_row(path: str) -> None:
        await create_or_update(
            conn, "ours", key={"path": path}, defaults=values, returning="*"
        )

    async def with_old(path: str) -> None:
        await create_or_update(
            conn, "ours", key={"path": path}, defaults=values, returning="*", old=True
        )

    row = Case(f"{driver}, a row", plain, row_form, 1.05, creates=False, clock="cpu")
    return [
        row,
        row._replace(name=f"{driver}, a new row", creates=True),
        Case(f"{driver}, old", with_row, with_old, 1.5, creates=False),
    ]


def postgresql_cases(conn: Any) -> list[Case]:
    statement = count_view("by_hand")

    async def by_hand(path: str) -> None:
        record = await conn.fetchrow(statement, path, 1, "seen")
        assert record is not None

    ours = by_aioupsert(conn)
    return [
        Case("asyncpg, updated", by_hand, ours, 1.15, creates=False),
        Case("asyncpg, created", by_hand, ours, 1.15, creates=True),
    ]


def psycopg_cases(conn: psycopg.AsyncConnection[Any]) -> list[Case]:
    async def by_hand(path: str) -> None:
        cursor = await conn.execute(PSYCOPG, (path, 1, "seen"))
        assert await cursor.fetchone() is not None

    ours = by_aioupsert(conn)
    return [
        Case("psycopg, updated", by_hand, ours, 1.35, creates=False, clock="cpu"),
        Case("psycopg, created", by_hand, ours, 1.35, creates=True, clock="cpu"),
    ]


def sqlite_cases(conn: aiosqlite.Connection) -> list[Case]:
    async def by_hand(path: str) -> None:
        assert await conn.execute_fetchall(SQLITE, (path, 1, "seen"))

    ours = by_aioupsert(conn)
    return [
        Case("aiosqlite, updated", by_hand, ours, 1.25, creates=False),
        Case("aiosqlite, created", by_hand, ours, 1.25, creates=True),
    ]


async def measure(case: Case, turns: int, calls: int) -> dict[str, list[Elapsed]]:
    """Return the time of one call, turn by turn, for each way."""
    numbers = itertools.count(1)

    async def timed(call: Call) -> Elapsed:
        names = [next(numbers) if case.creates else 0 for _ in range(calls)]
        paths = [f"/{case.name}/{name}" for name in names]
        with stopwatch() as elapsed:
            for path in paths:
                await call(path)
        return elapsed.each(calls)

    ways = {
        "by hand": lambda _: timed(case.by_hand),
        "ours": lambda _: timed(case.ours),
    }
    return await in_turns(ways, turns)


async def compare(cases: list[Case], table: Table, options: Namespace) -> list[str]:
    """Fill in the table; return the names of the cases that take too long."""
    too_slow: list[str] = []
    for case in cases:
        times = await measure(case, options.turns, options.calls)
        ours, by_hand = times["ours"], times["by hand"]
        ratios = {
            "wall": ratio(wall(ours), wall(by_hand)),
            "cpu": ratio(cpu(ours), cpu(by_hand)),
        }
        limit = f"{case.limit:.2f}"
        table.add_row(
            case.name,
            *(microseconds(wall(way)) for way in (by_hand, ours)),
            *ratios["wall"].cells(),
            limit if case.clock == "wall" else "",
            *(microseconds(cpu(way)) for way in (by_hand, ours)),
            *ratios["cpu"].cells(),
            limit if case.clock == "cpu" else "",
        )
        if ratios[case.clock].median > case.limit:
            too_slow.append(case.name)
    return too_slow


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 30)
    parser.add_argument("--calls", type=int, default=500, help="of each way in a turn")
    add_check(parser)


async def measure_all(options: Namespace) -> int:
    table = Table(
        *("case", "by hand, µs", "aioupsert, µs", "ratio", "quartiles", "at most"),
        *("CPU by hand, µs", "CPU aioupsert, µs", "CPU ratio", "quartiles"),
        "at most",
    )
    with postgresql_server() as server:
        async with (
            postgresql(server.dsn, *TABLES) as conn,
            await psycopg.AsyncConnection.connect(
                server.dsn, autocommit=True
            ) as another,
        ):
            cases = [*postgresql_cases(conn), *psycopg_cases(another)]
            too_slow = await compare([*cases, *forms(conn, "asyncpg")], table, options)
    with sqlite_path() as path:
        async with sqlite(path, *TABLES) as lite:
            too_slow += await compare(
                [*sqlite_cases(lite), *forms(lite, "aiosqlite")], table, options
            )
    show(table)
    show_versions(server)
    return verdict(too_slow, check=options.check)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
