"""What a type checker accepts; checked by mypy and pyright, never run."""

# asyncpg's classes are generic in its stubs only.
from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypedDict, assert_type

import aiosqlite
import asyncpg
import attrs
import pydantic
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy import Column, String, Table
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlmodel import Field, SQLModel, col

from aioupsert import (
    DEFAULT,
    SQL,
    Action,
    BulkError,
    BulkResult,
    Coalescer,
    CoalescerStats,
    Excluded,
    Expression,
    F,
    Progress,
    Result,
    Statement,
    coalesce,
    create_or_update,
    create_or_update_many,
    func,
    get_or_create,
    get_or_create_many,
    greatest,
    is_retryable,
    iter_create_or_update,
    now,
    preview,
    set_schema_cache_ttl,
)
from aioupsert.typing import Name, Returning

Row: TypeAlias = Mapping[str, Any]


async def takes_every_connection(
    connection: asyncpg.Connection[Any],
    pooled: PoolConnectionProxy[Any],
    pool: asyncpg.Pool[Any],
    sqlite: aiosqlite.Connection,
) -> None:
    for conn in (connection, pooled, pool, sqlite):
        assert_type(await create_or_update(conn, "t", key={"id": 1}), Result[None])
        assert_type(await get_or_create(conn, "t", key={"id": 1}), Result[Row])
        assert_type(await preview(conn, "t", key={"id": 1}), tuple[Statement, ...])


async def takes_every_argument(conn: aiosqlite.Connection) -> None:
    result = await create_or_update(
        conn,
        ("analytics", "page_views"),
        key={"path": "/pricing", "tenant": None},
        defaults={"hits": F("hits") + 1, "state": DEFAULT, "at": dt.datetime.now},
        create_defaults={"first": now()},
        where=(Excluded("seen") > F("seen")) & ~F("locked") | F("seen").is_null(),
        skip_unchanged=True,
        touch={"updated_at": now()},
        returning=["path", "hits"],
        old=True,
        without_unique_index="lock",
        strategy="exact",
        timeout=None,
    )
    assert_type(result.action, Action)
    assert_type(result.created, bool)
    assert_type(result.rows_affected, int)
    assert_type(result.row, Row)
    assert_type(result.rows, tuple[Row, ...])
    assert_type(result.old, Row | None)
    assert_type(result.changed, tuple[str, ...])
    row, created = result
    assert_type(row, Row)
    assert_type(created, bool)


@dataclass
class Record:
    path: str


class Named(NamedTuple):
    path: str


def generated() -> Iterator[dict[str, int]]:
    yield {"path": 1}


async def streamed() -> AsyncIterator[Record]:
    yield Record("/")


async def takes_rows_of_every_kind(pool: asyncpg.Pool[Any]) -> None:
    for rows in ([{"path": "/"}], [Record("/")], [Named("/")], generated(), streamed()):
        result = await create_or_update_many(pool, "t", rows, key="path")
        assert_type(result, BulkResult)
    result = await create_or_update_many(
        pool,
        ("analytics", "page_views"),
        [{"path": "/", "hits": F("hits") + 1}],
        key=["path"],
        update={"hits": F("hits") + Excluded("hits")},
        create_defaults={"first": now()},
        where=Excluded("seen") > F("seen"),
        skip_unchanged=True,
        touch={"updated_at": now()},
        convert_text=True,
        without_unique_index="allow",
        batch_size=1_000,
        progress=shows,
        atomic=False,
        on_error="skip",
        connections=4,
        timeout=None,
    )
    assert_type(result.created + result.updated + result.unchanged, int)
    assert_type(result.rejected, tuple[BulkError, ...])
    async for one in iter_create_or_update(
        pool, "t", [], key="path", update=["hits"], returning="*"
    ):
        assert_type(one, Result[Row])
    async for some in iter_create_or_update(pool, "t", [], key="path"):
        assert_type(some, Result[None])
    async for record in iter_create_or_update(
        pool, "t", [Record("/")], key="path", returning=Record, skip_unchanged=True
    ):
        assert_type(record.row.path, str)


class Dict(TypedDict):
    path: str


@attrs.define
class Attrs:
    path: str


class Model(pydantic.BaseModel):
    path: str


async def returns_every_kind_of_class(conn: aiosqlite.Connection) -> None:
    key = {"path": "/"}
    record, _ = await create_or_update(conn, "t", key=key, returning=Record)
    assert_type(record, Record)
    named, _ = await create_or_update(conn, "t", key=key, returning=Named)
    assert_type(named, Named)
    typed, _ = await create_or_update(conn, "t", key=key, returning=Dict)
    assert_type(typed, Dict)
    defined, _ = await create_or_update(conn, "t", key=key, returning=Attrs)
    assert_type(defined, Attrs)
    model, _ = await get_or_create(conn, "t", key=key, returning=Model)
    assert_type(model, Model)
    row, _ = await create_or_update(conn, "t", Record("/"), key="path", returning=Model)
    assert_type(row, Model)


async def gets_many(conn: aiosqlite.Connection) -> None:
    rows = [{"path": "/"}]
    assert_type(
        await get_or_create_many(conn, "t", rows, key="path"), list[Result[Row]]
    )
    several = await get_or_create_many(conn, "t", rows, key="path", returning=Record)
    assert_type([result.row for result in several], list[Record])


async def annotates(conn: aiosqlite.Connection, names: str | None) -> Result:
    given = await create_or_update(conn, "t", key={"path": "/"}, returning=names)
    assert_type(given.row, Row | None)
    return given


class Base(DeclarativeBase):
    pass


class Page(Base):
    __tablename__ = "pages"

    path: Mapped[str] = mapped_column(primary_key=True)
    hits: Mapped[int | None]


class Hero(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str


pages = Table("pages", Base.metadata, Column("path", String), extend_existing=True)


async def takes_mapped_classes(
    session: AsyncSession,
    engine: AsyncEngine,
    scoped: async_scoped_session[AsyncSession],
) -> None:
    result = await create_or_update(session, Page, key={"path": "/"}, returning=Page)
    assert_type(result, Result[Page])
    page, created = result
    assert_type(page.path, str)
    assert_type(created, bool)
    assert_type(await get_or_create(session, Page, key={"path": "/"}), Result[Page])
    assert_type(await get_or_create(scoped, Page, key={"path": "/"}), Result[Page])
    assert_type(await get_or_create(engine, Page, key={"path": "/"}), Result[Row])
    assert_type(
        await get_or_create(session, Page, key={"path": "/"}, returning="path"),
        Result[Row],
    )
    await create_or_update(session, Page, Page(path="/"), key="path", update=["path"])
    await preview(engine, Page, key={"path": "/"})
    await create_or_update_many(engine, Page, [{"path": "/"}], key="path")
    async with Coalescer(engine, Page, key="path") as coalescer:
        await coalescer.create_or_update(key={"path": "/"}, returning=["path"])
        called = await coalescer.create_or_update(key={"path": "/"}, returning=Page)
        assert_type(called, Result[Page])


async def takes_attributes_and_columns(session: AsyncSession) -> None:
    keys: list[Name] = [Page.path, pages.c.path, col(Hero.id), "path"]
    returning: Returning = keys
    await create_or_update(
        session,
        Page,
        key={Page.path: "/"},
        defaults={Page.hits: F("hits") + 1, "note": "mixed"},
        touch={pages.c.path: "/"},
        where=(Page.hits < 3) & Page.path.in_(["/"]),
        returning=[Page.path, Page.hits],
    )
    await get_or_create(session, Hero, key={Hero.name: "a"}, returning=col(Hero.id))
    await preview(session, pages, key={pages.c.path: "/"}, returning=returning)
    found = {Page.path: "/", Page.hits: 3}
    await create_or_update(session, Page, key=found)
    await create_or_update_many(
        session,
        Page,
        [found, {"path": "/", Page.hits: 1}],
        key=Page.path,
        update=[Page.hits, "note"],
        create_defaults=found,
    )
    async for _ in iter_create_or_update(
        session,
        Page,
        [found],
        key=[Page.path, "hits"],
        update={Page.hits: Excluded("hits")},
        where=Page.hits.is_(None),
        returning=Page.hits,
    ):
        pass
    async with Coalescer(session, Page, key=(Page.path,)) as coalescer:
        await coalescer.create_or_update(key=found, where=~Page.hits.is_(None))


def shows(progress: Progress) -> None:
    assert_type(progress.rows_per_second, float)
    assert_type(progress.result, BulkResult)


async def coalesces(pool: asyncpg.Pool[Any], sqlite: aiosqlite.Connection) -> None:
    async with Coalescer(sqlite, "t", key="path") as few:
        assert_type(await few.create_or_update(key={"path": "/"}), Result[None])
        assert_type(await few.create_or_update({"path": "/"}), Result[None])
    async with Coalescer(
        pool,
        "t",
        key=("path", "day"),
        max_batch=100,
        max_delay=0.01,
        max_pending=1_000,
        concurrency=4,
        without_unique_index="error",
        timeout=None,
    ) as coalescer:
        await coalescer.create_or_update(
            key={"path": "/", "day": dt.date.min},
            defaults={"hits": F("hits") + 1},
            create_defaults={"first": now()},
            where=F("hits") < 10,
            skip_unchanged=True,
            touch={"updated_at": now()},
            returning=["hits"],
        )
        assert_type(coalescer.stats, CoalescerStats)
        await coalescer.aclose(cancel=True)


def builds_expressions() -> None:
    assert_type(F("a") == None, Expression)  # noqa: E711  # builds a condition
    assert_type(1 + F("a") * 2 - F("b"), Expression)
    assert_type(coalesce(F("a"), 0) % 2, Expression)
    assert_type(greatest(F("a"), Excluded("a")), Expression)
    assert_type(F("a").in_([1, None]), Expression)
    assert_type(F("a").concat("-", F("b")).merge({}), Expression)
    assert_type(func("substr", F("a"), 1), Expression)
    assert_type(SQL("{} AT TIME ZONE 'UTC'", F("at")), Expression)


def classifies(error: BaseException) -> None:
    assert_type(is_retryable(error), bool)
    set_schema_cache_ttl(5)
