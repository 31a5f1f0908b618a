"""What several of these tests do."""

from typing import Any

import asyncpg

from aioupsert._adapters import with_session
from aioupsert._adapters.base import Session, read_table
from aioupsert._schema import Table, table_name


async def describe(conn: Any, name: object = "t") -> Table:
    """Read the table from the catalog, through the adapter of the connection."""

    async def read(session: Session) -> Table:
        return (await read_table(session, table_name(name))).table

    return await with_session(conn, read)


async def make_collation(conn: Any) -> bool:
    """Make a collation ci that ignores case, or see why this server cannot."""
    sql = (
        "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2',"
        " deterministic = false)"
    )
    try:
        await conn.execute(sql)
    except asyncpg.FeatureNotSupportedError as error:
        assert "ICU is not supported in this build" in str(error)  # noqa: PT017  # the one reason that counts
        return False
    return True
