"""
Many calls of `sync_rows` beside ordinary writers: scopes are whole, and new rows stay.

Some calls are cancelled, some have a source that is slow or raises, and some lose their
server session. On PostgreSQL some are part of a transaction at a higher isolation level,
whose snapshot is taken before the call waits for its turn.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from aioupsert import Action, Result, create_or_update, is_retryable, sync_rows
from tests.support.databases import Database, execute, open_postgresql, open_sqlite

KINDS: Final = ("asyncpg", "psycopg", "aiosqlite")
TABLE: Final = (
    "CREATE TABLE t (shop integer, k integer, n integer, PRIMARY KEY (shop, k))"
)
SHOPS: Final = 3
# The keys of sources are below, those of writers from there on.
FIRST: Final = 1_000


@dataclass(frozen=True)
class Size:
    """How many clients of each sort, and rounds of each."""

    syncs: int = 8
    writers: int = 16
    rounds: int = 500


FATES: Final = ("done", "done", "done", "slow", "raises", "cancelled", "killed")
LEVELS: Final = (None, None, None, "REPEATABLE READ", "SERIALIZABLE")


@dataclass
class Sync:
    """
    One call.

    Attributes:
        shop: Its scope.
        source: Its rows: values by key.
        called: When it was called.
        began: When the first row of the source was asked for.
        snapshot: A time that is not after its first look at the table, as far as others
            have committed before.
        ended: When it returned or failed.
        outcome: Whether it is stored; None if that is unknown.
        removed: The values of the writers' rows that it removed.
    """

    shop: int
    source: dict[int, int]
    called: int
    began: int = 0
    snapshot: int = 0
    ended: int = 0
    outcome: bool | None = None
    removed: list[int] = field(default_factory=list[int])


class BrokenSourceError(Exception):
    """What a source raises half-way."""


class History:
    """What clients did, by a clock that counts."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)  # noqa: S311  # no secret
        self.clock = itertools.count(1)
        self.syncs: list[Sync] = []
        # When a writer began to create a value, and when it was stored.
        self.created: dict[int, tuple[int, int]] = {}

    async def sync(self, db: Database, conn: Any) -> None:
        """Make a scope equal to a source, whatever happens to the call."""
        choose = self.choose
        fate = choose.choice(FATES)
        level = None if db.engine == "sqlite" else choose.choice(LEVELS)
        keys = choose.sample(range(60), choose.randrange(10, 40))
        source = {k: choose.randrange(3) for k in keys}
        sync = Sync(choose.randrange(SHOPS), source, next(self.clock))
        if level is not None:
            sync.snapshot = sync.called
        call = self._call(db, conn, sync, fate, level)
        sync.outcome = await self._outcome(db, conn, asyncio.ensure_future(call), fate)
        sync.ended = next(self.clock)
        self.syncs.append(sync)

    async def _outcome(
        self, db: Database, conn: Any, task: asyncio.Task[None], fate: str
    ) -> bool | None:
        """Return whether a call is stored; None if that is unknown."""
        if fate in {"cancelled", "killed"}:
            await asyncio.wait({task}, timeout=self.choose.random() / 50)
            if fate == "cancelled":
                task.cancel()
            elif db.engine == "postgresql":
                await kill(db, conn)
        try:
            await task
        except asyncio.CancelledError:
            return None
        except Exception as exc:
            # What is retryable is rolled back.
            if isinstance(exc, BrokenSourceError) or is_retryable(exc):
                return False
            if fate == "killed":
                return None
            raise
        return True

    async def _call(
        self, db: Database, conn: Any, sync: Sync, fate: str, level: str | None
    ) -> None:
        async with AsyncExitStack() as stack:
            if level is not None:
                await stack.enter_async_context(db.transaction(conn))
                await execute(conn, f"SET TRANSACTION ISOLATION LEVEL {level}")
            await sync_rows(
                *(conn, "t", self._rows(sync, fate)),
                key=["shop", "k"],
                scope={"shop": sync.shop},
                max_missing=1.0,
                batch_size=7,
                on_result=partial(note, sync),
            )

    async def _rows(self, sync: Sync, fate: str) -> AsyncIterator[dict[str, int]]:
        choose = self.choose
        sync.began = next(self.clock)
        sync.snapshot = sync.snapshot or sync.began
        last = choose.choice([*sync.source])
        for k, n in sync.source.items():
            if fate == "slow" and not choose.randrange(4):
                await asyncio.sleep(0.001)
            elif not choose.randrange(8):
                await asyncio.sleep(0)
            yield {"k": k, "n": n}
            if fate == "raises" and k == last:
                raise BrokenSourceError

    async def write(self, conn: Any) -> None:
        """Create a row of a value that no other row has, or replace one by it."""
        shop = self.choose.randrange(SHOPS)
        k = FIRST + self.choose.randrange(40)
        began = next(self.clock)
        self.created[began] = began, 0
        await create_or_update(
            conn,
            "t",
            key={"shop": shop, "k": k},
            defaults={},
            create_defaults={"n": began},
        )
        self.created[began] = began, next(self.clock)

    def faults(self, stored: list[tuple[int, int, int]]) -> list[str]:
        """What must not be."""
        faults = [
            f"a call that began at {sync.began} removed what was created at {value}"
            for sync in self.syncs
            for value in sync.removed
            if self.created[value][0] > sync.began
        ]
        for shop in range(SHOPS):
            calls = [s for s in self.syncs if s.shop == shop and s.began]
            done = [sync for sync in calls if sync.outcome]
            if not done:
                continue
            # The last one is one that ended after each that is stored had begun.
            latest = max(sync.snapshot for sync in done)
            possible = [
                s.source for s in calls if s.outcome is not False and s.ended > latest
            ]
            rows = {k: n for s, k, n in stored if s == shop and k < FIRST}
            if rows not in possible:
                faults.append(f"scope {shop} equals no source: {rows}")
            called = max(sync.called for sync in done)
            faults += [
                f"scope {shop} has a row of {n}, created before {called}"
                for s, k, n in stored
                if s == shop and k >= FIRST and self.created[n][1] < called
            ]
        return faults


def note(sync: Sync, result: Result[Any]) -> None:
    """Note the removal of a writer's row."""
    old: Any = result.old
    if result.action is Action.DELETED and old["k"] >= FIRST:
        sync.removed.append(old["n"])


async def kill(db: Database, conn: Any) -> None:
    """End the server session of a connection."""
    pid = conn.get_server_pid() if db.kind == "asyncpg" else conn.info.backend_pid
    async with db.connect() as other:
        await execute(other, f"SELECT pg_terminate_backend({pid})")


async def syncs(dsn: str, kind: Any, size: Size, seed: int = 1) -> tuple[str, bool]:
    """Run the clients; return a line of figures, and whether all was right."""
    history = History(seed)
    async with AsyncExitStack() as stack:
        if kind == "aiosqlite":
            folder = stack.enter_context(TemporaryDirectory())
            opened: Any = open_sqlite(Path(folder) / "syncs.db")
        else:
            opened = open_postgresql(dsn, kind)
        db = await stack.enter_async_context(opened)
        await db.run(TABLE)

        async def synchronize() -> None:
            for _ in range(size.rounds):
                async with db.connect() as conn:
                    await history.sync(db, conn)

        async def write() -> None:
            async with db.connect() as conn:
                for _ in range(size.rounds):
                    await history.write(conn)

        async with asyncio.TaskGroup() as group:
            for _ in range(size.syncs):
                group.create_task(synchronize())
            for _ in range(size.writers):
                group.create_task(write())
        stored = await db.query("SELECT shop, k, n FROM t")
    faults = history.faults(stored)
    done = sum(bool(sync.outcome) for sync in history.syncs)
    removed = sum(len(sync.removed) for sync in history.syncs)
    line = (
        f"{kind}: {len(history.syncs)} syncs, {done} done; {len(history.created)} writes,"
        f" {removed} of them removed later; seed {seed}; {len(faults)} faults"
    )
    return "\n".join([line, *faults[:5]]), not faults
