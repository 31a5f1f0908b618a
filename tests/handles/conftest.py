"""Engines of SQLAlchemy on every driver, each on a place of its own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.databases import PostgresDatabase, SQLiteDatabase
from tests.support.engines import engine_on
from tests.support.servers import Server


@pytest.fixture(params=["aiosqlite", "asyncpg", "psycopg"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(driver: str, request: pytest.FixtureRequest) -> Any:
    """The database of the test, of the driver's kind."""
    name = "lite" if driver == "aiosqlite" else "pg"
    db: SQLiteDatabase | PostgresDatabase = request.getfixturevalue(name)
    return db


@pytest.fixture
async def engine(
    driver: str, place: Any, lite_path: Path, pg_server: Server
) -> AsyncIterator[AsyncEngine]:
    where = str(lite_path) if driver == "aiosqlite" else pg_server.dsn
    engine = engine_on(driver, where, getattr(place, "schema", ""))
    yield engine
    await engine.dispose()
