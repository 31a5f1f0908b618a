"""Many rows on SQLite are written once, and counted as by a call for each."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

import aiosqlite
import pytest

from aioupsert import (
    BulkError,
    NotAppliedError,
    create_or_update_many,
)

T: Final = "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER NOT NULL, m DEFAULT 7)"
LOG: Final = "CREATE TABLE log (k, what);"
UNIFORM: Final[list[dict[str, Any]]] = [
    {"k": str(k), "n": n} for n, k in enumerate([3, 1, 2, 1, 5, 3, 3, 4, 10, 9, 9])
]


@pytest.mark.parametrize(
    "clause", ["ON CONFLICT IGNORE", "on /* a\nremark */ conflict -- \n ignore"]
)
async def test_a_row_that_a_clause_ignores_is_not_counted(clause: str) -> None:
    rows = [{"k": "a", "n": 1}, {"k": "b", "n": None}, {"k": "a", "n": 2}]
    async with aiosqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.execute(f"CREATE TABLE t (k TEXT PRIMARY KEY, n NOT NULL {clause})")
        with pytest.raises(BulkError) as caught:
            await create_or_update_many(conn, "t", rows, key="k")
        assert isinstance(caught.value.__cause__, NotAppliedError)
        assert caught.value.index == 1
        result = await create_or_update_many(
            conn, "t", rows, key="k", atomic=False, on_error="skip"
        )
        assert (result.created, result.updated) == (1, 1)
        assert [error.index for error in result.rejected] == [1]


@pytest.mark.parametrize("name", ["t", "main.t"])
async def test_a_temporary_trigger_is_noticed(name: str) -> None:
    async with aiosqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.executescript(f"{LOG} {T}")
        await create_or_update_many(conn, name, UNIFORM[:2], key="k")
        await conn.execute(
            "CREATE TEMP TRIGGER x BEFORE INSERT ON main.t BEGIN"
            " INSERT INTO log VALUES (new.k, 'i'); END"
        )
        await create_or_update_many(conn, name, UNIFORM, key="k")
        rows = await conn.execute_fetchall("SELECT k FROM log")
        assert [k for (k,) in rows] == ["2", "5", "4", "10", "9"]


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
