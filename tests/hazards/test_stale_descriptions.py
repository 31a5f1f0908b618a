"""Types and defaults change under a live connection: what is written fits those of now."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

import asyncpg
import psycopg
import pytest

from aioupsert import (
    Coalescer,
    Excluded,
    F,
    create_or_update,
    create_or_update_many,
    get_or_create,
    get_or_create_many,
    iter_create_or_update,
)
from tests.support.databases import Database, PostgresDatabase, SQLiteDatabase

Rows = list[dict[str, Any]]


async def by_single_calls(conn: Any, rows: Rows) -> None:
    for row in rows:
        await create_or_update(conn, "t", key={"k": row["k"]}, defaults={"v": row["v"]})


async def by_compared_calls(conn: Any, rows: Rows) -> None:
    for row in rows:
        await create_or_update(
            conn,
            "t",
            key={"k": row["k"]},
            defaults={"v": row["v"]},
            skip_unchanged=True,
        )


async def by_native_calls(conn: Any, rows: Rows) -> None:
    for row in rows:
        await create_or_update(
            conn,
            "t",
            key={"k": row["k"]},
            defaults={"v": row["v"]},
            strategy="on_conflict",
        )


async def by_lookups(conn: Any, rows: Rows) -> None:
    for row in rows:
        await get_or_create(conn, "t", key={"k": row["k"]}, defaults={"v": row["v"]})


async def in_bulk(conn: Any, rows: Rows) -> None:
    await create_or_update_many(conn, "t", rows, key="k")


async def in_compared_bulk(conn: Any, rows: Rows) -> None:
    await create_or_update_many(conn, "t", rows, key="k", skip_unchanged=True)


async def iterated(conn: Any, rows: Rows) -> None:
    async for _ in iter_create_or_update(conn, "t", rows, key="k", returning="v"):
        pass


async def coalesced(conn: Any, rows: Rows) -> None:
    async with Coalescer(conn, "t", key="k") as coalescer:
        await asyncio.gather(
            *(
                coalescer.create_or_update(
                    key={"k": row["k"]}, defaults={"v": row["v"]}
                )
                for row in rows
            )
        )


class Widening(NamedTuple):
    """
    A change of a column's type.

    Attributes:
        column: The column.
        before: The type that it has first.
        after: The type that it gets.
        first: A value of the first type.
        second: A value that only the second type holds.
    """

    column: str
    before: str
    after: str
    first: Any
    second: Any


MOMENT: Final = dt.datetime(2024, 1, 2, 15, 30)  # noqa: DTZ001  # for a column without a zone
WIDENINGS: Final = {
    "integer to numeric": Widening("v", "integer", "numeric(10,2)", 1, Decimal("2.75")),
    "date to timestamp": Widening("v", "date", "timestamp", MOMENT.date(), MOMENT),
    "real to double": Widening("v", "real", "double precision", 0.5, 0.1),
    "precision of a value": Widening(
        "v", "numeric(6,1)", "numeric(8,3)", Decimal("1.2"), Decimal("1.234")
    ),
    "precision of a key": Widening(
        "k", "numeric(6,1)", "numeric(8,3)", Decimal("1.2"), Decimal("1.234")
    ),
    "precision of a time": Widening(
        "k", "timestamp(0)", "timestamp(3)", MOMENT, MOMENT.replace(microsecond=125000)
    ),
}
FORMS: Final[dict[str, Callable[[Any, Rows], Awaitable[None]]]] = {
    "single": by_single_calls,
    "compared": by_compared_calls,
    "native": by_native_calls,
    "bulk": in_bulk,
    "compared bulk": in_compared_bulk,
    "iterated": iterated,
    "coalesced": coalesced,
}
ROWS: Final = {
    "single": (1,),
    "compared": (1,),
    "native": (1,),
    "coalesced": (1, 2, 20),
}


def rows_of(case: Widening, number: int, value: Any) -> Rows:
    """Rows that differ in the other column, or in their key by whole numbers."""
    if case.column == "v":
        return [{"k": n, "v": value} for n in range(number)]
    step: Any = 1 if isinstance(value, Decimal) else dt.timedelta(days=1)
    return [{"k": value + n * step, "v": 1} for n in range(number)]


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", WIDENINGS)
@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_no_value_is_cut_and_no_key_rounded(
    db: Database, name: str, form: str, *, inside: bool
) -> None:
    case, write = WIDENINGS[name], FORMS[form]
    types = {"k": "integer", "v": "integer", case.column: case.before}
    for number in ROWS.get(form, (1, 2, 3, 20)):
        await db.run(
            "DROP TABLE IF EXISTS t;"
            f"CREATE TABLE t (k {types['k']} PRIMARY KEY, v {types['v']})"
        )
        first = rows_of(case, number, case.first)
        second = rows_of(case, number, case.second)
        await write(db.handle, first)
        await db.run(f"ALTER TABLE t ALTER {case.column} TYPE {case.after}")
        if inside:
            async with db.transaction() as conn:
                await write(conn, second)
        else:
            await write(db.handle, second)
        stored = {(row["k"], row["v"]) for row in second}
        if case.column == "k" and case.first != case.second:
            stored |= {(row["k"], row["v"]) for row in first}
        assert {*await db.query("SELECT k, v FROM t")} == stored


NARROWINGS: Final = {
    "number": Widening(
        "k", "numeric", "numeric(6,1)", Decimal("1.2"), Decimal("1.234")
    ),
    "time": Widening(
        "k", "timestamp", "timestamp(0)", MOMENT, MOMENT.replace(microsecond=1)
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NARROWINGS)
async def test_a_key_that_gets_a_precision_finds_what_it_then_means(
    pg: PostgresDatabase, name: str, form: str
) -> None:
    case, write = NARROWINGS[name], FORMS[form]
    number = max(ROWS.get(form, (3,)))
    await pg.run(f"CREATE TABLE t (k {case.before} PRIMARY KEY, v integer)")
    await write(pg.handle, rows_of(case, number, case.first))
    await pg.run(f"ALTER TABLE t ALTER k TYPE {case.after}")
    rows = rows_of(case, number, case.second)
    await write(pg.handle, [{**row, "v": 2} for row in rows])
    expected = {(row["k"], 2) for row in rows_of(case, number, case.first)}
    assert {*await pg.query("SELECT k, v FROM t")} == expected


@pytest.mark.parametrize("rows", [3, 6_000])
@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_copied_rows_meet_the_table_as_it_is(db: Database, rows: int) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, v integer)")
    await in_bulk(db.handle, [{"k": k, "v": 1} for k in range(rows)])
    await db.run("ALTER TABLE t ALTER v TYPE numeric(10,2)")
    value = Decimal("2.75")
    await in_bulk(db.handle, [{"k": k, "v": value} for k in range(rows)])
    assert await db.query("SELECT v, count(*)::int FROM t GROUP BY v") == [
        (value, rows)
    ]
    # A type to which no value can be converted.
    await db.run("DROP TABLE t; CREATE TABLE t (k text PRIMARY KEY, v integer)")
    for _ in range(2):
        await in_bulk(db.handle, [{"k": f"k{k}", "v": 1} for k in range(rows)])
    assert await db.query("SELECT count(*)::int FROM t") == [(rows,)]


@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
@pytest.mark.parametrize("table", ["path", "interval", "a b.c", 'q"t', "date"])
async def test_a_table_may_be_named_like_a_type(db: Database, table: str) -> None:
    quoted = '"' + table.replace('"', '""') + '"'
    await db.run(f"CREATE TABLE {quoted} (k integer PRIMARY KEY, v integer)")
    for value in (1, 2):
        await create_or_update(db.handle, (table,), key={"k": 1}, defaults={"v": value})
    await db.run(f"ALTER TABLE {quoted} ALTER v TYPE numeric")
    result = await create_or_update(
        db.handle, (table,), key={"k": 1}, defaults={"v": Decimal("2.5")}, returning="v"
    )
    assert result.row == {"v": Decimal("2.5")}


COUNTED: Final = "CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0, s text)"
TABLES: Final = {
    "plain": COUNTED,
    "partitioned": f"{COUNTED} PARTITION BY RANGE (k);"
    " CREATE TABLE part PARTITION OF t FOR VALUES FROM (0) TO (1000)",
}
TRIGGER: Final = """
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS
  'BEGIN INSERT INTO log VALUES (tg_op || tg_level); RETURN new; END';
CREATE TRIGGER g {} ON t {} EXECUTE FUNCTION g()
"""
# Each is seen by a row that is proposed, or not seen by ON CONFLICT.
ADDED: Final = {
    "a trigger for rows": TRIGGER.format("BEFORE INSERT OR UPDATE", "FOR EACH ROW"),
    "a trigger for statements": TRIGGER.format("AFTER INSERT", ""),
    "a trigger beside a foreign key": (
        "CREATE TABLE other (k integer REFERENCES t); "
        + TRIGGER.format("BEFORE INSERT", "FOR EACH ROW")
    ),
    "a check": "ALTER TABLE t ADD CHECK (n >= 0)",
    "a child": "CREATE TABLE child () INHERITS (t);"
    " INSERT INTO child SELECT k + 100, 7 FROM t",
    "a column of a sequence": "ALTER TABLE t ADD id serial",
    "a column that is NOT NULL": (
        "ALTER TABLE t ADD must integer NOT NULL DEFAULT 3;"
        " ALTER TABLE t ALTER must DROP DEFAULT"
    ),
    "a computed column": (
        "ALTER TABLE t ADD c integer GENERATED ALWAYS AS (10 / (n + 1)) STORED"
    ),
    "policies": "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "a rule": "CREATE RULE r AS ON DELETE TO t DO ALSO INSERT INTO log VALUES ('r')",
}
# What sees a row that is proposed to a table with partitions.
SEEN: Final = ("a trigger for rows", "a trigger for statements", "a check")
# An error outside of the caller's transaction, and so worth another look.
REFUSING: Final = {
    "NOT NULL": "ALTER TABLE t ALTER s SET NOT NULL",
    "a unique index": "CREATE UNIQUE INDEX ON t (n, (k / 1000))",
}


async def count_singly(conn: Any, keys: Sequence[int]) -> None:
    for key in keys:
        await create_or_update(conn, "t", key={"k": key}, defaults={"n": F("n") + -1})


async def count_in_bulk(conn: Any, keys: Sequence[int]) -> None:
    rows = [{"k": key, "n": -1} for key in keys]
    add = {"n": F("n") + Excluded("n")}
    await create_or_update_many(conn, "t", rows, key="k", update=add)


@pytest.mark.parametrize(
    ("count", "number"), [(count_singly, 2), (count_in_bulk, 3), (count_in_bulk, 20)]
)
@pytest.mark.parametrize(
    ("table", "name", "inside"),
    [
        *(("plain", name, False) for name in (*ADDED, *REFUSING)),
        *(("plain", name, True) for name in ADDED),
        *(("partitioned", name, False) for name in SEEN),
    ],
)
async def test_what_has_been_added_meanwhile_is_known(
    pg: PostgresDatabase,
    table: str,
    name: str,
    number: int,
    count: Any,
    *,
    inside: bool,
) -> None:
    found: list[Any] = []
    for is_live in (True, False):
        await pg.run(
            "DROP TABLE IF EXISTS t, log, other CASCADE; DROP FUNCTION IF EXISTS g;"
            f" CREATE TABLE log (what text); {TABLES[table]};"
            " INSERT INTO t SELECT k, 50 + k, 'x' FROM generate_series(1, 30) k"
        )
        keys = range(1, number + 1)
        async with pg.connect() as conn:
            if is_live:
                await count(conn, keys)
            else:
                await pg.run(f"UPDATE t SET n = n - 1 WHERE k <= {number}")
            await pg.run({**ADDED, **REFUSING}[name])
            block = conn.transaction() if inside else contextlib.nullcontext()
            async with block:
                await count(conn, keys)
                if name == "a child":
                    await count(conn, [key + 100 for key in keys])
        rows = await pg.query("SELECT k, n FROM t ORDER BY k, n")
        # A trigger for statements fires for one that turns out to do nothing, too.
        log = await pg.query("SELECT what FROM log WHERE what NOT LIKE '%STATEMENT'")
        found.append((rows, sorted(log)))
    assert found[0] == found[1]
    assert found[0][0][0] == (1, 49)


async def test_a_lookup_finds_no_other_row(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k numeric(6,1) PRIMARY KEY, v integer)")
    await by_lookups(pg.handle, [{"k": Decimal("1.2"), "v": 1}])
    await pg.run("ALTER TABLE t ALTER k TYPE numeric(8,3)")
    await by_lookups(pg.handle, [{"k": Decimal("1.234"), "v": 2}])
    assert await pg.query("SELECT k, v FROM t ORDER BY k") == [
        (Decimal("1.200"), 1),
        (Decimal("1.234"), 2),
    ]


@pytest.mark.parametrize("write", [by_single_calls, in_bulk])
async def test_a_value_that_cannot_be_sent_does_not_abort_the_transaction(
    pg: PostgresDatabase, write: Callable[[Any, Rows], Awaitable[None]]
) -> None:
    conn: Any = pg.handle
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY, v integer)")
    await write(conn, [{"k": k, "v": 1} for k in range(3)])
    await pg.run("ALTER TABLE t ALTER v TYPE text")
    async with conn.transaction():
        await write(conn, [{"k": k, "v": "a"} for k in range(3)])
    assert await pg.query("SELECT v FROM t") == [("a",)] * 3


async def test_calls_that_share_a_connection_all_know(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY, v integer)")
    for kind, value in (
        ("numeric", Decimal("0.5")),
        ("text", "a"),
        ("date", MOMENT.date()),
    ):
        calls = [
            create_or_update(
                pg.handle, "t", key={"k": k}, defaults={"v": value}, strategy=strategy
            )
            for k in range(20)
            for strategy in ("auto", "exact")
        ]
        await by_single_calls(pg.handle, [{"k": 0, "v": None}])
        await pg.run(f"ALTER TABLE t ALTER v TYPE {kind} USING NULL")
        await asyncio.gather(*calls)
        assert await pg.query("SELECT DISTINCT v FROM t") == [(value,)]


@pytest.mark.parametrize("call", [create_or_update_many, get_or_create_many])
@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_a_table_that_is_made_again_is_not_written_row_by_row(
    pg: PostgresDatabase, call: Any, *, inside: bool
) -> None:
    table = "CREATE TABLE t (id serial PRIMARY KEY, k text UNIQUE)"
    rows = [{"k": f"k{number}"} for number in range(50)]
    conn: Any = pg.handle
    await pg.run(table)
    await call(conn, "t", rows, key="k")
    await pg.run(f"DROP TABLE t; {table}")
    sent: list[str] = []
    async with pg.transaction() if inside else contextlib.nullcontext():
        with conn.query_logger(lambda record: sent.append(record.query)):
            await call(conn, "t", rows, key="k")
    # What the driver asks for types and settings is among them.
    assert len(sent) < 30
    assert await pg.query("SELECT id, k FROM t ORDER BY id") == [
        (number, row["k"]) for number, row in enumerate(rows, start=1)
    ]


# --- Defaults --------------------------------------------------------------------------


async def add_singly(conn: Any, keys: Sequence[int]) -> None:
    for key in keys:
        await create_or_update(conn, "t", key={"k": key}, defaults={"v": F("v") + 1})


async def add_natively(conn: Any, keys: Sequence[int]) -> None:
    for key in keys:
        await create_or_update(
            *(conn, "t"),
            key={"k": key},
            defaults={"v": F("v") + 1},
            strategy="on_conflict",
        )


async def add_in_bulk(conn: Any, keys: Sequence[int]) -> None:
    rows = [{"k": key, "v": F("v") + 1} for key in keys]
    await create_or_update_many(conn, "t", rows, key="k")


async def add_changed(conn: Any, keys: Sequence[int]) -> None:
    rows = [{"k": key, "v": F("v") + 1} for key in keys]
    await create_or_update_many(conn, "t", rows, key="k", skip_unchanged=True)


async def add_coalesced(conn: Any, keys: Sequence[int]) -> None:
    async with Coalescer(conn, "t", key="k") as coalescer:
        await asyncio.gather(
            *(
                coalescer.create_or_update(key={"k": key}, defaults={"v": F("v") + 1})
                for key in keys
            )
        )


ADDING: Final = (add_singly, add_natively, add_in_bulk, add_changed, add_coalesced)
ALTERED: Final = {
    "another": ("DEFAULT 1", "ALTER TABLE t ALTER v SET DEFAULT 5", 6),
    "none": ("DEFAULT 1", "ALTER TABLE t ALTER v DROP DEFAULT", None),
    "none before": ("", "ALTER TABLE t ALTER v SET DEFAULT 5", 6),
    "of a domain": (
        "DEFAULT 1",
        "ALTER TABLE t ALTER v TYPE five, ALTER v DROP DEFAULT",
        6,
    ),
}
CHANGED: Final = "SELECT k, v FROM t WHERE k > 2 AND v IS DISTINCT FROM 10 ORDER BY k"


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("add", ADDING)
@pytest.mark.parametrize("name", ALTERED)
@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_a_new_row_is_given_the_default_of_now(
    db: Database,
    name: str,
    add: Callable[[Any, Sequence[int]], Awaitable[None]],
    *,
    inside: bool,
) -> None:
    default, change, value = ALTERED[name]
    await db.run(
        "CREATE DOMAIN five AS integer DEFAULT 5;"
        f"CREATE TABLE t (k integer PRIMARY KEY, v integer {default});"
        "INSERT INTO t SELECT n, 10 FROM generate_series(1, 9) AS n"
    )
    await add(db.handle, [1, 2, 3])
    await db.run(change)
    async with db.transaction() if inside else contextlib.nullcontext():
        await add(db.handle, [3, 11, 12, 4, 13])
    assert await db.query(CHANGED) == [
        *((3, 12), (4, 11)),
        *((k, value) for k in (11, 12, 13)),
    ]


# --- SQLite ---------------------------------------------------------------------------

TABLE: Final = "CREATE TABLE {} (k integer PRIMARY KEY, v integer DEFAULT {})"
OTHERS: Final = {
    "temporary": (TABLE.format("t", 1), TABLE.format("temp.t", 5), "temp.t"),
    "attached": (
        "ATTACH ':memory:' AS other;" + TABLE.format("other.t", 1),
        TABLE.format("main.t", 5),
        "main.t",
    ),
    "made again": (
        TABLE.format("t", 1),
        "DROP TABLE t;" + TABLE.format("t", 5),
        "t",
    ),
    "another file": (
        "ATTACH ':memory:' AS other;" + TABLE.format("other.t", 1),
        "DETACH other; ATTACH ':memory:' AS other; CREATE TABLE other.s (k);"
        "DROP TABLE other.s;" + TABLE.format("other.t", 5),
        "other.t",
    ),
}


async def counted(conn: Any, rows: Rows) -> None:
    for row in rows:
        await create_or_update(
            conn, "t", key={"k": row["k"]}, defaults={"v": F("v") + 1}
        )


async def counted_in_bulk(conn: Any, rows: Rows) -> None:
    await create_or_update_many(conn, "t", rows, key="k", update={"v": F("v") + 1})


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("write", [counted, counted_in_bulk])
@pytest.mark.parametrize("name", OTHERS)
async def test_no_default_comes_from_a_hidden_table(
    lite: SQLiteDatabase,
    name: str,
    write: Callable[[Any, Rows], Awaitable[None]],
    *,
    inside: bool,
) -> None:
    tables, change, written = OTHERS[name]
    conn: Any = lite.handle
    await conn.executescript(tables)
    await write(conn, [{"k": 1}, {"k": 2}, {"k": 3}])
    await conn.executescript(change)
    if inside:
        await conn.execute("BEGIN")
    await write(conn, [{"k": 1}, {"k": 2}, {"k": 3}])
    if inside:
        await conn.commit()
    async with conn.execute(f"SELECT k, v FROM {written} ORDER BY k") as cursor:
        rows = [tuple(row) for row in await cursor.fetchall()]
    value = 6 if write is counted else 5
    assert rows == [(1, value), (2, value), (3, value)]


@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_tenants_with_types_of_one_name_fail_once_at_most(db: Database) -> None:
    ((schema,),) = await db.query("SELECT current_schema()")
    tenants = [f"{schema}_{number}" for number in range(3)]
    for tenant in tenants:
        await db.run(
            f"CREATE SCHEMA {tenant}; CREATE TYPE {tenant}.mood AS ENUM ('sad', 'glad');"
            f"CREATE TABLE {tenant}.t (k integer PRIMARY KEY, v {tenant}.mood)"
        )
    failed = 0
    try:
        for key in range(4):
            for tenant in tenants:
                try:
                    async with db.transaction() as conn:
                        await conn.execute(f"SET LOCAL search_path = {tenant}")
                        await by_single_calls(conn, [{"k": key, "v": "glad"}])
                except (asyncpg.PostgresError, psycopg.Error):
                    failed += 1
        counts = [
            (await db.query(f"SELECT count(*)::int FROM {tenant}.t"))[0][0]
            for tenant in tenants
        ]
    finally:
        for tenant in tenants:
            await db.run(f"DROP SCHEMA {tenant} CASCADE")
    assert failed <= 1
    assert sum(counts) == 12 - failed
