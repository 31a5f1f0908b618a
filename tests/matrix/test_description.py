"""What the library reads from PostgreSQL's catalog before it writes a statement."""

from typing import Any, Final, NamedTuple

import asyncpg
import pytest

from aioupsert import (
    F,
    UnknownTableError,
    create_or_update,
    get_or_create,
    set_schema_cache_ttl,
)
from aioupsert._drivers.base import state_of
from tests.support.databases import PostgresDatabase
from tests.support.tables import describe, make_collation
from tests.support.versions import NAME, created


@pytest.fixture
def conn(pg: PostgresDatabase) -> Any:
    return pg.handle


# --- Columns ---------------------------------------------------------------------------

TYPES: Final = """
    CREATE DOMAIN price AS numeric(5, 2) DEFAULT 9;
    CREATE DOMAIN nested AS price CHECK (value < 900);
    CREATE DOMAIN short AS varchar(3);
    CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE DOMAIN moods AS mood[];
    CREATE TYPE "Odd ""type" AS (a int);
    CREATE TYPE text AS ENUM ('not text');
"""


class Type(NamedTuple):
    """What a column is declared as, and how it is then described."""

    declared: str
    base: str  # as regtype reads it
    family: str = "other"
    storage: str = "other"
    key_type: str | None = None  # that of other values, if not said
    length: int | None = None


COLUMNS: Final = [
    Type("smallint", "smallint", "integer", "integer"),
    Type("integer", "integer", "integer", "integer"),
    Type("bigint", "bigint", "integer", "integer"),
    Type("oid", "oid", "integer", "integer"),
    Type("numeric", "numeric", "number", "numeric"),
    Type("numeric(5,2)", "numeric", "number", "numeric", "numeric(5,2)"),
    Type("price", "numeric", "number", "numeric", "numeric(5,2)"),
    Type("nested", "numeric", "number", "numeric", "numeric(5,2)"),
    Type("real", "real", "number"),
    Type("double precision", "double precision", "number"),
    Type("boolean", "boolean", "boolean", "boolean"),
    Type("pg_catalog.text", "pg_catalog.text", "text", "text"),
    Type('pg_catalog.text COLLATE "C"', "pg_catalog.text", "text", "text"),
    Type("varchar", "varchar", "text", "varchar"),
    Type("varchar(3)", "varchar", "text", "varchar", length=3),
    Type("short", "varchar", "text", "varchar", length=3),
    Type("char(3)", "bpchar", "text", "bpchar"),
    Type('"char"', '"char"'),
    Type("name", "name", "text"),
    Type("bytea", "bytea", "bytes"),
    Type("json", "json", "json"),
    Type("jsonb", "jsonb", "json"),
    Type("date", "date", storage="date"),
    Type("time", "time", storage="time"),
    Type("time(0)", "time", storage="time", key_type="time(0) without time zone"),
    Type("timetz", "timetz", storage="timetz"),
    Type("timetz(1)", "timetz", storage="timetz", key_type="time(1) with time zone"),
    Type("timestamp", "timestamp"),
    Type("timestamp(3)", "timestamp", key_type="timestamp(3) without time zone"),
    Type("timestamptz", "timestamptz", storage="timestamptz"),
    Type(
        "timestamptz(0)",
        "timestamptz",
        storage="timestamptz",
        key_type="timestamp(0) with time zone",
    ),
    Type("interval", "interval"),
    Type("interval(0)", "interval", key_type="interval(0)"),
    Type("interval second(2)", "interval", key_type="interval second(2)"),
    Type("uuid", "uuid", storage="uuid"),
    Type("bit(3)", "bit"),
    Type("integer[]", "integer[]"),
    Type("varchar(3)[]", "varchar[]"),
    Type("mood", "mood"),
    Type("mood[]", "mood[]"),
    Type("moods", "mood[]"),
    Type('"Odd ""type"', '"Odd ""type"'),
    Type("{schema}.text", "{schema}.text"),
]


async def test_columns_are_described_by_the_type_under_their_domains(
    pg: PostgresDatabase, conn: Any
) -> None:
    declared = [kind.declared.format(schema=pg.schema) for kind in COLUMNS]
    columns = ", ".join(f"c{n} {kind}" for n, kind in enumerate(declared))
    await pg.run(f"{TYPES} CREATE TABLE t ({columns})")
    found = (await describe(conn)).columns.values()
    described = [
        Type(kind, "", c.family, c.storage, c.key_type, c.length)
        for kind, c in zip(declared, found, strict=True)
    ]
    assert described == [
        kind._replace(declared=name, base="", key_type=kind.key_type or column.type)
        for kind, name, column in zip(COLUMNS, declared, found, strict=True)
    ]
    # Whatever the search path holds, the names mean these very types.
    await conn.execute("SET search_path = pg_temp")
    for column in found:
        meant = await conn.fetchval(
            "SELECT $1::pg_catalog.text::regtype::oid::pg_catalog.text", column.type
        )
        assert meant == column.type_id


async def test_the_type_under_a_domain_is_the_one_named(
    pg: PostgresDatabase, conn: Any
) -> None:
    columns = ", ".join(
        f"c{n} {kind.declared.format(schema=pg.schema)}"
        for n, kind in enumerate(COLUMNS)
    )
    await pg.run(f"{TYPES} CREATE TABLE t ({columns})")
    described = [column.type for column in (await describe(conn)).columns.values()]
    names = [kind.base.format(schema=pg.schema) for kind in COLUMNS]
    sql = "SELECT array_agg(n::regtype::oid) FROM unnest($1::pg_catalog.text[]) n"
    assert await conn.fetchval(sql, described) == await conn.fetchval(sql, names)


async def test_a_scale_below_zero_is_part_of_the_type_of_a_key(conn: Any) -> None:
    if not await created(conn, "CREATE TABLE t (a numeric(5,-2), b numeric)"):
        return
    a, b = (await describe(conn)).columns.values()
    assert (a.key_type, b.key_type) == ("numeric(5,-2)", b.type)
    assert (a.type, a.family, a.storage) == (b.type, "number", "numeric")


async def test_a_collation_that_ignores_differences_is_noticed(conn: Any) -> None:
    if not await make_collation(conn):
        return
    await conn.execute(
        "CREATE DOMAIN word AS text COLLATE ci;"
        " CREATE TABLE t (a text, b text COLLATE ci, c word, d varchar COLLATE ci)"
    )
    table = await describe(conn)
    assert [c.storage for c in table.columns.values()] == ["text", *3 * ["other"]]


DEFAULTS: Final = {
    "none": ("int", None),
    "constant": ("int DEFAULT 7", 7),
    "text": ("text DEFAULT 'it''s'", "it's"),
    "NULL": ("int DEFAULT NULL", None),
    "expression": ("int DEFAULT 3 * 4", 12),
    "function": ("text DEFAULT lower('A')", "a"),
    "function of the schema": ("int DEFAULT eleven()", 11),
    "serial": ("serial", 1),
    "identity": ("int GENERATED BY DEFAULT AS IDENTITY (START 5)", 5),
    "domain": ("nine", 9),
    "domain of a domain": ("still_nine", 9),
    "domain, column first": ("nine DEFAULT 8", 8),
    "array": ("int[] DEFAULT '{1,2}'", [1, 2]),
    "enum": ("mood DEFAULT 'ok'", "ok"),
    "rounded": ("numeric(5,1) DEFAULT 1.26", "1.3"),
}


@pytest.mark.parametrize(("column", "value"), DEFAULTS.values(), ids=map(str, DEFAULTS))
async def test_a_default_is_the_databases_own(
    conn: Any, column: str, value: Any
) -> None:
    await conn.execute(
        "CREATE FUNCTION eleven() RETURNS int LANGUAGE sql AS 'SELECT 11';"
        " CREATE DOMAIN nine AS int DEFAULT 9; CREATE DOMAIN still_nine AS nine;"
        " CREATE TYPE mood AS ENUM ('sad', 'ok');"
        f' CREATE TABLE "odd ""name" (k int PRIMARY KEY, "v "" v" {column})'
    )
    result = await create_or_update(
        conn,
        'odd "name',
        key={"k": 1},
        defaults={'v " v': F('v " v')},
        returning=['v " v'],
    )
    assert result.row is not None
    stored = result.row['v " v']
    assert (str(stored) if isinstance(value, str) else stored) == value


async def test_what_the_database_computes_is_no_default(conn: Any) -> None:
    await conn.execute(
        "CREATE TABLE t (a int, g int GENERATED ALWAYS AS (a * 2) STORED,"
        " i int GENERATED ALWAYS AS IDENTITY, d int GENERATED BY DEFAULT AS IDENTITY)"
    )
    columns = (await describe(conn)).columns
    assert (columns["g"].generated, columns["g"].default) == (True, None)
    assert [c.always_identity for c in columns.values()] == [False, False, True, False]
    assert [c.generated for c in columns.values()] == [False, True, False, False]


async def test_dropped_columns_are_not_described(conn: Any) -> None:
    await conn.execute("CREATE TABLE t (a int, b int, c int); ALTER TABLE t DROP b")
    assert (await describe(conn)).visible == ("a", "c")


async def test_a_table_may_have_no_columns(conn: Any) -> None:
    await conn.execute("CREATE TABLE t ()")
    table = await describe(conn)
    assert (table.visible, table.unique) == ((), ())


async def test_it_is_known_which_columns_refuse_no_values(conn: Any) -> None:
    await conn.execute(
        "CREATE TABLE t (k text PRIMARY KEY, free text, plain int, long text, sole int,"
        " checked int CHECK (checked > 0), parent text REFERENCES t, twice int, least int);"
        " CREATE INDEX ON t (plain, long); CREATE UNIQUE INDEX ON t (sole);"
        " CREATE UNIQUE INDEX ON t (k) INCLUDE (least); CREATE INDEX ON t ((twice + 1))"
    )
    columns = (await describe(conn)).columns.values()
    assert [c.name for c in columns if c.unconstrained] == ["free", "plain", "twice"]


# --- Unique indexes --------------------------------------------------------------------

# What is added to a table, and for each key that is tried whether it is unique. None
# stands for a NULL.
K: Final = {"k": False}
INDEXES: Final[dict[str, tuple[str, dict[str, bool], bool]]] = {
    "primary key": ("ALTER TABLE t ADD PRIMARY KEY (k)", K, True),
    "unique constraint": ("ALTER TABLE t ADD UNIQUE (k)", K, True),
    "unique index": ("CREATE UNIQUE INDEX ON t (k)", K, True),
    "plain index": ("CREATE INDEX ON t (k)", K, False),
    "NULL": ("CREATE UNIQUE INDEX ON t (k)", {"k": True}, False),
    "NULLS NOT DISTINCT": (
        "CREATE UNIQUE INDEX ON t (k) NULLS NOT DISTINCT",
        {"k": True},
        True,
    ),
    "part of the key": ("CREATE UNIQUE INDEX ON t (k)", {"k": False, "d": True}, True),
    "more than the key": ("CREATE UNIQUE INDEX ON t (k, n)", K, False),
    "other order": (
        "CREATE UNIQUE INDEX ON t (k, n)",
        {"n": False, "k": False},
        True,
    ),
    "INCLUDE": ("CREATE UNIQUE INDEX ON t (k) INCLUDE (n)", K, True),
    "expression": ("CREATE UNIQUE INDEX ON t (lower(k))", K, False),
    "deterministic collation": ('CREATE UNIQUE INDEX ON t (k COLLATE "C")', K, True),
    "other operator class": (
        "CREATE UNIQUE INDEX ON t (k text_pattern_ops)",
        K,
        True,
    ),
    "predicate": ("CREATE UNIQUE INDEX ON t (k) WHERE n > 0", K, False),
    "predicate on NULL, not given": (
        "CREATE UNIQUE INDEX ON t (k) WHERE d IS NULL",
        K,
        False,
    ),
    "predicate on NULL, not NULL": (
        "CREATE UNIQUE INDEX ON t (k) WHERE d IS NULL",
        {"k": False, "d": False},
        False,
    ),
    "predicate on NULL": (
        "CREATE UNIQUE INDEX ON t (k) WHERE d IS NULL",
        {"k": False, "d": True},
        True,
    ),
    "predicate on two NULLs": (
        'CREATE UNIQUE INDEX ON t (k) WHERE d IS NULL AND ("odd "" x" IS NULL)',
        {"k": False, "d": True, 'odd " x': True},
        True,
    ),
    "predicate on NULL and more": (
        "CREATE UNIQUE INDEX ON t (k) WHERE d IS NULL AND n > 0",
        {"k": False, "d": True},
        False,
    ),
    "deferrable": (
        "ALTER TABLE t ADD UNIQUE (k) DEFERRABLE INITIALLY DEFERRED",
        K,
        True,
    ),
    "exclusion by equality": (
        "ALTER TABLE t ADD EXCLUDE USING btree (k WITH =)",
        K,
        True,
    ),
    "exclusion by overlap": (
        "ALTER TABLE t ADD EXCLUDE USING gist (r WITH &&)",
        {"r": False},
        False,
    ),
    "exclusion of expressions": (
        "ALTER TABLE t ADD EXCLUDE USING btree (lower(k) WITH =)",
        K,
        False,
    ),
    "invalid": (
        "INSERT INTO t (k) VALUES ('a'), ('a')",
        K,
        False,
    ),
}


@pytest.mark.parametrize(("ddl", "key", "unique"), INDEXES.values(), ids=INDEXES)
async def test_an_index_makes_a_key_unique_or_not(
    conn: Any, ddl: str, key: dict[str, bool], *, unique: bool
) -> None:
    if not await created(
        conn,
        f'CREATE TABLE t (k text, n int, d date, r int4range, "odd "" x" int); {ddl}',
    ):
        return
    if "INSERT" in ddl:
        with pytest.raises(asyncpg.UniqueViolationError):
            await conn.execute("CREATE UNIQUE INDEX CONCURRENTLY i ON t (k)")
        assert await conn.fetchval("SELECT to_regclass('i') IS NOT NULL")
    assert (await describe(conn)).is_unique(key) is unique


@pytest.mark.parametrize(("collation", "unique"), [("ci", True), ('"C"', False)])
async def test_an_index_must_compare_as_its_column_does(
    conn: Any, collation: str, *, unique: bool
) -> None:
    if not await make_collation(conn):
        return
    await conn.execute(
        "CREATE TABLE t (k text COLLATE ci);"
        f" CREATE UNIQUE INDEX ON t (k COLLATE {collation})"
    )
    assert (await describe(conn)).is_unique(K) is unique


# --- Relations -------------------------------------------------------------------------

TABLE: Final = "CREATE TABLE t (k text PRIMARY KEY, n int);"
VIEW: Final = (
    "CREATE TABLE base (k text PRIMARY KEY, n int); CREATE VIEW t AS TABLE base;"
)
PARTED: Final = (
    "CREATE TABLE t (k text PRIMARY KEY, n int) PARTITION BY LIST (k);"
    " CREATE TABLE part PARTITION OF t DEFAULT;"
)
# Each differs from the last by what it must not be mistaken for.
RELATIONS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "table": (TABLE, {}),
    "partitioned": (PARTED, {"supports_on_conflict_update": False}),
    "partition": (
        (
            "CREATE TABLE p (k text PRIMARY KEY, n int) PARTITION BY LIST (k);"
            " CREATE TABLE t PARTITION OF p DEFAULT"
        ),
        {},
    ),
    "view": (VIEW, {"supports_on_conflict_update": False, "all_indexes_known": False}),
    "view with triggers": (
        VIEW + "CREATE TRIGGER g INSTEAD OF INSERT ON t FOR EACH ROW {}",
        {
            "supports_on_conflict_update": False,
            "all_indexes_known": False,
            "exact_because": "it is a view with INSTEAD OF triggers",
        },
    ),
    "materialized view": (
        "CREATE MATERIALIZED VIEW t AS SELECT 1 AS k",
        {
            "supports_on_conflict_update": False,
            "exact_because": "it is a materialized view",
        },
    ),
    "rule on insert": (
        TABLE + "CREATE RULE r AS ON INSERT TO t DO ALSO NOTHING",
        {"exact_because": "it has rules"},
    ),
    "rule on update": (
        TABLE + "CREATE RULE r AS ON UPDATE TO t DO ALSO NOTHING",
        {"exact_because": "it has rules"},
    ),
    "rule on delete": (TABLE + "CREATE RULE r AS ON DELETE TO t DO ALSO NOTHING", {}),
    "exclusion": (
        TABLE + "ALTER TABLE t ADD EXCLUDE USING btree (n WITH =)",
        {"exact_because": "it has an exclusion constraint", "needs_key_lock": True},
    ),
    "deferrable": (
        TABLE + "ALTER TABLE t ADD UNIQUE (n) DEFERRABLE",
        {
            "exact_because": "it has a deferrable unique constraint",
            "needs_key_lock": True,
        },
    ),
    "before insert": (
        TABLE + "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW {}",
        {"exact_because": "it has a BEFORE INSERT trigger"},
    ),
    "before insert of a partition": (
        PARTED + "CREATE TRIGGER g BEFORE INSERT ON part FOR EACH ROW {}",
        {
            "exact_because": "it has a BEFORE INSERT trigger",
            "supports_on_conflict_update": False,
        },
    ),
    "before update": (
        TABLE + "CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW {}",
        {"updates_may_be_refused": True},
    ),
    "before update of a partition": (
        PARTED + "CREATE TRIGGER g BEFORE UPDATE ON part FOR EACH ROW {}",
        {"updates_may_be_refused": True, "supports_on_conflict_update": False},
    ),
    "row security": (
        TABLE + "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        {"updates_may_be_refused": True},
    ),
    "other triggers": (
        TABLE + "CREATE TRIGGER a AFTER INSERT OR UPDATE ON t FOR EACH ROW {0};"
        " CREATE TRIGGER b BEFORE UPDATE ON t {0};"
        " CREATE TRIGGER c BEFORE DELETE ON t FOR EACH ROW {0}",
        {},
    ),
    "statement trigger": (
        TABLE + "CREATE TRIGGER g AFTER INSERT ON t FOR EACH STATEMENT {}",
        {"exact_because": "it has a trigger for each INSERT statement"},
    ),
    "disabled trigger": (
        TABLE + "CREATE TRIGGER g BEFORE INSERT OR UPDATE ON t FOR EACH ROW {};"
        " ALTER TABLE t DISABLE TRIGGER g",
        {},
    ),
}
PLAIN: Final = {
    "exact_because": None,
    "needs_key_lock": False,
    "supports_on_conflict_update": True,
    "updates_may_be_refused": False,
    "all_indexes_known": True,
}


@pytest.mark.parametrize(("ddl", "flags"), RELATIONS.values(), ids=RELATIONS)
async def test_a_relation_is_described_by_what_it_can_do(
    conn: Any, ddl: str, flags: dict[str, Any]
) -> None:
    await conn.execute(
        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql"
        f" AS 'BEGIN RETURN new; END'; {ddl.format('EXECUTE FUNCTION g()')}"
    )
    table = await describe(conn)
    said = {name: getattr(table, name) for name in PLAIN}
    if "PARTITION BY" in ddl and table.supports_returning_old:
        # The row before tells what a system column of the row does not.
        flags = {**flags, "supports_on_conflict_update": True}
    assert said == PLAIN | flags
    assert table.supports_returning_old is (conn.get_server_version().major >= 18)


@pytest.mark.parametrize(
    ("ddl", "columns"),
    [
        ("PARTITION BY LIST (k)", {"k": "l"}),
        ("PARTITION BY RANGE (n, k)", {"n": "r", "k": "r"}),
        ("PARTITION BY RANGE (n, (k || 'x'))", {"n": "r"}),
        ("PARTITION BY HASH (lower(k))", {}),
        (
            (
                "PARTITION BY HASH (k); CREATE TABLE part PARTITION OF t"
                " FOR VALUES WITH (MODULUS 1, REMAINDER 0) PARTITION BY LIST (n)"
            ),
            {},
        ),
        ("", {}),
    ],
)
async def test_partitions_are_told_apart_by_columns(
    conn: Any, ddl: str, columns: dict[str, str]
) -> None:
    await conn.execute(f"CREATE TABLE t (k text, n int) {ddl}")
    assert (await describe(conn)).partitioned_by == columns


# --- Names and search paths ------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["select", "Upper", 'a"b', "ünï ☃", "a'b", "$1", "%s", ";--", " "]
)
async def test_a_table_is_found_by_its_very_name(conn: Any, name: str) -> None:
    quoted = name.replace('"', '""')
    await conn.execute(
        f'CREATE SCHEMA "{quoted}"; CREATE TABLE "{quoted}"."{quoted}"'
        f' ("{quoted}" int PRIMARY KEY, id serial)'
    )
    try:
        table = await describe(conn, (name, name))
        assert table.columns.keys() == {name, "id"}
        assert table.is_unique({name: False})
        result = await get_or_create(conn, (name, name), key={name: 5})
        assert result.row == {name: 5, "id": 1}
    finally:
        await conn.execute(f'DROP SCHEMA "{quoted}" CASCADE')


async def test_a_temporary_table_hides_another(conn: Any) -> None:
    await conn.execute("CREATE TABLE t (a int); CREATE TEMP TABLE t (b int)")
    assert (await describe(conn)).visible == ("b",)


@pytest.mark.parametrize("name", ["T", "t.t", "pg_temp.t", ("t ",)])
async def test_no_other_table_is_taken_for_it(conn: Any, name: Any) -> None:
    await conn.execute("CREATE TABLE t (a int)")
    with pytest.raises(UnknownTableError):
        await describe(conn, name)


async def test_the_closest_name_is_told(pg: PostgresDatabase, conn: Any) -> None:
    await pg.run("CREATE TABLE page_views (a int); CREATE TABLE other (a int)")
    with pytest.raises(UnknownTableError, match="did you mean 'page_views'"):
        await describe(conn, "page_view")


# --- The caller's connection -----------------------------------------------------------


async def test_codecs_of_the_caller_take_no_part(conn: Any) -> None:
    await conn.execute("CREATE TABLE t (k varchar(3) PRIMARY KEY, n int DEFAULT 7)")
    plain = await describe(conn)
    for kind in ("json", "jsonb", "oid", *NAME, "bool", "int2", "int4"):
        await conn.set_type_codec(
            kind,
            encoder=str,
            decoder=lambda text: ["not", text],
            schema="pg_catalog",
            format="text",
        )
    assert await describe(conn) == plain


async def test_a_text_codec_of_the_caller_takes_no_part(conn: Any) -> None:
    await conn.execute("CREATE TABLE t (k text PRIMARY KEY)")
    plain = await describe(conn)
    await conn.set_type_codec(
        "text",
        encoder=lambda value: f"<{value}>",
        decoder=lambda text: ["not", text],
        schema="pg_catalog",
    )
    assert await describe(conn) == plain


@pytest.mark.parametrize(
    "setting",
    [
        "search_path = ''",
        "quote_all_identifiers = on",
        "standard_conforming_strings = off",
        "IntervalStyle = 'sql_standard'",
        "default_transaction_read_only = on",
    ],
)
async def test_settings_of_the_session_change_no_type(
    pg: PostgresDatabase, conn: Any, setting: str
) -> None:
    await conn.execute(
        "CREATE TABLE t (k varchar(3) PRIMARY KEY, n numeric(5,2), p interval(1))"
    )
    plain = await describe(conn, (pg.schema, "t"))
    await conn.execute(f"SET {setting}")
    found = await describe(conn, (pg.schema, "t"))
    assert found.columns.keys() == plain.columns.keys()
    assert [c.length for c in found.columns.values()] == [3, None, None]
    for column, before in zip(
        found.columns.values(), plain.columns.values(), strict=True
    ):
        same = "SELECT $1::text::regtype = $2::text::regtype"
        assert await conn.fetchval(same, column.type, before.type)


# --- How often it is read --------------------------------------------------------------


def catalog_queries(queries: list[str]) -> int:
    return sum("pg_attribute" in query for query in queries)


async def test_the_catalog_is_read_once_for_each_table_and_connection(
    pg: PostgresDatabase, conn: Any
) -> None:
    await pg.run("CREATE TABLE a (k int PRIMARY KEY); CREATE TABLE b (k int UNIQUE)")
    queries: list[str] = []
    async with pg.connect() as other:
        with (
            conn.query_logger(lambda record: queries.append(record.query)),
            other.query_logger(lambda record: queries.append(record.query)),
        ):
            for connection in (conn, other):
                for table in ("a", "b"):
                    for k in range(3):
                        await get_or_create(connection, table, key={"k": k})
    assert catalog_queries(queries) == 4


async def test_the_catalog_is_read_again_after_the_ttl(conn: Any) -> None:
    await conn.execute("CREATE TABLE t (k int PRIMARY KEY)")
    await get_or_create(conn, "t", key={"k": 1})
    known = state_of(conn).tables["t",]
    queries: list[str] = []
    counts = []
    with conn.query_logger(lambda record: queries.append(record.query)):
        for age in (0, 50, 61, 0):
            known.read_at -= age
            await get_or_create(conn, "t", key={"k": 1})
            counts.append(catalog_queries(queries))
    assert counts == [0, 0, 1, 1]


async def test_a_changed_default_is_used_after_the_ttl(conn: Any) -> None:
    await conn.execute("CREATE TABLE t (k int PRIMARY KEY, n int DEFAULT 1)")
    call: dict[str, Any] = {"defaults": {"n": F("n") + 1}, "returning": "n"}
    set_schema_cache_ttl(0)
    try:
        for k, default in enumerate((1, 10)):
            await conn.execute(f"ALTER TABLE t ALTER n SET DEFAULT {default}")
            result = await create_or_update(conn, "t", key={"k": k}, **call)
            assert result.row == {"n": default + 1}
    finally:
        set_schema_cache_ttl(60)
