"""A database URL as a connection, with what a loader needs beside the library."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, Protocol

from aioupsert._schema import Column, looks_like_number
from aioupsert.cli.errors import LoadError


class Database(Protocol):
    """A connection in a transaction, which ends with the context that gave it."""

    @property
    def connection(self) -> Any:
        """The driver's connection."""
        ...

    async def execute(self, sql: str) -> None:
        """Run a statement."""
        ...

    async def convert(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Any]:
        """Convert texts to what the columns hold, by the rules of the database."""
        ...


@asynccontextmanager
async def open_database(url: str) -> AsyncGenerator[Database]:
    """
    Connect and begin a transaction; commit it, or roll back when the block raises.

    Raises:
        LoadError: The URL is none of ours, the driver is missing, or nobody answers.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and rest[1:] not in {"", ":memory:"}:
        async with _open_sqlite(rest[1:]) as database:
            yield database
    elif scheme in {"postgresql", "postgres"}:
        async with _open_postgresql(url) as database:
            yield database
    else:
        msg = (
            f"{url!r} is none of sqlite:///relative.db, sqlite:////absolute.db and"
            " postgresql://user:password@host/database"
        )
        raise LoadError(msg)


class _SqliteDatabase:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def execute(self, sql: str) -> None:
        await self.connection.execute_fetchall(sql)

    async def convert(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Any]:
        # A column's affinity would do the same when the value is stored.
        return [
            _number(cell)
            if cell and column.storage in _NUMERIC and looks_like_number(cell)
            else cell
            for column, cell in zip(columns, cells, strict=True)
        ]


_NUMERIC = frozenset({"sqlite number", "sqlite real"})


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


@asynccontextmanager
async def _open_sqlite(path: str) -> AsyncGenerator[Database]:
    driver = _driver("aiosqlite")
    try:
        # First without aiosqlite, whose thread outlives an attempt that fails.
        sqlite3.connect(path).close()
    except sqlite3.Error as exc:
        msg = f"{path}: {exc}"
        raise LoadError(msg) from exc
    connection = await driver.connect(path, isolation_level=None)
    try:
        await connection.execute_fetchall("BEGIN IMMEDIATE")
        yield _SqliteDatabase(connection)
        await connection.execute_fetchall("COMMIT")
    except driver.Error as exc:
        msg = f"{path}: {exc}"
        raise LoadError(msg) from exc
    finally:
        await connection.close()  # which rolls back what is open


class _PostgresqlDatabase:
    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def execute(self, sql: str) -> None:
        await self.connection.execute(sql)

    async def convert(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Any]:
        if all(column.type == _TEXT for column in columns):
            return list(cells)
        casts = (f"${n}::{_TEXT}::{c.type}" for n, c in enumerate(columns, start=1))
        return list(
            await self.connection.fetchrow(f"SELECT {', '.join(casts)}", *cells)
        )  # types are the catalog's


_TEXT = "pg_catalog.text"


@asynccontextmanager
async def _open_postgresql(url: str) -> AsyncGenerator[Database]:
    driver = _driver("asyncpg")
    try:
        connection = await driver.connect(url)
    except (OSError, ValueError, driver.PostgresError, driver.InterfaceError) as exc:
        msg = f"the database says: {exc}"
        raise LoadError(msg) from exc
    try:
        async with connection.transaction():
            yield _PostgresqlDatabase(connection)
    except driver.PostgresError as exc:
        msg = f"the database says: {exc}"
        raise LoadError(msg) from exc
    finally:
        await connection.close()


def _driver(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        msg = f"this database needs: pip install 'aioupsert[{name}]'"
        raise LoadError(msg) from exc
