"""
How much memory many rows take: ten million through a generator, created, then synchronized.

Prints the largest resident size of the process, and the one before the first row, on
SQLite and on PostgreSQL, each in a process of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any, Final

import aiosqlite

from aioupsert import create_or_update_many, sync_rows
from benchmarks.support.databases import (
    create_table,
    postgresql,
    postgresql_server,
    sqlite_path,
)
from benchmarks.support.report import show_versions
from benchmarks.support.timing import Elapsed, stopwatch

QUICK: Final = {"rows": 2_000}


def generated(number: int) -> Iterator[dict[str, Any]]:
    for n in range(number):
        yield {"path": f"/page/{n}", "hits": n, "note": f"the note of page {n}"}


def megabytes() -> float:
    # In kilobytes, on macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1_000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1_000_000


def changed(number: int) -> Iterator[dict[str, Any]]:
    """Yield the rows but for the last one, of which 1 % have another note."""
    for row in generated(number - 1):
        yield row if row["hits"] % 100 else {**row, "note": "another note"}


async def load(engine: str, conn: Any, number: int, most: float) -> bool:
    """Write the rows; return whether they took no more than so many megabytes."""
    before = megabytes()
    with stopwatch() as elapsed:
        result = await create_or_update_many(
            conn, "views", generated(number), key="path"
        )
    assert result.created == number
    told(f"{engine}, created", number, elapsed)
    with stopwatch() as elapsed:
        result = await sync_rows(conn, "views", changed(number), key="path", scope={})
    assert result.deleted == 1
    told(f"{engine}, synchronized", number, elapsed)
    print(f"{engine}: {before:.0f} MB before; limit {most:.0f} MB")
    return megabytes() <= most


def told(what: str, number: int, elapsed: Elapsed) -> None:
    print(
        f"{what}: {number:,} rows in {elapsed.wall:.0f} s,"
        f" {number / elapsed.wall:,.0f} rows/s; {megabytes():.0f} MB resident at most"
    )


async def on_sqlite(number: int, most: float) -> bool:
    with sqlite_path() as path:
        async with aiosqlite.connect(path) as conn:
            await conn.execute(create_table("views"))
            return await load("SQLite", conn, number, most)


async def on_postgresql(number: int, most: float, dsn: str) -> bool:
    async with postgresql(dsn, "views") as conn:
        return await load("PostgreSQL", conn, number, most)


def work(number: int, most: float, dsn: str | None) -> None:
    """Be the process that writes; the exit code is 1 if that took too much."""
    loading = (
        on_sqlite(number, most) if dsn is None else on_postgresql(number, most, dsn)
    )
    sys.exit(not asyncio.run(loading))


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--most", type=float, default=200, help="megabytes")


def run(options: Namespace) -> int:
    # Not forked: a child would start with what this process has grown to.
    context = multiprocessing.get_context("spawn")
    codes: list[int] = []
    with postgresql_server() as server:
        for dsn in (None, server.dsn):
            process = context.Process(
                target=work, args=(options.rows, options.most, dsn)
            )
            process.start()
            process.join()
            assert process.exitcode is not None
            codes.append(process.exitcode)
    show_versions(server)
    return int(any(codes))
