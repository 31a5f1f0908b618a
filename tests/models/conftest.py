"""Engines of SQLAlchemy over every driver, each with tables of its own."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.models.tables import Base
from tests.support.databases import (
    CONNECTIONS,
    Database,
    PostgresDatabase,
    open_sqlite,
)
from tests.support.engines import engine_on
from tests.support.keeping import Keeper
from tests.support.servers import Server
from tests.support.tables import create_tables

MakeEngine: TypeAlias = Callable[..., AsyncEngine]


@pytest.fixture(params=CONNECTIONS)
async def db(
    request: pytest.FixtureRequest, keeper: Keeper, lite_path: Path
) -> AsyncIterator[Database]:
    """The database; its handle is a plain connection of the driver."""
    if request.param == "aiosqlite":
        async with open_sqlite(lite_path) as sqlite:
            yield sqlite
    else:
        server: Server = request.getfixturevalue("pg_server")
        async with keeper.database(server.dsn, request.param) as postgresql:
            yield postgresql


@pytest.fixture
def make_engine(
    db: Database, lite_path: Path, request: pytest.FixtureRequest
) -> MakeEngine:
    """Makes engines on the same tables."""
    if not isinstance(db, PostgresDatabase):
        return partial(engine_on, db.kind, str(lite_path))
    server: Server = request.getfixturevalue("pg_server")
    return partial(engine_on, db.kind, server.dsn, db.schema)


@pytest.fixture
async def engine(db: Database, make_engine: MakeEngine) -> AsyncIterator[AsyncEngine]:
    """An engine on tables that are there."""
    await create_tables(db, Base.metadata)
    made = make_engine()
    yield made
    await made.dispose()


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine, expire_on_commit=False) as opened:
        yield opened
