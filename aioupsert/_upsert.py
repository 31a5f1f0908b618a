"""`create_or_update`, `get_or_create` and `preview`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aioupsert._execution import calls
from aioupsert._plan.request import Arguments

if TYPE_CHECKING:
    from aioupsert.expressions import Expression
    from aioupsert.results import Result, Statement
    from aioupsert.typing import (
        Connection,
        Returning,
        Strategy,
        Table,
        Values,
        WithoutUniqueIndex,
    )

TIMEOUT: Final = 30.0
"""Seconds; about as long as a web client waits for an answer."""


async def create_or_update(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    create_defaults: Values | None = None,
    where: Expression | None = None,
    skip_unchanged: bool = False,
    touch: Values | None = None,
    returning: Returning = None,
    without_unique_index: WithoutUniqueIndex = "warn",
    strategy: Strategy = "auto",
    timeout: float | None = TIMEOUT,
) -> Result:
    """
    Update the row that has this key, or create it.

    In the steady state one statement and one round trip on PostgreSQL, and one job on
    the connection's thread on SQLite. Takes part in the caller's transaction if one is
    open; otherwise the call is atomic and committed when it returns. A concurrent
    creation of the same row is no error: the call then updates.

    Args:
        conn: A connection, pooled connection or pool of asyncpg; a connection or pool
            of psycopg, whose transaction the call takes part in where the connection
            does not autocommit; an aiosqlite connection; or, with the extra
            ``sqlalchemy``, what `aioupsert.typing.Connection` says.
        table: The table's name, or with the extra ``sqlalchemy`` a `Table`, a mapped
            class or a SQLModel class; see `aioupsert.typing.Table`.
        key: The columns that identify the row; None means IS NULL.
        defaults: What is written either way; plain values, expressions, or callables,
            which are called now.
        create_defaults: Merged over key and defaults when the row is created.
        where: Update only if this is true of the stored row; otherwise it is left, and
            the action is SKIPPED.
        skip_unchanged: Leave a row that already holds every value; UNCHANGED.
        touch: Written on create, and on update only if another value really changes;
            implies *skip_unchanged*.
        returning: The columns of `Result.row`; ``"*"`` for all.
        without_unique_index: What to do when no unique index makes the key unique:
            warn once, raise an error, allow it, or lock (an advisory lock of
            PostgreSQL; SQLite needs none).
        strategy: ``"auto"`` chooses. ``"fast"`` is the single statement, refused where
            it cannot serve; ``"exact"`` the classic steps; ``"on_conflict"`` the
            native ``INSERT ... ON CONFLICT DO UPDATE``.
        timeout: Seconds after which no new attempt is made; None for no limit. It does
            not interrupt a statement: use ``asyncio.timeout`` for that.

    Returns:
        What happened, and the rows asked for.

    Raises:
        UsageError: The arguments are wrong; nothing was sent.
        UnknownTableError: No such table.
        UnknownColumnError: No such columns.
        UnsupportedConnectionError: *conn* is nothing this library can use.
        MissingUniqueIndexError: There is no unique index, and the call insisted.
        NotAppliedError: The database silently refused the row.
        RetriesExhaustedError: Transient errors lasted until *timeout*.
        SerializationConflictError: The caller's transaction must be repeated.

    References:
        PostgreSQL, "INSERT" and "Transaction Isolation"; SQLite, "Transaction".
    """
    arguments = Arguments(
        key=key,
        defaults=defaults,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        returning=returning,
        without_unique_index=without_unique_index,
        strategy=strategy,
    )
    return await calls.create_or_update(conn, table, arguments, timeout)


async def get_or_create(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    returning: Returning = "*",
    without_unique_index: WithoutUniqueIndex = "warn",
    strategy: Strategy = "auto",
    timeout: float | None = TIMEOUT,
) -> Result:
    """
    Return the row that has this key, untouched, or create it.

    A row that is there is only read: nothing is written, no row is locked, and no
    trigger fires. One round trip, as `create_or_update`. A second one creates a missing
    row in the caller's transaction on PostgreSQL, which a statement that could write
    must not abort if it is read-only; or when *defaults* has callables, since these are
    called only then.

    Args:
        conn: As for `create_or_update`.
        table: As for `create_or_update`.
        key: The columns that identify the row; None means IS NULL.
        defaults: What else the row is created with.
        returning: The columns of `Result.row`; every column by default.
        without_unique_index: As for `create_or_update`.
        strategy: As for `create_or_update`.
        timeout: As for `create_or_update`.

    Returns:
        The row; its action is CREATED or UNCHANGED.

    Raises:
        AioupsertError: As for `create_or_update`.
    """
    arguments = Arguments(
        key=key,
        defaults=None,
        create_defaults=defaults,
        where=None,
        skip_unchanged=False,
        touch=None,
        returning=returning,
        without_unique_index=without_unique_index,
        strategy=strategy,
    )
    return await calls.get_or_create(conn, table, arguments, timeout)


async def preview(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    create_defaults: Values | None = None,
    where: Expression | None = None,
    skip_unchanged: bool = False,
    touch: Values | None = None,
    returning: Returning = None,
    without_unique_index: WithoutUniqueIndex = "warn",
    strategy: Strategy = "auto",
) -> tuple[Statement, ...]:
    """
    Show the statements that `create_or_update` would send, in order; write nothing.

    Transaction commands (SAVEPOINT, BEGIN) are left out. Only the catalog is read.

    Args:
        conn: As for `create_or_update`, and so on for every argument.
        table: The table.
        key: The columns that identify the row.
        defaults: What is written either way.
        create_defaults: What is added on create.
        where: The condition of an update.
        skip_unchanged: Whether to leave a row that already holds every value.
        touch: What is written when another value changes.
        returning: The columns to return.
        without_unique_index: What to do without a unique index.
        strategy: How the call would run.

    Returns:
        The statements with their arguments, each with the case in which it is sent.

    Raises:
        AioupsertError: As for `create_or_update`.
    """
    arguments = Arguments(
        key=key,
        defaults=defaults,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        returning=returning,
        without_unique_index=without_unique_index,
        strategy=strategy,
    )
    return await calls.preview(conn, table, arguments, TIMEOUT)
