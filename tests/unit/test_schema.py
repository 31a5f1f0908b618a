"""What the description of a table says about a key, and names of tables."""

from typing import Any, Final

import pytest

from aioupsert import UsageError
from aioupsert._engines.partial_indexes import read_predicate
from aioupsert._plan.schema import NAMES, Pin, UniqueIndex, table_name
from tests.unit.plans import column, table


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("t", ("t",)),
        ("s.t", ("s", "t")),
        (("t",), ("t",)),
        (("s", "t"), ("s", "t")),
        (["s", "t"], ("s", "t")),
        (("my.table",), ("my.table",)),
        (("a.b", "c.d"), ("a.b", "c.d")),
        ('q"u?$1', ('q"u?$1',)),
    ],
)
def test_a_table_is_named_by_a_text_or_a_tuple(
    written: Any, name: tuple[str, ...]
) -> None:
    assert table_name(written) == name


@pytest.mark.parametrize(
    "written", ["", ".", "a.", ".a", "a.b.c", "a\0b", ("",), ("a", ""), ("a\0",)]
)
def test_a_name_that_cannot_be_one_is_refused(written: Any) -> None:
    with pytest.raises(UsageError, match="is not a table name") as refused:
        table_name(written)
    assert '("my.table",)' in str(refused.value)


@pytest.mark.parametrize(
    "written", [None, 1, b"t", (), ("a", "b", "c"), ("a", 1), {"a"}, object]
)
def test_a_thing_that_is_no_name_is_refused(written: Any) -> None:
    with pytest.raises(UsageError, match="a table is a name or a tuple"):
        table_name(written)


def test_few_names_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioupsert._plan.schema._MAX_NAMES", 3)
    for number in range(5):
        assert table_name(f"s.t{number}") == ("s", f"t{number}")
        assert len(NAMES) <= 3


def index(*columns: str | None, **more: Any) -> UniqueIndex:
    return UniqueIndex("i", columns, **more)


NULL = True
# The index, the key, and whether at most one row can have it; whether ON CONFLICT with
# the key's columns would choose the index.
INDEXES: dict[str, tuple[UniqueIndex, dict[str, bool], bool, bool]] = {
    "its column": (index("a"), {"a": False}, True, True),
    "another column": (index("a"), {"b": False}, False, False),
    "its columns": (index("a", "b"), {"b": False, "a": False}, True, True),
    "one of its columns": (index("a", "b"), {"a": False}, False, False),
    "more than its columns": (index("a"), {"a": False, "b": False}, True, False),
    "a NULL elsewhere": (index("a"), {"a": False, "b": NULL}, True, False),
    "a NULL": (index("a"), {"a": NULL}, False, False),
    "one NULL of two": (index("a", "b"), {"a": False, "b": NULL}, False, False),
    "a NULL that is not distinct": (
        index("a", nulls_distinct=False),
        {"a": NULL},
        True,
        True,
    ),
    "an expression": (index(None), {"a": False}, False, False),
    "an expression beside": (index("a", None), {"a": False}, False, False),
    "a partial index": (index("a", predicate="x > 1"), {"a": False}, False, False),
    "a partial index on NULL": (
        index("a", predicate="b IS NULL", pins=(Pin("b", is_null=True),)),
        {"a": False, "b": NULL},
        True,
        False,
    ),
    "a partial index on NULL, a value": (
        index("a", predicate="b IS NULL", pins=(Pin("b", is_null=True),)),
        {"a": False, "b": False},
        False,
        False,
    ),
    "a partial index on NULL, not in the key": (
        index("a", predicate="b IS NULL", pins=(Pin("b", is_null=True),)),
        {"a": False},
        False,
        False,
    ),
    "a partial index on NULL of its own column": (
        index("a", predicate="a IS NULL", pins=(Pin("a", is_null=True),)),
        {"a": NULL},
        False,
        False,
    ),
    "a partial index on NULL, not distinct": (
        index(
            "a",
            predicate="a IS NULL",
            pins=(Pin("a", is_null=True),),
            nulls_distinct=False,
        ),
        {"a": NULL},
        True,
        False,
    ),
    "a deferrable one": (index("a", deferrable=True), {"a": False}, True, False),
}


@pytest.mark.parametrize(
    ("unique", "key", "covers", "matches"), INDEXES.values(), ids=INDEXES
)
def test_an_index_makes_a_key_unique_or_not(
    unique: UniqueIndex,
    key: dict[str, bool],
    *,
    covers: bool,
    matches: bool,
) -> None:
    assert (unique.covers(key), unique.matches(key)) == (covers, matches)
    assert table(column("a"), column("b"), unique=(unique,)).is_unique(key) == covers


def test_one_index_of_several_is_enough() -> None:
    both = table(column("a"), unique=(index("a"), index("id")))
    assert both.is_unique({"id": False})
    assert not table(unique=()).is_unique({"id": False})


def test_a_table_is_shown_as_it_was_written() -> None:
    assert table(name=("s", "t")).label == "s.t"
    assert table(name=("t",)).label == "t"


def test_a_hidden_column_is_not_visible() -> None:
    hidden = table(column("rowid", hidden=True), column("a"))
    assert hidden.visible == ("id", "a")


def gone(*columns: str) -> tuple[Pin, ...]:
    return tuple(Pin(column, is_null=True) for column in columns)


PREDICATES: Final = {
    None: (),
    "deleted_at IS NULL": gone("deleted_at"),
    "(deleted_at IS NULL)": gone("deleted_at"),
    "((a IS NULL) AND (b IS NULL))": gone("a", "b"),
    "a is null and b is null": gone("a", "b"),
    "a IS NULL\n  AND\tb IS NULL": gone("a", "b"),
    '("deleted at" IS NULL)': gone("deleted at"),
    '"a""b" IS NULL': gone('a"b'),
    '("a(b)" IS NULL)': gone("a(b)"),
    "(a IS NOT NULL)": (Pin("a"),),
    "active": (Pin("active", value=True),),
    "(active)": (Pin("active", value=True),),
    "(NOT active)": (Pin("active", value=False),),
    "NOT (active)": (Pin("active", value=False),),
    "active IS TRUE AND gone IS FALSE": (
        Pin("active", value=True),
        Pin("gone", value=False),
    ),
    "(active = true)": (Pin("active", value=True),),
    "1 = kind": (Pin("kind", value=1),),
    "kind IS -1": (Pin("kind", value=-1),),
    "kind == 12": (Pin("kind", value=12),),
    "(kind = '-3'::integer)": (Pin("kind", value=-3),),
    "state='it''s'": (Pin("state", value="it's"),),
    "(state = 'open'::text)": (Pin("state", value="open"),),
    "((state)::text = 'open'::text)": (Pin("state", value="open"),),
    "(state = 'open'::character varying(9))": (Pin("state", value="open"),),
    """(kind = 'x'::"My".kind)""": (Pin("kind", value="x"),),
    "((active AND (NOT gone)) AND (n IS NULL))": (
        Pin("active", value=True),
        Pin("gone", value=False),
        Pin("n", is_null=True),
    ),
    "((kind)::text = 'x'::text)": (),
    "((state)::integer = 1)": (),
    "(state = 'x'::numeric(4": (),
    "((a IS NULL) AND (b > 1))": (),
    "((a IS NULL) OR (b IS NULL))": (),
    "(NOT (a AND b))": (),
    "(NOT (a IS NULL))": (),
    "(a AND b)::text = 'x'": (),
    "(lower(a) IS NULL)": (),
    "a.b IS NULL": (),
    "a = b": (),
    "(a AND b) = 1": (),
    "1 = 1": (),
    "a IS NOT 1": (),
    "(a IS NULL": (),
    "a IS NULL)": (),
    "a::1 = 2": (),
    "a = 1.5": (),
    "a = E'x'": (),
    "AND": (),
    "": (),
}


@pytest.mark.parametrize("predicate", PREDICATES, ids=str)
def test_a_predicate_that_asks_for_constants_is_read(predicate: str | None) -> None:
    assert read_predicate(predicate, {"state"}) == PREDICATES[predicate]


@pytest.mark.parametrize(
    ("constant", "value", "covers"),
    [
        (True, True, True),
        (True, False, False),
        (True, "true", False),
        (1, True, True),
        ("x", "x", True),
        ("x", "X", False),
        ("1", 1, False),
    ],
)
def test_the_constants_of_a_predicate_are_those_of_the_key(
    constant: Any, value: Any, *, covers: bool
) -> None:
    unique = index("a", predicate="...", pins=(Pin("b", value=constant),))
    key = {"a": False, "b": False}
    assert unique.covers(key, {"b": value}) == covers
    assert not unique.covers(key)
    assert not unique.covers({"a": False, "b": NULL})
    assert not unique.matches(key)
