"""Which calls of a coalescer are pending, and which callers wait for a slot."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from aioupsert import CoalescerClosedError
from aioupsert._coalescer.admission import Admission


async def test_there_are_so_many_slots() -> None:
    admission = Admission(2)
    assert [admission.admit() for _ in range(3)] == [True, True, False]
    admission.leave()
    assert (admission.admit(), admission.admit()) == (True, False)
    assert (admission.pending, admission.waits) == (2, 0)


async def test_nobody_comes_before_a_caller_that_has_just_been_given_a_slot() -> None:
    admission = Admission(1)
    admission.admit()
    waiter = asyncio.create_task(admission.wait_for_slot())
    await asyncio.sleep(0)
    admission.leave()
    assert admission.pending == 0
    assert not admission.admit()
    await waiter
    assert admission.pending == 1


async def test_a_caller_that_was_given_a_slot_is_refused_all_the_same() -> None:
    admission = Admission(1)
    admission.admit()
    waiters = [asyncio.create_task(admission.wait_for_slot()) for _ in range(3)]
    await asyncio.sleep(0)
    admission.leave()
    admission.refuse("the end")
    for waiter in waiters:
        with pytest.raises(CoalescerClosedError, match="the end"):
            await waiter
    assert (admission.pending, admission.has_waiters()) == (0, False)


def test_the_first_reason_for_closing_stays() -> None:
    admission = Admission(1)
    admission.open()
    admission.close("first")
    admission.close("second")
    assert admission.closed == "first"


async def test_a_caller_that_came_behind_one_with_a_new_slot_is_given_the_next() -> (
    None
):
    admission = Admission(2)
    admission.admit()
    admission.admit()

    async def come_back() -> None:
        admission.leave()
        admission.leave()
        # The first one has been given a slot, and has not run since.
        assert not admission.admit()
        await admission.wait_for_slot()

    tasks = [
        asyncio.create_task(admission.wait_for_slot()),
        asyncio.create_task(come_back()),
    ]
    async with asyncio.timeout(20):
        await asyncio.gather(*tasks)
    assert admission.pending == 2


class Callers(RuleBasedStateMachine):
    """Whoever leaves or is cancelled, slots are given in order, and none is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.loop: Final = asyncio.new_event_loop()
        # Those that wait, in the order in which they came.
        self.callers: list[asyncio.Task[None]] = []
        self.pending = 0
        self.slots = 1
        self.admission = Admission(1)

    @initialize(slots=st.integers(1, 3))
    def begin(self, slots: int) -> None:
        self.slots = slots
        self.admission = Admission(slots)

    @rule()
    def call(self) -> None:
        self.callers.append(self.loop.create_task(self.admitted()))
        self.turn(turns=1)

    async def admitted(self) -> None:
        if not self.admission.admit():
            await self.admission.wait_for_slot()
        self.pending += 1

    @precondition(lambda self: self.pending)
    @rule()
    def leave(self) -> None:
        self.admission.leave()
        self.pending -= 1

    @precondition(lambda self: self.callers)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.callers)).cancel()

    @rule(turns=st.integers(1, 3))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.run_until_complete(asyncio.sleep(0))
        self.callers = [task for task in self.callers if not task.cancelled()]
        done = [task.done() for task in self.callers]
        # The first come first.
        assert done == sorted(done, reverse=True)
        self.callers = [task for task in self.callers if not task.done()]

    @invariant()
    def pending_is_bounded(self) -> None:
        assert self.pending == self.admission.pending <= self.slots

    def teardown(self) -> None:
        self.turn(turns=9)
        while self.callers:
            assert self.pending == self.slots  # or nobody would wait
            self.leave()
            self.turn(turns=9)
        assert not self.admission.has_waiters()
        self.loop.close()


TestCallers = Callers.TestCase
