"""A database URL as a connection, with what the commands need beside the library."""

from __future__ import annotations

import asyncio
import importlib
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, Protocol

from aioupsert._engines.sqlite.values import text_converter
from aioupsert._plan.schema import Column
from aioupsert.cli.errors import LoadError, words

Engine = Literal["postgresql", "sqlite"]
End = Literal["COMMIT", "ROLLBACK"]


class Database(Protocol):
    """An open connection or pool."""

    @property
    def engine(self) -> Engine:
        """Which database it is."""
        ...

    @property
    def handle(self) -> Any:
        """What the library takes."""
        ...

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What the driver raises."""
        ...

    async def execute(self, sql: str) -> None:
        """Run a statement."""
        ...

    async def convert(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Any]:
        """Make of texts what the columns would hold."""
        ...

    async def blame(
        self, columns: Mapping[str, Column], row: Mapping[str, Any], error: object, /
    ) -> str | None:
        """Find the column that is to blame for an error, if one can be told."""
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


def is_postgresql(url: str) -> bool:
    """Tell which database a URL, as `check_url` has passed it, is of."""
    return not url.startswith("sqlite:")


def open_database(
    url: str, *, create: bool = False, end: End | None = None, connections: int = 1
) -> AbstractAsyncContextManager[Database]:
    """
    Connect; in a transaction if it is said how that ends.

    Args:
        url: As `check_url` has passed it.
        create: Whether a SQLite file that is not there is made.
        end: What ends the transaction; it is rolled back anyway when the block raises.
        connections: A pool of so many, of PostgreSQL and without a transaction, if this
            is more than one.

    Raises:
        LoadError: The driver is missing, nobody answers, or the database fails.
    """
    if is_postgresql(url):
        return _open_postgresql(url, end, connections)
    return _open_sqlite(url.removeprefix("sqlite:///"), create=create, end=end)


class _Sqlite:
    engine: Engine = "sqlite"
    errors: tuple[type[Exception], ...] = (OSError, sqlite3.Error)

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    async def execute(self, sql: str) -> None:
        await self.handle.execute_fetchall(sql)

    async def convert(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Any]:
        return [
            cell if not cell else text_converter(column)(cell)
            for column, cell in zip(columns, cells, strict=True)
        ]

    async def blame(self, *_: object) -> str | None:
        return None  # it takes any value, and its messages name what a constraint names


# How long another writer may keep us waiting, in seconds.
_BUSY_TIMEOUT = 5.0


@asynccontextmanager
async def _open_sqlite(
    path: str, *, create: bool, end: End | None
) -> AsyncGenerator[Database]:
    driver = _driver("aiosqlite")
    try:
        path = _try_to_open(path, create=create, keep=end != "ROLLBACK")
        connection = await driver.connect(
            path, isolation_level=None, timeout=_BUSY_TIMEOUT
        )
        try:
            if end is not None:
                await connection.execute_fetchall("BEGIN IMMEDIATE")
            yield _Sqlite(connection)
            if end is not None:
                await _finish(connection.execute_fetchall(end))
        finally:
            await connection.close()  # which rolls back what is open
    except _Sqlite.errors as exc:
        msg = f"{path}: {words(exc)}"
        raise LoadError(msg) from exc


def _try_to_open(path: str, *, create: bool, keep: bool) -> str:
    """Fail here, where aiosqlite's thread would outlive the failure and print its own."""
    if not Path(path).exists():
        if not create:
            msg = f"there is no file {path}; load --create-table makes it"
            raise LoadError(msg)
        if not keep:
            return ":memory:"  # no file is made only to be left empty
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
    ) -> list[Any]:
        casts = (_cast(f"${n}", column) for n, column in enumerate(columns, start=1))
        return list(await self.handle.fetchrow(f"SELECT {', '.join(casts)}", *cells))

    async def blame(
        self, columns: Mapping[str, Column], row: Mapping[str, Any], error: object, /
    ) -> str | None:
        state = getattr(error, "sqlstate", "")
        if state.startswith(_DATA_EXCEPTION):
            for column, cell in row.items():
                if isinstance(cell, str) and await self._refuses(columns[column], cell):
                    return column
        name: str | None = getattr(error, "column_name", None)
        return name

    async def _refuses(self, column: Column, cell: str) -> bool:
        """Tell whether a text cannot be converted to a column's type."""
        if column.length is not None:
            return len(cell) > column.length
        try:
            if self._in_transaction:
                await self.execute("SAVEPOINT aioupsert_cli")
            await self.convert([column], [cell])
        except self.errors:
            return True
        finally:
            if self._in_transaction:
                await self.execute("ROLLBACK TO SAVEPOINT aioupsert_cli")
        return False


# SQLSTATE class 22: a value is none of its type, or out of its range.
_DATA_EXCEPTION: Final = "22"


def _cast(place: str, column: Column) -> str:
    """Convert a text as a literal would be; the type's name is the catalog's."""
    return f"CAST({place}::pg_catalog.text AS {column.key_type})"


# How long closing may wait for the server, in seconds.
_CLOSE_TIMEOUT: Final = 5.0


@asynccontextmanager
async def _open_postgresql(
    url: str, end: End | None, connections: int
) -> AsyncGenerator[Database]:
    driver = _driver("asyncpg")
    errors = (OSError, driver.PostgresError, driver.InterfaceError)
    try:
        if connections > 1:
            handle = await driver.create_pool(
                # The reader needs one to itself.
                url,
                min_size=connections,
                max_size=connections + 1,
            )
        else:
            handle = await driver.connect(url)
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
        if end is not None:
            await handle.execute("BEGIN ISOLATION LEVEL READ COMMITTED")
        yield _Postgresql(handle, errors, in_transaction=end is not None)
        if end is not None:
            await _finish(handle.execute(end))
    except errors as exc:
        msg = f"the database says: {words(exc)}"
        raise LoadError(msg) from exc
    finally:
        try:
            # Which rolls back what is open.
            await asyncio.wait_for(handle.close(), _CLOSE_TIMEOUT)
        except (*errors, TimeoutError):
            handle.terminate()


async def _finish(commit: Awaitable[object]) -> None:
    """Wait for a commit; once it is sent, an interrupt comes too late."""
    task = asyncio.ensure_future(commit)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    task.result()


def _driver(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        msg = f"this database needs: pip install 'aioupsert[{name}]'"
        raise LoadError(msg) from exc
