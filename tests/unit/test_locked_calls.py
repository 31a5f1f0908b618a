"""In which order calls for locked rows are tried."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, Final

from aioupsert._coalescer.locks import LockedCalls
from aioupsert._coalescer.queue import ROW, PendingCall
from tests.unit.plans import SHAPE

LIMITS: Final = [(0, 0)]


class Locked:
    """Stands for a sender all of whose rows are locked by others."""

    def __init__(self, *found: int) -> None:
        self.found = [(row, True) for row in found]
        self.tried: list[list[int | None]] = []

    async def find_locked(self, *_: Any) -> Any:
        return self.found

    async def try_now(self, _: Any, calls: list[PendingCall]) -> Exception:
        self.tried.append([call[ROW] for call in calls])
        return TimeoutError()


async def no_limits(_: Any) -> Any:
    return LIMITS


SESSION: Any = SimpleNamespace(
    engine=SimpleNamespace(lock_limits="SHOW"), run=no_limits
)


def waiting(sender: Any, *rows: int) -> LockedCalls:
    made = LockedCalls(sender, None)
    made.add([(SHAPE, [row], row, asyncio.Future(), 0.0) for row in rows])
    return made


async def test_each_row_has_its_turn_to_be_waited_for() -> None:
    sender = Locked(1, 2, 3)
    calls = waiting(sender, 1, 2, 1, 3)
    for _ in range(4):
        assert await calls.look(SESSION) == []
    assert sender.tried == [[1, 1], [2], [3], [1, 1]]


async def test_a_row_that_is_free_and_cannot_be_written_has_its_turn_too() -> None:
    sender = Locked(1)
    calls = waiting(sender, 1, 2, 3)
    for _ in range(3):
        await calls.look(SESSION)
    assert sender.tried == [[2, 3], [1], [2], [3]]
