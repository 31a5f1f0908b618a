"""Whose fault an error is: trying decides, not a list of the errors that rows cause."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import psycopg
import pytest

from aioupsert import (
    SQL,
    BulkError,
    Coalescer,
    create_or_update,
    create_or_update_many,
    iter_create_or_update,
)
from tests.support.databases import Database, PostgresDatabase, SQLiteDatabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# What only the database can read: its errors are of the classes 42 and XX, which a
# mistake in the statement causes, too.
CASES: Final[dict[str, tuple[str, str, str]]] = {
    "jsonpath": ("jsonpath", "$.a", "$["),
    "regclass": ("regclass", "t", "no_such_table"),
    "regtype": ("regtype", "int4", "no_such_type"),
    "tsquery": ("tsquery", "a & b", "a &"),
}
# How many rows, and which one is wrong.
SIZES: Final = ((2, 0), (3, 1), (20, 10))

drivers = pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
cases = pytest.mark.parametrize(("type_", "good", "bad"), CASES.values(), ids=CASES)


async def stored(db: Database) -> set[int]:
    return {k for (k,) in await db.query("SELECT k FROM t")}


@drivers
@cases
@pytest.mark.parametrize("size", SIZES)
async def test_a_value_that_only_the_database_can_read(
    db: Database, type_: str, good: str, bad: str, size: tuple[int, int]
) -> None:
    number, wrong = size
    await db.run(f"CREATE TABLE t (k integer PRIMARY KEY, v {type_})")
    rows = [{"k": n, "v": bad if n == wrong else good} for n in range(number)]
    with pytest.raises(BulkError) as failed:
        await create_or_update_many(db.handle, "t", rows, key="k", convert_text=True)
    assert failed.value.index == wrong
    assert await stored(db) == set()
    counts = await create_or_update_many(
        *(db.handle, "t", rows),
        key="k",
        convert_text=True,
        atomic=False,
        on_error="skip",
    )
    assert (counts.created, [e.index for e in counts.rejected]) == (number - 1, [wrong])
    assert await stored(db) == {*range(number)} - {wrong}


@drivers
async def test_rows_are_iterated_up_to_the_one_at_fault(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, v regclass)")
    rows = [{"k": n, "v": "nope" if n == 4 else "t"} for n in range(6)]
    seen = 0
    with pytest.raises(BulkError, match="row 4"):
        async for _ in iter_create_or_update(
            db.handle, "t", rows, key="k", convert_text=True, batch_size=2
        ):
            seen += 1
    assert seen == 4


# --- Locks and time ---------------------------------------------------------------------

WAITING: Final = (
    asyncpg.LockNotAvailableError,
    psycopg.errors.LockNotAvailable,
    asyncpg.QueryCanceledError,
    psycopg.errors.QueryCanceled,
)


@asynccontextmanager
async def locked(db: PostgresDatabase, k: int) -> AsyncIterator[None]:
    """A row that another session keeps locked."""
    async with db.connect() as other, db.transaction(other):
        await other.execute(f"UPDATE t SET n = n WHERE k = {k}")
        yield


@drivers
@pytest.mark.parametrize("setting", ["lock_timeout", "statement_timeout"])
@pytest.mark.parametrize("where", ["outside", "in a transaction"])
async def test_only_the_row_that_is_locked_fails(
    db: PostgresDatabase, setting: str, where: str
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await db.run("INSERT INTO t SELECT n, 0 FROM generate_series(0, 9) n")
    await db.handle.execute(f"SET {setting} = '200ms'")
    rows = [{"k": n, "n": 1} for n in range(10)]
    async with locked(db, 7):
        if where != "outside":
            async with db.transaction() as conn:
                with pytest.raises(BulkError) as failed:
                    await create_or_update_many(conn, "t", rows, key="k")
                # The transaction goes on.
                await create_or_update(conn, "t", key={"k": 20}, defaults={"n": 2})
        else:
            with pytest.raises(BulkError) as failed:
                await create_or_update_many(db.handle, "t", rows, key="k")
        assert failed.value.index == 7
        assert isinstance(failed.value.__cause__, WAITING)
        counts = await create_or_update_many(
            db.handle, "t", rows, key="k", atomic=False, on_error="skip"
        )
        assert (counts.updated, [e.index for e in counts.rejected]) == (9, [7])
    assert await db.query("SELECT sum(n) FROM t WHERE k < 20") == [(9,)]


CANCELED: Final = (asyncpg.QueryCanceledError, psycopg.errors.QueryCanceled)


@drivers
@pytest.mark.parametrize("on_error", ["raise", "skip"])
async def test_a_canceled_statement_ends_the_call(
    db: PostgresDatabase, on_error: Any
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await db.run("INSERT INTO t SELECT n, 0 FROM generate_series(0, 9) n")
    rows = [{"k": n, "n": 1} for n in range(10)]
    is_asyncpg = isinstance(db.handle, asyncpg.Connection)
    pid = db.handle.get_server_pid() if is_asyncpg else db.handle.info.backend_pid
    cancel = f"SELECT pg_cancel_backend({pid}) WHERE pg_blocking_pids({pid}) <> '{{}}'"
    async with locked(db, 7):
        call = asyncio.ensure_future(
            create_or_update_many(
                db.handle, "t", rows, key="k", atomic=False, on_error=on_error
            )
        )
        while not await db.query(cancel):  # noqa: ASYNC110  # another session sees it
            await asyncio.sleep(0.01)
        with pytest.raises(CANCELED):
            await call
    assert await db.query("SELECT sum(n) FROM t") == [(0,)]


async def test_a_transient_error_while_others_are_tried_is_retried(
    pg: PostgresDatabase,
) -> None:
    await pg.run(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer); CREATE SEQUENCE met;"
        " CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF new.k = 0 THEN RAISE SQLSTATE 'ZZ001'; END IF;"
        " IF new.k = 2 AND nextval('met') = 1 THEN RAISE serialization_failure; END IF;"
        " RETURN new; END $$;"
        " CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()"
    )
    rows = [{"k": n, "n": 1} for n in range(3)]
    counts = await create_or_update_many(
        pg.handle, "t", rows, key="k", atomic=False, on_error="skip"
    )
    assert (counts.created, [e.index for e in counts.rejected]) == (2, [0])
    assert await stored(pg) == {1, 2}


# --- Mistakes that hit every row alike ----------------------------------------------------


@drivers
@pytest.mark.parametrize("number", [2, 3, 20, 6_000])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
async def test_a_mistake_in_the_statement_is_not_one_of_a_row(
    db: PostgresDatabase,
    number: int,
    on_error: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    rows = [{"k": n, "n": 1} for n in range(number)]
    with (
        caplog.at_level("DEBUG", "aioupsert"),
        pytest.raises((asyncpg.UndefinedColumnError, psycopg.errors.UndefinedColumn)),
    ):
        await create_or_update_many(
            *(db.handle, "t", rows),
            key="k",
            update={"n": SQL("no_such_column")},
            atomic=False,
            on_error=on_error,
        )
    assert await stored(db) == set()
    # Some rows are tried, not each of them.
    assert len(caplog.messages) < 150


async def test_a_full_disk_is_not_the_fault_of_a_row(lite: SQLiteDatabase) -> None:
    await lite.run("CREATE TABLE t (k integer PRIMARY KEY, v text)")
    await lite.handle.execute("PRAGMA max_page_count = 4")
    rows = [{"k": n, "v": "x" * 3000} for n in range(5)]
    with pytest.raises(sqlite3.OperationalError, match="full"):
        await create_or_update_many(
            lite.handle, "t", rows, key="k", atomic=False, on_error="skip"
        )
    assert await stored(lite) == set()


@drivers
async def test_a_row_is_at_fault_if_those_of_the_batch_before_have_passed(
    db: PostgresDatabase,
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, v regclass)")
    rows = [{"k": n, "v": "nope" if n > 3 else "t"} for n in range(6)]
    counts = await create_or_update_many(
        *(db.handle, "t", rows),
        key="k",
        convert_text=True,
        batch_size=2,
        atomic=False,
        on_error="skip",
    )
    assert (counts.created, [e.index for e in counts.rejected]) == (4, [4, 5])


# --- A coalescer --------------------------------------------------------------------------


@drivers
async def test_one_call_with_a_mistake_fails_alone(db: PostgresDatabase) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        answers = await asyncio.gather(
            *(
                coalescer.create_or_update(
                    key={"k": n},
                    defaults={"n": SQL("no_such_column") if n == 7 else n},
                )
                for n in range(40)
            ),
            return_exceptions=True,
        )
    wrong = [n for n, answer in enumerate(answers) if isinstance(answer, Exception)]
    assert wrong == [7]
    assert await stored(db) == {*range(40)} - {7}


@drivers
async def test_only_the_caller_of_a_locked_row_waits_in_vain(
    db: PostgresDatabase,
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await db.run("INSERT INTO t SELECT n, 0 FROM generate_series(0, 39) n")
    await db.handle.execute("SET lock_timeout = '100ms'")
    async with locked(db, 7), Coalescer(db.handle, "t", key="k") as coalescer:
        answers = await asyncio.gather(
            *(
                coalescer.create_or_update(key={"k": n}, defaults={"n": 1})
                for n in range(40)
            ),
            return_exceptions=True,
        )
    wrong = [n for n, answer in enumerate(answers) if isinstance(answer, Exception)]
    assert wrong == [7]
    assert isinstance(answers[7], WAITING)
