"""
What one call costs, beside the hand-written statement on the same connection.

    python benchmarks/single_call.py

Both are measured in one run, in turns of some hundred calls, so that whatever else the
machine does falls on both. The ratio is the median over the pairs of turns, with the
quartiles beside it. PostgreSQL is found as the tests find it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiosqlite
import asyncpg
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioupsert import F, create_or_update  # the checkout's, see above
from tests.support.servers import (  # as above
    NoServerError,
    session_server,
    stop_session_server,
)

Call = Callable[[str], Awaitable[object]]

SCHEMA = """
CREATE TABLE {} (
    path text PRIMARY KEY,
    hits integer NOT NULL DEFAULT 0,
    note text
)
"""
POSTGRESQL = """
INSERT INTO by_hand AS t (path, hits, note) VALUES ($1, $2, $3)
ON CONFLICT (path) DO UPDATE SET hits = t.hits + $2, note = $3
RETURNING (xmax = 0) AS created
"""
SQLITE = """
INSERT INTO by_hand AS t (path, hits, note) VALUES (?, ?, ?)
ON CONFLICT (path) DO UPDATE SET hits = t.hits + excluded.hits, note = excluded.note
RETURNING hits
"""


class Case(NamedTuple):
    """Two ways to do the same, and the most that ours may cost beside the other."""

    name: str
    by_hand: Call
    ours: Call
    most: float
    fresh: bool


def ours(conn: Any) -> Call:
    async def call(path: str) -> None:
        await create_or_update(
            conn,
            "ours",
            key={"path": path},
            defaults={"hits": F("hits") + 1, "note": "seen"},
        )

    return call


async def postgresql_cases(conn: Any) -> list[Case]:
    for table in ("by_hand", "ours"):
        await conn.execute(f"DROP TABLE IF EXISTS {table}; {SCHEMA.format(table)}")

    async def by_hand(path: str) -> None:
        record = await conn.fetchrow(POSTGRESQL, path, 1, "seen")
        assert record is not None

    return [
        Case("asyncpg, updated", by_hand, ours(conn), 1.15, fresh=False),
        Case("asyncpg, created", by_hand, ours(conn), 1.15, fresh=True),
    ]


async def sqlite_cases(conn: aiosqlite.Connection) -> list[Case]:
    await conn.execute("PRAGMA journal_mode = WAL")
    await conn.execute("PRAGMA synchronous = NORMAL")
    for table in ("by_hand", "ours"):
        await conn.execute(SCHEMA.format(table))

    async def by_hand(path: str) -> None:
        assert await conn.execute_fetchall(SQLITE, (path, 1, "seen"))

    return [
        Case("aiosqlite, updated", by_hand, ours(conn), 1.25, fresh=False),
        Case("aiosqlite, created", by_hand, ours(conn), 1.25, fresh=True),
    ]


async def measure(case: Case, turns: int, calls: int) -> tuple[list[float], ...]:
    """Microseconds a call, by hand and ours, in alternating turns."""
    names = itertools.count()
    times: tuple[list[float], ...] = ([], [])
    for turn in range(turns + 1):
        for call, collected in zip((case.by_hand, case.ours), times, strict=True):
            paths = [f"/page/{next(names) if case.fresh else 0}" for _ in range(calls)]
            started = time.perf_counter()
            for path in paths:
                await call(path)
            if turn:  # the first one prepares statements and reads the catalog
                collected.append((time.perf_counter() - started) / calls * 1e6)
    return times


async def compare(
    cases: list[Case], results: Table, turns: int, calls: int
) -> list[str]:
    """Fill in the table; name the cases that cost more than they may."""
    too_slow: list[str] = []
    for case in cases:
        by_hand, our_own = await measure(case, turns, calls)
        ratios = [b / a for a, b in zip(by_hand, our_own, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        results.add_row(
            case.name,
            f"{statistics.median(by_hand):.0f}",
            f"{statistics.median(our_own):.0f}",
            f"{middle:.2f}",
            f"{low:.2f} to {high:.2f}",
            f"{case.most:.2f}",
        )
        if middle > case.most:
            too_slow.append(case.name)
    return too_slow


async def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--check", action="store_true", help="fail above the limits")
    options = parser.parse_args()
    results = Table("case", "by hand, µs", "ours, µs", "ratio", "quartiles", "at most")
    server = session_server()
    if isinstance(server, NoServerError):
        raise server
    connection = await asyncpg.connect(server.dsn)
    try:
        too_slow = await compare(
            await postgresql_cases(connection), results, options.turns, options.calls
        )
    finally:
        await connection.close()
    with tempfile.TemporaryDirectory() as folder:
        async with aiosqlite.connect(
            Path(folder) / "bench.db", isolation_level=None
        ) as sqlite:
            too_slow += await compare(
                await sqlite_cases(sqlite), results, options.turns, options.calls
            )
    Console().print(results)
    print(f"{server.version} from {server.origin}, Python {sys.version.split()[0]}")
    return 1 if options.check and too_slow else 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    finally:
        stop_session_server()
