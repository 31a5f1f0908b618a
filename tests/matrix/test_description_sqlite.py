"""What the library reads from SQLite's schema before it writes a statement."""

import sqlite3
from typing import Any, Final

import aiosqlite
import pytest

from aioupsert import F, UnknownTableError, create_or_update
from aioupsert._drivers.base import state_of
from tests.support.databases import SQLiteDatabase
from tests.support.tables import describe


@pytest.fixture
def conn(lite: SQLiteDatabase) -> aiosqlite.Connection:
    handle: aiosqlite.Connection = lite.handle
    return handle


# --- Columns ---------------------------------------------------------------------------

DECLARED: Final = {
    **dict.fromkeys(
        ("INTEGER", "int", "TINYINT", "INT8", "UNSIGNED BIG INT"), "integer"
    ),
    # The letters INT come first, whatever else is there.
    **dict.fromkeys(("POINT", "CHARINT", "FLOATING POINT"), "integer"),
    **dict.fromkeys(("TEXT", "varchar(255)", "NCHAR(55)", "CLOB"), "text"),
    **dict.fromkeys(("BLOB", "blob(10)"), "bytes"),
    **dict.fromkeys(("REAL", "DOUBLE", "double precision", "FLOAT"), "number"),
    **dict.fromkeys(("NUMERIC", "DECIMAL(10,5)", "number"), "number"),
    **dict.fromkeys(("BOOLEAN", "bool"), "boolean"),
    **dict.fromkeys(("JSON", "JSONB"), "json"),
    **dict.fromkeys(("DATE", "DATETIME", "TIMESTAMP"), "date"),
    **dict.fromkeys(("", "STRING", "ANY", "UUID", "whatever you like"), ""),
}
# What a column makes of the text '1' and of the number 1 tells its affinity.
AFFINITIES: Final = {
    ("integer", "integer"): "sqlite number",
    ("real", "real"): "sqlite real",
    ("text", "text"): "sqlite text",
    ("text", "integer"): "sqlite blob",
}


@pytest.mark.parametrize(("declared", "family"), DECLARED.items())
async def test_a_column_is_described_by_its_declared_type(
    conn: aiosqlite.Connection, declared: str, family: str
) -> None:
    await conn.executescript(
        f"CREATE TABLE t (v {declared}); INSERT INTO t VALUES ('1'), (1)"
    )
    rows = await conn.execute_fetchall("SELECT typeof(v) FROM t ORDER BY rowid")
    one, other = (row[0] for row in rows)
    column = (await describe(conn)).columns["v"]
    assert (column.family, column.storage) == (family, AFFINITIES[one, other])


async def test_a_strict_table_keeps_any_as_it_is(conn: aiosqlite.Connection) -> None:
    await conn.executescript(
        "CREATE TABLE t (k any, strict TEXT CHECK (k <> 0)) STRICT;"
        " CREATE TABLE loose (k ANY CHECK (k <> 0), strict ANY)"
    )
    assert (await describe(conn)).columns["k"].storage == "sqlite blob"
    assert (await describe(conn, "loose")).columns["k"].storage == "sqlite number"


DEFAULTS: Final = [
    *("7", "-7", "+7.5", "1e3", "'it''s'", "'\"'", "x'00ff'", "NULL", "TRUE", "false"),
    *("(1 + 2)", "(lower('A') || 'b')", "(-(3))", "('a)')", "''"),
    *("word", '"word"', '"wo ""rd"', '"null"', "_a1"),
    *("'5'", "' 5.0 '", "('5')"),
    *("[word]", "`word`", "äpfel", "a$b"),
]


@pytest.mark.parametrize("declared", ["", "TEXT", "INTEGER", "REAL", "BLOB"])
@pytest.mark.parametrize("default", DEFAULTS)
async def test_a_default_is_the_databases_own(
    conn: aiosqlite.Connection, default: str, declared: str
) -> None:
    # The other column takes any value as it is.
    await conn.executescript(
        f"CREATE TABLE t (k INTEGER PRIMARY KEY, v {declared} DEFAULT {default}, seen);"
        " INSERT INTO t (k) VALUES (1)"
    )
    await create_or_update(conn, "t", key={"k": 2}, defaults={"seen": F("v")})
    sql = "SELECT v, typeof(v), seen, typeof(seen) FROM t ORDER BY k"
    first, second = [tuple(row) for row in await conn.execute_fetchall(sql)]
    assert second[2:] == first[:2] == second[:2]


@pytest.mark.parametrize("word", ["CURRENT_TIME", "current_date", "CURRENT_TIMESTAMP"])
async def test_a_default_may_be_the_current_time(
    conn: aiosqlite.Connection, word: str
) -> None:
    await conn.execute(f"CREATE TABLE t (k INTEGER PRIMARY KEY, v DEFAULT {word})")
    result = await create_or_update(
        conn, "t", key={"k": 2}, defaults={"v": F("v")}, returning="v"
    )
    assert result.row is not None
    assert result.row["v"][0].isdigit()


async def test_generated_columns_are_described(conn: aiosqlite.Connection) -> None:
    await conn.execute("CREATE TABLE t (a, v AS (a + 1), s AS (a + 2) STORED)")
    columns = (await describe(conn)).columns
    assert {c.name: c.generated for c in columns.values()} == {
        "a": False,
        "v": True,
        "s": True,
        "rowid": False,
    }


# --- Unique indexes --------------------------------------------------------------------

K: Final = {"k": False}
# A table, the key that is tried, each column with whether it is NULL; the answer.
INDEXES: Final[dict[str, tuple[str, dict[str, bool], bool]]] = {
    "primary key": ("CREATE TABLE t (k TEXT PRIMARY KEY)", K, True),
    "INTEGER PRIMARY KEY": ("CREATE TABLE t (k INTEGER PRIMARY KEY)", K, True),
    "INTEGER PRIMARY KEY DESC": (
        "CREATE TABLE t (k INTEGER PRIMARY KEY DESC)",
        K,
        True,
    ),
    "WITHOUT ROWID": ("CREATE TABLE t (k TEXT PRIMARY KEY) WITHOUT ROWID", K, True),
    "unique": ("CREATE TABLE t (k UNIQUE)", K, True),
    "NULL": ("CREATE TABLE t (k UNIQUE)", {"k": True}, False),
    "nothing": ("CREATE TABLE t (k)", K, False),
    "plain index": ("CREATE TABLE t (k); CREATE INDEX i ON t (k)", K, False),
    "part of the key": ("CREATE TABLE t (k UNIQUE, n)", {"k": False, "n": True}, True),
    "more than the key": ("CREATE TABLE t (k, n, UNIQUE (k, n))", K, False),
    "other order": (
        "CREATE TABLE t (k, n, PRIMARY KEY (n, k))",
        {"k": False, "n": False},
        True,
    ),
    "expression": (
        "CREATE TABLE t (k); CREATE UNIQUE INDEX i ON t (lower(k))",
        K,
        False,
    ),
    "predicate": (
        "CREATE TABLE t (k, n); CREATE UNIQUE INDEX i ON t (k) WHERE n > 0",
        {"k": False, "n": True},
        False,
    ),
    "predicate on NULL": (
        "CREATE TABLE t (k, n); CREATE UNIQUE INDEX i ON t (k) where n is null",
        {"k": False, "n": True},
        True,
    ),
    "predicate on NULL, not given": (
        "CREATE TABLE t (k, n); CREATE UNIQUE INDEX i ON t (k) WHERE n IS NULL",
        K,
        False,
    ),
    "predicate on NULL, not NULL": (
        "CREATE TABLE t (k, n); CREATE UNIQUE INDEX i ON t (k) WHERE n IS NULL",
        {"k": False, "n": False},
        False,
    ),
    "predicate on two NULLs": (
        (
            'CREATE TABLE t (k, n, "o ""x" DATE);'
            ' CREATE UNIQUE INDEX i ON t (k)WHERE (n IS NULL) AND "o ""x" IS NULL'
        ),
        {"k": False, "n": True, 'o "x': True},
        True,
    ),
    "predicate on NULL and more": (
        (
            "CREATE TABLE t (k, n);"
            " CREATE UNIQUE INDEX i ON t (k) WHERE n IS NULL AND k > 0"
        ),
        {"k": False, "n": True},
        False,
    ),
    "a comment before the predicate": (
        (
            "CREATE TABLE t (k, n);"
            " CREATE UNIQUE INDEX i ON t (k) /* not deleted */ WHERE n IS NULL"
        ),
        K,
        False,
    ),
    "predicate of an expression index": (
        (
            "CREATE TABLE t (k, n);"
            " CREATE UNIQUE INDEX i ON t (lower(k)) WHERE n IS NULL"
        ),
        {"k": False, "n": True},
        False,
    ),
    "index of a coarser collation": (
        "CREATE TABLE t (k TEXT); CREATE UNIQUE INDEX i ON t (k COLLATE NOCASE)",
        K,
        True,
    ),
    "index of a finer collation": (
        (
            "CREATE TABLE t (k TEXT COLLATE NOCASE);"
            " CREATE UNIQUE INDEX i ON t (k COLLATE BINARY)"
        ),
        K,
        False,
    ),
    "rowid": ("CREATE TABLE t (k)", {"rowid": False}, True),
    "a column that is called rowid": (
        "CREATE TABLE t (rowid TEXT)",
        {"rowid": False},
        False,
    ),
    "a column that is called RowID": (
        "CREATE TABLE t (RowID TEXT)",
        {"RowID": False},
        False,
    ),
}


@pytest.mark.parametrize(("ddl", "key", "unique"), INDEXES.values(), ids=INDEXES)
async def test_an_index_makes_a_key_unique_or_not(
    conn: aiosqlite.Connection, ddl: str, key: dict[str, bool], *, unique: bool
) -> None:
    await conn.executescript(ddl)
    assert (await describe(conn)).is_unique(key) is unique


ROWIDS: Final = {
    "table": ("CREATE TABLE t (k)", True),
    "WITHOUT ROWID": ("CREATE TABLE t (k PRIMARY KEY) WITHOUT ROWID", False),
    "STRICT, WITHOUT ROWID": (
        "CREATE TABLE t (k TEXT PRIMARY KEY) strict, without  rowid",
        False,
    ),
    "a column of that name": ("CREATE TABLE t (k PRIMARY KEY, rowid)", False),
    "a column of that name in capitals": ("CREATE TABLE t (k, ROWID)", False),
    "it only says so": (
        "CREATE TABLE t (k PRIMARY KEY, n DEFAULT 'a) WITHOUT ROWID')",
        True,
    ),
    "view": ("CREATE TABLE b (k); CREATE VIEW t AS SELECT * FROM b", False),
}


@pytest.mark.parametrize(("ddl", "there"), ROWIDS.values(), ids=ROWIDS)
async def test_a_rowid_is_a_hidden_column_where_there_is_one(
    conn: aiosqlite.Connection, ddl: str, *, there: bool
) -> None:
    await conn.executescript(ddl)
    table = await describe(conn)
    assert any(c.hidden for c in table.columns.values()) is there
    assert [name for name in table.visible if name == "k"] == ["k"]


# --- Relations -------------------------------------------------------------------------

PLAIN: Final = {
    "supports_on_conflict_update": True,
    "supports_returning": True,
    "written_by_triggers": False,
    "updates_may_be_refused": False,
    "all_indexes_known": True,
    "exact_because": None,
}
TABLE: Final = "CREATE TABLE t (k PRIMARY KEY, n); CREATE TABLE log (k);"
RELATIONS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "table": (TABLE, {}),
    "view": (
        "CREATE TABLE b (k); CREATE VIEW t AS SELECT * FROM b",
        {
            "supports_on_conflict_update": False,
            "supports_returning": False,
            "written_by_triggers": True,
            "all_indexes_known": False,
        },
    ),
    "virtual table": (
        "CREATE VIRTUAL TABLE t USING fts5 (k)",
        {
            "supports_on_conflict_update": False,
            "supports_returning": False,
            "all_indexes_known": False,
        },
    ),
    "trigger on update": (
        TABLE + "CREATE TRIGGER g BEFORE UPDATE OF n ON t BEGIN SELECT 1; END",
        {"updates_may_be_refused": True},
    ),
    "trigger that does not say when": (
        TABLE + "CREATE TRIGGER g UPDATE ON t BEGIN SELECT 1; END",
        {"updates_may_be_refused": True},
    ),
    "trigger on insert": (
        TABLE + "CREATE TRIGGER g BEFORE INSERT ON t BEGIN SELECT 1; END",
        {},
    ),
    "trigger of another table": (
        TABLE + "CREATE TRIGGER g BEFORE UPDATE ON log BEGIN SELECT 1; END",
        {},
    ),
}


@pytest.mark.parametrize(("ddl", "flags"), RELATIONS.values(), ids=RELATIONS)
async def test_a_relation_is_described_by_what_it_can_do(
    conn: aiosqlite.Connection, ddl: str, flags: dict[str, Any]
) -> None:
    await conn.executescript(ddl)
    table = await describe(conn)
    assert {name: getattr(table, name) for name in PLAIN} == PLAIN | flags


async def test_hidden_columns_of_a_virtual_table_are_not_described(
    conn: aiosqlite.Connection,
) -> None:
    await conn.execute("CREATE VIRTUAL TABLE t USING fts5 (k)")
    assert (await describe(conn)).visible == ("k",)


# --- Names and databases ---------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["select", "Upper", 'a"b', "ünï ☃", "a'b", "?1", ";--", " ", "[x]", "`"]
)
async def test_a_table_is_found_by_its_very_name(
    conn: aiosqlite.Connection, name: str
) -> None:
    quoted = name.replace('"', '""')
    await conn.executescript(
        f"""ATTACH ':memory:' AS "{quoted}";"""
        f'CREATE TABLE "{quoted}"."{quoted}" ("{quoted}" PRIMARY KEY, id);'
        f'CREATE UNIQUE INDEX "{quoted}"."i{quoted}" ON "{quoted}" (id)'
    )
    table = await describe(conn, (name, name))
    assert table.visible == (name, "id")
    assert table.is_unique({name: False})
    assert table.is_unique({"id": False})


async def test_temporary_hides_main_and_main_hides_attached(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(
        "ATTACH ':memory:' AS aux; CREATE TABLE aux.t (c); CREATE TABLE aux.u (c);"
        " CREATE TABLE main.t (b); CREATE TABLE main.u (b); CREATE TEMP TABLE t (a)"
    )
    names = ("t", "u", "main.t", "aux.t", "temp.t", "AUX.t")
    found = [(await describe(conn, name)).visible for name in names]
    assert found == [("a",), ("b",), ("b",), ("c",), ("a",), ("c",)]


async def test_an_index_of_another_database_does_not_count(
    conn: aiosqlite.Connection,
) -> None:
    await conn.executescript(
        "ATTACH ':memory:' AS aux; CREATE TABLE aux.t (k); CREATE TABLE t (k);"
        " CREATE UNIQUE INDEX aux.i ON t (k)"
    )
    unique = [(await describe(conn, n)).is_unique(K) for n in ("t", "aux.t", "main.t")]
    assert unique == [False, True, False]


@pytest.mark.parametrize("name", ["u", "aux.t", ("main.t",), "temp.t", ("main", "")])
async def test_no_other_table_is_taken_for_it(
    conn: aiosqlite.Connection, name: Any
) -> None:
    await conn.execute("CREATE TABLE t (k)")
    with pytest.raises(ValueError, match="table"):
        await describe(conn, name)


@pytest.mark.parametrize("name", ["page_view", "main.page_view", "nowhere.page_view"])
async def test_the_closest_name_is_told(conn: aiosqlite.Connection, name: str) -> None:
    await conn.executescript("CREATE TABLE page_views (k); CREATE TABLE other (k)")
    with pytest.raises(UnknownTableError, match="did you mean 'page_views'"):
        await describe(conn, name)


# --- The caller's connection -----------------------------------------------------------


async def test_settings_of_the_connection_take_no_part(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await lite.run(
        "CREATE TABLE t (k TEXT PRIMARY KEY, n NUMERIC DEFAULT 'x');"
        " CREATE UNIQUE INDEX i ON t (n) WHERE k IS NULL"
    )
    plain = await describe(conn)
    conn.text_factory = bytes
    conn.row_factory = sqlite3.Row
    await conn.execute("PRAGMA short_column_names = OFF")
    assert await describe(conn) == plain
    assert conn.text_factory is bytes


async def test_a_table_is_read_once_and_again_after_the_ttl(
    conn: aiosqlite.Connection,
) -> None:
    await conn.execute("CREATE TABLE t (k PRIMARY KEY)")
    queries: list[str] = []
    counts = []
    await conn.set_trace_callback(queries.append)
    for age in (0, 0, 50, 61, 0):
        if queries:
            state_of(conn).tables["t",].read_at -= age
        await create_or_update(conn, "t", key={"k": 1})
        counts.append(sum("pragma_table_xinfo" in query for query in queries))
    await conn.set_trace_callback(lambda _: None)
    assert counts == [2, 2, 2, 4, 4]
