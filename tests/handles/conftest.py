"""Engines of SQLAlchemy on every driver, each on a place of its own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.databases import PostgresDatabase, SQLiteDatabase
from tests.servers import Server


def made(driver: str, place: str, schema: str = "", **options: Any) -> AsyncEngine:
    """An engine on the file, or on the schema of the server."""
    if driver == "aiosqlite":
        return create_async_engine(f"sqlite+aiosqlite:///{place}", **options)
    settings: dict[str, Any] = {
        "asyncpg": {"server_settings": {"search_path": schema}},
        "psycopg": {"options": f"-csearch_path={schema}"},
    }
    server = place.partition("?")[0].partition("://")[2]
    url = f"postgresql+{driver}://{server}"
    return create_async_engine(url, connect_args=settings[driver], **options)


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
    engine = made(driver, where, getattr(place, "schema", ""))
    yield engine
    await engine.dispose()
