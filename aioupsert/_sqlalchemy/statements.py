"""
Statements on a connection of SQLAlchemy's, as SQLAlchemy itself would have sent them.

They go over the driver's session, which knows how to send a call in one round trip or
one job. SQLAlchemy's part is done here: its events and its log see every statement,
errors are raised as its own, with the driver's as `orig`, and it is remembered whether
the connection was lost.

On SQLite all statements of a call are one job on the connection's thread, so events are
dispatched there, in a copy of the caller's context.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeVar, cast

from sqlalchemy.engine.base import ExceptionContextImpl
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.sql import util as sql_util

from aioupsert._drivers.base import (
    ConnectionSession,
    Handle,
    ReadOnlyError,
    TransientError,
)
from aioupsert._engines.commands import Command
from aioupsert.errors import AioupsertError

if TYPE_CHECKING:
    from aioupsert._drivers.base import Session
    from aioupsert._engines.base import Engine, Fault
    from aioupsert._engines.commands import ResultRows, Steps
    from aioupsert._engines.sql import ParameterValues

T = TypeVar("T")

# An error of a statement may be raised later than it occurs, after a few others.
_REMEMBERED: Final = 8


class _Cursor:
    """What listeners get as the cursor: the statement has none of SQLAlchemy's."""

    connection = None
    description = None
    rowcount = -1

    def close(self) -> None:
        """Do nothing."""


@cache
def _context_class(cls: Any) -> Any:
    """Return a class of execution contexts which open no cursor."""
    return type(cls.__name__, (cls,), {"create_cursor": _create_cursor})


def _create_cursor(_: object) -> _Cursor:
    return _Cursor()


class _Statement(NamedTuple):
    """
    A statement that is sent.

    Attributes:
        sql: Its text.
        parameters: Its values, or a list of such for each time that it runs.
        context: What listeners know it by.
    """

    sql: str
    parameters: Any
    context: Any


class _Failure(NamedTuple):
    """
    A statement that failed.

    Attributes:
        error: The driver's error.
        raised: The error to raise in its place.
    """

    error: Exception
    raised: Exception


class SQLAlchemySession(ConnectionSession):
    """
    One connection of SQLAlchemy's, for the time of one call.

    Attributes:
        state: What is remembered about the driver's connection.
        lost: The error that came with the loss of the connection, if it was lost.
        lost_all: Whether the other connections of the pool are lost as well.
    """

    __slots__ = ("_adapted", "_driver", "_failures", "lost", "lost_all")

    def __init__(self, connection: Handle, adapted: Handle, driver: Session) -> None:
        """
        Use a connection.

        Args:
            connection: SQLAlchemy's, the synchronous one.
            adapted: SQLAlchemy's adapter of the driver's connection.
            driver: A session on the driver's connection.
        """
        self.lost: BaseException | None = None
        self.lost_all = False
        self.state = driver.state
        self._connection = connection
        self._adapted: Any = adapted
        self._driver = driver
        self._failures: deque[_Failure] = deque(maxlen=_REMEMBERED)

    @property
    def engine(self) -> Engine:
        """The engine of the driver's session."""
        return self._driver.engine

    async def run(self, steps: Steps[T]) -> T:
        """Run steps, of which SQLAlchemy sees every statement."""
        call: Callable[..., Any] = _call
        if self._connection.dialect.name == "sqlite" and self._is_watched():
            call = contextvars.copy_context().run
        try:
            return await self._driver.run(self._watched(steps, call))
        except Exception as exc:  # noqa: BLE001  # raised as SQLAlchemy's
            self.raise_as_host(exc)

    async def fetch(
        self, sql: str, arguments: ParameterValues, caller_columns: int
    ) -> ResultRows:
        """Send one statement by itself."""
        statement = None
        if self._is_watched():
            statement = self._begin(sql, tuple(arguments), is_many=False)
            sql, arguments = statement.sql, statement.parameters
        try:
            rows = await self._driver.fetch(sql, arguments, caller_columns)
        except Exception as exc:  # noqa: BLE001  # raised as SQLAlchemy's
            error = exc
            if isinstance(exc, (TransientError, ReadOnlyError)):
                error = cast("Exception", exc.__cause__)
            self._fail(error, statement, sql, tuple(arguments), is_many=False)
            self.raise_as_host(exc)
        if statement is not None:
            self._end(statement, rows)
        return rows

    def in_transaction(self) -> bool:
        """Ask the driver's session."""
        return self._driver.in_transaction()

    def can_repeat(self, error: Exception | None = None, /) -> bool:
        """Ask the driver's session, of its own error."""
        return self._driver.can_repeat(error and self._driver_s(error))

    def may_be_stale(self, error: Exception) -> bool:
        """Ask the driver's session, of its own error."""
        return self._driver.may_be_stale(self._driver_s(error))

    def fault_of(self, error: Exception) -> Fault:
        """Ask the driver's session, of its own error."""
        return self._driver.fault_of(self._driver_s(error))

    async def forget(self) -> None:
        """Have the driver forget."""
        await self._driver.forget()

    def terminate(self) -> None:
        """Have the driver close the connection; the pool is told when the call ends."""
        self._driver.terminate()

    def raise_as_host(self, error: Exception) -> NoReturn:
        """Raise an error as SQLAlchemy would."""
        raise self.as_host(error)

    def as_host(self, error: Exception) -> Exception:
        """
        Return SQLAlchemy's error for one of the driver's.

        Any other is returned as it is, but caused by SQLAlchemy's.
        """
        if isinstance(error, (TransientError, ReadOnlyError, AioupsertError)):
            cause = error.__cause__
            if isinstance(cause, Exception):
                error.__cause__ = self._host_s(cause)
            return error
        raised = self._host_s(error)
        if raised is not error:
            for note in getattr(error, "__notes__", ()):
                raised.add_note(note)
        return raised

    def _host_s(self, error: Exception) -> Exception:
        """Return the error of SQLAlchemy's for one of the driver's."""
        for failure in self._failures:
            if error is failure.error or error is failure.raised:
                return failure.raised
        if isinstance(error, StatementError) or not self._is_of_driver(error):
            return error
        return self._fail(error, None, None, None, is_many=False)

    def _driver_s(self, error: Exception) -> Exception:
        """Return the driver's error that one of SQLAlchemy's, or a listener's, is for."""
        for failure in self._failures:
            if failure.raised is error:
                return failure.error
        return error

    def _is_of_driver(self, error: Exception) -> bool:
        return isinstance(self._as_dbapi(error), self._dbapi_error())

    def _dbapi_error(self) -> Any:
        dialect = self._connection.dialect
        return getattr(dialect, "loaded_dbapi", dialect.dbapi).Error

    def _as_dbapi(self, error: Exception) -> Exception:
        """Return the error as SQLAlchemy's adapter of the driver raises it."""
        # Before SQLAlchemy 2.1, that of psycopg raises errors as they are.
        handle: Handle = getattr(self._adapted, "_handle_exception", None)
        return error if handle is None else _raised_by(handle, error)

    # --- What SQLAlchemy does around a statement --------------------------------------

    def _is_watched(self) -> bool:
        """Return whether anything is to see the statements."""
        connection = self._connection
        return bool(
            connection._has_events  # noqa: SLF001  # as `Connection` looks itself
            or connection.engine._has_events  # noqa: SLF001  # likewise
            or connection._echo  # noqa: SLF001  # likewise
        )

    def _watched(self, steps: Steps[T], call: Callable[..., Any]) -> Steps[T]:
        """Pass commands on, and answers back."""
        is_watched = self._is_watched()
        try:
            command = next(steps)
            while True:
                if command.kind in {"transaction", "marks"}:
                    command = steps.send((yield command))
                    continue
                try:
                    rows = yield from self._answer(command, call, is_watched=is_watched)
                except BaseException as exc:  # noqa: BLE001  # the steps raise it again
                    command = steps.throw(exc)
                else:
                    command = steps.send(rows)
        except StopIteration as stop:
            value: T = stop.value
            return value

    def _answer(
        self, command: Command, call: Callable[..., Any], *, is_watched: bool
    ) -> Steps[ResultRows]:
        """Send a command; show it, and what became of it."""
        if is_watched and command.kind == "each":
            marks: list[Any] = []
            statements: Any = command.arguments
            for sql, values in statements:
                one = Command(sql, (values,), kind="repeat")
                marks += yield from self._answer(one, call, is_watched=True)
            return marks
        statement = None
        if is_watched:
            command, statement = call(self._begin_command, command)
        try:
            rows = yield command
        except Exception as exc:
            call(self._fail_command, exc, statement, command)
            raise
        if statement is not None:
            call(self._end, statement, rows)
        return rows

    def _begin_command(self, command: Command) -> tuple[Command, _Statement | None]:
        """Show a command to SQLAlchemy; return it as listeners have changed it."""
        if command.kind == "identity":
            return command, None  # as every call asks it
        if command.kind == "copy":
            return command, self._begin(_copy_of(command), (), is_many=False)
        if command.kind == "repeat":
            rows = [tuple(row) for row in command.arguments]
            statement = self._begin(command.sql, rows, is_many=True)
        else:
            values = tuple(command.arguments)
            statement = self._begin(command.sql, values, is_many=False)
        sql, parameters, _ = statement
        return command._replace(sql=sql, arguments=parameters), statement

    def _fail_command(
        self, error: Exception, statement: _Statement | None, command: Command
    ) -> None:
        if command.kind in {"identity", "each"}:
            self._fail(error, None, None, None, is_many=False)
        elif command.kind in {"copy", "repeat"}:
            # Its rows may have been read.
            is_copy = command.kind == "copy"
            sql = _copy_of(command) if is_copy else command.sql
            self._fail(error, statement, sql, (), is_many=False)
        else:
            values = tuple(command.arguments)
            self._fail(error, statement, command.sql, values, is_many=False)

    def _statement(self, sql: str, parameters: Any, *, is_many: bool) -> _Statement:
        connection = self._connection
        dialect = connection.dialect
        context = _context_class(dialect.execution_ctx_cls)._init_statement(  # noqa: SLF001  # as `exec_driver_sql` makes it
            dialect,
            connection,
            connection._dbapi_connection,  # noqa: SLF001  # likewise
            connection.get_execution_options(),
            sql,
            parameters if is_many else [parameters],
        )
        return _Statement(sql, parameters, context)

    def _begin(self, sql: str, parameters: Any, *, is_many: bool) -> _Statement:
        """Show a statement that is about to be sent."""
        connection = self._connection
        _, _, context = self._statement(sql, parameters, is_many=is_many)
        for listener in connection.dispatch.before_cursor_execute:
            sql, parameters = listener(
                connection, context.cursor, sql, parameters, context, is_many
            )
        if connection._echo:  # noqa: SLF001  # as `Connection` does itself
            self._log(sql, parameters, is_many=is_many)
        return _Statement(sql, parameters, context)

    def _log(self, sql: str, parameters: Any, *, is_many: bool) -> None:
        log = self._connection._log_info  # noqa: SLF001  # as `Connection` does itself
        log(sql)
        if self._connection.engine.hide_parameters:
            log("[raw sql] [SQL parameters hidden due to hide_parameters=True]")
        else:
            shown: Any = sql_util
            log("[raw sql] %r", shown._repr_params(parameters, 10, ismulti=is_many))  # noqa: SLF001  # likewise

    def _end(self, statement: _Statement, rows: ResultRows) -> None:
        """Show a statement that has been answered."""
        sql, parameters, context = statement
        context.cursor.rowcount = len(rows)
        connection = self._connection
        connection.dispatch.after_cursor_execute(
            connection, context.cursor, sql, parameters, context, context.executemany
        )

    def _fail(
        self,
        error: Exception,
        statement: _Statement | None,
        sql: str | None,
        parameters: Any,
        *,
        is_many: bool,
    ) -> Exception:
        """Show a statement that has failed; return the error to raise for it."""
        connection = self._connection
        dialect = connection.dialect
        adapted = self._as_dbapi(error)
        is_of_driver = isinstance(adapted, self._dbapi_error())
        # Of a connection that is closed an adapter would say so.
        is_lost = bool(
            is_of_driver
            and not connection.closed
            and dialect.is_disconnect(adapted, self._adapted, None)
        )
        wrapped: Any = None
        if is_of_driver:
            wrapped = DBAPIError.instance(
                sql,
                parameters,
                adapted,
                self._dbapi_error(),
                hide_parameters=connection.engine.hide_parameters,
                connection_invalidated=is_lost,
                dialect=dialect,
                ismulti=is_many,
            )
        invalidates_pool = True
        raised: Exception = error if wrapped is None else wrapped
        if dialect._has_events and not connection.get_execution_options().get(  # noqa: SLF001  # as `Connection` does itself
            "skip_user_error_events", False
        ):
            if statement is None and sql is not None:
                statement = self._statement(sql, parameters, is_many=is_many)
            context = ExceptionContextImpl(
                adapted,
                wrapped,
                connection.engine,
                dialect,
                connection,
                None if statement is None else statement.context.cursor,
                sql,
                parameters,
                None if statement is None else statement.context,
                is_lost,
                invalidates_pool,
                False,  # noqa: FBT003  # is_pre_ping, by position in every version
            )
            raised = _handled(dialect, context, raised)
            is_lost = context.is_disconnect
            invalidates_pool = context.invalidate_pool_on_disconnect
            if wrapped is not None:
                wrapped.connection_invalidated = is_lost
        if raised is not error:
            raised.__cause__ = adapted
        if is_lost:
            self.lost = adapted
            self.lost_all = self.lost_all or invalidates_pool
        self._failures.append(_Failure(error, raised))
        return raised


def _raised_by(handle: Callable[[Exception], object], error: Exception) -> Exception:
    raised = error
    try:
        handle(error)
    except Exception as exc:  # noqa: BLE001  # it is what is asked for
        raised = exc
    return raised


def _handled(dialect: Any, context: Any, error: Exception) -> Exception:
    """Let listeners handle an error; return it, or the one to raise in its place."""
    for listener in dialect.dispatch.handle_error:
        try:
            chosen = listener(context)
        except Exception as exc:  # noqa: BLE001  # what it raises is raised
            return exc
        if chosen is not None:
            context.chained_exception = error = chosen
    return error


def _copy_of(command: Command) -> str:
    return f"COPY pg_temp.{command.sql} FROM STDIN"


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)
