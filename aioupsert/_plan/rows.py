"""
The rows of a bulk call, sorted into groups that one statement can write.

Whole columns are inspected, not single cells: that is what makes a hundred thousand
rows quick. What depends only on the classes of a column's cells, or on the names of the
columns, is cached.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from operator import itemgetter
from types import MappingProxyType, NoneType
from typing import (
    Any,
    Final,
    NamedTuple,
    Protocol,
    TypedDict,
    Unpack,
)

from aioupsert._plan.bulk_request import BulkRequest, read_bulk_request
from aioupsert._plan.merge_rules import MergeRule, find_rule
from aioupsert._plan.plan import Plan
from aioupsert._plan.records import (
    Records,
    RejectedRow,
    Row,
    RowTranslation,
    read_record,
    read_records,
)
from aioupsert._plan.request import (
    CONTAINER,
    CONTAINERS,
    PLAIN,
    PLAIN_CLASSES,
    Request,
    RequestShape,
    plain_node,
    read_value,
)
from aioupsert._plan.schema import Column, Names, Table
from aioupsert.errors import UsageError
from aioupsert.expressions import Expression, Node
from aioupsert.typing import (
    Name,
    Returning,
    SqlalchemyExpression,
    Strategy,
    Update,
    Value,
    Values,
    WithoutUniqueIndex,
)


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
    """

    shape: RequestShape
    constants: Sequence[Value]
    positions: Sequence[int]
    columns: Sequence[Sequence[Value]]
    distinct: bool
    merged: Mapping[int, Sequence[int]] = MappingProxyType({})
    drawn: Sequence[Sequence[Value]] = ()

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

    def text_converter(self, column: Column) -> Callable[[str], Value] | None:
        """Return what converts text for a column; None if the database does."""
        ...


def _read(
    rows: Sequence[Row], request: BulkRequest, *, only_key: bool = False
) -> tuple[list[Records], list[RejectedRow]]:
    """Read rows into columns, with the names and values of the database."""
    translation = request.translation
    if translation is None:
        return read_records(rows, request.key, only_key=only_key)
    records, rejected = read_records(
        rows, translation.key, only_key=only_key, name_of=translation.name_of
    )
    if only_key:
        return [*map(translation.translate_keys, records)], rejected
    return [*map(translation.translate_rows, records)], rejected


class RowGrouper:
    """Reads the rows of one bulk call."""

    def __init__(self, request: BulkRequest, lock_timeout: int = 0) -> None:
        """
        Read rows.

        Args:
            request: The call that they are for.
            lock_timeout: As in `Request`.
        """
        self._request = request
        self._lock_timeout = lock_timeout
        self._requests: dict[
            tuple[Names, Sequence[Node], frozenset[str]],
            tuple[RequestShape, Sequence[Value]],
        ] = {}
        # Of single rows, by their columns and the classes of their cells.
        self._plain: dict[tuple[object, ...], tuple[RequestShape, Sequence[Value]]] = {}

    def group(
        self, rows: Sequence[Row], table: Table, semantics: ValueSemantics
    ) -> tuple[list[RowGroup], list[RejectedRow]]:
        """
        Sort the rows of a batch into groups.

        If they are distinct, groups come in the order in which they must be written, so
        that rows with the same key follow each other as in the batch.
        """
        request = self._request
        records, rejected = _read(rows, request)
        uniform: list[UniformRows] = []
        for some in records:
            uniform += _split(some, request, table, semantics, rejected)
        requests = [
            self._request_for(some.names, some.nodes, some.generated)
            for some in uniform
        ]
        groups = order_groups(
            uniform, requests, request.key, table, semantics, merges=True
        )
        return groups, rejected

    def _request_for(
        self, names: Names, nodes: tuple[Node, ...], generated: frozenset[str]
    ) -> tuple[RequestShape, Sequence[Value]]:
        """Return the request that rows make, which mostly is that of the last ones."""
        columns = (names, nodes, generated)
        found = self._requests.get(columns)
        if found is None:
            if len(self._requests) >= _MAX_REQUESTS:
                self._requests.clear()
            shape, constants = self._request.request(*columns)
            shape = Request(*shape)._replace(lock_timeout=self._lock_timeout)
            found = self._requests[columns] = shape, constants
        return found

    def read_row(self, row: Row) -> tuple[RequestShape, list[Value]]:
        """
        Return the shape of the call that a single row makes, and its values.

        Raises:
            UsageError: The row cannot be read.
        """
        translation = self._request.translation
        if translation is None:
            names, cells = read_record(row, self._request.key)
            kinds = (names, *map(type, cells))
            kept = self._plain.get(kinds)
            if kept is not None:
                cells += kept[1]
                return kept[0], cells
            generated: frozenset[str] = frozenset()
        else:
            names, cells = read_record(row, translation.key, translation.name_of)
            given = Records(names, (0,), [[cell] for cell in cells])
            names, _, columns, generated = translation.translate_rows(given)
            cells = [cell for (cell,) in columns]
            kinds = ()
        nodes, cells = _nodes_of(cells, len(self._request.key))
        request = shape, constants = self._request_for(names, nodes, generated)
        # As the cells of most rows are plain, no more than their classes matters then.
        if kinds and PLAIN_CLASSES.issuperset(kinds[1:]):
            if len(self._plain) >= _MAX_REQUESTS:
                self._plain.clear()
            self._plain[kinds] = request
        cells += constants
        return shape, cells

    def hashes(
        self, rows: Sequence[Row], table: Table, semantics: ValueSemantics
    ) -> list[int] | None:
        """
        Return a hash of the key of each row, the same for equal ones.

        It is 0 for a row that cannot be read. None if it is not known which keys are
        equal.
        """
        try:
            records, _ = _read(rows, self._request, only_key=True)
        except Exception:  # noqa: BLE001  # of a column's type; writing the row reports it
            return None
        columns = [some.columns for some in records]
        if not are_comparable(columns, self._request.key, table, semantics):
            return None
        hashes = [0] * len(rows)
        for some in records:
            for position, key in zip(
                some.positions, zip(*some.columns, strict=True), strict=True
            ):
                hashes[position] = hash(key)
        return hashes


def _nodes_of(
    cells: Sequence[Value], width: int
) -> tuple[tuple[Node, ...], list[Value]]:
    """
    Return what the cells of a row are, and their values.

    Raises:
        UsageError: One of the first, which are the key's, is an expression.
    """
    nodes: list[Node] = []
    values: list[Value] = []
    for number, cell in enumerate(cells):
        if number >= width:
            nodes.append(read_value(cell, values))
            continue
        if isinstance(cell, Expression):
            raise UsageError(_KEY.format(cell))
        nodes.append(_NULL if cell is None else plain_node(cell))
        values.append(cell)
    return tuple(nodes), values


def read_row_request(
    *,
    row: Row,
    key: Values | Name | Sequence[Name],
    update: Update,
    defaults: Values | None,
    create_defaults: Values | None,
    where: Expression | SqlalchemyExpression | None,
    skip_unchanged: bool,
    touch: Values | None,
    returning: Returning,
    without_unique_index: WithoutUniqueIndex,
    strategy: Strategy,
    old: bool = False,
    **of_model: Unpack[_OfModel],
) -> tuple[RequestShape, list[Value]]:
    """
    Return the shape of a call that has a whole row, and its values.

    Raises:
        UsageError: The arguments are wrong.
    """
    if defaults is not None:
        raise UsageError(_DEFAULTS)
    if isinstance(key, Mapping):
        msg = f"key names columns of the row, such as 'id'; it cannot be {key!r}"
        raise UsageError(msg)
    if create_defaults is None and where is None and touch is None and not of_model:
        # Such arguments are the same whenever a line of code runs.
        names = (
            tuple(key) if isinstance(key, list) else key,
            tuple(update) if isinstance(update, list) else update,
            tuple(returning) if isinstance(returning, list) else returning,
        )
        flags = (skip_unchanged, old)
        try:
            grouper = _groupers(names, flags, without_unique_index, strategy)
        except TypeError:
            pass  # update is a mapping, or an argument is wrong
        else:
            return grouper.read_row(row)
    request = read_bulk_request(
        key=key,
        update=update,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        returning=returning,
        old=old,
        without_unique_index=without_unique_index,
        strategy=strategy,
        **of_model,
    )
    return RowGrouper(request).read_row(row)


class _OfModel(TypedDict, total=False):
    """What a model adds to the arguments of a call."""

    on_update: Mapping[str, Value]
    convert_text: bool
    translation: RowTranslation


@functools.lru_cache(maxsize=256)
def _groupers(
    names: tuple[str | Names, Update, Returning],
    flags: tuple[bool, bool],
    without_unique_index: WithoutUniqueIndex,
    strategy: Strategy,
) -> RowGrouper:
    key, update, returning = names
    skip_unchanged, old = flags
    request = read_bulk_request(
        key=key,
        update=update,
        returning=returning,
        skip_unchanged=skip_unchanged,
        old=old,
        without_unique_index=without_unique_index,
        strategy=strategy,
    )
    return RowGrouper(request)


_DEFAULTS: Final = (
    "a row has the values to write, so there are no defaults beside it; update says"
    " which of them an existing row takes"
)
_KEY: Final = "the key must be a plain value, not {!r}"


def check_keys(plan: Plan, group: RowGroup) -> tuple[RowGroup, list[RejectedRow]]:
    """Reject the rows whose key would be stored as something else."""
    rejected: dict[int, RejectedRow] = {}
    for parameter, check in plan.checks:
        cells = group.columns[parameter]
        if not check.harmless.issuperset(map(type, cells)):
            for row, cell in enumerate(cells):
                try:
                    check.check(cell)
                except UsageError as exc:
                    rejected.setdefault(row, RejectedRow(group.positions[row], exc))
    if not rejected:
        return group, []
    kept = [row for row in range(len(group.positions)) if row not in rejected]
    calls = [
        RejectedRow(position, row.error)
        for row in rejected.values()
        for position in (row.position, *group.merged.get(row.position, ()))
    ]
    return group.part(kept), calls


# --- What the cells are ---------------------------------------------------------------


class UniformRows(NamedTuple):
    """
    Rows with the same columns, which hold the same kinds of values.

    Attributes:
        positions: The positions of the rows in their batch.
        columns: The values of the rows, column by column, the key's first.
        names: The columns.
        nodes: What each column holds.
        generated: As of `Records`.
    """

    positions: Sequence[int]
    columns: Sequence[Sequence[Value]]
    names: Names = ()
    nodes: tuple[Node, ...] = ()
    generated: frozenset[str] = frozenset()


# Columns and kinds of values are few; a caller who makes them up must not fill the memory.
_MAX_REQUESTS: Final = 256
_MAX_SETS_OF_CLASSES: Final = 1024
_NULL: Final[Node] = ("literal", "null", ())
_TEXT: Final[Node] = ("literal", "text", ())


def _split(
    records: Records,
    request: BulkRequest,
    table: Table,
    semantics: ValueSemantics,
    rejected: list[RejectedRow],
) -> list[UniformRows]:
    """Sort rows with the same columns by the kinds of their values."""
    names, positions, columns, generated = records
    width = len(request.key)
    texts: AbstractSet[int] = frozenset()
    if request.convert_text:
        texts = _convert_text(records, table, semantics)
    nodes = [
        _common_node(frozenset(map(type, column)), as_text=n in texts, is_key=n < width)
        for n, column in enumerate(columns)
    ]
    common = tuple(filter(None, nodes))
    if len(common) == len(nodes):
        return [UniformRows(positions, columns, names, common, generated)]
    return _split_mixed(records, nodes, texts, width=width, rejected=rejected)


def _convert_text(
    records: Records, table: Table, semantics: ValueSemantics
) -> set[int]:
    """Convert text in columns of other types; return the columns the database converts."""
    left: set[int] = set()
    for number, name in enumerate(records.names):
        column = table.columns.get(name)
        if column is None or column.family == "text":
            continue
        convert = semantics.text_converter(column)
        if convert is None:
            left.add(number)
            continue
        cells = records.columns[number]
        if any(issubclass(cls, str) for cls in set(map(type, cells))):
            records.columns[number] = [
                convert(cell) if isinstance(cell, str) else cell for cell in cells
            ]
    return left


@functools.lru_cache(maxsize=_MAX_SETS_OF_CLASSES)
def _common_node(
    classes: frozenset[type[Any]], *, as_text: bool, is_key: bool
) -> Node | None:
    """
    Return the node of every cell in a column; None if each must be looked at.

    Args:
        classes: The classes of the cells.
        as_text: Whether the database converts text.
        is_key: Whether the column is one of the key.
    """
    if any(issubclass(cls, Expression) or _is_callable(cls) for cls in classes):
        return None
    if is_key and NoneType in classes:
        return None
    nodes = {_node_of(cls, as_text=as_text) for cls in classes - {NoneType}}
    if len(nodes) > 1:
        return None
    return nodes.pop() if nodes else PLAIN


def _is_callable(cls: type[Any]) -> bool:
    """Return whether instances can be called."""
    return any("__call__" in base.__dict__ for base in cls.__mro__)


def _node_of(cls: type[Any], *, as_text: bool) -> Node:
    """Return the node of a plain value of a class."""
    if as_text and issubclass(cls, str):
        return _TEXT
    return CONTAINER if cls in CONTAINERS else PLAIN


def _split_mixed(
    records: Records,
    common: Sequence[Node | None],
    texts: AbstractSet[int],
    *,
    width: int,
    rejected: list[RejectedRow],
) -> list[UniformRows]:
    """Sort rows by the kinds of their values where the cells of a column differ."""
    names, positions, columns, generated = records
    mixed = [number for number, node in enumerate(common) if node is None]
    found: dict[tuple[Node, ...], tuple[list[int], list[Sequence[Value]]]] = {}
    for position, row in zip(positions, zip(*columns, strict=True), strict=True):
        nodes = [node or PLAIN for node in common]
        values = [*row]
        wrong = [cell for cell in row[:width] if isinstance(cell, Expression)]
        if wrong:
            error = UsageError(_KEY.format(wrong[0]))
            rejected.append(RejectedRow(position, error))
            continue
        for number in mixed:
            cell = values[number]
            is_key = number < width
            if callable(cell) and not is_key:
                cell = values[number] = cell()
            if isinstance(cell, Expression):
                nodes[number] = cell.node
            elif cell is None and is_key:
                nodes[number] = _NULL
            else:
                nodes[number] = _node_of(cell.__class__, as_text=number in texts)
        flat = [
            value
            for cell in values
            for value in (cell.values if isinstance(cell, Expression) else (cell,))
        ]
        its_positions, its_values = found.setdefault(tuple(nodes), ([], []))
        its_positions.append(position)
        its_values.append(flat)
    return [
        UniformRows(
            its_positions,
            [*map(list, zip(*its_values, strict=True))],
            names,
            nodes,
            generated,
        )
        for nodes, (its_positions, its_values) in found.items()
    ]


# --- Which rows may be written together -----------------------------------------------


def order_groups(
    uniform: Sequence[UniformRows],
    requests: Sequence[tuple[RequestShape, Sequence[Value]]],
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
        uniform: The rows.
        requests: The request of each of *uniform*: its shape and constants.
        key: The columns of the key, which come first.
        table: The table.
        semantics: What the database makes of values.
        merges: Whether several rows with one key may be merged.
    """
    if not uniform:
        return []
    columns = [rows.columns for rows in uniform]
    if are_comparable(columns, key, table, semantics):
        return _in_turns(uniform, requests, len(key), table if merges else None)
    return [
        RowGroup(*request, rows.positions, rows.columns, distinct=False)
        for rows, request in zip(uniform, requests, strict=True)
    ]


def are_comparable(
    keys: Sequence[Sequence[Sequence[Value]]],
    key: Names,
    table: Table,
    semantics: ValueSemantics,
) -> bool:
    """Return whether keys, given by their columns, are one row exactly if equal."""
    for number, name in enumerate(key):
        column = table.columns.get(name)
        if column is None:
            return False  # reported by every row when its plan is made
        # An iterator, as not every database looks at the values.
        values = chain.from_iterable(map(itemgetter(number), keys))
        if not semantics.python_equality_is_sql_equality(column, values):
            return False
    return True


def _in_turns(
    uniform: Sequence[UniformRows],
    requests: Sequence[tuple[RequestShape, Sequence[Value]]],
    width: int,
    merging: Table | None,
) -> list[RowGroup]:
    """Put the first row of every key into a first turn, the second ones into a second."""
    keys = [_keys(some.columns, width) for some in uniform]
    # Alike in every batch, as new rows of several groups are not created in key order.
    order = [*range(len(uniform))]
    if len(order) > 1:
        order.sort(key=lambda number: str(requests[number][0]))
    if _are_distinct(keys):
        return [_whole_group(uniform[n], requests[n]) for n in order]
    merged: dict[int, Sequence[int]] = {}
    if merging is not None:
        uniform, merged = _merge(uniform, requests, keys, merging)
        keys = [_keys(some.columns, width) for some in uniform]
        if _are_distinct(keys):
            groups = [_whole_group(uniform[n], requests[n]) for n in order]
            return [group.with_merged(merged) for group in groups]
    rows = sorted(
        (position, number, at)
        for number, some in enumerate(uniform)
        for at, position in enumerate(some.positions)
    )
    seen: dict[Value, int] = {}
    turns: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for position, number, at in rows:
        key = keys[number][at]
        turn = seen[key] = seen.get(key, -1) + 1
        turns.setdefault((turn, number), []).append((position, at))
    groups = [
        _group(uniform[number], requests[number], turns[turn, number])
        for turn, number in sorted(turns, key=lambda t: (t[0], order.index(t[1])))
    ]
    return [group.with_merged(merged) for group in groups] if merged else groups


def keys_differ(groups: Sequence[RowGroup]) -> bool:
    """Return whether it is known that no two calls in groups have the same key."""
    if not groups or not all(group.distinct and not group.merged for group in groups):
        return False
    return _are_distinct([_keys(g.columns, g.key_width) for g in groups])


def _keys(columns: Sequence[Sequence[Value]], width: int) -> Sequence[Value]:
    """Return what Python compares of the key of each row."""
    return columns[0] if width == 1 else [*zip(*columns[:width], strict=True)]


def _are_distinct(keys: Sequence[Sequence[Value]]) -> bool:
    distinct = set(keys[0]) if len(keys) == 1 else set[Value]().union(*keys)
    return len(distinct) == sum(map(len, keys))


def _whole_group(
    some: UniformRows, request: tuple[RequestShape, Sequence[Value]]
) -> RowGroup:
    return RowGroup(*request, some.positions, some.columns, distinct=True)


def _merge(
    uniform: Sequence[UniformRows],
    requests: Sequence[tuple[RequestShape, Sequence[Value]]],
    keys: Sequence[Sequence[Value]],
    table: Table,
) -> tuple[list[UniformRows], dict[int, Sequence[int]]]:
    """
    Merge the rows of each key where that is possible.

    Returns:
        The rows, and the positions of those that were merged into others, by the
        positions of these.
    """
    sets = [set(some) for some in keys]
    found: list[UniformRows] = []
    merged: dict[int, Sequence[int]] = {}
    for number, (some, (shape, _)) in enumerate(zip(uniform, requests, strict=True)):
        rule = find_rule(shape, table)
        if rule is not None and rule.reads_only(len(some.columns)):
            # Rows of another group may have to come in between.
            others = set[Value]().union(*sets[:number], *sets[number + 1 :])
            some, its = _merge_uniform(some, keys[number], others, rule)  # noqa: PLW2901  # its rows, but fewer
            merged |= its
        found.append(some)
    return found, merged


def _merge_uniform(
    some: UniformRows,
    keys: Sequence[Value],
    others: AbstractSet[Value],
    rule: MergeRule,
) -> tuple[UniformRows, dict[int, Sequence[int]]]:
    members: dict[Value, list[int]] = {}
    for row, key in enumerate(keys):
        members.setdefault(key, []).append(row)
    kept: list[int] = []
    joined: list[tuple[int, list[tuple[int, Value]]]] = []
    merged: dict[int, Sequence[int]] = {}
    positions, columns = some.positions, some.columns
    for key, rows in members.items():
        values = None
        if len(rows) > 1 and key not in others:
            values = rule.join_columns(columns, rows)
        if values is None:
            kept += rows
            continue
        kept.append(rows[0])
        joined.append((rows[0], values))
        merged[positions[rows[0]]] = [positions[row] for row in rows[1:]]
    kept.sort()
    places = {row: at for at, row in enumerate(kept)}
    fewer = [[column[row] for row in kept] for column in columns]
    for row, values in joined:
        for parameter, value in values:
            fewer[parameter][places[row]] = value
    rest = some._replace(positions=[positions[row] for row in kept], columns=fewer)
    return rest, merged


def _group(
    rows: UniformRows,
    request: tuple[RequestShape, Sequence[Value]],
    members: Sequence[tuple[int, int]],
) -> RowGroup:
    return RowGroup(
        *request,
        [position for position, _ in members],
        [[column[at] for _, at in members] for column in rows.columns],
        distinct=True,
    )
