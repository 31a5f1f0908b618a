"""What callers can catch, and what it says."""

import asyncio
import copy
import pickle
import sqlite3
from typing import Any

import asyncpg
import pytest

import aioupsert
from aioupsert import (
    AioupsertError,
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
    is_retryable,
)

ERRORS = [
    value
    for value in vars(aioupsert).values()
    if isinstance(value, type) and issubclass(value, Exception)
]


def test_every_error_has_one_base_and_the_warning_has_its_own() -> None:
    others = [error for error in ERRORS if not issubclass(error, AioupsertError)]
    assert others == [MissingUniqueIndexWarning]
    assert issubclass(MissingUniqueIndexWarning, UserWarning)


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (UsageError, ValueError),
        (UnknownTableError, UsageError),
        (UnknownColumnError, UsageError),
        (UnsupportedConnectionError, TypeError),
        (PoolTimeoutError, TimeoutError),
        (ConnectionHeldError, TimeoutError),
    ],
)
def test_a_wrong_argument_is_also_what_python_calls_it(error: type, base: type) -> None:
    assert issubclass(error, base)


@pytest.mark.parametrize(
    "error",
    [
        MissingUniqueIndexError,
        NotAppliedError,
        RetriesExhaustedError,
        SerializationConflictError,
    ],
)
def test_what_the_database_decides_is_no_wrong_argument(error: type) -> None:
    assert not issubclass(error, (ValueError, TypeError))


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ((), "there is no table pages"),
        (("users", "orders"), "there is no table pages"),
        (("users", "page"), "there is no table pages (did you mean 'page'?)"),
    ],
    ids=["none", "unlike", "alike"],
)
def test_an_unknown_table_comes_with_the_closest_name(
    known: tuple[str, ...], words: str
) -> None:
    error = UnknownTableError("pages", known)
    assert (str(error), error.table) == (words, "pages")


def test_unknown_columns_come_sorted_each_with_the_closest_name() -> None:
    error = UnknownColumnError("t", iter(["titel", "zzz", "hit"]), ["title", "hits"])
    assert str(error) == (
        "table t has no column 'hit' (did you mean 'hits'?),"
        " 'titel' (did you mean 'title'?), 'zzz'"
    )
    assert (error.table, error.columns) == ("t", ("hit", "titel", "zzz"))


@pytest.mark.parametrize(
    "error",
    [
        UsageError("words"),
        NotAppliedError("words"),
        PoolTimeoutError(0.5),
        ConnectionHeldError(0.5),
        UnknownTableError("pages", ["page"]),
        UnknownColumnError("t", ["titel"], ["title"]),
        SyncRefusedError(3, 4, "words"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize(
    "duplicate",
    [copy.copy, lambda error: pickle.loads(pickle.dumps(error))],  # noqa: S301  # our own bytes
    ids=["copy", "pickle"],
)
def test_an_error_can_be_sent_to_another_process(error: Any, duplicate: Any) -> None:
    other = duplicate(error)
    assert type(other) is type(error)
    assert str(other) == str(error)
    assert vars(other) == vars(error)


def sqlite_error(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(name)
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (asyncpg.SerializationError("words"), True),
        (asyncpg.DeadlockDetectedError("words"), True),
        (sqlite_error("SQLITE_BUSY"), True),
        (sqlite_error("SQLITE_BUSY_SNAPSHOT"), True),
        (sqlite_error("SQLITE_LOCKED"), True),
        (SerializationConflictError("words"), True),
        (RetriesExhaustedError("words"), True),
        (asyncpg.UniqueViolationError("words"), False),
        (asyncpg.ConnectionDoesNotExistError("words"), False),
        (asyncpg.InterfaceError("words"), False),
        (asyncpg.QueryCanceledError("words"), False),
        (sqlite_error("SQLITE_CONSTRAINT_UNIQUE"), False),
        (sqlite_error("SQLITE_FULL"), False),
        (sqlite3.OperationalError("words"), False),
        (NotAppliedError("words"), False),
        (MissingUniqueIndexError("words"), False),
        (UsageError("words"), False),
        (ConnectionResetError(), False),
        (TimeoutError(), False),
        (PoolTimeoutError(1.5), False),
        (ConnectionHeldError(1.5), False),
        (asyncio.CancelledError(), False),
    ],
    ids=repr,
)
def test_only_what_a_repeated_transaction_may_avoid_is_retryable(
    error: BaseException, *, retryable: bool
) -> None:
    assert is_retryable(error) is retryable
