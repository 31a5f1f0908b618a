"""Rows of a bulk call: which are read together, and what is cached of them."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import pytest

from aioupsert import DEFAULT, Excluded, F, greatest
from aioupsert._engines.postgresql import engine_of
from aioupsert._plan import (
    Request,
    RowGroup,
    RowGrouper,
    lacking_values,
    make_plan,
    read_bulk_request,
    read_row_request,
)
from aioupsert._plan import rows as reading
from aioupsert._plan.records import Records, RowTranslation, read_records
from aioupsert._plan.request import Arguments
from aioupsert.expressions import Node
from tests.unit.plans import column, table

POSTGRESQL: Final = engine_of(None)
TABLE: Final = table(column("n"), column("s", "text"), column("j", "json"))
PLAIN: Final[Node] = ("literal", "value", ())


def group(grouper: RowGrouper, *rows: Any) -> list[RowGroup]:
    groups, rejected = grouper.group(rows, TABLE, POSTGRESQL)
    assert rejected == []
    return groups


def rows_by_id(**arguments: Any) -> RowGrouper:
    return RowGrouper(read_bulk_request(key="id", **arguments))


def test_the_next_batch_has_the_request_of_the_last_one() -> None:
    grouper = rows_by_id(update={"n": F("n") + 3})
    (first,) = group(grouper, {"id": 1, "n": 2}, {"id": 2, "n": 3})
    (second,) = group(grouper, {"id": 3, "n": 4})
    assert first.shape is second.shape
    assert first.constants == second.constants == [3]
    assert second.columns == [[3], [4]]


def test_rows_with_null_for_a_column_that_cannot_hold_it_lack_a_value() -> None:
    strict = table(column("n", not_null=True), column("s", "text", not_null=True))
    rows = [{"id": n, "n": None if n % 2 else n, "s": F("s")} for n in range(4)]
    grouper = rows_by_id(create_defaults={"s": "x"})
    (its_rows,) = grouper.group(rows, strict, POSTGRESQL)[0]
    for described, positions in (
        (strict, [1, 3]),
        (TABLE, []),
        (replace(strict, has_before_insert_trigger=True), []),
    ):
        found = lacking_values(make_plan(its_rows.shape, described), its_rows)
        assert sorted(found) == positions


def test_a_request_that_is_made_of_another_keeps_its_own() -> None:
    first = read_bulk_request(key="id")
    second = replace(first, skip_unchanged=True)
    shapes = [
        Request(*group(RowGrouper(request), {"id": 1, "n": 2})[0].shape)
        for request in (first, second)
    ]
    assert [shape.skip_unchanged for shape in shapes] == [False, True]


def test_the_request_depends_on_the_columns_and_on_what_they_hold() -> None:
    grouper = rows_by_id()
    rows = [
        {"id": 1, "n": 2},
        {"id": 1, "s": "a"},
        {"id": 1, "j": {}},
        {"id": 1, "j": 2},
    ]
    shapes = {group(grouper, row)[0].shape for row in rows}
    assert len(shapes) == len(rows)


def test_a_default_that_was_made_is_not_written_on_update() -> None:
    # The same columns, but for some rows one of them was made here.
    made = frozenset({"n"})
    translation = RowTranslation(
        ("id",),
        lambda records: records,
        lambda records: records._replace(
            generated=made if records.columns[1] == [0] else frozenset()
        ),
    )
    grouper = rows_by_id(translation=translation)
    shapes = [Request(*group(grouper, {"id": 1, "n": n})[0].shape) for n in (0, 1)]
    assert [dict(shape.defaults) for shape in shapes] == [
        {},
        {"n": Excluded("n").node},
    ]
    assert [shape.incoming for shape in shapes] == [(("n", PLAIN),)] * 2


def test_what_an_update_also_sets_is_left_to_the_row_that_has_it() -> None:
    grouper = rows_by_id(on_update={"s": "changed"})
    shapes = [
        Request(*group(grouper, row)[0].shape)
        for row in ({"id": 1, "n": 2}, {"id": 1, "n": 2, "s": "own"}, {"id": 1})
    ]
    assert [dict(shape.defaults) for shape in shapes] == [
        {"n": Excluded("n").node, "s": PLAIN},
        {"n": Excluded("n").node, "s": Excluded("s").node},
        {},
    ]


def test_what_an_update_also_sets_waits_for_a_change_where_one_is_asked_for() -> None:
    grouper = rows_by_id(on_update={"s": "changed"}, skip_unchanged=True)
    shape = Request(*group(grouper, {"id": 1, "n": 2})[0].shape)
    assert dict(shape.touch) == {"s": PLAIN}
    assert dict(shape.create_defaults) == {"s": DEFAULT.node}


def test_requests_without_number_do_not_fill_the_memory() -> None:
    request = read_bulk_request(key="id")
    grouper = RowGrouper(request)
    for number in range(600):
        row = {"id": 1, f"column {number}": 2}
        group(grouper, row)
        grouper.read_row(row)
    assert len(request.known) <= 512
    for number in range(600):
        row_form({"id": 1, f"column {number}": 2})
    assert len(reading._plain_rows) <= 256


@dataclass
class One:
    id: int
    n: int


class Point(NamedTuple):
    n: int
    id: int


def row_form(row: object) -> tuple[Any, list[Any]]:
    """What a call with a whole row is read as."""
    return read_row_request(Arguments(row, "id"))


def test_a_row_is_read_the_same_the_second_time() -> None:
    """What is kept of the first one is its columns and the classes of its cells."""
    rows: list[Any] = [
        {"b": 2, "id": 1, "a": "x"},
        {"id": 1, "a": "x", "b": 2},
        {"id": None, "a": None, "b": 2},
        {"id": 1, "a": F("a") + 1, "b": 2},
        {"id": 1},
        One(1, 2),
        Point(n=2, id=1),
        UserDict({"n": 2, "id": 1}),
    ]
    for row in rows:
        assert row_form(row) == row_form(row)
    for row in rows[:2]:
        assert row_form(row)[1] == [1, "x", 2]
    for row in rows[-3:]:
        assert row_form(row)[1] == [1, 2]
    shapes = [row_form(row)[0] for row in rows]
    assert shapes[0] == shapes[1]
    assert len({*shapes[1:6]}) == 5


@dataclass
class Other:
    id: int
    n: int


@pytest.mark.parametrize(
    "rows",
    [
        [{"id": 1, "n": 2}, {"n": 4, "id": 3}],
        [One(1, 2), One(3, 4)],
        [One(1, 2), Other(3, 4)],
        [UserDict(id=1, n=2), UserDict(id=3, n=4)],
    ],
    ids=["dicts", "a class", "classes with the same fields", "mappings"],
)
def test_rows_with_the_same_columns_are_read_together(rows: list[Any]) -> None:
    (records,), rejected = read_records(rows, ("id",))
    assert rejected == []
    assert records == Records(("id", "n"), records.positions, [[1, 3], [2, 4]])
    assert [*records.positions] == [0, 1]


def test_rows_of_as_many_but_other_columns_are_not_read_together() -> None:
    records, rejected = read_records([{"id": 1, "n": 2}, {"id": 3, "s": 4}], ("id",))
    assert rejected == []
    assert [some.names for some in records] == [("id", "n"), ("id", "s")]


def test_only_the_key_is_read_where_it_is_enough() -> None:
    (records,), _ = read_records([One(1, 2)], ("id",), only_key=True)
    assert records.names == ("id",)
    assert records.columns == [[1]]


# --- Rows with one key ------------------------------------------------------------------

WIDE: Final = table(
    column(
        "n",
        "integer",
        type="pg_catalog.int4",
        key_type="pg_catalog.int4",
        storage="integer",
        unconstrained=True,
    ),
    column(
        "s",
        "text",
        type="pg_catalog.text",
        key_type="pg_catalog.text",
        storage="text",
        unconstrained=True,
        nullable=True,
    ),
    mergeable=True,
    is_utf8=True,
)
LARGEST: Final = 2**31 - 1


def merged(
    *rows: dict[str, Any], update: Any = None, **arguments: Any
) -> list[tuple[list[int], dict[int, Any]]]:
    """The positions of the rows in each group, and those that were merged into them."""
    request = read_bulk_request(key="id", update=update, **arguments)
    groups, _ = RowGrouper(request).group(rows, WIDE, POSTGRESQL)
    return [([*group.positions], {**group.merged}) for group in groups]


def test_rows_with_one_key_are_merged_where_the_last_remains() -> None:
    rows = [{"id": number % 2, "n": number, "s": s} for number, s in enumerate("aéb")]
    assert merged(*rows) == [([0, 1], {0: [2]})]
    assert merged(*rows, update=["s"]) == [([0, 1], {0: [2]})]
    assert merged(*rows, update=[]) == [([0, 1], {0: [2]})]
    assert merged(*rows, update=[], returning="*") == [([0, 1], {0: [2]})]


@pytest.mark.parametrize(
    "arguments",
    [
        {"returning": "*"},
        {"skip_unchanged": True},
        {"where": F("n") < 9},
        {"update": {"n": F("n") + 1}},
        {"update": {"n": Excluded("n") - F("n")}},
        {"update": {"s": Excluded("n")}},
        {"update": {"s": greatest(F("s"), Excluded("s"))}},
        {"update": {"n": F("n") + Excluded("n"), "s": Excluded("n")}},
    ],
)
def test_rows_with_one_key_are_written_in_turns_where_each_counts(
    arguments: dict[str, Any],
) -> None:
    rows = [{"id": 1, "n": 5, "s": "a"}, {"id": 1, "n": 5, "s": "b"}]
    assert merged(*rows, **arguments) == [([0], {}), ([1], {})]


@pytest.mark.parametrize("wrong", ["\0", "\ud800", 7])
def test_a_row_that_may_fail_is_not_merged(wrong: Any) -> None:
    rows = [{"id": at // 2, "s": s} for at, s in enumerate([wrong, "a", "b", "c"])]
    assert merged(*rows) == [([0, 2], {2: [3]}), ([1], {})]


def test_a_sum_that_may_be_too_large_is_not_sent() -> None:
    update = {"n": F("n") + Excluded("n")}
    rows = [{"id": 1, "n": LARGEST}, {"id": 1, "n": 0}]
    assert merged(*rows, update=update) == [([0], {0: [1]})]
    rows[1]["n"] = 1
    assert merged(*rows, update=update) == [([0], {}), ([1], {})]


def test_the_greatest_of_several_may_be_merged_if_all_can_be_stored() -> None:
    update = {"n": greatest(F("n"), Excluded("n"))}
    rows = [{"id": 1, "n": LARGEST}, {"id": 1, "n": 0}]
    assert merged(*rows, update=update) == [([0], {0: [1]})]
    rows[1]["n"] = LARGEST + 1
    assert merged(*rows, update=update) == [([0], {}), ([1], {})]


def test_rows_of_other_columns_may_come_in_between() -> None:
    rows: list[dict[str, Any]] = [
        {"id": 1, "n": 1},
        {"id": 1, "s": "a"},
        {"id": 1, "n": 2},
    ]
    others: list[dict[str, Any]] = [{"id": 2, "n": 1}, {"id": 2, "n": 2}]
    assert merged(*rows, *others) == [([0, 3], {3: [4]}), ([1], {}), ([2], {})]
