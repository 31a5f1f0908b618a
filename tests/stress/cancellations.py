"""Calls that are cancelled at any instant: what was acknowledged is stored, once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aioupsert import F, create_or_update
from tests.stress.history import History, wrong_counters, wrong_flags
from tests.support.databases import (
    Database,
    Kind,
    execute,
    has_begun,
    open_postgresql,
    open_sqlite,
)


@dataclass(frozen=True)
class Size:
    """How many connections, rows, and operations in all."""

    connections: int = 16
    keys: int = 8
    operations: int = 100_000


async def cancel(dsn: str, kind: Kind, size: Size, seed: int) -> tuple[str, bool]:
    """Give every call a random time; every connection must be usable after each."""
    history = History()
    left_open = 0

    async def client(conn: Any, number: int) -> None:
        nonlocal left_open
        choose = random.Random(seed + number)  # noqa: S311  # no secret
        for turn in range(size.operations // size.connections):
            key = choose.randrange(size.keys)
            longest = choose.choice([0.0, 0.001, 0.005, 0.02, 0.2])
            strategy = choose.choice(["auto", "exact"])
            timed = add(conn, key, choose.uniform(0, longest), strategy)
            await history.record("add", key, timed, 1, unknown=(TimeoutError,))
            if not turn % 10:
                left_open += await is_left_open(conn)

    async with database(dsn, kind) as db:
        await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)")
        async with asyncio.TaskGroup() as group:
            for number in range(size.connections):
                group.create_task(on_its_own(db, client, number))
        stored = dict(await db.query("SELECT k, n FROM t"))
    cancelled = len(history.errors)
    counters = wrong_counters(history.operations, stored)
    flags = wrong_flags(history.operations, stored)
    line = (
        f"{kind}: {len(history.operations):,} operations, {cancelled:,} cancelled,"
        f" {len(counters)} wrong sums, {len(flags)} wrong flags,"
        f" {left_open} left open"
    )
    return line, not (counters or flags or left_open) and cancelled > 0


async def add(conn: Any, key: int, longest: float, strategy: Any) -> tuple[None, bool]:
    async with asyncio.timeout(longest):
        result = await create_or_update(
            conn, "t", key={"k": key}, defaults={"n": F("n") + 1}, strategy=strategy
        )
    return None, result.created


async def is_left_open(conn: Any) -> bool:
    # What was cancelled may still be coming to its end; this comes after it.
    await execute(conn, "SELECT 1")
    return has_begun(conn)


async def on_its_own(db: Database, client: Any, number: int) -> None:
    async with db.connect() as conn:
        await client(conn, number)


@asynccontextmanager
async def database(dsn: str, kind: Kind) -> AsyncIterator[Database]:
    with TemporaryDirectory() as folder:
        opened: AbstractAsyncContextManager[Database] = (
            open_sqlite(Path(folder) / "t.db")
            if kind == "aiosqlite"
            else open_postgresql(dsn, kind)
        )
        async with opened as db:
            yield db
