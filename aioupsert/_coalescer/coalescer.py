"""`Coalescer`: the calls of many tasks, executed together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Self,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from aioupsert._coalescer.admission import Admission
from aioupsert._coalescer.dispatch import Dispatcher, Schedule
from aioupsert._coalescer.queue import Queue
from aioupsert._coalescer.requests import RequestReader
from aioupsert._coalescer.sending import Sender
from aioupsert._drivers import is_pool, pool_size, session_on
from aioupsert._drivers.base import CURRENT_HOLD
from aioupsert._execution.targets import Target
from aioupsert._observation import Observation, register
from aioupsert._plan import read_key_names
from aioupsert._plan.plan import check_without_unique_index
from aioupsert._plan.request import Arguments
from aioupsert._upsert import TIMEOUT
from aioupsert.errors import CoalescerClosedError, UsageError
from aioupsert.events import OBSERVERS
from aioupsert.results import CoalescerStats, Result

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from aioupsert.expressions import Expression
    from aioupsert.typing import (
        Connection,
        Name,
        Returning,
        RowValues,
        SqlalchemyExpression,
        Table,
        Update,
        Values,
        WithoutUniqueIndex,
    )

R = TypeVar("R")

_ANOTHER_LOOP: Final = "it was entered in another event loop"


class _Options(TypedDict, total=False):
    """Further arguments of a call."""

    create_defaults: Values | None
    where: Expression | SqlalchemyExpression | None
    skip_unchanged: bool
    touch: Values | None
    old: bool


class Coalescer:
    """
    Combines concurrent calls of many tasks into batches, with the same results.

    It is meant for web handlers and workers, when hundreds of them await an upsert of
    the same table at the same time. A call is sent at once if no batch is in progress;
    the calls made in the meantime form the next batch.

    Every caller gets the `Result` that `create_or_update` would have returned to it, as
    if the calls had been executed one after the other in some order. Calls for the same
    row are executed in the order in which they were made.

    The callers share everything but their rows: a batch runs in the context (see
    `contextvars`) in which the coalescer was entered, never in a caller's, and so does
    what a pool runs when it gives out a connection. Callers for which the database is
    another, such as tenants under row-level security, need a coalescer each.

    A batch is a transaction, which is committed before its callers get their results
    or, if the connection is in the caller's transaction, a savepoint in it. A call that
    cannot be stored raises the database's own error and does not affect the others.
    If the connection is lost, all calls of the batch fail; their outcome is unknown,
    and they are never sent again. A caller that is cancelled withdraws its call if it
    has not been sent; otherwise the call is completed.

    A coalescer is an async context manager, and exiting it waits for pending calls. It
    can be entered once.
    """

    def __init__(
        self,
        conn_or_pool: Connection,
        table: Table,
        *,
        key: Name | Sequence[Name],
        max_batch: int = 1_000,
        max_delay: float = 0.0,
        max_pending: int = 10_000,
        concurrency: int | None = None,
        without_unique_index: WithoutUniqueIndex = "warn",
        timeout: float | None = TIMEOUT,
        close_timeout: float | None = None,
        execution_options: Mapping[str, object] | None = None,
    ) -> None:
        """
        Create a coalescer for one table and key, without sending anything.

        Args:
            conn_or_pool: A connection or pool, as for `create_or_update`. A connection
                of a pool is acquired for up to eight successive batches.
            table: The table, as for `create_or_update`.
            key: The column or columns that identify a row.
            max_batch: The maximum number of calls in a batch.
            max_delay: The number of seconds for which a call may wait for others to
                join its batch; by default none waits while a connection is free.
            max_pending: The maximum number of pending calls; further callers wait, in
                order.
            concurrency: The maximum number of batches in progress at the same time,
                each over its own connection of a pool. They never contain the same row.
                By default three, and as many as the pool has connections while the
                database takes long for each row.
            without_unique_index: What to do if no unique index makes the key unique, as
                for `create_or_update`.
            timeout: The number of seconds after which a batch is not repeated after a
                transient error, and for which a call may wait for a connection of a
                pool or, over a pool, for a locked row; or None for no limit.
            close_timeout: The *timeout* of `aclose` when the context manager is exited.
            execution_options: As for `create_or_update`. Objects that a session has
                loaded are not refreshed but expired.

        Raises:
            UsageError: An argument is invalid.
            UnsupportedConnectionError: *conn_or_pool* is not a supported connection or
                pool.
        """
        self._target = target = Target(conn_or_pool, table, execution_options)
        names = read_key_names(key if target.model is None else target.model.keys(key))
        for argument, value in (
            ("max_batch", max_batch),
            ("max_pending", max_pending),
            ("concurrency", concurrency),
        ):
            if value is not None and value < 1:
                msg = f"{argument} must be 1 or more, not {value!r}"
                raise UsageError(msg)
        if max_delay < 0:
            msg = f"max_delay is zero or more seconds, not {max_delay!r}"
            raise UsageError(msg)
        check_without_unique_index(without_unique_index)
        self._close_timeout = close_timeout
        self._without_unique_index: WithoutUniqueIndex = without_unique_index
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls = self._failures = 0
        columns = names if target.model is None else target.model.key_names(names)
        self._reader = RequestReader(target, names)
        self._admission = Admission(max_pending)
        several = is_pool(target.handle)
        self._sender = Sender(target.name, columns, timeout, gives_way=several)
        queue = Queue(len(columns))
        self._dispatcher = Dispatcher(
            target.handle,
            target.name,
            queue,
            Schedule(
                queue,
                max_batch=max_batch,
                max_delay=max_delay,
                concurrency=concurrency,
                connections=pool_size(target.handle),
            ),
            admission=self._admission,
            sender=self._sender,
            timeout=timeout,
        )

    @property
    def stats(self) -> CoalescerStats:
        """The statistics of this coalescer so far, and the calls pending now."""
        dispatcher = self._dispatcher
        return CoalescerStats(
            calls=self._calls,
            batches=dispatcher.batches,
            rows=self._sender.rows,
            largest_batch=dispatcher.largest_batch,
            waits=self._admission.waits,
            retries=self._sender.retries,
            failures=self._failures,
            seconds=dispatcher.seconds,
            pending=self._admission.pending,
            waiting_for_connection=dispatcher.waiting_for_connection(),
            waiting_for_lock=dispatcher.waiting_for_lock(),
            oldest_seconds=dispatcher.oldest_seconds(),
        )

    async def __aenter__(self) -> Self:
        """Start accepting calls, in the running event loop and this context."""
        if self._loop is not None:
            msg = "a coalescer is entered once; make another one"
            raise UsageError(msg)
        self._loop = asyncio.get_running_loop()
        self._dispatcher.open()
        register(self, self._target.name)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Send the pending calls, and wait for them for up to *close_timeout*."""
        await self.aclose(timeout=self._close_timeout)

    async def aclose(
        self, *, timeout: float | None = None, cancel: bool = False
    ) -> None:
        """
        Accept no more calls, and return once no call is pending and no task is left.

        Calls that are pending after *timeout* fail with `CoalescerClosedError`, and the
        batches in progress are cancelled: whether their calls have been stored is
        unknown, and the error says so. A connection on which cancelling has no effect
        within half a second is terminated; this method returns within two seconds of
        the timeout, whatever the server does. The same happens if it is cancelled.

        Args:
            timeout: The number of seconds for which pending calls are sent and waited
                for, or None for no limit.
            cancel: Whether pending calls fail at once, as with a timeout of 0.
        """
        await self._dispatcher.close(0 if cancel else timeout)

    @overload
    async def create_or_update(
        self,
        *,
        key: Values,
        defaults: Values | None = None,
        returning: None = None,
        **options: Unpack[_Options],
    ) -> Result[None]: ...

    @overload
    async def create_or_update(
        self,
        *,
        key: Values,
        defaults: Values | None = None,
        returning: type[R],
        **options: Unpack[_Options],
    ) -> Result[R]: ...

    @overload
    async def create_or_update(
        self,
        *,
        key: Values,
        defaults: Values | None = None,
        returning: Name | Sequence[Name],
        **options: Unpack[_Options],
    ) -> Result[RowValues]: ...

    @overload
    async def create_or_update(
        self,
        row: object,
        *,
        update: Update = None,
        returning: None = None,
        **options: Unpack[_Options],
    ) -> Result[None]: ...

    @overload
    async def create_or_update(
        self,
        row: object,
        *,
        update: Update = None,
        returning: type[R],
        **options: Unpack[_Options],
    ) -> Result[R]: ...

    @overload
    async def create_or_update(
        self,
        row: object,
        *,
        update: Update = None,
        returning: Name | Sequence[Name],
        **options: Unpack[_Options],
    ) -> Result[RowValues]: ...

    async def create_or_update(
        self,
        row: object = None,
        *,
        key: Values | None = None,
        update: Update = None,
        defaults: Values | None = None,
        create_defaults: Values | None = None,
        where: Expression | SqlalchemyExpression | None = None,
        skip_unchanged: bool = False,
        touch: Values | None = None,
        returning: Returning = None,
        old: bool = False,
    ) -> Result[Any]:
        """
        Update the row that has this key, or create it, in a batch with other calls.

        The arguments have the same meaning as for `aioupsert.create_or_update`.

        Args:
            row: A whole row, with the columns of the coalescer's key.
            key: Without *row*, a value for each column of the coalescer's key.
            update: Beside *row*, which of its columns an existing row takes.
            defaults: The values to write in either case.
            create_defaults: Values for creating the row.
            where: A condition on the stored row.
            skip_unchanged: Whether to leave a row that already holds every value as it
                is.
            touch: Values that are written only if another value changes.
            returning: What `Result.row` is, which is the row as this call left it. A
                mapped class gives transient instances, and none over a session.
            old: Whether the result also has the row as it was just before this call.

        Returns:
            The result that `aioupsert.create_or_update` would have returned.

        Raises:
            CoalescerClosedError: The coalescer is closed, was not entered, or belongs
                to another event loop.
            PoolTimeoutError: The pool had no connection for the call until *timeout*.
            AioupsertError: As for `aioupsert.create_or_update`.
        """
        loop = asyncio.get_running_loop()
        admission = self._admission
        if admission.closed or loop is not self._loop:
            raise CoalescerClosedError(admission.closed or _ANOTHER_LOOP)
        if CURRENT_HOLD.get() is not None:
            await self._refuse_to_wait_for_itself()
        arguments = Arguments(
            row,
            {} if key is None else key,
            update,
            defaults,
            create_defaults,
            where,
            skip_unchanged,
            touch,
            returning,
            old,
            self._without_unique_index,
            "auto",
        )
        shape, values = self._reader.read(arguments)
        # A pending call should refer to little: the garbage collector traverses it all.
        del arguments, row, key, update, defaults, create_defaults, where, touch
        self._calls += 1
        target = self._target
        observation = (
            Observation("Coalescer.create_or_update", target.name)
            if OBSERVERS
            else None
        )
        try:
            if not admission.admit():
                await admission.wait_for_slot()
            try:
                event = None if observation is None else observation.event
                result = await self._dispatcher.submit(loop, shape, values, event)
            except asyncio.CancelledError:
                self._dispatcher.withdraw()
                raise
            finally:
                admission.leave()
                if target.model is not None:
                    target.expire()
        except BaseException as exc:
            self._failures += isinstance(exc, Exception)
            if observation is not None:
                observation.end(exc)
            raise
        if observation is not None:
            observation.event.system = self._dispatcher.system
            observation.record_each(result)
            observation.end()
        if target.model is None and not isinstance(returning, type):
            return result
        return target.made(result, returning)

    async def _refuse_to_wait_for_itself(self) -> None:
        """
        Refuse a call by a source of rows whose bulk call holds the connection.

        Raises:
            UsageError: Its batch would wait for the bulk call, which waits for the source.
        """
        handle = self._target.handle
        if is_pool(handle):
            return
        async with session_on(handle) as session:
            is_held = session.state.is_held_here()
        if is_held:
            msg = (
                "the bulk call whose rows wait for this call holds the coalescer's"
                " connection: give the coalescer a pool or another connection, or call"
                " create_or_update()"
            )
            raise UsageError(msg)
