"""A bulk call of one row is one call, and differs from others in nothing else."""

from typing import Any

import pytest

from aioupsert import (
    BulkError,
    BulkResult,
    UnknownColumnError,
    create_or_update_many,
    on_event,
)
from aioupsert.events import Event
from tests.support.databases import Database, every_handle


@pytest.fixture(autouse=True)
async def table(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer CHECK (n < 9))")


async def write(conn: Any, row: dict[str, Any], **options: Any) -> BulkResult:
    return await create_or_update_many(conn, "t", [row], key="k", **options)


@every_handle
async def test_it_is_created_and_updated(db: Database) -> None:
    for number, expected in enumerate((BulkResult(created=1), BulkResult(updated=1))):
        assert await write(db.handle, {"k": 1, "n": number}) == expected
    unchanged = await write(db.handle, {"k": 1, "n": 1}, skip_unchanged=True)
    assert unchanged == BulkResult(unchanged=1)
    assert await db.query("SELECT * FROM t") == [(1, 1)]


async def test_errors_are_those_of_many_rows(db: Database) -> None:
    await write(db.handle, {"k": 1, "n": 1})
    for row in ({"k": 1, "n": 10}, {"n": 1}, {"k": 2, "n": 3, "nope": 1}):
        with pytest.raises(BulkError) as caught:
            await write(db.handle, row)
        assert (caught.value.index, caught.value.row) == (0, row)
    with pytest.raises(UnknownColumnError):
        await write(db.handle, {"k": 1, "n": 1}, update=["nope"])
    skipped = await write(db.handle, {"k": 1, "n": 10}, atomic=False, on_error="skip")
    assert len(skipped.rejected) == 1
    assert await db.query("SELECT * FROM t") == [(1, 1)]


async def test_an_error_leaves_the_callers_transaction_usable(db: Database) -> None:
    await write(db.handle, {"k": 1, "n": 1})
    async with db.transaction() as conn:
        with pytest.raises(BulkError):
            await write(conn, {"k": 1, "n": 10})
        await write(conn, {"k": 2, "n": 2})
    assert await db.query("SELECT * FROM t ORDER BY k") == [(1, 1), (2, 2)]


async def test_observers_see_a_bulk_call(db: Database) -> None:
    await write(db.handle, {"k": 1, "n": 1})
    events: list[Event] = []
    stop = on_event(events.append)
    try:
        await write(db.handle, {"k": 1, "n": 2})
    finally:
        stop()
    (event,) = events
    assert (event.operation, event.rows) == ("create_or_update_many", 1)
    assert (event.system, event.result) == (db.engine, BulkResult(updated=1))


@pytest.mark.parametrize("db", ["asyncpg"], indirect=True)
async def test_a_lost_connection_is_not_the_rows_fault(db: Database) -> None:
    await write(db.handle, {"k": 1, "n": 1})
    db.handle.terminate()
    with pytest.raises(Exception, match="closed") as caught:
        await write(db.handle, {"k": 1, "n": 2})
    assert not isinstance(caught.value, BulkError)
    assert await db.query("SELECT * FROM t") == [(1, 1)]
