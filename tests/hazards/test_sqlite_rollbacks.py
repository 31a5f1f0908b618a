"""Conflict clauses and triggers of SQLite that roll back the whole transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any, Final, Literal

import pytest

from aioupsert import (
    BulkError,
    Coalescer,
    create_or_update,
    create_or_update_many,
    iter_create_or_update,
)
from tests.support.databases import SQLiteDatabase

# A row without n is refused, and takes the whole transaction with it.
TABLES: Final[dict[str, str]] = {
    "ON CONFLICT ROLLBACK": (
        "CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER NOT NULL ON CONFLICT ROLLBACK)"
    ),
    "RAISE(ROLLBACK)": (
        "CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER);"
        " CREATE TRIGGER refuse BEFORE INSERT ON t WHEN new.n IS NULL"
        " BEGIN SELECT RAISE(ROLLBACK, 'no'); END"
    ),
}


@pytest.fixture(autouse=True, params=[*TABLES.values()], ids=[*TABLES])
async def made(request: pytest.FixtureRequest, lite: SQLiteDatabase) -> None:
    await lite.run(request.param)


def rows(*bad: int, number: int = 20) -> list[dict[str, Any]]:
    return [{"k": k, "n": None if k in bad else k} for k in range(number)]


async def stored(lite: SQLiteDatabase) -> list[int]:
    return [k for (k,) in await lite.query("SELECT k FROM t ORDER BY k")]


@pytest.mark.parametrize("size", [None, 1, 2, 3, 6])
async def test_all_rows_or_none(lite: SQLiteDatabase, size: int | None) -> None:
    with pytest.raises(BulkError) as failed:
        await create_or_update_many(
            lite.handle, "t", rows(7, 13), key="k", batch_size=size
        )
    assert (failed.value.index, failed.value.committed.rows) == (7, 0)
    assert isinstance(failed.value.__cause__, sqlite3.IntegrityError)
    assert await stored(lite) == []
    assert not lite.handle.in_transaction


@pytest.mark.parametrize("on_error", ["raise", "skip"])
async def test_the_row_is_found_though_another_before_it_is_the_reason(
    lite: SQLiteDatabase, on_error: Literal["raise", "skip"]
) -> None:
    await lite.run(
        "DROP TABLE t; CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER);"
        " CREATE TRIGGER refuse BEFORE INSERT ON t"
        " WHEN EXISTS (SELECT 1 FROM t WHERE n = new.n)"
        " BEGIN SELECT RAISE(ROLLBACK, 'n has come before'); END"
    )
    given = [{"k": k, "n": 2 if k == 13 else k} for k in range(20)]
    call = create_or_update_many(
        lite.handle, "t", given, key="k", on_error=on_error, atomic=False
    )
    if on_error == "raise":
        with pytest.raises(BulkError, match="n has come before") as failed:
            await call
        assert failed.value.index == 13
    else:
        rejected = (await call).rejected
        assert [error.index for error in rejected] == [13]
        assert await stored(lite) == [k for k in range(20) if k != 13]


async def test_an_error_that_undoes_the_table_too_is_raised_as_it_is(
    lite: SQLiteDatabase,
) -> None:
    for pragma in ("cache_size = 1", "max_page_count = 20"):
        await lite.handle.execute(f"PRAGMA {pragma}")
    for many in (True, False):
        await lite.handle.execute("BEGIN")
        await lite.handle.execute("CREATE TABLE new (k INTEGER PRIMARY KEY, v TEXT)")
        rows = [{"k": k, "v": "x" * 100_000} for k in range(5)]
        with pytest.raises((BulkError, sqlite3.OperationalError)) as failed:
            if many:
                await create_or_update_many(lite.handle, "new", rows, key="k")
            else:
                await create_or_update(lite.handle, "new", rows[0], key="k")
        assert "full" in f"{failed.value} {failed.value.__cause__}"
        assert not lite.handle.in_transaction


async def test_the_batches_before_stay_where_each_is_committed(
    lite: SQLiteDatabase,
) -> None:
    with pytest.raises(BulkError) as failed:
        await create_or_update_many(
            lite.handle, "t", rows(7), key="k", batch_size=3, atomic=False
        )
    assert (failed.value.index, failed.value.committed.rows) == (7, 6)
    assert await stored(lite) == [*range(6)]


@pytest.mark.parametrize("size", [None, 1, 6])
@pytest.mark.parametrize("bad", [(7,), (0, 19), (3, 4, 5), tuple(range(20))])
async def test_the_other_rows_are_stored_if_asked(
    lite: SQLiteDatabase, size: int | None, bad: tuple[int, ...]
) -> None:
    counts = await create_or_update_many(
        *(lite.handle, "t", rows(*bad)),
        key="k",
        batch_size=size,
        atomic=False,
        on_error="skip",
    )
    assert [error.index for error in counts.rejected] == [*bad]
    assert counts.created == 20 - len(bad)
    assert await stored(lite) == [k for k in range(20) if k not in bad]


async def test_results_are_iterated_up_to_its_batch(lite: SQLiteDatabase) -> None:
    seen = 0
    with pytest.raises(BulkError, match="row 7"):
        async for _ in iter_create_or_update(
            lite.handle, "t", rows(7), key="k", batch_size=5
        ):
            seen += 1
    assert (seen, await stored(lite)) == (5, [*range(5)])


@pytest.mark.parametrize("size", [None, 1, 5])
async def test_in_the_callers_transaction_nothing_is_written_after_it(
    lite: SQLiteDatabase, size: int | None
) -> None:
    conn = lite.handle
    await conn.execute("BEGIN")
    await create_or_update(conn, "t", key={"k": 100}, defaults={"n": 1})
    with pytest.raises(sqlite3.IntegrityError) as failed:
        await create_or_update_many(conn, "t", rows(7), key="k", batch_size=size)
    assert "the caller's transaction is gone" in failed.value.__notes__[0]
    assert not conn.in_transaction
    assert await stored(lite) == []


async def test_other_callers_of_a_coalescer_are_answered(lite: SQLiteDatabase) -> None:
    async with Coalescer(lite.handle, "t", key="k") as coalescer:
        answers = await asyncio.gather(
            *(
                coalescer.create_or_update(
                    key={"k": row["k"]}, defaults={"n": row["n"]}
                )
                for row in rows(7, 13)
            ),
            return_exceptions=True,
        )
    wrong = [k for k, answer in enumerate(answers) if isinstance(answer, Exception)]
    assert wrong == [7, 13]
    assert await stored(lite) == [k for k in range(20) if k not in wrong]
