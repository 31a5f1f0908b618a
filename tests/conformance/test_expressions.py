"""The same expression gives the same value on both engines, or is refused on both."""

import datetime as dt
import decimal
import json
import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import hypothesis
import pytest
from hypothesis import strategies as st

from aioupsert import (
    DEFAULT,
    SQL,
    Action,
    Excluded,
    Expression,
    F,
    UsageError,
    case,
    coalesce,
    create_or_update,
    func,
    get_or_create,
    greatest,
    least,
    length,
    like,
    lower,
    now,
    nullif,
    upper,
)
from tests.support.databases import (
    Database,
    PostgresDatabase,
    SQLiteDatabase,
    open_postgresql,
    open_sqlite,
)
from tests.support.versions import refusal

# Expressions are written once for all kinds of connection, so one of each engine will do.
TABLE = """
    CREATE TABLE t (
        id INTEGER PRIMARY KEY,
        i INTEGER, j INTEGER, big BIGINT, r DOUBLE PRECISION, n NUMERIC(20, 5),
        t TEXT, u TEXT, v VARCHAR(20), flag BOOLEAN, flag2 BOOLEAN,
        data JSON, more JSONB, day DATE, raw {bytes},
        out_i BIGINT, out_r DOUBLE PRECISION, out_n NUMERIC, out_t TEXT,
        out_b BOOLEAN, out_d JSONB, out_raw {bytes}
    )
"""


@pytest.fixture(params=["postgresql", "sqlite"])
async def engine(
    request: pytest.FixtureRequest, lite_path: Path
) -> AsyncIterator[Database]:
    """A database of each engine in turn, with the table."""
    if request.param == "sqlite":
        async with open_sqlite(lite_path) as sqlite:
            await sqlite.run(TABLE.format(bytes="BLOB"))
            yield sqlite
    else:
        server = request.getfixturevalue("pg_server")
        async with open_postgresql(server.dsn, "asyncpg") as postgresql:
            await postgresql.run(TABLE.format(bytes="BYTEA"))
            yield postgresql


@pytest.fixture
async def both(pg: PostgresDatabase, lite: SQLiteDatabase) -> tuple[Database, Database]:
    """A database of each engine, with the table."""
    await pg.run(TABLE.format(bytes="BYTEA"))
    await lite.run(TABLE.format(bytes="BLOB"))
    return pg, lite


class Case(NamedTuple):
    name: str
    stored: dict[str, Any]
    value: Expression
    expected: Any


def params(
    *cases: tuple[str, dict[str, Any], Expression, Any],
) -> pytest.MarkDecorator:
    """The cases of a test, by their names."""
    return pytest.mark.parametrize(
        "case", [pytest.param(Case(*case), id=case[0]) for case in cases]
    )


async def evaluate(database: Database, case: Case, out: str) -> Any:
    """The value that an update stores."""
    key = {"id": 1}
    await create_or_update(database.handle, "t", key=key, create_defaults=case.stored)
    result = await create_or_update(
        database.handle, "t", key=key, defaults={out: case.value}, returning=out
    )
    assert result.action is Action.UPDATED
    assert result.row is not None
    return result.row[out]


i, j, big, r, n = F("i"), F("j"), F("big"), F("r"), F("n")
t, u, v, flag, flag2 = F("t"), F("u"), F("v"), F("flag"), F("flag2")
data, more, raw = F("data"), F("more"), F("raw")


@params(
    ("plus", {"i": 5}, i + 2, 7),
    ("minus", {"i": 5}, i - 7, -2),
    ("times", {"i": -5}, i * 3, -15),
    ("divided", {"i": 7}, i / 2, 3),
    ("a negative divided", {"i": -7}, i / 2, -3),
    ("divided by a negative", {"i": 7}, i / -2, -3),
    ("both negative, divided", {"i": -7}, i / -2, 3),
    ("remainder", {"i": 7}, i % 3, 1),
    ("remainder of a negative", {"i": -7}, i % 3, -1),
    ("remainder by a negative", {"i": 7}, i % -3, 1),
    ("remainder of both negative", {"i": -7}, i % -3, -1),
    ("divided by zero", {"i": 7, "j": 0}, i / j, None),
    ("divided by a literal zero", {"i": 7}, i / 0, None),
    ("zero by zero", {"i": 0}, i / 0, None),
    ("remainder by zero", {"i": 7, "j": 0}, i % j, None),
    ("remainder by a literal zero", {"i": 7}, i % 0, None),
    ("NULL plus", {"i": None}, i + 1, None),
    ("plus NULL", {"i": 1}, i + None, None),
    ("minus NULL", {"i": 1, "j": None}, i - j, None),
    ("times NULL", {"i": 0, "j": None}, i * j, None),
    ("divided by NULL", {"i": 1, "j": None}, i / j, None),
    ("NULL by zero", {"i": None}, i / 0, None),
    ("remainder by NULL", {"i": 1, "j": None}, i % j, None),
    ("reflected plus", {"i": 5}, 1 + i, 6),
    ("reflected minus", {"i": 3}, 10 - i, 7),
    ("reflected times", {"i": 3}, 10 * i, 30),
    ("reflected division", {"i": 3}, 10 / i, 3),
    ("reflected division by zero", {"i": 0}, 10 / i, None),
    ("reflected remainder", {"i": 3}, 10 % i, 1),
    ("nested", {"i": 2, "j": 3}, (i + j) * (i - j) - 1, -6),
    ("nested to the right", {"i": 2, "j": 3}, i - (j - (i - 1)), 0),
    ("divisions in a row", {"i": 100}, i / 3 / 4, 8),
    ("multiplied after division", {"i": 7}, i / 2 * 2, 6),
    ("multiplied before division", {"i": 7}, 2 * i / 2, 7),
    ("64-bit literal", {"big": 1}, big + 2**62, 2**62 + 1),
    ("64-bit column", {"big": -(2**63)}, big + 1, -(2**63) + 1),
    ("64-bit product", {"big": 3_000_000_000}, big * 3, 9_000_000_000),
    ("64-bit literal on a small column", {"i": 1}, i + 2**40, 2**40 + 1),
    ("64-bit division", {"i": 7}, 2**40 / i, 2**40 // 7),
    ("division stays whole in coalesce", {"j": 7}, coalesce(i, j) / 2, 3),
    ("division stays whole in greatest", {"i": 7, "j": 3}, greatest(i, j) / 2, 3),
    ("division of a length", {"t": "abcde"}, length(t) / 2, 2),
)
async def test_integers(engine: Database, case: Case) -> None:
    assert await evaluate(engine, case, "out_i") == case.expected


@params(
    ("plus", {"r": 1.5}, r + 1, 2.5),
    ("minus", {"r": 1.5}, r - 0.25, 1.25),
    ("times", {"r": -1.5}, r * 2, -3.0),
    ("divided", {"r": 7.0}, r / 2, 3.5),
    ("a whole float is divided really", {"r": 1.0}, r / 2, 0.5),
    ("an integer by a float", {"i": 7}, i / 2.0, 3.5),
    ("an integer by a float column", {"i": 7, "r": 2.0}, i / r, 3.5),
    ("a float by an integer column", {"i": 2, "r": 7.0}, r / i, 3.5),
    ("reflected division", {"r": 2.0}, 7 / r, 3.5),
    ("divided by zero", {"r": 7.0}, r / 0, None),
    ("divided by a float zero", {"r": 7.0}, r / 0.0, None),
    ("an integer by a float zero", {"i": 7}, i / 0.0, None),
    ("NULL plus", {"r": None}, r + 1.5, None),
    ("divided by NULL", {"i": None, "r": 1.0}, r / i, None),
    ("an integer and a float", {"i": 2}, i * 1.5, 3.0),
    ("division in coalesce", {"r": None}, coalesce(r, 7) / 2, 3.5),
    ("division in greatest", {"i": 7, "r": 1.0}, greatest(i, r) / 2, 3.5),
    ("division of a sum", {"i": 2, "r": 1.0}, (i + r) / 2, 1.5),
    ("a small one", {"r": 5e-324}, r + 0, 5e-324),
    ("a large one", {"r": 1e308}, r + 0, 1e308),
    ("tenths", {"r": 0.1}, r + 0.2, 0.1 + 0.2),
)
async def test_floats(engine: Database, case: Case) -> None:
    assert await evaluate(engine, case, "out_r") == case.expected


@params(
    ("plus", {"n": 1.5}, n + 1, 2.5),
    ("minus", {"n": 1.5}, n - 3, -1.5),
    ("times", {"n": 1.5}, n * 2, 3),
    ("times a float", {"n": 1.5}, n * 0.5, 0.75),
    ("a whole one is divided really", {"n": 7}, n / 2, 3.5),
    ("by a whole one", {"i": 7, "n": 2}, i / n, 3.5),
    ("by zero", {"n": 7}, n / 0, None),
    ("by its own zero", {"n": 0}, 1 / n, None),
    ("NULL", {"n": None}, n + 1, None),
    ("reflected", {"n": 1.5}, 2 - n, 0.5),
    ("in coalesce", {"n": None}, coalesce(n, 0) + 1, 1),
    ("in greatest", {"n": 1.5}, greatest(n, 1), 1.5),
    ("in least", {"n": 1.5, "i": 1}, least(n, i), 1),
)
async def test_numeric(engine: Database, case: Case) -> None:
    assert await evaluate(engine, case, "out_n") == case.expected


@params(
    ("less", {"i": 1}, i < 2, True),
    ("not less", {"i": 2}, i < 2, False),
    ("less or equal", {"i": 2}, i <= 2, True),
    ("greater", {"i": 2}, i > 2, False),
    ("greater or equal", {"i": 2}, i >= 2, True),
    ("equal", {"i": 2}, i == 2, True),
    ("equal to a float", {"i": 2}, i == 2.0, True),
    ("unequal", {"i": 2}, i != 2, False),
    ("reflected", {"i": 2}, 3 > i, True),  # noqa: SIM300  # the reflected operator is what is tested
    ("columns", {"i": 2, "j": 3}, i < j, True),
    ("an integer and a float column", {"i": 2, "r": 1.5}, i > r, True),
    ("NULL less", {"i": None}, i < 2, None),
    ("less than NULL", {"i": 1, "j": None}, i < j, None),
    ("NULL equal", {"i": None}, i == 1, None),
    ("NULL unequal", {"i": None}, i != 1, None),
    ("NULL equal to NULL", {"i": None, "j": None}, i == j, None),
    ("NULL == None", {"i": None}, i == None, True),  # noqa: E711  # the operator is what is tested
    ("NULL != None", {"i": None}, i != None, False),  # noqa: E711  # as above
    ("a value == None", {"i": 0}, i == None, False),  # noqa: E711  # as above
    ("a value != None", {"i": 0}, i != None, True),  # noqa: E711  # as above
    ("NULL is null", {"i": None}, i.is_null(), True),
    ("a value is null", {"i": 0}, i.is_null(), False),
    ("an expression is null", {"i": None}, (i + 1).is_null(), True),
    ("upper before lower case", {"t": "a"}, t < "B", False),
    ("Z before a", {"t": "Z"}, t < "a", True),
    ("an accent after every letter", {"t": "é"}, t > "z", True),
    ("beyond the basic plane", {"t": "\U0001f600"}, t > "\uffff", True),
    ("a prefix is less", {"t": "ab"}, t < "abc", True),
    ("the empty text is least", {"t": ""}, t < " ", True),
    ("a space before a letter", {"t": "a b"}, t < "ab", True),
    ("a hyphen before a letter", {"t": "a-b"}, t < "aa", True),
    ("text <= itself", {"t": "é"}, t <= "é", True),
    ("text >= itself", {"t": "é"}, t >= "é", True),
    ("text columns", {"t": "a", "u": "B"}, t > u, True),
    ("varchar", {"v": "a"}, v > "B", True),
    ("case differs", {"t": "a"}, t == "A", False),
    ("trailing space differs", {"t": "a"}, t == "a ", False),
    ("composed differs from decomposed", {"t": "\u00e9"}, t == "e\u0301", False),
    ("a text expression", {"t": "a"}, t.concat("b") < "aB", False),
    ("text of two literals", {}, coalesce("a") < "B", False),
    ("text and NULL", {"t": "a"}, t < None, None),
    ("bytes", {"raw": b"\xff"}, raw > b"\x00\xff", True),
    ("equal bytes", {"raw": b"\x00"}, raw == b"\x00", True),
    ("among", {"i": 2}, i.in_([1, 2]), True),
    ("not among", {"i": 3}, i.in_([1, 2]), False),
    ("NULL among", {"i": None}, i.in_([1, 2]), None),
    ("among nothing", {"i": 1}, i.in_([]), False),
    ("NULL among nothing", {"i": None}, i.in_([]), False),
    ("NULL among a None", {"i": None}, i.in_([1, None]), True),
    ("among values and a None", {"i": 1}, i.in_([1, None]), True),
    ("not among values and a None", {"i": 2}, i.in_([1, None]), False),
    ("among a None only", {"i": None}, i.in_([None]), True),
    ("a value among a None only", {"i": 1}, i.in_([None]), False),
    ("among columns", {"i": 1, "j": 1}, i.in_([j, 5]), True),
    ("among texts", {"t": "b"}, t.in_(["a", "b"]), True),
    ("among a generator", {"t": "b"}, t.in_(x for x in "ab"), True),
    ("an expression among", {"i": 1}, (i + 1).in_([2]), True),
    ("not, among", {"i": 3}, ~i.in_([1, 2]), True),
    ("not, NULL among", {"i": None}, ~i.in_([1, 2]), None),
    ("not, NULL among nothing", {"i": None}, ~i.in_([]), True),
    ("greatest compared", {"i": 1, "j": None}, greatest(i, j) == 1, True),
    ("least compared", {"t": "a", "u": "B"}, least(t, u) == "B", True),
    ("coalesce compared", {"i": None}, coalesce(i, 0) < 1, True),
    ("coalesce of NULLs compared", {"i": None, "j": None}, coalesce(i, j) < 1, None),
    ("length compared", {"t": "é"}, length(t) == 1, True),
    ("merged compared", {"more": {}}, more.merge({"a": 1}).is_null(), False),
    ("true", {"flag": True}, flag & True, True),
    ("true == True", {"flag": True}, flag == True, True),  # noqa: E712  # as above
    ("false == True", {"flag": False}, flag == True, False),  # noqa: E712  # as above
    ("NULL == True", {"flag": None}, flag == True, None),  # noqa: E712  # as above
    ("false != True", {"flag": False}, flag != True, True),  # noqa: E712  # as above
    ("false < true", {"flag": False, "flag2": True}, flag < flag2, True),
    ("equal booleans", {"flag": False, "flag2": False}, flag == flag2, True),
    ("boolean among", {"flag": False}, flag.in_([True, None]), False),
    ("coalesced boolean", {"flag": None}, coalesce(flag, False), False),
    ("greatest boolean", {"flag": False}, greatest(flag, True), True),
    ("not", {"flag": True}, ~flag, False),
    ("not NULL", {"flag": None}, ~flag, None),
    ("a condition and a column", {"i": 1, "flag": True}, (i > 0) & flag, True),
    ("reflected and", {"flag": True}, True & flag, True),
    ("reflected or", {"flag": None}, True | flag, True),
    ("and NULL", {"flag": True}, flag & None, None),
    ("a comparison of comparisons", {"i": 1, "j": 2}, (i < 2) == (j < 2), False),
    ("nested", {"i": 1, "j": 2}, ~((i > 1) | (j > 2)) & (i < j), True),
    ("between", {"i": 5}, (i >= 1) & (i <= 5), True),
    ("like the beginning", {"t": "abc"}, like(t, "ab%"), True),
    ("not like the beginning", {"t": "xabc"}, like(t, "ab%"), False),
    ("like a part", {"t": "xabcx"}, like(t, "%abc%"), True),
    ("like one character", {"t": "a☃c"}, like(t, "a_c"), True),
    ("like tells cases apart", {"t": "ABC"}, like(t, "abc"), False),
    ("like in small letters", {"t": "ABC"}, like(lower(t), "a%"), True),
    ("like a newline", {"t": "a\nc"}, like(t, "a%c"), True),
    ("like a percent sign", {"t": "5%"}, like(t, r"5\%"), True),
    ("not like a percent sign", {"t": "5x"}, like(t, r"5\%"), False),
    ("like an underline", {"t": "a_b"}, like(t, r"a\_b"), True),
    ("like a backslash", {"t": "a\\b"}, like(t, "a\\\\b"), True),
    ("like an escaped letter", {"t": "ab"}, like(t, r"\a\b"), True),
    ("like what GLOB takes for more", {"t": "a*b?[c]"}, like(t, "a*b?[c]"), True),
    ("not like what GLOB takes", {"t": "axb"}, like(t, "a*b"), False),
    ("not like a set", {"t": "a"}, like(t, "[a]"), False),
    ("like escaped stars", {"t": "*?["}, like(t, r"\*\?\["), True),
    ("like nothing", {"t": ""}, like(t, ""), True),
    ("NULL like", {"t": None}, like(t, "%"), None),
    ("not like", {"t": "b"}, ~like(t, "a%"), True),
    ("trailing spaces", {"t": "a "}, like(t, "a"), False),
    ("case of conditions", {"i": 1}, case((i > 0, i > 5), else_=True), False),
)
class TestConditions:
    async def test_as_a_value(self, engine: Database, case: Case) -> None:
        assert await evaluate(engine, case, "out_b") == case.expected

    async def test_as_where_updates_only_if_true(
        self, engine: Database, case: Case
    ) -> None:
        key = {"id": 1}
        await create_or_update(engine.handle, "t", key=key, create_defaults=case.stored)
        result = await create_or_update(
            engine.handle, "t", key=key, defaults={"out_i": 1}, where=case.value
        )
        assert result.action is (Action.UPDATED if case.expected else Action.SKIPPED)


@pytest.mark.parametrize("one", [True, False, None])
@pytest.mark.parametrize("other", [True, False, None])
async def test_three_valued_logic(
    engine: Database, *, one: bool | None, other: bool | None
) -> None:
    known = {one, other}
    both = False if False in known else None if None in known else True
    either = True if True in known else None if None in known else False
    stored = {"flag": one, "flag2": other}
    for value, expected in (
        (flag & flag2, both),
        (flag | flag2, either),
        (~flag | ~flag2, None if both is None else not both),
    ):
        case = Case("", stored, value, expected)
        assert await evaluate(engine, case, "out_b") == expected


@params(
    ("first", {"i": 1, "j": 2}, coalesce(i, j), 1),
    ("second", {"i": None, "j": 2}, coalesce(i, j), 2),
    ("literal", {"i": None}, coalesce(i, 0), 0),
    ("all NULL", {"i": None, "j": None}, coalesce(i, j), None),
    ("one value", {"i": 1}, coalesce(i), 1),
    ("one NULL", {"i": None}, coalesce(i), None),
    ("None first", {"i": 1}, coalesce(None, i), 1),
    ("None only", {}, coalesce(None), None),
    ("three", {"i": None, "j": None}, coalesce(i, j, 3), 3),
    ("in arithmetic", {"i": None}, coalesce(i, 0) + 1, 1),
    ("greatest", {"i": 1}, greatest(i, 5), 5),
    ("greatest of one", {"i": 1}, greatest(i), 1),
    ("greatest with NULL", {"i": None, "j": 2}, greatest(i, j), 2),
    ("greatest with NULL last", {"i": 2, "j": None}, greatest(i, j), 2),
    ("greatest of three", {"i": None, "j": 2}, greatest(i, j, 7), 7),
    ("greatest of three, NULLs", {"i": None, "j": None}, greatest(i, 7, j), 7),
    ("greatest of NULLs", {"i": None, "j": None}, greatest(i, j), None),
    ("greatest with None", {"i": 1}, greatest(i, None), 1),
    ("greatest of negatives", {"i": -1}, greatest(i, -5), -1),
    ("least", {"i": 1}, least(i, 5), 1),
    ("least of one NULL", {"i": None}, least(i), None),
    ("least with NULL", {"i": None, "j": 2}, least(i, j), 2),
    ("least of three", {"i": 9, "j": None}, least(i, j, 7), 7),
    ("least of NULLs", {"i": None, "j": None}, least(i, j), None),
    ("the first case", {"i": 5}, case((i > 3, 1), (i > 1, 2), else_=3), 1),
    ("the second case", {"i": 2}, case((i > 3, 1), (i > 1, j), else_=3), None),
    ("no case", {"i": 0}, case((i > 3, 1), (i > 1, 2), else_=3), 3),
    ("no case and no else", {"i": 0}, case((i > 3, 1)), None),
    ("case of NULL", {"i": None}, case((i > 3, 1), else_=j), None),
    ("case of a column", {"flag": True, "i": 7}, case((flag, i), else_=0), 7),
    ("case of nothing but None", {"i": 1}, case((i > 0, None), else_=None), None),
    ("case in arithmetic", {"i": 7}, case((i > 0, i), else_=0) / 2, 3),
    ("case in case", {"i": 1}, case((i > 0, case((i > 1, 1), else_=2))), 2),
    ("nullif", {"i": 1}, nullif(i, 1), None),
    ("nullif of another", {"i": 1}, nullif(i, 2), 1),
    ("nullif of NULL", {"i": None}, nullif(i, 2), None),
    ("nullif None", {"i": 1}, nullif(i, None), 1),
    ("nullif of columns", {"i": 1, "j": 1}, nullif(i, j), None),
    ("nullif in coalesce", {"i": 0}, coalesce(nullif(i, 0), 9), 9),
    ("nullif of a sum", {"i": 1}, nullif(i + 1, 2) + 1, None),
    ("nested", {"i": None, "j": 4}, greatest(least(i, j), 3), 4),
    ("clamped", {"i": 99}, least(greatest(i, 0), 10), 10),
)
async def test_choices(engine: Database, case: Case) -> None:
    assert await evaluate(engine, case, "out_i") == case.expected


@params(
    ("coalesce", {"t": None}, coalesce(t, "x"), "x"),
    ("coalesce columns", {"t": None, "v": "x"}, coalesce(t, v), "x"),
    ("case", {"t": "a"}, case((t == "a", "x"), else_=u), "x"),
    ("case of a column", {"u": "y"}, case((t == "a", "x"), else_=u), "y"),
    ("nullif", {"t": ""}, nullif(t, ""), None),
    ("nullif tells cases apart", {"t": "A"}, nullif(t, "a"), "A"),
    ("greatest by code point", {"t": "a"}, greatest(t, "B"), "a"),
    ("least by code point", {"t": "a"}, least(t, "B"), "B"),
    ("greatest with an accent", {"t": "é"}, greatest(t, "z"), "é"),
    ("greatest with NULL", {"t": None}, greatest(t, "B"), "B"),
    ("greatest with None", {"t": "a"}, greatest(None, t), "a"),
    ("least with NULL", {"t": "a", "u": None}, least(t, u, "b"), "a"),
    ("least of NULLs", {"t": None, "u": None}, least(t, u), None),
    ("greatest of literals", {}, greatest("a", "B"), "a"),
    ("lower", {"t": "AbC"}, lower(t), "abc"),
    ("upper", {"t": "aBc"}, upper(t), "ABC"),
    ("lower leaves other letters", {"t": "ÀÉÏ Ω Ж İ"}, lower(t), "ÀÉÏ Ω Ж İ"),
    ("upper leaves other letters", {"t": "àéï ß ω ж ŉ"}, upper(t), "àéï ß ω ж ŉ"),
    ("lower NULL", {"t": None}, lower(t), None),
    ("lower of a literal", {}, lower("AÉ"), "aÉ"),
    ("upper of an expression", {"t": "a"}, upper(t.concat("b")), "AB"),
    ("concat", {"t": "a"}, t.concat("b"), "ab"),
    ("concat nothing", {"t": "a"}, t.concat(), "a"),
    ("concat several", {"t": "a", "u": "c"}, t.concat("b", u, "d"), "abcd"),
    ("concat an integer", {"t": "a", "i": -5}, t.concat(i), "a-5"),
    ("concat a literal integer", {"t": "a"}, t.concat(7), "a7"),
    ("concat to an integer", {"i": 5}, i.concat("a"), "5a"),
    ("concat integers", {"i": 5, "j": 6}, i.concat(j), "56"),
    ("concat a large integer", {"big": -(2**63)}, big.concat("!"), f"{-(2**63)}!"),
    ("concat a sum", {"i": 5}, (i + 1).concat(i), "65"),
    ("concat a NULL", {"t": "a", "u": None}, t.concat(u), None),
    ("concat None", {"t": "a"}, t.concat(None), None),
    ("concat to NULL", {"t": None}, t.concat("a"), None),
    ("concat unicode", {"t": "ü"}, t.concat("☃\U0001f600"), "ü☃\U0001f600"),
    ("concat quotes", {"t": "'"}, t.concat('"', "?", "$1", "{}"), "'\"?$1{}"),
    ("concat a length", {"t": "abc"}, t.concat(length(t)), "abc3"),
)
async def test_text(engine: Database, case: Case) -> None:
    assert await evaluate(engine, case, "out_t") == case.expected


@params(
    ("ASCII", {"t": "abc"}, length(t), 3),
    ("the empty text", {"t": ""}, length(t), 0),
    ("multi-byte", {"t": "ü☃\U0001f600"}, length(t), 3),
    ("combining", {"t": "e\u0301"}, length(t), 2),
    ("trailing spaces", {"t": "a  "}, length(t), 3),
    ("NULL", {"t": None}, length(t), None),
    ("bytes", {"raw": b"\x00\xff\x00"}, length(raw), 3),
    ("no bytes", {"raw": b""}, length(raw), 0),
    ("a literal", {}, length("ü"), 1),
    ("literal bytes", {}, length(b"\x00\x00"), 2),
    ("an integer as text", {"i": -12}, length(i.concat("")), 3),
)
async def test_length(engine: Database, case: Case) -> None:
    assert await evaluate(engine, case, "out_i") == case.expected


# Of every kind, under names of one letter.
MEMBERS: dict[str, Any] = dict(
    zip(
        "abcdefghij",
        [True, False, None, -1, 2**53, 1.5, 1e-7, [1, "x", []], {"a": {}}, ""],
        strict=True,
    )
)


@params(
    ("add a member", {"more": {"a": 1}}, more.merge({"b": 2}), {"a": 1, "b": 2}),
    ("replace a member", {"more": {"a": 1}}, more.merge({"a": 2}), {"a": 2}),
    ("nothing", {"more": {"a": 1}}, more.merge({}), {"a": 1}),
    ("into nothing", {"more": {}}, more.merge({"a": 1}), {"a": 1}),
    (
        "nested objects are replaced",
        {"more": {"a": {"x": 1}, "b": {"y": [1, {"z": None}]}}},
        more.merge({"a": {"w": 2}}),
        {"a": {"w": 2}, "b": {"y": [1, {"z": None}]}},
    ),
    (
        "null members stay",
        {"more": {"a": None}},
        more.merge({"b": 1}),
        {"a": None, "b": 1},
    ),
    ("null replaces", {"more": {"a": 1}}, more.merge({"a": None}), {"a": None}),
    (
        "every kind of member",
        {"more": MEMBERS},
        more.merge({name.upper(): value for name, value in MEMBERS.items()}),
        MEMBERS | {name.upper(): value for name, value in MEMBERS.items()},
    ),
    (
        "texts that look like JSON",
        {"more": {"a": "null", "b": "[1]", "c": '{"x": 1}', "d": "1"}},
        more.merge({"e": "true", "f": '"'}),
        {"a": "null", "b": "[1]", "c": '{"x": 1}', "d": "1", "e": "true", "f": '"'},
    ),
    (
        "unicode and quotes",
        {"more": {"ü\"'\\": "☃\n", "": "\U0001f600"}},
        more.merge({"ü\"'\\": 1, "\t": "\\u0041"}),
        {"ü\"'\\": 1, "": "\U0001f600", "\t": "\\u0041"},
    ),
    (
        "names that look like paths",
        {"more": {"a.b": 1, "$.x": 2, "[0]": 3, "0": 4}},
        more.merge({"$": 5, "[0]": 6}),
        {"a.b": 1, "$.x": 2, "[0]": 6, "0": 4, "$": 5},
    ),
    (
        "a 64-bit number",
        {"more": {"a": 2**63 - 1}},
        more.merge({"b": -(2**63)}),
        {"a": 2**63 - 1, "b": -(2**63)},
    ),
    ("an array is replaced", {"more": [1]}, more.merge({"a": 1}), {"a": 1}),
    ("a number is replaced", {"more": SQL("'5'")}, more.merge({"a": 1}), {"a": 1}),
    ("JSON null is replaced", {"more": SQL("'null'")}, more.merge({"a": 1}), {"a": 1}),
    ("a text replaces", {"more": {"a": 1}}, more.merge('"x"'), "x"),
    ("an array replaces", {"more": {"a": 1}}, more.merge("[1, 2]"), [1, 2]),
    ("an object as text", {"more": {"a": 1}}, more.merge('{"b": 2}'), {"a": 1, "b": 2}),
    ("into a text column", {"t": '{"a": 1}'}, t.merge({"b": 2}), {"a": 1, "b": 2}),
    ("into a json column", {"data": {"a": 1}}, data.merge({"b": 2}), {"a": 1, "b": 2}),
    (
        "columns",
        {"data": {"a": 1}, "more": {"b": 2}},
        data.merge(more),
        {"a": 1, "b": 2},
    ),
    ("into NULL", {"more": None}, more.merge({"a": 1}), None),
    ("NULL", {"more": {"a": 1}, "data": None}, more.merge(data), None),
    ("None", {"more": {"a": 1}}, more.merge(None), None),
    ("NULL into an array", {"more": [1]}, more.merge(None), None),
    (
        "into a coalesced NULL",
        {"more": None},
        coalesce(more, {}).merge({"a": 1}),
        {"a": 1},
    ),
    (
        "into a coalesced NULL of json",
        {"data": None},
        coalesce(data, {}).merge({"a": 1}),
        {"a": 1},
    ),
    (
        "into a coalesced value",
        {"more": {"b": 1}},
        coalesce(more, {}).merge({"a": 1}),
        {"b": 1, "a": 1},
    ),
    (
        "in a row",
        {"more": {}},
        more.merge({"a": 1}).merge({"b": 2}).merge({"a": 3}),
        {"a": 3, "b": 2},
    ),
    ("coalesce of literals", {"more": None}, coalesce(more, {"a": [1]}), {"a": [1]}),
    (
        "coalesce of a list",
        {"more": None},
        coalesce(more, [1, {"a": None}]),
        [1, {"a": None}],
    ),
)
async def test_json(engine: Database, case: Case) -> None:
    value = await evaluate(engine, case, "out_d")
    read = None if value is None else json.loads(value, object_pairs_hook=members_of)
    assert read == case.expected


def members_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, in which every name stands once."""
    members = dict(pairs)
    assert len(members) == len(pairs)
    return members


class Bringing(NamedTuple):
    """A call whose expressions look at what it brings, on a stored row."""

    name: str
    call: dict[str, Any]
    updated: dict[str, Any]
    created: dict[str, Any]


# Stored before the update: i = 10, j = 20; the call is about id = 1.
BRINGING = [
    Bringing(
        "a plain value",
        {"defaults": {"i": 5, "j": Excluded("i") + 1}},
        {"i": 5, "j": 6},
        {"i": 5, "j": 6},
    ),
    Bringing(
        "before its column is given",
        {"defaults": {"j": Excluded("i") + 1, "i": 5}},
        {"i": 5, "j": 6},
        {"i": 5, "j": 6},
    ),
    Bringing(
        "the stored and the brought value",
        {"defaults": {"i": 5, "j": F("i") + Excluded("i")}},
        {"i": 5, "j": 15},
        {"i": 5, "j": 5},
    ),
    Bringing(
        "an expression",
        {"defaults": {"i": F("i") + 1, "j": Excluded("i") * 2}},
        {"i": 11, "j": 22},
        {"i": 1, "j": 2},
    ),
    Bringing(
        "a chain",
        {"defaults": {"big": Excluded("j") + 1, "j": Excluded("i") + 1, "i": 1}},
        {"i": 1, "j": 2, "big": 3},
        {"i": 1, "j": 2, "big": 3},
    ),
    Bringing(
        "the key",
        {"defaults": {"i": Excluded("id") + 1}},
        {"i": 2},
        {"i": 2},
    ),
    Bringing(
        "a key that is given another value",
        {"defaults": {"id": 7, "i": Excluded("id")}},
        {"id": 7, "i": 7},
        {"id": 7, "i": 7},
    ),
    Bringing(
        "None",
        {"defaults": {"i": None, "j": coalesce(Excluded("i"), F("j"), 3)}},
        {"i": None, "j": 20},
        {"i": None, "j": 3},
    ),
    Bringing(
        "DEFAULT",
        {"defaults": {"i": DEFAULT, "j": Excluded("i") + 1}},
        {"i": 0, "j": 1},
        {"i": 0, "j": 1},
    ),
    Bringing(
        "what only a creation brings",
        {"defaults": {"j": Excluded("i")}, "create_defaults": {"i": 5}},
        {"i": 10, "j": 5},
        {"i": 5, "j": 5},
    ),
    Bringing(
        "what a creation brings instead",
        {"defaults": {"i": 1, "j": Excluded("i")}, "create_defaults": {"i": 5}},
        {"i": 1, "j": 1},
        {"i": 5, "j": 5},
    ),
    Bringing(
        "what touch brings",
        {"defaults": {"j": Excluded("i")}, "touch": {"i": 5}},
        {"i": 5, "j": 5},
        {"i": 5, "j": 5},
    ),
    Bringing(
        "in touch",
        {"defaults": {"j": 5}, "touch": {"i": Excluded("j") + 1}},
        {"i": 6, "j": 5},
        {"i": 6, "j": 5},
    ),
    Bringing(
        "in where, true",
        {"defaults": {"i": 11}, "where": Excluded("i") > F("i")},
        {"i": 11},
        {"i": 11},
    ),
    Bringing(
        "in where, false",
        {"defaults": {"i": 9}, "where": Excluded("i") > F("i")},
        {"i": 10},
        {"i": 9},
    ),
    Bringing(
        "the key in where",
        {"defaults": {"i": 9}, "where": Excluded("id") == F("id")},
        {"i": 9},
        {"i": 9},
    ),
]


@pytest.mark.parametrize("case", BRINGING, ids=[case.name for case in BRINGING])
@pytest.mark.parametrize("there", [True, False], ids=["updated", "created"])
async def test_excluded_is_what_the_call_brings(
    engine: Database, case: Bringing, *, there: bool
) -> None:
    await engine.run("ALTER TABLE t RENAME TO old")
    await engine.run(
        "CREATE TABLE t (id INTEGER PRIMARY KEY,"
        " i INTEGER DEFAULT 0, j INTEGER, big BIGINT)"
    )
    if there:
        await engine.run("INSERT INTO t (id, i, j) VALUES (1, 10, 20)")
    await create_or_update(engine.handle, "t", key={"id": 1}, **case.call)
    expected = case.updated if there else case.created
    columns = ", ".join(expected)
    assert await engine.query(f"SELECT {columns} FROM t") == [tuple(expected.values())]


@pytest.mark.parametrize(
    ("column", "value", "created", "updated"),
    [
        ("INTEGER", F("c") + 1, None, None),
        ("INTEGER DEFAULT NULL", coalesce(F("c"), 0) + 1, 1, 2),
        ("INTEGER", coalesce(F("c"), 0) + 1, 1, 2),
        ("INTEGER DEFAULT 5", coalesce(F("c"), 0) + 1, 6, 7),
        ("INTEGER DEFAULT 5", F("c") + 1, 6, 7),
        ("INTEGER DEFAULT 5", F("c") * F("c"), 25, 625),
        ("INTEGER DEFAULT -5", F("c") - 1, -6, -7),
        ("INTEGER DEFAULT -5", 1 - F("c"), 6, -5),
        ("INTEGER DEFAULT (2 + 3)", F("c") * 2, 10, 20),
        ("INTEGER DEFAULT '7'", greatest(F("c"), 3) + 0, 7, 7),
        ("INTEGER DEFAULT '7'", least(greatest(F("c"), 30), 40), 30, 30),
        ("BIGINT DEFAULT 4611686018427387904", F("c") - 1, 2**62 - 1, 2**62 - 2),
        ("DOUBLE PRECISION DEFAULT 1", F("c") / 2, 0.5, 0.25),
        ("NUMERIC DEFAULT 1", F("c") / 2, 0.5, 0.25),
        ("TEXT DEFAULT 'it''s'", F("c").concat("!"), "it's!", "it's!!"),
        ("TEXT DEFAULT '5'", F("c").concat(1), "51", "511"),
        ("TEXT DEFAULT ''", coalesce(F("c"), "x"), "", ""),
        ("TEXT DEFAULT 'B'", greatest(F("c"), "a"), "a", "a"),
        ("VARCHAR(9) DEFAULT '?$1%s{}'", F("c").concat("?"), "?$1%s{}?", "?$1%s{}??"),
        ("BOOLEAN DEFAULT TRUE", ~F("c"), False, True),
        ("BOOLEAN DEFAULT '1'", F("c") == True, True, True),  # noqa: E712  # the operator is what is tested
        ("BOOLEAN", coalesce(F("c"), True), True, True),
        ("INTEGER DEFAULT 5", DEFAULT, 5, 5),
        ("INTEGER", DEFAULT, None, None),
        ("TEXT DEFAULT 'it''s'", DEFAULT, "it's", "it's"),
    ],
)
async def test_f_is_the_default_when_the_row_is_created(
    engine: Database, column: str, value: Expression, created: Any, updated: Any
) -> None:
    await engine.run(f"CREATE TABLE d (id INTEGER PRIMARY KEY, c {column})")
    rows = [
        await create_or_update(
            engine.handle, "d", key={"id": 1}, defaults={"c": value}, returning="c"
        )
        for _ in range(2)
    ]
    assert [tuple(row) for row in rows] == [
        ({"c": created}, True),
        ({"c": updated}, False),
    ]


async def test_the_default_of_every_postgresql_column_is_found(
    pg: PostgresDatabase,
) -> None:
    await pg.run(
        """
        CREATE TYPE mood AS ENUM ('low', 'high');
        CREATE DOMAIN score AS integer DEFAULT 7;
        CREATE DOMAIN points AS score;
        CREATE DOMAIN own AS score DEFAULT 8;
        CREATE TABLE d (
            id integer PRIMARY KEY,
            a mood DEFAULT 'high', b score, c points, d own, e score DEFAULT 9,
            f text[] DEFAULT '{a,b}', g timestamptz DEFAULT '2024-01-01 00:00Z',
            h jsonb DEFAULT '{"a": 1}', i bytea DEFAULT '\\x00ff',
            j interval DEFAULT '1 day', k numeric(5, 2) DEFAULT 1.005,
            l char(3) DEFAULT 'x', m varchar(3) DEFAULT 'xyz', n text DEFAULT upper('q'),
            o boolean DEFAULT (NOT false),
            p uuid DEFAULT '00000000-0000-0000-0000-000000000001'
        )
        """
    )
    columns = "abcdefghijklmnop"
    # One row is written by the library, the other by the database itself.
    await create_or_update(
        pg.handle, "d", key={"id": 1}, defaults={c: coalesce(F(c)) for c in columns}
    )
    await pg.run("INSERT INTO d (id) VALUES (2)")
    ours, theirs = await pg.query(f"SELECT {', '.join(columns)} FROM d ORDER BY id")
    assert ours == theirs
    assert None not in ours


@pytest.mark.parametrize(
    "column",
    [
        "serial",
        "bigserial",
        "integer GENERATED BY DEFAULT AS IDENTITY",
        "integer DEFAULT nextval('numbers')",
    ],
)
async def test_f_takes_the_next_number_of_a_sequence(
    pg: PostgresDatabase, column: str
) -> None:
    await pg.run(
        f"CREATE SEQUENCE numbers; CREATE TABLE d (id integer PRIMARY KEY, c {column})"
    )
    numbers = [
        await create_or_update(
            pg.handle, "d", key={"id": id_}, defaults={"c": F("c") * 10}, returning="c"
        )
        for id_ in (1, 2, 1)
    ]
    assert [result.row for result in numbers] == [{"c": 10}, {"c": 20}, {"c": 100}]


@pytest.mark.parametrize(
    "column",
    [
        *("INTEGER DEFAULT 5", "INTEGER DEFAULT +5", "INTEGER DEFAULT -5"),
        *("INTEGER DEFAULT (1 + 1)", "INTEGER DEFAULT '5'", "INTEGER DEFAULT x"),
        *("INTEGER DEFAULT 0x10", "INTEGER DEFAULT 1.5", "INTEGER DEFAULT TRUE"),
        *("TEXT DEFAULT word", 'TEXT DEFAULT "word"', 'TEXT DEFAULT "a""b\'c"'),
        *("TEXT DEFAULT 'it''s'", "TEXT DEFAULT 5", "TEXT DEFAULT -5.0"),
        *("TEXT DEFAULT true", "TEXT DEFAULT null", "TEXT DEFAULT (lower('A'))"),
        *("TEXT DEFAULT CURRENT_DATE", "TEXT DEFAULT current_date"),
        *("TEXT DEFAULT x'6162'", "TEXT DEFAULT ''", "TEXT DEFAULT [a b]"),
        "TEXT DEFAULT `a b`",
        *("REAL DEFAULT 5", "REAL DEFAULT '5'", "REAL DEFAULT 1e3"),
        *("NUMERIC DEFAULT 5.0", "NUMERIC DEFAULT '1.50'", "NUMERIC DEFAULT word"),
        *("BLOB DEFAULT x'00ff'", "BLOB DEFAULT 5", "BLOB DEFAULT '5'"),
        *("DEFAULT 5", "DEFAULT '5'", "DEFAULT word", "DEFAULT x'00ff'", ""),
        *("DATE DEFAULT CURRENT_DATE", "BOOLEAN DEFAULT false", "JSON DEFAULT '{}'"),
    ],
)
async def test_the_default_of_every_sqlite_column_is_found(
    lite: SQLiteDatabase, column: str
) -> None:
    await lite.run(f"CREATE TABLE d (id INTEGER PRIMARY KEY, c {column})")
    await create_or_update(
        lite.handle, "d", key={"id": 1}, defaults={"c": coalesce(F("c"))}
    )
    await lite.run("INSERT INTO d (id) VALUES (2)")
    ours, theirs = await lite.query("SELECT c, typeof(c) FROM d ORDER BY id")
    assert ours == theirs


@pytest.mark.parametrize("default", ["CURRENT_TIMESTAMP", "current_time"])
async def test_a_default_that_is_a_time_is_the_current_one(
    lite: SQLiteDatabase, default: str
) -> None:
    await lite.run(f"CREATE TABLE d (id INTEGER PRIMARY KEY, c TEXT DEFAULT {default})")
    before = await lite.query(f"SELECT {default}")
    await create_or_update(
        lite.handle, "d", key={"id": 1}, defaults={"c": coalesce(F("c"))}
    )
    ((stored,),) = await lite.query("SELECT c FROM d")
    ((after,),) = await lite.query(f"SELECT {default}")
    # Past midnight, a time of day is less than before.
    assert before[0][0] <= stored <= after or after < before[0][0]


@params(
    ("a function", {"i": -5}, func("abs", i), 5),
    ("of a literal text", {}, func("length", "abc"), 3),
    ("of an expression", {"i": 2}, func("abs", i - 7) + 1, 6),
    ("of several", {"t": "abcabc"}, func("length", func("replace", t, "b", "")), 4),
    ("of nothing", {}, func("length", func("trim", "  ")), 0),
    ("raw SQL", {"i": 5}, SQL("6 * 7"), 42),
    ("raw SQL with a value", {}, SQL("CAST({} AS INTEGER) + 1", 41), 42),
    ("raw SQL with expressions", {"i": 5}, SQL("{} * {}", i, i + 1), 30),
    ("raw SQL with doubled braces", {}, SQL("length('{{}}')"), 2),
    ("raw SQL in an expression", {"i": 5}, SQL("1 + 1") * i, 10),
    ("division by raw SQL", {"i": 7}, i / SQL("2"), 3),
    ("division by raw SQL that is zero", {"i": 7}, i / SQL("0"), None),
    ("raw SQL with a quote", {}, SQL("length('it''s')"), 4),
    ("raw SQL with a bound text", {}, SQL("length({})", "{}?$1'"), 6),
)
async def test_calls(engine: Database, case: Case) -> None:
    assert await evaluate(engine, case, "out_i") == case.expected


@params(
    ("bytes", {"raw": b"\x00"}, coalesce(raw, b""), b"\x00"),
    ("literal bytes", {"raw": None}, coalesce(raw, b"\xff"), b"\xff"),
    ("greatest bytes", {"raw": b"a"}, greatest(raw, b"B", None), b"a"),
)
async def test_bytes(engine: Database, case: Case) -> None:
    assert await evaluate(engine, case, "out_raw") == case.expected


async def test_now_is_the_time_of_the_database(engine: Database) -> None:
    await engine.run("CREATE TABLE d (id INTEGER PRIMARY KEY, c TIMESTAMP)")
    clock = engine.sql(
        postgresql="SELECT now()::timestamp",
        sqlite="SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')",
    )
    ((before,),) = await engine.query(clock)
    await create_or_update(engine.handle, "d", key={"id": 1}, defaults={"c": now()})
    ((stored,),) = await engine.query("SELECT c FROM d")
    ((after,),) = await engine.query(clock)
    assert before <= stored <= after


async def test_a_time_is_compared_with_a_column(engine: Database) -> None:
    await engine.run("CREATE TABLE d (id INTEGER PRIMARY KEY, c TIMESTAMP)")
    await engine.run("INSERT INTO d VALUES (1, '2001-01-01 00:00:00')")
    actions = [
        (
            await create_or_update(
                engine.handle, "d", key={"id": 1}, defaults={"c": now()}, where=where
            )
        ).action
        for where in (F("c") > now(), F("c") <= now())
    ]
    assert actions == [Action.SKIPPED, Action.UPDATED]


# Declared type, stored value, expression, its value.
TYPES: dict[str, tuple[str, Any, Expression, Any]] = {
    "smallint": ("smallint", 2, F("c") * 3 + 1, 7),
    "smallint compared": ("smallint", 2, greatest(F("c"), 1), 2),
    "integer": ("integer", 2**31 - 2, F("c") + 1, 2**31 - 1),
    "bigint": ("bigint", 2**40, F("c") + 2**41, 3 * 2**40),
    "numeric": (
        "numeric",
        decimal.Decimal("0.1"),
        F("c") + decimal.Decimal("0.2"),
        decimal.Decimal("0.3"),
    ),
    "numeric beyond 64 bits": ("numeric", 10**30, F("c") + 10**30, 2 * 10**30),
    "numeric, rounded": ("numeric(5, 2)", 1, F("c") / 3, decimal.Decimal("0.33")),
    "real": ("real", 1.5, F("c") * 2, 3.0),
    "double precision": ("double precision", 0.1, F("c") + 0.2, 0.1 + 0.2),
    "text": ("text", "a", F("c").concat("b"), "ab"),
    "varchar": ("varchar(3)", "ab", F("c").concat("c"), "abc"),
    "char": ("char(3)", "ab", F("c").concat("c"), "abc"),
    "char in greatest": ("char(3)", "ab", greatest(F("c"), "B"), "ab "),
    "text in a collation": (
        'text COLLATE "und-x-icu"',
        "a",
        greatest(F("c"), "B"),
        "a",
    ),
    "boolean": ("boolean", True, ~F("c") | F("c").is_null(), False),
    "bytea": ("bytea", b"\x00", coalesce(F("c"), b""), b"\x00"),
    "timestamptz": (
        "timestamptz",
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        F("c") + dt.timedelta(hours=1),
        dt.datetime(2024, 1, 1, 1, tzinfo=dt.UTC),
    ),
    "the later timestamptz": (
        "timestamptz",
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        greatest(F("c"), dt.datetime(2024, 1, 2, tzinfo=dt.UTC), None),
        dt.datetime(2024, 1, 2, tzinfo=dt.UTC),
    ),
    "timestamp": (
        "timestamp",
        dt.datetime(2024, 1, 1),  # noqa: DTZ001  # the column has no time zone
        F("c") - dt.timedelta(days=1),
        dt.datetime(2023, 12, 31),  # noqa: DTZ001  # as above
    ),
    "date": ("date", dt.date(2024, 1, 31), F("c") + 1, dt.date(2024, 2, 1)),
    "date and literal": (
        "date",
        dt.date(2024, 1, 1),
        least(F("c"), dt.date(2023, 1, 1)),
        dt.date(2023, 1, 1),
    ),
    "time": ("time", dt.time(1, 2), least(F("c"), dt.time(0, 1)), dt.time(0, 1)),
    "interval": ("interval", dt.timedelta(days=1), F("c") * 2, dt.timedelta(days=2)),
    "enum": ("mood", "low", coalesce(F("c"), "high"), "low"),
    "enum by its own order": ("mood", "low", greatest(F("c"), "high"), "high"),
    "uuid": (
        "uuid",
        uuid.UUID(int=1),
        greatest(F("c"), uuid.UUID(int=2)),
        uuid.UUID(int=2),
    ),
    "uuid as text": (
        "uuid",
        uuid.UUID(int=1),
        coalesce(None, F("c"), str(uuid.UUID(int=2))),
        uuid.UUID(int=1),
    ),
    "json": ("json", "{}", F("c").merge({"a": 1}), '{"a": 1}'),
    "jsonb": ("jsonb", "{}", coalesce(F("c"), {}).merge({"a": 1}), '{"a": 1}'),
    "array": ("text[]", ["a"], func("array_append", F("c"), "b"), ["a", "b"]),
    "array literal": ("integer[]", None, coalesce(F("c"), [1, 2]), [1, 2]),
    "array in raw SQL": ("integer[]", [1], SQL("{} || 2", F("c")), [1, 2]),
    "domain": ("score", 2, F("c") + 1, 3),
    "array of a domain": ("score[]", [1], coalesce(F("c"), [2]), [1]),
}


async def collated(pg: PostgresDatabase, declared: str) -> str:
    """Leave the collation out where the server was built without ICU."""
    there = await pg.query("SELECT 1 FROM pg_collation WHERE collname = 'und-x-icu'")
    return declared if there else declared.removesuffix(' COLLATE "und-x-icu"')


@pytest.mark.parametrize(
    ("declared", "stored", "value", "expected"), TYPES.values(), ids=TYPES
)
async def test_every_type_of_postgresql(
    pg: PostgresDatabase, declared: str, stored: Any, value: Expression, expected: Any
) -> None:
    await pg.run("CREATE TYPE mood AS ENUM ('low', 'high')")
    await pg.run("CREATE DOMAIN score AS integer")
    declared = await collated(pg, declared)
    await pg.run(f"CREATE TABLE d (id integer PRIMARY KEY, c {declared})")
    key = {"id": 1}
    if error := refusal(pg.handle, declared, stored):
        with pytest.raises(error):
            await create_or_update(
                pg.handle, "d", key=key, create_defaults={"c": stored}
            )
        return
    await create_or_update(pg.handle, "d", key=key, create_defaults={"c": stored})
    result = await create_or_update(
        pg.handle, "d", key=key, defaults={"c": value}, returning="c"
    )
    assert result.row == {"c": expected}


@pytest.mark.parametrize(
    ("declared", "stored", "condition"),
    [
        ("mood", "low", F("c") == "low"),
        ("mood", "low", F("c") < "high"),
        ("mood", "low", F("c").in_(["low", None])),
        ("mood", "low", coalesce(F("c"), "high") == "low"),
        ("mood", "low", greatest(F("c"), "high").in_(["high"])),
        ("uuid", uuid.UUID(int=1), F("c") == str(uuid.UUID(int=1))),
        (
            "uuid",
            uuid.UUID(int=1),
            coalesce(F("c"), uuid.UUID(int=2)) < uuid.UUID(int=2),
        ),
        ("text[]", ["a"], F("c") == ["a"]),
        ("text[]", ["a"], F("c").in_([["a"], ["b"]])),
        ("char(3)", "ab", F("c") == "ab"),
        ("char(3)", "ab", F("c") < "abc"),
        ("timestamptz", dt.datetime(2024, 1, 1, tzinfo=dt.UTC), F("c") < now()),
        ("date", dt.date(2024, 1, 1), F("c") < dt.datetime(2024, 1, 2)),  # noqa: DTZ001  # a date has none either
        ("interval", dt.timedelta(days=1), F("c") > dt.timedelta(hours=23)),
        ("real", 0.5, F("c") == 0.5),
        ("numeric", 1, F("c") == 1.0),
        ("smallint", 1, F("c") == 1),
        ("score", 1, F("c").in_([1, 2])),
        ('text COLLATE "und-x-icu"', "a", F("c") > "B"),
    ],
)
async def test_every_type_of_postgresql_in_where(
    pg: PostgresDatabase, declared: str, stored: Any, condition: Expression
) -> None:
    await pg.run("CREATE TYPE mood AS ENUM ('low', 'high')")
    await pg.run("CREATE DOMAIN score AS integer")
    declared = await collated(pg, declared)
    await pg.run(f"CREATE TABLE d (id integer PRIMARY KEY, c {declared}, n integer)")
    key = {"id": 1}
    await create_or_update(pg.handle, "d", key=key, create_defaults={"c": stored})
    actions = [
        (
            await create_or_update(
                pg.handle, "d", key=key, defaults={"n": 1}, where=where
            )
        ).action
        for where in (condition, ~condition)
    ]
    assert actions == [Action.UPDATED, Action.SKIPPED]


# Into which column, the expression, and the reason that the message gives.
REFUSED: dict[str, tuple[str, Expression, str]] = {
    "remainder of a float column": ("out_r", r % 2, "% cannot take 'r'"),
    "remainder by a float": ("out_i", i % 2.5, "% cannot take 'float'"),
    "remainder of a numeric column": ("out_n", n % 2, "cuts the operands"),
    "remainder of a quotient of floats": ("out_r", (r / 2) % 2, "cuts the operands"),
    "remainder of a choice of numbers": ("out_r", greatest(i, 7.5) % 2, "cuts the op"),
    "remainder of text": ("out_i", t % 2, "cuts the operands"),
    "and of integers": ("out_i", i & 1, "combine conditions"),
    "or of integers": ("out_i", i | 1, "combine conditions"),
    "not of an integer": ("out_i", ~i, "combine conditions"),
    "and of text": ("out_t", t & True, "combine conditions"),
    "concat of a float": ("out_t", t.concat(r), "differently as text"),
    "concat of a literal float": ("out_t", t.concat(1.5), "differently as text"),
    "concat of a numeric column": ("out_t", t.concat(n), "differently as text"),
    "concat of a boolean": ("out_t", t.concat(flag), "differently as text"),
    "concat of a condition": ("out_t", t.concat(i > 1), "differently as text"),
    "concat of a date": ("out_t", t.concat(F("day")), "differently as text"),
    "concat of a literal date": ("out_t", t.concat(dt.date(2024, 1, 1)), "as text"),
    "concat of now": ("out_t", t.concat(now()), "differently as text"),
    "concat of JSON": ("out_t", t.concat(more), "differently as text"),
    "concat of bytes": ("out_t", t.concat(raw), "differently as text"),
    "text plus a number": ("out_t", t + 1, r"text has \.concat"),
    "a number plus text": ("out_i", i + "1", r"text has \.concat"),
    "text times": ("out_t", t * 2, r"text has \.concat"),
    "text minus": ("out_t", 1 - t, r"text has \.concat"),
    "text divided": ("out_t", t / 2, r"text has \.concat"),
    "JSON plus": ("out_d", more + {"a": 1}, r"JSON has \.merge"),
    "booleans added": ("out_i", flag + 1, "it is arithmetic"),
    "conditions added": ("out_i", (i > 1) + (j > 1), "it is arithmetic"),
    "bytes added": ("out_raw", raw + b"x", "it is arithmetic"),
    "length of an integer": ("out_i", length(i), "counts characters"),
    "length of JSON": ("out_i", length(more), "counts characters"),
    "length of a list": ("out_i", length([1]), "counts characters"),
    "lower of a number": ("out_t", lower(i), "letters only"),
    "upper of bytes": ("out_t", upper(raw), "letters only"),
    "merge of a number": ("out_d", more.merge(1), "joins JSON objects"),
    "merge into a number": ("out_d", i.merge({}), "joins JSON objects"),
    "merge of a list": ("out_d", more.merge([1]), "joins JSON objects"),
    "merge of bytes": ("out_d", more.merge(raw), "joins JSON objects"),
    "deep inside": ("out_i", coalesce(greatest(i, length(j)), 1) + 1, "counts char"),
    "DEFAULT in an expression": ("out_i", DEFAULT + 1, "whole value"),
    "DEFAULT in a function": ("out_i", coalesce(DEFAULT, 1), "whole value"),
    "Excluded of what is not brought": ("out_i", Excluded("j") + 1, "has no value"),
    "Excluded of itself": ("out_i", Excluded("out_i") + 1, "defined by itself"),
    # What one engine refuses, and the other takes for something.
    "a number compared with text": ("out_b", i == t, "="),
    "a number compared with a literal text": ("out_b", i == "x", "="),
    "text compared with a literal number": ("out_b", t < 5, "<"),
    "a boolean compared with a number": ("out_b", flag == 1, "="),
    "bytes compared with text": ("out_b", raw == t, "="),
    "a number among texts": ("out_b", i.in_(["1"]), "in"),
    "text among numbers": ("out_b", t.in_([1]), "in"),
    "a list added": ("out_i", i + [1], r"\+"),  # noqa: RUF005  # i is no list
    "a number compared with a list": ("out_b", i == [1], "="),
    "a number among lists": ("out_b", i.in_([[1]]), "in"),
    "a choice of a number and a dict": ("out_i", coalesce(i, {}), "coalesce"),
    "a choice of a boolean and a list": ("out_b", coalesce(flag, []), "coalesce"),
    "a case of a number": ("out_i", case((i, 1)), "combine conditions"),
    "a case of values of two types": ("out_t", case((flag, i), else_="x"), "case"),
    "a case of another type": ("out_i", case((flag, "x")), "different values"),
    "nullif of two types": ("out_i", nullif(i, "x"), "nullif"),
    "nullif of JSON": ("out_t", nullif(more, {}), "compare JSON differently"),
    "an integer like": ("out_b", like(i, "5%"), "compares text with a pattern"),
    "a choice of a number and text": ("out_t", coalesce(i, "x"), "coalesce"),
    "a choice of text and a number": ("out_t", coalesce(t, 1), "coalesce"),
    "the greatest of a number and text": ("out_i", greatest(i, "x"), "greatest"),
    "the least of a number and a boolean": ("out_i", least(i, True), "least"),
    # PostgreSQL compares jsonb by meaning and json not at all, SQLite compares its text.
    "JSON compared": ("out_b", more == {"a": 1}, "="),
    "JSON columns compared": ("out_b", data == more, "="),
    "JSON among": ("out_b", more.in_([{"a": 1}]), "in"),
    "the greatest JSON": ("out_d", greatest(more, {"a": 1}), "greatest"),
    # What the column would hold differs: 'true' or '1', 2 or 1.875.
    "a condition into text": ("out_t", i > 1, "out_t"),
    "a condition into an integer": ("out_i", i == 1, "out_i"),
    "an integer into a boolean": ("out_b", i + 1, "out_b"),
    "text into an integer": ("out_i", coalesce(t), "out_i"),
    "text into bytes": ("out_raw", coalesce(t), "out_raw"),
    "bytes into text": ("out_t", coalesce(raw), "out_t"),
    "a fraction into an integer": ("out_i", r * 1.25, "out_i"),
    "a fraction into text": ("out_t", r * 2, "out_t"),
}


@pytest.mark.parametrize(("out", "value", "why"), REFUSED.values(), ids=REFUSED)
async def test_what_cannot_be_the_same_is_refused_alike_before_it_is_sent(
    both: tuple[Database, Database],
    out: str,
    value: Expression,
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    messages = []
    with caplog.at_level(logging.DEBUG, "aioupsert"):
        for engine in both:
            with pytest.raises(UsageError, match=why) as refused:
                await create_or_update(
                    engine.handle, "t", key={"id": 1}, defaults={out: value}
                )
            messages.append(str(refused.value))
    assert messages[0] == messages[1]
    # The catalog was read, and no statement about the column was sent.
    assert not [sent for sent in caplog.messages if out in sent]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (i, "combine conditions"),
        (i + 1, "combine conditions"),
        (coalesce(t, "x"), "combine conditions"),
        (now(), "combine conditions"),
        (DEFAULT, "whole value"),
        (Excluded("j") > 1, "has no value"),
        (i % 1.5 == 0, "cuts the operands"),
    ],
    ids=repr,
)
async def test_where_takes_conditions_only(
    engine: Database, where: Expression, why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        await create_or_update(
            engine.handle, "t", key={"id": 1}, defaults={"i": 1}, where=where
        )
    assert await engine.query("SELECT * FROM t") == []


async def test_excluded_values_may_not_go_round(engine: Database) -> None:
    with pytest.raises(UsageError, match=r"Excluded\('[ij]'\) is defined by itself"):
        await create_or_update(
            engine.handle,
            "t",
            key={"id": 1},
            defaults={"i": Excluded("j"), "j": Excluded("big"), "big": Excluded("i")},
        )
    assert await engine.query("SELECT * FROM t") == []


async def test_an_expression_is_no_key(engine: Database) -> None:
    with pytest.raises(UsageError, match=r"key\['id'\] must be a plain value"):
        await create_or_update(engine.handle, "t", key={"id": F("i") + 1})
    assert await engine.query("SELECT * FROM t") == []


async def test_a_date_is_moved_on_by_postgresql_only(engine: Database) -> None:
    """SQLite would take '2024-12-31' for the number 2024."""
    await engine.run("INSERT INTO t (id, day) VALUES (1, '2024-12-31')")
    call = create_or_update(
        engine.handle, "t", key={"id": 1}, defaults={"day": F("day") + 1}
    )
    if engine.engine == "sqlite":
        with pytest.raises(UsageError, match="day"):
            await call
    else:
        await call
        assert await engine.query("SELECT day FROM t") == [(dt.date(2025, 1, 1),)]


# Small enough that no product of the deepest tree leaves the 32 bits of its literals.
_LITERALS = st.integers(-9, 9)
_TEXTS = st.text(st.sampled_from("aBzZ é☃-'?$\U0001f600"), max_size=4)
_ROWS = [
    {"i": one, "j": other, "t": text, "u": maybe}
    for one in (0, -1, 7, -30, 29)
    for other in (None, 0, 3, -30)
    for text, maybe in (("", None), ("aB", "aé"), ("é☃", "Z"), ("\U0001f600", ""))
]


def _integers(depth: int) -> st.SearchStrategy[Any]:
    if not depth:
        return st.one_of(st.just(F("i")), st.just(F("j")), _LITERALS, st.none())
    less, texts = _integers(depth - 1), _texts(depth - 1)
    return st.one_of(
        less,
        st.builds(lambda a, b: coalesce(a) + b, less, less),
        st.builds(lambda a, b: a - coalesce(b, 1), less, less),
        st.builds(lambda a, b: coalesce(a, F("j")) * b, less, less),
        st.builds(lambda a, b: coalesce(a, F("i")) / b, less, less),
        st.builds(lambda a, b: coalesce(F("i"), a) % b, less, less),
        st.builds(coalesce, less, less),
        st.builds(greatest, less, less, less),
        st.builds(least, less, less),
        st.builds(length, texts),
    )


def _texts(depth: int) -> st.SearchStrategy[Any]:
    if not depth:
        return st.one_of(st.just(F("t")), st.just(F("u")), _TEXTS, st.none())
    less, integers = _texts(depth - 1), _integers(depth - 1)
    return st.one_of(
        less,
        st.builds(lambda a, b: coalesce(a, "").concat(b), less, less),
        st.builds(lambda a, b: F("t").concat(a, b), less, integers),
        st.builds(coalesce, less, less),
        st.builds(greatest, less, less),
        st.builds(least, less, less, less),
        st.builds(lower, less),
        st.builds(upper, less),
    )


def _conditions(depth: int) -> st.SearchStrategy[Any]:
    less = _conditions(depth - 1) if depth > 1 else st.sampled_from([True, False, None])
    integers, texts = _integers(depth - 1), _texts(depth - 1)
    compare = st.sampled_from(
        ["__lt__", "__le__", "__gt__", "__ge__", "__eq__", "__ne__"]
    )
    return st.one_of(
        st.builds(
            lambda op, a, b: getattr(F("i") + a, op)(b), compare, integers, integers
        ),
        st.builds(
            lambda op, a, b: getattr(coalesce(a, F("t")), op)(b), compare, texts, texts
        ),
        st.builds(
            lambda a, b: coalesce(F("j"), a).in_(b),
            integers,
            st.lists(integers, max_size=3),
        ),
        st.builds(
            lambda a, b: coalesce(a, "x").in_(b), texts, st.lists(texts, max_size=3)
        ),
        st.builds(lambda a: coalesce(a, F("i")).is_null(), integers),
        st.builds(lambda a, b: (F("i") > 0) & a | b, less, less),
        st.builds(lambda a, b: ~((F("u") == "Z") | a) & b, less, less),
    )


_OUTPUTS = st.one_of(
    st.tuples(st.just("out_i"), _integers(3)),
    st.tuples(st.just("out_t"), _texts(3)),
    st.tuples(st.just("out_b"), _conditions(3)),
)


async def _outcome(database: Database, id_: int, out: str, value: Any) -> Any:
    key = {"id": id_}
    await get_or_create(database.handle, "t", key=key, defaults=_ROWS[id_])
    try:
        result = await create_or_update(
            database.handle, "t", key=key, defaults={out: value}, returning=out
        )
    except (UsageError, asyncpg.PostgresError) as exc:
        return str(exc)
    assert result.row is not None
    return result.row[out]


@hypothesis.settings(
    max_examples=3 * hypothesis.settings().max_examples,
    deadline=None,
    derandomize=True,
    # The stored rows are never changed where an expression looks.
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(output=_OUTPUTS, id_=st.integers(0, len(_ROWS) - 1))
async def test_any_expression_has_one_value_on_both_engines(
    both: tuple[Database, Database], output: tuple[str, Any], id_: int
) -> None:
    out, value = output
    pg, lite = [await _outcome(engine, id_, out, value) for engine in both]
    hypothesis.note(repr(value))
    assert pg == lite
