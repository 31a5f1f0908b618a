"""
Behind PgBouncer in transaction mode every transaction may have another server session.

So nothing of the library may rest on a session: not a setting, a lock, a temporary
table, or a prepared statement.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import (
    BulkResult,
    Coalescer,
    F,
    create_or_update,
    create_or_update_many,
    get_or_create,
    is_retryable,
    iter_create_or_update,
)
from tests.support.cancellation import CancelledAt
from tests.support.databases import PostgresDatabase
from tests.support.servers import Server
from tests.topologies.pgbouncer import DRIVERS, Driver, bouncing, sessions_of

# Connections to the server, for many times as many clients.
SIZE: Final = 3
CLIENTS: Final = 12
CALLS: Final = 20
ADD: Final = {"n": F("n") + 1}
# More than are sent as arrays, so that they are copied to a temporary table.
MANY: Final = 6_000
COPIED: Final = "CREATE TEMPORARY TABLE"


@pytest.fixture(scope="module")
def bouncer(pg_server: Server) -> Iterator[str]:
    with bouncing(pg_server.dsn, size=SIZE) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def narrow(pg_server: Server) -> Iterator[str]:
    with bouncing(pg_server.dsn, size=1) as dsn:
        yield dsn


@pytest.fixture(scope="module")
def per_session(pg_server: Server) -> Iterator[str]:
    with bouncing(pg_server.dsn, size=CLIENTS, mode="session") as dsn:
        yield dsn


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    return DRIVERS[request.param]


@pytest.fixture
async def plain(pg: PostgresDatabase) -> PostgresDatabase:
    await pg.run(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0);"
        "CREATE TABLE bare (k integer, n integer DEFAULT 0)"
    )
    return pg


@asynccontextmanager
async def clients(
    driver: Driver, dsn: str, number: int = CLIENTS
) -> AsyncIterator[list[Any]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(driver.connect(dsn)) for _ in range(number)
        ]


async def sums(pg: PostgresDatabase, table: str = "t") -> dict[int, int]:
    rows = await pg.query(f"SELECT k, sum(n)::int, count(*) FROM {table} GROUP BY k")
    assert all(number == 1 for *_, number in rows), "a key has one row"
    return {key: total for key, total, _ in rows}


async def shared(pg: PostgresDatabase, bouncer: str) -> None:
    """See that few sessions did the work, and that nothing is left in them."""
    pids = ",".join(map(str, await sessions_of(bouncer)))
    ((sessions, busy, locks),) = await pg.query(
        "SELECT count(*), count(*) FILTER (WHERE state <> 'idle'),"
        " count(*) FILTER (WHERE EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid))"
        f" FROM pg_stat_activity a WHERE pid IN ({pids})"
    )
    assert 1 <= sessions <= SIZE
    assert not busy
    assert not locks
    left = "relpersistence = 't' AND relname LIKE 'aioupsert%'"
    assert await pg.query(f"SELECT FROM pg_class WHERE {left}") == []


@pytest.mark.parametrize("strategy", ["fast", "exact", "on_conflict", "lock"])
async def test_counters_are_exact(
    plain: PostgresDatabase, bouncer: str, driver: Driver, strategy: str
) -> None:
    table = "bare" if strategy == "lock" else "t"
    option: dict[str, Any] = (
        {"without_unique_index": "lock"}
        if strategy == "lock"
        else {"strategy": strategy}
    )
    created: Counter[int] = Counter()

    async def work(conn: Any) -> None:
        for call in range(CALLS):
            key = call % 4
            result = await create_or_update(
                conn, (plain.schema, table), key={"k": key}, defaults=ADD, **option
            )
            created[key] += result.created

    async with clients(driver, bouncer) as conns:
        await asyncio.gather(*map(work, conns))
    each = CLIENTS * CALLS // 4
    assert await sums(plain, table) == dict.fromkeys(range(4), each)
    assert created == dict.fromkeys(range(4), 1)
    await shared(plain, bouncer)


async def test_all_kinds_of_calls_at_once_are_exact(
    plain: PostgresDatabase,
    bouncer: str,
    driver: Driver,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "aioupsert")
    await plain.run("CREATE TABLE once (k integer PRIMARY KEY, n integer)")
    table, once = (plain.schema, "t"), (plain.schema, "once")
    created: Counter[int] = Counter()
    firsts: Counter[int] = Counter()

    async def single(conn: Any, number: int) -> None:
        for key in range(CALLS):
            result = await create_or_update(conn, table, key={"k": key}, defaults=ADD)
            created[key] += result.created
            got = await get_or_create(
                conn, once, key={"k": key}, defaults={"n": number}
            )
            firsts[key] += got.created
            # Half of them in a transaction of the caller's.
            async with conn.transaction():
                for _ in range(2):
                    await create_or_update(conn, table, key={"k": key}, defaults=ADD)
                await get_or_create(conn, once, key={"k": key})

    async def bulk(conn: Any, rows: int, *, inside: bool) -> None:
        async def load() -> BulkResult:
            return await create_or_update_many(
                conn,
                table,
                ({"k": k, "n": 1} for k in range(rows)),
                key="k",
                update=ADD,
            )

        if inside:
            async with conn.transaction():
                counts = await load()
        else:
            counts = await load()
        assert counts.created + counts.updated == rows
        created.update({-1: counts.created})

    async def each(conn: Any) -> None:
        rows = [{"k": k, "n": 1} for k in range(CALLS)]
        async for result in iter_create_or_update(
            conn, table, rows, key="k", update=ADD
        ):
            created[-1] += result.created

    async def coalesced(pool: Any) -> None:
        async with Coalescer(pool, table, key="k") as coalescer:
            results = await asyncio.gather(
                *(
                    coalescer.create_or_update(key={"k": n % CALLS}, defaults=ADD)
                    for n in range(CALLS * 10)
                )
            )
        created.update({-1: sum(result.created for result in results)})

    async with (
        clients(driver, bouncer) as conns,
        driver.pool(bouncer) as pool,
    ):
        await asyncio.gather(
            *(single(conn, number) for number, conn in enumerate(conns[4:])),
            bulk(conns[0], MANY, inside=False),
            bulk(conns[1], MANY, inside=True),
            bulk(conns[2], 300, inside=True),
            each(conns[3]),
            bulk(pool, MANY, inside=False),
            coalesced(pool),
        )
    # Singles count three times each; the rows of the others once; the coalescer ten.
    # A row that is created has 1 by the bulk calls, and by F("n") + 1 on DEFAULT 0.
    popular = (CLIENTS - 4) * 3 + 3 + 1 + 1 + 10
    expected = {k: 3 + (k < 300) for k in range(MANY)}
    expected |= dict.fromkeys(range(CALLS), popular)
    assert await sums(plain) == expected
    assert firsts == dict.fromkeys(range(CALLS), 1)
    # In transactions the singles do not count what they have created: it was there.
    assert created.total() == MANY
    copied = sum(record.message.startswith(COPIED) for record in caplog.records)
    assert copied >= 3, "each of the large ones was copied"
    await shared(plain, bouncer)


@pytest.mark.parametrize("kind", ["single", "exact", "bulk"])
async def test_a_cancelled_call_leaves_nothing_in_the_session_that_others_get(
    plain: PostgresDatabase, bouncer: str, driver: Driver, kind: str
) -> None:
    table = (plain.schema, "t")
    acknowledged = unknown = 0
    rows = [{"k": k, "n": 1} for k in range(20)]

    async def call(conn: Any) -> Any:
        if kind == "bulk":
            return await create_or_update_many(conn, table, rows, key="k", update=ADD)
        strategy: Any = "auto" if kind == "single" else kind
        return await create_or_update(
            conn, table, key={"k": 0}, defaults=ADD, strategy=strategy
        )

    async def work(conn: Any, number: int) -> None:
        nonlocal acknowledged, unknown
        for point in range(1, 13):
            delay = number % 3 * 0.001
            twice = driver.patient and number % 2 == 1
            cancelled = CancelledAt(call(conn), point, delay, twice=twice)
            try:
                await asyncio.create_task(whole(cancelled))
                acknowledged += 1
            except asyncio.CancelledError:
                unknown += 1
            await call(conn)
            acknowledged += 1

    async with clients(driver, bouncer) as conns:
        await introduce(conns)
        await asyncio.gather(*(work(conn, n) for n, conn in enumerate(conns)))
        stored = (await sums(plain))[0]
    assert unknown
    assert acknowledged <= stored <= acknowledged + unknown
    await shared(plain, bouncer)


async def introduce(conns: list[Any]) -> None:
    """
    Have every session of the server know its clients, who have the same settings.

    PgBouncer has a session take its client's settings before it lends it. Where it is
    this that a cancellation ends, it closes the client's connection.
    """
    async with AsyncExitStack() as stack:
        for conn in conns[:SIZE]:
            await stack.enter_async_context(conn.transaction())
            await conn.execute("SELECT 1")


async def whole(awaitable: Any) -> Any:
    return await awaitable


async def test_it_takes_no_search_path(bouncer: str) -> None:
    with pytest.raises(asyncpg.ProtocolViolationError, match="search_path"):
        await asyncpg.connect(bouncer, server_settings={"search_path": "public"})


async def test_in_session_mode_there_is_nothing_to_set(
    plain: PostgresDatabase, per_session: str
) -> None:
    table = (plain.schema, "t")
    async with caching(per_session, CLIENTS) as conns:
        for call in CALLED:
            await asyncio.gather(*(call(conn, table) for conn in conns))
        before = await sums(plain)
        await asyncio.gather(*(call_one(conn, table) for conn in conns))
    assert await sums(plain) == before | {1: before[1] + CLIENTS}


# --- Without what PgBouncer needs -----------------------------------------------------

STATEMENTS: Final = (
    asyncpg.InvalidSQLStatementNameError,
    asyncpg.DuplicatePreparedStatementError,
)


@asynccontextmanager
async def caching(dsn: str, number: int = 1) -> AsyncIterator[list[Any]]:
    """Connections as asyncpg opens them, which prepare statements by name."""
    async with AsyncExitStack() as stack:
        conns = [await asyncpg.connect(dsn) for _ in range(number)]
        for conn in conns:
            stack.callback(conn.terminate)
        yield conns


async def call_one(handle: Any, table: tuple[str, str]) -> None:
    await create_or_update(handle, table, key={"k": 1}, defaults=ADD)


async def call_exact(handle: Any, table: tuple[str, str]) -> None:
    await create_or_update(handle, table, key={"k": 1}, defaults=ADD, strategy="exact")


async def call_get(handle: Any, table: tuple[str, str]) -> None:
    await get_or_create(handle, table, key={"k": 1})


async def call_many(handle: Any, table: tuple[str, str]) -> None:
    rows = [{"k": k, "n": k} for k in range(20)]
    await create_or_update_many(
        handle, table, rows, key="k", on_error="skip", atomic=False
    )


async def call_coalesced(handle: Any, table: tuple[str, str]) -> None:
    async with Coalescer(handle, table, key="k") as coalescer:
        calls = [
            coalescer.create_or_update(key={"k": k}, defaults=ADD) for k in range(20)
        ]
        errors = await asyncio.gather(*calls, return_exceptions=True)
    for error in filter(None, errors):
        if isinstance(error, BaseException):
            raise error


# Far from each other, and from what other tests have come to.
_beginnings: Final = itertools.count(1_000_000_000, 1_000_000)
CALLED: Final = (call_one, call_exact, call_get, call_many, call_coalesced)


def says_what_to_set(error: BaseException) -> None:
    assert not is_retryable(error)
    (note,) = error.__notes__
    assert "statement_cache_size=0" in note
    assert "max_prepared_statements" in note


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("call", CALLED)
async def test_a_statement_of_another_session_is_an_error_that_says_what_to_set(
    plain: PostgresDatabase, bouncer: str, call: Any, *, inside: bool
) -> None:
    table = (plain.schema, "t")
    async with caching(bouncer, 2) as (conn, other):
        begin, commit = ("BEGIN", "COMMIT") if inside else ("SELECT 1", "SELECT 1")
        await conn.execute(begin)
        await call(conn, table)
        await conn.execute(commit)
        # PgBouncer lends the session that was used last, and then it lends another.
        await other.execute("BEGIN")
        await conn.execute(begin)
        with pytest.raises(asyncpg.InvalidSQLStatementNameError) as caught:
            await call(conn, table)
        assert conn.is_in_transaction() == inside
    says_what_to_set(caught.value)


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("call", CALLED)
async def test_a_statement_of_another_process_is_an_error_that_says_what_to_set(
    plain: PostgresDatabase,
    narrow: str,
    monkeypatch: pytest.MonkeyPatch,
    call: Any,
    *,
    inside: bool,
) -> None:
    table = (plain.schema, "t")
    async with caching(narrow, 2) as (conn, other):
        # The names that asyncpg gives begin anew in every process.
        begin = next(_beginnings)
        monkeypatch.setattr("asyncpg.connection._uid", begin)
        await call(other, table)
        monkeypatch.setattr("asyncpg.connection._uid", begin)
        if inside:
            await conn.execute("BEGIN")
        with pytest.raises(asyncpg.DuplicatePreparedStatementError) as caught:
            await call(conn, table)
        assert conn.is_in_transaction() == inside
    says_what_to_set(caught.value)
