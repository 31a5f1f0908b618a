"""A primary fails, its standby takes over: nothing acknowledged is lost or repeated."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import Coalescer, F, create_or_update, is_retryable
from tests.support.databases import close
from tests.support.violations import LOST
from tests.topologies.failover import replicating
from tests.topologies.nodes import Node

WRITERS: Final = 8
KEYS: Final = 10
# Seconds; writers ask every hundredth, and the slowest was seen after a tenth.
BACK_WITHIN: Final = 5
PATIENCE: Final = 60


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    with replicating() as both:
        yield both


@pytest.fixture
async def pool(nodes: tuple[Node, Node]) -> AsyncIterator[asyncpg.Pool[Any]]:
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in nodes)
    pool = await asyncpg.create_pool(
        f"postgresql://postgres@{hosts}/postgres"
        "?sslmode=disable&target_session_attrs=primary",
        min_size=1,
        max_size=WRITERS,
    )
    try:
        yield pool
    finally:
        await close(pool)


class Writers:
    """
    Tasks that count, and what became of their calls.

    Attributes:
        acknowledged: How many calls have returned, by key.
        unknown: How many have failed, by key.
        errors: What they failed with.
        last: When each writer was last acknowledged.
    """

    def __init__(self, pool: asyncpg.Pool[Any], coalescer: Coalescer) -> None:
        self.acknowledged: Counter[int] = Counter()
        self.unknown: Counter[int] = Counter()
        self.errors: list[BaseException] = []
        self.last: dict[int, float] = {}
        self.done = False
        self._pool = pool
        self._coalescer = coalescer

    async def write(self, number: int) -> None:
        """Count, on the pool or through the coalescer, until there is enough."""
        for call in itertools.count(number):
            key = call % KEYS
            values: Any = {"key": {"k": key}, "defaults": {"n": F("n") + 1}}
            try:
                if number % 2:
                    await create_or_update(self._pool, "t", **values)
                else:
                    await self._coalescer.create_or_update(**values)
            except Exception as exc:  # noqa: BLE001 - looked at in the end
                self.unknown[key] += 1
                self.errors.append(exc)
            else:
                self.acknowledged[key] += 1
                self.last[number] = time.monotonic()
            if self.done:
                return
            await asyncio.sleep(0.01)

    async def until_all(self, since: float) -> None:
        """Return once every writer has been acknowledged since then."""
        async with asyncio.timeout(PATIENCE):
            while len(self.last) < WRITERS or min(self.last.values()) <= since:  # noqa: ASYNC110 - a writer has nobody to tell
                await asyncio.sleep(0.005)


async def until(node: Node, sql: str, answer: str) -> None:
    """Return once the statement gives the answer."""
    async with asyncio.timeout(PATIENCE):
        while await asyncio.to_thread(node.query, sql) != answer:  # noqa: ASYNC110 - nor has a server
            await asyncio.sleep(0.01)


async def test_writers_go_on_by_themselves_and_nothing_acknowledged_is_lost(
    nodes: tuple[Node, Node],
    pool: asyncpg.Pool[Any],
) -> None:
    primary, standby = nodes
    await pool.execute("CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)")
    await until(primary, "SELECT sync_state FROM pg_stat_replication", "sync")
    async with Coalescer(pool, "t", key="k") as coalescer, asyncio.TaskGroup() as group:
        writers = Writers(pool, coalescer)
        for number in range(WRITERS):
            group.create_task(writers.write(number))
        await writers.until_all(time.monotonic() + 0.5)
        assert not writers.errors

        await asyncio.to_thread(primary.control, "-m", "immediate", "stop")
        await asyncio.to_thread(standby.control, "promote")
        await until(standby, "SHOW transaction_read_only", "off")
        open_at = time.monotonic()
        await writers.until_all(open_at)
        back_after = max(writers.last.values()) - open_at

        await writers.until_all(time.monotonic() + 0.5)
        writers.done = True

    assert standby.query("SHOW synchronous_standby_names") == ""
    stored = dict(await pool.fetch("SELECT k, n FROM t"))
    for key in range(KEYS):
        acknowledged, unknown = writers.acknowledged[key], writers.unknown[key]
        assert acknowledged <= stored[key] <= acknowledged + unknown
    assert writers.errors, "they were writing when it failed"
    assert [e for e in writers.errors if not isinstance(e, LOST)] == []
    assert not any(map(is_retryable, writers.errors))
    assert back_after < BACK_WITHIN
