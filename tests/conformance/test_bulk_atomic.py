"""All rows or none; or batch by batch; and whose transaction it is."""

from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import psycopg
import pytest

from aioupsert import (
    BulkError,
    BulkResult,
    create_or_update,
    create_or_update_many,
    iter_create_or_update,
)
from tests.support.databases import (
    CONNECTIONS,
    LITE_MODES,
    Database,
    LiteFactory,
    PostgresDatabase,
    every_handle,
    execute,
    fetched,
    has_all_back,
    is_open,
)
from tests.support.violations import ABORTED, FOREIGN_KEY

TABLE: Final = "CREATE TABLE t (k integer PRIMARY KEY, a integer CHECK (a >= 0))"
ROWS: Final = [{"k": n, "a": n} for n in range(30)]
BAD: Final[list[dict[str, Any]]] = [*ROWS[:25], {"k": 25, "a": -1}]

engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)


@pytest.fixture
async def made(db: Database) -> None:
    await db.run(TABLE)


async def stored(db: Database) -> int:
    ((number,),) = await db.query("SELECT count(*) FROM t")
    assert isinstance(number, int)
    return number


class Watched:
    """Rows, with a note of how many were committed as each was asked for."""

    def __init__(self, db: Database, rows: list[dict[str, Any]]) -> None:
        self.seen: list[int] = []
        self._db = db
        self._rows = rows

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        for row in self._rows:
            self.seen.append(await stored(self._db))
            yield row


# --- Its own transaction ----------------------------------------------------------------


@every_handle
@pytest.mark.usefixtures("made")
async def test_nothing_is_seen_before_everything_is(db: Database) -> None:
    rows = Watched(db, ROWS)
    result = await create_or_update_many(db.handle, "t", rows, key="k", batch_size=5)
    assert result == BulkResult(created=30)
    assert {*rows.seen} == {0}
    assert await stored(db) == 30


@every_handle
@pytest.mark.usefixtures("made")
async def test_without_atomic_each_batch_is_committed(db: Database) -> None:
    rows = Watched(db, ROWS)
    await create_or_update_many(
        db.handle, "t", rows, key="k", batch_size=5, atomic=False
    )
    assert {*rows.seen} <= {*range(0, 30, 5)}
    assert len({*rows.seen}) > 3
    assert await stored(db) == 30


@every_handle
@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("atomic", [True, False])
async def test_nothing_is_open_afterwards(db: Database, *, atomic: bool) -> None:
    for rows in (ROWS, BAD):
        try:
            await create_or_update_many(
                db.handle, "t", rows, key="k", batch_size=7, atomic=atomic
            )
        except BulkError as error:
            assert error.index == 25  # noqa: PT017  # or there is none
    assert not is_open(db)
    # Nobody holds a lock.
    await db.run("DELETE FROM t")
    assert await stored(db) == 0


@engines
@pytest.mark.usefixtures("made")
async def test_a_foreign_key_checked_at_the_commit_undoes_everything(
    db: Database,
) -> None:
    await db.run(
        "CREATE TABLE c (k integer PRIMARY KEY, t integer"
        " REFERENCES t DEFERRABLE INITIALLY DEFERRED); INSERT INTO t VALUES (1, 1)"
    )
    if db.engine == "sqlite":
        await execute(db.handle, "PRAGMA foreign_keys = on")
    rows = [{"k": n, "t": 1} for n in range(9)]
    rows += [{"k": 9, "t": 2}]
    with pytest.raises((*FOREIGN_KEY, BulkError)):
        await create_or_update_many(db.handle, "c", rows, key="k", batch_size=4)
    assert await db.query("SELECT * FROM c") == []
    result = await create_or_update_many(db.handle, "c", rows[:9], key="k")
    assert result == BulkResult(created=9)


# --- The caller's transaction -----------------------------------------------------------


@every_handle
@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("size", [None, 7])
async def test_in_a_callers_transaction_nothing_is_committed(
    db: Database, size: int | None, *, atomic: bool
) -> None:
    async with db.transaction() as conn:
        result = await create_or_update_many(
            conn, "t", ROWS, key="k", batch_size=size, atomic=atomic
        )
        assert result == BulkResult(created=30)
        assert await stored(db) == 0
    assert await stored(db) == 30


class UndoneError(Exception):
    pass


@every_handle
@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("atomic", [True, False])
async def test_the_callers_rollback_undoes_it(db: Database, *, atomic: bool) -> None:
    with pytest.raises(UndoneError):  # raised at the block's end
        async with db.transaction() as conn:
            await create_or_update_many(
                conn, "t", ROWS, key="k", batch_size=7, atomic=atomic
            )
            raise UndoneError
    assert await stored(db) == 0
    assert await create_or_update_many(db.handle, "t", ROWS, key="k") == BulkResult(
        created=30
    )


@every_handle
@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("size", [None, 7])
async def test_an_atomic_call_that_fails_undoes_its_own_rows_only(
    db: Database, size: int | None
) -> None:
    async with db.transaction() as conn:
        await create_or_update(conn, "t", key={"k": 3}, defaults={"a": 99})
        with pytest.raises(BulkError):
            await create_or_update_many(conn, "t", BAD, key="k", batch_size=size)
        await create_or_update(conn, "t", key={"k": 100}, defaults={"a": 1})
    assert await db.query("SELECT k, a FROM t ORDER BY k") == [(3, 99), (100, 1)]


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("db", ["asyncpg", "pooled", "psycopg"], indirect=True)
async def test_an_aborted_transaction_is_the_databases_error(
    db: PostgresDatabase,
) -> None:
    await create_or_update_many(db.handle, "t", ROWS, key="k")
    await db.handle.execute("BEGIN")
    with pytest.raises((asyncpg.DivisionByZeroError, psycopg.errors.DivisionByZero)):
        await db.handle.execute("SELECT 1 / 0")
    with pytest.raises(ABORTED):
        await create_or_update_many(db.handle, "t", ROWS, key="k")
    await db.handle.execute("ROLLBACK")
    assert await stored(db) == 30


async def settings(db: PostgresDatabase) -> list[tuple[str, str]]:
    sql = "SELECT name, setting FROM pg_settings"
    return [(row["name"], row["setting"]) for row in await fetched(db.handle, sql)]


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("db", ["asyncpg", "pooled", "psycopg"], indirect=True)
async def test_settings_of_the_session_are_left_as_they_were(
    db: PostgresDatabase,
) -> None:
    # A numbered table of which rows are there is joined with many rows.
    await db.run("ALTER TABLE t ADD id serial")
    await db.handle.execute("SET jit = on; SET enable_hashjoin = off")
    before = await settings(db)
    for number in (20, 6_000):
        rows = [{"k": n, "a": n} for n in range(number)]
        for inside in (False, True):
            if inside:
                await db.handle.execute("BEGIN")
            for skip in (False, True):
                await create_or_update_many(
                    db.handle, "t", rows, key="k", skip_unchanged=skip
                )
            changed = {*await settings(db)} ^ {*before}
            assert not {name for name, _ in changed} - {"transaction_isolation"}
            if inside:
                await db.handle.execute("ROLLBACK")


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("db", ["asyncpg", "pooled", "psycopg"], indirect=True)
async def test_the_temporary_table_that_is_left_is_empty(
    db: PostgresDatabase, *, inside: bool
) -> None:
    await db.run("ALTER TABLE t ADD id serial")
    rows = [{"k": n, "a": n} for n in range(6_000)]
    if inside:
        await db.handle.execute("BEGIN")
    for last in (1, -1):
        rows[-1]["a"] = last
        if last < 0:
            with pytest.raises(BulkError, match="row 5999"):
                await create_or_update_many(db.handle, "t", rows, key="k")
        else:
            await create_or_update_many(db.handle, "t", rows, key="k")
        (left,) = await fetched(
            db.handle,
            "SELECT relname FROM pg_class"
            " WHERE relkind = 'r' AND relnamespace = pg_my_temp_schema()",
        )
        rows_left = await fetched(db.handle, f"SELECT FROM pg_temp.{left['relname']}")
        assert rows_left == []
    if inside:
        await db.handle.execute("COMMIT")
    assert await stored(db) == 6_000


# --- Modes of SQLite --------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("mode", LITE_MODES)
async def test_in_every_mode_of_a_connection(
    lite: Database, lite_factory: LiteFactory, mode: str, *, inside: bool
) -> None:
    await lite.run(TABLE)
    conn = await lite_factory(**LITE_MODES[mode])
    begun_by_driver = conn.in_transaction
    if inside and not begun_by_driver:
        await conn.execute("BEGIN")
    with pytest.raises(BulkError):
        await create_or_update_many(conn, "t", BAD, key="k", batch_size=7)
    result = await create_or_update_many(conn, "t", ROWS, key="k", batch_size=7)
    assert result == BulkResult(created=30)
    assert conn.in_transaction == (inside or begun_by_driver)
    # With autocommit=False a transaction is always open, and so it is the caller's.
    assert await stored(lite) == (0 if inside or begun_by_driver else 30)
    if inside or begun_by_driver:
        # In autocommit mode commit() does nothing.
        await (conn.commit() if begun_by_driver else conn.execute("COMMIT"))
    assert await stored(lite) == 30


# --- Results in turn --------------------------------------------------------------------


@every_handle
@pytest.mark.usefixtures("made")
async def test_a_batch_is_committed_before_its_results_are_given(db: Database) -> None:
    seen = 0
    async for result in iter_create_or_update(
        db.handle, "t", ROWS, key="k", batch_size=4
    ):
        assert result.created
        seen += 1
        assert await stored(db) >= seen


@every_handle
@pytest.mark.usefixtures("made")
async def test_nothing_is_open_while_results_are_given(db: Database) -> None:
    async for _ in iter_create_or_update(db.handle, "t", ROWS, key="k", batch_size=4):
        assert not is_open(db)


@every_handle
@pytest.mark.usefixtures("made")
async def test_a_caller_who_stops_keeps_whole_batches(db: Database) -> None:
    results = iter_create_or_update(db.handle, "t", ROWS, key="k", batch_size=4)
    for _ in range(6):
        await anext(results)
    await results.aclose()
    assert await stored(db) == 8
    assert await create_or_update_many(db.handle, "t", ROWS, key="k") == BulkResult(
        created=22, updated=8
    )


@every_handle
@pytest.mark.usefixtures("made")
async def test_results_in_a_callers_transaction_are_the_callers_to_commit(
    db: Database,
) -> None:
    with pytest.raises(UndoneError):  # raised at the block's end
        async with db.transaction() as conn:
            async for result in iter_create_or_update(
                conn, "t", ROWS, key="k", batch_size=4
            ):
                assert result.created
            assert await stored(db) == 0
            raise UndoneError
    assert await stored(db) == 0


@every_handle
@pytest.mark.usefixtures("made")
async def test_other_calls_on_the_connection_may_run_between_results(
    db: Database,
) -> None:
    async for result in iter_create_or_update(
        db.handle, "t", ROWS, key="k", batch_size=4, returning="k"
    ):
        assert result.row is not None
        await create_or_update(
            db.handle, "t", key={"k": result.row["k"] + 1_000}, defaults={"a": 0}
        )
    assert await stored(db) == 60


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
async def test_a_pool_gets_its_connection_back_between_batches(
    db: PostgresDatabase,
) -> None:
    async for _ in iter_create_or_update(db.handle, "t", ROWS, key="k", batch_size=4):
        assert await has_all_back(db.handle)
