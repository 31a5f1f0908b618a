"""
The interface of an engine.

An engine does three things. It reflects a table: it reads the catalog and returns a
`Table`. It compiles a plan of one row to a `CompiledCall`, and a plan of many rows to a
`CompiledBatch`; both hold the statements and the steps that send them (`commands`). And
it says what opens and ends a transaction. A new engine is a folder beside this file, and
a line in the driver that connects to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from aioupsert._plan.groups import ValueSemantics

if TYPE_CHECKING:
    from aioupsert._engines.commands import (
        Command,
        FoundRows,
        ResultRows,
        ScopeLevel,
        Steps,
        TransactionScope,
    )
    from aioupsert._engines.outcomes import BatchOutcome, LostRace
    from aioupsert._engines.sql import CompiledStatement, ParameterValues
    from aioupsert._plan import Plan, RowGroup
    from aioupsert._plan.schema import Names, Table, TableName
    from aioupsert.results import Result

# --- Errors ---------------------------------------------------------------------------

Fault: TypeAlias = Literal["row", "lock", "unknown", "transaction", "connection"]
"""
What an error comes from: the values of a row; a lock that was not had in time; perhaps
a row, perhaps whatever is sent; the values of a row, but it has ended the whole
transaction; or the connection or the server, so that nothing else will pass either.
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
        """The whole call as one statement, or None if that is not possible."""
        ...

    @property
    def at_any_level(self) -> CompiledCall | None:
        """
        The call for any isolation level, if this one is for READ COMMITTED only.

        At another level `single` does nothing, and returns no row.
        """
        ...

    @property
    def create(self) -> CompiledStatement | None:
        """The same for a row that was just looked for in vain: it need only insert."""
        ...

    def attempt(
        self, values: ParameterValues, lost: int, /
    ) -> Steps[Result | LostRace]:
        """
        Make one attempt by the classic steps.

        Args:
            values: The values of the call.
            lost: How many attempts were made before.
        """
        ...

    def read_existing(self, values: ParameterValues) -> Steps[Result | None]:
        """
        Read the existing row of a call that updates nothing; write nothing.

        Returns:
            Steps that return its result, or None if there is no such row.
        """
        ...

    def statements(self) -> tuple[CompiledStatement, ...]:
        """Return the statements that a call may send, in order."""
        ...


class CompiledBatch(Protocol):
    """The statements for many rows of one request shape, and the steps that send them."""

    @property
    def per_row(self) -> CompiledCall:
        """The statements for a single one of the rows."""
        ...

    @property
    def how(self) -> str:
        """The form of the statement, or why the rows are written one by one."""
        ...

    def read_existing(
        self, group: RowGroup, outcome: BatchOutcome, /
    ) -> Steps[Sequence[int]]:
        """
        Record the existing rows of a group that updates nothing; write nothing.

        Returns:
            Steps that return the rows which do not exist.
        """
        ...

    def write_autocommit(
        self, group: RowGroup, outcome: BatchOutcome, /, *, whole: bool
    ) -> Steps[Sequence[int]] | None:
        """
        Write a group of rows with one statement, outside of a transaction.

        Args:
            group: The rows.
            outcome: Where to record what became of them.
            whole: Whether either all rows are to be written or none.

        Returns:
            Steps that return the rows which were not written, or None if the group
            takes more than one statement.
        """
        ...

    def find_locked(self, group: RowGroup, /) -> Steps[FoundRows] | None:
        """
        Find the rows of a group that others have locked, or that do not exist.

        Returns:
            Steps that return the rows, each with whether it exists; None if that cannot
            be told.
        """
        ...

    def find_holders(self, group: RowGroup, /) -> Steps[FoundRows] | None:
        """
        Find out who has locked the rows of a group.

        Returns:
            Steps that return the rows of which it is known, each with the process of a
            session; None if that cannot be told.
        """
        ...


class CompiledSync(Protocol):
    """
    The statements that find the rows of a scope that a source does not have.

    All of them are sent in one open transaction: `lock`, and if such rows are not kept
    `begin`, `note` for each batch of the source, `find_missing`, then `remove`, or `mark`
    for some rows after the others, and `end`.
    """

    def lock(self, values: ParameterValues, /) -> Steps[None]:
        """Wait for other calls of the same scope."""
        ...

    def begin(self, values: ParameterValues, /) -> Steps[int]:
        """
        Fix which rows may be removed; return their number.

        Raises:
            UsageError: Rows of such a table cannot be removed.
        """
        ...

    def note(self, group: RowGroup, /) -> Steps[None]:
        """Note the keys of some rows of the source."""
        ...

    def find_missing(self, values: ParameterValues, /) -> Steps[int]:
        """Lock and number the rows that the source lacks; return how many they are."""
        ...

    def read(self, first: int, last: int, /) -> Steps[ResultRows]:
        """Return the columns asked for, of missing rows from a number to another."""
        ...

    def remove(self) -> Steps[None]:
        """
        Remove all missing rows.

        Raises:
            NotAppliedError: The database silently has not removed some.
        """
        ...

    def mark(
        self, values: ParameterValues, first: int, last: int, /
    ) -> Steps[ResultRows]:
        """
        Mark missing rows from a number to another; return the columns asked for.

        Raises:
            NotAppliedError: The database silently has not marked some.
        """
        ...

    def end(self) -> Steps[None]:
        """Drop what the steps have created."""
        ...


CompiledGroup: TypeAlias = "tuple[CompiledBatch, RowGroup]"
"""Rows of one request shape, and the statements that write them."""


class Engine(ValueSemantics, Protocol):
    """A database engine."""

    @property
    def system(self) -> str:
        """The value of OpenTelemetry's ``db.system.name``."""
        ...

    @property
    def lock_limits(self) -> Command | None:
        """
        The query for how long a connection waits for a lock.

        It returns milliseconds by *lock_timeout* and *statement_timeout*, 0 for no limit.
        None if a wait for a row cannot be told from other waits.
        """
        ...

    def reflect(self, name: TableName) -> Steps[Table]:
        """
        Read a table from the catalog.

        Raises:
            UnknownTableError: There is no such table.
        """
        ...

    def identify(self, name: TableName) -> Steps[str]:
        """Return the `Table.relation_id` that a name has now; empty if it has none."""
        ...

    def compile_call(self, plan: Plan) -> CompiledCall:
        """Compile the plan of one row."""
        ...

    def compile_batch(self, plan: Plan, *, distinct: bool) -> CompiledBatch:
        """
        Compile the plan of many rows.

        Args:
            plan: The plan of each row.
            distinct: Whether no two rows of a batch have the same key.
        """
        ...

    def write(
        self, groups: Sequence[CompiledGroup], outcome: BatchOutcome, /, *, own: bool
    ) -> Steps[None]:
        """
        Write the groups of a batch in the open transaction.

        If they are distinct, in the order of the groups; otherwise in that of the rows,
        whatever their groups.

        Args:
            groups: The rows.
            outcome: Where to record what became of them.
            own: Whether `scope` has begun the transaction, and not the caller.
        """
        ...

    def compile_sync(self, plan: Plan, scope: Names, number: int) -> CompiledSync:
        """
        Compile what makes the rows of a scope equal to those of a source.

        Args:
            plan: Its condition is the scope, its update marks a row.
            scope: The columns of the scope.
            number: Distinguishes calls that are within one another.
        """
        ...

    def scope(self, level: ScopeLevel, *, in_transaction: bool) -> TransactionScope:
        """Return a transaction, or a savepoint if one is open."""
        ...


# --- What engines share ---------------------------------------------------------------


def read_each(
    call: CompiledCall, group: RowGroup, outcome: BatchOutcome
) -> Steps[Sequence[int]]:
    """Record the existing rows of a group one by one; return those that do not exist."""
    left: list[int] = []
    for row, position in enumerate(group.positions):
        result = yield from call.read_existing(group.values(row))
        if result is None:
            left.append(row)
        else:
            outcome.add(position, result)
    return left
