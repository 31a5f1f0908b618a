"""PostgreSQL: its statements, the order in which they are sent, and what rows mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aioupsert._engines.postgresql.cockroachdb import CockroachdbEngine
from aioupsert._engines.postgresql.engine import PostgresqlEngine

if TYPE_CHECKING:
    from aioupsert._engines.base import Engine

_POSTGRESQL: Final = PostgresqlEngine()
_COCKROACHDB: Final = CockroachdbEngine()


def engine_of(crdb_version: str | None) -> Engine:
    """Return the engine of a server; *crdb_version* is what CockroachDB reports."""
    return _POSTGRESQL if crdb_version is None else _COCKROACHDB
