"""Expressions as values: shape, text, hash, and what is refused when one is made."""

import datetime as dt
import decimal
import enum
import uuid
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from aioupsert import (
    DEFAULT,
    SQL,
    Excluded,
    Expression,
    F,
    UsageError,
    case,
    coalesce,
    func,
    greatest,
    least,
    length,
    like,
    lower,
    now,
    upper,
)
from aioupsert.expressions import sql_parts


class Point(NamedTuple):
    x: int


class Number(enum.IntEnum):
    TWO = 2


class Word(enum.StrEnum):
    HI = "hi"


TEXTS: list[tuple[Expression, str]] = [
    (F("hits"), "F('hits')"),
    (Excluded("a b"), "Excluded('a b')"),
    (DEFAULT, "DEFAULT"),
    (F("a") + 1, "+(F('a'), 1)"),
    (1 + F("a"), "+(1, F('a'))"),
    (F("a") - 1, "-(F('a'), 1)"),
    (1 - F("a"), "-(1, F('a'))"),
    (F("a") * 2, "*(F('a'), 2)"),
    (2 * F("a"), "*(2, F('a'))"),
    (F("a") / 2, "/(F('a'), 2)"),
    (2 / F("a"), "/(2, F('a'))"),
    (F("a") % 2, "%(F('a'), 2)"),
    (2 % F("a"), "%(2, F('a'))"),
    (F("a") == 1, "=(F('a'), 1)"),
    (F("a") != 1, "<>(F('a'), 1)"),
    (F("a") == None, "is_null(F('a'))"),  # noqa: E711  # the operator is what is tested
    (F("a") != None, "NOT(is_null(F('a')))"),  # noqa: E711  # as above
    (F("a") < 1, "<(F('a'), 1)"),
    (F("a") <= 1, "<=(F('a'), 1)"),
    (F("a") > 1, ">(F('a'), 1)"),
    (F("a") >= 1, ">=(F('a'), 1)"),
    (2 < F("a"), ">(F('a'), 2)"),  # noqa: SIM300  # Python reflects it
    (F("a") & True, "AND(F('a'), True)"),
    (True & F("a"), "AND(True, F('a'))"),
    (F("a") | False, "OR(F('a'), False)"),
    (False | F("a"), "OR(False, F('a'))"),
    (~F("a"), "NOT(F('a'))"),
    ((F("a") + 1).is_null(), "is_null(+(F('a'), 1))"),
    (F("a").in_([1, 2]), "in(F('a'), 1, 2)"),
    (F("a").in_([]), "in(F('a'))"),
    (F("a").in_([1, None]), "OR(in(F('a'), 1), is_null(F('a')))"),
    (F("a").concat("b", 3), "concat(F('a'), 'b', 3)"),
    (F("a").merge({"b": [1]}), "merge(F('a'), {'b': [1]})"),
    (coalesce(F("a"), 0), "coalesce(F('a'), 0)"),
    (greatest(F("a"), "x"), "greatest(F('a'), 'x')"),
    (least(1.5, F("a")), "least(1.5, F('a'))"),
    (lower(F("a")), "lower(F('a'))"),
    (upper("x"), "upper('x')"),
    (length(b"x"), "length(b'x')"),
    (now(), "now()"),
    (func("pg_catalog.abs", F("a")), "pg_catalog.abs(F('a'))"),
    (SQL("{} + {}", F("a"), 1), "{} + {}(F('a'), 1)"),
    (
        coalesce(F("a"), 0) + (1 - Excluded("b")) * 2,
        "+(coalesce(F('a'), 0), *(-(1, Excluded('b')), 2))",
    ),
]


@pytest.mark.parametrize(("expression", "text"), TEXTS, ids=[text for _, text in TEXTS])
def test_an_expression_is_shown_with_its_values(
    expression: Expression, text: str
) -> None:
    assert repr(expression) == text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (F("a") + 1, F("a") + 2),
        (coalesce(F("a"), "x"), coalesce(F("a"), "y")),
        (F("a").in_([1, 2]), F("a").in_([3, 4])),
        (SQL("{}", 1), SQL("{}", 2)),
        (F("a").merge({"b": 1}), F("a").merge({"c": [2]})),
        (F("a") == True, F("a") == False),  # noqa: E712  # builds a condition
    ],
    ids=repr,
)
def test_what_differs_in_values_only_has_one_node(
    one: Expression, other: Expression
) -> None:
    assert one.node == other.node
    assert hash(one.node) == hash(other.node)
    assert one.values != other.values


LITERALS: list[tuple[Any, str]] = [
    (None, "null"),
    (True, "bool"),
    (1, "int4"),
    (-(2**31), "int4"),
    (2**31 - 1, "int4"),
    (2**31, "int8"),
    (-(2**31) - 1, "int8"),
    (2**63 - 1, "int8"),
    (-(2**63), "int8"),
    (2**63, "numeric"),
    (-(2**63) - 1, "numeric"),
    (Number.TWO, "int4"),
    (1.0, "float"),
    (decimal.Decimal(1), "decimal"),
    ("x", "str"),
    (Word.HI, "str"),
    (b"x", "bytes"),
    (dt.datetime(2024, 1, 1), "datetime"),  # noqa: DTZ001  # naive is one of the kinds
    (dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "datetimetz"),
    (dt.date(2024, 1, 1), "date"),
    (dt.time(1), "time"),
    (dt.timedelta(1), "timedelta"),
    (uuid.UUID(int=1), "uuid"),
    ({}, "json"),
    (OrderedDict(), "other"),
    ([], "list"),
    ((), "other"),
    (Point(1), "other"),
    (object(), "other"),
]


@pytest.mark.parametrize(("value", "kind"), LITERALS)
def test_the_type_of_a_literal_belongs_to_the_node(value: Any, kind: str) -> None:
    expression = coalesce(value)
    assert expression.node == ("function", "coalesce", (("literal", kind, ()),))
    assert expression.values == (value,)


def test_values_stand_in_the_order_of_their_placeholders() -> None:
    expression = coalesce(1, F("a") + 2).concat(3, SQL("{} {}", 4, F("b") * 5))
    assert expression.values == (1, 2, 3, 4, 5)


def test_an_expression_is_a_key_of_a_dict_by_identity() -> None:
    one, other = F("a"), F("a")
    assert {one: 1, other: 2}[one] == 1
    assert hash(one) != hash(other)


@pytest.mark.parametrize("expression", [F("a"), Excluded("a"), F("a") + 1, DEFAULT])
def test_an_expression_has_slots(expression: Expression) -> None:
    with pytest.raises(AttributeError):
        expression.other = 1  # type: ignore[attr-defined]  # there is none, as tested


# What a caller may write by mistake.
TRUTHS: dict[str, Callable[[], object]] = {
    "bool": lambda: bool(F("a") > 1),
    "a chain": lambda: 1 < F("a") < 3,
    "and": lambda: F("a") and F("b"),
    "or": lambda: F("a") or F("b"),
    "not": lambda: not F("a"),
    "if": lambda: 1 if F("a") == 1 else 2,
    "in": lambda: F("a") in [F("b"), F("c")],
}


@pytest.mark.parametrize("ask", TRUTHS.values(), ids=TRUTHS)
def test_an_expression_has_no_truth_value(ask: Callable[[], object]) -> None:
    with pytest.raises(
        UsageError, match=r"no truth value: combine conditions with &, \| and ~"
    ):
        ask()


@pytest.mark.parametrize("make", [F, Excluded])
@pytest.mark.parametrize("name", [1, None, b"a", ("a",), F("a")])
def test_a_column_is_named_by_a_text(make: Callable[[Any], Any], name: Any) -> None:
    with pytest.raises(UsageError, match=r"\w+\(\) takes a column name, not"):
        make(name)


@pytest.mark.parametrize("branches", [(), (F("a"),), ((F("a"), 1, 2),), ([1, 2],)])
def test_a_case_needs_pairs(branches: Any) -> None:
    with pytest.raises(UsageError, match=r"case\(\) takes pairs of a condition"):
        case(*branches)


@pytest.mark.parametrize("pattern", [None, 5, b"a", F("a"), "a\\", "\\\\\\"])
def test_a_pattern_is_a_text_without_a_loose_end(pattern: Any) -> None:
    with pytest.raises(UsageError, match=r"like\(\) takes its pattern as text"):
        like(F("a"), pattern)


def test_a_case_shows_itself() -> None:
    made = case((F("a") > 1, "x"), else_=F("b"))
    assert repr(made) == "case(>(F('a'), 1), 'x', F('b'))"


@pytest.mark.parametrize("make", [coalesce, greatest, least])
def test_a_choice_needs_a_value(make: Callable[[], Expression]) -> None:
    with pytest.raises(
        UsageError, match=rf"{make.__name__}\(\) needs at least one value"
    ):
        make()


@pytest.mark.parametrize(
    "name",
    [
        *("a;b", "a(", "a b", "1a", "", "a.", ".a", "a.b.c", 'a"', "a'", "a--"),
        *("é", "a\n", "a\0", "a.1"),
    ],
)
def test_a_function_has_a_plain_name(name: str) -> None:
    with pytest.raises(UsageError, match="plain function name"):
        func(name)


@pytest.mark.parametrize("name", ["abs", "_a1", "Pg_Catalog.LOWER"])
def test_a_function_may_have_a_schema(name: str) -> None:
    assert func(name, 1).node == ("call", name, (("literal", "int4", ()),))


@pytest.mark.parametrize(
    ("text", "values", "why"),
    [
        ("{}", (), r"one value for each \{\}: 1, not 0"),
        ("x", (1,), r"one value for each \{\}: 0, not 1"),
        ("{} {}", (1,), r"one value for each \{\}: 2, not 1"),
        ("{{}}", (1,), r"one value for each \{\}: 0, not 1"),
        ("{0}", (1,), r"plain \{\} placeholders, not \{0\}"),
        ("{} {name}", (1, 2), r"plain \{\} placeholders, not \{name\}"),
        ("{", (), "cannot read '{'"),
        ("}", (), "cannot read '}'"),
        ("{} }", (1,), "cannot read"),
        ("{!r}", (1,), "plain"),
        ("{:>5}", (1,), "plain"),
    ],
)
def test_raw_sql_has_a_place_for_each_value(
    text: str, values: tuple[Any, ...], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        SQL(text, *values)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("",)),
        ("a", ("a",)),
        ("{}", ("", "")),
        ("a{}b{}", ("a", "b", "")),
        ("{{a}}", ("{a}",)),
        ("{{{}}}", ("{", "}")),
        ("a{{}}b{}{{", ("a{}b", "{")),
    ],
)
def test_raw_sql_is_split_at_its_placeholders(
    text: str, parts: tuple[str, ...]
) -> None:
    assert sql_parts(text) == parts
