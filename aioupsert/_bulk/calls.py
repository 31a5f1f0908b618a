"""`create_or_update_many` and `iter_create_or_update`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from aioupsert._bulk import running
from aioupsert._bulk.running import Options
from aioupsert._execution.targets import Target
from aioupsert._plan.bulk_request import BulkArguments
from aioupsert._upsert import TIMEOUT

if TYPE_CHECKING:
    from aioupsert.expressions import Expression
    from aioupsert.results import BulkResult, Progress, Result
    from aioupsert.typing import (
        Connection,
        Name,
        Returning,
        Rows,
        RowValues,
        SqlalchemyExpression,
        Table,
        Update,
        Values,
        WithoutUniqueIndex,
    )

R = TypeVar("R")


async def create_or_update_many(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: Name | Sequence[Name],
    update: Update = None,
    create_defaults: Values | None = None,
    where: Expression | SqlalchemyExpression | None = None,
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
    execution_options: Mapping[str, object] | None = None,
) -> BulkResult:
    """
    Create or update many rows in few statements, as if each were applied in order.

    In the caller's transaction, if one is open, the call becomes part of it, within a
    savepoint. Otherwise it has a transaction of its own, committed when it returns or,
    with ``atomic=False``, one transaction for each batch.

    Rows are read lazily, a batch at a time. On PostgreSQL, a batch is one statement
    over arrays or, for thousands of rows, a COPY into a temporary table and one
    statement; on SQLite, it is one job on the connection's thread.

    Args:
        conn: A connection or pool, as for `create_or_update`.
        table: The table, as for `create_or_update`.
        rows: An iterable or async iterable of mappings, named tuples, or instances of
            dataclasses, attrs classes, pydantic models or mapped classes; or an object
            with columns of Apache Arrow, such as a data frame. They may have different
            columns, and only the columns that a row has are written. A key may occur
            any number of times.
        key: The column or columns that identify a row.
        update: What to write to an existing row: names of the row's columns, or a
            mapping of columns to expressions, in which ``Excluded("c")`` is the value
            of the row and ``F("c")`` the stored value. By default every column of the
            row except the key and the primary key; if empty, nothing. An expression is
            left out for rows that do not have a column it uses.
        create_defaults: Values that replace those of the row, or add to them, when it
            is created.
        where: A condition on the stored row, as for `create_or_update`.
        skip_unchanged: Whether to leave a row that already holds every value as it is,
            as for `create_or_update`.
        touch: Values that are written only if another value changes, as for
            `create_or_update`.
        convert_text: Whether the database converts text for columns of other types, as
            is needed for the text of a CSV file.
        without_unique_index: What to do if no unique index makes the key unique, as for
            `create_or_update`.
        batch_size: The number of rows in a batch; by default up to 100,000 rows or
            about 32 MB.
        progress: A function that is called with a `Progress` after batches, at most ten
            times per second, and at the end, even of a call that fails.
        atomic: Whether to store all rows or none.
        on_error: ``"raise"`` raises an error for the first row that cannot be stored.
            ``"skip"`` leaves such rows out and stores all others; it requires
            ``atomic=False``.
        connections: The number of connections of a pool to write over. Rows with the
            same key use the same connection. More than one implies ``atomic=False``.
        timeout: The number of seconds after which no batch is repeated after a
            transient error, and for which to wait for a connection of a pool, or None
            for no limit. If an atomic call waits for its rows for so long, other tasks
            that wait for its connection have a `ConnectionHeldError`.
        execution_options: As for `create_or_update`.

    Returns:
        The number of rows that were created, updated, left unchanged, and skipped, and
        the errors of the rows that were left out.

    Raises:
        UsageError: An argument is invalid; no row was read, and nothing was sent.
        BulkError: A row could not be stored. It tells which one, why, and which rows
            are stored nevertheless.
        AioupsertError: As for `create_or_update`.

    References:
        PostgreSQL, "INSERT" (ON CONFLICT) and "COPY"; SQLite, "UPSERT".
    """
    arguments = BulkArguments(
        key=key,
        update=update,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        returning=None,
        old=False,
        convert_text=convert_text,
        without_unique_index=without_unique_index,
    )
    options = Options(batch_size, progress, atomic, on_error, connections, timeout)
    target = Target(conn, table, execution_options)
    return await running.create_or_update_many(target, rows, arguments, options)


class _IterOptions(TypedDict, total=False):
    """Further arguments of `iter_create_or_update`."""

    update: Update
    create_defaults: Values | None
    where: Expression | SqlalchemyExpression | None
    skip_unchanged: bool
    touch: Values | None
    old: bool
    convert_text: bool
    without_unique_index: WithoutUniqueIndex
    batch_size: int | None
    timeout: float | None
    execution_options: Mapping[str, object] | None


@overload
def iter_create_or_update(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: Name | Sequence[Name],
    returning: None = None,
    **options: Unpack[_IterOptions],
) -> AsyncGenerator[Result[None]]: ...


@overload
def iter_create_or_update(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: Name | Sequence[Name],
    returning: type[R],
    **options: Unpack[_IterOptions],
) -> AsyncGenerator[Result[R]]: ...


@overload
def iter_create_or_update(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: Name | Sequence[Name],
    returning: Name | Sequence[Name],
    **options: Unpack[_IterOptions],
) -> AsyncGenerator[Result[RowValues]]: ...


async def iter_create_or_update(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: Name | Sequence[Name],
    update: Update = None,
    create_defaults: Values | None = None,
    where: Expression | SqlalchemyExpression | None = None,
    skip_unchanged: bool = False,
    touch: Values | None = None,
    returning: Returning = None,
    old: bool = False,
    convert_text: bool = False,
    without_unique_index: WithoutUniqueIndex = "warn",
    batch_size: int | None = None,
    timeout: float | None = TIMEOUT,
    execution_options: Mapping[str, object] | None = None,
) -> AsyncGenerator[Result[Any]]:
    """
    Create or update many rows, and yield the result of each in the order of the rows.

    Rows are read and written a batch at a time, as by `create_or_update_many`. Unless
    the caller has a transaction open, every batch is committed before its results are
    yielded, so no transaction is open in between. To store all rows or none, open a
    transaction.

    The arguments have the same meaning as for `create_or_update_many`.

    Args:
        conn: A connection or pool. A connection of a pool is acquired for each batch.
        table: The table.
        rows: An iterable or async iterable of rows.
        key: The column or columns that identify a row.
        update: What to write to an existing row.
        create_defaults: Values for creating a row.
        where: A condition on the stored row.
        skip_unchanged: Whether to leave a row that already holds every value as it is.
        touch: Values that are written only if another value changes.
        returning: What `Result.row` is, as for `create_or_update`.
        old: Whether results have the row as it was just before, and what has changed.
        convert_text: Whether the database converts text for columns of other types.
        without_unique_index: What to do if no unique index makes the key unique.
        batch_size: The number of rows in a batch; 1,000 by default. The first result
            is yielded after the first batch.
        timeout: The number of seconds after which no batch is repeated after a
            transient error, and for which to wait for a connection of a pool, or None
            for no limit.
        execution_options: As for `create_or_update`.

    Yields:
        The `Result` of each row, as `create_or_update` would return it.

    Raises:
        AioupsertError: As for `create_or_update_many`.

    References:
        PostgreSQL, "INSERT" (ON CONFLICT); SQLite, "UPSERT".
    """
    arguments = BulkArguments(
        key=key,
        update=update,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        returning=returning,
        old=old,
        convert_text=convert_text,
        without_unique_index=without_unique_index,
    )
    target = Target(conn, table, execution_options)
    batches = running.iter_create_or_update(
        target, rows, arguments, batch_size=batch_size, timeout=timeout
    )
    async with aclosing(batches):
        async for batch in batches:
            for result in batch:
                yield result


class _ManyOptions(TypedDict, total=False):
    """Further arguments of `get_or_create_many`."""

    without_unique_index: WithoutUniqueIndex
    batch_size: int | None
    timeout: float | None
    execution_options: Mapping[str, object] | None


@overload
async def get_or_create_many(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: Name | Sequence[Name],
    returning: None,
    **options: Unpack[_ManyOptions],
) -> list[Result[None]]: ...


@overload
async def get_or_create_many(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: Name | Sequence[Name],
    returning: type[R],
    **options: Unpack[_ManyOptions],
) -> list[Result[R]]: ...


@overload
async def get_or_create_many(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: Name | Sequence[Name],
    returning: Name | Sequence[Name] = "*",
    **options: Unpack[_ManyOptions],
) -> list[Result[RowValues]]: ...


async def get_or_create_many(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: Name | Sequence[Name],
    returning: Returning = "*",
    without_unique_index: WithoutUniqueIndex = "warn",
    batch_size: int | None = None,
    timeout: float | None = TIMEOUT,
    execution_options: Mapping[str, object] | None = None,
) -> list[Result[Any]]:
    """
    Return the rows that have these keys as they are, and create those that are missing.

    Existing rows are only read: nothing is written, no row is locked, no trigger fires,
    and a read-only transaction is enough if no row is missing. A key that comes again
    gives the same row. Concurrent calls with the same keys create each row once, and
    each of them gets every row.

    Rows are read a batch at a time. On PostgreSQL a batch of existing rows takes one
    statement, outside of a transaction if the caller has none open; on SQLite it is one
    job on the connection's thread. Missing rows are then created as by
    `create_or_update_many`. Unless the caller has a transaction open, every batch is
    committed by itself.

    Args:
        conn: A connection or pool. A connection of a pool is acquired for each batch.
        table: The table.
        rows: An iterable or async iterable of rows, as for `create_or_update_many`. The
            columns that are not part of the key are for creating the row.
        key: The column or columns that identify a row.
        returning: What `Result.row` is, as for `create_or_update`.
        without_unique_index: What to do if no unique index makes the key unique, as for
            `create_or_update`.
        batch_size: The number of rows in a batch; 50,000 by default.
        timeout: The number of seconds after which no batch is repeated after a
            transient error, and for which to wait for a connection of a pool, or None
            for no limit.
        execution_options: As for `create_or_update`.

    Returns:
        The `Result` of each row, in the order of the rows, with the action CREATED or
        UNCHANGED.

    Raises:
        AioupsertError: As for `create_or_update_many`.

    References:
        PostgreSQL, "INSERT" (ON CONFLICT) and "SET TRANSACTION".
    """
    arguments = BulkArguments(
        key=key,
        update=(),
        create_defaults=None,
        where=None,
        skip_unchanged=False,
        touch=None,
        returning=returning,
        old=False,
        convert_text=False,
        without_unique_index=without_unique_index,
    )
    batches = running.iter_create_or_update(
        Target(conn, table, execution_options),
        rows,
        arguments,
        batch_size=_READ_ROWS if batch_size is None else batch_size,
        timeout=timeout,
        operation="get_or_create_many",
    )
    results: list[Result[Any]] = []
    async with aclosing(batches):
        async for batch in batches:
            results += batch
    return results


# More would make other tasks wait while their results are made.
_READ_ROWS: Final = 50_000
