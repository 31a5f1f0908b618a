"""
The commands that the steps of an engine send to a driver.

Steps are sans-IO: a generator that yields a command, receives the rows of its answer
(or has its error thrown into it), and returns a result. It knows no driver and never
waits. A driver runs it: asyncpg and psycopg await one command after the other,
aiosqlite runs all of them as one job on the connection's thread. Both therefore execute
the same algorithm, which can be read, and tested, as a plain function.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, TypeVar

from aioupsert.errors import AioupsertError, NotAppliedError
from aioupsert.typing import Value

if TYPE_CHECKING:
    from aioupsert._engines.sql import CompiledStatement, RowCode

T = TypeVar("T")


# --- Steps ----------------------------------------------------------------------------


CommandKind: TypeAlias = Literal[
    "query",
    "once",
    "command",
    "rollback",
    "catalog",
    "identity",
    "copy",
    "repeat",
    "each",
    "update first",
    "marks",
    "transaction",
    "own session",
    "plain text",
    "arrays",
]
"""
How a command is sent, and what answers it.

``query``: the statement's rows. ``once``: the same, and no statement is
prepared. ``command`` (BEGIN, COMMIT, SAVEPOINT): one row with the
completion status, if the database reports one. ``rollback``: no rows; completed even
while the call is being cancelled. ``catalog``: the statement's rows, with names as str
whatever the caller's settings; the server keeps nothing of it. ``identity``: a row if one of the
queries in *arguments* no longer returns the rows beside it, none otherwise; not logged,
as every call asks it. ``copy``: no rows; copies the rows in *arguments* to the
table that *sql* names. ``repeat``: runs the statement once for each row in *arguments*;
returns what the marking functions recorded. ``each``: the same, for the statements and rows
in *arguments*. ``update first``: runs the statement for each row in *arguments*, and if it
writes none, one of *others* after the other until one finds or writes it; returns for each how
many rows it has written, or what was found. ``marks``: sends nothing; returns what was
recorded before one of these failed. ``transaction``: sends nothing; returns one
row if a transaction is open, none otherwise. ``own session``: sends nothing; returns one row
if the driver keeps prepared statements, and so the server's session serves no other client.
``plain text``: sends nothing; returns one row if the driver sends text in an array as it is,
whatever adapters the caller has set.
``arrays``: sends nothing; returns one row if the driver reads an array in less time than
as many rows.
"""


class Command(NamedTuple):
    """
    A command to a driver.

    Attributes:
        sql: The statement.
        arguments: The values of its placeholders.
        kind: How it is sent, and what answers it.
        counted_as: The code of each written row if the statement returns no rows.
        caller_columns: How many of the last columns the caller asked for. The others
            are read by this library, and without the caller's own loaders.
        others: The statements for a row that the first one has not written; *arguments*
            then has the values of all for each row.
    """

    sql: str
    arguments: Iterable[Value] = ()
    kind: CommandKind = "query"
    counted_as: RowCode | None = None
    caller_columns: int = 0
    others: Sequence[CompiledStatement] = ()


ResultRow: TypeAlias = Sequence[Value]
"""A row that the database returns."""
ResultRows: TypeAlias = Sequence[ResultRow]
Steps: TypeAlias = Generator[Command, ResultRows, T]
"""Yields each command, receives its rows or its error, returns a T."""

FoundRows: TypeAlias = list[tuple[int, int]]
"""The positions of rows in a batch, each with what was found out about it."""

IN_TRANSACTION: Final = Command("", kind="transaction")
"""Returns a row if a transaction is open on the connection."""


MARKS: Final = Command("", kind="marks")
"""Returns what the marking functions recorded before a statement for many rows failed."""


OWN_SESSION: Final = Command("", kind="own session")
"""Returns a row if what is left in the server's session is there for the next call."""


PLAIN_TEXT: Final = Command("", kind="plain text")
"""Returns a row if no adapter of the caller's is for text in arrays."""


PREFERS_ARRAYS: Final = Command("", kind="arrays")
"""Returns a row if the driver takes less time to read an array than to read rows."""


class ArrayArgument(list[Value]):
    """An array with one element for each row; the statement states its type."""


class NameArgument(str):
    """A name in the catalog, which no adapter of the caller's may change."""

    __slots__ = ()


class StaleTableError(AioupsertError):
    """The table has changed since it was reflected; what was written is undone."""


class CannotCopyError(Exception):
    """The driver cannot copy these values, which may still be sent as arrays."""


def single_command(command: Command) -> Steps[ResultRows]:
    """Send one command and return its rows."""
    return (yield command)


# --- Transactions ---------------------------------------------------------------------


class TransactionScope(NamedTuple):
    """
    The commands of a transaction, or of a savepoint in an open one.

    Attributes:
        begin: Opens it.
        commit: Commits or releases it.
        rollback: Roll it back; sent after any error, also one of *commit*.
        undo: Roll back to a savepoint, which stays open.
    """

    begin: Command
    commit: Command
    rollback: tuple[Command, ...]
    undo: tuple[Command, ...] = ()


ScopeLevel: TypeAlias = Literal["call", "batch", "step", "insert"]
"""What a transaction or savepoint is for; each may be within one of those before it."""


def in_scope(scope: TransactionScope, body: Steps[T]) -> Steps[T]:
    """Run steps in a transaction or savepoint; roll it back after any error."""
    try:
        yield scope.begin
        result = yield from body
        status = yield scope.commit
        if status:
            check_committed(status)
    except BaseException:
        for command in scope.rollback:  # noqa: UP028  # a tuple cannot receive answers
            yield command
        raise
    return result


def check_committed(status: ResultRows) -> None:
    """
    Check the completion status of COMMIT.

    Raises:
        NotAppliedError: It is ROLLBACK, which is how PostgreSQL answers the COMMIT of a
            failed transaction, without raising an error.
    """
    if status[0][0] == "ROLLBACK":
        msg = "the database answered ROLLBACK to COMMIT; nothing is stored"
        raise NotAppliedError(msg)
