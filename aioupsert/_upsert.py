"""`create_or_update`, `get_or_create` and `preview`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypedDict, TypeVar, Unpack, overload

from aioupsert._execution import calls
from aioupsert._execution.targets import ALL
from aioupsert._plan.request import Arguments

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from aioupsert.expressions import Expression
    from aioupsert.results import Result, Statement
    from aioupsert.typing import (
        Connection,
        Name,
        Returning,
        RowValues,
        SqlalchemyExpression,
        SqlalchemySession,
        Strategy,
        Table,
        Update,
        Values,
        WithoutUniqueIndex,
    )

TIMEOUT: Final = 30.0
"""Seconds; about as long as a web client waits for an answer."""

R = TypeVar("R")


class _GetOptions(TypedDict, total=False):
    """Further arguments of `get_or_create`."""

    without_unique_index: WithoutUniqueIndex
    strategy: Strategy
    timeout: float | None
    execution_options: Mapping[str, object] | None


class _Options(_GetOptions, total=False):
    """Further arguments of `create_or_update`."""

    create_defaults: Values | None
    where: Expression | SqlalchemyExpression | None
    skip_unchanged: bool
    touch: Values | None
    old: bool


@overload
async def create_or_update(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    returning: None = None,
    **options: Unpack[_Options],
) -> Result[None]: ...


@overload
async def create_or_update(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    returning: type[R],
    **options: Unpack[_Options],
) -> Result[R]: ...


@overload
async def create_or_update(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    returning: Name | Sequence[Name],
    **options: Unpack[_Options],
) -> Result[RowValues]: ...


@overload
async def create_or_update(
    conn: Connection,
    table: Table,
    row: object,
    *,
    key: Name | Sequence[Name],
    update: Update = None,
    returning: None = None,
    **options: Unpack[_Options],
) -> Result[None]: ...


@overload
async def create_or_update(
    conn: Connection,
    table: Table,
    row: object,
    *,
    key: Name | Sequence[Name],
    update: Update = None,
    returning: type[R],
    **options: Unpack[_Options],
) -> Result[R]: ...


@overload
async def create_or_update(
    conn: Connection,
    table: Table,
    row: object,
    *,
    key: Name | Sequence[Name],
    update: Update = None,
    returning: Name | Sequence[Name],
    **options: Unpack[_Options],
) -> Result[RowValues]: ...


async def create_or_update(
    conn: Connection,
    table: Table,
    row: object = None,
    *,
    key: Values | Name | Sequence[Name],
    update: Update = None,
    defaults: Values | None = None,
    create_defaults: Values | None = None,
    where: Expression | SqlalchemyExpression | None = None,
    skip_unchanged: bool = False,
    touch: Values | None = None,
    returning: Returning = None,
    old: bool = False,
    without_unique_index: WithoutUniqueIndex = "warn",
    strategy: Strategy = "auto",
    timeout: float | None = TIMEOUT,
    execution_options: Mapping[str, object] | None = None,
) -> Result[Any]:
    """
    Update the row that has this key, or create it.

    If another session creates the same row at the same time, the call updates it. In
    the caller's transaction, if one is open, the call becomes part of it; otherwise the
    call is atomic, and committed when it returns.

    Once the description of the table is cached, a call usually takes one statement and
    one round trip on PostgreSQL, and one job on the connection's thread on SQLite.

    Args:
        conn: A connection or pool of asyncpg or psycopg, an aiosqlite connection or,
            with the extra ``sqlalchemy``, a SQLAlchemy connection, session or engine;
            see `aioupsert.typing.Connection`. A psycopg connection that is not in
            autocommit mode is in the caller's transaction.
        table: The name of the table or, with the extra ``sqlalchemy``, a `Table`, a
            mapped class or a SQLModel class; see `aioupsert.typing.Table`.
        row: A whole row, of any kind that `create_or_update_many` takes. The call then
            means `create_or_update_many` of this one row.
        key: The columns that identify the row, each with a plain value; None means IS
            NULL. Beside *row*, the names of these columns.
        update: Beside *row*, which of its columns an existing row takes: their names,
            or a mapping of columns to expressions; by default all that are neither in
            *key* nor in the primary key.
        defaults: The values to write in either case, without *row*: plain values,
            expressions, or callables without arguments, which are called once per call.
        create_defaults: Values that replace those of *key* and *defaults*, or of *row*,
            or add to them, when the row is created.
        where: A condition on the stored row. If it is not true, the row is left as it
            is, and the action is SKIPPED. It does not prevent creating the row.
        skip_unchanged: Whether to leave a row that already holds every value as it is,
            with the action UNCHANGED.
        touch: Values that are written when the row is created, and when it is updated
            only if another value changes. Implies *skip_unchanged*.
        returning: What `Result.row` is: ``"*"`` or the names of columns for a mapping,
            or a class, of which it is an instance; see `aioupsert.typing.Returning`.
        old: Whether the result also has the row as it was just before this call, and the
            columns that the call changed. The row is read when it is locked, in the same
            statement on PostgreSQL, and in the same job on SQLite. If the key may match
            several rows, this takes a transaction on PostgreSQL.
        without_unique_index: What to do if no unique index makes the key unique.
            ``"warn"`` warns once per table and key on a connection, ``"error"`` raises
            an error, ``"allow"`` does nothing, and ``"lock"`` makes calls with this
            argument wait for one another, with an advisory lock on PostgreSQL; SQLite
            needs no lock.
        strategy: ``"auto"`` chooses the best strategy. ``"fast"`` requires the single
            statement of PostgreSQL, ``"exact"`` takes separate steps of UPDATE and
            INSERT, and ``"on_conflict"`` sends ``INSERT ... ON CONFLICT DO UPDATE``.
        timeout: The number of seconds after which no further attempt is made, or None
            for no limit; with a pool also how long to wait for a connection, with 0 for
            a second. It does not interrupt a statement; use ``asyncio.timeout`` to do
            so.
        execution_options: Execution options of SQLAlchemy, for a table or class of it:
            ``schema_translate_map``, and ``synchronize_session``, ``"auto"`` or False,
            which says whether objects that the session has loaded are refreshed.

    Returns:
        The action, the number of rows written, and the rows if *returning* is given.

    Raises:
        UsageError: An argument is invalid, or the strategy cannot be used for this
            table. Nothing was written.
        UnknownTableError: The table does not exist.
        UnknownColumnError: The table does not have some of the columns.
        UnsupportedConnectionError: *conn* is not a supported connection or pool.
        MissingUniqueIndexError: No unique index makes the key unique, and the call
            requires one.
        NotAppliedError: The database rejected the row without an error, for example by
            a trigger.
        RetriesExhaustedError: Transient errors lasted until *timeout*. Nothing was
            stored, and the call may be repeated.
        PoolTimeoutError: The pool had no connection until *timeout*. Nothing was sent.
        ConnectionHeldError: Another call has held the connection for too long while it
            waited for its rows. Nothing was sent.
        SerializationConflictError: The caller's transaction cannot see the conflicting
            row. It must be rolled back and repeated.

    References:
        PostgreSQL, "INSERT" and "Transaction Isolation"; SQLite, "Transaction".
    """
    arguments = Arguments(
        row,
        key,
        update,
        defaults,
        create_defaults,
        where,
        skip_unchanged,
        touch,
        returning,
        old,
        without_unique_index,
        strategy,
    )
    return await calls.create_or_update(
        conn, table, arguments, timeout, execution_options
    )


@overload
async def get_or_create(
    conn: SqlalchemySession,
    table: type[R],
    *,
    key: Values,
    defaults: Values | None = None,
    **options: Unpack[_GetOptions],
) -> Result[R]: ...


@overload
async def get_or_create(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    returning: None,
    **options: Unpack[_GetOptions],
) -> Result[None]: ...


@overload
async def get_or_create(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    returning: type[R],
    **options: Unpack[_GetOptions],
) -> Result[R]: ...


@overload
async def get_or_create(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    returning: Name | Sequence[Name] = "*",
    **options: Unpack[_GetOptions],
) -> Result[RowValues]: ...


async def get_or_create(
    conn: Connection,
    table: Table,
    *,
    key: Values,
    defaults: Values | None = None,
    returning: Returning = ALL,
    without_unique_index: WithoutUniqueIndex = "warn",
    strategy: Strategy = "auto",
    timeout: float | None = TIMEOUT,
    execution_options: Mapping[str, object] | None = None,
) -> Result[Any]:
    """
    Return the row that has this key as it is, or create it.

    An existing row is only read: nothing is written, no row is locked, no trigger
    fires, and a read-only transaction is enough. Transactions are treated as by
    `create_or_update`.

    A call usually takes one round trip on PostgreSQL, and one job on the connection's
    thread on SQLite. Creating a missing row takes a second one if *defaults* contains
    callables, and on PostgreSQL in the caller's transaction, because a statement that
    may write would abort a read-only transaction.

    Args:
        conn: A connection or pool, as for `create_or_update`.
        table: The table, as for `create_or_update`.
        key: The columns that identify the row, each with a plain value; None means IS
            NULL.
        defaults: Further values for creating the row. Callables are called only if the
            row does not exist.
        returning: What `Result.row` is, as for `create_or_update`. Over a session and a
            mapped class it is that class unless this argument is given.
        without_unique_index: What to do if no unique index makes the key unique, as for
            `create_or_update`.
        strategy: How to execute the call, as for `create_or_update`.
        timeout: The number of seconds after which no further attempt is made, or None
            for no limit, as for `create_or_update`.
        execution_options: As for `create_or_update`.

    Returns:
        The row, with the action CREATED or UNCHANGED.

    Raises:
        AioupsertError: As for `create_or_update`.

    References:
        PostgreSQL, "INSERT" and "SET TRANSACTION"; SQLite, "Transaction".
    """
    arguments = Arguments(
        None,
        key,
        create_defaults=defaults,
        returning=returning,
        without_unique_index=without_unique_index,
        strategy=strategy,
    )
    return await calls.get_or_create(conn, table, arguments, timeout, execution_options)


async def preview(
    conn: Connection,
    table: Table,
    row: object = None,
    *,
    key: Values | Name | Sequence[Name],
    update: Update = None,
    defaults: Values | None = None,
    create_defaults: Values | None = None,
    where: Expression | SqlalchemyExpression | None = None,
    skip_unchanged: bool = False,
    touch: Values | None = None,
    returning: Returning = None,
    old: bool = False,
    without_unique_index: WithoutUniqueIndex = "warn",
    strategy: Strategy = "auto",
    execution_options: Mapping[str, object] | None = None,
) -> tuple[Statement, ...]:
    """
    Return the statements that `create_or_update` would send, without sending them.

    Only the catalog is read. The commands that begin and end a transaction or savepoint
    are left out.

    The arguments have the same meaning as for `create_or_update`.

    Args:
        conn: A connection or pool.
        table: The table.
        row: A whole row.
        key: The columns that identify the row.
        update: The columns of *row* that an existing row takes.
        defaults: The values to write in either case.
        create_defaults: Values for creating the row.
        where: A condition on the stored row.
        skip_unchanged: Whether to leave a row that already holds every value as it is.
        touch: Values that are written only if another value changes.
        returning: The columns to return.
        old: Whether to return the row as it was, too.
        without_unique_index: What to do if no unique index makes the key unique.
        strategy: How to execute the call.
        execution_options: As for `create_or_update`.

    Returns:
        The statements in the order in which they would be sent, each with its arguments
        and the case in which it is sent.

    Raises:
        UsageError: An argument is invalid.
        UnknownTableError: The table does not exist.
        UnknownColumnError: The table does not have some of the columns.
        UnsupportedConnectionError: *conn* is not a supported connection or pool.
        MissingUniqueIndexError: No unique index makes the key unique, and the call
            requires one.
    """
    arguments = Arguments(
        row,
        key,
        update,
        defaults,
        create_defaults,
        where,
        skip_unchanged,
        touch,
        returning,
        old,
        without_unique_index,
        strategy,
    )
    return await calls.preview(conn, table, arguments, TIMEOUT, execution_options)
