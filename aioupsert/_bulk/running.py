"""Bulk calls, from their arguments to their results, over one connection or several."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from aioupsert._bulk.batching import checked_size, source_of
from aioupsert._bulk.parallel import ParallelWriter
from aioupsert._bulk.writing import BulkWrite
from aioupsert._drivers import is_pool, session_on
from aioupsert._execution.calls import write
from aioupsert._execution.table_cache import cached_table
from aioupsert._execution.targets import Target
from aioupsert._observation import Observation, bulk_result, observed
from aioupsert._plan import BulkRequest, RowGrouper
from aioupsert.errors import BulkError, RetriesExhaustedError, UsageError
from aioupsert.results import Action

if TYPE_CHECKING:
    from aioupsert._bulk.batching import RowReader
    from aioupsert._drivers.base import Handle
    from aioupsert._plan.bulk_request import BulkArguments
    from aioupsert.events import Operation
    from aioupsert.results import BulkResult, Progress, Result
    from aioupsert.typing import Rows, Value

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
    rows: Rows | RowReader,
    arguments: BulkArguments,
    options: Options,
) -> BulkResult:
    """Write all rows; return what became of them."""
    request = target.read_bulk(arguments)
    size = checked_size(options.batch_size)
    options.check(target.handle)
    with observed("create_or_update_many", target.name) as observation:
        one = _only_row(rows)
        is_watched = options.progress is not None or options.on_result is not None
        if one is not None and target.model is None and not is_watched:
            stored = await _write_one(target, one, request, options, observation)
            if stored is not None:
                return stored
        bulk = BulkWrite(
            target.name,
            request,
            options.timeout,
            skip=options.on_error == "skip",
            progress=options.progress,
            each=options.on_result is not None,
            on_result=options.on_result,
        )
        source = source_of(rows, size)
        try:
            if options.connections > 1:
                await ParallelWriter(
                    bulk, source, options.connections, options.timeout
                ).run(target.handle)
            else:
                async with session_on(target.handle, options.timeout) as session:
                    if observation is not None:
                        observation.event.system = session.engine.system
                    await bulk.write_all(session, source, atomic=options.atomic)
        except BaseException as exc:
            bulk.report()
            if observation is not None and isinstance(exc, BulkError):
                observation.record(replace(exc.committed, rejected=(exc,)))
            raise
        if target.model is not None:
            await target.synchronize()
        bulk.report()
        result = bulk.result()
        if observation is not None:
            observation.record(result)
        return result


def _only_row(rows: object) -> Sequence[Value] | None:
    """Return rows of which there is only one, and that can be read again."""
    if type(rows) in _SEQUENCES:
        sequence = cast("Sequence[Value]", rows)
        return sequence if len(sequence) == 1 else None
    return None


async def _write_one(
    target: Target,
    rows: Sequence[Value],
    request: BulkRequest,
    options: Options,
    observation: Observation | None,
) -> BulkResult | None:
    """
    Write a single row as one call, which takes one round trip.

    Returns:
        What became of it; None if nothing was stored, and it is to be written like many
        rows, by a transaction of several steps.
    """
    if request.convert_text:
        return None
    try:
        shape, values = RowGrouper(request).read_row(rows[0])
        async with session_on(target.handle, options.timeout) as session:
            cached = cached_table(session, target.name)
            if cached is None or session.in_transaction():
                return None  # in a transaction it needs a savepoint
            request.check(cached.table)
            if observation is not None:
                observation.event.system = session.engine.system
            try:
                result = await write(
                    session, target.name, shape, values, options.timeout
                )
            except Exception as exc:
                is_over = isinstance(exc, RetriesExhaustedError)
                if is_over or session.fault_of(exc) == "connection":
                    raise
                return None
    except UsageError:
        return None
    done = _ONE_ROW[result.action]
    if observation is not None:
        observation.record(done)
    return done


_SEQUENCES: Final = frozenset({list, tuple})
_ONE_ROW: Final = {action: bulk_result(Counter((action,))) for action in Action}


async def iter_create_or_update(
    target: Target,
    rows: Rows,
    arguments: BulkArguments,
    *,
    batch_size: int | None,
    timeout: float | None,
    operation: Operation = "iter_create_or_update",
) -> AsyncGenerator[Sequence[Result]]:
    """
    Write rows batch by batch; yield the results of the rows of each.

    As `get_or_create_many` it first reads the rows that exist.
    """
    request = target.read_bulk(arguments)
    reads_first = operation == "get_or_create_many"
    write = BulkWrite(target.name, request, timeout, each=True, reads_first=reads_first)
    size = checked_size(_ITERATED_ROWS if batch_size is None else batch_size)
    source = source_of(rows, size)
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
        yield await target.translate_all(results, arguments["returning"])
