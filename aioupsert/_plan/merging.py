"""
The calls of a coalescer, sorted into groups; calls for one row are merged if possible.

Several calls for one row become one write where `merge_rules` allow it. Other calls for
one row are applied in turn.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from aioupsert._plan.groups import (
    RowGroup,
    ValueSemantics,
    are_comparable,
    order_groups,
)
from aioupsert._plan.merge_rules import CannotMergeError, MergeRule, find_rule
from aioupsert._plan.records import RejectedRow
from aioupsert._plan.request import Request, RequestShape
from aioupsert._plan.schema import Names, Table
from aioupsert.typing import Value

OneCall: TypeAlias = tuple[RequestShape, Sequence[Value], *tuple[object, ...]]
"""A call: its shape, its values (those of the key first), and what its caller added."""


class CallGrouper:
    """Reads the calls of one coalescer; caches which request shapes can be merged."""

    def __init__(self, key: Names, lock_timeout: int = 0) -> None:
        """
        Read calls.

        Args:
            key: The columns of their keys, in this order.
            lock_timeout: As in `Request`.
        """
        self._key = key
        self._lock_timeout = lock_timeout
        self._table: Table | None = None
        self._rules: dict[RequestShape, MergeRule | None] = {}

    def group(
        self, rows: Sequence[OneCall], table: Table, semantics: ValueSemantics
    ) -> tuple[list[RowGroup], list[RejectedRow]]:
        """Sort calls into groups, in the order in which they must be written."""
        if table is not self._table:
            # Every connection has its own description, mostly of the same table.
            if table != self._table:
                self._rules.clear()
            self._table = table
        found: dict[RequestShape, tuple[Sequence[int], list[Sequence[Value]]]]
        merged: dict[int, Sequence[int]] = {}
        if self._can_merge(rows, table, semantics):
            several = self._merged(rows, table)
            found = _by_shape((p[0], shape, values) for p, shape, values in several)
            merged = {p[0]: p[1:] for p, _, _ in several if len(p) > 1}
        elif all(call[0] is rows[0][0] for call in rows):
            # As mostly, and without a look-up for each.
            found = {rows[0][0]: (range(len(rows)), [call[1] for call in rows])}
        else:
            found = _by_shape((n, call[0], call[1]) for n, call in enumerate(rows))
        groups = [
            RowGroup(
                _coalesced(shape, self._lock_timeout),
                (),
                positions,
                [*zip(*values, strict=True)],
            )
            for shape, (positions, values) in found.items()
        ]
        groups = order_groups(groups, self._key, table, semantics)
        if merged:
            groups = [group.with_merged(merged) for group in groups]
        return groups, []

    def _can_merge(
        self, calls: Sequence[OneCall], table: Table, semantics: ValueSemantics
    ) -> bool:
        """Return whether there are several calls for one row, which may be merged."""
        width = len(self._key)
        if not table.mergeable:
            return False
        keys = [[call[1][parameter] for call in calls] for parameter in range(width)]
        if not are_comparable([keys], self._key, table, semantics):
            return False
        rows = {*keys[0]} if width == 1 else {*zip(*keys, strict=True)}
        return len(rows) < len(calls)

    def _merged(self, calls: Sequence[OneCall], table: Table) -> list[_Write]:
        """Merge adjacent calls for one row."""
        width = len(self._key)
        last: dict[Value, _Run] = {}
        runs: list[_Run] = []
        for position, call in enumerate(calls):
            shape, values = call[0], call[1]
            key = values[0] if width == 1 else tuple(values[:width])
            before = last.get(key)
            if before is not None:
                positions, its_shape, rows = before
                # The first test is the quick one.
                if its_shape is shape or its_shape == shape:
                    positions.append(position)
                    rows.append(values)
                    continue
            last[key] = run = ([position], shape, [values])
            runs.append(run)
        writes: list[_Write] = []
        for positions, shape, rows in runs:
            if len(positions) == 1:
                writes.append((positions, shape, rows[0]))
            else:
                rule = self._rule_for(shape, table)
                writes += [(p, shape, v) for p, v in _merge_run(rule, positions, rows)]
        return writes

    def _rule_for(self, shape: RequestShape, table: Table) -> MergeRule | None:
        if shape not in self._rules:
            if len(self._rules) >= _MAX_RULES:
                self._rules.clear()
            self._rules[shape] = find_rule(_coalesced(shape), table)
        return self._rules[shape]


def _by_shape(
    writes: Iterable[tuple[int, RequestShape, Sequence[Value]]],
) -> dict[RequestShape, tuple[Sequence[int], list[Sequence[Value]]]]:
    """Sort writes by their shape: the positions and values of each."""
    found: dict[RequestShape, tuple[list[int], list[Sequence[Value]]]] = {}
    for position, shape, values in writes:
        its_positions, its_values = found.setdefault(shape, ([], []))
        its_positions.append(position)
        its_values.append(values)
    return {**found}


# As many shapes as a program has calls in its source code, and more.
_MAX_RULES: Final = 256

_Run: TypeAlias = tuple[list[int], RequestShape, list[Sequence[Value]]]
"""Adjacent calls for one row, of one shape: their positions and values."""

_Write: TypeAlias = tuple[list[int], RequestShape, Sequence[Value]]
"""The positions of the calls that make one write, its shape, and its values."""


def _coalesced(shape: RequestShape, lock_timeout: int = 0) -> RequestShape:
    return Request(*shape)._replace(coalesced=True, lock_timeout=lock_timeout)


# --- Merging -----------------------------------------------------------------------


def _merge_run(
    rule: MergeRule | None, positions: list[int], rows: list[Sequence[Value]]
) -> Iterator[tuple[list[int], Sequence[Value]]]:
    """Merge calls for one row into as few as possible, each with its positions."""
    if rule is None:
        yield from (([p], values) for p, values in zip(positions, rows, strict=True))
        return
    with contextlib.suppress(CannotMergeError):
        yield positions, rule.join(rows)
        return
    those, before = [positions[0]], rows[0]
    for position, values in zip(positions[1:], rows[1:], strict=True):
        try:
            before = rule.join((before, values))
        except CannotMergeError:
            yield those, before
            those, before = [position], values
        else:
            those.append(position)
    yield those, before
