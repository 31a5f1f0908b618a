r"""
Count on a cluster from many clients at once, and check that nothing is lost.

It creates a table of its own, calls singly, in bulk and through a `Coalescer`, compares
what the calls reported with what is stored, and drops the table. The last line has the
figures: how many keys have a wrong number, or were reported as created other than once.
The exit code is 1 if any has.

The table can be created in another way with --create, which may be given several times.
For Citus:

    python -m benchmarks cluster "$DSN" \
      --create "CREATE TABLE aioupsert_check (k bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 0)" \
      --create "SELECT create_distributed_table('aioupsert_check', 'k')"
"""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from aioupsert import (
    Coalescer,
    Excluded,
    F,
    create_or_update,
    create_or_update_many,
    is_retryable,
)
from benchmarks.support.rows import seeded

QUICK: Final = {"clients": 4, "calls": 20}
TABLE: Final = "aioupsert_check"
BULK: Final = range(100, 150)
CREATE: Final = (
    f"CREATE TABLE {TABLE} (k bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 0)"
)
ADD: Final = {"n": F("n") + 1}


class Counts:
    """
    What the calls asked for, and what they reported.

    Attributes:
        added: How often each key was counted.
        created: How often each key was reported as created by a call for one row.
        created_in_bulk: How many rows the calls for many reported as created.
        errors: The errors that cannot be retried, by the name of their class.
        retryable: How many calls failed with an error that can be.
    """

    def __init__(self) -> None:
        self.added: Counter[int] = Counter()
        self.created: Counter[int] = Counter()
        self.created_in_bulk = 0
        self.errors: Counter[str] = Counter()
        self.retryable = 0


async def singly(pool: Any, counts: Counts, seed: int, calls: int) -> None:
    """Count one by one."""
    choose = seeded(seed)
    for _ in range(calls):
        key = choose.randrange(20)
        try:
            result = await create_or_update(pool, TABLE, key={"k": key}, defaults=ADD)
        except Exception as exc:  # noqa: BLE001  # all are counted
            if is_retryable(exc):
                counts.retryable += 1
            else:
                counts.errors[type(exc).__name__] += 1
        else:
            counts.added[key] += 1
            counts.created[key] += result.created


async def in_bulk(pool: Any, counts: Counts, seed: int, calls: int) -> None:
    """Count many rows at once, in batches of their own."""
    keys = [*BULK]
    seeded(seed).shuffle(keys)
    for _ in range(max(1, calls // len(keys))):
        result = await create_or_update_many(
            pool,
            TABLE,
            [{"k": key, "n": 1} for key in keys],
            key="k",
            update={"n": F("n") + Excluded("n")},
            batch_size=10,
            atomic=False,
        )
        counts.added.update(keys)
        counts.created_in_bulk += result.created


async def coalesced(
    coalescer: Coalescer, counts: Counts, seed: int, calls: int
) -> None:
    """Count through a coalescer."""
    choose = seeded(seed)
    for _ in range(calls):
        key = 200 + choose.randrange(20)
        result = await coalescer.create_or_update(key={"k": key}, defaults=ADD)
        counts.added[key] += 1
        counts.created[key] += result.created


async def count(pool: Any, clients: int, calls: int) -> Counts:
    """Count in all three ways, one after the other."""
    counts = Counts()
    for work in (singly, in_bulk):
        await asyncio.gather(
            *(work(pool, counts, seed, calls) for seed in range(clients))
        )
    async with Coalescer(pool, TABLE, key="k") as coalescer:
        await asyncio.gather(
            *(coalesced(coalescer, counts, seed, calls) for seed in range(clients))
        )
    return counts


async def check(dsn: str, create: Sequence[str], clients: int, calls: int) -> bool:
    """Count, print the figures and return whether all of them are right."""
    async with asyncpg.create_pool(dsn, min_size=1, max_size=min(clients, 20)) as pool:
        version = await pool.fetchval("SELECT version()")
        await pool.execute(f"DROP TABLE IF EXISTS {TABLE}")
        for sql in create:
            await pool.execute(sql)
        started = time.perf_counter()
        try:
            counts = await count(pool, clients, calls)
            seconds = time.perf_counter() - started
            found = await pool.fetch(f"SELECT k, n FROM {TABLE}")
        finally:
            await pool.execute(f"DROP TABLE IF EXISTS {TABLE}")
    stored = {row["k"]: row["n"] for row in found}
    wrong = {k for k in {*stored, *counts.added} if stored.get(k) != counts.added[k]}
    not_once = {k for k, times in counts.created.items() if times != 1}
    bulk_not_once = len(BULK) - counts.created_in_bulk
    print(version)
    print(
        f"{counts.added.total()} counted in {seconds:.1f} s,"
        f" {len(wrong)} keys with a wrong number, {len(not_once)} not created once,"
        f" {bulk_not_once} of {len(BULK)} bulk rows not created once,"
        f" {counts.retryable} left to retry, {dict(counts.errors)} errors"
    )
    return not (wrong or not_once or bulk_not_once or counts.errors)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("dsn")
    parser.add_argument("--create", action="append", help=f"instead of {CREATE}")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--calls", type=int, default=100, help="of each client")


def run(options: Namespace) -> int:
    create = options.create or [CREATE]
    right = asyncio.run(check(options.dsn, create, options.clients, options.calls))
    return int(not right)
