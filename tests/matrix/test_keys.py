"""What a key of PostgreSQL means: equal by its type, never changed in silence."""

import datetime as dt
import math
from decimal import Decimal
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import Action, F, UsageError, create_or_update
from tests.support.databases import PostgresDatabase
from tests.support.tables import make_collation
from tests.support.versions import created, refusal

HIT: Final = {"hits": F("hits") + 1}
NAIVE: Final = dt.datetime(2020, 1, 2, 3, 4, 5)  # noqa: DTZ001  # naive on purpose
UTC: Final = dt.UTC
BITS: Final = asyncpg.BitString.from_int(5, 3)
COLUMNS: Final = "hits int DEFAULT 0"


@pytest.fixture
def conn(pg: PostgresDatabase) -> Any:
    return pg.handle


async def calls(conn: Any, keys: list[Any], **options: Any) -> list[Action]:
    return [
        (
            await create_or_update(conn, "t", key={"k": key}, defaults=HIT, **options)
        ).action
        for key in keys
    ]


# --- Equal by the column's own type ----------------------------------------------------

# Two spellings of one value, and one of another.
EQUAL: Final[dict[str, tuple[str, Any, Any, Any]]] = {
    "numeric": ("numeric", Decimal("1.0"), Decimal("1.00"), Decimal("1.01")),
    "numeric, an int": ("numeric", Decimal(1), 1, 2),
    "NaN": ("float8", math.nan, -math.nan, math.inf),
    "zero": ("float8", 0.0, -0.0, 1e-300),
    "numeric NaN": ("numeric", Decimal("NaN"), math.nan, Decimal("1e30")),
    "infinity": ("numeric", Decimal("-Infinity"), -math.inf, math.inf),
    "infinity, not NaN": ("numeric", Decimal("Infinity"), math.inf, math.nan),
    "real": ("real", 0.1, 0.1, 0.2),
    "char(5)": ("char(5)", "a", "a  ", "b"),
    "moment": (
        "timestamptz",
        dt.datetime(2020, 1, 1, 12, tzinfo=UTC),
        dt.datetime(2020, 1, 1, 14, tzinfo=dt.timezone(dt.timedelta(hours=2))),
        dt.datetime(2020, 1, 1, 14, tzinfo=UTC),
    ),
    "interval": (
        "interval",
        dt.timedelta(days=1),
        dt.timedelta(hours=24),
        dt.timedelta(hours=25),
    ),
    "uuid": ("uuid", "0" * 32, "0" * 8 + "-0000-0000-0000-" + "0" * 12, "1" * 32),
    "jsonb": ("jsonb", {"a": 1, "b": [2]}, '{"b":[2],"a":1.0}', {"a": 2}),
    "jsonb list": ("jsonb", [1, 2], "[1,2]", [2, 1]),
    "range": (
        "int4range",
        asyncpg.Range(1, 5),
        asyncpg.Range(0, 4, lower_inc=False, upper_inc=True),
        asyncpg.Range(1, 6),
    ),
    "multirange": (
        "int4multirange",
        [asyncpg.Range(1, 3), asyncpg.Range(2, 5)],
        [asyncpg.Range(1, 5)],
        [],
    ),
    "array": ("int[]", [1, None], (1, None), [None, 1]),
    "array of two dimensions": ("int[]", [[1, 2]], ([1, 2],), [[1], [2]]),
    "array of enums": ("mood[]", ["sad", "ok"], ("sad", "ok"), ["ok", "sad"]),
    "composite": ("pair", (1, "x"), {"a": 1, "b": "x"}, (1, None)),
    "money": ("money", "$1,000.00", "1000", "10"),
    "macaddr": ("macaddr", "08:00:2b:01:02:03", "08002b:010203", "08:00:2b:01:02:04"),
    "tsvector": ("tsvector", "b a", "'a' 'b' 'a'", "a"),
    "pg_lsn": ("pg_lsn", 2**40, 2**40, 2**40 + 1),
    "bit": (
        "bit(3)",
        BITS,
        BITS,
        asyncpg.BitString.from_int(7, 3),
    ),
}


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize(("kind", "one", "same", "other"), EQUAL.values(), ids=EQUAL)
async def test_keys_that_are_equal_to_the_type_are_one_row(
    conn: Any, *, kind: str, one: Any, same: Any, other: Any, strategy: Any
) -> None:
    if not await created(
        conn,
        "CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (a int, b text);"
        f" CREATE TABLE t (k {kind} PRIMARY KEY, {COLUMNS})",
    ):
        return
    if error := refusal(conn, kind, one):
        for value in (one, same):
            with pytest.raises(error):
                await calls(conn, [value], strategy=strategy)
        assert await conn.fetchval("SELECT count(*) FROM t") == 0
        return
    assert await calls(conn, [one, one, same, other], strategy=strategy) == [
        Action.CREATED,
        Action.UPDATED,
        Action.UPDATED,
        Action.CREATED,
    ]
    hits = await conn.fetch("SELECT hits FROM t ORDER BY 1")
    assert [row[0] for row in hits] == [1, 3]


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize(
    "kind", ["text COLLATE ci", "ci_text", "varchar(3) COLLATE ci"]
)
async def test_keys_that_are_equal_to_the_collation_are_one_row(
    conn: Any, kind: str, strategy: Any
) -> None:
    if not await make_collation(conn):
        return
    await conn.execute(
        "CREATE DOMAIN ci_text AS text COLLATE ci;"
        f" CREATE TABLE t (k {kind} PRIMARY KEY, {COLUMNS})"
    )
    assert await calls(conn, ["Ünï", "üNÏ", "unï"], strategy=strategy) == [
        Action.CREATED,
        Action.UPDATED,
        Action.CREATED,
    ]


async def test_text_keys_differ_by_every_character(conn: Any) -> None:
    await conn.execute(f"CREATE TABLE t (k text PRIMARY KEY, {COLUMNS})")
    spellings = ["a", "A", "a ", " a", "á", "a\u0301", "", "\n", "NULL", "a" * 2000]
    assert set(await calls(conn, spellings)) == {Action.CREATED}
    assert set(await calls(conn, spellings)) == {Action.UPDATED}


EXTENSIONS: Final = {
    "citext": ("Straße", "STRAßE", "b"),
    "hstore": ({"a": "1", "b": None}, {"b": None, "a": "1"}, {"a": "2"}),
    "ltree": ("a.b", "a.b", "a.c"),
}


@pytest.mark.parametrize("kind", EXTENSIONS)
async def test_types_of_extensions_are_keys_where_the_server_has_them(
    pg: PostgresDatabase, conn: Any, kind: str
) -> None:
    available = await conn.fetchval(
        "SELECT count(*) FROM pg_available_extensions WHERE name = $1", kind
    )
    if not available:
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="not available"):
            await conn.execute(f"CREATE EXTENSION {kind}")
        return
    await conn.execute(f"CREATE EXTENSION {kind} SCHEMA {pg.schema}")
    if kind == "hstore":
        await conn.set_builtin_type_codec(
            "hstore", schema=pg.schema, codec_name="pg_contrib.hstore"
        )
    await conn.execute(f"CREATE TABLE t (k {kind} UNIQUE, v {kind}, {COLUMNS})")
    one, same, other = EXTENSIONS[kind]
    assert await calls(conn, [one, same, other]) == [
        Action.CREATED,
        Action.UPDATED,
        Action.CREATED,
    ]
    actions = [
        (
            await create_or_update(
                conn, "t", key={"k": one}, defaults={"v": value}, skip_unchanged=True
            )
        ).action
        for value in (one, one, other)
    ]
    assert actions == [Action.UPDATED, Action.UNCHANGED, Action.UPDATED]


# --- Rounded by the column, as keys and as values --------------------------------------

TENTH: Final = dt.timedelta(milliseconds=100)
ROUNDED: Final[dict[str, tuple[str, Any]]] = {
    "numeric(5,2)[]": ("numeric(5,2)[]", [Decimal("1.105"), None]),
    "timestamp(0)[]": ("timestamp(0)[]", [NAIVE + TENTH]),
    "numeric(5,-2)": ("numeric(5,-2)", 149),
    "interval second(0)": ("interval second(0)", TENTH),
    "interval day": ("interval day", dt.timedelta(days=1, hours=1)),
    "domain over a domain": ("nested", Decimal("1.105")),
}


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize(("kind", "value"), ROUNDED.values(), ids=ROUNDED)
async def test_a_key_that_the_column_rounds_finds_its_row(
    conn: Any, kind: str, value: Any, strategy: Any
) -> None:
    if not await created(
        conn,
        "CREATE DOMAIN price AS numeric(5,2); CREATE DOMAIN nested AS price;"
        f" CREATE TABLE t (k {kind} PRIMARY KEY, {COLUMNS})",
    ):
        return
    assert await calls(conn, [value, value], strategy=strategy) == [
        Action.CREATED,
        Action.UPDATED,
    ]


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize(("kind", "value"), ROUNDED.values(), ids=ROUNDED)
async def test_a_value_that_the_column_rounds_is_unchanged_the_second_time(
    conn: Any, kind: str, value: Any, strategy: Any
) -> None:
    if not await created(
        conn,
        "CREATE DOMAIN price AS numeric(5,2); CREATE DOMAIN nested AS price;"
        f" CREATE TABLE t (k int PRIMARY KEY, v {kind})",
    ):
        return
    actions = [
        (
            await create_or_update(
                conn,
                "t",
                key={"k": 1},
                defaults={"v": value},
                skip_unchanged=True,
                strategy=strategy,
            )
        ).action
        for _ in range(2)
    ]
    assert actions == [Action.CREATED, Action.UNCHANGED]


@pytest.mark.parametrize(
    ("kind", "stored", "longer"),
    [
        ("varchar(3)", "abc", "abcd"),
        ("char(3)", "abc", "abcd"),
        ("bit(3)", BITS, asyncpg.BitString.from_int(11, 4)),
        ("varbit(3)", BITS, asyncpg.BitString.from_int(11, 4)),
        ("short", "abc", "abcd"),
        ("varchar(3)[]", ["abc"], ["abcd"]),
    ],
)
async def test_a_key_that_is_too_long_never_finds_a_shorter_one(
    conn: Any, kind: str, stored: Any, longer: Any
) -> None:
    await conn.execute(
        "CREATE DOMAIN short AS varchar(3);"
        f" CREATE TABLE t (k {kind} PRIMARY KEY, {COLUMNS})"
    )
    assert await calls(conn, [stored]) == [Action.CREATED]
    with pytest.raises(asyncpg.DataError, match=r"too long|match type bit"):
        await calls(conn, [longer])
    assert await conn.fetchval("SELECT hits FROM t") == 1


# --- Refused before anything is sent ---------------------------------------------------

REFUSED: Final[list[tuple[str, Any]]] = [
    *[(kind, 5.5) for kind in ("smallint", "integer", "bigint", "oid")],
    ("integer", Decimal("5.5")),
    ("integer", math.nan),
    ("integer", math.inf),
    ("integer", Decimal("NaN")),
    ("date", NAIVE),
    ("date", NAIVE.replace(tzinfo=UTC)),
    ("timestamptz", NAIVE),
    ("timestamptz", NAIVE.date()),
    ("time", dt.time(1, tzinfo=UTC)),
    ("timetz", dt.time(1)),
    ("numeric", 1.1),
    ("numeric(5,2)", 1.1),
    ("whole", 5.5),
    ("varchar(3)", "abc "),
    ("varchar(3)", "    "),
]


@pytest.mark.parametrize(
    ("kind", "value"), REFUSED, ids=[f"{k}={v!r}" for k, v in REFUSED]
)
async def test_a_key_that_would_be_changed_is_refused_unsent(
    conn: Any, kind: str, value: Any
) -> None:
    await conn.execute(
        "CREATE DOMAIN whole AS int;"
        f" CREATE TABLE t (n int, k {kind}, {COLUMNS}, PRIMARY KEY (n, k))"
    )
    queries: list[str] = []
    with (
        conn.query_logger(lambda record: queries.append(record.query)),
        pytest.raises(UsageError, match=r"key\['k'\]"),
    ):
        await create_or_update(conn, "t", key={"n": 1, "k": value}, defaults=HIT)
    # But for the queries of the catalog, and what has the larger one dropped.
    sent = {query for query in queries if "pg_catalog.pg_class" not in query}
    assert sent <= {"SELECT 1"}


FITTING: Final[list[tuple[str, Any]]] = [
    ("integer", 5.0),
    ("integer", Decimal("5.0")),
    ("numeric", Decimal("1.1")),
    ("numeric", 1.5),
    ("numeric", math.nan),
    ("numeric", math.inf),
    ("numeric", -math.inf),
    ("float8", 1.1),
    ("float8", math.nan),
    ("float8", -math.inf),
    ("date", dt.date.max),
    ("date", dt.date.min),
    ("timestamp", NAIVE.date()),
    ("varchar", "abc   "),
    ("varchar(3)", "ab "),
    ("varchar(3)", "ünï"),
]


@pytest.mark.parametrize(
    ("kind", "value"), FITTING, ids=[f"{k}={v!r}" for k, v in FITTING]
)
async def test_a_key_that_fits_is_taken(conn: Any, kind: str, value: Any) -> None:
    await conn.execute(f"CREATE TABLE t (k {kind} PRIMARY KEY, {COLUMNS})")
    if error := refusal(conn, kind, value):
        with pytest.raises(error):
            await calls(conn, [value])
        assert await conn.fetchval("SELECT count(*) FROM t") == 0
        return
    assert await calls(conn, [value, value]) == [Action.CREATED, Action.UPDATED]
    assert await conn.fetchval("SELECT count(*) FROM t") == 1


UNFIT: Final[list[tuple[str, Any]]] = [
    ("integer", "5"),
    ("integer", 2**31),
    ("text", 5),
    ("text", "a\0b"),
    ("text", "\ud800"),
    ("uuid", "not one"),
    ("date", "2020-01-02"),
    ("timestamp", NAIVE.replace(tzinfo=UTC)),
    ("mood", "glad"),
    ("jsonb", "{"),
    ("int[]", "{1,2}"),
    ("numeric(3,2)", Decimal(10)),
]


@pytest.mark.parametrize(("kind", "value"), UNFIT, ids=[f"{k}={v!r}" for k, v in UNFIT])
async def test_a_key_of_another_type_is_the_drivers_error(
    conn: Any, kind: str, value: Any
) -> None:
    await conn.execute(
        "CREATE TYPE mood AS ENUM ('sad', 'ok');"
        f" CREATE TABLE t (k {kind} PRIMARY KEY, {COLUMNS})"
    )
    with pytest.raises((asyncpg.DataError, UnicodeEncodeError)):
        await calls(conn, [value])
    assert await conn.fetchval("SELECT count(*) FROM t") == 0


# --- JSON through the caller's codec ---------------------------------------------------


@pytest.mark.parametrize("kind", ["json", "jsonb"])
async def test_json_is_bound_and_returned_by_the_callers_codec(
    conn: Any, kind: str
) -> None:
    await conn.execute(f"CREATE TABLE t (k int PRIMARY KEY, v {kind})")
    await conn.set_type_codec(
        kind,
        encoder=lambda value: f'{{"wrapped": "{value}"}}',
        decoder=lambda text: ("decoded", text.replace(" ", "")),
        schema="pg_catalog",
    )
    for action in (Action.CREATED, Action.UNCHANGED):
        result = await create_or_update(
            conn,
            "t",
            key={"k": 1},
            defaults={"v": "plain"},
            skip_unchanged=True,
            returning="v",
        )
        assert result.action is action
        assert result.row == {"v": ("decoded", '{"wrapped":"plain"}')}
