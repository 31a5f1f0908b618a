"""Values of every storage class in columns of every affinity, as values and as keys."""

import decimal
import math
import sqlite3
import uuid
from contextlib import closing
from typing import Any

import aiosqlite
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioupsert import F, UsageError, create_or_update, get_or_create
from aioupsert._engines.sqlite.values import convert_text
from aioupsert._plan.schema import Column, Storage
from tests.support.databases import SQLiteDatabase

AFFINITIES = ("INTEGER", "TEXT", "BLOB", "REAL", "NUMERIC", "")
VALUES: list[Any] = [
    *(0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), True, False),
    *(0.0, -0.0, 1.0, 1.5, 1e300, 2.0**63, math.inf, -math.inf),
    *("", "a", "5", "05", " 5", "5.0", "1e3", "a\0b", "ünï ☃ 𝄞", "NULL", "x'00'"),
    *(b"", b"\0\xff", b"5"),
]
# Keys that the column would turn into another value than was given.
NUMBER_TEXTS = ["5", "05", " 5", "5.0", "1e3"]
NUMBERS = [value for value in VALUES if isinstance(value, (int, float))]
REFUSED: dict[str, list[Any]] = {
    "INTEGER": NUMBER_TEXTS,
    "NUMERIC": NUMBER_TEXTS,
    "REAL": [*NUMBER_TEXTS, 2**53 + 1, 2**63 - 1],
    "TEXT": NUMBERS,
    "BLOB": [],
    "": [],
}


@pytest.fixture
def conn(lite: SQLiteDatabase) -> aiosqlite.Connection:
    handle: aiosqlite.Connection = lite.handle
    return handle


async def rows_of(conn: aiosqlite.Connection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await conn.execute_fetchall(sql)]


@pytest.mark.parametrize("affinity", AFFINITIES)
async def test_a_value_is_stored_as_the_driver_itself_stores_it(
    conn: aiosqlite.Connection, affinity: str
) -> None:
    for table in ("t", "plain"):
        await conn.execute(
            f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, v {affinity})"
        )
    values = [*VALUES, None, math.nan]
    for number, value in enumerate(values):
        for id_ in (number, number, -number):
            await create_or_update(conn, "t", key={"id": id_}, defaults={"v": value})
            sql = "INSERT OR REPLACE INTO plain VALUES (?, ?)"
            await conn.execute(sql, (id_, value))
    stored = "SELECT id, v, typeof(v) FROM {} ORDER BY id"
    assert await rows_of(conn, stored.format("t")) == await rows_of(
        conn, stored.format("plain")
    )


@pytest.mark.parametrize("affinity", AFFINITIES)
async def test_a_key_finds_its_row_again_or_is_refused(
    conn: aiosqlite.Connection, affinity: str
) -> None:
    await conn.execute(f"CREATE TABLE t (k {affinity} UNIQUE, hits INTEGER DEFAULT 0)")
    refused = []
    for value in VALUES:
        await conn.execute("DELETE FROM t")
        key = {"k": value}
        hit = {"hits": F("hits") + 1}
        try:
            created = await create_or_update(conn, "t", key=key, defaults=hit)
        except UsageError:
            refused.append(value)
            continue
        updated = await create_or_update(
            conn, "t", key=key, defaults=hit, returning=["k", "hits"]
        )
        assert (created.created, updated.created) == (True, False), value
        assert updated.row == {"k": value, "hits": 2}
    assert refused == [v for v in VALUES if v in REFUSED[affinity]]


@pytest.mark.parametrize("affinity", AFFINITIES)
async def test_nan_is_no_key(conn: aiosqlite.Connection, affinity: str) -> None:
    await conn.execute(f"CREATE TABLE t (k {affinity} UNIQUE)")
    with pytest.raises(UsageError, match="key"):
        await create_or_update(conn, "t", key={"k": math.nan})
    assert await rows_of(conn, "SELECT * FROM t") == []


@pytest.mark.parametrize("affinity", ["INTEGER", "NUMERIC", "REAL"])
@pytest.mark.parametrize("text", ["abc", "1_000", "\u0665", "nan", "0x10", "5 apples"])
async def test_a_text_that_stays_text_is_a_key_of_a_numeric_column(
    conn: aiosqlite.Connection, affinity: str, text: str
) -> None:
    await conn.execute(f"CREATE TABLE t (k {affinity} UNIQUE)")
    await conn.execute("INSERT INTO t VALUES (?)", (text,))
    # As a plain statement of the driver shows.
    assert await rows_of(conn, "SELECT k, typeof(k) FROM t") == [(text, "text")]
    assert not (await create_or_update(conn, "t", key={"k": text})).created


async def test_any_column_of_a_strict_table_keeps_a_text_as_it_is(
    conn: aiosqlite.Connection,
) -> None:
    await conn.execute("CREATE TABLE t (k ANY PRIMARY KEY) STRICT")
    created = [
        (await create_or_update(conn, "t", key={"k": key})).created
        for key in ("05", 5, "5", "05")
    ]
    assert created == [True, True, True, False]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, None, True], "ü": "☃"}, '{"a":[1,null,true],"ü":"☃"}'),
        ([], "[]"),
        ([1, "x", {}], '[1,"x",{}]'),
    ],
)
@pytest.mark.parametrize("declared", ["JSON", "TEXT", ""])
async def test_dicts_and_lists_are_stored_as_json(
    conn: aiosqlite.Connection, value: Any, text: str, declared: str
) -> None:
    await conn.execute(f"CREATE TABLE t (k TEXT PRIMARY KEY, v {declared})")
    for _ in range(2):
        result = await create_or_update(
            conn, "t", key={"k": "a"}, defaults={"v": value}, returning="v"
        )
        assert result.row == {"v": text}


BAD: dict[str, tuple[Any, type[Exception]]] = {
    "object": (object(), sqlite3.ProgrammingError),
    "set": ({1}, sqlite3.ProgrammingError),
    "Decimal": (decimal.Decimal("1.5"), sqlite3.ProgrammingError),
    "UUID": (uuid.UUID(int=1), sqlite3.ProgrammingError),
    "2**63": (2**63, OverflowError),
    "-2**63-1": (-(2**63) - 1, OverflowError),
    "lone surrogate": ("\ud800", UnicodeEncodeError),
}


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("place", ["key", "defaults", "create_defaults"])
@pytest.mark.parametrize(("value", "error"), BAD.values(), ids=BAD)
async def test_a_value_the_driver_refuses_is_its_error_and_is_undone(
    conn: aiosqlite.Connection,
    lite: SQLiteDatabase,
    *,
    value: Any,
    error: type[Exception],
    place: str,
    inside: bool,
) -> None:
    await conn.execute("CREATE TABLE t (k PRIMARY KEY, v)")
    if inside:
        await conn.execute("BEGIN")
        await create_or_update(conn, "t", key={"k": "caller's"})
    wrong: dict[str, Any] = {"key": {"k": "bad"}, "defaults": {"v": 1}}
    wrong[place] = {**wrong.get(place, {}), ("k" if place == "key" else "v"): value}
    with pytest.raises(error):
        await create_or_update(conn, "t", **wrong)
    assert conn.in_transaction == inside
    assert (await create_or_update(conn, "t", key={"k": "next"})).created
    if inside:
        await conn.execute("COMMIT")
    kept = ["caller's", "next"] if inside else ["next"]
    assert await lite.query("SELECT k FROM t ORDER BY k") == [(k,) for k in kept]


@pytest.mark.parametrize("big", ["ü" * 500_000, b"\0" * 1_000_000])
async def test_a_large_row(conn: aiosqlite.Connection, big: Any) -> None:
    await conn.execute("CREATE TABLE t (k TEXT PRIMARY KEY, v)")
    for created in (True, False):
        result = await create_or_update(
            conn, "t", key={"k": "a"}, defaults={"v": big}, returning="*"
        )
        assert tuple(result) == ({"k": "a", "v": big}, created)
    there = await get_or_create(conn, "t", key={"k": "a"})
    assert there.row == {"k": "a", "v": big}


# --- Text -----------------------------------------------------------------------------

NUMBERS_AS_TEXT = (
    st.integers(-(2**64), 2**64).map(str)
    | st.decimals(-1_000, 1_000, places=2).map(str)
    | st.from_regex(r"[ +-]?[0-9]{0,3}[.]?[0-9]{0,3}([eE][+-]?[0-9]{1,2})?[ \n]?")
)
TEXTS = st.one_of(
    st.lists(NUMBERS_AS_TEXT),
    # One among others that is none, or none that Python's own conversions refuse.
    st.lists(
        NUMBERS_AS_TEXT
        | st.sampled_from(["1,2", "1_0", "1:0", "٣", "nan", "-inf", "null", "[1]", ""])
        | st.sampled_from([None, 7, 2.5, b"1", True])
    ),
)


@given(
    cells=TEXTS,
    affinity=st.sampled_from(["INTEGER", "REAL", "NUMERIC", "DATETIME", "TEXT", ""]),
)
def test_a_column_of_text_is_converted_as_sqlite_converts_each(
    cells: list[Any], affinity: str
) -> None:
    storages: dict[str, Storage] = {
        "REAL": "sqlite real",
        "TEXT": "sqlite text",
        "": "sqlite blob",
    }
    storage = storages.get(affinity, "sqlite number")
    column = Column("v", "", "", "number", storage)
    converted = convert_text(column, cells)
    assert len(converted) == len(cells)
    with closing(sqlite3.connect(":memory:")) as connection:
        stored = f"CREATE TABLE {{}} (id INTEGER PRIMARY KEY, v {affinity})"
        for table, values in {"t": converted, "plain": cells}.items():
            connection.execute(stored.format(table))
            connection.executemany(
                f"INSERT INTO {table} VALUES (?, ?)", enumerate(values)
            )
        query = "SELECT v, typeof(v) FROM {} ORDER BY id"
        assert connection.execute(query.format("t")).fetchall() == (
            connection.execute(query.format("plain")).fetchall()
        )
    is_number = storage in {"sqlite number", "sqlite real"}
    for cell, value in zip(cells, converted, strict=True):
        # No number is left as text, which expressions would not take for one.
        assert type(value) is type(cell) or (is_number and isinstance(cell, str))


def test_words_and_numbers_of_a_column_of_booleans() -> None:
    column = Column("v", "", "", "boolean", "sqlite number")
    cells = ["true", "1", " 0 ", "no", "maybe", None, False]
    assert convert_text(column, cells) == [1, 1, 0, 0, "maybe", None, False]
