"""`Coalescer`: calls of many tasks, executed together."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self

from aioupsert._coalescer.queue import (
    FUTURE,
    Call,
    Queue,
    answer,
    copied,
    fail,
    identify,
)
from aioupsert._drivers import is_pool, session_on
from aioupsert._drivers.base import Session, finish
from aioupsert._execution.batches import Batch, BatchWriter
from aioupsert._execution.calls import write
from aioupsert._execution.table_cache import has_changed
from aioupsert._execution.targets import Target
from aioupsert._observation import Observation
from aioupsert._plan import CallGrouper, RequestShape, pairs, read_key_names
from aioupsert._plan.plan import check_without_unique_index
from aioupsert._plan.request import Arguments
from aioupsert._upsert import TIMEOUT
from aioupsert.errors import AioupsertError, CoalescerClosedError, UsageError
from aioupsert.events import OBSERVERS
from aioupsert.results import CoalescerStats, Result

if TYPE_CHECKING:
    from types import TracebackType

    from aioupsert._plan.schema import TableName
    from aioupsert.expressions import Expression
    from aioupsert.typing import (
        Connection,
        Returning,
        Table,
        Values,
        WithoutUniqueIndex,
    )

_CONCURRENCY: Final = 3
# While a batch is under way, so many calls are worth another connection; or any after
# this time, in seconds, since the batch may be waiting for somebody's lock.
_ENOUGH: Final = 450
_PATIENCE: Final = 0.01
# So many batches follow each other over one connection, since a pool resets those that
# it gets back; and no more, since others may be waiting for one.
_IN_A_ROW: Final = 8
# As many as a program has calls in its source code, and more.
_MAX_SHAPES: Final = 256
# Where Python can, a batch is on its way before the loop turns.
_EAGERLY: Final[dict[str, Any]] = (
    {"eager_start": True} if sys.version_info >= (3, 12) else {}
)


class Coalescer:
    """
    Combines concurrent calls of many tasks into batches, with the same results.

    It is meant for web handlers and workers, when hundreds of them await an upsert of
    the same table at the same time. A call is sent at once if no batch is in progress;
    the calls made in the meantime form the next batch.

    Every caller gets the `Result` that `create_or_update` would have returned to it, as
    if the calls had been executed one after the other in some order. Calls for the same
    row are executed in the order in which they were made.

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
        key: str | Sequence[str],
        max_batch: int = 1_000,
        max_delay: float = 0.0,
        max_pending: int = 10_000,
        concurrency: int = _CONCURRENCY,
        without_unique_index: WithoutUniqueIndex = "warn",
        timeout: float | None = TIMEOUT,
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
            without_unique_index: What to do if no unique index makes the key unique, as
                for `create_or_update`.
            timeout: The number of seconds after which a batch is not repeated after a
                transient error, or None for no limit.

        Raises:
            UsageError: An argument is invalid.
            UnsupportedConnectionError: *conn_or_pool* is not a supported connection or
                pool.
        """
        self._target = target = Target(conn_or_pool, table)
        self._name = target.name
        self._key = read_key_names(key)
        self._width = len(self._key)
        model = target.model
        names = self._key if model is None else tuple(model.names(self._key))
        for argument, value in (
            ("max_batch", max_batch),
            ("max_pending", max_pending),
            ("concurrency", concurrency),
        ):
            if value < 1:
                msg = f"{argument} must be 1 or more, not {value!r}"
                raise UsageError(msg)
        if max_delay < 0:
            msg = f"max_delay is zero or more seconds, not {max_delay!r}"
            raise UsageError(msg)
        check_without_unique_index(without_unique_index)
        self._handle = conn_or_pool
        self._without_unique_index = without_unique_index
        self._timeout = timeout
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._enough = max_batch if max_delay else min(_ENOUGH, max_batch)
        self._concurrency = concurrency if is_pool(conn_or_pool) else 1
        self._free = self._concurrency
        self._writer = BatchWriter(
            self._name, CallGrouper(names), timeout, skip=True, each=True
        )
        self._max_pending = max_pending
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = "it was not entered: use it in an async with"
        self._queue = Queue()
        # Those of the last calls, of which equal ones share one.
        self._shapes: dict[RequestShape, RequestShape] = {}
        self._batches: set[asyncio.Task[None]] = set()
        self._timer: asyncio.Handle | None = None  # for the next batch
        self._pending = 0
        self._withdrawn = 0  # calls that may still be in the queues
        # Callers that wait for room, and how many have been let in and come next.
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._entering = 0
        self._given_up: CoalescerClosedError | None = None
        self._calls = self._sent = self._rows = self._largest = 0
        self._waits = self._failures = 0
        self._seconds = 0.0
        self._system = ""

    @property
    def stats(self) -> CoalescerStats:
        """The statistics of this coalescer so far."""
        return CoalescerStats(
            calls=self._calls,
            batches=self._sent,
            rows=self._rows,
            largest_batch=self._largest,
            waits=self._waits,
            retries=self._writer.retries,
            failures=self._failures,
            seconds=self._seconds,
        )

    async def __aenter__(self) -> Self:
        """Start accepting calls, in the running event loop."""
        if self._loop is not None:
            msg = "a coalescer is entered once; make another one"
            raise UsageError(msg)
        self._loop = asyncio.get_running_loop()
        self._closed = ""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Send the pending calls, and wait for them."""
        await self.aclose()

    async def aclose(self, *, cancel: bool = False) -> None:
        """
        Accept no more calls, and return once no call is pending and no task is left.

        If this method is cancelled, calls that were not sent fail, and the batches in
        progress are cancelled.

        Args:
            cancel: Whether calls that were not sent fail with `CoalescerClosedError`;
                by default they are sent.
        """
        self._closed = self._closed or "it is closed"
        if cancel:
            self._give_up()
        try:
            await self._emptied()
        except asyncio.CancelledError:
            # Nobody waits for it any more, so it must not go on.
            self._give_up()
            for task in self._batches:
                task.cancel()
            await finish(asyncio.ensure_future(self._emptied()))
            raise

    async def create_or_update(
        self,
        *,
        key: Values,
        defaults: Values | None = None,
        create_defaults: Values | None = None,
        where: Expression | None = None,
        skip_unchanged: bool = False,
        touch: Values | None = None,
        returning: Returning = None,
    ) -> Result:
        """
        Update the row that has this key, or create it, in a batch with other calls.

        The arguments have the same meaning as for `aioupsert.create_or_update`.

        Args:
            key: A value for each column of the coalescer's key.
            defaults: The values to write in either case.
            create_defaults: Values for creating the row.
            where: A condition on the stored row.
            skip_unchanged: Whether to leave a row that already holds every value as it
                is.
            touch: Values that are written only if another value changes.
            returning: The columns of `Result.row`, which is the row as this call left
                it.

        Returns:
            The result that `aioupsert.create_or_update` would have returned.

        Raises:
            CoalescerClosedError: The coalescer is closed, was not entered, or belongs
                to another event loop.
            AioupsertError: As for `aioupsert.create_or_update`.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop or self._closed or not key:
            self._refuse(loop, key)
        if isinstance(returning, type):
            msg = (
                f"returning={returning.__name__}: a coalescer gives rows, as mapped"
                " objects are loaded in a session; name attributes"
            )
            raise UsageError(msg)
        arguments = Arguments(
            key=key,
            defaults=defaults,
            create_defaults=create_defaults,
            where=where,
            skip_unchanged=skip_unchanged,
            touch=touch,
            returning=returning,
            without_unique_index=self._without_unique_index,
            strategy="auto",
        )
        shape, values = self._target.read(arguments)
        # What waits is gone through whenever Python collects garbage, so be it little.
        known = self._shapes.get(shape)
        if known is None:
            known, values = self._admit(key, shape, values)
        shape = known
        del known, arguments, key, defaults, create_defaults, where, touch
        self._calls += 1
        observation = (
            Observation("Coalescer.create_or_update", self._name) if OBSERVERS else None
        )
        try:
            is_full = self._pending >= self._max_pending
            if is_full or self._waiters or self._entering:
                await self._room()
            self._pending += 1
            try:
                future: asyncio.Future[Result] = loop.create_future()
                identity = identify(values, self._width)
                self._queue.ready.append((shape, tuple(values), identity, future))
                self._schedule(loop)
                result = await future
            except asyncio.CancelledError:
                self._withdraw()
                raise
            finally:
                self._pending -= 1
                if self._waiters:
                    self._let_in()
        except BaseException as exc:
            self._failures += isinstance(exc, Exception)
            if observation is not None:
                observation.end(exc)
            raise
        if observation is not None:
            observation.event.system = self._system
            observation.record_each(result)
            observation.end()
        model = self._target.model
        return result if model is None else model.result(result)

    async def _room(self) -> None:
        """Wait, behind others, until fewer calls are pending."""
        self._waits += 1
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                # Unless it has been passed over already.
                with suppress(ValueError):
                    self._waiters.remove(waiter)
            else:
                self._entering -= 1
                self._let_in()
            raise
        self._entering -= 1
        if self._given_up is not None:
            raise copied(self._given_up)

    def _let_in(self) -> None:
        """Let in the callers that have waited longest, as many as there is room for."""
        while self._waiters and self._pending + self._entering < self._max_pending:
            self._enter(self._waiters.popleft())

    def _enter(self, waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)
            self._entering += 1

    def _withdraw(self) -> None:
        """Drop the calls of cancelled callers, once they are more than the others."""
        self._withdrawn += 1
        if self._withdrawn > max(self._pending, self._max_batch):
            self._withdrawn = 0
            self._queue.drop_answered()

    def _refuse(self, loop: asyncio.AbstractEventLoop, key: Values) -> None:
        """Say why a call cannot be taken, or that its key is empty or none at all."""
        if self._closed:
            raise CoalescerClosedError(self._closed)
        if loop is not self._loop:
            msg = "it was entered in another event loop"
            raise CoalescerClosedError(msg)
        self._check_key(key)

    def _check_key(self, key: Values) -> list[str]:
        """Give the names of a call's key, which are the coalescer's in any order."""
        given = [name for name, _ in pairs("key", key)]
        if len(given) != self._width or not {*self._key}.issuperset(given):
            msg = (
                f"key must have {', '.join(map(repr, self._key))}, as the coalescer's,"
                f" not {', '.join(map(repr, given))}"
            )
            raise UsageError(msg)
        return given

    def _admit(
        self, key: Values, shape: RequestShape, values: list[Any]
    ) -> tuple[RequestShape, list[Any]]:
        """Put a call's key in the order of the coalescer's, and remember its shape."""
        order = [*map(self._check_key(key).index, self._key)]
        kinds, *rest = shape
        shape = (tuple(kinds[at] for at in order), *rest)
        if len(self._shapes) >= _MAX_SHAPES:
            self._shapes.clear()
        shape = self._shapes.setdefault(shape, shape)
        return shape, [*(values[at] for at in order), *values[self._width :]]

    # --- Sending ----------------------------------------------------------------------

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send at once if nothing is under way, and otherwise soon."""
        if self._free == self._concurrency and not self._max_delay:
            self._send()
            return
        are_enough = len(self._queue.ready) >= self._enough
        if self._timer is None:
            if self._max_delay and not are_enough:
                self._timer = loop.call_later(self._max_delay, self._send_all)
            else:
                self._timer = loop.call_soon(self._send)
        elif are_enough and isinstance(self._timer, asyncio.TimerHandle):
            self._timer.cancel()
            self._timer = loop.call_soon(self._send)

    def _send_all(self) -> None:
        """Send what has waited long enough, however little it is."""
        self._send(impatient=True)

    def _send(self, idle: _Trip | None = None, *, impatient: bool = False) -> None:
        """Send as many batches as there may be; the first by a trip that is idle."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = asyncio.get_running_loop()
        ready = self._queue.ready
        while ready:
            free = self._free + (idle is not None)
            if not free:
                return
            is_busy = free < self._concurrency
            if is_busy and not impatient and len(ready) < self._enough:
                wait = max(_PATIENCE, self._max_delay)
                self._timer = loop.call_later(wait, self._send_all)
                return
            # Shared out over all connections, so that the database works on one part
            # while another is made ready; but a small batch costs nearly as much as a
            # large.
            share = max(-(-len(ready) // self._concurrency), self._enough)
            batch = self._queue.take(min(share, self._max_batch), self._max_batch)
            if not batch:
                return
            if idle is not None:
                idle.batch = batch
                idle = None
                continue
            self._free -= 1
            trip = _Trip(batch)
            task = asyncio.Task(self._carry(trip), loop=loop, **_EAGERLY)
            self._batches.add(task)
            task.add_done_callback(partial(self._end, trip))

    async def _carry(self, trip: _Trip) -> None:
        """Send a batch, and some that follow; answer the callers, whatever happens."""
        trip.begin(self._name)
        error: BaseException | None = None
        try:
            async with session_on(self._handle) as session:
                await self._go(session, trip)
        except asyncio.CancelledError as exc:
            error = exc
            self._abandon(trip.batch, _UNKNOWN)
            raise
        except BaseException as exc:
            error = exc
            fail(trip.batch, exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            if trip.batch:
                self._arrive(trip, error)
            self._free += 1
            self._go_on()

    async def _go(self, session: Session, trip: _Trip) -> None:
        """Send a batch, and some that follow, now that there is a connection."""
        self._system = session.engine.system
        turns = 0
        while trip.batch:
            if turns:
                trip.begin(self._name)
            await self._write(session, trip.batch)
            # None is left; if one is, it must not hang.
            fail(trip.batch, RuntimeError(_LOST))
            self._arrive(trip)
            turns += 1
            if turns < _IN_A_ROW:
                # Those who were answered come first, and may have more.
                await asyncio.sleep(0)
                self._go_on(trip)

    def _arrive(self, trip: _Trip, error: BaseException | None = None) -> None:
        """Take down what became of a batch, and let calls for its rows go on."""
        batch, trip.batch = trip.batch, []
        self._seconds += time.perf_counter() - trip.started
        self._sent += 1
        self._largest = max(self._largest, len(batch))
        if trip.observation is not None:
            self._tell(trip.observation, batch, error)
        self._queue.release(batch)

    def _go_on(self, idle: _Trip | None = None) -> None:
        """Send what is ready, after a batch has arrived."""
        if self._timer is None or not self._max_delay:
            # Without a timer, what is ready has waited for the delay already.
            self._send(idle, impatient=self._max_delay > 0)

    def _tell(
        self, observation: Observation, batch: list[Call], error: BaseException | None
    ) -> None:
        """Tell the observers what became of a batch."""
        futures = [future for _, _, _, future in batch if not future.cancelled()]
        event = observation.event
        observation.record_each(*(f.result() for f in futures if f.exception() is None))
        event.failed = sum(f.exception() is not None for f in futures)
        event.rows = len(batch)
        event.pending = self._pending
        event.system = self._system
        observation.end(error)

    async def _write(self, session: Session, batch: list[Call]) -> None:
        """Store the calls that are still wanted."""
        calls = [call for call in batch if not call[FUTURE].done()]
        alone = True
        while calls:
            calls = await self._store(session, calls, alone=alone)
            alone = False  # what is left would be left again

    async def _store(
        self, session: Session, calls: list[Call], *, alone: bool
    ) -> list[Call]:
        """Store calls, and answer them; return those that should be tried again."""
        # In a transaction of the caller's it needs a savepoint, so as to fail alone.
        if len(calls) == 1 and not session.in_transaction():
            ((shape, values, _, future),) = calls
            self._rows += 1
            result = await write(session, self._name, shape, [*values], self._timeout)
            answer(future, result)
            return []
        batch = Batch(range(len(calls)), calls)
        outcome = await self._writer.store(
            session, batch, inside=session.in_transaction(), alone=alone
        )
        self._rows += outcome.sent
        results = outcome.results or {}
        for position, result in results.items():
            answer(calls[position][FUTURE], result)
        refused = [u for u in outcome.rejected if isinstance(u.error, AioupsertError)]
        again = {*outcome.left}
        if refused and await has_changed(session, self._name, refused[0].error):
            # By what the table was like before it changed.
            again.update(item.position for item in refused)
        failed: dict[int, tuple[Exception, list[Call]]] = {}
        for position, error, _ in outcome.rejected:
            if position not in again:
                # Calls that were refused together have one error.
                failed.setdefault(id(error), (error, []))[1].append(calls[position])
        for error, those in failed.values():
            fail(those, error)
        return [calls[position] for position in sorted(again)]

    def _end(self, trip: _Trip, task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        if task.cancelled():
            # Perhaps before it had begun.
            self._abandon(trip.batch, _NOT_SENT)
        else:
            task.exception()  # which its callers have been given

    def _abandon(self, batch: list[Call], why: str) -> None:
        """Send no more: the loop ends, or whoever closes us has given up."""
        self._closed = self._closed or "its event loop has ended"
        fail(batch, CoalescerClosedError(why))
        self._give_up()

    def _give_up(self) -> None:
        """Fail what was not sent, now and when it gets room."""
        self._given_up = CoalescerClosedError(_NOT_SENT)
        fail(self._queue.clear(), self._given_up)
        while self._waiters:
            self._enter(self._waiters.popleft())

    async def _emptied(self) -> None:
        """Wait until no call is pending, and no task of ours is left."""
        while self._batches or self._queue.ready or self._waiters or self._entering:
            if self._batches:
                await asyncio.wait(self._batches)
            else:
                self._send()
                # Callers that have just got room come next.
                await asyncio.sleep(0)
        if self._timer is not None:
            self._timer.cancel()


_NOT_SENT: Final = "it was closed before this call was sent"
_UNKNOWN: Final = (
    "it was closed while this call was under way: it has been stored or not"
)
_LOST: Final = "aioupsert has lost this call; please report it"


class _Trip:
    """
    A connection that is borrowed, or will be, for some batches in a row.

    Attributes:
        batch: The calls under way.
        started: When they were sent, or waited for the connection.
        observation: What observers see of them.
    """

    __slots__ = ("batch", "observation", "started")

    def __init__(self, batch: list[Call]) -> None:
        self.batch = batch
        self.started = 0.0
        self.observation: Observation | None = None

    def begin(self, table: TableName) -> None:
        """Begin with a batch."""
        self.started = time.perf_counter()
        self.observation = Observation("Coalescer.batch", table) if OBSERVERS else None
