from pathlib import Path

import pytest

from tests.examples.sites import Store
from tests.support.databases import PostgresDatabase, url_in
from tests.support.servers import Server


@pytest.fixture
def pg_url(pg: PostgresDatabase, pg_server: Server) -> str:
    """The schema of the test, for a program of its own."""
    return url_in(pg_server.dsn, pg.schema)


@pytest.fixture
def store(request: pytest.FixtureRequest, lite_path: Path) -> Store:
    """A database of each engine in turn."""
    if request.param == "sqlite":
        return Store(str(lite_path), request.getfixturevalue("lite").query)
    url = request.getfixturevalue("pg_url")
    return Store(url, request.getfixturevalue("pg").query)
