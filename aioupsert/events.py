"""What calls did, told to whoever observes them; nobody does until asked to."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Literal, Self, TypeAlias

from aioupsert.results import Action, BulkResult, Result

_logger: Final = logging.getLogger("aioupsert")

Operation: TypeAlias = Literal[
    "create_or_update",
    "get_or_create",
    "create_or_update_many",
    "iter_create_or_update",
    "Coalescer.create_or_update",
    "Coalescer.batch",
]
"""
What is observed: the calls, each batch of `iter_create_or_update`, and each batch of a
`Coalescer`, with what its callers asked for.
"""


@dataclass(slots=True, kw_only=True)
class Event:
    """
    What a call did; while it runs, what is known of it so far.

    Attributes:
        operation: Which call it is.
        table: The table's name, with its schema if the call named one.
        system: The database, as OpenTelemetry calls it: ``"postgresql"``, ``"sqlite"``
            or ``"cockroachdb"``; empty until there is a connection.
        rows: The rows, or for a batch of a `Coalescer` the calls, that it had; one at
            least of a call that failed, zero while it runs.
        result: What became of them. Calls of a batch whose callers have been cancelled
            are not in it.
        failed: How many of them failed.
        retries: Attempts that were made again, since another session was in the way.
        pending: For a batch of a `Coalescer`, the calls pending with those of the batch.
        seconds: How long it took; the time that a pool took is part of it.
        error: What it raised, if anything; a cancellation too.
    """

    operation: Operation
    table: str
    system: str = ""
    rows: int = 0
    result: BulkResult = field(default_factory=BulkResult)
    failed: int = 0
    retries: int = 0
    pending: int | None = None
    seconds: float = 0.0
    error: BaseException | None = None


def bulk_result(counts: Mapping[Action, int]) -> BulkResult:
    """Make a result of the number of rows that have each action."""
    return BulkResult(
        created=counts[Action.CREATED],
        updated=counts[Action.UPDATED],
        unchanged=counts[Action.UNCHANGED],
        skipped=counts[Action.SKIPPED],
    )


Observer: TypeAlias = Callable[[Event], AbstractContextManager[object]]
"""
Is called when a call begins, and gives a context manager that is left when it ends.
"""

OBSERVERS: Final[dict[object, Observer]] = {}
"""Who observes; when nobody does, a call only looks here."""

_current: ContextVar[Event | None] = ContextVar("_current", default=None)


def observe(observer: Observer) -> Callable[[], None]:
    """
    Have every call of this process observed.

    The observer is called when a call begins, in its task, and gives a context manager,
    which is entered, and left when the call ends; the event it is called with is then
    complete. What it raises is logged and changes nothing of the call.

    Calls whose arguments are refused are not observed: they do not begin.

    Args:
        observer: Such as those of `aioupsert.observers`.

    Returns:
        A function without arguments that ends it.
    """
    entry = object()
    OBSERVERS[entry] = observer

    def stop() -> None:
        OBSERVERS.pop(entry, None)

    return stop


def on_event(hook: Callable[[Event], object]) -> Callable[[], None]:
    """
    Have a function called with the event of every call of this process that has ended.

    It is called in the task of the call, so it should be quick; what it raises is
    logged and changes nothing of the call.

    Args:
        hook: The function.

    Returns:
        A function without arguments that ends it.
    """

    @contextmanager
    def observer(event: Event) -> Generator[None]:
        try:
            yield
        finally:
            hook(event)

    return observe(observer)


def tell_system(system: str) -> None:
    """Take down the database of the call that is under way."""
    if (event := _current.get()) is not None:
        event.system = system


def tell_retry() -> None:
    """Count an attempt of the call that is under way."""
    if (event := _current.get()) is not None:
        event.retries += 1


class Watch:
    """
    A call in the sight of the observers, from its begin to its end.

    Attributes:
        event: What they see.
    """

    __slots__ = ("_contexts", "_started", "_token", "event")

    def __init__(self, operation: Operation, table: tuple[str, ...]) -> None:
        """Begin."""
        self.event: Event = Event(operation=operation, table=".".join(table))
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

    def count(self, *results: Result) -> None:
        """Take down what became of the rows, from the result of each."""
        self.count_all(bulk_result(Counter(result.action for result in results)))

    def count_all(self, result: BulkResult) -> None:
        """Take down what became of the rows."""
        event = self.event
        event.result = result
        event.rows = result.rows
        event.failed = len(result.rejected)

    def end(self, error: BaseException | None = None) -> None:
        """End, with what the call raised."""
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
        """Give this."""
        return self

    def __exit__(
        self, _: object, error: BaseException | None, traceback: object
    ) -> None:
        """End."""
        self.end(error)
