"""What fails under writers: nothing acknowledged is lost, nothing is applied twice."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import aiosqlite
import asyncpg

from aioupsert import Coalescer, Excluded, F, create_or_update, create_or_update_many
from tests.stress.history import History, wrong_counters
from tests.support.servers import (
    INITDB_OPTIONS,
    account_for,
    free_port,
    temporary_folder,
)
from tests.support.violations import LOST
from tests.topologies.nodes import Node, installed, stopped

WRITERS: Final = 16
KEYS: Final = 8
PATIENCE: Final = 60
ADD: Final = {"n": F("n") + 1}


@dataclass(frozen=True)
class Size:
    """How often each happens."""

    terminations: int = 200
    fast_restarts: int = 20
    immediate_restarts: int = 20
    aborts: int = 100
    alters: int = 200


@contextmanager
def running() -> Iterator[Node]:
    """A server of its own, which may be stopped."""
    account = account_for(os.geteuid())
    with ExitStack() as stack:
        folder = temporary_folder(account, stack)
        binaries = installed(("initdb", "pg_ctl", "psql"))
        node = Node(binaries, account, folder, free_port())
        node.run("initdb", "-D", node.data, *INITDB_OPTIONS)
        node.start()
        stack.callback(stopped, node)
        yield node


class Proxy:
    """Between the pool and the server; it can break any connection."""

    def __init__(self, port: int) -> None:
        self.transports: set[asyncio.WriteTransport] = set()
        self._to = port

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        """Listen on a port, which it gives."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for transport in [*self.transports]:
                transport.abort()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            behind, before = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self.transports.add(writer.transport)
        with suppress(OSError):
            await asyncio.gather(forward(reader, before), forward(behind, writer))
        self.transports.discard(writer.transport)
        for end in (before, writer):
            end.transport.abort()

    def abort_one(self, choose: random.Random) -> None:
        """Break a connection, as a network does."""
        if self.transports:
            choose.choice([*self.transports]).abort()


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError


@dataclass
class Writers:
    """
    Tasks that count, each in its way, until they are told that it is enough.

    Attributes:
        history: What they did.
        last: When each was last acknowledged.
        is_enough: Whether they may stop.
    """

    pool: asyncpg.Pool[Any]
    coalescer: Coalescer
    history: History = field(default_factory=History)
    last: dict[int, float] = field(default_factory=dict[int, float])
    is_enough: bool = False

    async def write(self, number: int) -> None:
        """Count, singly, through the coalescer, or in bulk."""
        way = (self.singly, self.coalesced, self.singly, self.in_bulk)[number % 4]
        turn = 0
        while not self.is_enough:
            turn += 1
            if await self.history.record(
                "add", turn % KEYS, way(turn % KEYS), 1, unknown=LOST
            ):
                self.last[number] = time.monotonic()
            await asyncio.sleep(0.005)

    async def singly(self, key: int) -> tuple[None, bool]:
        result = await create_or_update(self.pool, "t", key={"k": key}, defaults=ADD)
        return None, result.created

    async def coalesced(self, key: int) -> tuple[None, bool]:
        result = await self.coalescer.create_or_update(key={"k": key}, defaults=ADD)
        return None, result.created

    async def in_bulk(self, key: int) -> tuple[None, bool]:
        rows = [{"k": key, "n": 1}, {"k": 100, "n": 1}]
        add = {"n": F("n") + Excluded("n")}
        counts = await create_or_update_many(self.pool, "t", rows, key="k", update=add)
        return None, counts.created > 0

    async def until_all_are_back(self) -> float:
        """Wait until every writer has been acknowledged from now on; the seconds."""
        since = time.monotonic()
        async with asyncio.timeout(PATIENCE):
            while len(self.last) < WRITERS or min(self.last.values()) <= since:  # noqa: ASYNC110 - a writer has nobody to tell
                await asyncio.sleep(0.005)
        return time.monotonic() - since


async def fail(node: Node, size: Size, seed: int) -> tuple[str, bool]:
    """Let everything happen in a random order, each when all writers are back."""
    choose = random.Random(seed)  # noqa: S311  # no secret
    proxy = Proxy(node.port)
    node.query("DROP TABLE IF EXISTS t")
    node.query("CREATE TABLE t (k integer PRIMARY KEY, n bigint DEFAULT 0)")
    altered = iter(ALTERS * size.alters)

    async def restart(mode: str) -> None:
        await asyncio.to_thread(node.control, "-m", mode, "stop")
        await asyncio.to_thread(node.start)

    async def abort() -> None:
        proxy.abort_one(choose)

    async def query(sql: str) -> None:
        await asyncio.to_thread(node.query, sql)

    faults: list[Callable[[], Awaitable[None]]] = [
        *[lambda: query(TERMINATE)] * size.terminations,
        *[lambda: restart("fast")] * size.fast_restarts,
        *[lambda: restart("immediate")] * size.immediate_restarts,
        *[abort] * size.aborts,
        *[lambda: query(next(altered))] * size.alters,
    ]
    choose.shuffle(faults)
    async with (
        proxy.listening() as port,
        asyncpg.create_pool(
            f"postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable",
            min_size=1,
            max_size=WRITERS,
        ) as pool,
        Coalescer(pool, "t", key="k") as coalescer,
        asyncio.TaskGroup() as group,
    ):
        writers = Writers(pool, coalescer)
        for number in range(WRITERS):
            group.create_task(writers.write(number))
        await writers.until_all_are_back()
        slowest = 0.0
        for fault in faults:
            await fault()
            slowest = max(slowest, await writers.until_all_are_back())
        writers.is_enough = True
    rows = node.query("SELECT k, n FROM t WHERE k < 100").splitlines()
    stored = {int(k): int(n) for k, n in (row.split("|") for row in rows)}
    history = writers.history
    wrong = wrong_counters(history.operations, stored)
    kinds = Counter(type(error).__name__ for error in history.errors)
    line = (
        f"faults: {len(faults)} under {WRITERS} writers, {len(history.operations):,}"
        f" operations, {len(history.errors)} in doubt ({dict(kinds)}), {len(wrong)}"
        f" wrong sums, all back within {slowest:.1f} s"
    )
    return line, not wrong


TERMINATE: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    " ORDER BY random() LIMIT 1"
)
# In this order, over and over: the table is as it was after each round.
ALTERS: Final = [
    "ALTER TABLE t ADD COLUMN more text DEFAULT 'x'",
    "ALTER TABLE t ALTER COLUMN n SET DEFAULT 0",
    "ALTER TABLE t DROP COLUMN more",
    "ALTER TABLE t ALTER COLUMN n TYPE integer",
    "ALTER TABLE t ALTER COLUMN n TYPE bigint",
]


async def fill(pages: int) -> tuple[str, bool]:
    """Write to a SQLite file until it may not grow any more, then let it."""
    acknowledged = refused = 0
    errors: Counter[str] = Counter()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "full.db"
        async with aiosqlite.connect(path, isolation_level=None) as conn:
            await conn.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, s TEXT)")
            await conn.execute(f"PRAGMA max_page_count = {pages}")
            for key in range(pages * 8):
                try:
                    await create_or_update(
                        conn, "t", key={"k": key}, defaults={"s": "x" * 1_000}
                    )
                except sqlite3.OperationalError as exc:
                    refused += 1
                    errors[exc.sqlite_errorname] += 1
                else:
                    acknowledged += 1
            is_open = conn.in_transaction
            await conn.execute(f"PRAGMA max_page_count = {pages * 8}")
            again = await create_or_update(conn, "t", key={"k": -1})
            ((stored,),) = await conn.execute_fetchall("SELECT count(*) FROM t")
            ((integrity,),) = await conn.execute_fetchall("PRAGMA integrity_check")
    line = (
        f"a full file: {acknowledged:,} acknowledged, {refused:,} refused"
        f" ({dict(errors)}), {stored - 1:,} stored, integrity {integrity}"
    )
    return line, (
        acknowledged == stored - 1
        and refused > 0
        and [*errors] == ["SQLITE_FULL"]
        and again.created
        and not is_open
        and integrity == "ok"
    )
