"""
What is reported about each call, and how to receive it.

Nothing is recorded until an observer or a hook is registered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from aioupsert.results import BulkResult

__all__ = ["Event", "Observer", "Operation", "observe", "on_event"]

Operation: TypeAlias = Literal[
    "create_or_update",
    "get_or_create",
    "create_or_update_many",
    "iter_create_or_update",
    "get_or_create_many",
    "sync_rows",
    "Coalescer.create_or_update",
    "Coalescer.batch",
]
"""
The operations that are reported.

Each is a call, except that `iter_create_or_update` and `get_or_create_many` report every
batch separately. A
`Coalescer` reports each call, with the time its caller waited, and each batch.
"""


@dataclass(slots=True, kw_only=True)
class Event:
    """
    A record of one operation; while it runs, what is known so far.

    Attributes:
        operation: The kind of operation.
        table: The table's name, with its schema if the call gave one.
        system: The database system, by its OpenTelemetry name: ``"postgresql"``,
            ``"sqlite"`` or ``"cockroachdb"``; empty until a connection is acquired.
        rows: The number of rows, or the number of calls in a batch of a `Coalescer`.
            Zero while the operation runs; at least one if it failed.
        result: How many rows were created, updated, left unchanged, and skipped, and by
            `sync_rows` removed or marked. In a batch of a `Coalescer`, cancelled calls are not counted.
        failed: The number of rows, or calls in a batch, that failed.
        retries: The number of attempts that were repeated because another session got
            in the way.
        pending: For a batch of a `Coalescer`, the number of pending calls, including
            those of the batch; None otherwise.
        calls: For a batch of a `Coalescer`, the events of its calls, which have not
            ended when the batch begins; empty otherwise.
        seconds: The duration, including the time to acquire a connection from a pool.
        error: The exception that was raised, including a cancellation, or None. In a batch
            of a `Coalescer`, only if it failed as a whole, as one of one call does.
    """

    operation: Operation
    table: str
    system: str = ""
    rows: int = 0
    result: BulkResult = field(default_factory=BulkResult)
    failed: int = 0
    retries: int = 0
    pending: int | None = None
    calls: tuple[Event, ...] = field(default=(), repr=False)
    seconds: float = 0.0
    error: BaseException | None = None


class SharedHook(ABC):
    """A hook that is registered once, however often `on_event` is called with it."""

    @abstractmethod
    def __call__(self, event: Event, /) -> object:
        """Receive the event of an operation that has ended."""

    @abstractmethod
    def start(self) -> Callable[[], None]:
        """Register this hook if it is not; return a function that ends this use."""


Observer: TypeAlias = Callable[[Event], AbstractContextManager[object]]
"""
A function that is called when an operation begins.

It returns a context manager, which is entered at once and exited when the operation
ends.
"""

# Insertion-ordered, and keyed by an object of its own for each registration, so that
# the same observer can be registered twice.
OBSERVERS: Final[dict[object, Observer]] = {}


def observe(observer: Observer) -> Callable[[], None]:
    """
    Register an observer for every operation in this process.

    The observer is called in the operation's own task when the operation begins. It
    returns a context manager, which is entered at once and exited when the operation
    ends; by then the event is complete. An exception that the observer or the context
    manager raises is logged and does not affect the operation.

    A call whose arguments are refused is not reported, since it never begins.

    Args:
        observer: The function to call, such as those of `aioupsert.observers`.

    Returns:
        A function that unregisters the observer.
    """
    registration = object()
    OBSERVERS[registration] = observer

    def stop() -> None:
        OBSERVERS.pop(registration, None)

    return stop


def on_event(hook: Callable[[Event], object]) -> Callable[[], None]:
    """
    Register a function to be called whenever an operation in this process has ended.

    The function is called in the operation's own task, so it should return quickly. An
    exception that it raises is logged and does not affect the operation.

    Args:
        hook: The function to call with the complete event.

    Returns:
        A function that unregisters the hook.
    """
    if isinstance(hook, SharedHook):
        return hook.start()

    @contextmanager
    def observer(event: Event) -> Generator[None]:
        try:
            yield
        finally:
            hook(event)

    return observe(observer)
