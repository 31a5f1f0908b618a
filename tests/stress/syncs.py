"""Many calls of `sync_rows` beside ordinary writers: scopes are whole, and new rows stay."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from aioupsert import Action, Result, create_or_update, sync_rows
from tests.support.databases import open_postgresql, open_sqlite

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


@dataclass
class Sync:
    """
    One call.

    Attributes:
        shop: Its scope.
        source: Its rows: values by key.
        called: When it was called.
        began: When the first row of the source was asked for.
        done: Whether it returned.
        removed: The values of the writers' rows that it removed.
    """

    shop: int
    source: dict[int, int]
    called: int
    began: int = 0
    done: bool = False
    removed: list[int] = field(default_factory=list[int])


class History:
    """What clients did, by a clock that counts."""

    def __init__(self, seed: int) -> None:
        self.choose = random.Random(seed)  # noqa: S311  # no secret
        self.clock = itertools.count(1)
        self.syncs: list[Sync] = []
        # When a writer began to create a value, and when it was stored.
        self.created: dict[int, tuple[int, int]] = {}

    async def sync(self, conn: Any) -> None:
        """Make a scope equal to a source, or be cancelled."""
        choose = self.choose
        keys = choose.sample(range(60), choose.randrange(10, 40))
        source = {k: choose.randrange(3) for k in keys}
        sync = Sync(choose.randrange(SHOPS), source, next(self.clock))
        self.syncs.append(sync)

        async def rows() -> AsyncIterator[dict[str, int]]:
            sync.began = next(self.clock)
            for k, n in source.items():
                if not choose.randrange(8):
                    await asyncio.sleep(0)
                yield {"k": k, "n": n}

        def note(result: Result[Any]) -> None:
            old: Any = result.old
            if result.action is Action.DELETED and old["k"] >= FIRST:
                sync.removed.append(old["n"])

        call = sync_rows(
            *(conn, "t", rows()),
            key=["shop", "k"],
            scope={"shop": sync.shop},
            max_missing=1.0,
            batch_size=7,
            on_result=note,
        )
        task = asyncio.ensure_future(call)
        if not choose.randrange(6):
            await asyncio.wait({task}, timeout=choose.random() / 50)
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return
        sync.done = True

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
            calls.sort(key=lambda sync: sync.began)
            done = [sync for sync in calls if sync.done]
            if not done:
                continue
            # It is unknown whether one that was cancelled is stored.
            last = done[-1]
            possible = [last, *(s for s in calls if s.began > last.began)]
            rows = {k: n for s, k, n in stored if s == shop and k < FIRST}
            if rows not in [sync.source for sync in possible]:
                faults.append(f"scope {shop} equals no source: {rows}")
            faults += [
                f"scope {shop} has a row of {n}, created before {last.called}"
                for s, k, n in stored
                if s == shop and k >= FIRST and self.created[n][1] < last.called
            ]
        return faults


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

        async def work(do: Any) -> None:
            async with db.connect() as conn:
                for _ in range(size.rounds):
                    await do(conn)

        async with asyncio.TaskGroup() as group:
            for _ in range(size.syncs):
                group.create_task(work(history.sync))
            for _ in range(size.writers):
                group.create_task(work(history.write))
        stored = await db.query("SELECT shop, k, n FROM t")
    faults = history.faults(stored)
    done = sum(sync.done for sync in history.syncs)
    removed = sum(len(sync.removed) for sync in history.syncs)
    line = (
        f"{kind}: {len(history.syncs)} syncs, {done} done; {len(history.created)} writes,"
        f" {removed} of them removed later; seed {seed}; {len(faults)} faults"
    )
    return "\n".join([line, *faults[:5]]), not faults
