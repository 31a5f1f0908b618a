"""psycopg: its transactions, its pipelines, and what the caller has set."""

import asyncio
from contextlib import suppress
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.adapt import Dumper, Loader
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import dict_row

from aioupsert import (
    BulkError,
    BulkResult,
    F,
    RetriesExhaustedError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    is_retryable,
)
from tests.support.databases import (
    PostgresDatabase,
    psycopg_connected,
    psycopg_pooling,
)
from tests.support.servers import Server
from tests.support.versions import NOTICES_DROPS

ADD: dict[str, Any] = {"key": {"k": "a"}, "defaults": {"n": F("n") + 1}}
IDLE, OPEN = TransactionStatus.IDLE, TransactionStatus.INTRANS


@pytest.fixture(autouse=True)
async def table(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k text PRIMARY KEY, n integer NOT NULL DEFAULT 0)")


@pytest.fixture
async def conn(pg: PostgresDatabase, pg_server: Server) -> Any:
    async with psycopg_connected(pg_server.dsn, pg.schema) as connection:
        yield connection


@pytest.fixture
async def manual(pg: PostgresDatabase, pg_server: Server) -> Any:
    """A connection as psycopg opens it unless told otherwise."""
    async with psycopg_connected(
        pg_server.dsn, pg.schema, autocommit=False
    ) as connection:
        yield connection


@pytest.fixture
async def pool(pg: PostgresDatabase, pg_server: Server) -> Any:
    async with psycopg_pooling(pg_server.dsn, pg.schema) as opened:
        yield opened


async def stored(pg: PostgresDatabase) -> list[tuple[Any, ...]]:
    return await pg.query("SELECT k, n FROM t ORDER BY k")


async def test_without_autocommit_the_caller_commits(
    manual: Any, pg: PostgresDatabase
) -> None:
    assert (await create_or_update(manual, "t", **ADD)).created
    assert manual.info.transaction_status == OPEN
    await manual.rollback()
    assert await stored(pg) == []
    rows = [{"k": str(n), "n": n} for n in range(9)]
    assert await create_or_update_many(manual, "t", rows, key="k") == BulkResult(
        created=9
    )
    for strategy in ("auto", "exact", "on_conflict"):
        await create_or_update(manual, "t", **ADD, strategy=strategy)
    assert (await get_or_create(manual, "t", key={"k": "b"})).created
    assert await stored(pg) == []
    await manual.commit()
    assert len(await stored(pg)) == 11


async def test_with_autocommit_nothing_is_open_afterwards(
    conn: Any, pg: PostgresDatabase
) -> None:
    await create_or_update(conn, "t", **ADD, strategy="exact")
    assert conn.info.transaction_status == IDLE
    async with conn.transaction():
        await create_or_update(conn, "t", **ADD, strategy="exact")
        await create_or_update(conn, "t", key={"k": "b"}, strategy="exact")
        assert await stored(pg) == [("a", 1)]
    assert await stored(pg) == [("a", 2), ("b", 0)]


async def test_a_pipeline_of_the_caller_is_waited_for(
    conn: Any, pg: PostgresDatabase
) -> None:
    async with conn.pipeline():
        await conn.execute("INSERT INTO t VALUES ('a', 5)")
        assert not (await create_or_update(conn, "t", **ADD)).created
        assert await stored(pg) == [("a", 6)]
        await create_or_update(conn, "t", **ADD, strategy="exact")
        assert await stored(pg) == [("a", 7)]


class Word(str):
    """A text of the caller's."""

    __slots__ = ()


class Never(Dumper):
    """Writes NULL, whatever it is given."""

    def dump(self, obj: Any) -> None:
        del obj


class Shouting(Loader):
    """Reads a text in capitals."""

    def load(self, data: Any) -> str:
        return bytes(data).decode().upper()


async def test_row_factory_and_adapters_are_left_alone(
    conn: Any, pg: PostgresDatabase
) -> None:
    await pg.run("ALTER TABLE t ADD w text")
    conn.row_factory = dict_row
    conn.adapters.register_dumper(Word, Never)
    conn.adapters.register_loader("text", Shouting)
    rows = [{"k": f'"{n}\\', "w": value} for n, value in enumerate(["x", None, "z"])]
    rows.append({"k": "word", "w": Word("y")})
    assert (await create_or_update_many(conn, "t", rows, key="k")).created == 4
    result = await create_or_update(conn, "t", key={"k": "word"}, returning="*")
    assert result.row == {"k": "WORD", "n": 0, "w": None}
    assert await pg.query("SELECT k, w FROM t ORDER BY k") == [
        ('"0\\', "x"),
        ('"1\\', None),
        ('"2\\', "z"),
        ("word", None),
    ]
    found = await (await conn.execute("SELECT k FROM t WHERE w = 'x'")).fetchone()
    assert found == {"k": '"0\\'}


async def test_a_pool_s_connections_go_back_as_they_were(
    pool: Any, pg: PostgresDatabase
) -> None:
    await create_or_update(pool, "t", **ADD)
    with pytest.raises(psycopg.errors.NotNullViolation):
        await create_or_update(pool, "t", key={"k": "a"}, defaults={"n": None})
    async with pool.connection() as connection:
        assert not connection.autocommit
        await create_or_update(connection, "t", **ADD)
        assert await stored(pg) == [("a", 1)]
    assert await stored(pg) == [("a", 2)]


async def test_a_pool_of_autocommitting_connections(
    pg: PostgresDatabase, pg_server: Server
) -> None:
    settings = {"options": f"-csearch_path={pg.schema}", "autocommit": True}
    async with psycopg_pool.AsyncConnectionPool(
        pg_server.dsn, kwargs=settings, min_size=1
    ) as pool:
        await create_or_update(pool, "t", **ADD)
    assert await stored(pg) == [("a", 1)]


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("strategy", ["auto", "exact", "bulk"])
async def test_a_cancelled_call_leaves_nothing_open(
    pool: Any, pg: PostgresDatabase, strategy: Any, *, twice: bool
) -> None:
    async def call(conn: Any) -> None:
        if strategy == "bulk":
            rows = [{"k": str(n), "n": n} for n in range(20)]
            await create_or_update_many(conn, "t", rows, key="k")
        else:
            await create_or_update(conn, "t", **ADD, strategy=strategy)

    for turn in range(25):
        async with pool.connection() as conn:
            await conn.set_autocommit(True)
            task = asyncio.create_task(call(conn))
            await asyncio.sleep(turn / 5000)
            task.cancel()
            if twice:
                await asyncio.sleep(0)
                task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            # psycopg closes a connection whose cancelling is cancelled.
            assert conn.closed or conn.info.transaction_status == IDLE
            if not conn.closed:
                await create_or_update(conn, "t", key={"k": f"then {turn}"})
                assert (f"then {turn}", 0) in await stored(pg)
                await conn.set_autocommit(False)


@pytest.mark.parametrize("number", [1, 9])
async def test_a_lost_connection_is_an_error_of_psycopg(
    conn: Any, pg: PostgresDatabase, number: int
) -> None:
    await create_or_update(conn, "t", **ADD)
    await pg.run(f"SELECT pg_terminate_backend({conn.info.backend_pid})")
    rows = [{"k": str(n), "n": n} for n in range(number)]
    with pytest.raises(psycopg.OperationalError) as caught:
        if number == 1:
            await create_or_update(conn, "t", **ADD)
        else:
            await create_or_update_many(conn, "t", rows, key="k")
    assert not is_retryable(caught.value)
    assert conn.closed
    with pytest.raises(psycopg.OperationalError, match=r"closed|lost"):
        await create_or_update(conn, "t", **ADD)


@pytest.mark.parametrize("threshold", [0, None], ids=["prepared", "not prepared"])
async def test_a_table_that_changes_under_prepared_statements(
    conn: Any, pg: PostgresDatabase, threshold: int | None
) -> None:
    conn.prepare_threshold = threshold
    for kind in ("bigint", "text", "numeric"):
        for _ in range(3):
            await create_or_update(conn, "t", key={"k": "a"}, returning="*")
        await pg.run(
            "ALTER TABLE t ALTER n DROP DEFAULT;"
            f"ALTER TABLE t ALTER n TYPE {kind} USING n::{kind}"
        )
    assert (await create_or_update(conn, "t", key={"k": "a"}, returning="*")).row


async def test_statements_that_the_caller_prepares_and_drops(conn: Any) -> None:
    async def calls() -> None:
        for n in range(8):  # psycopg prepares a statement after five
            await create_or_update(conn, "t", key={"k": f"{n}"}, defaults={"n": n})
            rows = [{"k": f"{n}", "n": n} for n in range(3)]
            await create_or_update_many(conn, "t", rows, key="k")

    await conn.execute("PREPARE mine AS SELECT sum(n) FROM t")
    await calls()
    cursor = await conn.execute("EXECUTE mine")
    assert await cursor.fetchall() == [(28,)]
    all_at_once = ("DEALLOCATE ALL", "DISCARD ALL") if NOTICES_DROPS else ()
    for drop in ("DEALLOCATE mine", *all_at_once):
        await conn.execute(drop)
        await calls()


async def test_transient_errors_are_tried_again_until_the_timeout(
    conn: Any, pg: PostgresDatabase
) -> None:
    await pg.run(
        "INSERT INTO t VALUES ('a', 0);"
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN RAISE SQLSTATE ''40001''; END';"
        "CREATE TRIGGER f BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fail()"
    )
    for strategy in ("auto", "exact"):
        with pytest.raises(RetriesExhaustedError):
            await create_or_update(conn, "t", **ADD, strategy=strategy, timeout=0.05)
    async with conn.transaction(force_rollback=True):
        with pytest.raises(psycopg.errors.SerializationFailure) as caught:
            await create_or_update(conn, "t", **ADD)
        assert is_retryable(caught.value)


async def test_a_row_that_is_there_is_found_in_a_read_only_session(
    conn: Any, pg: PostgresDatabase
) -> None:
    await pg.run("INSERT INTO t VALUES ('a', 3)")
    await conn.execute("SET default_transaction_read_only = on")
    assert (await get_or_create(conn, "t", key={"k": "a"})).row == {"k": "a", "n": 3}
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        await create_or_update(conn, "t", **ADD)


async def test_a_value_that_psycopg_cannot_write_is_the_row_s_fault(conn: Any) -> None:
    rows = [{"k": str(n), "n": n} for n in range(9)]
    rows[4]["n"] = object()
    with pytest.raises(BulkError) as caught:
        await create_or_update_many(conn, "t", rows, key="k")
    assert caught.value.index == 4
    assert isinstance(caught.value.__cause__, psycopg.ProgrammingError)


async def test_thousands_of_rows_are_copied(conn: Any, pg: PostgresDatabase) -> None:
    rows = [{"k": f"{n}\t\\", "n": n} for n in range(6000)]
    assert await create_or_update_many(conn, "t", rows, key="k") == BulkResult(
        created=6000
    )
    assert ("7\t\\", 7) in await stored(pg)


async def test_a_changed_table_in_the_caller_s_transaction(
    conn: Any, pg: PostgresDatabase
) -> None:
    await create_or_update(conn, "t", **ADD)
    await pg.run("ALTER TABLE t RENAME n TO m")
    with pytest.raises(psycopg.errors.UndefinedColumn):
        async with conn.transaction():
            await create_or_update(conn, "t", **ADD)
    # The next call reads it afresh.
    result = await create_or_update(conn, "t", key={"k": "a"}, defaults={"m": 5})
    assert not result.created


async def test_a_pool_s_connection_that_is_lost_is_replaced(
    pool: Any, pg: PostgresDatabase
) -> None:
    await create_or_update(pool, "t", **ADD)
    await pg.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = current_schema() AND pid <> pg_backend_pid()"
    )
    with pytest.raises(psycopg.OperationalError):
        await create_or_update(pool, "t", **ADD)
    assert not (await create_or_update(pool, "t", **ADD)).created
    assert await stored(pg) == [("a", 2)]


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
async def test_a_call_that_waits_in_a_pipeline_can_be_cancelled(
    conn: Any, manual: Any, pg: PostgresDatabase, *, twice: bool
) -> None:
    await pg.run("CREATE TABLE u (k text, n integer)")
    call: dict[str, Any] = {"key": {"k": "a"}, "without_unique_index": "lock"}
    await create_or_update(manual, "u", **call)  # holds the lock until it commits
    # Its BEGIN and its lock go together.
    task = asyncio.create_task(create_or_update(conn, "u", **call))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    while await pg.query(waiting) == [(0,)]:  # noqa: ASYNC110  # the server tells nobody
        await asyncio.sleep(0.01)
    task.cancel()
    if twice:
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await manual.commit()
    assert conn.closed or conn.info.transaction_status == IDLE
    assert conn.info.pipeline_status == PipelineStatus.OFF or conn.closed
    assert await pg.query("SELECT k FROM u") == [("a",)]
