"""Every type of PostgreSQL as a value and as a key."""

import datetime as dt
import ipaddress
import json
import uuid
from decimal import Decimal
from typing import Any, Final, NamedTuple

import asyncpg
import pytest

from aioupsert import Action, F, UsageError, create_or_update
from tests.support.databases import PostgresDatabase
from tests.support.versions import NAME, refusal

DAY: Final = dt.date(2020, 1, 2)
MOMENT: Final = dt.datetime(2020, 1, 2, 3, 4, 5, 678901)  # noqa: DTZ001  # for columns without a zone
INSTANT: Final = MOMENT.replace(tzinfo=dt.UTC)
UTC: Final = dt.UTC
# Their stubs ask for more than they need.
BITS: Final[Any] = asyncpg.BitString
CIRCLE: Final[Any] = asyncpg.Circle

TYPES: Final = """
CREATE DOMAIN word AS text CHECK (value <> '');
CREATE DOMAIN price AS numeric(5, 2);
CREATE DOMAIN nested AS price CHECK (value < 900);
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TYPE pair AS (a integer, b text);
"""


class Case(NamedTuple):
    """A type and two values; stored as themselves if nothing else is said."""

    type: str
    one: Any
    other: Any
    stored: Any = None


CASES: Final = [
    Case("smallint", 1, -2),
    Case("integer", 1, 2**31 - 1),
    Case("bigint", 2**40, -2),
    Case("numeric", Decimal("1.10"), Decimal("1e30")),
    Case("numeric(5,2)", Decimal("1.105"), Decimal(2), Decimal("1.11")),
    Case("real", 1.5, -2.5),
    Case("double precision", float("inf"), 2.5),
    Case("boolean", True, False),
    Case("text", "a'\"\\ü", "b"),
    Case("varchar", "a", "b"),
    Case("varchar(3)", "abc", "b"),
    Case("char(3)", "a", "b", "a  "),
    Case('"char"', b"a", b"b"),
    Case("name", "a", "b"),
    Case("bytea", b"\0x", b"y"),
    Case("word", "a", "b"),
    Case("price", Decimal("1.105"), Decimal(2), Decimal("1.11")),
    Case("nested", Decimal("1.10"), Decimal(2)),
    Case("mood", "sad", "ok"),
    Case("date", DAY, dt.date(9999, 12, 31)),
    Case("time", dt.time(1, 2, 3, 4), dt.time(2)),
    Case("timetz", dt.time(1, 2, tzinfo=UTC), dt.time(2, tzinfo=UTC)),
    Case("timestamp", MOMENT, MOMENT.replace(year=2021)),
    Case("timestamptz", INSTANT, INSTANT.replace(year=2021)),
    Case("interval", dt.timedelta(days=1), dt.timedelta(seconds=2)),
    Case("uuid", uuid.UUID(int=1), uuid.UUID(int=2)),
    Case("json", {"a": [1, "ü"]}, [1], '{"a":[1,"ü"]}'),
    Case("jsonb", {"a": [1, None]}, [1], '{"a": [1, null]}'),
    Case("jsonb", '{"a": 1}', "2"),
    Case("integer[]", [1, None], [3]),
    Case("integer[]", [[1, 2], [3, 4]], []),
    Case("text[]", ["a", None], ["b"]),
    Case("mood[]", ["sad"], ["ok"]),
    Case("word[]", ["a"], ["b"]),
    Case("int4range", asyncpg.Range(1, 5), asyncpg.Range(2, 7)),
    Case("inet", ipaddress.ip_address("1.2.3.4"), ipaddress.ip_address("::1")),
    Case("cidr", ipaddress.ip_network("1.2.3.0/24"), ipaddress.ip_network("::/8")),
    Case("macaddr", "08:00:2b:01:02:03", "08:00:2b:01:02:04"),
    Case("point", asyncpg.Point(1, 2), asyncpg.Point(3, 4)),
    Case(
        "box",
        asyncpg.Box(asyncpg.Point(3, 4), asyncpg.Point(1, 2)),
        asyncpg.Box(asyncpg.Point(3, 5), asyncpg.Point(1, 2)),
    ),
    Case("circle", CIRCLE((1, 2), 3), CIRCLE((1, 2), 4)),
    Case("bit(3)", BITS("101"), BITS("111")),
    Case("varbit", BITS("101"), BITS("11")),
    Case("xml", "<a/>", "<b/>"),
    Case("money", "$1.00", "$2.00"),
    Case("oid", 5, 2**32 - 1),
    Case("regclass", "pg_class", "pg_type"),
    Case("tsvector", "'a':1", "'b':1"),
    Case("pair", (1, "x"), (2, None)),
]
# "=" is not defined for these, and regclass looks its own values up by name.
NO_KEYS: Final = {"json", "point", "xml"}
KEYS: Final = [case for case in CASES if case.type not in NO_KEYS]


def case_id(case: Case) -> str:
    return f"{case.type}={case.one}"


async def has_xml(pg: PostgresDatabase) -> bool:
    """Tell whether the server was built with XML; not every one is."""
    try:
        return bool(await pg.query("SELECT '<a/>'::xml"))
    except asyncpg.FeatureNotSupportedError:
        return False


@pytest.mark.parametrize("case", CASES, ids=case_id)
async def test_a_value_is_stored_and_found_unchanged(
    pg: PostgresDatabase, case: Case
) -> None:
    await pg.run(f"{TYPES}; CREATE TABLE t (id integer PRIMARY KEY, v {case.type})")

    async def store(value: Any) -> tuple[Action, Any]:
        result = await create_or_update(
            pg.handle,
            "t",
            key={"id": 1},
            defaults={"v": value},
            skip_unchanged=True,
            returning="v",
        )
        assert result.row is not None
        return result.action, result.row["v"]

    if case.type == "xml" and not await has_xml(pg):
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="XML"):
            await store(case.one)
        return
    if error := refusal(pg.handle, case.type, case.one):
        with pytest.raises(error):
            await store(case.one)
        assert await pg.query("SELECT * FROM t") == []
        return
    created, stored = await store(case.one)
    version = await pg.query("SELECT xmin::text FROM t")
    assert (created, await store(case.one)) == (
        Action.CREATED,
        (Action.UNCHANGED, stored),
    )
    assert await pg.query("SELECT xmin::text FROM t") == version
    assert stored == (case.one if case.stored is None else case.stored)
    assert [(await store(value))[0] for value in (case.other, None, None)] == [
        Action.UPDATED,
        Action.UPDATED,
        Action.UNCHANGED,
    ]


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("case", KEYS, ids=case_id)
async def test_a_key_finds_the_row_it_created(
    pg: PostgresDatabase, case: Case, strategy: Any
) -> None:
    await pg.run(f"{TYPES}; CREATE TABLE t (k {case.type}, n integer DEFAULT 0)")

    async def call(value: Any) -> Action:
        result = await create_or_update(
            pg.handle,
            "t",
            key={"k": value},
            defaults={"n": F("n") + 1},
            without_unique_index="allow",
            strategy=strategy,
        )
        return result.action

    if error := refusal(pg.handle, case.type, case.one):
        with pytest.raises(error):
            await call(case.one)
        assert await pg.query("SELECT * FROM t") == []
        return
    for value in (case.one, case.other):
        actions = [await call(value) for _ in range(2)]
        assert actions == [Action.CREATED, Action.UPDATED]
    assert await pg.query("SELECT n FROM t") == [(2,), (2,)]


@pytest.mark.parametrize("kind", sorted(NO_KEYS))
async def test_a_type_without_equality_is_the_databases_error(
    pg: PostgresDatabase, kind: str
) -> None:
    await pg.run(f"CREATE TABLE t (k {kind}, n integer)")
    value = {"json": {}, "point": asyncpg.Point(1, 2), "xml": "<a/>"}[kind]
    with pytest.raises(asyncpg.UndefinedFunctionError):
        await create_or_update(
            pg.handle, "t", key={"k": value}, without_unique_index="allow"
        )
    assert await pg.handle.fetchval("SELECT 1") == 1


async def test_a_codec_of_the_caller_is_used(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (id integer PRIMARY KEY, v jsonb)")
    await pg.handle.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
    for value in ({"a": 1}, [1, 2], "text", 5):
        result = await create_or_update(
            pg.handle, "t", key={"id": 1}, defaults={"v": value}, returning="v"
        )
        assert result.row == {"v": value}


async def test_an_odd_codec_does_not_disturb_the_description(
    pg: PostgresDatabase,
) -> None:
    await pg.run("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    for kind in ("json", "jsonb", "text", *NAME, "oid", "bool"):
        await pg.handle.set_type_codec(
            kind, encoder=str, decoder=lambda text: text, schema="pg_catalog"
        )
    result = await create_or_update(
        pg.handle, "t", key={"id": 1}, defaults={"v": "x"}, returning="*"
    )
    assert result.row == {"id": 1, "v": "x"}


ROUNDED: Final = [
    ("numeric(5,2)", Decimal("1.105")),
    ("numeric(5,0)", Decimal("2.5")),
    ("price", Decimal("1.105")),
    ("timestamp(0)", MOMENT),
    ("timestamp(3)", MOMENT),
    ("timestamptz(0)", INSTANT),
    ("timestamptz(3)", INSTANT),
    ("time(0)", dt.time(1, 2, 3, 600000)),
    ("timetz(1)", dt.time(1, 2, 3, 660000, tzinfo=UTC)),
    ("interval(0)", dt.timedelta(seconds=1, microseconds=600000)),
]


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize(("kind", "value"), ROUNDED, ids=[k for k, _ in ROUNDED])
async def test_a_key_that_the_column_rounds_finds_its_row(
    pg: PostgresDatabase, kind: str, value: Any, strategy: Any
) -> None:
    await pg.run(f"{TYPES}; CREATE TABLE t (k {kind} PRIMARY KEY, n integer)")
    results = [
        await create_or_update(
            pg.handle, "t", key={"k": value}, defaults={"n": n}, strategy=strategy
        )
        for n in (1, 2)
    ]
    assert [r.action for r in results] == [Action.CREATED, Action.UPDATED]
    assert await pg.query("SELECT n FROM t") == [(2,)]


async def test_a_key_that_is_too_long_never_finds_a_shorter_one(
    pg: PostgresDatabase,
) -> None:
    await pg.run(
        "CREATE TABLE t (k varchar(3) PRIMARY KEY, n integer);"
        " INSERT INTO t VALUES ('abc', 0)"
    )
    with pytest.raises(asyncpg.StringDataRightTruncationError):
        await create_or_update(pg.handle, "t", key={"k": "abcd"}, defaults={"n": 1})
    assert await pg.query("SELECT * FROM t") == [("abc", 0)]


REFUSED: Final = [
    ("integer", 5.5, "whole numbers"),
    ("bigint", Decimal("5.5"), "whole numbers"),
    ("smallint", float("nan"), "whole numbers"),
    ("date", MOMENT, "time of day"),
    ("timestamptz", MOMENT, "time zone"),
    ("timestamptz", DAY, "time zone"),
    ("time", dt.time(1, tzinfo=UTC), "time zone"),
    ("timetz", dt.time(1), "time zone"),
    ("numeric", 1.1, r'Decimal\("1.1"\)'),
    ("varchar(3)", "abc ", "3 characters"),
]


@pytest.mark.parametrize(("kind", "value", "why"), REFUSED)
async def test_a_key_that_would_be_changed_is_refused(
    pg: PostgresDatabase, kind: str, value: Any, why: str
) -> None:
    await pg.run(f"CREATE TABLE t (k {kind} PRIMARY KEY, n integer)")
    with pytest.raises(UsageError, match=why) as refused:
        await create_or_update(pg.handle, "t", key={"k": value}, defaults={"n": 1})
    assert "key['k']" in str(refused.value)
    assert await pg.query("SELECT * FROM t") == []


FITTING: Final = [
    ("integer", 5.0),
    ("integer", Decimal(5)),
    ("integer", True),
    ("numeric", 1.5),
    ("numeric", 3),
    ("numeric", float("nan")),
    ("double precision", float("nan")),
    ("timestamp", DAY),
    ("varchar(3)", "abc"),
    ("char(3)", "abc  "),
    ("timestamptz", INSTANT),
    ("timetz", dt.time(1, tzinfo=UTC)),
    ("time", dt.time(1)),
    ("date", DAY),
]


@pytest.mark.parametrize(("kind", "value"), FITTING)
async def test_a_key_that_fits_is_taken(
    pg: PostgresDatabase, kind: str, value: Any
) -> None:
    await pg.run(f"CREATE TABLE t (k {kind} PRIMARY KEY, n integer)")
    for created in (True, False):
        result = await create_or_update(
            pg.handle, "t", key={"k": value}, defaults={"n": 1}
        )
        assert result.created is created
