"""
Create a row, or update it if it exists: one awaitable, correct under concurrency.

Start with `create_or_update`; for many rows see `create_or_update_many`, and for many
concurrent callers `Coalescer`.
"""

from __future__ import annotations

from aioupsert._bulk import (
    create_or_update_many,
    get_or_create_many,
    iter_create_or_update,
)
from aioupsert._coalescer import Coalescer
from aioupsert._drivers import is_retryable
from aioupsert._execution.table_cache import set_schema_cache_ttl
from aioupsert._sync import sync_rows
from aioupsert._upsert import create_or_update, get_or_create, preview
from aioupsert.errors import (
    AioupsertError,
    BulkError,
    CoalescerClosedError,
    ConnectionHeldError,
    MissingUniqueIndexError,
    MissingUniqueIndexWarning,
    NotAppliedError,
    PoolTimeoutError,
    RetriesExhaustedError,
    SerializationConflictError,
    SyncRefusedError,
    UnknownColumnError,
    UnknownTableError,
    UnsupportedConnectionError,
    UsageError,
)
from aioupsert.events import Event, observe, on_event
from aioupsert.expressions import (
    DEFAULT,
    SQL,
    Excluded,
    Expression,
    F,
    case,
    coalesce,
    func,
    greatest,
    least,
    length,
    like,
    lower,
    now,
    nullif,
    upper,
)
from aioupsert.results import (
    Action,
    BulkResult,
    CoalescerStats,
    Progress,
    Result,
    Statement,
)

__all__ = [
    "DEFAULT",
    "SQL",
    "Action",
    "AioupsertError",
    "BulkError",
    "BulkResult",
    "Coalescer",
    "CoalescerClosedError",
    "CoalescerStats",
    "ConnectionHeldError",
    "Event",
    "Excluded",
    "Expression",
    "F",
    "MissingUniqueIndexError",
    "MissingUniqueIndexWarning",
    "NotAppliedError",
    "PoolTimeoutError",
    "Progress",
    "Result",
    "RetriesExhaustedError",
    "SerializationConflictError",
    "Statement",
    "SyncRefusedError",
    "UnknownColumnError",
    "UnknownTableError",
    "UnsupportedConnectionError",
    "UsageError",
    "case",
    "coalesce",
    "create_or_update",
    "create_or_update_many",
    "func",
    "get_or_create",
    "get_or_create_many",
    "greatest",
    "is_retryable",
    "iter_create_or_update",
    "least",
    "length",
    "like",
    "lower",
    "now",
    "nullif",
    "observe",
    "on_event",
    "preview",
    "set_schema_cache_ttl",
    "sync_rows",
    "upper",
]


def __getattr__(name: str) -> str:
    """Return ``__version__``, which is read from the installed package when used."""
    if name != "__version__":
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    from importlib.metadata import version  # noqa: PLC0415  # takes 10 ms, and few callers need it

    return version("aioupsert")
