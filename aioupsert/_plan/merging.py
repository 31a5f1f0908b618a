"""
Calls of a coalescer, sorted into groups, and folded where nobody could tell.

Several calls for one row are one write if they would leave the row as one write does,
and every call's result is known all the same: sums of integers, and plain values of
which the last stays. That is so only where no value in between could have failed, and
nothing in the database sees it. All other calls for one row are applied in turn.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple, TypeAlias

from aioupsert._plan.bulk_request import Names
from aioupsert._plan.plan import Plan, make_plan
from aioupsert._plan.records import RejectedRow
from aioupsert._plan.request import Request, RequestShape
from aioupsert._plan.resolving import Assignment, Resolved, added
from aioupsert._plan.rows import (
    Part,
    RowGroup,
    ValueSemantics,
    are_comparable,
    in_order,
)
from aioupsert._plan.schema import Column, Table
from aioupsert.errors import AioupsertError

OneCall: TypeAlias = tuple[RequestShape, Sequence[Any], *tuple[Any, ...]]
"""A call: its shape, its values, of which the key's are the first, and what not."""


class CallGrouper:
    """Reads the calls of one coalescer; remembers which shapes can be folded."""

    def __init__(self, key: Names) -> None:
        """Read calls whose shapes have these columns for their key, in this order."""
        self._key = key
        self._table: Table | None = None
        self._rules: dict[RequestShape, _MergeRule | None] = {}

    def group(
        self, calls: Sequence[OneCall], table: Table, semantics: ValueSemantics
    ) -> tuple[list[RowGroup], list[RejectedRow]]:
        """Sort calls into groups, in the order in which they must be written."""
        if table is not self._table:
            # Every connection has its own description, most often of the same table.
            if table != self._table:
                self._rules.clear()
            self._table = table
        merged: dict[int, Sequence[int]] = {}
        rows: Iterable[tuple[int, RequestShape, Sequence[Any]]]
        if self._can_merge(calls, table, semantics):
            writes = self._merged(calls, table)
            rows = [
                (positions[0], shape, values) for positions, shape, values in writes
            ]
            merged = {p[0]: p[1:] for p, _, _ in writes if len(p) > 1}
        else:
            rows = [(n, call[0], call[1]) for n, call in enumerate(calls)]
        found: dict[RequestShape, tuple[list[int], list[Sequence[Any]]]] = {}
        for position, shape, values in rows:
            its_positions, its_values = found.setdefault(shape, ([], []))
            its_positions.append(position)
            its_values.append(values)
        parts = [
            Part(positions, [*zip(*values, strict=True)])
            for positions, values in found.values()
        ]
        shapes = [(_coalesced(shape), ()) for shape in found]
        groups = in_order(parts, shapes, self._key, table, semantics)
        if merged:
            groups = [
                group._replace(
                    merged={p: merged[p] for p in group.positions if p in merged}
                )
                for group in groups
            ]
        return groups, []

    def _can_merge(
        self, calls: Sequence[OneCall], table: Table, semantics: ValueSemantics
    ) -> bool:
        """Tell whether some calls are known to have the same key, and may be folded."""
        width = len(self._key)
        if not table.mergeable:
            return False
        keys = [[call[1][parameter] for call in calls] for parameter in range(width)]
        return are_comparable([keys], self._key, table, semantics)

    def _merged(self, calls: Sequence[OneCall], table: Table) -> list[_Write]:
        """Fold calls for one row that follow each other."""
        width = len(self._key)
        last: dict[Any, _Run] = {}
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

    def _rule_for(self, shape: RequestShape, table: Table) -> _MergeRule | None:
        if shape not in self._rules:
            if len(self._rules) >= _MAX_RULES:
                self._rules.clear()
            self._rules[shape] = _find_rule(shape, table)
        return self._rules[shape]


# As many shapes as a program has calls in its source code, and more.
_MAX_RULES: Final = 256

_Run: TypeAlias = tuple[list[int], RequestShape, list[Sequence[Any]]]
"""Calls for one row, of one shape, that follow each other: their places and values."""

_Write: TypeAlias = tuple[list[int], RequestShape, Sequence[Any]]
"""The places of the calls that are one write, of which the first may create; the write."""


def _coalesced(shape: RequestShape) -> RequestShape:
    return tuple(Request(*shape)._replace(coalesced=True))


# --- Folding --------------------------------------------------------------------------


class _MergeRule(NamedTuple):
    """
    How calls of a shape become one.

    Attributes:
        last: Slots of plain values, each with what tells that one can be stored.
        sums: Slots of what is added to integers.
        rest: Slots of what only creates, each with what tells that it could be sent, or
            None where nobody can tell.
    """

    last: Sequence[tuple[int, Callable[[Any], bool]]]
    sums: Sequence[int]
    rest: Sequence[tuple[int, Callable[[Any], bool] | None]]

    def join(self, rows: Sequence[Sequence[Any]]) -> Sequence[Any] | None:
        """Make the values of calls one; None if that would be another thing."""
        last = rows[-1]
        joined = [*rows[0]]
        for parameter, is_storable in self.rest:
            # One that cannot be sent fails its call, even if it is not needed.
            one = joined[parameter]
            others = [row[parameter] for row in rows if row[parameter] is not one]
            if others and (is_storable is None or not all(map(is_storable, others))):
                return None
        for parameter, is_storable in self.last:
            # The one that is lost must not be one that would have failed.
            joined[parameter] = one = last[parameter]
            if not all(
                is_storable(row[parameter]) for row in rows if row[parameter] is not one
            ):
                return None
        for parameter in self.sums:
            added = [row[parameter] for row in rows]
            if {*map(type, added)} != {int}:
                return None
            # With one sign nothing in between is further away than the sum.
            joined[parameter] = total = sum(added)
            if min(added) < 0 < max(added) or not -_MAX_SUM <= total <= _MAX_SUM:
                return None
        return joined


def _merge_run(
    rule: _MergeRule | None, positions: list[int], rows: list[Sequence[Any]]
) -> Iterator[tuple[list[int], Sequence[Any]]]:
    """Make one of calls for one row, or as few as may be, with the places of each."""
    if rule is not None:
        whole = rule.join(rows)
        if whole is not None:
            yield positions, whole
            return
    those, before = [positions[0]], rows[0]
    for position, values in zip(positions[1:], rows[1:], strict=True):
        both = None if rule is None else rule.join((before, values))
        if both is None:
            yield those, before
            those, before = [position], values
        else:
            those.append(position)
            before = both
    yield those, before


# A literal this large is sent as int4 still.
_MAX_SUM: Final = 2**31 - 1


def _find_rule(shape: RequestShape, table: Table) -> _MergeRule | None:
    call = Request(*shape)
    if call.where is not None or call.skip_unchanged or call.touch or call.returning:
        return None
    try:
        plan = make_plan(_coalesced(shape), table)
    except AioupsertError:
        return None  # said again, and to whom it belongs, when it is to be written
    if (
        plan.exact_because
        or plan.lock
        or not plan.unique
        or not plan.update
        or plan.renames
    ):
        return None
    inserted = {item.column.name: item.term for item in plan.insert}
    last: list[tuple[int, Callable[[Any], bool]]] = []
    sums: list[int] = []
    for item in plan.update:
        term, created = item.term, inserted[item.column.name]
        if term is None or created is None or not item.column.unconstrained:
            return None
        parameter = added(term, created, item.column)
        is_storable = _storable(item.column)
        if parameter is not None:
            sums.append(parameter)
        elif (
            term.kind == created.kind == "value" and term.parameter == created.parameter
        ):
            parameter = term.parameter
            if is_storable is None:
                return None
            last.append((parameter, is_storable))
        else:
            return None
        if _is_used_elsewhere(parameter, item.column, plan):
            return None
    return _MergeRule(last, sums, _only_creating({*sums, *(n for n, _ in last)}, plan))


def _only_creating(
    written: AbstractSet[int], plan: Plan
) -> list[tuple[int, Callable[[Any], bool] | None]]:
    """Find the slots that matter only to the call that creates the row."""
    found: list[tuple[int, Callable[[Any], bool] | None]] = []
    for column, term in plan.insert:
        if term is not None:
            is_sendable = _storable(column) if term.kind == "value" else None
            parameters = _slots(term) - {-1, *range(len(plan.key))} - written
            found += [(parameter, is_sendable) for parameter in parameters]
    return found


def _is_used_elsewhere(parameter: int, column: Column, plan: Plan) -> bool:
    items: Iterable[Assignment] = (*plan.update, *plan.insert)
    return any(
        parameter in _slots(item.term)
        for item in items
        if item.term and item.column != column
    )


def _slots(term: Resolved) -> set[int]:
    return {term.parameter}.union(*map(_slots, term.args))


_RANGES: Final = {"int2": 2**15, "int4": 2**31, "int8": 2**63}
_TYPES: Final[dict[str, frozenset[type]]] = {
    "boolean": frozenset({bool}),
    "date": frozenset({dt.date}),
    "uuid": frozenset({uuid.UUID}),
}


def _storable(column: Column) -> Callable[[Any], bool] | None:
    """Give what tells that a column can store a value; None where nobody can tell."""
    if column.storage == "text":
        return _is_plain_text
    if column.storage == "integer" and column.type_name in _RANGES:
        limit = _RANGES[column.type_name]
        return lambda value: type(value) is int and -limit <= value < limit
    if column.storage == "timestamptz":
        return _is_moment
    types = _TYPES.get(column.storage)
    return None if types is None else lambda value: type(value) in types


def _is_plain_text(value: Any) -> bool:
    # Another character may be none of the database's encoding.
    return type(value) is str and value.isascii() and "\0" not in value


def _is_moment(value: Any) -> bool:
    # In the first and last year of Python a time zone may lead out of its range.
    return (
        type(value) is dt.datetime
        and value.tzinfo is not None
        and dt.MINYEAR < value.year < dt.MAXYEAR
    )
