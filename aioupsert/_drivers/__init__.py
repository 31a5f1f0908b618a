"""
The drivers. This module finds the one that a connection needs.

A driver is imported only if the caller has imported it, as everyone who has one of its
connections has.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final, cast

from aioupsert._drivers.lock import SHORTEST_WAIT
from aioupsert.errors import (
    PoolTimeoutError,
    RetriesExhaustedError,
    SerializationConflictError,
    UnsupportedConnectionError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from aioupsert._drivers.base import ConnectionKind, Driver, Handle, Session

DRIVERS: Final = {
    "asyncpg": "aioupsert._drivers.asyncpg",
    "aiosqlite": "aioupsert._drivers.aiosqlite",
    "psycopg": "aioupsert._drivers.psycopg",
    "psycopg_pool": "aioupsert._drivers.psycopg_pool",
    # Not "sqlalchemy", which many import without using asyncio.
    "sqlalchemy.ext.asyncio": "aioupsert._sqlalchemy.connections",
}
"""The modules here that use a driver, by the package of the driver."""

_kinds: Final[dict[type, ConnectionKind]] = {}

DIRECT: Final[dict[type, Callable[[Handle], Session]]] = {}
"""
What returns a session on a connection, by its class.

Only of connections that need not be acquired, and only of classes that were used before.
"""


def session_on(
    connection: object, timeout: float | None = None
) -> AbstractAsyncContextManager[Session]:
    """
    Return a session on a connection, acquired first if it is a pool.

    Args:
        connection: A connection or a pool.
        timeout: For how many seconds to wait for a connection of a pool; None to wait
            as long as the pool does.

    Raises:
        UnsupportedConnectionError: It is not a supported connection.
        PoolTimeoutError: When entered: no connection was free in time.
    """
    kind = _kinds.get(type(connection)) or _find_kind(connection)
    if kind.acquire is None:
        return kind.session(connection)
    if not kind.is_pool:
        timeout = None  # to acquire it may include work in the caller's transaction
    return _Acquired(kind, kind.acquire(connection), timeout)


class _Acquired:
    """A session on an acquired connection, which is released on exit."""

    __slots__ = ("_context", "_kind", "_timeout")

    def __init__(
        self,
        kind: ConnectionKind,
        context: AbstractAsyncContextManager[object],
        timeout: float | None,
    ) -> None:
        self._kind = kind
        self._context = context
        self._timeout = timeout

    async def __aenter__(self) -> Session:
        seconds = self._timeout
        if seconds is None:
            return self._kind.session(await self._context.__aenter__())
        if seconds <= 0:
            seconds = SHORTEST_WAIT
        waiting = asyncio.timeout(seconds)
        try:
            async with waiting:
                return self._kind.session(await self._context.__aenter__())
        except TimeoutError as exc:
            if not waiting.expired():
                raise  # the driver's own, as of connecting
            raise PoolTimeoutError(seconds) from exc

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return await self._context.__aexit__(exc_type, exc, traceback)


def is_pool(connection: object) -> bool:
    """
    Return whether several connections can be acquired from it at once.

    Raises:
        UnsupportedConnectionError: As in `session_on`.
    """
    return (_kinds.get(type(connection)) or _find_kind(connection)).is_pool


def pool_size(connection: object) -> int:
    """
    Return how many connections can be acquired from it at once.

    As many as can be wished for where that is not limited or not known.

    Raises:
        UnsupportedConnectionError: As in `session_on`.
    """
    kind = _kinds.get(type(connection)) or _find_kind(connection)
    if not kind.is_pool:
        return 1
    return kind.size(connection) or _MANY


_MANY: Final = 20


def is_retryable(error: BaseException) -> bool:
    """
    Return whether it is safe and useful to repeat the whole transaction.

    True for `SerializationConflictError` and `RetriesExhaustedError`, for serialization
    failures and deadlocks of PostgreSQL (SQLSTATE 40001 and 40P01), and for the BUSY
    and LOCKED errors of SQLite. Never true for a lost connection, because it is unknown
    whether the transaction was committed.

    Args:
        error: Any exception, of this library, a driver or SQLAlchemy.

    References:
        PostgreSQL, "Serialization Failure Handling"; SQLite, "Result and Error Codes".
    """
    if isinstance(error, (SerializationConflictError, RetriesExhaustedError)):
        return True
    return any(driver.is_retryable(error) for driver in _imported())


def _imported() -> list[Driver]:
    """Return the drivers that the caller has imported."""
    return [
        cast("Driver", importlib.import_module(module))
        for package, module in DRIVERS.items()
        if package in sys.modules
    ]


def _find_kind(connection: object) -> ConnectionKind:
    cls = type(connection)
    for driver in _imported():
        for kind in driver.KINDS:
            if isinstance(connection, kind.type):
                _kinds[cls] = kind
                if kind.acquire is None:
                    DIRECT[cls] = kind.session
                return kind
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
        "this is not an AsyncConnection, AsyncSession or AsyncEngine of SQLAlchemy; a"
        " synchronous one cannot be awaited"
    ),
    "sqlmodel.": "this is synchronous; use sqlmodel.ext.asyncio.session.AsyncSession",
    "asyncpg.transaction.": "this is a transaction; pass its connection",
    "asyncpg.pool.PoolAcquireContext": (
        "this is pool.acquire() before it was awaited; use"
        ' "async with pool.acquire() as connection", or pass the pool itself'
    ),
    "builtins.str": (
        "this is a string; open a connection first, with asyncpg.connect(...) or"
        " aiosqlite.connect(...)"
    ),
    "builtins.coroutine": "this was not awaited",
}
