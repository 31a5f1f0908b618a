"""
Which rows are the same is decided by the database, whatever the number of rows.

Single calls are the oracle: the same rows in bulk, shuffled, spelt in several ways and
repeated, must leave what they leave, with the same numbers in a serial column, and
report for each row what they report.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import uuid
import zoneinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from aioupsert import (
    Action,
    Coalescer,
    create_or_update,
    create_or_update_many,
    iter_create_or_update,
)

if TYPE_CHECKING:
    from tests.support.databases import Database, PostgresDatabase, SQLiteDatabase

SIZES: Final = (1, 2, 3, 20)


class Column(NamedTuple):
    """The type of a key, and values, some of which it takes for the same."""

    type: str
    values: list[Any]
    before: str = ""
    after: str = ""


DAY: Final = dt.datetime(2024, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
EAST: Final = dt.timezone(dt.timedelta(hours=5))
BERLIN: Final = zoneinfo.ZoneInfo("Europe/Berlin")
CI: Final = (
    "CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2',"
    " deterministic = false)"
)
ACCENTS: Final = (
    "CREATE COLLATION plain (provider = icu, locale = 'und-u-ks-level1-kc-true',"
    " deterministic = false)"
)
WORDS: Final = ["a", "A", "b", "B", "Ä", "ä", "a ", "c"]
POSTGRESQL: Final = {
    "smallint": Column("smallint", [1, 2, 0, -1]),
    "integer": Column("integer", [1, True, 2, 0, False, -1]),
    "bigint": Column("bigint", [1, 2**40, -(2**40), 0]),
    "numeric": Column("numeric", [Decimal(1), Decimal("1.0"), 1, Decimal("1.01"), 2]),
    "numeric(10,2)": Column(
        "numeric(10,2)",
        [Decimal(1), Decimal("1.001"), Decimal("0.995"), Decimal("1.01"), 1],
    ),
    "real": Column("real", [16777216.0, 16777217.0, 0.0, -0.0, 0.1]),
    "double precision": Column("double precision", [0.0, -0.0, 0.1, 1.0]),
    "boolean": Column("boolean", [True, False]),
    "text": Column("text", WORDS),
    'text "C"': Column('text COLLATE "C"', WORDS),
    "text ci": Column("text COLLATE ci", WORDS, CI),
    "text without accents": Column("text COLLATE plain", WORDS, ACCENTS),
    "varchar(5)": Column("varchar(5)", WORDS),
    "varchar(5) ci": Column("varchar(5) COLLATE ci", WORDS, CI),
    "char(3)": Column("char(3)", WORDS),
    "char(3) ci": Column("char(3) COLLATE ci", WORDS, CI),
    "citext": Column("citext", WORDS, "CREATE EXTENSION IF NOT EXISTS citext"),
    "domain ci": Column("word", WORDS, f"{CI}; CREATE DOMAIN word AS text COLLATE ci"),
    "index ci": Column(
        "text", ["a", "b", "c"], CI, "CREATE UNIQUE INDEX ON {} (k COLLATE ci)"
    ),
    "uuid": Column("uuid", [uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3)]),
    "date": Column("date", [DAY.date(), dt.date(2024, 1, 3)]),
    "time(0)": Column("time(0)", [dt.time(1), dt.time(1, 0, 0, 400_000), dt.time(2)]),
    "timestamp(0)": Column(
        "timestamp(0)",
        [DAY.replace(tzinfo=None, microsecond=n) for n in (0, 400_000, 600_000)],
    ),
    "timestamptz": Column(
        "timestamptz", [DAY, DAY.astimezone(EAST), DAY + dt.timedelta(microseconds=1)]
    ),
    "timestamptz in Berlin": Column(
        "timestamptz",
        [
            dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
            dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=BERLIN),
            dt.datetime(2024, 10, 27, 1, 30, tzinfo=dt.UTC),
            dt.datetime(2024, 3, 31, 2, 30, tzinfo=BERLIN),
            dt.datetime(2024, 3, 31, 3, 30, tzinfo=BERLIN),
        ],
    ),
    "timestamptz(0)": Column(
        "timestamptz(0)", [DAY, DAY.replace(microsecond=400_000), DAY.astimezone(EAST)]
    ),
    "interval": Column("interval", [dt.timedelta(days=1), dt.timedelta(hours=24)]),
    "bytea": Column("bytea", [b"a", b"A", b""]),
    "inet": Column("inet", ["10.0.0.1", "10.0.0.2"]),
    "integer[]": Column("integer[]", [[1, 2], [2, 1], [1]]),
    "enum": Column("mood", ["b", "a"], "CREATE TYPE mood AS ENUM ('b', 'a')"),
    "inheritance": Column(
        "text",
        ["a", "b", "c", "d"],
        after="CREATE TABLE {0}_child () INHERITS ({0});"
        " INSERT INTO {0}_child (k, v) VALUES ('b', 1), ('d', 1)",
    ),
}
SQLITE: Final = {
    "integer": Column("integer", [1, True, 2, 0, 1.0]),
    "real": Column("real", [1, 1.0, 2.5, True]),
    "numeric": Column("numeric", [1, 1.0, 2.5, "x"]),
    "text": Column("text", WORDS),
    "nocase": Column("text COLLATE NOCASE", WORDS),
    "rtrim": Column("text COLLATE RTRIM", WORDS),
    "blob": Column("blob", [b"a", b"A", "a", 1]),
    "any": Column("", ["a", "A", 1, 1.0, b"a"]),
    "index binary": Column(
        "text COLLATE NOCASE",
        WORDS,
        after="CREATE UNIQUE INDEX {0}_b ON {0} (k COLLATE BINARY)",
    ),
    "index nocase": Column(
        "text",
        ["a", "b", "c"],
        after="CREATE UNIQUE INDEX {0}_n ON {0} (k COLLATE NOCASE)",
    ),
}


async def make(db: Database, column: Column, numbered: str) -> None:
    """Create two tables, one for single calls and one for bulk."""
    for sql in filter(None, column.before.split(";")):
        await db.run(sql)
    for table in ("single", "many"):
        await db.run(
            f"CREATE TABLE {table} (k {column.type} NOT NULL, v integer{numbered},"
            " UNIQUE (k))"
        )
        for sql in filter(None, column.after.split(";")):
            await db.run(sql.format(table))


def batches(column: Column, seed: int) -> list[list[dict[str, Any]]]:
    """Return batches of several sizes, of rows that are drawn from the values."""
    choose = random.Random(seed)  # noqa: S311  # not a secret
    return [
        [{"k": choose.choice(column.values), "v": n} for n in range(size)]
        for size in (*SIZES, *SIZES)
    ]


async def compare(db: Database, column: Column) -> None:
    """Write batches in both ways, and compare what is left of them."""
    number = 0
    for seed in range(2):
        for rows in batches(column, seed):
            number += 1
            conn = db.handle
            single = [
                await create_or_update(
                    conn, "single", key={"k": row["k"]}, defaults={"v": row["v"]}
                )
                for row in rows
            ]
            actions = [result.action for result in single]
            if number % 2:
                results = iter_create_or_update(conn, "many", rows, key="k")
                assert [r.action async for r in results] == actions, rows
            else:
                counts = await create_or_update_many(conn, "many", rows, key="k")
                assert counts.created == actions.count(Action.CREATED), rows
                assert counts.updated == actions.count(Action.UPDATED), rows
            stored = await db.query("SELECT * FROM many ORDER BY k, v")
            assert stored == await db.query("SELECT * FROM single ORDER BY k, v"), rows


@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
@pytest.mark.parametrize("numbered", ["", ", id serial"], ids=["plain", "serial"])
@pytest.mark.parametrize("name", POSTGRESQL)
async def test_postgresql(db: PostgresDatabase, name: str, numbered: str) -> None:
    column = POSTGRESQL[name]
    await make(db, column, numbered)
    await compare(db, column)


@pytest.mark.usefixtures("small_copies")
@pytest.mark.parametrize("numbered", ["", ", id serial"], ids=["plain", "serial"])
@pytest.mark.parametrize("name", POSTGRESQL)
async def test_copied(pg: PostgresDatabase, name: str, numbered: str) -> None:
    column = POSTGRESQL[name]
    await make(pg, column, numbered)
    await compare(pg, column)


@pytest.mark.parametrize("name", SQLITE)
async def test_sqlite(lite: SQLiteDatabase, name: str) -> None:
    column = SQLITE[name]
    await make(lite, column, "")
    await compare(lite, column)


# Each pair is one row, spelt in two ways.
SPELT_TWICE: Final = {
    "uuid": ("uuid", uuid.UUID(int=1), str(uuid.UUID(int=1))),
    "citext": ("citext", "a", "A"),
    "numeric": ("numeric(10,2)", Decimal(1), Decimal("1.001")),
    "char": ("char(3)", "a", "a "),
    "moment": ("timestamptz(0)", DAY, DAY.replace(microsecond=400_000)),
    "collation": ("text COLLATE ci", "a", "A"),
}


async def check_order(db: Database, one: object, other: object) -> None:
    """Of concurrent calls for one row, made in an order, the last one counts."""
    for _ in range(10):
        async with Coalescer(db.handle, "t", key="k", max_batch=3) as coalescer:
            calls = [
                coalescer.create_or_update(
                    key={"k": key}, defaults={"v": n}, returning="v"
                )
                for n, key in enumerate([one, other] * 4)
            ]
            results = await asyncio.gather(*calls)
        assert [dict(result.row or {})["v"] for result in results] == [*range(8)]
        assert await db.query("SELECT v FROM t") == [(7,)]


@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
@pytest.mark.parametrize("name", SPELT_TWICE)
async def test_calls_for_a_row_spelt_in_two_ways(
    db: PostgresDatabase, name: str
) -> None:
    type_, one, other = SPELT_TWICE[name]
    if name == "citext":
        await db.run("CREATE EXTENSION IF NOT EXISTS citext")
    if name == "collation":
        await db.run(CI)
    await db.run(f"CREATE TABLE t (k {type_} PRIMARY KEY, v integer)")
    await check_order(db, one, other)


@pytest.mark.parametrize(
    ("collation", "one", "other"), [("NOCASE", "a", "A"), ("RTRIM", "a", "a ")]
)
async def test_calls_for_a_row_spelt_in_two_ways_on_sqlite(
    lite: SQLiteDatabase, collation: str, one: str, other: str
) -> None:
    await lite.run(
        f"CREATE TABLE t (k text COLLATE {collation} PRIMARY KEY, v integer)"
    )
    await check_order(lite, one, other)
