import sqlite3
from typing import Any

import aiosqlite
import asyncpg
import psycopg
import psycopg_pool
import pytest
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tests.support.databases import (
    LITE_MODES,
    Database,
    LiteFactory,
    PostgresDatabase,
    SQLiteDatabase,
    every_handle,
    execute,
)

HANDLE_TYPES: dict[str, type[Any]] = {
    "asyncpg": asyncpg.Connection,
    "pooled": PoolConnectionProxy,
    "pool": asyncpg.Pool,
    "psycopg": psycopg.AsyncConnection,
    "psycopg_pool": psycopg_pool.AsyncConnectionPool,
    "aiosqlite": aiosqlite.Connection,
    "connection": AsyncConnection,
    "engine": AsyncEngine,
}


@every_handle
async def test_handle_is_of_its_kind(db: Database) -> None:
    assert isinstance(db.handle, HANDLE_TYPES[db.kind.partition(" of ")[0]])


@every_handle
async def test_handle_sees_what_run_has_made(db: Database) -> None:
    await db.run("CREATE TABLE item (id int); INSERT INTO item VALUES (1), (2)")

    async with db.transaction() as conn:
        await execute(conn, "DELETE FROM item WHERE id = 1")

    assert await db.query("SELECT id FROM item") == [(2,)]


@every_handle
async def test_each_test_starts_empty(db: Database) -> None:
    tables = db.sql(
        postgresql="SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()",
        sqlite="SELECT count(*) FROM sqlite_schema",
    )

    assert await db.query(tables) == [(0,)]


@every_handle
async def test_transaction_that_raises_leaves_nothing(db: Database) -> None:
    await db.run("CREATE TABLE item (id int)")

    async def fail() -> None:
        async with db.transaction() as conn:
            await execute(conn, "INSERT INTO item VALUES (1)")
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert await db.query("SELECT id FROM item") == []


@every_handle
async def test_second_connection_sees_committed_rows_only(db: Database) -> None:
    await db.run("CREATE TABLE item (id int)")

    async with db.transaction() as conn:
        await execute(conn, "INSERT INTO item VALUES (1)")
        before = await db.query("SELECT id FROM item")

    assert before == []
    assert await db.query("SELECT id FROM item") == [(1,)]


@every_handle
async def test_connect_gives_an_independent_connection(db: Database) -> None:
    await db.run("CREATE TABLE item (id int)")

    async with db.connect() as other, db.transaction(other) as conn:
        assert conn is other
        assert conn is not db.handle
        await execute(conn, "INSERT INTO item VALUES (1)")
        assert await db.query("SELECT id FROM item") == []

    assert await db.query("SELECT id FROM item") == [(1,)]


async def test_schema_is_dropped_after_the_test(pg: PostgresDatabase) -> None:
    schemas = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 't\\_%'"

    assert await pg.query(schemas) == [(pg.schema,)]


async def test_sqlite_connection_is_as_the_driver_makes_it(
    lite: SQLiteDatabase,
) -> None:
    assert lite.handle.row_factory is None
    assert lite.handle.text_factory is str
    assert lite.handle.isolation_level is None
    assert await lite.query("PRAGMA journal_mode") == [("wal",)]


@pytest.mark.parametrize("mode", LITE_MODES)
async def test_lite_factory_gives_the_mode_asked_for(
    mode: str, lite: SQLiteDatabase, lite_factory: LiteFactory
) -> None:
    options = LITE_MODES[mode]
    conn = await lite_factory(**options)
    await lite.run("CREATE TABLE item (id int)")
    before = conn.in_transaction

    async with lite.transaction(conn):
        await execute(conn, "INSERT INTO item VALUES (1)")

    assert conn.in_transaction is before
    assert before is (mode == "no-autocommit")
    assert conn.isolation_level == options.get("isolation_level")
    assert await lite.query("SELECT id FROM item") == [(1,)]


async def test_lite_factory_gives_independent_connections(
    lite: SQLiteDatabase, lite_factory: LiteFactory
) -> None:
    first, second = await lite_factory(), await lite_factory(timeout=0)
    await lite.run("CREATE TABLE item (id int)")

    async with lite.transaction(first):
        await first.execute("INSERT INTO item VALUES (1)")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            await second.execute("INSERT INTO item VALUES (2)")
