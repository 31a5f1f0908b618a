"""The caller's transaction, and the time for attempts, on every kind of connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, get_args

import pytest

from aioupsert import (
    Action,
    F,
    Result,
    RetriesExhaustedError,
    create_or_update,
    get_or_create,
    preview,
)
from aioupsert.typing import Strategy
from tests.support.databases import Database, SQLiteDatabase, every_handle, execute

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


class UndoError(Exception):
    """What makes a block roll back."""


@asynccontextmanager
async def undone(db: Database) -> AsyncIterator[Any]:
    """Open the caller's transaction, and roll it back in the end."""
    with suppress(UndoError):
        async with db.transaction() as conn:
            yield conn
            raise UndoError


@pytest.fixture
async def counters(db: Database) -> Database:
    """A table with one row."""
    await db.run("CREATE TABLE counters (k TEXT PRIMARY KEY, n INTEGER DEFAULT 0)")
    await db.run("INSERT INTO counters VALUES ('old', 10)")
    return db


async def stored(db: Database) -> list[tuple[Any, ...]]:
    return await db.query("SELECT k, n FROM counters ORDER BY n")


async def count(conn: Any, key: str, **options: Any) -> Result:
    hits = F("n") + 1
    return await create_or_update(
        conn, "counters", key={"k": key}, defaults={"n": hits}, returning="n", **options
    )


# --- the caller's transaction ---


async def write_all(conn: Any, strategy: Strategy) -> list[Result]:
    return [
        await count(conn, "old", strategy=strategy),
        await count(conn, "new", strategy=strategy),
        await count(conn, "new", strategy=strategy),
        await get_or_create(
            conn, "counters", key={"k": "got"}, returning="n", strategy=strategy
        ),
    ]


WRITTEN = [
    Result(Action.UPDATED, 1, ({"n": 11},)),
    Result(Action.CREATED, 1, ({"n": 1},)),
    Result(Action.UPDATED, 1, ({"n": 2},)),
    Result(Action.CREATED, 1, ({"n": 0},)),
]


@every_handle
@every_strategy
async def test_calls_become_true_when_the_caller_commits(
    counters: Database, strategy: Strategy
) -> None:
    async with counters.transaction() as conn:
        assert await write_all(conn, strategy) == WRITTEN
        assert await stored(counters) == [("old", 10)]
    assert await stored(counters) == [("got", 0), ("new", 2), ("old", 11)]


@every_handle
@every_strategy
async def test_calls_are_undone_when_the_caller_rolls_back(
    counters: Database, strategy: Strategy
) -> None:
    async with undone(counters) as conn:
        assert await write_all(conn, strategy) == WRITTEN
    assert await stored(counters) == [("old", 10)]
    # What the library knows of the table does not include what was undone.
    assert await write_all(counters.handle, strategy) == WRITTEN


@every_handle
async def test_what_the_caller_wrote_before_is_seen_and_stays(
    counters: Database,
) -> None:
    async with counters.transaction() as conn:
        await execute(conn, "INSERT INTO counters VALUES ('mine', 5)")
        result = await count(conn, "mine")
        await execute(conn, "UPDATE counters SET n = n * 10 WHERE k = 'mine'")
    assert result == Result(Action.UPDATED, 1, ({"n": 6},))
    assert await stored(counters) == [("old", 10), ("mine", 60)]


@every_handle
async def test_a_table_made_in_the_transaction_is_found(db: Database) -> None:
    async with undone(db) as conn:
        await execute(conn, "CREATE TABLE made (k INTEGER PRIMARY KEY, n INTEGER)")
        result = await create_or_update(conn, "made", key={"k": 1})
    assert result.created
    # Another table of that name takes the place of the one that was undone.
    await db.run("CREATE TABLE made (k INTEGER PRIMARY KEY, other TEXT)")
    row, created = await get_or_create(
        db.handle, "made", key={"k": 1}, defaults={"other": "x"}
    )
    assert (row, created) == ({"k": 1, "other": "x"}, True)


@every_handle
@every_strategy
async def test_without_a_transaction_a_call_is_committed_when_it_returns(
    counters: Database, strategy: Strategy
) -> None:
    for key, row in (("new", ("new", 1)), ("old", ("old", 11))):
        await count(counters.handle, key, strategy=strategy)
        assert row in await stored(counters)


# --- timeout ---


@asynccontextmanager
async def obstacle(db: Database) -> AsyncIterator[None]:
    """Let every write fail with an error after which another attempt is right."""
    if isinstance(db, SQLiteDatabase):
        await execute(db.handle, "PRAGMA busy_timeout = 0")
        async with db.connect() as other:
            await other.execute("BEGIN IMMEDIATE")
            yield
            await other.execute("ROLLBACK")
    else:
        await db.run(
            """
            CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN RAISE serialization_failure; END $$;
            CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON counters
                FOR EACH ROW EXECUTE FUNCTION fail()
            """
        )
        yield
        await db.run("DROP TRIGGER fail ON counters")


@every_handle
@pytest.mark.parametrize("timeout", [0, 0.05], ids=["none", "little"])
@pytest.mark.parametrize("key", ["new", "old"], ids=["create", "update"])
async def test_attempts_end_with_the_timeout(
    counters: Database, key: str, timeout: float
) -> None:
    await preview(counters.handle, "counters", key={"k": key})  # an engine connects
    async with obstacle(counters):
        with pytest.raises(RetriesExhaustedError) as caught:
            await count(counters.handle, key, timeout=timeout)
        assert caught.value.__cause__ is not None
        assert await stored(counters) == [("old", 10)]
    # The connection is as usable as before.
    result = await count(counters.handle, key, timeout=timeout)
    assert result.created is (key == "new")


@every_handle
@pytest.mark.parametrize("timeout", [0, 0.05], ids=["none", "little"])
async def test_attempts_of_get_or_create_end_too(
    counters: Database, timeout: float
) -> None:
    await preview(counters.handle, "counters", key={"k": "x"})  # an engine connects
    call = get_or_create(counters.handle, "counters", key={"k": "x"}, timeout=timeout)
    async with obstacle(counters):
        with pytest.raises(RetriesExhaustedError):
            await call
    assert await stored(counters) == [("old", 10)]


@every_handle
@pytest.mark.parametrize("timeout", [None, 0, 0.5, 60], ids=str)
async def test_a_call_that_meets_no_obstacle_needs_no_time(
    counters: Database, timeout: float | None
) -> None:
    results = [
        await count(counters.handle, key, timeout=timeout) for key in ("new", "new")
    ]
    assert [result.created for result in results] == [True, False]
    found = await get_or_create(
        counters.handle, "counters", key={"k": "new"}, timeout=timeout
    )
    assert found.row == {"k": "new", "n": 2}
