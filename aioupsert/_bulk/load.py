"""One bulk call: what it has done, and its batches one after the other."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from aioupsert._adapters import is_retryable
from aioupsert._adapters.base import Known, Session, known_table
from aioupsert._batches import AFTER_A_BATCH, Batch, UnstoredError, Writer, in_frame
from aioupsert._bulk.source import Source
from aioupsert._plan import BulkCall, Typing, group_rows, share_rows
from aioupsert._retrying import Deadline, back_off
from aioupsert._schema import Table, TableName
from aioupsert._steps import Tally, Unstored
from aioupsert.errors import BulkError
from aioupsert.events import bulk_result
from aioupsert.results import BulkResult, Progress, Result

# In seconds; ten times a second at most.
_SHOWN_EVERY: Final = 0.1


class Load:
    """One bulk call, and what it has done."""

    def __init__(
        self,
        name: TableName,
        call: BulkCall,
        timeout: float | None,
        *,
        skip: bool = False,
        each: bool = False,
        progress: Callable[[Progress], object] | None = None,
    ) -> None:
        """Begin a call."""
        self.commits = True
        """Whether a batch that is stored stays, whatever comes after it."""
        self._name = name
        self._call = call
        self._timeout = timeout
        self._progress = progress
        self._started = self._shown = time.monotonic()
        self._done = Tally(each=False)
        self._writer = Writer(
            name,
            lambda rows, table, typing: group_rows(rows, call, table, typing),
            timeout,
            skip=skip,
            each=each,
        )

    def result(self) -> BulkResult:
        """Give what has been done."""
        stored = self._stored()
        unstored = sorted(self._done.unstored, key=lambda row: row.place)
        errors = tuple(_error(row, stored) for row in unstored)
        return replace(stored, rejected=errors) if errors else stored

    def _stored(self) -> BulkResult:
        return bulk_result(self._done.counts)

    def forget(self) -> None:
        """Start over, since all that was done has been undone."""
        self._done = Tally(each=False)

    def deadline(self) -> Deadline:
        """Start the time after which no new attempt is made."""
        return Deadline(self._timeout)

    async def check(self, session: Session) -> Known:
        """Check the arguments against the table, before any row is read."""
        known = await known_table(session, self._name)
        self._call.check(known.table)
        return known

    async def store(self, session: Session, batch: Batch) -> Tally:
        """Store a batch, and count it as done; on an error nothing of it is stored."""
        try:
            tally = await self._writer.store(session, batch)
        except UnstoredError as exc:
            committed = self._stored() if self.commits else BulkResult()
            raise _error(exc.unstored, committed) from exc.unstored.error
        self._done.merge(tally)
        self._show()
        return tally

    def _show(self) -> None:
        now = time.monotonic()
        if self._progress is not None and now - self._shown >= _SHOWN_EVERY:
            self._shown = now
            stored = self._stored()
            rows = stored.rows + len(self._done.unstored)
            self._progress(Progress(rows, now - self._started, stored))

    async def results(self, session: Session, batch: Batch) -> list[Result]:
        """Store a batch, and give the result of each row."""
        self.commits = not session.in_transaction()
        tally = await self.store(session, batch)
        results = tally.results or {}
        return [results[place] for place in batch.places]

    async def describe(self, session: Session) -> tuple[Table, Typing]:
        """Check the arguments, and give what is needed to tell keys apart."""
        known = await self.check(session)
        return known.table, session.dialect.typing

    def share(
        self, table: Table, typing: Typing, batch: Batch, number: int
    ) -> list[Batch] | None:
        """Split a batch by the rows' keys; None where nobody can tell which are equal."""
        shares = share_rows(batch.rows, self._call, table, typing, number)
        if shares is None:
            return None
        return [
            Batch([batch.places[p] for p in share], [batch.rows[p] for p in share])
            for share in shares
        ]


def _error(unstored: Unstored, stored: BulkResult) -> BulkError:
    error = BulkError(unstored.place, unstored.row, unstored.error, stored)
    error.__cause__ = unstored.error
    return error


async def write_all(
    session: Session, load: Load, source: Source, *, atomic: bool
) -> None:
    """Write every batch, on one connection."""
    own = not session.in_transaction()
    load.commits = own and not atomic
    await load.check(session)
    deadline = load.deadline()
    while True:
        try:
            await _write_once(session, load, source, atomic=atomic)
        except Exception as exc:
            # Batches of one transaction cannot be sorted among each other, so they may
            # have been chosen to end a deadlock.
            again = source.again() if own and atomic and is_retryable(exc) else None
            if again is None or deadline.is_over():
                raise
            source = again
            load.forget()
            await back_off(AFTER_A_BATCH)
        else:
            return


async def _write_once(
    session: Session, load: Load, source: Source, *, atomic: bool
) -> None:
    async with aclosing(source.batches()) as batches:
        first = await anext(batches, None)
        if first is None:
            return
        if atomic and not source.is_empty:
            await in_frame(session, _write_rest, session, load, first, batches)
        else:
            await _write_rest(session, load, first, batches)


async def _write_rest(
    session: Session, load: Load, first: Batch, batches: AsyncIterator[Batch]
) -> None:
    await load.store(session, first)
    async for batch in batches:
        await load.store(session, batch)
