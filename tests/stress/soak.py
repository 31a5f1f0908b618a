"""Everything at once for a long time, while the table changes: nothing is left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import asyncpg

from aioupsert import Coalescer, Excluded, F, create_or_update, create_or_update_many
from tests.support.databases import PostgresDatabase, open_postgresql

KEYS: Final = 50
ADD: Final = {"n": F("n") + 1}
# How much more memory there may be at the end than after the first fifth.
GROWTH: Final = 1.05
CHANGES: Final = (
    "ALTER TABLE t ADD COLUMN more text DEFAULT 'x'",
    "ALTER TABLE t ALTER COLUMN n SET DEFAULT 0",
    "CREATE INDEX more ON t (more)",
    "ALTER TABLE t DROP COLUMN more",
)


@dataclass(frozen=True)
class Size:
    """How many clients, for how long, and seconds between changes of the table."""

    clients: int = 32
    seconds: float = 1_800
    between: float = 5


async def soak(dsn: str, size: Size, seed: int) -> tuple[str, bool]:
    """Count in every way; then look at what is stored, and what is left."""
    counted: Counter[int] = Counter()
    end = time.monotonic() + size.seconds
    tasks = asyncio.all_tasks()
    async with open_postgresql(dsn, "pool") as pg:
        await pg.run("CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)")
        pool: asyncpg.Pool[Any] = pg.handle
        async with (
            Coalescer(pool, "t", key="k") as coalescer,
            asyncio.TaskGroup() as group,
        ):
            for number in range(size.clients):
                choose = random.Random(seed + number)  # noqa: S311  # no secret
                way = (singly(pool), coalesced(coalescer), in_bulk(pool))[number % 3]
                group.create_task(client(way, counted, choose, end))
            group.create_task(change(pg, size.between, end))
            await asyncio.sleep(size.seconds / 5)
            before = memory()
            await asyncio.sleep(size.seconds * 0.75)
            after = memory()
        await asyncio.sleep(0.1)
        left = len(asyncio.all_tasks() - tasks)
        stored = dict(await pg.query("SELECT k, n FROM t"))
        ((sessions,), (idle,)) = await pg.query(LEFT.format(name=pg.schema))
        # Beside the pool's there is the one that looks.
        lent = sessions - pool.get_size() - 1
    wrong = [key for key in range(KEYS) if stored.get(key, 0) != counted[key]]
    growth = after / before
    line = (
        f"soak: {counted.total():,} counted by {size.clients} clients in"
        f" {size.seconds:,.0f} s, {len(wrong)} wrong sums, memory {growth - 1:+.1%},"
        f" {left} tasks, {lent} connections and {idle} transactions left"
    )
    return line, not (wrong or left or lent or idle) and growth < GROWTH


LEFT: Final = """
SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}'
UNION ALL SELECT count(*) FROM pg_stat_activity
WHERE application_name = '{name}' AND state LIKE 'idle in transaction%'
"""


def singly(pool: Any) -> Any:
    async def count(keys: list[int]) -> None:
        for key in keys:
            await create_or_update(pool, "t", key={"k": key}, defaults=ADD)

    return count


def coalesced(coalescer: Coalescer) -> Any:
    async def count(keys: list[int]) -> None:
        calls = (coalescer.create_or_update(key={"k": k}, defaults=ADD) for k in keys)
        await asyncio.gather(*calls)

    return count


def in_bulk(pool: Any) -> Any:
    async def count(keys: list[int]) -> None:
        rows = [{"k": key, "n": 1} for key in keys]
        add = {"n": F("n") + Excluded("n")}
        await create_or_update_many(pool, "t", rows, key="k", update=add)

    return count


async def client(
    count: Any, counted: Counter[int], choose: random.Random, end: float
) -> None:
    while time.monotonic() < end:
        keys = choose.choices(range(KEYS), k=20)
        await count(keys)
        counted.update(keys)


async def change(pg: PostgresDatabase, between: float, end: float) -> None:
    """Change the table, over and over."""
    for sql in cycle(CHANGES):
        await asyncio.sleep(between)
        if time.monotonic() > end:
            return
        await pg.run(sql)


def memory() -> int:
    """Bytes that the process has in memory; on Linux alone."""
    gc.collect()
    pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
