"""A key that several rows have, since no unique index forbids it."""

from typing import Any

import pytest

from aioupsert import Action, F, Result, create_or_update
from aioupsert.typing import Strategy
from tests.support.databases import Database

ONE, TWO = {"n": 1, "s": "a"}, {"n": 2, "s": "a"}
LARGE = F("n") > 1

# What is asked, what the call reports (action, rows written), and its rows by n.
CASES: dict[str, tuple[dict[str, Any], tuple[Action, int], list[dict[str, Any]]]] = {
    "all are written": (
        {"defaults": {"n": F("n") + 10}},
        (Action.UPDATED, 2),
        [{"n": 11, "s": "a"}, {"n": 12, "s": "a"}],
    ),
    "one is skipped": (
        {"defaults": {"s": "b"}, "where": LARGE},
        (Action.UPDATED, 1),
        [{"n": 2, "s": "b"}],
    ),
    "one is unchanged": (
        {"defaults": {"n": 2}, "touch": {"s": "b"}},
        (Action.UPDATED, 1),
        [{"n": 2, "s": "b"}],
    ),
    "one is skipped, the other unchanged": (
        {"defaults": {"s": "a"}, "where": LARGE, "skip_unchanged": True},
        (Action.UNCHANGED, 0),
        [ONE, TWO],
    ),
    "all are unchanged": (
        {"defaults": {"s": "a"}, "skip_unchanged": True},
        (Action.UNCHANGED, 0),
        [ONE, TWO],
    ),
    "all are skipped": (
        {"defaults": {"s": "b"}, "where": F("n") > 9},
        (Action.SKIPPED, 0),
        [ONE, TWO],
    ),
    "there is nothing to write": ({}, (Action.UNCHANGED, 0), [ONE, TWO]),
    "there is nothing but touch": (
        {"touch": {"s": "b"}},
        (Action.UNCHANGED, 0),
        [ONE, TWO],
    ),
}


async def write(db: Database, strategy: Strategy, arguments: dict[str, Any]) -> Result:
    await db.run("CREATE TABLE t (k TEXT, n INTEGER, s TEXT)")
    await db.run("INSERT INTO t VALUES ('x', 1, 'a'), ('x', 2, 'a'), ('y', 3, 'a')")
    return await create_or_update(
        db.handle,
        "t",
        key={"k": "x"},
        returning=("n", "s"),
        without_unique_index="allow",
        strategy=strategy,
        **arguments,
    )


@pytest.mark.parametrize(("arguments", "outcome", "rows"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("strategy", ["auto", "fast", "exact"])
async def test_the_action_is_what_most_was_done_to_any(
    db: Database,
    strategy: Strategy,
    arguments: dict[str, Any],
    outcome: tuple[Action, int],
    rows: list[dict[str, Any]],
) -> None:
    result = await write(db, strategy, arguments)
    assert (result.action, result.rows_affected) == outcome
    by_number = sorted(result.rows, key=lambda row: row["n"])
    assert by_number == rows


async def test_the_rows_that_are_left_stay_as_they_were(db: Database) -> None:
    await write(db, "auto", {"defaults": {"s": "b"}, "where": LARGE})
    assert await db.query("SELECT k, n, s FROM t ORDER BY n") == [
        ("x", 1, "a"),
        ("x", 2, "b"),
        ("y", 3, "a"),
    ]
