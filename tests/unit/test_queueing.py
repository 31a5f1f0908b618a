"""In which order calls of a coalescer are sent."""

from __future__ import annotations

import asyncio
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from aioupsert._coalescer.queue import FUTURE, Call, Queue, identify
from aioupsert.results import Result


def names(calls: list[Call]) -> list[str]:
    return [values[0] for _, values, _, _ in calls]


def call(name: str, loop: asyncio.AbstractEventLoop | None = None) -> Call:
    """A call for the row that its first letter names."""
    future: asyncio.Future[Result] = asyncio.Future(loop=loop)
    return ((), (name,), identify(name, 1), future)


def queue(*of: str) -> Queue:
    made = Queue()
    made.ready.extend(map(call, of))
    return made


async def test_calls_for_a_row_are_sent_together_and_other_rows_by_others() -> None:
    waiting = queue("a1", "b1", "a2", "c1", "b2", "c2", "d1")
    assert names(waiting.take(4, 10)) == ["a1", "a2", "b1", "b2"]
    assert names(waiting.take(4, 10)) == ["c1", "c2", "d1"]


async def test_a_call_for_a_row_under_way_waits_and_is_the_next_then() -> None:
    waiting = queue("a1", "b1")
    first = waiting.take(9, 10)
    waiting.ready.extend(map(call, ("a2", "c1", "a3", "b2")))
    assert names(waiting.take(9, 10)) == ["c1"]
    waiting.ready.append(call("d1"))
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


async def test_what_was_answered_is_dropped_whether_it_was_put_aside_or_not() -> None:
    waiting = queue("a1")
    waiting.take(9, 10)
    calls = [*map(call, ("a2", "a3", "b1", "b2"))]
    waiting.ready.extend(calls[:2])
    assert waiting.take(9, 10) == []
    waiting.ready.extend(calls[2:])
    calls[0][FUTURE].cancel()
    calls[3][FUTURE].cancel()
    waiting.drop_answered()
    assert names(waiting.clear()) == ["b1", "a3"]
    assert waiting.clear() == []


async def test_keys_that_cannot_be_told_apart_are_one_row() -> None:
    waiting = Queue()
    assert identify([["a"]], 1) is None
    for name in "ab":
        waiting.ready.append((*call(name)[:2], None, call(name)[FUTURE]))
    assert names(waiting.take(9, 10)) == ["a", "b"]
    waiting.ready.append((*call("c")[:2], None, call("c")[FUTURE]))
    assert waiting.take(9, 10) == []


class Queueing(RuleBasedStateMachine):
    """Whatever happens, the calls for a row are sent in their order, none is lost."""

    MOST: Final = 7

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.queue = Queue()
        self.waiting: dict[str, list[Call]] = {row: [] for row in "abcdef"}
        self.away: list[list[Call]] = []

    @rule(row=st.sampled_from("abcdef"), number=st.integers(1, 3))
    def put(self, row: str, number: int) -> None:
        for _ in range(number):
            one = call(row, self.loop)
            self.queue.ready.append(one)
            self.waiting[row].append(one)

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

    @rule()
    def drop(self) -> None:
        self.queue.drop_answered()

    def teardown(self) -> None:
        while self.away:
            self.queue.release(self.away.pop())
        while any(self.waiting.values()):
            self.take(size=3)
            assert self.away[-1] != []
            self.queue.release(self.away.pop())
        self.loop.close()


TestQueueing = Queueing.TestCase
