"""In the steady state a call is one message to PostgreSQL and one answer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import (
    Action,
    Coalescer,
    F,
    Result,
    create_or_update,
    create_or_update_many,
    get_or_create,
    now,
)
from tests.support.databases import PostgresDatabase, settings
from tests.support.flights import Flights
from tests.support.servers import Server

Call = Callable[[Any], Awaitable[Result]]

TABLE: Final = """
CREATE TABLE t (
  k text PRIMARY KEY, v integer, hits integer DEFAULT 0, at timestamptz);
INSERT INTO t VALUES ('old', 1, 5, '2020-01-01')
"""


def upserting(**options: Any) -> Callable[[str], Call]:
    def of(key: str) -> Call:
        return lambda conn: create_or_update(conn, "t", key={"k": key}, **options)

    return of


def getting(key: str) -> Call:
    return lambda conn: get_or_create(conn, "t", key={"k": key}, defaults={"v": 2})


# What the call does to the row that is there; each creates the one that is missing.
CALLS: Final[dict[str, tuple[Callable[[str], Call], Action]]] = {
    "plain": (upserting(defaults={"hits": F("hits") + 1}), Action.UPDATED),
    "where": (upserting(defaults={"v": 2}, where=F("v") < 9), Action.UPDATED),
    "where is false": (upserting(defaults={"v": 2}, where=F("v") > 9), Action.SKIPPED),
    "skip_unchanged": (
        upserting(defaults={"v": 1}, skip_unchanged=True),
        Action.UNCHANGED,
    ),
    "touch": (upserting(defaults={"v": 2}, touch={"at": now()}), Action.UPDATED),
    "returning": (upserting(defaults={"v": 2}, returning="*"), Action.UPDATED),
    "empty defaults": (upserting(), Action.UNCHANGED),
    "get_or_create": (getting, Action.UNCHANGED),
    "on_conflict": (
        upserting(defaults={"v": 2}, strategy="on_conflict"),
        Action.UPDATED,
    ),
}


@pytest.fixture
async def conn(pg: PostgresDatabase) -> Any:
    await pg.run(TABLE)
    return pg.handle


@pytest.fixture
def flights(conn: Any, monkeypatch: pytest.MonkeyPatch) -> Flights:
    return Flights(conn, monkeypatch)


@contextlib.asynccontextmanager
async def surroundings(conn: Any, *, inside: bool) -> AsyncIterator[None]:
    async with conn.transaction() if inside else contextlib.nullcontext():
        yield


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("name", CALLS)
async def test_a_call_is_one_round_trip(
    conn: Any, flights: Flights, name: str, *, inside: bool
) -> None:
    of, action = CALLS[name]
    async with surroundings(conn, inside=inside):
        await of("warm")(conn)
        updated, update = await flights.of(of("old")(conn))
        created, create = await flights.of(of("new")(conn))
    assert (updated.action, created.action) == (action, Action.CREATED)
    # It looks first in a transaction, which may be read-only.
    looks_first = inside and name == "get_or_create"
    assert (update, create) == (1, 2 if looks_first else 1)


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("plain", [True, False])
async def test_the_first_call_describes_a_plain_table_in_one_query(
    conn: Any, *, inside: bool, plain: bool
) -> None:
    if not plain:
        await conn.execute("CREATE DOMAIN d AS integer; ALTER TABLE t ADD d d")
    of, _ = CALLS["plain"]
    queries: list[Any] = []
    async with surroundings(conn, inside=inside):
        with conn.query_logger(queries.append):
            await of("old")(conn)
            await asyncio.sleep(0)  # the loop calls the logger
            first = len(queries)
            await of("new")(conn)
            await asyncio.sleep(0)
    # Else another one, and one more that ends this, as the server would keep it.
    assert (first, len(queries)) == ((2, 3) if plain else (4, 5))


async def test_get_or_create_calls_factories_after_a_second_round_trip(
    conn: Any, flights: Flights
) -> None:
    def call(key: str) -> Awaitable[Result]:
        return get_or_create(conn, "t", key={"k": key}, defaults={"v": lambda: 2})

    await call("warm")
    found, find = await flights.of(call("old"))
    created, create = await flights.of(call("new"))
    assert (found.created, created.created) == (False, True)
    assert (find, create) == (1, 2)


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_the_exact_path_updates_in_one_round_trip(
    conn: Any, flights: Flights, *, inside: bool
) -> None:
    call = upserting(defaults={"v": 2}, strategy="exact")
    await call("warm")(conn)
    async with surroundings(conn, inside=inside):
        _, update = await flights.of(call("old")(conn))
        # Prepares nothing any more: the insert was known from "warm".
        _, create = await flights.of(call("new")(conn))
    # In a transaction SAVEPOINT and RELEASE stand around the insert.
    assert (update, create) == (1, 4 if inside else 2)


@pytest.mark.parametrize("db", ["pool"], indirect=True)
async def test_the_pool_adds_only_its_own_reset(
    db: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.run(TABLE)
    of, _ = CALLS["plain"]
    await of("warm")(db.handle)
    async with db.handle.acquire() as proxy:
        flights = Flights(proxy._con, monkeypatch)

    async def borrow() -> None:
        async with db.handle.acquire():
            pass

    _, resets = await flights.of(borrow())
    _, update = await flights.of(of("old")(db.handle))
    _, create = await flights.of(of("new")(db.handle))
    assert (update, create) == (resets + 1, resets + 1)


@pytest.fixture
async def pool(pg: PostgresDatabase, pg_server: Server) -> AsyncIterator[Any]:
    """A pool of one connection: of several, which is used depends on the resets."""
    await pg.run(TABLE)
    async with asyncpg.create_pool(
        pg_server.dsn, min_size=1, max_size=1, server_settings=settings(pg.schema)
    ) as pool:
        yield pool


async def flights_of(pool: Any, monkeypatch: pytest.MonkeyPatch) -> Flights:
    async with pool.acquire() as proxy:
        return Flights(proxy._con, monkeypatch)


async def test_a_coalescer_borrows_a_connection_for_several_batches(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def batches() -> int:
        async with Coalescer(pool, "t", key="k") as coalescer:
            for _ in range(16):
                await coalescer.create_or_update(
                    key={"k": "old"}, defaults={"hits": F("hits") + 1}
                )
        return coalescer.stats.batches

    await batches()
    flights = await flights_of(pool, monkeypatch)
    # Every eighth one ends with the pool's reset.
    assert await flights.of(batches()) == (16, 16 + 2)


async def test_a_batch_that_gives_way_to_locks_is_one_message(
    pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def batch() -> int:
        async with Coalescer(pool, "t", key="k", max_delay=0.01) as coalescer:
            calls = (
                coalescer.create_or_update(key={"k": key}, defaults={"v": 2})
                for key in ("old", "new", "newer")
            )
            await asyncio.gather(*calls)
        return coalescer.stats.largest_batch

    await batch()
    flights = await flights_of(pool, monkeypatch)
    assert await flights.of(batch()) == (3, 1 + 1)


@pytest.mark.parametrize("others", [["new", "newer"], ["new", "old"]])
@pytest.mark.parametrize(
    "defaults", [{"hits": F("hits") + 1}, {"v": 2}, {"v": 2, "hits": 3 + F("hits")}]
)
async def test_a_batch_of_a_coalescer_is_one_message(
    conn: Any, flights: Flights, others: list[str], defaults: dict[str, Any]
) -> None:
    async with Coalescer(conn, "t", key="k", max_delay=0.01) as coalescer:

        async def batch() -> list[Result]:
            calls = (
                coalescer.create_or_update(key={"k": key}, defaults=defaults)
                for key in ("old", *others)
            )
            return await asyncio.gather(*calls)

        await batch()
        results, number = await flights.of(batch())
    assert number == 1
    assert {result.action for result in results} == {Action.UPDATED}


@pytest.mark.parametrize("size", [1, 2, 100])
async def test_a_small_batch_is_one_round_trip(
    conn: Any, flights: Flights, size: int
) -> None:
    def write(number: int) -> Awaitable[Any]:
        rows = [{"k": f"{key}", "v": number} for key in range(size)]
        return create_or_update_many(conn, "t", rows, key="k")

    for number in range(3):  # to read the catalog, and to prepare
        await write(number)
    done, count = await flights.of(write(3))
    assert (done.updated, count) == (size, 1)


async def test_a_batch_that_may_be_written_in_part_has_a_transaction(
    pg: PostgresDatabase, conn: Any, flights: Flights
) -> None:
    await pg.run("CREATE TABLE numbered (id serial, k text PRIMARY KEY, v integer)")

    def write(number: int) -> Awaitable[Any]:
        rows = [{"k": f"{key}", "v": number} for key in range(3)]
        return create_or_update_many(conn, "numbered", rows, key="k")

    await write(1)
    _, count = await flights.of(write(2))
    assert count == 3


@pytest.mark.parametrize(
    ("kind", "unchanged", "changed"), [("int", 4, 7), ("int[]", 13, 17)]
)
async def test_rows_of_two_layouts_are_compared_once(
    conn: Any, kind: str, unchanged: int, changed: int
) -> None:
    await conn.execute(f"ALTER TABLE t ADD id serial, ADD a int, ADD x {kind}")
    # An array of arrays has one dimension, so that those are copied.
    value: Any = [1, 2] if kind == "int[]" else 1
    rows: list[Any] = [
        {"k": str(n), "x": value, "a": 1} if n % 2 else {"k": str(n), "x": value}
        for n in range(10)
    ]
    await create_or_update_many(conn, "t", rows, key="k", skip_unchanged=True)
    other: Any = [3] if kind == "int[]" else 3
    for row, number in (({}, unchanged), ({"x": other}, changed)):
        for n in range(4):
            rows[n] |= row
        queries: list[Any] = []
        with conn.query_logger(queries.append):
            await create_or_update_many(conn, "t", rows, key="k", skip_unchanged=True)
            await asyncio.sleep(0)  # the loop calls the logger
        assert len(queries) == number
