"""What is asked of every library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from typing import NamedTuple, TypeAlias

from benchmarks.support.rows import Row

One: TypeAlias = Callable[[str, str], Awaitable[object]]
"""Counts a view of the page with the path, and keeps the note."""

Many: TypeAlias = Callable[[Sequence[Row]], Awaitable[object]]
"""Stores the rows as they are, whether they exist or not."""


class Ways(NamedTuple):
    """
    How a library does it, over one connection.

    Attributes:
        one: One call, committed when it returns.
        begin: Opens a transaction of the caller for as long as the block lasts; None if
            the library has none for such calls.
        inside: One call in that transaction; the same as *one* if None.
        many: Many rows.
        again: Many rows that may exist as they are, and are then left alone; the same as
            *many* if None.
    """

    one: One | None = None
    begin: Callable[[], AbstractAsyncContextManager[object]] | None = None
    inside: One | None = None
    many: Many | None = None
    again: Many | None = None


class Peer(NamedTuple):
    """
    A library.

    Attributes:
        name: What it is called.
        open: Connects to the PostgreSQL of a DSN, or to a SQLite file.
        reports: What its call reports of what it did.
        source: Where its documentation recommends what is done here.
        note: What it does other than what was asked, for one call.
        many_note: The same, for many rows.
    """

    name: str
    open: Callable[[str], AbstractAsyncContextManager[Ways]]
    reports: str
    source: str
    note: str = ""
    many_note: str = ""


@asynccontextmanager
async def opened(
    peers: Sequence[Peer], place: str
) -> AsyncIterator[list[tuple[Peer, Ways]]]:
    """Connect all libraries to the same place."""
    async with AsyncExitStack() as stack:
        yield [
            (peer, await stack.enter_async_context(peer.open(place))) for peer in peers
        ]
