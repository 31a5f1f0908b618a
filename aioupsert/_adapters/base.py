"""What every adapter offers, and what the library remembers about a connection."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeVar
from weakref import WeakKeyDictionary

from aioupsert._plan import Shape, make_plan
from aioupsert._schema import Table, TableName
from aioupsert._sql.sending import Rows, Send, Steps
from aioupsert._steps import Dialect, Lost
from aioupsert.errors import AioupsertError, UnknownTableError, UsageError
from aioupsert.results import Result

T = TypeVar("T")

_logger: Final = logging.getLogger("aioupsert")


class TransientError(Exception):
    """
    A transient error, its cause, ended work whose transaction was its own.

    Nothing of the work is stored. Callers of the library never see this.
    """


class Session(Protocol):
    """
    One connection, for the time of one call.

    A driver is supported by writing this class for it and naming it in KINDS.
    """

    @property
    def dialect(self) -> Dialect[Any, Any]:
        """The database's dialect."""
        ...

    @property
    def state(self) -> State:
        """What is remembered about this connection."""
        ...

    async def run(self, steps: Callable[[bool], Steps[T]]) -> T:
        """
        Send what the steps ask for; on return, nothing of ours is open.

        The steps are told whether the caller has a transaction open.

        Nothing else of this library runs on the connection meanwhile.

        Raises:
            TransientError: In place of such an error, outside the caller's transaction.
        """
        ...

    async def attempt(
        self, program: Any, values: list[Any], number: int, conflicts: int, /
    ) -> Result | Lost:
        """
        Make one attempt, the first one by a single statement where the program has it.

        Args:
            program: The statements.
            values: What they bind.
            number: How many attempts went before.
            conflicts: How many of them an insert lost.

        Raises:
            TransientError: As for `run`.
        """
        ...

    def may_be_stale(self, error: Exception) -> bool:
        """Tell whether an error may come from a table that has changed meanwhile."""
        ...

    def in_transaction(self) -> bool:
        """Tell whether a transaction is open on the connection."""
        ...

    def can_repeat(self) -> bool:
        """Tell whether a call may be made again after an error of the database."""
        ...

    def blames_row(self, error: Exception) -> bool:
        """Tell whether an error may come from a row, so that others may be stored."""
        ...

    async def forget(self) -> None:
        """Drop what the driver itself remembers of types and statements."""
        ...


class Kind(NamedTuple):
    """
    A kind of connection that callers hold.

    Attributes:
        type: Its class.
        session: Makes a session on a connection.
        borrow: Lends a connection of the driver; None for such a connection itself.
        is_pool: Whether it lends several at once.
    """

    type: type
    session: Callable[[Any], Session]
    borrow: Callable[[Any], AbstractAsyncContextManager[Any]] | None = None
    is_pool: bool = False


async def drive(steps: Steps[T], answer: Callable[[Send], Awaitable[Rows]]) -> T:
    """Drive steps by awaiting the answer to each statement."""
    try:
        send = next(steps)
        while True:
            try:
                rows = await answer(send)
            except BaseException as exc:  # noqa: BLE001  # a cancellation too: the steps undo what is open, and raise it again
                send = steps.throw(exc)
            else:
                send = steps.send(rows)
    except StopIteration as stop:
        value: T = stop.value
        return value


async def finish(task: asyncio.Task[T]) -> None:
    """Wait until a task has ended, however often we are cancelled meanwhile."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        # Nobody waits for its result any more, and nobody need hear its error.
        _ = task.cancelled() or task.exception()
        raise cancelled


def log(sql: str) -> None:
    """Log a statement on one line, never its values."""
    if _logger.isEnabledFor(logging.DEBUG):
        _logger.debug("%s", " ".join(sql.split()))


@dataclass(slots=True)
class Known:
    """
    A table's description, until it is read afresh, and the programs made from it.

    Attributes:
        table: The description.
        read_at: When it was read, on the monotonic clock.
        programs: The statements of each shape of call.
        bulk_programs: The same for many rows; also by whether their keys are distinct.
    """

    table: Table
    read_at: float
    programs: dict[Shape, Any] = field(default_factory=dict[Shape, Any])
    bulk_programs: dict[Shape, Any] = field(default_factory=dict[Shape, Any])

    def compile(self, shape: Shape, dialect: Dialect[Any, Any]) -> Any:
        """Check a shape against the table and write its statements."""
        return dialect.compile_plan(make_plan(shape, self.table))

    def keep(self, shape: Shape, program: Any) -> None:
        """Remember the statements of a shape."""
        _keep(self.programs, shape, program)

    def compile_rows(
        self, shape: Shape, dialect: Dialect[Any, Any], *, distinct: bool
    ) -> Any:
        """Do the same for many rows, and remember them."""
        program = self.bulk_programs.get((shape, distinct))
        if program is None:
            plan = make_plan(shape, self.table)
            program = dialect.compile_rows(plan, distinct=distinct)
            _keep(self.bulk_programs, (shape, distinct), program)
        return program


def _keep(programs: dict[Shape, Any], shape: Shape, program: Any) -> None:
    if len(programs) >= _MAX_PROGRAMS:
        programs.clear()
    programs[shape] = program


# Shapes come from the caller's source code, so there are few; a caller who builds them
# from data must not fill the memory.
_MAX_PROGRAMS: Final = 1000


class _Open:
    """A lock for whoever holds the real one."""

    async def acquire(self) -> None:
        """Go through."""

    def release(self) -> None:
        """Do nothing."""

    async def __aenter__(self) -> None:
        """Go through."""

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""


_OPEN: Final = _Open()


@dataclass(slots=True)
class State:
    """
    What is remembered about one connection.

    It holds no reference to the connection, and ends with it.

    Attributes:
        tables: The tables it has used.
        warned: What a warning has been given for.
        lock: Held while statements of ours are under way.
        holder: The task that holds it for work of several steps.
        marks: What the marking functions have written down, where there are any.
    """

    tables: dict[TableName, Known] = field(default_factory=dict[TableName, Known])
    warned: set[str] = field(default_factory=set[str])
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    holder: asyncio.Task[Any] | None = None
    marks: list[Any] | None = None

    @property
    def turn(self) -> asyncio.Lock | _Open:
        """What a call waits for: the lock, unless its own task holds that already."""
        if self.holder is not None and self.holder is asyncio.current_task():
            return _OPEN
        return self.lock

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[None]:
        """Keep other tasks' calls off the connection between steps of one work."""
        async with self.turn:
            before, self.holder = self.holder, asyncio.current_task()
            try:
                yield
            finally:
                self.holder = before

    def fresh(self, name: TableName) -> Known | None:
        """Give what is known of a table, unless it is too old."""
        known = self.tables.get(name)
        if known is None or time.monotonic() - known.read_at >= _lifetime:
            return None
        return known


_states: Final[WeakKeyDictionary[Any, State]] = WeakKeyDictionary()


def state_of(connection: object) -> State:
    """Give what is remembered about a connection."""
    state = _states.get(connection)
    if state is None:
        state = _states[connection] = State()
    return state


async def read_table(session: Session, name: TableName) -> Known:
    """Read a table from the catalog."""
    await refresh(session, name)
    return session.state.tables[name]


async def known_table(session: Session, name: TableName) -> Known:
    """Give what is known of a table, read from the catalog if need be."""
    return session.state.fresh(name) or await read_table(session, name)


async def is_stale(session: Session, name: TableName, error: Exception) -> bool:
    """Tell whether an error comes from a table that has changed since it was read."""
    if isinstance(error, UnknownTableError):
        return False  # the catalog was asked just now
    if not isinstance(error, AioupsertError) and not session.may_be_stale(error):
        return False
    return await _has_changed(session, name, error)


async def _has_changed(session: Session, name: TableName, error: Exception) -> bool:
    """Read the table afresh, or leave that to the next call; tell whether it differs."""
    changed = unknown = False
    if isinstance(error, AioupsertError) or session.can_repeat():
        try:
            changed = await refresh(session, name)
        except Exception:  # noqa: BLE001  # the caller raises the error that led here
            unknown = True
    else:
        unknown = True
    if unknown:
        session.state.tables.pop(name, None)
    if changed or unknown:
        await session.forget()
    return changed


async def refresh(session: Session, name: TableName) -> bool:
    """Read a table's description afresh; tell whether it differs from the last one."""
    known = session.state.tables.get(name)
    table = await session.run(lambda _: session.dialect.describe(name))
    if known is not None and known.table == table:
        known.read_at = time.monotonic()
        return False
    session.state.tables[name] = Known(table, time.monotonic())
    return True


_lifetime = 60.0


def set_description_lifetime(seconds: float) -> None:
    """
    Set for how long a table's description is trusted, on every connection.

    Most changes of a table are noticed by the error they cause; a changed column
    default causes none, so a description is read afresh after this time.

    Args:
        seconds: 60 by default; 0 reads the catalog before every call.

    Raises:
        UsageError: *seconds* is negative.
    """
    global _lifetime  # noqa: PLW0603  # one setting for the process, as documented
    if seconds < 0:
        msg = f"a lifetime is zero or more seconds, not {seconds!r}"
        raise UsageError(msg)
    _lifetime = seconds
