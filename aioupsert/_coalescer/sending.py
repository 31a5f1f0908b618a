"""
Sending a batch over a connection, and answering its callers.

A batch is one transaction, or a savepoint in the caller's; the rows at fault are left
out of it (see `BatchWriter`), so that a call that fails does so alone.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeVar

from aioupsert._coalescer.queue import FUTURE, ROW, PendingCall
from aioupsert._drivers.base import CALLERS, NobodyWaitsError, Session
from aioupsert._execution.batches import LOCK_TIMEOUT, Alone, BatchWriter
from aioupsert._execution.bisecting import Batch
from aioupsert._execution.calls import write
from aioupsert._execution.table_cache import has_changed, read_table
from aioupsert._plan import CallGrouper, Request, RequestShape
from aioupsert._plan.schema import Column, TableName
from aioupsert.errors import AioupsertError
from aioupsert.results import Result

E = TypeVar("E", bound=BaseException)

_UNANSWERED: Final = "aioupsert has lost this call; please report it"
_SECONDS_OF_SUSPICION: Final = 0.2
"""
For how long after a lock was found rows are looked at before they are sent.

That costs about as much as sending them. Rows that are known to be locked are not sent.
"""
# More than any program has calls in its source code.
_MAX_SHAPES: Final = 256


class Sender:
    """
    Stores the calls of batches in a table, and answers their callers.

    Attributes:
        rows: How many rows have been sent.
    """

    def __init__(
        self,
        name: TableName,
        key: Sequence[str],
        timeout: float | None,
        *,
        gives_way: bool,
    ) -> None:
        """
        Store calls in a table.

        Args:
            name: Its name.
            key: The columns that identify a row.
            timeout: Seconds after which no batch is tried again.
            gives_way: Whether batches do not wait for rows that others have locked,
                since there may be other connections to wait on.
        """
        self.rows = 0
        self._name = name
        self._key = key
        self._timeout = timeout
        self._gives_way = gives_way
        self._patient = self._writer(0)
        self._giving_way = self._writer(LOCK_TIMEOUT)
        # Request shapes, and the same with a timeout for locks.
        self._shapes: dict[RequestShape, RequestShape] = {}
        # Until when a lock may be expected, on the monotonic clock.
        self._suspicious_until = 0.0

    def _writer(self, lock_timeout: int) -> BatchWriter:
        return BatchWriter(
            self._name,
            CallGrouper(tuple(self._key), lock_timeout),
            self._timeout,
            skip=True,
            each=True,
            gives_way=lock_timeout > 0,
        )

    @property
    def retries(self) -> int:
        """How many attempts were ended by a transient error."""
        return self._patient.retries + self._giving_way.retries

    async def key_columns(self, session: Session) -> Sequence[Column]:
        """Return the columns of the key; none if they cannot be read."""
        cached = session.state.tables.get(self._name)
        if cached is None:
            try:
                cached = await read_table(session, self._name)
            except Exception:
                if session.in_transaction():
                    raise  # it has ended the transaction, and would hide behind that
                return ()  # sending the batch reports it
        found = map(cached.table.columns.get, self._key)
        columns = [column for column in found if column is not None]
        return columns if len(columns) == len(self._key) else ()

    async def send(
        self, session: Session, batch: Sequence[PendingCall]
    ) -> list[PendingCall]:
        """
        Store the calls whose callers have not been cancelled, and answer every caller.

        Returns:
            The calls for rows that others have locked, which have no answer: nothing of
            them is stored.

        Raises:
            Exception: The batch failed as a whole; not every caller has been answered.
        """
        calls = [call for call in batch if not call[FUTURE].done()]
        locked: list[PendingCall] = []
        token = CALLERS.set([call[FUTURE] for call in calls])
        try:
            if (
                self._gives_way
                and session.engine.lock_limits is not None
                and all(call[ROW] is not None for call in calls)
            ):
                locked = await self._send_unlocked(session, calls)
            else:
                await self._store_all(session, calls, self._patient)
        except NobodyWaitsError:
            pass  # all have been cancelled
        finally:
            CALLERS.reset(token)
        if not locked:
            # None is left; if one is, it must not hang.
            fail(batch, RuntimeError(_UNANSWERED))
        return locked

    async def _send_unlocked(
        self, session: Session, calls: list[PendingCall]
    ) -> list[PendingCall]:
        """Store the calls but for those whose rows are locked, which are returned."""
        locked: set[int | None] = set()
        parts = [calls]
        looks = time.monotonic() < self._suspicious_until
        while parts:
            part = parts.pop(0)
            if looks:
                found = await self.find_locked(session, part)
                locked.update(row for row, exists in (found or ()) if exists)
            # Once a row is locked, all later calls for it have to wait, too.
            part = [c for c in part if c[ROW] not in locked and not c[FUTURE].done()]
            if not part or await self.try_now(session, part) is None:
                continue
            rows = {call[ROW] for call in part}
            if len(rows) == 1:
                locked |= rows
            elif looks:
                parts[:0] = _halves(part)
            else:
                looks = True
                parts.insert(0, part)
        left = [c for c in calls if c[ROW] in locked and not c[FUTURE].done()]
        if left:
            self._suspicious_until = time.monotonic() + _SECONDS_OF_SUSPICION
        return left

    async def try_now(
        self, session: Session, calls: list[PendingCall]
    ) -> Exception | None:
        """
        Store calls and answer them, if their rows can be locked soon.

        Returns:
            The error of a lock that was not had, or None. Calls that have no answer
            then are not stored.

        Raises:
            Exception: Not every caller has been answered.
        """
        try:
            await self._store_all(session, calls, self._giving_way)
        except Exception as exc:
            if session.fault_of(exc) != "lock":
                raise
            return exc
        return None

    async def find_locked(
        self, session: Session, calls: Sequence[PendingCall]
    ) -> list[tuple[int | None, bool]] | None:
        """
        Return the rows that others have locked, or that do not exist, of these calls.

        Returns:
            The rows, each with whether it exists; None if it cannot be told.
        """
        found = None
        # Of an error, as of a table that has changed, sending the calls tells more.
        with suppress(Exception):
            batch = Batch(range(len(calls)), calls)
            found = await self._giving_way.find_locked(session, batch)
        if found is None:
            return None
        return [(calls[position][ROW], bool(exists)) for position, exists in found]

    async def find_holders(
        self, session: Session, calls: Sequence[PendingCall]
    ) -> dict[int | None, int]:
        """Return the sessions that have locked the rows of calls, where it is known."""
        found = None
        with suppress(Exception):
            batch = Batch(range(len(calls)), calls)
            found = await self._giving_way.find_holders(session, batch)
        return {calls[position][ROW]: process for position, process in found or ()}

    async def _store_all(
        self, session: Session, calls: list[PendingCall], writer: BatchWriter
    ) -> None:
        alone: Alone = "in part"
        while calls:
            calls = await self._store(session, calls, writer, alone=alone)
            alone = "never"  # what is left would be left again

    async def _store(
        self,
        session: Session,
        calls: list[PendingCall],
        writer: BatchWriter,
        *,
        alone: Alone,
    ) -> list[PendingCall]:
        """
        Store calls, and answer them.

        Args:
            session: Where to.
            calls: The calls.
            writer: What stores several.
            alone: When one statement may be the whole transaction; it may leave some of
                the calls.

        Returns:
            The calls that must be sent again, since nothing of them is stored.
        """
        used = session.state.tables.get(self._name)
        # In a transaction of the caller's it needs a savepoint, so as to fail alone.
        if len(calls) == 1 and not session.in_transaction():
            ((shape, values, *_),) = calls
            self.rows += 1
            if writer is self._giving_way:
                shape = self._with_lock_timeout(shape)
            result = await write(session, self._name, shape, [*values], self._timeout)
            _answer(calls, {0: result})
            return []
        batch = Batch(range(len(calls)), calls)
        outcome = await writer.store(
            session, batch, inside=session.in_transaction(), alone=alone
        )
        self.rows += outcome.sent
        _answer(calls, outcome.results or {})
        refused = [r for r in outcome.rejected if isinstance(r.error, AioupsertError)]
        again = {*outcome.left}
        if refused and await has_changed(session, self._name, refused[0].error, used):
            # They were refused by what the table was like before it changed.
            again.update(rejected.position for rejected in refused)
        failed: dict[int, tuple[Exception, list[PendingCall]]] = {}
        for position, error, _ in outcome.rejected:
            if position not in again:
                # Calls that were refused together have one error.
                failed.setdefault(id(error), (error, []))[1].append(calls[position])
        for error, those in failed.values():
            fail(those, error)
        return [calls[position] for position in sorted(again)]

    def _with_lock_timeout(self, shape: RequestShape) -> RequestShape:
        """Return the shape of a call that waits for a lock only for a moment."""
        limited = self._shapes.get(shape)
        if limited is None:
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            limited = Request(*shape)._replace(lock_timeout=LOCK_TIMEOUT)
            self._shapes[shape] = limited
        return limited


def _halves(
    calls: list[PendingCall],
) -> tuple[list[PendingCall], list[PendingCall]]:
    """Return the calls for the first rows, and those for the others, each in order."""
    rows = [*dict.fromkeys(call[ROW] for call in calls)]
    first = {*rows[: len(rows) // 2]}
    return (
        [call for call in calls if call[ROW] in first],
        [call for call in calls if call[ROW] not in first],
    )


def _answer(calls: Sequence[PendingCall], results: Mapping[int, Result]) -> None:
    """Give calls their results, by their positions, unless they have been cancelled."""
    for position, result in results.items():
        future = calls[position][FUTURE]
        if not future.done():
            future.set_result(result)


def fail(calls: Sequence[PendingCall], error: BaseException) -> None:
    """Fail every unanswered call with an error of its own: raising changes an error."""
    for _, _, _, future, _ in calls:
        if not future.done():
            future.set_exception(error if len(calls) == 1 else copied(error))
            # Its caller may have been cancelled in this turn of the loop, and never ask.
            future.exception()


def copied(error: E) -> E:
    """Return a copy of an error, caused by it, or itself if it cannot be copied."""
    another = error
    # Some errors cannot be made again from their arguments.
    with suppress(Exception):
        another = copy.copy(error)
        another.__cause__ = error.__cause__ or error
    return another
