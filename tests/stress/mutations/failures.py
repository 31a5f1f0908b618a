"""Faults of the errors that come back: one error is taken for another."""

from __future__ import annotations

import sqlite3
from typing import Final

import asyncpg

from tests.stress.mutations.registry import changes_errors

_TRANSIENT: Final = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_LOST: Final = (
    asyncpg.AdminShutdownError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)


@changes_errors(
    "tests/hazards/test_transactions.py::test_a_lost_race_keeps_what_the_caller_wrote"
)
def unique_violations_are_final(error: Exception, _: str) -> Exception:
    """no second attempt is made after a unique violation."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return asyncpg.IntegrityConstraintViolationError(str(error))
    return error


@changes_errors("tests/hazards/test_retries.py::test_a_transient_error_is_retried")
def transient_errors_are_final(error: Exception, _: str) -> Exception:
    """no second attempt is made after a serialization failure or a deadlock."""
    if isinstance(error, _TRANSIENT):
        return asyncpg.TransactionRollbackError(str(error))
    return error


@changes_errors("tests/hazards/test_lost_connections.py::test_during_the_call")
def lost_connections_are_transient(error: Exception, _: str) -> Exception:
    """a call is repeated after its connection was lost."""
    if isinstance(error, _LOST):
        return asyncpg.SerializationError(str(error))
    return error


@changes_errors("tests/hazards/test_schema_changes.py::test_the_next_call_knows")
def changed_tables_are_not_noticed(error: Exception, _: str) -> Exception:
    """a changed table is never noticed."""
    if isinstance(
        error, (asyncpg.SyntaxOrAccessError, asyncpg.FeatureNotSupportedError)
    ):
        return asyncpg.TriggeredActionError(str(error))
    return error


@changes_errors(
    "tests/conformance/test_errors.py::test_a_violation_is_the_drivers_own_error"
)
def errors_of_sqlite_are_swallowed(error: Exception, _: str) -> Exception | None:
    """an error of SQLite is swallowed."""
    return None if isinstance(error, sqlite3.Error) else error
