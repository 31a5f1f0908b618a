"""Opening a PostgreSQL database with asyncpg or psycopg, whichever is installed."""

from __future__ import annotations

import abc
import asyncio
import importlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from aioupsert._engines.postgresql.qualifying import operator
from aioupsert._engines.sql import quote, quote_path
from aioupsert._plan.schema import Column, Table
from aioupsert.cli.databases.base import (
    Engine,
    TransactionEnd,
    Values,
    end_transaction,
    import_driver,
)
from aioupsert.cli.databases.urls import PostgresqlUrl, read_postgresql_url
from aioupsert.cli.errors import LoadError, message_of
from aioupsert.typing import Value

_Driver: TypeAlias = Any  # a module


class _Postgresql(abc.ABC):
    """
    A connection or pool.

    Attributes:
        handle: The connection or pool of the driver.
        errors: The exceptions that the driver raises.
    """

    engine: Engine = "postgresql"
    errors: tuple[type[Exception], ...]
    handle: Any

    def __init__(self) -> None:
        self.in_transaction: bool = False

    @abc.abstractmethod
    async def connect(self, url: PostgresqlUrl, connections: int) -> None:
        """
        Connect, once or with a pool.

        Raises:
            ValueError: The driver cannot read the URL.
        """

    @abc.abstractmethod
    async def execute(self, sql: str) -> None:
        """Execute a statement."""

    @abc.abstractmethod
    async def fetch(
        self, sql: str, arguments: Sequence[Value]
    ) -> Sequence[Sequence[Value]]:
        """Return the rows of a query."""

    @abc.abstractmethod
    def _column_of(self, error: object) -> str | None:
        """Return the column that the server names in an error."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close the connection, which rolls back an open transaction."""

    @abc.abstractmethod
    def terminate(self) -> None:
        """Close the connection at once."""

    async def convert(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Value]:
        casts = (_cast(f"${n}", column) for n, column in enumerate(columns, start=1))
        rows = await self.fetch(f"SELECT {', '.join(casts)}", cells)
        return [*rows[0]]

    async def find_faulty_column(
        self, columns: Mapping[str, Column], row: Mapping[str, Value], error: object, /
    ) -> str | None:
        state = getattr(error, "sqlstate", None) or ""
        # An error of the input function of a type may be of any class.
        if state and not state.startswith(_CONSTRAINT_VIOLATION):
            cells = {
                name: cell
                for name, cell in row.items()
                if isinstance(cell, str) and name in columns
            }
            for column, cell in cells.items():
                length = columns[column].length
                if length is not None and len(cell) > length:
                    return column
            # Most messages quote the text, mostly that of one column.
            quoted = [name for name in cells if f'"{cells[name]}"' in str(error)]
            if len(quoted) == 1:
                (name,) = quoted
                if not await self._can_convert(columns, {name: cells[name]}):
                    return name
            if cells and not await self._can_convert(columns, cells):
                while len(cells) > 1:
                    names = [*cells]
                    half = {name: cells[name] for name in names[: len(names) // 2]}
                    if await self._can_convert(columns, half):
                        half = {name: cells[name] for name in names[len(half) :]}
                    cells = half
                return next(iter(cells))
        return self._column_of(error)

    async def _can_convert(
        self, columns: Mapping[str, Column], cells: Mapping[str, str]
    ) -> bool:
        """Return whether columns can hold the given text."""
        try:
            async with self.savepoint():
                await self.convert([columns[name] for name in cells], [*cells.values()])
        except self.errors:
            return False
        return True

    @asynccontextmanager
    async def savepoint(self) -> AsyncGenerator[None]:
        """Leave the transaction, if there is one, as it was."""
        try:
            if self.in_transaction:
                await self.execute("SAVEPOINT aioupsert_cli")
            yield
        finally:
            if self.in_transaction:
                await self.execute("ROLLBACK TO SAVEPOINT aioupsert_cli")

    async def self_references(self, table: Table, /) -> Sequence[_SelfReference]:
        rows = await self.fetch(_SELF_REFERENCES, [table.relation_id])
        return [
            _SelfReference(self, table, tuple(columns), tuple(referenced))
            for columns, referenced in rows
        ]


@dataclass(frozen=True, slots=True)
class _SelfReference:
    database: _Postgresql
    table: Table
    columns: tuple[str, ...]
    referenced: tuple[str, ...]

    async def find_parents(self, values: Sequence[Values], /) -> list[bool]:
        if not values:
            return []
        columns = [self.table.columns[name] for name in self.referenced]
        numbers = range(1, len(columns) + 1)
        placeholders = ", ".join(f"${n}::pg_catalog.text[]" for n in numbers)
        names = ", ".join(f"c{n}" for n in numbers)
        conditions = " AND ".join(
            f"t.{quote(column.name)} {operator('=', column.operators)}"
            f" {_cast(f'x.c{n}', column)}"
            for n, column in enumerate(columns, start=1)
        )
        sql = (
            "SELECT EXISTS"  # noqa: S608  # the names are quoted
            f" (SELECT FROM {quote_path(self.table.name)} AS t WHERE {conditions})"
            f" FROM ROWS FROM (pg_catalog.unnest({placeholders}))"
            f" WITH ORDINALITY AS x ({names}, ord) ORDER BY ord"
        )
        texts = [[*map(str, column)] for column in zip(*values, strict=True)]
        try:
            async with self.database.savepoint():
                rows = await self.database.fetch(sql, texts)
        except self.database.errors:  # a value that is none of the type
            return [True] * len(values)
        return [bool(found) for (found,) in rows]


# A foreign key that waits for the end of the transaction needs no order.
_SELF_REFERENCES: Final = """
SELECT
  ARRAY(SELECT a.attname::pg_catalog.text
    FROM pg_catalog.unnest(c.conkey) WITH ORDINALITY AS k (num, ord)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.num
    ORDER BY k.ord),
  ARRAY(SELECT a.attname::pg_catalog.text
    FROM pg_catalog.unnest(c.confkey) WITH ORDINALITY AS k (num, ord)
    JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.confrelid AND a.attnum = k.num
    ORDER BY k.ord)
FROM pg_catalog.pg_constraint AS c
WHERE c.contype = 'f' AND c.conrelid = c.confrelid AND NOT c.condeferred
  AND c.conrelid = $1::pg_catalog.text::pg_catalog.oid
"""


# A SQLSTATE class; the error itself names the column, where there is one.
_CONSTRAINT_VIOLATION: Final = "23"


def _cast(placeholder: str, column: Column) -> str:
    """Write a cast of text to a column's type, which converts it like a literal."""
    return f"CAST({placeholder}::pg_catalog.text AS {column.key_type})"


class _Asyncpg(_Postgresql):
    def __init__(self) -> None:
        super().__init__()
        self._driver: _Driver = import_driver("asyncpg", "asyncpg")
        self.errors = (OSError, self._driver.PostgresError, self._driver.InterfaceError)

    async def connect(self, url: PostgresqlUrl, connections: int) -> None:
        dsn, options = url.asyncpg_url(), {}
        if (timeout := url.connect_timeout()) is not None:
            options["timeout"] = timeout if timeout > 0 else None
        if connections > 1:
            self.handle = await self._driver.create_pool(
                dsn,
                min_size=connections,
                max_size=connections + _READING,
                **options,
            )
        else:
            self.handle = await self._driver.connect(dsn, **options)

    async def execute(self, sql: str) -> None:
        await self.handle.execute(sql)

    async def fetch(
        self, sql: str, arguments: Sequence[Value]
    ) -> Sequence[Sequence[Value]]:
        rows: Sequence[Sequence[Value]] = await self.handle.fetch(sql, *arguments)
        return rows

    def _column_of(self, error: object) -> str | None:
        name: str | None = getattr(error, "column_name", None)
        return name

    async def close(self) -> None:
        await self.handle.close()

    def terminate(self) -> None:
        self.handle.terminate()


class _Psycopg(_Postgresql):
    def __init__(self) -> None:
        super().__init__()
        self._driver: _Driver = import_driver("psycopg", "psycopg")
        self.errors = (OSError, self._driver.Error)
        self._is_pool = False

    async def connect(self, url: PostgresqlUrl, connections: int) -> None:
        parameters = self._driver.pq.Conninfo.get_defaults()
        known = {option.keyword.decode() for option in parameters}
        dsn, settings = url.libpq_url(known)
        self._check(dsn)

        async def configure(connection: Any) -> None:
            for setting in settings.items():
                await connection.execute(_SET, setting, prepare=False)

        connection = await self._driver.AsyncConnection.connect(dsn, autocommit=True)
        try:
            await configure(connection)
        except BaseException:
            await connection.close()
            raise
        if connections == 1:
            self.handle = connection
            return
        # A pool would try for long, and not say why it cannot connect.
        await connection.close()
        pools: Any = import_driver("psycopg_pool", "psycopg")
        self._is_pool = True
        self.handle = pools.AsyncConnectionPool(
            dsn,
            min_size=connections,
            max_size=connections + _READING,
            kwargs={"autocommit": True},
            configure=configure,
            open=False,
        )
        await self.handle.open(wait=True)

    def _check(self, dsn: str) -> None:
        """Refuse a URL of which libpq would take a part of the password for another."""
        try:
            parts = self._driver.conninfo.conninfo_to_dict(dsn)
        except self._driver.ProgrammingError as exc:
            raise ValueError from exc
        ports = filter(None, parts.get("port", "").split(","))
        if "@" in parts.get("host", "") or not all(map(str.isdigit, ports)):
            raise ValueError

    def _connection(self) -> AbstractAsyncContextManager[Any]:
        if self._is_pool:
            connection: AbstractAsyncContextManager[Any] = self.handle.connection()
            return connection
        return nullcontext(self.handle)

    async def execute(self, sql: str) -> None:
        async with self._connection() as connection:
            await connection.execute(sql, prepare=False)

    async def fetch(
        self, sql: str, arguments: Sequence[Value]
    ) -> Sequence[Sequence[Value]]:
        async with self._connection() as connection:
            cursor = self._driver.AsyncRawCursor(connection)
            await cursor.execute(sql, arguments, prepare=False)
            rows: Sequence[Sequence[Value]] = await cursor.fetchall()
            return rows

    def _column_of(self, error: object) -> str | None:
        name: str | None = getattr(getattr(error, "diag", None), "column_name", None)
        return name

    async def close(self) -> None:
        await self.handle.close()

    def terminate(self) -> None:
        """Do nothing: psycopg closes without waiting for the server."""


_SET: Final = "SELECT pg_catalog.set_config(%s, %s, false)"

# The task that reads the rows needs a connection of its own.
_READING: Final = 1

# What SQLSTATEs of errors begin with after which the connection is gone.
_CONNECTION_LOST: Final = ("08", "57P")

# Seconds that closing may wait for the server.
_CLOSE_TIMEOUT: Final = 5.0


def _choose_driver(url: PostgresqlUrl) -> _Postgresql:
    """
    Return asyncpg if it is installed, and psycopg for what asyncpg cannot do.

    Raises:
        LoadError: psycopg would be needed, and is not installed.
    """
    needed = url.needs_libpq()
    if not needed and _is_installed("asyncpg"):
        return _Asyncpg()
    if _is_installed("psycopg"):
        return _Psycopg()
    if not needed:
        return _Asyncpg()  # which says how to install it
    msg = f"{', '.join(needed)} needs psycopg: pip install 'aioupsert[psycopg]'"
    raise LoadError(msg)


def _is_installed(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


@asynccontextmanager
async def open_postgresql(
    url: str, end: TransactionEnd | None, connections: int
) -> AsyncGenerator[_Postgresql]:
    """Connect; the arguments are those of `open_database`."""
    parsed = read_postgresql_url(url)
    database = _choose_driver(parsed)
    errors = database.errors
    try:
        await database.connect(parsed, connections)
    except errors as exc:
        reason = (
            "no answer in time" if isinstance(exc, TimeoutError) else message_of(exc)
        )
        msg = f"cannot connect: {reason}"
        raise LoadError(msg) from exc
    except ValueError as exc:
        # The message of the driver may quote a part of the password.
        msg = (
            "cannot read the URL: write postgresql://user:password@host:port/database,"
            " with special characters percent-encoded"
        )
        raise LoadError(msg) from exc
    try:
        if end is not None:
            await database.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
            database.in_transaction = True
        yield database
        if end is not None:
            await _end(database, end)
    except errors as exc:
        msg = f"database error: {message_of(exc)}"
        raise LoadError(msg) from exc
    finally:
        try:
            await asyncio.wait_for(database.close(), _CLOSE_TIMEOUT)
        except errors:  # among them that of the time
            database.terminate()


async def _end(database: _Postgresql, end: TransactionEnd) -> None:
    try:
        await end_transaction(database.execute(end))
    except database.errors as exc:
        state = getattr(exc, "sqlstate", None) or _CONNECTION_LOST[0]
        outcome = "Nothing was stored."
        if state.startswith(_CONNECTION_LOST):
            outcome = (
                "The connection was lost at the end, so it is unknown whether the rows"
                " are stored: all are, or none."
            )
        msg = f"database error: {message_of(exc)}\n{outcome}"
        raise LoadError(msg) from exc
