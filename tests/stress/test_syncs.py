"""The short form of the synchronized scopes."""

import pytest

from tests.stress.syncs import KINDS, Size, syncs
from tests.support.servers import Server

SHORT = Size(syncs=4, writers=6, rounds=5)


@pytest.mark.parametrize("kind", KINDS)
async def test_scopes_are_whole_and_new_rows_stay(pg_server: Server, kind: str) -> None:
    line, is_good = await syncs(pg_server.dsn, kind, SHORT)
    assert is_good, line
