"""Every kind of table, constraint and trigger of SQLite, and names that are wrong."""

import re
import sqlite3
from typing import Any

import aiosqlite
import pytest

from aioupsert import (
    DEFAULT,
    Action,
    F,
    MissingUniqueIndexError,
    MissingUniqueIndexWarning,
    NotAppliedError,
    UnknownColumnError,
    UnknownTableError,
    UsageError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    preview,
)
from aioupsert._execution import table_cache
from tests.support.databases import SQLiteDatabase

HIT = {"hits": F("hits") + 1}


@pytest.fixture
def conn(lite: SQLiteDatabase) -> aiosqlite.Connection:
    handle: aiosqlite.Connection = lite.handle
    return handle


async def rows_of(conn: aiosqlite.Connection, sql: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await conn.execute_fetchall(sql)]


TABLES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "rowid table": ("CREATE TABLE t (k TEXT PRIMARY KEY, {})", "t", {"k": "a"}),
    "WITHOUT ROWID": (
        "CREATE TABLE t (k TEXT PRIMARY KEY, {}) WITHOUT ROWID",
        "t",
        {"k": "a"},
    ),
    "integer WITHOUT ROWID": (
        "CREATE TABLE t (k INTEGER PRIMARY KEY, {}) WITHOUT ROWID",
        "t",
        {"k": 1},
    ),
    "STRICT": ("CREATE TABLE t (k TEXT PRIMARY KEY, {}) STRICT", "t", {"k": "a"}),
    "INTEGER PRIMARY KEY": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, {})",
        "t",
        {"id": 7},
    ),
    "DESC": ("CREATE TABLE t (id INTEGER PRIMARY KEY DESC, {})", "t", {"id": 7}),
    "its rowid": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, {})",
        "t",
        {"rowid": 7},
    ),
    "hidden rowid": ("CREATE TABLE t ({})", "t", {"rowid": 7}),
    "a column named rowid": (
        "CREATE TABLE t (rowid TEXT PRIMARY KEY, {})",
        "t",
        {"rowid": "a"},
    ),
    "composite": (
        "CREATE TABLE t (a, b TEXT, {}, UNIQUE (b, a))",
        "t",
        {"a": 1, "b": "x"},
    ),
    "keywords": (
        'CREATE TABLE "select" ("group" TEXT PRIMARY KEY, {})',
        "select",
        {"group": "a"},
    ),
    "quotation marks": (
        'CREATE TABLE "a ""b"";--" ("k"".""k" TEXT PRIMARY KEY, {})',
        'a "b";--',
        {'k"."k': "a"},
    ),
    "temporary": ("CREATE TEMP TABLE t (k TEXT PRIMARY KEY, {})", "t", {"k": "a"}),
    "temporary, named": (
        "CREATE TEMP TABLE t (k TEXT PRIMARY KEY, {})",
        "temp.t",
        {"k": "a"},
    ),
    "attached": (
        "ATTACH ':memory:' AS aux; CREATE TABLE aux.t (k TEXT PRIMARY KEY, {})",
        "aux.t",
        {"k": "a"},
    ),
    "attached, unnamed": (
        "ATTACH ':memory:' AS aux; CREATE TABLE aux.t (k TEXT PRIMARY KEY, {})",
        "t",
        {"k": "a"},
    ),
    "attached, odd name": (
        """ATTACH ':memory:' AS "a.b"; CREATE TABLE "a.b".t (k PRIMARY KEY, {})""",
        ("a.b", "t"),
        {"k": "a"},
    ),
    "NOCASE column": (
        "CREATE TABLE t (k TEXT COLLATE NOCASE PRIMARY KEY, {})",
        "t",
        {"k": "a"},
    ),
    "NULL in a partial index": (
        "CREATE TABLE t (k, gone, {}); CREATE UNIQUE INDEX i ON t (k) WHERE gone IS NULL",
        "t",
        {"k": "a", "gone": None},
    ),
    "NOCASE column outside of the key": (
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT COLLATE NOCASE, {})",
        "t",
        {"id": 7},
    ),
    "ON CONFLICT REPLACE": (
        "CREATE TABLE t (k TEXT UNIQUE ON CONFLICT REPLACE, {})",
        "t",
        {"k": "a"},
    ),
}


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize(("ddl", "table", "key"), TABLES.values(), ids=TABLES)
async def test_rows_are_created_and_updated(
    conn: aiosqlite.Connection,
    ddl: str,
    table: Any,
    key: dict[str, Any],
    *,
    inside: bool,
) -> None:
    column = "hits INTEGER NOT NULL DEFAULT 10 CHECK (hits > 0)"
    await conn.executescript(ddl.format(column))
    if inside:
        await conn.execute("BEGIN")
    results = [
        await create_or_update(
            conn, table, key=key, defaults=HIT, returning=[*key, "hits"]
        )
        for _ in range(3)
    ]
    assert [(r.action, r.rows_affected) for r in results] == [
        (Action.CREATED, 1),
        (Action.UPDATED, 1),
        (Action.UPDATED, 1),
    ]
    assert [r.row for r in results] == [{**key, "hits": n} for n in (11, 12, 13)]
    there = await get_or_create(conn, table, key=key, returning="hits")
    assert tuple(there) == ({"hits": 13}, False)
    if inside:
        await conn.execute("COMMIT")


# --- Keys that no index guards, or that an index compares otherwise -------------------


async def test_a_null_integer_primary_key_is_the_next_number(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript("CREATE TABLE t (id INTEGER PRIMARY KEY, hits INTEGER)")
    results = [
        await create_or_update(
            conn, "t", key={"id": None}, returning="id", without_unique_index="allow"
        )
        for _ in range(2)
    ]
    assert [tuple(r) for r in results] == [({"id": 1}, True), ({"id": 2}, True)]


@pytest.mark.parametrize(
    "index", ["(k) WHERE hits > 0", "(lower(k))"], ids=["partial", "expression"]
)
async def test_an_index_that_does_not_make_the_key_unique_is_warned_of(
    conn: aiosqlite.Connection, index: str
) -> None:
    await conn.executescript(
        f"CREATE TABLE t (k TEXT, hits INTEGER); CREATE UNIQUE INDEX i ON t {index}"
    )
    with pytest.warns(MissingUniqueIndexWarning, match=r"\(k\)"):
        created = await create_or_update(conn, "t", key={"k": "a"}, defaults=HIT)
    updated = await create_or_update(conn, "t", key={"k": "a"}, defaults=HIT)
    assert (created.created, updated.created) == (True, False)


async def test_a_soft_deleted_row_is_left_alone_when_the_key_says_so(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(
        "CREATE TABLE t (k TEXT, gone TEXT, hits INTEGER DEFAULT 0);"
        " CREATE UNIQUE INDEX i ON t (k) WHERE gone IS NULL;"
        " INSERT INTO t VALUES ('a', 'yesterday', 5)"
    )
    key = {"k": "a", "gone": None}
    for _ in range(2):
        await create_or_update(conn, "t", key=key, defaults=HIT)
    assert await rows_of(conn, "SELECT gone, hits FROM t") == [
        ("yesterday", 5),
        (None, 2),
    ]


NOCASE_INDEX = (
    "CREATE TABLE t (k TEXT, hits INTEGER DEFAULT 0);"
    " CREATE UNIQUE INDEX i ON t (k COLLATE NOCASE); INSERT INTO t VALUES ('a', 5)"
)


async def test_a_row_equal_only_to_the_index_is_the_databases_error(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(NOCASE_INDEX)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        await create_or_update(conn, "t", key={"k": "A"}, defaults=HIT)
    assert not conn.in_transaction
    assert await rows_of(conn, "SELECT * FROM t") == [("a", 5)]


async def test_on_conflict_never_calls_an_update_created(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(NOCASE_INDEX)
    try:
        result = await create_or_update(
            conn, "t", key={"k": "A"}, defaults={"hits": 6}, strategy="on_conflict"
        )
    except MissingUniqueIndexError:
        assert await rows_of(conn, "SELECT * FROM t") == [("a", 5)]
    else:
        assert result.action is Action.UPDATED


# --- Constraints and triggers ---------------------------------------------------------


async def test_an_update_burns_no_autoincrement(conn: aiosqlite.Connection) -> None:
    await conn.executescript(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " k TEXT UNIQUE, hits INTEGER DEFAULT 0)"
    )
    for _ in range(5):
        await create_or_update(conn, "t", key={"k": "a"}, defaults=HIT)
    await create_or_update(conn, "t", key={"k": "b"}, defaults=HIT)
    assert await rows_of(conn, "SELECT * FROM t") == [(1, "a", 5), (2, "b", 1)]
    assert await rows_of(conn, "SELECT seq FROM sqlite_sequence") == [(2,)]


async def test_insert_triggers_fire_on_create_only(conn: aiosqlite.Connection) -> None:
    await conn.executescript(
        "CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER); CREATE TABLE log (what);"
        " CREATE TRIGGER a BEFORE INSERT ON t BEGIN INSERT INTO log VALUES ('in'); END;"
        " CREATE TRIGGER b BEFORE UPDATE ON t BEGIN INSERT INTO log VALUES ('up'); END"
    )
    for hits in (1, 2):
        await create_or_update(conn, "t", key={"k": "a"}, defaults={"hits": hits})
    assert await rows_of(conn, "SELECT what FROM log") == [("in",), ("up",)]


async def test_an_update_needs_no_value_that_only_an_insert_needs(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(
        "CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER, must TEXT NOT NULL);"
        " INSERT INTO t VALUES ('a', 1, 'x')"
    )
    await create_or_update(conn, "t", key={"k": "a"}, defaults={"hits": 2})
    assert await rows_of(conn, "SELECT * FROM t") == [("a", 2, "x")]


GENERATED = (
    "CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER,"
    " v INTEGER AS (hits * 2), s INTEGER AS (hits * 3) STORED)"
)


async def test_generated_columns_are_returned(conn: aiosqlite.Connection) -> None:
    await conn.executescript(GENERATED)
    for hits in (1, 2):
        result = await create_or_update(
            conn, "t", key={"k": "a"}, defaults={"hits": hits}, returning="*"
        )
        assert result.row == {"k": "a", "hits": hits, "v": hits * 2, "s": hits * 3}


@pytest.mark.parametrize("column", ["v", "s"])
@pytest.mark.parametrize("argument", ["defaults", "create_defaults", "touch"])
async def test_generated_columns_are_not_written(
    conn: aiosqlite.Connection, column: str, argument: str
) -> None:
    await conn.executescript(GENERATED)
    options: dict[str, Any] = {argument: {column: 1}}
    with pytest.raises(UsageError, match="computes this column"):
        await create_or_update(conn, "t", key={"k": "a"}, **options)


VIEW = """
    CREATE TABLE base (k TEXT PRIMARY KEY, hits INTEGER);
    CREATE VIEW t AS SELECT k, hits FROM base;
    CREATE TRIGGER i INSTEAD OF INSERT ON t
        BEGIN INSERT INTO base VALUES (new.k, new.hits); END;
    CREATE TRIGGER u INSTEAD OF UPDATE ON t
        BEGIN UPDATE base SET hits = new.hits WHERE k = old.k; END;
"""


async def test_a_view_with_triggers_is_written(conn: aiosqlite.Connection) -> None:
    await conn.executescript(VIEW)
    results = [
        await create_or_update(
            conn, "t", key={"k": "a"}, defaults={"hits": hits}, returning="*"
        )
        for hits in (1, 2)
    ]
    assert [(r.action, r.row) for r in results] == [
        (Action.CREATED, {"k": "a", "hits": 1}),
        (Action.UPDATED, {"k": "a", "hits": 2}),
    ]
    assert await rows_of(conn, "SELECT * FROM base") == [("a", 2)]


@pytest.mark.parametrize(
    "ddl", [VIEW, "CREATE VIRTUAL TABLE t USING fts5 (k, hits)"], ids=["view", "fts5"]
)
async def test_many_rows_are_written_where_no_upsert_works(
    conn: aiosqlite.Connection, ddl: str
) -> None:
    await conn.executescript(ddl)
    rows = [{"k": k, "hits": hits} for k, hits in (("a", 1), ("b", 2), ("a", 3))]
    counts = await create_or_update_many(conn, "t", rows, key="k")
    assert (counts.created, counts.updated) == (2, 1)
    assert await rows_of(conn, "SELECT * FROM t ORDER BY k") == [("a", 3), ("b", 2)]


async def test_a_row_of_a_view_is_left_alone(conn: aiosqlite.Connection) -> None:
    await conn.executescript(VIEW)
    await conn.execute("INSERT INTO base VALUES ('a', 1)")
    result = await create_or_update(
        conn, "t", key={"k": "a"}, defaults={"hits": 2}, where=F("hits") > 1
    )
    assert result.action is Action.SKIPPED
    assert await rows_of(conn, "SELECT * FROM base") == [("a", 1)]


async def test_a_view_that_swallows_the_row_is_an_error(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(
        "CREATE TABLE base (k TEXT PRIMARY KEY, hits INTEGER);"
        " CREATE VIEW t AS SELECT * FROM base;"
        " CREATE TRIGGER i INSTEAD OF INSERT ON t BEGIN SELECT 1; END"
    )
    with pytest.raises(NotAppliedError):
        await create_or_update(conn, "t", key={"k": "a"}, defaults={"hits": 2})


@pytest.mark.parametrize("trigger", ["", "INSERT", "UPDATE"])
async def test_a_view_without_the_trigger_is_the_databases_error(
    conn: aiosqlite.Connection, trigger: str
) -> None:
    await conn.executescript(
        "CREATE TABLE base (k TEXT PRIMARY KEY, hits INTEGER);"
        " INSERT INTO base VALUES ('a', 1); CREATE VIEW t AS SELECT * FROM base"
    )
    if trigger:
        await conn.execute(
            f"CREATE TRIGGER i INSTEAD OF {trigger} ON t BEGIN SELECT 1; END"
        )
    key = "missing" if trigger == "UPDATE" else "a"
    # Never "created" or "updated": SQLite 3.40 says so when asked to return rows.
    with pytest.raises(sqlite3.OperationalError, match="is a view"):
        await create_or_update(conn, "t", key={"k": key}, defaults={"hits": 2})


@pytest.mark.parametrize("key", [{"title": "a"}, {"rowid": 3}], ids=["column", "rowid"])
async def test_a_virtual_table_is_written(
    conn: aiosqlite.Connection, key: dict[str, Any]
) -> None:
    await conn.executescript("CREATE VIRTUAL TABLE t USING fts5 (title, body)")
    results = [
        await create_or_update(conn, "t", key=key, defaults={"body": body})
        for body in ("one", "two")
    ]
    assert [(r.action, r.rows_affected) for r in results] == [
        (Action.CREATED, 1),
        (Action.UPDATED, 1),
    ]
    assert await rows_of(conn, "SELECT body FROM t WHERE t MATCH 'two'") == [("two",)]
    assert await rows_of(conn, "SELECT count(*) FROM t") == [(1,)]


async def test_several_rows_of_a_virtual_table_are_counted(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(
        "CREATE VIRTUAL TABLE t USING fts5 (title, body);"
        " INSERT INTO t VALUES ('a', 'one'), ('a', 'two'), ('b', 'three')"
    )
    result = await create_or_update(
        conn, "t", key={"title": "a"}, defaults={"body": "new"}
    )
    assert (result.action, result.rows_affected) == (Action.UPDATED, 2)


async def test_a_virtual_table_returns_no_rows(conn: aiosqlite.Connection) -> None:
    await conn.executescript("CREATE VIRTUAL TABLE t USING fts5 (title, body)")
    with pytest.raises(UsageError, match="returns no rows"):
        await create_or_update(conn, "t", key={"title": "a"}, returning="*")


async def test_replace_on_another_column_deletes_the_row_in_the_way(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(
        "CREATE TABLE t (k TEXT PRIMARY KEY, d TEXT UNIQUE ON CONFLICT REPLACE);"
        " INSERT INTO t VALUES ('a', 'x'), ('b', 'y')"
    )
    updated = await create_or_update(conn, "t", key={"k": "a"}, defaults={"d": "y"})
    created = await create_or_update(conn, "t", key={"k": "c"}, defaults={"d": "y"})
    assert (updated.rows_affected, created.rows_affected) == (1, 1)
    assert await rows_of(conn, "SELECT * FROM t") == [("c", "y")]


SILENT = {
    "ON CONFLICT IGNORE": "d TEXT UNIQUE ON CONFLICT IGNORE)",
    "RAISE(IGNORE) on insert": "d TEXT); CREATE TRIGGER i BEFORE INSERT ON t"
    " WHEN new.d = 'taken' BEGIN SELECT RAISE(IGNORE); END",
}


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("ddl", SILENT.values(), ids=SILENT)
async def test_a_row_refused_silently_is_an_error(
    conn: aiosqlite.Connection, ddl: str, *, inside: bool
) -> None:
    await conn.executescript(
        f"CREATE TABLE t (k TEXT PRIMARY KEY, {ddl};"
        " INSERT INTO t VALUES ('old', 'free'); UPDATE t SET d = 'taken'"
    )
    if inside:
        await conn.execute("BEGIN")
    with pytest.raises(NotAppliedError):
        await create_or_update(conn, "t", key={"k": "a"}, defaults={"d": "taken"})
    assert conn.in_transaction == inside
    assert await rows_of(conn, "SELECT * FROM t") == [("old", "taken")]


@pytest.mark.parametrize("unique", ["PRIMARY KEY", ""], ids=["unique", "not unique"])
async def test_an_update_refused_silently_is_an_error(
    conn: aiosqlite.Connection, unique: str
) -> None:
    await conn.executescript(
        f"CREATE TABLE t (k TEXT {unique}, hits INTEGER);"
        " INSERT INTO t VALUES ('a', 1);"
        " CREATE TRIGGER u BEFORE UPDATE ON t BEGIN SELECT RAISE(IGNORE); END"
    )
    with pytest.raises(NotAppliedError):
        await create_or_update(
            conn,
            "t",
            key={"k": "a"},
            defaults={"hits": 2},
            without_unique_index="allow",
        )
    assert not conn.in_transaction
    assert await rows_of(conn, "SELECT * FROM t") == [("a", 1)]


ROLLS_BACK = {
    "ON CONFLICT ROLLBACK": "d TEXT UNIQUE ON CONFLICT ROLLBACK)",
    "RAISE(ROLLBACK) on insert": "d TEXT); CREATE TRIGGER i BEFORE INSERT ON t"
    " WHEN new.d = 'taken' BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
    "RAISE(ROLLBACK) on update": "d TEXT); CREATE TRIGGER i BEFORE UPDATE ON t"
    " WHEN new.d = 'taken' BEGIN SELECT RAISE(ROLLBACK, 'no'); END",
}


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("ddl", ROLLS_BACK.values(), ids=ROLLS_BACK)
async def test_a_clause_that_rolls_back_is_reported(
    conn: aiosqlite.Connection, ddl: str, *, inside: bool
) -> None:
    key = "old" if "update" in ddl.lower() else "new"
    await conn.executescript(
        f"CREATE TABLE t (k TEXT PRIMARY KEY, {ddl}; CREATE TABLE log (n);"
        " INSERT INTO t VALUES ('old', 'free')"
    )
    if "UNIQUE" in ddl:
        await conn.execute("INSERT INTO t VALUES ('other', 'taken')")
    if inside:
        await conn.execute("BEGIN")
        await conn.execute("INSERT INTO log VALUES (1)")
    with pytest.raises(sqlite3.IntegrityError) as caught:
        await create_or_update(conn, "t", key={"k": key}, defaults={"d": "taken"})
    notes = "".join(getattr(caught.value, "__notes__", []))
    assert ("the caller's transaction is gone" in notes) == inside
    assert not conn.in_transaction
    assert await rows_of(conn, "SELECT * FROM log") == []
    assert (await create_or_update(conn, "t", key={"k": "fine"})).created


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("event", ["INSERT", "UPDATE"])
async def test_a_trigger_that_fails_halfway_leaves_nothing_of_the_call(
    conn: aiosqlite.Connection, event: str, *, inside: bool
) -> None:
    # RAISE(FAIL) ends a statement, and keeps what that has written so far.
    await conn.executescript(
        "CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER);"
        " INSERT INTO t VALUES ('old', 1); CREATE TABLE log (n);"
        f" CREATE TRIGGER a AFTER {event} ON t BEGIN SELECT RAISE(FAIL, 'no'); END"
    )
    if inside:
        await conn.execute("BEGIN")
        await conn.execute("INSERT INTO log VALUES (1)")
    key = "new" if event == "INSERT" else "old"
    with pytest.raises(sqlite3.IntegrityError, match="no"):
        await create_or_update(conn, "t", key={"k": key}, defaults={"hits": 2})
    assert conn.in_transaction == inside
    assert await rows_of(conn, "SELECT * FROM t") == [("old", 1)]
    assert await rows_of(conn, "SELECT * FROM log") == [(1,)] * inside


# --- Names ----------------------------------------------------------------------------


async def test_a_misspelt_key_column_changes_nothing(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(
        "CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER DEFAULT 0);"
        " INSERT INTO t VALUES ('a', 1), ('b', 2)"
    )
    # SQLite reads an unknown "kk" as the text 'kk', which equals the value.
    with pytest.raises(UnknownColumnError):
        await create_or_update(conn, "t", key={"kk": "kk"}, defaults=HIT)
    assert await rows_of(conn, "SELECT * FROM t") == [("a", 1), ("b", 2)]


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("strategy", ["auto", "on_conflict"])
async def test_a_key_column_renamed_by_another_connection_changes_nothing(
    conn: aiosqlite.Connection, lite: SQLiteDatabase, strategy: Any, *, inside: bool
) -> None:
    await lite.run(
        "CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER DEFAULT 0);"
        " INSERT INTO t VALUES ('a', 1), ('b', 2)"
    )
    options: dict[str, Any] = {"defaults": {"hits": 9}, "strategy": strategy}
    await create_or_update(conn, "t", key={"k": "b"}, **options)
    await lite.run("ALTER TABLE t RENAME COLUMN k TO name")
    if inside:
        await conn.execute("BEGIN")
    with pytest.raises(UnknownColumnError):
        await create_or_update(conn, "t", key={"k": "k"}, **options)
    assert conn.in_transaction == inside
    assert await rows_of(conn, "SELECT * FROM t") == [("a", 1), ("b", 9)]


@pytest.mark.parametrize(
    "options",
    [
        {"defaults": HIT, "where": F("note") == "x", "returning": "*"},
        {"defaults": {"note": DEFAULT}, "skip_unchanged": True},
        {"defaults": {"hits": 1}, "touch": {"note": F("note").concat("!")}},
        {"returning": "*"},
        {"defaults": {"hits": 1}, "strategy": "on_conflict", "returning": "*"},
    ],
)
async def test_no_statement_reads_an_unqualified_column(
    conn: aiosqlite.Connection, options: dict[str, Any]
) -> None:
    await conn.executescript(
        "CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER DEFAULT 0, note TEXT)"
    )
    for statement in await preview(conn, "t", key={"k": "a"}, **options):
        # What is written must stand alone, and a wrong name is always an error there.
        sql = re.sub(r'(INSERT INTO "t"|ON CONFLICT) \([^)]*\)', "", statement.sql)
        sql = re.sub(r'(?:UPDATE|FROM) "t"|(?:SET|,) "\w+" =', "", sql)
        assert re.findall(r'(?<!\.)"\w+"(?!\.)', sql) == []


async def test_a_quoted_default_is_a_text_even_when_a_column_has_its_name(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(
        'CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER, note TEXT DEFAULT "k");'
        " INSERT INTO t VALUES ('a', 1, 'x')"
    )
    for key in ("a", "b"):
        result = await create_or_update(
            conn,
            "t",
            key={"k": key},
            defaults={"note": DEFAULT},
            create_defaults={"note": F("note").concat("!")},
            returning="note",
        )
        assert result.row == {"note": "k!" if result.created else "k"}


# --- RETURNING ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["auto", "on_conflict"])
async def test_returning_leaves_no_statement_open(
    conn: aiosqlite.Connection, lite: SQLiteDatabase, strategy: Any
) -> None:
    await lite.run("CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER)")
    for hits in (1, 2):
        await create_or_update(
            conn,
            "t",
            key={"k": "a"},
            defaults={"hits": hits},
            returning="*",
            strategy=strategy,
        )
        # With no patience at all.
        await lite.run("PRAGMA busy_timeout = 0; UPDATE t SET hits = hits")
    # The tables can be dropped only when no statement is open.
    await conn.execute("DROP TABLE t")


async def test_every_row_is_returned(conn: aiosqlite.Connection) -> None:
    await conn.executescript(
        "CREATE TABLE t (k TEXT, n INTEGER, hits INTEGER DEFAULT 0);"
        " INSERT INTO t (k, n) WITH RECURSIVE c(n) AS (VALUES (1) UNION ALL"
        " SELECT n + 1 FROM c WHERE n < 500) SELECT 'a', n FROM c"
    )
    result = await create_or_update(
        conn,
        "t",
        key={"k": "a"},
        defaults=HIT,
        returning=["n", "hits"],
        without_unique_index="allow",
    )
    assert result.rows_affected == 500
    rows = sorted((row["n"], row["hits"]) for row in result.rows)
    assert rows == [(n, 1) for n in range(1, 501)]


# --- A schema that another connection changes -----------------------------------------


@pytest.fixture
async def changing(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> aiosqlite.Connection:
    await lite.run("CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER DEFAULT 0)")
    await create_or_update(conn, "t", key={"k": "a"}, defaults=HIT)
    return conn


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_a_column_added_is_used_by_the_next_call(
    changing: aiosqlite.Connection, lite: SQLiteDatabase, *, inside: bool
) -> None:
    await lite.run("ALTER TABLE t ADD COLUMN note TEXT")
    if inside:
        await changing.execute("BEGIN")
    result = await create_or_update(
        changing, "t", key={"k": "a"}, defaults={"note": "x"}, returning="*"
    )
    assert result.row == {"k": "a", "hits": 1, "note": "x"}


async def test_a_column_dropped_is_unknown_to_the_next_call(
    changing: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await lite.run("ALTER TABLE t DROP COLUMN hits")
    with pytest.raises(UnknownColumnError):
        await create_or_update(changing, "t", key={"k": "a"}, defaults=HIT)
    assert not changing.in_transaction


RECREATE = """
    DROP TABLE t;
    CREATE TABLE t (name TEXT PRIMARY KEY, k TEXT UNIQUE, hits INTEGER DEFAULT 100)
"""


async def test_a_changed_default_is_noticed_when_the_description_is_read_afresh(
    changing: aiosqlite.Connection,
    lite: SQLiteDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await lite.run(RECREATE)
    monkeypatch.setattr(table_cache, "_ttl", 0)
    await create_or_update(changing, "t", key={"k": "a"}, defaults=HIT)
    assert await lite.query("SELECT * FROM t") == [(None, "a", 101)]


async def test_a_table_made_anew_is_described_anew_after_its_first_error(
    changing: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await lite.run(RECREATE)
    result = await create_or_update(
        changing, "t", key={"name": "x"}, defaults=HIT, returning="*"
    )
    assert result.row == {"name": "x", "k": None, "hits": 101}


async def test_so_it_is_after_an_error_of_a_constraint_that_it_did_not_have(
    changing: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await lite.run(RECREATE.replace("100", "100 CHECK (hits > 50)"))
    await create_or_update(changing, "t", key={"k": "a"}, defaults=HIT)
    assert await lite.query("SELECT * FROM t") == [(None, "a", 101)]


async def test_a_table_dropped_and_made_again_works(
    changing: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await lite.run("DROP TABLE t")
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await create_or_update(changing, "t", key={"k": "a"}, defaults=HIT)
    with pytest.raises(UnknownTableError):
        await create_or_update(changing, "t", key={"k": "a"}, defaults=HIT)
    await lite.run("CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER DEFAULT 100)")
    key, again = {"k": "a"}, {"k": "b"}
    assert (await create_or_update(changing, "t", key=key, defaults=HIT)).created
    assert not (await create_or_update(changing, "t", key=key, defaults=HIT)).created
    await changing.execute("BEGIN")
    assert (await create_or_update(changing, "t", key=again, defaults=HIT)).created
    await changing.commit()
    assert await lite.query("SELECT * FROM t") == [("a", 102), ("b", 101)]


@pytest.mark.parametrize(
    "options", [{"without_unique_index": "error"}, {"strategy": "on_conflict"}]
)
async def test_an_index_added_or_dropped_is_noticed(
    conn: aiosqlite.Connection,
    lite: SQLiteDatabase,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await lite.run("CREATE TABLE t (k TEXT, hits INTEGER)")

    async def call() -> Action:
        return (await create_or_update(conn, "t", key={"k": "a"}, **options)).action

    with pytest.raises(MissingUniqueIndexError):
        await call()
    await lite.run("CREATE UNIQUE INDEX i ON t (k)")
    assert await call() is Action.CREATED
    await lite.run("DROP INDEX i")
    monkeypatch.setattr(table_cache, "_ttl", 0)
    with pytest.raises(MissingUniqueIndexError):
        await call()
