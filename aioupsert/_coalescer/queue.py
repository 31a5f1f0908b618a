"""
Calls that wait: in which order they are sent, and how they are answered.

Nothing here waits or sends.
"""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final, TypeAlias, TypeVar

from aioupsert._plan import RequestShape
from aioupsert.results import Result

T = TypeVar("T", bound=BaseException)

Call: TypeAlias = tuple[
    RequestShape, Sequence[Any], int | None, "asyncio.Future[Result]"
]
"""
A call: its shape and values, what tells its row from others, what its caller awaits.

A tuple, since garbage collection comes with every object else.
"""
FUTURE: Final = 3


def identify(values: Sequence[Any], width: int) -> int | None:
    """Give what tells the row of a key from others, or may take some others for it."""
    # Never the key itself, which may be of a type that compares as it likes.
    try:
        return hash(values[0] if width == 1 else tuple(values[:width]))
    except TypeError:
        return None  # a list, say


class Queue:
    """
    Calls that wait, oldest first; no two batches under way have the same row.

    Attributes:
        ready: Those that may be sent.
    """

    def __init__(self) -> None:
        self.ready: deque[Call] = deque()
        # Rows that are under way, with the calls that wait for them.
        self._held: dict[int | None, deque[Call] | None] = {}

    def take(self, size: int, most: int) -> list[Call]:
        """
        Take a batch: the calls for the rows that have waited longest.

        Calls for one row are taken together, as the others could not be sent before
        these are back, and cost little more; other rows are left to other batches. No
        more are looked at than it takes. Calls for a row that is under way are put
        aside.

        Args:
            size: About how many.
            most: How many at most.
        """
        ready, held = self.ready, self._held
        rows: dict[int | None, list[Call]] = {}
        number = 0
        while ready and number < most and len(rows) < size:
            call = ready.popleft()
            _, _, identity, future = call
            if future.done():
                continue  # its caller has been cancelled
            if identity in rows:
                rows[identity].append(call)
            elif identity not in held:
                rows[identity] = [call]
            else:
                waiting = held[identity]
                if waiting is None:
                    waiting = held[identity] = deque()
                waiting.append(call)
                continue
            number += 1
        batch: list[Call] = []
        for identity, calls in rows.items():
            if len(batch) >= size:
                break
            batch += calls
            held[identity] = None
        if len(batch) < number:
            rest = [calls for i, calls in rows.items() if i not in held]
            ready.extendleft(reversed([*chain.from_iterable(rest)]))
        return batch

    def release(self, batch: Sequence[Call]) -> None:
        """Let calls for the rows of a batch go on, before those that came later."""
        for _, _, identity, _ in reversed(batch):
            waiting = self._held.pop(identity, None)
            if waiting:
                self.ready.extendleft(reversed(waiting))

    def drop_answered(self) -> None:
        """Drop the calls that nobody waits for."""
        for queue in (self.ready, *filter(None, self._held.values())):
            wanted = [call for call in queue if not call[FUTURE].done()]
            queue.clear()
            queue.extend(wanted)

    def clear(self) -> list[Call]:
        """Take all calls, not to send them."""
        calls = [*self.ready]
        self.ready.clear()
        for held in filter(None, self._held.values()):
            calls += held
            held.clear()
        return calls


def answer(future: asyncio.Future[Result], result: Result) -> None:
    """Give a caller its result, unless it has been cancelled."""
    if not future.done():
        future.set_result(result)


def fail(calls: Sequence[Call], error: BaseException) -> None:
    """Give every caller an error of its own, since raising one changes it."""
    for _, _, _, future in calls:
        if not future.done():
            future.set_exception(error if len(calls) == 1 else copied(error))
            # Its caller may have been cancelled just now, and never ask.
            future.exception()


def copied(error: T) -> T:
    """Give an error's copy, with the error for its cause."""
    another = error
    # Some errors cannot be made again from their arguments.
    with suppress(Exception):
        another = copy.copy(error)
        another.__cause__ = error.__cause__ or error
    return another
