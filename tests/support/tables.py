"""Tables and what belongs to them, made and described."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import asyncpg
from sqlalchemy import MetaData, create_mock_engine

from aioupsert._drivers import session_on
from aioupsert._engines.postgresql.catalog import reflect_any
from aioupsert._execution.table_cache import read_table
from aioupsert._plan.schema import Table, table_name
from tests.support.databases import Database, PostgresDatabase
from tests.support.servers import Server


def trigger(when: str, body: str, table: str = "t") -> str:
    """A trigger g for each row, with this body."""
    return (
        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {body} END $$;"
        f" CREATE TRIGGER g {when} ON {table} FOR EACH ROW EXECUTE FUNCTION g();"
    )


async def describe(conn: Any, name: object = "t") -> Table:
    """
    Read the table from the catalog, through the driver of the connection.

    Of a plain table the query for any table says the same.
    """
    async with session_on(conn) as session:
        table = (await read_table(session, table_name(name))).table
        if session.engine.system == "postgresql":
            assert await session.run(reflect_any(table.name)) == table
        return table


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


@asynccontextmanager
async def without_temporary_tables(
    pg: PostgresDatabase, server: Server, table: str
) -> AsyncIterator[Any]:
    """A connection whose role may write to a table, and make no temporary one."""
    # In a database of its own, as the right belongs to everybody in a database.
    name = f"poor_{pg.schema}"
    await pg.run(f"CREATE ROLE {name}")
    await pg.run(f"CREATE DATABASE {name}")
    try:
        conn = await asyncpg.connect(server.dsn, database=name)
        await conn.execute(
            f"{table}; GRANT SELECT, INSERT, UPDATE ON t TO {name};"
            f" REVOKE TEMPORARY ON DATABASE {name} FROM PUBLIC; SET ROLE {name}"
        )
        yield conn
        await conn.close()
    finally:
        await pg.run(f"DROP DATABASE {name} WITH (FORCE)")
        await pg.run(f"DROP ROLE {name}")


async def create_tables(db: Database, metadata: MetaData) -> None:
    """Do what `create_all` does, which takes longer than most tests."""
    dialect = "postgresql" if isinstance(db, PostgresDatabase) else "sqlite"
    await db.run(create_script(metadata, dialect))


@cache
def create_script(metadata: MetaData, dialect: str) -> str:
    def add(statement: Any, *_: object, **__: object) -> None:
        statements.append(str(statement.compile(dialect=engine.dialect)))

    statements: list[str] = []
    engine = create_mock_engine(f"{dialect}://", add)
    metadata.create_all(engine, checkfirst=False)
    return ";".join(statements)
