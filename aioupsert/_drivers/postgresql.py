"""
What the drivers of PostgreSQL share: asyncpg and psycopg.

A session of either answers the same commands, and treats the same errors in the same
way. What differs, how a statement is sent and how a connection is closed, is in the
abstract methods.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Iterable
from typing import Final

from aioupsert._drivers.base import (
    YES,
    ConnectionSession,
    ReadOnlyError,
    TransientError,
    finish,
    log,
)
from aioupsert._engines.commands import Command, ResultRows
from aioupsert._engines.postgresql.sqlstates import READ_ONLY, TRANSIENT
from aioupsert.typing import Value

ROLLBACK_TIMEOUT: Final = 1.8
"""
The seconds that the end of a cancelled call may take: its ROLLBACK, or the cancellation
of its statement. After that the connection is closed, since a server that answers neither
in this time may never do so, and the caller has already waited too long.
"""


class PostgresqlSession(ConnectionSession, abc.ABC):
    """One connection to PostgreSQL, for the time of one call."""

    __slots__ = ()
    sends_plain_text: bool = False
    """Whether text in an array is sent as it is, whatever adapters the caller has set."""
    prefers_arrays: bool = False
    """Whether an array is read in less time than as many rows, and its elements alike."""

    @abc.abstractmethod
    def in_transaction(self) -> bool:
        """Return whether a transaction is open on the connection."""

    def can_repeat(self, error: Exception | None = None, /) -> bool:
        """Return whether no transaction is open that an error has, or would have, aborted."""
        return not self.in_transaction() or (
            error is not None and not self._has_aborted(error)
        )

    @abc.abstractmethod
    def _has_aborted(self, error: Exception, /) -> bool:
        """Return whether an error may have aborted the open transaction."""

    async def _answer(self, command: Command) -> ResultRows:
        """Send a command and return its rows."""
        kind, sql = command.kind, command.sql
        if kind == "transaction":
            return YES if self.in_transaction() else ()
        if kind == "own session":
            return YES if self._prepares() else ()
        if kind == "plain text":
            return YES if self.sends_plain_text else ()
        if kind == "arrays":
            return YES if self.prefers_arrays else ()
        log(sql)
        if kind == "command":
            return await self._command(sql)
        if kind == "rollback":
            await self._roll_back(sql)
            return ()
        if kind == "copy":
            await self._copy(sql, command.arguments)
            return ()
        fetch = self._fetch if kind == "query" else self._fetch_once
        rows = await fetch(sql, command.arguments, command.caller_columns)
        if kind == "catalog":
            await self._drop_unnamed()
        return rows

    @abc.abstractmethod
    def _prepares(self) -> bool:
        """Return whether the driver keeps prepared statements in the server's session."""

    @abc.abstractmethod
    async def _fetch(
        self, sql: str, arguments: Iterable[Value], caller_columns: int, /
    ) -> ResultRows:
        """Send a statement and return its rows."""

    @abc.abstractmethod
    async def _fetch_once(
        self, sql: str, arguments: Iterable[Value], caller_columns: int, /
    ) -> ResultRows:
        """Do the same, and leave no prepared statement on the server."""

    @abc.abstractmethod
    async def _drop_unnamed(self) -> None:
        """Make the server drop the statement without a name, which may be large."""

    @abc.abstractmethod
    async def _command(self, sql: str) -> ResultRows:
        """Send a command and return its completion status."""

    @abc.abstractmethod
    async def _copy(self, table: str, rows: Iterable[Value]) -> None:
        """
        Copy rows to a temporary table.

        Raises:
            CannotCopyError: The driver cannot copy these values.
        """

    # --- Errors -----------------------------------------------------------------------

    def _raise_internal(self, error: Exception, sqlstate: str) -> None:
        """
        Raise the internal error in place of a single statement's, if there is one.

        Raises:
            TransientError: Sending the statement again is right.
            ReadOnlyError: Transactions are read-only.
        """
        if self.in_transaction():
            return
        if sqlstate in TRANSIENT:
            raise TransientError from error
        if sqlstate == READ_ONLY:
            raise ReadOnlyError from error

    async def _roll_back(self, sql: str) -> None:
        """Complete a rollback, however often the caller is cancelled meanwhile."""
        task: asyncio.Task[None] = asyncio.ensure_future(self._send_rollback(sql))
        try:
            await finish(task)
        finally:
            # Retrieved in any case, or asyncio would log an exception of the task.
            error = asyncio.CancelledError() if task.cancelled() else task.exception()
            if error and sql == "ROLLBACK" and self._may_be_open(error):
                # Better no connection than one with our transaction left open.
                self.terminate()

    @abc.abstractmethod
    async def _send_rollback(self, sql: str) -> None:
        """Send a rollback, for at most `ROLLBACK_TIMEOUT`."""

    @abc.abstractmethod
    def _may_be_open(self, error: BaseException, /) -> bool:
        """Return whether our transaction may be open after this error of its ROLLBACK."""

    @abc.abstractmethod
    def terminate(self) -> None:
        """Close the connection at once."""
