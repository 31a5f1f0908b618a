"""What every driver calls the same error of its database."""

import sqlite3
from typing import Any, Final

import asyncpg
import psycopg

ABORTED: Final = (
    asyncpg.InFailedSQLTransactionError,
    psycopg.errors.InFailedSqlTransaction,
)
CHECK: Final = (
    asyncpg.CheckViolationError,
    psycopg.errors.CheckViolation,
    sqlite3.IntegrityError,
)
FOREIGN_KEY: Final = (
    asyncpg.ForeignKeyViolationError,
    psycopg.errors.ForeignKeyViolation,
    sqlite3.IntegrityError,
)
# Of asyncpg, as docs/servers.md has them.
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
INTEGRITY: Final = (
    asyncpg.IntegrityConstraintViolationError,
    psycopg.IntegrityError,
    sqlite3.IntegrityError,
)


def check_kind(error: Any, postgresql: Any, sqlite: int) -> None:
    """See that it is the driver's own error of the kind that asyncpg names."""
    if isinstance(error, sqlite3.Error):
        assert type(error) is sqlite3.IntegrityError
        assert error.sqlite_errorcode == sqlite
    elif isinstance(error, psycopg.Error):
        assert type(error) is psycopg.errors.lookup(postgresql.sqlstate)
    else:
        assert type(error) is postgresql
