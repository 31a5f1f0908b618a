"""How many rows have the key of a row before them."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from aioupsert.cli.reading import Row

# With more rows, eight bytes for each would be too much memory.
_MAX_ROWS: Final = 10_000_000
_PARTS: Final = 256


class RepeatedKeys:
    """Counts rows whose key, as it is written, has come before."""

    def __init__(self, key: Sequence[str]) -> None:
        """Begin without rows."""
        self._key = key
        self._hashes = [array("q") for _ in range(_PARTS)]
        self._is_complete = False

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows, and take notice of their keys."""
        rows = iter(rows)
        names = self._key
        keep = [part.append for part in self._hashes]
        first = names[0] if len(names) == 1 else None
        for row in itertools.islice(rows, _MAX_ROWS):
            # An integer would have the hash of another: -1 that of -2.
            number = hash(
                str(row.get(first))
                if first is not None
                else tuple(str(row.get(name)) for name in names)
            )
            keep[number % _PARTS](number)
            yield row
        more = next(rows, None)
        self._is_complete = more is None
        if more is not None:
            yield more
            yield from rows

    def count(self) -> int | None:
        """Return how many there are, or None if there are too many rows to tell."""
        if not self._is_complete:
            return None
        return sum(len(part) - len({*part}) for part in self._hashes)
