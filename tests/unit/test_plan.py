"""Arguments as a shape and values, and the checked plan; no database takes part."""

import datetime as dt
import decimal
import math
from collections import OrderedDict, UserDict
from types import MappingProxyType
from typing import Any

import pytest

from aioupsert import (
    DEFAULT,
    SQL,
    Excluded,
    F,
    MissingUniqueIndexError,
    UnknownColumnError,
    UsageError,
    coalesce,
    func,
    now,
)
from aioupsert._plan import Request, Resolved
from aioupsert._plan.schema import Table, UniqueIndex
from tests.unit.plans import column, plan, read, table

HITS = table(
    column("hits", default="0"),
    column("name", "text"),
    column("data", "json"),
    column("flag", "boolean"),
    column("seen", "other"),
    column("price", "number"),
)

# --- The shape ------------------------------------------------------------------------

ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "key": ({"key": {"id": 1}}, {"key": {"id": "x"}}),
    "defaults": ({"defaults": {"a": 1}}, {"defaults": {"a": "x"}}),
    "a callable": ({"defaults": {"a": 1}}, {"defaults": {"a": lambda: 2}}),
    "None": ({"defaults": {"a": 1}}, {"defaults": {"a": None}}),
    "a dict and a list": ({"defaults": {"a": {}}}, {"defaults": {"a": [1]}}),
    "create_defaults": ({"create_defaults": {"a": 1}}, {"create_defaults": {"a": 2}}),
    "touch": ({"touch": {"a": 1}}, {"touch": {"a": 2}}),
    "an expression": ({"defaults": {"a": F("a") + 1}}, {"defaults": {"a": F("a") + 2}}),
    "where": ({"where": F("a") > 1}, {"where": F("a") > 2}),
    "empty or missing": ({"defaults": {}}, {"defaults": None}),
    "returning": ({"returning": ["a", "b"]}, {"returning": ("a", "b")}),
}


@pytest.mark.parametrize(("one", "other"), ALIKE.values(), ids=ALIKE)
def test_calls_that_differ_in_values_only_share_a_shape(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert read(**one)[0] == read(**other)[0]
    assert hash(read(**one)[0]) == hash(read(**other)[0])


DIFFERENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "key's columns": ({"key": {"a": 1}}, {"key": {"b": 1}}),
    "a NULL key": ({"key": {"a": 1}}, {"key": {"a": None}}),
    "a JSON key": ({"key": {"a": 1}}, {"key": {"a": {}}}),
    "columns": ({"defaults": {"a": 1}}, {"defaults": {"b": 1}}),
    "where it stands": ({"defaults": {"a": 1}}, {"create_defaults": {"a": 1}}),
    "a value and JSON": ({"defaults": {"a": 1}}, {"defaults": {"a": {}}}),
    "types": ({"where": F("a") > 1}, {"where": F("a") > "x"}),
    "widths": ({"where": F("a") > 1}, {"where": F("a") > 2**40}),
    "operators": ({"where": F("a") > 1}, {"where": F("a") < 1}),
    "the number of values": (
        {"where": F("a").in_([1.5])},
        {"where": F("a").in_([1.5, 2.5])},
    ),
    "where": ({"where": F("a")}, {}),
    "skip_unchanged": ({"skip_unchanged": True}, {"skip_unchanged": False}),
    "returning": ({"returning": "*"}, {"returning": None}),
    "without_unique_index": ({"without_unique_index": "allow"}, {}),
    "strategy": ({"strategy": "exact"}, {}),
}


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_calls_that_need_other_statements_differ_in_shape(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert read(**one)[0] != read(**other)[0]


def test_values_stand_in_the_order_of_the_arguments() -> None:
    shape, values = read(
        key={"id": 1, "b": 2},
        defaults={"c": 3, "d": F("d") + 4, "e": lambda: 5},
        create_defaults={"f": 6},
        touch={"g": 7},
        where=(F("h") > 8) & F("h").in_([9, 10]),
        returning=["i"],
    )
    assert values == [1, 2, 3, 4, 5, 6, 7, 8, [9, 10]]
    assert Request(*shape).returning == ("i",)


@pytest.mark.parametrize(
    "mapping", [OrderedDict, UserDict, MappingProxyType], ids=lambda cls: cls.__name__
)
def test_any_mapping_will_do(mapping: Any) -> None:
    given = read(key=mapping({"id": 1}), defaults=mapping({"hits": 2}))
    assert given == read(key={"id": 1}, defaults={"hits": 2})


def test_a_callable_may_give_an_expression() -> None:
    assert read(defaults={"a": now}) == read(defaults={"a": now()})


@pytest.mark.parametrize("argument", ["key", "defaults", "create_defaults", "touch"])
@pytest.mark.parametrize("wrong", [[("a", 1)], "a", 1, {"a"}, F("a")], ids=repr)
def test_columns_and_values_are_a_mapping(argument: str, wrong: Any) -> None:
    with pytest.raises(UsageError, match=f"{argument} must be a mapping|no truth"):
        read(**{argument: wrong})


@pytest.mark.parametrize("key", [{}, OrderedDict()])
def test_a_key_has_columns(key: Any) -> None:
    with pytest.raises(UsageError, match="key is empty"):
        read(key=key)


@pytest.mark.parametrize("value", [F("a"), DEFAULT, now(), SQL("1")], ids=repr)
def test_a_key_is_a_plain_value(value: Any) -> None:
    with pytest.raises(UsageError, match=r"key\['id'\] must be a plain value, not"):
        read(key={"id": value})


@pytest.mark.parametrize("where", [True, "a > 1", {"a": 1}, ()])
def test_where_is_an_expression(where: Any) -> None:
    with pytest.raises(UsageError, match="where takes an expression such as"):
        read(where=where)


# --- Words and columns ----------------------------------------------------------------


@pytest.mark.parametrize("argument", ["without_unique_index", "strategy"])
@pytest.mark.parametrize("word", ["Warn", "", None, 1])
def test_an_unknown_word_is_refused_with_the_known_ones(
    argument: str, word: Any
) -> None:
    with pytest.raises(
        UsageError, match=f"{argument} must be one of '.*', not {word!r}"
    ):
        plan(HITS, **{argument: word})


def test_a_value_given_for_a_touched_column_is_the_one_to_write() -> None:
    made = plan(HITS, defaults={"name": "x"}, touch={"hits": 2, "name": "y"})
    assert [
        (item.column.name, item.term.parameter)
        for item in made.update
        if item.term is not None
    ] == [("name", 1), ("hits", 2)]


@pytest.mark.parametrize(
    "call",
    [
        {"key": {"hist": 1}},
        {"defaults": {"hist": 1}},
        {"create_defaults": {"hist": 1}},
        {"touch": {"hist": 1}},
        {"returning": "hist"},
        {"returning": ["id", "hist"]},
        {"defaults": {"hits": F("hist") + 1}},
        {"defaults": {"hits": coalesce(0, Excluded("hist"))}},
        {"where": F("hist") > 1},
        {"where": ~(F("hits") > SQL("{}", F("hist")))},
    ],
    ids=repr,
)
def test_an_unknown_column_is_refused_with_the_closest_one(
    call: dict[str, Any],
) -> None:
    with pytest.raises(
        UnknownColumnError, match=r"s\.t has no column 'hist' \(did you mean 'hits'\?\)"
    ):
        plan(HITS, **call)


def test_all_unknown_columns_are_named_at_once() -> None:
    with pytest.raises(UnknownColumnError) as refused:
        plan(HITS, key={"x": 1}, defaults={"zz": F("yy")}, returning=["x", "w"])
    assert refused.value.columns == ("w", "x", "yy", "zz")


@pytest.mark.parametrize("argument", ["defaults", "create_defaults", "touch"])
def test_a_generated_column_is_not_written(argument: str) -> None:
    generated = table(column("sum", generated=True))
    with pytest.raises(
        UsageError, match=rf"{argument}\['sum'\]: the database computes"
    ):
        plan(generated, **{argument: {"sum": 1}})


def test_a_generated_column_has_no_default() -> None:
    generated = table(column("sum", generated=True), column("a"))
    with pytest.raises(UsageError, match=r"F\('sum'\) has no value when the row is"):
        plan(generated, defaults={"a": F("sum")})
    # In where it is the stored row's.
    assert plan(generated, defaults={"a": 1}, where=F("sum") > 1).where is not None


def test_a_generated_column_may_be_the_key_and_is_not_inserted() -> None:
    made = plan(
        table(column("sum", generated=True)),
        key={"sum": 1},
        without_unique_index="allow",
    )
    assert made.insert == ()
    assert made.exact_because == "the key has a column that only the database may write"


# --- The plan -------------------------------------------------------------------------


def written(assignments: Any) -> list[str]:
    return [item.column.name for item in assignments]


def test_what_is_written_when() -> None:
    made = plan(
        HITS,
        defaults={"hits": 1},
        create_defaults={"name": "x"},
        touch={"seen": now()},
    )
    assert written(made.update) == ["hits", "seen"]
    assert made.compare is not None
    assert written(made.compare) == ["hits"]
    assert written(made.insert) == ["id", "hits", "seen", "name"]


def parameters(assignments: Any) -> dict[str, int]:
    return {item.column.name: item.term.parameter for item in assignments}


def test_the_later_argument_wins_when_the_row_is_created() -> None:
    # Indexes: id 0, name 1 (the key), hits 2, name 3, hits 4, price 5, seen 6, price 7.
    made = plan(
        HITS,
        key={"id": 1, "name": "a"},
        defaults={"hits": 2, "name": "b"},
        create_defaults={"hits": 4, "price": 5},
        touch={"seen": None, "price": 7},
    )
    assert parameters(made.insert) == {
        "id": 0,
        "name": 3,
        "hits": 4,
        "price": 5,
        "seen": 6,
    }
    assert parameters(made.update) == {"hits": 2, "name": 3, "seen": 6, "price": 7}


def test_with_nothing_to_set_there_is_no_update() -> None:
    made = plan(HITS, create_defaults={"name": "x"}, touch={"seen": now()})
    assert made.update == ()
    assert made.conditional


@pytest.mark.parametrize(
    ("call", "about", "conditional"),
    [
        ({}, {}, False),
        ({"where": F("hits") > 1}, {}, True),
        ({"skip_unchanged": True}, {}, True),
        ({"touch": {"seen": None}}, {}, True),
        ({"defaults": None}, {}, True),
        ({}, {"updates_may_be_refused": True}, True),
        ({}, {"written_by_triggers": True}, True),
    ],
)
def test_whether_a_row_that_is_there_may_be_left(
    call: dict[str, Any], about: dict[str, bool], *, conditional: bool
) -> None:
    given = {"defaults": {"hits": 1}} | call
    relation = table(column("hits"), column("seen", "other"), **about)
    assert plan(relation, **given).conditional == conditional


def test_default_is_the_keyword_as_a_value_and_inlined_where_it_is_compared() -> None:
    made = plan(HITS, defaults={"hits": DEFAULT}, skip_unchanged=True)
    assert made.update[0].term is None
    assert made.insert[1].term is None
    assert made.compare is not None
    assert made.compare[0].term.kind == "default"


def test_excluded_of_a_default_is_inlined() -> None:
    made = plan(HITS, defaults={"hits": DEFAULT, "price": Excluded("hits")})
    term = made.update[1].term
    assert term is not None
    assert (term.kind, term.column) == ("default", HITS.columns["hits"])


@pytest.mark.parametrize(
    ("returning", "names"),
    [
        (None, ()),
        ("*", ("id", "hits", "name", "data", "flag", "seen", "price")),
        ("hits", ("hits",)),
        (["name", "id"], ("name", "id")),
        (["id", "id"], ("id",)),
        ([], ()),
    ],
)
def test_which_columns_are_returned(returning: Any, names: tuple[str, ...]) -> None:
    assert plan(HITS, returning=returning).returning == names


def test_a_relation_that_returns_no_rows_says_so() -> None:
    virtual = table(column("a"), supports_returning=False)
    with pytest.raises(
        UsageError, match=r"a virtual table such as s\.t returns no rows"
    ):
        plan(virtual, returning="*")
    assert plan(virtual).returning == ()
    view = table(column("a"), supports_returning=False, written_by_triggers=True)
    assert plan(view, returning="a").returning == ("a",)


# --- Unique indexes and strategies ----------------------------------------------------


def test_a_key_without_a_unique_index_warns() -> None:
    made = plan(HITS, key={"name": "x"})
    assert made.warning is not None
    assert "no unique index makes (name) of s.t unique" in made.warning
    assert plan(HITS).warning is None


@pytest.mark.parametrize(
    ("word", "shows", "warns", "locks"),
    [
        ("warn", True, True, False),
        ("warn", False, False, False),
        ("allow", True, False, False),
        ("lock", True, False, True),
        ("lock", False, False, True),
    ],
)
def test_what_happens_without_a_unique_index(
    word: str, *, shows: bool, warns: bool, locks: bool
) -> None:
    bare = table(unique=(), all_indexes_known=shows)
    made = plan(bare, without_unique_index=word)
    assert (made.warning is not None, made.lock) == (warns, locks)


def test_a_unique_index_may_be_insisted_on() -> None:
    with pytest.raises(MissingUniqueIndexError, match=r"\(name\) of s\.t unique"):
        plan(HITS, key={"name": "x"}, without_unique_index="error")
    assert plan(HITS, without_unique_index="error").warning is None


def test_no_lock_is_needed_with_a_unique_index() -> None:
    assert not plan(HITS, without_unique_index="lock").lock


IDENTITY = table(
    column("n", always_identity=True, default="nextval('x')"),
    unique=(UniqueIndex("i", ("n",)),),
)


@pytest.mark.parametrize(
    ("relation", "call", "why"),
    [
        (HITS, {}, None),
        (HITS, {"strategy": "fast"}, None),
        (HITS, {"strategy": "exact"}, "asked for"),
        (table(exact_because="it has rules"), {}, "it has rules"),
        (IDENTITY, {"key": {"n": 1}}, "the key has a column that only the database"),
    ],
    ids=["plain", "fast", "exact", "rules", "identity"],
)
def test_why_the_single_statement_is_not_used(
    relation: Table, call: dict[str, Any], why: str | None
) -> None:
    exact = plan(relation, **call).exact_because
    assert exact == why if why is None else (exact or "").startswith(why)


def test_fast_is_refused_with_the_reason_where_it_cannot_serve() -> None:
    with pytest.raises(UsageError, match=r'"fast" cannot serve s\.t: it has rules'):
        plan(table(exact_because="it has rules"), strategy="fast")


def test_on_conflict_needs_its_index() -> None:
    assert plan(HITS, strategy="on_conflict").on_conflict
    for unique in (
        (),
        (UniqueIndex("i", ("id", "hits")),),
        (UniqueIndex("i", ("id",), deferrable=True),),
        (UniqueIndex("i", ("id",), predicate="true"),),
    ):
        with pytest.raises(MissingUniqueIndexError, match=r"exactly \(id\) of s\.t"):
            plan(table(column("hits"), unique=unique), strategy="on_conflict")


@pytest.mark.parametrize("argument", ["defaults", "create_defaults", "touch"])
def test_on_conflict_cannot_rename(argument: str) -> None:
    with pytest.raises(UsageError, match="the key's id is given another value"):
        plan(HITS, strategy="on_conflict", **{argument: {"id": 2}})


def test_on_conflict_needs_a_relation_that_tells_what_it_did() -> None:
    with pytest.raises(
        UsageError, match="cannot report whether a row was created or updated"
    ):
        plan(table(supports_on_conflict_update=False), strategy="on_conflict")


# --- Types of literals ----------------------------------------------------------------


def terms(term: Resolved) -> list[Resolved]:
    return [term, *(inner for arg in term.args for inner in terms(arg))]


@pytest.mark.parametrize(
    ("where", "typed_by"),
    [
        (F("seen") == "x", "seen"),
        (F("seen").in_(["x"]), "seen"),
        (Excluded("name") == "x", "name"),
        (coalesce(F("data"), {}).is_null(), "data"),
        (coalesce(F("data"), []).is_null(), "data"),
        (F("seen") > (1, 2), "seen"),
        (coalesce(F("seen"), "x") == now(), "seen"),
        (coalesce(F("seen"), now()) == "x", "seen"),
        # No column stands beside it.
        (func("f", F("seen"), "x") == True, None),  # noqa: E712  # builds a condition
        (F("name").concat("x").is_null(), None),
        # A number has a type of its own.
        (F("hits") == 1, None),
        (F("price") == decimal.Decimal(1), None),
    ],
    ids=repr,
)
def test_a_literal_takes_its_type_from_the_column_beside_it(
    where: Any, typed_by: str | None
) -> None:
    # Parameters: the key 0, the value of name 1, the literal 2.
    made = plan(HITS, defaults={"name": "a"}, where=where)
    assert made.where is not None
    literals = [term for term in terms(made.where) if term.parameter == 2]
    columns = [term.column.name if term.column else None for term in literals]
    assert columns == [typed_by]


# --- Keys that would be stored as something else --------------------------------------


def key_column(storage: str, **more: Any) -> Table:
    return table(
        column("k", storage=storage, **more), unique=(UniqueIndex("i", ("k",)),)
    )


NAIVE = dt.datetime(2024, 1, 1)  # noqa: DTZ001  # naive is one of the kinds
AWARE = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)

KEYS: dict[str, tuple[list[Any], list[tuple[Any, str]]]] = {
    "integer": (
        [1, 2.0, -0.0, decimal.Decimal("3.0"), True, "x"],
        [(1.5, "whole"), (decimal.Decimal("1.5"), "whole"), (math.nan, "whole")],
    ),
    "numeric": (
        [1, 0.5, math.nan, decimal.Decimal("0.1"), math.inf],
        [(0.1, r'pass Decimal\("0.1"\)')],
    ),
    "date": ([dt.date(2024, 1, 1), "x"], [(NAIVE, "cut off"), (AWARE, "cut off")]),
    "timestamptz": (
        [AWARE, "x"],
        [(NAIVE, "pass an aware one"), (dt.date(2024, 1, 1), "no time of day")],
    ),
    "time": ([dt.time(1), "x"], [(dt.time(1, tzinfo=dt.UTC), "no time zone")]),
    "timetz": ([dt.time(1, tzinfo=dt.UTC), "x"], [(dt.time(1), "an aware one")]),
    "sqlite number": (
        [1, 1.5, "abc", b"5", math.inf],
        [(math.nan, "NaN as NULL"), ("5", "affinity"), (" 1e3 ", "affinity")],
    ),
    "sqlite real": (
        [1, 1.5, 2**53, "abc", math.inf],
        [(2**53 + 1, "cannot hold"), (math.nan, "NaN"), ("5", "affinity")],
    ),
    "sqlite text": (["5", b"5"], [(5, "into text"), (1.5, "into text")]),
    "sqlite blob": ([5, "5", b"5", 1.5], [(math.nan, "NaN as NULL")]),
    "other": ([1, "x", NAIVE, math.nan], []),
}


def check(relation: Table, value: Any) -> None:
    made = plan(relation, key={"k": value})
    for parameter, key_check in made.checks:
        key_check.check([value][parameter])


@pytest.mark.parametrize(
    ("storage", "value"),
    [(storage, value) for storage, (good, _) in KEYS.items() for value in good],
    ids=repr,
)
def test_a_key_that_stays_as_it_is_is_taken(storage: str, value: Any) -> None:
    check(key_column(storage), value)


@pytest.mark.parametrize(
    ("storage", "value", "why"),
    [(storage, *refused) for storage, (_, bad) in KEYS.items() for refused in bad],
    ids=repr,
)
def test_a_key_that_would_be_stored_otherwise_is_refused(
    storage: str, value: Any, why: str
) -> None:
    with pytest.raises(UsageError, match=rf"key\['k'\].* as something else: .*{why}"):
        check(key_column(storage), value)


@pytest.mark.parametrize(
    ("length", "value", "taken"),
    [
        (3, "abc", True),
        (3, "abcd", True),  # the database refuses it
        (3, "ab   ", False),  # the database would cut the spaces
        (3, "abc ", False),
        (3, "ab ", True),
        (3, b"abc ", True),
        (None, "abc ", True),
    ],
)
def test_a_key_whose_spaces_would_be_cut_is_refused(
    length: int | None, value: Any, *, taken: bool
) -> None:
    relation = key_column("varchar", length=length)
    if taken:
        check(relation, value)
    else:
        with pytest.raises(UsageError, match="the column holds 3 characters"):
            check(relation, value)


def test_a_null_key_needs_no_check() -> None:
    assert plan(key_column("integer"), key={"k": None}).checks == ()
