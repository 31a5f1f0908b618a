"""
Rows, sorted into groups of one shape each.

A group is what one statement can write. Whole columns are looked at, not single cells,
since that is what makes a hundred thousand rows quick.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeAlias

from aioupsert._plan.bulk_request import BulkRequest, Names
from aioupsert._plan.plan import Plan
from aioupsert._plan.records import Records, RejectedRow, read_records
from aioupsert._plan.request import Items, RequestShape, plain_node
from aioupsert._plan.schema import Column, Table
from aioupsert.errors import UsageError
from aioupsert.expressions import Expression, Node

Kinds: TypeAlias = tuple["str | Node", ...]
"""What each cell of a row is: a kind of literal, or an expression's node."""


class RowGroup(NamedTuple):
    """
    Rows that one statement can write.

    Attributes:
        shape: The call that each of them is.
        constants: The values of the call that do not come from the rows.
        places: Where in the batch they stand.
        columns: What they bring, column by column, the key's first.
        distinct: Whether no two of them are known to have the same key.
        folded: Places of calls that were folded into others, by the place of those.
    """

    shape: RequestShape
    constants: Sequence[Any]
    positions: Sequence[int]
    columns: Sequence[Sequence[Any]]
    distinct: bool
    merged: Mapping[int, Sequence[int]] = MappingProxyType({})

    @property
    def calls(self) -> list[int]:
        """The places of all calls in it."""
        return [*self.positions, *itertools.chain.from_iterable(self.merged.values())]

    def values(self, row: int) -> list[Any]:
        """Give the values of the call that a row is."""
        return [*(column[row] for column in self.columns), *self.constants]

    def some(self, rows: Sequence[int]) -> Sequence[Sequence[Any]]:
        """Give the columns of some rows."""
        if len(rows) == len(self.positions):
            return self.columns
        return [[column[row] for row in rows] for column in self.columns]


class ValueSemantics(Protocol):
    """What a database makes of values."""

    def python_equality_is_sql_equality(
        self, column: Column, types: Iterable[type]
    ) -> bool:
        """
        Return whether keys of these Python types are one row exactly if they are equal.

        Where that is not known, rows are written in their order.
        """
        ...

    def text_converter(self, column: Column) -> Callable[[str], Any] | None:
        """Return what converts text for a column; None where the database does."""
        ...


class RowGrouper:
    """Reads the rows of one bulk call."""

    def __init__(self, request: BulkRequest) -> None:
        """Read rows for this call."""
        self._request = request

    def group(
        self, rows: Sequence[Any], table: Table, semantics: ValueSemantics
    ) -> tuple[list[RowGroup], list[RejectedRow]]:
        """
        Sort the rows of a batch into groups.

        Groups come in the order in which they must be written, so that rows with the
        same key follow each other as in the batch.
        """
        request = self._request
        records, bad = _read(rows, request)
        parts = [
            part
            for some in records
            for part in _split(some, request, table, semantics, bad)
        ]
        shapes = [_shape(part, request) for part in parts]
        return in_order(parts, shapes, request.key, table, semantics), bad

    def share(
        self,
        rows: Sequence[Any],
        table: Table,
        semantics: ValueSemantics,
        number: int,
    ) -> list[list[int]] | None:
        """
        Share out the rows of a batch by their keys, all rows of a key in one share.

        Returns:
            The positions of each share, in their order; None where it is not known
            which keys are equal.
        """
        request = self._request
        try:
            records, bad = _read(rows, request, only_key=True)
        except Exception:  # noqa: BLE001  # of a column's type; writing the row reports it
            return None
        columns = [some.columns for some in records]
        if not are_comparable(columns, request.key, table, semantics):
            return None
        shares: list[list[int]] = [[] for _ in range(number)]
        for some in records:
            for position, key in zip(
                some.positions, zip(*some.columns, strict=True), strict=True
            ):
                shares[hash(key) % number].append(position)
        shares[0] += [row.position for row in bad]
        for share in shares:
            share.sort()
        return shares


def check_keys(plan: Plan, group: RowGroup) -> tuple[RowGroup, list[RejectedRow]]:
    """Leave out the rows whose key would be stored as something else."""
    bad: dict[int, RejectedRow] = {}
    for parameter, check in plan.checks:
        cells = group.columns[parameter]
        if not check.harmless.issuperset(map(type, cells)):
            for row, cell in enumerate(cells):
                try:
                    check.check(cell)
                except UsageError as exc:
                    bad.setdefault(row, RejectedRow(group.positions[row], exc))
    if not bad:
        return group, []
    kept = [row for row in range(len(group.positions)) if row not in bad]
    positions = [group.positions[row] for row in kept]
    merged = {
        position: group.merged[position]
        for position in positions
        if position in group.merged
    }
    wrong = [
        RejectedRow(position, row.error)
        for row in bad.values()
        for position in (row.position, *group.merged.get(row.position, ()))
    ]
    kept_group = group._replace(
        positions=positions, columns=group.some(kept), merged=merged
    )
    return kept_group, wrong


def _read(
    rows: Sequence[Any], call: BulkRequest, *, only_key: bool = False
) -> tuple[list[Records], list[RejectedRow]]:
    if call.reads is None:
        return read_records(rows, call.key, only_key=only_key)
    records, bad = read_records(rows, call.reads.key, only_key=only_key)
    translate = call.reads.keys if only_key else call.reads.records
    return [*map(translate, records)], bad


# --- What the cells are ---------------------------------------------------------------


class Part(NamedTuple):
    """
    Rows of one shape, before their keys are looked at.

    Attributes:
        places: Where in the batch they stand.
        columns: What they bring, column by column, the key's first.
        names: Their columns, in the same order.
        kinds: What each cell is.
        generated: As of the records.
    """

    positions: Sequence[int]
    columns: Sequence[Sequence[Any]]
    names: Names = ()
    kinds: Kinds = ()
    generated: frozenset[str] = frozenset()


def _split(
    records: Records,
    call: BulkRequest,
    table: Table,
    semantics: ValueSemantics,
    bad: list[RejectedRow],
) -> list[Part]:
    """Sort rows with the same columns by what their cells are."""
    names, positions, columns, generated = records
    width = len(call.key)
    kinds: list[str | None] = []
    texts: set[int] = set()
    for parameter, name in enumerate(names):
        types = set(map(type, columns[parameter]))
        column = table.columns.get(name) if call.convert_text else None
        if column is not None and column.family != "text":
            convert = semantics.text_converter(column)
            if convert is None:
                texts.add(parameter)
            elif any(issubclass(t, str) for t in types):
                columns[parameter] = [
                    convert(cell) if isinstance(cell, str) else cell
                    for cell in columns[parameter]
                ]
        kinds.append(_kind(types, text=parameter in texts, is_key=parameter < width))
    same = tuple(kind for kind in kinds if kind is not None)
    if len(same) == len(kinds):
        return [Part(positions, columns, names, same, generated)]
    return _split_mixed(records, kinds, texts, width=width, bad=bad)


def _kind(types: set[type[Any]], *, text: bool, is_key: bool) -> str | None:
    """Give the kind of all cells of a column, or None where they differ."""
    if any(issubclass(t, Expression) or _is_callable(t) for t in types):
        return None
    if type(None) in types:
        if is_key:
            return None
        types = types - {type(None)}
    kinds = {_kind_of_type(t, text=text) for t in types}
    return kinds.pop() if len(kinds) == 1 else (None if kinds else "value")


def _is_callable(cls: type[Any]) -> bool:
    """Tell whether instances can be called."""
    return any("__call__" in base.__dict__ for base in cls.__mro__)


def _kind_of_type(cls: type[Any], *, text: bool) -> str:
    if issubclass(cls, (dict, list)):
        return "container"
    return "text" if text and issubclass(cls, str) else "value"


def _split_mixed(
    records: Records,
    kinds: Sequence[str | None],
    texts: AbstractSet[int],
    *,
    width: int,
    bad: list[RejectedRow],
) -> list[Part]:
    """Look at every cell of the columns whose cells differ: they have no kind."""
    names, positions, columns, generated = records
    mixed = [parameter for parameter, kind in enumerate(kinds) if kind is None]
    found: dict[Kinds, tuple[list[int], list[Sequence[Any]]]] = {}
    for position, row in zip(positions, zip(*columns, strict=True), strict=True):
        own: list[str | Node] = [kind or "value" for kind in kinds]
        cells: list[Any] = [*row]
        wrong = [cell for cell in row[:width] if isinstance(cell, Expression)]
        if wrong:
            what = f"the key must be a plain value, not {wrong[0]!r}"
            bad.append(RejectedRow(position, UsageError(what)))
            continue
        for parameter in mixed:
            cell = cells[parameter]
            is_key = parameter < width
            if callable(cell) and not is_key:
                cell = cells[parameter] = cell()
            if isinstance(cell, Expression):
                own[parameter] = cell.node
            elif cell is None and is_key:
                own[parameter] = "null"
            elif isinstance(cell, str) and parameter in texts:
                own[parameter] = "text"
            else:
                own[parameter] = plain_node(cell)[1]
        flat = [
            value
            for cell in cells
            for value in (cell.values if isinstance(cell, Expression) else (cell,))
        ]
        its_positions, its_values = found.setdefault(tuple(own), ([], []))
        its_positions.append(position)
        its_values.append(flat)
    return [
        Part(
            its_positions,
            [*map(list, zip(*its_values, strict=True))],
            names,
            own,
            generated,
        )
        for own, (its_positions, its_values) in found.items()
    ]


# --- Which rows may be written together -----------------------------------------------


def in_order(
    parts: Sequence[Part],
    shapes: Sequence[tuple[RequestShape, Sequence[Any]]],
    key: Names,
    table: Table,
    semantics: ValueSemantics,
) -> list[RowGroup]:
    """Give the groups in which parts, each with its shape, may be written together."""
    if not parts:
        return []
    columns = [part.columns for part in parts]
    if are_comparable(columns, key, table, semantics):
        return _in_turns(parts, shapes, len(key))
    if len(parts) == 1:
        part = parts[0]
        return [RowGroup(*shapes[0], part.positions, part.columns, distinct=False)]
    return _in_segments(parts, shapes)


def _shape(part: Part, call: BulkRequest) -> tuple[RequestShape, list[Any]]:
    width = len(call.key)
    key = tuple(zip(part.names[:width], map(str, part.kinds[:width]), strict=True))
    incoming: Items = tuple(
        (name, ("literal", kind, ()) if isinstance(kind, str) else kind)
        for name, kind in zip(part.names[width:], part.kinds[width:], strict=True)
    )
    return call.call(key, incoming, part.generated)


def are_comparable(
    keys: Sequence[Sequence[Sequence[Any]]],
    key: Names,
    table: Table,
    semantics: ValueSemantics,
) -> bool:
    """Return whether keys, given by their columns, are one row exactly if equal."""
    for number, name in enumerate(key):
        column = table.columns.get(name)
        if column is None:
            return False  # reported by every row when its plan is made
        types = {cls for columns in keys for cls in set(map(type, columns[number]))}
        if not semantics.python_equality_is_sql_equality(column, types):
            return False
    return True


def _in_turns(
    parts: Sequence[Part],
    shapes: Sequence[tuple[RequestShape, Sequence[Any]]],
    width: int,
) -> list[RowGroup]:
    """First every key's first row, then the second ones, and so on."""
    keys = [
        part.columns[0] if width == 1 else [*zip(*part.columns[:width], strict=True)]
        for part in parts
    ]
    distinct = set(keys[0]) if len(keys) == 1 else set[Any]().union(*keys)
    if len(distinct) == sum(map(len, keys)):
        return [
            RowGroup(*shape, part.positions, part.columns, distinct=True)
            for part, shape in zip(parts, shapes, strict=True)
        ]
    rows = sorted(
        (position, number, at)
        for number, part in enumerate(parts)
        for at, position in enumerate(part.positions)
    )
    seen: dict[Any, int] = {}
    turns: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for position, number, at in rows:
        key = keys[number][at]
        turn = seen[key] = seen.get(key, -1) + 1
        turns.setdefault((turn, number), []).append((position, at))
    return [
        _group(parts[number], shapes[number], turns[turn, number], distinct=True)
        for turn, number in sorted(turns)
    ]


def _in_segments(
    parts: Sequence[Part], shapes: Sequence[tuple[RequestShape, Sequence[Any]]]
) -> list[RowGroup]:
    """Row after row; neighbours of one shape together."""
    rows = sorted(
        (position, number, at)
        for number, part in enumerate(parts)
        for at, position in enumerate(part.positions)
    )
    segments: list[tuple[int, list[tuple[int, int]]]] = []
    for position, number, at in rows:
        if not segments or segments[-1][0] != number:
            segments.append((number, []))
        segments[-1][1].append((position, at))
    return [
        _group(parts[number], shapes[number], members, distinct=False)
        for number, members in segments
    ]


def _group(
    part: Part,
    shape: tuple[RequestShape, Sequence[Any]],
    members: Sequence[tuple[int, int]],
    *,
    distinct: bool,
) -> RowGroup:
    return RowGroup(
        *shape,
        [position for position, _ in members],
        [[column[at] for _, at in members] for column in part.columns],
        distinct,
    )
