"""
The calls of a coalescer, sorted into groups; calls for one row are merged if possible.

Several calls for one row become one write if that leaves the row as all of them would,
and the result of each call is still known: integers that are added, and plain values, of
which the last remains. This requires that no write in between could have failed, and
that nothing in the database sees it. Other calls for one row are applied in turn.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple, TypeAlias

from aioupsert._plan.plan import Plan, make_plan
from aioupsert._plan.records import RejectedRow
from aioupsert._plan.request import Request, RequestShape
from aioupsert._plan.resolving import Assignment, Resolved, added_parameter
from aioupsert._plan.rows import (
    RowGroup,
    UniformRows,
    ValueSemantics,
    are_comparable,
    order_groups,
)
from aioupsert._plan.schema import Column, Names, Table
from aioupsert.errors import AioupsertError
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
        self._rules: dict[RequestShape, _MergeRule | None] = {}

    def group(
        self, rows: Sequence[OneCall], table: Table, semantics: ValueSemantics
    ) -> tuple[list[RowGroup], list[RejectedRow]]:
        """Sort calls into groups, in the order in which they must be written."""
        if table is not self._table:
            # Every connection has its own description, mostly of the same table.
            if table != self._table:
                self._rules.clear()
            self._table = table
        writes: Iterable[tuple[int, RequestShape, Sequence[Value]]]
        merged: dict[int, Sequence[int]] = {}
        if self._can_merge(rows, table, semantics):
            several = self._merged(rows, table)
            writes = [
                (positions[0], shape, values) for positions, shape, values in several
            ]
            merged = {p[0]: p[1:] for p, _, _ in several if len(p) > 1}
        else:
            writes = [(n, call[0], call[1]) for n, call in enumerate(rows)]
        found: dict[RequestShape, tuple[list[int], list[Sequence[Value]]]] = {}
        for position, shape, values in writes:
            its_positions, its_values = found.setdefault(shape, ([], []))
            its_positions.append(position)
            its_values.append(values)
        uniform = [
            UniformRows(positions, [*zip(*values, strict=True)])
            for positions, values in found.values()
        ]
        requests = [(_coalesced(shape, self._lock_timeout), ()) for shape in found]
        groups = order_groups(uniform, requests, self._key, table, semantics)
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
        """Return whether the keys can be compared, and writes of one row be merged."""
        width = len(self._key)
        if not table.mergeable:
            return False
        keys = [[call[1][parameter] for call in calls] for parameter in range(width)]
        return are_comparable([keys], self._key, table, semantics)

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

    def _rule_for(self, shape: RequestShape, table: Table) -> _MergeRule | None:
        if shape not in self._rules:
            if len(self._rules) >= _MAX_RULES:
                self._rules.clear()
            self._rules[shape] = _find_rule(shape, table)
        return self._rules[shape]


# As many shapes as a program has calls in its source code, and more.
_MAX_RULES: Final = 256

_Run: TypeAlias = tuple[list[int], RequestShape, list[Sequence[Value]]]
"""Adjacent calls for one row, of one shape: their positions and values."""

_Write: TypeAlias = tuple[list[int], RequestShape, Sequence[Value]]
"""The positions of the calls that make one write, its shape, and its values."""


def _coalesced(shape: RequestShape, lock_timeout: int = 0) -> RequestShape:
    return Request(*shape)._replace(coalesced=True, lock_timeout=lock_timeout)


# --- Merging --------------------------------------------------------------------------


class _MergeRule(NamedTuple):
    """
    How calls of a request shape are merged.

    Attributes:
        last: The parameters of plain values, of which the last remains, each with the
            check that a value can be stored.
        sums: The parameters of what is added to integers.
        rest: The parameters that only creating the row needs, each with the check that
            a value can be sent, or None if that is unknown.
    """

    last: Sequence[tuple[int, Callable[[Value], bool]]]
    sums: Sequence[int]
    rest: Sequence[tuple[int, Callable[[Value], bool] | None]]

    def join(self, rows: Sequence[Sequence[Value]]) -> Sequence[Value] | None:
        """Return the values of the merged call; None if the calls cannot be merged."""
        last = rows[-1]
        joined = [*rows[0]]
        for parameter, is_storable in self.rest:
            # A value that cannot be sent fails its call, even if it is not needed.
            one = joined[parameter]
            others = [row[parameter] for row in rows if row[parameter] is not one]
            if others and (is_storable is None or not all(map(is_storable, others))):
                return None
        for parameter, is_storable in self.last:
            # A value that is dropped must not be one that would have failed.
            joined[parameter] = one = last[parameter]
            if not all(
                is_storable(row[parameter]) for row in rows if row[parameter] is not one
            ):
                return None
        for parameter in self.sums:
            added = [row[parameter] for row in rows]
            if {*map(type, added)} != {int}:
                return None
            # Numbers of one sign cannot exceed the sum in between.
            joined[parameter] = total = sum(added)
            if min(added) < 0 < max(added) or not -_MAX_SUM <= total <= _MAX_SUM:
                return None
        return joined


def _merge_run(
    rule: _MergeRule | None, positions: list[int], rows: list[Sequence[Value]]
) -> Iterator[tuple[list[int], Sequence[Value]]]:
    """Merge calls for one row into as few as possible, each with its positions."""
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


# The largest literal that is still sent as int4.
_MAX_SUM: Final = 2**31 - 1


def _find_rule(shape: RequestShape, table: Table) -> _MergeRule | None:
    call = Request(*shape)
    if (
        call.where is not None
        or call.skip_unchanged
        or call.touch
        or call.returning
        or call.old
    ):
        return None
    try:
        plan = make_plan(_coalesced(shape), table)
    except AioupsertError:
        return None  # reported to each caller when the call is written
    if (
        plan.exact_because
        or plan.lock
        or not plan.unique
        or not plan.update
        or plan.renames
    ):
        return None
    inserted = {item.column.name: item.term for item in plan.insert}
    last: list[tuple[int, Callable[[Value], bool]]] = []
    sums: list[int] = []
    for item in plan.update:
        term, created = item.term, inserted[item.column.name]
        if term is None or created is None or not item.column.unconstrained:
            return None
        parameter = added_parameter(term, created, item.column)
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
) -> list[tuple[int, Callable[[Value], bool] | None]]:
    """Return the parameters that matter only to the call that creates the row."""
    found: list[tuple[int, Callable[[Value], bool] | None]] = []
    for column, term in plan.insert:
        if term is not None:
            is_sendable = _storable(column) if term.kind == "value" else None
            parameters = _parameters_of(term) - {-1, *range(len(plan.key))} - written
            found += [(parameter, is_sendable) for parameter in parameters]
    return found


def _is_used_elsewhere(parameter: int, column: Column, plan: Plan) -> bool:
    items: Iterable[Assignment] = (*plan.update, *plan.insert)
    return any(
        parameter in _parameters_of(item.term)
        for item in items
        if item.term and item.column != column
    )


def _parameters_of(term: Resolved) -> set[int]:
    return {part.parameter for part in term.walk()}


_RANGES: Final = {"int2": 2**15, "int4": 2**31, "int8": 2**63}
_TYPES: Final[dict[str, frozenset[type]]] = {
    "boolean": frozenset({bool}),
    "date": frozenset({dt.date}),
    "uuid": frozenset({uuid.UUID}),
}


def _storable(column: Column) -> Callable[[Value], bool] | None:
    """Return the check that a column can store a value; None if that is unknown."""
    if column.storage == "text":
        return _is_plain_text
    if column.storage == "integer" and column.type_name in _RANGES:
        limit = _RANGES[column.type_name]
        return lambda value: type(value) is int and -limit <= value < limit
    if column.storage == "timestamptz":
        return _is_moment
    types = _TYPES.get(column.storage)
    return None if types is None else lambda value: type(value) in types


def _is_plain_text(value: Value) -> bool:
    # The encoding of the database may lack other characters.
    return type(value) is str and value.isascii() and "\0" not in value


def _is_moment(value: Value) -> bool:
    # In the first and last year a time zone may lead out of the range of datetime.
    return (
        type(value) is dt.datetime
        and value.tzinfo is not None
        and dt.MINYEAR < value.year < dt.MAXYEAR
    )
