"""
The ids of many names in a lookup table, which are created where they are missing.

`get_or_create_many`, and by hand on PostgreSQL: COPY to a temporary table, INSERT ... ON
CONFLICT DO NOTHING, and a SELECT that joins both. In turns of one run, for a table that
has all of the names, half of them, or none; the ids of both are checked.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import asyncpg
from rich.table import Table

from aioupsert import get_or_create_many
from benchmarks.support.databases import postgresql_server
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import show, show_versions, verdict
from benchmarks.support.timing import Elapsed, cpu, in_turns, ratio, stopwatch, wall

QUICK: Final = {"names": 200, "turns": 1}
LIMIT: Final = 1.5
"""Times the duration by hand, at most."""
TABLE: Final = (
    "DROP TABLE IF EXISTS tags; CREATE TABLE tags"
    " (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text NOT NULL UNIQUE)"
)
INSERT: Final = "INSERT INTO tags (name) SELECT name FROM staged ON CONFLICT DO NOTHING"
SELECT: Final = "SELECT name, tags.id FROM staged JOIN tags USING (name)"

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Ids = dict[str, int]


async def by_hand(conn: Connection, names: Sequence[str]) -> Ids:
    async with conn.transaction():
        await conn.execute("CREATE TEMPORARY TABLE staged (name text) ON COMMIT DROP")
        await conn.copy_records_to_table("staged", records=[(n,) for n in names])
        await conn.execute(INSERT)
        rows = await conn.fetch(SELECT)
    return {row["name"]: row["id"] for row in rows}


async def by_aioupsert(conn: Connection, names: Sequence[str]) -> Ids:
    results = await get_or_create_many(
        conn, "tags", [{"name": name} for name in names], key="name", returning="id"
    )
    return {name: result.row["id"] for name, result in zip(names, results, strict=True)}


async def measure(
    dsn: str, conn: Connection, number: int, existing: int, turns: int
) -> dict[str, list[Elapsed]]:
    """Return the time of each way, turn by turn, if so many of the names exist."""
    names = [f"a tag, the {n * 7919 % number}th" for n in range(number)]

    async def timed(
        write: Callable[[Connection, Sequence[str]], Awaitable[Ids]], _turn: int
    ) -> Elapsed:
        await conn.execute("TRUNCATE tags")
        await conn.executemany(
            "INSERT INTO tags (name) VALUES ($1)", [(n,) for n in names[:existing]]
        )
        await conn.execute("VACUUM ANALYZE tags")
        # What a connection has kept of the table is not for one that was emptied.
        other = await asyncpg.connect(dsn)
        await get_or_create_many(other, "tags", [], key="name")
        try:
            with stopwatch() as elapsed:
                ids = await write(other, names)
        finally:
            await other.close()
        stored = await conn.fetch("SELECT name, id FROM tags")
        assert ids == {row["name"]: row["id"] for row in stored}
        return elapsed

    return await in_turns(
        {"by hand": partial(timed, by_hand), "ours": partial(timed, by_aioupsert)},
        turns,
    )


async def measure_all(options: Namespace) -> int:
    table = Table(
        *("names that exist", "by hand, s", "aioupsert, s", "ratio", "quartiles"),
        *("CPU ratio", "quartiles"),
        title=f"{options.names:,} names",
    )
    too_slow: list[str] = []
    with postgresql_server() as server:
        conn = await asyncpg.connect(server.dsn)
        try:
            await conn.execute(TABLE)
            for case, share in (("all", 1.0), ("half", 0.5), ("none", 0.0)):
                existing = round(options.names * share)
                times = await measure(
                    server.dsn, conn, options.names, existing, options.turns
                )
                ours, hand = times["ours"], times["by hand"]
                ratios = ratio(wall(ours), wall(hand))
                table.add_row(
                    case,
                    *(f"{min(wall(way)):.3f}" for way in (hand, ours)),
                    *ratios.cells(),
                    *ratio(cpu(ours), cpu(hand)).cells(),
                )
                if ratios.median > LIMIT:
                    too_slow.append(case)
            await conn.execute("DROP TABLE tags")
        finally:
            await conn.close()
    show(table)
    show_versions(server)
    return verdict(too_slow, check=options.check)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--names", type=int, default=100_000)
    add_turns(parser, 7)
    add_check(parser)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
