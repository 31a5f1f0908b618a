"""One table over three servers behind a fourth: everything counts as on one."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import psycopg_pool
import pytest

from aioupsert import (
    Action,
    BulkError,
    BulkResult,
    Coalescer,
    Excluded,
    F,
    MissingUniqueIndexError,
    MissingUniqueIndexWarning,
    SerializationConflictError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    is_retryable,
)
from aioupsert.typing import Strategy
from tests.support.databases import close
from tests.support.servers import Server
from tests.topologies.nodes import Node
from tests.topologies.sharded import shard_table, sharding

CLIENTS: Final = 16
PATIENCE: Final = 60
ROOT: Final = Path(__file__).parents[2]
ADD: Final = {"n": F("n") + 1}
of_asyncpg = pytest.mark.parametrize("pool", ["asyncpg"], indirect=True)
of_psycopg = pytest.mark.parametrize("pool", ["psycopg"], indirect=True)


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, list[Node]]]:
    with sharding() as (coordinator, shards):
        yield coordinator, shards


@pytest.fixture(params=["asyncpg", "psycopg"])
async def pool(
    request: pytest.FixtureRequest, nodes: tuple[Node, list[Node]]
) -> AsyncIterator[Any]:
    """A pool of the driver, to the first server; the table is empty."""
    coordinator, shards = nodes
    shard_table(coordinator, shards)
    if request.param == "asyncpg":
        pool = await asyncpg.create_pool(coordinator.dsn, min_size=1, max_size=10)
        try:
            yield pool
        finally:
            await close(pool)
    else:
        async with psycopg_pool.AsyncConnectionPool(
            coordinator.dsn, min_size=1, max_size=10
        ) as psycopgs:
            yield psycopgs


def stored(nodes: tuple[Node, list[Node]], sql: str = "") -> dict[int, int]:
    """The rows, as the servers that hold them have them."""
    found: dict[int, int] = {}
    for number, shard in enumerate(nodes[1]):
        for line in shard.query(f"SELECT k, n FROM items_{number} {sql}").splitlines():
            key, _, n = line.partition("|")
            assert int(key) not in found
            found[int(key)] = int(n)
    return found


async def test_single_calls(pool: Any, nodes: tuple[Node, list[Node]]) -> None:
    async def call(**more: Any) -> tuple[Action, Any]:
        result = await create_or_update(
            pool, "items", key={"k": 1}, returning=["n", "note"], **more
        )
        return result.action, result.row and tuple(result.row.values())

    with warnings.catch_warnings():
        # The unique indexes are elsewhere, which is no reason to warn.
        warnings.simplefilter("error", MissingUniqueIndexWarning)
        assert await call(defaults=ADD) == (Action.CREATED, (1, None))
    assert await call(defaults=ADD) == (Action.UPDATED, (2, None))
    assert await call(defaults=ADD, where=F("n") > 5) == (Action.SKIPPED, (2, None))
    same = {"n": 2, "note": None}
    assert await call(defaults=same, skip_unchanged=True) == (
        Action.UNCHANGED,
        (2, None),
    )
    for strategy in ("fast", "exact"):
        assert (await call(defaults=ADD, strategy=strategy))[0] is Action.UPDATED
    with pytest.raises(MissingUniqueIndexError):
        await call(defaults=ADD, strategy="on_conflict")
    for created in (True, False):
        result = await get_or_create(pool, "items", key={"k": 2}, defaults={"n": 7})
        assert result.created is created
    assert stored(nodes) == {1: 4, 2: 7}


async def test_many_rows(pool: Any, nodes: tuple[Node, list[Node]]) -> None:
    rows = [{"k": k, "n": 1} for k in range(60)]
    add = {"n": F("n") + Excluded("n")}
    some = await create_or_update_many(pool, "items", rows[:40], key="k", update=add)
    assert some == BulkResult(created=40)
    others = await create_or_update_many(pool, "items", rows[20:], key="k", update=add)
    assert others == BulkResult(created=20, updated=20)
    again = await create_or_update_many(
        pool, "items", rows[40:], key="k", skip_unchanged=True
    )
    assert again == BulkResult(unchanged=20)
    assert stored(nodes) == {k: 2 if 20 <= k < 40 else 1 for k in range(60)}


@of_asyncpg
async def test_single_calls_at_once(pool: Any, nodes: tuple[Node, list[Node]]) -> None:
    created: Counter[int] = Counter()

    async def client(seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        for _ in range(20):
            key = choose.randrange(8)
            result = await create_or_update(pool, "items", key={"k": key}, defaults=ADD)
            created[key] += result.created

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for seed in range(CLIENTS):
            group.create_task(client(seed))
    assert sum(stored(nodes).values()) == CLIENTS * 20
    assert created == dict.fromkeys(range(8), 1)


@of_psycopg
async def test_many_rows_at_once(pool: Any, nodes: tuple[Node, list[Node]]) -> None:
    totals: Counter[str] = Counter()

    async def client(seed: int) -> None:
        keys = [*range(30)]
        random.Random(seed).shuffle(keys)  # noqa: S311  # no secret
        rows = [{"k": k, "n": 1} for k in keys]
        add = {"n": F("n") + Excluded("n")}
        for _ in range(3):
            result = await create_or_update_many(
                pool, "items", rows, key="k", update=add, batch_size=10, atomic=False
            )
            totals.update(created=result.created, updated=result.updated)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for seed in range(8):
            group.create_task(client(seed))
    assert totals == {"created": 30, "updated": 8 * 3 * 30 - 30}
    assert stored(nodes) == dict.fromkeys(range(30), 24)


@of_asyncpg
async def test_coalesced_calls_at_once(
    pool: Any, nodes: tuple[Node, list[Node]]
) -> None:
    async def client(coalescer: Coalescer, seed: int) -> int:
        choose = random.Random(seed)  # noqa: S311  # no secret
        created = 0
        for _ in range(10):
            key = {"k": choose.randrange(20)}
            created += (await coalescer.create_or_update(key=key, defaults=ADD)).created
        return created

    async with (
        asyncio.timeout(PATIENCE),
        Coalescer(pool, "items", key="k") as one,
        Coalescer(pool, "items", key="k") as other,
    ):
        created = await asyncio.gather(
            *(client((one, other)[seed % 2], seed) for seed in range(CLIENTS * 2))
        )
    assert sum(created) == 20
    assert sum(stored(nodes).values()) == CLIENTS * 2 * 10
    assert one.stats.failures == other.stats.failures == 0


async def test_another_row_in_the_way_is_told_soon(
    nodes: tuple[Node, list[Node]],
) -> None:
    coordinator, shards = nodes
    shard_table(coordinator, shards)
    for number, shard in enumerate(shards):
        shard.query(f"CREATE UNIQUE INDEX ON items_{number} (note)")
    conn = await asyncpg.connect(coordinator.dsn)
    await conn.execute(
        "INSERT INTO items (k, note) SELECT k, k::text FROM generate_series(0, 30) k"
    )
    for number, shard in enumerate(shards):
        shard.query(
            f"UPDATE items_{number} SET note = 'x'"
            f" WHERE k = (SELECT min(k) FROM items_{number})"
        )
    row: dict[str, Any] = {"key": {"k": 99}, "defaults": {"note": "x"}}
    try:
        async with asyncio.timeout(PATIENCE):
            strategies: tuple[Strategy, ...] = ("auto", "exact")
            for strategy in strategies:
                with pytest.raises(asyncpg.UniqueViolationError):
                    await create_or_update(conn, "items", **row, strategy=strategy)
                transaction = conn.transaction()
                await transaction.start()
                with pytest.raises(asyncpg.UniqueViolationError):
                    await create_or_update(conn, "items", **row, strategy=strategy)
                await transaction.rollback()
            rows = [{"k": k, "note": "x" if k == 99 else "y"} for k in (97, 98, 99)]
            with pytest.raises(BulkError):
                await create_or_update_many(conn, "items", rows, key="k")
    finally:
        await conn.close()


async def test_a_transaction_of_the_caller_is_told_to_repeat(
    nodes: tuple[Node, list[Node]],
) -> None:
    coordinator, shards = nodes
    shard_table(coordinator, shards)
    ours = await asyncpg.connect(coordinator.dsn)
    theirs = await asyncpg.connect(coordinator.dsn)
    try:
        for attempt in range(2):
            transaction = ours.transaction()
            await transaction.start()
            # It has a snapshot of the shard from here on.
            await ours.fetch("SELECT FROM items WHERE k = 1")
            if not attempt:
                await create_or_update(theirs, "items", key={"k": 1}, defaults=ADD)
                with pytest.raises(
                    (SerializationConflictError, asyncpg.SerializationError)
                ) as caught:
                    await create_or_update(ours, "items", key={"k": 1}, defaults=ADD)
                assert is_retryable(caught.value)
                await transaction.rollback()
            else:
                result = await create_or_update(
                    ours, "items", key={"k": 1}, defaults=ADD
                )
                assert result.action is Action.UPDATED
                await transaction.commit()
    finally:
        await ours.close()
        await theirs.close()
    assert stored(nodes) == {1: 2}


async def test_a_shard_that_is_gone_fails_its_keys_alone(
    nodes: tuple[Node, list[Node]],
) -> None:
    coordinator, shards = nodes
    shard_table(coordinator, shards)
    conn = await asyncpg.connect(coordinator.dsn)
    try:
        for key in range(12):
            await create_or_update(conn, "items", key={"k": key}, defaults=ADD)
        lost = {key for key in stored(nodes) if key in stored_on(shards, 0)}
        assert lost
        shards[0].control("-m", "immediate", "stop")
        for key in range(12):
            call = create_or_update(conn, "items", key={"k": key}, defaults=ADD)
            if key in lost:
                with pytest.raises(asyncpg.PostgresConnectionError):
                    await call
            else:
                assert (await call).action is Action.UPDATED
        shards[0].start()
        for key in range(12):
            await create_or_update(conn, "items", key={"k": key}, defaults=ADD)
    finally:
        await conn.close()
    assert stored(nodes) == {k: 2 if k in lost else 3 for k in range(12)}


def test_whoever_has_a_cluster_can_check_it(
    nodes: tuple[Node, list[Node]], pg_server: Server
) -> None:
    coordinator, shards = nodes
    table = "aioupsert_check"
    parts = [
        f"CREATE FOREIGN TABLE {table}_{number} PARTITION OF {table} FOR VALUES WITH"
        f" (MODULUS {len(shards)}, REMAINDER {number}) SERVER s{number}"
        for number in range(len(shards))
    ]
    columns = "k bigint NOT NULL, n bigint DEFAULT 0"
    for number, shard in enumerate(shards):
        shard.query(f"CREATE TABLE {table}_{number} ({columns}, PRIMARY KEY (k))")
    create = [f"CREATE TABLE {table} ({columns}) PARTITION BY HASH (k)", *parts]
    checked("--calls=50", *(f"--create={sql}" for sql in create), dsn=coordinator.dsn)
    checked("--calls=50", dsn=pg_server.dsn)
    # It sees what is wrong: here one has been counted that nobody asked for.
    said = checked(
        "--calls=20",
        f"--create=CREATE TABLE {table} (k bigint PRIMARY KEY, n bigint DEFAULT 0)",
        f"--create=INSERT INTO {table} VALUES (0, 1)",
        dsn=pg_server.dsn,
        code=1,
    )
    assert "1 keys with a wrong number, 1 not created once, 0 of 50" in said


def checked(*options: str, dsn: str, code: int = 0) -> str:
    """What the check prints."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", "cluster", dsn]
    done = subprocess.run(  # noqa: S603 - ours
        [*command, "--clients=8", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def stored_on(shards: list[Node], number: int) -> set[int]:
    keys = shards[number].query(f"SELECT k FROM items_{number}").splitlines()
    return set(map(int, keys))
