"""Batches of rows: each stored in few statements, or what of it can be stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple, ParamSpec, TypeAlias, TypeVar

from aioupsert._adapters import is_retryable
from aioupsert._adapters.base import (
    Session,
    TransientError,
    is_stale,
    known_table,
)
from aioupsert._plan import Bad, Group, Typing, check_keys
from aioupsert._retrying import Deadline, back_off
from aioupsert._schema import Table, TableName
from aioupsert._sql.sending import Steps
from aioupsert._steps import Frame, Tally, Unstored, check_committed, framed
from aioupsert._upsert import warn
from aioupsert.errors import AioupsertError, NotAppliedError, UsageError

P = ParamSpec("P")
T = TypeVar("T")

ReadRows: TypeAlias = Callable[
    [Sequence[Any], Table, Typing], "tuple[list[Group], list[Bad]]"
]
"""Sorts rows into groups that are written together, and those that cannot be sent."""

AFTER_A_BATCH: Final = 6
"""How long to pause, as after so many attempts of a single row."""


class Batch(NamedTuple):
    """Rows, and their places in the input."""

    places: Sequence[int]
    rows: Sequence[Any]


class UnstoredError(Exception):
    """A row could not be stored; callers of the library never see this."""

    def __init__(self, unstored: Unstored) -> None:
        """Say which."""
        super().__init__(unstored)
        self.unstored = unstored


class Writer:
    """
    Writes batches of one call, or of one coalescer, to a table.

    Attributes:
        retries: How many attempts a transient error has ended.
    """

    def __init__(
        self,
        name: TableName,
        read: ReadRows,
        timeout: float | None,
        *,
        skip: bool,
        each: bool,
    ) -> None:
        """
        Write to a table.

        Args:
            name: Its name.
            read: Tells what the rows of a batch are.
            timeout: Seconds after which no batch is tried again.
            skip: Whether rows that cannot be stored are left out.
            each: Whether the result of each row is asked for.
        """
        self.retries = 0
        self._name = name
        self._read = read
        self._timeout = timeout
        self._skip = skip
        self._each = each

    async def store(
        self, session: Session, batch: Batch, *, alone: bool = False
    ) -> Tally:
        """
        Write a batch at once, or what can be written of it.

        Args:
            session: Where to.
            batch: The rows.
            alone: Whether a single statement may be the whole transaction, where one
                will do; what it leaves, `Tally.left` names.

        Raises:
            UnstoredError: A row could not be stored, and so the batch is not.
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
                if not changed and await is_stale(session, self._name, exc):
                    changed = True
                    continue
                if isinstance(exc, UnstoredError) or not _blames_row(session, exc):
                    raise
                failed = exc
            try:
                return await in_frame(session, self._sift, session, batch, failed)
            except Exception as exc:
                if session.in_transaction():
                    raise
                if not is_retryable(exc):
                    return await self._store_apart(session, batch, exc)
                deadline.check(exc)
            await self._pause()

    async def _store_apart(
        self, session: Session, batch: Batch, failed: Exception
    ) -> Tally:
        """Store halves, each committed by itself: the error may be one of COMMIT."""
        if not self._skip or not _blames_row(session, failed):
            raise failed
        tally = Tally(each=self._each)
        for half in _halves(batch):
            tally.merge(await self.store(session, half))
        return tally

    async def _pause(self) -> None:
        self.retries += 1
        await back_off(AFTER_A_BATCH)

    async def _sift(self, session: Session, batch: Batch, failed: Exception) -> Tally:
        """Write the rows that can be written; find those that cannot by halving."""
        tally = Tally(each=self._each)
        if len(batch.rows) == 1:
            unstored = Unstored(batch.places[0], batch.rows[0], failed)
            if not self._skip:
                raise UnstoredError(unstored)
            tally.unstored.append(unstored)
            return tally
        for half in _halves(batch):
            try:
                tally.merge(await self._write(session, half))
            except Exception as exc:
                if isinstance(exc, UnstoredError) or not _blames_row(session, exc):
                    raise
                tally.merge(await self._sift(session, half, exc))
        return tally

    async def _write(
        self, session: Session, batch: Batch, *, alone: bool = False
    ) -> Tally:
        """Write a batch in a transaction or savepoint of its own."""
        groups, unstored = await self._prepare(session, batch)
        dialect = session.dialect

        def write(tally: Tally) -> Steps[Tally]:
            for program, group in groups:
                yield from dialect.write_rows(program, group, tally)
                _count_calls(tally, group)
            return tally

        def write_alone(tally: Tally, body: Steps[Sequence[int]]) -> Steps[Tally]:
            left = yield from body
            _count_calls(tally, groups[0][1], left)
            return tally

        def steps(inside: bool) -> Steps[Tally]:  # noqa: FBT001  # see Session.run
            tally = Tally(each=self._each)
            if alone and not inside and len(groups) == 1:
                body = dialect.write_alone(*groups[0], tally)
                if body is not None:
                    return write_alone(tally, body)
            return framed(dialect.frame(in_transaction=inside), write(tally))

        tally = await session.run(steps) if groups else Tally(each=self._each)
        tally.name_places(batch.places)
        tally.unstored += unstored
        return tally

    async def _prepare(
        self, session: Session, batch: Batch
    ) -> tuple[list[tuple[Any, Group]], list[Unstored]]:
        """Sort a batch into groups with their statements, and the rows that have none."""
        known = await known_table(session, self._name)
        dialect = session.dialect
        groups, bad = self._read(batch.rows, known.table, dialect.typing)
        ready: list[tuple[Any, Group]] = []
        for group in groups:
            try:
                program = known.compile_rows(
                    group.shape, dialect, distinct=group.distinct
                )
            except AioupsertError as exc:
                bad += [Bad(place, exc) for place in group.calls]
                continue
            plan = program.single.plan
            warn(session, plan.warning)
            kept, wrong = check_keys(plan, group)
            bad += wrong
            if kept.places:
                ready.append((program, kept))
        unstored = [
            Unstored(batch.places[place], batch.rows[place], error)
            for place, error in sorted(bad, key=lambda item: item.place)
        ]
        if unstored and not self._skip:
            raise UnstoredError(unstored[0])
        return ready, unstored


def _count_calls(tally: Tally, group: Group, left: Sequence[int] = ()) -> None:
    """Count the calls of a group, but for those of rows that are left."""
    folded = {**group.folded}
    due: list[int] = []
    for place in (group.places[row] for row in left):
        due += [place, *folded.pop(place, ())]
    tally.left = due
    tally.follow(folded)
    tally.sent += len(group.places)


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    middle = len(batch.rows) // 2
    return (
        Batch(batch.places[:middle], batch.rows[:middle]),
        Batch(batch.places[middle:], batch.rows[middle:]),
    )


def _blames_row(session: Session, error: Exception) -> bool:
    if isinstance(error, AioupsertError):
        return isinstance(error, (NotAppliedError, UsageError))
    return not is_retryable(error) and session.blames_row(error)


async def in_frame(
    session: Session,
    work: Callable[P, Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Do work of several steps in one transaction, or in a savepoint of the caller's."""
    frame: Frame | None = None

    # What these find is what the steps before have left, which may still be under way
    # on a connection's thread when we are cancelled.
    def begin(inside: bool) -> Steps[None]:  # noqa: FBT001  # see Session.run
        nonlocal frame
        frame = session.dialect.frame(in_transaction=inside)
        yield frame.begin

    def commit(_: object) -> Steps[None]:
        nonlocal frame
        assert frame is not None  # noqa: S101  # see begin
        check_committed((yield frame.commit))
        frame = None

    def undo(_: object) -> Steps[None]:
        for send in () if frame is None else frame.undo:  # noqa: UP028  # the answers cannot be sent to a tuple
            yield send

    async with session.state.held():
        try:
            await session.run(begin)
            result = await work(*args, **kwargs)
            await session.run(commit)
        except BaseException:
            await session.run(undo)
            raise
        return result
