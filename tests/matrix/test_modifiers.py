"""
Types with a modifier, whose name goes on after it: timestamp(3) with time zone.

Single calls are the oracle: many rows must leave what as many single calls leave, in a
session whose time zone is neither UTC nor the client's.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest

from aioupsert import create_or_update, create_or_update_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.databases import PostgresDatabase

ZONE: Final = dt.timezone(dt.timedelta(hours=2))


def moment(n: int) -> dt.datetime:
    return dt.datetime(2020, 1, 1, n % 24, n, 7, 123_000, tzinfo=dt.UTC)


# The type, and its n-th value, which it stores as it is.
TYPES: Final[dict[str, Callable[[int], Any]]] = {
    "timestamp(3) with time zone": moment,
    "timestamp(3) without time zone": lambda n: moment(n).replace(tzinfo=None),
    "time(3) with time zone": lambda n: moment(n).timetz().replace(tzinfo=ZONE),
    "time(3) without time zone": lambda n: moment(n).time(),
    "interval(3)": lambda n: dt.timedelta(days=n, milliseconds=n),
    "interval day to second(3)": lambda n: dt.timedelta(days=n, milliseconds=n),
    "numeric(8,2)": lambda n: Decimal(n) / 4,
    "character varying(5)": lambda n: f"v{n}",
    "character(4)": lambda n: f"c{n:03}",
    "timestamp(3) with time zone[]": lambda n: [moment(n), moment(n + 1)],
    "time(3) with time zone[]": lambda n: [moment(n).timetz().replace(tzinfo=ZONE)],
    "numeric(8,2)[]": lambda n: [Decimal(n) / 4, None],
    "character varying(5)[]": lambda n: [f"v{n}", "w"],
}
types = pytest.mark.parametrize(("type_", "value"), TYPES.items(), ids=TYPES)
drivers = pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
numbers = pytest.mark.parametrize("number", [2, 3, 12])


async def make(db: PostgresDatabase, column: str) -> None:
    for table in ("many", "single"):
        await db.run(f"CREATE TABLE {table} ({column}, v integer)")
    await db.handle.execute("SET timezone = 'America/New_York'")


async def same(db: PostgresDatabase) -> list[tuple[Any, ...]]:
    many = await db.query("SELECT * FROM many ORDER BY 1, 2")
    assert many == await db.query("SELECT * FROM single ORDER BY 1, 2")
    return many


@drivers
@types
@numbers
async def test_as_a_key(
    db: PostgresDatabase, type_: str, value: Callable[[int], Any], number: int
) -> None:
    await make(db, f"k {type_} PRIMARY KEY")
    for v in range(2):
        rows = [{"k": value(n), "v": v} for n in range(number)]
        counts = await create_or_update_many(db.handle, "many", rows, key="k")
        assert (counts.created, counts.updated) == ((0, number) if v else (number, 0))
        for row in rows:
            await create_or_update(
                db.handle, "single", key={"k": row["k"]}, defaults={"v": v}
            )
    assert [v for _, v in await same(db)] == [1] * number


@drivers
@types
@numbers
@pytest.mark.usefixtures("small_copies")
async def test_as_a_value_and_copied(
    db: PostgresDatabase, type_: str, value: Callable[[int], Any], number: int
) -> None:
    await make(db, f"k integer PRIMARY KEY, c {type_}")
    for v in range(2):
        rows = [{"k": n, "c": value(n + v), "v": v} for n in range(number)]
        await create_or_update_many(db.handle, "many", rows, key="k")
        for row in rows:
            await create_or_update(
                *(db.handle, "single"),
                key={"k": row["k"]},
                defaults={"c": row["c"], "v": v},
            )
    assert len(await same(db)) == number


@drivers
async def test_no_row_is_bisected(
    db: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    await make(db, "k timestamptz(3) PRIMARY KEY")
    rows = [{"k": moment(n), "v": n} for n in range(24)]
    with caplog.at_level("DEBUG", "aioupsert"):
        await create_or_update_many(db.handle, "many", rows, key="k")
    assert len(caplog.messages) < 10
