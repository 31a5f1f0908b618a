"""Rows of SQLite that are left out: the rest is stored as by a call for each row."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path
from typing import Any, Final

import aiosqlite
import pytest

from aioupsert import AioupsertError, Result, create_or_update, create_or_update_many
from tests.support.databases import SQLiteDatabase

PARENTS: Final = "CREATE TABLE parents (id INTEGER PRIMARY KEY);"
LOG: Final = "CREATE TABLE log (k, n, what);"
TABLES: Final[dict[str, str]] = {
    "constraints": (
        "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n < 5), m)"
    ),
    "FAIL, which keeps what the statement has done": (
        f"{LOG} CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER, m);"
        " CREATE TRIGGER one AFTER INSERT ON t BEGIN"
        " INSERT INTO log VALUES (new.k, new.n, 'i');"
        " SELECT RAISE(FAIL, 'no') WHERE new.n >= 5; END;"
        " CREATE TRIGGER two AFTER UPDATE ON t BEGIN"
        " INSERT INTO log VALUES (new.k, new.n, 'u');"
        " SELECT RAISE(FAIL, 'no') WHERE new.n IS NULL; END"
    ),
    "what only the insert refuses": (
        f"{LOG} CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER, m);"
        " CREATE TRIGGER one AFTER INSERT ON t BEGIN"
        " SELECT RAISE(ABORT, 'no') WHERE new.n >= 3; END;"
        " CREATE TRIGGER two AFTER UPDATE ON t WHEN new.n = 4 BEGIN"
        " INSERT INTO log VALUES (new.k, new.n, 'u'); END"
    ),
    "a reference": (
        f"{PARENTS} INSERT INTO parents VALUES (0), (1), (2), (3), (4);"
        " CREATE TABLE t (k TEXT PRIMARY KEY COLLATE NOCASE,"
        " n INTEGER REFERENCES parents, m); PRAGMA foreign_keys = on"
    ),
    "no rowid": (
        "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER NOT NULL CHECK (n < 5), m)"
        " WITHOUT ROWID"
    ),
    "a clause that keeps what the statement has done": (
        "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER NOT NULL ON CONFLICT FAIL, m"
        " CHECK (n < 5))"
    ),
    "another unique index": "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER UNIQUE, m)",
    "a rowid and unique indexes": (
        "CREATE TABLE t (n INTEGER PRIMARY KEY, k TEXT UNIQUE COLLATE NOCASE, m);"
        " CREATE UNIQUE INDEX x ON t (m % 7)"
    ),
    "another index that replaces": (
        "CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER UNIQUE ON CONFLICT REPLACE, m)"
    ),
    "an index on the key by another collation": (
        "CREATE TABLE t (k TEXT PRIMARY KEY COLLATE RTRIM, n INTEGER, m);"
        " CREATE UNIQUE INDEX x ON t (k COLLATE NOCASE)"
    ),
    "triggers that ignore rows": (
        f"{LOG} CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER, m);"
        " CREATE TRIGGER one BEFORE INSERT ON t WHEN new.n = 5 BEGIN"
        " INSERT INTO log VALUES (new.k, new.n, 'i'); SELECT RAISE(IGNORE); END;"
        " CREATE TRIGGER two BEFORE UPDATE ON t WHEN new.n >= 4 BEGIN"
        " INSERT INTO log VALUES (new.k, new.n, 'u'); SELECT RAISE(IGNORE); END"
    ),
    "a strict table": "CREATE TABLE t (k TEXT PRIMARY KEY, n INT NOT NULL, m ANY) STRICT",
}
CALLS: Final[list[dict[str, Any]]] = [{}, {"skip_unchanged": True}, {"update": ["m"]}]


def rows_of(seed: int) -> list[dict[str, Any]]:
    chosen = random.Random(seed)  # noqa: S311  # not a secret
    # Mostly good ones, or mostly bad ones.
    values = [0, 1, 2, 3, 4, *[5, None, "x"][: seed % 4], *[5] * (seed % 3) * 9]
    return [
        {"k": chosen.choice("abcdefgABCDEFG"), "n": chosen.choice(values), "m": number}
        for number in range(chosen.choice([2, 10, 60]))
    ]


async def one_by_one(
    conn: aiosqlite.Connection, rows: list[dict[str, Any]], options: dict[str, Any]
) -> tuple[list[str], list[tuple[int, str]]]:
    done: list[str] = []
    errors: list[tuple[int, str]] = []
    for index, row in enumerate(rows):
        try:
            result: Result[Any] = await create_or_update(
                conn, "t", row, key="k", **options
            )
        except (sqlite3.Error, AioupsertError) as exc:
            errors.append((index, str(exc)))
        else:
            done.append(result.action)
    return done, errors


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("options", CALLS, ids=str)
@pytest.mark.parametrize("name", TABLES)
async def test_the_others_are_stored_as_by_a_call_for_each(
    lite: SQLiteDatabase, tmp_path: Path, name: str, seed: int, options: dict[str, Any]
) -> None:
    rows = rows_of(seed)
    async with aiosqlite.connect(tmp_path / "other.db", isolation_level=None) as other:
        await other.executescript(TABLES[name])
        done, errors = await one_by_one(other, rows, options)
        contents = [await other.execute_fetchall(sql) for sql in tables(name)]
    await lite.handle.executescript(TABLES[name])
    result = await create_or_update_many(
        lite.handle, "t", rows, key="k", atomic=False, on_error="skip", **options
    )
    rejected = [(error.index, str(error.__cause__)) for error in result.rejected]
    assert rejected == errors
    assert [error.row for error in result.rejected] == [rows[n] for n, _ in errors]
    counts = {"created": result.created, "updated": result.updated}
    assert counts == {action: done.count(action) for action in counts}
    assert result.unchanged == done.count("unchanged")
    assert [await lite.query(sql) for sql in tables(name)] == [
        [tuple(row) for row in rows] for rows in contents
    ]


def tables(name: str) -> list[str]:
    logged = "log" in TABLES[name]
    rows = "SELECT rowid, * FROM t ORDER BY rowid"
    if "WITHOUT ROWID" in TABLES[name]:
        rows = "SELECT * FROM t ORDER BY k"
    return [rows, *["SELECT * FROM log"] * logged]


async def test_another_error_of_a_row_by_itself_is_not_taken_for_its_own(
    lite: SQLiteDatabase,
) -> None:
    answers = iter([0])

    def judge(n: int) -> int:
        if n != 5:
            return 1
        answer = next(answers, None)
        if answer is None:
            raise sqlite3.OperationalError
        return answer

    await lite.handle.create_function("judge", 1, judge)
    await lite.handle.execute(
        "CREATE TABLE t (k INTEGER PRIMARY KEY, n CHECK (judge(n)))"
    )
    result = await create_or_update_many(
        lite.handle,
        "t",
        [{"k": k, "n": k} for k in range(9)],
        key="k",
        atomic=False,
        on_error="skip",
    )
    assert result.created == 8
    (error,) = result.rejected
    assert error.index == 5
    assert isinstance(error.__cause__, sqlite3.OperationalError)
    assert await lite.query("SELECT k FROM t WHERE k = 5") == []
