"""`sync_rows`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from aioupsert._execution.targets import Target
from aioupsert._plan.bulk_request import BulkArguments
from aioupsert._sync import running
from aioupsert._sync.running import Options
from aioupsert._upsert import TIMEOUT

if TYPE_CHECKING:
    from aioupsert.expressions import Expression
    from aioupsert.results import BulkResult, Progress, Result
    from aioupsert.typing import (
        Connection,
        Name,
        Rows,
        SqlalchemyExpression,
        Table,
        Update,
        Values,
        WithoutUniqueIndex,
    )


async def sync_rows(
    conn: Connection,
    table: Table,
    rows: Rows,
    *,
    key: Name | Sequence[Name],
    scope: Values,
    missing: Literal["delete", "keep"] | Values = "delete",
    max_missing: float = 0.5,
    allow_empty: bool = False,
    dry_run: bool = False,
    on_result: Callable[[Result], object] | None = None,
    update: Update = None,
    create_defaults: Values | None = None,
    where: Expression | SqlalchemyExpression | None = None,
    touch: Values | None = None,
    convert_text: bool = False,
    without_unique_index: WithoutUniqueIndex = "warn",
    batch_size: int | None = None,
    progress: Callable[[Progress], object] | None = None,
    timeout: float | None = TIMEOUT,
    execution_options: Mapping[str, object] | None = None,
) -> BulkResult:
    """
    Make the rows of a scope of a table equal to those of a source.

    Rows of the source are created, updated if a value differs, or left unchanged. Rows of
    the scope that the source does not have are removed, marked or kept.

    In the caller's transaction, if one is open, the call becomes part of it, within a
    savepoint. Otherwise it has a transaction of its own. In either, all is stored or
    nothing.

    Calls with the same scope wait for each other; on SQLite, the transaction has the
    write lock from its beginning. A call begins when its turn has come, and then reads
    the source, once, a batch at a time. A row that others create in the scope after that
    is never removed, even if they removed one with the same key before. A row that they
    change is removed if it is still in the scope when it is locked, at the end.

    Args:
        conn: A connection or pool, as for `create_or_update`.
        table: The table, as for `create_or_update`.
        rows: The source: rows as for `create_or_update_many`. They may lack the columns
            of the scope; a row that has another value in one of these is refused.
        key: The column or columns that identify a row. They may be columns of the scope.
        scope: Columns with values: the rows of the table for which the source speaks.
            An empty mapping is the whole table.
        missing: What to do with rows of the scope that the source does not have:
            ``"delete"`` removes them, ``"keep"`` leaves them as they are, and a mapping
            of columns to values marks them. A marked row does not count as one of the scope. If the
            source has it again, the marking columns are set back to their defaults, and
            it counts as updated. A row is marked while columns that are set to a time or
            an expression do not hold their defaults or, if there are none, while all
            columns hold what marking sets them to.
        max_missing: The greatest share of the scope's rows (float), or number of rows
            (int), that may be removed or marked.
        allow_empty: Whether the source may be empty. What is removed is still limited
            by *max_missing*.
        dry_run: Whether to roll back what was done, and only report it. Locks are held
            and triggers run as in a real run, and values of sequences are used up.
        on_result: A function that is called with the `Result` of every row that is
            created, updated, removed or marked, before the transaction ends. It has all
            columns, and *old* and *changed*; *row* is None for a row that is removed.
        update: As for `create_or_update_many`; the columns of the scope are always set.
        create_defaults: As for `create_or_update_many`.
        where: As for `create_or_update_many`; it does not limit what is removed.
        touch: As for `create_or_update_many`; also set when a row is marked.
        convert_text: As for `create_or_update_many`, and for texts in *scope*.
        without_unique_index: As for `create_or_update`.
        batch_size: The number of rows in a batch; 1,000 by default with *on_result*,
            otherwise as for `create_or_update_many`.
        progress: As for `create_or_update_many`.
        timeout: As for `create_or_update_many`. A call that a transient error ends is
            repeated if its rows can be read again and *on_result* is not given.
        execution_options: As for `create_or_update`.

    Returns:
        The number of rows of the source that were created, updated, left unchanged and
        skipped, and the number of rows that were removed or marked, as *deleted*.

    Raises:
        SyncRefusedError: The source is empty, or lacks more rows than *max_missing*
            allows; nothing is stored.
        UsageError: An argument is invalid, or the table is one from which rows cannot be
            removed, such as a view; nothing was written.
        BulkError: A row of the source could not be stored; nothing is stored.
        AioupsertError: As for `create_or_update`.

    References:
        PostgreSQL, "DECLARE" (FOR UPDATE), "Explicit Locking"; SQLite, "Transaction".
    """
    arguments = BulkArguments(
        key=key,
        update=update,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=True,
        touch=touch,
        returning=None if on_result is None else "*",
        old=on_result is not None,
        convert_text=convert_text,
        without_unique_index=without_unique_index,
    )
    options = Options(
        max_missing, allow_empty, dry_run, on_result, batch_size, progress, timeout
    )
    target = Target(conn, table, execution_options)
    request = target.read_sync(arguments, scope, missing)
    options.check()
    return await running.sync_rows(target, rows, request, options)
