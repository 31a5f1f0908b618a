"""One transaction for work of several steps."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aioupsert._engines.commands import (
    IN_TRANSACTION,
    Command,
    Steps,
    TransactionScope,
    check_committed,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from aioupsert._drivers.base import Session


@asynccontextmanager
async def transaction(session: Session) -> AsyncGenerator[None]:
    """Do work in one transaction, or in a savepoint of the caller's."""
    opened = _Opened(session)
    async with session.state.locked():
        try:
            await session.run(opened.begin())
            yield
            await session.run(opened.commit())
        except BaseException:
            await session.run(opened.roll_back())
            raise


class _Opened:
    """
    What has been opened, as the steps have left it.

    They may still run on a connection's thread after the caller was cancelled, so only
    they know.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._scope: TransactionScope | None = None

    def begin(self) -> Steps[None]:
        inside = bool((yield IN_TRANSACTION))
        self._scope = self._session.engine.scope("call", in_transaction=inside)
        yield self._scope.begin

    def commit(self) -> Steps[None]:
        assert self._scope is not None  # noqa: S101  # see begin
        status = yield self._scope.commit
        if status:
            check_committed(status)
        self._scope = None

    def roll_back(self) -> Steps[None]:
        commands: tuple[Command, ...] = ()
        if self._scope is not None:
            commands = self._scope.rollback
        for command in commands:  # noqa: UP028  # a tuple takes no answers
            yield command
