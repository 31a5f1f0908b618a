"""What is asked of every library."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, TypeAlias

Row: TypeAlias = tuple[str, int, str]
"""The key, the counter, the note."""

One: TypeAlias = Callable[[str, str], Awaitable[object]]
"""Counts a view of the page with the path, and keeps the note."""

Many: TypeAlias = Callable[[Sequence[Row]], Awaitable[object]]
"""Stores the rows as they are, whether they are there or not."""


class Ways(NamedTuple):
    """
    How a library does it, over one connection.

    Attributes:
        one: One call, committed when it returns.
        begin: Opens a transaction of the caller's for as long as the block lasts; None
            where the library has none for such calls.
        inside: One call in that transaction; the same as *one* if None.
        many: Many rows.
        again: Many rows that may be there as they are, and are then left alone; the
            same as *many* if None.
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
        tells: What it says of what it did.
        source: Where its documentation recommends what is done here.
        note: What it does otherwise than was asked, for one call.
        many_note: The same, for many rows.
    """

    name: str
    open: Callable[[str], AbstractAsyncContextManager[Ways]]
    tells: str
    source: str
    note: str = ""
    many_note: str = ""
