"""A database URL as a connection, with what a loader needs beside the library."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

from aioupsert._schema import Column, looks_like_number
from aioupsert.cli.errors import LoadError, words
from aioupsert.expressions import SQL


class Database(Protocol):
    """A connection in a transaction, which ends with the context that gave it."""

    @property
    def connection(self) -> Any:
        """The driver's connection."""
        ...

    async def execute(self, sql: str) -> None:
        """Run a statement."""
        ...

    def value(self, column: Column, cell: str | None, /) -> Any:
        """Make of a cell what the library may write; the database converts it."""
        ...

    async def key(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Any]:
        """Convert cells to what the columns hold; a key takes no expressions."""
        ...


def check_url(url: str) -> str:
    """
    Refuse a URL of no database.

    Raises:
        ValueError: The message says what a URL looks like; never the password.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        if rest in {"", "/", ":memory:", "/:memory:"}:
            msg = "a database in memory would be gone at once; name a file"
            raise ValueError(msg)
        if not rest.startswith("/"):
            msg = f"three slashes before a file: sqlite:///{rest}"
            raise ValueError(msg)
    elif scheme not in {"postgresql", "postgres"} or not separator:
        msg = (
            "must be sqlite:///relative.db, sqlite:////absolute.db or"
            " postgresql://user:password@host/database"
        )
        raise ValueError(msg)
    return url


def open_database(
    url: str, *, create: bool = False
) -> AbstractAsyncContextManager[Database]:
    """
    Connect and begin a transaction; commit it, or roll back when the block raises.

    Args:
        url: As `check_url` has passed it.
        create: Whether a SQLite file that is not there is made.

    Raises:
        LoadError: The driver is missing, nobody answers, or the commit fails.
    """
    if url.startswith("sqlite:///"):
        return _open_sqlite(url.removeprefix("sqlite:///"), create=create)
    return _open_postgresql(url)


class _SqliteDatabase:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def execute(self, sql: str) -> None:
        await self.connection.execute_fetchall(sql)

    def value(self, _column: Column, cell: str | None, /) -> Any:
        return cell  # the column's affinity converts it

    async def key(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Any]:
        # What affinity makes of a text, since the library refuses a key that would be
        # stored as something else.
        return [
            _number(cell)
            if cell and column.storage in _NUMERIC and looks_like_number(cell)
            else cell
            for column, cell in zip(columns, cells, strict=True)
        ]


_NUMERIC: Final = frozenset({"sqlite number", "sqlite real"})
_INT64: Final = 2**63


def _number(text: str) -> int | float:
    try:
        number = int(text)
    except ValueError:
        return float(text)
    return number if -_INT64 <= number < _INT64 else float(text)


# How long another writer may keep us waiting, in seconds.
_BUSY_TIMEOUT = 5.0


@asynccontextmanager
async def _open_sqlite(path: str, *, create: bool) -> AsyncGenerator[Database]:
    driver = _driver("aiosqlite")
    try:
        _try_to_open(path, create=create)
        connection = await driver.connect(
            path, isolation_level=None, timeout=_BUSY_TIMEOUT
        )
        try:
            await connection.execute_fetchall("BEGIN IMMEDIATE")
            yield _SqliteDatabase(connection)
            await connection.execute_fetchall("COMMIT")
        finally:
            await connection.close()  # which rolls back what is open
    except (OSError, sqlite3.Error) as exc:
        msg = f"{path}: {words(exc)}"
        raise LoadError(msg) from exc


def _try_to_open(path: str, *, create: bool) -> None:
    """Fail here, where aiosqlite's thread would outlive the failure and print its own."""
    if not create and not Path(path).exists():
        msg = f"there is no file {path}; --create-table makes it"
        raise LoadError(msg)
    sqlite3.connect(path).close()


class _PostgresqlDatabase:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def execute(self, sql: str) -> None:
        await self.connection.execute(sql)

    def value(self, column: Column, cell: str | None, /) -> Any:
        if cell is None or column.family == "text":
            return cell
        cast = _cast("{}", column.key_type.replace("{", "{{").replace("}", "}}"))
        return SQL(cast, cell)

    async def key(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Any]:
        if all(column.family == "text" for column in columns):
            return list(cells)
        casts = (_cast(f"${n}", c.key_type) for n, c in enumerate(columns, start=1))
        return list(
            await self.connection.fetchrow(f"SELECT {', '.join(casts)}", *cells)
        )


def _cast(place: str, to: str) -> str:
    """Convert a text as a literal would be; the type's name is the catalog's."""
    return f"CAST({place}::pg_catalog.text AS {to})"


@asynccontextmanager
async def _open_postgresql(url: str) -> AsyncGenerator[Database]:
    driver = _driver("asyncpg")
    errors = (OSError, driver.PostgresError, driver.InterfaceError)
    try:
        connection = await driver.connect(url)
    except errors as exc:
        msg = f"cannot connect: {words(exc)}"
        raise LoadError(msg) from exc
    except ValueError as exc:
        # Its words may quote a part of the password.
        msg = (
            "cannot read the URL; it is postgresql://user:password@host:port/database,"
            " special characters percent-encoded"
        )
        raise LoadError(msg) from exc
    try:
        # A timedelta has no months; this keeps a key as it is.
        await connection.set_type_codec(
            "interval",
            schema="pg_catalog",
            encoder=tuple,
            decoder=tuple,
            format="tuple",
        )
        await connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        yield _PostgresqlDatabase(connection)
        await connection.execute("COMMIT")
    except errors as exc:
        msg = f"the database says: {words(exc)}"
        raise LoadError(msg) from exc
    finally:
        await connection.close()  # which rolls back what is open


def _driver(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        msg = f"this database needs: pip install 'aioupsert[{name}]'"
        raise LoadError(msg) from exc
