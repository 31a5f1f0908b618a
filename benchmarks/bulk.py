"""
Many rows: aioupsert, the ways to write them by hand, and other libraries.

All ways write the same rows to tables of the same content, in turns of one run, so that
other load on the machine affects all. Every way is checked to have stored the rows. A
ratio is the median over the turns of aioupsert's time divided by the other's: of the time
by the clock, and of the processor time of this process (user and system).
"""

from __future__ import annotations

import asyncio
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import sqlalchemy as sa
import sqlite_utils
from rich.table import Table
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from aioupsert import create_or_update_many
from benchmarks.support import databases
from benchmarks.support.by_hand import ON_CONFLICT, copy_rows
from benchmarks.support.databases import create_table, postgresql_server, sqlite_path
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import show, show_versions, verdict
from benchmarks.support.rows import Row, as_dicts, rows_of
from benchmarks.support.timing import Elapsed, cpu, in_turns, ratio, stopwatch, wall

Write = Callable[[Sequence[Any]], Awaitable[object]]
Rows = Callable[[int], Sequence[Row]]
"""Returns the rows of a turn."""

QUICK: Final = {"rows": 200, "turns": 1}


class Way(NamedTuple):
    """
    A way to write rows.

    Attributes:
        name: What it is called.
        write: Writes them.
        form: Returns the rows in the form that it takes, before the clock runs.
    """

    name: str
    write: Write
    form: Callable[[Sequence[Row]], Sequence[Any]] = list


class Job(NamedTuple):
    """
    Rows to be written, and the ways to do it.

    Attributes:
        name: What it is called.
        before: The existing rows.
        rows: The rows that are written.
        ours: Our way.
        others: The others, each with the highest ratio that is good enough, or None.
    """

    name: str
    before: Rows
    rows: Rows
    ours: Way
    others: Sequence[tuple[Way, float | None]]


class Database(NamedTuple):
    """
    What the jobs run on.

    Attributes:
        name: What it is called.
        jobs: The jobs.
        reset: Replaces the rows of the tables by those given.
        stored: Returns the rows of the tables.
    """

    name: str
    jobs: Sequence[Job]
    reset: Write
    stored: Callable[[], Awaitable[Sequence[Row]]]


def no_rows(_turn: int) -> list[Row]:
    return []


def old_rows(number: int) -> Rows:
    return lambda _: rows_of(number, 0)


def new_rows(number: int) -> Rows:
    return lambda turn: rows_of(number, turn + 1)


def by_aioupsert(name: str, conn: Any, table: str, **options: Any) -> Way:
    async def write(rows: Sequence[dict[str, Any]]) -> None:
        result = await create_or_update_many(conn, table, rows, key="path", **options)
        assert result.rows == len(rows)

    return Way(name, write, as_dicts)


# --- PostgreSQL -----------------------------------------------------------------------


def by_copy(name: str, conn: asyncpg.Connection[asyncpg.Record], table: str) -> Way:
    return Way(name, partial(copy_rows, conn, table))


def by_executemany(conn: asyncpg.Connection[asyncpg.Record]) -> Way:
    async def write(rows: Sequence[Row]) -> None:
        await conn.executemany(
            f"INSERT INTO views (path, hits, note) VALUES ($1, $2, $3) {ON_CONFLICT}",
            rows,
        )

    return Way("asyncpg executemany", write)


def by_sqlalchemy(engine: AsyncEngine) -> Way:
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

    return Way("SQLAlchemy multi-row VALUES", write, as_dicts)


@asynccontextmanager
async def postgresql(dsn: str, number: int) -> AsyncIterator[Database]:
    # Any DSN that asyncpg takes.
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(dsn)
    )
    async with databases.postgresql(dsn, "views", "numbered") as conn:
        await conn.execute(
            f"DROP TABLE numbered; {create_table('numbered', first='id bigserial, ')}"
        )

        async def reset(rows: Sequence[Row]) -> None:
            for table in ("views", "numbered"):
                await databases.refill(conn, table, rows)
            await conn.execute("CHECKPOINT")

        async def stored() -> Sequence[Row]:
            # Whichever table was written.
            found = await conn.fetch(
                "SELECT path, hits, note FROM views UNION SELECT path, hits, note"
                " FROM numbered"
            )
            return [(path, hits, note) for path, hits, note in found]

        try:
            jobs = postgresql_jobs(conn, engine, number)
            yield Database("PostgreSQL", jobs, reset, stored)
        finally:
            await engine.dispose()


def postgresql_jobs(
    conn: asyncpg.Connection[asyncpg.Record], engine: AsyncEngine, number: int
) -> list[Job]:
    old, new = old_rows(number), new_rows(number)
    ours = by_aioupsert("aioupsert", conn, "views")
    reload = by_aioupsert(
        "aioupsert, skip_unchanged", conn, "views", skip_unchanged=True
    )
    numbered = by_aioupsert("aioupsert, uses up no number", conn, "numbered")
    others = [
        (by_copy("COPY and ON CONFLICT by hand", conn, "views"), 1.1),
        (by_executemany(conn), 1.0),
        (by_sqlalchemy(engine), 1 / 6),
    ]
    wasteful = [
        (by_copy("COPY and ON CONFLICT, uses up all", conn, "numbered"), None),
    ]
    return [
        Job("created", no_rows, new, ours, others),
        Job("updated", old, new, ours, others),
        Job("unchanged", old, old, reload, [(ours, 1 / 3)]),
        Job("created, serial id", no_rows, new, numbered, wasteful),
        Job("updated, serial id", old, new, numbered, wasteful),
    ]


# --- SQLite ---------------------------------------------------------------------------


@asynccontextmanager
async def sqlite(path: Path, number: int) -> AsyncIterator[Database]:
    async with databases.sqlite(path, "views") as conn:

        async def reset(rows: Sequence[Row]) -> None:
            await databases.refill_sqlite(conn, "views", rows)

        async def stored() -> Sequence[Row]:
            found = await conn.execute_fetchall("SELECT path, hits, note FROM views")
            return [(path, hits, note) for path, hits, note in found]

        async def by_hand(rows: Sequence[Row]) -> None:
            await conn.execute("BEGIN")
            await conn.executemany(
                f"INSERT INTO views (path, hits, note) VALUES (?, ?, ?) {ON_CONFLICT}",
                rows,
            )
            await conn.execute("COMMIT")

        async def by_sqlite_utils(rows: Sequence[dict[str, Any]]) -> None:
            database: Any = sqlite_utils.Database(str(path))
            database["views"].upsert_all(rows, pk="path")
            database.conn.close()

        old, new = old_rows(number), new_rows(number)
        others = [
            (Way("aiosqlite executemany", by_hand), 1.5),
            (Way("sqlite-utils upsert_all", by_sqlite_utils, as_dicts), 1.0),
        ]
        ours = by_aioupsert("aioupsert", conn, "views")
        reload = by_aioupsert(
            "aioupsert, skip_unchanged", conn, "views", skip_unchanged=True
        )
        jobs = [
            Job("created", no_rows, new, ours, others),
            Job("updated", old, new, ours, others),
            Job("unchanged", old, old, reload, [(ours, None)]),
        ]
        yield Database("SQLite", jobs, reset, stored)


# --- Measuring ------------------------------------------------------------------------


async def measure(database: Database, job: Job, turns: int) -> dict[str, list[Elapsed]]:
    """Return the times of each way, ours first."""

    async def timed(way: Way, turn: int) -> Elapsed:
        await database.reset(job.before(turn))
        rows = job.rows(turn)
        given = way.form(rows)
        with stopwatch() as elapsed:
            await way.write(given)
        assert set(rows) <= set(await database.stored()), way.name
        return elapsed

    ways = [job.ours, *(way for way, _ in job.others)]
    return await in_turns({way.name: partial(timed, way) for way in ways}, turns)


async def compare(database: Database, table: Table, options: Namespace) -> list[str]:
    """Fill in the table; return the names of the ways that are too quick for ours."""
    too_slow: list[str] = []
    for job in database.jobs:
        times = await measure(database, job, options.turns)
        ours = times[job.ours.name]
        name = f"{database.name}, {job.name}"
        table.add_row(
            name,
            job.ours.name,
            *seconds(ours, options.rows),
            *("", "", ""),
            cpu_seconds(ours),
        )
        for way, limit in job.others:
            theirs = times[way.name]
            ratios = ratio(wall(ours), wall(theirs))
            table.add_row(
                "",
                way.name,
                *seconds(theirs, options.rows),
                *ratios.cells(),
                "" if limit is None else f"{limit:.2f}",
                cpu_seconds(theirs),
                *ratio(cpu(ours), cpu(theirs)).cells(),
            )
            if limit is not None and ratios.median > limit:
                too_slow.append(f"{name}: {way.name}")
        table.add_section()
    return too_slow


def seconds(times: Sequence[Elapsed], rows: int) -> tuple[str, str]:
    median = statistics.median(wall(times))
    return f"{median:.3f}", f"{rows / median:,.0f}"


def cpu_seconds(times: Sequence[Elapsed]) -> str:
    return f"{statistics.median(cpu(times)):.3f}"


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=100_000)
    add_turns(parser, 7)
    add_check(parser)


async def measure_all(options: Namespace) -> int:
    table = Table(
        *("job", "way", "seconds", "rows/s", "ratio", "quartiles", "at most"),
        *("CPU, s", "CPU ratio", "quartiles"),
    )
    with postgresql_server() as server:
        async with postgresql(server.dsn, options.rows) as database:
            too_slow = await compare(database, table, options)
    with sqlite_path() as path:
        async with sqlite(path, options.rows) as database:
            too_slow += await compare(database, table, options)
    show(table)
    show_versions(server)
    return verdict(too_slow, check=options.check)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
