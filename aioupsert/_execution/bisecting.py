"""Where to split a failed batch, to find the rows at fault with few attempts."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

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

    def followed_by(self, other: Batch) -> Batch:
        """Return these rows and, after them, others."""
        return Batch([*self.positions, *other.positions], [*self.rows, *other.rows])

    def split(self, size: int) -> tuple[Batch, Batch]:
        """Return so many rows, and the rest."""
        return (
            Batch(self.positions[:size], self.rows[:size]),
            Batch(self.positions[size:], self.rows[size:]),
        )


# A part of a batch is best so large that it has no row at fault about half of the time.
_FAULTS_OF_PART: Final = 0.7
# How much the last row that was judged counts among all.
_WEIGHT: Final = 1 / 32


class Search:
    """
    The search for the rows of a batch that are at fault.

    A batch is halved at first. Once rows at fault are found, their share of the last ones
    that were judged tells how many are best written together. If it is large, each row is
    written by itself.

    Mostly the rows at fault have something in common: no value where one is needed, or
    a reference to the same missing row. So when a row was found to be at fault, others
    that share a cell with it, which no row has that was stored, are suspected. A
    suspicion decides only where a batch is split: a suspect is written by itself.

    Attributes:
        failed: The error of the whole batch.
        some_pass: Whether some row is known to pass.
        in_any_order: Whether rows may be written in any order, as no two have one key.
    """

    def __init__(self, batch: Batch, failed: Exception, *, some_pass: bool) -> None:
        """Begin a search in a batch."""
        self.failed = failed
        self.some_pass = some_pass
        self._batch = batch
        self._groups: Sequence[RowGroup] = ()
        self._passed: set[int] = set()
        self._suspects: set[int] = set()
        self.in_any_order = False
        # More rows than that are not suspected together.
        self._few = len(batch.positions) // 4
        # Of the rows that were judged last, those at fault.
        self._share = 0.0

    def suspect_from(
        self, groups: Sequence[RowGroup], lacking: Iterable[int] = ()
    ) -> None:
        """
        Suspect rows that are like those at fault, given all as they are written.

        Args:
            groups: The rows.
            lacking: The positions in the batch of those that are suspected from the start.
        """
        self._groups = groups
        self.in_any_order = keys_differ(groups)
        suspects = {self._batch.positions[at] for at in lacking}
        if len(suspects) <= self._few:
            self._suspects = suspects

    def samples(self) -> list[Batch]:
        """Return the first row, the last one, and the one in the middle."""
        size = len(self._batch.rows)
        return [
            self._batch.some([at]) for at in dict.fromkeys((0, size - 1, size // 2))
        ]

    def split(self, batch: Batch, *, has_fault: bool) -> tuple[Batch, Batch]:
        """
        Split rows into those that are to be written next, and the rest.

        Args:
            batch: The rows.
            has_fault: Whether some of them are known to be at fault; then several are
                not all written together.
        """
        positions = batch.positions
        size = len(positions)
        if self.in_any_order and not self._suspects.isdisjoint(positions):
            suspects = [at for at in range(size) if positions[at] in self._suspects]
            if len(suspects) == size:
                return batch.split(size)
            others = [at for at in range(size) if positions[at] not in self._suspects]
            return batch.some(others), batch.some(suspects)
        is_likely = self.is_likely(positions[0])
        if not is_likely:
            if self._share * size > _FAULTS_OF_PART:
                size = int(_FAULTS_OF_PART / self._share)
            if has_fault:
                size = min(size, max(1, len(positions) // 2))
        if self._suspects:
            alike = itertools.takewhile(
                lambda position: self.is_likely(position) == is_likely, positions
            )
            size = min(size, len([*alike]))
        return batch.split(size)

    def is_likely(self, position: int) -> bool:
        """Return whether a row is likely at fault, and so best written by itself."""
        return position in self._suspects or self._share > _FAULTS_OF_PART / 2

    def note_passed(self, batch: Batch) -> None:
        """Note rows that were stored, and so are not at fault."""
        self.some_pass = True
        self._share *= (1 - _WEIGHT) ** len(batch.positions)
        self._passed.update(batch.positions)
        for position in self._suspects.intersection(batch.positions):
            for those in self._alike.get(position, [{position}]):
                self._suspects -= those

    def note_fault(self, position: int) -> None:
        """Note a row that is at fault, and suspect those that share a cell with it."""
        self._share += (1 - self._share) * _WEIGHT
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
        alike: dict[int, list[set[int]]] = {}
        for those in itertools.chain.from_iterable(
            cells.values() for cells in by_cell.values()
        ):
            if 1 < len(those) <= self._few:
                shared = {*those}
                for position in shared:
                    alike.setdefault(position, []).append(shared)
        return alike
