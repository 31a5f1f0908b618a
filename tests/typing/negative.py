"""
What a type checker refuses; checked by mypy and pyright, never run.

Each line is wrong on purpose: an ignore that is not needed is an error of its own.
"""

import aiosqlite

from aioupsert import (
    Coalescer,
    F,
    create_or_update,
    create_or_update_many,
    get_or_create,
    preview,
)


async def refuses(conn: aiosqlite.Connection) -> None:
    await create_or_update(1, "t", key={"id": 1})  # type: ignore[arg-type]  # no connection
    await create_or_update(conn, 1, key={"id": 1})  # type: ignore[arg-type]  # no table
    await create_or_update(conn, "t", {"id": 1})  # type: ignore[call-arg]  # key is given by name
    await create_or_update(conn, "t")  # type: ignore[call-arg]  # a key is needed
    await create_or_update(conn, "t", key={"id": 1}, where=True)  # type: ignore[arg-type]  # no expression
    await create_or_update(conn, "t", key={"id": 1}, strategy="quick")  # type: ignore[arg-type]  # no such strategy
    await get_or_create(conn, "t", key={"id": 1}, create_defaults={})  # type: ignore[call-arg]  # it has defaults only
    await preview(conn, "t", key={"id": 1}, timeout=1)  # type: ignore[call-arg]  # nothing is sent
    await create_or_update_many(conn, "t", 1, key="id")  # type: ignore[arg-type]  # no rows
    await create_or_update_many(conn, "t", [], key=1)  # type: ignore[arg-type]  # no name
    await create_or_update_many(conn, "t", [], key="id", on_error="go on")  # type: ignore[arg-type]  # no such word
    Coalescer(conn, "t")  # type: ignore[call-arg]  # a key is needed
    F(1)  # type: ignore[arg-type]  # no column
