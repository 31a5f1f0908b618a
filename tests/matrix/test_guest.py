"""What a database administrator sees: plans, statistics and memory of the server."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest

from aioupsert import (
    Excluded,
    F,
    create_or_update,
    create_or_update_many,
    get_or_create,
)
from tests.support.databases import fetched
from tests.support.tables import describe
from tests.support.versions import major

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from tests.support.databases import PostgresDatabase
    from tests.support.servers import Server

drivers = pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)

# --- Plans of others ------------------------------------------------------------------

TABLE: Final = "CREATE TABLE t (k text PRIMARY KEY, v integer)"
SETTINGS: Final = (
    *("enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit_above_cost"),
)
# Counts the settings under which a trigger plans, and keeps a plan of its own.
WATCHED: Final = """
CREATE TABLE t (k text PRIMARY KEY, v integer);
INSERT INTO t SELECT 'k' || i, i % 50 FROM generate_series(1, 2000) i;
ANALYZE t;
CREATE TABLE seen (setting text, value text);
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE line text;
BEGIN
  INSERT INTO seen SELECT name, setting FROM pg_settings WHERE name IN
    ('enable_seqscan', 'enable_hashjoin', 'enable_mergejoin', 'jit_above_cost');
  PERFORM count(*) FROM t a JOIN t b ON a.v + 0 = b.v + 0;
  RETURN null;
END $$;
CREATE TRIGGER g AFTER UPDATE ON t FOR EACH STATEMENT EXECUTE FUNCTION g()
"""


@drivers
@pytest.mark.parametrize("number", [3, 12])
@pytest.mark.usefixtures("small_copies")
async def test_a_trigger_is_planned_as_it_always_is(
    db: PostgresDatabase, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    await db.run(WATCHED)
    rows = [{"k": f"k{n}", "v": 1} for n in range(1, number + 1)]
    with caplog.at_level("DEBUG", "aioupsert"):
        await create_or_update_many(db.handle, "t", rows, key="k")
    assert not any("set_config" in text for text in caplog.messages)
    names = ", ".join(f"'{name}'" for name in SETTINGS)
    assert await db.query("SELECT count(*) > 0 FROM seen") == [(True,)]
    changed = await db.query(
        "SELECT setting, value FROM seen EXCEPT SELECT name, setting FROM pg_settings"
        f" WHERE name IN ({names})"
    )
    assert changed == []


# --- Our own plans --------------------------------------------------------------------


@asynccontextmanager
async def explained(pg: PostgresDatabase) -> AsyncGenerator[tuple[Any, list[str]]]:
    """A connection, and the plans of what it has executed."""
    plans: list[str] = []

    def keep(_: object, message: Any) -> None:
        plans.append(message.message)

    async with pg.connect() as conn:
        conn.add_log_listener(keep)
        await conn.execute(
            "LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0;"
            " SET auto_explain.log_level = 'notice'"
        )
        yield conn, plans


async def planned(conn: Any, plans: list[str], call: Awaitable[object]) -> str:
    """The plans of a call."""
    plans.clear()
    await call
    await conn.execute("SELECT")  # its answer comes after the messages
    await asyncio.sleep(0)
    return "\n".join(plan for plan in plans if "Seq Scan" in plan or "Index" in plan)


LOUD: Final = (
    "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';"
    " CREATE TRIGGER g AFTER UPDATE ON t EXECUTE FUNCTION g()"
)
# What the first calls find: a table that was never analyzed, or one with few rows, or one that
# is large.
STARTS: Final = {
    "new": "SELECT",
    "empty": "VACUUM ANALYZE t",
    "one row": "INSERT INTO t VALUES ('a'); VACUUM ANALYZE t",
    "emptied": "INSERT INTO t VALUES ('a'); DELETE FROM t; ANALYZE t",
    "two rows": "INSERT INTO t VALUES ('a'), ('b'); VACUUM ANALYZE t",
    "many rows": "INSERT INTO t SELECT 'a' || i FROM generate_series(1, 400) i; ANALYZE t",
    "large": "INSERT INTO t SELECT 'a' || i FROM generate_series(1, 30000) i; ANALYZE t",
}
# The plan for one row scans, and serves no table of more pages.
PLANNED_FOR_ONE_ROW: Final = {"one row", "emptied"}
GROW: Final = "INSERT INTO t SELECT 'k' || i, 1 FROM generate_series(1000, 40000) i"


async def many(conn: Any, turn: int, size: int = 20, **options: Any) -> None:
    rows = [{"k": f"k{turn * size + n}", "v": turn} for n in range(size)]
    await create_or_update_many(
        *(conn, "t"), rows, key="k", update={"v": Excluded("v")}, **options
    )


async def one(conn: Any, turn: int, **options: Any) -> None:
    await create_or_update(
        *(conn, "t"), key={"k": f"k{turn}"}, defaults={"v": 1}, **options
    )


LOOK_UPS: Final[dict[str, Callable[[Any, int], Awaitable[object]]]] = {
    "many": many,
    "many unchanged": partial(many, skip_unchanged=True),
    "one": one,
    "one unchanged": partial(one, skip_unchanged=True),
    "step by step": partial(one, strategy="exact"),
    "get_or_create": lambda conn, turn: get_or_create(conn, "t", key={"k": f"k{turn}"}),
}


@pytest.mark.parametrize(
    ("start", "name"),
    [
        *((start, "many") for start in STARTS),
        *(("two rows", name) for name in LOOK_UPS if name != "many"),
        *(("large", name) for name in LOOK_UPS if name != "many"),
        *((start, "one unchanged") for start in sorted(PLANNED_FOR_ONE_ROW)),
        *(("one row", name) for name in ("step by step", "get_or_create")),
    ],
)
async def test_rows_are_looked_up_by_an_index_after_the_table_has_grown(
    pg: PostgresDatabase, start: str, name: str
) -> None:
    # A column that is NOT NULL and not given has rows updated first.
    await pg.run(f"{TABLE}; ALTER TABLE t ADD id serial NOT NULL; {LOUD}")
    for statement in STARTS[start].split("; "):
        await pg.run(statement)
    call = LOOK_UPS[name]
    async with explained(pg) as (conn, plans), conn.transaction():
        for turn in range(8):  # the server keeps a plan after five
            await call(conn, turn)
        await conn.execute(GROW)
        if start in PLANNED_FOR_ONE_ROW:
            await call(conn, 99)  # scans nothing, and has the table described again
        plan = await planned(conn, plans, call(conn, 100))
    assert "Index Scan using t_pkey" in plan or "Index Only Scan using t_pkey" in plan
    assert not re.search(r"Seq Scan on t\b|JIT", plan), plan


@pytest.mark.parametrize("name", [name for name in LOOK_UPS if "many" not in name])
@pytest.mark.parametrize("number", [2, 4])
async def test_they_are_in_partitions_that_have_grown(
    pg: PostgresDatabase, number: int, name: str
) -> None:
    parts = [
        f"CREATE TABLE p{n} PARTITION OF t"
        f" FOR VALUES WITH (MODULUS {number}, REMAINDER {n})"
        for n in range(number)
    ]
    await pg.run(
        "CREATE TABLE t (k text PRIMARY KEY, v integer) PARTITION BY HASH (k);"
        f" {'; '.join(parts)}; INSERT INTO t SELECT 'a' || i FROM generate_series(1, 9) i;"
        " ANALYZE t"
    )
    call = LOOK_UPS[name]
    async with explained(pg) as (conn, plans), conn.transaction():
        for turn in range(8):
            await call(conn, turn)
        await conn.execute(GROW)
        plan = await planned(conn, plans, call(conn, 100))
    assert re.search(r"Index (Only )?Scan using p\d_pkey", plan)
    assert not re.search(r"Seq Scan on p\d\b|JIT", plan), plan


async def test_a_plan_is_kept_for_a_large_table_only(pg: PostgresDatabase) -> None:
    await pg.run(f"{TABLE}; ALTER TABLE t ADD id serial NOT NULL")
    kept: list[int] = []
    for start in ("two rows", "large"):
        await pg.run("TRUNCATE t")
        for statement in STARTS[start].split("; "):
            await pg.run(statement)
        async with pg.connect() as conn:
            for turn in range(8):
                await many(conn, turn)
            if major(conn) < 14:
                return
            kept.append(
                await conn.fetchval(
                    "SELECT sum(generic_plans) FROM pg_prepared_statements"
                    " WHERE statement ~ 'aioupsert_[l]ocked'"
                )
            )
    assert kept == [0, 3]


async def test_only_partitions_with_the_keys_are_touched(pg: PostgresDatabase) -> None:
    parts = [
        f"CREATE TABLE p{n} PARTITION OF t FOR VALUES FROM ({n * 10}) TO ({n * 10 + 10})"
        for n in range(30)
    ]
    await pg.run(
        "CREATE TABLE t (k numeric(6, 1) PRIMARY KEY, v integer)"
        f" PARTITION BY RANGE (k); {'; '.join(parts)}"
    )
    # Rounded as the column does, the first is in another partition.
    rows = [{"k": Decimal(k), "v": 1} for k in ("39.96", "57", "150", "151")]
    async with explained(pg) as (conn, plans):
        for _ in range(8):
            await create_or_update_many(conn, "t", rows, key="k", skip_unchanged=True)
            await conn.execute("UPDATE t SET v = 2")
        plan = await planned(
            *(conn, plans), create_or_update_many(conn, "t", rows, key="k")
        )
    touched = {*re.findall(r"Scan (?:using \w+ )?on (p\d+)", plan)}
    assert touched <= {"p4", "p5", "p15"}
    assert await pg.query("SELECT k, v FROM t ORDER BY k") == [
        (Decimal(k), 1) for k in ("40.0", "57.0", "150.0", "151.0")
    ]


BY_LIST: Final = "PARTITION BY LIST (a)"
BY_HASH: Final = "PARTITION BY HASH (b)"
# By which columns, and the partitions that hold rows of a = 4 and a = 5.
PARTED: Final = {
    "list": (
        BY_LIST,
        [f"CREATE TABLE p{n} PARTITION OF t FOR VALUES IN ({n})" for n in range(30)],
    ),
    "hash": (
        BY_HASH,
        [
            f"CREATE TABLE p{n} PARTITION OF t"
            f" FOR VALUES WITH (MODULUS 30, REMAINDER {n})"
            for n in range(30)
        ],
    ),
    "list, then hash": (
        BY_LIST,
        [
            f"CREATE TABLE q{n} PARTITION OF t FOR VALUES IN ({n}) {BY_HASH};"
            f"CREATE TABLE p{n} PARTITION OF q{n}"
            " FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
            for n in range(30)
        ],
    ),
}


@pytest.mark.parametrize("number", [3, 300])
@pytest.mark.parametrize("name", PARTED)
async def test_so_it_is_with_partitions_of_every_kind(
    pg: PostgresDatabase, name: str, number: int
) -> None:
    by, parts = PARTED[name]
    await pg.run(
        "CREATE TABLE t (a integer, b integer, v integer, PRIMARY KEY (a, b))"
        f" {by}; {'; '.join(parts)}"
    )
    rows = [{"a": 4 + n % 2, "b": n, "v": 1} for n in range(number)]
    async with explained(pg) as (conn, plans):
        await create_or_update_many(conn, "t", rows, key=["a", "b"])
        load = create_or_update_many(
            conn, "t", rows, key=["a", "b"], update={"v": F("v") + 1}
        )
        plan = await planned(conn, plans, load)
    touched = {*re.findall(r"Scan (?:using \w+ )?on (p\d+)", plan)}
    if by == BY_LIST:
        assert touched <= {"p4", "p5"}
    else:
        assert len(touched) == (3 if number == 3 else 30) or not touched
        # Many keys are in each, so nothing is copied for all of them.
        assert number == 3 or not re.search(r"Filter:.*ANY \('", plan)
    assert await pg.query("SELECT count(*) FROM t WHERE v = 2") == [(number,)]


# --- Statistics -----------------------------------------------------------------------


@drivers
@pytest.mark.usefixtures("small_copies")
async def test_a_call_in_a_transaction_sends_the_same_texts_each_time(
    db: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    await db.run(TABLE)
    seen: list[set[str]] = []
    for turn in range(3):
        caplog.clear()
        with caplog.at_level("DEBUG", "aioupsert"):
            async with db.transaction() as conn:
                for _ in range(2):
                    await create_or_update(
                        *(conn, "t"),
                        key={"k": f"k{turn}"},
                        defaults={"v": turn},
                        strategy="exact",
                    )
                rows = [{"k": f"k{turn}-{n}", "v": n} for n in range(9)]
                await create_or_update_many(conn, "t", rows, key="k")
        seen.append(set(caplog.messages))
    assert any(text.startswith("SAVEPOINT") for text in seen[0])
    assert seen[1] == seen[2]


@drivers
@pytest.mark.usefixtures("small_copies")
async def test_a_call_site_is_a_handful_of_entries(
    db: PostgresDatabase, pg_server: Server
) -> None:
    (loaded,) = (await db.query("SHOW shared_preload_libraries"))[0]
    if "pg_stat_statements" not in loaded:
        pytest.skip(f"{pg_server.origin} does not count statements")
    # Its name tells its statements from those of other tests on the server.
    name = f"of_{db.schema}"
    await db.run(
        f"CREATE TABLE {name} (k text PRIMARY KEY, v integer);"
        " CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA public"
    )

    async def calls(turn: int) -> None:
        async with db.transaction() as conn:
            for n in range(2):
                await create_or_update(
                    *(conn, name),
                    key={"k": f"{n}"},
                    defaults={"v": n},
                    strategy="exact",
                )
            for size in (2, 3, 7 + turn):
                rows = [{"k": f"{turn}-{n}", "v": n} for n in range(size)]
                await create_or_update_many(conn, name, rows, key="k")
            await get_or_create(conn, name, key={"k": f"new {turn}"})

    async def entries() -> set[tuple[Any, ...]]:
        return {
            *await db.query(
                "SELECT queryid, query FROM pg_stat_statements"
                f" WHERE query ~ 'WITH|INSERT|UPDATE|SELECT' AND query ~ '\"{name}\"'"
            )
        }

    await calls(0)
    before = await entries()
    for turn in range(1, 8):
        await calls(turn)
    assert await entries() == before
    assert 5 <= len(before) <= 25


async def test_our_savepoint_hides_none_of_the_callers_for_long(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLE)
    conn = pg.handle
    async with pg.transaction(conn):
        await conn.execute("SAVEPOINT aioupsert_step")
        for v in range(2):
            await create_or_update(
                *(conn, "t"), key={"k": f"k{v}"}, defaults={"v": v}, strategy="exact"
            )
        await conn.execute("ROLLBACK TO SAVEPOINT aioupsert_step")
    assert await pg.query("SELECT * FROM t") == []


# --- Locks ----------------------------------------------------------------------------


@drivers
@pytest.mark.usefixtures("small_copies")
async def test_calls_lock_the_table_as_any_insert_does(db: PostgresDatabase) -> None:
    await db.run(f"{TABLE}; CREATE INDEX ON t (v); INSERT INTO t VALUES ('0'), ('k')")
    # As pg_dump does, which so blocks no call.
    await db.run("BEGIN; LOCK TABLE t IN ACCESS SHARE MODE")
    async with db.transaction() as conn:
        await create_or_update(conn, "t", key={"k": "0"}, defaults={"v": 1})
        for size in (3, 9):
            rows = [{"k": f"{n}", "v": n} for n in range(size)]
            await create_or_update_many(conn, "t", rows, key="k", skip_unchanged=True)
        held = await db.query(
            "SELECT DISTINCT mode, locktype FROM pg_locks WHERE relation IN"
            " (SELECT indexrelid FROM pg_index WHERE indrelid = 't'::regclass"
            " UNION SELECT 't'::regclass) OR locktype = 'advisory'"
        )
        # Locks on rows are in the rows: another writer of the key's columns alone would
        # not wait, as for a foreign key.
        await db.run("SELECT FROM t WHERE k = '0' FOR KEY SHARE NOWAIT; COMMIT")
    assert {mode for mode, _ in held} <= {
        *("AccessShareLock", "RowShareLock", "RowExclusiveLock")
    }
    assert {kind for _, kind in held} == {"relation"}


@drivers
@pytest.mark.usefixtures("small_copies")
@pytest.mark.parametrize("bulk", [False, True])
async def test_updates_are_hot_beside_ten_indexes(
    db: PostgresDatabase, *, bulk: bool
) -> None:
    columns = [f"i{n} integer DEFAULT {n}" for n in range(10)]
    indexes = [f"CREATE INDEX ON t (i{n})" for n in range(10)]
    await db.run(
        f"CREATE TABLE t (k text PRIMARY KEY, v integer, {', '.join(columns)});"
        f" {'; '.join(indexes)}; INSERT INTO t SELECT i FROM generate_series(0, 8) i"
    )
    sql = "SELECT pg_stat_get_xact_tuples_{}('t'::regclass) AS n"
    names = ("updated", "hot_updated", "inserted")
    async with db.transaction() as conn:
        rows = [{"k": f"{n}", "v": n} for n in range(9)]
        if bulk:
            await create_or_update_many(conn, "t", rows, key="k")
        else:
            for row in rows:
                await create_or_update(
                    *(conn, "t"), key={"k": row["k"]}, defaults={"v": row["v"]}
                )
        counts = [(await fetched(conn, sql.format(name)))[0]["n"] for name in names]
    assert counts == [9, 9, 0]


# Not BEFORE INSERT, nor for each INSERT: such tables are written row by row.
LOGGED: Final = """
CREATE TABLE t (k text PRIMARY KEY, v integer);
INSERT INTO t SELECT generate_series(0, 9), 1;
CREATE TABLE log (what text);
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO log VALUES (concat_ws(' ', tg_when, tg_op, tg_level)); RETURN new;
END $$;
CREATE TRIGGER a AFTER INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION g();
CREATE TRIGGER b BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION g()
"""


@drivers
async def test_triggers_fire_for_what_happens_to_rows_of_a_batch(
    db: PostgresDatabase,
) -> None:
    await db.run(LOGGED)
    # Some are created, some updated, and some left as they are.
    rows = [{"k": f"{n}", "v": n % 2} for n in range(5, 15)]
    await create_or_update_many(db.handle, "t", rows, key="k", skip_unchanged=True)
    assert await db.query("SELECT what, count(*) FROM log GROUP BY 1 ORDER BY 1") == [
        *(("AFTER INSERT ROW", 5), ("AFTER UPDATE ROW", 2), ("BEFORE UPDATE ROW", 2))
    ]


# --- Memory ---------------------------------------------------------------------------


@drivers
async def test_a_description_costs_the_server_little_memory(
    db: PostgresDatabase,
) -> None:
    number = 10
    for n in range(number + 1):
        await db.run(f"CREATE TABLE t{n} (k text PRIMARY KEY, v numeric(5, 2))")
    async with db.connect() as conn:
        # The first one fills the caches of the server's own catalog.
        await describe(conn, "t10")
        await kept_bytes(conn)
        before = await kept_bytes(conn)
        for n in range(number):
            await describe(conn, f"t{n}")
        assert await kept_bytes(conn) - before < 50_000 * number


async def kept_bytes(conn: Any) -> int:
    """The memory that the server uses, or of the texts of what it has prepared."""
    of_asyncpg = hasattr(conn, "fetchval")
    version = conn.get_server_version()[0] if of_asyncpg else conn.info.server_version
    sql = "SELECT coalesce(sum(length(statement)), 0) FROM pg_prepared_statements"
    if version >= (14 if of_asyncpg else 140000):
        sql = "SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts"
    if of_asyncpg:
        return int(await conn.fetchval(sql))
    return int((await (await conn.execute(sql)).fetchone())[0])
