"""
One bulk call over several connections of a pool.

A row that another session has locked does not hold up the rest: a connection sets it
aside, with all later rows of its key, and waits for it when the other rows are written.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from aioupsert._drivers import session_on
from aioupsert._execution.bisecting import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioupsert._bulk.batching import Source
    from aioupsert._bulk.writing import BulkWrite
    from aioupsert._drivers.base import Session
    from aioupsert.typing import Connection, Value


_MOST_ASIDE: Final = 5_000
"""How many rows wait for locks at most until the whole call does."""


class _Share(NamedTuple):
    """
    Rows for one connection.

    Attributes:
        batch: The rows.
        hashes: A hash of the key of each; None if it is not known which are equal.
        is_last: Whether nothing may be left when they are written.
    """

    batch: Batch
    hashes: Sequence[int] | None = None
    is_last: bool = False


_Work: TypeAlias = "_Share | None"
"""What a connection writes next; None at the end."""


class _Aside:
    """
    Rows that others have locked, and those with the same keys that came later.

    Attributes:
        positions: Where they were in the input.
        rows: The rows.
        hashes: The hashes of their keys.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.positions: list[int] = []
        self.rows: list[Value] = []
        self.hashes: set[int] = set()

    def add(self, batch: Batch) -> None:
        """Add rows."""
        self.positions += batch.positions
        self.rows += batch.rows

    def clear(self) -> None:
        """Remove all."""
        self.positions.clear()
        self.rows.clear()
        self.hashes.clear()


class ParallelWriter:
    """Writes rows over several connections, all rows of a key over the same one."""

    def __init__(
        self, write: BulkWrite, source: Source, connections: int, timeout: float | None
    ) -> None:
        self._write = write
        self._source = source
        self._timeout = timeout
        # One batch waits while another is written.
        self._queues = [asyncio.Queue[_Work](maxsize=1) for _ in range(connections)]

    async def run(self, pool: Connection) -> None:
        """Write every batch; the first error ends the work of all."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(pool))
                for queue in self._queues:
                    group.create_task(self._write_shares(pool, queue))
        except BaseExceptionGroup as errors:
            # Every task raises one error, and the first has ended the others.
            error = errors.exceptions[0]
            raise error from error.__cause__

    async def _write_shares(
        self, pool: Connection, queue: asyncio.Queue[_Work]
    ) -> None:
        aside = _Aside()
        async with session_on(pool, self._timeout) as session:
            _raise_if_cancelled()
            while (share := await queue.get()) is not None:
                if share.hashes is not None and session.engine.lock_limits is not None:
                    await self._write_free(session, share, share.hashes, aside)
                elif share.batch.rows:
                    await self._write.store(session, share.batch)
                if share.is_last or len(aside.positions) >= _MOST_ASIDE:
                    await self._wait_for(session, aside)
                queue.task_done()
            await self._wait_for(session, aside)

    async def _write_free(
        self, session: Session, share: _Share, hashes: Sequence[int], aside: _Aside
    ) -> None:
        """Write the rows that others have not locked, and set the rest aside."""
        parts: list[Sequence[int]] = [range(len(hashes))]
        looks = False
        while parts:
            part = parts.pop(0)
            batch = share.batch.some(part)
            if looks:
                locked = await self._write.find_locked(session, batch)
                aside.hashes.update(hashes[part[at]] for at in locked)
            # All later rows with the key of one that waits have to wait, too.
            free = [at for at in part if hashes[at] not in aside.hashes]
            aside.add(share.batch.some([a for a in part if hashes[a] in aside.hashes]))
            if not free or await self._write.try_now(session, share.batch.some(free)):
                continue
            if len(free) == 1:
                aside.hashes.add(hashes[free[0]])
                aside.add(share.batch.some(free))
                continue
            # Python 3.11 traces no line here, after an error was thrown through steps.
            halve, looks = looks and len(free) == len(part), True  # pragma: no cover
            parts[:0] = _parts(free, halve=halve)  # pragma: no cover

    async def _wait_for(self, session: Session, aside: _Aside) -> None:
        """Write what was set aside, however long that takes."""
        batch = Batch([*aside.positions], [*aside.rows])
        aside.clear()
        if batch.rows:
            await self._write.store(session, batch)

    async def _read(self, pool: Connection) -> None:
        # The connection is given back: the pool may have no more than the writers need.
        async with session_on(pool, self._timeout) as session:
            _raise_if_cancelled()
            table, engine = await self._write.check(session), session.engine
        async with aclosing(self._source.batches()) as batches:
            async for batch in batches:
                await self._hand_out(batch, self._write.hashes(table, engine, batch))
        for queue in self._queues:
            await queue.put(None)

    async def _hand_out(self, batch: Batch, hashes: list[int] | None) -> None:
        if hashes is None:
            # It is not known which keys are equal: no other rows may be under way.
            await self._all_written()
            await self._queues[0].put(_Share(batch))
            await self._all_written()
            return
        number = len(self._queues)
        for at, queue in enumerate(self._queues):
            its = [n for n, key in enumerate(hashes) if key % number == at]
            if its:
                await queue.put(_Share(batch.some(its), [hashes[n] for n in its]))

    async def _all_written(self) -> None:
        for queue in self._queues:
            await queue.put(_Share(Batch((), ()), (), is_last=True))
        for queue in self._queues:
            await queue.join()


def _raise_if_cancelled() -> None:
    """
    Raise CancelledError in a task whose cancellation was lost while it acquired a connection.

    psycopg_pool may lose one on Python 3.11, where ``asyncio.wait_for`` returns the result of
    what has just ended (python/cpython#86296). The others would wait for this task forever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _parts(rows: Sequence[int], *, halve: bool) -> list[Sequence[int]]:
    """Return the parts in which rows are tried again that could not be locked."""
    if not halve:
        return [rows]
    middle = len(rows) // 2
    return [rows[:middle], rows[middle:]]
