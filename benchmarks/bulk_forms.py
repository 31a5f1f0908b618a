"""
The forms in which many rows travel to PostgreSQL, each forced in turn.

Arrays and COPY, by the number of rows: the library changes over at 5,000. INSERT ... ON
CONFLICT and updating first, which uses up no number of a sequence. MERGE and ON CONFLICT
by hand on PostgreSQL 18, where both can report what they did. One connection and several.
Each table is measured in turns of one run; a ratio is the median over the turns.
"""

from __future__ import annotations

import asyncio
import statistics
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final
from unittest import mock

import asyncpg
from rich.table import Table

from aioupsert import create_or_update_many
from aioupsert._engines.postgresql import bulk_compiler as sql
from aioupsert._engines.postgresql import bulk_steps as steps
from benchmarks.support.databases import postgresql, postgresql_server, refill
from benchmarks.support.options import add_turns
from benchmarks.support.report import show, show_versions
from benchmarks.support.rows import COLUMNS, as_dicts, rows_of
from benchmarks.support.timing import in_turns, ratio, stopwatch

Rows = Sequence[dict[str, Any]]
Write = Callable[[Rows], Awaitable[object]]

QUICK: Final = {"turns": 1, "most": 100}
MAX_ARRAYS: Final = 5_000
MERGE: Final = """
WITH done AS (
    MERGE INTO views AS t USING ({rows} ORDER BY path) AS x ON t.path = x.path
    WHEN MATCHED THEN UPDATE SET hits = x.hits, note = x.note
    WHEN NOT MATCHED THEN INSERT (path, hits, note) VALUES (x.path, x.hits, x.note)
    RETURNING merge_action() AS action)
SELECT count(*) FILTER (WHERE action = 'INSERT'),
    count(*) FILTER (WHERE action = 'UPDATE') FROM done
"""
# The same by ON CONFLICT, which on 18 can return the row as it was.
ON_CONFLICT: Final = """
WITH done AS (
    INSERT INTO views AS t (path, hits, note) {rows} ORDER BY path
    ON CONFLICT (path) DO UPDATE SET hits = excluded.hits, note = excluded.note
    RETURNING old.path IS NULL AS created)
SELECT count(*) FILTER (WHERE created), count(*) FILTER (WHERE NOT created) FROM done
"""
ARRAYS: Final = (
    "SELECT * FROM unnest($1::text[], $2::int[], $3::text[]) AS u (path, hits, note)"
)
STAGE: Final = (
    "CREATE TEMPORARY TABLE stage (path text, hits int, note text) ON COMMIT DROP"
)


class Measuring:
    """
    How each table is measured.

    Args:
        conn: Where the table of pages is.
        turns: How often each way is measured.
        most: The largest number of rows.
    """

    def __init__(
        self, conn: asyncpg.Connection[asyncpg.Record], turns: int, most: int
    ) -> None:
        self.conn = conn
        self.turns = turns
        self.most = most

    def numbers(self, *numbers: int) -> list[int]:
        """Return the numbers of rows that are not too large."""
        return [number for number in numbers if number <= self.most]

    async def milliseconds(
        self, number: int, ways: Mapping[str, Write], *, existing: bool
    ) -> dict[str, list[float]]:
        """Return the times of each way, turn by turn."""

        async def timed(write: Write, turn: int) -> float:
            await refill(self.conn, "views", rows_of(number, -1) if existing else [])
            rows = as_dicts(rows_of(number, turn))
            with stopwatch() as elapsed:
                await write(rows)
            return elapsed.wall * 1e3

        timed_ways = {name: partial(timed, write) for name, write in ways.items()}
        return await in_turns(timed_ways, self.turns)

    async def compare(
        self, table: Table, number: int, ways: Mapping[str, Write]
    ) -> None:
        """Add the lines for a number of rows, with the ratio of the last way to the one before."""
        for existing in (False, True):
            times = await self.milliseconds(number, ways, existing=existing)
            *_, base, other = times.values()
            table.add_row(
                f"{number:,}" if not existing else "",
                "updated" if existing else "created",
                *(f"{statistics.median(found):.1f}" for found in times.values()),
                *ratio(other, base).cells(),
            )


def by_aioupsert(handle: Any, **options: Any) -> Write:
    async def write(rows: Rows) -> None:
        result = await create_or_update_many(
            handle, "views", rows, key="path", **options
        )
        assert result.created + result.updated == len(rows)

    return write


def forced(module: Any, attribute: str, value: Any, write: Write) -> Write:
    """Write while the library decides otherwise than it would."""

    async def write_so(rows: Rows) -> None:
        with mock.patch.object(module, attribute, value):
            await write(rows)

    return write_so


async def arrays_or_copy(measuring: Measuring) -> Table:
    table = Table(
        *("rows", "", "COPY, ms", "arrays, ms", "arrays to COPY", "quartiles")
    )
    write = by_aioupsert(measuring.conn)
    ways = {
        "copy": forced(steps, "MAX_ARRAY_ROWS", 0, write),
        "arrays": forced(steps, "MAX_ARRAY_ROWS", measuring.most + 1, write),
    }
    for number in measuring.numbers(100, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000):
        await measuring.compare(table, number, ways)
    return table


async def on_conflict_or_update_first(dsn: str, measuring: Measuring) -> Table:
    table = Table(
        *("rows", "", "ON CONFLICT, ms", "update first, ms"),
        *("update first to ON CONFLICT", "quartiles"),
    )

    def reasons(*_: object, **__: object) -> Iterator[str]:
        yield "it is measured"

    # A connection of its own, as a connection keeps its compiled statements.
    other = await asyncpg.connect(dsn)
    ways = {
        "on conflict": by_aioupsert(measuring.conn),
        "first": forced(
            sql, "_reasons_against_on_conflict", reasons, by_aioupsert(other)
        ),
    }
    for number in measuring.numbers(100, 1_000, 10_000, 100_000):
        await measuring.compare(table, number, ways)
    await other.close()
    return table


def by_hand(
    conn: asyncpg.Connection[asyncpg.Record], statement: str, *, copied: bool
) -> Write:
    """Execute a statement, in a transaction as the library does."""

    async def write(rows: Rows) -> None:
        records = [tuple(row[column] for column in COLUMNS) for row in rows]
        async with conn.transaction():
            if copied:
                await conn.execute(STAGE)
                await conn.copy_records_to_table("stage", records=records)
                await conn.execute("ANALYZE stage")
                done = await conn.fetchrow(statement.format(rows="SELECT * FROM stage"))
            else:
                columns = zip(*records, strict=True)
                done = await conn.fetchrow(statement.format(rows=ARRAYS), *columns)
        assert done is not None
        assert sum(done) == len(rows)

    return write


async def merge_or_on_conflict(measuring: Measuring) -> Table:
    table = Table(
        *("rows", "", "aioupsert, ms", "ON CONFLICT by hand, ms", "MERGE by hand, ms"),
        *("MERGE to ON CONFLICT", "quartiles"),
    )
    for number in measuring.numbers(100, 1_000, MAX_ARRAYS, 100_000):
        copied = number > MAX_ARRAYS
        ways = {
            "ours": by_aioupsert(measuring.conn),
            "on conflict": by_hand(measuring.conn, ON_CONFLICT, copied=copied),
            "merge": by_hand(measuring.conn, MERGE, copied=copied),
        }
        await measuring.compare(table, number, ways)
    return table


async def connections(dsn: str, measuring: Measuring) -> Table:
    table = Table("connections", "created, rows/s", "updated, rows/s")
    rows = measuring.most
    async with asyncpg.create_pool(dsn, min_size=5, max_size=5) as pool:
        ways = {
            str(number): by_aioupsert(
                pool, connections=number, atomic=False, batch_size=10_000
            )
            for number in (1, 2, 4)
        }
        created = await measuring.milliseconds(rows, ways, existing=False)
        updated = await measuring.milliseconds(rows, ways, existing=True)
    for name in ways:
        medians = (statistics.median(times[name]) for times in (created, updated))
        table.add_row(name, *(f"{rows / median * 1e3:,.0f}" for median in medians))
    return table


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 5)
    parser.add_argument("--most", type=int, default=100_000, help="rows")


async def measure_all(options: Namespace) -> int:
    with postgresql_server() as server:
        async with postgresql(server.dsn, "views") as conn:
            measuring = Measuring(conn, options.turns, options.most)
            show(await arrays_or_copy(measuring))
            show(await on_conflict_or_update_first(server.dsn, measuring))
            if conn.get_server_version() >= (18,):
                show(await merge_or_on_conflict(measuring))
            show(await connections(server.dsn, measuring))
    show_versions(server)
    return 0


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
