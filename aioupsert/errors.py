"""
What callers catch: every error and warning this library raises itself.

Errors that are not about upserting (a violated check, a foreign key, another
unique constraint, a lost connection) reach the caller as the driver raised them.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioupsert.results import BulkResult


class AioupsertError(Exception):
    """Base of every error of this library."""


class UsageError(AioupsertError, ValueError):
    """The arguments do not make sense together; nothing was sent."""


class UnknownTableError(UsageError):
    """
    The database knows no such table, or this role may not see it; nothing was written.

    Attributes:
        table: The name as the caller wrote it.
        known: The names there are.
    """

    def __init__(self, table: str, known: Iterable[str] = ()) -> None:
        """Say which table, and the closest name that does exist."""
        self.table: str = table
        self.known: tuple[str, ...] = tuple(known)
        super().__init__(f"there is no table {table}{_closest(table, self.known)}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Make copies and pickles from what the error was made of."""
        return type(self), (self.table, self.known)


class UnknownColumnError(UsageError):
    """
    The table has no such columns; nothing was written.

    Attributes:
        table: The table's name.
        columns: Every unknown name, sorted.
        known: The names there are.
    """

    def __init__(
        self, table: str, columns: Iterable[str], known: Iterable[str]
    ) -> None:
        """Say which columns, each with the closest name that does exist."""
        self.table: str = table
        self.columns: tuple[str, ...] = tuple(sorted(columns))
        self.known: tuple[str, ...] = tuple(known)
        words = ", ".join(f"{c!r}{_closest(c, self.known)}" for c in self.columns)
        super().__init__(f"table {table} has no column {words}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Make copies and pickles from what the error was made of."""
        return type(self), (self.table, self.columns, self.known)


class UnsupportedConnectionError(AioupsertError, TypeError):
    """The object is no connection this library can use; the message hints at one."""


class MissingUniqueIndexError(AioupsertError):
    """
    No unique index makes the key unique, and the call insisted on one.

    Raised with ``without_unique_index="error"``, and with ``strategy="on_conflict"``
    when no index matches the key exactly. Only the catalog was read.
    """


class NotAppliedError(AioupsertError):
    """
    The row was neither created nor updated, and the database raised no error.

    The usual causes: a BEFORE trigger that returns NULL, a rule, or a row-level
    security policy that hides the row.
    """


class RetriesExhaustedError(AioupsertError):
    """
    The call's own transaction kept failing with a transient error until *timeout*.

    ``__cause__`` is the last error of the driver. Nothing of the call is stored, and
    the call may be repeated: `is_retryable` is true.
    """


class SerializationConflictError(AioupsertError):
    """
    The caller's transaction cannot see the row that blocks it.

    At REPEATABLE READ and above, a row that was committed after the transaction's
    snapshot can neither be updated nor inserted. Roll back and repeat the whole
    transaction: `is_retryable` is true.
    """


class BulkError(AioupsertError):
    """
    A row of a bulk call could not be stored; ``__cause__`` is the error it caused alone.

    Attributes:
        index: The row's place in the input, counted from 0.
        row: The row as it was given.
        committed: What is stored all the same: nothing of an atomic call, the batches
            before this one otherwise.
    """

    def __init__(
        self, index: int, row: object, cause: object, committed: BulkResult
    ) -> None:
        """Say which row, and why."""
        self.index: int = index
        self.row: object = row
        self.committed: BulkResult = committed
        self._cause = str(cause)
        super().__init__(f"row {index}: {cause}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Make copies and pickles from what the error was made of."""
        return type(self), (self.index, self.row, self._cause, self.committed)


class CoalescerClosedError(AioupsertError):
    """
    The coalescer is closed, or was never entered.

    The call was not sent, unless the message says that its outcome is unknown.
    """


class MissingUniqueIndexWarning(UserWarning):
    """No unique index makes the key unique: concurrent calls may create it twice."""


def _closest(name: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
