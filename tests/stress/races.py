"""Many connections, few rows, and deletions: sums and flags are exact, no error surfaces."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import asyncpg

from aioupsert import F, create_or_update
from tests.stress.history import History, wrong_counters, wrong_flags
from tests.support.databases import PostgresDatabase, open_postgresql

COLUMNS: Final = "k integer NOT NULL, n integer NOT NULL DEFAULT 0"


@dataclass(frozen=True)
class Race:
    """
    A table, and who is in each other's way.

    Attributes:
        tables: Makes it.
        key: Of a call, given the number of the row.
        defaults: What a call writes, likewise.
        deletes: The share of operations that delete.
        disturb: What others do meanwhile, on a connection of their own.
        settings: Of every connection.
    """

    tables: str
    key: Callable[[int], dict[str, Any]] = lambda k: {"k": k}
    defaults: Callable[[int], dict[str, Any]] = lambda _: {"n": F("n") + 1}
    deletes: float = 0.2
    disturb: str = ""
    settings: str = ""


RACES: Final = {
    "plain": Race(f"CREATE TABLE t ({COLUMNS}, PRIMARY KEY (k))"),
    "two unique columns": Race(
        f"CREATE TABLE t ({COLUMNS}, other integer UNIQUE, PRIMARY KEY (k))",
        defaults=lambda k: {"n": F("n") + 1, "other": -k},
    ),
    "foreign keys": Race(
        f"CREATE TABLE t ({COLUMNS}, PRIMARY KEY (k));"
        "CREATE TABLE child (k integer REFERENCES t ON DELETE CASCADE)",
        disturb="INSERT INTO child SELECT k FROM t ORDER BY random() LIMIT 1",
    ),
    "hash partitions": Race(
        f"CREATE TABLE t ({COLUMNS}, PRIMARY KEY (k)) PARTITION BY HASH (k);"
        "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    ),
    "partial index": Race(
        f"CREATE TABLE t ({COLUMNS}, gone timestamptz);"
        "CREATE UNIQUE INDEX u ON t (k) WHERE gone IS NULL",
        key=lambda k: {"k": k, "gone": None},
    ),
    "deferrable constraint": Race(
        f"CREATE TABLE t ({COLUMNS}, UNIQUE (k) DEFERRABLE INITIALLY DEFERRED)"
    ),
    "serializable": Race(
        f"CREATE TABLE t ({COLUMNS}, PRIMARY KEY (k))",
        settings="SET default_transaction_isolation = serializable",
    ),
}


@dataclass(frozen=True)
class Size:
    """How many connections, rows, and operations in all."""

    connections: int = 64
    keys: int = 8
    operations: int = 200_000


async def race(dsn: str, name: str, size: Size, seed: int) -> tuple[str, bool]:
    """Run it; a line of figures, and whether every figure is as it must be."""
    chosen = RACES[name]
    history = History()
    async with open_postgresql(dsn, "asyncpg") as pg:
        await pg.run(chosen.tables)
        async with (
            opened(pg, size.connections, chosen.settings) as conns,
            disturbed(pg, chosen.disturb),
            asyncio.TaskGroup() as group,
        ):
            for number, conn in enumerate(conns):
                choose = random.Random(seed + number)  # noqa: S311  # no secret
                group.create_task(client(conn, chosen, history, size, choose))
        stored = dict(await pg.query("SELECT k, n FROM t"))
        ((rows,),) = await pg.query("SELECT count(*) FROM t")
    counters = wrong_counters(history.operations, stored)
    flags = wrong_flags(history.operations, stored)
    twice = rows - len(stored)
    line = (
        f"{name}: {len(history.operations):,} operations, {len(counters)} wrong sums,"
        f" {len(flags)} wrong flags, {twice} rows twice, {len(history.errors)} errors"
    )
    return line, not (counters or flags or twice or history.errors)


async def client(
    conn: Any, race: Race, history: History, size: Size, choose: random.Random
) -> None:
    """Add to rows and delete them, one operation after the other."""
    for _ in range(size.operations // size.connections):
        key = choose.randrange(size.keys)
        if choose.random() < race.deletes:
            await history.record("delete", key, delete(conn, key))
        else:
            await history.record("add", key, add(conn, race, key), 1)


async def add(conn: Any, race: Race, key: int) -> tuple[None, bool]:
    result = await create_or_update(
        conn, "t", key=race.key(key), defaults=race.defaults(key)
    )
    assert result.rows_affected == 1
    return None, result.created


async def delete(conn: Any, key: int) -> tuple[int | None, bool]:
    """Delete a row; what it held. A plain statement is the caller's to repeat."""
    while True:
        with suppress(asyncpg.SerializationError, asyncpg.DeadlockDetectedError):
            return await conn.fetchval(
                "DELETE FROM t WHERE k = $1 RETURNING n", key
            ), False


@asynccontextmanager
async def opened(
    pg: PostgresDatabase, number: int, settings: str
) -> AsyncIterator[list[Any]]:
    """Connections with the settings."""
    async with AsyncExitStack() as stack:
        conns = [await stack.enter_async_context(pg.connect()) for _ in range(number)]
        for conn in conns if settings else ():
            await conn.execute(settings)
        yield conns


@asynccontextmanager
async def disturbed(pg: PostgresDatabase, sql: str) -> AsyncIterator[None]:
    """Have others execute the statement over and over."""

    async def disturb(conn: Any) -> None:
        while True:
            # The row may be deleted just now.
            with suppress(asyncpg.ForeignKeyViolationError):
                await conn.execute(sql)
            await asyncio.sleep(0)

    async with opened(pg, 4 if sql else 0, "") as conns:
        tasks = [asyncio.create_task(disturb(conn)) for conn in conns]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Fresh:
    """How many rows, and how many clients that each want to create every one."""

    keys: int = 5_000
    clients: int = 32


async def create_each_once(dsn: str, size: Fresh, seed: int) -> tuple[str, bool]:
    """Have all clients create the same rows in the same order, at the same time."""
    order = [*range(size.keys)]
    random.Random(seed).shuffle(order)  # noqa: S311  # no secret
    history = History()
    chosen = replace(RACES["plain"], deletes=0)

    async def create(conn: Any) -> None:
        for key in order:
            await history.record("add", key, add(conn, chosen, key), 1)

    async with open_postgresql(dsn, "asyncpg") as pg:
        await pg.run(chosen.tables)
        async with opened(pg, size.clients, "") as conns, asyncio.TaskGroup() as group:
            for conn in conns:
                group.create_task(create(conn))
        stored = dict(await pg.query("SELECT k, n FROM t"))
    created = sum(op.created for op in history.operations)
    wrong = wrong_counters(history.operations, stored)
    wrong += wrong_flags(history.operations, stored)
    line = (
        f"fresh keys: {size.keys:,} by {size.clients} clients, {created:,} created,"
        f" {len(wrong)} wrong, {len(history.errors)} errors"
    )
    return line, created == size.keys and not (wrong or history.errors)
