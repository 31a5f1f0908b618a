"""
An application in service: clients that go away, a locked row, a restart, and its end.

It is `service_app` under uvicorn, over all four kinds of handle. A call that was answered
is stored exactly once, one that was not at most once, and SIGTERM ends the process in
time though a row is locked.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import asyncpg

from tests.stress.service_app import CLOSE_TIMEOUT, DSN, FILE, HANDLES, WAYS
from tests.support.servers import free_port
from tests.topologies.nodes import Node

KEYS: Final = 20
# The one that is locked in the end.
LOCKED: Final = 0
TABLE: Final = "CREATE TABLE counts_{} (k integer PRIMARY KEY, n integer DEFAULT 0)"
PATIENCE: Final = 60
GRACE: Final = 1
# For requests, for the coalescers one after the other, and for a busy machine.
MOST_SECONDS: Final = GRACE + len(HANDLES) * (CLOSE_TIMEOUT + 2) + 5


@dataclass(frozen=True)
class Size:
    """How many clients, and for how many seconds in each of the situations."""

    clients: int = 64
    seconds: float = 20.0


@dataclass
class Service:
    """
    The application, and what was asked of it.

    Attributes:
        port: Where it listens.
        sent: How often each count was asked for, by handle and key.
        acknowledged: How often the answer was 200.
        disconnected: How many clients went away without an answer.
        failed: How many requests had another answer, or none.
        is_over: Whether no more requests are to be made.
    """

    port: int
    sent: Counter[tuple[str, int]] = field(default_factory=Counter[tuple[str, int]])
    acknowledged: Counter[tuple[str, int]] = field(
        default_factory=Counter[tuple[str, int]]
    )
    disconnected: int = 0
    failed: int = 0
    is_over: bool = False

    async def answers(self) -> bool:
        """Return whether it takes connections."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    async def request(
        self, handle: str, way: str, key: int, *, leaves: bool = False
    ) -> None:
        """Make a request on a connection of its own, which may go away at once."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            self.sent[handle, key] += 1
            writer.write(
                f"GET /{handle}/{way}/{key} HTTP/1.1\r\nHost: localhost\r\n"
                "Connection: close\r\n\r\n".encode()
            )
            if leaves:
                await writer.drain()
                self.disconnected += 1
                return
            answer = await reader.read()
            if answer.startswith(b"HTTP/1.1 200"):
                self.acknowledged[handle, key] += 1
            else:
                self.failed += 1
        finally:
            writer.transport.abort()


async def client(service: Service, choose: random.Random) -> None:
    while not service.is_over:
        try:
            await service.request(
                choose.choice(HANDLES),
                choose.choice(WAYS),
                choose.randrange(KEYS),
                leaves=choose.random() < 0.1,
            )
        except OSError:
            service.failed += 1
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(
    dsn: str, file: Path, log: Path
) -> AsyncGenerator[tuple[Service, asyncio.subprocess.Process]]:
    """Start the application; kill it if it is still there in the end."""
    service = Service(free_port())
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "uvicorn", "tests.stress.service_app:app"),
            *("--port", str(service.port), "--log-level", "warning"),
            *("--timeout-graceful-shutdown", str(GRACE)),
            env={**os.environ, DSN: dsn, FILE: str(file)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        async with asyncio.timeout(PATIENCE):
            while not await service.answers():
                assert process.returncode is None, said_in(log)
                await asyncio.sleep(0.05)
        yield service, process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def said_in(log: Path) -> str:
    return log.read_text("utf-8")


@asynccontextmanager
async def locked(dsn: str) -> AsyncGenerator[None]:
    """A row of each table is locked by another session."""
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute("BEGIN")
        for name in HANDLES[:3]:
            await conn.execute(
                f"INSERT INTO counts_{name} VALUES ({LOCKED}, 0)"
                " ON CONFLICT (k) DO UPDATE SET n = excluded.n + counts_"
                f"{name}.n"
            )
        yield
        await conn.execute("COMMIT")
    finally:
        await conn.close()


async def serve(node: Node, size: Size, seed: int) -> tuple[str, bool]:
    """Let the application serve; then compare what it acknowledged with what is stored."""
    with TemporaryDirectory() as folder:
        file, log = Path(folder, "counts.db"), Path(folder, "uvicorn.log")
        with closing(sqlite3.connect(file)) as lite:
            lite.execute("PRAGMA journal_mode = WAL")
            lite.execute(TABLE.format(HANDLES[3]))
        conn = await asyncpg.connect(node.dsn)
        for name in HANDLES[:3]:
            await conn.execute(
                f"DROP TABLE IF EXISTS counts_{name}; {TABLE.format(name)}"
            )
        await conn.close()
        async with running(node.dsn, file, log) as (service, process):
            tasks = [
                asyncio.create_task(client(service, random.Random(seed + number)))  # noqa: S311  # no secret
                for number in range(size.clients)
            ]
            await asyncio.sleep(size.seconds)
            async with locked(node.dsn):
                before = service.acknowledged.total()
                await asyncio.sleep(size.seconds)
                meanwhile = service.acknowledged.total() - before
            await asyncio.to_thread(node.control, "-m", "fast", "restart")
            await asyncio.sleep(size.seconds)
            after_restart = service.acknowledged.total() - before - meanwhile
            async with locked(node.dsn):
                tasks += [
                    asyncio.create_task(service.request(handle, way, LOCKED))
                    for handle in HANDLES
                    for way in WAYS
                ]
                await asyncio.sleep(0.5)
                service.is_over = True
                started = time.monotonic()
                process.send_signal(signal.SIGTERM)
                async with asyncio.timeout(PATIENCE):
                    await process.wait()
                took = time.monotonic() - started
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*tasks, return_exceptions=True)
        stored = await stored_in(node.dsn, file)
    wrong = {
        count
        for count, sent in service.sent.items()
        if not service.acknowledged[count] <= stored[count] <= sent
    }
    line = (
        f"service: {service.sent.total():,} requests, {service.disconnected:,}"
        f" disconnected, {service.failed:,} failed; {service.acknowledged.total():,}"
        f" acknowledged, {meanwhile:,} of them while rows were locked and"
        f" {after_restart:,} after a restart; {stored.total():,} stored, {len(wrong)}"
        f" wrong sums; ended {took:.1f} s after SIGTERM"
    )
    is_good = not wrong and bool(meanwhile and after_restart) and took < MOST_SECONDS
    return line, is_good


async def stored_in(dsn: str, file: Path) -> Counter[tuple[str, int]]:
    """Return what is stored, by handle and key."""
    stored: Counter[tuple[str, int]] = Counter()
    conn = await asyncpg.connect(dsn)
    for name in HANDLES[:3]:
        for key, number in await conn.fetch(f"SELECT k, n FROM counts_{name}"):
            stored[name, key] = number
    await conn.close()
    with closing(sqlite3.connect(file)) as lite:
        for key, number in lite.execute(f"SELECT k, n FROM counts_{HANDLES[3]}"):
            stored[HANDLES[3], key] = number
    return stored
