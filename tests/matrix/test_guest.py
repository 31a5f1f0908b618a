"""What a database administrator sees: plans, statistics and memory of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from aioupsert import SQL, F, create_or_update, create_or_update_many
from tests.support.tables import describe

if TYPE_CHECKING:
    from tests.support.databases import PostgresDatabase

drivers = pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)

# --- Plans of others ------------------------------------------------------------------

FUNCTION: Final = (
    "CREATE FUNCTION one() RETURNS integer LANGUAGE plpgsql AS 'BEGIN RETURN 1; END'"
)
TABLE: Final = "CREATE TABLE t (k text PRIMARY KEY, v integer)"
QUIET: Final = {
    "plain": TABLE,
    "built-in functions": "CREATE TABLE t (k text PRIMARY KEY, v serial CHECK (v > abs(-1)),"
    " at timestamptz DEFAULT now());"
    " CREATE UNIQUE INDEX ON t (lower(k)) WHERE v < 3",
    "enum": "CREATE TYPE e AS ENUM ('a'); CREATE TABLE t (k text PRIMARY KEY, v e)",
}
LOUD: Final = {
    "default": f"{FUNCTION}; CREATE TABLE t (k text PRIMARY KEY, v integer DEFAULT one())",
    "generated": "CREATE FUNCTION two(i integer) RETURNS integer IMMUTABLE LANGUAGE sql"
    " AS 'SELECT 2'; CREATE TABLE t (k text PRIMARY KEY, v integer,"
    " w integer GENERATED ALWAYS AS (two(v)) STORED)",
    "check": f"{FUNCTION}; CREATE TABLE t (k text PRIMARY KEY, v integer CHECK (v > one()))",
    "domain": "CREATE DOMAIN d AS integer; CREATE TABLE t (k text PRIMARY KEY, v d)",
    "policy": f"{TABLE}; ALTER TABLE t ENABLE ROW LEVEL SECURITY",
    "trigger": f"{TABLE}; CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN RETURN new; END'; CREATE TRIGGER g AFTER UPDATE ON t EXECUTE FUNCTION g()",
    "foreign key": "CREATE TABLE o (k text PRIMARY KEY);"
    " CREATE TABLE t (k text PRIMARY KEY REFERENCES o, v integer)",
    "referenced": f"{TABLE}; CREATE TABLE o (k text REFERENCES t)",
    "partitioned": "CREATE TABLE t (k text PRIMARY KEY, v integer) PARTITION BY HASH (k)",
    "inherited": f"{TABLE}; CREATE TABLE o () INHERITS (t)",
    "index": "CREATE FUNCTION two(i text) RETURNS text IMMUTABLE LANGUAGE sql"
    f" AS 'SELECT i'; {TABLE}; CREATE INDEX ON t (two(k))",
}


@pytest.mark.parametrize("name", [*QUIET, *LOUD])
async def test_the_catalog_says_whether_writing_runs_code(
    pg: PostgresDatabase, name: str
) -> None:
    await pg.run({**QUIET, **LOUD}[name])
    assert (await describe(pg.handle)).runs_no_code == (name in QUIET)


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
    db: PostgresDatabase, number: int
) -> None:
    await db.run(WATCHED)
    rows = [{"k": f"k{n}", "v": 1} for n in range(1, number + 1)]
    await create_or_update_many(db.handle, "t", rows, key="k")
    names = ", ".join(f"'{name}'" for name in SETTINGS)
    assert await db.query("SELECT count(*) > 0 FROM seen") == [(True,)]
    changed = await db.query(
        "SELECT setting, value FROM seen EXCEPT SELECT name, setting FROM pg_settings"
        f" WHERE name IN ({names})"
    )
    assert changed == []


@drivers
async def test_code_of_the_caller_is_planned_as_it_always_is(
    db: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    await db.run(TABLE)
    rows = [{"k": f"k{n}", "v": 1} for n in range(4)]
    sent: list[bool] = []
    for update in ({"v": F("v") + 1}, {"v": SQL("{} + 1", F("v"))}):
        caplog.clear()
        with caplog.at_level("DEBUG", "aioupsert"):
            await create_or_update_many(
                db.handle, "t", rows, key="k", update=update, skip_unchanged=True
            )
        sent.append(any("enable_seqscan" in text for text in caplog.messages))
    assert sent == [True, False]


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


# --- Memory ---------------------------------------------------------------------------


@drivers
async def test_a_description_costs_the_server_little_memory(
    db: PostgresDatabase,
) -> None:
    number = 10
    for n in range(number):
        await db.run(f"CREATE TABLE t{n} (k text PRIMARY KEY, v integer)")
    await db.run("CREATE TABLE t (k text PRIMARY KEY, v integer)")
    async with db.connect() as conn:
        for _ in range(12):  # until it is prepared, and has a plan for any table
            await describe(conn)
        before = await prepared_bytes(db, conn)
        for n in range(number):
            await describe(conn, f"t{n}")
        assert await prepared_bytes(db, conn) - before < 50_000 * number


async def prepared_bytes(db: PostgresDatabase, conn: Any) -> int:
    """The memory of the statements that the session keeps."""
    sql = "SELECT coalesce(sum(length(statement)), 0) FROM pg_prepared_statements"
    if (await db.query("SHOW server_version_num"))[0][0] >= "140000":
        sql = (
            "SELECT coalesce(sum(total_bytes), 0)::bigint FROM"
            " pg_backend_memory_contexts WHERE name ~ 'CachedPlan|unnamed prepared'"
        )
    cursor = await conn.execute(sql) if db.kind == "psycopg" else None
    row = await (conn.fetchrow(sql) if cursor is None else cursor.fetchone())
    return int(row[0])
