"""
The forms in which many rows travel to PostgreSQL, each forced in turn.

    python benchmarks/bulk_forms.py

Arrays against COPY, by the number of rows: the library changes over at 5,000. INSERT
... ON CONFLICT against updating first, which uses up no number of a sequence. MERGE,
and ON CONFLICT, by hand on PostgreSQL 18, where both can tell what they did. And one
connection against several. All in turns of one run.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import asyncpg
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioupsert import create_or_update_many  # the checkout's, see above
from aioupsert._sql import postgresql_bulk as sql
from aioupsert._steps import postgresql_bulk as steps
from tests.support.servers import (  # as above
    NoServerError,
    session_server,
    stop_session_server,
)

Rows = Sequence[dict[str, Any]]
Write = Callable[[Rows], Awaitable[object]]

SCHEMA = """
DROP TABLE IF EXISTS views;
CREATE TABLE views (path text PRIMARY KEY, hits integer NOT NULL DEFAULT 0, note text)
"""


def rows_of(number: int, turn: int) -> list[dict[str, Any]]:
    return [
        {"path": f"/page/{n * 7919 % number:07d}", "hits": n, "note": f"note {turn}"}
        for n in range(number)
    ]


async def reset(conn: Any, rows: Rows) -> None:
    await conn.execute("TRUNCATE views")
    records = [tuple(row.values()) for row in rows]
    await conn.copy_records_to_table("views", records=records)
    await conn.execute("VACUUM ANALYZE views")


async def measure(
    conn: Any, number: int, turns: int, ways: dict[str, Write], *, there: bool
) -> dict[str, float]:
    """Give the median milliseconds of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, write in ways.items():
            await reset(conn, rows_of(number, -1) if there else [])
            rows = rows_of(number, turn)
            started = time.perf_counter()
            await write(rows)
            if turn:  # the first one prepares statements and reads the catalog
                times[name].append((time.perf_counter() - started) * 1e3)
    return {name: statistics.median(found) for name, found in times.items()}


def by(handle: Any, **options: Any) -> Write:
    async def write(rows: Rows) -> None:
        result = await create_or_update_many(
            handle, "views", rows, key="path", **options
        )
        assert result.created + result.updated == len(rows)

    return write


def under(target: Any, attribute: str, value: Any, write: Write) -> Write:
    """Write while the library decides otherwise."""

    async def forced(rows: Rows) -> None:
        with mock.patch.object(target, attribute, value):
            await write(rows)

    return forced


async def arrays_or_copy(conn: Any, turns: int, most: int) -> Table:
    results = Table("rows", "", "arrays, ms", "COPY, ms", "arrays to COPY")
    ways = {
        "arrays": under(steps, "_MAX_ARRAYS", most + 1, by(conn)),
        "copy": under(steps, "_MAX_ARRAYS", 0, by(conn)),
    }
    for number in (100, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000):
        if number > most:
            break
        for there in (False, True):
            found = await measure(conn, number, turns, ways, there=there)
            results.add_row(
                f"{number:,}" if not there else "",
                "updated" if there else "created",
                *(f"{found[name]:.1f}" for name in ways),
                f"{found['arrays'] / found['copy']:.2f}",
            )
    return results


async def native_or_update_first(dsn: str, turns: int, most: int) -> Table:
    results = Table("rows", "", "ON CONFLICT, ms", "update first, ms", "ratio")
    # Each has its own connection, as a connection remembers its statements.
    native, first = await asyncpg.connect(dsn), await asyncpg.connect(dsn)

    def because(*_: object, **__: object) -> str:
        return "it is measured"

    ways = {
        "native": by(native),
        "first": under(sql, "_why_not_native", because, by(first)),
    }
    for number in (100, 1_000, 10_000, 100_000):
        if number > most:
            break
        for there in (False, True):
            found = await measure(native, number, turns, ways, there=there)
            results.add_row(
                f"{number:,}" if not there else "",
                "updated" if there else "created",
                *(f"{found[name]:.1f}" for name in ways),
                f"{found['first'] / found['native']:.2f}",
            )
    await native.close()
    await first.close()
    return results


MERGE = """
WITH done AS (
    MERGE INTO views AS t USING ({rows} ORDER BY path) AS x ON t.path = x.path
    WHEN MATCHED THEN UPDATE SET hits = x.hits, note = x.note
    WHEN NOT MATCHED THEN INSERT (path, hits, note) VALUES (x.path, x.hits, x.note)
    RETURNING merge_action() AS action)
SELECT count(*) FILTER (WHERE action = 'INSERT'),
    count(*) FILTER (WHERE action = 'UPDATE') FROM done
"""
# The same by ON CONFLICT, which on 18 can ask for the row as it was.
ON_CONFLICT = """
WITH done AS (
    INSERT INTO views AS t (path, hits, note) {rows} ORDER BY path
    ON CONFLICT (path) DO UPDATE SET hits = excluded.hits, note = excluded.note
    RETURNING old.path IS NULL AS created)
SELECT count(*) FILTER (WHERE created), count(*) FILTER (WHERE NOT created) FROM done
"""
ARRAYS = (
    "SELECT * FROM unnest($1::text[], $2::int[], $3::text[]) AS u (path, hits, note)"
)
STAGE = "CREATE TEMPORARY TABLE stage (path text, hits int, note text) ON COMMIT DROP"


MOST_ARRAYS = 5_000


def by_hand(conn: Any, sql: str, *, copied: bool) -> Write:
    """Do the same by a statement, in a transaction as the library does."""

    async def write(rows: Rows) -> None:
        records = [tuple(row.values()) for row in rows]
        async with conn.transaction():
            if copied:
                await conn.execute(STAGE)
                await conn.copy_records_to_table("stage", records=records)
                await conn.execute("ANALYZE stage")
                done = await conn.fetchrow(sql.format(rows="SELECT * FROM stage"))
            else:
                columns = [*zip(*records, strict=True)]
                done = await conn.fetchrow(sql.format(rows=ARRAYS), *columns)
        assert sum(done) == len(rows)

    return write


async def merge(conn: Any, turns: int, most: int) -> Table:
    results = Table(
        *(
            "rows",
            "",
            "the library, ms",
            "ON CONFLICT by hand, ms",
            "MERGE by hand, ms",
        ),
        "MERGE to ON CONFLICT",
    )
    for number in (100, 1_000, MOST_ARRAYS, 100_000):
        if number > most:
            break
        copied = number > MOST_ARRAYS
        ways = {
            "ours": by(conn),
            "conflict": by_hand(conn, ON_CONFLICT, copied=copied),
            "merge": by_hand(conn, MERGE, copied=copied),
        }
        for there in (False, True):
            found = await measure(conn, number, turns, ways, there=there)
            results.add_row(
                f"{number:,}" if not there else "",
                "updated" if there else "created",
                *(f"{found[name]:.1f}" for name in ways),
                f"{found['merge'] / found['conflict']:.2f}",
            )
    return results


async def connections(conn: Any, dsn: str, turns: int, most: int) -> Table:
    results = Table("connections", "created, rows/s", "updated, rows/s")
    numbers = (1, 2, 4)
    async with asyncpg.create_pool(dsn, min_size=5, max_size=5) as pool:
        ways = {
            str(n): by(pool, connections=n, atomic=False, batch_size=10_000)
            for n in numbers
        }
        created = await measure(conn, most, turns, ways, there=False)
        updated = await measure(conn, most, turns, ways, there=True)
    for name in ways:
        rates = (most / found[name] * 1e3 for found in (created, updated))
        results.add_row(name, *(f"{rate:,.0f}" for rate in rates))
    return results


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--most", type=int, default=100_000, help="rows")
    options = parser.parse_args()
    server = session_server()
    if isinstance(server, NoServerError):
        raise server
    conn = await asyncpg.connect(server.dsn)
    await conn.execute(SCHEMA)
    console = Console()
    turns, most = options.turns, options.most
    console.print(await arrays_or_copy(conn, turns, most))
    console.print(await native_or_update_first(server.dsn, turns, most))
    if conn.get_server_version() >= (18,):
        console.print(await merge(conn, turns, most))
    console.print(await connections(conn, server.dsn, turns, most))
    await conn.close()
    print(f"{server.version} from {server.origin}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    finally:
        stop_session_server()
