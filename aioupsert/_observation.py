"""Recording the events of operations and passing them to the registered observers."""

from __future__ import annotations

import logging
import time
import weakref
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import Final, Protocol, Self

from aioupsert.events import OBSERVERS, Event, Operation
from aioupsert.results import Action, BulkResult, CoalescerStats, Result


class HasStats(Protocol):
    """A coalescer, as observers see it."""

    @property
    def stats(self) -> CoalescerStats:
        """What it has done and is doing."""
        ...


COALESCERS: Final[dict[int, tuple[str, weakref.ref[HasStats]]]] = {}
"""The coalescers that have been entered, each with the name of its table."""


def register(coalescer: HasStats, table: tuple[str, ...]) -> None:
    """Let observers see a coalescer, for as long as it exists."""
    key = id(coalescer)
    COALESCERS[key] = ".".join(table), weakref.ref(coalescer)
    weakref.finalize(coalescer, COALESCERS.pop, key, None)


_logger: Final = logging.getLogger("aioupsert")

# The retry loop records into the event of the operation that is running in its context;
# an event is not passed down to it.
_current: ContextVar[Event | None] = ContextVar("_current", default=None)


def bulk_result(counts: Mapping[Action, int]) -> BulkResult:
    """Return a `BulkResult` for the number of rows with each action."""
    return BulkResult(
        created=counts[Action.CREATED],
        updated=counts[Action.UPDATED],
        unchanged=counts[Action.UNCHANGED],
        skipped=counts[Action.SKIPPED],
        deleted=counts[Action.DELETED],
    )


def record_retry() -> None:
    """Record that the current operation makes another attempt."""
    if (event := _current.get()) is not None:
        event.retries += 1


def observed(
    operation: Operation, table: tuple[str, ...]
) -> AbstractContextManager[Observation | None]:
    """Return the observation of an operation, or of nothing if nothing observes."""
    return Observation(operation, table) if OBSERVERS else _NOT_OBSERVED


_NOT_OBSERVED: Final = nullcontext()


class Observation:
    """
    One operation, reported to the observers from its beginning to its end.

    Attributes:
        event: The event that the observers see.
    """

    __slots__ = ("_contexts", "_started", "_token", "event")

    def __init__(
        self,
        operation: Operation,
        table: tuple[str, ...],
        calls: tuple[Event, ...] = (),
    ) -> None:
        """Begin the operation: call the observers and start the clock."""
        self.event: Event = Event(
            operation=operation, table=".".join(table), calls=calls
        )
        self._token = _current.set(self.event)
        self._contexts: list[AbstractContextManager[object]] = []
        for observer in [*OBSERVERS.values()]:
            try:
                context = observer(self.event)
                context.__enter__()
            except Exception:
                _logger.exception("an observer failed when a call began")
            else:
                self._contexts.append(context)
        self._started = time.perf_counter()

    def record_each(self, *results: Result) -> None:
        """Record the outcome of the rows from the result of each."""
        self.record(bulk_result(Counter(result.action for result in results)))

    def record(self, result: BulkResult) -> None:
        """Record the outcome of the rows."""
        event = self.event
        event.result = result
        event.rows = result.rows
        event.failed = len(result.rejected)

    def end(self, error: BaseException | None = None) -> None:
        """End the operation with the exception that it raised, if any."""
        event = self.event
        event.seconds = time.perf_counter() - self._started
        event.error = error
        if error is not None:
            event.failed = event.failed or 1
            event.rows = event.rows or 1
        traceback = None if error is None else error.__traceback__
        for context in reversed(self._contexts):
            try:
                context.__exit__(type(error) if error else None, error, traceback)
            except Exception:
                _logger.exception("an observer failed when a call ended")
        _current.reset(self._token)

    def __enter__(self) -> Self:
        """Return this observation, which has already begun."""
        return self

    def __exit__(
        self, _: object, error: BaseException | None, traceback: object
    ) -> None:
        """End the operation."""
        self.end(error)
