"""A bulk call cancelled at any instant: all or nothing, and the connection is good."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, Final

import asyncpg
import psycopg
import pytest

from aioupsert import BulkResult, F, create_or_update_many, iter_create_or_update
from tests.support.cancellation import CancelledAt, twice
from tests.support.databases import (
    Database,
    PostgresDatabase,
    SQLiteDatabase,
    all_taken,
    every_handle,
    has_begun,
)
from tests.support.pairwise import pairwise
from tests.support.sessions import clients, idle, together, waiting
from tests.support.versions import asyncpg_cancels_well

TABLES: Final = {
    "plain": "CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0, r integer)",
    "numbered": (
        "CREATE TABLE t (id serial, k integer PRIMARY KEY, n integer DEFAULT 0,"
        " r integer)"
    ),
    "deferrable": (
        "CREATE TABLE t (k integer UNIQUE DEFERRABLE, n integer DEFAULT 0, r integer)"
    ),
    "one by one": (
        "CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0, r integer);"
        "CREATE RULE r AS ON UPDATE TO t DO ALSO NOTHING"
    ),
}
tables = pytest.mark.parametrize("table", TABLES)
DELAYS: Final = [0, 0.0005]
delays = pytest.mark.parametrize("delay", DELAYS)
# Every row counts how often it was written, so that half a call is seen.
COUNT: Final = {"n": F("n") + 1}


async def load(conn: Any, number: int, call: int = 0, **options: Any) -> BulkResult:
    rows = ({"k": k, "n": 1, "r": call} for k in range(number))
    return await create_or_update_many(
        conn, "t", rows, key="k", update=COUNT, **options
    )


few: Final = partial(load, number=6)
batches: Final = partial(load, number=6, batch_size=2)
thousands: Final = partial(load, number=5_200)
CALLS: Final[dict[str, tuple[Any, int]]] = {
    "few": (few, 6),
    "batches": (batches, 6),
    "copied": (partial(load, number=12), 12),
}


@pytest.fixture
def call(request: pytest.FixtureRequest) -> tuple[Any, int]:
    """A call, and its number of rows."""
    if request.param == "copied":
        request.getfixturevalue("small_copies")
    return CALLS[request.param]


calls = pytest.mark.parametrize(
    ("table", "call", "delay", "twice"),
    pairwise(TABLES, CALLS, DELAYS, [False, True]),
    indirect=["call"],
)


async def writes(db: Database, number: int) -> int:
    """Tell how often all rows were written, and that it was as often for each."""
    sql = "SELECT count(*), min(n), max(n) FROM t"
    ((found, least, most),) = await db.query(sql)
    assert (found, least) in {(0, None), (number, most)}
    return most or 0


@calls
async def test_at_every_suspension_point_all_rows_are_written_or_none(
    pg: PostgresDatabase, table: str, call: Any, delay: float, *, twice: bool
) -> None:
    write, number = call
    await pg.run(TABLES[table])
    await all_or_none(pg, write, number, delay, twice=twice)


async def test_of_thousands_of_rows_all_are_written_or_none(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLES["numbered"])
    await all_or_none(pg, thousands, 5_200, 0.0005, twice=False)


async def all_or_none(
    pg: PostgresDatabase, call: Any, number: int, delay: float, *, twice: bool
) -> None:
    """Cancel the call at each of its suspension points, and look at the table."""
    conn: Any = pg.handle
    await call(conn)
    total = 1
    reached, point = True, 0
    while reached and point < 40:
        point += 1
        ours = CancelledAt(call(conn), point, delay, twice=twice)
        cancelled = await ours.outcome()
        reached = ours.reached
        assert not conn.is_in_transaction()
        await call(conn)
        now = await writes(pg, number)
        assert now - total in ((1, 2) if cancelled else (2,))
        total = now
        assert await idle(pg)
    assert point > 1  # one statement, at least


@twice
@delays
async def test_while_the_table_is_described(
    pg: PostgresDatabase, delay: float, *, twice: bool
) -> None:
    await pg.run(TABLES["numbered"])
    total, reached, point = 0, True, 0
    while reached:
        point += 1
        async with pg.connect() as conn:
            ours = CancelledAt(batches(conn), point, delay, twice=twice)
            cancelled = await ours.outcome()
            reached = ours.reached
            assert not conn.is_in_transaction()
            await batches(conn)
            now = await writes(pg, 6)
            assert now - total in ((1, 2) if cancelled else (2,))
            total = now
    assert point > 3


@calls
async def test_in_a_callers_transaction_that_ends_as_a_whole(
    pg: PostgresDatabase, table: str, call: Any, delay: float, *, twice: bool
) -> None:
    write, number = call
    await pg.run(TABLES[table])
    conn: Any = pg.handle
    await write(conn)
    total = 1
    reached, point, went_on = True, 0, 0
    while reached and point < 40:
        point += 1
        await conn.execute("BEGIN")
        await conn.execute("INSERT INTO t (k) VALUES (-1)")
        ours = CancelledAt(write(conn), point, delay, twice=twice)
        cancelled = await ours.outcome()
        reached = ours.reached
        assert conn.is_in_transaction()
        try:
            assert await conn.fetchval("DELETE FROM t WHERE k < 0 RETURNING k") == -1
        except asyncpg.InFailedSQLTransactionError:
            # As after any statement that was cancelled.
            assert cancelled
            await conn.execute("ROLLBACK")
            least, most = 0, 0
        else:
            # What the caller did before is kept, and what it does now works.
            went_on += 1
            await write(conn)
            await conn.execute("COMMIT")
            least, most = (1, 2) if cancelled else (2, 2)
        now = await writes(pg, number)
        assert least <= now - total <= most
        total = now
        assert await idle(pg)
    assert point > 3
    assert went_on


@twice
@delays
@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
async def test_through_the_pool_at_every_suspension_point(
    db: PostgresDatabase, delay: float, connections: int, *, twice: bool
) -> None:
    await db.run(TABLES["plain"])
    call = partial(load, number=6, connections=connections, batch_size=3)
    await call(db.handle)
    written = reached = True
    point = 0
    while reached and point < 40:
        point += 1
        ours = CancelledAt(call(db.handle), point, delay, twice=twice)
        await ours.outcome()
        reached = ours.reached
        async with asyncio.timeout(10):
            result = await call(db.handle)
        written = written and result == BulkResult(updated=6)
    assert written
    assert point > 1
    assert await idle(db)
    # Every connection is back.
    async with asyncio.timeout(5), all_taken(db.handle) as conns:
        assert not any(map(has_begun, conns))


@pytest.mark.parametrize("db", ["psycopg_pool"], indirect=True)
async def test_a_cancellation_that_the_pool_loses_ends_the_work_of_all_connections(
    db: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.run(TABLES["plain"])
    pool: Any = db.handle
    getconn, connected = pool.getconn, asyncio.Event()

    async def lose(timeout: float | None = None) -> Any:
        conn = await getconn(timeout)
        connected.set()
        # As asyncio.wait_for does on Python 3.11, if the connection comes just then.
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return conn

    monkeypatch.setattr(pool, "getconn", lose)
    call = asyncio.create_task(load(pool, 6, connections=2, batch_size=3))
    await connected.wait()
    call.cancel()
    async with asyncio.timeout(5):
        await asyncio.wait({call})
    assert call.cancelled()
    monkeypatch.undo()
    assert await db.query("SELECT * FROM t") == []
    async with asyncio.timeout(5), all_taken(pool) as conns:
        assert not any(map(has_begun, conns))


@asyncpg_cancels_well
@tables
async def test_at_random_instants_of_several_writers(
    pg: PostgresDatabase, table: str
) -> None:
    await pg.run(TABLES[table])
    instants = random.Random(0)  # noqa: S311  # no secret
    acknowledged = cancelled = 0

    async def work(conn: Any, _: int) -> None:
        nonlocal acknowledged, cancelled
        longest = 0.02
        for _ in range(15):
            try:
                async with asyncio.timeout(instants.uniform(0, longest)):
                    await load(conn, 40, batch_size=instants.choice([None, None, 40]))
            except TimeoutError:
                cancelled += 1
                # A busy machine may finish nothing in a short time.
                longest *= 2
            else:
                acknowledged += 1
                longest /= 2
            assert not conn.is_in_transaction()
        # Cancelled or not, this one must get through.
        await load(conn, 40)
        acknowledged += 1

    async with clients(pg, 6) as conns:
        await together(conns, work)
        assert await idle(pg)
    assert acknowledged <= await writes(pg, 40) <= acknowledged + cancelled
    assert cancelled > 0
    assert acknowledged > 6


@pytest.mark.parametrize("number", [6, 5_200])
@tables
async def test_while_another_session_is_waited_for(
    pg: PostgresDatabase, table: str, number: int
) -> None:
    await pg.run(TABLES[table])
    conn: Any = pg.handle
    if table == "one by one":
        number = 6
    async with pg.connect() as other:
        await other.execute("BEGIN; INSERT INTO t (k, n) VALUES (3, 10)")
        task = asyncio.create_task(load(conn, number))
        await waiting(pg, conn)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not conn.is_in_transaction()
        # Though the other still holds its row.
        await load(conn, 3)
        await other.execute("ROLLBACK")
    assert await pg.query("SELECT k, n FROM t ORDER BY k") == [(0, 1), (1, 1), (2, 1)]


@every_handle
async def test_while_the_producer_is_waited_for(db: Database) -> None:
    await db.run(TABLES["plain"])

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for k in range(10):
            yield {"k": k}
        waits.set()
        await asyncio.Event().wait()

    for atomic, stored in ((True, 0), (False, 8)):
        waits = asyncio.Event()
        task = asyncio.create_task(
            create_or_update_many(
                db.handle, "t", rows(), key="k", batch_size=4, atomic=atomic
            )
        )
        await waits.wait()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert await db.query("SELECT count(*) FROM t") == [(stored,)]
        assert (await load(db.handle, 4)).rows == 4
        await db.run("DELETE FROM t")


@every_handle
async def test_a_producer_is_told_that_the_call_has_ended(db: Database) -> None:
    await db.run(TABLES["plain"])
    closed = asyncio.Event()

    async def rows() -> AsyncIterator[dict[str, Any]]:
        try:
            for k in range(10):
                yield {"k": k}
            await asyncio.Event().wait()
        finally:
            closed.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await create_or_update_many(db.handle, "t", rows(), key="k", batch_size=4)
    assert closed.is_set()


# --- Results in turn --------------------------------------------------------------------


async def each(conn: Any, number: int, seen: list[int], **options: Any) -> None:
    rows = ({"k": k, "n": 1} for k in range(number))
    results = iter_create_or_update(conn, "t", rows, key="k", update=COUNT, **options)
    async with aclosing(results):
        async for result in results:
            assert result.rows_affected == 1
            seen.append(1)


@twice
@delays
async def test_results_that_were_given_are_stored(
    pg: PostgresDatabase, delay: float, *, twice: bool
) -> None:
    await pg.run(TABLES["numbered"])
    conn: Any = pg.handle
    await each(conn, 6, [], batch_size=2)
    before, reached, point = 6, True, 0
    while reached:
        point += 1
        seen: list[int] = []
        ours = CancelledAt(each(conn, 6, seen, batch_size=2), point, delay, twice=twice)
        await ours.outcome()
        reached = ours.reached
        assert not conn.is_in_transaction()
        ((total,),) = await pg.query("SELECT sum(n) FROM t")
        # At most one batch more than the caller has seen.
        assert total - before - len(seen) in {0, 1, 2}
        before = total
        assert await idle(pg)
    assert point > 3


# --- SQLite -----------------------------------------------------------------------------


lite_calls = pytest.mark.parametrize(
    ("call", "number"),
    [(few, 6), (batches, 6), (thousands, 5_200)],
    ids=["one batch", "batches", "many"],
)


async def points_of(
    conn: Any,
    call: Callable[[Any], Awaitable[Any]],
    check: Callable[[bool], Awaitable[None]],
    *,
    twice: bool,
) -> int:
    """Cancel the call at each of its suspension points, and check each time."""
    reached, point = True, 0
    while reached and point < 40:
        point += 1
        ours = CancelledAt(call(conn), point, 0, twice=twice)
        cancelled = await ours.outcome()
        reached = ours.reached
        await check(cancelled)
    return point


@twice
@lite_calls
@pytest.mark.parametrize("upserts", [True, False], ids=["upserts", "one by one"])
async def test_on_sqlite_all_rows_are_written_or_none(
    lite: SQLiteDatabase, call: Any, number: int, *, upserts: bool, twice: bool
) -> None:
    if not upserts:
        number, call = min(number, 6), batches
    await lite.run(
        TABLES["plain"] + ("" if upserts else "; CREATE UNIQUE INDEX u ON t (r, k)")
    )
    conn = lite.handle
    await call(conn)
    total = 1

    async def check(cancelled: bool) -> None:  # noqa: FBT001  # see points_of
        nonlocal total
        await call(conn)
        assert not conn.in_transaction
        now = await writes(lite, number)
        assert now - total in ((1, 2) if cancelled else (2,))
        total = now

    assert await points_of(conn, call, check, twice=twice) > 1


@twice
@lite_calls
async def test_on_sqlite_a_callers_transaction_goes_on(
    lite: SQLiteDatabase, call: Any, number: int, *, twice: bool
) -> None:
    await lite.run(TABLES["plain"])
    conn = lite.handle
    await call(conn)
    total = 1
    await conn.execute("BEGIN")

    async def check(cancelled: bool) -> None:  # noqa: FBT001  # see points_of
        nonlocal total
        assert conn.in_transaction
        await call(conn)
        await conn.execute("COMMIT")
        now = await writes(lite, number)
        assert now - total in ((1, 2) if cancelled else (2,))
        total = now
        await conn.execute("BEGIN")

    assert await points_of(conn, call, check, twice=twice) > 1
    await conn.execute("COMMIT")


async def test_on_sqlite_at_random_instants_of_tasks_that_share_a_connection(
    lite: SQLiteDatabase,
) -> None:
    await lite.run(TABLES["plain"])
    conn = lite.handle
    instants = random.Random(0)  # noqa: S311  # no secret
    acknowledged = cancelled = 0

    async def work() -> None:
        nonlocal acknowledged, cancelled
        for _ in range(15):
            try:
                async with asyncio.timeout(instants.uniform(0, 0.02)):
                    await load(conn, 40, batch_size=instants.choice([None, 15]))
            except TimeoutError:
                cancelled += 1
            else:
                acknowledged += 1

    await asyncio.gather(*(work() for _ in range(6)))
    await load(conn, 40)
    assert not conn.in_transaction
    assert acknowledged + 1 <= await writes(lite, 40) <= acknowledged + cancelled + 1
    assert cancelled > 0
    assert await lite.query("PRAGMA integrity_check") == [("ok",)]


# --- Lost connections -------------------------------------------------------------------

LOST: Final = (
    asyncpg.AdminShutdownError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    psycopg.OperationalError,
    OSError,
)


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("number", [1, 6, 5_200])
@tables
async def test_a_session_that_ends_in_the_middle_is_the_drivers_error(
    pg: PostgresDatabase, table: str, number: int, *, inside: bool
) -> None:
    if table == "one by one":
        number = min(number, 6)
    await pg.run(TABLES[table])
    async with pg.connect() as conn, pg.connect() as other:
        await load(conn, number)
        if inside:
            await conn.execute("BEGIN")
        await other.execute(f"BEGIN; UPDATE t SET n = 5 WHERE k = {number - 1}")
        task = asyncio.create_task(load(conn, number))
        await waiting(pg, conn)
        await pg.run(f"SELECT pg_terminate_backend({conn.get_server_pid()})")
        with pytest.raises(LOST):
            await task
        await other.execute("ROLLBACK")
    assert await writes(pg, number) == 1


@pytest.mark.parametrize("atomic", [True, False])
async def test_a_session_that_ends_between_batches_keeps_what_was_committed(
    pg: PostgresDatabase, *, atomic: bool
) -> None:
    await pg.run(TABLES["plain"])
    async with pg.connect() as conn:
        pid = conn.get_server_pid()

        async def rows() -> AsyncIterator[dict[str, Any]]:
            for k in range(20):
                if k == 10:
                    await pg.run(f"SELECT pg_terminate_backend({pid})")
                yield {"k": k}

        with pytest.raises(LOST):
            await create_or_update_many(
                conn, "t", rows(), key="k", batch_size=4, atomic=atomic
            )
    stored = await pg.query("SELECT count(*) FROM t")
    assert stored == [(0 if atomic else 8,)]


@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
async def test_of_several_connections_one_that_ends_ends_the_call(
    db: PostgresDatabase,
) -> None:
    await db.run(TABLES["plain"])

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for k in range(400):
            if k == 200:
                await db.run(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE"
                    f" application_name = '{db.schema}' AND pid <> pg_backend_pid()"
                )
            yield {"k": k}

    async with asyncio.timeout(30):
        with pytest.raises(LOST):
            await create_or_update_many(
                db.handle, "t", rows(), key="k", batch_size=20, connections=3
            )
    ((stored,),) = await db.query("SELECT count(*) FROM t")
    assert stored <= 200
    async with asyncio.timeout(30):
        # Without it a pool lends what it has, lost or not: psycopg's if it was made
        # without check=, asyncpg's for as long as it has not seen the end of it.
        if db.kind == "psycopg_pool":
            await db.handle.check()
        else:
            await db.handle.expire_connections()
        assert (await load(db.handle, 400)).rows == 400
