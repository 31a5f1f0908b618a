"""Many writers of many rows: sums and flags are exact, and no error surfaces."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import (
    Action,
    BulkError,
    BulkResult,
    Excluded,
    F,
    create_or_update,
    create_or_update_many,
    is_retryable,
    iter_create_or_update,
)
from aioupsert._engines.postgresql import bulk_steps, engine
from aioupsert._engines.postgresql.bulk_compiler import compile_batch
from aioupsert._engines.postgresql.bulk_steps import PostgresqlBatch
from aioupsert._plan import Plan
from tests.support.databases import PostgresDatabase, SQLiteDatabase
from tests.support.sessions import clients, together, waiting
from tests.support.tables import trigger
from tests.support.versions import created

ADD: Final = {"n": F("n") + Excluded("n")}
# Each is written in another way.
TABLES: Final = {
    "plain": "CREATE TABLE t (k integer PRIMARY KEY, n integer)",
    "numbered": "CREATE TABLE t (id serial, k integer PRIMARY KEY, n integer)",
    "more columns": (
        "CREATE TABLE t (k integer PRIMARY KEY, n integer, must text NOT NULL"
        " DEFAULT 'x', d integer UNIQUE)"
    ),
    "trigger": (
        "CREATE TABLE t (k integer PRIMARY KEY, n integer);"
        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN new; END $$;"
        " CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()"
    ),
    "partitions": (
        "CREATE TABLE t (k integer PRIMARY KEY, n integer) PARTITION BY HASH (k);"
        "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
    ),
    "deferrable": "CREATE TABLE t (k integer UNIQUE DEFERRABLE, n integer)",
    "exclusion": (
        "CREATE TABLE t (k integer, n integer, EXCLUDE USING btree (k WITH =))"
    ),
}
SIZES: Final = (1, 2, 3, 10, 100, 1_000)


def some_rows(choose: random.Random, size: int, keys: int) -> list[dict[str, int]]:
    """Rows in no order, some of them with the same key."""
    return [
        {"k": choose.randrange(keys), "n": choose.randrange(10)} for _ in range(size)
    ]


@asynccontextmanager
async def writers(pg: PostgresDatabase, number: int) -> AsyncIterator[list[Any]]:
    """Connections that need not wait long for a deadlock to be found."""
    async with clients(pg, number) as conns:
        for conn in conns:
            await conn.execute("SET deadlock_timeout = '20ms'")
        yield [*conns]


class Sums:
    """What many writers have been told."""

    def __init__(self) -> None:
        self.brought: Counter[int] = Counter()
        self.created = self.updated = 0

    def add(self, rows: list[dict[str, int]], result: BulkResult) -> None:
        assert result.rows == len(rows)
        self.created += result.created
        self.updated += result.updated
        for row in rows:
            self.brought[row["k"]] += row["n"]

    async def check(self, pg: PostgresDatabase) -> None:
        stored = dict(await pg.query("SELECT k, n FROM t"))
        assert stored == {**dict.fromkeys(self.brought, 0), **self.brought}
        assert self.created == len(stored)


@pytest.mark.parametrize("table", TABLES)
async def test_sums_are_exact_and_each_key_has_one_creator(
    pg: PostgresDatabase, table: str
) -> None:
    await pg.run(TABLES[table])
    sums = Sums()

    async def work(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        for size in choose.sample(SIZES, len(SIZES)):
            rows = some_rows(choose, size, keys=300)
            result = await create_or_update_many(conn, "t", rows, key="k", update=ADD)
            sums.add(rows, result)

    async with writers(pg, 6) as conns:
        await together(conns, work)
    await sums.check(pg)


# Keys of which some have a NULL; each is written in another way.
WITH_NULLS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "unique": (
        "CREATE TABLE t (a integer, b integer, n integer, UNIQUE NULLS NOT DISTINCT (a, b))",
        {},
    ),
    "unique where NULL": (
        (
            "CREATE TABLE t (id serial, a numeric, b integer, n integer);"
            "CREATE UNIQUE INDEX ON t (a) WHERE b IS NULL"
        ),
        {},
    ),
    "locked": (
        "CREATE TABLE t (a integer, b integer, n integer)",
        {"without_unique_index": "lock"},
    ),
    "locked as one": (
        "CREATE TABLE t (id serial, a numeric, b integer, n integer)",
        {"without_unique_index": "lock"},
    ),
    "trigger": (
        "CREATE TABLE t (a numeric, b integer, n integer, EXCLUDE (a WITH =)"
        " WHERE (b IS NULL), EXCLUDE (a WITH =, b WITH =));"
        + trigger("BEFORE INSERT", "RETURN new;"),
        {"without_unique_index": "lock"},
    ),
}


@pytest.mark.parametrize("table", WITH_NULLS)
async def test_so_they_are_with_keys_that_have_null(
    pg: PostgresDatabase, table: str
) -> None:
    sql, options = WITH_NULLS[table]
    async with pg.connect() as conn:
        if not await created(conn, sql):
            return
    others = [None] if table == "unique where NULL" else [None, 1, 2]
    brought: Counter[tuple[int | None, int | None]] = Counter()
    creators = 0

    async def work(conn: Any, seed: int) -> None:
        nonlocal creators
        choose = random.Random(seed)  # noqa: S311  # no secret
        for size in choose.sample([1, 2, 3, 10, 60, 200], 6):
            rows = [
                {"a": choose.randrange(60), "b": choose.choice(others), "n": 1}
                for _ in range(size)
            ]
            result = await create_or_update_many(
                conn, "t", rows, key=["a", "b"], update=ADD, **options
            )
            assert result.rows == size
            creators += result.created
            brought.update((row["a"], row["b"]) for row in rows)

    async with writers(pg, 8) as conns:
        await together(conns, work)
    stored = {(a, b): n for a, b, n in await pg.query("SELECT a, b, n FROM t")}
    assert stored == brought
    assert creators == len(stored)


distinct_or_not = pytest.mark.parametrize(
    "distinct", [True, False], ids=["distinct", "repeated"]
)


@distinct_or_not
@pytest.mark.parametrize("table", ["plain", "numbered"])
@pytest.mark.usefixtures("small_copies")
async def test_so_they_are_with_rows_that_are_copied(
    pg: PostgresDatabase, table: str, *, distinct: bool
) -> None:
    await check_sums(pg, table, writing=8, most=200, distinct=distinct)


@distinct_or_not
@pytest.mark.parametrize("table", ["plain", "numbered"])
async def test_so_they_are_with_thousands_of_rows_each(
    pg: PostgresDatabase, table: str, *, distinct: bool
) -> None:
    # With more of them, most of what they do on a busy machine is to end in deadlocks.
    await check_sums(pg, table, writing=4, most=5_000, distinct=distinct)


async def check_sums(
    pg: PostgresDatabase, table: str, *, writing: int, most: int, distinct: bool
) -> None:
    """Have so many sessions write up to so many rows at once, and one row each."""
    await pg.run(TABLES[table])
    sums = Sums()
    keys = most * 7 // 5

    async def work(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        for size in (choose.randrange(1, most + 1), 1):
            if distinct:
                chosen = choose.sample(range(keys), size)
                rows = [{"k": key, "n": choose.randrange(10)} for key in chosen]
            else:
                rows = some_rows(choose, size, keys=keys)
            result = await create_or_update_many(conn, "t", rows, key="k", update=ADD)
            sums.add(rows, result)

    async with writers(pg, writing) as conns:
        await together(conns, work)
    await sums.check(pg)


@pytest.mark.parametrize("table", ["plain", "numbered"])
async def test_so_they_are_in_batches_that_are_committed_each(
    pg: PostgresDatabase, table: str
) -> None:
    await pg.run(TABLES[table])
    sums = Sums()

    async def work(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        for _ in range(3):
            rows = some_rows(choose, 60, keys=100)
            result = await create_or_update_many(
                conn, "t", rows, key="k", update=ADD, batch_size=20, atomic=False
            )
            sums.add(rows, result)

    async with writers(pg, 8) as conns:
        await together(conns, work)
    await sums.check(pg)


@pytest.mark.parametrize("table", ["plain", "numbered"])
async def test_a_deadlock_of_several_batches_is_repeated(
    pg: PostgresDatabase, table: str
) -> None:
    await pg.run(TABLES[table])
    sums = Sums()

    async def work(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        rows = some_rows(choose, 40, keys=60)
        # Not sorted among each other; however long a busy machine takes.
        options: dict[str, Any] = {"batch_size": 10, "timeout": None}
        result = await create_or_update_many(
            conn, "t", rows, key="k", update=ADD, **options
        )
        sums.add(rows, result)

    async with writers(pg, 4) as conns:
        await together(conns, work)
    await sums.check(pg)


@pytest.mark.parametrize("table", ["plain", "numbered"])
async def test_with_rows_that_can_be_read_once_the_caller_may_repeat_it(
    pg: PostgresDatabase, table: str
) -> None:
    await pg.run(TABLES[table])
    both, deadlocks = asyncio.Barrier(2), 0

    async def rows(keys: list[int], *, meet: bool) -> AsyncIterator[dict[str, int]]:
        for at, k in enumerate(keys):
            if at == 11 and meet:
                # A row more than the first batch was read before that was written.
                await both.wait()
            yield {"k": k, "n": 1}

    async def work(conn: Any, number: int) -> None:
        nonlocal deadlocks
        keys = [*range(20)]
        keys = keys[10:] + keys[:10] if number else keys

        meet = True
        while True:
            try:
                await create_or_update_many(
                    *(conn, "t", rows(keys, meet=meet)),
                    key="k",
                    update=ADD,
                    batch_size=10,
                )
            except asyncpg.DeadlockDetectedError as error:
                # The rows of the batch before are gone.
                assert is_retryable(error)  # noqa: PT017  # at least once, see below
                assert not conn.is_in_transaction()
                deadlocks += 1
                meet = False
            else:
                return

    async with writers(pg, 2) as conns:
        await together(conns, work)
    assert deadlocks
    assert await pg.query("SELECT DISTINCT n FROM t") == [(2,)]


# Where several statements write the rows of a batch.
SEVERAL: Final = {
    "two layouts": "CREATE TABLE t (k integer PRIMARY KEY, a integer, b integer)",
    "keys that the database compares": (
        "CREATE TABLE t (k numeric PRIMARY KEY, a integer, b integer)"
    ),
    "row by row": (
        "CREATE TABLE t (id serial, k integer PRIMARY KEY, a integer, b integer);"
        + trigger("BEFORE INSERT", "RETURN new;")
    ),
    "parts": (
        "CREATE TABLE t (id serial, k integer PRIMARY KEY, a integer REFERENCES t,"
        " b integer)"
    ),
}


def without_copy(plan: Plan, *, distinct: bool) -> PostgresqlBatch:
    """Compile for a role that may not make temporary tables."""
    batch = compile_batch(plan, distinct=distinct)
    return replace(batch, create_staging_table="")


@pytest.mark.parametrize("options", [{}, {"skip_unchanged": True}])
@pytest.mark.parametrize("table", SEVERAL)
async def test_rows_are_locked_in_the_order_of_their_keys_by_several_statements(
    pg: PostgresDatabase,
    table: str,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if table == "parts":
        monkeypatch.setattr(bulk_steps, "MAX_ARRAY_ROWS", 7)
        monkeypatch.setattr(
            engine,
            "compile_batch",
            without_copy,
        )
    await pg.run(SEVERAL[table])
    await pg.run("INSERT INTO t (k) SELECT generate_series(0, 19)")
    columns = "a" if table == "parts" else "ab"

    async def work(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        for _ in range(6):
            rows = [
                {"k": k, choose.choice(columns): choose.randrange(20)}
                for k in choose.sample(range(20), 20)
            ]
            # A deadlock in a transaction of the caller's would be raised.
            async with conn.transaction():
                result = await create_or_update_many(
                    conn, "t", rows, key="k", **options
                )
            assert result.updated + result.unchanged == 20

    async with writers(pg, 4) as conns:
        await together(conns, work)


@pytest.mark.parametrize("options", [{"update": []}, {"skip_unchanged": True}])
@pytest.mark.parametrize("table", ["plain", "numbered"])
async def test_rows_that_nobody_changes_have_one_creator(
    pg: PostgresDatabase, table: str, options: dict[str, Any]
) -> None:
    await pg.run(TABLES[table])
    rows = [{"k": n, "n": n} for n in range(400)]
    results: list[BulkResult] = []

    async def work(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        ours = choose.sample(rows, len(rows))
        results.append(await create_or_update_many(conn, "t", ours, key="k", **options))

    async with writers(pg, 8) as conns:
        await together(conns, work)
    assert sum(result.created for result in results) == 400
    assert sum(result.unchanged for result in results) == 7 * 400
    assert await pg.query("SELECT k, n FROM t ORDER BY k") == [
        (n, n) for n in range(400)
    ]


async def test_only_the_newest_version_wins(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY, version integer, by integer)")

    async def work(conn: Any, number: int) -> None:
        for version in range(number, 32, 8):
            rows = [{"k": k, "version": version, "by": number} for k in range(50)]
            random.Random(version).shuffle(rows)  # noqa: S311  # no secret
            await create_or_update_many(
                conn, "t", rows, key="k", where=Excluded("version") > F("version")
            )

    async with writers(pg, 8) as conns:
        await together(conns, work)
    assert await pg.query("SELECT DISTINCT version, by FROM t") == [(31, 7)]


@pytest.mark.parametrize("table", TABLES)
async def test_beside_deleters_nothing_is_lost_or_counted_twice(
    pg: PostgresDatabase, table: str
) -> None:
    await pg.run(TABLES[table])
    brought: Counter[int] = Counter()
    created: Counter[int] = Counter()
    deleted: Counter[int] = Counter()
    deletes: Counter[int] = Counter()

    async def write(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        for _ in range(8):
            rows = some_rows(choose, choose.choice((1, 2, 5, 30)), keys=20)
            results = [
                result
                async for result in iter_create_or_update(
                    conn, "t", rows, key="k", update=ADD
                )
            ]
            assert {result.rows_affected for result in results} == {1}
            for row, result in zip(rows, results, strict=True):
                brought[row["k"]] += row["n"]
                created[row["k"]] += result.created

    async def delete(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        for _ in range(40):
            key = choose.randrange(20)
            try:
                rows = await conn.fetch(
                    "DELETE FROM t WHERE k = $1 RETURNING k, n", key
                )
            except asyncpg.DeadlockDetectedError:
                continue  # it stood in a queue between two writers
            for row in rows:
                deletes[row["k"]] += 1
                deleted[row["k"]] += row["n"]

    async def work(conn: Any, number: int) -> None:
        await (delete if number < 3 else write)(conn, number)

    async with writers(pg, 8) as conns:
        await together(conns, work)
    stored = dict(await pg.query("SELECT k, n FROM t"))
    for key in range(20):
        assert deleted[key] + stored.get(key, 0) == brought[key]
        assert deletes[key] + (key in stored) == created[key]


async def test_beside_single_calls_nothing_is_lost(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)")
    created = 0

    async def work(conn: Any, number: int) -> None:
        nonlocal created
        for _ in range(10):
            if number % 2:
                rows = [{"k": k, "n": 1} for k in range(20)]
                random.Random(number).shuffle(rows)  # noqa: S311  # no secret
                many = await create_or_update_many(conn, "t", rows, key="k", update=ADD)
                created += many.created
            else:
                for k in range(20):
                    one = await create_or_update(
                        conn, "t", key={"k": k}, defaults={"n": F("n") + 1}
                    )
                    created += one.created

    async with writers(pg, 8) as conns:
        await together(conns, work)
    assert created == 20
    assert await pg.query("SELECT DISTINCT n FROM t") == [(80,)]


@pytest.mark.parametrize(
    "options", [{}, {"skip_unchanged": True}, {"where": Excluded("n") > 0}]
)
async def test_rows_are_created_after_existing_ones_are_locked(
    pg: PostgresDatabase, options: dict[str, Any]
) -> None:
    await pg.run(f"{TABLES['numbered']}; INSERT INTO t (k, n) VALUES (2, 10)")
    conn: Any = pg.handle
    rows = [{"k": n, "n": 1} for n in range(4)]
    async with pg.connect() as other, pg.connect() as third:
        async with other.transaction():
            await other.execute("UPDATE t SET n = n + 5 WHERE k = 2")
            ours = asyncio.create_task(
                create_or_update_many(conn, "t", rows, key="k", update=ADD, **options)
            )
            await waiting(pg, conn)
            await third.execute("INSERT INTO t (k, n) VALUES (1, 10)")
        result = await ours
    assert result == BulkResult(created=2, updated=2)
    assert await pg.query("SELECT n FROM t ORDER BY k") == [(1,), (11,), (16,), (1,)]


@pytest.mark.parametrize("table", ["plain", "numbered"])
@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_statements_of_the_application_lock_rows_in_another_order(
    pg: PostgresDatabase, table: str, *, inside: bool
) -> None:
    await pg.run(f"{TABLES[table]}; INSERT INTO t (k, n) VALUES (1, 10), (2, 10)")
    rows = [{"k": n, "n": 1} for n in range(4)]

    async def write() -> BulkResult:
        async with contextlib.AsyncExitStack() as stack:
            if inside:
                await stack.enter_async_context(conn.transaction())
            return await create_or_update_many(conn, "t", rows, key="k", update=ADD)

    async with writers(pg, 1) as (conn,), pg.connect() as other:
        await other.execute("SET deadlock_timeout = '1min'")  # so ours is undone
        async with other.transaction():
            await other.execute("UPDATE t SET n = n + 5 WHERE k = 2")
            ours = asyncio.create_task(write())
            await waiting(pg, conn)
            await other.execute("UPDATE t SET n = n + 5 WHERE k = 1")
        if inside:
            with pytest.raises(asyncpg.DeadlockDetectedError) as caught:
                await ours
            assert is_retryable(caught.value)
            ours = asyncio.create_task(write())
        assert await ours == BulkResult(created=2, updated=2)
    assert await pg.query("SELECT n FROM t ORDER BY k") == [(1,), (16,), (16,), (1,)]


@pytest.mark.parametrize("table", ["plain", "numbered"])
@pytest.mark.parametrize("number", [3, 20, 6_000])
async def test_a_row_that_another_creates_meanwhile_is_updated(
    pg: PostgresDatabase, table: str, number: int
) -> None:
    await pg.run(TABLES[table])
    conn: Any = pg.handle
    rows = [{"k": n, "n": 1} for n in range(number)]
    async with pg.connect() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("INSERT INTO t (k, n) VALUES (2, 10)")
        ours = asyncio.create_task(
            create_or_update_many(conn, "t", rows, key="k", update=ADD)
        )
        await waiting(pg, conn)
        await transaction.commit()
        result = await ours
    assert result == BulkResult(created=number - 1, updated=1)
    assert await pg.query("SELECT n FROM t WHERE k = 2") == [(11,)]


@pytest.mark.parametrize("table", ["plain", "numbered"])
@pytest.mark.parametrize("number", [3, 20, 6_000])
async def test_a_row_that_another_deletes_meanwhile_is_created(
    pg: PostgresDatabase, table: str, number: int
) -> None:
    await pg.run(TABLES[table] + "; INSERT INTO t (k, n) VALUES (2, 10)")
    conn: Any = pg.handle
    rows = [{"k": n, "n": 1} for n in range(number)]
    async with pg.connect() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("DELETE FROM t")
        ours = asyncio.create_task(
            create_or_update_many(conn, "t", rows, key="k", update=ADD)
        )
        await waiting(pg, conn)
        await transaction.commit()
        result = await ours
    assert result == BulkResult(created=number)
    assert await pg.query("SELECT n FROM t WHERE k = 2") == [(1,)]


@pytest.mark.parametrize("table", ["plain", "numbered"])
@pytest.mark.parametrize("number", [3, 20, 6_000])
async def test_the_condition_is_true_of_what_another_has_written_meanwhile(
    pg: PostgresDatabase, table: str, number: int
) -> None:
    await pg.run(TABLES[table] + "; INSERT INTO t (k, n) VALUES (2, 0)")
    conn: Any = pg.handle
    rows = [{"k": n, "n": 1} for n in range(number)]
    async with pg.connect() as other:
        transaction = other.transaction()
        await transaction.start()
        await other.execute("UPDATE t SET n = 10")
        ours = asyncio.create_task(
            create_or_update_many(
                conn, "t", rows, key="k", where=Excluded("n") > F("n")
            )
        )
        await waiting(pg, conn)
        await transaction.commit()
        result = await ours
    assert result == BulkResult(created=number - 1, skipped=1)
    assert await pg.query("SELECT n FROM t WHERE k = 2") == [(10,)]


async def test_a_lock_replaces_the_unique_index(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k integer, n integer)")
    sums = Sums()

    async def work(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        for _ in range(3):
            rows = sorted(some_rows(choose, 15, keys=20), key=lambda row: row["k"])
            result = await create_or_update_many(
                conn, "t", rows, key="k", update=ADD, without_unique_index="lock"
            )
            sums.add(rows, result)

    async with writers(pg, 8) as conns:
        await together(conns, work)
    await sums.check(pg)


async def test_so_they_are_when_serializable_is_the_default(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLES["plain"])
    sums = Sums()

    async def work(conn: Any, seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        await conn.execute("SET default_transaction_isolation = serializable")
        for _ in range(4):
            rows = some_rows(choose, 10, keys=50)
            result = await create_or_update_many(conn, "t", rows, key="k", update=ADD)
            sums.add(rows, result)

    async with writers(pg, 8) as conns:
        await together(conns, work)
    await sums.check(pg)


async def test_another_row_in_the_way_names_the_row(pg: PostgresDatabase) -> None:
    await pg.run(TABLES["more columns"] + "; INSERT INTO t (k, d) VALUES (-1, 10)")
    for number in (3, 20, 6_000):
        rows = [{"k": n, "d": -n} for n in range(number)]
        rows[number // 2]["d"] = 10
        with pytest.raises(BulkError) as caught:
            await create_or_update_many(pg.handle, "t", rows, key="k")
        assert caught.value.index == number // 2
        assert isinstance(caught.value.__cause__, asyncpg.UniqueViolationError)
        assert await pg.query("SELECT k FROM t") == [(-1,)]


# --- One connection, several tasks ------------------------------------------------------


@pytest.mark.parametrize(
    "db", ["asyncpg", "pooled", "pool", "psycopg", "psycopg_pool"], indirect=True
)
async def test_tasks_that_share_a_handle_take_turns(db: PostgresDatabase) -> None:
    await db.run(TABLES["plain"])
    sums = Sums()

    async def work(seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        rows = some_rows(choose, 50, keys=60)
        rows.sort(key=lambda row: row["k"])
        result = await create_or_update_many(
            db.handle, "t", rows, key="k", update=ADD, batch_size=7
        )
        sums.add(rows, result)

    async with asyncio.TaskGroup() as group:
        for seed in range(8):
            group.create_task(work(seed))
    await sums.check(db)


async def test_on_sqlite_tasks_that_share_a_connection_take_turns(
    lite: SQLiteDatabase,
) -> None:
    await lite.run(TABLES["plain"])
    brought: Counter[int] = Counter()
    results: list[BulkResult] = []

    async def work(seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        rows = some_rows(choose, 50, keys=60)
        for row in rows:
            brought[row["k"]] += row["n"]
        results.append(
            await create_or_update_many(
                lite.handle, "t", rows, key="k", update=ADD, batch_size=7
            )
        )

    async with asyncio.TaskGroup() as group:
        for seed in range(8):
            group.create_task(work(seed))
    stored = dict(await lite.query("SELECT k, n FROM t"))
    assert stored == {**dict.fromkeys(brought, 0), **brought}
    assert sum(result.created for result in results) == len(stored)


async def test_on_sqlite_writers_of_several_connections_wait_for_each_other(
    lite: SQLiteDatabase,
) -> None:
    await lite.run(TABLES["plain"])
    results: list[BulkResult] = []

    async def work(seed: int) -> None:
        choose = random.Random(seed)  # noqa: S311  # no secret
        async with lite.connect() as conn:
            for _ in range(3):
                rows = [{"k": k, "n": 1} for k in range(200)]
                choose.shuffle(rows)
                results.append(
                    await create_or_update_many(
                        conn, "t", rows, key="k", update=ADD, batch_size=90
                    )
                )

    async with asyncio.TaskGroup() as group:
        for seed in range(6):
            group.create_task(work(seed))
    assert sum(result.created for result in results) == 200
    assert await lite.query("SELECT count(*), min(n), max(n) FROM t") == [(200, 18, 18)]


async def test_single_calls_of_other_tasks_wait_for_an_atomic_call(
    pg: PostgresDatabase,
) -> None:
    # They must not become part of its transaction, which may be undone.
    await pg.run(TABLES["plain"])
    conn: Any = pg.handle
    await create_or_update(conn, "t", key={"k": -1})
    begun = asyncio.Event()
    go_on = asyncio.Event()

    async def rows() -> Any:
        for n in range(20):
            if n == 10:
                begun.set()
                await go_on.wait()
            yield {"k": n, "n": 0}
        raise OSError

    many = asyncio.create_task(
        create_or_update_many(conn, "t", rows(), key="k", batch_size=4)
    )
    await begun.wait()
    single = asyncio.create_task(create_or_update(conn, "t", key={"k": 100}))
    await asyncio.sleep(0.05)
    assert not single.done()
    go_on.set()
    with pytest.raises(OSError):  # noqa: PT011  # our own
        await many
    assert (await single).action is Action.CREATED
    assert await pg.query("SELECT k FROM t ORDER BY k") == [(-1,), (100,)]
