"""What callers annotate with."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias


class PostgresqlConnection(Protocol):
    """An asyncpg connection, plain or pooled, or a pool."""

    def fetch(self, query: str, /, *args: Any) -> Awaitable[Any]:
        """Run a query."""
        ...

    def execute(self, query: str, /, *args: Any) -> Awaitable[Any]:
        """Run a command."""
        ...


class SqliteConnection(Protocol):
    """An aiosqlite connection."""

    def execute_fetchall(self, sql: str, /) -> Awaitable[Any]:
        """Run a query."""
        ...

    def rollback(self) -> Awaitable[Any]:
        """Roll back."""
        ...


class PsycopgConnection(Protocol):
    """A psycopg `AsyncConnection`."""

    def set_autocommit(self, value: bool, /) -> Awaitable[None]:  # noqa: FBT001  # its name for it
        """Say whether statements begin a transaction."""
        ...


class PsycopgPool(Protocol):
    """A psycopg_pool `AsyncConnectionPool`."""

    def getconn(self, timeout: float | None = None) -> Awaitable[Any]:
        """Lend a connection."""
        ...


class SqlalchemyConnection(Protocol):
    """A SQLAlchemy `AsyncConnection`, `AsyncSession` or `async_scoped_session`."""

    def commit(self) -> Awaitable[None]:
        """Commit."""
        ...

    def begin_nested(self) -> Any:
        """Begin a savepoint."""
        ...


class SqlalchemyEngine(Protocol):
    """A SQLAlchemy `AsyncEngine`."""

    def connect(self) -> Any:
        """Lend a connection."""
        ...

    def begin(self) -> Any:
        """Lend a connection in a transaction."""
        ...


Connection: TypeAlias = (
    PostgresqlConnection
    | SqliteConnection
    | PsycopgConnection
    | PsycopgPool
    | SqlalchemyConnection
    | SqlalchemyEngine
)
"""Whatever a call may be given as its connection."""


class SqlalchemyTable(Protocol):
    """A SQLAlchemy `Table`."""

    @property
    def columns(self) -> Any:
        """Its columns."""
        ...

    @property
    def schema(self) -> str | None:
        """Its schema."""
        ...


Table: TypeAlias = str | Sequence[str] | SqlalchemyTable | type[Any]
"""
``"table"``, ``"schema.table"``, a tuple of one or two names, or, with the extra
``sqlalchemy``, a `Table`, a mapped class, or a SQLModel class.
"""

Values: TypeAlias = Mapping[str, Any]
"""Column names to plain values, expressions, or callables that give one."""

Returning: TypeAlias = str | Sequence[str] | type[Any] | None
"""
``"*"``, one column name, or several; or the mapped class that is the table, for
`Result.object`.
"""

WithoutUniqueIndex: TypeAlias = Literal["warn", "error", "allow", "lock"]
"""What to do when no unique index makes the key unique."""

Strategy: TypeAlias = Literal["auto", "fast", "exact", "on_conflict"]
"""How a call runs."""

Rows: TypeAlias = Iterable[Any] | AsyncIterable[Any]
"""
Rows of a bulk call, read lazily.

Mappings (and whatever has their ``keys()``, as the rows of drivers), named tuples, and
instances of dataclasses, attrs or pydantic classes.
"""

Update: TypeAlias = Mapping[str, Any] | Sequence[str] | None
"""Columns to expressions, or the names of columns."""
