"""Connections by URL, with what the commands need in addition to the library."""

from __future__ import annotations

import asyncio
import importlib
import re
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, Protocol
from urllib.parse import parse_qsl

from aioupsert._engines.sqlite.values import text_converter
from aioupsert._plan.schema import Column
from aioupsert.cli.errors import LoadError, message_of
from aioupsert.typing import Value

Engine = Literal["postgresql", "sqlite"]
TransactionEnd = Literal["COMMIT", "ROLLBACK"]


class Database(Protocol):
    """An open connection or pool, and what depends on its driver."""

    @property
    def engine(self) -> Engine:
        """The kind of database."""
        ...

    @property
    def handle(self) -> Any:
        """The connection or pool to pass to the library."""
        ...

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The exceptions that the driver raises."""
        ...

    async def execute(self, sql: str) -> None:
        """Execute a statement."""
        ...

    async def convert(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Value]:
        """Return the values that columns would hold for the given text."""
        ...

    async def find_faulty_column(
        self, columns: Mapping[str, Column], row: Mapping[str, Value], error: object, /
    ) -> str | None:
        """Return the column that caused an error, or None if unknown."""
        ...


def check_url(url: str) -> str:
    """
    Return the URL if it is one of a supported database.

    Raises:
        ValueError: It is not. The message says what a URL looks like and never contains
            the password.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        if rest in {"", "/", ":memory:", "/:memory:"}:
            msg = "an in-memory database would not outlive the command: name a file"
            raise ValueError(msg)
        if not rest.startswith("/"):
            msg = f"write three slashes before a file: sqlite:///{rest}"
            raise ValueError(msg)
        _sqlite_timeout(url)
    elif scheme.partition("+")[0] in _SCHEMES and separator:
        engine, plus, driver = scheme.partition("+")
        if plus:
            msg = f"write {engine}:// without +{driver}: the driver is not part of it"
            raise ValueError(msg)
    else:
        msg = (
            "must be sqlite:///relative.db, sqlite:////absolute.db or"
            " postgresql://user:password@host/database"
        )
        raise ValueError(msg)
    return url


_SCHEMES: Final = ("postgresql", "postgres", "sqlite")


def _sqlite_timeout(url: str) -> float:
    """Return the seconds to wait for another writer, by the parameter of a URL."""
    _, _, query = url.partition("?")
    timeout = _BUSY_TIMEOUT
    for name, value in parse_qsl(query, keep_blank_values=True):
        try:
            if name != "timeout":
                raise ValueError  # noqa: TRY301  # one message for both
            timeout = float(value)
        except ValueError as exc:
            msg = (
                f"{name}={value} is not a parameter of SQLite here: write"
                " ?timeout=SECONDS, or %3F for a question mark in the name of the file"
            )
            raise ValueError(msg) from exc
    return timeout


def is_postgresql(url: str) -> bool:
    """Return whether a URL that passed `check_url` names a PostgreSQL database."""
    return not url.startswith("sqlite:")


def sqlite_path(url: str) -> Path:
    """Return the file that a URL of SQLite names."""
    path, _, _ = url.removeprefix("sqlite:///").partition("?")
    return Path(path.replace("%3F", "?").replace("%3f", "?"))


def open_database(
    url: str,
    *,
    create: bool = False,
    end: TransactionEnd | None = None,
    connections: int = 1,
) -> AbstractAsyncContextManager[Database]:
    """
    Connect, and begin a transaction if *end* is given.

    Args:
        url: A URL that passed `check_url`.
        create: Whether to create a SQLite file that does not exist.
        end: The command that ends the transaction. If the block raises, it is rolled
            back in either case.
        connections: The size of the pool; one opens a single connection. More than one
            needs PostgreSQL and no transaction.

    Raises:
        LoadError: The driver is missing, connecting failed, or the database raised an
            error.
    """
    if is_postgresql(url):
        return _open_postgresql(url, end, connections)
    return _open_sqlite(
        str(sqlite_path(url)), _sqlite_timeout(url), create=create, end=end
    )


class _Sqlite:
    engine: Engine = "sqlite"
    errors: tuple[type[Exception], ...] = (OSError, sqlite3.Error)

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def execute(self, sql: str) -> None:
        await self.handle.execute_fetchall(sql)

    async def convert(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Value]:
        return [
            cell if not cell else text_converter(column)(cell)
            for column, cell in zip(columns, cells, strict=True)
        ]

    async def find_faulty_column(
        self, columns: Mapping[str, Column], _row: object, error: object, /
    ) -> str | None:
        # Whether a value is right, SQLite checks by constraints, which its message names.
        match = _SQLITE_COLUMN.search(str(error))
        name = match and (match["column"] or match["strict"])
        return name if name in columns else None


_SQLITE_COLUMN: Final = re.compile(
    r"^NOT NULL constraint failed: [^,]*\.(?P<column>[^,.]+)$"
    r"|^cannot store \w+ value in \w+ column [^,]*\.(?P<strict>[^,.]+)$"
)


# Seconds to wait for another writer.
_BUSY_TIMEOUT = 5.0


@asynccontextmanager
async def _open_sqlite(
    path: str, timeout: float, *, create: bool, end: TransactionEnd | None
) -> AsyncGenerator[Database]:
    driver = _import_driver("aiosqlite")
    try:
        path = _check_file(path, create=create, keep=end != "ROLLBACK")
        connection = await driver.connect(path, isolation_level=None, timeout=timeout)
        try:
            if end is not None:
                await connection.execute_fetchall("BEGIN IMMEDIATE")
            yield _Sqlite(connection)
            if end is not None:
                await _end_transaction(connection.execute_fetchall(end))
        finally:
            await connection.close()  # rolls back an open transaction
    except _Sqlite.errors as exc:
        msg = f"{path}: {message_of(exc)}"
        raise LoadError(msg) from exc


def _check_file(path: str, *, create: bool, keep: bool) -> str:
    """
    Return the path to open, and fail if it cannot be opened.

    Without this check, aiosqlite's thread would print a traceback of its own.
    """
    if not Path(path).exists():
        if not create:
            msg = f"there is no file {path}; load --create-table creates it"
            raise LoadError(msg)
        if not keep:
            return ":memory:"  # a dry run leaves no empty file behind
    sqlite3.connect(path).close()
    return path


class _Postgresql:
    engine: Engine = "postgresql"

    def __init__(
        self, handle: Any, errors: tuple[type[Exception], ...], *, in_transaction: bool
    ) -> None:
        self.handle = handle
        self.errors = errors
        self._in_transaction = in_transaction

    async def execute(self, sql: str) -> None:
        await self.handle.execute(sql)

    async def convert(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Value]:
        casts = (_cast(f"${n}", column) for n, column in enumerate(columns, start=1))
        return list(await self.handle.fetchrow(f"SELECT {', '.join(casts)}", *cells))

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
            if cells and not await self._can_convert(columns, cells):
                while len(cells) > 1:
                    names = [*cells]
                    half = {name: cells[name] for name in names[: len(names) // 2]}
                    if await self._can_convert(columns, half):
                        half = {name: cells[name] for name in names[len(half) :]}
                    cells = half
                return next(iter(cells))
        name: str | None = getattr(error, "column_name", None)
        return name

    async def _can_convert(
        self, columns: Mapping[str, Column], cells: Mapping[str, str]
    ) -> bool:
        """Return whether columns can hold the given text."""
        try:
            if self._in_transaction:
                await self.execute("SAVEPOINT aioupsert_cli")
            await self.convert([columns[name] for name in cells], [*cells.values()])
        except self.errors:
            return False
        finally:
            if self._in_transaction:
                await self.execute("ROLLBACK TO SAVEPOINT aioupsert_cli")
        return True


# A SQLSTATE class; the error itself names the column, where there is one.
_CONSTRAINT_VIOLATION: Final = "23"


def _cast(placeholder: str, column: Column) -> str:
    """Write a cast of text to a column's type, which converts it like a literal."""
    return f"CAST({placeholder}::pg_catalog.text AS {column.key_type})"


# What SQLSTATEs of errors begin with after which the connection is gone.
_CONNECTION_LOST: Final = ("08", "57P")

# Seconds that closing may wait for the server.
_CLOSE_TIMEOUT: Final = 5.0


@asynccontextmanager
async def _open_postgresql(
    url: str, end: TransactionEnd | None, connections: int
) -> AsyncGenerator[Database]:
    driver = _import_driver("asyncpg")
    errors = (OSError, driver.PostgresError, driver.InterfaceError)
    try:
        if connections > 1:
            handle = await driver.create_pool(
                url,
                min_size=connections,
                # The task that reads the rows needs a connection of its own.
                max_size=connections + 1,
            )
        else:
            handle = await driver.connect(url)
    except errors as exc:
        msg = f"cannot connect: {message_of(exc)}"
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
            await handle.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        yield _Postgresql(handle, errors, in_transaction=end is not None)
        if end is not None:
            try:
                await _end_transaction(handle.execute(end))
            except errors as exc:
                state = getattr(exc, "sqlstate", None) or _CONNECTION_LOST[0]
                outcome = "Nothing was stored."
                if state.startswith(_CONNECTION_LOST):
                    outcome = (
                        "The connection was lost at the end, so it is unknown whether"
                        " the rows are stored: all are, or none."
                    )
                msg = f"database error: {message_of(exc)}\n{outcome}"
                raise LoadError(msg) from exc
    except errors as exc:
        msg = f"database error: {message_of(exc)}"
        raise LoadError(msg) from exc
    finally:
        try:
            # Closing rolls back an open transaction.
            await asyncio.wait_for(handle.close(), _CLOSE_TIMEOUT)
        except (*errors, TimeoutError):
            handle.terminate()


async def _end_transaction(command: Awaitable[object]) -> None:
    """Wait for a commit or rollback, even if cancelled: once sent, it takes effect."""
    task = asyncio.ensure_future(command)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    task.result()


def _import_driver(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        msg = f"this database needs {name}: pip install 'aioupsert[{name}]'"
        raise LoadError(msg) from exc
