"""
The only rooms that know a driver; here is found which one a connection needs.

No driver is imported unless the caller has imported it: whoever holds a connection has.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from aioupsert.errors import (
    RetriesExhaustedError,
    SerializationConflictError,
    UnsupportedConnectionError,
)
from aioupsert.events import OBSERVERS, tell_system

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    from aioupsert._adapters.base import Kind, Session
    from aioupsert._adapters.models import Model

_DRIVERS: Final = ("asyncpg", "aiosqlite", "psycopg", "psycopg_pool", "sqlalchemy")

# Not at once when SQLAlchemy is: many use it without asyncio.
_IMPORTED: Final = {"sqlalchemy": "sqlalchemy.ext.asyncio"}

P = ParamSpec("P")
T = TypeVar("T")

_kinds: Final[dict[type, Kind]] = {}


def with_session(
    connection: object,
    work: Callable[Concatenate[Session, P], Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> Awaitable[T]:
    """
    Do some work with a session on a connection, or on one borrowed from a pool.

    Raises:
        UnsupportedConnectionError: It is nothing this library can use.
    """
    kind = _kind_of(connection)
    if kind.borrow is None:
        return work(_opened(kind, connection), *args, **kwargs)
    return _borrowing(kind, kind.borrow(connection), work, *args, **kwargs)


def is_pool(connection: object) -> bool:
    """
    Tell whether connections are borrowed from it.

    Raises:
        UnsupportedConnectionError: As for `with_session`.
    """
    return _kind_of(connection).is_pool


def model_of(connection: object, table: object) -> Model | None:
    """
    Give what SQLAlchemy knows of a table; None for a table's name.

    Raises:
        UsageError: It cannot be written as one table.
    """
    if isinstance(table, (str, tuple)) or "sqlalchemy" not in sys.modules:
        return None
    models = importlib.import_module("aioupsert._adapters.models")
    model: Model | None = models.model_of(connection, table)
    return model


def _kind_of(connection: object) -> Kind:
    kind = _kinds.get(type(connection))
    if kind is None:
        kind = _kinds[type(connection)] = _find_kind(connection)
    return kind


async def _borrowing(
    kind: Kind,
    context: AbstractAsyncContextManager[Any],
    work: Callable[Concatenate[Session, P], Awaitable[T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    async with context as connection:
        return await work(_opened(kind, connection), *args, **kwargs)


def _opened(kind: Kind, connection: object) -> Session:
    session = kind.session(connection)
    if OBSERVERS:
        tell_system(session.dialect.system)
    return session


def is_retryable(error: BaseException) -> bool:
    """
    Tell whether repeating the caller's whole transaction is right.

    True for serialization failures and deadlocks of PostgreSQL (SQLSTATE 40001 and
    40P01), for SQLite's BUSY and LOCKED, and for `SerializationConflictError` and
    `RetriesExhaustedError`. Never for a lost connection: what happened is unknown.
    """
    if isinstance(error, (SerializationConflictError, RetriesExhaustedError)):
        return True
    return any(adapter.is_retryable(error) for adapter in _adapters())


def _adapters() -> list[ModuleType]:
    return [
        importlib.import_module(f"aioupsert._adapters.{driver}")
        for driver in _DRIVERS
        if _IMPORTED.get(driver, driver) in sys.modules
    ]


def _find_kind(connection: object) -> Kind:
    for adapter in _adapters():
        kinds: Sequence[Kind] = adapter.KINDS
        for kind in kinds:
            if isinstance(connection, kind.type):
                return kind
    cls = type(connection)
    name = f"{cls.__module__}.{cls.__qualname__}"
    hint = next((h for start, h in _HINTS.items() if name.startswith(start)), _HINT)
    msg = f"cannot use this {name}: {hint}"
    raise UnsupportedConnectionError(msg)


_HINT: Final = (
    "pass an asyncpg Connection or Pool, an AsyncConnection or AsyncConnectionPool of"
    " psycopg, an AsyncConnection, AsyncSession or AsyncEngine of SQLAlchemy, or an"
    " aiosqlite Connection (opened: awaited, or inside its async with)"
)
_HINTS: Final = {
    "sqlite3.": "this is a synchronous sqlite3 connection; open it with aiosqlite",
    "psycopg2.": "this is a psycopg2 connection, which cannot be awaited; use psycopg 3",
    "psycopg.": "this cannot be awaited; use a psycopg.AsyncConnection",
    "psycopg_pool.": "this cannot be awaited; use an AsyncConnectionPool",
    "sqlalchemy.": (
        "this is no AsyncConnection, AsyncSession or AsyncEngine of SQLAlchemy, and"
        " what is synchronous cannot be awaited"
    ),
    "sqlmodel.": "this is synchronous; use sqlmodel.ext.asyncio.session.AsyncSession",
    "asyncpg.transaction.": "this is a transaction; pass its connection",
    "asyncpg.pool.PoolAcquireContext": (
        "this is pool.acquire() before it was awaited; use"
        ' "async with pool.acquire() as connection", or pass the pool itself'
    ),
    "builtins.str": (
        "this is a text; open a connection first, with asyncpg.connect(...) or"
        " aiosqlite.connect(...)"
    ),
    "builtins.coroutine": "this was not awaited",
}
