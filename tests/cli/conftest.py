from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cli.databases import (
    CliDatabase,
    PostgresSession,
    Write,
    postgresql_in,
    sqlite_in,
)
from tests.cli.prices import STORED, TABLE
from tests.support.servers import Server


@pytest.fixture
def sqlite_database(tmp_path: Path) -> CliDatabase:
    """A SQLite file that is not there yet."""
    return sqlite_in(tmp_path)


@pytest.fixture(scope="session")
def postgres_session(pg_server: Server) -> Iterator[PostgresSession]:
    session = PostgresSession(pg_server.dsn)
    yield session
    session.close()


@pytest.fixture
def postgresql_database(postgres_session: PostgresSession) -> Iterator[CliDatabase]:
    """A schema of PostgreSQL, by the URL's search_path."""
    schema = f"t_{uuid4().hex}"
    database = postgresql_in(postgres_session, schema)
    database.query(f"CREATE SCHEMA {schema}")
    yield database
    database.query(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture(params=["sqlite_database", "postgresql_database"])
def database(request: pytest.FixtureRequest) -> CliDatabase:
    """A database of each engine in turn."""
    found: CliDatabase = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def prices(database: CliDatabase) -> CliDatabase:
    """Two shops with a few prices."""
    database.query(TABLE)
    database.query(STORED)
    return database


@pytest.fixture
def file(tmp_path: Path) -> Write:
    """Writes a file of the test."""

    def write(content: str | bytes, name: str = "rows.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
