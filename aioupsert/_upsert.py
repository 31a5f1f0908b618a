"""`create_or_update`, `get_or_create` and `preview`."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aioupsert._adapters import model_of, with_session
from aioupsert._adapters.base import (
    Session,
    TransientError,
    is_stale,
    known_table,
)
from aioupsert._plan import BulkCall, Shape, read_bulk_call, read_call
from aioupsert._retrying import Deadline, back_off
from aioupsert._schema import TableName, table_name
from aioupsert._steps import MAX_LOST, Lost, find, hopeless
from aioupsert.errors import MissingUniqueIndexWarning
from aioupsert.events import OBSERVERS, Operation, Watch
from aioupsert.results import Result, Statement

if TYPE_CHECKING:
    from aioupsert._adapters.models import Model
    from aioupsert.expressions import Expression
    from aioupsert.typing import (
        Connection,
        Returning,
        Strategy,
        Table,
        Values,
        WithoutUniqueIndex,
    )

T = TypeVar("T")

_logger: Final = logging.getLogger("aioupsert")

TIMEOUT: Final = 30.0
"""Seconds; about as long as a web client waits for an answer."""
# Attempts.
_USUAL: Final = 10


async def create_or_update(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    create_defaults: Values | None = None,
    where: Expression | None = None,
    skip_unchanged: bool = False,
    touch: Values | None = None,
    returning: Returning = None,
    without_unique_index: WithoutUniqueIndex = "warn",
    strategy: Strategy = "auto",
    timeout: float | None = TIMEOUT,
) -> Result:
    """
    Update the row that has this key, or create it.

    In the steady state one statement and one round trip on PostgreSQL, and one job on
    the connection's thread on SQLite. Takes part in the caller's transaction if one is
    open; otherwise the call is atomic and committed when it returns. A concurrent
    creation of the same row is no error: the call then updates.

    Args:
        conn: A connection, pooled connection or pool of asyncpg; a connection or pool
            of psycopg, whose transaction the call takes part in where the connection
            does not autocommit; an aiosqlite connection; or, with the extra
            ``sqlalchemy``, what `aioupsert.typing.Connection` says.
        table: The table's name, or with the extra ``sqlalchemy`` a `Table`, a mapped
            class or a SQLModel class; see `aioupsert.typing.Table`.
        key: The columns that identify the row; None means IS NULL.
        defaults: What is written either way; plain values, expressions, or callables,
            which are called now.
        create_defaults: Merged over key and defaults when the row is created.
        where: Update only if this is true of the stored row; otherwise it is left, and
            the action is SKIPPED.
        skip_unchanged: Leave a row that already holds every value; UNCHANGED.
        touch: Written on create, and on update only if another value really changes;
            implies *skip_unchanged*.
        returning: The columns of `Result.row`; ``"*"`` for all.
        without_unique_index: What to do when no unique index makes the key unique:
            warn once, raise an error, allow it, or lock (an advisory lock of
            PostgreSQL; SQLite needs none).
        strategy: ``"auto"`` chooses. ``"fast"`` is the single statement, refused where
            it cannot serve; ``"exact"`` the classic steps; ``"on_conflict"`` the
            native ``INSERT ... ON CONFLICT DO UPDATE``.
        timeout: Seconds after which no new attempt is made; None for no limit. It does
            not interrupt a statement: use ``asyncio.timeout`` for that.

    Returns:
        What happened, and the rows asked for.

    Raises:
        UsageError: The arguments are wrong; nothing was sent.
        UnknownTableError: No such table.
        UnknownColumnError: No such columns.
        UnsupportedConnectionError: *conn* is nothing this library can use.
        MissingUniqueIndexError: There is no unique index, and the call insisted.
        NotAppliedError: The database silently refused the row.
        RetriesExhaustedError: Transient errors lasted until *timeout*.
        SerializationConflictError: The caller's transaction must be repeated.

    References:
        PostgreSQL, "INSERT" and "Transaction Isolation"; SQLite, "Transaction".
    """
    target = Target(conn, table)
    shape, values = target.read(
        key=key,
        defaults=defaults,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        returning=returning,
        without_unique_index=without_unique_index,
        strategy=strategy,
    )
    do = _doing("create_or_update", target.name)
    result = await do(conn, write_call, target.name, shape, values, timeout)
    return result if target.model is None else await target.give(result, returning)


async def get_or_create(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    returning: Returning = "*",
    without_unique_index: WithoutUniqueIndex = "warn",
    strategy: Strategy = "auto",
    timeout: float | None = TIMEOUT,
) -> Result:
    """
    Return the row that has this key, untouched, or create it.

    A row that is there is only read: nothing is written, no row is locked, and no
    trigger fires. One round trip, as `create_or_update`. A second one creates a missing
    row in the caller's transaction on PostgreSQL, which a statement that could write
    must not abort if it is read-only; or when *defaults* has callables, since these are
    called only then.

    Args:
        conn: As for `create_or_update`.
        table: As for `create_or_update`.
        key: The columns that identify the row; None means IS NULL.
        defaults: What else the row is created with.
        returning: The columns of `Result.row`; every column by default.
        without_unique_index: As for `create_or_update`.
        strategy: As for `create_or_update`.
        timeout: As for `create_or_update`.

    Returns:
        The row; its action is CREATED or UNCHANGED.

    Raises:
        AioupsertError: As for `create_or_update`.
    """
    target = Target(conn, table)
    name = target.name

    def read(
        reads: Callable[..., tuple[Shape, list[Any]]], values: Values | None
    ) -> tuple[Shape, list[Any]]:
        return reads(
            key=key,
            defaults=None,
            create_defaults=values,
            where=None,
            skip_unchanged=False,
            touch=None,
            returning=returning,
            without_unique_index=without_unique_index,
            strategy=strategy,
        )

    async def get(session: Session) -> Result:
        late = any(callable(value) for value in (defaults or {}).values())
        # A transaction may be read-only, and a statement with an INSERT would abort it.
        if late or not session.can_repeat():
            # Names are checked as if every value were there.
            shape, values = read(target.look, dict.fromkeys(defaults or ()))
            found = await _execute(session, name, shape, values, timeout, attempt=_look)
            if found is not None:
                return found
        shape, values = read(target.read, defaults)
        return await write_call(session, name, shape, values, timeout)

    result = await _doing("get_or_create", name)(conn, get)
    return result if target.model is None else await target.give(result, returning)


async def preview(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    create_defaults: Values | None = None,
    where: Expression | None = None,
    skip_unchanged: bool = False,
    touch: Values | None = None,
    returning: Returning = None,
    without_unique_index: WithoutUniqueIndex = "warn",
    strategy: Strategy = "auto",
) -> tuple[Statement, ...]:
    """
    Show the statements that `create_or_update` would send, in order; write nothing.

    Transaction commands (SAVEPOINT, BEGIN) are left out. Only the catalog is read.

    Args:
        conn: As for `create_or_update`, and so on for every argument.
        table: The table.
        key: The columns that identify the row.
        defaults: What is written either way.
        create_defaults: What is added on create.
        where: The condition of an update.
        skip_unchanged: Whether to leave a row that already holds every value.
        touch: What is written when another value changes.
        returning: The columns to return.
        without_unique_index: What to do without a unique index.
        strategy: How the call would run.

    Returns:
        The statements with their arguments, each with the case in which it is sent.

    Raises:
        AioupsertError: As for `create_or_update`.
    """
    target = Target(conn, table)
    shape, values = target.read(
        key=key,
        defaults=defaults,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        returning=returning,
        without_unique_index=without_unique_index,
        strategy=strategy,
    )
    return await with_session(
        conn, _execute, target.name, shape, values, TIMEOUT, attempt=_show
    )


class Target:
    """
    The table of a call, by its name or as SQLAlchemy describes it.

    Attributes:
        name: Its name.
        model: What SQLAlchemy says of it, or None.
        read: Splits the arguments of a call into its shape and its values.
        look: The same for a call that does not write: no default is made for it.
    """

    __slots__ = ("_conn", "look", "model", "name", "read")

    def __init__(self, conn: object, table: object) -> None:
        """
        Look at what the caller gave.

        Raises:
            UsageError: It is no table.
        """
        self._conn = conn
        self.model: Model | None = model_of(conn, table)
        self.name: TableName = (
            table_name(table) if self.model is None else self.model.name
        )
        self.read: Callable[..., tuple[Shape, list[Any]]] = (
            read_call
            if self.model is None
            else partial(self._read, self.model, self.model.call)
        )
        self.look: Callable[..., tuple[Shape, list[Any]]] = (
            read_call
            if self.model is None
            else partial(self._read, self.model, self.model.look)
        )

    def _read(
        self, model: Model, translate: Callable[..., dict[str, Any]], **call: Any
    ) -> tuple[Shape, list[Any]]:
        model.wants_objects(self._conn, call["returning"])
        return read_call(**translate(**call))

    def read_bulk(self, **call: Any) -> BulkCall:
        """Check the arguments of a bulk call by themselves."""
        if self.model is not None:
            call = self.model.bulk_call(**call)
        return read_bulk_call(**call)

    async def give(self, result: Result, returning: object) -> Result:
        """Give a result in the terms of the model, which there is."""
        assert self.model is not None  # noqa: S101  # callers look
        if self.model.wants_objects(self._conn, returning):
            return await self.model.objects(self._conn, result)
        return self.model.result(result)


def _doing(operation: Operation, name: TableName) -> Callable[..., Awaitable[Result]]:
    """Give `with_session`, in the sight of the observers if there are any."""
    if not OBSERVERS:
        return with_session

    async def do(*call: Any) -> Result:
        with Watch(operation, name) as watch:
            result: Result = await with_session(*call)
            watch.count(result)
            return result

    return do


def write_call(
    session: Session,
    name: TableName,
    shape: Shape,
    values: list[Any],
    timeout: float | None,
) -> Awaitable[Result]:
    """Create or update one row."""
    return _execute(session, name, shape, values, timeout, attempt=_write)


async def _execute(
    session: Session,
    name: TableName,
    shape: Shape,
    values: list[Any],
    timeout: float | None,
    *,
    attempt: Callable[[Session, Any, list[Any], int, int], Awaitable[T | Lost]],
) -> T:
    """Make attempts until one succeeds, or nothing more can be expected of another."""
    deadline = Deadline(timeout)
    attempts = conflicts = 0
    refreshed = False
    while True:
        try:
            program = _ready(session, name, shape)
            if program is None:
                program = await _prepare(session, name, shape)
            _check_key(program, values)
            outcome = await attempt(session, program, values, attempts, conflicts)
        except TransientError as exc:
            deadline.check(exc.__cause__)
        except Exception as exc:
            # The error may come from a table that has changed since it was read; if it
            # has, the call is made again, once.
            if refreshed or not await is_stale(session, name, exc):
                raise
            refreshed = True
            continue
        else:
            if not isinstance(outcome, Lost):
                if attempts >= _USUAL:
                    _logger.warning("%s: %d attempts", ".".join(name), attempts + 1)
                return outcome
            conflicts += outcome.error is not None
            if attempts + 1 >= MAX_LOST or deadline.is_over():
                raise hopeless(name, outcome)
        attempts += 1
        await back_off(attempts)


def _ready(session: Session, name: TableName, shape: Shape) -> Any:
    """Give the statements of such a call, if there has been one."""
    known = session.state.fresh(name)
    return None if known is None else known.programs.get(shape)


async def _prepare(session: Session, name: TableName, shape: Shape) -> Any:
    """Check a call against its table, and write its statements."""
    known = await known_table(session, name)
    program = known.compile(shape, session.dialect)
    warn(session, program.plan.warning)
    known.keep(shape, program)
    return program


def _check_key(program: Any, values: list[Any]) -> None:
    """Refuse a key that would be stored as something else."""
    for slot, check in program.plan.checks:
        check(values[slot])


def warn(session: Session, warning: str | None) -> None:
    """Warn once per connection, at the line that called this library."""
    if warning is not None and warning not in session.state.warned:
        warnings.warn(warning, MissingUniqueIndexWarning, stacklevel=_caller())
        session.state.warned.add(warning)


def _caller() -> int:
    """Count the frames up to the first that is not of this package."""
    depth, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals["__name__"].startswith("aioupsert."):
        depth, frame = depth + 1, frame.f_back
    return depth


def _write(
    session: Session, program: Any, values: list[Any], attempts: int, conflicts: int
) -> Awaitable[Result | Lost]:
    return session.attempt(program, values, attempts, conflicts)


async def _look(
    session: Session, program: Any, values: list[Any], *_: int
) -> Result | None:
    return await session.run(lambda _: find(program, values))


async def _show(
    _session: Session, program: Any, values: list[Any], *_: int
) -> tuple[Statement, ...]:
    return tuple(
        Statement(s.sql, tuple(s.arguments(values)), s.when)
        for s in program.statements()
    )
