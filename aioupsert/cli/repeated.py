"""How many rows have the key of a row before them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from aioupsert.cli.reading import CellRows, Part

# With more rows, eight bytes for each would be too much memory.
_MAX_ROWS: Final = 10_000_000
# How many of them are compared at once.
_COMPARED: Final = 1_000_000


class RepeatedKeys:
    """Counts rows whose key, as it is written, has come before."""

    def __init__(self, key: Sequence[str]) -> None:
        """Begin without rows."""
        self._key = key
        self._hashes = array("q")
        self._is_complete = False

    def watch(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Yield the rows, and take notice of their keys."""
        for part in parts:
            if len(self._hashes) <= _MAX_ROWS:
                self._hashes.extend(map(hash, self._keys(part)))
            yield part
        self._is_complete = len(self._hashes) <= _MAX_ROWS

    def _keys(self, part: Part) -> Iterable[tuple[str, ...]]:
        """Return the keys of rows, as text: an integer would have the hash of another."""
        if not isinstance(part, CellRows):
            return [tuple(str(part.get(name)) for name in self._key)]
        cells = dict(zip(part.names, part.columns, strict=True))
        nothing = [None] * len(part)
        columns = [cells.get(name, nothing) for name in self._key]
        return zip(*(map(str, column) for column in columns), strict=True)

    def count(self) -> int | None:
        """Return how many there are, or None if there are too many rows to tell."""
        if not self._is_complete:
            return None
        hashes = self._hashes
        parts = 1 + len(hashes) // _COMPARED
        if parts == 1:
            return len(hashes) - len({*hashes})
        distinct = (len({h for h in hashes if h % parts == n}) for n in range(parts))
        return len(hashes) - sum(distinct)
