"""Opening a SQLite database with aiosqlite."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from aioupsert._engines.sqlite.values import convert_text
from aioupsert._plan.schema import Column
from aioupsert.cli.databases.base import (
    Engine,
    SelfReference,
    TransactionEnd,
    end_transaction,
    import_driver,
)
from aioupsert.cli.errors import LoadError, message_of
from aioupsert.typing import Value


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
            convert_text(column, [cell])[0]
            for column, cell in zip(columns, cells, strict=True)
        ]

    async def find_faulty_column(
        self, columns: Mapping[str, Column], _row: object, error: object, /
    ) -> str | None:
        # Whether a value is right, SQLite checks by constraints, which its message names.
        match = _SQLITE_COLUMN.search(str(error))
        name = match and (match["column"] or match["strict"])
        return name if name in columns else None

    async def self_references(self, _table: object, /) -> Sequence[SelfReference]:
        return ()  # SQLite does not check foreign keys unless it is told to


_SQLITE_COLUMN: Final = re.compile(
    r"^NOT NULL constraint failed: [^,]*\.(?P<column>[^,.]+)$"
    r"|^cannot store \w+ value in \w+ column [^,]*\.(?P<strict>[^,.]+)$"
)


# Kilobytes. Of an index whose pages do not fit, each row writes some to the disk.
_CACHE: Final = 32_000


@asynccontextmanager
async def open_sqlite(
    path: str, timeout: float, *, create: bool, end: TransactionEnd | None
) -> AsyncGenerator[_Sqlite]:
    """
    Open a file; the arguments are those of `open_database`.

    Args:
        path: The file.
        timeout: For how many seconds to wait for another writer.
        create: Whether to create it if it does not exist.
        end: The command that ends the transaction, or None for no transaction.
    """
    driver = import_driver("aiosqlite", "aiosqlite")
    try:
        path = _check_file(path, create=create, keep=end != "ROLLBACK")
        connection = await driver.connect(path, isolation_level=None, timeout=timeout)
        try:
            await connection.execute_fetchall(f"PRAGMA cache_size = -{_CACHE}")
            if end is not None:
                await connection.execute_fetchall("BEGIN IMMEDIATE")
            yield _Sqlite(connection)
            if end is not None:
                await _end(connection, path, end)
        finally:
            await connection.close()  # rolls back an open transaction
    except _Sqlite.errors as exc:
        msg = f"{path}: {message_of(exc)}"
        raise LoadError(msg) from exc


async def _end(connection: Any, path: str, end: TransactionEnd) -> None:
    try:
        await end_transaction(connection.execute_fetchall(end))
    except _Sqlite.errors as exc:
        # SQLite has rolled back, or closing the connection will.
        msg = f"{path}: {message_of(exc)}\nNothing was stored."
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
