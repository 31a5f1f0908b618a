"""
The order in which calls are sent: for each row, the order in which they were made.

Nothing here awaits, or knows a connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import Final, TypeAlias

from aioupsert._plan import RequestShape
from aioupsert.results import Result

PendingCall: TypeAlias = tuple[
    RequestShape, Sequence[object], int | None, "asyncio.Future[Result]"
]
"""
A pending call: its request shape, its values, its row, and the future of its caller.

The row is a hash of the key, or None if the key has none; distinct keys may collide. A
plain tuple, which Python reuses: a named tuple takes several times as long to make, and
each one brings the next garbage collection nearer.
"""
FUTURE: Final = 3
"""Where the future is in a pending call."""


class Queue:
    """
    Calls that have not been sent; no two batches under way have the same row.

    Attributes:
        ready: The calls that may be sent, oldest first.
    """

    def __init__(self, width: int) -> None:
        """
        Begin empty.

        Args:
            width: How many of a call's values, the first ones, are its key.
        """
        self.ready: deque[PendingCall] = deque()
        self._width = width
        # The rows under way, and the calls put aside for each, if there are any.
        self._under_way: dict[int | None, deque[PendingCall] | None] = {}
        # How many calls of cancelled callers the queue may still have.
        self._withdrawn = 0

    def put(
        self,
        shape: RequestShape,
        values: Sequence[object],
        future: asyncio.Future[Result],
    ) -> None:
        """Add a call behind the others."""
        width = self._width
        # Never the key itself, whose type may define equality in any way.
        try:
            row = hash(values[0] if width == 1 else tuple(values[:width]))
        except TypeError:
            row = None  # a list, for example
        self.ready.append((shape, tuple(values), row, future))

    def take(self, size: int, most: int) -> list[PendingCall]:
        """
        Take a batch: the calls for the rows that have waited longest.

        All ready calls for a row are taken together, since the rest could not be sent
        before these are back, and cost little more; other rows are left to other
        batches. Calls for a row under way are put aside. No more calls are looked at
        than the batch takes.

        Args:
            size: About how many calls to take.
            most: How many calls to take at most.

        Returns:
            The batch, which holds its rows until `release`; empty if no call is ready.
        """
        ready, under_way = self.ready, self._under_way
        rows: dict[int | None, list[PendingCall]] = {}
        number = 0
        while ready and number < most and len(rows) < size:
            call = ready.popleft()
            _, _, row, future = call
            if future.done():
                continue  # its caller has been cancelled
            if row in rows:
                rows[row].append(call)
            elif row not in under_way:
                rows[row] = [call]
            else:
                aside = under_way[row]
                if aside is None:
                    aside = under_way[row] = deque()
                aside.append(call)
                continue
            number += 1
        batch: list[PendingCall] = []
        for row, calls in rows.items():
            if len(batch) >= size:
                break
            batch += calls
            under_way[row] = None
        if len(batch) < number:
            rest = [calls for row, calls in rows.items() if row not in under_way]
            ready.extendleft(reversed([*chain.from_iterable(rest)]))
        return batch

    def release(self, batch: Sequence[PendingCall]) -> None:
        """Let go of a batch's rows; calls put aside for them are the next to be sent."""
        for _, _, row, _ in reversed(batch):
            aside = self._under_way.pop(row, None)
            if aside:
                self.ready.extendleft(reversed(aside))

    def withdraw(self, most: int) -> None:
        """
        Note that the caller of a call has been cancelled.

        Args:
            most: How many such calls to keep before they are dropped together.
        """
        self._withdrawn += 1
        if self._withdrawn > most:
            self._withdrawn = 0
            self._drop_answered()

    def _drop_answered(self) -> None:
        for queue in (self.ready, *filter(None, self._under_way.values())):
            wanted = [call for call in queue if not call[FUTURE].done()]
            queue.clear()
            queue.extend(wanted)

    def clear(self) -> list[PendingCall]:
        """Remove and return all calls; rows under way stay so."""
        calls = [*self.ready]
        self.ready.clear()
        for aside in filter(None, self._under_way.values()):
            calls += aside
            aside.clear()
        return calls
