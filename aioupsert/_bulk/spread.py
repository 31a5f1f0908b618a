"""One bulk call over several connections of a pool."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from aioupsert._adapters import with_session
from aioupsert._adapters.base import Session
from aioupsert._batches import Batch
from aioupsert._bulk.load import Load
from aioupsert._bulk.source import Source

if TYPE_CHECKING:
    from aioupsert.typing import Connection

T = TypeVar("T")


class Spread:
    """Rows over several connections, those with the same key over the same one."""

    def __init__(self, load: Load, source: Source, connections: int) -> None:
        self._load = load
        self._source = source
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
                    group.create_task(_awaited(with_session(pool, self._write, queue)))
        except BaseExceptionGroup as errors:
            # Every task raises one error, and the first has ended the others.
            error = errors.exceptions[0]
            raise error from error.__cause__

    async def _write(
        self, session: Session, queue: asyncio.Queue[Batch | None]
    ) -> None:
        while (batch := await queue.get()) is not None:
            await self._load.store(session, batch)
            queue.task_done()

    async def _read(self, pool: Connection) -> None:
        # Not held meanwhile: the pool may have no more than the writers need.
        table, typing = await with_session(pool, self._load.describe)
        async with aclosing(self._source.batches()) as batches:
            async for batch in batches:
                shares = self._load.share(table, typing, batch, len(self._queues))
                await self._hand_out(batch, shares)
        for queue in self._queues:
            await queue.put(None)

    async def _hand_out(self, batch: Batch, shares: list[Batch] | None) -> None:
        if shares is None:
            # Nobody can tell which keys are the same: nothing else may be under way.
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


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
