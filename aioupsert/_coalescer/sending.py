"""
Sending a batch over a connection, and answering its callers.

A batch is one transaction, or a savepoint in the caller's; the rows at fault are left
out of it (see `BatchWriter`), so that a call that fails does so alone.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, TypeVar

from aioupsert._coalescer.queue import FUTURE, PendingCall
from aioupsert._drivers.base import Session
from aioupsert._execution.batches import Batch, BatchWriter
from aioupsert._execution.calls import write
from aioupsert._execution.table_cache import has_changed, read_table
from aioupsert._plan import CallGrouper
from aioupsert._plan.schema import Column, TableName
from aioupsert.errors import AioupsertError
from aioupsert.results import Result

E = TypeVar("E", bound=BaseException)

_UNANSWERED: Final = "aioupsert has lost this call; please report it"


class Sender:
    """
    Stores the calls of batches in a table, and answers their callers.

    Attributes:
        rows: How many rows have been sent.
    """

    def __init__(
        self, name: TableName, key: Sequence[str], timeout: float | None
    ) -> None:
        """
        Store calls in a table.

        Args:
            name: Its name.
            key: The columns that identify a row.
            timeout: Seconds after which no batch is tried again.
        """
        self.rows = 0
        self._name = name
        self._key = key
        self._timeout = timeout
        self._writer = BatchWriter(
            name, CallGrouper(tuple(key)), timeout, skip=True, each=True
        )

    @property
    def retries(self) -> int:
        """How many attempts were ended by a transient error."""
        return self._writer.retries

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

    async def send(self, session: Session, batch: Sequence[PendingCall]) -> None:
        """
        Store the calls whose callers have not been cancelled, and answer every caller.

        Raises:
            Exception: The batch failed as a whole; not every caller has been answered.
        """
        calls = [call for call in batch if not call[FUTURE].done()]
        alone = True
        while calls:
            calls = await self._store(session, calls, alone=alone)
            alone = False  # what is left would be left again
        # None is left; if one is, it must not hang.
        fail(batch, RuntimeError(_UNANSWERED))

    async def _store(
        self, session: Session, calls: list[PendingCall], *, alone: bool
    ) -> list[PendingCall]:
        """
        Store calls, and answer them.

        Args:
            session: Where to.
            calls: The calls.
            alone: Whether one statement may be the whole transaction; it may leave some
                of the calls.

        Returns:
            The calls that must be sent again, since nothing of them is stored.
        """
        used = session.state.tables.get(self._name)
        # In a transaction of the caller's it needs a savepoint, so as to fail alone.
        if len(calls) == 1 and not session.in_transaction():
            ((shape, values, _, future, _),) = calls
            self.rows += 1
            result = await write(session, self._name, shape, [*values], self._timeout)
            answer(future, result)
            return []
        batch = Batch(range(len(calls)), calls)
        outcome = await self._writer.store(
            session, batch, inside=session.in_transaction(), alone=alone
        )
        self.rows += outcome.sent
        results = outcome.results or {}
        for position, result in results.items():
            answer(calls[position][FUTURE], result)
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


def answer(future: asyncio.Future[Result], result: Result) -> None:
    """Set the result of a call, unless it has been cancelled."""
    if not future.done():
        future.set_result(result)


def fail(calls: Sequence[PendingCall], error: BaseException) -> None:
    """Fail every unanswered call with an error of its own: raising changes an error."""
    for _, _, _, future, _ in calls:
        if not future.done():
            future.set_exception(error if len(calls) == 1 else _copy(error))
            # Its caller may have been cancelled in this turn of the loop, and never ask.
            future.exception()


def _copy(error: E) -> E:
    """Return a copy of an error, caused by it, or itself if it cannot be copied."""
    another = error
    # Some errors cannot be made again from their arguments.
    with suppress(Exception):
        another = copy.copy(error)
        another.__cause__ = error.__cause__ or error
    return another
