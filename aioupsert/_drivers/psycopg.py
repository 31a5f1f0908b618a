"""
psycopg 3: connections, whose row factory and adapters are not used or changed.

With autocommit off, which is psycopg's default, the first statement begins a transaction,
whether the caller or this library sends it. It is the caller's to commit.

BEGIN and SAVEPOINT are sent in psycopg's pipeline mode, together with the next statement,
which saves a round trip for each.

A cancelled call has the server cancel the statement, and then waits for its end. psycopg
does so too, but closes the connection when it is cancelled again, as it is by anyio, and
waits longer than a caller should. So this module waits for the socket itself, on behalf of
psycopg's generators, which go on in a task of their own once the caller is cancelled. What
psycopg does in several steps, as it leaves a pipeline or a COPY, runs in a task from the
beginning.

References:
    psycopg, "Transactions management", "Pipeline mode support".
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from logging import DEBUG
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    LiteralString,
    NamedTuple,
    TypeAlias,
    TypeVar,
)

import psycopg
from psycopg.adapt import AdaptersMap, Dumper, PyFormat, Transformer
from psycopg.pq import ExecStatus, Format, PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row
from psycopg.types.string import StrDumper
from psycopg.waiting import Ready, Wait

from aioupsert._drivers.base import (
    LOGGER,
    STATES,
    ConnectionKind,
    TransientError,
    drive,
    finish,
    log,
    state_of,
)
from aioupsert._drivers.postgresql import ROLLBACK_TIMEOUT, PostgresqlSession
from aioupsert._engines.commands import ArrayArgument, CannotCopyError, NameArgument
from aioupsert._engines.postgresql import engine_of
from aioupsert._engines.postgresql.sqlstates import STALE, TRANSIENT, fault_by_sqlstate
from aioupsert._engines.sql import ParameterValues, quote
from aioupsert._plan import CopiedRows
from aioupsert.typing import Value

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, PQGen, Query
    from psycopg.pq.abc import PGconn, PGresult
    from psycopg_pool import AsyncConnectionPool

    from aioupsert._engines.base import Engine, Fault
    from aioupsert._engines.commands import ResultRows, Steps

T = TypeVar("T")
_Connection: TypeAlias = psycopg.AsyncConnection[object]

# Attributes of enumerations, which take longer to look up.
_TEXT: Final = Format.TEXT
_READ: Final = Wait.R
_WRITE: Final = Wait.W
_TUPLES_OK: Final = ExecStatus.TUPLES_OK
_NO_PIPELINE: Final = PipelineStatus.OFF
# The seconds after which a generator looks whether its socket is still open.
_LOOK_AGAIN: Final = 0.1

# The seconds after which a statement that still runs is cancelled again.
_CANCEL_AGAIN: Final = 0.2
_OPENING: Final = ("BEGIN", "SAVEPOINT")
# A value does not fit the type that the statement casts it to, which may be the type
# that the column had before: invalid_text_representation and similar ones,
# numeric_value_out_of_range, invalid_datetime_format, datetime_field_overflow.
_MISFIT: Final = ("22P0", "22003", "22007", "22008")


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of a server's error, or an empty string."""
    return (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""


def is_retryable(error: BaseException) -> bool:
    """Return whether repeating the whole transaction is right after an error."""
    return sqlstate(error) in TRANSIENT


class _Cursor(psycopg.AsyncRawCursor[tuple[Value, ...]]):
    """A cursor whose statement can be waited for in another way than psycopg's."""

    def steps(
        self, query: Query, arguments: ParameterValues, *, prepare: bool | None
    ) -> PQGen[None]:
        """Return the generator that executes a statement, as `execute` runs it."""
        return self._execute_gen(query, arguments, prepare=prepare)

    def rows(self, number: int) -> list[tuple[Value, ...]]:
        """Return so many rows; `fetchall` takes three coroutines, and never waits here."""
        return self._tx.load_rows(0, number, self._make_row)


async def _run(steps: PQGen[None], libpq: PGconn) -> None:
    """Run a generator of psycopg's, which can go on if this is cancelled."""
    loop = asyncio.get_running_loop()
    # First, as a lost connection raises a clear error here.
    socket = libpq.socket
    try:
        awaited = next(steps)
        while True:
            waiter: asyncio.Future[Ready] = loop.create_future()
            # A socket that is closed meanwhile makes no event.
            timer = loop.call_later(_LOOK_AGAIN, _wake, waiter, Ready.NONE)
            if awaited & _READ:
                loop.add_reader(socket, _wake, waiter, Ready.R)
            if awaited & _WRITE:
                loop.add_writer(socket, _wake, waiter, Ready.W)
            try:
                ready = await waiter
            finally:
                timer.cancel()
                if awaited & _READ:
                    loop.remove_reader(socket)
                if awaited & _WRITE:
                    loop.remove_writer(socket)
            awaited = steps.send(ready)
    except StopIteration:
        return
    except OSError as exc:
        msg = "connection socket closed"
        raise psycopg.OperationalError(msg) from exc


def _wake(waiter: asyncio.Future[Ready], ready: Ready) -> None:
    if not waiter.done():
        waiter.set_result(ready)


class PsycopgSession(PostgresqlSession):
    """One psycopg connection, for the time of one call."""

    __slots__ = ("_libpq", "_waiting")

    def __init__(self, connection: _Connection) -> None:
        """Use a connection."""
        self._connection = connection
        self.state = STATES.get(id(connection)) or state_of(connection)
        self._libpq = connection.pgconn
        # The BEGIN or SAVEPOINT that is sent together with the next statement.
        self._waiting: list[str] = []

    @property
    def engine(self) -> Engine:
        """The engine, by what the server reported when the client connected."""
        connection = self._connection
        reported = None if connection.closed else connection.info
        return engine_of(reported and reported.parameter_status("crdb_version"))

    async def run(self, steps: Steps[T]) -> T:
        """Await one command after the other."""
        async with self.state.lock, self._own_pipeline():
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
        self, sql: str, arguments: ParameterValues, caller_columns: int
    ) -> ResultRows:
        """Await a single statement."""
        if LOGGER.isEnabledFor(DEBUG):
            log(sql)
        lock = self.state.lock
        if not lock.take():  # not "async with", which costs more on every call
            await lock.acquire()
        try:
            if not self._in_pipeline:
                return await self._fetch_alone(sql, arguments, caller_columns)
            async with self._own_pipeline():
                return await self._fetch_alone(sql, arguments, caller_columns)
        finally:
            lock.release()

    async def _fetch_alone(
        self, sql: str, arguments: ParameterValues, caller_columns: int
    ) -> ResultRows:
        try:
            cursor = await self._execute(sql, arguments)
            return self._rows(cursor, caller_columns)
        except psycopg.Error as exc:
            self._raise_internal(exc, sqlstate(exc))
            raise

    def may_be_stale(self, error: Exception) -> bool:
        """Decide by the SQLSTATE."""
        state = sqlstate(error)
        return not self._connection.closed and state.startswith((*STALE, *_MISFIT))

    def in_transaction(self) -> bool:
        """Return whether a transaction is open, which the driver knows by itself."""
        if self._connection.closed:
            return False
        return (
            not self._connection.autocommit
            or self._libpq.transaction_status != TransactionStatus.IDLE
        )

    def _has_aborted(self, _error: Exception) -> bool:
        return bool(self._libpq.transaction_status == TransactionStatus.INERROR)

    def fault_of(self, error: Exception) -> Fault:
        """Decide by the SQLSTATE; an error without one comes from adapting values."""
        if self._connection.closed:
            return "connection"
        if state := sqlstate(error):
            return fault_by_sqlstate(state, str(error))
        lost = (psycopg.OperationalError, psycopg.InterfaceError, OSError)
        return "connection" if isinstance(error, lost) else "row"

    async def forget(self) -> None:
        """Make psycopg prepare statements again."""
        # It does so after a ROLLBACK. A pipeline accepts only one statement at a time.
        if (
            self.can_repeat()
            and self._connection.prepare_threshold is not None
            and not self._in_pipeline
        ):
            await self._connection.execute("BEGIN; ROLLBACK", prepare=False)

    def _own_pipeline(self) -> AbstractAsyncContextManager[object]:
        """Separate our statements from others in a pipeline of the caller's."""
        if not self._in_pipeline:
            return contextlib.nullcontext()
        # Entering a nested pipeline waits for pending results; so does leaving it.
        pipeline: AbstractAsyncContextManager[object] = self._connection.pipeline()
        return pipeline

    async def _command(self, sql: str) -> ResultRows:
        if sql.startswith(_OPENING) and psycopg.AsyncPipeline.is_supported():
            self._waiting.append(sql)
            return ()
        cursor = await self._execute(sql, prepare=False)
        return [(cursor.statusmessage,)]

    async def _execute(
        self, sql: str, arguments: ParameterValues = (), *, prepare: bool | None = None
    ) -> _Cursor:
        """Send a statement, in one round trip with what has to be sent before it."""
        query: Any = sql  # not a literal, which psycopg's annotation demands
        # With a row factory of its own, and with PostgreSQL's placeholders.
        cursor = _Cursor(self._connection, row_factory=tuple_row)
        classes = {*map(type, arguments)}
        if ArrayArgument in classes:
            cursor.adapters.register_dumper(ArrayArgument, _ArrayDumper)
        if NameArgument in classes:
            cursor.adapters.register_dumper(NameArgument, StrDumper)
        if self._waiting or self._in_pipeline or self._begins():
            await self._uninterrupted(
                self._execute_together(cursor, query, arguments, prepare=prepare)
            )
            return cursor
        async with self._connection.lock:
            steps = cursor.steps(query, arguments, prepare=prepare)
            try:
                await _run(steps, self._libpq)
            except asyncio.CancelledError:
                rest = asyncio.ensure_future(_run(steps, self._libpq))
                await finish(asyncio.ensure_future(self._stop(rest)))
                raise
        return cursor

    async def _execute_together(
        self,
        cursor: _Cursor,
        query: LiteralString,
        arguments: ParameterValues,
        *,
        prepare: bool | None,
    ) -> None:
        async with self._connection.pipeline() as pipeline:
            if self._begins():
                # psycopg would wait for the result of its own BEGIN.
                self._libpq.send_query_params(_begin(self._connection), None)
                pipeline.result_queue.append(None)
            await self._send_waiting()
            await cursor.execute(query, arguments, prepare=prepare)

    async def _uninterrupted(self, work: Coroutine[object, object, object]) -> None:
        """Await work to its end; if cancelled, have the server cancel it."""
        # psycopg cannot leave a pipeline or a COPY in which it was cancelled, and closes
        # the connection when it is cancelled again.
        task = asyncio.ensure_future(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            await finish(asyncio.ensure_future(self._stop(task)))
            raise

    async def _stop(self, task: asyncio.Task[object]) -> None:
        """Ask the server to cancel what a task awaits, again if that came too early."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ROLLBACK_TIMEOUT):
                while not task.done():
                    with contextlib.suppress(psycopg.Error):
                        await self._connection.cancel_safe(timeout=ROLLBACK_TIMEOUT)
                    await asyncio.wait({task}, timeout=_CANCEL_AGAIN)
        if not task.done():
            self._libpq.finish()
            task.cancel()
        await asyncio.wait({task})
        _ = task.cancelled() or task.exception()

    async def _fetch(
        self, sql: str, arguments: Iterable[Value], caller_columns: int
    ) -> ResultRows:
        cursor = await self._execute(sql, [*arguments])
        return self._rows(cursor, caller_columns)

    async def _fetch_once(
        self, sql: str, arguments: Iterable[Value], caller_columns: int
    ) -> ResultRows:
        cursor = await self._execute(sql, [*arguments], prepare=False)
        return self._rows(cursor, caller_columns)

    def _rows(self, cursor: _Cursor, caller_columns: int) -> ResultRows:
        result = cursor.pgresult
        if result is None or result.status != _TUPLES_OK:
            return ()
        if _has_default_loaders(self._connection.adapters):
            return cursor.rows(result.ntuples)
        return self._read(result, caller_columns)

    def _read(self, result: PGresult, caller_columns: int) -> ResultRows:
        """Load the caller's columns with the caller's loaders, the rest with psycopg's."""
        default = Transformer.from_context(_Context(_ADAPTERS, self._connection))
        caller = Transformer.from_context(self._connection)
        first = result.nfields - caller_columns
        loaders = [
            (default if n < first else caller).get_loader(result.ftype(n), _TEXT)
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
    def _in_pipeline(self) -> bool:
        """Whether the connection is in pipeline mode."""
        return bool(self._libpq.pipeline_status != _NO_PIPELINE)

    def _begins(self) -> bool:
        """Return whether psycopg sends a BEGIN of its own before the next statement."""
        return (
            not self._connection.autocommit
            and self._libpq.transaction_status == TransactionStatus.IDLE
            and psycopg.AsyncPipeline.is_supported()
        )

    async def _drop_unnamed(self) -> None:
        """Do nothing, as the next statement has no name either."""

    def _prepares(self) -> bool:
        # Programs set it to None behind a pooler.
        return self._connection.prepare_threshold is not None

    async def _send_waiting(self) -> None:
        """Send the BEGIN or SAVEPOINT that no statement has followed."""
        waiting, self._waiting = self._waiting, []
        for opening in waiting:
            # Not prepared, as there is nothing to plan.
            await self._connection.execute(opening, prepare=False)

    async def _copy(self, table: str, rows: Iterable[Value]) -> None:
        if self._in_pipeline:
            raise CannotCopyError  # psycopg refuses it
        await self._uninterrupted(self._send_waiting())
        text = rows.as_csv() if isinstance(rows, CopiedRows) else None
        sql = f"COPY pg_temp.{quote(table)} FROM STDIN"
        if text is not None:
            sql += " (FORMAT csv, ENCODING 'UTF8')"
        await self._uninterrupted(self._copy_all(sql, rows, text))

    async def _copy_all(
        self, sql: str, rows: Iterable[Value], text: bytes | None
    ) -> None:
        cursor = psycopg.AsyncRawCursor(self._connection)
        async with cursor.copy(sql.encode()) as copy:
            if text is not None:
                await copy.write(text)
                return
            for row in rows:
                await copy.write_row(row)

    async def _send_rollback(self, sql: str) -> None:
        async with asyncio.timeout(ROLLBACK_TIMEOUT):
            await self._send_waiting()
            if self._libpq.transaction_status != TransactionStatus.IDLE:
                # A pipeline accepts only one statement at a time.
                for part in sql.split("; ") if self._in_pipeline else [sql]:
                    await self._execute(part, prepare=False)

    def _may_be_open(self, _error: BaseException) -> bool:
        return True

    def terminate(self) -> None:
        """Close the connection at once."""
        self._libpq.finish()


def _begin(connection: _Connection) -> bytes:
    """Return the BEGIN that psycopg itself would send."""
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
    """The context of a `Transformer`: how values are loaded and dumped."""

    adapters: AdaptersMap
    connection: _Connection | None


# psycopg's defaults, whatever the caller has set for the process or the connection.
_ADAPTERS: Final = AdaptersMap(types=psycopg.postgres.types)
psycopg.postgres.register_default_adapters(_Context(_ADAPTERS, None))
for _type in ("bool", "int8"):
    psycopg.postgres.types[_type].register(_Context(_ADAPTERS, None))  # its arrays
# The types of the columns that this library itself reads, with their loaders: unknown ones,
# bool, int8, int4, text, bool[], int8[], cstring.
_LOADERS: Final = [
    (oid, _ADAPTERS.get_loader(oid, _TEXT))
    for oid in (0, 16, 20, 23, 25, 1000, 1016, 2275)
]


def _has_default_loaders(adapters: AdaptersMap) -> bool:
    """Return whether the caller has left the loaders of these types unchanged."""
    for oid, loader in _LOADERS:  # noqa: SIM110  # in every call: a generator costs more
        if adapters.get_loader(oid, _TEXT) is not loader:
            return False
    return True


class _ArrayDumper(Dumper):
    """
    Dumps an array whose type the statement states.

    Each element is dumped by itself; psycopg's own dumper requires one class for all.
    """

    def __init__(self, cls: type, context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        self._transformer = Transformer.from_context(context)

    def dump(self, obj: Iterable[object]) -> bytes:
        return b"{%b}" % b",".join(map(self._element, obj))

    def _element(self, value: object) -> bytes:
        if value is None:
            return b"NULL"
        written = self._transformer.get_dumper(value, PyFormat.TEXT).dump(value)
        if written is None:
            return b"NULL"
        text = bytes(written).replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        return b'"%b"' % text


@asynccontextmanager
async def in_autocommit(connection: _Connection) -> AsyncGenerator[None]:
    """Switch the autocommit of a connection on for a while."""
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
async def acquire(
    pool: AsyncConnectionPool[_Connection],
) -> AsyncGenerator[_Connection]:
    """Acquire a connection of a pool, with autocommit on."""
    async with pool.connection() as connection, in_autocommit(connection):
        yield connection


KINDS: Final = (ConnectionKind(psycopg.AsyncConnection, PsycopgSession),)
