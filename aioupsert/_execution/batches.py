"""
Batches of rows: each stored in few statements, or as much of it as can be stored.

A batch is written in one transaction, or in a savepoint of the caller's. If it fails,
it is bisected: its halves are written in savepoints of their own, and those that fail
are halved again, until the rows at fault stand alone, each with the error that it
causes by itself. `bisecting` says where a batch is better split elsewhere. A part of
several rows is not tried where it is known to fail, as all others have passed.

Trying decides whose fault an error is, not a list of codes: a row is at fault if it
fails alone while others of the batch pass. Only of some errors it is known beforehand
that they come from a row's values. Of any other, some rows are tried before the first
one is blamed; if none of them passes either, the error is not one of a row, and is
raised as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import chain
from typing import Final, Literal, Protocol, TypeAlias

from aioupsert._drivers import is_retryable
from aioupsert._drivers.base import Session, TransientError
from aioupsert._engines.base import CompiledBatch, CompiledGroup, Engine
from aioupsert._engines.commands import (
    IN_TRANSACTION,
    FoundRows,
    Steps,
    TransactionScope,
    in_scope,
    single_command,
)
from aioupsert._engines.outcomes import BatchOutcome
from aioupsert._execution.bisecting import Batch, Search
from aioupsert._execution.retrying import Deadline, back_off
from aioupsert._execution.table_cache import (
    MAX_REFRESHES,
    compile_batch,
    has_changed,
    reflected_table,
    warn,
)
from aioupsert._execution.transactions import transaction
from aioupsert._plan import (
    RejectedRow,
    RowGroup,
    ValueSemantics,
    check_keys,
    lacking_values,
)
from aioupsert._plan.pinning import pin_rows
from aioupsert._plan.schema import Table, TableName
from aioupsert.errors import AioupsertError, NotAppliedError, UsageError
from aioupsert.typing import Value

Alone: TypeAlias = Literal["never", "whole", "in part"]
"""
When one statement may be the whole transaction that writes a batch.

``whole``: if it writes all rows or none; ``in part``: even if `BatchOutcome.left` has rows
that it did not write.
"""

# What a row may have caused.
_OF_A_ROW: Final = frozenset({"row", "lock", "unknown"})
LOCK_TIMEOUT: Final = 50
"""
For how many milliseconds a batch that gives way waits for a lock.

Longer than other batches, or a short transaction, have rows locked; but not so long that
callers would notice.
"""
AFTER_A_BATCH: Final = 6
"""A pause after a batch is as long as after so many attempts of one row."""


class RowReader(Protocol):
    """Reads the rows of a batch."""

    def group(
        self, rows: Sequence[Value], table: Table, semantics: ValueSemantics, /
    ) -> tuple[list[RowGroup], list[RejectedRow]]:
        """
        Sort rows into groups that are written together.

        Returns:
            The groups in the order in which they must be written, and the rows that
            cannot be sent.
        """
        ...


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
        reads_first: bool = False,
        gives_way: bool = False,
    ) -> None:
        """
        Write to a table.

        Args:
            name: Its name.
            reader: Reads the rows of a batch.
            timeout: Seconds after which no batch is tried again.
            skip: Whether rows that cannot be stored are left out.
            each: Whether the result of each row is asked for.
            reads_first: Whether rows that exist are only read, outside of a transaction
                and without a lock.
            gives_way: Whether a lock that is not had in time ends the whole batch, of
                which nothing is stored then.
        """
        self.retries = 0
        self._some_pass = False
        self._name = name
        self._reader = reader
        self._timeout = timeout
        self._skip = skip
        self._each = each
        self._reads_first = reads_first
        self._gives_way = gives_way

    async def store(
        self, session: Session, batch: Batch, *, inside: bool, alone: Alone = "never"
    ) -> BatchOutcome:
        """
        Write a batch at once, or what can be written of it.

        Args:
            session: Where to.
            batch: The rows.
            inside: Whether the caller has a transaction open.
            alone: When one statement may be the whole transaction, where one is enough.

        Raises:
            RejectedRowError: A row could not be stored, and so the batch is not.
        """
        deadline = Deadline(self._timeout)
        refreshes = 0
        while True:
            used = session.state.tables.get(self._name)
            try:
                outcome = await self._write(session, batch, alone=alone, own=not inside)
            except TransientError as exc:
                deadline.check(exc.__cause__)
            except Exception as exc:
                error = exc
                if isinstance(exc, RejectedRowError):
                    error = exc.rejected.error
                if refreshes < MAX_REFRESHES and await has_changed(
                    session, self._name, error, used, rolled_back=True
                ):
                    refreshes += 1
                    continue
                if not inside and session.fault_of(exc) == "transaction":
                    return await self._store_others(session, batch, exc)
                if not self._may_be_bisected(session, exc):
                    raise
                stored = await self._store_what_passes(session, batch, exc, deadline)
                if stored is not None:
                    return stored
            else:
                self._some_pass = True
                return outcome
            await self._pause()

    async def find_locked(self, session: Session, batch: Batch) -> FoundRows | None:
        """
        Return the rows that others have locked, or that do not exist.

        Returns:
            Their positions in the batch, each with whether the row exists; None if it
            cannot be told.
        """
        groups, _ = await self._compile(session, batch)
        return await _found(session, [c.find_locked(group) for c, group in groups])

    async def find_holders(self, session: Session, batch: Batch) -> FoundRows | None:
        """Return rows, each with a session that has locked it; None if it is unknown."""
        groups, _ = await self._compile(session, batch)
        return await _found(session, [c.find_holders(group) for c, group in groups])

    async def _store_what_passes(
        self, session: Session, batch: Batch, failed: Exception, deadline: Deadline
    ) -> BatchOutcome | None:
        """Store the rows of a failed batch that pass; None if it is due again."""
        search = Search(batch, failed, some_pass=self._some_pass)
        if self._skip:
            # Rows that cannot be read, as a type of the caller's refuses them, have
            # nothing in common that is known.
            with contextlib.suppress(Exception):
                groups, _ = await self._compile(session, batch)
                lacking = [lacking_values(c.per_row.plan, g) for c, g in groups]
                search.suspect_from([group for _, group in groups], chain(*lacking))
        try:
            async with transaction(session):
                return await self._bisect(session, batch, failed, search)
        except Exception as exc:
            if session.in_transaction() or exc is failed:
                raise
            if not is_retryable(exc):
                return await self._store_apart(session, batch, exc)
            deadline.check(exc)
            return None

    async def _store_apart(
        self, session: Session, batch: Batch, failed: Exception
    ) -> BatchOutcome:
        """Store halves, each committed by itself: the error may be one of COMMIT."""
        if (
            not self._skip
            or not self._may_be_bisected(session, failed)
            or len(batch.rows) == 1
        ):
            raise failed
        outcome = BatchOutcome(each=self._each)
        for half in batch.split(len(batch.rows) // 2):
            outcome.merge(await self.store(session, half, inside=False))
        return outcome

    async def _store_others(
        self, session: Session, batch: Batch, failed: Exception
    ) -> BatchOutcome:
        """
        Store a batch without the row whose error has ended the whole transaction.

        The row is found by halving, in transactions that are undone: whatever was
        written before it is gone, and must not be written again by itself. Each is of
        the rows from the first on, as the error may come of a row before.

        Raises:
            RejectedRowError: Rows are not to be left out.
        """
        positions, rows = batch
        first, last = 0, len(rows)
        while last - first > 1:
            middle = (first + last) // 2
            if await self._passes(session, Batch(positions[:middle], rows[:middle])):
                first = middle
            else:
                last = middle
        if len(rows) > 1:
            up_to_it = Batch(positions[:last], rows[:last])
            failed = await self._error_of(session, up_to_it) or failed
        rejected = RejectedRow(positions[first], failed, rows[first])
        if not self._skip:
            raise RejectedRowError(rejected)
        outcome = BatchOutcome(each=self._each)
        outcome.rejected.append(rejected)
        others = Batch(
            [*positions[:first], *positions[last:]], [*rows[:first], *rows[last:]]
        )
        if others.rows:
            outcome.merge(await self.store(session, others, inside=False))
        return outcome

    async def _pause(self) -> None:
        self.retries += 1
        await back_off(AFTER_A_BATCH)

    async def _bisect(
        self, session: Session, batch: Batch, failed: Exception, search: Search
    ) -> BatchOutcome:
        """Write the rows that can be written; find those that cannot by splitting."""
        if len(batch.rows) == 1:
            return await self._reject(session, batch, failed, search)
        outcome = BatchOutcome(each=self._each)
        rest, has_fault = batch, True
        while rest.rows:
            part, rest = search.split(rest, has_fault=has_fault)
            if search.is_likely(part.positions[0]):
                written, left = await self._write_each(session, part, search)
                rest = left.followed_by(rest)
                has_fault = has_fault and not written.rejected
                outcome.merge(written)
                continue
            try:
                written = await self._write(session, part)
            except Exception as exc:
                if not self._may_be_bisected(session, exc):
                    raise
                has_fault = False
                outcome.merge(await self._bisect(session, part, exc, search))
            else:
                outcome.merge(written)
                search.note_passed(part)
        return outcome

    async def _write_each(
        self, session: Session, batch: Batch, search: Search
    ) -> tuple[BatchOutcome, Batch]:
        """
        Write rows one by one, as long as they are likely at fault.

        A savepoint is kept from one to the next, until a row passes.

        Returns:
            What became of them, and the rows that are left.
        """
        groups, rejected = await self._compile(session, batch)
        rest = Batch((), ())
        if any(group.merged for _, group in groups):
            batch, rest = batch.split(1)
            groups, rejected = await self._compile(session, batch)
        outcome = BatchOutcome(each=self._each)
        outcome.rejected += rejected
        places = sorted(
            (position, number, row)
            for number, (_, group) in enumerate(groups)
            for row, position in enumerate(group.positions)
        )
        level = session.engine.scope("batch", in_transaction=True)
        first = scope = level._replace(rollback=level.undo)
        for at, (index, number, row) in enumerate(places):
            if not search.is_likely(batch.positions[index]):
                left = batch.some([index for index, _, _ in places[at:]])
                rest = left.followed_by(rest)
                break
            compiled, group = groups[number]
            alone = group.part([row])._replace(positions=[0])
            part = batch.some([index])
            written = BatchOutcome(each=self._each)
            steps = _steps(
                session.engine,
                [(compiled, alone)],
                written,
                alone="never",
                reads_first=self._reads_first,
                scope=scope,
            )
            try:
                await session.run(steps)
            except Exception as exc:
                if not self._may_be_bisected(session, exc):
                    raise
                outcome.merge(await self._reject(session, part, exc, search))
                scope = first._replace(begin=IN_TRANSACTION)  # it is open
            else:
                written.use_input_positions(part.positions)
                outcome.merge(written)
                search.note_passed(part)
                scope = first
        if scope is not first:
            await session.run(single_command(level.commit))
        return outcome, rest

    async def _reject(
        self, session: Session, batch: Batch, failed: Exception, search: Search
    ) -> BatchOutcome:
        """
        Reject a row that has failed alone.

        Raises:
            RejectedRowError: Rows are not to be left out.
        """
        if not search.some_pass and not _comes_from_row(session, failed):
            await self._try_others(session, batch, search)
        rejected = RejectedRow(batch.positions[0], failed, batch.rows[0])
        if not self._skip:
            raise RejectedRowError(rejected)
        outcome = BatchOutcome(each=self._each)
        outcome.rejected.append(rejected)
        search.note_fault(batch.positions[0])
        return outcome

    async def _try_others(self, session: Session, batch: Batch, search: Search) -> None:
        """
        Check that a row is at fault, and not whatever is sent.

        Raises:
            Exception: Other rows fail as well; the error of the whole batch.
        """
        (position,) = batch.positions
        for other in search.samples():
            if other.positions[0] != position and await self._passes(session, other):
                search.some_pass = True
                return
        raise search.failed

    async def _passes(self, session: Session, batch: Batch) -> bool:
        """Return whether a batch can be written; undo it."""
        return await self._error_of(session, batch) is None

    async def _error_of(self, session: Session, batch: Batch) -> Exception | None:
        """Return the error that a batch causes, if it causes one; undo it."""
        try:
            async with transaction(session):
                await self._write(session, batch)
                raise _UndoError  # noqa: TRY301  # what leaves a transaction undone
        except _UndoError:
            return None
        except Exception as exc:
            if (
                isinstance(exc, TransientError)
                or is_retryable(exc)
                or session.fault_of(exc) == "connection"
                or self._is_for_lock(session, exc)
            ):
                raise
            return exc

    def _may_be_bisected(self, session: Session, error: Exception) -> bool:
        """Return whether rows may pass alone, although they have failed together."""
        if isinstance(error, RejectedRowError) or is_retryable(error):
            return False
        if isinstance(error, AioupsertError):
            return _comes_from_row(session, error)
        return session.fault_of(error) in _OF_A_ROW and not self._is_for_lock(
            session, error
        )

    def _is_for_lock(self, session: Session, error: Exception) -> bool:
        """Return whether an error ends a batch that gives way to locks."""
        return self._gives_way and session.fault_of(error) == "lock"

    async def _write(
        self,
        session: Session,
        batch: Batch,
        *,
        alone: Alone = "never",
        own: bool = False,
    ) -> BatchOutcome:
        """Write a batch in a transaction of its own, or a savepoint."""
        groups, rejected = await self._compile(session, batch)
        outcome = BatchOutcome(each=self._each, skips=self._skip)
        if groups:
            steps = _steps(
                session.engine,
                groups,
                outcome,
                alone=alone,
                own=own,
                reads_first=self._reads_first,
            )
            await session.run(steps)
        outcome.use_input_positions(batch.positions)
        skipped = [
            row._replace(error=session.as_host(row.error)) for row in outcome.rejected
        ]
        outcome.sent -= len(skipped)
        outcome.rejected = [*_of_input(skipped, batch), *rejected]
        return outcome

    async def _compile(
        self, session: Session, batch: Batch
    ) -> tuple[list[CompiledGroup], list[RejectedRow]]:
        """Sort a batch into groups with their statements, and rows that have none."""
        cached = await reflected_table(session, self._name)
        groups, bad = self._reader.group(batch.rows, cached.table, session.engine)
        ready: list[CompiledGroup] = []
        if cached.table.constants:
            groups = [part for g in groups for part in pin_rows(g, cached.table)]
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
        rejected = _of_input(sorted(bad, key=lambda row: row.position), batch)
        if not self._skip:
            raise RejectedRowError(rejected[0])
        return ready, rejected


def _of_input(rejected: Sequence[RejectedRow], batch: Batch) -> list[RejectedRow]:
    """Return rows of a batch with their positions in the input."""
    return [
        RejectedRow(batch.positions[row.position], row.error, batch.rows[row.position])
        for row in rejected
    ]


async def _found(
    session: Session, queries: Sequence[Steps[FoundRows] | None]
) -> FoundRows | None:
    found: FoundRows = []
    for steps in queries:
        if steps is None:
            return None
        found += await session.run(steps)
    return found


class _UndoError(Exception):
    """Ends a transaction whose work is not to be kept."""


def _steps(
    engine: Engine,
    groups: Sequence[CompiledGroup],
    outcome: BatchOutcome,
    *,
    alone: Alone,
    reads_first: bool,
    own: bool = False,
    scope: TransactionScope | None = None,
) -> Steps[None]:
    """
    Write groups in one transaction, or by one statement that is one.

    Args:
        engine: The engine.
        groups: The rows.
        outcome: Where to record what became of them.
        alone: When one statement may be the whole transaction.
        reads_first: Whether rows that exist are only read.
        own: Whether a transaction that is open is not the caller's.
        scope: The transaction or savepoint; by default, one for a batch.
    """
    if reads_first:
        groups = yield from _read_existing(groups, outcome)
        if not groups:
            return
    inside = bool((yield IN_TRANSACTION))
    if alone != "never" and not inside and len(groups) == 1:
        ((compiled, group),) = groups
        body = compiled.write_autocommit(group, outcome, whole=alone == "whole")
        if body is not None:
            _count_calls(outcome, compiled, group, (yield from body))
            return
    scope = scope or engine.scope("batch", in_transaction=inside)
    yield from in_scope(scope, engine.write(groups, outcome, own=own or not inside))
    for compiled, group in groups:
        _count_calls(outcome, compiled, group)


def _read_existing(
    groups: Sequence[CompiledGroup], outcome: BatchOutcome
) -> Steps[Sequence[CompiledGroup]]:
    """Record the rows that exist; return the groups of the others."""
    missing: list[CompiledGroup] = []
    for compiled, group in groups:
        left = yield from compiled.read_existing(group, outcome)
        rest = group.part(left)
        found = {p: q for p, q in group.merged.items() if p not in rest.merged}
        outcome.add_merged(found, updates=False)
        if left:
            missing.append((compiled, rest._replace(judged=True)))
    return missing


def _count_calls(
    outcome: BatchOutcome,
    compiled: CompiledBatch,
    group: RowGroup,
    left: Sequence[int] = (),
) -> None:
    """Count the calls of a group, but for those of rows that are left."""
    merged = group.merged
    if left:
        positions = [group.positions[row] for row in left]
        outcome.left = [p for q in positions for p in (q, *merged.get(q, ()))]
        merged = {p: those for p, those in merged.items() if p not in positions}
    if merged:
        outcome.add_merged(merged, updates=bool(compiled.per_row.plan.update))
    outcome.sent += len(group.positions)


def _comes_from_row(session: Session, error: Exception) -> bool:
    """Return whether an error is known to come from the values of a row."""
    if isinstance(error, AioupsertError):
        return isinstance(error, (NotAppliedError, UsageError))
    return session.fault_of(error) == "row"
