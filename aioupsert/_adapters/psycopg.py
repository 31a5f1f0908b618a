"""
psycopg 3: connections, whose row factory and adapters are left alone.

With autocommit off, as psycopg opens a connection unless told otherwise, a transaction
of the caller's begins with the first statement, whoever sends it: it is not ours to
commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Final, TypeVar

import psycopg
from psycopg.adapt import Dumper, PyFormat, Transformer
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from aioupsert._adapters.base import (
    Kind,
    State,
    TransientError,
    drive,
    finish,
    log,
    state_of,
)
from aioupsert._sql.quoting import quote
from aioupsert._sql.sending import Column, Rows, Send, Steps
from aioupsert._sql.sqlstates import READ_ONLY, ROW, STALE, TRANSIENT
from aioupsert._steps import POSTGRESQL, Dialect, Lost, read_result
from aioupsert.results import Result

T = TypeVar("T")

# How long a ROLLBACK of ours may take before the connection is given up, in seconds.
_UNDO_TIMEOUT: Final = 10.0


def sqlstate(error: BaseException) -> str:
    """Give the SQLSTATE of an error of the server, or an empty text."""
    return (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""


def is_retryable(error: BaseException) -> bool:
    """Tell whether repeating the whole transaction is right."""
    return sqlstate(error) in TRANSIENT


class PsycopgSession:
    """One psycopg connection, for the time of one call."""

    dialect: Dialect[Any, Any] = POSTGRESQL

    def __init__(self, connection: Any) -> None:
        """Use a connection."""
        self._connection: Any = connection
        self._libpq: Any = connection.pgconn
        self.state: State = state_of(connection)
        # A BEGIN of ours waits for the next statement, and goes with it. Not a SAVEPOINT:
        # to cancel a pipeline may cost the connection, and so the caller's transaction.
        self._waiting: list[str] = []

    async def run(self, steps: Callable[[bool], Steps[T]]) -> T:
        """Await one statement after the other."""
        async with self.state.turn, self._apart():
            inside = self.in_transaction()
            try:
                result = await drive(steps(inside), self._answer)
                await self._send_waiting()
            except psycopg.Error as exc:
                if not inside and is_retryable(exc):
                    raise TransientError from exc
                raise
            return result

    async def attempt(
        self, program: Any, values: list[Any], number: int, conflicts: int
    ) -> Result | Lost:
        """Await the single statement, or the steps."""
        single = program.single
        if number or single is None:
            steps = partial(self.dialect.attempt, program, values, conflicts)
            return await self.run(steps)
        log(single.sql)
        async with self.state.turn, self._apart():
            try:
                rows = await self._fetch(single.sql, single.arguments(values))
            except psycopg.Error as exc:
                if not self.in_transaction():
                    if is_retryable(exc):
                        raise TransientError from exc
                    if sqlstate(exc) == READ_ONLY:
                        return Lost()  # the steps may find that nothing is to write
                raise
        return read_result(program.plan, rows) if rows else Lost()

    def may_be_stale(self, error: Exception) -> bool:
        """Look at the SQLSTATE."""
        return not self._connection.closed and sqlstate(error).startswith(STALE)

    def in_transaction(self) -> bool:
        """Ask the driver, which knows without asking the database."""
        if self._connection.closed:
            return False
        return (
            not self._connection.autocommit
            or self._libpq.transaction_status != TransactionStatus.IDLE
        )

    def can_repeat(self) -> bool:
        """Tell whether there is no transaction that an error would have aborted."""
        return not self.in_transaction()

    def blames_row(self, error: Exception) -> bool:
        """Look at the SQLSTATE; what has none comes from making a row's arguments."""
        if self._connection.closed:
            return False
        if state := sqlstate(error):
            return state.startswith(ROW)
        lost = (psycopg.OperationalError, psycopg.InterfaceError, OSError)
        return not isinstance(error, lost)

    async def forget(self) -> None:
        """Have statements prepared afresh."""
        # The end of a transaction that has failed does the same.
        if self.can_repeat() and self._connection.prepare_threshold is not None:
            await self._connection.execute("DEALLOCATE ALL")

    def _apart(self) -> AbstractAsyncContextManager[Any]:
        """Keep our statements apart from others that the caller's pipeline has sent."""
        if not self._piped:
            return contextlib.nullcontext()
        # To enter a pipeline once more waits for what is under way; so does leaving it.
        pipeline: AbstractAsyncContextManager[Any] = self._connection.pipeline()
        return pipeline

    def _answer(self, send: Send) -> Awaitable[Rows]:
        log(send.sql)
        if send.kind == "command":
            return self._command(send.sql)
        if send.kind == "undo":
            return self._undo(send.sql)
        if send.kind == "copy":
            return self._copy(send.sql, send.arguments)
        return self._fetch(send.sql, send.arguments)

    async def _command(self, sql: str) -> Rows:
        if sql.startswith("BEGIN") and psycopg.AsyncPipeline.is_supported():
            self._waiting.append(sql)
            return ()
        await self._send_waiting()
        cursor = await self._connection.execute(sql)
        return [(cursor.statusmessage,)]

    async def _fetch(self, sql: str, arguments: Iterable[Any]) -> Rows:
        """Send a query; in the same round trip what has to go before it."""
        # A row factory of its own, and placeholders as PostgreSQL writes them.
        cursor: Any = psycopg.AsyncRawCursor(self._connection, row_factory=tuple_row)
        arguments = [*arguments]
        if any(type(argument) is Column for argument in arguments):
            cursor.adapters.register_dumper(Column, _ColumnDumper)
        if self._waiting or self._piped or self._begins():
            async with self._one_trip():
                await self._send_waiting()
                await cursor.execute(sql, arguments)
        else:
            await cursor.execute(sql, arguments)
        return await cursor.fetchall() if cursor.description else ()

    @asynccontextmanager
    async def _one_trip(self) -> AsyncGenerator[None]:
        """Send statements together, and wait for them all."""
        piped = self._piped
        try:
            async with self._connection.pipeline():
                yield
        finally:
            if self._piped and not piped:
                # Cancelled while psycopg was leaving it: no statement gets through now.
                self._libpq.finish()

    @property
    def _piped(self) -> bool:
        """Tell whether the caller has a pipeline open."""
        return bool(self._libpq.pipeline_status != PipelineStatus.OFF)

    def _begins(self) -> bool:
        """Tell whether the driver sends a BEGIN of its own before the next statement."""
        return (
            not self._connection.autocommit
            and self._libpq.transaction_status == TransactionStatus.IDLE
            and psycopg.AsyncPipeline.is_supported()
        )

    async def _send_waiting(self) -> None:
        """Send what was waiting for another statement."""
        waiting, self._waiting = self._waiting, []
        for opening in waiting:
            await self._connection.execute(opening)

    async def _copy(self, table: str, rows: Iterable[Any]) -> Rows:
        """Copy rows to a temporary table."""
        await self._send_waiting()
        cursor = psycopg.AsyncRawCursor(self._connection)
        sql = f"COPY pg_temp.{quote(table)} FROM STDIN".encode()
        async with cursor.copy(sql) as copy:
            for row in rows:
                await copy.write_row(row)
        return ()

    async def _undo(self, sql: str) -> Rows:
        """Send a ROLLBACK to its end, however often we are cancelled meanwhile."""
        task = asyncio.ensure_future(self._undo_in_time(sql))
        try:
            await finish(task)
        finally:
            if sql == "ROLLBACK" and (task.cancelled() or task.exception()):
                # Better no connection than one with our transaction open in it.
                self._libpq.finish()
        return ()

    async def _undo_in_time(self, sql: str) -> None:
        async with asyncio.timeout(_UNDO_TIMEOUT):
            await self._send_waiting()
            if self._libpq.transaction_status != TransactionStatus.IDLE:
                await self._connection.execute(sql)


class _ColumnDumper(Dumper):
    """
    Writes an array of which the statement says the type.

    Every element is written by itself: psycopg's own way wants them to be of one class.
    """

    def __init__(self, cls: type, context: Any = None) -> None:
        super().__init__(cls, context)
        self._transformer = Transformer.from_context(context)

    def dump(self, obj: Any) -> bytes:
        return b"{%b}" % b",".join(map(self._element, obj))

    def _element(self, value: Any) -> bytes:
        if value is None:
            return b"NULL"
        written = self._transformer.get_dumper(value, PyFormat.TEXT).dump(value)
        if written is None:
            return b"NULL"
        text = bytes(written).replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        return b'"%b"' % text


@asynccontextmanager
async def in_autocommit(connection: Any) -> AsyncGenerator[None]:
    """Have a connection begin no transaction by itself, for a time."""
    if connection.autocommit:
        yield
        return
    await connection.set_autocommit(True)
    try:
        yield
    finally:
        if not connection.closed:
            await connection.set_autocommit(False)


@asynccontextmanager
async def borrow(pool: Any) -> AsyncGenerator[Any]:
    """Lend a connection of a pool."""
    async with pool.connection() as connection, in_autocommit(connection):
        yield connection


KINDS: Final = (Kind(psycopg.AsyncConnection, PsycopgSession),)
