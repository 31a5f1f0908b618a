"""A row that cannot be stored is named, and what is stored all the same is told."""

import copy
import pickle
import sqlite3
from collections.abc import Callable
from typing import Any, Final

import asyncpg
import psycopg
import pytest

from aioupsert import (
    BulkError,
    BulkResult,
    Excluded,
    F,
    MissingUniqueIndexError,
    MissingUniqueIndexWarning,
    UnknownColumnError,
    UnknownTableError,
    UnsupportedConnectionError,
    UsageError,
    create_or_update_many,
    iter_create_or_update,
)
from tests.support.databases import CONNECTIONS, EVERY_KIND, Database, every_handle
from tests.support.pairwise import pairwise

TABLE: Final = (
    "CREATE TABLE t (k integer PRIMARY KEY, a integer CHECK (a >= 0), b text NOT NULL"
    " DEFAULT 'x', twice integer GENERATED ALWAYS AS (a * 2) STORED)"
)

engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)


@pytest.fixture(autouse=True)
async def made(db: Database) -> None:
    await db.run(TABLE)


async def load(db: Database, rows: Any, **options: Any) -> BulkResult:
    return await create_or_update_many(db.handle, "t", rows, **{"key": "k"} | options)


async def stored(db: Database) -> int:
    ((number,),) = await db.query("SELECT count(*) FROM t")
    assert isinstance(number, int)
    return number


# --- Bad rows ---------------------------------------------------------------------------

# asyncpg finds out itself, psycopg asks the server.
OUT_OF_RANGE: Final = (asyncpg.DataError, psycopg.errors.NumericValueOutOfRange)
# The row, and what it is refused with, on PostgreSQL and on SQLite.
BAD: Final[dict[str, tuple[Any, Any, Any]]] = {
    "CHECK": (
        {"k": 5_000, "a": -1},
        (asyncpg.CheckViolationError, psycopg.errors.CheckViolation),
        sqlite3.IntegrityError,
    ),
    "NOT NULL": (
        {"k": 5_000, "b": None},
        (asyncpg.NotNullViolationError, psycopg.errors.NotNullViolation),
        sqlite3.IntegrityError,
    ),
    "a type that the driver cannot send": (
        {"k": 5_000, "a": object()},
        (asyncpg.DataError, psycopg.ProgrammingError),
        (sqlite3.ProgrammingError, sqlite3.InterfaceError),
    ),
    "a number out of range": (
        {"k": 5_000, "a": 2**64},
        OUT_OF_RANGE,
        OverflowError,
    ),
    "an unknown column": (
        {"k": 5_000, "c": 1},
        UnknownColumnError,
        UnknownColumnError,
    ),
    "no key": ({"a": 1}, UsageError, UsageError),
    "a key out of range": ({"k": 2**64}, OUT_OF_RANGE, OverflowError),
    "a key that is an expression": ({"k": F("a")}, UsageError, UsageError),
    "a computed column": ({"k": 5_000, "twice": 2}, UsageError, UsageError),
    "no row": ("k=5000", UsageError, UsageError),
    "None": (None, UsageError, UsageError),
    "a plain tuple": ((5_000, 1), UsageError, UsageError),
    "a column that is no text": ({"k": 5_000, 1: 1}, UsageError, UsageError),
    "an empty mapping": ({}, UsageError, UsageError),
}
# The first, one in the middle, and the last.
PLACES: Final = (0, 57, 99)
bad_rows = pytest.mark.parametrize(
    ("db", "place", "name"), pairwise(CONNECTIONS, PLACES, BAD), indirect=["db"]
)


def is_cause(error: BulkError, name: str, db: Database) -> bool:
    """Tell whether it was caused by the error that such a row is refused with."""
    _, postgresql, sqlite = BAD[name]
    return isinstance(
        error.__cause__, postgresql if db.engine == "postgresql" else sqlite
    )


def with_bad(row: Any, place: int, number: int = 100) -> list[Any]:
    rows: list[Any] = [{"k": n, "a": n, "b": "x"} for n in range(number)]
    rows[place] = row
    return rows


@pytest.mark.parametrize(
    ("db", "place", "size", "name"),
    pairwise(CONNECTIONS, PLACES, [None, 10, 1], BAD),
    indirect=["db"],
)
async def test_a_bad_row_is_named_and_nothing_is_stored(
    db: Database, place: int, size: int | None, name: str
) -> None:
    row = BAD[name][0]
    with pytest.raises(BulkError) as caught:
        await load(db, with_bad(row, place), batch_size=size)
    assert caught.value.index == place
    assert caught.value.row is row
    assert caught.value.committed == BulkResult()
    assert is_cause(caught.value, name, db)
    assert await stored(db) == 0
    assert await load(db, [{"k": 1}]) == BulkResult(created=1)


@bad_rows
async def test_without_atomic_the_batches_before_it_are_stored(
    db: Database, place: int, name: str
) -> None:
    with pytest.raises(BulkError) as caught:
        await load(db, with_bad(BAD[name][0], place), batch_size=10, atomic=False)
    before = place // 10 * 10
    assert caught.value.index == place
    assert caught.value.committed == BulkResult(created=before)
    assert is_cause(caught.value, name, db)
    assert await db.query("SELECT k FROM t ORDER BY k") == [(n,) for n in range(before)]


@pytest.mark.parametrize(
    ("db", "atomic", "name"), pairwise(CONNECTIONS, [True, False], BAD), indirect=["db"]
)
async def test_the_callers_transaction_goes_on_after_a_bad_row(
    db: Database, *, atomic: bool, name: str
) -> None:
    row = BAD[name][0]
    async with db.transaction() as conn:
        await create_or_update_many(conn, "t", [{"k": 1_000}], key="k")
        with pytest.raises(BulkError) as caught:
            await create_or_update_many(
                conn, "t", with_bad(row, 57), key="k", batch_size=10, atomic=atomic
            )
        # What a transaction of the caller's holds is not committed.
        assert caught.value.committed == BulkResult()
        assert is_cause(caught.value, name, db)
        await create_or_update_many(conn, "t", [{"k": 2_000}], key="k")
    # Without atomic the batches before it are part of that transaction.
    before = [] if atomic else [(n,) for n in range(50)]
    assert await db.query("SELECT k FROM t ORDER BY k") == [*before, (1_000,), (2_000,)]


@pytest.mark.parametrize(
    ("db", "number", "place", "name"),
    pairwise(
        EVERY_KIND,
        [20, 6_000],
        [0.0, 0.57, 1.0],
        ["CHECK", "a number out of range", "no key"],
    ),
    indirect=["db"],
)
async def test_on_every_connection_a_bad_row_of_few_or_many_is_named(
    db: Database, number: int, place: float, name: str
) -> None:
    index = int(place * (number - 1))
    row = BAD[name][0]
    with pytest.raises(BulkError, match=f"^row {index}: ") as caught:
        await load(db, with_bad(row, index, number))
    assert caught.value.index == index
    assert caught.value.row is row
    assert await stored(db) == 0
    assert await load(db, [{"k": 1}]) == BulkResult(created=1)


@engines
async def test_of_several_bad_rows_the_first_is_named(db: Database) -> None:
    rows: list[Any] = [{"k": n, "a": n} for n in range(100)]
    for place in (17, 18, 60, 99):
        rows[place] = {"k": place, "a": -1}
    with pytest.raises(BulkError) as caught:
        await load(db, rows)
    assert caught.value.index == 17


@engines
async def test_of_bad_rows_of_several_kinds_one_is_named_and_none_stored(
    db: Database,
) -> None:
    rows: list[Any] = [{"k": n, "a": n} for n in range(100)]
    rows[20] = {"k": 20, "a": -1}
    rows[40] = {"a": 1}
    with pytest.raises(BulkError) as caught:
        await load(db, rows)
    assert caught.value.index in {20, 40}
    assert caught.value.row is rows[caught.value.index]
    assert await stored(db) == 0


@engines
async def test_a_row_that_only_a_repeated_key_makes_bad_is_named(db: Database) -> None:
    # It takes both rows of the key: 5 - 10 is negative.
    rows = [{"k": 1, "a": 5}, {"k": 2, "a": 5}, {"k": 1, "a": 10}, {"k": 2, "a": 1}]
    with pytest.raises(BulkError) as caught:
        await load(db, rows, update={"a": F("a") - Excluded("a")})
    assert caught.value.index == 2
    assert caught.value.row is rows[2]
    assert await stored(db) == 0


@engines
async def test_the_row_is_the_object_that_a_generator_gave(db: Database) -> None:
    given: list[Any] = []

    def rows() -> Any:
        for n in range(50):
            given.append({"k": n, "a": -1 if n == 33 else n})
            yield given[-1]

    with pytest.raises(BulkError) as caught:
        await load(db, rows(), batch_size=4)
    assert caught.value.row is given[33]
    assert caught.value.index == 33


@engines
async def test_the_message_says_which_row_and_why(db: Database) -> None:
    with pytest.raises(BulkError) as caught:
        await load(db, [{"k": 1}, {"k": 2, "twic": 1}])
    assert str(caught.value) == (
        "row 1: table t has no column 'twic' (did you mean 'twice'?)"
    )
    with pytest.raises(BulkError) as caught:
        await load(db, [{"k": 1}, {"a": 1}])
    assert str(caught.value) == "row 1: it has no 'k', which key names"


@engines
async def test_an_error_of_a_row_can_be_copied_and_pickled(db: Database) -> None:
    with pytest.raises(BulkError) as caught:
        await load(db, [{"k": 1}, {"k": 2, "a": -1}])
    error = caught.value
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301  # our own
        assert str(other) == str(error)
        assert (other.index, other.row, other.committed) == (
            1,
            {"k": 2, "a": -1},
            BulkResult(),
        )


# --- Rows that are left out -------------------------------------------------------------


@pytest.mark.parametrize(
    ("db", "size", "number"),
    pairwise(CONNECTIONS, [None, 100, 7], range(6)),
    indirect=["db"],
)
async def test_bad_rows_are_left_out_and_all_others_stored(
    db: Database, size: int | None, number: int
) -> None:
    rows: list[Any] = [{"k": n, "a": n, "b": "x"} for n in range(1_000)]
    wrong: dict[int, Any] = {
        0: {"k": 0, "a": -1},
        333: {"a": 1},
        334: {"k": 334, "a": object()},
        700: {"k": 700, "c": 1},
        999: {"k": 999, "b": None},
    }
    wrong = dict([*wrong.items()][:number])
    for place, row in wrong.items():
        rows[place] = row
    result = await load(db, rows, atomic=False, on_error="skip", batch_size=size)
    assert [error.index for error in result.rejected] == [*wrong]
    assert all(error.row is rows[error.index] for error in result.rejected)
    assert all(error.__cause__ is not None for error in result.rejected)
    assert (result.created, result.rows) == (1_000 - number, 1_000)
    assert await db.query("SELECT k, a FROM t ORDER BY k") == [
        (n, n) for n in range(1_000) if n not in wrong
    ]


@every_handle
@pytest.mark.parametrize("number", [20, 6_000])
async def test_on_every_connection_bad_rows_are_left_out(
    db: Database, number: int
) -> None:
    rows = [{"k": n, "a": -1 if n in {3, number - 1} else n} for n in range(number)]
    result = await load(db, rows, atomic=False, on_error="skip")
    assert [error.index for error in result.rejected] == [3, number - 1]
    assert result.created == number - 2
    assert await stored(db) == number - 2


@engines
async def test_every_row_may_be_bad(db: Database) -> None:
    rows = [{"k": n, "a": -1} for n in range(20)]
    result = await load(db, rows, atomic=False, on_error="skip")
    assert [error.index for error in result.rejected] == [*range(20)]
    assert await stored(db) == 0


# Which of 120 rows are at fault, where many are.
MANY: Final = {
    "every second": {*range(0, 120, 2)},
    "most, and then none": {*range(60)} - {20, 40},
    "most, and then some": {*range(60)} | {90, 119},
    "all but one": {*range(120)} - {77},
}
# What the column a of such a row has: alike in all of them, or not.
FAULTS: Final[dict[str, Callable[[int], Any]]] = {
    "alike": lambda _: -1,
    "of a kind": lambda n: -n - 1,
    "refused by the driver": lambda n: 2**64 + n,
}


@pytest.mark.parametrize(
    ("db", "where", "fault", "keys"),
    pairwise(CONNECTIONS, MANY, FAULTS, ["distinct", "repeated", "equal"]),
    indirect=["db"],
)
async def test_where_many_rows_are_bad_each_is_left_out_by_itself(
    db: Database, where: str, fault: str, keys: str
) -> None:
    share = {"distinct": 1, "repeated": 3, "equal": 120}[keys]
    rows = [
        {"k": n // share, "a": FAULTS[fault](n) if n in MANY[where] else n}
        for n in range(120)
    ]
    result = await load(db, rows, atomic=False, on_error="skip")
    good = {row["k"]: row["a"] for n, row in enumerate(rows) if n not in MANY[where]}
    assert [error.index for error in result.rejected] == sorted(MANY[where])
    assert all(error.row is rows[error.index] for error in result.rejected)
    assert (result.created, result.rows) == (len(good), 120)
    assert await db.query("SELECT k, a FROM t ORDER BY k") == [*good.items()]


@engines
async def test_where_many_rows_are_bad_the_last_good_one_of_a_key_wins(
    db: Database,
) -> None:
    await db.run("DROP TABLE t; CREATE TABLE t (k integer PRIMARY KEY, a integer)")
    rows = [{"k": n // 4, "a": n if n % 4 > 1 else 2**64} for n in range(80)]
    result = await load(db, rows, atomic=False, on_error="skip")
    assert [error.index for error in result.rejected] == [
        n for n in range(80) if n % 4 < 2
    ]
    assert (result.created, result.rows) == (20, 80)
    assert await db.query("SELECT k, a FROM t ORDER BY k") == [
        (k, 4 * k + 3) for k in range(20)
    ]


@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_an_error_that_is_no_row_s_ends_the_search(db: Database) -> None:
    await db.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN"
        " IF new.k = 50 THEN RAISE ''stop'' USING ERRCODE = ''53100''; END IF;"
        " RETURN new; END';"
        "CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    rows = [{"k": n, "a": -n - 1} for n in range(50)] + [{"k": 50, "a": 1}]
    rows += [{"k": n, "a": -n} for n in range(51, 80)]
    with pytest.raises((asyncpg.DiskFullError, psycopg.errors.DiskFull)):
        await load(db, rows, atomic=False, on_error="skip")
    assert not await stored(db)


@engines
@pytest.mark.parametrize("name", ["CHECK", "a type that the driver cannot send"])
async def test_each_of_many_bad_rows_has_the_error_that_it_causes_alone(
    db: Database, name: str
) -> None:
    bad = BAD[name][0]
    rows = [bad | {"k": n} if n % 3 else {"k": n} for n in range(90)]
    result = await load(db, rows, atomic=False, on_error="skip")
    assert [error.index for error in result.rejected] == [n for n in range(90) if n % 3]
    assert all(is_cause(error, name, db) for error in result.rejected)


@engines
async def test_a_bad_row_does_not_count_for_those_after_it(db: Database) -> None:
    rows = [{"k": 1, "a": 5}, {"k": 1, "a": -9}, {"k": 1, "a": 7}, {"k": 2, "a": -1}]
    result = await load(
        db,
        rows,
        update={"a": F("a") + Excluded("a")},
        atomic=False,
        on_error="skip",
    )
    assert (result.created, result.updated) == (1, 1)
    assert [error.index for error in result.rejected] == [1, 3]
    assert await db.query("SELECT k, a FROM t") == [(1, 12)]


@engines
async def test_in_a_callers_transaction_bad_rows_are_left_out(db: Database) -> None:
    async with db.transaction() as conn:
        result = await create_or_update_many(
            conn,
            "t",
            [{"k": n, "a": n - 1} for n in range(10)],
            key="k",
            atomic=False,
            on_error="skip",
        )
        assert (result.created, len(result.rejected)) == (9, 1)
    assert await stored(db) == 9


@engines
async def test_an_error_that_is_no_rows_fault_is_raised_all_the_same(
    db: Database,
) -> None:
    with pytest.raises(UnknownTableError):
        await create_or_update_many(
            db.handle, "nowhere", [{"k": 1}], key="k", atomic=False, on_error="skip"
        )


# --- Results in turn --------------------------------------------------------------------


@bad_rows
async def test_results_come_for_the_batches_before_a_bad_row(
    db: Database, place: int, name: str
) -> None:
    row = BAD[name][0]
    seen = 0
    with pytest.raises(BulkError) as caught:
        async for result in iter_create_or_update(
            db.handle, "t", with_bad(row, place), key="k", batch_size=10
        ):
            seen += result.created
    before = place // 10 * 10
    assert caught.value.index == place
    assert caught.value.row is row
    assert caught.value.committed == BulkResult(created=before)
    assert is_cause(caught.value, name, db)
    assert seen == before
    assert await stored(db) == before


# --- Arguments --------------------------------------------------------------------------

ARGUMENTS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no key": ({"key": []}, "key"),
    "a key that is no name": ({"key": 5}, "key"),
    "a key of no names": ({"key": [5]}, "key"),
    "a key that is a mapping": ({"key": {"k": 1}}, "key"),
    "an unknown key": ({"key": "titel"}, "titel"),
    "one unknown of the key": ({"key": ["k", "titel"]}, "titel"),
    "an update that is no name": ({"update": 5}, "update"),
    "an update of no names": ({"update": [5]}, "update"),
    "an unknown column to update": ({"update": ["titel"]}, "titel"),
    "an unknown column to set": ({"update": {"titel": 1}}, "titel"),
    "an unknown stored column": ({"update": {"a": F("titel")}}, "titel"),
    "an unknown column of the row": ({"update": {"a": Excluded("titel")}}, "titel"),
    "unknown defaults": ({"create_defaults": {"titel": 1}}, "titel"),
    "an unknown touch": ({"touch": {"titel": 1}}, "titel"),
    "an unknown condition": ({"where": F("titel") == 1}, "titel"),
    "a condition that is none": ({"where": True}, "where"),
    "defaults that are no mapping": ({"create_defaults": ["a"]}, "create_defaults"),
    "a touch that is no mapping": ({"touch": "a"}, "touch"),
    "update and touch": ({"update": ["a"], "touch": {"a": 1}}, "both update and touch"),
    "an unknown choice": ({"without_unique_index": "maybe"}, "without_unique_index"),
    "a batch of none": ({"batch_size": 0}, "batch_size"),
    "a negative batch": ({"batch_size": -1}, "batch_size"),
}
FOR_MANY: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "an unknown on_error": ({"on_error": "ignore"}, "on_error"),
    "to skip and be atomic": ({"on_error": "skip"}, "atomic=False"),
    "no connections": ({"connections": 0}, "connections"),
    "negative connections": ({"connections": -1}, "connections"),
    "connections without a pool": ({"connections": 2}, "pool"),
}
FOR_EACH: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "an unknown column to return": ({"returning": "titel"}, "titel"),
    "one unknown to return": ({"returning": ["k", "titel"]}, "titel"),
}


class Unread:
    """Rows that nobody may ask for."""

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        pytest.fail("a row was read")


@engines
@pytest.mark.parametrize(
    ("options", "words"),
    [*ARGUMENTS.values(), *FOR_MANY.values()],
    ids=[*ARGUMENTS, *FOR_MANY],
)
async def test_wrong_arguments_are_refused_before_a_row_is_read(
    db: Database, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        await load(db, Unread(), **options)
    assert not isinstance(caught.value, BulkError)
    assert isinstance(caught.value, UnknownColumnError) == (words == "titel")
    assert await stored(db) == 0


@engines
@pytest.mark.parametrize(
    ("options", "words"),
    [*ARGUMENTS.values(), *FOR_EACH.values()],
    ids=[*ARGUMENTS, *FOR_EACH],
)
async def test_wrong_arguments_are_refused_before_results_are_given(
    db: Database, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        async for _ in iter_create_or_update(
            db.handle, "t", Unread(), **{"key": "k"} | options
        ):
            pytest.fail("a result was given")
    assert await stored(db) == 0


async def test_an_unknown_table_is_named(db: Database) -> None:
    with pytest.raises(UnknownTableError, match="no table tt"):
        await create_or_update_many(db.handle, "tt", Unread(), key="k")
    with pytest.raises(UnknownTableError, match="no table tt"):
        await anext(iter_create_or_update(db.handle, "tt", Unread(), key="k"))


@engines
@pytest.mark.parametrize("conn", [None, "conn", object], ids=str)
@pytest.mark.usefixtures("db")
async def test_what_is_no_connection_is_refused(conn: Any) -> None:
    with pytest.raises(UnsupportedConnectionError):
        await create_or_update_many(conn, "t", Unread(), key="k")
    with pytest.raises(UnsupportedConnectionError):
        await anext(iter_create_or_update(conn, "t", Unread(), key="k"))


@engines
@pytest.mark.parametrize("number", [1, 20, 6_000])
async def test_without_a_unique_index_a_call_may_insist(
    db: Database, number: int
) -> None:
    rows = [{"a": n} for n in range(number)]
    with pytest.raises(MissingUniqueIndexError, match=r"\(a\)"):
        await load(db, rows, key="a", without_unique_index="error")
    assert await stored(db) == 0


@engines
async def test_without_a_unique_index_one_warning_is_given(db: Database) -> None:
    rows = [{"a": n, "k": n} for n in range(30)]
    with pytest.warns(MissingUniqueIndexWarning, match=r"\(a\)") as caught:
        await load(db, rows, key="a", batch_size=10)
    assert [warning.filename for warning in caught] == [__file__]
    # Once for each connection.
    await load(db, rows, key="a", batch_size=10)


@engines
@pytest.mark.parametrize("number", [1, 20])
async def test_a_key_whose_index_has_another_column_finds_its_rows(
    db: Database, number: int
) -> None:
    rows = [{"a": n, "k": n} for n in range(number)]
    for expected in (BulkResult(created=number), BulkResult(updated=number)):
        result = await load(
            db, rows, key="a", update=["k"], without_unique_index="lock"
        )
        assert result == expected
