"""
Batches of rows: each stored in few statements, or as much of it as can be stored.

A batch is written in one transaction, or in a savepoint of the caller's. If it fails,
it is bisected: its halves are written in savepoints of their own, and those that fail
are halved again, until the rows at fault stand alone, each with the error that it
causes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol

from aioupsert._drivers import is_retryable
from aioupsert._drivers.base import Session, TransientError
from aioupsert._engines.base import (
    IN_TRANSACTION,
    CompiledBatch,
    Engine,
    Steps,
    in_scope,
)
from aioupsert._engines.outcomes import BatchOutcome
from aioupsert._execution.retrying import Deadline, back_off
from aioupsert._execution.table_cache import (
    compile_batch,
    has_changed,
    reflected_table,
    warn,
)
from aioupsert._execution.transactions import transaction
from aioupsert._plan import RejectedRow, RowGroup, ValueSemantics, check_keys
from aioupsert._plan.schema import Table, TableName
from aioupsert.errors import AioupsertError, NotAppliedError, UsageError

AFTER_A_BATCH: Final = 6
"""A pause after a batch is as long as after so many attempts of one row."""


class RowReader(Protocol):
    """Reads the rows of a batch."""

    def group(
        self, rows: Sequence[Any], table: Table, semantics: ValueSemantics
    ) -> tuple[list[RowGroup], list[RejectedRow]]:
        """
        Sort rows into groups that are written together.

        Returns:
            The groups in the order in which they must be written, and the rows that
            cannot be sent.
        """
        ...


class Batch(NamedTuple):
    """Rows, and their positions in the input."""

    positions: Sequence[int]
    rows: Sequence[Any]


class RejectedRowError(Exception):
    """A row could not be stored; callers of the library never see this."""

    def __init__(self, rejected: RejectedRow) -> None:
        """Keep the row."""
        super().__init__(rejected)
        self.rejected = rejected


class BatchWriter:
    """
    Writes the batches of one bulk call, or of one coalescer, to a table.

    Attributes:
        retries: How many attempts were ended by a transient error.
    """

    def __init__(
        self,
        name: TableName,
        reader: RowReader,
        timeout: float | None,
        *,
        skip: bool,
        each: bool,
    ) -> None:
        """
        Write to a table.

        Args:
            name: Its name.
            reader: Reads the rows of a batch.
            timeout: Seconds after which no batch is tried again.
            skip: Whether rows that cannot be stored are left out.
            each: Whether the result of each row is asked for.
        """
        self.retries = 0
        self._name = name
        self._reader = reader
        self._timeout = timeout
        self._skip = skip
        self._each = each

    async def store(
        self, session: Session, batch: Batch, *, alone: bool = False
    ) -> BatchOutcome:
        """
        Write a batch at once, or what can be written of it.

        Args:
            session: Where to.
            batch: The rows.
            alone: Whether one statement may be the whole transaction, where one is
                enough; `BatchOutcome.left` has the rows that it did not write.

        Raises:
            RejectedRowError: A row could not be stored, and so the batch is not.
        """
        deadline = Deadline(self._timeout)
        changed = False
        while True:
            failed: Exception
            try:
                return await self._write(session, batch, alone=alone)
            except TransientError as exc:
                deadline.check(exc.__cause__)
                await self._pause()
                continue
            except Exception as exc:
                if not changed and await has_changed(session, self._name, exc):
                    changed = True
                    continue
                if isinstance(exc, RejectedRowError) or not _blames_row(session, exc):
                    raise
                failed = exc
            try:
                async with transaction(session):
                    return await self._bisect(session, batch, failed)
            except Exception as exc:
                if session.in_transaction():
                    raise
                if not is_retryable(exc):
                    return await self._store_apart(session, batch, exc)
                deadline.check(exc)
            await self._pause()

    async def _store_apart(
        self, session: Session, batch: Batch, failed: Exception
    ) -> BatchOutcome:
        """Store halves, each committed by itself: the error may be one of COMMIT."""
        if not self._skip or not _blames_row(session, failed):
            raise failed
        outcome = BatchOutcome(each=self._each)
        for half in _halves(batch):
            outcome.merge(await self.store(session, half))
        return outcome

    async def _pause(self) -> None:
        self.retries += 1
        await back_off(AFTER_A_BATCH)

    async def _bisect(
        self, session: Session, batch: Batch, failed: Exception
    ) -> BatchOutcome:
        """Write the rows that can be written; find those that cannot by halving."""
        outcome = BatchOutcome(each=self._each)
        if len(batch.rows) == 1:
            rejected = RejectedRow(batch.positions[0], failed, batch.rows[0])
            if not self._skip:
                raise RejectedRowError(rejected)
            outcome.rejected.append(rejected)
            return outcome
        for half in _halves(batch):
            try:
                outcome.merge(await self._write(session, half))
            except Exception as exc:
                if isinstance(exc, RejectedRowError) or not _blames_row(session, exc):
                    raise
                outcome.merge(await self._bisect(session, half, exc))
        return outcome

    async def _write(
        self, session: Session, batch: Batch, *, alone: bool = False
    ) -> BatchOutcome:
        """Write a batch in a transaction or savepoint of its own."""
        groups, rejected = await self._compile(session, batch)
        outcome = BatchOutcome(each=self._each)
        if groups:
            await session.run(_steps(session.engine, groups, outcome, alone=alone))
        outcome.use_input_positions(batch.positions)
        outcome.rejected += rejected
        return outcome

    async def _compile(
        self, session: Session, batch: Batch
    ) -> tuple[list[_Compiled], list[RejectedRow]]:
        """Sort a batch into groups with their statements, and rows that have none."""
        cached = await reflected_table(session, self._name)
        groups, bad = self._reader.group(batch.rows, cached.table, session.engine)
        ready: list[_Compiled] = []
        for group in groups:
            try:
                compiled = compile_batch(
                    session, cached, group.shape, distinct=group.distinct
                )
            except AioupsertError as exc:
                bad += [RejectedRow(position, exc) for position in group.calls]
                continue
            plan = compiled.per_row.plan
            if plan.warning is not None:
                warn(session, plan.warning)
            if plan.checks:
                group, wrong = check_keys(plan, group)  # noqa: PLW2901  # its rows but the wrong ones
                bad += wrong
            if group.positions:
                ready.append((compiled, group))
        if not bad:
            return ready, bad
        rejected = [
            RejectedRow(
                batch.positions[row.position], row.error, batch.rows[row.position]
            )
            for row in sorted(bad, key=lambda row: row.position)
        ]
        if not self._skip:
            raise RejectedRowError(rejected[0])
        return ready, rejected


_Compiled = tuple[CompiledBatch, RowGroup]


def _steps(
    engine: Engine,
    groups: Sequence[_Compiled],
    outcome: BatchOutcome,
    *,
    alone: bool,
) -> Steps[None]:
    """Write groups in one transaction, or by one statement that is one."""
    inside = bool((yield IN_TRANSACTION))
    if alone and not inside and len(groups) == 1:
        ((compiled, group),) = groups
        body = compiled.write_autocommit(group, outcome)
        if body is not None:
            left = yield from body
            _count_calls(outcome, group, left)
            return
    scope = engine.scope(in_transaction=inside)
    yield from in_scope(scope, _write_groups(groups, outcome))


def _write_groups(groups: Sequence[_Compiled], outcome: BatchOutcome) -> Steps[None]:
    for compiled, group in groups:
        yield from compiled.write(group, outcome)
        _count_calls(outcome, group)


def _count_calls(
    outcome: BatchOutcome, group: RowGroup, left: Sequence[int] = ()
) -> None:
    """Count the calls of a group, but for those of rows that are left."""
    merged = group.merged
    if left:
        positions = [group.positions[row] for row in left]
        outcome.left = [p for q in positions for p in (q, *merged.get(q, ()))]
        merged = {p: those for p, those in merged.items() if p not in positions}
    if merged:
        outcome.add_merged(merged)
    outcome.sent += len(group.positions)


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch.rows) // 2
    return (
        Batch(batch.positions[:middle], batch.rows[:middle]),
        Batch(batch.positions[middle:], batch.rows[middle:]),
    )


def _blames_row(session: Session, error: Exception) -> bool:
    if isinstance(error, AioupsertError):
        return isinstance(error, (NotAppliedError, UsageError))
    return not is_retryable(error) and session.blames_row(error)
