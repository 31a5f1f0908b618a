"""The caller's rows, read a batch at a time."""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from aioupsert._execution.bisecting import Batch
from aioupsert._plan import ArrowReader, is_columnar
from aioupsert.errors import UsageError

if TYPE_CHECKING:
    from aioupsert._drivers.base import Session


class Size(NamedTuple):
    """How large a batch is at most: rows, and bytes, about."""

    rows: int
    size: int


_MAX_ROWS: Final = 100_000
_MAX_BYTES: Final = 32_000_000


def checked_size(batch_size: int | None) -> Size:
    if batch_size is None:
        return Size(_MAX_ROWS, _MAX_BYTES)
    if batch_size < 1:
        msg = f"batch_size must be 1 or more, not {batch_size!r}"
        raise UsageError(msg)
    return Size(batch_size, _MAX_BYTES)


class Source:
    """The caller's rows, read one batch and one row at a time, no further."""

    def __init__(self, rows: object, size: Size) -> None:
        given: Any = rows
        self._rows = given
        self._size = size
        self._next: list[object] = []
        self._take: Callable[[int], Awaitable[list[object]]]
        if isinstance(rows, AsyncIterable):
            self._async: AsyncIterator[object] = aiter(given)
            self._take = self._take_async
        else:
            self._sync: Iterator[object] = _iterate(given)
            self._take = self._take_sync
        self.is_empty = False

    def from_start(self) -> Source | None:
        """Return the same rows from the start; None if they can be read only once."""
        if isinstance(self._rows, (Iterator, AsyncIterator)):
            return None
        return Source(self._rows, self._size)

    async def batches(self) -> AsyncGenerator[Batch]:
        """Yield batch after batch; `is_empty` is true from the last one on."""
        start = 0
        while not self.is_empty:
            rows = await self._read()
            if rows:
                yield Batch(range(start, start + len(rows)), rows)
            start += len(rows)

    async def _read(self) -> Sequence[object]:
        rows, self._next = self._next, []
        room, chunk = self._size.size, _FIRST_CHUNK
        while len(rows) < self._size.rows and room > 0:
            wanted = min(chunk, self._size.rows - len(rows))
            taken = await self._take(wanted)
            rows += taken
            if len(taken) < wanted:
                self.is_empty = True
                return rows
            mean = _size_of(taken)
            room -= mean * len(taken)
            chunk = max(1, min(chunk * 4, _MAX_CHUNK, room // mean))
        self._next = await self._take(1)
        self.is_empty = not self._next
        return rows

    async def _take_sync(self, number: int) -> list[object]:
        if number > _FIRST_CHUNK:
            await asyncio.sleep(0)  # lets other tasks run
        return [*itertools.islice(self._sync, number)]

    async def _take_async(self, number: int) -> list[object]:
        rows: list[object] = []
        while len(rows) < number:
            try:
                rows.append(await anext(self._async))
            except StopAsyncIteration:
                break
        return rows


class ArrowSource(Source):
    """The same for rows that are columns of Arrow."""

    def __init__(self, rows: object, size: Size) -> None:
        """
        Begin to read.

        Raises:
            UsageError: As in `ArrowReader`.
        """
        self._rows = rows
        self._size = size
        self._reader = ArrowReader(rows)
        self.is_empty = False

    def from_start(self) -> Source | None:
        """Return the same rows from the start; None if they can be read only once."""
        # A stream of pyarrow's has this.
        if hasattr(self._rows, "read_next_batch"):
            return None
        return ArrowSource(self._rows, self._size)

    async def _read(self) -> Sequence[object]:
        await asyncio.sleep(0)  # lets other tasks run
        rows = self._reader.read(*self._size)
        self.is_empty = self._reader.is_empty
        return rows


class RowReader(ABC):
    """
    Rows of which many are read at once.

    Attributes:
        is_empty: Whether all have been read.
    """

    is_empty: bool = False

    @abstractmethod
    async def read(self, rows: int, size: int) -> Sequence[Any]:
        """
        Return the next rows.

        Args:
            rows: How many at most.
            size: How many bytes they have at most, about.
        """


class ReaderSource(Source):
    """The same for rows of which many are read at once."""

    def __init__(self, reader: RowReader, size: Size) -> None:
        """Begin to read."""
        self._reader = reader
        self._size = size
        self.is_empty = False

    def from_start(self) -> None:
        """Return None, as they can be read only once."""

    async def _read(self) -> Sequence[object]:
        rows = await self._reader.read(*self._size)
        self.is_empty = self._reader.is_empty
        return rows


def source_of(rows: object, size: Size) -> Source:
    """Return the source of a caller's rows."""
    if isinstance(rows, RowReader):
        return ReaderSource(rows, size)
    return ArrowSource(rows, size) if is_columnar(rows) else Source(rows, size)


async def next_batch(
    batches: AsyncIterator[Batch], session: Session, timeout: float | None
) -> Batch | None:
    """
    Return the next batch; None at the end.

    Args:
        batches: The batches.
        session: Where they are written.
        timeout: Seconds after which tasks that wait for its connection, which this call
            may hold, are refused: the rows may depend on them.
    """
    with session.state.waiting_for_rows(timeout):
        return await anext(batches, None)


def _iterate(rows: Any) -> Iterator[object]:
    """
    Return an iterator over rows.

    Raises:
        UsageError: They are not iterable, or are what one row might be.
    """
    # What can be indexed from 0 can be iterated, too.
    is_iterable = isinstance(rows, Iterable) or hasattr(rows, "__getitem__")
    if not is_iterable or isinstance(rows, (str, bytes, Mapping, type)):
        msg = f"rows must be an iterable or async iterable of rows, not {rows!r:.80}"
        raise UsageError(msg)
    iterator: Iterator[object] = iter(cast("Iterable[object]", rows))
    return iterator


# Rows are taken in chunks, small ones first, as their size is not known.
_FIRST_CHUNK: Final = 16
_MAX_CHUNK: Final = 1_000
_SAMPLE: Final = 4
# Bytes of a value that is not text, about.
_CELL: Final = 16


def _size_of(rows: Sequence[object]) -> int:
    """Estimate the mean size of rows in bytes, from a few of them."""
    few = rows[:: max(1, len(rows) // _SAMPLE)]
    return max(1, sum(map(_size_of_row, few)) // len(few))


def _size_of_row(row: object) -> int:
    return sum(
        _CELL + (len(cell) if isinstance(cell, (str, bytes)) else 0)
        for cell in _cells_of(row)
    )


def _cells_of(row: Any) -> Iterable[object]:
    if hasattr(row, "keys"):
        return map(row.__getitem__, row.keys())
    cells: Iterable[object] = getattr(row, "__dict__", {}).values()
    return cells or (row if hasattr(row, "_fields") else ())
