"""Many rows mean each applied in order: compared with a model in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aioupsert import (
    Action,
    Excluded,
    Expression,
    F,
    create_or_update_many,
    iter_create_or_update,
)
from tests.support.databases import Database

Row = dict[str, Any]
# Given the stored row and the one that comes in, the value; None is NULL.
Rule = Callable[[Row, Row], Any]

# A sequence or not, and a column no row brings or every row must.
TABLES = {
    "plain": "CREATE TABLE t (k text PRIMARY KEY, n integer DEFAULT 7, v text, u text)",
    "numbered": (
        "CREATE TABLE t (id {serial}, k text UNIQUE, n integer DEFAULT 7, v text,"
        " u text)"
    ),
    "wide": (
        "CREATE TABLE t (k text PRIMARY KEY, n integer DEFAULT 7, v text, u text,"
        " w text NOT NULL DEFAULT 'w')"
    ),
    "indexless": "CREATE TABLE t (k text, n integer DEFAULT 7, v text, u text)",
}
EMPTY: Row = {"n": 7, "v": None, "u": None}


def plus(one: Any, other: Any) -> Any:
    return None if one is None or other is None else one + other


class Case(NamedTuple):
    """The arguments of a call, with what they mean."""

    rows: list[Row]
    update: Any
    rules: dict[str, tuple[Rule, str | None]] | None
    where: Expression | None
    passes: Rule
    skip_unchanged: bool
    touch: Row | None
    create_defaults: Row | None
    batch_size: int | None


# What update may be, and the rules it means with the column each takes from the row.
UPDATES: list[tuple[Any, dict[str, tuple[Rule, str | None]] | None]] = [
    (None, None),
    ([], {}),
    (["n"], {"n": (lambda _, new: new["n"], "n")}),
    ("v", {"v": (lambda _, new: new["v"], "v")}),
    (
        {"n": F("n") + Excluded("n")},
        {"n": (lambda old, new: plus(old["n"], new["n"]), "n")},
    ),
    (
        {"n": F("n") + 1, "v": "set"},
        {
            "n": (lambda old, _: plus(old["n"], 1), None),
            "v": (lambda *_: "set", None),
        },
    ),
]
WHERES: list[tuple[Expression | None, Rule]] = [
    (None, lambda *_: True),
    (F("n") < 8, lambda old, _: old["n"] is not None and old["n"] < 8),
]
ROWS = st.lists(
    st.fixed_dictionaries(
        {"k": st.sampled_from("abcde")},
        optional={
            "n": st.sampled_from([None, 1, 7, 9]),
            "v": st.sampled_from([None, "x", "y"]),
        },
    ),
    max_size=12,
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    update, rules = draw(st.sampled_from(UPDATES))
    where, passes = draw(st.sampled_from(WHERES))
    return Case(
        draw(ROWS),
        update,
        rules,
        where,
        passes,
        draw(st.booleans()),
        draw(st.sampled_from([None, {"u": "touched"}])),
        draw(st.sampled_from([None, {"v": "new"}])),
        draw(st.sampled_from([None, 1, 2, 5])),
    )


def apply(table: dict[str, Row], row: Row, case: Case) -> Action:
    """Do to the model what a call does to the table."""
    new = {name: value for name, value in row.items() if name != "k"}
    stored = table.get(row["k"])
    if stored is None:
        table[row["k"]] = (
            EMPTY | new | (case.touch or {}) | (case.create_defaults or {})
        )
        return Action.CREATED
    if not case.passes(stored, new):
        return Action.SKIPPED
    if case.rules is None:
        values = new
    else:
        values = {
            name: rule(stored, new)
            for name, (rule, taken) in case.rules.items()
            if taken is None or taken in new
        }
    changes = any(stored[name] != value for name, value in values.items())
    guarded = case.skip_unchanged or case.touch
    if not values or (guarded and not changes):
        return Action.UNCHANGED
    stored |= values | (case.touch or {})
    return Action.UPDATED


SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


async def check(db: Database, table: str, case: Case) -> None:
    await db.run("DROP TABLE IF EXISTS t")
    serial = db.sql(postgresql="bigserial PRIMARY KEY", sqlite="INTEGER PRIMARY KEY")
    await db.run(TABLES[table].format(serial=serial))
    arguments: dict[str, Any] = {
        "key": "k",
        "update": case.update,
        "where": case.where,
        "skip_unchanged": case.skip_unchanged,
        "touch": case.touch,
        "create_defaults": case.create_defaults,
        "batch_size": case.batch_size,
        "without_unique_index": "allow",
    }
    model: dict[str, Row] = {}
    expected = [apply(model, row, case) for row in case.rows]
    result = await create_or_update_many(db.handle, "t", case.rows, **arguments)
    assert {action: getattr(result, action) for action in Action} == {
        action: expected.count(action) for action in Action
    }
    await check_table(db, model)

    again = [apply(model, row, case) for row in case.rows]
    results = [
        result.action
        async for result in iter_create_or_update(
            db.handle, "t", iter(case.rows), **arguments
        )
    ]
    assert results == again
    await check_table(db, model)


async def check_table(db: Database, model: dict[str, Row]) -> None:
    stored = await db.query("SELECT k, n, v, u FROM t")
    assert sorted(stored) == sorted((k, *row.values()) for k, row in model.items())


@SETTINGS
@given(case=cases())
async def test_a_plain_table_is_like_the_model(db: Database, case: Case) -> None:
    await check(db, "plain", case)


@SETTINGS
@given(case=cases())
async def test_a_table_with_a_sequence_is_like_the_model(
    db: Database, case: Case
) -> None:
    await check(db, "numbered", case)


@SETTINGS
@given(case=cases())
async def test_a_table_with_other_columns_is_like_the_model(
    db: Database, case: Case
) -> None:
    await check(db, "wide", case)


@SETTINGS
@given(case=cases())
async def test_a_table_without_an_index_is_like_the_model(
    db: Database, case: Case
) -> None:
    await check(db, "indexless", case)
