"""Where a call over a session goes: as SQLAlchemy's own UPDATE would."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from aioupsert import (
    Coalescer,
    F,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
    preview,
)
from tests.support.engines import engine_on
from tests.support.servers import Server


class Base(DeclarativeBase):
    """What is mapped here."""


class Item(Base):
    """A row with a counter."""

    __tablename__ = "items"

    k: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int] = mapped_column(server_default="0")


class Numbered(Base):
    """In a schema that is to be translated, with a sequence there."""

    __tablename__ = "numbered"
    __table_args__ = {"schema": "anywhere"}  # noqa: RUF012  # as SQLAlchemy has it

    k: Mapped[str] = mapped_column(primary_key=True)
    n: Mapped[int | None] = mapped_column(sa.Sequence("ids", schema="anywhere"))


ADD: dict[str, Any] = {"key": {"k": "a"}, "defaults": {"n": F("n") + 1}}


def create(connection: sa.Connection) -> None:
    Base.metadata.create_all(connection, [Base.metadata.tables["items"]])


@pytest.fixture
async def engines(
    driver: str, place: Any, tmp_path: Path, pg_server: Server
) -> AsyncIterator[tuple[AsyncEngine, AsyncEngine]]:
    """Two engines, on places of their own."""
    schemas = [getattr(place, "schema", ""), f"{getattr(place, 'schema', '')}_two"]
    if driver == "aiosqlite":
        made = [engine_on(driver, str(tmp_path / name)) for name in ("one", "two")]
    else:
        await place.run(f"CREATE SCHEMA {schemas[1]}")
        made = [engine_on(driver, pg_server.dsn, schema) for schema in schemas]
    for engine in made:
        async with engine.begin() as connection:
            await connection.run_sync(create)
    yield made[0], made[1]
    for engine in made:
        await engine.dispose()
    if driver != "aiosqlite":
        await place.run(f"DROP SCHEMA {schemas[1]} CASCADE")


async def stored(engine: AsyncEngine, table: str = "items") -> dict[str, int]:
    async with engine.connect() as connection:
        rows = await connection.execute(sa.text(f"SELECT k, n FROM {table}"))
        return {row.k: row.n for row in rows}


@pytest.mark.parametrize(
    ("table", "bound"),
    [
        (Item, Item),
        (Item, Base),
        (Item, Item.__table__),
        (Item.__table__, Item),
        (Item.__table__, Item.__table__),
    ],
)
async def test_binds_decide(
    engines: tuple[AsyncEngine, AsyncEngine], table: Any, bound: Any
) -> None:
    one, two = engines
    async with AsyncSession(one, binds={bound: two}) as session:
        await create_or_update(session, table, **ADD)
        await get_or_create(session, table, key={"k": "b"})
        await create_or_update_many(session, table, [{"k": "c"}], key="k")
        rows: Any = [{"k": "d"}]
        assert [r async for r in iter_create_or_update(session, table, rows, key="k")]
        async with Coalescer(session, table, key="k") as coalescer:
            await coalescer.create_or_update(**ADD)
        await session.commit()
    assert await stored(one) == {}
    assert await stored(two) == {"a": 2, "b": 0, "c": 0, "d": 0}


async def test_a_routing_session_is_asked_with_the_mapper_and_an_update(
    engines: tuple[AsyncEngine, AsyncEngine],
) -> None:
    follower, leader = engines
    asked: list[Any] = []

    class Routing(Session):
        def get_bind(self, mapper: Any = None, clause: Any = None, **_: Any) -> Any:
            asked.append(mapper)
            writes = self._flushing or isinstance(clause, sa.Update)
            return (leader if writes else follower).sync_engine

    async with AsyncSession(sync_session_class=Routing) as session:
        await create_or_update(session, Item, **ADD)
        await create_or_update(session, Item.__table__, **ADD)
        await create_or_update(session, "items", **ADD)
        await session.commit()
    assert await stored(leader) == {"a": 1 + 1 + 1}
    assert await stored(follower) == {}
    assert sa.inspect(Item) in asked


async def test_a_scoped_session_is_that_of_the_scope(
    engines: tuple[AsyncEngine, AsyncEngine],
) -> None:
    one, two = engines
    scoped = async_scoped_session(
        async_sessionmaker(one, binds={Item: two}), asyncio.current_task
    )

    async def count() -> None:
        await create_or_update(scoped, Item, **ADD)
        await scoped.commit()
        await scoped.remove()

    await asyncio.gather(*(count() for _ in range(4)))
    assert await stored(two) == {"a": 4}
    assert await stored(one) == {}


async def test_a_session_without_a_bind_says_so() -> None:
    async with AsyncSession() as session:
        with pytest.raises(UnboundExecutionError):
            await create_or_update(session, Item, **ADD)
        with pytest.raises(UnboundExecutionError):
            await create_or_update(session, "items", **ADD)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"], indirect=True)
@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_call_is_part_of_a_two_phase_transaction(
    engines: tuple[AsyncEngine, AsyncEngine], ends: str
) -> None:
    one, two = engines
    async with AsyncSession(one, binds={Item: two}, twophase=True) as session:
        await create_or_update(session, Item, **ADD)
        await create_or_update(session, "items", **ADD)
        session.add(Item(k="b"))
        await session.flush()
        await getattr(session, ends)()
    assert await stored(two) == ({"a": 1, "b": 0} if ends == "commit" else {})
    assert await stored(one) == ({"a": 1} if ends == "commit" else {})


@pytest.fixture
async def tenants(
    engine: AsyncEngine, driver: str, place: Any
) -> AsyncIterator[list[dict[str | None, str]]]:
    """What translates the schemas of two tenants; on SQLite, of two databases."""
    if driver == "aiosqlite":
        names = ["alpha", "beta"]

        @sa.event.listens_for(engine.sync_engine, "connect")
        def attach(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            for name in names:
                cursor.execute(f"ATTACH '{place.path}.{name}' AS {name}")
            cursor.close()
    else:
        names = [f"{place.schema}_alpha", f"{place.schema}_beta"]
        for name in names:
            await place.run(f"CREATE SCHEMA {name}")
    maps: list[dict[str | None, str]] = [{None: n, "anywhere": n} for n in names]
    for schemas in maps:
        translated = engine.execution_options(schema_translate_map=schemas)
        async with translated.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
    yield maps
    if driver != "aiosqlite":
        for name in names:
            await place.run(f"DROP SCHEMA {name} CASCADE")


async def test_an_engine_s_schemas_are_translated(
    engine: AsyncEngine, tenants: list[dict[str | None, str]]
) -> None:
    alpha, beta = tenants
    counts: list[int] = []
    for schemas in (alpha, beta, alpha):
        translated = engine.execution_options(schema_translate_map=schemas)
        await create_or_update(translated, Item, **ADD)
        await create_or_update_many(
            translated, Item.__table__, [{"k": "b", "n": 7}], key="k"
        )
        async with Coalescer(translated, Item, key="k") as coalescer:
            await coalescer.create_or_update(**ADD)
        async with AsyncSession(translated) as session:
            item, created = await get_or_create(
                session, Item, key={"k": "a"}, returning=Item
            )
            counts.append(item.n)
            assert not created
    assert counts == [2, 2, 4]
    assert await stored(engine, f"{alpha[None]}.items") == {"a": 4, "b": 7}
    assert await stored(engine, f"{beta[None]}.items") == {"a": 2, "b": 7}


async def test_a_connection_s_and_a_session_s_schemas_are_translated(
    engine: AsyncEngine, tenants: list[dict[str | None, str]]
) -> None:
    alpha, beta = tenants
    async with engine.connect() as connection:
        await connection.execution_options(schema_translate_map=alpha)
        await create_or_update(connection, Item, **ADD)
        async with AsyncSession(connection) as session:
            await create_or_update(session, Item, **ADD)
        await connection.commit()
    async with AsyncSession(engine) as session:
        options = {"schema_translate_map": beta}
        await session.connection(execution_options=options)
        await create_or_update(session, Item, **ADD)
        async with session.begin_nested():
            await create_or_update(session, Item, **ADD)
            rows: Any = [{"k": "b"}]
            await create_or_update_many(session, Item, rows, key="k")
        await session.commit()
    assert await stored(engine, f"{alpha[None]}.items") == {"a": 2}
    assert await stored(engine, f"{beta[None]}.items") == {"a": 2, "b": 0}


async def test_a_call_s_schemas_are_translated(
    engine: AsyncEngine, tenants: list[dict[str | None, str]]
) -> None:
    alpha, beta = tenants
    other: Any = {"schema_translate_map": alpha}
    options: Any = {"schema_translate_map": beta}
    async with AsyncSession(engine) as session:
        # The call's win over those of the session.
        await session.connection(execution_options=other)
        await create_or_update(session, Item, **ADD, execution_options=options)
        await create_or_update_many(
            session, Item, [{"k": "b", "n": 7}], key="k", execution_options=options
        )
        async with Coalescer(
            session, Item, key="k", execution_options=options
        ) as coalescer:
            await coalescer.create_or_update(**ADD)
        found = await get_or_create(
            session, Item, key={"k": "a"}, returning="*", execution_options=options
        )
        assert found.row == {"k": "a", "n": 2}
        shown = await preview(session, Item, **ADD, execution_options=options)
        assert all(beta[None] in statement.sql for statement in shown)
        await session.commit()
    assert await stored(engine, f"{alpha[None]}.items") == {}
    assert await stored(engine, f"{beta[None]}.items") == {"a": 2, "b": 7}


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"], indirect=True)
async def test_a_sequence_is_that_of_the_tenant(
    engine: AsyncEngine, tenants: list[dict[str | None, str]]
) -> None:
    for schemas in (*tenants, tenants[0]):
        translated = engine.execution_options(schema_translate_map=schemas)
        row = {"k": f"{schemas is tenants[0]}"}
        await create_or_update(translated, Numbered, key=row)
        await create_or_update(translated, Numbered, key={"k": "more"})
    for schemas in tenants:
        found = await stored(engine, f"{schemas[None]}.numbered")
        assert sorted(found.values()) == [1, 2]
