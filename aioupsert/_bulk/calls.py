"""`create_or_update_many` and `iter_create_or_update`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal

from aioupsert._bulk.batching import Source, checked_size
from aioupsert._bulk.parallel import ParallelWriter
from aioupsert._bulk.writing import BulkWrite
from aioupsert._drivers import is_pool, session_on
from aioupsert._execution.targets import Target
from aioupsert._observation import Observation, record_system
from aioupsert._upsert import TIMEOUT
from aioupsert.errors import BulkError, UsageError
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

# Results wait for the last row of their batch.
_EACH_SIZE: Final = 1_000


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
    target = Target(conn, table)
    request = target.read_bulk(
        key=key,
        update=update,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        convert_text=convert_text,
        without_unique_index=without_unique_index,
    )
    size = checked_size(batch_size)
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
    write = BulkWrite(
        target.name, request, timeout, skip=on_error == "skip", progress=progress
    )
    source = Source(rows, size)
    with Observation("create_or_update_many", target.name) as observation:
        try:
            if connections > 1:
                await ParallelWriter(write, source, connections).run(conn)
            else:
                async with session_on(conn) as session:
                    record_system(session.engine.system)
                    await write.write_all(session, source, atomic=atomic)
        except BulkError as exc:
            observation.record(replace(exc.committed, rejected=(exc,)))
            raise
        result = write.result()
        observation.record(result)
        return result


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
    target = Target(conn, table)
    request = target.read_bulk(
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
    write = BulkWrite(target.name, request, timeout, each=True)
    source = Source(
        rows, checked_size(_EACH_SIZE if batch_size is None else batch_size)
    )
    async with session_on(conn) as session:
        await write.check(session)
    async for batch in source.batches():
        with Observation("iter_create_or_update", target.name) as observation:
            async with session_on(conn) as session:
                record_system(session.engine.system)
                results = await write.results(session, batch)
            observation.record_each(*results)
        for result in results:
            yield result if target.model is None else target.model.result(result)
