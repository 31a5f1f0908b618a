"""
How many functions of the package a call goes through, which is what makes it cheap.

Counted on the event loop's thread by the interpreter itself, a coroutine once more each
time it is resumed. `python -m benchmarks calls` prints the figures.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import aioupsert
from aioupsert import F, create_or_update, create_or_update_many
from tests.support.databases import SQLiteDatabase

PACKAGE = str(Path(aioupsert.__file__).parent)
WARM_UP = 3


async def calls_of(work: Callable[[], Awaitable[object]]) -> Counter[str]:
    """Count the package's functions that are called, by their names."""
    for _ in range(WARM_UP):
        await work()
    found: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PACKAGE):
            found[f"{code.co_filename.removeprefix(PACKAGE)}:{code.co_name}"] += 1

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        await work()
    finally:
        sys.setprofile(before)
    return found


async def test_one_row(lite: SQLiteDatabase) -> None:
    await lite.run("CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER DEFAULT 0)")

    async def work() -> None:
        hits = {"n": F("n") + 1}
        await create_or_update(lite.handle, "t", key={"k": "a"}, defaults=hits)

    found = await calls_of(work)
    assert 0 < found.total() <= 17, found


async def test_ten_rows(lite: SQLiteDatabase) -> None:
    await lite.run("CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER)")
    rows = [{"k": str(number), "n": number} for number in range(10)]

    async def work() -> None:
        await create_or_update_many(lite.handle, "t", rows, key="k")

    found = await calls_of(work)
    assert 0 < found.total() <= 90, found
