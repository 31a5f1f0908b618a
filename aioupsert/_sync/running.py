"""
One call of `sync_rows`, from its arguments to its result.

The rows of the source are written by the writer of bulk calls, a batch after the other,
in one transaction. What it reads of them, the keys, is noted; the rows of the scope that
are not among them are removed or marked in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Final, NamedTuple

from aioupsert._bulk.batching import checked_size, next_batch, source_of
from aioupsert._bulk.writing import BulkWrite, enter_transaction
from aioupsert._drivers import is_retryable, session_on
from aioupsert._engines.commands import StaleTableError
from aioupsert._execution.batches import AFTER_A_BATCH
from aioupsert._execution.retrying import Deadline, back_off
from aioupsert._execution.table_cache import read_table
from aioupsert._observation import observed
from aioupsert._plan import RejectedRow, RowGroup, RowGrouper, make_plan
from aioupsert.errors import BulkError, SyncRefusedError, UsageError
from aioupsert.results import Action, BulkResult, Progress, Result

if TYPE_CHECKING:
    from aioupsert._bulk.batching import Source
    from aioupsert._drivers.base import Session
    from aioupsert._engines.base import CompiledSync
    from aioupsert._engines.commands import ResultRows
    from aioupsert._execution.targets import Target
    from aioupsert._plan import BulkRequest, Plan, SyncRequest, ValueSemantics
    from aioupsert._plan.schema import Table
    from aioupsert.typing import Rows, Value

# Rows that are reported, each, are in memory, as are those that one command marks.
_REPORTED_ROWS: Final = 1_000
_MARKED_ROWS: Final = 5_000


class Options(NamedTuple):
    """How a call runs: the arguments of `sync_rows` of these names."""

    max_missing: float
    allow_empty: bool
    dry_run: bool
    on_result: Callable[[Result], object] | None
    batch_size: int | None
    progress: Callable[[Progress], object] | None
    timeout: float | None

    def check(self) -> None:
        """
        Check the options.

        Raises:
            UsageError: One is not valid.
        """
        limit: object = self.max_missing
        is_number = (
            isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0
        )
        if not is_number and not (isinstance(limit, float) and 0 <= limit <= 1):
            msg = (
                "max_missing is a share from 0.0 to 1.0, or a number of rows as int, not"
                f" {limit!r}"
            )
            raise UsageError(msg)

    def allows(self, missing: int, rows: int) -> bool:
        """Return whether so many of the rows of a scope may be missing."""
        limit = self.max_missing
        return missing <= (limit if isinstance(limit, int) else limit * rows)


async def sync_rows(
    target: Target, rows: Rows, request: SyncRequest, options: Options
) -> BulkResult:
    """Make the rows of a scope equal to those given."""
    size = options.batch_size
    if size is None and options.on_result is not None:
        size = _REPORTED_ROWS
    source = source_of(rows, checked_size(size))
    with observed("sync_rows", target.name) as observation:
        try:
            async with session_on(target.handle, options.timeout) as session:
                if observation is not None:
                    observation.event.system = session.engine.system
                result = await _attempts(session, source, target, request, options)
        except BulkError as exc:
            if observation is not None:
                observation.record(replace(exc.committed, rejected=(exc,)))
            raise
        if target.model is not None and not options.dry_run:
            await target.synchronize(removed=True)
        if observation is not None:
            observation.record(result)
        return result


async def _attempts(
    session: Session,
    source: Source,
    target: Target,
    request: SyncRequest,
    options: Options,
) -> BulkResult:
    """Make the call until it is not ended by a transient error."""
    own = not session.in_transaction()
    deadline = Deadline(options.timeout)
    while True:
        sync = _Sync(target, request, options)
        try:
            await _attempt(session, source, sync, deadline)
        except StaleTableError:
            if sync.is_reading or deadline.is_over():
                raise
        except Exception as exc:
            # What was reported cannot be taken back.
            may_repeat = own and is_retryable(exc) and options.on_result is None
            again = source.from_start() if may_repeat else None
            if again is None or deadline.is_over():
                raise
            source = again
        else:
            return sync.result()
        await back_off(AFTER_A_BATCH)


async def _attempt(
    session: Session, source: Source, sync: _Sync, deadline: Deadline
) -> None:
    try:
        async with AsyncExitStack() as stack:
            await enter_transaction(stack, session, deadline)
            await sync.run(session, source)
    except _DryRun:
        return


class _DryRun(Exception):  # noqa: N818  # it is not an error
    """Ends the transaction of a call that is not to store anything."""


class _NotingRows(RowGrouper):
    """Reads the rows of batches, and keeps those of a batch until they are noted."""

    def __init__(self, request: BulkRequest) -> None:
        super().__init__(request)
        self._groups: list[RowGroup] = []

    def group(
        self, rows: Sequence[Value], table: Table, semantics: ValueSemantics
    ) -> tuple[list[RowGroup], list[RejectedRow]]:
        """Sort the rows of a batch into groups."""
        groups, rejected = super().group(rows, table, semantics)
        # A batch that fails as a whole is read again in parts.
        self._groups = self._groups or groups
        return groups, rejected

    def take_groups(self) -> list[RowGroup]:
        """Return the groups of the batch that was stored, which has been read first."""
        groups, self._groups = self._groups, []
        return groups


class _Sync:
    """
    One attempt, in an open transaction.

    Attributes:
        is_reading: Whether rows of the source have been asked for.
    """

    def __init__(self, target: Target, request: SyncRequest, options: Options) -> None:
        self._target = target
        self._request = request
        self._options = options
        self._deleted = 0
        self.is_reading = False
        self._rows = _NotingRows(request.rows)
        self._write = BulkWrite(
            target.name,
            request.rows,
            options.timeout,
            each=options.on_result is not None,
            progress=options.progress,
            on_result=None if options.on_result is None else self._report,
            rows=self._rows,
        )

    def result(self) -> BulkResult:
        """Return what has been done."""
        self._write.report()
        return replace(self._write.result(), deleted=self._deleted)

    async def run(self, session: Session, source: Source) -> None:
        """
        Write the rows of the source; remove or mark the others of the scope.

        Raises:
            _DryRun: All is done, and is to be undone.
        """
        request = self._request
        # The open transaction keeps the table as it is from its first statement on.
        table = (await read_table(session, self._target.name)).table
        request.rows.check(table)
        plan = make_plan(request.removal, table)
        number = session.state.holds
        sync = session.engine.compile_sync(plan, request.scope, number)
        await session.run(sync.lock(request.values))
        size = 0
        if not request.keeps:
            size = await session.run(sync.begin(request.values))
        is_empty = self.is_reading = True
        self._write.enter(session)
        async with aclosing(source.batches()) as batches:
            timeout = self._options.timeout
            while (batch := await next_batch(batches, session, timeout)) is not None:
                is_empty = False
                await self._write.store(session, batch)
                if not request.keeps:
                    for group in self._rows.take_groups():
                        await session.run(sync.note(group))
        if is_empty and not self._options.allow_empty:
            raise SyncRefusedError(size, size, "the source is empty")
        if not request.keeps:
            await self._remove(session, sync, plan, size)
        if self._options.dry_run:
            raise _DryRun

    async def _remove(
        self, session: Session, sync: CompiledSync, plan: Plan, size: int
    ) -> None:
        values = self._request.values
        missing = await session.run(sync.find_missing(values))
        if not self._options.allows(missing, size):
            why = (
                f"more is missing than max_missing={self._options.max_missing!r} allows"
            )
            raise SyncRefusedError(missing, size, why)
        self._deleted = missing
        names = plan.returning
        step = _REPORTED_ROWS if names else _MARKED_ROWS
        for first in range(0, missing, step) if names or plan.update else ():
            last = min(first + step, missing)
            rows = await session.run(sync.read(first, last)) if names else ()
            marked: ResultRows = ()
            if plan.update:
                marked = await session.run(sync.mark(values, first, last))
            for row, new in zip_longest(rows, marked if names else ()):
                self._report(_removed(names, row, new))
        if missing and not plan.update:
            await session.run(sync.remove())
        await session.run(sync.end())

    def _report(self, result: Result) -> None:
        report = self._options.on_result
        if report is not None and result.action in _REPORTED:
            report(self._target.made(result, "*"))


def _removed(
    names: Sequence[str], old: Sequence[Value], new: Sequence[Value] | None
) -> Result:
    """Return the result of a row that was removed, or marked as it is now."""
    before = dict(zip(names, old, strict=True))
    if new is None:
        return Result(Action.DELETED, 1, old=before)
    after = dict(zip(names, new, strict=True))
    changed = tuple(name for name in names if after[name] != before[name])
    return Result(Action.DELETED, 1, (after,), before, changed)


_REPORTED: Final = frozenset({Action.CREATED, Action.UPDATED, Action.DELETED})
