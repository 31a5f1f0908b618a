from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cli.places import Place, Write, postgresql_place, sqlite_place
from tests.support.servers import Server


@pytest.fixture
def lite_place(tmp_path: Path) -> Place:
    """A SQLite file that is not there yet."""
    return sqlite_place(tmp_path)


@pytest.fixture
def pg_place(pg_server: Server) -> Iterator[Place]:
    """A schema of PostgreSQL, by the URL's search_path."""
    schema = f"t_{uuid4().hex}"
    place = postgresql_place(pg_server.dsn, schema)
    place.query(f"CREATE SCHEMA {schema}")
    yield place
    place.query(f"DROP SCHEMA {schema} CASCADE")


@pytest.fixture(params=["lite_place", "pg_place"])
def place(request: pytest.FixtureRequest) -> Place:
    """A database of each engine in turn."""
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Write:
    """Writes a file of the test."""

    def write(content: str | bytes, name: str = "rows.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write
