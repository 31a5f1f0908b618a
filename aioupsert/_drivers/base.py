"""
The interface of a driver, and what all drivers share.

A driver runs steps: it sends their commands over a connection, one after the other, and
sends back the rows or throws the error into them. It also knows what its errors mean. A
new driver is a file beside this one, and a line in `_drivers/__init__.py`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
)
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    NamedTuple,
    Protocol,
    Self,
    TypeAlias,
    TypeVar,
)

from aioupsert._drivers.lock import ConnectionLock
from aioupsert._engines.base import Engine, Fault
from aioupsert._engines.commands import Command, ResultRows, Steps
from aioupsert._engines.sql import ParameterValues

if TYPE_CHECKING:
    from aioupsert._engines.base import CompiledBatch, CompiledCall
    from aioupsert._plan import RequestShape
    from aioupsert._plan.schema import Table, TableName

T = TypeVar("T")
Handle: TypeAlias = Any
"""A connection or pool; its driver knows what it can do."""

LOGGER: Final = logging.getLogger("aioupsert")


# --- The driver's interface -----------------------------------------------------------


class TransientError(Exception):
    """
    A transient error, its cause, ended work that had a transaction of its own.

    Nothing of the work is stored. Callers of the library never see this.
    """


class ReadOnlyError(Exception):
    """
    The transaction of a statement by itself is read-only; its cause says so.

    Callers of the library never see this.
    """


class Session(Protocol):
    """One connection, for the time of one call."""

    @property
    def engine(self) -> Engine:
        """The engine that it is connected to."""
        ...

    @property
    def state(self) -> ConnectionState:
        """The state that is kept for this connection."""
        ...

    async def __aenter__(self) -> Self:
        """Return the session."""
        ...

    async def __aexit__(self, *_: object) -> None:
        """Do nothing, as the connection is the caller's."""
        ...

    async def run(self, steps: Steps[T]) -> T:
        """
        Run steps to their end, and return what they return.

        No other call of this library uses the connection meanwhile.

        Raises:
            TransientError: In place of such an error, if no transaction was open before.
        """
        ...

    async def fetch(
        self, sql: str, arguments: ParameterValues, caller_columns: int
    ) -> ResultRows:
        """
        Send a single statement, in one round trip, and return its rows.

        Args:
            sql: The statement.
            arguments: The values of its placeholders.
            caller_columns: As in `Command`.

        Raises:
            TransientError: As in `run`.
            ReadOnlyError: In place of such an error, if no transaction is open.
        """
        ...

    def in_transaction(self) -> bool:
        """Return whether a transaction is open on the connection."""
        ...

    def can_repeat(self, error: Exception | None = None, /) -> bool:
        """Return whether statements can still be sent after an error, or any error."""
        ...

    def may_be_stale(self, error: Exception) -> bool:
        """Return whether an error may come from a table changed since reflection."""
        ...

    def fault_of(self, error: Exception) -> Fault:
        """Return whose fault an error is, as far as the error itself tells."""
        ...

    def as_host(self, error: Exception) -> Exception:
        """Return the error that `run` would have raised for one of the driver's."""
        ...

    async def forget(self) -> None:
        """Make the driver drop its caches of types and prepared statements."""
        ...

    def terminate(self) -> None:
        """Close the connection at once, if that ends what is under way on it."""
        ...


def _unknown_size(_: Handle) -> None:
    return None


class ConnectionKind(NamedTuple):
    """
    A kind of connection that callers hold.

    Attributes:
        type: Its class.
        session: Returns a session on a connection of the driver.
        acquire: Acquires a connection of the driver, and releases it on exit; None if
            it is such a connection itself.
        is_pool: Whether several connections can be acquired at once.
        size: Returns how many; None if that is not limited, or not known.
    """

    type: type
    session: Callable[[Handle], Session]
    acquire: Callable[[Handle], AbstractAsyncContextManager[Handle]] | None = None
    is_pool: bool = False
    size: Callable[[Handle], int | None] = _unknown_size


class Driver(Protocol):
    """The module of a driver."""

    @property
    def KINDS(self) -> Sequence[ConnectionKind]:  # noqa: N802  # a constant of the module
        """The kinds of connections that it supports."""
        ...

    def is_retryable(self, error: BaseException, /) -> bool:
        """Return whether repeating the whole transaction is right after an error."""
        ...


# --- The state of a connection --------------------------------------------------------


@dataclass(slots=True)
class CachedTable:
    """
    A reflected table, and what was compiled for it.

    Attributes:
        table: The table.
        read_at: When it was last reflected, on the monotonic clock.
        calls: The compiled call of each request shape.
        batches: The compiled batches, by request shape and whether keys are distinct.
    """

    table: Table
    read_at: float
    calls: dict[RequestShape, CompiledCall] = field(
        default_factory=dict["RequestShape", "CompiledCall"]
    )
    batches: dict[tuple[RequestShape, bool], CompiledBatch] = field(
        default_factory=dict["tuple[RequestShape, bool]", "CompiledBatch"]
    )


class _Hold:
    """
    Several steps of one call, which hold a connection's lock.

    The context that takes the lock knows of them, and so does every task that is
    started from there, as by a source of rows: a call made there is one of the steps,
    and must not wait for their end.

    Attributes:
        state: The state of the connection.
        outer: The steps that these are part of, or None.
        held: The lock that they hold.
        lock: The lock that each of the steps takes.
        is_active: Whether they have not ended.
    """

    __slots__ = ("held", "is_active", "lock", "outer", "state")

    def __init__(
        self, state: ConnectionState, outer: _Hold | None, held: ConnectionLock
    ) -> None:
        self.state = state
        self.outer = outer
        self.held = held
        self.lock = ConnectionLock()
        self.is_active = True


CURRENT_HOLD: Final[ContextVar[_Hold | None]] = ContextVar("CURRENT_HOLD", default=None)
"""Not None in code that is run, as a source of rows, by a call that may hold a lock."""


@dataclass(slots=True)
class ConnectionState:
    """
    The state that is kept for one connection, from call to call.

    It has no reference to the connection, and is dropped with it.

    Attributes:
        tables: The tables that calls on it have used.
        homonyms: Tables whose name has meant another one before, in turn, by another
            search_path, with types that the first does not know: by name and relation.
        failed: The tables by whose description a transaction was aborted.
        warned: The warnings that have been issued.
        holds: How many calls hold the lock for several steps, one within the other.
    """

    tables: dict[TableName, CachedTable] = field(
        default_factory=dict["TableName", "CachedTable"]
    )
    homonyms: dict[TableName, dict[str, CachedTable]] = field(
        default_factory=dict["TableName", "dict[str, CachedTable]"]
    )
    failed: dict[TableName, CachedTable] = field(
        default_factory=dict["TableName", "CachedTable"]
    )
    warned: set[str] = field(default_factory=set[str])
    holds: int = 0
    own_lock: ConnectionLock = field(default_factory=ConnectionLock)

    @property
    def lock(self) -> ConnectionLock:
        """The lock that a statement needs: the connection's, or that of its steps."""
        hold = self._hold() if self.holds else None
        return self.own_lock if hold is None else hold.lock

    def is_held_here(self) -> bool:
        """Return whether this code is one of the steps that hold the lock."""
        return self._hold() is not None

    def _hold(self) -> _Hold | None:
        hold = CURRENT_HOLD.get()
        while hold is not None and not (hold.is_active and hold.state is self):
            hold = hold.outer
        return hold

    @asynccontextmanager
    async def locked(self) -> AsyncGenerator[None]:
        """Hold the lock for several steps, so that no other call intervenes."""
        lock = self.lock
        async with lock:
            hold = _Hold(self, CURRENT_HOLD.get(), lock)
            token = CURRENT_HOLD.set(hold)
            self.holds += 1
            try:
                yield
            finally:
                self.holds -= 1
                hold.is_active = False
                CURRENT_HOLD.reset(token)

    def waiting_for_rows(self, seconds: float | None) -> AbstractContextManager[None]:
        """
        Return a context in which the steps that hold the lock wait for the caller's rows.

        Args:
            seconds: After how long others that wait for the lock are refused, or None.
        """
        hold = self._hold()
        return nullcontext() if hold is None else hold.held.refusing_after(seconds)


CALLERS: Final[ContextVar[Sequence[asyncio.Future[Any]]]] = ContextVar(
    "CALLERS", default=()
)
"""The callers that wait for the work in this context; without any it need not begin."""


class NobodyWaitsError(asyncio.CancelledError):
    """
    Work has not begun, as all of its `CALLERS` had gone.

    Callers of the library never see this.
    """


STATES: Final[dict[int, ConnectionState]] = {}
"""The state of each connection that exists, by its id; `state_of` adds one."""


def state_of(connection: object) -> ConnectionState:
    """Return the state that is kept for a connection."""
    state = STATES.get(id(connection))
    if state is None:
        state = STATES[id(connection)] = ConnectionState()
        # Before another object can have the id.
        weakref.finalize(connection, STATES.pop, id(connection), None)
    return state


class ConnectionSession:
    """A session on a connection of the caller's, which it leaves as it is."""

    __slots__ = ("_connection", "state")

    _connection: Handle
    state: ConnectionState

    async def __aenter__(self) -> Self:
        """Return the session."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing, as the connection is the caller's."""

    def as_host(self, error: Exception) -> Exception:
        """Return the error as it is."""
        return error


# --- Running steps --------------------------------------------------------------------

YES: Final[ResultRows] = ((True,),)
"""The answer to a command that asks about the connection, and sends nothing."""


async def drive(
    steps: Steps[T], answer: Callable[[Command], Awaitable[ResultRows]]
) -> T:
    """Run steps, awaiting the answer to each command."""
    try:
        command = next(steps)
        while True:
            try:
                rows = await answer(command)
            except BaseException as exc:  # noqa: BLE001  # a cancellation too: the steps roll back what is open, then raise it
                command = steps.throw(exc)
            else:
                command = steps.send(rows)
    except StopIteration as stop:
        value: T = stop.value
        return value


async def finish(task: asyncio.Task[T]) -> None:
    """Wait until a task has ended, however often the caller is cancelled meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            with _shield_from_anyio():
                await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        # Nobody receives the result; asyncio must not log an error as never retrieved.
        _ = task.cancelled() or task.exception()
        raise cancelled


def _shield_from_anyio() -> AbstractContextManager[object]:
    """
    Return what keeps anyio from cancelling, which it does in every turn of the loop.

    Where a caller uses anyio, it has imported it.
    """
    anyio: Any = sys.modules.get("anyio")
    shield: AbstractContextManager[object] = (
        nullcontext() if anyio is None else anyio.CancelScope(shield=True)
    )
    return shield


def log(sql: str) -> None:
    """Log a statement, but not its values, on one line."""
    if LOGGER.isEnabledFor(logging.DEBUG):
        LOGGER.debug("%s", " ".join(sql.split()))
