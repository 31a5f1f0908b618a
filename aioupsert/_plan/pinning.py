"""
Keys with a constant of a partial index's predicate.

An index ``ON t (email) WHERE active`` makes the key (email, active) unique for rows that
are active. Whether it does is a matter of the key's values, which a request shape does not
hold: so a value that is a constant of a predicate is made part of the shape, and written
into the statements, where the planner sees that the index serves them. Predicates have few
constants, so that these shapes are few.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypeAlias

from aioupsert._plan.groups import RowGroup
from aioupsert._plan.request import Request, RequestShape
from aioupsert._plan.schema import Constant, Table, same
from aioupsert.typing import Value

_Constants: TypeAlias = tuple[tuple[str, Constant], ...]


def pin(shape: RequestShape, table: Table, values: Sequence[Value]) -> RequestShape:
    """Return the shape of a call for a table; itself if no predicate has constants."""
    if not table.constants:
        return shape
    request = Request(*shape)
    constants = _constants_of(request, table, values)
    return request._replace(constants=constants)


def pin_rows(group: RowGroup, table: Table) -> list[RowGroup]:
    """Split a group into rows with the same constants, which mostly are all of them."""
    request = Request(*group.shape)
    width = len(request.key)
    keys = zip(*group.columns[:width], strict=True)
    found = [(_constants_of(request, table, key), row) for row, key in enumerate(keys)]
    if group.distinct:
        # Rows whose keys differ may be written in any order.
        found.sort(key=lambda pinned: (str(pinned[0]), pinned[1]))
    parts: list[RowGroup] = []
    for constants, members in itertools.groupby(found, lambda pinned: pinned[0]):
        part = group.part([row for _, row in members])
        parts.append(part._replace(shape=request._replace(constants=constants)))
    return parts


def _constants_of(request: Request, table: Table, key: Sequence[Value]) -> _Constants:
    known = table.constants
    return tuple(
        (name, constant)
        for (name, _), value in zip(request.key, key, strict=False)
        for constant in known.get(name, ())
        if same(value, constant)
    )
