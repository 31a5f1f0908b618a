"""psycopg: round trips, cancellation, loaders and pipelines of the caller."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psycopg
import pytest
from psycopg.adapt import Dumper, Loader
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import class_row

from aioupsert import (
    Action,
    BulkError,
    BulkResult,
    Coalescer,
    F,
    Result,
    UnknownTableError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
)
from aioupsert._drivers.psycopg import PsycopgSession
from tests.support.cancellation import CancelledAt
from tests.support.databases import PostgresDatabase, psycopg_connected, psycopg_pooling
from tests.support.pairwise import pairwise
from tests.support.proxy import Proxy, proxied
from tests.support.servers import Server
from tests.support.sessions import idle

TABLE: Final = "CREATE TABLE t (k text PRIMARY KEY, n integer DEFAULT 0 CHECK (n >= 0))"
IDLE, OPEN = TransactionStatus.IDLE, TransactionStatus.INTRANS


@pytest.fixture(autouse=True)
async def table(pg: PostgresDatabase) -> None:
    await pg.run(TABLE)


@pytest.fixture
async def conn(pg: PostgresDatabase, pg_server: Server) -> Any:
    async with psycopg_connected(pg_server.dsn, pg.schema) as connection:
        yield connection


def rows(number: int, n: int = 1) -> list[dict[str, Any]]:
    return [{"k": f"{k:05}", "n": n} for k in range(number)]


async def count(conn: Any, key: str = "a", **options: Any) -> Result:
    defaults = {"n": F("n") + 1}
    return await create_or_update(
        conn, "t", key={"k": key}, defaults=defaults, **options
    )


async def bulk(conn: Any, number: int = 20) -> BulkResult:
    return await create_or_update_many(conn, "t", rows(number), key="k")


exact = partial(count, strategy="exact")
copy = partial(bulk, number=5_001)


# --- Round trips ------------------------------------------------------------------------


@pytest.fixture
async def proxied_server(pg_server: Server) -> AsyncIterator[tuple[Proxy, str]]:
    async with proxied(pg_server.dsn) as it:
        yield it


@pytest.fixture
def proxy(proxied_server: tuple[Proxy, str]) -> Proxy:
    return proxied_server[0]


@pytest.fixture
def near(proxied_server: tuple[Proxy, str]) -> str:
    """Where to connect to the proxy."""
    return proxied_server[1]


@pytest.fixture(params=[0, None], ids=["prepared", "not prepared"])
def threshold(request: pytest.FixtureRequest) -> Any:
    return request.param


CALLS: Final[dict[str, Callable[..., Awaitable[Result]]]] = {
    "plain": count,
    "returning": partial(count, returning="*"),
    "on_conflict": partial(count, strategy="on_conflict"),
    "exact": exact,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("mode", ["autocommit", "transaction", "begun by it"])
async def test_a_call_is_one_round_trip(
    proxy: Proxy,
    near: str,
    pg: PostgresDatabase,
    *,
    name: str,
    mode: str,
    threshold: int | None,
) -> None:
    call = CALLS[name]
    await pg.run("INSERT INTO t VALUES ('a', 1)")
    async with psycopg_connected(
        near, pg.schema, autocommit=mode != "begun by it"
    ) as conn:
        conn.prepare_threshold = threshold
        async with contextlib.AsyncExitStack() as stack:
            for key in ("a", "warm", "a"):
                await call(conn, key)
            if mode == "transaction":
                await stack.enter_async_context(conn.transaction())
                await conn.execute("SELECT")
            await conn.commit() if mode == "begun by it" else None
            updated, update = await proxy.of(call(conn, "a"))
            await conn.commit() if mode == "begun by it" else None
            created, create = await proxy.of(call(conn, "new"))
        assert (updated.action, created.action) == (Action.UPDATED, Action.CREATED)
        # SAVEPOINT goes with the insert, and so does BEGIN with the first statement.
        steps = {"autocommit": 2}.get(mode, 3)
        assert (update, create) == (1, steps if name == "exact" else 1)
        expected = OPEN if mode == "begun by it" else IDLE
        assert conn.info.transaction_status == expected


@pytest.mark.parametrize("read_only", [None, False, True])
async def test_the_transaction_begins_as_the_caller_has_set_it(
    pg: PostgresDatabase, pg_server: Server, *, read_only: bool | None
) -> None:
    await pg.run("INSERT INTO t VALUES ('a', 1)")
    async with psycopg_connected(pg_server.dsn, pg.schema, autocommit=False) as conn:
        await conn.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        await conn.set_read_only(read_only)
        await conn.set_deferrable(read_only)
        assert not (await get_or_create(conn, "t", key={"k": "a"})).created
        assert conn.info.transaction_status == OPEN
        settings = ("isolation", "read_only", "deferrable")
        names = ", ".join(f"current_setting('transaction_{s}')" for s in settings)
        found = await (await conn.execute(f"SELECT {names}")).fetchone()
        flag = "on" if read_only else "off"
        assert found == ("repeatable read", flag, flag)


async def test_a_pool_adds_no_round_trip(
    proxy: Proxy, near: str, pg: PostgresDatabase
) -> None:
    async with psycopg_pooling(near, pg.schema) as pool:
        await count(pool)
        _, update = await proxy.of(count(pool))
        _, create = await proxy.of(count(pool, "new"))
    assert (update, create) == (1, 1)


# --- What the caller has set ------------------------------------------------------------


class Boxed(Loader):
    """Reads whatever it is as something that is no part of this library."""

    def load(self, data: Any) -> Any:
        return [bytes(data)]


@dataclass
class Counted:
    k: str
    n: int


async def test_loaders_of_the_caller_read_what_the_caller_asked_for(
    conn: Any, pg: PostgresDatabase
) -> None:
    for kind in ("int2", "int4", "int8", "bool", "text", "name", "oid", "json"):
        conn.adapters.register_loader(kind, Boxed)
    for oid in (0, 1016):
        conn.adapters.register_loader(oid, Boxed)
    conn.row_factory = class_row(Counted)
    with pytest.raises(UnknownTableError, match="did you mean 't'"):
        await create_or_update(conn, "tt", key={"k": "a"})
    for strategy in ("auto", "exact", "on_conflict"):
        result = await count(conn, strategy, strategy=strategy, returning="*")
        assert result.row == {"k": [strategy.encode()], "n": [b"1"]}
        assert not (await count(conn, strategy, strategy=strategy)).created
    result = await get_or_create(conn, "t", key={"k": "auto"}, defaults={"n": None})
    assert (result.created, result.row) == (False, {"k": [b"auto"], "n": [b"2"]})
    for unchanged in (False, True):
        for number in (20, 5_001):
            await create_or_update_many(
                conn, "t", rows(number), key="k", skip_unchanged=unchanged
            )
        each = [
            result.row
            async for result in iter_create_or_update(
                conn, "t", rows(4), key="k", returning="*", skip_unchanged=unchanged
            )
        ]
        assert each[3] == {"k": [b"00003"], "n": [b"1"]}
    assert await pg.query("SELECT count(*) FROM t WHERE n = 1") == [(5_001,)]
    await pg.run("CREATE TABLE bare (k text, n integer)")
    for created in (True, False):
        result = await create_or_update(
            conn, "bare", key={"k": "a"}, without_unique_index="lock"
        )
        assert result.created is created
    # It fails for another row's sake, which the library asks for.
    await pg.run(
        "CREATE UNIQUE INDEX ON t (n) WHERE n > 50; INSERT INTO t VALUES ('b', 60)"
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        await create_or_update(
            conn, "t", key={"k": "c"}, defaults={"n": 60}, strategy="exact"
        )
    assert conn.row_factory(await conn.execute("SELECT 'a' AS k, 2 AS n"))


async def test_a_loader_of_the_caller_does_not_tell_what_has_changed(conn: Any) -> None:
    conn.adapters.register_loader("bool", Boxed)
    await count(conn)
    assert (await count(conn, old=True)).changed == ("n",)


async def test_loaders_of_psycopg_s_own_are_left_to_it(
    conn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It reads many rows far quicker than they are read here.
    monkeypatch.delattr(PsycopgSession, "_read")
    assert (await bulk(conn)).created == 20
    conn.adapters.register_loader("date", Boxed)
    assert (await count(conn, returning="*")).created


class Tagged(Dumper):
    """Writes a text in brackets."""

    def dump(self, obj: Any) -> bytes:
        return f"<{obj}>".encode()


class Listed(Dumper):
    """Writes a list as a text."""

    def dump(self, obj: Any) -> bytes:
        return ",".join(map(str, obj)).encode()


async def test_dumpers_of_the_caller_write_what_the_caller_gives(
    conn: Any, pg: PostgresDatabase
) -> None:
    conn.adapters.register_dumper(str, Tagged)
    conn.adapters.register_dumper(list, Listed)
    await pg.run("ALTER TABLE t ADD l text")
    assert (
        await create_or_update(conn, "t", key={"k": "a"}, defaults={"l": [1, 2]})
    ).created
    for number in (9, 5_001):
        given = [{"k": f"{k}", "l": [k, 0]} for k in range(number)]
        await create_or_update_many(conn, "t", given, key="k")
    assert await pg.query(
        "SELECT k, l FROM t WHERE k IN ('<a>', '<8>') ORDER BY k"
    ) == [
        ("<8>", "8,0"),
        ("<a>", "1,2"),
    ]
    assert await pg.query("SELECT count(*) FROM t") == [(5_002,)]


async def test_without_pipelines_statements_go_one_by_one(
    conn: Any, pg: PostgresDatabase, pg_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psycopg.AsyncPipeline, "is_supported", lambda: False)
    monkeypatch.delattr(psycopg.AsyncConnection, "pipeline")
    assert await bulk(conn) == BulkResult(created=20)
    async with conn.transaction():
        assert (await exact(conn)).created
    async with psycopg_connected(pg_server.dsn, pg.schema, autocommit=False) as manual:
        assert not (await exact(manual)).created
        assert (await count(manual, "b")).created
        await manual.commit()
    assert await pg.query("SELECT k, n FROM t WHERE k >= 'a' ORDER BY k") == [
        ("a", 2),
        ("b", 1),
    ]


# --- The caller's pipeline --------------------------------------------------------------


async def test_in_a_pipeline_every_call_is_committed_when_it_returns(
    conn: Any, pg: PostgresDatabase
) -> None:
    async with conn.pipeline():
        for number, strategy in enumerate(("auto", "exact", "exact", "auto"), start=1):
            await count(conn, strategy=strategy)
            assert await pg.query("SELECT k, n FROM t") == [("a", number)]
        # COPY is refused in a pipeline: arrays carry the rows.
        assert (await copy(conn)).created == 5_001
        assert await pg.query("SELECT count(*) FROM t") == [(5_002,)]
    assert conn.pgconn.pipeline_status == PipelineStatus.OFF
    assert conn.info.transaction_status == IDLE


async def test_in_a_pipeline_an_error_undoes_the_call_alone(
    conn: Any, pg: PostgresDatabase
) -> None:
    await pg.run(
        "CREATE UNIQUE INDEX ON t (n) WHERE n > 50; INSERT INTO t VALUES ('b', 60)"
    )
    wrong: dict[str, Any] = {
        "key": {"k": "c"},
        "defaults": {"n": 60},
        "strategy": "exact",
    }
    bad: list[Any] = [*rows(9), {"k": "bad", "n": -1}]
    async with conn.pipeline():
        for around in (contextlib.nullcontext, conn.transaction):
            async with around():
                await conn.execute("INSERT INTO t VALUES ('a') ON CONFLICT DO NOTHING")
                with pytest.raises(psycopg.errors.UniqueViolation):
                    await create_or_update(conn, "t", **wrong)
                with pytest.raises(BulkError, match="row 9:") as caught:
                    await create_or_update_many(conn, "t", bad, key="k")
                assert isinstance(caught.value.__cause__, psycopg.errors.CheckViolation)
                await count(conn)
    assert await pg.query("SELECT k, n FROM t ORDER BY k") == [("a", 2), ("b", 60)]
    assert conn.info.transaction_status == IDLE


# --- Cancellation -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mode", "delay", "twice"),
    pairwise(
        ["count", "exact", "bulk", "copy"],
        ["own", "caller's", "begun by it", "pool"],
        [0, 0.0005],
        [False, True],
    ),
)
async def test_a_call_cancelled_at_every_suspension_point(
    pg: PostgresDatabase,
    pg_server: Server,
    request: pytest.FixtureRequest,
    *,
    name: str,
    mode: str,
    delay: float,
    twice: bool,
) -> None:
    if name == "copy":
        request.getfixturevalue("small_copies")
    call: Any = {"count": count, "exact": exact}.get(name, bulk)
    whole = {"count": 1, "exact": 1}.get(name, 20)
    autocommit = mode != "begun by it"
    reached, point = True, 0
    async with psycopg_pooling(pg_server.dsn, pg.schema) as pool:
        while reached:
            point += 1
            async with psycopg_connected(
                pg_server.dsn, pg.schema, autocommit=autocommit
            ) as conn:
                await create_or_update(conn, "t", key={"k": "warm"})
                if mode == "begun by it":
                    await conn.commit()
                if mode == "caller's":
                    await conn.execute("BEGIN; INSERT INTO t VALUES ('mine')")
                ours = CancelledAt(
                    call(pool if mode == "pool" else conn), point, delay, twice=twice
                )
                cancelled = await ours.outcome()
                reached = ours.reached
                await settled(conn, mode)
            if mode == "pool":
                async with pool.connection() as lent:
                    assert not lent.autocommit
                    assert lent.info.transaction_status == IDLE
            # The server may hear later of a connection that is closed.
            assert await becomes_idle(pg)
            ((stored,),) = await pg.query("SELECT count(*) FROM t WHERE k < 'mine'")
            assert stored in ({0, whole} if cancelled else {whole})
            await pg.run("DELETE FROM t WHERE k < 'mine' OR k = 'mine'")
    assert point > 1


async def becomes_idle(pg: PostgresDatabase) -> bool:
    for delay in (0, 0.01, 0.1, 1, 5):
        await asyncio.sleep(delay)
        if await idle(pg):
            return True
    return False


async def settled(conn: Any, mode: str) -> None:
    """See that the connection is closed or as good as new, and end what it holds."""
    if conn.closed:
        return
    assert conn.pgconn.pipeline_status == PipelineStatus.OFF
    status = conn.info.transaction_status
    if mode == "caller's":
        # The statement that is cancelled aborts it, as any that fails does.
        assert status in {OPEN, TransactionStatus.INERROR}
        await conn.execute("COMMIT")
    elif mode == "begun by it":
        assert status != TransactionStatus.ACTIVE
        await conn.commit()
    else:
        assert status == IDLE
    assert not (await create_or_update(conn, "t", key={"k": "warm"})).created


async def test_cancelled_while_it_waits_for_a_lock(
    conn: Any, pg: PostgresDatabase, pg_server: Server
) -> None:
    async with psycopg_connected(pg_server.dsn, pg.schema, autocommit=False) as other:
        await count(other)
        for call in (count, exact):
            task = asyncio.create_task(call(conn))
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert conn.info.transaction_status == IDLE
            async with conn.transaction():
                task = asyncio.create_task(call(conn))
                await asyncio.sleep(0.2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                status = conn.info.transaction_status
                assert status == (OPEN if call is exact else TransactionStatus.INERROR)
        await other.commit()
    assert await pg.query("SELECT k, n FROM t") == [("a", 1)]
    assert not (await count(conn)).created


async def test_a_call_cancelled_before_its_turn_leaves_the_statement_of_another_task(
    conn: Any,
) -> None:
    await count(conn)
    sleeping = asyncio.create_task(conn.execute("SELECT pg_sleep(0.3)"))
    await asyncio.sleep(0.1)
    waiting = asyncio.create_task(count(conn))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await (await sleeping).fetchone() == ("",)


@pytest.mark.parametrize("name", ["count", "exact", "bulk"])
async def test_a_server_that_answers_no_more_costs_the_connection(
    proxy: Proxy,
    near: str,
    pg: PostgresDatabase,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aioupsert._drivers.psycopg.ROLLBACK_TIMEOUT", 0.1)
    call: Any = {"count": count, "exact": exact, "bulk": bulk}[name]
    async with psycopg_connected(near, pg.schema) as conn:
        await create_or_update(conn, "t", key={"k": "warm"})
        proxy.passes.clear()
        proxy.stop()
        task = asyncio.create_task(call(conn))
        await asyncio.sleep(0.05)
        task.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await task
        assert conn.closed
        proxy.passes.set()


# --- Lost connections -------------------------------------------------------------------


@pytest.mark.parametrize("call", [count, exact, bulk, copy])
@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_a_connection_lost_meanwhile_is_psycopg_s_error(
    conn: Any, pg: PostgresDatabase, call: Any, *, inside: bool
) -> None:
    unseen: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, what: unseen.append(what)
    )
    await pg.run(
        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN new; END $$;"
        " CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()"
    )
    with pytest.raises(psycopg.OperationalError) as caught:
        async with conn.transaction() if inside else contextlib.nullcontext():
            await call(conn)
    # In a pipeline psycopg hears no more of it.
    assert type(caught.value) in {
        psycopg.errors.AdminShutdown,
        psycopg.OperationalError,
    }
    assert conn.closed
    del caught
    gc.collect()
    await asyncio.sleep(0)
    assert not unseen
    assert await pg.query("SELECT * FROM t") == []


async def test_a_pool_gets_its_connections_back_as_they_were(
    pg: PostgresDatabase, pg_server: Server
) -> None:
    async with psycopg_pooling(pg_server.dsn, pg.schema) as pool:
        bad: list[Any] = [*rows(9), {"k": "bad", "n": -1}]
        with pytest.raises(psycopg.errors.CheckViolation):
            await create_or_update(pool, "t", key={"k": "a"}, defaults={"n": -1})
        with pytest.raises(BulkError):
            await create_or_update_many(pool, "t", bad, key="k")
        with pytest.raises(UnknownTableError):
            await create_or_update(pool, "tt", key={"k": "a"})
        async with Coalescer(pool, "t", key="k") as coalescer:
            calls = (coalescer.create_or_update(key={"k": str(k)}) for k in range(40))
            await asyncio.gather(*calls)
        async with pool.connection() as lent:
            assert not lent.autocommit
            assert lent.info.transaction_status == IDLE
    assert await pg.query("SELECT count(*) FROM t") == [(40,)]
