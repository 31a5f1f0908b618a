"""Opening the database of a URL."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from aioupsert.cli.databases.base import Database, TransactionEnd
from aioupsert.cli.databases.postgresql import open_postgresql
from aioupsert.cli.databases.sqlite import open_sqlite
from aioupsert.cli.databases.urls import is_postgresql, sqlite_path, sqlite_timeout


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
        return open_postgresql(url, end, connections)
    return open_sqlite(
        str(sqlite_path(url)), sqlite_timeout(url), create=create, end=end
    )
