"""
What many rows cost, beside the ways to write them by hand and with other libraries.

    python benchmarks/bulk.py

All ways write the same rows to tables of the same content, in one run and in turns, so
that whatever else the machine does falls on all. Every way is checked to have stored
the rows. A ratio is the median over the turns of our time by the other's. PostgreSQL is
found as the tests find it.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiosqlite
import asyncpg
import sqlalchemy as sa
import sqlite_utils
from rich.console import Console
from rich.table import Table
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioupsert import create_or_update_many  # the checkout's, see above
from tests.support.servers import (  # as above
    NoServerError,
    session_server,
    stop_session_server,
)

Row = tuple[str, int, str]
Write = Callable[[Sequence[Any]], Awaitable[object]]
Rows = Callable[[int], Sequence[Row]]  # those of a turn

COLUMNS = ("path", "hits", "note")
SCHEMA = """
CREATE TABLE views (path text PRIMARY KEY, hits integer NOT NULL DEFAULT 0, note text)
"""
NUMBERED = """
CREATE TABLE numbered
    (id bigserial, path text PRIMARY KEY, hits integer NOT NULL DEFAULT 0, note text)
"""
ON_CONFLICT = """
ON CONFLICT (path) DO UPDATE SET hits = excluded.hits, note = excluded.note
"""


class Way(NamedTuple):
    """
    A way to write rows.

    Attributes:
        name: What it is called.
        write: Writes them.
        form: Gives the rows in the form that it takes, before the clock runs.
    """

    name: str
    write: Write
    form: Callable[[Sequence[Row]], Sequence[Any]] = list


class Job(NamedTuple):
    """
    Rows to be written, and the ways to do it.

    Attributes:
        name: What it is called.
        before: The rows that are there.
        rows: The rows that are written.
        ours: Our way.
        others: The others, each with the most that ours may take beside it, or None.
    """

    name: str
    before: Rows | None
    rows: Rows
    ours: Way
    others: Sequence[tuple[Way, float | None]]


class Database(NamedTuple):
    """What the jobs run on."""

    jobs: Sequence[Job]
    reset: Write
    stored: Callable[[], Awaitable[Sequence[Row]]]


def rows_of(number: int, turn: int) -> list[Row]:
    """Rows in no order of their keys, with other values each turn."""
    return [
        (f"/page/{n * 7919 % number:07d}", n + turn, f"the note of page {n}, {turn}")
        for n in range(number)
    ]


def as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, row, strict=True)) for row in rows]


def ours(name: str, conn: Any, table: str, **options: Any) -> Way:
    async def write(rows: Sequence[dict[str, Any]]) -> None:
        result = await create_or_update_many(conn, table, rows, key="path", **options)
        assert result.rows == len(rows)

    return Way(name, write, as_dicts)


# --- PostgreSQL -----------------------------------------------------------------------


def by_copy(conn: Any, table: str) -> Write:
    """Write what experts write by hand; it tells nothing of what it did."""

    async def write(rows: Sequence[Row]) -> None:
        async with conn.transaction():
            await conn.execute(
                "CREATE TEMP TABLE stage (path text, hits integer, note text)"
                " ON COMMIT DROP"
            )
            await conn.copy_records_to_table("stage", records=rows)
            await conn.execute(
                f"INSERT INTO {table} AS t (path, hits, note)"
                f" SELECT path, hits, note FROM stage {ON_CONFLICT}"
            )

    return write


def by_executemany(conn: Any) -> Write:
    async def write(rows: Sequence[Row]) -> None:
        await conn.executemany(
            f"INSERT INTO views (path, hits, note) VALUES ($1, $2, $3) {ON_CONFLICT}",
            rows,
        )

    return write


def by_sqlalchemy(engine: AsyncEngine) -> Write:
    views = sa.Table(
        "views",
        sa.MetaData(),
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("hits", sa.Integer),
        sa.Column("note", sa.Text),
    )

    async def write(rows: Sequence[dict[str, Any]]) -> None:
        async with engine.begin() as conn:
            # A statement takes 32,767 parameters at most.
            for start in range(0, len(rows), 10_000):
                statement = insert(views).values(rows[start : start + 10_000])
                new = statement.excluded
                await conn.execute(
                    statement.on_conflict_do_update(
                        index_elements=["path"],
                        set_={"hits": new.hits, "note": new.note},
                    )
                )

    return write


@asynccontextmanager
async def postgresql(dsn: str, number: int) -> AsyncIterator[Database]:
    conn: Any = await asyncpg.connect(dsn)
    # Any DSN that asyncpg takes.
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn)
    )
    for table, schema in (("views", SCHEMA), ("numbered", NUMBERED)):
        await conn.execute(f"DROP TABLE IF EXISTS {table}; {schema}")

    async def reset(rows: Sequence[Row]) -> None:
        for table in ("views", "numbered"):
            await conn.execute(f"TRUNCATE {table}")
            await conn.copy_records_to_table(table, records=rows, columns=COLUMNS)
            await conn.execute(f"VACUUM ANALYZE {table}")
        await conn.execute("CHECKPOINT")

    async def stored() -> Sequence[Row]:
        # Whichever table was written.
        found = await conn.fetch(
            "SELECT path, hits, note FROM views UNION SELECT path, hits, note"
            " FROM numbered"
        )
        return [tuple(row) for row in found]

    copy = Way("COPY and ON CONFLICT by hand", by_copy(conn, "views"))
    peers = [
        (copy, 1.1),
        (Way("asyncpg executemany", by_executemany(conn)), 1.0),
        (
            Way("SQLAlchemy multi-row VALUES", by_sqlalchemy(engine), as_dicts),
            1 / 6,
        ),
    ]
    plain = ours("ours", conn, "views")
    reload = ours("ours, skip_unchanged", conn, "views", skip_unchanged=True)
    numbered = ours("ours, no number used up", conn, "numbered")
    by_hand = Way("COPY and ON CONFLICT, all used up", by_copy(conn, "numbered"))
    jobs = [
        Job("created", None, new(number), plain, peers),
        Job("updated", old(number), new(number), plain, peers),
        Job("unchanged", old(number), old(number), reload, [(plain, 1 / 3)]),
        Job("created, serial id", None, new(number), numbered, [(by_hand, None)]),
        Job(
            "updated, serial id",
            old(number),
            new(number),
            numbered,
            [(by_hand, None)],
        ),
    ]
    try:
        yield Database(jobs, reset, stored)
    finally:
        await engine.dispose()
        await conn.close()


def old(number: int) -> Rows:
    return lambda _: rows_of(number, 0)


def new(number: int) -> Rows:
    return lambda turn: rows_of(number, turn + 1)


# --- SQLite ---------------------------------------------------------------------------


@asynccontextmanager
async def sqlite(path: Path, number: int) -> AsyncIterator[Database]:
    async with aiosqlite.connect(path, isolation_level=None) as conn:
        await conn.execute("PRAGMA journal_mode = WAL")
        await conn.execute("PRAGMA synchronous = NORMAL")
        await conn.execute(SCHEMA)
        statement = (
            f"INSERT INTO views (path, hits, note) VALUES (?, ?, ?) {ON_CONFLICT}"
        )

        async def reset(rows: Sequence[Row]) -> None:
            await conn.execute("DELETE FROM views")
            await conn.execute("BEGIN")
            await conn.executemany("INSERT INTO views VALUES (?, ?, ?)", rows)
            await conn.execute("COMMIT")
            await conn.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")

        async def stored() -> Sequence[Row]:
            found = await conn.execute_fetchall("SELECT path, hits, note FROM views")
            return [(path, hits, note) for path, hits, note in found]

        async def by_hand(rows: Sequence[Row]) -> None:
            await conn.execute("BEGIN")
            await conn.executemany(statement, rows)
            await conn.execute("COMMIT")

        async def by_sqlite_utils(rows: Sequence[dict[str, Any]]) -> None:
            database: Any = sqlite_utils.Database(str(path))
            database["views"].upsert_all(rows, pk="path")
            database.conn.close()

        peers = [
            (Way("aiosqlite executemany", by_hand), 1.5),
            (Way("sqlite-utils upsert_all", by_sqlite_utils, as_dicts), 1.0),
        ]
        plain = ours("ours", conn, "views")
        reload = ours("ours, skip_unchanged", conn, "views", skip_unchanged=True)
        yield Database(
            [
                Job("created", None, new(number), plain, peers),
                Job("updated", old(number), new(number), plain, peers),
                Job("unchanged", old(number), old(number), reload, [(plain, None)]),
            ],
            reset,
            stored,
        )


# --- Measuring ------------------------------------------------------------------------


async def measure(database: Database, job: Job, turns: int) -> list[list[float]]:
    """Give the seconds of each way, ours first, turn by turn."""
    ways = [job.ours, *(way for way, _ in job.others)]
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(turns + 1):
        rows = job.rows(turn)
        # Another one begins each turn.
        for at in sorted(range(len(ways)), key=lambda n: (n + turn) % len(ways)):
            await database.reset(job.before(turn) if job.before else [])
            given = ways[at].form(rows)
            started = time.perf_counter()
            await ways[at].write(given)
            seconds = time.perf_counter() - started
            assert set(rows) <= set(await database.stored()), ways[at].name
            if turn:  # the first one prepares statements and reads the catalog
                times[at].append(seconds)
    return times


async def compare(
    engine: str, database: Database, results: Table, turns: int, number: int
) -> list[str]:
    """Fill in the table; name what takes longer than it may."""
    too_slow: list[str] = []
    for job in database.jobs:
        our_times, *their_times = await measure(database, job, turns)
        name = f"{engine}, {job.name}"
        results.add_row(name, job.ours.name, *rate(our_times, number), "", "", "")
        for (way, most), times in zip(job.others, their_times, strict=True):
            ratios = [a / b for a, b in zip(our_times, times, strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            results.add_row(
                "",
                way.name,
                *rate(times, number),
                f"{middle:.2f}",
                f"{low:.2f} to {high:.2f}",
                "" if most is None else f"{most:.2f}",
            )
            if most is not None and middle > most:
                too_slow.append(f"{name}: {way.name}")
        results.add_section()
    return too_slow


def rate(times: Sequence[float], number: int) -> tuple[str, str]:
    median = statistics.median(times)
    return f"{median:.3f}", f"{number / median:,.0f}"


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--check", action="store_true", help="fail above the limits")
    options = parser.parse_args()
    results = Table(
        *("job", "way", "seconds", "rows/s", "ours to it", "quartiles", "at most")
    )
    server = session_server()
    if isinstance(server, NoServerError):
        raise server
    async with postgresql(server.dsn, options.rows) as database:
        too_slow = await compare(
            "PostgreSQL", database, results, options.turns, options.rows
        )
    with tempfile.TemporaryDirectory() as folder:
        async with sqlite(Path(folder) / "bench.db", options.rows) as database:
            too_slow += await compare(
                "SQLite", database, results, options.turns, options.rows
            )
    Console().print(results)
    print(f"{server.version} from {server.origin}, Python {sys.version.split()[0]}")
    for case in too_slow:
        print(f"above its limit: {case}")
    return 1 if options.check and too_slow else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    finally:
        stop_session_server()
