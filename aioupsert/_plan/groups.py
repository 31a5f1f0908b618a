"""Groups of rows that one statement can write, and the order in which they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple, Protocol

from aioupsert._plan.columnar import ArrowColumn
from aioupsert._plan.merge_rules import MergeRule, find_rule
from aioupsert._plan.request import Request, RequestShape
from aioupsert._plan.schema import Column, Names, Table
from aioupsert.typing import Value


class RowGroup(NamedTuple):
    """
    Rows that one statement can write.

    Attributes:
        shape: The request that each of them makes.
        constants: The values of that request that do not come from the rows.
        positions: The positions of the rows in their batch.
        columns: The values of the rows, column by column, the key's first.
        distinct: Whether all keys are known to differ.
        merged: The positions of calls that were merged into others, by the positions of
            those.
        drawn: Values of sequences for the rows, if they were taken beforehand: column by
            column, in the order in which the statements have them.
        judged: Whether the rows that are left unchanged were just taken out of it.
    """

    shape: RequestShape
    constants: Sequence[Value]
    positions: Sequence[int]
    columns: Sequence[Sequence[Value]]
    distinct: bool = False
    merged: Mapping[int, Sequence[int]] = MappingProxyType({})
    drawn: Sequence[Sequence[Value]] = ()
    judged: bool = False

    @property
    def calls(self) -> list[int]:
        """The positions of all calls in it."""
        return [*self.positions, *chain.from_iterable(self.merged.values())]

    @property
    def key_width(self) -> int:
        """How many of the columns are the key's."""
        return len(Request(*self.shape).key)

    def values(self, row: int) -> list[Value]:
        """Return the values of the request that a row makes."""
        return [*(column[row] for column in self.columns), *self.constants]

    def part(self, rows: Sequence[int]) -> RowGroup:
        """Return the group of some rows, in this order."""
        positions = [self.positions[row] for row in rows]
        merged = {p: self.merged[p] for p in positions if p in self.merged}
        columns = [[column[row] for row in rows] for column in self.columns]
        return self._replace(positions=positions, columns=columns, merged=merged)

    def with_merged(self, merged: Mapping[int, Sequence[int]]) -> RowGroup:
        """Return the group with the calls that were merged into its own."""
        return self._replace(
            merged={p: merged[p] for p in self.positions if p in merged}
        )

    def some(self, rows: Sequence[int]) -> Sequence[Sequence[Value]]:
        """Return the columns of some rows."""
        if len(rows) == len(self.positions):
            return self.columns
        return [[column[row] for row in rows] for column in self.columns]


class ValueSemantics(Protocol):
    """How a database compares and converts values."""

    def comparable_types(self, column: Column) -> frozenset[type]:
        """Return the Python types whose equality is that of the column."""
        ...

    def python_equality_is_sql_equality(
        self, column: Column, keys: Iterable[Value], /
    ) -> bool:
        """
        Return whether these keys are one row exactly if they are equal.

        If that is not known, rows are written in their order.
        """
        ...

    def convert_text(
        self, column: Column, cells: Sequence[Value], /
    ) -> Sequence[Value] | None:
        """Return the cells of a column with text converted; None if the database does."""
        ...


# --- Which rows may be written together -----------------------------------------------


def order_groups(
    groups: Sequence[RowGroup],
    key: Names,
    table: Table,
    semantics: ValueSemantics,
    *,
    merges: bool = False,
) -> list[RowGroup]:
    """
    Return groups of rows that may be written together, in the order to write them.

    If it is not known which keys are equal, all rows must be written in their order.

    Args:
        groups: The rows of each request.
        key: The columns of the key, which come first.
        table: The table.
        semantics: What the database makes of values.
        merges: Whether several rows with one key may be merged.
    """
    columns = [group.columns for group in groups]
    if not are_comparable(columns, key, table, semantics):
        return [*groups]
    keys = [_keys(group, len(key)) for group in groups]
    order = _order(groups)
    if _are_distinct(keys):
        return [groups[number]._replace(distinct=True) for number in order]
    turns = in_turns(groups, keys, table if merges else None)
    return [group._replace(distinct=True) for _, _, group in turns]


def are_comparable(
    keys: Sequence[Sequence[Sequence[Value]]],
    key: Names,
    table: Table,
    semantics: ValueSemantics,
) -> bool:
    """Return whether keys, given by their columns, are one row exactly if equal."""
    for number, name in enumerate(key):
        of = table.columns.get(name)
        if of is None:
            return False  # reported by every row when its plan is made
        # An iterator, as not every database looks at the values.
        values = chain.from_iterable(
            column.samples() if isinstance(column, ArrowColumn) else column
            for column in map(itemgetter(number), keys)
        )
        if not semantics.python_equality_is_sql_equality(of, values):
            return False
    return True


def keys_differ(groups: Sequence[RowGroup]) -> bool:
    """Return whether it is known that no two calls in groups have the same key."""
    if not groups or not all(group.distinct and not group.merged for group in groups):
        return False
    return _are_distinct([_keys(group, group.key_width) for group in groups])


def _keys(group: RowGroup, width: int) -> Sequence[Value]:
    """Return what Python compares of the key of each row."""
    columns = group.columns
    return columns[0] if width == 1 else [*zip(*columns[:width], strict=True)]


def _are_distinct(keys: Sequence[Sequence[Value]]) -> bool:
    if len(keys) == 1 and isinstance(keys[0], ArrowColumn):
        return keys[0].is_distinct()
    distinct = set(keys[0]) if len(keys) == 1 else set[Value]().union(*keys)
    return len(distinct) == sum(map(len, keys))


def _order(groups: Sequence[RowGroup]) -> list[int]:
    """Return an order of groups that is alike in every batch."""
    # As new rows of several groups are not created in key order.
    order = [*range(len(groups))]
    if len(order) > 1:
        order.sort(key=lambda number: str(groups[number].shape))
    return order


# --- Rows with the same key -----------------------------------------------------------


def in_turns(
    groups: Sequence[RowGroup],
    keys: Sequence[Sequence[Value]],
    merging: Table | None,
) -> list[tuple[int, int, RowGroup]]:
    """
    Put the first row of every key into a first turn, the second ones into a second.

    Args:
        groups: The rows.
        keys: What tells which of them have the same key, for each of the groups.
        merging: The table, if several rows with one key may be merged.

    Returns:
        The groups to write, in this order, each with the number of its turn, and of the
        one that it is part of.
    """
    merged: dict[int, Sequence[int]] = {}
    if merging is not None:
        groups, keys, merged = _merge(groups, keys, merging)
    order = _order(groups)
    if _are_distinct(keys):
        return [(0, number, groups[number].with_merged(merged)) for number in order]
    rows = sorted(
        (position, number, row)
        for number, group in enumerate(groups)
        for row, position in enumerate(group.positions)
    )
    seen: dict[Value, int] = {}
    turns: dict[tuple[int, int], list[int]] = {}
    for _, number, row in rows:
        key = keys[number][row]
        turn = seen[key] = seen.get(key, -1) + 1
        turns.setdefault((turn, number), []).append(row)
    return [
        (turn, number, groups[number].part(turns[turn, number]).with_merged(merged))
        for turn, number in sorted(turns, key=lambda t: (t[0], order.index(t[1])))
    ]


def _merge(
    groups: Sequence[RowGroup], keys: Sequence[Sequence[Value]], table: Table
) -> tuple[list[RowGroup], list[Sequence[Value]], dict[int, Sequence[int]]]:
    """
    Merge the rows of each key where that is possible.

    Returns:
        The rows, their keys, and the positions of those that were merged into others, by
        the positions of these.
    """
    sets = [set(some) for some in keys]
    found: list[RowGroup] = []
    left: list[Sequence[Value]] = []
    merged: dict[int, Sequence[int]] = {}
    for number, (group, its_keys) in enumerate(zip(groups, keys, strict=True)):
        rule = find_rule(group.shape, table)
        if rule is not None and rule.reads_only(len(group.columns)):
            # Rows of another group may have to come in between.
            others = set[Value]().union(*sets[:number], *sets[number + 1 :])
            group, kept, its = _merge_rows(group, its_keys, others, rule)  # noqa: PLW2901  # its rows, but fewer
            its_keys = [its_keys[row] for row in kept]  # noqa: PLW2901  # likewise
            merged |= its
        found.append(group)
        left.append(its_keys)
    return found, left, merged


def _merge_rows(
    group: RowGroup,
    keys: Sequence[Value],
    others: AbstractSet[Value],
    rule: MergeRule,
) -> tuple[RowGroup, list[int], dict[int, Sequence[int]]]:
    """
    Merge the rows of each key in a group, but for some keys.

    Returns:
        The rows that remain, which of them these are, and the positions of the others as
        of `_merge`.
    """
    members: dict[Value, list[int]] = {}
    for row, key in enumerate(keys):
        members.setdefault(key, []).append(row)
    kept: list[int] = []
    joined: dict[int, list[tuple[int, Value]]] = {}
    merged: dict[int, Sequence[int]] = {}
    positions = group.positions
    for key, rows in members.items():
        values = None
        if len(rows) > 1 and key not in others:
            values = rule.join_columns(group.columns, rows)
        if values is None:
            kept += rows
            continue
        kept.append(rows[0])
        joined[rows[0]] = values
        merged[positions[rows[0]]] = [positions[row] for row in rows[1:]]
    kept.sort()
    columns = [[column[row] for row in kept] for column in group.columns]
    for at, row in enumerate(kept):
        for parameter, value in joined.get(row, ()):
            columns[parameter][at] = value
    rest = [positions[row] for row in kept]
    return group._replace(positions=rest, columns=columns), kept, merged
