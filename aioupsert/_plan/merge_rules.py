"""
When several writes of one row can become one.

That is if one write leaves the row as all of them would, and the result of each is still
known: integers that are added, the greatest or least of integers, dates and moments, and
plain values, of which the last remains. With nothing to update, the first write decides.
This requires that no write in between could have failed, and that nothing in the database
sees it.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from aioupsert._plan.plan import Plan, make_plan
from aioupsert._plan.request import Request, RequestShape
from aioupsert._plan.resolving import Assignment, Resolved, added_parameter
from aioupsert._plan.schema import Column, Table
from aioupsert.errors import AioupsertError
from aioupsert.typing import Value

Check: TypeAlias = Callable[[Value], bool]
"""Returns whether a column can certainly store a value."""


class CannotMergeError(Exception):
    """These writes cannot become one; callers of the library never see this."""


class _Part(Protocol):
    """What becomes of the values of one parameter."""

    @property
    def parameter(self) -> int:
        """The parameter."""
        ...

    def join(self, values: Sequence[Value], /) -> Value:
        """
        Return the value that stands for all of these.

        Raises:
            CannotMergeError: One of them might fail by itself.
        """
        ...


class _Last(NamedTuple):
    """The last value remains."""

    parameter: int
    is_storable: Check

    def join(self, values: Sequence[Value]) -> Value:
        one = values[-1]
        # A value that is dropped must not be one that would have failed.
        if not all(self.is_storable(value) for value in values if value is not one):
            raise CannotMergeError
        return one


class _First(NamedTuple):
    """The first value remains, as only creating the row needs one."""

    parameter: int
    is_sendable: Check | None

    def join(self, values: Sequence[Value]) -> Value:
        one = values[0]
        # A value that cannot be sent fails its write, even if it is not needed.
        others = [value for value in values if value is not one]
        if others and (
            self.is_sendable is None or not all(map(self.is_sendable, others))
        ):
            raise CannotMergeError
        return one


class _Sum(NamedTuple):
    """The values are added, up to a limit."""

    parameter: int
    limit: int

    def join(self, values: Sequence[Value]) -> Value:
        if {*map(type, values)} != {int}:
            raise CannotMergeError
        total: int = sum(values)
        # Numbers of one sign cannot exceed the sum in between.
        if min(values) < 0 < max(values) or not -self.limit <= total <= self.limit:
            raise CannotMergeError
        return total


class _Extreme(NamedTuple):
    """The greatest or least value remains."""

    parameter: int
    is_storable: Check
    is_in_order: Check
    choose: Callable[[Sequence[Any]], Value]

    def join(self, values: Sequence[Value]) -> Value:
        if not all(self.is_in_order(v) and self.is_storable(v) for v in values):
            raise CannotMergeError
        return self.choose(values)


class MergeRule(NamedTuple):
    """How writes of one request shape are merged: what becomes of each parameter."""

    parts: Sequence[_Part]

    def join(self, rows: Sequence[Sequence[Value]]) -> list[Value]:
        """
        Return the values of the write that stands for several of one row.

        Raises:
            CannotMergeError: There is none.
        """
        joined = [*rows[0]]
        for part in self.parts:
            joined[part.parameter] = part.join([row[part.parameter] for row in rows])
        return joined

    def reads_only(self, width: int) -> bool:
        """Return whether what it joins are the first parameters, the columns of rows."""
        return all(
            isinstance(part, _First) or part.parameter < width for part in self.parts
        )

    def join_columns(
        self, columns: Sequence[Sequence[Value]], rows: Sequence[int]
    ) -> list[tuple[int, Value]] | None:
        """
        Return what some rows become, given by columns: each parameter with its value.

        Returns None if they cannot be merged.
        """
        try:
            return [
                (
                    part.parameter,
                    part.join([columns[part.parameter][row] for row in rows]),
                )
                for part in self.parts
                if part.parameter < len(columns)
            ]
        except CannotMergeError:
            return None


def find_rule(shape: RequestShape, table: Table) -> MergeRule | None:
    """Return how writes of a shape are merged; None if they are not."""
    call = Request(*shape)
    if not table.mergeable or call.where is not None or call.touch or call.old:
        return None
    try:
        plan = make_plan(shape, table)
    except AioupsertError:
        return None  # reported when they are written
    if plan.exact_because or plan.lock or not plan.unique or plan.renames:
        return None
    if plan.update and (plan.returning or plan.compare is not None):
        return None
    inserted = {item.column.name: item.term for item in plan.insert}
    parts: list[_Part] = []
    for column, term in plan.update:
        part = _part(term, inserted[column.name], column, table)
        if part is None or _is_used_elsewhere(part.parameter, column, plan):
            return None
        parts.append(part)
    written = {part.parameter for part in parts}
    return MergeRule([*parts, *_only_creating(written, plan, table)])


def _part(
    term: Resolved | None, created: Resolved | None, column: Column, table: Table
) -> _Part | None:
    """
    Return what becomes of the values that a column is set to; None if that is unknown.

    Args:
        term: What an update sets it to.
        created: What an insert sets it to.
        column: The column.
        table: Its table.
    """
    if term is None or created is None or not column.unconstrained:
        return None
    added = added_parameter(term, created, column)
    if added is not None:
        return _Sum(added, _MAX_LITERAL)
    is_storable = _storable(column, table)
    if is_storable is None or created.kind != "value":
        return None
    parameter = created.parameter
    if term.kind == "value":
        return _Last(parameter, is_storable) if term.parameter == parameter else None
    operands = {(arg.kind, arg.column, arg.parameter) for arg in term.args}
    if len(term.args) != _TWO or operands != {
        ("column", column, -1),
        ("value", column, parameter),
    }:
        return None
    if (term.kind, term.name) == ("operator", "+") and column.type_name in _RANGES:
        return _Sum(parameter, _RANGES[column.type_name] - 1)
    if term.kind == "function" and term.name in _CHOICES:
        in_order = _ORDERED.get(column.storage)
        if in_order is not None:
            return _Extreme(parameter, is_storable, in_order, _CHOICES[term.name])
    return None


# The largest literal that is still sent as int4.
_MAX_LITERAL: Final = 2**31 - 1
_TWO: Final = 2
_CHOICES: Final[dict[str, Callable[[Sequence[Any]], Value]]] = {
    "greatest": max,
    "least": min,
}


def _is_number(value: Value) -> bool:
    return type(value) is int


def _is_date(value: Value) -> bool:
    return type(value) is dt.date


def _is_fixed(value: Value) -> bool:
    # Python compares the times of day of one zone, also where an hour is repeated.
    return isinstance(value, dt.datetime) and type(value.tzinfo) is dt.timezone


# The values that Python puts in the order of the database, by storage.
_ORDERED: Final[dict[str, Check]] = {
    "integer": _is_number,
    "date": _is_date,
    "timestamptz": _is_fixed,
}


def _only_creating(
    written: AbstractSet[int], plan: Plan, table: Table
) -> Iterator[_First]:
    """Yield the parameters that matter only to the write that creates the row."""
    for column, term in plan.insert:
        if term is not None:
            is_sendable = _storable(column, table) if term.kind == "value" else None
            parameters = _parameters_of(term) - {-1, *range(len(plan.key))} - written
            for parameter in parameters:
                yield _First(parameter, is_sendable)


def _is_used_elsewhere(parameter: int, column: Column, plan: Plan) -> bool:
    items: Iterable[Assignment] = (*plan.update, *plan.insert)
    return any(
        parameter in _parameters_of(item.term)
        for item in items
        if item.term and item.column != column
    )


def _parameters_of(term: Resolved) -> set[int]:
    return {part.parameter for part in term.walk()}


# --- Which values can certainly be stored ---------------------------------------------

_RANGES: Final = {"int2": 2**15, "int4": 2**31, "int8": 2**63}
_TYPES: Final[dict[str, type]] = {
    "pg_catalog.bool": bool,
    "pg_catalog.bytea": bytes,
    "pg_catalog.date": dt.date,
    "pg_catalog.float8": float,
    "pg_catalog.uuid": uuid.UUID,
}


def _storable(column: Column, table: Table) -> Check | None:
    """Return the check that a column can store a value; None if that is unknown."""
    check = _storable_value(column, table)
    if check is None or not column.nullable:
        return check
    return lambda value: value is None or check(value)


def _storable_value(column: Column, table: Table) -> Check | None:
    if column.storage in {"text", "varchar"}:
        is_text = _is_unicode if table.is_utf8 else _is_ascii
        length = column.length
        if length is None:
            return is_text
        return lambda value: is_text(value) and len(value) <= length
    if column.storage == "integer" and column.type_name in _RANGES:
        limit = _RANGES[column.type_name]
        return lambda value: type(value) is int and -limit <= value < limit
    if column.storage == "timestamptz":
        return _is_moment
    cls = _TYPES.get(column.type)
    return None if cls is None else lambda value: type(value) is cls


def _is_ascii(value: Value) -> bool:
    # The encoding of the database may lack other characters.
    return type(value) is str and value.isascii() and "\0" not in value


def _is_unicode(value: Value) -> bool:
    if type(value) is not str or "\0" in value:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False  # a surrogate
    return True


def _is_moment(value: Value) -> bool:
    # In the first and last year a time zone may lead out of the range of datetime.
    return (
        type(value) is dt.datetime
        and value.tzinfo is not None
        and dt.MINYEAR < value.year < dt.MAXYEAR
    )
