"""
When a batch goes, and over which connection.

`Schedule` decides; `Dispatcher` does what it says, in tasks that lease a connection
each. The theory of both is at the head of this package.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Sequence
from contextvars import Context, copy_context
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from aioupsert._coalescer.admission import Admission
from aioupsert._coalescer.locks import LockedCalls
from aioupsert._coalescer.queue import FUTURE, MADE, ROW, PendingCall, Queue
from aioupsert._coalescer.sending import Sender, fail
from aioupsert._drivers import session_on
from aioupsert._drivers.base import Session, finish
from aioupsert._observation import Observation
from aioupsert.errors import CoalescerClosedError
from aioupsert.events import OBSERVERS, Event

if TYPE_CHECKING:
    from aioupsert._plan import RequestShape
    from aioupsert._plan.schema import TableName
    from aioupsert.results import Result

CALLS_WORTH_A_CONNECTION: Final = 450
"""
While a batch is under way, so many ready calls go over another connection at once.

Fewer wait for the batch, since a small batch costs nearly as much as a large one; or for
`SECONDS_BEHIND_A_BATCH`.
"""
SECONDS_BEHIND_A_BATCH: Final = 0.01
"""How long calls wait for a batch under way."""
CONNECTIONS: Final = 3
"""
How many connections are used at once while the database is quick.

With more of them it does no more; where each row takes long, it does.
"""
SLOW_CALL: Final = 0.002
"""
From so many seconds a call on, all of the pool's connections are used.

A quick one takes a hundredth of it, beside others in a batch.
"""
SECONDS_OF_A_BATCH: Final = 0.05
"""For so long a batch takes at most, as far as is known beforehand."""
BATCHES_PER_LEASE: Final = 8
"""
How many batches a lease sends at most before it gives its connection back.

Several, since a pool resets a connection that it gets back, which takes a round trip; but
not any number, since others may be waiting for a connection.
"""

_PAUSE: Final = 0.25
"""
For how long a pool of one connection is left to calls that wait for no lock.

Several times as long as a statement waits for one.
"""
_LAST_WAIT: Final = 0.05
"""
How long calls that have waited for too long, behind others, wait for a connection.

A pool that is only busy has one by then; and if it has none, thousands of calls, in
batches one after the other, end soon.
"""
_SECONDS_TO_CANCEL: Final = 0.5
"""How long the server may take to cancel the statement of a lease that must end."""
_SECONDS_TO_CLOSE: Final = 1.5
"""How long the lease may take to end after that, now that its connection is closed."""

# Where Python can, a batch is sent before the loop turns.
_EAGERLY: Final[dict[str, Any]] = (
    {"eager_start": True} if sys.version_info >= (3, 12) else {}
)

_NOT_SENT: Final = "it was closed before this call was sent"
_UNKNOWN: Final = (
    "it was closed while this call was under way: it has been stored or not"
)


class Pace:
    """
    How long the database takes for a call more in a batch.

    It is the slope of what batches of several sizes have taken, those last seen counting
    most: what is the same for all sizes, such as the network and the commit, is left out.

    Attributes:
        seconds: The estimate.
        is_known: Whether batches of several sizes were seen.
    """

    def __init__(self) -> None:
        """Begin as if calls took no time."""
        self.seconds = 0.0
        self.is_known = False
        self._number = self._time = 0.0
        self._variance = self._covariance = 0.0

    def record(self, seconds: float, calls: int) -> None:
        """Take in how long a batch of so many calls took."""
        expected = self._time + self.seconds * (calls - self._number)
        is_new = seconds > max(SECONDS_OF_A_BATCH, _FAR * expected)
        if not self._number or is_new:
            # What was seen before no longer holds.
            self._number, self._time = calls, seconds
            self._variance = self._covariance = 0.0
        more, longer = calls - self._number, seconds - self._time
        self._number += _WEIGHT * more
        self._time += _WEIGHT * longer
        rest = 1 - _WEIGHT
        self._variance = rest * (self._variance + _WEIGHT * more * more)
        self._covariance = rest * (self._covariance + _WEIGHT * more * longer)
        if self._variance > _LEAST_VARIANCE:
            self.is_known = True
            self.seconds = max(0.0, self._covariance / self._variance)
        elif self.is_known and is_new:
            self.seconds = seconds / calls
        elif not self.is_known and seconds >= SECONDS_BEHIND_A_BATCH:
            self.suspect()
        # No call has taken longer than its whole batch.
        self.seconds = min(self.seconds, seconds / calls)

    def suspect(self) -> None:
        """Take calls for slow, unless it is known: a batch has not come back for long."""
        if not self.is_known:
            self.seconds = _SUSPECTED


_FAR: Final = 3
"""So many times the expected seconds are not chance."""
_WEIGHT: Final = 0.3
_LEAST_VARIANCE: Final = 1e-3
_SUSPECTED: Final = SECONDS_OF_A_BATCH / 4
"""So that the next batch is small, and tells."""


class Schedule:
    """
    Decides when a batch goes: by the number of ready calls and of free connections.

    It knows neither time nor connections; it is told.

    Attributes:
        max_batch: How many calls make a batch at most.
        max_delay: Seconds that a call may wait for others.
        leased: How many connections are leased.
        connections: How many connections there are.
        pace: How long calls take.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        max_batch: int,
        max_delay: float,
        concurrency: int | None,
        connections: int,
    ) -> None:
        """
        Decide for the calls of a queue.

        Args:
            queue: The calls.
            max_batch: How many calls make a batch at most.
            max_delay: Seconds that a call may wait for others.
            concurrency: How many connections may be leased at once; None to decide
                that, too.
            connections: How many connections there are.
        """
        self.max_batch = max_batch
        self.max_delay = max_delay
        self.leased = 0
        self.connections = connections
        self.pace = Pace()
        self._queue = queue
        self._usual = min(concurrency or CONNECTIONS, connections)
        self._most = self._usual if concurrency else connections

    def is_idle(self) -> bool:
        """Return whether a new call has nothing to wait for."""
        return not self.leased and not self.max_delay

    def look_in(self, *, is_set: bool) -> float | None:
        """
        Return in how many seconds to look for batches, now that a call was added.

        Args:
            is_set: Whether a time to look is set.

        Returns:
            The seconds, 0 for the next turn of the loop; None to leave it as it is.
        """
        if len(self._queue.ready) >= self._enough():
            return 0.0
        return None if is_set else self.max_delay

    def _is_slow(self) -> bool:
        """Return whether each call takes long, or may do so."""
        return self.pace.seconds >= SLOW_CALL

    def _enough(self) -> int:
        """Return how many ready calls wait for no others."""
        if self.max_delay:
            return self.max_batch
        return 1 if self._is_slow() else min(CALLS_WORTH_A_CONNECTION, self.max_batch)

    def _size(self, free: int) -> int:
        """Return how many calls make the next batch."""
        ready = len(self._queue.ready)
        if self._is_slow():
            # For each connection the same, but no batch takes long.
            most = int(SECONDS_OF_A_BATCH / self.pace.seconds)
            return max(1, min(-(-ready // free), most, self.max_batch))
        # Shared out over all connections, so that the database works on one part while
        # another is made ready.
        share = max(-(-ready // self._usual), self._enough())
        return min(share, self.max_batch)

    def take(
        self, *, leased: bool, waited: bool
    ) -> tuple[list[list[PendingCall]], float | None]:
        """
        Take the batches that go now, each over a free connection.

        Args:
            leased: Whether a leased connection has nothing to send, and takes the first
                batch.
            waited: Whether the ready calls have waited long enough, and so need not be
                many.

        Returns:
            The batches, and the seconds after which the calls that are left will have
            waited long enough; None if none are, or if they wait for a connection.
        """
        ready, batches = self._queue.ready, list[list[PendingCall]]()
        if waited and self.leased > leased and not self.max_delay:
            self.pace.suspect()
        limit = self._most if self._is_slow() and self.pace.is_known else self._usual
        while ready:
            busy = self.leased - leased
            free = limit - busy
            if free <= 0:
                break
            if busy and not waited and len(ready) < self._enough():
                return batches, max(SECONDS_BEHIND_A_BATCH, self.max_delay)
            size = self._size(free)
            most = size if self._is_slow() else self.max_batch
            batch = self._queue.take(size, most)
            if not batch:
                break
            batches.append(batch)
            if leased:
                leased = False
            else:
                self.leased += 1
        return batches, None


class Lease:
    """
    A connection for some batches, one after the other; at first it is waited for.

    Attributes:
        batch: The calls under way; empty when there is nothing to send.
        is_for_locked: Whether they are those for rows that others have locked.
        started: When they were sent, or began to wait for the connection.
        observation: What observers see of them.
        session: The connection; None while there is none.
    """

    __slots__ = ("batch", "is_for_locked", "observation", "session", "started")

    def __init__(
        self, batch: list[PendingCall], *, is_for_locked: bool = False
    ) -> None:
        """Create the sender of a batch."""
        self.batch = batch
        self.is_for_locked = is_for_locked
        self.started = 0.0
        self.observation: Observation | None = None
        self.session: Session | None = None

    def why_unanswered(self) -> str:
        """Return why a call of the batch that has no answer will get none."""
        return _NOT_SENT if self.session is None else _UNKNOWN


class Dispatcher:
    """
    Queues calls, and sends them over leased connections.

    Attributes:
        system: The database, as `Event.system`; empty until there is a connection.
        batches: How many batches have ended.
        largest_batch: How many calls the largest of them had.
        seconds: How long they took, added up.
    """

    def __init__(
        self,
        handle: object,
        name: TableName,
        queue: Queue,
        schedule: Schedule,
        *,
        admission: Admission,
        sender: Sender,
        timeout: float | None,
    ) -> None:
        """
        Send calls.

        Args:
            handle: A connection or a pool.
            name: The table's name.
            queue: Holds the calls.
            schedule: Decides when they go.
            admission: Knows how many are pending.
            sender: Stores and answers them.
            timeout: For how many seconds a call may wait for a connection.
        """
        self.system = ""
        self.batches = self.largest_batch = 0
        self.seconds = 0.0
        self._handle = handle
        self._name = name
        self._queue = queue
        self._schedule = schedule
        self._admission = admission
        self._sender = sender
        self._timeout = timeout
        self._leases: dict[asyncio.Task[None], Lease] = {}
        # Calls for rows that others have locked, and whether a lease has them.
        self._locked = LockedCalls(sender, timeout)
        self._looks_at_locked = False
        # In which leases run, each in a copy: what a batch does for the calls of many
        # callers, such as acquiring a connection, must not depend on one of them.
        self._context = Context()
        # What observers see of each call.
        self._events: WeakKeyDictionary[asyncio.Future[Result], Event] = (
            WeakKeyDictionary()
        )
        # Set if there is a time to look for batches.
        self._timer: asyncio.Handle | None = None
        # Whether `_dispatch` is called in the next turn of the loop anyway.
        self._looks_soon = False

    def open(self) -> None:
        """Begin to take calls; their batches run in the current context."""
        self._context = copy_context()
        self._admission.open()

    def submit(
        self,
        loop: asyncio.AbstractEventLoop,
        shape: RequestShape,
        values: Sequence[object],
        event: Event | None,
    ) -> asyncio.Future[Result]:
        """Queue a call; send it at once if nothing is under way, and otherwise soon."""
        future: asyncio.Future[Result] = loop.create_future()
        if event is not None:
            self._events[future] = event
        self._queue.put(shape, values, future)
        if not self._looks_soon:
            self._look(loop)
        return future

    def withdraw(self) -> None:
        """Withdraw the call of a caller that was cancelled, if it has not been sent."""
        # As many as there are others, so that dropping them costs each a constant time.
        self._queue.withdraw(max(self._admission.pending, self._schedule.max_batch))

    def waiting_for_connection(self) -> int:
        """Return how many calls are in batches that wait for a connection."""
        # Metrics are read in a thread, hence the copy; so below.
        return sum(
            sum(not call[FUTURE].done() for call in lease.batch)
            for lease in [*self._leases.values()]
            if lease.session is None and not lease.is_for_locked
        )

    def waiting_for_lock(self) -> int:
        """Return how many calls wait for rows that others have locked."""
        return sum(not call[FUTURE].done() for call in [*self._locked.calls])

    def oldest_seconds(self) -> float:
        """Return for how long the oldest call without an answer has been pending."""
        batches = [lease.batch for lease in [*self._leases.values()]]
        calls = chain(self._queue.calls(), *batches)
        made = min((c[MADE] for c in calls if not c[FUTURE].done()), default=None)
        return 0.0 if made is None else time.monotonic() - made

    async def close(self, seconds: float | None) -> None:
        """
        Take no new calls; return when no call is pending and no lease is left.

        If this is cancelled, leases are, too.

        Args:
            seconds: After how many seconds the calls that are still pending fail; None
                to wait until each has been answered.
        """
        self._admission.close("it is closed")
        if seconds is not None and seconds <= 0:
            self._give_up()
        try:
            async with asyncio.timeout(seconds):
                await self._drain()
        except TimeoutError:
            await self._break_off()
        except asyncio.CancelledError:
            # Its caller does not wait for the rest, so nothing may go on.
            await self._break_off()
            raise

    async def _break_off(self) -> None:
        """Fail all calls at once, and end all leases soon, whatever the server does."""
        self._give_up()
        for task, lease in self._leases.items():
            # One without a batch gives its connection back, which a pool would go on
            # with by itself, for as long as the server takes.
            if lease.batch:
                fail(lease.batch, CoalescerClosedError(lease.why_unanswered()))
                task.cancel()
        if self._leases:
            await finish(asyncio.ensure_future(self._end_leases({*self._leases})))
        self._cancel_timer()

    async def _end_leases(self, ending: set[asyncio.Task[None]]) -> None:
        _, late = await asyncio.wait(ending, timeout=_SECONDS_TO_CANCEL)
        for session in filter(None, [self._leases[task].session for task in late]):
            session.terminate()
        if late:
            await asyncio.wait(late, timeout=_SECONDS_TO_CLOSE)

    async def _drain(self) -> None:
        """Send what is queued; return when no call is pending and no lease is left."""
        queue, admission = self._queue, self._admission
        while self._leases or queue.ready or admission.has_waiters():
            if self._leases:
                await asyncio.wait(self._leases)
            else:
                self._dispatch()
                # Callers that have just got a slot queue their calls next.
                await asyncio.sleep(0)
        self._cancel_timer()

    # --- State changes, each of which is complete when it returns ---------------------

    def _dispatch(self, lease: Lease | None = None, *, waited: bool = False) -> None:
        """
        Begin to send the batches that are due.

        Args:
            lease: A lease that has nothing to send, and is given the first batch.
            waited: Whether the ready calls have waited long enough.
        """
        self._cancel_timer()
        if any(task.cancelling() for task in self._leases):
            # It ends everything as soon as the driver lets it, and what is queued with it.
            return
        loop = asyncio.get_running_loop()
        batches, wait = self._schedule.take(leased=lease is not None, waited=waited)
        if wait is not None:
            self._timer = loop.call_later(wait, self._dispatch_waited)
        if lease is not None and batches:
            lease.batch = batches.pop(0)
        for batch in batches:
            self._start(Lease(batch))

    def _start(self, lease: Lease) -> None:
        task = asyncio.Task(
            self.run(lease),
            loop=asyncio.get_running_loop(),
            context=self._context.copy(),
            **_EAGERLY,
        )
        self._leases[task] = lease
        task.add_done_callback(partial(self._end, lease))

    def _set_aside(self, lease: Lease, locked: list[PendingCall]) -> None:
        """Have calls of a batch wait for locks, apart from the others."""
        rows = {call[ROW] for call in locked}
        lease.batch = [call for call in lease.batch if call[ROW] not in rows]
        self._locked.add(locked)
        if not self._looks_at_locked:
            self._looks_at_locked = True
            self._start(Lease(self._locked.calls, is_for_locked=True))

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send what is due now that a call was added, or set a time to look for it."""
        if self._schedule.is_idle():
            self._dispatch()
            return
        delay = self._schedule.look_in(is_set=self._timer is not None)
        if delay:
            self._timer = loop.call_later(delay, self._dispatch_waited)
        elif delay is not None:
            self._cancel_timer()
            self._timer = loop.call_soon(self._dispatch)
            self._looks_soon = True

    def _dispatch_waited(self) -> None:
        """Send what has waited long enough, even if it is little."""
        self._dispatch(waited=True)

    def _dispatch_next(self, lease: Lease | None = None) -> None:
        """Send what is due after a batch has ended."""
        delays = self._schedule.max_delay > 0
        # Without a timer, what is ready has waited for the delay already.
        if self._timer is None or not delays:
            self._dispatch(lease, waited=delays)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._looks_soon = False

    def _begin(self, lease: Lease) -> None:
        """Begin a batch, and tell the observers."""
        lease.started = time.perf_counter()
        lease.observation = None
        if OBSERVERS:
            events = (self._events.get(call[FUTURE]) for call in lease.batch)
            lease.observation = Observation(
                "Coalescer.batch", self._name, tuple(e for e in events if e is not None)
            )

    def _finish(self, lease: Lease, error: BaseException | None = None) -> None:
        """End a batch, and let go of its rows."""
        batch, lease.batch = lease.batch, []
        if lease.is_for_locked:
            batch = self._locked.clear()
            self._looks_at_locked = False
        self._count(lease, batch, error)

    def _count(
        self,
        lease: Lease,
        batch: list[PendingCall],
        error: BaseException | None = None,
    ) -> None:
        """Count and report calls that were sent together, and let go of their rows."""
        self.seconds += time.perf_counter() - lease.started
        self.batches += 1
        self.largest_batch = max(self.largest_batch, len(batch))
        if lease.observation is not None:
            self._report(lease.observation, batch, error)
            lease.observation = None
        self._queue.release(batch)

    def _report(
        self,
        observation: Observation,
        batch: list[PendingCall],
        error: BaseException | None,
    ) -> None:
        """Report the outcome of a batch to the observers."""
        futures = [future for _, _, _, future, _ in batch if not future.cancelled()]
        event = observation.event
        observation.record_each(*(f.result() for f in futures if f.exception() is None))
        event.failed = sum(f.exception() is not None for f in futures)
        event.rows = len(batch)
        event.pending = self._admission.pending
        event.system = self.system
        observation.end(error)

    def _end(self, lease: Lease, task: asyncio.Task[None]) -> None:
        """End a lease: its connection has been given back."""
        del self._leases[task]
        if not lease.is_for_locked:
            self._schedule.leased -= 1
        if task.cancelled():
            # Perhaps before it had begun.
            self._abandon(lease.batch, _NOT_SENT)
        else:
            task.exception()  # which its callers have been given
        self._dispatch_next()

    def _abandon(self, batch: list[PendingCall], reason: str) -> None:
        """Fail a batch and all that is queued: the event loop ends, or closing does."""
        self._admission.close("its event loop has ended")
        fail(batch, CoalescerClosedError(reason))
        self._give_up()

    def _give_up(self) -> None:
        """Fail the calls that were not sent, and those whose callers wait for a slot."""
        fail(self._queue.clear(), CoalescerClosedError(_NOT_SENT))
        self._admission.refuse(_NOT_SENT)

    # --- A lease ----------------------------------------------------------------------

    async def run(self, lease: Lease) -> None:
        """Send a batch, and some that follow; answer the callers, whatever happens."""
        self._begin(lease)
        error: BaseException | None = None
        try:
            if lease.is_for_locked:
                await self._send_locked(lease)
                self._looks_at_locked = False
                return
            async with session_on(self._handle, self._patience(lease.batch)) as session:
                lease.session = session
                await self._send(session, lease)
        except asyncio.CancelledError as exc:
            error = exc
            self._abandon(lease.batch, lease.why_unanswered())
            raise
        except BaseException as exc:
            error = exc
            fail(lease.batch, exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            if lease.batch:
                self._finish(lease, error)

    def _patience(self, batch: list[PendingCall]) -> float | None:
        """Return for how many seconds a batch may wait for a connection."""
        if not self._timeout:
            return self._timeout
        waited = time.monotonic() - min(call[MADE] for call in batch)
        return max(self._timeout - waited, min(self._timeout, _LAST_WAIT))

    async def _send(self, session: Session, lease: Lease) -> None:
        """Send a batch, and some that follow, over the lease's connection."""
        self.system = session.engine.system
        sent = 0
        while lease.batch:
            if sent:
                self._begin(lease)
            calls = len(lease.batch)
            columns = await self._sender.key_columns(session)
            if columns and self._queue.compare_as(columns, session.engine):
                # What could not be told from the rows of this batch need not wait.
                self._dispatch_next()
            clock = asyncio.get_running_loop().time
            started = clock()
            locked = await self._sender.send(session, lease.batch)
            if locked:
                self._set_aside(lease, locked)
            else:
                self._schedule.pace.record(clock() - started, calls)
            self._finish(lease)
            sent += 1
            if sent < BATCHES_PER_LEASE:
                # The callers that were just answered come first, and may call again.
                # With a delay their calls wait for it, and otherwise for this lease.
                self._looks_soon = not self._schedule.max_delay
                await asyncio.sleep(0)
                self._dispatch_next(lease)

    async def _send_locked(self, lease: Lease) -> None:
        """Send calls for rows that others have locked, until none is left."""
        several = self._schedule.connections > 1
        while lease.batch:
            async with session_on(self._handle, self._timeout) as session:
                lease.session = session
                for _ in range(BATCHES_PER_LEASE if several else 1):
                    if lease.batch:
                        await self._look_at_locked(session, lease)
            lease.session = None
            if lease.batch and not several:
                # The others need the only connection, on which this has waited.
                await asyncio.sleep(_PAUSE)

    async def _look_at_locked(self, session: Session, lease: Lease) -> None:
        if lease.observation is None:
            self._begin(lease)
        answered = await self._locked.look(session)
        if answered:
            self._count(lease, answered)
            self._dispatch_next()
