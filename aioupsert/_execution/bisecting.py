"""Where to split a failed batch, to find the rows at fault with few attempts."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from aioupsert._plan import RequestShape, RowGroup, keys_differ
from aioupsert.typing import Value


class Batch(NamedTuple):
    """Rows, and their positions in the input."""

    positions: Sequence[int]
    rows: Sequence[Value]

    def some(self, chosen: Sequence[int]) -> Batch:
        """Return some of the rows."""
        return Batch(
            [self.positions[at] for at in chosen], [self.rows[at] for at in chosen]
        )

    def halves(self) -> tuple[Batch, Batch]:
        """Return the first and the second half."""
        middle = len(self.rows) // 2
        return (
            Batch(self.positions[:middle], self.rows[:middle]),
            Batch(self.positions[middle:], self.rows[middle:]),
        )


class Search:
    """
    The search for the rows of a batch that are at fault.

    Mostly the rows at fault have something in common: no value where one is needed, or
    a reference to the same missing row. So when a row was found to be at fault, others
    that share a cell with it, which no row has that was stored, are suspected. A
    suspicion decides only where a batch is split: a suspect is written by itself.

    Attributes:
        failed: The error of the whole batch.
        some_pass: Whether some row is known to pass.
    """

    def __init__(self, batch: Batch, failed: Exception, *, some_pass: bool) -> None:
        """Begin a search in a batch."""
        self.failed = failed
        self.some_pass = some_pass
        self._batch = batch
        self._groups: Sequence[RowGroup] = ()
        self._passed: set[int] = set()
        self._suspects: set[int] = set()
        self._in_any_order = False

    def suspect_from(self, groups: Sequence[RowGroup]) -> None:
        """Suspect rows that are like those at fault, given all as they are written."""
        self._groups = groups
        # Rows whose keys differ may be written in any order.
        self._in_any_order = keys_differ(groups)

    def samples(self) -> list[Batch]:
        """Return the first row, the last one, and the one in the middle."""
        size = len(self._batch.rows)
        return [
            self._batch.some([at]) for at in dict.fromkeys((0, size - 1, size // 2))
        ]

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """Yield the parts in which a failed batch is to be written."""
        suspects = self._suspects.intersection(batch.positions)
        if not suspects or len(suspects) == len(batch.rows):
            yield from batch.halves()
            return
        order: Sequence[int] = range(len(batch.rows))
        if self._in_any_order:
            order = sorted(order, key=lambda at: batch.positions[at] in suspects)
        together: list[int] = []
        for at in order:
            if batch.positions[at] not in self._suspects:
                together.append(at)
                continue
            if together:
                yield batch.some(together)
            together = []
            yield batch.some([at])
        if together:
            yield batch.some(together)

    def note_passed(self, batch: Batch) -> None:
        """Note rows that were stored, and so are not at fault."""
        self.some_pass = True
        self._passed.update(batch.positions)
        for position in self._suspects.intersection(batch.positions):
            for those in self._alike[position]:
                self._suspects -= those

    def note_fault(self, position: int) -> None:
        """Note a row that is at fault, and suspect those that share a cell with it."""
        if position in self._suspects:
            self._suspects.remove(position)
            return  # those like it are suspected already
        for those in self._alike.get(position, ()):
            if those.isdisjoint(self._passed):
                self._suspects |= those
        self._suspects.discard(position)

    @functools.cached_property
    def _alike(self) -> dict[int, list[set[int]]]:
        """The rows that share a cell which few others have, by the position of each."""
        positions = self._batch.positions
        by_cell: dict[tuple[RequestShape, int], dict[Value, list[int]]] = {}
        for group in self._groups:
            for number in range(group.key_width, len(group.columns)):
                sharing = by_cell.setdefault((group.shape, number), {})
                # A cell that has no hash ends it, and with it what is suspected.
                with contextlib.suppress(TypeError):
                    for at, cell in zip(
                        group.positions, group.columns[number], strict=True
                    ):
                        sharing.setdefault(cell, []).append(positions[at])
        few = len(positions) // 4
        alike: dict[int, list[set[int]]] = {}
        for those in chain.from_iterable(cells.values() for cells in by_cell.values()):
            if 1 < len(those) <= few:
                shared = {*those}
                for position in shared:
                    alike.setdefault(position, []).append(shared)
        return alike
