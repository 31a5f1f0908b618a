"""Values of every kind in many rows, on the way that suits them."""

import json
import re
from typing import Any

import asyncpg
import pytest

from aioupsert import (
    BulkError,
    BulkResult,
    Excluded,
    F,
    coalesce,
    create_or_update_many,
    func,
    get_or_create_many,
)
from tests.support.databases import (
    CONNECTIONS,
    Database,
    PostgresDatabase,
    SQLiteDatabase,
)
from tests.support.servers import Server
from tests.support.tables import without_temporary_tables

engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)


@engines
@pytest.mark.parametrize("number", [2, 40, 5_200])
async def test_json_is_written_as_json(db: Database, number: int) -> None:
    kind = "TEXT" if isinstance(db, SQLiteDatabase) else "jsonb"
    await db.run(f"CREATE TABLE t (k integer PRIMARY KEY, a {kind})")
    values: list[Any] = [{"x": 1}, [1, "y"], None, {"z": None}]
    rows = [{"k": k, "a": values[k % 4]} for k in range(number)]
    for expected in (BulkResult(created=number), BulkResult(unchanged=number)):
        result = await create_or_update_many(
            db.handle, "t", rows, key="k", skip_unchanged=True
        )
        assert result == expected
    stored = await db.query("SELECT k, a FROM t WHERE k < 4 ORDER BY k")
    assert [text if text is None else json.loads(text) for _, text in stored] == values[
        :number
    ]


@engines
@pytest.mark.parametrize(
    "text",
    ["", "é", "\x1f", "a,b", "'\"\\", "{}", "NULL", None],
    ids=["empty", "accent", "separator", "comma", "quotes", "braces", "NULL", "None"],
)
async def test_many_texts_are_stored_as_they_are(
    db: Database, text: str | None
) -> None:
    await db.run("CREATE TABLE t (k varchar(30) PRIMARY KEY, s text)")
    rows = [
        {"k": f"k{n}{text if n % 2 else ''}", "s": text if n % 3 else f"s{n}"}
        for n in range(1_100)
    ]
    for expected in (BulkResult(created=1_100), BulkResult(updated=1_100)):
        assert await create_or_update_many(db.handle, "t", rows, key="k") == expected
    stored = await db.query("SELECT k, s FROM t")
    assert {*stored} == {(row["k"], row["s"]) for row in rows}
    found = await get_or_create_many(db.handle, "t", rows, key="k", returning="s")
    assert [result.row for result in found] == [{"s": row["s"]} for row in rows]


async def test_a_codec_for_text_is_used_for_many_rows_as_for_few(
    pg: PostgresDatabase,
) -> None:
    conn: Any = pg.handle
    await conn.set_type_codec(
        "text", schema="pg_catalog", encoder=str.upper, decoder=str, format="text"
    )
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY, s text)")
    for number in (900, 1_100):
        await pg.run("TRUNCATE t")
        rows = [{"k": k, "s": "ab"} for k in range(number)]
        await create_or_update_many(conn, "t", rows, key="k")
        assert await pg.query("SELECT DISTINCT s = 'ab' FROM t") == [(True,)]


async def test_a_value_that_is_no_text_is_refused_among_many(
    pg: PostgresDatabase,
) -> None:
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY, s text)")
    rows = [{"k": k, "s": 7 if k == 1_000 else "x"} for k in range(1_100)]
    with pytest.raises(BulkError) as caught:
        await create_or_update_many(pg.handle, "t", rows, key="k")
    assert caught.value.index == 1_000
    assert isinstance(caught.value.__cause__, asyncpg.DataError)
    assert await pg.query("SELECT count(*) FROM t") == [(0,)]


@engines
async def test_a_key_of_any_text_type_is_found_again(db: Database) -> None:
    await db.run("CREATE TABLE t (k varchar PRIMARY KEY, n integer)")
    rows = [{"k": f"k{n}", "n": n} for n in range(40)]
    for expected in (BulkResult(created=40), BulkResult(updated=40)):
        assert await create_or_update_many(db.handle, "t", rows, key="k") == expected


@engines
async def test_a_null_may_stand_in_an_expression(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    rows = [{"k": k, "n": k} for k in range(5)]
    update = {"n": coalesce(None, F("n") + Excluded("n"))}
    for _ in range(2):
        await create_or_update_many(db.handle, "t", rows, key="k", update=update)
    assert await db.query("SELECT n FROM t ORDER BY k") == [(2 * k,) for k in range(5)]


@engines
async def test_a_cell_may_be_any_function_of_the_database(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    rows = [{"k": k, "n": func("abs", -k)} for k in range(5)]
    for expected in (BulkResult(created=5), BulkResult(updated=5)):
        assert await create_or_update_many(db.handle, "t", rows, key="k") == expected
    assert await db.query("SELECT n FROM t ORDER BY k") == [(k,) for k in range(5)]


async def test_a_codec_that_writes_text_is_no_hindrance(pg: PostgresDatabase) -> None:
    # Binary COPY cannot take it, which shows when the rows are copied.
    conn: Any = pg.handle
    await conn.set_type_codec(
        "numeric", schema="pg_catalog", encoder=str, decoder=float, format="text"
    )
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY, n numeric)")
    rows = [{"k": k, "n": k / 2} for k in range(5_200)]
    for expected in (BulkResult(created=5_200), BulkResult(updated=5_200)):
        assert await create_or_update_many(conn, "t", rows, key="k") == expected
    assert await pg.query("SELECT sum(n) FROM t") == [
        (sum(k / 2 for k in range(5_200)),)
    ]


async def test_arrays_are_written_without_a_temporary_table_too(
    pg: PostgresDatabase, pg_server: Server
) -> None:
    table = "CREATE TABLE t (k integer PRIMARY KEY, a integer[])"
    async with without_temporary_tables(pg, pg_server, table) as conn:
        rows = [{"k": k, "a": [k]} for k in range(9)]
        for expected in (BulkResult(created=9), BulkResult(updated=9)):
            assert await create_or_update_many(conn, "t", rows, key="k") == expected


async def test_no_placeholder_of_sqlite_is_numbered(
    lite: SQLiteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    # Python 3.12 warns of each that is.
    await lite.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    rows = [{"k": k, "n": k} for k in range(9)]
    for options in ({}, {"skip_unchanged": True}, {"update": {"n": F("n") + 1}}):
        with caplog.at_level("DEBUG", logger="aioupsert"):
            await create_or_update_many(lite.handle, "t", rows, key="k", **options)
    assert "INSERT INTO" in caplog.text
    assert not re.search(r"\?\d", caplog.text)


@engines
async def test_a_table_may_be_called_excluded(db: Database) -> None:
    columns = "(k integer PRIMARY KEY, excluded integer, n text)"
    for table in ("excluded", "EXCLUDED", "t"):
        await db.run(
            f'DROP TABLE IF EXISTS "{table}"; CREATE TABLE "{table}" {columns}'
        )
        for turn in range(2):
            rows = [{"k": k, "excluded": k + turn, "n": f"{turn}"} for k in range(5)]
            result = await create_or_update_many(
                db.handle, (table,), rows, key="k", skip_unchanged=True
            )
            assert result == (BulkResult(updated=5) if turn else BulkResult(created=5))
        assert await db.query(f'SELECT k, excluded, n FROM "{table}" ORDER BY k') == [
            (k, k + 1, "1") for k in range(5)
        ]
