"""
Which calls are pending: at most so many; further callers wait for a slot, in order.

The methods of `Admission` are synchronous state changes, apart from `wait_for_slot`, in
which a caller awaits what they decide.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress

from aioupsert.errors import CoalescerClosedError


class Admission:
    """
    A number of slots, one for each pending call.

    Attributes:
        pending: How many calls have a slot.
        waits: How many callers have had to wait for one.
        closed: Why no new call is taken; empty while calls are taken.
    """

    def __init__(self, slots: int) -> None:
        """
        Begin closed.

        Args:
            slots: How many calls may be pending.
        """
        self.pending = 0
        self.waits = 0
        self.closed = "it was not entered: use it in an async with"
        self._slots = slots
        self._waiters: deque[asyncio.Future[None]] = deque()
        # Slots given to waiters that have not run since; they come before new callers.
        self._given = 0
        # Why waiters fail, now and later; empty while they are admitted.
        self._refused = ""

    def open(self) -> None:
        """Begin to take calls."""
        self.closed = ""

    def close(self, reason: str) -> None:
        """Take no new calls; the first reason stays."""
        self.closed = self.closed or reason

    def refuse(self, reason: str) -> None:
        """Fail all callers that wait, even those that have just been given a slot."""
        self._refused = reason
        while self._waiters:
            self._give_slot(self._waiters.popleft())

    def has_waiters(self) -> bool:
        """Return whether a caller waits for a slot, or has not run since it got one."""
        return bool(self._waiters) or self._given > 0

    def admit(self) -> bool:
        """Take a slot for a call; return False if its caller must wait for one."""
        if self.pending >= self._slots or self._waiters or self._given:
            return False
        self.pending += 1
        return True

    async def wait_for_slot(self) -> None:
        """
        Wait, behind others, until the call has a slot.

        Raises:
            CoalescerClosedError: Nothing more is sent.
        """
        self.waits += 1
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                # It is gone already if a slot was to be given to it.
                with suppress(ValueError):
                    self._waiters.remove(waiter)
            else:
                self._given -= 1
                self._give_slots()
            raise
        self._given -= 1
        if self._refused:
            raise CoalescerClosedError(self._refused)
        self.pending += 1
        # A caller that came while this one had not run may have had to wait for that.
        self._give_slots()

    def leave(self) -> None:
        """Release the slot of a call; the caller that has waited longest gets it."""
        self.pending -= 1
        if self._waiters:
            self._give_slots()

    def _give_slots(self) -> None:
        while self._waiters and self.pending + self._given < self._slots:
            self._give_slot(self._waiters.popleft())

    def _give_slot(self, waiter: asyncio.Future[None]) -> None:
        if (
            not waiter.done()
        ):  # it is if its caller was cancelled in this turn of the loop
            waiter.set_result(None)
            self._given += 1
