"""Text for columns that hold no text, as CSV files have it."""

import datetime as dt
import sqlite3
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest

from aioupsert import (
    BulkError,
    BulkResult,
    Excluded,
    F,
    create_or_update_many,
    iter_create_or_update,
)
from tests.support.databases import CONNECTIONS, Database, PostgresDatabase

engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)
numbers = pytest.mark.parametrize("number", [1, 2, 20, 6_000])


async def load(db: Database, rows: Any, **options: Any) -> BulkResult:
    return await create_or_update_many(
        db.handle, "t", rows, key="k", convert_text=True, **options
    )


# --- What a text becomes ----------------------------------------------------------------

TEXTS: Final[dict[str, list[tuple[str, Any]]]] = {
    "integer": [("12", 12), (" -7 ", -7), ("0", 0), ("+3", 3)],
    "bigint": [("9223372036854775807", 2**63 - 1)],
    "double precision": [("1.5", 1.5), ("1e3", 1000.0), ("-0.25", -0.25)],
    "numeric": [("12.50", Decimal("12.50")), ("1e2", Decimal(100))],
    "numeric(6,2)": [("12.345", Decimal("12.35"))],
    "boolean": [("true", True), ("f", False), ("yes", True), ("0", False), ("1", True)],
    "date": [("2024-01-02", dt.date(2024, 1, 2)), ("epoch", dt.date(1970, 1, 1))],
    "time": [("12:34", dt.time(12, 34))],
    "timestamp": [("2024-01-02 03:04:05", dt.datetime(2024, 1, 2, 3, 4, 5))],  # noqa: DTZ001  # the column has no zone
    "timestamptz": [
        ("2024-01-02T03:04:05+02", dt.datetime(2024, 1, 2, 1, 4, 5, tzinfo=dt.UTC))
    ],
    "interval": [("1 day 02:00", dt.timedelta(days=1, hours=2))],
    "uuid": [("{" + "1" * 32 + "}", UUID("1" * 32))],
    "jsonb": [('{"a": [1, null]}', '{"a": [1, null]}'), ("null", "null")],
    "bytea": [("\\x00ff", b"\x00\xff")],
    "integer[]": [("{1,NULL,3}", [1, None, 3])],
    "mood": [("sad", "sad")],
    "pair": [('(1,"x y")', (1, "x y"))],
    "int4range": [("[1,5)", asyncpg.Range(1, 5))],
    "whole": [("5", 5)],
    "text": [("12", "12"), (" x ", " x "), ("", "")],
    "varchar(3)": [("12", "12")],
    "char(3)": [("12", "12 ")],
}


@numbers
@pytest.mark.parametrize("kind", TEXTS)
async def test_on_postgresql_a_text_is_what_a_literal_would_be(
    pg: PostgresDatabase, kind: str, number: int
) -> None:
    await pg.run(
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);"
        " CREATE DOMAIN whole AS int;"
        f" CREATE TABLE t (k int PRIMARY KEY, v {kind}, n int)"
    )
    texts = [text for text, _ in TEXTS[kind]]
    values = [value for _, value in TEXTS[kind]]
    rows = [
        {"k": str(n), "v": texts[n % len(texts)] if n % 5 < 4 else None, "n": n}
        for n in range(number)
    ]
    for expected in (BulkResult(created=number), BulkResult(unchanged=number)):
        assert await load(pg, rows, skip_unchanged=True) == expected
    assert await pg.query("SELECT * FROM t ORDER BY k") == [
        (n, values[n % len(values)] if n % 5 < 4 else None, n) for n in range(number)
    ]


# The declared type, and what SQLite stores: by affinity, as sqlite3's shell imports.
AFFINITIES: Final[dict[str, list[tuple[str, Any]]]] = {
    "INTEGER": [("12", 12), (" -7 ", -7), ("1.5", 1.5), ("x", "x"), ("1e2", 100)],
    "REAL": [("12", 12.0), ("1.5", 1.5), ("x", "x")],
    "NUMERIC": [("12", 12), ("1.5", 1.5), ("", "")],
    "DATE": [("2024-01-02", "2024-01-02"), ("20240102", 20240102)],
    "TEXT": [("12", "12"), ("1.50", "1.50")],
    "VARCHAR(9)": [("012", "012")],
    "BLOB": [("12", "12")],
    "": [("12", "12")],
    "BOOLEAN": [("true", 1), ("f", 0), ("1", 1), ("maybe", "maybe")],
}


@pytest.mark.parametrize("number", [1, 20])
@pytest.mark.parametrize("kind", AFFINITIES)
async def test_on_sqlite_a_text_is_what_the_affinity_makes_of_it(
    lite: Database, kind: str, number: int
) -> None:
    await lite.run(f"CREATE TABLE t (k INTEGER PRIMARY KEY, v {kind})")
    texts = [text for text, _ in AFFINITIES[kind]]
    values = [value for _, value in AFFINITIES[kind]]
    rows = [{"k": str(n), "v": texts[n % len(texts)]} for n in range(number)]
    for expected in (BulkResult(created=number), BulkResult(unchanged=number)):
        assert await load(lite, rows, skip_unchanged=True) == expected
    expected_rows = [(n, values[n % len(values)]) for n in range(number)]
    stored = await lite.query("SELECT * FROM t ORDER BY k")
    assert stored == expected_rows
    assert [type(v) for _, v in stored] == [type(v) for _, v in expected_rows]


@engines
async def test_texts_and_values_may_be_mixed(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, a integer)")
    rows = [{"k": 1, "a": "1"}, {"k": "2", "a": 2}, {"k": "1", "a": None}]
    rows += [{"k": 2, "a": "4"}, {"k": "3", "a": F("a")}]
    assert await load(db, rows) == BulkResult(created=3, updated=2)
    assert await db.query("SELECT k, a FROM t ORDER BY k") == [
        (1, None),
        (2, 4),
        (3, None),
    ]


@engines
@numbers
async def test_keys_that_are_one_number_are_one_row(db: Database, number: int) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, a integer)")
    rows = [
        {"k": text, "a": "1"}
        for n in range(number)
        for text in (str(n), f"0{n}", f" {n}")
    ]
    result = await load(db, rows, update={"a": F("a") + Excluded("a")})
    assert result == BulkResult(created=number, updated=2 * number)
    assert await db.query("SELECT count(*), min(a), max(a) FROM t") == [(number, 3, 3)]


@engines
@numbers
async def test_an_expression_takes_the_converted_value(
    db: Database, number: int
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, a integer)")
    await db.run("INSERT INTO t VALUES (0, 5)")
    rows = [{"k": str(n), "a": "12"} for n in range(number)]
    result = await load(
        db,
        rows,
        update={"a": F("a") + Excluded("a")},
        where=Excluded("a") > F("a"),
    )
    assert result == BulkResult(created=number - 1, updated=1)
    assert await db.query("SELECT a FROM t WHERE k = 0") == [(17,)]


@engines
async def test_columns_of_text_are_left_as_they_are(db: Database) -> None:
    await db.run("CREATE TABLE t (k text PRIMARY KEY, a text)")
    rows = [{"k": "01", "a": "1.50"}, {"k": "1", "a": " 2024-01-02 "}]
    assert await load(db, rows) == BulkResult(created=2)
    assert await db.query("SELECT k, a FROM t ORDER BY k") == [
        ("01", "1.50"),
        ("1", " 2024-01-02 "),
    ]


@numbers
async def test_on_postgresql_a_text_that_does_not_fit_names_its_row(
    pg: PostgresDatabase, number: int
) -> None:
    await pg.run("CREATE TABLE t (k int PRIMARY KEY, v date)")
    rows = [{"k": str(n), "v": "2024-01-02"} for n in range(number)]
    rows[number // 2]["v"] = "2024-13-02"
    with pytest.raises(BulkError, match="2024-13-02") as caught:
        await load(pg, rows)
    assert caught.value.index == number // 2
    assert isinstance(caught.value.__cause__, asyncpg.DataError)
    assert await pg.query("SELECT * FROM t") == []


async def test_on_sqlite_a_text_that_does_not_fit_a_key_names_its_row(
    lite: Database,
) -> None:
    await lite.run("CREATE TABLE t (k INTEGER PRIMARY KEY, v DATE)")
    with pytest.raises(BulkError) as caught:
        await load(lite, [{"k": "1"}, {"k": "x"}])
    assert caught.value.index == 1
    assert isinstance(caught.value.__cause__, sqlite3.IntegrityError)
    assert await lite.query("SELECT * FROM t") == []


@numbers
async def test_without_it_postgresql_takes_no_text_for_a_number(
    pg: PostgresDatabase, number: int
) -> None:
    await pg.run("CREATE TABLE t (k int PRIMARY KEY, v int)")
    rows = [{"k": n, "v": str(n)} for n in range(number)]
    with pytest.raises(BulkError) as caught:
        await create_or_update_many(pg.handle, "t", rows, key="k")
    assert caught.value.index == 0
    assert isinstance(caught.value.__cause__, asyncpg.DataError)


@engines
async def test_results_in_turn_have_the_converted_values(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, a integer)")
    rows = [{"k": "1", "a": "10"}, {"k": "01", "a": "20"}]
    results = [
        result.row
        async for result in iter_create_or_update(
            db.handle, "t", rows, key="k", convert_text=True, returning="*"
        )
    ]
    assert results == [{"k": 1, "a": 10}, {"k": 1, "a": 20}]
