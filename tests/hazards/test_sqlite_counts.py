"""Many rows on SQLite are written once, and counted as by a call for each."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any, Final

import aiosqlite
import pytest

from aioupsert import (
    BulkError,
    NotAppliedError,
    create_or_update,
    create_or_update_many,
)
from aioupsert._engines.sqlite import bulk_steps

LAST: Final = 2**63 - 1
T: Final = "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER NOT NULL, m DEFAULT 7)"
LOG: Final = "CREATE TABLE log (k, what);"
TABLES: Final[dict[str, str]] = {
    "by rowid": T,
    "a rowid of its own": "CREATE TABLE t (k TEXT UNIQUE, n, m, id INTEGER PRIMARY KEY)",
    "keys that are rowids": "CREATE TABLE t (k INTEGER PRIMARY KEY, n, m)",
    "AUTOINCREMENT": (
        "CREATE TABLE t (k TEXT UNIQUE, n, m, id INTEGER PRIMARY KEY AUTOINCREMENT)"
    ),
    "WITHOUT ROWID": f"{T} WITHOUT ROWID",
    "a column that is called rowid": (
        "CREATE TABLE t (k TEXT PRIMARY KEY, n, m, rowid INTEGER DEFAULT 3)"
    ),
    "the rowid before the last": (
        f"{T}; INSERT INTO t (rowid, k, n) VALUES ({LAST} - 1, '0', 0)"
    ),
    "the last rowid": f"{T}; INSERT INTO t (rowid, k, n) VALUES ({LAST}, '0', 0)",
    "negative rowids": f"{T}; INSERT INTO t (rowid, k, n) VALUES (-9, '0', 0)",
    "a trigger that deletes": (
        f"{T}; CREATE TRIGGER x AFTER INSERT ON t BEGIN"
        " DELETE FROM t WHERE k = '1' AND new.k <> '1'; END"
    ),
    "a trigger after each update": (
        f"{LOG} {T}; CREATE TRIGGER x AFTER UPDATE ON t BEGIN"
        " INSERT INTO log VALUES (new.k, 'u'); SELECT RAISE(IGNORE); END"
    ),
    "a trigger before each update": (
        f"{LOG} {T}; CREATE TRIGGER x BEFORE UPDATE ON t BEGIN"
        " INSERT INTO log VALUES (new.k, 'u'); END"
    ),
    "a trigger that creates": (
        f"{T}; CREATE TRIGGER x AFTER UPDATE ON t WHEN new.n = 2 BEGIN"
        " INSERT INTO t (k, n) VALUES (new.k || '+', 9) ON CONFLICT DO NOTHING; END"
    ),
    "a temporary trigger that creates": (
        f"{T}; CREATE TEMP TRIGGER x AFTER UPDATE ON main.t WHEN new.n = 2 BEGIN"
        " INSERT OR IGNORE INTO t (k, n) VALUES (new.k || '+', 9); END"
    ),
    "a temporary trigger before each insert": (
        f"{LOG} {T}; CREATE TEMP TRIGGER x BEFORE INSERT ON main.t BEGIN"
        " INSERT INTO log VALUES (new.k, 'i'); END"
    ),
    "REPLACE": (
        "CREATE TABLE t (k TEXT PRIMARY KEY, n, m, u DEFAULT 1 UNIQUE ON CONFLICT REPLACE)"
    ),
    "a word that is no clause": f"{T[:-1]}, conflict, ignore)",
    "several rows of a key": (
        "CREATE TABLE t (k TEXT, n, m DEFAULT 7);"
        " INSERT INTO t (k, n) VALUES ('1', 5), ('3', 0), ('1', 6), ('2', 1), ('2', 1)"
    ),
}
CALLS: Final[list[dict[str, Any]]] = [{}, {"skip_unchanged": True}]
UNIFORM: Final[list[dict[str, Any]]] = [
    {"k": str(k), "n": n} for n, k in enumerate([3, 1, 2, 1, 5, 3, 3, 4, 10, 9, 9])
]
LAYOUTS: Final = {
    "uniform": UNIFORM,
    "alternating": [row | {"m": 1} if row["n"] % 2 else row for row in UNIFORM],
}


async def contents(conn: aiosqlite.Connection) -> list[set[tuple[Any, ...]]]:
    found: list[set[tuple[Any, ...]]] = []
    for (name,) in await conn.execute_fetchall(
        "SELECT name FROM sqlite_master WHERE name IN ('t', 'log') ORDER BY name"
    ):
        rows = await conn.execute_fetchall(f"SELECT * FROM {name}")
        found.append({tuple(row) for row in rows})
    return found


@pytest.mark.parametrize("transaction", ["own", "caller's", "caller's, of many rows"])
@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("options", CALLS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("table", TABLES)
async def test_they_are_as_many_as_by_single_calls(  # noqa: PLR0917  # pytest passes them by name
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    layout: str,
    options: dict[str, Any],
    size: int | None,
    transaction: str,
) -> None:
    rows = LAYOUTS[layout]
    inside = transaction != "own"
    if transaction == "caller's, of many rows":
        monkeypatch.setattr(bulk_steps, "WORTH_A_LOCK", 2)
    if "k INTEGER" in TABLES[table]:
        rows = [row | {"k": int(row["k"])} for row in rows]
    async with (
        aiosqlite.connect(tmp_path / "one.db", isolation_level=None) as one,
        aiosqlite.connect(tmp_path / "many.db", isolation_level=None) as many,
    ):
        for conn in (one, many):
            await conn.executescript(TABLES[table])
        if inside:
            await many.execute("BEGIN")
        for some in (rows[:6], rows):
            actions: Counter[str] = Counter()
            for row in some:
                result = await create_or_update(
                    one, "t", row, key="k", without_unique_index="allow", **options
                )
                actions[result.action] += 1
            counts = await create_or_update_many(
                many,
                "t",
                some,
                key="k",
                batch_size=size,
                without_unique_index="allow",
                **options,
            )
            assert counts.created == actions["created"]
            assert counts.updated == actions["updated"]
            assert counts.unchanged == actions["unchanged"]
        if inside:
            await many.execute("COMMIT")
        assert await contents(many) == await contents(one)


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


async def test_an_update_uses_up_no_number_that_its_row_brings() -> None:
    rows = [{"k": k, "n": n, "id": n} for n, k in enumerate("abcab", start=1)]
    async with aiosqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.execute(TABLES["AUTOINCREMENT"])
        result = await create_or_update_many(conn, "t", rows, key="k")
        assert (result.created, result.updated) == (3, 2)
        assert [*await conn.execute_fetchall("SELECT seq FROM sqlite_sequence")] == [
            (3,)
        ]


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


@pytest.mark.parametrize("many", [1, 10])
async def test_a_transaction_of_the_callers_waits_for_another_writer(
    tmp_path: Path, many: int
) -> None:
    rows = [{"k": f"{n}", "n": n} for n in range(11 * many)]
    path = tmp_path / "t.db"
    async with (
        aiosqlite.connect(path, isolation_level=None) as conn,
        aiosqlite.connect(path, isolation_level=None) as other,
    ):
        await conn.execute("PRAGMA journal_mode = WAL")
        await conn.execute(T)
        await create_or_update_many(conn, "t", rows[:2], key="k")
        await other.execute("BEGIN IMMEDIATE")
        await other.execute("INSERT INTO t (k, n) VALUES ('other', 0)")
        await conn.execute("BEGIN")
        call = asyncio.create_task(create_or_update_many(conn, "t", rows, key="k"))
        await asyncio.sleep(0.1)
        await other.execute("COMMIT")
        result = await call
        assert (result.created, result.updated) == (len(rows) - 2, 2)
        await conn.execute("COMMIT")
