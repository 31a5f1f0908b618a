"""What a test does to a handle that is kept is undone before the next one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import psycopg
import pytest
from psycopg.rows import dict_row

from aioupsert import create_or_update
from tests.support.databases import fetched, has_begun
from tests.support.keeping import KEPT, Keeper, undisturbed
from tests.support.servers import Server

CHANGES: Final = {
    "transaction": "BEGIN",
    "aborted transaction": "BEGIN; SELECT 1 / 0",
    "setting": "SET statement_timeout = '9s'",
    "role": "SET ROLE pg_monitor",
    "prepared statement": "PREPARE p AS SELECT 1",
    "lock": "SELECT pg_advisory_lock(1)",
    "temporary table": "CREATE TEMPORARY TABLE passing (k integer)",
    "end of the session": "SELECT pg_terminate_backend(pg_backend_pid())",
}
STATE: Final = (
    "SELECT current_setting('statement_timeout') AS a, current_role AS b,"
    " (SELECT count(*) FROM pg_prepared_statements WHERE name = 'p') AS c,"
    " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') AS d,"
    " (SELECT count(*) FROM pg_class WHERE relname = 'passing') AS e"
)
kinds = pytest.mark.parametrize("kind", KEPT)


@pytest.fixture
async def own_keeper() -> AsyncIterator[Keeper]:
    keeper = Keeper()
    yield keeper
    await keeper.close()


async def state(handle: Any) -> list[list[Any]]:
    return [[*row.values()] for row in await fetched(handle, STATE)]


@kinds
@pytest.mark.parametrize("name", CHANGES)
async def test_the_next_handle_is_as_good_as_new(
    own_keeper: Keeper, pg_server: Server, kind: Any, name: str
) -> None:
    async with own_keeper.database(pg_server.dsn, kind) as db:
        before = await state(db.handle)
        with contextlib.suppress(asyncpg.PostgresError, psycopg.Error):
            await db.handle.execute(CHANGES[name])
    async with own_keeper.database(pg_server.dsn, kind) as db:
        assert await state(db.handle) == before
        assert not has_begun(db.handle)


@kinds
async def test_one_that_was_closed_is_replaced(
    own_keeper: Keeper, pg_server: Server, kind: Any
) -> None:
    for _ in range(2):
        async with own_keeper.database(pg_server.dsn, kind) as db:
            assert await state(db.handle)
            await db.handle.close()


@kinds
async def test_one_that_was_left_alone_is_kept(
    own_keeper: Keeper, pg_server: Server, kind: Any
) -> None:
    pids = set()
    for _ in range(3):
        async with own_keeper.database(pg_server.dsn, kind) as db:
            rows = await fetched(db.handle, "SELECT pg_backend_pid() AS pid")
            pids.add(rows[0]["pid"])
    assert len(pids) == 1


@kinds
async def test_a_test_that_cannot_be_cleaned_up_is_not_in_the_way_of_the_next(
    own_keeper: Keeper, pg_server: Server, kind: Any
) -> None:
    with pytest.raises(asyncpg.InterfaceError):
        async with own_keeper.database(pg_server.dsn, kind) as db:
            left = db.schema
            with contextlib.suppress(asyncpg.AdminShutdownError):
                await db.run("SELECT pg_terminate_backend(pg_backend_pid())")
    async with own_keeper.database(pg_server.dsn, kind) as db:
        assert await state(db.handle)
        await db.run(f"DROP SCHEMA {left}")


async def test_a_codec_does_not_outlast_its_test(
    own_keeper: Keeper, pg_server: Server
) -> None:
    async with own_keeper.database(pg_server.dsn, "asyncpg") as db:
        await db.handle.set_type_codec(
            "int4", schema="pg_catalog", encoder=str, decoder=lambda _: "decoded"
        )
        assert await db.handle.fetchval("SELECT 1") == "decoded"
    async with own_keeper.database(pg_server.dsn, "asyncpg") as db:
        assert await db.handle.fetchval("SELECT 1") == 1


async def test_a_row_factory_does_not_outlast_its_test(
    own_keeper: Keeper, pg_server: Server
) -> None:
    async with own_keeper.database(pg_server.dsn, "psycopg") as db:
        db.handle.row_factory = dict_row
    async with own_keeper.database(pg_server.dsn, "psycopg") as db:
        cursor = await db.handle.execute("SELECT 1 AS a")
        assert await cursor.fetchall() == [(1,)]


@kinds
async def test_the_library_knows_nothing_of_earlier_tables(
    own_keeper: Keeper, pg_server: Server, kind: Any
) -> None:
    for column in ("a", "b"):
        async with own_keeper.database(pg_server.dsn, kind) as db:
            await db.run(f"CREATE TABLE t (k integer PRIMARY KEY, {column} integer)")
            await create_or_update(
                db.handle, "t", key={"k": 1}, defaults={column: 2}, returning="*"
            )
            assert await db.query("SELECT * FROM t") == [(1, 2)]


async def test_a_task_does_not_outlast_its_test() -> None:
    loop = asyncio.get_running_loop()
    async with undisturbed():
        left = asyncio.create_task(asyncio.Event().wait())
        loop.set_exception_handler(lambda *_: None)
    assert left.cancelled()
    assert loop.get_exception_handler() is None
