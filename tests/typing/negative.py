"""
What a type checker refuses; checked by mypy and pyright, never run.

Each line is wrong on purpose: an ignore that is not needed is an error of its own.
"""

import aiosqlite
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aioupsert import (
    Coalescer,
    F,
    Result,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
    preview,
)


class Base(DeclarativeBase):
    pass


class Page(Base):
    __tablename__ = "pages"

    path: Mapped[str] = mapped_column(primary_key=True)


async def refuses(conn: aiosqlite.Connection) -> None:
    await create_or_update(1, "t", key={"id": 1})  # type: ignore[call-overload]  # no connection
    await create_or_update(conn, 1, key={"id": 1})  # type: ignore[call-overload]  # no table
    await create_or_update(conn, "t", {"id": 1})  # type: ignore[call-overload]  # key is given by name
    await create_or_update(conn, "t")  # type: ignore[call-overload]  # a key is needed
    await create_or_update(conn, "t", key="id")  # type: ignore[call-overload]  # no row
    await create_or_update(conn, "t", {"id": 1}, key={"id": 1})  # type: ignore[call-overload]  # the row has the key's value
    await create_or_update(conn, "t", {"id": 1}, key="id", defaults={})  # type: ignore[call-overload]  # the row has the values
    await create_or_update(conn, "t", key={"id": 1}, update=["n"])  # type: ignore[call-overload]  # no row
    await create_or_update(conn, "t", key={"id": 1}, where=True)  # type: ignore[call-overload]  # no expression
    await create_or_update(conn, "t", key={"id": 1}, strategy="quick")  # type: ignore[call-overload]  # no such strategy
    await create_or_update(conn, "t", key={"id": 1}, returning=5)  # type: ignore[call-overload]  # no name or class
    await get_or_create(conn, "t", key={"id": 1}, create_defaults={})  # type: ignore[call-overload]  # it has defaults only
    await preview(conn, "t", key={"id": 1}, timeout=1)  # type: ignore[call-arg]  # nothing is sent
    await create_or_update_many(conn, "t", 1, key="id")  # type: ignore[arg-type]  # no rows
    await create_or_update_many(conn, "t", [], key=1)  # type: ignore[arg-type]  # no name
    await create_or_update_many(conn, "t", [], key="id", on_error="go on")  # type: ignore[arg-type]  # no such word
    iter_create_or_update(conn, "t", 1, key="id")  # type: ignore[call-overload]  # no rows
    Coalescer(conn, "t")  # type: ignore[call-arg]  # a key is needed
    F(1)  # type: ignore[arg-type]  # no column


async def knows_what_a_row_is(
    session: AsyncSession, engine: Engine, coalescer: Coalescer
) -> None:
    key = {"path": "/"}
    await get_or_create(engine, Page, key=key)  # type: ignore[call-overload]  # a synchronous Engine
    nothing = await create_or_update(session, Page, key=key)
    str(nothing.row.path)  # type: ignore[attr-defined]  # None
    page, _ = await get_or_create(session, Page, key=key)
    str(page.pth)  # type: ignore[attr-defined]  # misspelt
    str(page["path"])  # type: ignore[index]  # an object, not a mapping
    result = await create_or_update(session, Page, key=key, returning=Page)
    str(result.object)  # type: ignore[attr-defined]  # it is the row
    _one, _two, _three = result  # type: ignore[misc]  # a pair
    row, _ = await coalescer.create_or_update(key=key, returning="path")
    str(row.path)  # type: ignore[attr-defined]  # a mapping, not an object
    mapping = await create_or_update(session, Page, key=key, returning="*")
    objects: Result[Base] = mapping  # type: ignore[assignment]  # mappings
    del objects
