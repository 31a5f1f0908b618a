"""A call takes part in the caller's transaction, and never ends or aborts it."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import Action, F, Result, create_or_update, get_or_create, is_retryable
from tests.support.databases import PostgresDatabase
from tests.support.sessions import waiting

TABLES: Final = """
CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0);
CREATE TABLE log (line text)
"""


async def count(conn: Any, key: int, **options: Any) -> Result:
    hits = F("hits") + 1
    return await create_or_update(
        conn, "t", key={"k": key}, defaults={"hits": hits}, **options
    )


def with_block(conn: Any) -> AbstractAsyncContextManager[Any]:
    block: AbstractAsyncContextManager[Any] = conn.transaction()
    return block


@asynccontextmanager
async def by_hand(conn: Any) -> AsyncIterator[None]:
    await conn.execute("BEGIN")
    yield
    await conn.execute("COMMIT")


@asynccontextmanager
async def nested(conn: Any) -> AsyncIterator[None]:
    async with conn.transaction(), conn.transaction():
        yield


Begin = Callable[[Any], AbstractAsyncContextManager[Any]]
BEGINS: Final[dict[str, Begin]] = {
    "block": with_block,
    "by hand": by_hand,
    "nested": nested,
}


async def lose_race(pg: PostgresDatabase, conn: Any, **options: Any) -> Result:
    """Have another session commit the row while the call waits for it."""
    async with pg.connect() as other:
        async with other.transaction():
            await other.execute("INSERT INTO t VALUES (1, 10)")
            call = asyncio.create_task(count(conn, 1, **options))
            await waiting(pg, conn)
        return await call


# No row is proposed to a table with such a constraint.
CHECKED: Final = "; ALTER TABLE t ADD CHECK (k > 0)"


@pytest.mark.parametrize("begin", BEGINS)
@pytest.mark.parametrize(
    ("strategy", "more"),
    [("auto", ""), ("auto", CHECKED), ("exact", ""), ("on_conflict", "")],
)
async def test_a_lost_race_keeps_what_the_caller_wrote(
    pg: PostgresDatabase, begin: str, strategy: str, more: str
) -> None:
    await pg.run(TABLES + more)
    conn: Any = pg.handle
    async with BEGINS[begin](conn):
        await conn.execute("INSERT INTO log VALUES ('before')")
        result = await lose_race(pg, conn, strategy=strategy)
        await conn.execute("INSERT INTO log VALUES ('after')")
    assert result.action is Action.UPDATED
    assert await pg.query("SELECT * FROM log") == [("before",), ("after",)]
    assert await pg.query("SELECT * FROM t") == [(1, 11)]


async def test_a_lost_race_of_get_or_create_too(pg: PostgresDatabase) -> None:
    await pg.run(TABLES)
    conn: Any = pg.handle
    async with pg.connect() as other, conn.transaction():
        await conn.execute("INSERT INTO log VALUES ('before')")
        async with other.transaction():
            await other.execute("INSERT INTO t VALUES (1, 10)")
            call = asyncio.create_task(get_or_create(conn, "t", key={"k": 1}))
            await waiting(pg, conn)
        row, created = await call
    assert (dict(row), created) == ({"k": 1, "hits": 10}, False)
    assert await pg.query("SELECT * FROM log") == [("before",)]


@pytest.mark.parametrize("more", ["", CHECKED])
async def test_a_race_with_one_who_rolls_back_creates(
    pg: PostgresDatabase, more: str
) -> None:
    await pg.run(TABLES + more)
    conn: Any = pg.handle
    async with pg.connect() as other, conn.transaction():
        theirs = other.transaction()
        await theirs.start()
        await other.execute("INSERT INTO t VALUES (1, 10)")
        call = asyncio.create_task(count(conn, 1))
        await waiting(pg, conn)
        await theirs.rollback()
        result = await call
    assert result.action is Action.CREATED
    assert await pg.query("SELECT * FROM t") == [(1, 1)]


EXACT_KINDS: Final = {
    "deferrable": "ALTER TABLE t ADD UNIQUE (k) DEFERRABLE",
    "deferred": "ALTER TABLE t ADD UNIQUE (k) DEFERRABLE INITIALLY DEFERRED",
    "exclusion": "ALTER TABLE t ADD EXCLUDE (k WITH =)",
    "rule": "CREATE RULE r AS ON UPDATE TO t WHERE false DO ALSO NOTHING",
    "BEFORE INSERT trigger": (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql"
        " AS 'BEGIN RETURN new; END';"
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
    ),
}


@pytest.mark.parametrize("kind", EXACT_KINDS)
async def test_a_lost_race_on_tables_that_need_the_classic_steps(
    pg: PostgresDatabase, kind: str
) -> None:
    await pg.run(TABLES + ";" + EXACT_KINDS[kind])
    conn: Any = pg.handle
    async with conn.transaction():
        await conn.execute("INSERT INTO log VALUES ('before')")
        lost = await lose_race(pg, conn)
        created = await count(conn, 2)
        updated = await count(conn, 2)
        await conn.execute("INSERT INTO log VALUES ('after')")
    assert (lost.created, created.created, updated.created) == (False, True, False)
    assert await pg.query("SELECT * FROM log") == [("before",), ("after",)]
    assert await pg.query("SELECT * FROM t ORDER BY k") == [(1, 11), (2, 2)]


async def test_a_view_with_triggers_is_written_in_the_callers_transaction(
    pg: PostgresDatabase,
) -> None:
    await pg.run(
        "CREATE TABLE b (k integer PRIMARY KEY, hits integer);"
        "CREATE VIEW t AS SELECT * FROM b; ALTER VIEW t ALTER hits SET DEFAULT 0;"
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF tg_op = 'INSERT' THEN INSERT INTO b VALUES (new.k, new.hits);"
        " ELSE UPDATE b SET hits = new.hits WHERE k = old.k; END IF;"
        " RETURN new; END $$;"
        "CREATE TRIGGER g INSTEAD OF INSERT OR UPDATE ON t"
        " FOR EACH ROW EXECUTE FUNCTION f()"
    )
    conn: Any = pg.handle
    async with pg.connect() as other, conn.transaction():
        async with other.transaction():
            await other.execute("INSERT INTO b VALUES (1, 10)")
            call = asyncio.create_task(count(conn, 1))
            await waiting(pg, conn)
        lost = await call
        created = await count(conn, 2)
    assert (lost.created, created.created) == (False, True)
    assert await pg.query("SELECT * FROM b ORDER BY k") == [(1, 11), (2, 1)]


STRATEGIES: Final = ["auto", "exact", "on_conflict"]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_nothing_is_committed_for_the_caller(
    pg: PostgresDatabase, strategy: str
) -> None:
    await pg.run(TABLES + "; INSERT INTO t VALUES (1, 10)")
    conn: Any = pg.handle
    transaction = conn.transaction()
    await transaction.start()
    updated = await count(conn, 1, strategy=strategy)
    created = await count(conn, 2, strategy=strategy)
    assert (updated.created, created.created) == (False, True)
    assert conn.is_in_transaction()
    assert await conn.fetchval("SELECT sum(hits) FROM t") == 12
    assert await pg.query("SELECT * FROM t") == [(1, 10)]
    await transaction.rollback()
    assert await pg.query("SELECT * FROM t") == [(1, 10)]


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_a_lock_opens_a_transaction_only_where_there_is_none(
    pg: PostgresDatabase, *, inside: bool
) -> None:
    await pg.run("CREATE TABLE t (k integer, hits integer DEFAULT 0)")
    conn: Any = pg.handle
    transaction = conn.transaction()
    if inside:
        await transaction.start()
    result = await count(conn, 1, without_unique_index="lock")
    assert result.created
    assert conn.is_in_transaction() == inside
    assert await pg.query("SELECT * FROM t") == ([] if inside else [(1, 1)])
    if inside:
        await transaction.rollback()


async def test_savepoints_have_one_name_and_are_released(pg: PostgresDatabase) -> None:
    await pg.run(TABLES)
    conn: Any = pg.handle
    queries: list[Any] = []
    with conn.query_logger(queries.append):
        async with conn.transaction():
            for key in range(3):
                await count(conn, key, strategy="exact")
    await asyncio.sleep(0)  # the loop calls the logger
    commands = [query.query for query in queries]
    names = re.findall(r"^SAVEPOINT (\w+)", "\n".join(commands), re.MULTILINE)
    assert (len(names), len(set(names))) == (3, 1)
    released = [f"RELEASE SAVEPOINT {name}" for name in names]
    assert [c for c in commands if c.startswith("RELEASE")] == released


async def test_savepoints_of_the_caller_stay(pg: PostgresDatabase) -> None:
    await pg.run(TABLES)
    conn: Any = pg.handle
    async with conn.transaction():
        await count(conn, 2, strategy="exact")
        await conn.execute("SAVEPOINT mine")
        await count(conn, 3, strategy="exact")
        await lose_race(pg, conn, strategy="exact")
        await conn.execute("ROLLBACK TO SAVEPOINT mine")
    assert await pg.query("SELECT * FROM t ORDER BY k") == [(1, 10), (2, 1)]


async def test_another_row_in_the_way_leaves_the_transaction_usable(
    pg: PostgresDatabase,
) -> None:
    await pg.run(
        "CREATE TABLE t (k integer PRIMARY KEY, d integer CONSTRAINT taken UNIQUE);"
        "INSERT INTO t VALUES (1, 10)"
    )
    conn: Any = pg.handle
    async with conn.transaction():
        await conn.execute("INSERT INTO t VALUES (5, 50)")
        with pytest.raises(asyncpg.UniqueViolationError, match="taken"):
            await create_or_update(conn, "t", key={"k": 2}, defaults={"d": 10})
        await conn.execute("INSERT INTO t VALUES (6, 60)")
    assert await pg.query("SELECT k FROM t ORDER BY k") == [(1,), (5,), (6,)]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_transaction_that_has_failed_says_so(
    pg: PostgresDatabase, strategy: str
) -> None:
    await pg.run(TABLES)
    conn: Any = pg.handle
    await count(conn, 1, strategy=strategy)
    transaction = conn.transaction()
    await transaction.start()
    with pytest.raises(asyncpg.DivisionByZeroError):
        await conn.execute("SELECT 1 / 0")
    with pytest.raises(asyncpg.InFailedSQLTransactionError):
        await count(conn, 1, strategy=strategy)
    await transaction.rollback()
    assert await pg.query("SELECT * FROM t") == [(1, 1)]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_deadlock_reaches_the_caller_as_it_is(
    pg: PostgresDatabase, strategy: str
) -> None:
    await pg.run(TABLES + "; INSERT INTO t VALUES (1, 0), (2, 0)")
    conn: Any = pg.handle
    async with pg.connect() as other:
        ours, theirs = conn.transaction(), other.transaction()
        await ours.start()
        await theirs.start()
        await count(conn, 1, strategy=strategy)
        await count(other, 2, strategy=strategy)
        # Who waited first finds the deadlock.
        call = asyncio.create_task(count(conn, 2, strategy=strategy))
        await waiting(pg, conn)
        await asyncio.sleep(0.1)
        await count(other, 1, strategy=strategy)
        with pytest.raises(asyncpg.DeadlockDetectedError) as caught:
            await call
        assert is_retryable(caught.value)
        await ours.rollback()
        await theirs.commit()
    assert await pg.query("SELECT * FROM t ORDER BY k") == [(1, 1), (2, 1)]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_a_serialization_failure_reaches_the_caller_as_it_is(
    pg: PostgresDatabase, isolation: Any, strategy: str
) -> None:
    await pg.run(TABLES + "; INSERT INTO t VALUES (1, 0)")
    conn: Any = pg.handle
    transaction = conn.transaction(isolation=isolation)
    await transaction.start()
    await conn.fetch("SELECT * FROM t")
    await pg.run("UPDATE t SET hits = 5")
    queries: list[Any] = []
    with (
        conn.query_logger(queries.append),
        pytest.raises(asyncpg.SerializationError) as caught,
    ):
        await count(conn, 1, strategy=strategy)
    await asyncio.sleep(0)  # the loop calls the logger
    assert is_retryable(caught.value)
    # The query of the catalog, and the call: not tried again. The first call of all asks
    # the catalog again, and finds out that a row must not be proposed at this level.
    assert len(queries) == (4 if strategy == "auto" else 2)
    await transaction.rollback()
    assert await pg.query("SELECT * FROM t") == [(1, 5)]
