"""Cancel a call at any of its suspension points."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Final

import pytest

# Seconds from the suspension point to the cancellation.
DELAYS: Final = [0, 0.0002, 0.0005, 0.001]
delays = pytest.mark.parametrize("delay", DELAYS)
twice = pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])


class CancelledAt:
    """
    Awaits in a task of its own, and cancels it at one of its suspension points.

    Attributes:
        reached: Whether there was such a point.
    """

    def __init__(
        self,
        awaitable: Awaitable[Any],
        point: int,
        delay: float = 0,
        *,
        twice: bool = False,
    ) -> None:
        self.reached = False
        self._awaitable = awaitable
        self._left = point
        self._delay = delay
        self._twice = twice

    def __await__(self) -> Generator[Any, Any, Any]:
        steps: Any = self._awaitable.__await__()
        step: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                future = step()
            except StopIteration as stop:
                return stop.value
            self._left -= 1
            if self._left == 0:
                self.reached = True
                self._cancel(self._delay)
            elif self._left == -1 and self._twice:
                # While it cleans up.
                self._cancel(0)
            try:
                value = yield future
            except BaseException as exc:  # noqa: BLE001  # whatever comes goes on inside
                step = partial(steps.throw, exc)
            else:
                step = partial(steps.send, value)

    @staticmethod
    def _cancel(delay: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        if delay:
            asyncio.get_running_loop().call_later(delay, task.cancel)
        else:
            task.cancel()

    async def outcome(self) -> bool:
        """Tell whether it was cancelled; other errors are raised."""

        async def wait() -> None:
            await self

        task = asyncio.create_task(wait())
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        return task.cancelled()
