"""Other event loops than that of asyncio, and other ways to start one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args

import aiosqlite
import anyio
import pytest
import trio
import uvloop

from aioupsert import (
    Coalescer,
    F,
    create_or_update,
    create_or_update_many,
    get_or_create,
)
from tests.support.databases import Database, open_postgresql, open_sqlite
from tests.support.servers import Server

Kind: TypeAlias = Literal["asyncpg", "pool", "aiosqlite"]
Work: TypeAlias = Callable[[Database], Awaitable[None]]
Start: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]

ADD: Final = {"n": F("n") + 1}
TASKS: Final = 50
# More than are sent as arrays, so that they are copied to a temporary table.
MANY: Final = 6_000


async def stored(db: Database) -> dict[int, int]:
    return dict(await db.query("SELECT k, n FROM t"))


async def alone(db: Database) -> None:
    created = await create_or_update(db.handle, "t", key={"k": 1}, defaults=ADD)
    updated = await create_or_update(
        db.handle, "t", key={"k": 1}, defaults=ADD, strategy="exact", returning="n"
    )
    got = await get_or_create(db.handle, "t", key={"k": 1})
    assert (created.created, updated.row, got.created) == (True, {"n": 2}, False)
    assert got.row == {"k": 1, "n": 2}


async def in_a_transaction(db: Database) -> None:
    with contextlib.suppress(LookupError):
        async with db.transaction() as conn:
            await create_or_update(conn, "t", key={"k": 1}, defaults=ADD)
            raise LookupError
    assert await stored(db) == {}


async def at_once(db: Database) -> None:
    results = await asyncio.gather(
        *(
            create_or_update(db.handle, "t", key={"k": n % 3}, defaults=ADD)
            for n in range(TASKS * 3)
        )
    )
    assert sum(result.created for result in results) == 3
    assert await stored(db) == dict.fromkeys(range(3), TASKS)


async def cancelled(db: Database) -> None:
    tasks = [
        asyncio.create_task(
            create_or_update(db.handle, "t", key={"k": 1}, defaults=ADD)
        )
        for _ in range(TASKS)
    ]
    for number, task in enumerate(tasks):
        if number % 2:
            asyncio.get_running_loop().call_later(number / 10_000, task.cancel)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [o for o in outcomes if isinstance(o, BaseException)]
    assert all(isinstance(error, asyncio.CancelledError) for error in errors)
    acknowledged = TASKS - len(errors)
    # The connection is as good as new.
    await create_or_update(db.handle, "t", key={"k": 2}, defaults=ADD)
    assert acknowledged <= (await stored(db))[1] <= TASKS


async def in_bulk(db: Database) -> None:
    rows = [{"k": k, "n": 1} for k in range(MANY)]
    first = await create_or_update_many(db.handle, "t", rows, key="k", update=ADD)
    again = await create_or_update_many(db.handle, "t", rows[:20], key="k", update=ADD)
    assert (first.created, again.updated) == (MANY, 20)
    assert sum((await stored(db)).values()) == MANY + 20


async def coalesced(db: Database) -> None:
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        results = await asyncio.gather(
            *(
                coalescer.create_or_update(key={"k": n % 3}, defaults=ADD)
                for n in range(TASKS * 3)
            )
        )
    assert sum(result.created for result in results) == 3
    assert await stored(db) == dict.fromkeys(range(3), TASKS)


async def full_before_the_delay(db: Database) -> None:
    async with (
        asyncio.timeout(20),
        Coalescer(db.handle, "t", key="k", max_batch=2, max_delay=60) as coalescer,
    ):
        await asyncio.gather(
            *(coalescer.create_or_update(key={"k": n}, defaults=ADD) for n in range(2))
        )
    assert await stored(db) == {0: 1, 1: 1}


WORKS: Final[tuple[Work, ...]] = (
    alone,
    in_a_transaction,
    at_once,
    cancelled,
    in_bulk,
    coalesced,
    full_before_the_delay,
)


def by_uvloop(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert isinstance(runner.get_loop(), uvloop.Loop)
        runner.run(main())


def by_anyio(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    anyio.run(main, backend="asyncio")


STARTS: Final[dict[str, Start]] = {"uvloop": by_uvloop, "anyio": by_anyio}


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("kind", get_args(Kind))
@pytest.mark.parametrize("start", STARTS)
def test_everything_works(
    start: str, kind: Kind, work: Work, pg_server: Server, lite_path: Path
) -> None:
    opened: AbstractAsyncContextManager[Database] = (
        open_sqlite(lite_path)
        if kind == "aiosqlite"
        else open_postgresql(pg_server.dsn, kind)
    )

    async def main() -> None:
        async with opened as db:
            await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)")
            await work(db)

    STARTS[start](main)


def test_calls_of_a_task_group_of_anyio_are_exact(lite_path: Path) -> None:
    async def main() -> None:
        async with open_sqlite(lite_path) as db:
            await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)")
            call = partial(create_or_update, db.handle, "t", defaults=ADD)
            async with anyio.create_task_group() as group:
                for n in range(TASKS):
                    group.start_soon(partial(call, key={"k": n % 2}))
            assert await stored(db) == dict.fromkeys(range(2), TASKS // 2)
            with anyio.move_on_after(0) as scope:
                await call(key={"k": 0})
            assert scope.cancelled_caught
            assert (await stored(db))[1] == TASKS // 2

    anyio.run(main)


def test_trio_has_no_loop_that_a_driver_could_connect_in(lite_path: Path) -> None:
    async def main() -> None:
        await aiosqlite.connect(lite_path)

    asyncio.set_event_loop(None)  # of a test before, which no longer runs
    with pytest.raises(RuntimeError, match="event loop"):
        anyio.run(main, backend="trio")


def test_a_thread_of_trio_has_a_loop_of_asyncio(lite_path: Path) -> None:
    async def write() -> bool:
        async with open_sqlite(lite_path) as db:
            await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)")
            result = await create_or_update(db.handle, "t", key={"k": 1}, defaults=ADD)
            return result.created

    async def main() -> bool:
        return await trio.to_thread.run_sync(lambda: asyncio.run(write()))

    assert trio.run(main)
