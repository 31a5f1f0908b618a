"""Many rows in every kind of table: right whichever way they are written."""

from typing import Any, Final, NamedTuple

import asyncpg
import pytest

from aioupsert import (
    BulkResult,
    Excluded,
    F,
    create_or_update_many,
    iter_create_or_update,
)
from aioupsert._drivers import session_on
from aioupsert._execution.table_cache import read_table
from aioupsert._plan import make_plan, read_bulk_request
from aioupsert._plan.request import PLAIN
from tests.support.databases import (
    CONNECTIONS,
    Database,
    PostgresDatabase,
    SQLiteDatabase,
)
from tests.support.servers import Server
from tests.support.tables import trigger, without_temporary_tables
from tests.support.versions import major

NATIVE: Final = "INSERT ... ON CONFLICT DO UPDATE"
ADD: Final = {"n": F("n") + Excluded("n")}
engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)


class Case(NamedTuple):
    """
    A table t of k and n, and how many rows are written to it.

    Attributes:
        sql: Makes it.
        how: The way, or why it is another.
        column: A column that the rows bring beside k and n, with a value.
    """

    sql: str
    how: str
    column: tuple[str, Any] | None = None


BASE: Final = "CREATE TABLE base (k integer PRIMARY KEY, n integer);"
PARTS: Final = (
    "CREATE TABLE t (k integer PRIMARY KEY, n integer) PARTITION BY HASH (k);"
    "CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
    "CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)"
)
CASES: Final = {
    "plain": Case("CREATE TABLE t (k integer PRIMARY KEY, n integer)", NATIVE),
    "serial": Case(
        "CREATE TABLE t (id serial, k integer PRIMARY KEY, n integer)",
        "update first: updates would consume sequence values",
    ),
    "identity": Case(
        "CREATE TABLE t (id integer GENERATED ALWAYS AS IDENTITY,"
        " k integer PRIMARY KEY, n integer)",
        "update first: updates would consume sequence values",
    ),
    "no unique index": Case(
        "CREATE TABLE t (k integer, n integer)",
        "update first: no unique index is on exactly the key",
    ),
    "partial index": Case(
        "CREATE TABLE t (k integer, n integer);"
        " CREATE UNIQUE INDEX ON t (k) WHERE n > -1",
        "update first: no unique index is on exactly the key",
    ),
    "two unique indexes": Case(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer, d integer UNIQUE)", NATIVE
    ),
    "partitions": Case(
        PARTS, "update first: it cannot return whether a row was created"
    ),
    "view": Case(
        BASE + "CREATE VIEW t AS SELECT * FROM base",
        "update first: it cannot return whether a row was created",
    ),
    "view with INSTEAD OF": Case(
        BASE
        + "CREATE VIEW t AS SELECT * FROM base;"
        + trigger(
            "INSTEAD OF INSERT",
            "INSERT INTO base VALUES (new.k, new.n); RETURN new;",
        ),
        "one by one: it is a view with INSTEAD OF triggers",
    ),
    "insert trigger": Case(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer);"
        + trigger("BEFORE INSERT", "RETURN new;"),
        "update, then insert: it has a BEFORE INSERT trigger",
    ),
    "update trigger": Case(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer);"
        + trigger("BEFORE UPDATE", "RETURN new;"),
        NATIVE,
    ),
    "deferrable": Case(
        "CREATE TABLE t (k integer UNIQUE DEFERRABLE, n integer)",
        "update, then insert: it has a deferrable unique constraint",
    ),
    "exclusion": Case(
        "CREATE TABLE t (k integer, n integer, EXCLUDE USING btree (k WITH =))",
        "update, then insert: it has an exclusion constraint",
    ),
    "array": Case(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer, a integer[])",
        NATIVE,
        ("a", [1, None, 3]),
    ),
    "array of two dimensions": Case(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer, a text[])",
        NATIVE,
        ("a", [["x", "y"], ["z", "'"]]),
    ),
    "composite": Case(
        "CREATE TYPE pair AS (x integer, y text);"
        "CREATE TABLE t (k integer PRIMARY KEY, n integer, a pair)",
        NATIVE,
        ("a", (1, "(,\"')")),
    ),
    "json": Case(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer, a jsonb)",
        NATIVE,
        ("a", {"x": [1, {"y": None}]}),
    ),
    "enum": Case(
        "CREATE TYPE mood AS ENUM ('ok', 'so so');"
        "CREATE TABLE t (k integer PRIMARY KEY, n integer, a mood)",
        NATIVE,
        ("a", "so so"),
    ),
    "domain": Case(
        "CREATE DOMAIN positive AS integer CHECK (VALUE > 0);"
        "CREATE TABLE t (k integer PRIMARY KEY, n integer, a positive)",
        NATIVE,
        ("a", 7),
    ),
}
ONE_BY_ONE: Final = 10


async def how_of(conn: Any, names: list[str], *, distinct: bool = True) -> str:
    """Tell how rows with these columns, the key first, are written."""
    async with session_on(conn) as session:
        known = await read_table(session, ("t",))
        request = read_bulk_request(key=names[0], without_unique_index="allow")
        nodes = [PLAIN] * len(names)
        shape, _ = request.request(tuple(names), nodes, frozenset())
        plan = make_plan(shape, known.table)
        return session.engine.compile_batch(plan, distinct=distinct).how


@pytest.mark.parametrize("number", [3, 40, 5_100])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_rows_are_created_and_updated(
    pg: PostgresDatabase, case: Case, number: int
) -> None:
    conn: Any = pg.handle
    await conn.execute(case.sql)
    name, value = case.column or ("n", 0)
    how = await how_of(conn, ["k", "n", *({name} - {"n"})])
    # From 18 on the row before tells the flags of partitioned tables too.
    told = case.sql == PARTS and major(conn) >= 18
    assert how == (NATIVE if told else case.how)
    if how.startswith("one by one"):
        number = min(number, ONE_BY_ONE)
    half = number // 2
    load: dict[str, Any] = {"key": "k", "without_unique_index": "allow"}

    def rows(n: int) -> list[dict[str, Any]]:
        return [{"k": k, name: value} | {"n": n} for k in range(number)]

    result = await create_or_update_many(conn, "t", rows(1)[:half], **load)
    assert result == BulkResult(created=half)
    result = await create_or_update_many(conn, "t", rows(2), **load)
    assert result == BulkResult(created=number - half, updated=half)
    result = await create_or_update_many(conn, "t", rows(5), update=ADD, **load)
    assert result == BulkResult(updated=number)
    unchanged = await create_or_update_many(
        conn,
        "t",
        [{"k": k, "n": 7} for k in range(number)],
        skip_unchanged=True,
        **load,
    )
    assert unchanged == BulkResult(unchanged=number)
    stored = await conn.fetch(f"SELECT k, n, {name} FROM t ORDER BY k")
    assert [row["k"] for row in stored] == [*range(number)]
    assert {row["n"] for row in stored} == {7}
    if case.column is not None:
        expected = await conn.fetchval(f"SELECT {name} FROM t WHERE k = 0")
        assert {str(row[name]) for row in stored} == {str(expected)}
        if not isinstance(value, dict):
            assert expected == value


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_the_result_of_each_row_is_its_own(
    pg: PostgresDatabase, case: Case
) -> None:
    conn: Any = pg.handle
    await conn.execute(case.sql)
    await conn.execute("INSERT INTO t (k, n) VALUES (2, 20), (4, 40)")
    rows = [{"k": k, "n": k} for k in (5, 2, 1, 4, 2)]
    results = [
        result
        async for result in iter_create_or_update(
            conn,
            "t",
            rows,
            key="k",
            update=ADD,
            returning=["k", "n"],
            without_unique_index="allow",
        )
    ]
    assert [result.created for result in results] == [True, False, True, False, False]
    assert [tuple((r.row or {}).values()) for r in results] == [
        *((5, 5), (2, 22), (1, 1), (4, 44), (2, 24))
    ]


@engines
@pytest.mark.parametrize("number", [1, 2, 3, 50, 5_200])
@pytest.mark.parametrize("options", [{}, {"skip_unchanged": True}, {"update": ADD}])
async def test_a_reload_uses_up_no_number_of_a_sequence(
    db: Database, options: dict[str, Any], number: int
) -> None:
    serial = "id serial"
    if isinstance(db, SQLiteDatabase):
        serial = "id INTEGER PRIMARY KEY AUTOINCREMENT"
    await db.run(f"CREATE TABLE t ({serial}, k text UNIQUE, n integer)")
    for n in range(3):
        rows = [{"k": str(k), "n": n} for k in range(number)]
        await create_or_update_many(db.handle, "t", rows, key="k", **options)
    await create_or_update_many(db.handle, "t", [{"k": "new", "n": 0}], key="k")
    # Every number but those of the rows that are there is left.
    assert await db.query("SELECT max(id) FROM t") == [(number + 1,)]


NUMBERED: Final = {
    "as the database compares": (
        "CREATE TABLE t (id serial, k numeric UNIQUE, a integer, b integer)"
    ),
    "serial": "CREATE TABLE t (id serial, k integer UNIQUE, a integer, b integer)",
    "identity": (
        "CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, k integer UNIQUE,"
        " a integer, b integer)"
    ),
    "row by row": (
        "CREATE TABLE t (id serial, k integer UNIQUE, a integer, b integer);"
        + trigger("BEFORE INSERT", "RETURN new;")
    ),
    "row by row, as the database compares": (
        "CREATE TABLE t (id serial, k numeric UNIQUE, a integer, b integer);"
        + trigger("BEFORE INSERT", "RETURN new;")
    ),
}


@pytest.mark.parametrize("copies", [False, True], ids=["sent", "copied"])
@pytest.mark.parametrize("columns", ["a", "ab"], ids=["one layout", "two layouts"])
@pytest.mark.parametrize("table", NUMBERED)
async def test_new_rows_are_numbered_in_their_order(
    pg: PostgresDatabase,
    table: str,
    columns: str,
    request: pytest.FixtureRequest,
    *,
    copies: bool,
) -> None:
    if copies:
        request.getfixturevalue("small_copies")
    await pg.run(NUMBERED[table])
    await pg.run("INSERT INTO t (k, a) VALUES (7, 0), (3, 0)")
    keys = [9, 3, 8, 1, 9, 12, 7, 2, 11, 4, 12, 5, 0]
    rows = [{"k": k, columns[n % len(columns)]: n} for n, k in enumerate(keys)]
    result = await create_or_update_many(pg.handle, "t", rows, key="k")
    assert result == BulkResult(created=9, updated=4)
    again = await create_or_update_many(
        pg.handle, "t", rows[-5:], key="k", skip_unchanged=True
    )
    assert again == BulkResult(unchanged=5)
    await create_or_update_many(pg.handle, "t", rows, key="k")
    await create_or_update_many(pg.handle, "t", [{"k": 13, "a": 1}], key="k")
    # And none is left out.
    assert await pg.query("SELECT id, k FROM t ORDER BY id") == [
        *enumerate([7, 3, 9, 8, 1, 12, 2, 11, 4, 5, 0, 13], start=1)
    ]


@pytest.mark.parametrize(("width", "copied"), [(3, False), (100, True)])
async def test_rows_are_copied_where_they_have_many_cells(
    pg: PostgresDatabase,
    caplog: pytest.LogCaptureFixture,
    width: int,
    *,
    copied: bool,
) -> None:
    names = [f"c{n}" for n in range(width)]
    columns = ", ".join(f"{name} integer" for name in names)
    await pg.run(f"CREATE TABLE t (k integer PRIMARY KEY, {columns})")
    rows = [{"k": k, **dict.fromkeys(names, k)} for k in range(250)]
    with caplog.at_level("DEBUG", "aioupsert"):
        result = await create_or_update_many(pg.handle, "t", rows, key="k")
    assert result == BulkResult(created=250)
    table = [text for text in caplog.messages if text.startswith("CREATE TEMPORARY")]
    assert bool(table) is copied
    assert await pg.query(f"SELECT sum(c{width - 1}) FROM t") == [(sum(range(250)),)]


async def test_so_they_are_where_the_numbers_are_no_integers(
    pg: PostgresDatabase,
) -> None:
    await pg.run(
        "CREATE SEQUENCE numbers; CREATE TABLE t"
        " (id numeric DEFAULT nextval('numbers'), k integer UNIQUE, n integer)"
    )
    for keys in ([3, 1], [2, 3, 0, 1], [5, 0, 4]):
        rows = [{"k": k, "n": k} for k in keys]
        await create_or_update_many(pg.handle, "t", rows, key="k")
    stored = await pg.query("SELECT id, k FROM t ORDER BY id")
    assert stored == [*enumerate([3, 1, 2, 0, 5, 4], start=1)]


@engines
@pytest.mark.parametrize("number", [1, 3, 50, 5_200])
async def test_an_update_needs_no_column_that_only_an_insert_needs(
    db: Database, number: int
) -> None:
    await db.run(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer, must text NOT NULL)"
    )
    rows = [{"k": k, "n": 0, "must": "be"} for k in range(number)]
    await create_or_update_many(db.handle, "t", rows, key="k")
    result = await create_or_update_many(
        db.handle, "t", [{"k": k, "n": 1} for k in range(number)], key="k"
    )
    assert result == BulkResult(updated=number)
    found = await db.query("SELECT n, must, count(*) FROM t GROUP BY n, must")
    assert found == [(1, "be", number)]


@engines
async def test_rows_may_rename_their_key(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await db.run("INSERT INTO t VALUES (1, 10), (2, 20)")
    result = await create_or_update_many(
        db.handle,
        "t",
        [{"k": 1, "n": 11}, {"k": 2, "n": 21}],
        key="k",
        update={"k": F("k") + 100, "n": Excluded("n")},
    )
    assert result == BulkResult(updated=2)
    assert await db.query("SELECT k, n FROM t ORDER BY k") == [(101, 11), (102, 21)]


async def test_a_foreign_table_takes_rows_one_by_one(pg: PostgresDatabase) -> None:
    conn: Any = pg.handle
    available = (
        "SELECT count(*) FROM pg_available_extensions WHERE name = 'postgres_fdw'"
    )
    if not await conn.fetchval(available):
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="not available"):
            await conn.execute("CREATE EXTENSION postgres_fdw")
        return
    await conn.execute("CREATE EXTENSION IF NOT EXISTS postgres_fdw")
    port = await conn.fetchval("SHOW port")
    database = await conn.fetchval("SELECT current_database()")
    name = f"loopback_{pg.schema}"
    try:
        await conn.execute(
            f"CREATE SERVER {name} FOREIGN DATA WRAPPER postgres_fdw OPTIONS"
            f" (host '127.0.0.1', port '{port}', dbname '{database}');"
            f" CREATE USER MAPPING FOR CURRENT_USER SERVER {name};"
            " CREATE TABLE there (k integer PRIMARY KEY, n integer);"
            " CREATE FOREIGN TABLE t (k integer, n integer) SERVER"
            f" {name} OPTIONS (schema_name '{pg.schema}', table_name 'there')"
        )
        assert await how_of(conn, ["k", "n"]) == "one by one: it is a foreign table"
        for n, expected in ((1, BulkResult(created=8)), (2, BulkResult(updated=8))):
            rows = [{"k": k, "n": n} for k in range(8)]
            assert await create_or_update_many(conn, "t", rows, key="k") == expected
        assert {*await pg.query("SELECT n FROM there")} == {(2,)}
    finally:
        await conn.execute(f"DROP SERVER IF EXISTS {name} CASCADE")


async def test_who_may_not_make_temporary_tables_sends_arrays(
    pg: PostgresDatabase, pg_server: Server
) -> None:
    table = "CREATE TABLE t (k integer PRIMARY KEY, n integer)"
    async with without_temporary_tables(pg, pg_server, table) as conn:
        rows = [{"k": k, "n": 1} for k in range(6_000)]
        for expected in (BulkResult(created=6_000), BulkResult(updated=6_000)):
            assert await create_or_update_many(conn, "t", rows, key="k") == expected


@engines
async def test_no_statement_has_too_many_parameters(db: Database) -> None:
    columns = [f"c{n}" for n in range(200)]
    await db.run(
        f"CREATE TABLE t (k integer PRIMARY KEY, {', '.join(c + ' integer' for c in columns)})"
    )
    rows = [{"k": k} | dict.fromkeys(columns, k) for k in range(500)]
    for expected in (BulkResult(created=500), BulkResult(updated=500)):
        assert await create_or_update_many(db.handle, "t", rows, key="k") == expected
