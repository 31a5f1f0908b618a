"""SQLAlchemy, Core and ORM, and SQLModel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlmodel import Field, SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from benchmarks.peers.library import Peer, Ways
from benchmarks.support.rows import Row


class Base(DeclarativeBase):
    pass


class PageView(Base):
    __tablename__ = "page_views"
    path: Mapped[str] = mapped_column(primary_key=True)
    hits: Mapped[int]
    note: Mapped[str | None]


class PageViewModel(SQLModel, table=True):
    __tablename__ = "page_views"
    path: str = Field(primary_key=True)
    hits: int
    note: str | None = None


TABLE = sa.table("page_views", sa.column("path"), sa.column("hits"), sa.column("note"))


def url(place: str) -> str:
    if "://" not in place:
        return f"sqlite+aiosqlite:///{place}"
    return "postgresql+asyncpg://" + place.partition("://")[2].partition("?")[0]


def insert_of(place: str) -> Any:
    return (postgresql if "://" in place else sqlite).insert(TABLE)


def count_of(base: Any) -> Any:
    return base.values(
        path=sa.bindparam("p"), hits=1, note=sa.bindparam("n")
    ).on_conflict_do_update(
        index_elements=["path"],
        set_={"hits": TABLE.c.hits + 1, "note": base.excluded.note},
    )


@asynccontextmanager
async def autocommitting(place: str) -> AsyncIterator[Ways]:
    engine = create_async_engine(url(place), isolation_level="AUTOCOMMIT")
    count = count_of(insert_of(place))
    async with engine.connect() as conn:

        async def one(path: str, note: str) -> None:
            await conn.execute(count, {"p": path, "n": note})

        yield Ways(one)
    await engine.dispose()


@asynccontextmanager
async def core(place: str) -> AsyncIterator[Ways]:
    engine = create_async_engine(url(place))
    base = insert_of(place)
    new = base.excluded
    store, store_changed = (
        base.on_conflict_do_update(
            index_elements=["path"],
            set_={"hits": new.hits, "note": new.note},
            where=where,
        )
        for where in (
            None,
            TABLE.c.hits.is_distinct_from(new.hits)
            | TABLE.c.note.is_distinct_from(new.note),
        )
    )
    count = count_of(base)
    async with engine.connect() as conn:

        async def inside(path: str, note: str) -> None:
            await conn.execute(count, {"p": path, "n": note})

        async def one(path: str, note: str) -> None:
            await inside(path, note)
            await conn.commit()

        async def many(rows: Sequence[Row], statement: Any = store) -> None:
            await conn.execute(
                statement, [{"path": p, "hits": h, "note": n} for p, h, n in rows]
            )
            await conn.commit()

        async def again(rows: Sequence[Row]) -> None:
            await many(rows, store_changed)

        yield Ways(one, conn.begin, inside, many, again)
    await engine.dispose()


def in_a_session(session_class: Any, model: Any) -> Any:
    @asynccontextmanager
    async def opened(place: str) -> AsyncIterator[Ways]:
        engine = create_async_engine(url(place))
        async with session_class(engine) as session:

            async def inside(path: str, note: str) -> None:
                page = await session.get(model, path, with_for_update=True)
                if page is None:
                    session.add(model(path=path, hits=1, note=note))
                else:
                    page.hits += 1
                    page.note = note
                await session.flush()

            async def one(path: str, note: str) -> None:
                await inside(path, note)
                await session.commit()

            yield Ways(one, session.begin, inside)
        await engine.dispose()

    return opened


VALUE = "value, not expression"
AUTOCOMMIT = Peer(
    "SQLAlchemy Core, AUTOCOMMIT",
    autocommitting,
    "",
    "https://docs.sqlalchemy.org/en/20/core/connections.html#dbapi-autocommit",
)
CORE = Peer(
    "SQLAlchemy Core",
    core,
    "",
    "https://docs.sqlalchemy.org/en/20/dialects/postgresql.html#insert-on-conflict-upsert",
)
ORM = Peer(
    "SQLAlchemy ORM",
    in_a_session(AsyncSession, PageView),
    "created",
    "https://docs.sqlalchemy.org/en/20/orm/session_basics.html#get-by-primary-key",
    VALUE,
)
MODEL = Peer(
    "SQLModel",
    in_a_session(SQLModelSession, PageViewModel),
    "created",
    "https://sqlmodel.tiangolo.com/tutorial/update/",
    VALUE,
)
POSTGRESQL = (CORE, AUTOCOMMIT, ORM, MODEL)
SQLITE = (CORE, ORM)
