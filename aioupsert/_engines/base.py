"""
What an engine is, and the words in which its steps speak to a driver.

Steps are sans-IO: a generator that yields a command, receives the rows that answer it
(or has its error thrown into it), and returns what the work has come to. It knows no
driver and never waits. A driver runs it: asyncpg and psycopg await one command after
the other, aiosqlite runs all of them as one job on the connection's thread.

An engine reflects a table and compiles a plan; what it compiles has the statements and
the steps that send them. A new engine is a folder beside this file, and a line in the
driver that speaks to it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    NamedTuple,
    Protocol,
    TypeAlias,
    TypeVar,
)

from aioupsert._plan.rows import ValueSemantics
from aioupsert.errors import NotAppliedError

if TYPE_CHECKING:
    from aioupsert._engines.outcomes import BatchOutcome, LostRace
    from aioupsert._engines.sql import CompiledStatement
    from aioupsert._plan import Plan, RowGroup
    from aioupsert._plan.schema import Table, TableName
    from aioupsert.results import Result

T = TypeVar("T")


# --- Steps ----------------------------------------------------------------------------


class Command(NamedTuple):
    """
    What a step asks a driver to do.

    Attributes:
        sql: The statement.
        arguments: The values of its placeholders.
        kind: How it is sent and answered. ``query``: rows. ``command`` (BEGIN, COMMIT,
            SAVEPOINT): one row with the completion status, where the database reports
            one. ``rollback``: nothing; sent to its end even while the call is being
            cancelled. ``catalog``: rows, with names as str whatever the caller's
            settings. ``copy``: nothing; puts the rows, its arguments, into the table
            that *sql* names. ``repeat``: runs the statement for each of the rows that
            are its arguments; answers what the marking functions wrote down.
            ``transaction``: sends nothing; answers one row if the caller has a
            transaction open, and none otherwise.
        counted_as: The code of each written row, where the statement cannot return one.
        asked: How many of the last columns the caller asked for. The others are read by
            this library, whatever loaders the caller has set for their types.
    """

    sql: str
    arguments: Iterable[Any] = ()
    kind: Literal[
        "query", "command", "rollback", "catalog", "copy", "repeat", "transaction"
    ] = "query"
    counted_as: int | None = None
    asked: int = 0


Rows = Sequence[Sequence[Any]]
Steps = Generator[Command, Rows, T]
"""Yields each command, receives its rows or its error, returns a T."""

IN_TRANSACTION: Final = Command("", kind="transaction")
"""Asks whether the caller has a transaction open."""


class ArrayArgument(list[Any]):
    """An array with one element for each row; the statement states its type."""


class CannotCopyError(Exception):
    """The driver cannot copy these values; arrays may carry them."""


# --- Transactions ---------------------------------------------------------------------


class TransactionScope(NamedTuple):
    """
    A transaction, or a savepoint in the one that is open.

    Attributes:
        begin: Opens it.
        commit: Keeps what was done in it.
        rollback: Undoes that, if it can still be undone.
    """

    begin: Command
    commit: Command
    rollback: tuple[Command, ...]


def in_scope(scope: TransactionScope, body: Steps[T]) -> Steps[T]:
    """Run steps so that all of their work is kept or none."""
    try:
        yield scope.begin
        result = yield from body
        status = yield scope.commit
        if status:
            check_committed(status)
    except BaseException:
        for command in scope.rollback:  # noqa: UP028  # a tuple takes no answers
            yield command
        raise
    return result


def check_committed(answer: Rows) -> None:
    """
    Check what the database answered to COMMIT.

    Raises:
        NotAppliedError: PostgreSQL answered ROLLBACK, as it does to the COMMIT of a
            failed transaction, without raising an error.
    """
    if answer[0][0] == "ROLLBACK":
        msg = "the database answered ROLLBACK to COMMIT; nothing is stored"
        raise NotAppliedError(msg)


# --- Errors ---------------------------------------------------------------------------

Fault: TypeAlias = Literal["row", "unknown", "transaction", "connection"]
"""
What an error comes from: the values of a row; perhaps those, perhaps whatever is sent;
the values of a row, but it has ended the whole transaction; or the connection or the
server, so that nothing else will pass either.
"""


# --- Engines --------------------------------------------------------------------------


class CompiledCall(Protocol):
    """The statements of one plan, and the steps that send them."""

    @property
    def plan(self) -> Plan:
        """The plan it was compiled from."""
        ...

    @property
    def single(self) -> CompiledStatement | None:
        """The whole call as one statement, or None where no statement can be that."""
        ...

    def attempt(
        self, values: Sequence[Any], conflicts: int, /
    ) -> Steps[Result | LostRace]:
        """
        Make one attempt by the classic steps.

        Args:
            values: The values of the call.
            conflicts: How many inserts of earlier attempts ended in a conflict.
        """
        ...

    def look_up(self, values: Sequence[Any]) -> Steps[Result | None]:
        """Read the row of a call that updates nothing; write nothing."""
        ...

    def statements(self) -> tuple[CompiledStatement, ...]:
        """Return the statements that a call may send, in order."""
        ...


class CompiledBatch(Protocol):
    """The statements for many rows of one request shape, and the steps to send them."""

    @property
    def per_row(self) -> CompiledCall:
        """The statements for one of the rows by itself."""
        ...

    @property
    def how(self) -> str:
        """How many rows are written, or why they are written one by one."""
        ...

    def write(self, group: RowGroup, outcome: BatchOutcome, /) -> Steps[None]:
        """Write a group of rows in the open transaction."""
        ...

    def write_alone(
        self, group: RowGroup, outcome: BatchOutcome, /
    ) -> Steps[Sequence[int]] | None:
        """
        Write a group of rows by one statement that is a transaction by itself.

        Returns:
            Steps that return the rows which were not written, or None where it takes
            more than one statement.
        """
        ...


class Engine(ValueSemantics, Protocol):
    """A database engine."""

    @property
    def system(self) -> str:
        """What OpenTelemetry calls it."""
        ...

    def reflect(self, name: TableName) -> Steps[Table]:
        """
        Read a table from the catalog.

        Raises:
            UnknownTableError: There is no such table.
        """
        ...

    def compile_call(self, plan: Plan) -> CompiledCall:
        """Write the statements of a call."""
        ...

    def compile_batch(self, plan: Plan, *, distinct: bool) -> CompiledBatch:
        """
        Write the statements for many rows.

        Args:
            plan: What each row means.
            distinct: Whether no two rows of a batch have the same key.
        """
        ...

    def scope(self, *, in_transaction: bool) -> TransactionScope:
        """Return a transaction, or a savepoint in the one that is open."""
        ...
