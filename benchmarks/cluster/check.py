"""
Count on a cluster, from many clients at once, and see that nothing is lost or told wrong.

    python benchmarks/cluster/check.py DSN [--create SQL] [--clients 32] [--calls 100]

It makes a table of its own, calls singly, in bulk and through a `Coalescer`, compares
what the calls said with what is stored, and drops the table. The last line has the
figures; the exit code is 1 if one of them is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg

sys.path.insert(0, str(Path(__file__).parents[2]))

from aioupsert import (  # the checkout's, see above
    Coalescer,
    Excluded,
    F,
    create_or_update,
    create_or_update_many,
    is_retryable,
)

TABLE = "aioupsert_check"
BULK = range(100, 150)
CREATE = f"CREATE TABLE {TABLE} (k bigint PRIMARY KEY, n bigint NOT NULL DEFAULT 0)"
ADD = {"n": F("n") + 1}


class Counts:
    """What was asked for, and what the calls said."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.added: Counter[int] = Counter()
        self.created: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.again = 0


async def singly(pool: Any, counts: Counts, seed: int, calls: int) -> None:
    """Count one by one; what may be repeated is repeated."""
    choose = random.Random(seed)  # noqa: S311  # no secret
    for _ in range(calls):
        key = choose.randrange(20)
        try:
            result = await create_or_update(pool, TABLE, key={"k": key}, defaults=ADD)
        except Exception as exc:  # noqa: BLE001  # told in the end
            counts.again += is_retryable(exc)
            counts.errors[type(exc).__name__] += not is_retryable(exc)
        else:
            counts.added[key] += 1
            counts.created[key] += result.created


async def in_bulk(pool: Any, counts: Counts, seed: int, calls: int) -> None:
    """Count many rows at once, in batches of their own."""
    keys = [*BULK]
    random.Random(seed).shuffle(keys)  # noqa: S311  # no secret
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
        counts.created[-1] += result.created


async def together(coalescer: Coalescer, counts: Counts, seed: int, calls: int) -> None:
    """Count through a coalescer."""
    choose = random.Random(seed)  # noqa: S311  # no secret
    for _ in range(calls):
        key = 200 + choose.randrange(20)
        result = await coalescer.create_or_update(key={"k": key}, defaults=ADD)
        counts.added[key] += 1
        counts.created[key] += result.created


async def check(dsn: str, create: list[str], clients: int, calls: int) -> int:
    """Do all of it; give the exit code."""
    counts = Counts()
    async with asyncpg.create_pool(dsn, min_size=1, max_size=min(clients, 20)) as pool:
        version = await pool.fetchval("SELECT version()")
        await pool.execute(f"DROP TABLE IF EXISTS {TABLE}")
        for sql in create:
            await pool.execute(sql)
        started = time.perf_counter()
        try:
            for work in (singly, in_bulk):
                await asyncio.gather(
                    *(work(pool, counts, seed, calls) for seed in range(clients))
                )
            async with Coalescer(pool, TABLE, key="k") as coalescer:
                await asyncio.gather(
                    *(together(coalescer, counts, n, calls) for n in range(clients))
                )
            seconds = time.perf_counter() - started
            stored = dict(await pool.fetch(f"SELECT k, n FROM {TABLE}"))
        finally:
            await pool.execute(f"DROP TABLE IF EXISTS {TABLE}")
    wrong = {k for k in {*stored, *counts.added} if stored.get(k) != counts.added[k]}
    bulk = counts.created.pop(-1)
    several = {k for k, times in counts.created.items() if times != 1}
    print(version)
    print(
        f"{sum(counts.added.values())} counted in {seconds:.1f} s,"
        f" {len(wrong)} keys with a wrong number, {len(several)} not created once,"
        f" {len(BULK) - bulk} of {len(BULK)} bulk rows not created once, {counts.again} left to repeat,"
        f" {dict(+counts.errors)} errors"
    )
    return int(bool(wrong or several or bulk != len(BULK) or +counts.errors))


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("dsn")
    parser.add_argument("--create", action="append", help=f"in place of {CREATE}")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--calls", type=int, default=100, help="of each client")
    options = parser.parse_args()
    create = options.create or [CREATE]
    return asyncio.run(check(options.dsn, create, options.clients, options.calls))


if __name__ == "__main__":
    sys.exit(main())
