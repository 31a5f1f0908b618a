"""The checkers find each kind of fault, and nothing in what is right."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.stress.history import (
    NEVER,
    History,
    Operation,
    wrong_counters,
    wrong_flags,
    wrong_members,
    wrong_values,
)


def add(value: int = 1, *, created: bool = False, outcome: Any = "ok") -> Operation:
    return Operation("add", "a", value, outcome, created)


def delete(value: int | None, outcome: Any = "ok") -> Operation:
    return Operation("delete", "a", value, outcome)


@pytest.mark.parametrize(
    ("operations", "stored", "wrong"),
    [
        ([add(), add()], {"a": 2}, False),
        ([add(), add()], {"a": 1}, True),  # lost
        ([add(), add()], {"a": 3}, True),  # twice
        ([add()], {}, True),
        ([add()], {"a": 1, "b": 1}, True),  # of nobody
        ([add(), add(outcome="failed")], {"a": 1}, False),
        ([add(), add(outcome="failed")], {"a": 2}, True),
        ([add(), add(outcome="unknown")], {"a": 1}, False),
        ([add(), add(outcome="unknown")], {"a": 2}, False),
        ([add(), add(outcome="unknown")], {"a": 3}, True),
        ([add(), add(outcome="unknown")], {}, True),
        ([add(), add(), delete(2)], {}, False),
        ([add(), add(), delete(2), add()], {"a": 1}, False),
        ([add(), add(), delete(1)], {}, True),
        ([add(), delete(None)], {"a": 1}, False),
        ([add(), delete(None, "unknown")], {}, False),
        ([add(), delete(None, "unknown")], {"a": 2}, True),
    ],
)
def test_counters(
    operations: Sequence[Operation], stored: dict[str, int], *, wrong: bool
) -> None:
    assert bool(wrong_counters(operations, stored)) is wrong


@pytest.mark.parametrize(
    ("operations", "there", "wrong"),
    [
        ([add(created=True), add()], True, False),
        ([add(created=True), add(created=True)], True, True),  # two creators
        ([add(), add()], True, True),  # none
        ([add(created=True), delete(1)], False, False),
        ([add(created=True), delete(1), add(created=True)], True, False),
        ([add(created=True), delete(1), add()], True, True),
        ([add(created=True)], False, True),  # lost
        ([add(created=True), delete(None)], True, False),
        ([add(), add(outcome="unknown")], True, False),
        ([add(created=True), add(outcome="unknown")], True, False),
        ([add(created=True), add(created=True), delete(None, "unknown")], True, False),
        ([add(created=True), delete(None, "unknown")], False, False),
        ([add(created=True), add(outcome="failed")], False, True),
    ],
)
def test_flags(operations: Sequence[Operation], *, there: bool, wrong: bool) -> None:
    assert bool(wrong_flags(operations, ["a"] if there else [])) is wrong


@pytest.mark.parametrize(
    ("stored", "wrong"),
    [("ab", False), ("abc", False), ("a", True), ("dab", True), ("abx", True)],
)
def test_members(stored: str, *, wrong: bool) -> None:
    operations = [
        Operation("put", "a"),
        Operation("put", "b"),
        Operation("put", "c", outcome="unknown"),
        Operation("put", "d", outcome="failed"),
    ]
    assert bool(wrong_members(operations, stored)) is wrong


def put(value: int, start: float, end: float = NEVER) -> Operation:
    outcome: Any = "unknown" if end == NEVER else "ok"
    return Operation("put", "a", value, outcome, invoked=start, returned=end)


def read(value: int | None, start: float, end: float) -> Operation:
    return Operation("read", "a", value, invoked=start, returned=end)


@pytest.mark.parametrize(
    ("operations", "last", "wrong"),
    [
        ([put(1, 0, 1), put(2, 2, 3)], 2, False),
        ([put(1, 0, 1), put(2, 2, 3)], 1, True),  # an older value won
        ([put(1, 0, 2), put(2, 1, 3)], 1, False),  # at the same time
        ([put(1, 0, 1), put(2, 2)], 1, False),  # nobody knows
        ([put(1, 0, 1), put(2, 2)], 2, False),
        ([put(1, 0, 1)], 3, True),  # of nobody
        ([put(1, 0, 1), read(1, 2, 3), put(2, 4, 5)], 2, False),
        ([put(1, 0, 1), put(2, 2, 3), read(1, 4, 5)], 2, True),  # stale
        ([put(1, 0, 1), put(2, 2, 5), read(1, 4, 6)], 2, False),
        ([read(1, 0, 1), put(1, 2, 3)], 1, True),  # from the future
        ([put(1, 0, 1), read(None, 2, 3)], 1, True),  # lost
        ([read(None, 0, 1), put(1, 2, 3)], 1, False),
    ],
)
def test_values(operations: Sequence[Operation], last: int, *, wrong: bool) -> None:
    assert bool(wrong_values(operations, {"a": last})) is wrong


async def gives(value: object = None, *, created: bool = False) -> tuple[Any, bool]:
    return value, created


async def raises(error: BaseException) -> tuple[Any, bool]:
    raise error


async def test_what_is_recorded() -> None:
    history = History()
    assert await history.record("add", "a", gives(created=True), 3)
    assert await history.record("delete", "a", gives(3))
    assert not await history.record(
        "add", "a", raises(KeyError()), 1, failed=(KeyError,)
    )
    assert not await history.record(
        "put", "a", raises(OSError()), 2, unknown=(OSError, asyncio.CancelledError)
    )
    with pytest.raises(ValueError, match="surprise"):
        await history.record("add", "a", raises(ValueError("surprise")), 1)
    assert [(op.kind, op.value, op.outcome) for op in history.operations] == [
        ("add", 3, "ok"),
        ("delete", 3, "ok"),
        ("add", 1, "failed"),
        ("put", 2, "unknown"),
    ]
    assert [type(error) for error in history.errors] == [KeyError, OSError]
    assert history.operations[0].created
    assert history.operations[3].returned == NEVER


@pytest.mark.parametrize("fault", [None, "lose", "double", "flag"])
def test_a_long_history_with_one_fault(fault: str | None) -> None:
    choose = random.Random(0)  # noqa: S311  # no secret
    rows: dict[int, int] = {}
    operations: list[Operation] = []
    for number in range(5_000):
        key = choose.randrange(8)
        if choose.random() < 0.2:
            operations.append(Operation("delete", key, rows.pop(key, None)))
            continue
        created = key not in rows
        rows[key] = rows.get(key, 0) + 1
        if number == 2_500 and fault:
            # Of a key that is not deleted any more, so that the fault stays.
            key, created = 99, fault != "flag"
            rows[key] = {"lose": 0, "double": 2, "flag": 1}[fault]
        operations.append(Operation("add", key, 1, created=created))
    wrong = wrong_counters(operations, rows) + wrong_flags(operations, rows)
    assert any("99" in line for line in wrong) is (fault is not None)
