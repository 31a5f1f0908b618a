"""Clocks, turns and ratios: how every benchmark measures."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

Measure = TypeVar("Measure")


@dataclass
class Elapsed:
    """
    How long something took, in seconds.

    Attributes:
        wall: By the clock.
        cpu: Processor time of this process, user and system, in all its threads. The
            database server's is not in it; SQLite's is, as it runs in this process.
    """

    wall: float = 0.0
    cpu: float = 0.0

    def each(self, number: int) -> Elapsed:
        """Return the time of one out of so many."""
        return Elapsed(self.wall / number, self.cpu / number)


@contextmanager
def stopwatch() -> Iterator[Elapsed]:
    """Measure the block; the times are known when it ends."""
    elapsed = Elapsed()
    cpu, wall = time.process_time(), time.perf_counter()
    yield elapsed
    elapsed.wall = time.perf_counter() - wall
    elapsed.cpu = time.process_time() - cpu


async def in_turns(
    ways: Mapping[str, Callable[[int], Awaitable[Measure]]], turns: int
) -> dict[str, list[Measure]]:
    """
    Measure every way once per turn, so that other load on the machine affects all.

    Each turn starts with another way. Turn 0 comes in addition and does not count: it
    prepares statements and reads the catalog.

    Args:
        ways: Functions that take the number of the turn and return what they measured.
        turns: How many turns count.

    Returns:
        What each way measured, turn by turn.
    """
    measured: dict[str, list[Measure]] = {name: [] for name in ways}
    names = [*ways]
    for turn in range(turns + 1):
        start = turn % len(names)
        for name in names[start:] + names[:start]:
            result = await ways[name](turn)
            if turn:
                measured[name].append(result)
    return measured


class Ratio(NamedTuple):
    """The quartiles of one way's figures divided by another's, turn by turn."""

    low: float
    median: float
    high: float

    def cells(self, digits: int = 2) -> tuple[str, str]:
        """Return the median and the other quartiles for a table."""
        return (
            f"{self.median:.{digits}f}",
            f"{self.low:.{digits}f} to {self.high:.{digits}f}",
        )


def ratio(figures: Sequence[float], others: Sequence[float]) -> Ratio:
    """Divide by the other's figures of the same turns."""
    return quartiles([a / b for a, b in zip(figures, others, strict=True)])


def quartiles(figures: Sequence[float]) -> Ratio:
    """Return the quartiles, which are all the same for one figure."""
    if len(figures) == 1:
        return Ratio(*figures, *figures, *figures)
    return Ratio(*statistics.quantiles(figures, n=4, method="inclusive"))


def wall(times: Iterable[Elapsed]) -> list[float]:
    """Return the times by the clock."""
    return [elapsed.wall for elapsed in times]


def cpu(times: Iterable[Elapsed]) -> list[float]:
    """Return the processor times."""
    return [elapsed.cpu for elapsed in times]
