"""Fixtures: a server for the run, a database for each test."""

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import aiosqlite
import pytest
from hypothesis import HealthCheck, settings

from aioupsert._engines.postgresql import bulk_steps
from tests.support.combinations import (  # noqa: F401  # hooks
    pytest_addoption,
    pytest_collection_modifyitems,
)
from tests.support.databases import (
    KINDS,
    Database,
    LiteFactory,
    PostgresDatabase,
    SQLiteDatabase,
    open_sqlite,
    opened,
)
from tests.support.keeping import Keeper, undisturbed
from tests.support.servers import (
    NoServerError,
    Server,
    session_server,
    stop_session_server,
)
from tests.support.temporary import keep_in_memory

keep_in_memory()

settings.register_profile(
    "quick",
    max_examples=12,
    deadline=None,
    derandomize=True,
    # A fixture is the same for each example, and each empties the table.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.register_profile(
    "stress", settings.get_profile("quick"), max_examples=120, derandomize=False
)
settings.load_profile("quick")

DRIVERS: Final = ("asyncpg", "psycopg", "psycopg-pool", "aiosqlite")


def pytest_xdist_auto_num_workers() -> int:
    """More processes than processors: many tests wait for a lock, a limit or a server."""
    return (os.cpu_count() or 1) * 3 // 2


def pytest_report_header() -> list[str]:
    server = session_server()
    postgresql = (
        "none, see the failing tests"
        if isinstance(server, NoServerError)
        else f"{server.version} from {server.origin}"
    )
    drivers = ", ".join(f"{name} {version(name)}" for name in DRIVERS)
    return [
        f"drivers: {drivers}",
        f"SQLite: {sqlite3.sqlite_version}",
        f"PostgreSQL: {postgresql}",
    ]


def pytest_unconfigure() -> None:
    stop_session_server()


@pytest.fixture(scope="session")
def pg_server() -> Server:
    """The PostgreSQL of the run. Without one a test fails: green means it ran."""
    server = session_server()
    if isinstance(server, NoServerError):
        pytest.fail(str(server), pytrace=False)
    return server


@pytest.fixture
def lite_path(tmp_path: Path) -> Path:
    """The one SQLite file of the test, whichever fixture opens it."""
    return tmp_path / "test.db"


@pytest.fixture(scope="session")
async def keeper() -> AsyncIterator[Keeper]:
    """The connections to PostgreSQL that are kept from test to test."""
    keeper = Keeper()
    yield keeper
    await keeper.close()


@pytest.fixture(params=KINDS)
async def db(
    request: pytest.FixtureRequest, keeper: Keeper, lite_path: Path
) -> AsyncIterator[Database]:
    """A database of each kind in turn."""
    if "aiosqlite" in request.param:
        async with open_sqlite(lite_path, request.param) as sqlite, undisturbed():
            yield sqlite
    else:
        # Asked for here, so that the tests on SQLite need no server.
        server: Server = request.getfixturevalue("pg_server")
        async with keeper.database(server.dsn, request.param) as postgresql:
            yield postgresql


@pytest.fixture
async def pg(keeper: Keeper, pg_server: Server) -> AsyncIterator[PostgresDatabase]:
    """For what only PostgreSQL has; the handle is an asyncpg connection."""
    async with keeper.database(pg_server.dsn, "asyncpg") as database:
        yield database


@pytest.fixture
async def lite(lite_path: Path) -> AsyncIterator[SQLiteDatabase]:
    """For what only SQLite has."""
    async with open_sqlite(lite_path) as database, undisturbed():
        yield database


@pytest.fixture
async def lite_factory(lite: SQLiteDatabase) -> AsyncIterator[LiteFactory]:
    """
    Connections to the file of `lite` in any mode, closed after the test.

    Takes the arguments of `sqlite3.connect`: isolation_level, autocommit, ...
    """
    async with AsyncExitStack() as stack:

        async def connect(**options: Any) -> aiosqlite.Connection:
            return await stack.enter_async_context(opened(lite.path, **options))

        yield connect


@pytest.fixture
def small_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are copied, so that they show what thousands would."""
    monkeypatch.setattr(bulk_steps, "MAX_ARRAY_ROWS", 3)
