"""One bulk call over several connections of a pool."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

from aioupsert._drivers import session_on
from aioupsert._execution.batches import Batch

if TYPE_CHECKING:
    from aioupsert._bulk.batching import Source
    from aioupsert._bulk.writing import BulkWrite
    from aioupsert.typing import Connection


class ParallelWriter:
    """Writes rows over several connections, all rows of a key over the same one."""

    def __init__(
        self, write: BulkWrite, source: Source, connections: int, timeout: float | None
    ) -> None:
        self._write = write
        self._source = source
        self._timeout = timeout
        # One batch waits while another is written.
        self._queues = [
            asyncio.Queue[Batch | None](maxsize=1) for _ in range(connections)
        ]

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
        self, pool: Connection, queue: asyncio.Queue[Batch | None]
    ) -> None:
        async with session_on(pool, self._timeout) as session:
            while (batch := await queue.get()) is not None:
                await self._write.store(session, batch)
                queue.task_done()

    async def _read(self, pool: Connection) -> None:
        # The connection is given back: the pool may have no more than the writers need.
        async with session_on(pool, self._timeout) as session:
            table, engine = await self._write.check(session), session.engine
        async with aclosing(self._source.batches()) as batches:
            async for batch in batches:
                shares = self._write.share(table, engine, batch, len(self._queues))
                await self._hand_out(batch, shares)
        for queue in self._queues:
            await queue.put(None)

    async def _hand_out(self, batch: Batch, shares: list[Batch] | None) -> None:
        if shares is None:
            # It is not known which keys are equal: no other rows may be under way.
            await self._all_written()
            await self._queues[0].put(batch)
            await self._all_written()
            return
        for queue, share in zip(self._queues, shares, strict=True):
            if share.rows:
                await queue.put(share)

    async def _all_written(self) -> None:
        for queue in self._queues:
            await queue.join()
