"""Types for annotations: connections, tables, values, rows and options."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

Value: TypeAlias = Any
"""A value of a column: whatever the driver takes, or returns."""


class PostgresqlConnection(Protocol):
    """An asyncpg `Connection`, a connection of a pool, or a `Pool`."""

    def fetch(self, query: str, /, *args: Value) -> Awaitable[object]:
        """Run a query."""
        ...

    def execute(self, query: str, /, *args: Value) -> Awaitable[object]:
        """Run a command."""
        ...


class SqliteConnection(Protocol):
    """An aiosqlite `Connection`."""

    def execute_fetchall(self, sql: str, /) -> Awaitable[object]:
        """Run a query."""
        ...

    def rollback(self) -> Awaitable[object]:
        """Roll back."""
        ...


class PsycopgConnection(Protocol):
    """A psycopg `AsyncConnection`."""

    def set_autocommit(self, value: bool, /) -> Awaitable[None]:  # noqa: FBT001  # the signature is psycopg's
        """Set whether the connection is in autocommit mode."""
        ...


class PsycopgPool(Protocol):
    """A psycopg_pool `AsyncConnectionPool`."""

    def getconn(self, timeout: float | None = None) -> Awaitable[object]:
        """Acquire a connection."""
        ...


class SqlalchemyConnection(Protocol):
    """A SQLAlchemy `AsyncConnection`, `AsyncSession` or `async_scoped_session`."""

    def commit(self) -> Awaitable[None]:
        """Commit."""
        ...

    def begin_nested(self) -> object:
        """Begin a savepoint."""
        ...


class SqlalchemySession(SqlalchemyConnection, Protocol):
    """A SQLAlchemy `AsyncSession` or `async_scoped_session`."""

    def flush(self) -> Awaitable[None]:
        """Flush."""
        ...


class SqlalchemyEngine(Protocol):
    """A SQLAlchemy `AsyncEngine`."""

    def dispose(self) -> Awaitable[None]:
        """Close the connections of its pool."""
        ...

    def connect(self) -> object:
        """Acquire a connection."""
        ...

    def begin(self) -> object:
        """Acquire a connection in a transaction."""
        ...


Connection: TypeAlias = (
    PostgresqlConnection
    | SqliteConnection
    | PsycopgConnection
    | PsycopgPool
    | SqlalchemyConnection
    | SqlalchemyEngine
)
"""Anything that a call accepts as its connection."""


class SqlalchemyTable(Protocol):
    """A SQLAlchemy `Table`."""

    @property
    def columns(self) -> object:
        """The columns of the table."""
        ...

    @property
    def schema(self) -> str | None:
        """The schema of the table, or None for the default."""
        ...


Table: TypeAlias = str | Sequence[str] | SqlalchemyTable | type[object]
"""
A table: ``"table"``, ``"schema.table"``, or a tuple of one or two names.

With the extra ``sqlalchemy`` also a SQLAlchemy `Table`, a mapped class, or a SQLModel
class.
"""


class SqlalchemyExpression(Protocol):
    """An attribute of a mapped class, a column of a `Table`, or a condition of these."""

    def label(self, name: str | None, /) -> object:
        """Return the expression with a name."""
        ...


Name: TypeAlias = str | SqlalchemyExpression
"""
The name of a column or, with the extra ``sqlalchemy``, the attribute or column itself.

An attribute or column is taken where its class or `Table` is the table of the call.
"""

Values: TypeAlias = Mapping[Any, Value]
"""
A mapping of columns to values, expressions, or callables that return one.

Each column is a `Name`. For a type checker the keys are of any type, since the type of a
mapping's keys is invariant: a mapping of attributes is not one of names.
"""

RowValues: TypeAlias = Mapping[str, Value]
"""A returned row: a mapping of the names of columns to values."""

Returning: TypeAlias = Name | Sequence[Name] | type[object] | None
"""
What `Result.row` is: ``"*"``, one name or several names request a mapping.

A class requests its instances: a dataclass, attrs class, pydantic model, NamedTuple or
TypedDict, whose fields are the columns. If the table is a mapped class, that class
requests mapped objects: over a session its own, fresh; elsewhere transient ones.
"""

WithoutUniqueIndex: TypeAlias = Literal["warn", "error", "allow", "lock"]
"""What to do if no unique index makes the key unique; see `create_or_update`."""

Strategy: TypeAlias = Literal["auto", "fast", "exact", "on_conflict"]
"""How a call is executed; see `create_or_update`."""


class ArrowColumns(Protocol):
    """Columns that others read by the PyCapsule interface of Apache Arrow."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a stream of batches."""
        ...


Rows: TypeAlias = Iterable[object] | AsyncIterable[object] | ArrowColumns
"""
The rows of a bulk call, which are read lazily.

Each is a mapping, or another object with ``keys()`` such as a driver's row; a named
tuple; or an instance of a dataclass, an attrs class or a pydantic model. With the extra
``arrow`` all of them may be one table or stream with ``__arrow_c_stream__``, such as a data
frame of polars or pandas, a table of pyarrow, or a result of DuckDB.
"""

Update: TypeAlias = Values | Name | Sequence[Name] | None
"""The columns to update: names, or a mapping of names to expressions."""
