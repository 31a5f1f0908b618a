"""
The order in which calls are sent: for each row, the order in which they were made.

Which keys are the same row is decided by the database, by the types and collations of
the key's columns. Where equality in Python is known to be the same, calls for different
rows may overtake each other, and be sent in several batches at once. Any other key, and
every key until the table's description is known, may be the row of any other call: such
a call overtakes none and is overtaken by none, and while it is under way nothing else is.

Nothing here awaits, or knows a connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, TypeAlias

from aioupsert._plan import RequestShape, ValueSemantics
from aioupsert._plan.schema import Column
from aioupsert.results import Result

PendingCall: TypeAlias = tuple[
    RequestShape, Sequence[object], int | None, "asyncio.Future[Result]", float
]
"""
A pending call: its request shape, values and row, its caller's future, and when it was made.

The row is a hash of the key, or None if it may be any row; distinct keys may collide. A
plain tuple, which Python reuses: a named tuple takes several times as long to make, and
each one brings the next garbage collection nearer.
"""
ROW: Final = 2
"""Where the row is in a pending call."""
FUTURE: Final = 3
"""Where the future is in a pending call."""
MADE: Final = 4
"""Where the time is at which it was made, on the monotonic clock."""


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
        # What decides which keys are equal, and the types of which Python knows it.
        self._columns: Sequence[Column] = ()
        self._semantics: ValueSemantics | None = None
        self._comparable: Sequence[frozenset[type]] = ()
        # The rows under way, and the calls put aside for each, if there are any.
        self._under_way: dict[int | None, deque[PendingCall] | None] = {}
        # The batch under way that may have any row, if there is one.
        self._in_order: list[PendingCall] = []
        # How many calls of cancelled callers the queue may still have.
        self._withdrawn = 0

    def put(
        self,
        shape: RequestShape,
        values: Sequence[object],
        future: asyncio.Future[Result],
    ) -> None:
        """Add a call behind the others."""
        self.ready.append(
            (shape, tuple(values), self._row_of(values), future, time.monotonic())
        )

    def compare_as(self, columns: Sequence[Column], semantics: ValueSemantics) -> bool:
        """Compare keys as these columns do, from now on; return whether that is new."""
        if columns == self._columns:
            return False
        self._columns, self._semantics = columns, semantics
        self._comparable = [*map(semantics.comparable_types, columns)]
        for queue in (self.ready, *filter(None, self._under_way.values())):
            calls = self._read_again(queue)
            queue.clear()
            queue.extend(calls)
        if None in self._under_way:
            rows = self._read_again(self._in_order)
            if all(row is not None for _, _, row, _, _ in rows):
                self._in_order[:] = rows
                self._under_way = dict.fromkeys(row for _, _, row, _, _ in rows)
        return True

    def _read_again(self, calls: Iterable[PendingCall]) -> list[PendingCall]:
        return [
            (shape, values, self._row_of(values), future, made)
            for shape, values, _, future, made in calls
        ]

    def _row_of(self, values: Sequence[object]) -> int | None:
        """Return the row of a call: a hash of its key, or None if it may be any row."""
        semantics = self._semantics
        if semantics is None:
            return None
        for number, types in enumerate(self._comparable):
            value = values[number]
            if (
                value.__class__ not in types
                and value is not None  # which finds other rows than any value
                and not semantics.python_equality_is_sql_equality(
                    self._columns[number], (value,)
                )
            ):
                return None
        width = self._width
        return hash(values[0] if width == 1 else tuple(values[:width]))

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
        rows: dict[int, list[PendingCall]] = {}
        number = 0
        while ready and number < most and len(rows) < size and None not in under_way:
            call = ready.popleft()
            _, _, row, future, _ = call
            if future.done():
                continue  # its caller has been cancelled
            if row is None:
                # It waits for all that are before it.
                ready.appendleft(call)
                break
            if row in rows:
                rows[row].append(call)
            elif row not in under_way:
                rows[row] = [call]
            else:
                self._put_aside(row, call)
                continue
            number += 1
        batch: list[PendingCall] = []
        if not rows and not under_way:
            return self._take_in_order(most)
        for row, calls in rows.items():
            if len(batch) >= size:
                break
            batch += calls
            under_way[row] = None
        if len(batch) < number:
            rest = [calls for row, calls in rows.items() if row not in under_way]
            ready.extendleft(reversed([*chain.from_iterable(rest)]))
        return batch

    def _put_aside(self, row: int, call: PendingCall) -> None:
        """Keep a call until its row, which is under way, is released."""
        aside = self._under_way[row]
        if aside is None:
            aside = self._under_way[row] = deque()
        aside.append(call)

    def _take_in_order(self, most: int) -> list[PendingCall]:
        """Take calls that may be for one row, the first of them for any row."""
        batch: list[PendingCall] = []
        while self.ready and len(batch) < most:
            call = self.ready.popleft()
            if not call[FUTURE].done():
                batch.append(call)
        if batch:
            self._under_way[None] = None
            self._in_order = batch
        return batch

    def release(self, batch: Sequence[PendingCall]) -> None:
        """Let go of a batch's rows; calls put aside for them are the next to be sent."""
        for _, _, row, _, _ in reversed(batch):
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

    def calls(self) -> list[PendingCall]:
        """Return all calls in the queue."""
        # Copies, as a thread may ask.
        aside = [*filter(None, [*self._under_way.values()])]
        return [*chain.from_iterable([*queue] for queue in (self.ready, *aside))]

    def clear(self) -> list[PendingCall]:
        """Remove and return all calls; rows under way stay so."""
        calls = self.calls()
        for queue in (self.ready, *filter(None, self._under_way.values())):
            queue.clear()
        return calls
