"""What a type checker accepts; checked by mypy and pyright, never run."""

# asyncpg's classes are generic in its stubs only.
from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, assert_type

import aiosqlite
import asyncpg
from asyncpg.pool import PoolConnectionProxy

from aioupsert import (
    DEFAULT,
    SQL,
    Action,
    Excluded,
    Expression,
    F,
    Result,
    Statement,
    coalesce,
    create_or_update,
    func,
    get_or_create,
    greatest,
    is_retryable,
    now,
    preview,
    set_description_lifetime,
)


async def takes_every_connection(
    connection: asyncpg.Connection[Any],
    pooled: PoolConnectionProxy[Any],
    pool: asyncpg.Pool[Any],
    sqlite: aiosqlite.Connection,
) -> None:
    for conn in (connection, pooled, pool, sqlite):
        assert_type(await create_or_update(conn, "t", key={"id": 1}), Result)
        assert_type(await get_or_create(conn, "t", key={"id": 1}), Result)
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
        without_unique_index="lock",
        strategy="exact",
        timeout=None,
    )
    assert_type(result.action, Action)
    assert_type(result.created, bool)
    assert_type(result.rows_affected, int)
    assert_type(result.row, Mapping[str, Any] | None)
    assert_type(result.rows, tuple[Mapping[str, Any], ...])
    _row, _created = result


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
    set_description_lifetime(5)
