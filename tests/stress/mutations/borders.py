"""
The borders of the library: every statement that it hands to a driver passes here.

`guard` wraps the methods of the drivers that take a statement. Of a call that comes from
the library, and not from a test, the statement is changed on the way in, and the error
on the way out; where nothing else was asked for, each stays as it is.
"""

from __future__ import annotations

import functools
import sqlite3
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, Self

import aiosqlite
import asyncpg
import psycopg

_METHODS: Final[dict[type, tuple[str, ...]]] = {
    asyncpg.Connection: ("execute", "executemany", "fetch", "fetchrow", "fetchval"),
    psycopg.AsyncConnection: ("execute",),
    psycopg.AsyncCursor: ("execute", "executemany"),
    aiosqlite.Connection: ("execute", "executemany"),
}
# Between the library and a method there may be frames of these.
_DRIVERS: Final = ("aiosqlite", "asyncpg", "psycopg", "sqlalchemy", __name__)


def _leave_statement(sql: str) -> str:
    return sql


def _leave_error(error: Exception, _sql: str) -> Exception | None:
    return error


_change_statement: Callable[[str], str] = _leave_statement
_change_error: Callable[[Exception, str], Exception | None] = _leave_error


def change_statements(change: Callable[[str], str]) -> None:
    """Have this function change every statement; of what is empty, nothing is sent."""
    global _change_statement  # noqa: PLW0603  # one fault for the process
    _change_statement = change


def change_errors(change: Callable[[Exception, str], Exception | None]) -> None:
    """Have this function change every error of a driver; None swallows it."""
    global _change_error  # noqa: PLW0603  # one fault for the process
    _change_error = change


def guard() -> None:
    """Wrap the drivers' methods."""
    for owner, names in _METHODS.items():
        for name in names:
            setattr(owner, name, _guarded(getattr(owner, name)))
    # A C class cannot be changed, but every connection can be of another class.
    for module in (sqlite3, sqlite3.dbapi2):
        vars(module)["connect"] = functools.partial(_connect, module.connect)


def _guarded(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Any, sql: Any, *args: Any, **options: Any) -> Any:
        if not isinstance(sql, str) or not sent_by_library():
            return method(self, sql, *args, **options)
        changed = _change_statement(sql)
        if not changed:
            return _answer_nothing(self, method.__name__)
        return _watched(method(self, changed, *args, **options), sql)

    return call


async def _answer_nothing(owner: Any, method: str) -> Any:
    """Answer a statement that is not sent."""
    if isinstance(owner, asyncpg.Connection):
        return [] if method == "fetch" else ""
    return owner if isinstance(owner, psycopg.AsyncCursor) else owner.cursor()


async def _watched(work: Coroutine[Any, Any, Any], sql: str) -> Any:
    try:
        return await work
    except Exception as exc:
        error = _change_error(exc, sql)
        if error is exc:
            raise
        if error is not None:
            raise error from exc


def sent_by_library() -> bool:
    """Return whether the first caller that is not a driver's code is the library."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name: str = frame.f_globals["__name__"]
        if not name.startswith(_DRIVERS):
            return name.startswith("aioupsert")
        frame = frame.f_back
    return False


class Cursor(sqlite3.Cursor):
    """A cursor whose statements and errors pass the border."""

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        """Execute a statement."""
        return self._pass(super().execute, sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Any], /) -> Self:
        """Execute a statement for each row."""
        return self._pass(super().executemany, sql, rows)

    def _pass(self, method: Callable[..., Self], sql: str, arguments: Any) -> Self:
        if not sent_by_library():
            return method(sql, arguments)
        changed = _change_statement(sql)
        try:
            return method(changed, arguments) if changed else self
        except Exception as exc:
            error = _change_error(exc, sql)
            if error is exc:
                raise
            if error is not None:
                raise error from exc
            return self


class Connection(sqlite3.Connection):
    """A connection with such cursors, which bears the name of sqlite3's own."""

    __module__ = "sqlite3"

    def cursor(self, factory: Any = Cursor) -> Any:
        """Make a cursor."""
        return super().cursor(factory)


def _connect(connect: Callable[..., Any], *args: Any, **options: Any) -> Any:
    return connect(*args, **{"factory": Connection, **options})
