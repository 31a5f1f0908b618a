"""
What becomes of a call, and of many rows, as the table grows.

    python benchmarks/growth.py [--plot docs/images/growth]

One row updated and one created, and 10,000 rows of which half are there, in tables of a
thousand to ten million rows, each beside the statement by hand, in turns in one run.
PostgreSQL is found as the tests find it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import matplotlib as mpl
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioupsert import F, create_or_update, create_or_update_many  # the checkout's
from tests.support.servers import (  # as above
    NoServerError,
    session_server,
    stop_session_server,
)

SCHEMA = """
DROP TABLE IF EXISTS views;
CREATE TABLE views (path text PRIMARY KEY, hits integer NOT NULL DEFAULT 0, note text);
"""
FILL = """
INSERT INTO views
SELECT '/page/' || n, n % 100, 'the note of page ' || n FROM generate_series({}, {}) AS n
"""
BY_HAND = """
INSERT INTO views AS v (path, hits, note) VALUES ($1, 1, $2)
ON CONFLICT (path) DO UPDATE SET hits = v.hits + 1, note = excluded.note
RETURNING (xmax = 0)
"""
STAGED = """
INSERT INTO views AS v SELECT * FROM staged
ON CONFLICT (path) DO UPDATE SET hits = excluded.hits, note = excluded.note
"""
MANY = 10_000

Write = Callable[[int], Awaitable[object]]
"""Writes to a table of so many rows."""


def cases(conn: Any) -> dict[str, tuple[Write, Write, int]]:
    """Ours, by hand, and how often in a turn."""
    fresh = itertools.count(10**9)

    def old(size: int) -> str:
        return f"/page/{random.randint(1, size)}"  # noqa: S311  # no secret

    async def ours(path: str) -> object:
        add = {"hits": F("hits") + 1, "note": "seen"}
        return await create_or_update(conn, "views", key={"path": path}, defaults=add)

    async def by_hand(path: str) -> object:
        return await conn.fetchval(BY_HAND, path, "seen")

    def rows(size: int) -> list[tuple[str, int, str]]:
        half = random.sample(range(1, size + 1), min(size, MANY // 2))
        paths = [f"/page/{n}" for n in half]
        paths += [f"/page/{next(fresh)}" for _ in range(MANY - len(paths))]
        return [(path, 7, "seen") for path in paths]

    async def ours_many(size: int) -> object:
        dicts = [{"path": p, "hits": h, "note": n} for p, h, n in rows(size)]
        return await create_or_update_many(conn, "views", dicts, key="path")

    async def by_hand_many(size: int) -> None:
        async with conn.transaction():
            await conn.execute("CREATE TEMP TABLE staged (LIKE views) ON COMMIT DROP")
            await conn.copy_records_to_table("staged", records=rows(size))
            await conn.execute(STAGED)

    return {
        "updated": (lambda n: ours(old(n)), lambda n: by_hand(old(n)), 300),
        "created": (
            lambda _: ours(f"/page/{next(fresh)}"),
            lambda _: by_hand(f"/page/{next(fresh)}"),
            300,
        ),
        f"{MANY:,} rows": (ours_many, by_hand_many, 1),
    }


async def timed(write: Write, size: int, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        await write(size)
    return (time.perf_counter() - started) / times * 1e3


def plot(found: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    mpl.use("agg")
    fig, axes = plt.subplots(1, len(found), figsize=(12, 3.6), layout="constrained")
    for axis, (case, points) in zip(axes, found.items(), strict=True):
        sizes = [size for size, _, _ in points]
        axis.plot(sizes, [ours for _, ours, _ in points], "o-", color="#3f51b5")
        axis.plot(sizes, [hand for _, _, hand in points], "o--", color="#9e9e9e")
        axis.legend(["aioupsert", "by hand"], fontsize="small")
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_title(case, fontsize=10)
        axis.set_xlabel("rows in the table")
        axis.set_ylabel("ms")
    for ending in (".svg", ".png"):
        fig.savefig(path.with_name(path.name + ending), dpi=110)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--most", type=int, default=10_000_000, help="rows")
    parser.add_argument("--plot", type=Path, help="without the ending")
    options = parser.parse_args()
    server = session_server()
    if isinstance(server, NoServerError):
        raise server
    conn = await asyncpg.connect(server.dsn)
    await conn.execute(SCHEMA)
    table = Table("rows", "case", "ours, ms", "by hand, ms", "ratio", "quartiles")
    found: dict[str, list[tuple[int, float, float]]] = {}
    size, filled = 1_000, 0
    while size <= options.most:
        await conn.execute(FILL.format(filled + 1, size), timeout=900)
        await conn.execute("VACUUM ANALYZE views", timeout=900)
        await conn.execute("CHECKPOINT", timeout=900)
        for case, (ours, by_hand, times) in cases(conn).items():
            pairs = [
                (await timed(ours, size, times), await timed(by_hand, size, times))
                for _ in range(options.turns + 1)
            ][1:]
            low, middle, high = statistics.quantiles([a / b for a, b in pairs], n=4)
            mine, theirs = (
                statistics.median(each) for each in zip(*pairs, strict=True)
            )
            found.setdefault(case, []).append((size, mine, theirs))
            table.add_row(
                f"{size:,}",
                case,
                f"{mine:.3f}",
                f"{theirs:.3f}",
                f"{middle:.2f}",
                f"{low:.2f} to {high:.2f}",
            )
        table.add_section()
        size, filled = size * 10, size
    await conn.close()
    Console().print(table)
    print(f"{server.version} from {server.origin}, Python {sys.version.split()[0]}")
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    finally:
        stop_session_server()
