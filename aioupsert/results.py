"""What calls return: the action, the number of rows, and the requested columns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

from aioupsert.typing import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aioupsert.errors import BulkError


class Action(StrEnum):
    """What a call did with the row."""

    CREATED = "created"
    """The row did not exist and was inserted."""
    UPDATED = "updated"
    """The row existed and was written."""
    UNCHANGED = "unchanged"
    """The row existed, and there was nothing to write."""
    SKIPPED = "skipped"
    """The row existed, and *where* was not true for it."""
    DELETED = "deleted"
    """The source of `sync_rows` does not have the row; it was removed or marked."""


if TYPE_CHECKING:
    import typing_extensions

    T_co = typing_extensions.TypeVar("T_co", covariant=True, default=Any)
else:
    T_co = TypeVar("T_co", covariant=True)


class _OnlyRow:
    """The default of `Result.rows`: the row, if there is one."""

    def __get__(self, result: Result | None, _: object = None) -> tuple[Any, ...]:
        return () if result is None or result[0] is None else (result[0],)


@dataclass(frozen=True, init=False)
class Result(tuple[T_co, bool]):  # noqa: SLOT001  # a tuple's slots hold no attributes
    """
    The outcome of one call: a tuple of `row` and `created`, with more attributes.

    What a row is depends on *returning*: a mapping of column names to values, an
    instance of the class that was given, or None without *returning*.

    In the caller's transaction, the outcome is final once that transaction commits.

    Attributes:
        action: What the call did.
        rows_affected: The number of rows written; more than one only if the key matches
            several rows.
        rows: The rows after the call; empty without *returning*. If the key matches
            several rows and only some were written, only those.
        old: With ``old=True``, what `row` was just before this call: of the same kind,
            None if the call created the row.
        changed: With ``old=True``, the columns whose stored value this call changed, in
            the order of the table; of a created row those that were written, and none
            of a row that was left as it is. If the key matches several rows, those
            that changed in any of them.
    """

    action: Action
    rows_affected: int
    rows: tuple[T_co, ...] = cast("Any", _OnlyRow())
    old: T_co | None = None
    changed: tuple[str, ...] = ()

    def __new__(
        cls,
        action: Action,
        rows_affected: int,
        rows: tuple[Any, ...] = (),
        old: Any = None,
        changed: tuple[str, ...] = (),
    ) -> Self:
        """Make the tuple with its attributes."""
        pair: Any = (rows[0] if rows else None, action is Action.CREATED)
        self = super().__new__(cls, pair)
        # As many results are made as rows are written, and a frozen dataclass would set
        # one attribute after the other, each by a call.
        self.__dict__.update(
            action=action,
            rows_affected=rows_affected,
            rows=rows,
            old=old,
            changed=changed,
        )
        return self

    def __getnewargs__(self) -> tuple[Action, int, tuple[T_co, ...]]:
        """Return what a copy is made with; its attributes are copied."""
        return self.action, self.rows_affected, self.rows

    @property
    def row(self) -> T_co:
        """The first of `rows`; None without *returning*."""
        return self[0]

    @property
    def created(self) -> bool:
        """Whether this call created the row; exact under concurrency."""
        return self[1]


def results_of_rows(
    rows: Iterable[object],
    created: Iterable[bool],
    attributes: Iterable[Mapping[str, object]],
) -> list[Result]:
    """
    Return the results of calls that have one row each.

    Of many rows nearly all time is taken by making results, and by the garbage collector,
    which looks at each object in each of them. So this makes as few as there can be, and
    runs no code of Python for each.

    Args:
        rows: The rows.
        created: Whether each was created.
        attributes: The action and the number of rows of each; results share them.
    """
    pairs = zip(rows, created, strict=False)
    results: list[Result] = [*map(_new_tuple, repeat(Result), pairs)]
    for _ in map(_set_attributes, results, attributes):
        pass
    return results


_new_tuple: Final = cast("Any", tuple).__new__
_set_attributes: Final = Result.__dict__["__dict__"].__set__


@dataclass(frozen=True, slots=True)
class Statement:
    """
    A statement that a call may send.

    Attributes:
        sql: The SQL text, with the driver's placeholders.
        arguments: The values for the placeholders, in order.
        when: The case in which the statement is sent, in words.
    """

    sql: str
    arguments: tuple[Value, ...]
    when: str


@dataclass(frozen=True, slots=True)
class BulkResult:
    """
    The outcome of a bulk call: the number of input rows with each outcome.

    Attributes:
        created: Rows that did not exist and were inserted.
        updated: Rows that existed and were written.
        unchanged: Rows that existed, with nothing to write.
        skipped: Rows that existed, and for which *where* was not true.
        deleted: With `sync_rows`, the rows that were removed or marked, since the source
            has not got them; these are no input rows.
        rejected: With ``on_error="skip"``, one error for each row that could not be
            stored, with the row, its index and the database's error.
    """

    created: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    deleted: int = 0
    rejected: tuple[BulkError, ...] = ()

    @property
    def rows(self) -> int:
        """The number of input rows: the sum of all outcomes but *deleted*."""
        stored = self.created + self.updated + self.unchanged + self.skipped
        return stored + len(self.rejected)


@dataclass(frozen=True, slots=True)
class Progress:
    """
    The progress of a bulk call.

    Attributes:
        rows: The number of input rows processed so far.
        seconds: The time since the call began.
        result: The outcomes of these rows; *rejected* stays empty until the end.
    """

    rows: int
    seconds: float
    result: BulkResult

    @property
    def rows_per_second(self) -> float:
        """The mean rate since the call began; 0 if no time has passed."""
        return self.rows / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class CoalescerStats:
    """
    What a coalescer has done since it was constructed, and what it is doing.

    Attributes:
        calls: The number of calls made, including those in progress.
        batches: The number of batches sent; a call that is sent alone counts as one.
        rows: The number of rows in these batches; less than the number of calls if
            several calls were combined into one write.
        largest_batch: The number of calls in the largest batch.
        waits: The number of calls that had to wait because *max_pending* calls were
            pending.
        retries: The number of attempts that were repeated after a transient error.
        failures: The number of calls that raised an error; cancellations do not count.
        seconds: The total duration of all batches; concurrent batches add up.
        pending: The number of calls that are pending now, up to *max_pending*.
        waiting_for_connection: How many of them are in batches that wait for a
            connection of the pool.
        waiting_for_lock: How many of them wait, apart from the others, for rows that
            other sessions have locked.
        oldest_seconds: For how long the oldest of them has been pending; 0 if none is.
    """

    calls: int = 0
    batches: int = 0
    rows: int = 0
    largest_batch: int = 0
    waits: int = 0
    retries: int = 0
    failures: int = 0
    seconds: float = 0.0
    pending: int = 0
    waiting_for_connection: int = 0
    waiting_for_lock: int = 0
    oldest_seconds: float = 0.0
