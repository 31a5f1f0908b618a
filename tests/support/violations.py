"""What every driver calls the same error of its database."""

import os
import sqlite3
from typing import Any, Final

import asyncpg
import psycopg
from sqlalchemy import exc

# Over anything of SQLAlchemy errors are its own; they hold the driver's.
OVER_SQLALCHEMY: Final = os.environ.get("AIOUPSERT_TEST_HANDLES") == "sqlalchemy"

ABORTED: tuple[type[Exception], ...] = (
    asyncpg.InFailedSQLTransactionError,
    psycopg.errors.InFailedSqlTransaction,
)
CHECK: tuple[type[Exception], ...] = (
    asyncpg.CheckViolationError,
    psycopg.errors.CheckViolation,
    sqlite3.IntegrityError,
)
DATABASE: tuple[type[Exception], ...] = (
    asyncpg.PostgresError,
    psycopg.Error,
    sqlite3.Error,
)
FOREIGN_KEY: tuple[type[Exception], ...] = (
    asyncpg.ForeignKeyViolationError,
    psycopg.errors.ForeignKeyViolation,
    sqlite3.IntegrityError,
)
# Of asyncpg, as docs/guides/servers.md has them.
LOST: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# Of asyncpg, when the server ends a session; which one depends on how much of the end
# the driver has read already.
ENDED: Final = (
    asyncpg.AdminShutdownError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)
INTEGRITY: tuple[type[Exception], ...] = (
    asyncpg.IntegrityConstraintViolationError,
    psycopg.IntegrityError,
    sqlite3.IntegrityError,
)

# A value of another type than its column's.
MISFIT: tuple[type[Exception], ...] = (
    asyncpg.DataError,
    psycopg.ProgrammingError,
    sqlite3.Error,
)

if OVER_SQLALCHEMY:
    ABORTED = DATABASE = MISFIT = (exc.DBAPIError,)
    CHECK = FOREIGN_KEY = INTEGRITY = (exc.IntegrityError,)


def driver_error(error: BaseException) -> BaseException:
    """Return the error of the driver, which SQLAlchemy's has as its cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def check_kind(error: Any, postgresql: Any, sqlite: int) -> None:
    """See that it is the driver's own error of the kind that asyncpg names."""
    if OVER_SQLALCHEMY:
        assert isinstance(error, exc.DBAPIError)
        error = error.orig
        if type(error).__module__.startswith("sqlalchemy."):
            error = error.__cause__
    if isinstance(error, sqlite3.Error):
        assert type(error) is sqlite3.IntegrityError
        assert error.sqlite_errorcode == sqlite
    elif isinstance(error, psycopg.Error):
        assert type(error) is psycopg.errors.lookup(postgresql.sqlstate)
    else:
        assert type(error) is postgresql
