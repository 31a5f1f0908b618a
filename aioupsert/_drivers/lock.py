"""The lock of a connection: one call at a time, in the order of arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from aioupsert.errors import ConnectionHeldError

SHORTEST_WAIT: Final = 1.0
"""
The seconds for which a call waits for a connection even if its timeout is 0.

That is a way to ask for a single attempt, and a pool may have to connect for it.
"""


class ConnectionLock:
    """
    A lock, whose waiters can be refused.

    One call may hold a connection for its whole transaction while it waits for its rows.
    If these come from a task that waits for the connection, neither would ever end, and
    the library cannot see it, as the rows may come through a queue.
    """

    __slots__ = ("is_held", "waiters")

    def __init__(self) -> None:
        """Begin free."""
        self.is_held: bool = False
        self.waiters: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Take the lock if it is free; return whether it was."""
        if self.is_held:
            return False
        self.is_held = True
        return True

    async def acquire(self) -> None:
        """
        Take the lock, as soon as it is free.

        Raises:
            ConnectionHeldError: What holds it has waited for its rows for too long.
        """
        if self.take():
            return
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:
                self.release()  # it was handed over just then
            elif waiter in self.waiters:
                self.waiters.remove(waiter)
            raise

    def release(self) -> None:
        """Hand the lock over to the first that waits for it, if there is one."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.is_held = False

    async def __aenter__(self) -> None:
        """Take the lock."""
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        """Release it."""
        self.release()

    @contextmanager
    def refusing_after(self, seconds: float | None) -> Generator[None]:
        """
        Refuse those that wait for the lock, if the block takes longer than this.

        Args:
            seconds: How long; None never to do so.
        """
        if seconds is None:
            yield
            return
        refusing = self._refuse_every(seconds if seconds > 0 else SHORTEST_WAIT)
        timer = asyncio.ensure_future(refusing)
        try:
            yield
        finally:
            timer.cancel()

    async def _refuse_every(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            self.refuse(seconds)

    def refuse(self, seconds: float) -> None:
        """Refuse those that wait for the lock."""
        while self.waiters:
            waiter = self.waiters.popleft()
            if not waiter.done():
                waiter.set_exception(ConnectionHeldError(seconds))
