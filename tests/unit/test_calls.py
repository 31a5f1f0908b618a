"""Calls of a coalescer: what is written together, what is one write, and in what order."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, NamedTuple

import pytest

from aioupsert import DEFAULT, SQL, Excluded, F, now
from aioupsert._engines.postgresql import engine_of
from aioupsert._engines.sqlite import SQLITE
from aioupsert._plan import (
    CallGrouper,
    Request,
    RequestShape,
    RowGroup,
    ValueSemantics,
)
from aioupsert._plan.schema import Column, Family, Storage, Table
from aioupsert.expressions import func
from tests.unit.plans import column, read, table

UTC: Final = dt.UTC
ADD: Final = {"n": F("n") + 1}


class Call(NamedTuple):
    """A call, as a coalescer has it."""

    shape: RequestShape
    values: list[Any]


def typed(
    name: str, type_: str, family: Family, storage: Storage, **more: Any
) -> Column:
    cast = f"pg_catalog.{type_}"
    attributes = {"type": cast, "key_type": cast, "storage": storage, **more}
    return column(name, family, **{"unconstrained": True, **attributes})


COLUMNS: Final = (
    typed("n", "int4", "integer", "integer", default="7"),
    typed("m", "int4", "integer", "integer"),
    typed("small", "int2", "integer", "integer"),
    typed("big", "int8", "integer", "integer"),
    typed("ref", "oid", "integer", "integer"),
    typed("s", "text", "text", "text"),
    typed("label", "varchar", "text", "varchar"),
    typed("b", "bool", "boolean", "boolean"),
    typed("at", "timestamptz", "other", "timestamptz"),
    typed("day", "date", "other", "date"),
    typed("u", "uuid", "other", "uuid"),
    typed("x", "numeric", "number", "numeric"),
    typed("j", "jsonb", "json", "other"),
    typed("checked", "int4", "integer", "integer", unconstrained=False),
    typed("checked_text", "text", "text", "text", unconstrained=False),
)
POSTGRESQL: Final = engine_of(None)
TABLE: Final = table(*COLUMNS, mergeable=True)


def call(key: Any = 1, **arguments: Any) -> Call:
    return Call(*read(key={"id": key}, **arguments))


def adding(number: int, key: Any = 1) -> Call:
    return call(key, defaults={"n": F("n") + number})


def grouped(
    calls: Sequence[Call], of: Table = TABLE, semantics: ValueSemantics = POSTGRESQL
) -> list[RowGroup]:
    groups, bad = CallGrouper(("id",)).group(calls, of, semantics)
    assert bad == []
    # Whatever is merged, each call is in one group, once.
    positions = sorted(p for group in groups for p in group.calls)
    assert positions == list(range(len(calls)))
    return groups


def rows(groups: Sequence[RowGroup]) -> list[tuple[list[int], list[list[Any]]]]:
    """The positions in each group, and the values of each row."""
    return [
        (
            list(group.positions),
            [group.values(row) for row in range(len(group.positions))],
        )
        for group in groups
    ]


def is_merged(*calls: Call, of: Table = TABLE) -> bool:
    groups = grouped(calls, of)
    return [list(group.positions) for group in groups] == [[0]]


# --- Groups ---------------------------------------------------------------------------


def test_calls_of_one_shape_are_one_group() -> None:
    (group,) = grouped([adding(n, key=n) for n in range(1, 5)])
    assert rows([group]) == [([0, 1, 2, 3], [[1, 1], [2, 2], [3, 3], [4, 4]])]
    assert group.distinct
    assert group.merged == {}
    assert group.constants == ()


def test_calls_of_different_shapes_are_different_groups() -> None:
    groups = grouped(
        [adding(1), call(2, defaults={"s": "a"}), adding(3, 3), call(4, touch={"m": 1})]
    )
    assert [list(group.positions) for group in groups] == [[0, 2], [1], [3]]
    assert len({group.shape for group in groups}) == 3


def test_a_group_s_shape_says_that_every_value_belongs_to_a_row() -> None:
    (group,) = grouped([adding(1), adding(2, 2)])
    assert group.shape == Request(*adding(1).shape)._replace(coalesced=True)


def test_calls_for_one_row_take_turns_where_they_cannot_be_merged() -> None:
    shape = {"defaults": {"n": F("n") + 1}, "returning": "n"}
    groups = grouped([call(1, **shape), call(2, **shape), call(1, **shape)])
    assert [list(group.positions) for group in groups] == [[0, 1], [2]]
    assert all(group.distinct for group in groups)


def test_turns_of_different_shapes_keep_the_order_of_each_row() -> None:
    calls = [
        adding(1),
        call(1, defaults={"s": "a"}),
        adding(2),
        call(2, defaults={"s": "b"}),
        adding(3, 2),
        adding(4, 2),
    ]
    order = [(p, g) for g, group in enumerate(grouped(calls)) for p in group.calls]
    turn = dict(order)
    assert turn[0] < turn[1] < turn[2]
    assert turn[3] < turn[4] == turn[5]


def test_on_sqlite_all_calls_keep_their_order() -> None:
    calls = [adding(1), call(2, defaults={"s": "a"}), adding(2), adding(3)]
    groups = grouped(calls, semantics=SQLITE)
    assert [list(group.positions) for group in groups] == [[0, 2, 3], [1]]
    assert not any(group.distinct or group.merged for group in groups)


def test_keys_that_the_database_may_take_for_the_same_keep_their_order() -> None:
    # A text beside an int: what the server makes of it is not known here.
    groups = grouped([adding(1), adding(2, key="1"), adding(3)])
    assert [list(group.positions) for group in groups] == [[0, 1, 2]]
    assert not groups[0].distinct
    assert groups[0].merged == {}


def test_a_key_of_null_is_a_key_like_another() -> None:
    groups = grouped([adding(1), adding(2, key=None), adding(3), adding(4, key=None)])
    assert sorted(group.calls for group in groups) == [[0, 2], [1], [3]]
    assert all(group.distinct for group in groups)


def test_a_column_of_the_key_that_the_table_lacks_is_found_later() -> None:
    calls = [Call(*read(key={"idd": 1}, defaults=ADD)) for _ in range(2)]
    groups, bad = CallGrouper(("idd",)).group(calls, TABLE, POSTGRESQL)
    assert bad == []
    assert [list(group.positions) for group in groups] == [[0, 1]]


def test_a_key_of_several_columns_is_one_row_where_all_are_equal() -> None:
    calls = [
        Call(*read(key={"id": 1, "m": m}, defaults={"n": F("n") + m}))
        for m in (1, 2, 1)
    ]
    unique = table(*COLUMNS, mergeable=True)
    groups, _ = CallGrouper(("id", "m")).group(calls, unique, POSTGRESQL)
    assert rows(groups) == [([0, 1], [[1, 1, 2], [1, 2, 2]])]
    assert groups[0].merged == {0: [2]}


# --- What is merged -------------------------------------------------------------------


def test_sums_are_one_write() -> None:
    (group,) = grouped([adding(1), adding(2), adding(3)])
    assert rows([group]) == [([0], [[1, 6]])]
    assert group.merged == {0: [1, 2]}
    assert group.calls == [0, 1, 2]


def test_each_row_has_a_sum_of_its_own() -> None:
    (group,) = grouped([adding(n, key=n % 3) for n in range(1, 10)])
    assert rows([group]) == [([0, 1, 2], [[1, 12], [2, 15], [0, 18]])]
    assert group.merged == {0: [3, 6], 1: [4, 7], 2: [5, 8]}


def test_true_is_the_key_one() -> None:
    (group,) = grouped([adding(1, key=True), adding(2, key=1)])
    assert rows([group]) == [([0], [[True, 3]])]


@pytest.mark.parametrize(
    ("make", "values", "joined"),
    [
        (lambda n: F("n") + n, (2, 3), 5),
        (lambda n: n + F("n"), (2, 3), 5),
        (lambda n: F("n") - n, (2, 3), 5),
        (lambda n: F("n") + n, (-2, -3), -5),
        (lambda n: F("n") + n, (0, -3), -3),
        (lambda n: F("n") + n, (3, 0), 3),
        (lambda n: F("n") + n, (2**31 - 2, 1), 2**31 - 1),
    ],
    ids=["F+n", "n+F", "F-n", "negative", "zero first", "zero last", "largest"],
)
def test_what_is_added_is_summed(make: Any, values: Any, joined: int) -> None:
    calls = [call(defaults={"n": make(value)}) for value in values]
    assert rows(grouped(calls)) == [([0], [[1, joined]])]


@pytest.mark.parametrize("name", ["small", "big", "m"])
def test_integers_of_every_width_are_summed(name: str) -> None:
    calls = [call(defaults={name: F(name) + n}) for n in (1, 2)]
    assert rows(grouped(calls)) == [([0], [[1, 3]])]


UUIDS: Final = [uuid.UUID(int=n) for n in (1, 2)]
MOMENTS: Final = [dt.datetime(2020, 1, n, tzinfo=UTC) for n in (1, 2)]
LAST: Final[dict[str, tuple[str, Any, Any]]] = {
    "int4": ("m", 1, 2),
    "least int4": ("m", -(2**31), 2),
    "int2": ("small", 2**15 - 1, 2),
    "int8": ("big", 2**63 - 1, 2),
    "text": ("s", "a", "b"),
    "empty text": ("s", "", "b"),
    "bool": ("b", True, False),
    "timestamptz": ("at", MOMENTS[0], MOMENTS[1]),
    "date": ("day", dt.date.min, dt.date.max),
    "uuid": ("u", UUIDS[0], UUIDS[1]),
}


@pytest.mark.parametrize("case", LAST)
def test_of_plain_values_the_last_stays(case: str) -> None:
    name, first, last = LAST[case]
    calls = [call(defaults={name: value}) for value in (first, last)]
    assert rows(grouped(calls)) == [([0], [[1, last]])]


def test_the_last_value_may_be_anything_since_it_is_written() -> None:
    calls = [call(defaults={"s": value}) for value in ("a", "é\0")]
    assert rows(grouped(calls)) == [([0], [[1, "é\0"]])]


def test_several_columns_are_merged_each_in_its_way() -> None:
    calls = [
        call(defaults={"n": F("n") + n, "s": str(n), "m": F("m") - n, "b": n == 1})
        for n in (1, 2, 3)
    ]
    (group,) = grouped(calls)
    assert rows([group]) == [([0], [[1, 6, "3", 6, False]])]
    assert group.merged == {0: [1, 2]}


def test_what_only_creates_is_the_first_call_s() -> None:
    calls = [
        call(defaults=ADD, create_defaults={"s": str(n), "m": 5, "x": DEFAULT})
        for n in (1, 2)
    ]
    assert rows(grouped(calls)) == [([0], [[1, 2, "1", 5]])]


def test_merging_resumes_after_a_call_that_cannot_be_merged() -> None:
    calls = [adding(1), adding(2), adding(-1), adding(-2), adding(1)]
    groups = grouped(calls)
    assert [list(group.positions) for group in groups] == [[0], [2], [4]]
    assert [group.values(0) for group in groups] == [[1, 3], [1, -3], [1, 1]]
    assert [dict(group.merged) for group in groups] == [{0: [1]}, {2: [3]}, {}]


def test_calls_of_other_rows_in_between_do_not_matter() -> None:
    (group,) = grouped([adding(1), adding(1, 2), adding(2), adding(2, 2)])
    assert group.merged == {0: [2], 1: [3]}


def test_what_can_be_merged_is_found_out_once_for_each_shape_and_table() -> None:
    calls = CallGrouper(("id",))
    several = [adding(1), adding(2)]
    for of, positions in (
        (TABLE, [[0]]),
        (table(*COLUMNS), [[0], [1]]),
        (TABLE, [[0]]),
    ):
        for _ in range(2):
            groups, _ = calls.group(several, of, POSTGRESQL)
            assert [list(group.positions) for group in groups] == positions


def test_what_was_found_out_serves_every_connection_that_sees_the_same() -> None:
    calls = CallGrouper(("id",))
    several = [adding(1), adding(2)]
    calls.group(several, TABLE, POSTGRESQL)
    (rule,) = calls._rules.values()
    calls.group(several, replace(TABLE), POSTGRESQL)
    (again,) = calls._rules.values()
    assert again is rule


def test_shapes_without_number_do_not_fill_the_memory() -> None:
    calls = CallGrouper(("id",))
    for number in range(600):
        same = call(defaults={"m": 1}, create_defaults={"s": SQL(f"'{number}'")})
        groups, _ = calls.group([same, same], TABLE, POSTGRESQL)
        assert [list(group.positions) for group in groups] == [[0]]
    assert len(calls._rules) <= 256


# --- What is not ----------------------------------------------------------------------

S: Final = {"s": "a"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"defaults": ADD, "where": F("n") < 9},
        {"defaults": ADD, "skip_unchanged": True},
        {"defaults": ADD, "touch": {"at": now()}},
        {"defaults": ADD, "returning": "*"},
        {"defaults": ADD, "returning": ["n"]},
        {"defaults": ADD, "create_defaults": {"n": 5}},
        {"defaults": ADD, "create_defaults": {"n": F("n") + 5}},
        {"defaults": ADD, "create_defaults": {"n": F("n") - 1}},
        {"defaults": S, "create_defaults": {"s": "b"}},
        {"defaults": {"n": F("n") + 1, "m": Excluded("n")}},
        {"defaults": {"m": 1, "n": F("n") + Excluded("m")}},
        {"defaults": {"m": 1, "s": "a"}, "create_defaults": {"n": Excluded("m")}},
        {"defaults": {"n": F("m") + 1}},
        {"defaults": {"n": F("n") * 2}},
        {"defaults": {"n": 5 - F("n")}},
        {"defaults": {"n": F("n") + F("m")}},
        {"defaults": {"n": F("n") + 1 + 1}},
        {"defaults": {"n": F("n") + 2**40}},
        {"defaults": {"n": func("abs", F("n"))}},
        {"defaults": {"n": SQL("{} + 1", F("n"))}},
        {"defaults": {"n": DEFAULT}},
        {"defaults": {"at": now()}},
        {"defaults": {"x": F("x") + 1}},
        {"defaults": {"x": F("x") + 1.5}},
        {"defaults": {"x": Decimal(1)}},
        {"defaults": {"j": {"a": 1}}},
        {"defaults": {"ref": 1}},
        {"defaults": {"checked": F("checked") + 1}},
        {"defaults": {"checked_text": "a"}},
        {"defaults": {"n": F("n") + 1, "checked_text": "a"}},
        {"defaults": {"id": 2}},
        {"defaults": ADD, "create_defaults": {"id": 2}},
        {"defaults": ADD, "strategy": "exact"},
        # What is said of it when it is to be written.
        {"defaults": {"nn": 1}},
        {"defaults": {"n": "a", "m": Excluded("s")}},
    ],
    ids=str,
)
def test_these_are_never_merged(arguments: dict[str, Any]) -> None:
    assert not is_merged(call(**arguments), call(**arguments))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (adding(1), adding(-1)),
        (adding(-1), adding(1)),
        (adding(2**31 - 1), adding(1)),
        (adding(-(2**31)), adding(-1)),
        (adding(-(2**31)), adding(0)),
    ],
    ids=["plus minus", "minus plus", "too large", "too small", "least"],
)
def test_sums_that_may_pass_a_limit_in_between_are_not_merged(
    first: Call, second: Call
) -> None:
    assert not is_merged(first, second)


def test_whatever_could_fail_by_itself_is_not_lost() -> None:
    class Text(str):
        __slots__ = ()

    class Number(int):
        pass

    cases: list[tuple[str, Any]] = [
        *(("s", value) for value in ("é", "\ud800", "a\0b", Text("a"), 1, None)),
        *(("m", value) for value in (2**31, -(2**31) - 1, True, 1.0, Number(1), None)),
        *(("small", value) for value in (2**15, -(2**15) - 1)),
        *(("big", value) for value in (2**63, -(2**63) - 1)),
        *(("b", value) for value in (1, None)),
        *(("day", value) for value in (MOMENTS[0], None)),
        *(("u", value) for value in (str(UUIDS[0]), None)),
        *(("at", value) for value in (dt.date(2020, 1, 1), None)),
        ("at", MOMENTS[0].replace(tzinfo=None)),
        ("at", dt.datetime.max.replace(tzinfo=UTC)),
        ("at", dt.datetime.min.replace(tzinfo=UTC)),
    ]
    good = {name: value for name, _, value in LAST.values()}
    for name, value in cases:
        first, second = (call(defaults={name: v}) for v in (value, good[name]))
        assert not is_merged(first, second), (name, value)
        # Which of them is the other is what counts.
        assert first.shape != second.shape or is_merged(second, first), (name, value)


def test_a_value_that_only_creates_and_cannot_be_sent_fails_its_own_call() -> None:
    def creating(**values: Any) -> Call:
        return call(defaults=ADD, create_defaults=values)

    large = 10**6  # an object of its own each time it is computed
    assert not is_merged(creating(m=1), creating(m="x"))
    assert not is_merged(creating(s="a"), creating(s="\0"))
    assert is_merged(creating(s="\0"), creating(s="a"))
    assert not is_merged(creating(ref=1), creating(ref=2))
    assert not is_merged(creating(m=F("m") + large), creating(m=F("m") + (large + 1)))
    # Whatever the first one can be sent with, the other can.
    value = Decimal("1.5")
    assert is_merged(creating(x=value, ref=1), creating(x=value, ref=1))
    assert is_merged(creating(m=F("m") + large), creating(m=F("m") + large))


def test_a_sum_of_booleans_is_not_merged() -> None:
    # They are refused for what they are, each by itself.
    plus_true = Call(adding(1).shape, [1, True])
    assert not is_merged(adding(1), plus_true)
    assert not is_merged(plus_true, adding(1))


def test_another_call_in_between_is_not_overtaken() -> None:
    groups = grouped([adding(1), call(defaults={"n": 0}), adding(2)])
    assert [list(group.positions) for group in groups] == [[0], [1], [2]]


@pytest.mark.parametrize(
    "of",
    [
        table(*COLUMNS),
        table(*COLUMNS, mergeable=True, unique=()),
        table(*COLUMNS, mergeable=True, exact_because="a rule"),
    ],
    ids=["not mergeable", "no unique index", "exact"],
)
def test_other_tables_are_not_merged(of: Table) -> None:
    assert not is_merged(adding(1), adding(2), of=of)


def test_under_a_lock_nothing_is_merged() -> None:
    bare = table(*COLUMNS, mergeable=True, unique=())
    calls = [call(defaults=ADD, without_unique_index="lock") for _ in range(2)]
    assert not is_merged(*calls, of=bare)


def test_an_index_that_the_call_insists_on_is_missed_later() -> None:
    bare = table(*COLUMNS, mergeable=True, unique=())
    calls = [call(defaults=ADD, without_unique_index="error") for _ in range(2)]
    assert not is_merged(*calls, of=bare)
