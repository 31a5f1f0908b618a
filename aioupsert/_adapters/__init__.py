"""
The only rooms that know a driver; here is found which one a connection needs.

No driver is imported unless the caller has imported it: whoever holds a connection has.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from aioupsert.errors import (
    RetriesExhaustedError,
    SerializationConflictError,
    UnsupportedConnectionError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from types import ModuleType

    from aioupsert._adapters.base import Session

_DRIVERS: Final = ("asyncpg", "aiosqlite")

Opener: TypeAlias = "Callable[[Any], AbstractAsyncContextManager[Session]]"

_openers: Final[dict[type, Opener]] = {}


def open_session(connection: object) -> AbstractAsyncContextManager[Session]:
    """
    Give a context in which a connection is ours for one call.

    Raises:
        UnsupportedConnectionError: It is nothing this library can use.
    """
    opener = _openers.get(type(connection))
    if opener is None:
        opener = _openers[type(connection)] = _find_opener(connection)
    return opener(connection)


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
        if driver in sys.modules
    ]


def _find_opener(connection: object) -> Opener:
    for adapter in _adapters():
        openers: dict[type, Opener] = adapter.OPENERS
        for kind, opener in openers.items():
            if isinstance(connection, kind):
                return opener
    kind = type(connection)
    name = f"{kind.__module__}.{kind.__qualname__}"
    hint = next((h for start, h in _HINTS.items() if name.startswith(start)), _HINT)
    msg = f"cannot use this {name}: {hint}"
    raise UnsupportedConnectionError(msg)


_HINT: Final = (
    "pass an asyncpg Connection or Pool, or an aiosqlite Connection (opened: awaited, or"
    " inside its async with)"
)
_HINTS: Final = {
    "sqlite3.": "this is a synchronous sqlite3 connection; open it with aiosqlite",
    "psycopg2.": "this is a psycopg2 connection, which cannot be awaited; use asyncpg",
    "psycopg.": "this is a psycopg connection; this version uses asyncpg for PostgreSQL",
    "psycopg_pool.": "this is a psycopg pool; this version uses asyncpg for PostgreSQL",
    "sqlalchemy.": (
        "this is a SQLAlchemy object; pass the driver's own connection, which"
        " (await connection.get_raw_connection()).driver_connection gives"
    ),
    "sqlmodel.": "this is a SQLModel session; pass the driver's own connection",
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
