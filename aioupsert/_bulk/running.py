"""Bulk calls, from their arguments to their results, over one connection or several."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from aioupsert._bulk.batching import Source, checked_size
from aioupsert._bulk.parallel import ParallelWriter
from aioupsert._bulk.writing import BulkWrite
from aioupsert._drivers import is_pool, session_on
from aioupsert._execution.targets import Target
from aioupsert._observation import observed
from aioupsert.errors import BulkError, UsageError

if TYPE_CHECKING:
    from aioupsert._drivers.base import Handle
    from aioupsert._plan.bulk_request import BulkArguments
    from aioupsert.events import Operation
    from aioupsert.results import BulkResult, Progress, Result
    from aioupsert.typing import Rows

# Results are yielded after the last row of their batch, so batches are small.
_ITERATED_ROWS: Final = 1_000


class Options(NamedTuple):
    """
    How a bulk call runs: the arguments of `create_or_update_many` of these names.

    Attributes:
        on_result: What is told the result of each row, in batches of one connection.
    """

    batch_size: int | None
    progress: Callable[[Progress], object] | None
    atomic: bool
    on_error: str
    connections: int
    timeout: float | None
    on_result: Callable[[Result], object] | None = None

    def check(self, conn: Handle) -> None:
        """
        Check the options against each other and the connection.

        Raises:
            UsageError: They contradict each other.
        """
        on_error, connections = self.on_error, self.connections
        if on_error not in {"raise", "skip"}:
            msg = f"on_error must be 'raise' or 'skip', not {on_error!r}"
            raise UsageError(msg)
        if on_error == "skip" and self.atomic and connections == 1:
            msg = (
                'on_error="skip" stores some rows and not others: it needs atomic=False'
            )
            raise UsageError(msg)
        if connections < 1:
            msg = f"connections must be 1 or more, not {connections!r}"
            raise UsageError(msg)
        if connections > 1 and not is_pool(conn):
            msg = f"connections={connections!r} needs a pool"
            raise UsageError(msg)


async def create_or_update_many(
    target: Target,
    rows: Rows,
    arguments: BulkArguments,
    options: Options,
) -> BulkResult:
    """Write all rows; return what became of them."""
    request = target.read_bulk(arguments)
    size = checked_size(options.batch_size)
    options.check(target.handle)
    write = BulkWrite(
        target.name,
        request,
        options.timeout,
        skip=options.on_error == "skip",
        progress=options.progress,
        each=options.on_result is not None,
        on_result=options.on_result,
    )
    source = Source(rows, size)
    with observed("create_or_update_many", target.name) as observation:
        try:
            if options.connections > 1:
                await ParallelWriter(
                    write, source, options.connections, options.timeout
                ).run(target.handle)
            else:
                async with session_on(target.handle, options.timeout) as session:
                    if observation is not None:
                        observation.event.system = session.engine.system
                    await write.write_all(session, source, atomic=options.atomic)
        except BulkError as exc:
            if observation is not None:
                observation.record(replace(exc.committed, rejected=(exc,)))
            raise
        if target.model is not None:
            await target.synchronize()
        write.report()
        result = write.result()
        if observation is not None:
            observation.record(result)
        return result


async def iter_create_or_update(
    target: Target,
    rows: Rows,
    arguments: BulkArguments,
    *,
    batch_size: int | None,
    timeout: float | None,
    operation: Operation = "iter_create_or_update",
) -> AsyncGenerator[Result]:
    """
    Write rows batch by batch; yield the result of each row.

    As `get_or_create_many` it first reads the rows that exist.
    """
    request = target.read_bulk(arguments)
    reads_first = operation == "get_or_create_many"
    write = BulkWrite(target.name, request, timeout, each=True, reads_first=reads_first)
    size = checked_size(_ITERATED_ROWS if batch_size is None else batch_size)
    source = Source(rows, size)
    async with session_on(target.handle, timeout) as session:
        await write.check(session)
    async for batch in source.batches():
        with observed(operation, target.name) as observation:
            async with session_on(target.handle, timeout) as session:
                if observation is not None:
                    observation.event.system = session.engine.system
                results = await write.results(session, batch)
            if observation is not None:
                observation.record_each(*results)
        if target.model is not None:
            await target.synchronize()
        for result in await target.translate_all(results, arguments["returning"]):
            yield result
