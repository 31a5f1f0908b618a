"""What another session does after our snapshot, at each isolation level."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, NamedTuple

import asyncpg
import pytest

from aioupsert import (
    Action,
    F,
    Result,
    SerializationConflictError,
    UsageError,
    create_or_update,
    get_or_create,
    is_retryable,
)
from tests.support.databases import PostgresDatabase
from tests.support.sessions import waiting

TABLE: Final = "CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0)"
ROW: Final = "INSERT INTO t VALUES (1, 10)"
# Seconds; a loop that cannot end would run into it.
GUARD: Final = 10


class Scenario(NamedTuple):
    """
    What happens, and what our call does at READ COMMITTED.

    Attributes:
        before: What is there when our transaction begins.
        theirs: What the other session does then.
        ends: How it ends, or None if it has committed before our call.
        action: What our call reports.
        hits: What is stored in the end.
        repeated: Whether at the higher levels our transaction must be repeated.
    """

    before: str
    theirs: str
    ends: str | None
    action: Action
    hits: int
    repeated: bool = True


SCENARIOS: Final = {
    "inserts": Scenario("", ROW, None, Action.UPDATED, 11),
    "inserts while we wait": Scenario("", ROW, "COMMIT", Action.UPDATED, 11),
    "inserts and rolls back": Scenario(
        "", ROW, "ROLLBACK", Action.CREATED, 1, repeated=False
    ),
    "updates": Scenario(ROW, "UPDATE t SET hits = 20", None, Action.UPDATED, 21),
    "updates while we wait": Scenario(
        ROW, "UPDATE t SET hits = 20", "COMMIT", Action.UPDATED, 21
    ),
    "updates and rolls back": Scenario(
        ROW,
        "UPDATE t SET hits = 20",
        "ROLLBACK",
        Action.UPDATED,
        11,
        repeated=False,
    ),
    "deletes": Scenario(ROW, "DELETE FROM t", None, Action.CREATED, 1),
    "deletes while we wait": Scenario(
        ROW, "DELETE FROM t", "COMMIT", Action.CREATED, 1
    ),
    "replaces": Scenario(
        ROW,
        "DELETE FROM t; INSERT INTO t VALUES (1, 30)",
        None,
        Action.UPDATED,
        31,
    ),
    "replaces while we wait": Scenario(
        ROW,
        "DELETE FROM t; INSERT INTO t VALUES (1, 30)",
        "COMMIT",
        Action.UPDATED,
        31,
    ),
    "renames another row to the key": Scenario(
        "INSERT INTO t VALUES (2, 40)",
        "UPDATE t SET k = 1",
        "COMMIT",
        Action.UPDATED,
        41,
    ),
}


async def count(conn: Any, strategy: Any) -> Result:
    hits = F("hits") + 1
    return await create_or_update(
        conn, "t", key={"k": 1}, defaults={"hits": hits}, strategy=strategy
    )


async def play(
    pg: PostgresDatabase, scenario: Scenario, call: Awaitable[Result]
) -> Result:
    """Let the other session act, with our call waiting for it if it ends later."""
    if scenario.ends is None:
        await pg.run(f"BEGIN; {scenario.theirs}; COMMIT")
        return await call
    async with pg.connect() as other:
        await other.execute(f"BEGIN; {scenario.theirs}")
        ours = asyncio.ensure_future(call)
        await waiting(pg, pg.handle)
        await other.execute(scenario.ends)
        return await ours


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("name", SCENARIOS)
async def test_at_read_committed_the_call_sees_what_is_there(
    pg: PostgresDatabase, name: str, strategy: str
) -> None:
    scenario = SCENARIOS[name]
    await pg.run(f"{TABLE}; {scenario.before}")
    conn: Any = pg.handle
    async with asyncio.timeout(GUARD), conn.transaction(isolation="read_committed"):
        await conn.fetch("SELECT * FROM t")
        result = await play(pg, scenario, count(conn, strategy))
    assert result.action is scenario.action
    assert await pg.query("SELECT hits FROM t WHERE k = 1") == [(scenario.hits,)]


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
@pytest.mark.parametrize("name", SCENARIOS)
async def test_above_it_the_transaction_works_once_repeated(
    pg: PostgresDatabase, name: str, isolation: Any, strategy: str
) -> None:
    scenario = SCENARIOS[name]
    await pg.run(f"{TABLE}; {scenario.before}")
    conn: Any = pg.handle
    errors: list[BaseException] = []

    async def transaction(call: Awaitable[Result] | None = None) -> Result:
        async with conn.transaction(isolation=isolation):
            await conn.fetch("SELECT * FROM t")
            if call is None:
                return await count(conn, strategy)
            return await play(pg, scenario, call)

    async with asyncio.timeout(GUARD):
        try:
            result = await transaction(count(conn, strategy))
        except (SerializationConflictError, asyncpg.SerializationError) as exc:
            errors.append(exc)
            result = await transaction()
    assert bool(errors) == scenario.repeated
    assert all(map(is_retryable, errors))
    assert result.action is scenario.action
    assert await pg.query("SELECT hits FROM t WHERE k = 1") == [(scenario.hits,)]


async def test_where_postgresql_gives_no_serialization_failure_the_library_does(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLE)
    conn: Any = pg.handle
    transaction = conn.transaction(isolation="repeatable_read")
    await transaction.start()
    await conn.fetch("SELECT * FROM t")
    await pg.run(ROW)
    with pytest.raises(SerializationConflictError, match="repeat the tr") as caught:
        await count(conn, "exact")
    assert isinstance(caught.value.__cause__, asyncpg.UniqueViolationError)
    await transaction.rollback()


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_get_or_create_cannot_create_what_it_cannot_see(
    pg: PostgresDatabase, isolation: Any, strategy: Any
) -> None:
    await pg.run(TABLE)
    conn: Any = pg.handle
    transaction = conn.transaction(isolation=isolation)
    await transaction.start()
    await conn.fetch("SELECT * FROM t")
    await pg.run(ROW)
    conflicts = (SerializationConflictError, asyncpg.SerializationError)
    with pytest.raises(conflicts) as caught:
        async with asyncio.timeout(GUARD):
            await get_or_create(conn, "t", key={"k": 1}, strategy=strategy)
    assert is_retryable(caught.value)
    await transaction.rollback()


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_get_or_create_reads_as_any_query_of_the_transaction(
    pg: PostgresDatabase, isolation: Any, strategy: Any
) -> None:
    await pg.run(f"{TABLE}; {ROW}")
    conn: Any = pg.handle
    async with conn.transaction(isolation=isolation):
        await conn.fetch("SELECT * FROM t")
        await pg.run("UPDATE t SET hits = 20")
        row, created = await get_or_create(conn, "t", key={"k": 1}, strategy=strategy)
    assert (dict(row), created) == ({"k": 1, "hits": 10}, False)


@pytest.mark.parametrize("strategy", ["auto", "exact"])
async def test_write_skew_does_not_commit_twice(
    pg: PostgresDatabase, strategy: Any
) -> None:
    await pg.run(TABLE)
    committed: list[int] = []

    async def see_nothing_and_create(conn: Any, key: int) -> None:
        async with conn.transaction(isolation="serializable"):
            seen = await conn.fetchval("SELECT count(*) FROM t")
            assert seen == 0
            await both.wait()
            await create_or_update(conn, "t", key={"k": key}, strategy=strategy)
        committed.append(key)

    both = asyncio.Barrier(2)
    async with pg.connect() as other:
        outcomes = await asyncio.gather(
            see_nothing_and_create(pg.handle, 1),
            see_nothing_and_create(other, 2),
            return_exceptions=True,
        )
    errors = [outcome for outcome in outcomes if outcome is not None]
    assert len(committed) == len(errors) == 1
    assert is_retryable(errors[0])


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_a_lock_that_could_not_help_is_refused(
    pg: PostgresDatabase, isolation: Any
) -> None:
    await pg.run("CREATE TABLE t (k integer, hits integer)")
    conn: Any = pg.handle
    async with conn.transaction(isolation=isolation):
        with pytest.raises(UsageError, match="READ COMMITTED"):
            await create_or_update(conn, "t", key={"k": 1}, without_unique_index="lock")
    assert await pg.query("SELECT * FROM t") == []


@pytest.mark.parametrize("unique", ["", "PRIMARY KEY"], ids=["lock", "index"])
async def test_own_work_is_not_bound_by_the_default_level(
    pg: PostgresDatabase, unique: str
) -> None:
    await pg.run(f"CREATE TABLE t (k integer {unique}, hits integer DEFAULT 0)")
    conn: Any = pg.handle
    await conn.execute("SET default_transaction_isolation = serializable")

    async def count_under_lock(conn: Any) -> Result:
        return await create_or_update(
            conn,
            "t",
            key={"k": 1},
            defaults={"hits": F("hits") + 1},
            without_unique_index="lock",
        )

    async with asyncio.timeout(GUARD), pg.connect() as other:
        async with other.transaction():
            await count_under_lock(other)
            call = asyncio.create_task(count_under_lock(conn))
            await waiting(pg, conn)
        result = await call
    assert result.action is Action.UPDATED
    assert await pg.query("SELECT * FROM t") == [(1, 2)]
