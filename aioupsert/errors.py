"""
The errors and warnings that this library raises.

Errors that are not about upserting reach the caller as the driver raised them, such as
a violated CHECK, foreign key or other unique constraint, or a lost connection.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioupsert.results import BulkResult


class AioupsertError(Exception):
    """The base class of all errors of this library."""


class UsageError(AioupsertError, ValueError):
    """
    An argument is invalid, or arguments contradict each other; nothing was sent.

    A key that the column would store as something else is invalid, too.
    """


class UnknownTableError(UsageError):
    """
    The table does not exist, or the role may not see it; nothing was written.

    Correct the name or the `search_path`; the message suggests the closest name.

    Attributes:
        table: The name as the caller wrote it.
        known: The names of existing tables, among which the closest is suggested.
    """

    def __init__(self, table: str, known: Iterable[str] = ()) -> None:
        """Compose the message from the name and the closest existing name."""
        self.table: str = table
        self.known: tuple[str, ...] = tuple(known)
        super().__init__(f"there is no table {table}{_closest(table, self.known)}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments of the constructor."""
        return type(self), (self.table, self.known)


class UnknownColumnError(UsageError):
    """
    The table does not have these columns; nothing was written.

    Correct the names; the message suggests the closest.

    Attributes:
        table: The name of the table.
        columns: All unknown names, sorted.
        known: The names of the table's columns, among which the closest are suggested.
    """

    def __init__(
        self, table: str, columns: Iterable[str], known: Iterable[str]
    ) -> None:
        """Compose the message from the names, each with the closest existing name."""
        self.table: str = table
        self.columns: tuple[str, ...] = tuple(sorted(columns))
        self.known: tuple[str, ...] = tuple(known)
        names = ", ".join(f"{c!r}{_closest(c, self.known)}" for c in self.columns)
        super().__init__(f"table {table} has no column {names}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments of the constructor."""
        return type(self), (self.table, self.columns, self.known)


class UnsupportedConnectionError(AioupsertError, TypeError):
    """The object is not a supported connection or pool; the message says what is."""


class MissingUniqueIndexError(AioupsertError):
    """
    No unique index makes the key unique, and the call requires one.

    Raised with ``without_unique_index="error"``, and with ``strategy="on_conflict"`` if
    no index matches the key exactly. Only the catalog was read. Create the index.
    """


class NotAppliedError(AioupsertError):
    """
    The row was neither created nor updated, and the database raised no error.

    Usual causes are a BEFORE trigger that returns NULL, a rule, or a row-level security
    policy that hides the row.
    """


class RetriesExhaustedError(AioupsertError):
    """
    The call's own transaction failed with transient errors until *timeout*.

    ``__cause__`` is the last error of the driver. Nothing was stored, and the call may
    be repeated: `is_retryable` returns True.
    """


class PoolTimeoutError(AioupsertError, TimeoutError):
    """
    The pool had no connection for the call until *timeout*; nothing was sent.

    Either the pool is too small for its load, or its connections are held for too long:
    by statements that wait for a lock, or by a task that holds one and awaits a call
    that needs another, which a task must never do.
    """

    def __init__(self, seconds: float) -> None:
        """Compose the message from how long the call has waited."""
        self._seconds = seconds
        super().__init__(
            f"the pool had no free connection within {seconds:g} seconds; nothing was"
            " sent"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments of the constructor."""
        return type(self), (self._seconds,)


class ConnectionHeldError(AioupsertError, TimeoutError):
    """
    Another call holds the connection, and waits for its rows; nothing was sent.

    It is an atomic bulk call or a `sync_rows`, whose transaction is open. Its rows may
    never come if they are made by a task that awaits this call. Make them over another
    connection, or before the call, or pass ``atomic=False``.
    """

    def __init__(self, seconds: float) -> None:
        """Compose the message from how long the other call has waited."""
        self._seconds = seconds
        super().__init__(
            "an atomic bulk call holds this connection, and has waited for its rows for"
            f" {seconds:g} seconds; if they come from a task that awaits the connection,"
            " as this one does, give that another connection; nothing was sent"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments of the constructor."""
        return type(self), (self._seconds,)


class SerializationConflictError(AioupsertError):
    """
    The caller's transaction cannot see the row that blocks it.

    At REPEATABLE READ and above, a row that was committed after the transaction's
    snapshot was taken can neither be updated nor inserted. Roll back and repeat the
    whole transaction: `is_retryable` returns True.
    """


class BulkError(AioupsertError):
    """
    A row of a bulk call could not be stored.

    ``__cause__`` is the error that the row causes by itself: the driver's, or an error
    of this library. Correct the row, or pass ``on_error="skip"``.

    Attributes:
        index: The position of the row in the input, counted from 0.
        row: The row as the caller gave it.
        committed: What was stored nevertheless: nothing if the call is atomic,
            otherwise the batches that were committed before the error.
    """

    def __init__(
        self, index: int, row: object, cause: object, committed: BulkResult
    ) -> None:
        """Compose the message from the position and the cause."""
        self.index: int = index
        self.row: object = row
        self.committed: BulkResult = committed
        self._cause = str(cause)
        super().__init__(f"row {index}: {cause}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments of the constructor."""
        return type(self), (self.index, self.row, self._cause, self.committed)


class SyncRefusedError(AioupsertError):
    """
    `sync_rows` would have removed too much; nothing is stored.

    The source is empty, or lacks more rows of the scope than *max_missing* allows. Look
    at the source; if it is right, raise *max_missing* and, for an empty source, pass
    ``allow_empty=True``.

    Attributes:
        missing: The number of rows of the scope that the source does not have; of an
            empty source, all of them.
        rows: The number of rows in the scope when the call began, marked ones left out.
    """

    def __init__(self, missing: int, rows: int, why: str) -> None:
        """Compose the message from the reason and the numbers."""
        self.missing: int = missing
        self.rows: int = rows
        self._why = why
        super().__init__(f"{why}: {missing} of {rows} rows would go; nothing is stored")

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments of the constructor."""
        return type(self), (self.missing, self.rows, self._why)


class CoalescerClosedError(AioupsertError):
    """
    The coalescer is closed, was not entered, or belongs to another event loop.

    The call was not sent, unless the message says that its outcome is unknown.
    """


class MissingUniqueIndexWarning(UserWarning):
    """
    No unique index makes the key unique; concurrent calls may create two rows.

    A warning, once per table and key on a connection.
    """


def _closest(name: str, known: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""
