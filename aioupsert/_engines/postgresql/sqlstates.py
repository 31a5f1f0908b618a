"""
The meaning of PostgreSQL's errors, by their SQLSTATE.

References:
    PostgreSQL, "Error Codes".
"""

from __future__ import annotations

from typing import Final

from aioupsert._engines.base import Fault

TRANSIENT: Final = frozenset({"40001", "40P01"})
"""serialization_failure, deadlock_detected: the transaction should be repeated."""

STALE: Final = ("42", "0A000", "55000", "XX000")
"""
Errors that may come from a table that has changed since it was reflected.

Syntax and access errors (an unknown column, another type), feature_not_supported (a
cached plan, a rule), object_not_in_prerequisite_state (a deferrable constraint), and
internal_error (a type that is gone).
"""

_ROW: Final = ("0A", "20", "21", "22", "23", "44", "428", "42804", "54", "55000", "P0")
"""
Errors that may come from a row.

feature_not_supported, cardinality_violation, data_exception,
integrity_constraint_violation, with_check_option_violation, syntax (a type that does
not fit), program_limit_exceeded, object_not_in_prerequisite_state, and what triggers
raise: P0 by default, or any class of their choice, which cannot be known here.
"""

_CONNECTION: Final = (
    "08",
    "25",
    "26",
    "28",
    "3D",
    "42P05",
    "53",
    "57P",
    "58",
)
"""
What no row causes, and no other row passes.

connection_exception, invalid_transaction_state, invalid_sql_statement_name (a pooler has
switched sessions), invalid_authorization_specification, invalid_catalog_name,
duplicate_prepared_statement (a pooler again), insufficient_resources, operator_intervention (but for
query_canceled, as a statement's timeout raises it), system_error.
"""


_CANCELED: Final = "57014"
_LOCK_NOT_AVAILABLE: Final = "55P03"


def fault_by_sqlstate(state: str, message: str) -> Fault:
    """Return what an error of the server comes from."""
    # Not of `statement_timeout`, which has the same code: whoever cancels a statement
    # wants the call to end, not its rows to be tried one by one.
    if state == _CANCELED and "user request" in message:
        return "connection"
    if state == _LOCK_NOT_AVAILABLE:
        return "lock"
    if state.startswith(_ROW):
        return "row"
    return "connection" if state.startswith(_CONNECTION) else "unknown"


READ_ONLY: Final = "25006"
"""read_only_sql_transaction."""
