"""Statements in order, as generators: what the pure rooms ask the adapters to send."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

T = TypeVar("T")


class Send(NamedTuple):
    """
    A statement to send.

    Attributes:
        sql: The text.
        arguments: The values of its placeholders.
        kind: A query answers rows. A command (BEGIN, COMMIT, SAVEPOINT) answers one
            row with its completion status, where the database gives one. An undo is a
            command that cleans up, sent even while the call is being cancelled. A
            catalog query answers names, as str whatever the caller's settings. To copy
            is to put rows, the arguments, into the table that the text names. To
            repeat is to run a statement for each of the rows that are its arguments;
            it answers what the marking functions wrote down.
        counted: The code each written row counts as, where none can be returned.
        asked: How many of the last columns are the caller's own; the others answer the
            library, whatever types of the database the caller reads in its own way.
    """

    sql: str
    arguments: Iterable[Any] = ()
    kind: Literal["query", "command", "undo", "catalog", "copy", "repeat"] = "query"
    counted: int | None = None
    asked: int = 0


Rows: TypeAlias = Sequence[Sequence[Any]]
Steps: TypeAlias = Generator[Send, Rows, T]
"""Yields each statement, receives its rows or its error, returns a T."""


class Column(list[Any]):
    """An array of which the statement says the type, an element for each row."""


class CannotCopyError(Exception):
    """The driver cannot copy these values; arrays may carry them."""
