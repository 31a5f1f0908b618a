"""
Rows, sorted into groups of one shape each.

A group is what one statement can write. Whole columns are looked at, not single cells,
since that is what makes a hundred thousand rows quick.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from aioupsert._plan.bulk import BulkCall, Names
from aioupsert._plan.call import Items, Shape, plain_node
from aioupsert._plan.keys import needs_check
from aioupsert._plan.plan import Plan
from aioupsert._plan.records import Bad, Records, read_records
from aioupsert._schema import Column, Table
from aioupsert.errors import UsageError
from aioupsert.expressions import Expression, Node

Kinds: TypeAlias = tuple["str | Node", ...]
"""What each cell of a row is: a kind of literal, or an expression's node."""


class Group(NamedTuple):
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

    shape: Shape
    constants: Sequence[Any]
    places: Sequence[int]
    columns: Sequence[Sequence[Any]]
    distinct: bool
    folded: Mapping[int, Sequence[int]] = MappingProxyType({})

    @property
    def calls(self) -> list[int]:
        """The places of all calls in it."""
        return [*self.places, *itertools.chain.from_iterable(self.folded.values())]

    def values(self, row: int) -> list[Any]:
        """Give the values of the call that a row is."""
        return [*(column[row] for column in self.columns), *self.constants]

    def some(self, rows: Sequence[int]) -> Sequence[Sequence[Any]]:
        """Give the columns of some rows."""
        if len(rows) == len(self.places):
            return self.columns
        return [[column[row] for row in rows] for column in self.columns]


@dataclass(frozen=True, slots=True)
class Typing:
    """
    What a database makes of values.

    Attributes:
        is_identity: Tells whether keys of a column, of these Python types, are the same
            row exactly if they are equal in Python; None where the order of all rows is
            kept anyway.
        convert_text: Gives what makes of a text what a column stores; None where the
            database does.
    """

    is_identity: Callable[[Column, Iterable[type]], bool] | None
    convert_text: Callable[[Column], Callable[[str], Any] | None]


def group_rows(
    rows: Sequence[Any], call: BulkCall, table: Table, typing: Typing
) -> tuple[list[Group], list[Bad]]:
    """
    Read a batch.

    Groups come in the order in which they must be written, so that rows with the same
    key follow each other as in the batch.
    """
    records, bad = _read(rows, call)
    parts = [
        part for some in records for part in _split(some, call, table, typing, bad)
    ]
    shapes = [_shape(part, call) for part in parts]
    return in_order(parts, shapes, call.key, table, typing), bad


def check_keys(plan: Plan, group: Group) -> tuple[Group, list[Bad]]:
    """Leave out the rows whose key would be stored as something else."""
    bad: dict[int, Bad] = {}
    for slot, check in plan.checks:
        cells = group.columns[slot]
        if needs_check(plan.key[slot].column, set(map(type, cells))):
            for row, cell in enumerate(cells):
                try:
                    check(cell)
                except UsageError as exc:
                    bad.setdefault(row, Bad(group.places[row], exc))
    if not bad:
        return group, []
    kept = [row for row in range(len(group.places)) if row not in bad]
    places = [group.places[row] for row in kept]
    folded = {place: group.folded[place] for place in places if place in group.folded}
    wrong = [
        Bad(place, error)
        for first, error in bad.values()
        for place in (first, *group.folded.get(first, ()))
    ]
    kept_group = group._replace(places=places, columns=group.some(kept), folded=folded)
    return kept_group, wrong


def share_rows(
    rows: Sequence[Any], call: BulkCall, table: Table, typing: Typing, number: int
) -> list[list[int]] | None:
    """
    Split a batch by the rows' keys, so that no key is in two shares.

    Returns:
        The places in each share, in their order; None where nobody can tell which keys
        are the same.
    """
    try:
        records, bad = _read(rows, call, only_key=True)
    except Exception:  # noqa: BLE001  # of a column's type; whoever writes the row names it
        return None
    columns = [some.columns for some in records]
    is_identity = typing.is_identity
    if is_identity is None or not identified(columns, call.key, table, is_identity):
        return None
    shares: list[list[int]] = [[] for _ in range(number)]
    for some in records:
        for place, key in zip(
            some.places, zip(*some.columns, strict=True), strict=True
        ):
            shares[hash(key) % number].append(place)
    shares[0] += [place for place, _ in bad]
    for share in shares:
        share.sort()
    return shares


def _read(
    rows: Sequence[Any], call: BulkCall, *, only_key: bool = False
) -> tuple[list[Records], list[Bad]]:
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

    places: Sequence[int]
    columns: Sequence[Sequence[Any]]
    names: Names = ()
    kinds: Kinds = ()
    generated: frozenset[str] = frozenset()


def _split(
    records: Records, call: BulkCall, table: Table, typing: Typing, bad: list[Bad]
) -> list[Part]:
    """Sort rows with the same columns by what their cells are."""
    names, places, columns, generated = records
    width = len(call.key)
    kinds: list[str | None] = []
    texts: set[int] = set()
    for slot, name in enumerate(names):
        types = set(map(type, columns[slot]))
        column = table.columns.get(name) if call.convert_text else None
        if column is not None and column.family != "text":
            convert = typing.convert_text(column)
            if convert is None:
                texts.add(slot)
            elif any(issubclass(t, str) for t in types):
                columns[slot] = [
                    convert(cell) if isinstance(cell, str) else cell
                    for cell in columns[slot]
                ]
        kinds.append(_kind(types, text=slot in texts, is_key=slot < width))
    same = tuple(kind for kind in kinds if kind is not None)
    if len(same) == len(kinds):
        return [Part(places, columns, names, same, generated)]
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
    bad: list[Bad],
) -> list[Part]:
    """Look at every cell of the columns whose cells differ: they have no kind."""
    names, places, columns, generated = records
    mixed = [slot for slot, kind in enumerate(kinds) if kind is None]
    found: dict[Kinds, tuple[list[int], list[Sequence[Any]]]] = {}
    for place, row in zip(places, zip(*columns, strict=True), strict=True):
        own: list[str | Node] = [kind or "value" for kind in kinds]
        cells: list[Any] = [*row]
        wrong = [cell for cell in row[:width] if isinstance(cell, Expression)]
        if wrong:
            what = f"the key must be a plain value, not {wrong[0]!r}"
            bad.append(Bad(place, UsageError(what)))
            continue
        for slot in mixed:
            cell = cells[slot]
            is_key = slot < width
            if callable(cell) and not is_key:
                cell = cells[slot] = cell()
            if isinstance(cell, Expression):
                own[slot] = cell.node
            elif cell is None and is_key:
                own[slot] = "null"
            elif isinstance(cell, str) and slot in texts:
                own[slot] = "text"
            else:
                own[slot] = plain_node(cell)[1]
        flat = [
            value
            for cell in cells
            for value in (cell.values if isinstance(cell, Expression) else (cell,))
        ]
        its_places, its_values = found.setdefault(tuple(own), ([], []))
        its_places.append(place)
        its_values.append(flat)
    return [
        Part(
            its_places,
            [*map(list, zip(*its_values, strict=True))],
            names,
            own,
            generated,
        )
        for own, (its_places, its_values) in found.items()
    ]


# --- Which rows may be written together -----------------------------------------------


def in_order(
    parts: Sequence[Part],
    shapes: Sequence[tuple[Shape, Sequence[Any]]],
    key: Names,
    table: Table,
    typing: Typing,
) -> list[Group]:
    """Give the groups in which parts, each with its shape, may be written together."""
    if not parts:
        return []
    columns = [part.columns for part in parts]
    is_identity = typing.is_identity
    if is_identity is not None and identified(columns, key, table, is_identity):
        return _in_turns(parts, shapes, len(key))
    if len(parts) == 1:
        part = parts[0]
        return [Group(*shapes[0], part.places, part.columns, distinct=False)]
    return _in_segments(parts, shapes)


def _shape(part: Part, call: BulkCall) -> tuple[Shape, list[Any]]:
    width = len(call.key)
    key = tuple(zip(part.names[:width], map(str, part.kinds[:width]), strict=True))
    brought: Items = tuple(
        (name, ("literal", kind, ()) if isinstance(kind, str) else kind)
        for name, kind in zip(part.names[width:], part.kinds[width:], strict=True)
    )
    return call.call(key, brought, part.generated)


def identified(
    keys: Sequence[Sequence[Sequence[Any]]],
    key: Names,
    table: Table,
    is_identity: Callable[[Column, Iterable[type]], bool],
) -> bool:
    """Tell whether keys, given by their columns, are the same if they are equal."""
    for slot, name in enumerate(key):
        types = {cls for columns in keys for cls in set(map(type, columns[slot]))}
        if not is_identity(table.columns[name], types):
            return False
    return True


def _in_turns(
    parts: Sequence[Part], shapes: Sequence[tuple[Shape, Sequence[Any]]], width: int
) -> list[Group]:
    """First every key's first row, then the second ones, and so on."""
    keys = [
        part.columns[0] if width == 1 else [*zip(*part.columns[:width], strict=True)]
        for part in parts
    ]
    distinct = set(keys[0]) if len(keys) == 1 else set[Any]().union(*keys)
    if len(distinct) == sum(map(len, keys)):
        return [
            Group(*shape, part.places, part.columns, distinct=True)
            for part, shape in zip(parts, shapes, strict=True)
        ]
    rows = sorted(
        (place, number, at)
        for number, part in enumerate(parts)
        for at, place in enumerate(part.places)
    )
    seen: dict[Any, int] = {}
    turns: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for place, number, at in rows:
        key = keys[number][at]
        turn = seen[key] = seen.get(key, -1) + 1
        turns.setdefault((turn, number), []).append((place, at))
    return [
        _group(parts[number], shapes[number], turns[turn, number], distinct=True)
        for turn, number in sorted(turns)
    ]


def _in_segments(
    parts: Sequence[Part], shapes: Sequence[tuple[Shape, Sequence[Any]]]
) -> list[Group]:
    """Row after row; neighbours of one shape together."""
    rows = sorted(
        (place, number, at)
        for number, part in enumerate(parts)
        for at, place in enumerate(part.places)
    )
    segments: list[tuple[int, list[tuple[int, int]]]] = []
    for place, number, at in rows:
        if not segments or segments[-1][0] != number:
            segments.append((number, []))
        segments[-1][1].append((place, at))
    return [
        _group(parts[number], shapes[number], members, distinct=False)
        for number, members in segments
    ]


def _group(
    part: Part,
    shape: tuple[Shape, Sequence[Any]],
    members: Sequence[tuple[int, int]],
    *,
    distinct: bool,
) -> Group:
    return Group(
        *shape,
        [place for place, _ in members],
        [[column[at] for _, at in members] for column in part.columns],
        distinct,
    )
