"""One session for several tasks, and one connection for the session of each test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from aioupsert import F, create_or_update, create_or_update_many

ADD: dict[str, Any] = {"key": {"k": "a"}, "defaults": {"n": F("n") + 1}}


@pytest.fixture(autouse=True)
async def table(place: Any) -> None:
    await place.run("CREATE TABLE t (k text PRIMARY KEY, n integer NOT NULL DEFAULT 0)")


async def test_tasks_take_their_turns(engine: AsyncEngine, place: Any) -> None:
    async with AsyncSession(engine) as session:
        await session.connection()
        single = [create_or_update(session, "t", **ADD) for _ in range(8)]
        rows = [{"k": f"{number}"} for number in range(20)]
        bulk = [create_or_update_many(session, "t", rows, key="k") for _ in range(3)]
        await asyncio.gather(*single, *bulk)
        await session.commit()
    assert await place.query("SELECT n FROM t WHERE k = 'a'") == [(8,)]
    assert await place.query("SELECT count(*) FROM t") == [(21,)]


async def test_a_call_waits_for_the_statement_that_begins_the_transaction(
    engine: AsyncEngine, place: Any
) -> None:
    async with engine.connect() as connection:
        await connection.begin()
        _, result = await asyncio.gather(
            connection.execute(sa.text("INSERT INTO t VALUES ('b', 0)")),
            create_or_update(connection, "t", **ADD),
        )
        assert result.created
        assert await place.query("SELECT * FROM t") == []
        await connection.commit()
    assert await place.query("SELECT k FROM t ORDER BY k") == [("a",), ("b",)]


async def test_a_statement_of_sqlalchemy_may_begin_the_transaction(
    engine: AsyncEngine, place: Any
) -> None:
    for _ in range(5):
        async with engine.connect() as connection:
            await connection.begin()
            outcomes = await asyncio.gather(
                create_or_update(connection, "t", **ADD),
                connection.execute(sa.text("SELECT 1")),
                return_exceptions=True,
            )
            for outcome in outcomes:
                if isinstance(outcome, Exception):
                    assert isinstance(outcome, sa.exc.SQLAlchemyError)
            await connection.rollback()
    assert await place.query("SELECT * FROM t") == []


@asynccontextmanager
async def rolled_back(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """The session of a test, as SQLAlchemy's documentation has it."""
    async with engine.connect() as connection:
        outer = await connection.begin()
        async with AsyncSession(
            connection, join_transaction_mode="create_savepoint"
        ) as session:
            yield session
        await outer.rollback()


async def test_the_session_of_a_test_leaves_nothing(
    engine: AsyncEngine, driver: str, place: Any
) -> None:
    if driver == "aiosqlite":

        @sa.event.listens_for(engine.sync_engine, "connect")
        def leave_begin(connection: Any, _: Any) -> None:
            connection.isolation_level = None

        @sa.event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

    for _ in range(2):
        async with rolled_back(engine) as session:
            assert (await create_or_update(session, "t", **ADD)).created
            await session.commit()
            await create_or_update(session, "t", **ADD)
            await session.rollback()
            rows: Any = [{"k": "b"}]
            await create_or_update_many(session, "t", rows, key="k")
            await session.commit()
            found = await session.execute(sa.text("SELECT k, n FROM t ORDER BY k"))
            assert [tuple(row) for row in found] == [("a", 1), ("b", 0)]
        assert await place.query("SELECT * FROM t") == []
