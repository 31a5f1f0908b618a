"""The databases that the benchmarks run on, and their tables."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiosqlite
import asyncpg

from benchmarks.support.rows import COLUMNS, Row
from tests.support.servers import (
    NoServerError,
    Server,
    session_server,
    stop_session_server,
)


@contextmanager
def postgresql_server() -> Iterator[Server]:
    """Find or start the PostgreSQL that the tests would use; stop it in the end."""
    server = session_server()
    if isinstance(server, NoServerError):
        raise SystemExit(str(server))
    try:
        yield server
    finally:
        stop_session_server()


def create_table(name: str, *, first: str = "") -> str:
    """Return the statement that creates a table of pages and their views."""
    return (
        f"CREATE TABLE {name} ({first}path text PRIMARY KEY,"
        " hits integer NOT NULL DEFAULT 0, note text)"
    )


@asynccontextmanager
async def postgresql(
    dsn: str, *tables: str
) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Connect, and create empty tables that are dropped in the end."""
    conn = await asyncpg.connect(dsn)
    try:
        for table in tables:
            await conn.execute(f"DROP TABLE IF EXISTS {table}; {create_table(table)}")
        yield conn
        for table in tables:
            await conn.execute(f"DROP TABLE {table}")
    finally:
        await conn.close()


async def refill(
    conn: asyncpg.Connection[asyncpg.Record], table: str, rows: Sequence[Row]
) -> None:
    """Replace the rows of the table by these, with no dead rows left in it."""
    await conn.execute(f"TRUNCATE {table}")
    await conn.copy_records_to_table(table, records=rows, columns=COLUMNS)
    await conn.execute(f"VACUUM ANALYZE {table}")


@contextmanager
def sqlite_path() -> Iterator[Path]:
    """Yield the path of a SQLite file that is removed in the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "bench.db"


@asynccontextmanager
async def sqlite(path: Path, *tables: str) -> AsyncIterator[aiosqlite.Connection]:
    """Create a file with empty tables, and set it up for speed as a program would."""
    async with aiosqlite.connect(path, isolation_level=None) as conn:
        await conn.execute("PRAGMA journal_mode = WAL")
        await conn.execute("PRAGMA synchronous = NORMAL")
        for table in tables:
            await conn.execute(create_table(table))
        yield conn


async def refill_sqlite(
    conn: aiosqlite.Connection, table: str, rows: Sequence[Row]
) -> None:
    """Replace the rows of a table of SQLite by these, with nothing left in its log."""
    await conn.execute(f"DELETE FROM {table}")
    await conn.execute("BEGIN")
    await conn.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", rows)
    await conn.execute("COMMIT")
    await conn.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
