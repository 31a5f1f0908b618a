"""
How much memory many rows take: ten million through a generator.

    python benchmarks/memory.py

Prints the largest resident size of the process, with the one before the first row. It
runs on SQLite and on PostgreSQL, each in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiosqlite
import asyncpg

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioupsert import create_or_update_many  # the checkout's, see above
from tests.support.servers import (  # as above
    NoServerError,
    session_server,
    stop_session_server,
)

SCHEMA = """
CREATE TABLE views (path text PRIMARY KEY, hits integer NOT NULL DEFAULT 0, note text)
"""


def generated(number: int) -> Iterator[dict[str, Any]]:
    for n in range(number):
        yield {"path": f"/page/{n}", "hits": n, "note": f"the note of page {n}"}


def megabytes() -> float:
    # In kilobytes, on macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1_000_000


async def load(engine: str, conn: Any, number: int, most: float) -> bool:
    before = megabytes()
    started = time.perf_counter()
    result = await create_or_update_many(conn, "views", generated(number), key="path")
    seconds = time.perf_counter() - started
    assert result.created == number
    after = megabytes()
    print(
        f"{engine}: {number:,} rows in {seconds:.0f} s, {number / seconds:,.0f} rows/s;"
        f" {after:.0f} MB resident at most, {before:.0f} MB before; limit {most:.0f} MB"
    )
    return after <= most


async def on_sqlite(number: int, most: float) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        async with aiosqlite.connect(Path(folder) / "bench.db") as conn:
            await conn.execute(SCHEMA)
            return await load("SQLite", conn, number, most)


async def on_postgresql(number: int, most: float, dsn: str) -> bool:
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute(f"DROP TABLE IF EXISTS views; {SCHEMA}")
        return await load("PostgreSQL", conn, number, most)
    finally:
        await conn.execute("DROP TABLE views")
        await conn.close()


def run(number: int, most: float, dsn: str | None) -> None:
    work = on_sqlite(number, most) if dsn is None else on_postgresql(number, most, dsn)
    sys.exit(not asyncio.run(work))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--most", type=float, default=200, help="megabytes")
    options = parser.parse_args()
    server = session_server()
    if isinstance(server, NoServerError):
        raise server
    # Not forked: a child would begin with what this process has grown to.
    context = multiprocessing.get_context("spawn")
    codes: list[int | None] = []
    for dsn in (None, server.dsn):
        process = context.Process(target=run, args=(options.rows, options.most, dsn))
        process.start()
        process.join()
        codes.append(process.exitcode)
    return max(code or 0 for code in codes)


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        stop_session_server()
