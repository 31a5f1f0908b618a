"""In which order calls of a coalescer are sent."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from aioupsert._coalescer.queue import FUTURE, PendingCall, Queue
from aioupsert._engines.postgresql.engine import PostgresqlEngine
from aioupsert._plan.schema import Column
from aioupsert.results import Result
from tests.unit.plans import SHAPE


def names(calls: list[PendingCall]) -> list[str]:
    return [str(values[1]) for _, values, _, _, _ in calls]


def put(
    queue: Queue, *of: str, loop: asyncio.AbstractEventLoop | None = None
) -> list[PendingCall]:
    """Put calls for the rows that their first letters name, and return them."""
    for name in of:
        future: asyncio.Future[Result] = asyncio.Future(loop=loop)
        queue.put(SHAPE, [name[0], name], future)
    return [*queue.ready][-len(of) :]


TEXT: Final = Column("k", "text", "text", "text", "text")
INTEGER: Final = Column("k", "int4", "int4", "integer", "integer")
ANY: Final = Column("k", "public.citext", "public.citext", "text", "other")


def comparing(*columns: Column) -> Queue:
    made = Queue(len(columns))
    made.compare_as(columns, PostgresqlEngine())
    return made


def queue(*of: str) -> Queue:
    made = comparing(TEXT)
    put(made, *of)
    return made


async def test_calls_for_a_row_are_sent_together_and_other_rows_by_others() -> None:
    waiting = queue("a1", "b1", "a2", "c1", "b2", "c2", "d1")
    assert names(waiting.take(4, 10)) == ["a1", "a2", "b1", "b2"]
    assert names(waiting.take(4, 10)) == ["c1", "c2", "d1"]


async def test_a_call_for_a_row_under_way_waits_and_is_the_next_then() -> None:
    waiting = queue("a1", "b1")
    first = waiting.take(9, 10)
    put(waiting, "a2", "c1", "a3", "b2")
    assert names(waiting.take(9, 10)) == ["c1"]
    put(waiting, "d1")
    waiting.release(first)
    assert names(waiting.take(9, 10)) == ["a2", "a3", "b2", "d1"]


async def test_a_batch_has_a_limit_and_what_is_left_keeps_its_order() -> None:
    waiting = queue("a1", "a2", "a3", "a4", "b1", "a5")
    first = waiting.take(2, 3)
    assert names(first) == ["a1", "a2", "a3"]
    assert names(waiting.take(2, 3)) == ["b1"]
    waiting.release(first)
    assert names(waiting.take(2, 3)) == ["a4", "a5"]


async def test_a_call_that_nobody_waits_for_is_not_sent() -> None:
    waiting = queue("a1", "b1", "a2")
    waiting.ready[0][FUTURE].cancel()
    assert names(waiting.take(9, 10)) == ["b1", "a2"]


async def test_withdrawn_calls_are_dropped_whether_they_were_put_aside_or_not() -> None:
    waiting = queue("a1")
    waiting.take(9, 10)
    aside = put(waiting, "a2", "a3")
    assert waiting.take(9, 10) == []
    ready = put(waiting, "b1", "b2")
    aside[0][FUTURE].cancel()
    waiting.withdraw(1)
    assert len(waiting.ready) == 2
    ready[1][FUTURE].cancel()
    waiting.withdraw(1)
    assert names(waiting.clear()) == ["b1", "a3"]
    assert waiting.clear() == []


@pytest.mark.parametrize("waiting", [Queue(1), comparing(ANY)], ids=["unknown", "any"])
async def test_keys_that_may_be_equal_keep_their_order(waiting: Queue) -> None:
    put(waiting, "a1", "b1", "a2", "c1")
    first = waiting.take(1, 3)
    assert names(first) == ["a1", "b1", "a2"]
    put(waiting, "d1")
    assert waiting.take(9, 10) == []
    waiting.release(first)
    assert names(waiting.take(9, 10)) == ["c1", "d1"]


async def test_a_key_that_may_be_any_row_overtakes_none_and_is_not_overtaken() -> None:
    waiting = comparing(INTEGER)

    def put_key(key: object, name: str) -> None:
        waiting.put(SHAPE, [key, name], asyncio.Future())

    put_key(1, "a1")
    put_key(2, "b1")
    put_key("1", "a2")
    put_key(None, "n1")
    put_key(2, "b2")
    first = waiting.take(1, 10)
    second = waiting.take(9, 10)
    assert names(first) == ["a1"]
    assert names(second) == ["b1"]
    waiting.release(second)
    assert waiting.take(9, 10) == []
    waiting.release(first)
    assert names(waiting.take(9, 10)) == ["a2", "n1", "b2"]


async def test_what_is_queued_is_compared_as_the_columns_do_once_they_are_known() -> (
    None
):
    waiting = Queue(1)
    put(waiting, "a1", "b1", "a2")
    waiting.compare_as([TEXT], PostgresqlEngine())
    first = waiting.take(1, 10)
    assert names(first) == ["a1"]
    second = waiting.take(9, 10)
    assert names(second) == ["b1"]
    waiting.compare_as([ANY], PostgresqlEngine())
    put(waiting, "A3")
    waiting.release(first)
    assert waiting.take(9, 10) == []
    waiting.release(second)
    assert names(waiting.take(9, 10)) == ["a2", "A3"]


async def test_a_batch_under_way_holds_its_own_rows_once_they_are_known() -> None:
    waiting = Queue(1)
    put(waiting, "a1", "b1")
    first = waiting.take(9, 10)
    put(waiting, "a2", "c1")
    assert waiting.take(9, 10) == []
    assert waiting.compare_as([TEXT], PostgresqlEngine())
    assert not waiting.compare_as([TEXT], PostgresqlEngine())
    assert names(waiting.take(9, 10)) == ["c1"]
    waiting.release(first)
    assert names(waiting.take(9, 10)) == ["a2"]


async def test_a_row_is_told_by_every_column_of_its_key() -> None:
    waiting = comparing(TEXT, TEXT)
    for name in ("ax1", "ay1", "ax2"):
        waiting.put(SHAPE, [name[0], name[:2], name], asyncio.Future())
    assert [values[2] for _, values, _, _, _ in waiting.take(1, 10)] == ["ax1"]
    assert [values[2] for _, values, _, _, _ in waiting.take(9, 10)] == ["ay1"]


class Queueing(RuleBasedStateMachine):
    """Whatever happens, the calls for a row are sent in their order, none is lost."""

    MOST: Final = 7

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.queue = comparing(TEXT)
        self.waiting: dict[str, list[PendingCall]] = {row: [] for row in "abcdef"}
        self.away: list[list[PendingCall]] = []

    @rule(row=st.sampled_from("abcdef"), number=st.integers(1, 3))
    def put(self, row: str, number: int) -> None:
        for _ in range(number):
            self.waiting[row] += put(self.queue, row, loop=self.loop)

    @rule(size=st.integers(1, MOST))
    def take(self, size: int) -> None:
        batch = self.queue.take(size, self.MOST)
        assert len(batch) <= self.MOST
        held = {name for others in self.away for name in names(others)}
        assert held.isdisjoint(names(batch))
        for one, row in zip(batch, names(batch), strict=True):
            assert one is self.waiting[row].pop(0)
        self.away.append(batch)

    @precondition(lambda self: self.away)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.queue.release(self.away.pop(data.draw(st.integers(0, len(self.away) - 1))))

    @rule(row=st.sampled_from("abcdef"))
    def cancel(self, row: str) -> None:
        if self.waiting[row]:
            self.waiting[row].pop()[FUTURE].cancel()

    @rule(most=st.integers(0, 3))
    def withdraw(self, most: int) -> None:
        self.queue.withdraw(most)

    def teardown(self) -> None:
        while self.away:
            self.queue.release(self.away.pop())
        while any(self.waiting.values()):
            self.take(size=3)
            assert self.away[-1] != []
            self.queue.release(self.away.pop())
        self.loop.close()


TestQueueing = Queueing.TestCase
