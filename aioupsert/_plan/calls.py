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
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from aioupsert._plan.bulk import Names
from aioupsert._plan.call import Call, Shape
from aioupsert._plan.plan import Plan, make_plan
from aioupsert._plan.records import Bad
from aioupsert._plan.rows import Group, Part, Typing, identified, in_order
from aioupsert._plan.terms import Assignment, Term, added
from aioupsert._schema import Column, Table
from aioupsert.errors import AioupsertError


class OneCall(Protocol):
    """A call: its shape, and its values, the key's first."""

    @property
    def shape(self) -> Shape:
        """Its shape."""
        ...

    @property
    def values(self) -> Sequence[Any]:
        """Its values."""
        ...


class Calls:
    """Reads the calls of one coalescer; remembers which shapes can be folded."""

    def __init__(self, key: Names) -> None:
        """Read calls whose shapes have these columns for their key, in this order."""
        self._key = key
        self._table: Table | None = None
        self._joins: dict[Shape, _Join] = {}

    def group(
        self, calls: Sequence[OneCall], table: Table, typing: Typing
    ) -> tuple[list[Group], list[Bad]]:
        """Sort calls into groups, in the order in which they must be written."""
        if table is not self._table:
            # Every connection has its own description, most often of the same table.
            if table != self._table:
                self._joins.clear()
            self._table = table
        if not all(name in table.columns for name in self._key):
            # Said to every call, when it is to be written.
            typing = replace(typing, is_identity=None)
        folded: dict[int, Sequence[int]] = {}
        rows: Iterable[tuple[int, Shape, Sequence[Any]]]
        if self._can_fold(calls, table, typing):
            runs = self._folded(calls, table)
            rows = [(run.places[0], run.shape, run.values) for run in runs]
            folded = {r.places[0]: r.places[1:] for r in runs if len(r.places) > 1}
        else:
            rows = [(n, call.shape, call.values) for n, call in enumerate(calls)]
        found: dict[Shape, tuple[list[int], list[Sequence[Any]]]] = {}
        for place, shape, values in rows:
            its_places, its_values = found.setdefault(shape, ([], []))
            its_places.append(place)
            its_values.append(values)
        parts = [
            Part(places, [*zip(*values, strict=True)])
            for places, values in found.values()
        ]
        shapes = [(_coalesced(shape), ()) for shape in found]
        groups = in_order(parts, shapes, self._key, table, typing)
        if folded:
            groups = [
                group._replace(
                    folded={p: folded[p] for p in group.places if p in folded}
                )
                for group in groups
            ]
        return groups, []

    def _can_fold(self, calls: Sequence[OneCall], table: Table, typing: Typing) -> bool:
        """Tell whether some calls are known to have the same key, and may be folded."""
        width = len(self._key)
        if not table.foldable or typing.is_identity is None:
            return False
        keys = [[call.values[slot] for call in calls] for slot in range(width)]
        return identified([keys], self._key, table, typing.is_identity)

    def _folded(self, calls: Sequence[OneCall], table: Table) -> list[_Run]:
        """Fold calls for one row that follow each other."""
        width = len(self._key)
        last: dict[Any, _Run] = {}
        runs: list[_Run] = []
        for place, call in enumerate(calls):
            shape, values = call.shape, call.values
            key = values[0] if width == 1 else tuple(values[:width])
            before = last.get(key)
            # The first test is the quick one.
            if before is not None and (before.shape is shape or before.shape == shape):
                if before.join is None:
                    before.join = self._join_of(shape, table)
                if before.join(before.values, values):
                    before.places.append(place)
                    continue
            last[key] = run = _Run([place], shape, [*values])
            runs.append(run)
        return runs

    def _join_of(self, shape: Shape, table: Table) -> _Join:
        join = self._joins.get(shape)
        if join is None:
            if len(self._joins) >= _MAX_JOINS:
                self._joins.clear()
            fold = _find_fold(shape, table)
            join = self._joins[shape] = _apart if fold is None else fold.join
        return join


# As many shapes as a program has calls in its source code, and more.
_MAX_JOINS: Final = 256


_Join: TypeAlias = Callable[[list[Any], Sequence[Any]], bool]
"""
Adds a call's values to those of the calls before it, of which they are to be one.

False, with nothing changed, if that would be another thing.
"""


def _apart(_before: list[Any], _values: Sequence[Any]) -> bool:
    """Join calls of no shape."""
    return False


class _Run:
    """Calls for one row that are one write, by their places; the first may create it."""

    __slots__ = ("join", "places", "shape", "values")

    def __init__(self, places: list[int], shape: Shape, values: list[Any]) -> None:
        self.places = places
        self.shape = shape
        self.values = values
        self.join: _Join | None = None  # until it is asked for


def _coalesced(shape: Shape) -> Shape:
    return tuple(Call(*shape)._replace(coalesced=True))


# --- Folding --------------------------------------------------------------------------


class _Fold(NamedTuple):
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

    def join(self, before: list[Any], values: Sequence[Any]) -> bool:
        """Add a call's values to those of the calls before it; see `_Join`."""
        for slot, is_storable in self.rest:
            # One that cannot be sent fails its call, even if it is not needed.
            if values[slot] is not before[slot] and not (
                is_storable is not None and is_storable(values[slot])
            ):
                return False
        for slot, is_storable in self.last:
            # The one that is lost must not be one that would have failed.
            if values[slot] is not before[slot] and not is_storable(before[slot]):
                return False
        for slot in self.sums:
            one, other = before[slot], values[slot]
            # With one sign nothing in between is further away than the sum.
            if type(one) is not int or type(other) is not int or one * other < 0:
                return False
            if not -_MAX_SUM <= one + other <= _MAX_SUM:
                return False
        for slot in self.sums:
            before[slot] += values[slot]
        for slot, _ in self.last:
            before[slot] = values[slot]
        return True


# A literal this large is sent as int4 still.
_MAX_SUM: Final = 2**31 - 1


def _find_fold(shape: Shape, table: Table) -> _Fold | None:
    call = Call(*shape)
    if call.where is not None or call.skip_unchanged or call.touch or call.returning:
        return None
    try:
        plan = make_plan(_coalesced(shape), table)
    except AioupsertError:
        return None  # said again, and to whom it belongs, when it is to be written
    if plan.exact or plan.lock or not plan.unique or not plan.update or plan.renames:
        return None
    inserted = {item.column.name: item.term for item in plan.insert}
    last: list[tuple[int, Callable[[Any], bool]]] = []
    sums: list[int] = []
    for item in plan.update:
        term, created = item.term, inserted[item.column.name]
        if term is None or created is None or not item.column.unchecked:
            return None
        slot = added(term, created, item.column)
        is_storable = _storable(item.column)
        if slot is not None:
            sums.append(slot)
        elif term.kind == created.kind == "value" and term.slot == created.slot:
            slot = term.slot
            if is_storable is None:
                return None
            last.append((slot, is_storable))
        else:
            return None
        if _is_used_elsewhere(slot, item.column, plan):
            return None
    return _Fold(last, sums, _only_creating({*sums, *(n for n, _ in last)}, plan))


def _only_creating(
    written: AbstractSet[int], plan: Plan
) -> list[tuple[int, Callable[[Any], bool] | None]]:
    """Find the slots that matter only to the call that creates the row."""
    found: list[tuple[int, Callable[[Any], bool] | None]] = []
    for column, term in plan.insert:
        if term is not None:
            is_sendable = _storable(column) if term.kind == "value" else None
            slots = _slots(term) - {-1, *range(len(plan.key))} - written
            found += [(slot, is_sendable) for slot in slots]
    return found


def _is_used_elsewhere(slot: int, column: Column, plan: Plan) -> bool:
    items: Iterable[Assignment] = (*plan.update, *plan.insert)
    return any(
        slot in _slots(item.term)
        for item in items
        if item.term and item.column != column
    )


def _slots(term: Term) -> set[int]:
    return {term.slot}.union(*map(_slots, term.args))


_RANGES: Final = {"int2": 2**15, "int4": 2**31, "int8": 2**63}
_TYPES: Final[dict[str, frozenset[type]]] = {
    "boolean": frozenset({bool}),
    "date": frozenset({dt.date}),
    "uuid": frozenset({uuid.UUID}),
}


def _storable(column: Column) -> Callable[[Any], bool] | None:
    """Give what tells that a column can store a value; None where nobody can tell."""
    kind = column.type.rpartition(".")[2]
    if column.storage == "text":
        return _is_plain_text
    if column.storage == "integer" and kind in _RANGES:
        limit = _RANGES[kind]
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
