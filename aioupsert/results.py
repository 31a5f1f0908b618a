"""What a call reports: the action, how many rows, and the rows asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aioupsert.errors import BulkError


class Action(StrEnum):
    """What a call did."""

    CREATED = "created"
    """The row was not there and has been inserted."""
    UPDATED = "updated"
    """The row was there and has been written."""
    UNCHANGED = "unchanged"
    """The row was there, and there was nothing to write."""
    SKIPPED = "skipped"
    """The row was there, and *where* was not true for it."""


@dataclass(frozen=True, slots=True)
class Result:
    """
    The outcome of one call; unpacks as ``row, created = result``.

    Inside the caller's transaction it becomes true when that transaction commits.

    Attributes:
        action: What happened.
        rows_affected: Rows written; more than one only if the key matches several.
        rows: The rows after the call, one mapping each; empty without *returning*. If
            the key matches several and only some are written, those.
        objects: The same as mapped objects of SQLAlchemy, where *returning* names
            their class.
    """

    action: Action
    rows_affected: int
    rows: tuple[Mapping[str, Any], ...] = ()
    objects: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def created(self) -> bool:
        """Whether this very call created the row; exact under concurrency."""
        return self.action is Action.CREATED

    @property
    def row(self) -> Mapping[str, Any] | None:
        """The first row, or None without *returning*."""
        return self.rows[0] if self.rows else None

    @property
    def object(self) -> Any:
        """The first mapped object, or None unless *returning* names its class."""
        return self.objects[0] if self.objects else None

    def __iter__(self) -> Iterator[Any]:
        """Yield `row`, or the mapped object, and `created`."""
        yield self.object if self.objects else self.row
        yield self.created


@dataclass(frozen=True, slots=True)
class Statement:
    """
    One statement that a call may send.

    Attributes:
        sql: The text, with the driver's placeholders.
        arguments: The values bound to the placeholders, in order.
        when: In which case it is sent.
    """

    sql: str
    arguments: tuple[Any, ...]
    when: str


@dataclass(frozen=True, slots=True)
class BulkResult:
    """
    The outcome of many rows: how many were created, updated, and so on.

    Attributes:
        created: Rows that were not there and have been inserted.
        updated: Rows that were there and have been written.
        unchanged: Rows that were there, with nothing to write.
        skipped: Rows that were there, and for which *where* was not true.
        rejected: With ``on_error="skip"``, the rows that could not be stored, each with
            its index and the database's error.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    rejected: tuple[BulkError, ...] = ()

    @property
    def rows(self) -> int:
        """The number of rows that were given."""
        stored = self.created + self.updated + self.unchanged + self.skipped
        return stored + len(self.rejected)


@dataclass(frozen=True, slots=True)
class Progress:
    """
    How far a bulk call is.

    Attributes:
        rows: Rows done.
        seconds: Since the call began.
        result: What happened to them; *rejected* is left empty until the end.
    """

    rows: int
    seconds: float
    result: BulkResult

    @property
    def rows_per_second(self) -> float:
        """The mean rate since the call began."""
        return self.rows / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class CoalescerStats:
    """
    What a coalescer has done since it was made.

    Attributes:
        calls: Calls made, those under way among them.
        batches: Batches sent; a call that went alone is one.
        rows: Rows sent in them; fewer than calls where some were one write.
        largest_batch: Calls in the largest batch.
        waits: Calls that had to wait since *max_pending* others were pending.
        retries: Attempts that a transient error ended, and that were made again.
        failures: Calls that ended in an error, a cancellation not counted.
        seconds: Time spent in the database, batches side by side added up.
    """

    calls: int = 0
    batches: int = 0
    rows: int = 0
    largest_batch: int = 0
    waits: int = 0
    retries: int = 0
    failures: int = 0
    seconds: float = 0.0
