"""Names of tables and columns: any the database can have, and none that injects."""

from collections.abc import AsyncIterator
from typing import Any, Final, get_args

import hypothesis
import pytest
from hypothesis import strategies as st

from aioupsert import (
    SQL,
    Action,
    F,
    Result,
    UnknownColumnError,
    UnknownTableError,
    UsageError,
    create_or_update,
    get_or_create,
    preview,
)
from aioupsert._engines.sql import quote
from aioupsert.typing import Strategy
from tests.conformance.hostile import hostile_texts
from tests.support.databases import Database, PostgresDatabase, SQLiteDatabase, execute

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

one_of_each_engine = pytest.mark.parametrize(
    "db", ["asyncpg", "aiosqlite"], indirect=True
)

# --- how a table is named ---


@pytest.fixture
async def elsewhere(db: Database) -> AsyncIterator[str]:
    """A schema beside the usual one; both have a table "pages"."""
    pages = "pages (path TEXT PRIMARY KEY)"
    await db.run(f"CREATE TABLE {pages}")
    if isinstance(db, PostgresDatabase):
        name = f"{db.schema}.else where"
        await db.run(f'CREATE SCHEMA "{name}"; CREATE TABLE "{name}".{pages}')
        yield name
        await db.run(f'DROP SCHEMA "{name}" CASCADE')
    else:
        await execute(db.handle, """ATTACH ':memory:' AS "else.where\"""")
        await execute(db.handle, f'CREATE TABLE "else.where".{pages}')
        yield "else.where"


def usual(db: Database) -> str:
    return db.schema if isinstance(db, PostgresDatabase) else "main"


@pytest.mark.parametrize(
    "write_name",
    [
        lambda _: "pages",
        lambda _: ("pages",),
        lambda _: ["pages"],
        lambda db: f"{usual(db)}.pages",
        lambda db: (usual(db), "pages"),
    ],
    ids=["name", "one-tuple", "list", "qualified", "tuple"],
)
@pytest.mark.usefixtures("elsewhere")
async def test_a_table_is_a_name_or_a_schema_and_a_name(
    db: Database, write_name: Any
) -> None:
    await create_or_update(db.handle, write_name(db), key={"path": "/"})
    assert await db.query("SELECT path FROM pages") == [("/",)]


async def test_a_schema_keeps_tables_of_one_name_apart(
    db: Database, elsewhere: str
) -> None:
    for created in (True, False):
        result = await get_or_create(db.handle, (elsewhere, "pages"), key={"path": "/"})
        assert tuple(result) == ({"path": "/"}, created)
    assert await db.query("SELECT path FROM pages") == []


async def test_a_name_with_dots_is_written_as_a_tuple(db: Database) -> None:
    await db.run('CREATE TABLE "my.own.pages" (path TEXT PRIMARY KEY)')
    await create_or_update(db.handle, ("my.own.pages",), key={"path": "/"})
    await create_or_update(
        db.handle, (usual(db), "my.own.pages"), key={"path": "/other"}
    )
    rows = await db.query('SELECT path FROM "my.own.pages" ORDER BY path')
    assert rows == [("/",), ("/other",)]


@pytest.mark.parametrize(
    "table",
    ["", ".", "a.", ".a", "a.b.c", "a\0b", (), ("",), ("a", ""), ("a", "b", "c")],
    ids=repr,
)
async def test_what_is_no_name_is_refused(db: Database, table: Any) -> None:
    with pytest.raises(UsageError, match=r"is not a table name|a table is a name"):
        await create_or_update(db.handle, table, key={"k": 1})


@pytest.mark.parametrize("table", [None, 1, b"t", ("a", 1), {"t": 1}], ids=repr)
async def test_what_is_no_text_is_refused(db: Database, table: Any) -> None:
    with pytest.raises(UsageError, match=r"a table is a name or a tuple \(schema, ta"):
        await create_or_update(db.handle, table, key={"k": 1})


# --- what names may contain ---

ODD_NAMES: Final = (
    *('a"b', '"', '""', '"; DROP TABLE canary; --', "'", "''", "a'b", "`", "[a]"),
    *("two words", " a ", "a.b", "a,b", "a;b", "(a)", "a\nb", "a\tb", "\\", "a\\", "*"),
    *("$1", "?", "?1", ":a", "@a", "%s", "%(a)s", "%", "{}", "{0}", "--", "/*", "$$"),
    *("Capital", "CAPITALS", "über", "名前", "😀", "e\u0301", "\u200b", "1", "1a", "_"),
    *("select", "from", "table", "user", "order", "group", "values", "default", "null"),
    *(
        "rowid",
        "oid",
        "true",
        "false",
        "current_timestamp",
        "returning",
        "do",
        "nothing",
    ),
)
# What the statements of this library, or its own arguments, are called.
OUR_NAMES: Final = (
    *("created", "updated", "unchanged", "skipped", "inserted", "found", "lock", "t"),
    *("excluded", "passes", "changes", "c1", "c2", "_updated", "_xmax", "xmax_"),
    *("key", "defaults", "create_defaults", "where", "touch", "action", "row", "rows"),
    *("conn", "strategy", "timeout", "aioupsert", "aioupsert_1", "value", "type"),
)


@pytest.mark.parametrize("name", [*ODD_NAMES, *OUR_NAMES], ids=ascii)
@one_of_each_engine
async def test_tables_and_columns_may_have_any_name(db: Database, name: str) -> None:
    other = f"{name}2"
    await db.run(
        f"CREATE TABLE {quote(name)} ({quote(name)} TEXT PRIMARY KEY,"
        f" {quote(other)} INTEGER DEFAULT 10)"
    )
    for strategy in STRATEGIES:
        # A number in front: what takes the column for a truth value finds it true.
        key = {name: f"1 {strategy}"}
        results = [
            await create_or_update(
                db.handle,
                (name,),
                key=key,
                defaults={other: F(other) + step},
                where=F(other) < 12,
                skip_unchanged=True,
                returning="*",
                strategy=strategy,
            )
            for step in (1, 0, 1, 1)
        ]
        assert [(result.action, result.row) for result in results] == [
            (Action.CREATED, {**key, other: 11}),
            (Action.UNCHANGED, {**key, other: 11}),
            (Action.UPDATED, {**key, other: 12}),
            (Action.SKIPPED, {**key, other: 12}),
        ]
        found = await get_or_create(db.handle, (name,), key=key, strategy=strategy)
        assert found == Result(Action.UNCHANGED, 0, ({**key, other: 12},))


@pytest.mark.parametrize("table", [*OUR_NAMES, "other"])
@one_of_each_engine
async def test_all_our_own_names_may_be_columns_at_once(
    db: Database, table: str
) -> None:
    columns = ", ".join(f"{quote(name)} INTEGER DEFAULT 0" for name in OUR_NAMES)
    await db.run(f"CREATE TABLE {quote(table)} ({columns}, PRIMARY KEY (key, t))")
    for n in (1, 2):
        result = await create_or_update(
            db.handle,
            table,
            key={"key": 5, "t": 6},
            defaults={"created": F("created") + 1, "found": F("inserted") + F("c1")},
            touch={"excluded": 7},
            where=F("passes") == 0,
            returning="*",
        )
        assert result.created is (n == 1)
        expected = {"key": 5, "t": 6, "created": n, "excluded": 7}
        assert result.row == dict.fromkeys(OUR_NAMES, 0) | expected


@pytest.mark.parametrize("called", ["itself", "another"])
@pytest.mark.parametrize("name", ["updated", "inserted", "found", "lock"])
@one_of_each_engine
async def test_raw_sql_means_the_table_of_that_name(
    db: Database, name: str, called: str
) -> None:
    table = name if called == "itself" else "other"
    columns = "k INTEGER PRIMARY KEY, n INTEGER"
    for each in {name, table}:
        await db.run(f"CREATE TABLE {quote(each)} ({columns})")
    await db.run(f"INSERT INTO {quote(name)} VALUES (5, 50)")
    for created in (True, False):
        result = await create_or_update(
            db.handle,
            table,
            key={"k": 1},
            defaults={"n": SQL(f"(SELECT max(k) * 10 FROM {quote(name)})")},
            where=SQL(f"EXISTS (SELECT n FROM {quote(name)})"),
            returning="n",
        )
        assert tuple(result) == ({"n": 50}, created)


async def test_capitals_are_told_apart(pg: PostgresDatabase) -> None:
    await pg.run('CREATE TABLE "T" ("A" TEXT PRIMARY KEY, a TEXT)')
    await pg.run("CREATE TABLE t (a TEXT PRIMARY KEY)")
    result = await create_or_update(
        pg.handle, "T", key={"A": "x"}, defaults={"a": "y"}, returning="*"
    )
    assert result.row == {"A": "x", "a": "y"}
    assert await pg.query("SELECT * FROM t") == []


# PostgreSQL has 63 bytes for a name, SQLite any number.
@pytest.mark.parametrize("name", ["n" * 63, "ü" * 31], ids=["ascii", "unicode"])
async def test_a_name_may_be_as_long_as_the_database_allows(
    db: Database, name: str
) -> None:
    await db.run(f"CREATE TABLE {name} ({name} INTEGER PRIMARY KEY)")
    for created in (True, False):
        result = await create_or_update(db.handle, name, key={name: 1}, returning=name)
        assert tuple(result) == ({name: 1}, created)


async def test_a_table_name_is_cut_where_postgresql_cuts_it(
    pg: PostgresDatabase,
) -> None:
    name = "n" * 70
    await pg.run("SET client_min_messages = error")
    await pg.run(f"CREATE TABLE {name} (k INTEGER PRIMARY KEY, n INTEGER DEFAULT 0)")
    for n in (1, 2):
        result = await create_or_update(
            pg.handle, name, key={"k": 1}, defaults={"n": F("n") + 1}, returning="n"
        )
        assert result.row == {"n": n}


async def test_a_column_name_that_is_too_long_is_unknown(pg: PostgresDatabase) -> None:
    await pg.run(f"CREATE TABLE t (k INTEGER PRIMARY KEY, {'n' * 63} INTEGER)")
    with pytest.raises(UnknownColumnError, match="did you mean 'nnn"):
        await create_or_update(pg.handle, "t", key={"k": 1}, defaults={"n" * 64: 1})


async def test_sqlite_has_no_limit_for_names(lite: SQLiteDatabase) -> None:
    name = "n" * 1000
    await lite.run(f"CREATE TABLE {name} ({name} INTEGER PRIMARY KEY)")
    result = await create_or_update(lite.handle, name, key={name: 1}, returning=name)
    assert tuple(result) == ({name: 1}, True)


# --- injection ---

NAME_LIMIT: Final = 63


async def labels(conn: Any, sql: str) -> list[str]:
    """What the driver says the columns of a query are called."""
    if hasattr(conn, "fetchrow"):
        return list((await conn.fetchrow(sql)).keys())
    async with conn.execute(sql) as cursor:
        return [column[0] for column in cursor.description]


@one_of_each_engine
async def test_ten_thousand_quoted_names_come_back_as_they_were(db: Database) -> None:
    names = hostile_texts(10_000, shorter_than=NAME_LIMIT)
    for start in range(0, len(names), 500):
        batch = names[start : start + 500]
        sql = "SELECT " + ", ".join(f"1 AS {quote(name)}" for name in batch)
        assert await labels(db.handle, sql) == batch


async def tables(db: Database) -> list[tuple[Any, ...]]:
    return await db.query(
        db.sql(
            postgresql="SELECT relname, relnamespace FROM pg_class WHERE relkind = 'r'"
            " ORDER BY oid",
            sqlite="SELECT name, sql FROM sqlite_master ORDER BY name",
        )
    )


@one_of_each_engine
async def test_hostile_names_are_only_names(db: Database) -> None:
    await db.run("CREATE TABLE canary (k INTEGER PRIMARY KEY)")
    before = await tables(db)
    for name in hostile_texts(100, shorter_than=NAME_LIMIT):
        key, value = name, f"_{name}"
        await db.run(
            f"CREATE TABLE {quote(name)} ({quote(key)} INTEGER PRIMARY KEY,"
            f" {quote(value)} TEXT)"
        )
        for created in (True, False):
            result = await create_or_update(
                db.handle, (name,), key={key: 1}, defaults={value: name}, returning="*"
            )
            assert tuple(result) == ({key: 1, value: name}, created)
        await db.run(f"DROP TABLE {quote(name)}")
    assert await tables(db) == before


@hypothesis.settings(
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    table=st.text(max_size=20) | st.tuples(st.text(max_size=9), st.text(max_size=9)),
    column=st.text(max_size=20).filter(lambda name: name != "k"),
)
@one_of_each_engine
async def test_names_that_are_not_there_are_refused(
    db: Database, table: Any, column: str
) -> None:
    await db.run("CREATE TABLE IF NOT EXISTS canary (k INTEGER PRIMARY KEY)")
    before = await tables(db)
    for name, values in ((table, {}), ("canary", {column: 1})):
        with pytest.raises(UsageError):
            await create_or_update(db.handle, name, key={"k": 1}, defaults=values)
    assert await tables(db) == before
    assert await db.query("SELECT * FROM canary") == []


@pytest.mark.parametrize("name", ["a\0b", "\0"], ids=ascii)
async def test_nul_is_in_no_name(db: Database, name: str) -> None:
    await db.run("CREATE TABLE t (a TEXT PRIMARY KEY)")
    with pytest.raises(UsageError, match="is not a table name"):
        await preview(db.handle, name, key={"a": 1})
    with pytest.raises(UnknownColumnError):
        await preview(db.handle, "t", key={name: 1})
    with pytest.raises(UnknownTableError):
        await preview(db.handle, "a", key={"a": 1})
