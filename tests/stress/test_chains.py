"""The short forms of the chains."""

from typing import Any

import pytest

from tests.stress.chains import CASES, Size, chain
from tests.support.servers import Server

SHORT = Size(writers=6, calls=96)


@pytest.mark.parametrize(("kind", "name"), CASES)
async def test_the_old_row_is_that_of_the_call_before(
    pg_server: Server, kind: Any, name: str
) -> None:
    line, is_good = await chain(pg_server.dsn, kind, name, SHORT)
    assert is_good, line
