"""`sync_rows` on tables of every kind: keys, foreign keys, triggers, partitions."""

import asyncio
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import (
    AioupsertError,
    BulkResult,
    F,
    NotAppliedError,
    UsageError,
    sync_rows,
)
from aioupsert.events import Event, on_event
from tests.support.databases import Database, PostgresDatabase, SQLiteDatabase
from tests.support.servers import Server
from tests.support.sessions import waiting
from tests.support.tables import make_collation, without_temporary_tables

# Statements, rows of the source, the key, and the keys that are left, as text.
TABLES: Final[dict[str, tuple[str, list[dict[str, Any]], str, list[Any]]]] = {
    "serial": (
        (
            "CREATE TABLE t (id serial PRIMARY KEY, k text UNIQUE, n int DEFAULT 0);"
            "INSERT INTO t (k) VALUES ('a'), ('b'), ('c')"
        ),
        [{"k": "a", "n": 0}, {"k": "d", "n": 1}],
        "k",
        ["a", "d"],
    ),
    "partitions": (
        (
            "CREATE TABLE t (k int PRIMARY KEY, n int) PARTITION BY RANGE (k);"
            "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (10);"
            "CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (10) TO (20);"
            "INSERT INTO t SELECT k FROM generate_series(8, 12) AS k"
        ),
        [{"k": 8}, {"k": 11}, {"k": 13}],
        "k",
        [8, 11, 13],
    ),
    "children": (
        (
            "CREATE TABLE t (k int PRIMARY KEY, n int); CREATE TABLE t1 () INHERITS (t);"
            "INSERT INTO t VALUES (1), (2); INSERT INTO t1 VALUES (3), (4)"
        ),
        [{"k": 1}, {"k": 3}],
        "k",
        [1, 3],
    ),
    "padded": (
        (
            "CREATE TABLE t (k char(4) PRIMARY KEY, n int);"
            "INSERT INTO t VALUES ('a'), ('b')"
        ),
        [{"k": "a "}],
        "k",
        ["a   "],
    ),
    "rounded": (
        (
            "CREATE TABLE t (k numeric(5, 1) PRIMARY KEY, n int);"
            "INSERT INTO t VALUES (1.5), (2.5)"
        ),
        [{"k": 1.5}],
        "k",
        ["1.5"],
    ),
    "arrays": (
        (
            "CREATE TABLE t (k int[] PRIMARY KEY, n int);"
            "INSERT INTO t VALUES ('{1}'), ('{2}'), ('{2,3}')"
        ),
        [{"k": [1]}, {"k": [2, 3]}],
        "k",
        [[1], [2, 3]],
    ),
    "nulls": (
        "CREATE TABLE t (k int UNIQUE, n int); INSERT INTO t VALUES (NULL), (1), (2)",
        [{"k": 1}, {"k": None}],
        "k",
        [1, None],
    ),
    "missing nulls": (
        (
            "CREATE TABLE t (k int UNIQUE, n int);"
            "INSERT INTO t VALUES (NULL), (NULL), (1), (2)"
        ),
        [{"k": 1}],
        "k",
        [1],
    ),
    "without an index": (
        "CREATE TABLE t (k int, n int); INSERT INTO t VALUES (1), (2), (2), (3), (3)",
        [{"k": 1}, {"k": 3}],
        "k",
        [1, 3, 3],
    ),
    "quoted": (
        (
            'CREATE TABLE t ("k""1" text PRIMARY KEY, n int);'
            """INSERT INTO t VALUES ('a,"b'), ('{c}'), (' d\\'), ('NULL'), ('')"""
        ),
        [{'k"1': "x"}, {'k"1': "{c}"}],
        'k"1',
        ["x", "{c}"],
    ),
}


@pytest.mark.parametrize(
    ("table", "rows", "key", "left"), TABLES.values(), ids=list(TABLES)
)
@pytest.mark.filterwarnings("ignore::aioupsert.MissingUniqueIndexWarning")
async def test_what_is_missing_goes(
    pg: PostgresDatabase, table: str, rows: list[Any], key: str, left: list[Any]
) -> None:
    await pg.run(table)
    await sync_rows(pg.handle, "t", rows, key=key, scope={}, max_missing=1.0)
    quoted = key.replace('"', '""')
    stored = [row[0] for row in await pg.query(f'SELECT "{quoted}" FROM t')]
    texts = sorted(map(str, stored))
    assert texts == sorted(map(str, left))


async def test_keys_are_equal_as_their_collation_has_it(pg: PostgresDatabase) -> None:
    if not await make_collation(pg.handle):
        return
    await pg.run(
        "CREATE TABLE t (k text COLLATE ci PRIMARY KEY, n int);"
        "INSERT INTO t VALUES ('a'), ('b'), ('C')"
    )
    rows = [{"k": "A"}, {"k": "c"}]
    report = await sync_rows(pg.handle, "t", rows, key="k", scope={})
    assert report == BulkResult(unchanged=2, deleted=1)
    assert sorted(await pg.query("SELECT k FROM t")) == [("C",), ("a",)]


LITE_TABLES: Final[dict[str, tuple[str, list[Any], list[Any], list[Any]]]] = {
    "any case": ("k text COLLATE NOCASE PRIMARY KEY", ["a", "b", "C"], ["A", "c"], ["C", "a"]),
    "affinity": ("k integer UNIQUE", [1, 2, 3], [1, 3.0], [1, 3]),
    "no affinity": ("k PRIMARY KEY", [1, "1", b"1"], [1, b"1"], [1, b"1"]),
    "nulls": ("k integer UNIQUE", [None, 1, 2], [None, 1], [None, 1]),
    "missing nulls": ("k integer UNIQUE", [None, None, 1, 2], [1], [1]),
    "no rowid": ("k text PRIMARY KEY) WITHOUT ROWID", ["a", "b"], ["a"], ["a"]),
    "its own rowid": ("k text, rowid text PRIMARY KEY", ["a", "b"], ["a"], ["a"]),
    "no key": ("k text, rowid text", ["a", "b"], ["a"], ["a"]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("columns", "stored", "rows", "left"), LITE_TABLES.values(), ids=list(LITE_TABLES)
)
@pytest.mark.parametrize("marks", [False, True])
@pytest.mark.filterwarnings("ignore::aioupsert.MissingUniqueIndexWarning")
async def test_what_is_missing_goes_on_sqlite(
    lite: SQLiteDatabase,
    columns: str,
    stored: list[Any],
    rows: list[Any],
    left: list[Any],
    *,
    marks: bool,
) -> None:
    end = "" if columns.endswith("ROWID") else ")"
    await lite.run(f"CREATE TABLE t (gone integer DEFAULT 0, n integer, {columns}{end}")
    names = "k, rowid" if "rowid text" in columns else "k"
    for n, k in enumerate(stored):
        await lite.handle.execute(
            f"INSERT INTO t ({names}) VALUES ({'?, ?' if ',' in names else '?'})",
            (k, f"r{n}") if "," in names else (k,),
        )
    await lite.handle.commit()
    await sync_rows(
        *(lite.handle, "t", [{"k": k} for k in rows]),
        key="k",
        scope={},
        max_missing=1.0,
        missing={"gone": 1} if marks else "delete",
    )
    found = await lite.query("SELECT k FROM t WHERE gone = 0")
    assert sorted(map(repr, found)) == sorted(repr((k,)) for k in left)


PARENT: Final = "CREATE TABLE parent (k integer PRIMARY KEY, n integer)"


async def test_a_foreign_key_that_forbids_a_removal_is_the_hosts_error(
    db: Database,
) -> None:
    await db.run(PARENT)
    await db.run("CREATE TABLE child (k integer REFERENCES parent (k))")
    await db.run("INSERT INTO parent VALUES (1, 1), (2, 1), (3, 1)")
    await db.run("INSERT INTO child VALUES (2)")
    if db.engine == "sqlite":
        await db.handle.execute("PRAGMA foreign_keys = on")
    rows = [{"k": 1, "n": 9}]
    with pytest.raises(Exception, match=r"(?i)foreign key") as failed:
        await sync_rows(db.handle, "parent", rows, key="k", scope={}, max_missing=1.0)
    assert type(failed.value).__module__.partition(".")[0] in {
        *("asyncpg", "psycopg", "sqlite3")
    }
    assert await db.query("SELECT n FROM parent") == [(1,)] * 3


async def test_rows_that_refer_to_each_other_go_together(db: Database) -> None:
    await db.run(
        "CREATE TABLE t (k integer PRIMARY KEY,"
        " up integer REFERENCES t (k) ON DELETE CASCADE)"
    )
    await db.run("INSERT INTO t VALUES (1, NULL), (2, 1), (3, 2), (4, NULL)")
    if db.engine == "sqlite":
        await db.handle.execute("PRAGMA foreign_keys = on")
    report = await sync_rows(
        db.handle, "t", [{"k": 4}], key="k", scope={}, max_missing=1.0
    )
    assert report == BulkResult(unchanged=1, deleted=3)
    assert await db.query("SELECT k FROM t") == [(4,)]


SILENT: Final = {
    "postgresql": (
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN IF old.k = 2 THEN RETURN NULL; END IF;"
        " IF tg_op = ''DELETE'' THEN RETURN old; END IF; RETURN new; END';"
        "CREATE TRIGGER no BEFORE UPDATE OR DELETE ON t FOR EACH ROW"
        " EXECUTE FUNCTION no()"
    ),
    "sqlite": (
        "CREATE TRIGGER no BEFORE DELETE ON t WHEN old.k = 2"
        " BEGIN SELECT RAISE(IGNORE); END;"
        "CREATE TRIGGER no2 BEFORE UPDATE ON t WHEN old.k = 2"
        " BEGIN SELECT RAISE(IGNORE); END"
    ),
}


async def test_a_row_that_is_silently_left_is_an_error(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await db.run("INSERT INTO t VALUES (1, 1), (2, 1), (3, 1)")
    await db.run(SILENT[db.engine])
    ways: list[Any] = ["delete", {"n": 5}]
    for missing in ways:
        with pytest.raises(NotAppliedError, match="of t was neither"):
            await sync_rows(
                *(db.handle, "t", [{"k": 1}]),
                key="k",
                scope={},
                missing=missing,
                max_missing=2,
            )
    assert await db.query("SELECT k, n FROM t ORDER BY k") == [(1, 1), (2, 1), (3, 1)]


FEW: Final = """
    CREATE TABLE t (k integer PRIMARY KEY, n integer);
    INSERT INTO t SELECT k, k / 31 FROM generate_series(1, 100) AS k;
    CREATE FUNCTION few() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT count(*) FROM changed) > 60 THEN RAISE 'too many'; END IF;
        RETURN NULL; END $$;
    CREATE TRIGGER few AFTER UPDATE ON t REFERENCING NEW TABLE AS changed
        FOR EACH STATEMENT EXECUTE FUNCTION few()
"""


async def test_rows_that_are_only_stored_in_parts_are_not_missing(
    pg: PostgresDatabase,
) -> None:
    """A batch that fails as a whole is written in halves."""
    await pg.run(FEW)
    rows = [{"k": k, "n": 0} for k in range(1, 101)]
    report = await sync_rows(pg.handle, "t", rows, key="k", scope={})
    assert report == BulkResult(updated=70, unchanged=30)
    assert await pg.query("SELECT count(*) FROM t WHERE n = 0") == [(100,)]


async def test_text_of_a_file_is_converted_in_the_scope_as_well(db: Database) -> None:
    await db.run("CREATE TABLE t (shop integer, k integer, n integer)")
    await db.run("CREATE UNIQUE INDEX u ON t (shop, k)")
    await db.run("INSERT INTO t VALUES (7, 1, 1), (7, 2, 2), (8, 1, 1)")
    report = await sync_rows(
        *(db.handle, "t", [{"k": "1", "n": "1", "shop": "7"}]),
        key=["shop", "k"],
        scope={"shop": "7"},
        convert_text=True,
    )
    assert report == BulkResult(unchanged=1, deleted=1)
    assert await db.query("SELECT * FROM t ORDER BY shop") == [(7, 1, 1), (8, 1, 1)]


async def test_a_condition_limits_updates_and_not_removals(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await db.run("INSERT INTO t VALUES (1, 1), (2, 9), (3, 9)")
    report = await sync_rows(
        *(db.handle, "t", [{"k": 1, "n": 2}, {"k": 2, "n": 3}]),
        key="k",
        scope={},
        where=F("n") < 5,
    )
    assert report == BulkResult(updated=1, skipped=1, deleted=1)
    assert await db.query("SELECT * FROM t ORDER BY k") == [(1, 2), (2, 9)]


async def test_a_call_is_one_event(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await db.run("INSERT INTO t VALUES (1, 1), (2, 9)")
    events: list[Event] = []
    stop = on_event(events.append)
    try:
        report = await sync_rows(db.handle, "t", [{"k": 1}], key="k", scope={})
        with pytest.raises(Exception, match="it has no 'k'"):
            await sync_rows(db.handle, "t", [{"k": 1}, {}], key="k", scope={})
    finally:
        stop()
    done, failed = events
    assert (done.operation, done.table, done.rows) == ("sync_rows", "t", 1)
    assert done.result == report == BulkResult(unchanged=1, deleted=1)
    assert failed.failed == 1


async def test_a_role_without_temporary_tables_can_only_keep(
    pg: PostgresDatabase, pg_server: Server
) -> None:
    table = (
        "CREATE TABLE t (k integer PRIMARY KEY, n integer);"
        "INSERT INTO t VALUES (1, 1), (2, 9)"
    )
    async with without_temporary_tables(pg, pg_server, table) as conn:
        rows = [{"k": 1}]
        with pytest.raises(UsageError, match="may not create temporary tables"):
            await sync_rows(conn, "t", rows, key="k", scope={})
        report = await sync_rows(conn, "t", rows, key="k", scope={}, missing="keep")
        assert report == BulkResult(unchanged=1)


async def test_a_scope_of_several_columns_and_of_null(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, a text, b numeric)")
    await db.run(
        "INSERT INTO t VALUES (1, NULL, 1), (2, NULL, 2), (3, 'x', 1), (4, NULL, 1)"
    )
    report = await sync_rows(
        db.handle, "t", [{"k": 1}], key="k", scope={"a": None, "b": 1}
    )
    assert report == BulkResult(unchanged=1, deleted=1)
    assert await db.query("SELECT k FROM t ORDER BY k") == [(1,), (2,), (3,)]


async def test_a_table_that_changes_while_the_scope_is_locked_is_noticed(
    pg: PostgresDatabase,
) -> None:
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY, at date)")
    key = "pg_catalog.hashtextextended('aioupsert', 't'::regclass::oid::int8)"

    async def changed(type_: str, **options: Any) -> Any:
        async with pg.connect() as other, other.transaction():
            await other.execute(f"SELECT pg_advisory_xact_lock({key})")
            rows = [{"k": 1}]
            task = asyncio.ensure_future(
                sync_rows(pg.handle, "t", rows, key="k", scope={}, **options)
            )
            await waiting(pg, pg.handle)
            await pg.run(f"ALTER TABLE t ALTER k TYPE {type_}")
        return await task

    assert await changed("bigint") == BulkResult(created=1)
    with pytest.raises(AioupsertError, match="t has changed since it was reflected"):
        await changed("integer", timeout=0)


async def test_a_lock_that_takes_too_long_is_the_drivers_error(
    pg: PostgresDatabase,
) -> None:
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY)")
    key = "pg_catalog.hashtextextended('aioupsert', 't'::regclass::oid::int8)"
    await pg.handle.execute("SET lock_timeout = '10ms'")
    async with pg.connect() as other, other.transaction():
        await other.execute(f"SELECT pg_advisory_xact_lock({key})")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await sync_rows(pg.handle, "t", [{"k": 1}], key="k", scope={"k": 1})
