"""Many rows on SQLite are written once, and counted as by a call for each."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

import aiosqlite

from aioupsert import create_or_update_many

T: Final = "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER NOT NULL, m DEFAULT 7)"
UNIFORM: Final[list[dict[str, Any]]] = [
    {"k": str(k), "n": n} for n, k in enumerate([3, 1, 2, 1, 5, 3, 3, 4, 10, 9, 9])
]


async def test_rows_are_written_once_where_another_table_has_been_made(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.db"
    async with aiosqlite.connect(path, isolation_level=None) as conn:
        await conn.execute(T)
        await create_or_update_many(conn, "t", UNIFORM, key="k")
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE another (n)")
        other.close()
        written: list[str] = []
        await conn.set_trace_callback(written.append)
        result = await create_or_update_many(conn, "t", UNIFORM, key="k")
        assert result.updated == len(UNIFORM)
        assert len([sql for sql in written if sql.startswith("INSERT")]) == len(UNIFORM)
