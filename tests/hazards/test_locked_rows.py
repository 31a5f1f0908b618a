"""A coalescer over a pool, while other sessions have some of the rows locked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import asyncpg
import psycopg
import psycopg_pool
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from aioupsert import (
    SQL,
    Action,
    Coalescer,
    Event,
    F,
    RetriesExhaustedError,
    create_or_update_many,
    is_retryable,
    on_event,
)
from aioupsert._bulk import parallel
from tests.support.coalescing import (
    ADD,
    PATIENCE,
    TABLE,
    begin,
    blocked,
    locked,
    numbers,
    outcomes,
)
from tests.support.databases import PostgresDatabase, psycopg_settings, settings
from tests.support.servers import Server

of_pool = pytest.mark.parametrize(
    "db",
    ["pool", "psycopg_pool", "engine of asyncpg", "engine of psycopg"],
    indirect=True,
)
on_pool = pytest.mark.parametrize("db", ["pool"], indirect=True)


@asynccontextmanager
async def held(db: PostgresDatabase, *keys: int) -> AsyncIterator[list[Any]]:
    """Rows that are locked by a session each; yields what commits each."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(locked(db, key)) for key in keys]


async def has_set_aside(coalescer: Coalescer, number: int) -> None:
    """Return once so many calls wait apart from the others."""
    async with asyncio.timeout(PATIENCE):
        while coalescer.stats.waiting_for_lock != number:  # noqa: ASYNC110  # it has no event
            await asyncio.sleep(0.001)


def expect_locks(coalescer: Coalescer) -> None:
    coalescer._sender._suspicious_until = float("inf")


@of_pool
@pytest.mark.parametrize("rows", ["existing", "new"])
async def test_calls_for_other_rows_go_on(db: PostgresDatabase, rows: str) -> None:
    await db.run(TABLE)
    if rows == "existing":
        await db.run("INSERT INTO t SELECT i, 0 FROM generate_series(1, 20) i")
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        await coalescer.create_or_update(key={"k": 0})
        async with held(db, 1, 2) as (one, two):
            tasks = begin(coalescer, *range(1, 21))
            others = await outcomes(tasks[2:])
            assert {r.created for r in others} == {rows == "new"}
            # Calls for the same rows keep their order behind those that wait.
            tasks += begin(coalescer, 1, 2, returning="n")
            await outcomes(begin(coalescer, *range(3, 21)))
            await has_set_aside(coalescer, 2)
            assert not any(task.done() for task in (*tasks[:2], *tasks[20:]))
            assert len(await blocked(db)) == 1
            await two()
            first, then = await outcomes([tasks[1], tasks[21]])
            assert (first.action, then.row) == (Action.UPDATED, {"n": 2})
            assert not tasks[0].done()
            await one()
            _, then = await outcomes([tasks[0], tasks[20]])
            assert then.row == {"n": 2}
    assert await numbers(db) == {0: 0, **dict.fromkeys(range(1, 21), 2)}
    assert coalescer.stats.waiting_for_lock == 0


async def test_they_go_on_over_the_only_connection(
    pg: PostgresDatabase, pg_server: Server
) -> None:
    await pg.run(TABLE)
    async with (
        asyncpg.create_pool(
            pg_server.dsn, min_size=1, max_size=1, server_settings=settings(pg.schema)
        ) as pool,
        Coalescer(pool, "t", key="k") as coalescer,
    ):
        async with locked(pg, 1):
            waits = begin(coalescer, 1)
            await has_set_aside(coalescer, 1)
            for _ in range(3):
                await outcomes(begin(coalescer, *range(2, 10)))
            assert not waits[0].done()
        (result,) = await outcomes(waits)
        assert result.action == Action.UPDATED
    assert await numbers(pg) == {1: 1, **dict.fromkeys(range(2, 10), 3)}


@of_pool
async def test_rows_that_are_locked_one_after_the_other_are_found(
    db: PostgresDatabase,
) -> None:
    """Batches are looked at before they are sent, for a while."""
    await db.run(TABLE)
    await db.run("INSERT INTO t SELECT i, 0 FROM generate_series(1, 9) i")
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        await coalescer.create_or_update(key={"k": 9})
        expect_locks(coalescer)
        async with held(db, 1, 2, 3) as ends:
            waits = []
            for key in (1, 2, 3):
                waits += begin(coalescer, key)
                await outcomes(begin(coalescer, *range(4, 9)))
            await has_set_aside(coalescer, 3)
            for end in ends:
                await end()
            await outcomes(waits)
    assert await numbers(db) == {
        **dict.fromkeys(range(4, 9), 3),
        1: 1,
        2: 1,
        3: 1,
        9: 0,
    }


@on_pool
async def test_what_is_locked_may_be_another_row(db: PostgresDatabase) -> None:
    """That of a foreign key: the rows themselves could be locked."""
    await db.run(
        "CREATE TABLE parents (k integer PRIMARY KEY);"
        "INSERT INTO parents VALUES (1), (2);"
        "CREATE TABLE t (k integer PRIMARY KEY, n integer REFERENCES parents);"
        "INSERT INTO t SELECT i, NULL FROM generate_series(1, 6) i"
    )
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        async with db.connect() as other:
            await other.execute("BEGIN; DELETE FROM parents WHERE k = 2")
            waits = begin(coalescer, 1, 2, defaults={"n": 2})
            await outcomes(begin(coalescer, 3, 4, 5, defaults={"n": 1}))
            await has_set_aside(coalescer, 2)
            async with asyncio.timeout(PATIENCE):
                hindered = coalescer._dispatcher._locked._hindered
                while len(hindered) < 2:
                    await asyncio.sleep(0.01)
                    hindered = coalescer._dispatcher._locked._hindered
            waits += begin(coalescer, 6, defaults={"n": 2})
            await has_set_aside(coalescer, 3)
            await other.execute("ROLLBACK")
        results = await outcomes(waits)
    assert {r.action for r in results} == {Action.UPDATED}
    assert await numbers(db) == {1: 2, 2: 2, 3: 1, 4: 1, 5: 1, 6: 2}


@on_pool
async def test_rows_that_are_written_one_by_one_are_tried_one_by_one(
    db: PostgresDatabase,
) -> None:
    """It cannot be told which of them are locked."""
    # Rows are looked for by the values of their keys, and one has none.
    await db.run("CREATE TABLE t (k integer, n integer DEFAULT 0)")
    await db.run("INSERT INTO t SELECT i, 0 FROM generate_series(1, 6) i")
    await db.run("INSERT INTO t VALUES (NULL, 0)")
    async with (
        db.connect() as other,
        Coalescer(
            db.handle, "t", key="k", without_unique_index="lock", max_delay=0.01
        ) as coalescer,
    ):
        await other.execute("BEGIN; UPDATE t SET n = n WHERE k < 3")
        tasks = [
            asyncio.create_task(coalescer.create_or_update(key={"k": k}, defaults=ADD))
            for k in (*range(1, 7), None)
        ]
        await outcomes(tasks[2:])
        assert not any(task.done() for task in tasks[:2])
        await other.execute("COMMIT")
        await outcomes(tasks)
    assert await numbers(db) == dict.fromkeys((*range(1, 7), None), 1)


@on_pool
async def test_observers_see_every_call_in_one_batch(db: PostgresDatabase) -> None:
    await db.run(TABLE)
    events: list[Event] = []
    stop = on_event(events.append)
    try:
        async with Coalescer(db.handle, "t", key="k") as coalescer:
            await coalescer.create_or_update(key={"k": 0})
            async with locked(db, 1, 2):
                tasks = begin(coalescer, *range(1, 9))
                await has_set_aside(coalescer, 2)
                await outcomes(tasks[2:])
            await outcomes(tasks)
    finally:
        stop()
    batches = [e for e in events if e.operation == "Coalescer.batch"]
    assert sum(event.rows for event in batches) == 9
    assert sum(event.result.rows for event in batches) == 9
    calls = [e for e in events if e.operation == "Coalescer.create_or_update"]
    assert len(calls) == 9


# --- How long a call waits ----------------------------------------------------------------


@asynccontextmanager
async def asyncpg_with(
    dsn: str, schema: str, setting: dict[str, str]
) -> AsyncIterator[Any]:
    async with asyncpg.create_pool(
        dsn, min_size=1, max_size=4, server_settings={**settings(schema), **setting}
    ) as pool:
        yield pool


@asynccontextmanager
async def psycopg_with(
    dsn: str, schema: str, setting: dict[str, str]
) -> AsyncIterator[Any]:
    options = psycopg_settings(schema)
    for name, value in setting.items():
        options["options"] += f" -c {name}={value}"
    async with psycopg_pool.AsyncConnectionPool(
        dsn, kwargs=options, min_size=1, max_size=4
    ) as pool:
        yield pool


@asynccontextmanager
async def engine_with(
    dsn: str, schema: str, setting: dict[str, str]
) -> AsyncIterator[Any]:
    url = dsn.partition("?")[0].replace("postgresql", "postgresql+asyncpg", 1)
    options = {"server_settings": {**settings(schema), **setting}}
    engine = create_async_engine(url, connect_args=options)
    yield engine
    await engine.dispose()


ERRORS: Final = {
    asyncpg_with: asyncpg.LockNotAvailableError,
    psycopg_with: psycopg.errors.LockNotAvailable,
    engine_with: DBAPIError,
}


@pytest.mark.parametrize(
    ("opened", "setting"),
    [
        (asyncpg_with, "lock_timeout"),
        (asyncpg_with, "statement_timeout"),
        (psycopg_with, "lock_timeout"),
        (engine_with, "statement_timeout"),
    ],
)
async def test_a_setting_of_the_caller_s_fails_the_calls_for_locked_rows(
    pg: PostgresDatabase, pg_server: Server, opened: Any, setting: str
) -> None:
    await pg.run(TABLE)
    await pg.run("INSERT INTO t VALUES (1, 0), (2, 0)")
    async with (
        opened(pg_server.dsn, pg.schema, {setting: "300ms"}) as pool,
        Coalescer(pool, "t", key="k") as coalescer,
        pg.connect() as other,
    ):
        await other.execute("BEGIN; UPDATE t SET n = n WHERE k < 3")
        tasks = begin(coalescer, *range(1, 10), 1)
        results = await outcomes(tasks)
        failed = [n for n, r in enumerate(results) if isinstance(r, Exception)]
        assert failed == [0, 1, 9]
        session = other.get_server_pid()
        for n in failed:
            assert isinstance(results[n], ERRORS[opened])
            assert results[n].__notes__ == [
                f"aioupsert: the row is locked by session {session}"
            ]
        assert not coalescer.stats.waiting_for_lock
        await other.execute("ROLLBACK")
        # The rows are no longer locked.
        assert all(r.created is False for r in await outcomes(begin(coalescer, 1, 2)))
    assert (await numbers(pg))[1] == 1


@on_pool
@pytest.mark.parametrize("rows", ["existing", "new"])
async def test_the_timeout_is_for_waiting_for_a_lock_too(
    db: PostgresDatabase, rows: str
) -> None:
    """The error says for whom, where a row shows it."""
    await db.run(TABLE)
    if rows == "existing":
        await db.run("INSERT INTO t VALUES (1, 0)")
    async with (
        Coalescer(db.handle, "t", key="k") as coalescer,
        db.connect() as other,
    ):
        assert coalescer._dispatcher._locked._timeout == 30
        coalescer._dispatcher._locked._timeout = 0.1
        await other.execute("BEGIN")
        await other.execute(
            "INSERT INTO t VALUES (1) ON CONFLICT (k) DO UPDATE SET n = t.n"
        )
        failed, *others = await outcomes(begin(coalescer, 1, 2, 3))
        assert all(r.created for r in others)
        by = f"session {other.get_server_pid()}"
        if rows == "new":
            by = "another session"
        assert str(failed) == (
            f"the row was locked by {by} until the timeout; nothing is stored"
        )
        assert isinstance(failed, RetriesExhaustedError)
        assert is_retryable(failed)
        await other.execute("ROLLBACK")
    assert (await numbers(db)).get(1, 0) == 0


@on_pool
async def test_whoever_waits_for_a_lock_can_be_cancelled(db: PostgresDatabase) -> None:
    await db.run(TABLE)
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        async with locked(db, 1):
            first, second = begin(coalescer, 1, 1)
            await has_set_aside(coalescer, 1)
            first.cancel()
            await asyncio.sleep(0)
            # The next one for the row has its turn.
            await has_set_aside(coalescer, 1)
            second.cancel()
            await has_set_aside(coalescer, 0)
            last = begin(coalescer, 1)
        await outcomes(last)
    # Others were left to finish if they were just tried.
    assert (await numbers(db))[1] in {1, 2, 3}


@on_pool
async def test_a_lost_connection_fails_the_calls_that_wait_for_locks(
    db: PostgresDatabase,
) -> None:
    await db.run(TABLE)
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        async with locked(db, 1):
            waits = begin(coalescer, 1)
            await has_set_aside(coalescer, 1)
            (process,) = await blocked(db)
            await db.run(f"SELECT pg_terminate_backend({process})")
            (result,) = await outcomes(waits)
            assert isinstance(result, Exception)
            # Others wait anew.
            waits = begin(coalescer, 1)
            await has_set_aside(coalescer, 1)
        await outcomes(waits)
    assert await numbers(db) == {1: 1}


@on_pool
async def test_a_table_that_changes_while_locks_are_expected(
    db: PostgresDatabase,
) -> None:
    await db.run(TABLE)
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        await outcomes(begin(coalescer, 1, 2))
        expect_locks(coalescer)
        await db.run("ALTER TABLE t RENAME n TO m")
        results = await outcomes(begin(coalescer, 1, 2, defaults={"m": F("m") + 1}))
        assert {r.action for r in results} == {Action.UPDATED}


@on_pool
async def test_shapes_without_number_do_not_fill_the_memory(
    db: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioupsert._coalescer.sending._MAX_SHAPES", 3)
    await db.run(TABLE)
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        for number in range(8):
            values = {"n": SQL(f"{number}")}
            await coalescer.create_or_update(key={"k": 1}, defaults=values)
        assert len(coalescer._sender._shapes) <= 3
    assert await numbers(db) == {1: 7}


@of_pool
async def test_the_settings_of_connections_stay_as_they_are(
    db: PostgresDatabase,
) -> None:
    await db.run(TABLE)
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        async with locked(db, 1):
            waits = begin(coalescer, 1, 2)
            await has_set_aside(coalescer, 1)
        await outcomes(waits)
    async with db.transaction() as connection:
        if isinstance(connection, AsyncConnection):
            rows = (await connection.execute(text("SHOW lock_timeout"))).all()
        elif isinstance(connection, psycopg.AsyncConnection):
            rows = await (await connection.execute("SHOW lock_timeout")).fetchall()
        else:
            rows = await connection.fetch("SHOW lock_timeout")
    assert [tuple(row) for row in rows] == [("0",)]


# --- Many rows over several connections ---------------------------------------------------


async def has_stored(db: PostgresDatabase, number: int) -> None:
    """Return once so many rows are as they are to be."""
    async with asyncio.timeout(PATIENCE):
        count = "SELECT count(*) FROM t WHERE n > 0"
        while await db.query(count) != [(number,)]:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)


@of_pool
@pytest.mark.parametrize("rows", ["existing", "new"])
async def test_other_rows_of_a_bulk_call_over_several_connections_go_on(
    db: PostgresDatabase, rows: str
) -> None:
    await db.run(TABLE)
    if rows == "existing":
        await db.run("INSERT INTO t SELECT i, 0 FROM generate_series(0, 39) i")
    # Each key three times; the last value stays.
    values = [{"k": k % 40, "n": k // 40 + 1} for k in range(120)]
    async with held(db, 3, 4, 17) as ends:
        call = asyncio.create_task(
            create_or_update_many(
                db.handle, "t", values, key="k", batch_size=10, connections=2
            )
        )
        await has_stored(db, 37)
        assert not call.done()
        for end in ends:
            await end()
        result = await call
    assert result.rows == 120
    assert await numbers(db) == dict.fromkeys(range(40), 3)


@on_pool
async def test_a_row_that_waits_for_another_one_s_value_is_found_by_halving(
    db: PostgresDatabase,
) -> None:
    await db.run(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer UNIQUE);"
        "INSERT INTO t SELECT i, 0 - i FROM generate_series(1, 10) i"
    )
    values = [{"k": k, "n": k} for k in range(1, 11)]
    async with db.connect() as other:
        # The row itself can be locked.
        await other.execute("BEGIN; INSERT INTO t VALUES (100, 6)")
        call = asyncio.create_task(
            create_or_update_many(
                db.handle, "t", values, key="k", batch_size=10, connections=2
            )
        )
        await has_stored(db, 9)
        assert not call.done()
        await other.execute("ROLLBACK")
        assert (await call).updated == 10
    assert await numbers(db) == {k: k for k in range(1, 11)}


@on_pool
async def test_not_any_number_of_rows_is_kept_until_the_end(
    db: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_MOST_ASIDE", 1)
    await db.run(TABLE)
    values = [{"k": k, "n": 1} for k in range(40)]
    async with locked(db, 0) as commit:
        call = asyncio.create_task(
            create_or_update_many(
                db.handle, "t", values, key="k", batch_size=2, connections=2
            )
        )
        async with asyncio.timeout(PATIENCE):
            # Longer than a batch waits.
            while not await waits_longer(db):  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.01)
        await commit()
        assert (await call).rows == 40
    assert await numbers(db) == dict.fromkeys(range(40), 1)


async def waits_longer(db: PostgresDatabase) -> bool:
    rows = await db.query(
        "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        " AND query_start < clock_timestamp() - interval '100 ms'"
        f" AND application_name = '{db.schema}'"
    )
    return bool(rows)


@on_pool
async def test_a_row_at_fault_is_so_while_others_are_locked(
    db: PostgresDatabase,
) -> None:
    await db.run(f"{TABLE[:-1]}, CHECK (n < 9))")
    values = [{"k": k, "n": 9 if k == 7 else 1} for k in range(20)]
    async with locked(db, 3, 4):
        call = asyncio.create_task(
            create_or_update_many(
                db.handle,
                "t",
                values,
                key="k",
                batch_size=10,
                connections=2,
                atomic=False,
                on_error="skip",
            )
        )
        await has_stored(db, 17)
    result = await call
    assert [error.index for error in result.rejected] == [7]
    assert result.rows == 20
