"""When a batch of a coalescer goes: by what is ready, and by what is free."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import pytest

from aioupsert._coalescer.dispatch import (
    CALLS_WORTH_A_CONNECTION,
    SECONDS_BEHIND_A_BATCH,
    Pace,
    Schedule,
)
from aioupsert._coalescer.queue import Queue
from aioupsert._engines.postgresql.engine import PostgresqlEngine
from aioupsert._plan.schema import Column
from tests.unit.plans import SHAPE

INTEGER: Final = Column("k", "int4", "int4", "integer", "integer")
ENOUGH: Final = CALLS_WORTH_A_CONNECTION
BEHIND: Final = SECONDS_BEHIND_A_BATCH

# Batches, each with its seconds and its calls.
SLOW: Final = [(0.02, 1), (0.08, 4), (0.04, 2)]
FAR: Final = [(0.0101, 1), (0.0104, 4), (0.0105, 5)]


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


class Ready:
    """Ready calls, each for a row of its own, and what is decided for them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **options: Any) -> None:
        self._loop = loop
        self._queue = Queue(1)
        self._queue.compare_as([INTEGER], PostgresqlEngine())
        self._number = 0
        defaults = {
            "max_batch": 1_000,
            "max_delay": 0.0,
            "concurrency": None,
            "connections": 20,
        }
        self.schedule = Schedule(self._queue, **{**defaults, **options})

    def add(self, number: int) -> None:
        for _ in range(number):
            self._number += 1
            self._queue.put(SHAPE, [self._number], self._loop.create_future())

    def take(
        self, *, leased: bool = False, waited: bool = False
    ) -> tuple[list[int], float | None]:
        """Return the sizes of the batches that go, and how long the others wait."""
        batches, wait = self.schedule.take(leased=leased, waited=waited)
        return [len(batch) for batch in batches], wait


@pytest.mark.parametrize(
    ("ready", "options", "batches", "wait"),
    [
        (0, {}, [], None),
        (1, {}, [1], None),
        (ENOUGH, {}, [ENOUGH], None),
        # A small batch costs nearly as much as a large one.
        (ENOUGH + 1, {}, [ENOUGH], BEHIND),
        (2 * ENOUGH, {}, [ENOUGH] * 2, None),
        # More are shared out, each time what is left of them.
        (6 * ENOUGH, {}, [2 * ENOUGH, ENOUGH * 4 // 3, ENOUGH], None),
        (10_000, {}, [1_000] * 3, None),
        (10_000, {"concurrency": 1}, [1_000], None),
        (10, {"max_batch": 4}, [4, 4], BEHIND),
        (12, {"max_batch": 4}, [4, 4, 4], None),
        # With a delay, a batch is full or has waited.
        (5, {"max_delay": 2.0}, [5], None),
        (1_500, {"max_delay": 2.0}, [1_000], 2.0),
        (10, {"max_delay": 0.001, "max_batch": 4}, [4, 4], BEHIND),
    ],
)
def test_what_is_ready_is_shared_out_over_free_connections(
    loop: asyncio.AbstractEventLoop,
    ready: int,
    options: dict[str, Any],
    batches: list[int],
    wait: float | None,
) -> None:
    calls = Ready(loop, **options)
    calls.add(ready)
    before = calls.schedule.leased
    assert calls.take() == (batches, wait)
    assert calls.schedule.leased == before + len(batches)


def test_a_few_calls_wait_for_a_batch_under_way_but_not_for_long(
    loop: asyncio.AbstractEventLoop,
) -> None:
    calls = Ready(loop)
    for seconds, number in FAR:
        calls.schedule.pace.record(seconds, number)
    calls.add(1)
    assert calls.take() == ([1], None)
    calls.add(ENOUGH - 1)
    assert calls.take() == ([], BEHIND)
    assert calls.take(waited=True) == ([ENOUGH - 1], None)
    calls.add(ENOUGH)
    assert calls.take() == ([ENOUGH], None)
    # There is nothing to wait for but a connection.
    calls.add(ENOUGH)
    assert calls.take() == calls.take(waited=True) == ([], None)


def test_a_leased_connection_comes_before_free_ones(
    loop: asyncio.AbstractEventLoop,
) -> None:
    calls = Ready(loop)
    calls.add(1)
    calls.take()
    assert calls.take(leased=True) == ([], None)
    assert calls.schedule.leased == 1
    calls.add(1)
    assert calls.take(leased=True) == ([1], None)
    assert calls.schedule.leased == 1
    calls.add(2 * ENOUGH)
    assert calls.take(leased=True) == ([ENOUGH] * 2, None)
    assert calls.schedule.leased == 2


def test_while_another_batch_is_under_way_a_leased_connection_waits_for_enough(
    loop: asyncio.AbstractEventLoop,
) -> None:
    calls = Ready(loop)
    calls.add(2 * ENOUGH)
    calls.take()
    calls.add(1)
    assert calls.take(leased=True) == ([], BEHIND)
    assert calls.take(leased=True, waited=True) == ([1], None)


@pytest.mark.parametrize(
    ("ready", "options", "first", "later"),
    [
        (1, {}, 0.0, None),
        (ENOUGH, {}, 0.0, 0.0),
        (1, {"max_delay": 2.0}, 2.0, None),
        (999, {"max_delay": 2.0}, 2.0, None),
        (1_000, {"max_delay": 2.0}, 0.0, 0.0),
        (4, {"max_batch": 4}, 0.0, 0.0),
    ],
)
def test_a_new_call_is_looked_at_soon_or_once_there_are_enough(
    loop: asyncio.AbstractEventLoop,
    ready: int,
    options: dict[str, Any],
    first: float,
    later: float | None,
) -> None:
    calls = Ready(loop, **options)
    calls.add(ready)
    assert calls.schedule.look_in(is_set=False) == first
    assert calls.schedule.look_in(is_set=True) == later


def test_a_call_has_nothing_to_wait_for_if_nothing_is_under_way(
    loop: asyncio.AbstractEventLoop,
) -> None:
    calls = Ready(loop)
    assert calls.schedule.is_idle()
    calls.add(1)
    calls.take()
    assert not calls.schedule.is_idle()
    calls.schedule.leased -= 1
    assert calls.schedule.is_idle()
    assert not Ready(loop, max_delay=0.001).schedule.is_idle()


def test_calls_whose_callers_have_gone_are_no_batch(
    loop: asyncio.AbstractEventLoop,
) -> None:
    queue = Queue(1)
    schedule = Schedule(queue, max_batch=10, max_delay=0, concurrency=2, connections=2)
    for key in range(5):
        future = loop.create_future()
        future.cancel()
        queue.put(SHAPE, [key], future)
    assert schedule.take(leased=False, waited=False) == ([], None)
    assert schedule.is_idle()


# --- What batches took --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "milliseconds"),
    [
        ([], 0),
        ([(0.0003, 1)], 0),
        # Of one call alone it is not known whether it is the network.
        ([(0.02, 1)], 12.5),
        ([(0.02, 1)] * 5, 12.5),
        (SLOW, 20),
        ([*SLOW, *[(0.02, 1)] * 50], 20),
        (FAR, 0.1),
        ([(0.01, 1), (0.011, 100)], 0.01),
        # It has become quick, or slow.
        ([*SLOW, (0.001, 2)], 0.5),
        ([(0.0003, 1), (0.005, 450), (2.0, 100)], 20),
        ([(0.0003, 1), (0.005, 450), (2.0, 100), *SLOW], 20),
        ([*FAR, (0.2, 1), (0.0003, 1)], 0.3),
        # Larger batches were quicker, by chance.
        ([(0.003, 1), (0.002, 2)], 0),
    ],
)
def test_the_pace_is_what_a_call_more_takes(
    batches: list[tuple[float, int]], milliseconds: float
) -> None:
    pace = Pace()
    for seconds, calls in batches:
        pace.record(seconds, calls)
    assert pace.seconds * 1000 == pytest.approx(milliseconds, rel=0.2, abs=0.02)


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({}, [2] * 20),
        ({"connections": 4}, [2] * 4),
        ({"connections": 200}, [1] * 100),
        ({"concurrency": 2}, [2] * 2),
        ({"max_batch": 1}, [1] * 20),
    ],
)
def test_slow_calls_go_over_all_connections_in_small_batches(
    loop: asyncio.AbstractEventLoop, options: dict[str, Any], batches: list[int]
) -> None:
    calls = Ready(loop, **options)
    for seconds, number in SLOW:
        calls.schedule.pace.record(seconds, number)
    calls.add(100)
    assert calls.take() == (batches, None)
    # None waits for another.
    calls.schedule.leased -= 1
    calls.add(1)
    assert calls.schedule.look_in(is_set=False) == 0
    assert sum(calls.take()[0]) in {1, 2}


def test_behind_a_batch_that_does_not_come_back_a_few_find_out_why(
    loop: asyncio.AbstractEventLoop,
) -> None:
    calls = Ready(loop)
    calls.add(1)
    calls.take()
    calls.add(99)
    assert calls.take() == ([], BEHIND)
    assert calls.take(waited=True) == ([4, 4], None)
    # With what is known, the network is slow, and not the calls.
    for seconds, number in FAR:
        calls.schedule.pace.record(seconds, number)
    calls.schedule.leased -= 2
    assert calls.take(waited=True) == ([91], None)


def test_connections_that_are_too_many_for_quick_calls_are_given_back(
    loop: asyncio.AbstractEventLoop,
) -> None:
    calls = Ready(loop)
    for seconds, number in SLOW:
        calls.schedule.pace.record(seconds, number)
    calls.add(40)
    assert len(calls.take()[0]) == 20
    for seconds, number in FAR:
        calls.schedule.pace.record(seconds / 10, number)
    calls.add(1_000)
    assert calls.take(leased=True) == ([], None)
