"""Many connections on few rows: sums and flags are exact, and no error surfaces."""

import asyncio
import random
from collections import Counter
from contextlib import nullcontext
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import Action, F, Result, create_or_update, get_or_create
from tests.support.databases import PostgresDatabase
from tests.support.sessions import clients, together, waiting

COUNTER: Final = "k integer PRIMARY KEY, hits integer DEFAULT 0"


async def count(conn: Any, key: Any, **options: Any) -> Result:
    hits = F("hits") + 1
    return await create_or_update(
        conn, "t", key={"k": key}, defaults={"hits": hits}, **options
    )


async def race_with_deletes(
    pg: PostgresDatabase,
    *,
    number: int,
    calls: int,
    keys: list[Any],
    **options: Any,
) -> None:
    """Check that nothing is lost or counted twice, and that every flag is true."""
    upserts: Counter[Any] = Counter()
    created: Counter[Any] = Counter()
    deleted: Counter[Any] = Counter()
    deletes: Counter[Any] = Counter()

    async def work(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        for _ in range(calls):
            key = choose.choice(keys)
            if choose.random() < 0.2:
                sql = "DELETE FROM t WHERE k = $1 RETURNING hits"
                for row in await conn.fetch(sql, key):
                    deleted[key] += row["hits"]
                    deletes[key] += 1
            else:
                result = await count(conn, key, **options)
                assert result.rows_affected == 1
                upserts[key] += 1
                created[key] += result.created

    async with clients(pg, number) as conns:
        await together(conns, work)
    stored = dict(await pg.query("SELECT k, hits FROM t"))
    for key in keys:
        assert deleted[key] + stored.get(key, 0) == upserts[key]
        assert deletes[key] + (key in stored) == created[key]


@pytest.mark.parametrize(
    ("strategy", "more"),
    # No row is proposed to a table with a constraint of its own.
    [("auto", ""), ("auto", ", CHECK (k > 0)"), ("exact", ""), ("on_conflict", "")],
)
async def test_counters_and_flags_are_exact_amid_deletes(
    pg: PostgresDatabase, strategy: str, more: str
) -> None:
    await pg.run(f"CREATE TABLE t ({COUNTER}{more})")
    await race_with_deletes(
        pg, number=16, calls=30, keys=[1, 2, 3, 4], strategy=strategy
    )


TABLES: Final = {
    "partitions": f"""
CREATE TABLE t ({COUNTER}) PARTITION BY HASH (k);
CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)
""",
    "view": f"""
CREATE TABLE b ({COUNTER});
CREATE VIEW t AS SELECT * FROM b;
ALTER VIEW t ALTER hits SET DEFAULT 0
""",
    "deferrable": """
CREATE TABLE t (k integer UNIQUE DEFERRABLE, hits integer DEFAULT 0)
""",
    "deferred": """
CREATE TABLE t (
  k integer UNIQUE DEFERRABLE INITIALLY DEFERRED, hits integer DEFAULT 0)
""",
}


@pytest.mark.parametrize("kind", TABLES)
async def test_so_they_are_on_other_kinds_of_table(
    pg: PostgresDatabase, kind: str
) -> None:
    await pg.run(TABLES[kind])
    await race_with_deletes(pg, number=16, calls=15, keys=[1, 2, 3, 4])


async def test_so_they_are_under_an_exclusion_constraint(pg: PostgresDatabase) -> None:
    # A range, since only that has = for gist built in.
    await pg.run(
        "CREATE TABLE t (k int4range, hits integer DEFAULT 0,"
        " EXCLUDE USING gist (k WITH =))"
    )
    keys = [asyncpg.Range(n, n + 1) for n in range(4)]
    await race_with_deletes(pg, number=16, calls=15, keys=keys)


@pytest.mark.parametrize("more", ["", ", CHECK (k >= 0)"])
async def test_so_they_are_when_serializable_is_the_default(
    pg: PostgresDatabase, more: str
) -> None:
    await pg.run(f"CREATE TABLE t ({COUNTER}{more})")

    async def work(conn: Any, _: int) -> None:
        await conn.execute("SET default_transaction_isolation = serializable")
        for call in range(15):
            await count(conn, call % 2)

    async with clients(pg, 16) as conns:
        await together(conns, work)
    assert await pg.query("SELECT k, hits FROM t ORDER BY k") == [(0, 128), (1, 112)]


async def test_a_fresh_key_has_one_creator(pg: PostgresDatabase) -> None:
    await pg.run(f"CREATE TABLE t ({COUNTER})")
    creators: Counter[int] = Counter()

    async def work(conn: Any, _: int) -> None:
        # All in the same order, so that they meet.
        for key in range(150):
            result = await count(conn, key)
            creators[key] += result.created

    async with clients(pg, 16) as conns:
        await together(conns, work)
    assert creators == dict.fromkeys(range(150), 1)
    assert await pg.query("SELECT DISTINCT hits FROM t") == [(16,)]


@pytest.mark.parametrize("get", [False, True], ids=["empty defaults", "get_or_create"])
async def test_a_fresh_key_has_one_creator_when_there_is_nothing_to_update(
    pg: PostgresDatabase, *, get: bool
) -> None:
    await pg.run(f"CREATE TABLE t ({COUNTER})")
    actions: Counter[Action] = Counter()
    call: Any = get_or_create if get else create_or_update

    async def work(conn: Any, _: int) -> None:
        for key in range(20):
            result = await call(conn, "t", key={"k": key}, returning="*")
            actions[result.action] += 1
            assert result.row == {"k": key, "hits": 0}

    async with clients(pg, 16) as conns:
        await together(conns, work)
    assert actions == {Action.CREATED: 20, Action.UNCHANGED: 20 * 15}


@pytest.mark.parametrize("strategy", ["auto", "exact"])
async def test_a_row_that_is_the_same_by_two_unique_columns_is_updated(
    pg: PostgresDatabase, strategy: Any
) -> None:
    await pg.run(
        "CREATE TABLE t (k integer PRIMARY KEY, d integer UNIQUE, hits int DEFAULT 0)"
    )

    async def work(conn: Any, _: int) -> None:
        for key in range(40):
            await create_or_update(
                conn,
                "t",
                key={"k": key},
                defaults={"d": -key, "hits": F("hits") + 1},
                strategy=strategy,
            )

    async with clients(pg, 12) as conns:
        await together(conns, work)
    assert await pg.query("SELECT count(*), min(hits), max(hits) FROM t") == [
        (40, 12, 12)
    ]


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("strategy", ["auto", "exact", "on_conflict"])
async def test_another_row_in_the_way_is_the_drivers_error(
    pg: PostgresDatabase, strategy: Any, *, inside: bool
) -> None:
    await pg.run(
        "CREATE TABLE t (k integer PRIMARY KEY, d integer CONSTRAINT taken UNIQUE);"
        "INSERT INTO t VALUES (1, 10)"
    )
    conn: Any = pg.handle
    queries: list[Any] = []
    transaction = conn.transaction()
    if inside:
        await transaction.start()
    with (
        conn.query_logger(queries.append),
        pytest.raises(asyncpg.UniqueViolationError) as caught,
    ):
        await create_or_update(
            conn, "t", key={"k": 2}, defaults={"d": 10}, strategy=strategy
        )
    await asyncio.sleep(0)  # the loop calls the logger
    assert caught.value.constraint_name == "taken"
    # The description, and few attempts.
    assert len(queries) <= 16
    if inside:
        await transaction.rollback()
    assert await pg.query("SELECT * FROM t") == [(1, 10)]


async def test_a_value_taken_in_an_update_is_the_drivers_error(
    pg: PostgresDatabase,
) -> None:
    await pg.run(
        "CREATE TABLE t (k integer PRIMARY KEY, d integer CONSTRAINT taken UNIQUE);"
        "INSERT INTO t VALUES (1, 10), (2, 20)"
    )
    with pytest.raises(asyncpg.UniqueViolationError) as caught:
        await create_or_update(pg.handle, "t", key={"k": 2}, defaults={"d": 10})
    assert caught.value.constraint_name == "taken"


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_a_lock_replaces_the_unique_index(
    pg: PostgresDatabase, *, inside: bool
) -> None:
    await pg.run("CREATE TABLE t (k integer, hits integer DEFAULT 0)")
    creators: Counter[int] = Counter()

    async def work(conn: Any, _: int) -> None:
        for key in range(10):
            async with conn.transaction() if inside else nullcontext():
                result = await count(conn, key, without_unique_index="lock")
            creators[key] += result.created

    async with clients(pg, 16) as conns:
        await together(conns, work)
    assert creators == dict.fromkeys(range(10), 1)
    assert await pg.query("SELECT count(*), min(hits), max(hits) FROM t") == [
        (10, 16, 16)
    ]


async def test_rows_that_move_between_partitions_are_updated(
    pg: PostgresDatabase,
) -> None:
    # A waiter on a row that another session moves gets 40001 even at READ COMMITTED.
    await pg.run(
        "CREATE TABLE t (k integer, p integer, hits integer DEFAULT 0)"
        " PARTITION BY LIST (p);"
        "CREATE TABLE t0 PARTITION OF t FOR VALUES IN (0);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);"
        "INSERT INTO t VALUES (1, 0)"
    )

    async def work(conn: Any, number: int) -> None:
        for call in range(20):
            await create_or_update(
                conn,
                "t",
                key={"k": 1},
                defaults={"p": (number + call) % 2, "hits": F("hits") + 1},
                without_unique_index="allow",
            )

    async with clients(pg, 8) as conns:
        await together(conns, work)
    assert await pg.query("SELECT hits FROM t") == [(160,)]


async def test_deadlocks_of_own_statements_are_retried(pg: PostgresDatabase) -> None:
    await pg.run(
        "CREATE TABLE t (k integer PRIMARY KEY, d integer UNIQUE, hits int DEFAULT 0);"
        "INSERT INTO t (k, d) VALUES (0, 100), (1, 101)"
    )
    conn: Any = pg.handle
    async with pg.connect() as other:
        # The other holds the value 200; our update takes row 0 and waits for it, and
        # then the other waits for row 0. Ours finds the deadlock: it looks sooner.
        transaction = other.transaction()
        await transaction.start()
        await other.execute("SET LOCAL deadlock_timeout = '20s'")
        await other.execute("UPDATE t SET d = 200 WHERE k = 1")
        ours = asyncio.create_task(
            create_or_update(
                conn, "t", key={"k": 0}, defaults={"d": 200, "hits": F("hits") + 1}
            )
        )
        await waiting(pg, conn)
        await other.execute("DELETE FROM t WHERE k = 0")
        await other.execute("UPDATE t SET d = 101 WHERE k = 1")
        await transaction.commit()
        result = await ours
    assert result.action is Action.CREATED
    assert await pg.query("SELECT k, d, hits FROM t ORDER BY k") == [
        (0, 200, 1),
        (1, 101, 0),
    ]
