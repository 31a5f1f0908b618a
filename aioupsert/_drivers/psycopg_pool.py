"""psycopg_pool: pools of psycopg connections. Imported only if the caller has."""

from __future__ import annotations

from typing import Final

import psycopg_pool

from aioupsert._drivers.base import ConnectionKind, Handle
from aioupsert._drivers.psycopg import PsycopgSession, acquire, is_retryable


def _size_of(pool: Handle) -> int:
    size: int = pool.max_size
    return size


KINDS: Final = (
    ConnectionKind(
        psycopg_pool.AsyncConnectionPool,
        PsycopgSession,
        acquire,
        is_pool=True,
        size=_size_of,
    ),
)

__all__ = ["KINDS", "is_retryable"]
