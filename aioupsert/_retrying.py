"""When work that was undone is done again, and for how long."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from aioupsert.errors import RetriesExhaustedError
from aioupsert.events import tell_retry


class Deadline:
    """The time after which no new attempt is made."""

    def __init__(self, timeout: float | None) -> None:
        """Start now; *timeout* is in seconds, None for no end."""
        self._end: float | None = (
            None if timeout is None else time.monotonic() + timeout
        )

    def is_over(self) -> bool:
        """Tell whether it is too late for another attempt."""
        return self._end is not None and time.monotonic() >= self._end

    def check(self, cause: BaseException | None) -> None:
        """
        Allow another attempt after a transient error of the driver, or not.

        Raises:
            RetriesExhaustedError: It is too late.
        """
        if self.is_over():
            msg = f"transient errors lasted until the timeout; the last: {cause}"
            raise RetriesExhaustedError(msg) from cause


_AT_ONCE: Final = 3
_MAX_PAUSE: Final = 0.015


async def back_off(attempts: int) -> None:
    """Wait a random time, so that callers who collided do not collide again."""
    tell_retry()
    if attempts > _AT_ONCE:
        longest = min(_MAX_PAUSE, 0.001 * 2 ** (attempts - _AT_ONCE))
        await asyncio.sleep(random.uniform(0, longest))  # noqa: S311  # no secret
