"""`create_or_update_many` and `iter_create_or_update`."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, ParamSpec, TypeVar

from aioupsert._adapters import is_pool, is_retryable, with_session
from aioupsert._adapters.base import (
    Known,
    Session,
    TransientError,
    is_stale,
    known_table,
)
from aioupsert._plan import (
    Bad,
    BulkCall,
    Group,
    Typing,
    check_keys,
    group_rows,
    read_bulk_call,
    share_rows,
)
from aioupsert._retrying import Deadline, back_off
from aioupsert._schema import Table as Described
from aioupsert._schema import TableName, table_name
from aioupsert._sql.sending import Steps
from aioupsert._steps import Frame, Tally, check_committed, framed
from aioupsert._upsert import TIMEOUT, warn
from aioupsert.errors import AioupsertError, BulkError, NotAppliedError, UsageError
from aioupsert.results import BulkResult, Progress, Result

if TYPE_CHECKING:
    from aioupsert.expressions import Expression
    from aioupsert.typing import (
        Connection,
        Returning,
        Rows,
        Table,
        Update,
        Values,
        WithoutUniqueIndex,
    )

P = ParamSpec("P")
T = TypeVar("T")


async def create_or_update_many(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: str | Sequence[str],
    update: Update = None,
    create_defaults: Values | None = None,
    where: Expression | None = None,
    skip_unchanged: bool = False,
    touch: Values | None = None,
    convert_text: bool = False,
    without_unique_index: WithoutUniqueIndex = "warn",
    batch_size: int | None = None,
    progress: Callable[[Progress], object] | None = None,
    atomic: bool = True,
    on_error: Literal["raise", "skip"] = "raise",
    connections: int = 1,
    timeout: float | None = TIMEOUT,
) -> BulkResult:
    """
    Create or update many rows: as if each were applied in order, in few statements.

    Rows are read lazily, a batch at a time. Takes part in the caller's transaction, in
    a savepoint, if one is open; otherwise it has a transaction of its own, or, with
    ``atomic=False``, one for each batch.

    On PostgreSQL a batch is one statement over arrays, or over a temporary table that
    the rows are copied to when there are thousands; a batch on SQLite is one job on the
    connection's thread.

    Args:
        conn: As for `create_or_update`.
        table: The table's name.
        rows: An iterable or async iterable of mappings, named tuples, or instances of
            dataclasses, attrs or pydantic classes. A column that a row does not have is
            not written.
        key: The column or columns that identify a row.
        update: What is written to a row that is there: names of the row's columns, or a
            mapping of columns to expressions, in which ``Excluded("c")`` is the row's
            value and ``F("c")`` the stored one. Every column of the row but the key by
            default; nothing if it is empty. An expression is left out for rows without
            a column that it takes.
        create_defaults: Merged over the row when it is created.
        where: As for `create_or_update`.
        skip_unchanged: As for `create_or_update`.
        touch: As for `create_or_update`.
        convert_text: Whether text for columns that hold no text is converted by the
            database, as that of a CSV file.
        without_unique_index: As for `create_or_update`.
        batch_size: How many rows make a batch; by default as many as 100,000, or about
            32 MB.
        progress: Called with a `Progress` after batches, at most ten times a second.
        atomic: Whether all rows are stored or none.
        on_error: ``"skip"`` leaves out rows that cannot be stored and stores the
            others; needs ``atomic=False``.
        connections: Over how many connections of a pool rows are spread, by their
            keys; more than one implies ``atomic=False``.
        timeout: Seconds after which no batch is tried again after a transient error.

    Returns:
        How many rows were created, updated, left unchanged, and skipped.

    Raises:
        UsageError: The arguments are wrong; nothing was read or sent.
        BulkError: A row could not be stored; which, why, and what is committed.
        AioupsertError: As for `create_or_update`.

    References:
        PostgreSQL, "INSERT" (ON CONFLICT) and "COPY"; SQLite, "UPSERT".
    """
    name = table_name(table)
    call = read_bulk_call(
        key=key,
        update=update,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        returning=None,
        convert_text=convert_text,
        without_unique_index=without_unique_index,
    )
    size = _checked_size(batch_size)
    if on_error not in {"raise", "skip"}:
        msg = f"on_error must be 'raise' or 'skip', not {on_error!r}"
        raise UsageError(msg)
    if on_error == "skip" and atomic and connections == 1:
        msg = 'on_error="skip" stores some rows and not others: it needs atomic=False'
        raise UsageError(msg)
    if connections < 1 or (connections > 1 and not is_pool(conn)):
        msg = (
            f"connections={connections!r} needs a pool"
            if connections > 1
            else (f"connections must be 1 or more, not {connections!r}")
        )
        raise UsageError(msg)
    load = _Load(name, call, timeout, skip=on_error == "skip", progress=progress)
    source = _Source(rows, size)
    if connections > 1:
        await _Spread(load, source, connections).run(conn)
    else:
        await with_session(conn, _write_all, load, source, atomic=atomic)
    return load.result()


async def iter_create_or_update(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: str | Sequence[str],
    update: Update = None,
    create_defaults: Values | None = None,
    where: Expression | None = None,
    skip_unchanged: bool = False,
    touch: Values | None = None,
    returning: Returning = None,
    convert_text: bool = False,
    without_unique_index: WithoutUniqueIndex = "warn",
    batch_size: int | None = None,
    timeout: float | None = TIMEOUT,
) -> AsyncGenerator[Result]:
    """
    Create or update many rows, and give the result of each, in the order of the rows.

    Works a batch at a time, as `create_or_update_many`. Outside a transaction of the
    caller's every batch is committed before its results are given, so each of them is
    true, and nothing is open while the caller looks at one; a caller who wants all rows
    or none opens a transaction.

    Args:
        conn: As for `create_or_update_many`, and so on for every other argument. A pool
            lends a connection for each batch.
        table: The table's name.
        rows: The rows.
        key: The column or columns that identify a row.
        update: What is written to a row that is there.
        create_defaults: Merged over the row when it is created.
        where: The condition of an update.
        skip_unchanged: Whether to leave a row that already holds every value.
        touch: What is written when another value changes.
        returning: The columns of `Result.row`; ``"*"`` for all.
        convert_text: Whether the database converts text.
        without_unique_index: What to do without a unique index.
        batch_size: How many rows make a batch; 1,000 by default.
        timeout: As for `create_or_update_many`.

    Yields:
        What happened to each row, and the columns asked for.

    Raises:
        AioupsertError: As for `create_or_update_many`.
    """
    name = table_name(table)
    call = read_bulk_call(
        key=key,
        update=update,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        returning=returning,
        convert_text=convert_text,
        without_unique_index=without_unique_index,
    )
    load = _Load(name, call, timeout, each=True)
    source = _Source(
        rows, _checked_size(_EACH_SIZE if batch_size is None else batch_size)
    )
    await with_session(conn, load.check)
    async for batch in source.batches():
        results = await with_session(conn, load.results, batch)
        for result in results:
            yield result


_EACH_SIZE: Final = 1_000


# --- Reading --------------------------------------------------------------------------


class _Batch(NamedTuple):
    """Rows, and their places in the input."""

    places: Sequence[int]
    rows: Sequence[Any]


class _Size(NamedTuple):
    """How much makes a batch: rows, and about how many bytes."""

    rows: int
    size: int


_MAX_ROWS: Final = 100_000
_MAX_BYTES: Final = 32_000_000


def _checked_size(batch_size: int | None) -> _Size:
    if batch_size is None:
        return _Size(_MAX_ROWS, _MAX_BYTES)
    if batch_size < 1:
        msg = f"batch_size must be 1 or more, not {batch_size!r}"
        raise UsageError(msg)
    return _Size(batch_size, _MAX_BYTES)


class _Source:
    """The caller's rows, read no further than the batch that is asked for and one row."""

    def __init__(self, rows: object, size: _Size) -> None:
        given: Any = rows
        if isinstance(rows, (str, bytes, Mapping)) or not isinstance(
            rows, (Iterable, AsyncIterable)
        ):
            msg = (
                f"rows must be an iterable or async iterable of rows, not {rows!r:.80}"
            )
            raise UsageError(msg)
        self._rows = given
        self._size = size
        self._next: list[Any] = []
        self._take: Callable[[int], Awaitable[list[Any]]]
        if isinstance(rows, AsyncIterable):
            self._async: AsyncIterator[Any] = aiter(given)
            self._take = self._take_async
        else:
            self._sync: Iterator[Any] = iter(given)
            self._take = self._take_sync
        self.is_empty = False

    def again(self) -> _Source | None:
        """Give the same rows from their beginning; None if they can be read only once."""
        if isinstance(self._rows, (Iterator, AsyncIterator)):
            return None
        return _Source(self._rows, self._size)

    async def batches(self) -> AsyncGenerator[_Batch]:
        """Give batch after batch; `is_empty` tells whether one is the last."""
        start = 0
        while not self.is_empty:
            rows = await self._read()
            if rows:
                yield _Batch(range(start, start + len(rows)), rows)
            start += len(rows)

    async def _read(self) -> list[Any]:
        rows, self._next = self._next, []
        room, chunk = self._size.size, _FIRST_CHUNK
        while len(rows) < self._size.rows and room > 0:
            wanted = min(chunk, self._size.rows - len(rows))
            taken = await self._take(wanted)
            rows += taken
            if len(taken) < wanted:
                self.is_empty = True
                return rows
            mean = _size_of(taken)
            room -= mean * len(taken)
            chunk = max(1, min(chunk * 4, _MAX_CHUNK, room // mean))
        self._next = await self._take(1)
        self.is_empty = not self._next
        return rows

    async def _take_sync(self, number: int) -> list[Any]:
        await asyncio.sleep(0)  # so that other tasks get a turn
        return [*itertools.islice(self._sync, number)]

    async def _take_async(self, number: int) -> list[Any]:
        rows: list[Any] = []
        while len(rows) < number:
            try:
                rows.append(await anext(self._async))
            except StopAsyncIteration:
                break
        return rows


# Rows are taken in chunks, small ones first, since nothing is known of their size.
_FIRST_CHUNK: Final = 16
_MAX_CHUNK: Final = 1_000
_SAMPLE: Final = 4
# What a value takes that is no text.
_CELL: Final = 16


def _size_of(rows: Sequence[Any]) -> int:
    """Guess the mean size of rows, from a few of them, in bytes."""
    few = rows[:: max(1, len(rows) // _SAMPLE)]
    return max(1, sum(map(_size_of_row, few)) // len(few))


def _size_of_row(row: Any) -> int:
    return sum(
        _CELL + (len(cell) if isinstance(cell, (str, bytes)) else 0)
        for cell in _cells_of(row)
    )


def _cells_of(row: Any) -> Iterable[Any]:
    if hasattr(row, "keys"):
        return map(row.__getitem__, row.keys())
    cells: Iterable[Any] = getattr(row, "__dict__", {}).values()
    return cells or (row if hasattr(row, "_fields") else ())


# --- Writing --------------------------------------------------------------------------


class _UnstoredError(Exception):
    """A row that could not be stored, by its place in the input."""

    def __init__(self, place: int, row: object, cause: Exception) -> None:
        super().__init__(place)
        self.place = place
        self.row = row
        self.cause = cause


class _Load:
    """One bulk call, and what it has done."""

    def __init__(
        self,
        name: TableName,
        call: BulkCall,
        timeout: float | None,
        *,
        skip: bool = False,
        each: bool = False,
        progress: Callable[[Progress], object] | None = None,
    ) -> None:
        self.commits = True
        """Whether a batch that is stored stays, whatever comes after it."""
        self._name = name
        self._call = call
        self._timeout = timeout
        self._skip = skip
        self._each = each
        self._progress = progress
        self._started = self._shown = time.monotonic()
        self._done = Tally(each=False)

    def result(self) -> BulkResult:
        """Give what has been done."""
        return self._done.bulk_result()

    def forget(self) -> None:
        """Start over, since all that was done has been undone."""
        self._done = Tally(each=False)

    def deadline(self) -> Deadline:
        """Start the time after which no new attempt is made."""
        return Deadline(self._timeout)

    async def check(self, session: Session) -> Known:
        """Check the columns that the arguments name, before any row is read."""
        known = await known_table(session, self._name)
        self._call.check_columns(known.table)
        return known

    async def store(self, session: Session, batch: _Batch) -> Tally:
        """Store a batch, and count it as done; on an error nothing of it is stored."""
        try:
            tally = await self._store(session, batch)
        except _UnstoredError as exc:
            raise self._error(exc) from exc.cause
        self._done.merge(tally)
        now = time.monotonic()
        if self._progress is not None and now - self._shown >= _SHOWN_EVERY:
            self._shown = now
            done = self.result()
            self._progress(Progress(done.rows, now - self._started, done))
        return tally

    def _error(self, unstored: _UnstoredError) -> BulkError:
        committed = self.result() if self.commits else BulkResult()
        error = BulkError(unstored.place, unstored.row, unstored.cause, committed)
        error.__cause__ = unstored.cause
        return error

    async def results(self, session: Session, batch: _Batch) -> list[Result]:
        """Store a batch, and give the result of each row."""
        self.commits = not session.in_transaction()
        tally = await self.store(session, batch)
        results = tally.results or {}
        return [results[place] for place in batch.places]

    async def describe(self, session: Session) -> tuple[Described, Typing]:
        """Check the arguments, and give what is needed to tell keys apart."""
        known = await self.check(session)
        return known.table, session.dialect.typing

    def share(
        self, table: Described, typing: Typing, batch: _Batch, number: int
    ) -> list[_Batch] | None:
        """Split a batch by the rows' keys; None where nobody can tell which are equal."""
        shares = share_rows(batch.rows, self._call, table, typing, number)
        if shares is None:
            return None
        return [
            _Batch([batch.places[p] for p in share], [batch.rows[p] for p in share])
            for share in shares
        ]

    async def _store(self, session: Session, batch: _Batch) -> Tally:
        """Write a batch at once, or what can be written of it."""
        own = not session.in_transaction()
        deadline = self.deadline()
        changed = False
        for attempt in itertools.count(_ATTEMPTS_AT_ONCE):
            failed: Exception
            try:
                return await self._write(session, batch)
            except TransientError as exc:
                deadline.check(exc)
                await back_off(attempt)
                continue
            except Exception as exc:
                if not changed and await is_stale(session, self._name, exc):
                    changed = True
                    continue
                if isinstance(exc, _UnstoredError) or not _blames_row(session, exc):
                    raise
                failed = exc
            try:
                return await _in_frame(session, self._sift, session, batch, failed)
            except Exception as exc:
                if not own or not is_retryable(exc) or deadline.is_over():
                    raise
        raise AssertionError

    async def _sift(self, session: Session, batch: _Batch, failed: Exception) -> Tally:
        """Write the rows that can be written; find those that cannot by halving."""
        tally = Tally(each=self._each)
        if len(batch.rows) == 1:
            unstored = _UnstoredError(batch.places[0], batch.rows[0], failed)
            if not self._skip:
                raise unstored
            tally.rejected.append(self._error(unstored))
            return tally
        middle = len(batch.rows) // 2
        for part in (slice(None, middle), slice(middle, None)):
            half = _Batch(batch.places[part], batch.rows[part])
            try:
                tally.merge(await self._write(session, half))
            except Exception as exc:
                if isinstance(exc, _UnstoredError) or not _blames_row(session, exc):
                    raise
                tally.merge(await self._sift(session, half, exc))
        return tally

    async def _write(self, session: Session, batch: _Batch) -> Tally:
        """Write a batch in a transaction or savepoint of its own."""
        groups, rejected = await self._prepare(session, batch)

        def write(tally: Tally) -> Steps[Tally]:
            for program, group in groups:
                yield from session.dialect.write_rows(program, group, tally)
            return tally

        def steps(inside: bool) -> Steps[Tally]:  # noqa: FBT001  # see Session.run
            frame = session.dialect.frame(in_transaction=inside)
            return framed(frame, write(Tally(each=self._each)))

        tally = await session.run(steps) if groups else Tally(each=self._each)
        tally.rejected += map(self._error, rejected)
        tally.name_places(batch.places)
        return tally

    async def _prepare(
        self, session: Session, batch: _Batch
    ) -> tuple[list[tuple[Any, Group]], list[_UnstoredError]]:
        """Sort a batch into groups with their statements, and the rows that have none."""
        known = await known_table(session, self._name)
        dialect = session.dialect
        groups, bad = group_rows(batch.rows, self._call, known.table, dialect.typing)
        ready: list[tuple[Any, Group]] = []
        for group in groups:
            try:
                program = known.compile_rows(
                    group.shape, dialect, distinct=group.distinct
                )
            except UsageError as exc:
                bad += [Bad(place, exc) for place in group.places]
                continue
            plan = program.single.plan
            warn(session, plan.warning)
            kept, wrong = check_keys(plan, group)
            bad += wrong
            if kept.places:
                ready.append((program, kept))
        rejected = [
            _UnstoredError(batch.places[place], batch.rows[place], error)
            for place, error in sorted(bad, key=lambda item: item.place)
        ]
        if rejected and not self._skip:
            raise rejected[0]
        return ready, rejected


_SHOWN_EVERY: Final = 0.1


def _blames_row(session: Session, error: Exception) -> bool:
    if isinstance(error, AioupsertError):
        return isinstance(error, (NotAppliedError, UsageError))
    return not is_retryable(error) and session.blames_row(error)


async def _in_frame(
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


async def _write_all(
    session: Session, load: _Load, source: _Source, *, atomic: bool
) -> None:
    """Write every batch, on one connection."""
    own = not session.in_transaction()
    load.commits = own and not atomic
    await load.check(session)
    deadline = load.deadline()
    for attempt in itertools.count(_ATTEMPTS_AT_ONCE):
        try:
            await _write_once(session, load, source, atomic=atomic)
        except Exception as exc:
            # Batches of one transaction cannot be sorted among each other, so they may
            # have been chosen to end a deadlock.
            again = source.again() if own and atomic and is_retryable(exc) else None
            if again is None or deadline.is_over():
                raise
            source = again
            load.forget()
        else:
            return
        await back_off(attempt)


# Each of these attempts is long, so there is a pause from the first on.
_ATTEMPTS_AT_ONCE: Final = 4


async def _write_once(
    session: Session, load: _Load, source: _Source, *, atomic: bool
) -> None:
    async with aclosing(source.batches()) as batches:
        first = await anext(batches, None)
        if first is None:
            return
        if atomic and not source.is_empty:
            await _in_frame(session, _write_rest, session, load, first, batches)
        else:
            await _write_rest(session, load, first, batches)


async def _write_rest(
    session: Session, load: _Load, first: _Batch, batches: AsyncIterator[_Batch]
) -> None:
    await load.store(session, first)
    async for batch in batches:
        await load.store(session, batch)


class _Spread:
    """Rows over several connections, those with the same key over the same one."""

    def __init__(self, load: _Load, source: _Source, connections: int) -> None:
        self._load = load
        self._source = source
        # One batch waits while another is written.
        self._queues = [
            asyncio.Queue[_Batch | None](maxsize=1) for _ in range(connections)
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
        self, session: Session, queue: asyncio.Queue[_Batch | None]
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

    async def _hand_out(self, batch: _Batch, shares: list[_Batch] | None) -> None:
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
