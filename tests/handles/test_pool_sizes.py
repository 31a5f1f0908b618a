"""How many connections a coalescer may count on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncpg
import pytest
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import (
    AsyncAdaptedQueuePool,
    MetaData,
    NullPool,
    StaticPool,
    Table,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from aioupsert._drivers import pool_size
from aioupsert._sqlalchemy.connections import bound
from tests.support.databases import Database
from tests.support.engines import engine_on

MANY = 20


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"pool_size": 2, "max_overflow": 3}, 5),
        ({"pool_size": 2, "max_overflow": -1}, MANY),
        ({"poolclass": NullPool}, MANY),
        ({"poolclass": StaticPool}, 1),
    ],
)
def test_an_engine_has_as_many_as_its_pool(
    tmp_path: Path, options: dict[str, Any], size: int
) -> None:
    options = {"poolclass": AsyncAdaptedQueuePool, **options}
    engine = engine_on("aiosqlite", str(tmp_path / "file"), **options)
    assert pool_size(bound(engine, Table("t", MetaData()))) == size


async def test_a_pool_has_as_many_as_it_may_open() -> None:
    assert pool_size(asyncpg.create_pool("", min_size=0, max_size=7)) == 7
    assert pool_size(AsyncConnectionPool("", max_size=8, min_size=0, open=False)) == 8


async def test_a_connection_is_one(db: Database) -> None:
    handle = db.handle
    if isinstance(handle, AsyncConnection):
        handle = bound(handle, Table("t", MetaData()))
    assert pool_size(handle) == 1
