"""When a call is made again, and for how long."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from aioupsert._observation import record_retry
from aioupsert.errors import RetriesExhaustedError


class Deadline:
    """The time after which no new attempt is made."""

    def __init__(self, timeout: float | None, started: float | None = None) -> None:
        """
        Set the time.

        Args:
            timeout: Seconds; None for no end.
            started: When the work began, on the monotonic clock; now by default.
        """
        if started is None:
            started = time.monotonic()
        self._end: float | None = None if timeout is None else started + timeout

    def is_over(self) -> bool:
        """Return whether the deadline has passed."""
        return self._end is not None and time.monotonic() >= self._end

    def check(self, cause: BaseException | None) -> None:
        """
        Check that another attempt may follow a transient error of the driver.

        Raises:
            RetriesExhaustedError: The deadline has passed.
        """
        if self.is_over():
            msg = f"transient errors lasted until the timeout; the last: {cause}"
            raise RetriesExhaustedError(msg) from cause


# The first attempts follow each other at once.
_WITHOUT_PAUSE: Final = 3
_MAX_PAUSE: Final = 0.015
"""Seconds."""
_DOUBLINGS: Final = 4
"""Of a millisecond, after which a pause is the longest; it never overflows."""


async def back_off(attempts: int) -> None:
    """Wait a random time, so that calls which collided do not collide again."""
    record_retry()
    if attempts > _WITHOUT_PAUSE:
        doublings = min(attempts - _WITHOUT_PAUSE, _DOUBLINGS)
        longest = min(_MAX_PAUSE, 0.001 * 2**doublings)
        await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  # not for secrets
