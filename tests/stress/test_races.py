"""The short forms of the races."""

import pytest

from tests.stress.races import RACES, Fresh, Size, create_each_once, race
from tests.support.servers import Server

SHORT = Size(connections=16, keys=4, operations=600)


@pytest.mark.parametrize("name", RACES)
async def test_sums_and_flags_are_exact(pg_server: Server, name: str) -> None:
    line, is_good = await race(pg_server.dsn, name, SHORT, seed=1)
    assert is_good, line


async def test_each_row_is_created_once(pg_server: Server) -> None:
    line, is_good = await create_each_once(pg_server.dsn, Fresh(100, 16), seed=1)
    assert is_good, line
