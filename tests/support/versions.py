"""What only newer versions of PostgreSQL and its drivers have."""

import math
from decimal import Decimal
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import asyncpg
import pytest

ASYNCPG: Final = tuple(map(int, version("asyncpg").split(".")[:2]))
# For a test that cancels calls one upon the other: see docs/guides/servers.md, "Older drivers".
# `test_cancelled_while_it_cancels` shows what the older ones do.
asyncpg_cancels_well = pytest.mark.skipif(
    ASYNCPG < (0, 32), reason="asyncpg before 0.32 breaks its own connection"
)

# psycopg before 3.3.6 does not notice when a caller drops its prepared statements.
NOTICES_DROPS: Final = tuple(map(int, version("psycopg").split(".")[:3])) >= (3, 3, 6)

# asyncpg before 0.31 takes no codec for the type of the names in the catalog.
NAME: Final = ("name",) if ASYNCPG >= (0, 31) else ()


class Newer(NamedTuple):
    """The first major version to have something, and the error of those before."""

    since: int
    error: type[asyncpg.PostgresError]


# By what stands in the SQL.
NEWER: Final = {
    "NULLS NOT DISTINCT": Newer(15, asyncpg.PostgresSyntaxError),
    "numeric(5,-": Newer(15, asyncpg.InvalidParameterValueError),
    "int4multirange": Newer(14, asyncpg.UndefinedObjectError),
}


def major(conn: Any) -> int:
    """The major version of the server."""
    return int(conn.get_server_version().major)


async def created(conn: Any, sql: str) -> bool:
    """Run the SQL, or see it refused where the server is too old for it."""
    for words, newer in NEWER.items():
        if words in sql and major(conn) < newer.since:
            with pytest.raises(newer.error):
                await conn.execute(sql)
            return False
    await conn.execute(sql)
    return True


def refusal(conn: Any, kind: str, value: Any) -> type[asyncpg.PostgresError] | None:
    """The error for a value that the server is too old to take in such a column."""
    if major(conn) >= 14:
        return None
    # asyncpg says what type the elements have beneath the domain, as ever.
    if kind in {"word[]", "score[]"}:
        return asyncpg.DatatypeMismatchError
    number = isinstance(value, float | Decimal)
    if kind == "numeric" and number and math.isinf(value):
        return asyncpg.InvalidBinaryRepresentationError
    return None
