"""
Calls for rows that others have locked: they wait apart, so that the rest goes on.

A batch waits for a lock for a moment only (see `Sender`). If that is not enough,
nothing of it is stored, and it is sent again without the calls for rows that are locked.
Those are kept here. `LockedCalls.look` sends each once its row is free, and always waits
for the lock of one of them, in turn, so that a row for which many wait is had in the end.

What the caller has set for the connection, `lock_timeout` and `statement_timeout`, holds
for how long a call waits here, as does the coalescer's own *timeout*.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aioupsert._coalescer.queue import FUTURE, ROW, PendingCall
from aioupsert._coalescer.sending import Sender, copied, fail
from aioupsert._drivers.lock import SHORTEST_WAIT
from aioupsert._engines.commands import single_command
from aioupsert.errors import RetriesExhaustedError

if TYPE_CHECKING:
    from aioupsert._drivers.base import Session


class LockedCalls:
    """
    The calls that wait for locks of others.

    Attributes:
        calls: The calls, in the order in which they began to wait.
    """

    def __init__(self, sender: Sender, timeout: float | None) -> None:
        """
        Begin without calls.

        Args:
            sender: Stores and answers calls.
            timeout: For how many seconds a call may wait.
        """
        self.calls: list[PendingCall] = []
        self._sender = sender
        self._timeout = timeout if timeout is None else max(timeout, SHORTEST_WAIT)
        # When the calls for a row began to wait; in the order in which rows are tried.
        self._since: dict[int | None, float] = {}
        # Rows that could be locked, but not written: something else is locked.
        self._hindered: set[int | None] = set()

    def add(self, calls: Sequence[PendingCall]) -> None:
        """Add calls for locked rows."""
        now = time.monotonic()
        self.calls += calls
        for call in calls:
            self._since.setdefault(call[ROW], now)

    def clear(self) -> list[PendingCall]:
        """Remove and return all calls."""
        calls = [*self.calls]
        self.calls.clear()
        self._since.clear()
        self._hindered.clear()
        return calls

    async def look(self, session: Session) -> list[PendingCall]:
        """
        Store the calls whose rows are free by now, and wait for the lock of one more.

        Returns:
            The calls that wait no longer; each has been answered.

        Raises:
            Exception: The connection or the server fails; not all are answered.
        """
        calls = [call for call in self.calls if not call[FUTURE].done()]
        waiting = {call[ROW] for call in calls}
        found = await self._sender.find_locked(session, calls) if calls else None
        if found is not None:
            waiting &= {row for row, _ in found} | self._hindered
        free = [call for call in calls if call[ROW] not in waiting]
        if free and await self._sender.try_now(session, free) is not None:
            self._hindered |= {call[ROW] for call in free}
        for row in [row for row in self._since if row in waiting]:
            its = [call for call in calls if call[ROW] == row]
            error = await self._sender.try_now(session, its)
            if error is not None:
                self._since[row] = self._since.pop(row)  # the others come first
                await self._fail_late(session, error)
                break
        return self._drop_answered()

    async def _fail_late(self, session: Session, error: Exception) -> None:
        """Fail the calls that have waited for too long, and say for whom."""
        limit, is_setting = await self._limit(session)
        before = time.monotonic() - limit
        late = {row for row, since in self._since.items() if since <= before}
        calls = [c for c in self.calls if c[ROW] in late and not c[FUTURE].done()]
        if not calls:
            return
        holders = await self._sender.find_holders(session, calls)
        for row in late:
            holder = holders.get(row)
            by = "another session" if holder is None else f"session {holder}"
            raised: Exception
            if is_setting:
                raised = copied(error)
                raised.__notes__ = [f"aioupsert: the row is locked by {by}"]
            else:
                raised = RetriesExhaustedError(
                    f"the row was locked by {by} until the timeout; nothing is stored"
                )
                raised.__cause__ = error
            fail([call for call in calls if call[ROW] == row], raised)

    async def _limit(self, session: Session) -> tuple[float, bool]:
        """Return for how many seconds a call may wait, and whether a setting says so."""
        query = session.engine.lock_limits
        assert query is not None  # noqa: S101  # or no call would wait here
        rows = await session.run(single_command(query))
        settings: list[float] = [limit / 1000 for row in rows for limit in row]
        setting = min((limit for limit in settings if limit), default=math.inf)
        timeout = math.inf if self._timeout is None else self._timeout
        return min(setting, timeout), setting <= timeout

    def _drop_answered(self) -> list[PendingCall]:
        answered = [call for call in self.calls if call[FUTURE].done()]
        self.calls[:] = [call for call in self.calls if not call[FUTURE].done()]
        rows = {call[ROW] for call in self.calls}
        self._since = {row: at for row, at in self._since.items() if row in rows}
        self._hindered &= rows
        return answered
