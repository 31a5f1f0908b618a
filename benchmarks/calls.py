"""
How many functions of the package a warm call runs.

The profiler of Python (`sys.setprofile`) counts every entry into a function of the package
during a single call, `F("hits") + 1` included, and during a call with ten rows. A
coroutine or generator is entered again whenever it is resumed, which counts too. On
aiosqlite the library also works on the thread of the connection, which has a column of
its own. The figure is the smallest of several calls.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import aiosqlite
from rich.table import Table

import aioupsert
from aioupsert import F, create_or_update, create_or_update_many
from benchmarks.support.databases import create_table, postgresql, postgresql_server
from benchmarks.support.report import show, show_versions

QUICK: Final = {"times": 3}
PACKAGE: Final = str(Path(aioupsert.__file__).parent) + os.sep
WARM_UP: Final = 3

Call = Callable[[], Awaitable[object]]


class Counts(NamedTuple):
    """
    The functions that a call ran.

    Attributes:
        driver: Over which driver.
        call: What was called.
        main: How many functions it ran on the thread of the event loop.
        all_threads: How many it ran on that thread and the connection's.
        names: The functions on the thread of the event loop, in order.
    """

    driver: str
    call: str
    main: int
    all_threads: int
    names: list[str]


class Profiler:
    """Notes the functions of the package that run, on each thread it is installed on."""

    def __init__(self) -> None:
        self.main: list[str] = []
        self.others: list[str] = []
        self._main = threading.get_ident()
        self._is_on = False

    def __call__(self, frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        if self._is_on and event == "call" and code.co_filename.startswith(PACKAGE):
            file = code.co_filename.removeprefix(PACKAGE)
            is_main = threading.get_ident() == self._main
            (self.main if is_main else self.others).append(f"{file}:{code.co_name}")

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count, from nothing, while the block runs."""
        self.main, self.others = [], []
        self._is_on = True
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            self._is_on = False


def calls_over(conn: Any) -> dict[str, Call]:
    """Return the calls that are counted."""
    rows = [{"path": f"/page/{number}", "hits": number} for number in range(10)]

    async def one() -> object:
        return await create_or_update(
            conn, "views", key={"path": "/"}, defaults={"hits": F("hits") + 1}
        )

    async def ten_rows() -> object:
        return await create_or_update_many(conn, "views", rows, key="path")

    return {"one row": one, "ten rows in bulk": ten_rows}


async def count(driver: str, conn: Any, profiler: Profiler, times: int) -> list[Counts]:
    """Return what each of the calls ran, over a connection."""
    found: list[Counts] = []
    for name, call in calls_over(conn).items():
        for _ in range(WARM_UP):
            await call()
        counted: list[Counts] = []
        for _ in range(times):
            with profiler.counting():
                await call()
            main, others = profiler.main, profiler.others
            counted.append(
                Counts(driver, name, len(main), len(main) + len(others), main)
            )
        found.append(min(counted, key=lambda counts: counts[2:4]))
    return found


@asynccontextmanager
async def profiled_aiosqlite(
    profiler: Profiler,
) -> AsyncIterator[aiosqlite.Connection]:
    """Open a connection whose thread the profiler is installed on."""
    threading.setprofile(profiler)
    connecting = aiosqlite.connect(":memory:", isolation_level=None)
    try:
        conn = await connecting
    finally:
        threading.setprofile(None)
    try:
        yield conn
    finally:
        await conn.close()


async def count_all(dsn: str, times: int) -> list[Counts]:
    """Return what each of the calls ran, over aiosqlite and over asyncpg."""
    profiler = Profiler()
    async with profiled_aiosqlite(profiler) as lite:
        await lite.execute(create_table("views"))
        found = await count("aiosqlite", lite, profiler, times)
    async with postgresql(dsn, "views") as conn:
        found += await count("asyncpg", conn, profiler, times)
    return found


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--times", type=int, default=20, help="calls, of which the smallest counts"
    )
    parser.add_argument("--names", action="store_true", help="list the functions")
    parser.add_argument("--json", type=Path, help="write the figures to this file")


def run(options: Namespace) -> int:
    with postgresql_server() as server:
        found = asyncio.run(count_all(server.dsn, options.times))
    table = Table("driver", "call", "main thread", "all threads")
    for counts in found:
        table.add_row(
            counts.driver, counts.call, f"{counts.main}", f"{counts.all_threads}"
        )
    show(table)
    if options.names:
        for counts in found:
            print(f"\n{counts.driver}, {counts.call}:", *counts.names, sep="\n  ")
    show_versions(server)
    if options.json:
        text = json.dumps([counts._asdict() for counts in found], indent=1)
        options.json.write_text(text, "utf-8")
    return 0
