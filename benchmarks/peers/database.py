"""The databases: the table is created, emptied and checked over other connections."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final

import asyncpg

from benchmarks.support.databases import create_table
from benchmarks.support.rows import Row

TABLE: Final = "page_views"
# How many of the wrong rows a message names.
ROWS_NAMED: Final = 4


class WrongRowsError(Exception):
    """A library did not store what was asked."""


class Database:
    """
    A database with the table, of which nothing stays open.

    Attributes:
        name: PostgreSQL or SQLite.
        place: The DSN, or the path of the file.
    """

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self.place = place

    async def run(self, sql: str) -> list[Any]:
        if self.name == "SQLite":
            with closing(sqlite3.connect(self.place, isolation_level=None)) as conn:
                return conn.execute(sql).fetchall()
        connection = await asyncpg.connect(self.place)
        try:
            return [tuple(record) for record in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def create(self) -> None:
        await self.drop()
        await self.run(create_table(TABLE))
        if self.name == "SQLite":
            await self.run("PRAGMA journal_mode = WAL")

    async def drop(self) -> None:
        await self.run(f"DROP TABLE IF EXISTS {TABLE}")

    async def empty(self) -> None:
        await self.run(f"DELETE FROM {TABLE}")
        if self.name == "PostgreSQL":
            await self.run(f"VACUUM ANALYZE {TABLE}")

    async def insert(self, rows: Sequence[Row]) -> None:
        """Insert rows that a library is to find there."""
        if self.name == "SQLite":
            with closing(sqlite3.connect(self.place)) as conn:
                conn.executemany(f"INSERT INTO {TABLE} VALUES (?, ?, ?)", rows)
                conn.commit()
            return
        connection = await asyncpg.connect(self.place)
        await connection.copy_records_to_table(TABLE, records=rows)
        await connection.execute(f"ANALYZE {TABLE}")
        await connection.close()

    async def check(self, expected: Sequence[Row], what: str) -> None:
        """Fail if it holds other rows than these, each with its counter and note."""
        stored = await self.run(f"SELECT path, hits, note FROM {TABLE}")
        wrong = sorted(set(stored) ^ set(expected))
        if wrong or len(stored) != len(expected):
            msg = (
                f"{what}: {len(stored):,} rows instead of {len(expected):,}; only stored,"
                f" or only expected: {wrong[:ROWS_NAMED]}"
            )
            raise WrongRowsError(msg)
