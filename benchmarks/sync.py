"""
A table that is to equal its source, 1 % of which is new, changed and gone.

`sync_rows`, `create_or_update_many` of the same rows with skip_unchanged, which removes
nothing, and by hand on PostgreSQL: COPY to a temporary table, then one statement that
updates what differs and inserts, and one that deletes; from version 17 on MERGE with WHEN
NOT MATCHED BY SOURCE. With the group of dependencies *peers*, dbmerge and dlt as well, each
as it is fastest. In turns of one run; what each leaves in the table is checked. The largest
resident size is that of the whole run, with its list of rows; the command `memory` tells
what a source takes that is read as it comes.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import aiosqlite
import asyncpg
from rich.table import Table

from aioupsert import create_or_update_many, sync_rows
from benchmarks.memory import megabytes
from benchmarks.support.databases import (
    postgresql,
    postgresql_server,
    refill,
    sqlite,
    sqlite_path,
)
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import show, show_versions
from benchmarks.support.rows import COLUMNS, Row, as_dicts
from benchmarks.support.scopes import installed
from benchmarks.support.timing import in_turns, ratio, stopwatch

QUICK: Final = {"rows": [500], "turns": 1}
LIMIT: Final = 2.5
"""Times the duration of create_or_update_many, at most."""
MERGE_SINCE: Final = 17

Write = Callable[[], Awaitable[object]]


class Way(NamedTuple):
    """
    A way to make the table equal.

    Attributes:
        fill: Makes the table what it is before.
        write: Makes it equal; this is measured.
        read: Returns its rows.
    """

    fill: Callable[[], Awaitable[object]]
    write: Write
    read: Callable[[], Awaitable[list[Row]]]


UPSERT: Final = """
    INSERT INTO views AS t SELECT * FROM source ORDER BY path
    ON CONFLICT (path) DO UPDATE SET hits = excluded.hits, note = excluded.note
    WHERE (t.hits, t.note) IS DISTINCT FROM (excluded.hits, excluded.note);
    DELETE FROM views AS t WHERE NOT EXISTS
        (SELECT FROM source AS s WHERE s.path = t.path)
"""
MERGE: Final = """
    MERGE INTO views AS t USING source AS s ON t.path = s.path
    WHEN MATCHED AND (t.hits, t.note) IS DISTINCT FROM (s.hits, s.note)
        THEN UPDATE SET hits = s.hits, note = s.note
    WHEN NOT MATCHED THEN INSERT VALUES (s.path, s.hits, s.note)
    WHEN NOT MATCHED BY SOURCE THEN DELETE
"""


def stored_rows(number: int) -> list[Row]:
    return [(f"/page/{n:08d}", n, f"the note of page {n}") for n in range(number)]


def source_rows(number: int) -> list[Row]:
    """Return the rows without the last 1 %, with as many new and changed ones."""
    few = max(1, number // 100)
    rows = stored_rows(number)[: number - few]
    rows[::100] = [(path, hits + 1, note) for path, hits, note in rows[::100]]
    return rows + [(f"/page/new/{n}", n, "new") for n in range(few)]


async def by_hand(
    conn: asyncpg.Connection[asyncpg.Record], rows: Sequence[Row], statements: str
) -> None:
    async with conn.transaction():
        await conn.execute(
            "CREATE TEMPORARY TABLE source ON COMMIT DROP AS TABLE views WITH NO DATA"
        )
        await conn.copy_records_to_table("source", records=rows, columns=COLUMNS)
        await conn.execute("ANALYZE source")
        await conn.execute(statements)


def ours(conn: Any, rows: Sequence[dict[str, Any]]) -> dict[str, Write]:
    many = partial(create_or_update_many, key="path", skip_unchanged=True)
    return {
        "sync_rows": partial(sync_rows, conn, "views", rows, key="path", scope={}),
        "create_or_update_many": partial(many, conn, "views", rows),
    }


async def measure(title: str, ways: dict[str, Way], size: int, turns: int) -> bool:
    """Measure each way; return whether ours is within its limit."""
    expected = sorted(source_rows(size))

    async def timed(name: str, _turn: int) -> float:
        way = ways[name]
        await way.fill()
        with stopwatch() as elapsed:
            await way.write()
        left = sorted(await way.read())
        if name == "create_or_update_many":
            assert {*expected} < {*left}
        else:
            assert left == expected
        return elapsed.wall

    times = await in_turns({name: partial(timed, name) for name in ways}, turns)
    title = f"{title}, {size:,} rows"
    table = Table("", "seconds", "ratio", "quartiles", title=title)
    many = times["create_or_update_many"]
    for name, seconds in times.items():
        table.add_row(name, f"{min(seconds):.3f}", *ratio(seconds, many).cells())
    show(table)
    return ratio(times["sync_rows"], many).median <= LIMIT


async def on_postgresql(dsn: str, size: int, turns: int) -> bool:
    async with postgresql(dsn, "views") as conn:
        rows, stored = source_rows(size), stored_rows(size)
        fill = partial(refill, conn, "views", stored)
        writes: dict[str, Write] = {
            **ours(conn, as_dicts(rows)),
            "COPY, ON CONFLICT, DELETE": partial(by_hand, conn, rows, UPSERT),
        }
        if conn.get_server_version().major >= MERGE_SINCE:
            writes["COPY, MERGE"] = partial(by_hand, conn, rows, MERGE)
        ways = {
            name: Way(fill, write, partial(read_postgresql, conn, "views"))
            for name, write in writes.items()
        }
        for name, open_peer in installed().items():
            peer = open_peer(dsn)
            ways[name] = Way(
                fill if peer.fill is None else partial(peer.fill, stored),
                partial(peer.sync, rows),
                partial(read_postgresql, conn, peer.table),
            )
        fine = await measure("PostgreSQL", ways, size, turns)
        await conn.execute("DROP SCHEMA IF EXISTS dlt_views, dlt_views_staging CASCADE")
        return fine


async def read_postgresql(
    conn: asyncpg.Connection[asyncpg.Record], table: str
) -> list[Row]:
    rows = await conn.fetch(f"SELECT path, hits, note FROM {table}")
    return [tuple(row) for row in rows]


async def on_sqlite(size: int, turns: int) -> bool:
    with sqlite_path() as path:
        async with sqlite(path, "views") as conn:
            fill = partial(fill_sqlite, conn, stored_rows(size))
            read = partial(read_sqlite, conn)
            writes = ours(conn, as_dicts(source_rows(size)))
            ways = {name: Way(fill, write, read) for name, write in writes.items()}
            return await measure("SQLite", ways, size, turns)


async def fill_sqlite(conn: aiosqlite.Connection, rows: Sequence[Row]) -> None:
    await conn.execute("DELETE FROM views")
    await conn.execute("BEGIN")
    await conn.executemany("INSERT INTO views VALUES (?, ?, ?)", rows)
    await conn.execute("COMMIT")


async def read_sqlite(conn: aiosqlite.Connection) -> list[Row]:
    rows = await conn.execute_fetchall("SELECT * FROM views")
    return [(row[0], row[1], row[2]) for row in rows]


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[1_000_000], help="one size or several"
    )
    add_turns(parser, 3)
    add_check(parser)


def run(options: Namespace) -> int:
    fine: list[bool] = []
    with postgresql_server() as server:
        for size in options.rows:
            fine += [
                asyncio.run(on_postgresql(server.dsn, size, options.turns)),
                asyncio.run(on_sqlite(size, options.turns)),
            ]
    print(f"{megabytes():.0f} MB resident at most")
    show_versions(server)
    return int(options.check and not all(fine))
