"""A connection of SQLAlchemy's that is lost is replaced, as SQLAlchemy does itself."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from aioupsert import (
    BulkError,
    Coalescer,
    F,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
)
from tests.support.engines import engine_on
from tests.support.servers import Server

pytestmark = pytest.mark.parametrize("driver", ["asyncpg", "psycopg"], indirect=True)

ADD: dict[str, Any] = {"key": {"k": "a"}, "defaults": {"n": F("n") + 1}}


@pytest.fixture(autouse=True)
async def table(place: Any) -> None:
    await place.run("CREATE TABLE t (k text PRIMARY KEY, n integer NOT NULL DEFAULT 0)")


@pytest.fixture
async def engine(driver: str, place: Any, pg_server: Server) -> Any:
    """One whose pool has up to three connections."""
    made = engine_on(driver, pg_server.dsn, place.schema, pool_size=3, max_overflow=0)
    yield made
    await made.dispose()


async def terminate(place: Any) -> None:
    """End every connection of the engine."""
    await place.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE application_name = '{place.schema}' AND pid <> pg_backend_pid()"
    )
    await asyncio.sleep(0.1)


async def fill(engine: AsyncEngine) -> None:
    """Have the pool hold as many connections as it may."""
    opened = [await engine.connect() for _ in range(3)]
    for connection in opened:
        await create_or_update(connection, "t", key={"k": "there"})
        await connection.commit()
        await connection.close()


async def one(handle: Any) -> None:
    await create_or_update(handle, "t", **ADD)


async def read(handle: Any) -> None:
    await get_or_create(handle, "t", key={"k": "a"})


async def bulk(handle: Any) -> None:
    await create_or_update_many(handle, "t", [{"k": "a"}, {"k": "b"}], key="k")


async def iterated(handle: Any) -> None:
    rows: Any = [{"k": "a"}, {"k": "b"}]
    async for _ in iter_create_or_update(handle, "t", rows, key="k"):
        pass


async def coalesced(handle: Any) -> None:
    async with Coalescer(handle, "t", key="k") as coalescer:
        await asyncio.gather(*(coalescer.create_or_update(**ADD) for _ in range(3)))


CALLS = pytest.mark.parametrize("call", [one, read, bulk, iterated, coalesced])
Call = Callable[[Any], Awaitable[None]]


@CALLS
async def test_one_error_and_then_fresh_connections(
    engine: AsyncEngine, place: Any, call: Call
) -> None:
    await fill(engine)
    await terminate(place)
    with pytest.raises(DBAPIError) as caught:
        await call(engine)
    assert caught.value.connection_invalidated
    for _ in range(5):  # though the pool held three
        await call(engine)


@CALLS
async def test_a_session_goes_on_after_its_rollback(
    engine: AsyncEngine, place: Any, call: Call
) -> None:
    async with AsyncSession(engine) as session:
        await create_or_update(session, "t", key={"k": "there"})
        await terminate(place)
        with pytest.raises(DBAPIError) as caught:
            await call(session)
        assert caught.value.connection_invalidated
        with pytest.raises(PendingRollbackError):
            await session.execute(text("SELECT 1"))
        with pytest.raises(PendingRollbackError):
            await call(session)
        await session.rollback()
        await call(session)
        await session.commit()
    assert await place.query("SELECT 1 FROM t WHERE k = 'a'")
    assert not await place.query("SELECT 1 FROM t WHERE k = 'there'")


async def test_calls_that_share_a_lost_connection_fail_alike(
    engine: AsyncEngine, place: Any
) -> None:
    async with engine.connect() as connection:
        await one(connection)
        await terminate(place)
        calls = [one(connection) for _ in range(3)]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, DBAPIError) for error in errors)
        assert connection.invalidated
        await connection.rollback()
        await one(connection)
        await connection.commit()
    assert await place.query("SELECT n FROM t") == [(1,)]


async def test_a_connection_that_is_lost_within_a_bulk_call(
    engine: AsyncEngine, place: Any
) -> None:
    async def rows() -> Any:
        yield {"k": "a"}
        yield {"k": "b"}
        await terminate(place)
        yield {"k": "c"}

    with pytest.raises(DBAPIError) as caught:
        await create_or_update_many(engine, "t", rows(), key="k", batch_size=1)
    assert caught.value.connection_invalidated
    await one(engine)
    assert await place.query("SELECT k FROM t") == [("a",)]


async def test_a_cancelled_call_leaves_no_dead_connection(
    engine: AsyncEngine, place: Any
) -> None:
    await fill(engine)
    await place.run("INSERT INTO t VALUES ('a', 0)")
    async with engine.connect() as holder:
        await holder.execute(text("UPDATE t SET n = 0 WHERE k = 'a'"))
        waiting = [asyncio.ensure_future(one(engine)) for _ in range(2)]
        await asyncio.sleep(0.2)
        for task in waiting:
            task.cancel()
        await terminate(place)
        for task in waiting:
            with suppress(asyncio.CancelledError, DBAPIError):
                await task
        with suppress(DBAPIError):
            await holder.rollback()
    failed = 0
    for _ in range(4):
        try:
            await one(engine)
        except DBAPIError:
            failed += 1
    assert failed <= 1


async def test_a_row_s_error_loses_no_connection(
    engine: AsyncEngine, place: Any
) -> None:
    await place.run("ALTER TABLE t ADD CHECK (n < 2)")
    async with engine.connect() as connection:
        pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
    for _ in range(3):
        with pytest.raises(DBAPIError) as caught:
            await create_or_update(engine, "t", key={"k": "a"}, defaults={"n": 5})
        assert not caught.value.connection_invalidated
        with pytest.raises(BulkError):
            await create_or_update_many(engine, "t", [{"k": "a", "n": 5}], key="k")
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT pg_backend_pid()"))
        assert found.scalar_one() == pid
