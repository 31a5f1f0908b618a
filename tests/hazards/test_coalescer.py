"""A coalescer under load and in trouble: flags are exact, and every caller is answered."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import asyncpg
import psycopg
import psycopg_pool
import pytest

from aioupsert import (
    SQL,
    Action,
    Coalescer,
    CoalescerClosedError,
    Expression,
    F,
    NotAppliedError,
    Result,
    create_or_update,
    create_or_update_many,
)
from aioupsert._coalescer import sending
from tests.support.cancellation import CancelledAt
from tests.support.coalescing import (
    ADD,
    NOT_SENT,
    PATIENCE,
    TABLE,
    UNKNOWN,
    asleep,
    begin,
    blocked,
    locked,
    make_sleepy,
    numbers,
    outcomes,
    unblocked,
    wake,
)
from tests.support.databases import (
    Database,
    PostgresDatabase,
    SQLiteDatabase,
    all_taken,
    every_handle,
    fetched,
    has_begun,
    lent,
    pooling,
)
from tests.support.sessions import idle
from tests.support.violations import CHECK, ENDED, LOST

# What the driver raises depends on how far the thread has come.
CLOSED: Final = (ValueError, sqlite3.ProgrammingError)
GONE: Final = (*ENDED, psycopg.OperationalError)
# So many calls are made where each may be cancelled or be wrong; more take longer, and
# show rarer things.
CALLS: Final = 2_000
of_pool = pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
of_postgresql = pytest.mark.parametrize(
    "db", ["asyncpg", "pool", "psycopg", "psycopg_pool"], indirect=True
)
# A batch over a pool gives way when a row is locked, which changes what happens next.
of_connection = pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)


@pytest.fixture(autouse=True)
async def quiet() -> AsyncIterator[None]:
    """See that nothing is left behind, and nothing complained of to the loop."""
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    yield
    await asyncio.sleep(0)
    loop.set_exception_handler(None)  # the loop is that of the next test, too
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert complaints == []


@pytest.fixture
async def plain(db: Database) -> Database:
    await db.run(TABLE)
    return db


async def is_whole(db: Database) -> None:
    """See that the pool has every connection back, and none in a transaction."""
    async with asyncio.timeout(5), all_taken(db.handle) as conns:
        assert not any(map(has_begun, conns))
    assert isinstance(db, PostgresDatabase)
    assert await idle(db)


# --- Many at once -------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["plain", "numbered"])
@of_pool
async def test_beside_deleters_nothing_is_lost_or_counted_twice(
    db: Database, table: str
) -> None:
    serial = "id serial, " if table == "numbered" else ""
    await db.run(f"CREATE TABLE t ({serial}k integer PRIMARY KEY, n integer DEFAULT 0)")
    brought: Counter[int] = Counter()
    created: Counter[int] = Counter()
    deleted: Counter[int] = Counter()
    deletes: Counter[int] = Counter()

    async def write(coalescer: Coalescer, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        for _ in range(25):
            key, number = choose.randrange(20), choose.choice([1, 2, 5, -1])
            result = await coalescer.create_or_update(
                key={"k": key}, defaults={"n": F("n") + number}
            )
            assert result.rows_affected == 1
            brought[key] += number
            created[key] += result.created

    async def delete(seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        async with db.connect() as conn:
            for _ in range(60):
                key = choose.randrange(20)
                sql = f"DELETE FROM t WHERE k = {key} RETURNING n"
                for row in await fetched(conn, sql):
                    deletes[key] += 1
                    deleted[key] += row["n"]

    async with (
        Coalescer(db.handle, "t", key="k", concurrency=3) as coalescer,
        asyncio.TaskGroup() as group,
    ):
        for seed in range(40):
            group.create_task(write(coalescer, seed))
        for seed in range(3):
            group.create_task(delete(seed))
    stored = await numbers(db)
    for key in range(20):
        assert deleted[key] + stored.get(key, 0) == brought[key]
        assert deletes[key] + (key in stored) == created[key]
    assert coalescer.stats.largest_batch > 1
    await is_whole(db)


@every_handle
async def test_several_coalescers_and_plain_calls_share_a_table(
    plain: Database,
) -> None:
    created = 0

    async def write(call: Callable[..., Any], seed: int) -> None:
        nonlocal created
        keys = random.Random(seed).sample(range(30), 30)  # noqa: S311  # no secret
        for key in keys:
            result = await call(key={"k": key}, defaults=ADD)
            created += result.created

    async def write_many(seed: int) -> None:
        nonlocal created
        keys = random.Random(seed).sample(range(30), 30)  # noqa: S311  # no secret
        result = await create_or_update_many(
            plain.handle, "t", [{"k": key} for key in keys], key="k", update=ADD
        )
        created += result.created

    def one(**call: Any) -> Any:
        return create_or_update(plain.handle, "t", **call)

    async with (
        Coalescer(plain.handle, "t", key="k") as first,
        Coalescer(plain.handle, "t", key="k", max_batch=5) as second,
        asyncio.TaskGroup() as group,
    ):
        for seed in range(6):
            for call in (first.create_or_update, second.create_or_update, one):
                group.create_task(write(call, seed))
            group.create_task(write_many(seed))
    assert created == 30
    # A row that a bulk call creates has the column's default.
    assert {*(await numbers(plain)).values()} <= {23, 24}


class Crowd:
    """Callers of which some are wrong, and some are cancelled; and what they are told."""

    def __init__(self, coalescer: Coalescer) -> None:
        self.answered: Counter[int] = Counter()
        self.created: Counter[int] = Counter()
        self.cancelled: Counter[int] = Counter()
        self.wrong = 0
        self._coalescer = coalescer

    async def call(self, key: int, *, is_wrong: bool) -> None:
        added = F("n") + (1_000_000 if is_wrong else 1)
        try:
            result = await self._coalescer.create_or_update(
                key={"k": key}, defaults={"n": added}
            )
        except CHECK:
            assert is_wrong
            self.wrong += 1
        except asyncio.CancelledError:
            self.cancelled[key] += not is_wrong
            raise
        else:
            assert not is_wrong
            self.answered[key] += 1
            self.created[key] += result.created

    def check(self, stored: dict[int, int]) -> None:
        for key in {*stored, *self.answered, *self.cancelled}:
            least, most = self.answered[key], self.answered[key] + self.cancelled[key]
            assert least <= stored.get(key, 0) <= most
            # Who was cancelled may have created it.
            is_told = key in stored and not self.cancelled[key]
            assert is_told <= self.created[key] <= (key in stored)


@every_handle
async def test_whoever_is_cancelled_or_wrong_disturbs_nobody(db: Database) -> None:
    await db.run(
        "CREATE TABLE t (k integer PRIMARY KEY,"
        " n integer DEFAULT 0 CHECK (n < 1000000))"
    )
    choose = random.Random(1)  # noqa: S311  # no secret
    loop = asyncio.get_running_loop()
    tasks: list[asyncio.Task[None]] = []
    async with (
        asyncio.timeout(60),
        Coalescer(
            db.handle, "t", key="k", max_batch=200, max_pending=CALLS // 12
        ) as coalescer,
    ):
        crowd = Crowd(coalescer)
        for n in range(CALLS):
            key, is_wrong = choose.randrange(CALLS // 10), choose.random() < 0.01
            tasks.append(asyncio.create_task(crowd.call(key, is_wrong=is_wrong)))
            if choose.random() < 0.3:
                loop.call_later(choose.choice([0, 0.001, 0.01, 0.1]), tasks[-1].cancel)
            if n % 100 == 0:
                await asyncio.sleep(choose.choice([0, 0.002]))
        await asyncio.wait(tasks)
    for task in tasks:
        assert task.cancelled() or task.exception() is None
    assert crowd.wrong > 0
    assert 0 < crowd.cancelled.total() < CALLS // 2
    crowd.check(await numbers(db))
    assert coalescer.stats.failures == crowd.wrong
    assert coalescer.stats.waits > 0


@of_pool
@pytest.mark.parametrize("popular", [1, 100])
async def test_calls_for_popular_rows_keep_their_order(
    plain: Database, popular: int
) -> None:
    # More than are looked at for one batch; a row's are sent together, but in order.
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        tasks: list[asyncio.Task[Result]] = []
        for n in range(2_500):
            tasks += begin(coalescer, n % popular, defaults={"n": n})
        results = await outcomes(tasks)
    assert await numbers(plain) == {n % popular: n for n in range(2_500)}
    assert Counter(r.action for r in results) == {
        Action.CREATED: popular,
        Action.UPDATED: 2_500 - popular,
    }
    assert all(r.created for r in results[:popular])
    assert 450 <= coalescer.stats.largest_batch <= 1_000


# --- Locks --------------------------------------------------------------------------------


@of_pool
async def test_a_batch_that_waits_for_a_lock_does_not_hold_up_other_rows(
    plain: PostgresDatabase,
) -> None:
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        async with locked(plain, 1):
            waits = begin(coalescer, 1, 1)
            await blocked(plain)
            async with asyncio.timeout(PATIENCE):
                for key in range(2, 20):
                    others = await outcomes(begin(coalescer, key, key))
                    assert [r.created for r in others] == [True, False]
            # Calls for the row in question wait behind it, and in order.
            waits += begin(coalescer, 1, returning="n")
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in waits)
        results = await outcomes(waits)
    assert [r.action for r in results] == [Action.UPDATED] * 3
    assert results[-1].row == {"n": 3}
    await is_whole(plain)


@of_pool
async def test_two_batches_never_have_the_same_row(plain: PostgresDatabase) -> None:
    async with Coalescer(plain.handle, "t", key="k", concurrency=4) as coalescer:
        async with locked(plain, 1):
            tasks = begin(coalescer, 1)
            await blocked(plain)
            for n in range(5):
                tasks += begin(coalescer, 1, 10 + n, 1)
                await asyncio.sleep(0.02)
            assert len(await blocked(plain)) == 1
        await outcomes(tasks)
    assert await numbers(plain) == {1: 11, **{10 + n: 1 for n in range(5)}}


@of_pool
async def test_what_has_waited_for_the_delay_is_sent_as_soon_as_it_can_be(
    plain: PostgresDatabase,
) -> None:
    async with Coalescer(
        plain.handle, "t", key="k", max_delay=2 * PATIENCE, max_batch=2, concurrency=2
    ) as coalescer:
        dispatcher = coalescer._dispatcher
        await outcomes(begin(coalescer, 8, 9))
        async with all_taken(plain.handle):
            # Full batches, which do not wait for the delay.
            tasks = begin(coalescer, 1, 10, 2, 20)
            await asyncio.sleep(0.05)
            assert dispatcher.waiting_for_connection() == 4
            last = begin(coalescer, 3)
            await asyncio.sleep(0.05)
            dispatcher._dispatch_waited()  # as if the time had passed
            assert not last[0].done()
        await outcomes([*tasks, *last])


@of_connection
async def test_a_deadlock_is_tried_again(plain: PostgresDatabase) -> None:
    await plain.run("INSERT INTO t VALUES (1, 0), (2, 0)")
    async with (
        plain.connect() as other,
        Coalescer(plain.handle, "t", key="k", max_delay=0.01) as coalescer,
    ):
        await other.execute("SET deadlock_timeout = '10s'")
        await other.execute("BEGIN; UPDATE t SET n = 10 WHERE k = 2")
        tasks = begin(coalescer, 1, 2, 3)
        await blocked(plain)
        # The server ends whoever looks first, and that is ours.
        theirs = asyncio.create_task(other.execute("UPDATE t SET n = 10 WHERE k = 1"))
        async with asyncio.timeout(PATIENCE):
            await theirs
        await other.execute("COMMIT")
        await outcomes(tasks)
    assert coalescer.stats.retries > 0
    assert coalescer.stats.failures == 0
    assert await numbers(plain) == {1: 11, 2: 11, 3: 1}


@of_connection
async def test_a_serialization_failure_is_tried_again(
    plain: PostgresDatabase,
) -> None:
    await plain.run("INSERT INTO t VALUES (1, 0), (2, 0), (3, 0)")
    async with plain.connect() as conn:
        await conn.execute("SET default_transaction_isolation = serializable")
        async with Coalescer(conn, "t", key="k", max_delay=0.01) as coalescer:
            async with locked(plain, 2) as other:
                tasks = begin(coalescer, 1, 2, 3)
                await blocked(plain)
                await other()
            results = await outcomes(tasks)
    assert [r.action for r in results] == [Action.UPDATED] * 3
    assert coalescer.stats.retries > 0


async def test_on_sqlite_a_writer_of_another_connection_is_waited_for(
    lite: SQLiteDatabase,
) -> None:
    await lite.run(TABLE)
    await lite.handle.execute("PRAGMA busy_timeout = 10")
    async with (
        lite.connect() as other,
        Coalescer(lite.handle, "t", key="k", max_delay=0.001) as coalescer,
    ):
        await other.execute("BEGIN IMMEDIATE")
        tasks = begin(coalescer, 1, 2, 1)
        async with asyncio.timeout(PATIENCE):
            while not coalescer.stats.retries:  # noqa: ASYNC110  # it has no event
                await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks)
        await other.execute("COMMIT")
        results = await outcomes(tasks)
    assert [r.created for r in results] == [True, True, False]


async def test_no_attempt_is_made_after_the_timeout(lite: SQLiteDatabase) -> None:
    await lite.run(TABLE)
    await lite.handle.execute("PRAGMA busy_timeout = 1")
    async with (
        lite.connect() as other,
        Coalescer(lite.handle, "t", key="k", timeout=0.05) as coalescer,
    ):
        await other.execute("BEGIN IMMEDIATE")
        results = await outcomes(begin(coalescer, 1, 2, 3))
        assert [type(r).__name__ for r in results] == ["RetriesExhaustedError"] * 3
        assert all(isinstance(r.__cause__, sqlite3.OperationalError) for r in results)
        await other.execute("COMMIT")
        assert (await coalescer.create_or_update(key={"k": 1})).created


# --- Lost connections, and pools ----------------------------------------------------------


@pytest.mark.parametrize("number", [1, 5])
@of_pool
async def test_a_lost_connection_fails_the_callers_of_its_batch_only(
    plain: PostgresDatabase, number: int
) -> None:
    await make_sleepy(plain, 1)
    async with Coalescer(plain.handle, "t", key="k", max_delay=0.01) as coalescer:
        tasks = begin(coalescer, *range(1, 1 + number))
        (pid,) = await asleep(plain)
        behind = begin(coalescer, 1)
        await asyncio.sleep(0.05)
        await wake(plain)
        await plain.run(f"SELECT pg_terminate_backend({pid})")
        errors = await outcomes(tasks)
        assert all(isinstance(error, GONE) for error in errors)
        assert len({id(error) for error in errors}) == number
        # What is sent next has a connection of its own.
        await outcomes(begin(coalescer, 100, 101))
        await outcomes(behind)
        assert coalescer.stats.failures == number
    # None of them was stored, or sent again.
    assert await numbers(plain) == {1: 1, 100: 1, 101: 1}
    await is_whole(plain)


@of_connection
async def test_a_connection_that_is_gone_fails_every_call(
    plain: PostgresDatabase,
) -> None:
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        await coalescer.create_or_update(key={"k": 1})
        await plain.handle.close()
        for number in (1, 4):
            errors = await outcomes(begin(coalescer, *range(number)))
            assert [error for error in errors if not isinstance(error, GONE)] == []


@of_pool
async def test_callers_wait_while_others_have_every_connection(
    plain: PostgresDatabase,
) -> None:
    pool: Any = plain.handle
    async with Coalescer(pool, "t", key="k") as coalescer:
        async with all_taken(pool):
            tasks = begin(coalescer, *range(10))
            await asyncio.sleep(0.05)
            assert not any(task.done() for task in tasks)
            # Nothing has been sent, so these are withdrawn.
            for task in (tasks[0], tasks[4], tasks[9]):
                task.cancel()
            await asyncio.sleep(0.01)
        results = await outcomes(tasks)
    assert [n for n, r in enumerate(results) if isinstance(r, Result)] == [
        n for n in range(10) if n not in {0, 4, 9}
    ]
    assert sorted(await numbers(plain)) == [1, 2, 3, 5, 6, 7, 8]
    await is_whole(plain)


@pytest.mark.parametrize("db", ["pool"], indirect=True)
async def test_a_pool_that_is_closed_underneath_fails_its_callers(
    plain: PostgresDatabase,
) -> None:
    async with (
        pooling(plain._dsn, plain.schema) as pool,
        Coalescer(pool, "t", key="k", max_pending=4) as coalescer,
    ):
        await coalescer.create_or_update(key={"k": 1})
        async with locked(plain, 1):
            tasks = begin(coalescer, 1, 1, 2, 3, 4, 5, 6)
            await blocked(plain)
            pool.terminate()
            results = await outcomes(tasks)
        assert any(isinstance(r, ENDED) for r in results)
        assert [r for r in results if not isinstance(r, (Result, *ENDED))] == []
        later = await outcomes(begin(coalescer, 1, 2, 3))
        assert all(isinstance(r, asyncpg.InterfaceError) for r in later)


@pytest.mark.parametrize("db", ["pool"], indirect=True)
async def test_a_pool_that_closes_while_it_is_waited_for_leaves_nobody_waiting(
    plain: PostgresDatabase,
) -> None:
    async with pooling(plain._dsn, plain.schema) as pool:
        conns = [await pool.acquire() for _ in range(pool.get_max_size())]
        async with Coalescer(pool, "t", key="k") as coalescer:
            tasks = begin(coalescer, 1, 2, 3)
            await asyncio.sleep(0.02)
            closing = asyncio.create_task(pool.close())
            await asyncio.sleep(0.02)
            for conn in conns:
                await pool.release(conn)
            results = await outcomes(tasks)
            async with asyncio.timeout(PATIENCE):
                await closing
    # The pool ends what is under way, too.
    expected = (Result, asyncpg.QueryCanceledError, *ENDED)
    assert [r for r in results if not isinstance(r, expected)] == []


@pytest.mark.parametrize("db", ["pool"], indirect=True)
async def test_a_closed_pool_fails_every_caller_however_many_batches_they_make(
    plain: PostgresDatabase,
) -> None:
    async with (
        pooling(plain._dsn, plain.schema) as pool,
        Coalescer(pool, "t", key="k", max_batch=1, concurrency=3) as coalescer,
    ):
        await make_sleepy(plain, 1, 2, 3)
        tasks = begin(coalescer, *range(1, CALLS))
        await asleep(plain, 3)
        # From now on, no batch has to wait before it fails.
        pool.terminate()
        results = await outcomes(tasks)
    assert [r for r in results if not isinstance(r, LOST)] == []
    assert coalescer.stats.failures == coalescer.stats.batches == CALLS - 1


@pytest.mark.parametrize("db", ["psycopg_pool"], indirect=True)
async def test_a_pool_of_psycopg_that_is_closed_underneath_fails_those_without_connection(
    plain: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A batch that gives way has no connection any more.
    monkeypatch.setattr(sending, "LOCK_TIMEOUT", 1_000 * PATIENCE)
    pool: Any = plain.handle
    async with Coalescer(pool, "t", key="k") as coalescer:
        async with locked(plain, 1):
            tasks = begin(coalescer, 1, 1)
            await blocked(plain)
            # What is lent goes on.
            await pool.close()
            assert not any(task.done() for task in tasks)
            later = await outcomes(begin(coalescer, 2, 3))
            assert {type(r) for r in later} == {psycopg_pool.PoolClosed}
        # And takes along what has waited for the same row.
        assert [r.action for r in await outcomes(tasks)] == [Action.UPDATED] * 2
    assert await numbers(plain) == {1: 2}


@of_pool
async def test_others_get_a_connection_though_calls_never_end(
    plain: PostgresDatabase,
) -> None:
    pool: Any = plain.handle
    ended = asyncio.Event()

    async def work(coalescer: Coalescer) -> None:
        while not ended.is_set():
            await coalescer.create_or_update(key={"k": 1}, defaults=ADD)

    async with all_taken(pool, but=1), Coalescer(pool, "t", key="k") as coalescer:
        workers = [asyncio.create_task(work(coalescer)) for _ in range(3)]
        async with asyncio.timeout(PATIENCE):
            await coalescer.create_or_update(key={"k": 1}, defaults=ADD)
            before = coalescer.stats.batches
            async with lent(pool):
                assert coalescer.stats.batches <= before + 8
            ended.set()
            await asyncio.gather(*workers)
    assert await numbers(plain) == {1: coalescer.stats.calls}
    await is_whole(plain)


async def test_a_connection_of_sqlite_that_is_closed_underneath_fails_its_callers(
    lite: SQLiteDatabase,
) -> None:
    await lite.run(TABLE)
    async with lite.connect() as conn, Coalescer(conn, "t", key="k") as coalescer:
        await coalescer.create_or_update(key={"k": 1})
        tasks = begin(coalescer, 1, 2, 3)
        await asyncio.sleep(0)
        await conn.close()
        results = await outcomes(tasks)
        assert [r for r in results if not isinstance(r, (Result, *CLOSED))] == []
        later = await outcomes(begin(coalescer, 1, 2, 3))
        assert all(isinstance(r, CLOSED) for r in later)


# --- Cancelled callers --------------------------------------------------------------------


@of_pool
async def test_a_call_that_was_not_sent_is_withdrawn_and_others_go_on(
    plain: PostgresDatabase,
) -> None:
    async with Coalescer(plain.handle, "t", key="k", max_delay=0.05) as coalescer:
        tasks = begin(coalescer, 1, 2, 1, 3)
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[3].cancel()
        results = await outcomes(tasks)
        assert [r.action for r in results[1:3]] == [Action.CREATED] * 2
        # All of them.
        alone = begin(coalescer, 4, 5)
        await asyncio.sleep(0)
        for task in alone:
            task.cancel()
        await asyncio.wait(alone)
    assert await numbers(plain) == {1: 1, 2: 1}
    assert (coalescer.stats.calls, coalescer.stats.failures) == (6, 0)


@of_connection
async def test_a_call_that_was_sent_is_left_to_finish(plain: PostgresDatabase) -> None:
    async with Coalescer(plain.handle, "t", key="k", max_delay=0.01) as coalescer:
        async with locked(plain, 1):
            tasks = begin(coalescer, 1, 2, 3)
            await blocked(plain)
            tasks[1].cancel()
            await asyncio.wait(tasks[1:2])
        results = await outcomes(tasks)
    assert [type(r) for r in results] == [Result, asyncio.CancelledError, Result]
    assert await numbers(plain) == {1: 1, 2: 1, 3: 1}


@of_pool
async def test_withdrawn_calls_do_not_fill_the_memory(plain: PostgresDatabase) -> None:
    async with Coalescer(
        plain.handle, "t", key="k", max_batch=10, max_pending=20
    ) as coalescer:
        async with locked(plain, 1, 2):
            tasks = begin(coalescer, 1)
            await blocked(plain)
            tasks += begin(coalescer, 1, 2)
            await blocked(plain)
            for _ in range(300):
                some = begin(coalescer, 1, 2, 3)
                await asyncio.sleep(0)
                for task in some:
                    task.cancel()
                await asyncio.wait(some)
            queue = coalescer._dispatcher._queue
            aside = sum(len(calls or ()) for calls in queue._under_way.values())
            assert aside + len(queue.ready) <= 30
        await outcomes(tasks)
    assert await numbers(plain) == {1: 2, 2: 1}


@pytest.mark.parametrize("db", ["asyncpg"], indirect=True)
async def test_the_error_that_ended_the_transaction_is_reported(
    db: PostgresDatabase,
) -> None:
    await db.run('CREATE TABLE t (k integer PRIMARY KEY, "\u540d" text)')
    async with db.connect() as other:
        await other.execute("BEGIN; SET LOCAL client_encoding = 'LATIN1'")
        # The name of the column cannot be sent to the client.
        async with Coalescer(other, "t", key="k") as coalescer:
            errors = [*await outcomes(begin(coalescer, 1))]
            errors += await outcomes(begin(coalescer, 2))
        await other.execute("ROLLBACK")
    assert [type(error) for error in errors] == [
        asyncpg.UntranslatableCharacterError,
        asyncpg.InFailedSQLTransactionError,
    ]


async def test_shapes_without_number_do_not_fill_the_memory(
    lite: SQLiteDatabase,
) -> None:
    await lite.run(TABLE)
    async with Coalescer(lite.handle, "t", key="k") as coalescer:
        for number in range(300):
            key = {"k": number % 10}
            values = {"n": SQL(f"{number}")}
            await coalescer.create_or_update(key=key, defaults=values)
            assert len(coalescer._reader._shapes) <= 257
    assert await numbers(lite) == {k: 290 + k for k in range(10)}


@every_handle
async def test_cancelled_at_each_of_its_suspension_points(plain: Database) -> None:
    async with Coalescer(
        plain.handle, "t", key="k", max_pending=2, max_batch=2
    ) as coalescer:
        for company in (0, 1, 2, 5):
            reached, point = True, 0
            while reached:
                point += 1
                tasks = begin(coalescer, *range(company))
                await asyncio.sleep(0)
                call = coalescer.create_or_update(key={"k": -1}, defaults=ADD)
                ours = CancelledAt(call, point, 0, twice=False)
                await ours.outcome()
                reached = ours.reached
                results = await outcomes(tasks)
                assert all(isinstance(r, Result) for r in results)
            # It waits for room, and for its result.
            assert point == (2 if company < 2 else 3)
    assert not coalescer._admission.has_waiters()
    assert coalescer._admission.pending == 0


@of_pool
async def test_callers_that_wait_for_room_are_cancelled_without_a_trace(
    plain: PostgresDatabase,
) -> None:
    async with Coalescer(plain.handle, "t", key="k", max_pending=2) as coalescer:
        async with locked(plain, 1):
            tasks = begin(coalescer, 1, 2, 3, 4, 5, 6, 7)
            await blocked(plain)
            # One of those that wait; and whoever comes next, just as it is let in.
            tasks[4].cancel()
            await asyncio.wait([tasks[4]])
            asyncio.get_running_loop().call_soon(tasks[1].cancel)
            asyncio.get_running_loop().call_soon(tasks[5].cancel)
            await asyncio.sleep(0)
            for turns in range(6):
                for _ in range(turns):
                    await asyncio.sleep(0)
                tasks[2].cancel()
        results = await outcomes(tasks)
    cancelled = [n for n, r in enumerate(results) if not isinstance(r, Result)]
    assert {4} <= set(cancelled) <= {1, 2, 4, 5}
    assert coalescer.stats.failures == 0


@every_handle
async def test_who_is_cancelled_just_as_it_is_let_in_gives_its_room_away(
    plain: Database,
) -> None:
    async with Coalescer(plain.handle, "t", key="k", max_pending=1) as coalescer:

        async def call() -> None:
            await coalescer.create_or_update(key={"k": 1}, defaults=ADD)
            # The next one has been let in, and has not run yet.
            tasks[0].cancel()

        first = asyncio.create_task(call())
        await asyncio.sleep(0)
        tasks = begin(coalescer, 2, 3, 4)
        results = await outcomes(tasks)
        await first
    assert [type(r) for r in results] == [asyncio.CancelledError, Result, Result]
    assert await numbers(plain) == {1: 1, 3: 1, 4: 1}


@every_handle
async def test_who_is_cancelled_just_before_it_could_be_let_in_is_passed_over(
    plain: Database,
) -> None:
    async with Coalescer(plain.handle, "t", key="k", max_pending=1) as coalescer:
        first = begin(coalescer, 1)
        await asyncio.sleep(0)
        tasks = begin(coalescer, 2, 3)
        await asyncio.sleep(0)
        # Both in one turn of the loop, so that neither has run when room is made.
        first[0].cancel()
        tasks[0].cancel()
        results = await outcomes(tasks)
    assert [type(r) for r in results] == [asyncio.CancelledError, Result]
    assert set(await numbers(plain)) - {1} == {3}


@every_handle
async def test_who_comes_back_stands_behind_those_who_wait(plain: Database) -> None:
    async with Coalescer(plain.handle, "t", key="k", max_pending=1) as coalescer:

        async def twice() -> None:
            for n in (1, 3):
                await coalescer.create_or_update(key={"k": 1}, defaults={"n": n})

        first = asyncio.create_task(twice())
        await asyncio.sleep(0)
        second = begin(coalescer, 1, defaults={"n": 2})
        await outcomes(second)
        await first
    assert await numbers(plain) == {1: 3}
    assert (coalescer.stats.waits, coalescer.stats.largest_batch) == (2, 1)


# --- The end ------------------------------------------------------------------------------


@every_handle
async def test_leaving_sends_what_is_pending(plain: Database) -> None:
    async with Coalescer(
        plain.handle, "t", key="k", max_delay=60, max_pending=7, max_batch=3
    ) as coalescer:
        tasks = begin(coalescer, *range(20))
        await asyncio.sleep(0)
    results = await outcomes(tasks)
    assert all(r.created for r in results)
    assert len(await numbers(plain)) == 20


@every_handle
async def test_giving_up_fails_what_was_not_sent(plain: Database) -> None:
    coalescer = Coalescer(plain.handle, "t", key="k", max_delay=60, max_pending=7)
    async with coalescer:
        tasks = begin(coalescer, *range(20))
        await asyncio.sleep(0)
        await coalescer.aclose(cancel=True)
        assert all(task.done() for task in tasks[:7])
        results = await outcomes(tasks)
    assert {type(r) for r in results} == {CoalescerClosedError}
    assert {str(r) for r in results} == {NOT_SENT}
    assert len({id(r) for r in results}) == 20
    assert await numbers(plain) == {}
    assert coalescer.stats.failures == 20


@of_postgresql
async def test_giving_up_does_not_wait_for_what_was_sent(
    plain: PostgresDatabase,
) -> None:
    coalescer = Coalescer(
        plain.handle, "t", key="k", max_delay=0.01, max_pending=6, concurrency=1
    )
    async with coalescer, locked(plain, 1):
        sent = begin(coalescer, 1, 2)
        await blocked(plain)
        unsent = begin(coalescer, 1, 2, 3, 4, 5, 6)
        await asyncio.sleep(0.05)
        async with asyncio.timeout(PATIENCE):
            await coalescer.aclose(cancel=True)
        assert not coalescer._dispatcher._leases
        # Those that wait for room as well, though there is none.
        results = await outcomes(unsent)
        assert {str(r) for r in results} == {NOT_SENT}
        results = await outcomes(sent)
        assert {str(r) for r in results} == {UNKNOWN}
        assert {type(r) for r in results} == {CoalescerClosedError}
        await unblocked(plain)
    assert await numbers(plain) == {1: 0}


@of_pool
async def test_giving_up_fails_what_waits_for_a_row_that_is_under_way(
    plain: PostgresDatabase,
) -> None:
    coalescer = Coalescer(plain.handle, "t", key="k")
    async with coalescer, locked(plain, 1):
        sent = begin(coalescer, 1)
        await blocked(plain)
        unsent = begin(coalescer, 1, 1)
        await outcomes(begin(coalescer, 2))  # with which they were put aside
        await coalescer.aclose(cancel=True)
        first, *others = map(str, await outcomes([*sent, *unsent]))
        # It may wait apart by now, with nothing under way for it.
        assert first in {UNKNOWN, NOT_SENT}
        assert others == [NOT_SENT, NOT_SENT]
    assert await numbers(plain) == {1: 0, 2: 1}


@pytest.mark.parametrize("times", [1, 3])
@of_postgresql
async def test_closing_that_is_cancelled_ends_everything(
    plain: PostgresDatabase, times: int
) -> None:
    coalescer = Coalescer(plain.handle, "t", key="k", max_delay=0.01, max_pending=5)
    await coalescer.__aenter__()
    async with locked(plain, 1):
        sent = begin(coalescer, 1, 2)
        await blocked(plain)
        unsent = begin(coalescer, 1, 1, 4, 5, 6)
        await asyncio.sleep(0)
        closing = asyncio.create_task(coalescer.aclose())
        await asyncio.sleep(0)
        for _ in range(times):
            closing.cancel()
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([closing])
        assert closing.cancelled()
        assert not coalescer._dispatcher._leases
        results = await outcomes([*sent, *unsent])
        # Or what was sent gets the lock before it hears that it is cancelled.
        await unblocked(plain)
    assert {type(r) for r in results} == {CoalescerClosedError}
    assert {str(r) for r in results[:2]} == {UNKNOWN}
    assert await numbers(plain) == {1: 0}
    assert await idle(plain)


@every_handle
async def test_closing_at_any_moment_answers_every_caller(plain: Database) -> None:
    total: Counter[str] = Counter()
    for turns in range(14):
        for cancel in (False, True):
            coalescer = Coalescer(
                plain.handle, "t", key="k", max_batch=3, max_pending=8
            )
            async with coalescer:
                tasks = begin(coalescer, *range(12))
                for _ in range(turns):
                    await asyncio.sleep(0)
                await coalescer.aclose(cancel=cancel)
                assert not coalescer._dispatcher._leases
                results = await outcomes(tasks)
                total += Counter(
                    "stored" if isinstance(r, Result) else str(r) for r in results
                )
                if turns and not cancel:
                    assert all(isinstance(r, Result) for r in results)
            assert {type(r) for r in results} <= {Result, CoalescerClosedError}
            assert not coalescer._admission.has_waiters()
            assert coalescer._admission.pending == 0
    assert set(total) == {"stored", UNKNOWN, NOT_SENT, "it is closed"}
    stored = sum((await numbers(plain)).values())
    assert total["stored"] <= stored <= total["stored"] + total[UNKNOWN]


@every_handle
async def test_closing_cancelled_at_any_moment_answers_every_caller(
    plain: Database,
) -> None:
    for turns in range(1, 14):
        coalescer = Coalescer(plain.handle, "t", key="k", max_batch=3, max_pending=8)
        await coalescer.__aenter__()
        tasks = begin(coalescer, *range(12))
        await asyncio.sleep(0)
        closing = asyncio.create_task(coalescer.aclose())
        for _ in range(turns):
            await asyncio.sleep(0)
        closing.cancel()
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([closing])
        assert not coalescer._dispatcher._leases
        results = await outcomes(tasks)
        assert {type(r) for r in results} <= {Result, CoalescerClosedError}
    result = await create_or_update(plain.handle, "t", key={"k": 99})
    assert result.created
    if plain.kind in {"pool", "psycopg_pool"}:
        await is_whole(plain)


@every_handle
async def test_callers_that_fail_do_not_keep_it_from_closing(plain: Database) -> None:
    async def caller(coalescer: Coalescer) -> None:
        await coalescer.create_or_update(key={"k": 1}, defaults=ADD)
        raise LookupError

    with pytest.raises(ExceptionGroup):
        async with (
            Coalescer(plain.handle, "t", key="k") as coalescer,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(5):
                group.create_task(caller(coalescer))
    assert coalescer._admission.pending == 0


# A program that ends without leaving the coalescer.
PROGRAM: Final = """
import asyncio, sys
import asyncpg
import psycopg_pool
from aioupsert import Coalescer, F

async def main(dsn, schema, way):
    pool = await asyncpg.create_pool(
        dsn, min_size=1, max_size=4, server_settings={"search_path": schema}
    )
    coalescer = Coalescer(pool, "t", key="k", max_pending=6)
    await coalescer.__aenter__()

    async def call(key, again=way == "again"):
        try:
            result = await coalescer.create_or_update(
                key={"k": key}, defaults={"n": F("n") + 1}
            )
            print(result.action.value, flush=True)
        except BaseException as exc:
            print(type(exc).__name__, flush=True)
            if again:
                await call(key, False)
            elif way != "again":
                raise

    tasks = [asyncio.create_task(call(key)) for key in (1, 1, 2, 3, 4, 5, 6, 7)]
    await asyncio.sleep(0)
    # The calls for the row 1, which is locked, have no answer.
    while way != "at once" and sum(task.done() for task in tasks) < 6:
        await asyncio.sleep(0.01)
    return tasks, coalescer

asyncio.run(main(*sys.argv[1:]), debug=True)
print("over")
"""


@pytest.mark.parametrize("way", ["at once", "later", "again"])
async def test_a_program_ends_though_it_is_open(pg: PostgresDatabase, way: str) -> None:
    await pg.run(TABLE)
    async with locked(pg, 1):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", PROGRAM, pg._dsn, pg.schema, way],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    words = done.stdout.split()
    assert done.returncode == 0, done.stderr
    assert words[-1] == "over"
    assert set(words) <= {"created", "CancelledError", "CoalescerClosedError", "over"}
    answers = Counter(words[:-1])
    assert answers["created"] + answers["CancelledError"] == 8
    assert answers["created"] == (0 if way == "at once" else 6)
    # Nothing is sent any more.
    assert (
        answers["CoalescerClosedError"] == (way == "again") * answers["CancelledError"]
    )
    for complaint in ("never retrieved", "was destroyed", "Traceback"):
        assert complaint not in done.stderr, done.stderr
    assert await idle(pg)


class EndError(BaseException):
    """As KeyboardInterrupt, but the loop goes on."""


def end(_: object) -> str:
    raise EndError


@pytest.mark.parametrize("db", ["asyncpg"], indirect=True)
async def test_whatever_is_raised_is_everybody_s(plain: PostgresDatabase) -> None:
    async with (
        plain.connect() as conn,
        Coalescer(conn, "t", key="k", max_delay=0.01) as coalescer,
    ):
        await conn.set_type_codec("int4", schema="pg_catalog", encoder=end, decoder=int)
        for number in (1, 3):
            results = await outcomes(begin(coalescer, *range(number)))
            assert {type(result) for result in results} == {EndError}


@of_postgresql
async def test_of_a_statement_by_itself_no_row_is_written_again(
    plain: PostgresDatabase,
) -> None:
    # The statement commits what it could write; what the trigger kept is tried again.
    await plain.run(
        "INSERT INTO t VALUES (1, 10), (2, 20), (3, 30);"
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN IF old.k = 2 THEN RETURN NULL; END IF; RETURN new; END';"
        "CREATE TRIGGER refusing BEFORE UPDATE ON t"
        " FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    async with Coalescer(plain.handle, "t", key="k", max_delay=0.01) as coalescer:
        results = await outcomes(begin(coalescer, 1, 2, 3, 4))
        assert coalescer.stats.batches == 1
    refused = results.pop(1)
    assert isinstance(refused, NotAppliedError)
    assert [result.action for result in results] == [
        Action.UPDATED,
        Action.UPDATED,
        Action.CREATED,
    ]
    assert await numbers(plain) == {1: 11, 2: 20, 3: 31, 4: 1}


COUNTERS: Final = {
    "integer NOT NULL DEFAULT 0": True,
    "bigint DEFAULT 0": True,
    "bigint DEFAULT '0'": False,
    "smallint DEFAULT 0": False,
    "integer DEFAULT 1": False,
    "integer": False,
    "numeric DEFAULT 0": False,
    "integer DEFAULT 0 CHECK (n > -9)": False,
}


@pytest.mark.parametrize(
    "ask",
    [lambda d: F("n") + d, lambda d: d + F("n"), lambda d: F("n") - d],
    ids=["n + d", "d + n", "n - d"],
)
@pytest.mark.parametrize("column", COUNTERS)
@pytest.mark.parametrize("db", ["asyncpg"], indirect=True)
async def test_counters_are_counted_as_by_single_calls(
    db: PostgresDatabase, column: str, ask: Callable[[int], Expression]
) -> None:
    tables = {"t": f"CREATE TABLE t (k integer PRIMARY KEY, n {column})"}
    tables["alone"] = tables["t"].replace("TABLE t", "TABLE alone")
    for name, sql in tables.items():
        await db.run(f"{sql}; INSERT INTO {name} VALUES (1, 5), (2, 7), (3, 32000)")
    amounts = {1: 3, 2: -4, 3: 30_000, 4: 8, 5: -2, 6: 40_000, 7: -9}
    texts: list[str] = []
    db.handle.add_query_logger(lambda record: texts.append(record.query))

    async def together() -> list[Any]:
        async with Coalescer(db.handle, "t", key="k", max_delay=0.01) as coalescer:
            return await outcomes(
                [
                    task
                    for k, d in amounts.items()
                    for task in begin(coalescer, k, defaults={"n": ask(d)})
                ]
            )

    for _ in range(2):
        results = await together()
        for (k, d), result in zip(amounts.items(), results, strict=True):
            alone = create_or_update(
                db.handle, "alone", key={"k": k}, defaults={"n": ask(d)}
            )
            if isinstance(result, Exception):
                with pytest.raises(type(result)):
                    await alone
            else:
                assert await alone == result, k
    assert await db.query("TABLE t ORDER BY k") == await db.query(
        "TABLE alone ORDER BY k"
    )
    is_native = any("unnest" in text and "DO UPDATE" in text for text in texts)
    assert is_native == (COUNTERS[column] and "-" not in repr(ask(1)))
