"""psycopg_pool: pools of psycopg connections."""

from __future__ import annotations

from typing import Final

import psycopg_pool

from aioupsert._adapters.base import Kind
from aioupsert._adapters.psycopg import PsycopgSession, borrow, is_retryable

KINDS: Final = (
    Kind(psycopg_pool.AsyncConnectionPool, PsycopgSession, borrow, is_pool=True),
)

__all__ = ["KINDS", "is_retryable"]
