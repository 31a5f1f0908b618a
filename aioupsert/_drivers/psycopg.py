"""
psycopg 3: connections, whose row factory and adapters are left alone.

With autocommit off, as psycopg opens a connection unless told otherwise, a transaction
of the caller's begins with the first statement, whoever sends it: it is not ours to
commit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, NamedTuple, Self, TypeVar

import psycopg
from psycopg.adapt import AdaptersMap, Dumper, PyFormat, Transformer
from psycopg.pq import Format, PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from aioupsert._drivers.base import (
    STATES,
    ConnectionKind,
    ConnectionState,
    ReadOnlyError,
    TransientError,
    drive,
    finish,
    log,
    state_of,
)
from aioupsert._engines.base import (
    ArrayArgument,
    CannotCopyError,
    Command,
    Engine,
    Fault,
    ResultRows,
    Steps,
)
from aioupsert._engines.postgresql import engine_of
from aioupsert._engines.postgresql.sqlstates import (
    READ_ONLY,
    STALE,
    TRANSIENT,
    fault_by_sqlstate,
)
from aioupsert._engines.sql import quote

T = TypeVar("T")

# How long a ROLLBACK of ours may take before the connection is given up, in seconds.
_ROLLBACK_TIMEOUT: Final = 10.0
# After how long a statement that goes on is cancelled once more.
_CANCEL_AGAIN: Final = 0.2
_OPENING: Final = ("BEGIN", "SAVEPOINT")
# A value that does not fit the type that the statement casts it to, which may be the
# type that the column had: invalid_text_representation and its like,
# numeric_value_out_of_range, invalid_datetime_format, datetime_field_overflow.
_MISFIT: Final = ("22P0", "22003", "22007", "22008")


def sqlstate(error: BaseException) -> str:
    """Give the SQLSTATE of an error of the server, or an empty text."""
    return (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""


def is_retryable(error: BaseException) -> bool:
    """Tell whether repeating the whole transaction is right."""
    return sqlstate(error) in TRANSIENT


_YES: Final[ResultRows] = ((True,),)


class PsycopgSession:
    """One psycopg connection, for the time of one call."""

    __slots__ = ("_connection", "_libpq", "_waiting", "state")

    def __init__(self, connection: Any) -> None:
        """Use a connection."""
        self._connection: Any = connection
        self._libpq: Any = connection.pgconn
        self.state: ConnectionState = STATES.get(connection) or state_of(connection)
        # Commands that open something wait for the next one, and are sent with it.
        self._waiting: list[str] = []

    async def __aenter__(self) -> Self:
        """Return the session."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""

    @property
    def engine(self) -> Engine:
        """Look at what the server reported when it was connected."""
        connection = self._connection
        reported = None if connection.closed else connection.info
        return engine_of(reported and reported.parameter_status("crdb_version"))

    async def run(self, steps: Steps[T]) -> T:
        """Await one command after the other."""
        async with self.state.lock, self._apart():
            inside = self.in_transaction()
            try:
                result = await drive(steps, self._answer)
                await self._uninterrupted(self._send_waiting())
            except psycopg.Error as exc:
                if not inside and is_retryable(exc):
                    raise TransientError from exc
                raise
            return result

    async def fetch(
        self, sql: str, arguments: Sequence[Any], caller_columns: int
    ) -> ResultRows:
        """Await one statement by itself."""
        log(sql)
        async with self.state.lock, self._apart():
            try:
                return await self._fetch(sql, arguments, caller_columns)
            except psycopg.Error as exc:
                if not self.in_transaction():
                    if is_retryable(exc):
                        raise TransientError from exc
                    if sqlstate(exc) == READ_ONLY:
                        raise ReadOnlyError from exc
                raise

    def may_be_stale(self, error: Exception) -> bool:
        """Look at the SQLSTATE."""
        state = sqlstate(error)
        return not self._connection.closed and state.startswith((*STALE, *_MISFIT))

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

    def fault_of(self, error: Exception) -> Fault:
        """Look at the SQLSTATE; an error without one comes from encoding a row's values."""
        if self._connection.closed:
            return "connection"
        if state := sqlstate(error):
            return fault_by_sqlstate(state)
        lost = (psycopg.OperationalError, psycopg.InterfaceError, OSError)
        return "connection" if isinstance(error, lost) else "row"

    async def forget(self) -> None:
        """Have statements prepared afresh."""
        # A ROLLBACK has psycopg do so, and so does the end of a transaction that has
        # failed. A pipeline takes one statement at a time.
        if (
            self.can_repeat()
            and self._connection.prepare_threshold is not None
            and not self._piped
        ):
            await self._connection.execute("BEGIN; ROLLBACK", prepare=False)

    def _apart(self) -> AbstractAsyncContextManager[Any]:
        """Keep our statements apart from others that the caller's pipeline has sent."""
        if not self._piped:
            return contextlib.nullcontext()
        # To enter a pipeline once more waits for what is under way; so does leaving it.
        pipeline: AbstractAsyncContextManager[Any] = self._connection.pipeline()
        return pipeline

    async def _answer(self, command: Command) -> ResultRows:
        kind, sql = command.kind, command.sql
        if kind == "transaction":
            return _YES if self.in_transaction() else ()
        log(sql)
        if kind == "command":
            return await self._command(sql)
        if kind == "rollback":
            await self._roll_back(sql)
            return ()
        if kind == "copy":
            await self._copy(sql, command.arguments)
            return ()
        return await self._fetch(sql, command.arguments, command.caller_columns)

    async def _command(self, sql: str) -> ResultRows:
        if sql.startswith(_OPENING) and psycopg.AsyncPipeline.is_supported():
            self._waiting.append(sql)
            return ()
        cursor = await self._execute(sql, prepare=False)
        return [(cursor.statusmessage,)]

    async def _execute(
        self, sql: str, arguments: Sequence[Any] = (), *, prepare: bool | None = None
    ) -> Any:
        """Send a statement; in the same round trip what has to go before it."""
        # A row factory of its own, and placeholders as PostgreSQL writes them.
        cursor: Any = psycopg.AsyncRawCursor(self._connection, row_factory=tuple_row)
        if any(type(argument) is ArrayArgument for argument in arguments):
            cursor.adapters.register_dumper(ArrayArgument, _ArrayDumper)
        if self._waiting or self._piped or self._begins():
            work = self._execute_together(cursor, sql, arguments, prepare=prepare)
        else:
            work = cursor.execute(sql, arguments, prepare=prepare)
        await self._uninterrupted(work)
        return cursor

    async def _execute_together(
        self, cursor: Any, sql: str, arguments: Sequence[Any], *, prepare: bool | None
    ) -> None:
        async with self._connection.pipeline() as pipeline:
            if self._begins():
                # psycopg would wait for the answer to its own.
                self._libpq.send_query_params(_begin(self._connection), None)
                pipeline.result_queue.append(None)
            await self._send_waiting()
            await cursor.execute(sql, arguments, prepare=prepare)

    async def _uninterrupted(self, work: Coroutine[Any, Any, None]) -> None:
        """Let work come to its end, which a cancellation of ours hastens."""
        # psycopg cannot leave a pipeline or a COPY in which it was cancelled, and gives
        # up the connection when it is cancelled again.
        task = asyncio.ensure_future(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await finish(asyncio.ensure_future(self._stop(task)))
            raise

    async def _stop(self, task: asyncio.Task[Any]) -> None:
        """Have the server cancel what a task waits for, again where that was too soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ROLLBACK_TIMEOUT):
                while not task.done():
                    with contextlib.suppress(psycopg.Error):
                        await self._connection.cancel_safe(timeout=_ROLLBACK_TIMEOUT)
                    await asyncio.wait({task}, timeout=_CANCEL_AGAIN)
        if not task.done():
            self._libpq.finish()
            task.cancel()
        await asyncio.wait({task})
        _ = task.cancelled() or task.exception()

    async def _fetch(
        self, sql: str, arguments: Iterable[Any], caller_columns: int
    ) -> ResultRows:
        cursor = await self._execute(sql, [*arguments])
        if _reads_plainly(self._connection.adapters):
            rows: ResultRows = await cursor.fetchall()
            return rows
        return self._read(cursor.pgresult, caller_columns)

    def _read(self, result: Any, caller_columns: int) -> ResultRows:
        """Read what the caller asked for as the caller does, the rest as psycopg does."""
        ours = Transformer.from_context(_Context(_ADAPTERS, self._connection))
        theirs = Transformer.from_context(self._connection)
        first = result.nfields - caller_columns
        loaders = [
            (ours if n < first else theirs).get_loader(result.ftype(n), Format.TEXT)
            for n in range(result.nfields)
        ]
        return [
            [
                None
                if (data := result.get_value(row, n)) is None
                else loader.load(data)
                for n, loader in enumerate(loaders)
            ]
            for row in range(result.ntuples)
        ]

    @property
    def _piped(self) -> bool:
        """Tell whether the connection is in pipeline mode."""
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
            # Its name is new each time.
            await self._connection.execute(opening, prepare=False)

    async def _copy(self, table: str, rows: Iterable[Any]) -> None:
        """Copy rows to a temporary table."""
        if self._piped:
            raise CannotCopyError  # psycopg refuses it
        await self._uninterrupted(self._send_waiting())
        sql = f"COPY pg_temp.{quote(table)} FROM STDIN"
        await self._uninterrupted(self._copy_all(sql, rows))

    async def _copy_all(self, sql: str, rows: Iterable[Any]) -> None:
        cursor = psycopg.AsyncRawCursor(self._connection)
        async with cursor.copy(sql.encode()) as copy:
            for row in rows:
                await copy.write_row(row)

    async def _roll_back(self, sql: str) -> None:
        """Send a ROLLBACK to its end, however often we are cancelled meanwhile."""
        task = asyncio.ensure_future(self._roll_back_in_time(sql))
        try:
            await finish(task)
        finally:
            failed = task.cancelled() or task.exception() is not None
            if failed and sql == "ROLLBACK":
                # Better no connection than one with our transaction open in it.
                self._libpq.finish()

    async def _roll_back_in_time(self, sql: str) -> None:
        async with asyncio.timeout(_ROLLBACK_TIMEOUT):
            await self._send_waiting()
            if self._libpq.transaction_status != TransactionStatus.IDLE:
                # A pipeline takes one statement at a time.
                for part in sql.split("; ") if self._piped else [sql]:
                    await self._execute(part, prepare=False)


def _begin(connection: Any) -> bytes:
    """Write the BEGIN that psycopg sends of itself."""
    words = ["BEGIN"]
    if (level := connection.isolation_level) is not None:
        name = psycopg.IsolationLevel(level).name.replace("_", " ")
        words.append(f"ISOLATION LEVEL {name}")
    if (read_only := connection.read_only) is not None:
        words.append("READ ONLY" if read_only else "READ WRITE")
    if (deferrable := connection.deferrable) is not None:
        words.append("DEFERRABLE" if deferrable else "NOT DEFERRABLE")
    return " ".join(words).encode()


class _Context(NamedTuple):
    """Where a `Transformer` finds how to read and write."""

    adapters: AdaptersMap
    connection: Any


# As psycopg has them, whatever the caller has set for the process or the connection.
_ADAPTERS: Final = AdaptersMap(types=psycopg.postgres.types)
psycopg.postgres.register_default_adapters(_Context(_ADAPTERS, None))
psycopg.postgres.types["int8"].register(_Context(_ADAPTERS, None))  # its arrays
# The types of what answers the library: any other, bool, int8, int4, text, int8[],
# cstring.
_TYPES: Final = (0, 16, 20, 23, 25, 1016, 2275)


def _reads_plainly(adapters: AdaptersMap) -> bool:
    """Tell whether the caller reads those types as psycopg does."""
    return all(
        adapters.get_loader(oid, Format.TEXT) is _ADAPTERS.get_loader(oid, Format.TEXT)
        for oid in _TYPES
    )


class _ArrayDumper(Dumper):
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
    try:
        await connection.set_autocommit(True)
        yield
    finally:
        if not connection.closed:
            await connection.set_autocommit(False)


@asynccontextmanager
async def acquire(pool: Any) -> AsyncGenerator[Any]:
    """Lend a connection of a pool."""
    async with pool.connection() as connection, in_autocommit(connection):
        yield connection


KINDS: Final = (ConnectionKind(psycopg.AsyncConnection, PsycopgSession),)
