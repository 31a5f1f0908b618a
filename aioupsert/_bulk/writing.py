"""
One bulk call: its batches one after the other, and what became of the rows.

All batches are written in one transaction, or each in one of its own. Outside the
caller's transaction, an atomic call that a deadlock or a serialization failure ends is
made again from its first row, if the rows can be read again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from aioupsert._bulk.batching import next_batch
from aioupsert._drivers import is_retryable
from aioupsert._drivers.base import TransientError
from aioupsert._engines.outcomes import BatchOutcome
from aioupsert._execution.batches import (
    AFTER_A_BATCH,
    LOCK_TIMEOUT,
    BatchWriter,
    RejectedRowError,
)
from aioupsert._execution.bisecting import Batch
from aioupsert._execution.retrying import Deadline, back_off
from aioupsert._execution.table_cache import reflected_table
from aioupsert._execution.transactions import transaction
from aioupsert._observation import bulk_result
from aioupsert._plan import RejectedRow, RowGrouper
from aioupsert.errors import BulkError
from aioupsert.results import BulkResult, Progress, Result

if TYPE_CHECKING:
    from aioupsert._bulk.batching import Source
    from aioupsert._drivers.base import Session
    from aioupsert._engines.base import Engine
    from aioupsert._plan import BulkRequest
    from aioupsert._plan.schema import Table, TableName

# Seconds between two reports of progress, at least.
_PROGRESS_INTERVAL: Final = 0.1


class BulkWrite:
    """One bulk call, and what it has done."""

    def __init__(
        self,
        name: TableName,
        request: BulkRequest,
        timeout: float | None,
        *,
        skip: bool = False,
        each: bool = False,
        reads_first: bool = False,
        progress: Callable[[Progress], object] | None = None,
        on_result: Callable[[Result], object] | None = None,
        rows: RowGrouper | None = None,
    ) -> None:
        """
        Begin a call.

        Args:
            name: The table's name.
            request: The arguments of the call.
            timeout: Seconds after which no batch is tried again.
            skip: Whether rows that cannot be stored are left out.
            each: Whether the result of each row is asked for.
            reads_first: Whether rows that exist are only read.
            progress: What is told of progress.
            on_result: What is told the result of each row, if *each* is true, once its
                batch is stored.
            rows: Reads the rows; by default, what the request says.
        """
        self.commits = True
        """Whether a stored batch stays stored, whatever comes after it."""
        self._inside = False  # whether the caller has a transaction open
        self._name = name
        self._request = request
        self._rows = rows or RowGrouper(request)
        self._timeout = timeout
        self._progress = progress
        self._on_result = on_result
        self._started = self._reported_at = time.monotonic()
        self._reported_rows: int = 0
        self._done = BatchOutcome(each=False)
        self._writer = BatchWriter(
            name, self._rows, timeout, skip=skip, each=each, reads_first=reads_first
        )
        self._skip, self._reads_first = skip, reads_first

    def result(self) -> BulkResult:
        """Return what has been done."""
        stored = bulk_result(self._done.counts)
        rejected = sorted(self._done.rejected, key=lambda row: row.position)
        errors = tuple(_error(row, stored) for row in rejected)
        return replace(stored, rejected=errors) if errors else stored

    async def check(self, session: Session) -> Table:
        """Check the arguments against the table, before any row is read."""
        table = (await reflected_table(session, self._name)).table
        self._request.check(table)
        return table

    async def store(
        self, session: Session, batch: Batch, *, gives_way: bool = False
    ) -> BatchOutcome:
        """
        Store a batch, and count it as done; on an error nothing of it is stored.

        Args:
            session: Where to.
            batch: The rows.
            gives_way: Whether a lock that is not had soon is an error of the batch.
        """
        writer = self._giving_way if gives_way else self._writer
        try:
            outcome = await writer.store(
                session, batch, inside=self._inside, alone="whole"
            )
        except RejectedRowError as exc:
            committed = bulk_result(self._done.counts) if self.commits else BulkResult()
            raise _error(exc.rejected, committed) from exc.rejected.error
        self._done.merge(outcome)
        if self._on_result is not None:
            results = outcome.results or {}
            for position in sorted(results):
                self._on_result(results[position])
        if self._progress is not None:
            self.report(interval=_PROGRESS_INTERVAL)
        return outcome

    def report(self, *, interval: float = 0.0) -> None:
        """Report rows that were not reported yet, if the last report is that old."""
        now = time.monotonic()
        if self._progress is None or now - self._reported_at < interval:
            return
        stored = bulk_result(self._done.counts)
        rows = stored.rows + len(self._done.rejected)
        if rows != self._reported_rows:
            self._reported_at, self._reported_rows = now, rows
            self._progress(Progress(rows, now - self._started, stored))

    def enter(self, session: Session) -> None:
        """Become part of the transaction that is open, if one is."""
        self._inside = session.in_transaction()
        self.commits = not self._inside

    async def results(self, session: Session, batch: Batch) -> list[Result]:
        """Store a batch, and return the result of each row."""
        self.enter(session)
        outcome = await self.store(session, batch)
        results = outcome.results or {}
        return [results[position] for position in batch.positions]

    def hashes(self, table: Table, engine: Engine, batch: Batch) -> list[int] | None:
        """Return a hash of each row's key; None if it is not known which are equal."""
        return self._rows.hashes(batch.rows, table, engine)

    @cached_property
    def _giving_way(self) -> BatchWriter:
        """What writes batches that do not wait for locks."""
        return BatchWriter(
            self._name,
            RowGrouper(self._request, LOCK_TIMEOUT),
            self._timeout,
            skip=self._skip,
            each=False,
            reads_first=self._reads_first,
            gives_way=True,
        )

    async def try_now(self, session: Session, batch: Batch) -> bool:
        """Store a batch if its rows can be locked soon; return whether it is stored."""
        try:
            await self.store(session, batch, gives_way=True)
        except Exception as exc:
            if session.fault_of(exc) != "lock":
                raise
            return False
        return True

    async def find_locked(self, session: Session, batch: Batch) -> set[int]:
        """Return which rows of a batch others have locked, as far as can be told."""
        found = await self._giving_way.find_locked(session, batch)
        return {position for position, exists in found or () if exists}

    async def write_all(
        self, session: Session, source: Source, *, atomic: bool
    ) -> None:
        """Write every batch, on one connection."""
        self._inside = session.in_transaction()
        own = not self._inside
        self.commits = own and not atomic
        await self.check(session)
        deadline = Deadline(self._timeout)
        while True:
            try:
                await self._write_once(session, source, deadline, atomic=atomic)
            except Exception as exc:
                # The rows of different batches are not sorted among each other, so one
                # transaction of several batches may have been chosen to end a deadlock.
                again = None
                if own and atomic and is_retryable(exc):
                    again = source.from_start()
                if again is None or deadline.is_over():
                    raise
                source = again
                self._done = BatchOutcome(each=False)
                await back_off(AFTER_A_BATCH)
            else:
                return

    async def _write_once(
        self, session: Session, source: Source, deadline: Deadline, *, atomic: bool
    ) -> None:
        async with aclosing(source.batches()) as batches, AsyncExitStack() as stack:
            batch = await anext(batches, None)
            # One batch by itself has a transaction of its own already.
            if batch is not None and atomic and not source.is_empty:
                await enter_transaction(stack, session, deadline)
            while batch is not None:
                await self.store(session, batch)
                if source.is_empty:
                    break
                batch = await next_batch(batches, session, self._timeout)


async def enter_transaction(
    stack: AsyncExitStack, session: Session, deadline: Deadline
) -> None:
    """Open a transaction that the stack ends, as soon as the database lets one begin."""
    while True:
        try:
            await stack.enter_async_context(transaction(session))
        except TransientError as exc:
            deadline.check(exc.__cause__)
        else:
            return
        await back_off(AFTER_A_BATCH)


def _error(rejected: RejectedRow, stored: BulkResult) -> BulkError:
    error = BulkError(rejected.position, rejected.row, rejected.error, stored)
    error.__cause__ = rejected.error
    return error
