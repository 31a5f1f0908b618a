"""A key that occurs many times costs a few statements, and means the same."""

import datetime as dt
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from aioupsert import (
    Action,
    BulkError,
    BulkResult,
    Excluded,
    F,
    NotAppliedError,
    create_or_update,
    create_or_update_many,
    greatest,
    iter_create_or_update,
    least,
)
from tests.support.databases import Database, PostgresDatabase

TABLE: Final = """
    CREATE TABLE {name} (
        k {key} PRIMARY KEY, n {bigint} NOT NULL DEFAULT 0, small smallint,
        b text, code varchar(3), day date, at {timestamptz}, local {timestamp},
        share double precision, id uuid, raw bytea, yes boolean,
        checked integer CHECK (checked < 5), extra text
    )
"""
UTC: Final = dt.UTC
MOMENTS: Final = [dt.datetime(2020, 1, day, tzinfo=UTC) for day in (3, 1, 2)]
IDS: Final = [uuid.UUID(int=number) for number in range(3)]
ADD: Final = {"n": F("n") + Excluded("n")}


def cycling(**columns: Any) -> list[dict[str, Any]]:
    """Eighteen rows of three keys, whose cells are taken in turn from these."""
    return [
        {
            "k": f"k{number % 3}",
            **{name: cells[number % len(cells)] for name, cells in columns.items()},
        }
        for number in range(18)
    ]


CASES: Final[dict[str, tuple[list[dict[str, Any]], Any]]] = {
    "last": (cycling(n=[*range(18)], b=["é", None, "x"], code=["abc", None]), None),
    "added": (cycling(n=[*range(18)]), ADD),
    "added, some negative": (cycling(n=[1, -1, 2, 5]), ADD),
    "added, some NULL": (
        cycling(small=[1, None, 2, 3]),
        {"small": Excluded("small") + F("small")},
    ),
    "greatest": (
        cycling(n=[5, 9, 7, 1], small=[3, 1, 2, 9]),
        {
            "n": greatest(F("n"), Excluded("n")),
            "small": least(Excluded("small"), F("small")),
        },
    ),
    "first only": (cycling(n=[*range(18)], b=["a", "b", "c", "d"]), ["n"]),
    "nothing": (cycling(n=[*range(18)]), []),
    "another expression": (cycling(n=[2, 3, 4, 5]), {"n": F("n") * 2 + Excluded("n")}),
    "checked": (cycling(checked=[1, 2, 3, 4]), None),
    "of several layouts": (
        [
            {"k": f"k{number % 3}", **({"n": number} if number % 4 else {"b": "x"})}
            for number in range(18)
        ],
        None,
    ),
}
POSTGRESQL_CASES: Final[dict[str, tuple[list[dict[str, Any]], Any]]] = {
    "types": (
        cycling(
            share=[0.5, 1.5, None, 2.5],
            id=[*IDS, None],
            raw=[b"a", b"b", None, b"c"],
            yes=[True, False, None],
            at=[*MOMENTS, None],
            local=[moment.replace(tzinfo=None) for moment in MOMENTS],
        ),
        None,
    ),
    "greatest": (
        cycling(day=[moment.date() for moment in MOMENTS], at=[*MOMENTS, MOMENTS[0]]),
        {
            "day": least(Excluded("day"), F("day")),
            "at": greatest(F("at"), Excluded("at")),
        },
    ),
    "greatest, of zones": (
        cycling(at=[moment.astimezone(ZoneInfo("Europe/Rome")) for moment in MOMENTS]),
        {"at": greatest(F("at"), Excluded("at"))},
    ),
}


async def create_tables(db: Database, key: str, old: str) -> None:
    types = {
        "key": key,
        "bigint": "bigint",
        "timestamptz": db.sql(postgresql="timestamptz", sqlite="text"),
        "timestamp": db.sql(postgresql="timestamp", sqlite="text"),
    }
    for name in ("t", "expected"):
        await db.run(TABLE.format(name=name, **types))
        await db.run(f"INSERT INTO {name} (k, n, b) VALUES ('{old}', 100, 'old')")


async def expected(
    db: Database, rows: list[dict[str, Any]], update: Any
) -> list[Action]:
    """Write each row by a call of its own."""
    actions: list[Action] = []
    for row in rows:
        its = update
        if isinstance(update, Mapping):
            its = {name: value for name, value in update.items() if name in row}
        done = await create_or_update(db.handle, "expected", row, key="k", update=its)
        actions.append(done.action)
    return actions


async def check(
    db: Database,
    rows: list[dict[str, Any]],
    update: Any,
    key: str = "text",
    old: str = "k1",
) -> None:
    await create_tables(db, key, old)
    actions = await expected(db, rows, update)
    done = await create_or_update_many(db.handle, "t", rows, key="k", update=update)
    assert done == BulkResult(
        created=actions.count(Action.CREATED),
        updated=actions.count(Action.UPDATED),
        unchanged=actions.count(Action.UNCHANGED),
    )
    stored = [
        await db.query(f"SELECT * FROM {t} ORDER BY k") for t in ("t", "expected")
    ]
    assert stored[0] == stored[1]
    again = iter_create_or_update(db.handle, "t", rows, key="k", update=update)
    each = [result.action async for result in again]
    after = await expected(db, rows, update)
    assert each == after


@pytest.mark.parametrize("case", CASES)
async def test_rows_are_applied_as_in_their_order(db: Database, case: str) -> None:
    await check(db, *CASES[case])


@pytest.mark.parametrize("case", POSTGRESQL_CASES)
async def test_types_of_postgresql(pg: PostgresDatabase, case: str) -> None:
    await check(pg, *POSTGRESQL_CASES[case])


@pytest.mark.parametrize("case", CASES)
async def test_the_database_says_which_keys_are_equal(
    pg: PostgresDatabase, case: str
) -> None:
    rows, update = CASES[case]
    spelt = [
        {**row, "k": Decimal(row["k"][1:] + ".000"[: number % 5])}
        for number, row in enumerate(rows)
    ]
    await check(pg, spelt, update, "numeric", "1")


async def test_a_row_that_is_silently_not_written_is_told(pg: PostgresDatabase) -> None:
    await pg.run("""
        CREATE TABLE t (k numeric PRIMARY KEY, n integer);
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF new.n = 7 THEN RETURN NULL; END IF; RETURN new; END $$;
        CREATE TRIGGER refusing BEFORE UPDATE ON t FOR EACH ROW
        EXECUTE FUNCTION refuse()
    """)
    rows = [{"k": Decimal(n % 2), "n": n} for n in range(10)]
    with pytest.raises(BulkError) as caught:
        await create_or_update_many(pg.handle, "t", rows, key="k")
    assert (caught.value.index, type(caught.value.__cause__)) == (7, NotAppliedError)
