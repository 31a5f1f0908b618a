"""
The rows of a bulk call, sorted into groups that one statement can write.

Whole columns are inspected, not single cells: that is what makes a hundred thousand
rows quick. What depends only on the classes of a column's cells, or on the names of the
columns, is cached.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from operator import itemgetter
from types import NoneType
from typing import (
    Any,
    Final,
    NamedTuple,
    TypeAlias,
    TypedDict,
)

from aioupsert._plan.bulk_request import BulkRequest, bulk_request
from aioupsert._plan.columnar import ArrowColumn
from aioupsert._plan.groups import (
    RowGroup,
    ValueSemantics,
    are_comparable,
    order_groups,
)
from aioupsert._plan.plan import Plan
from aioupsert._plan.records import (
    Records,
    RejectedRow,
    Row,
    RowTranslation,
    key_first,
    read_cells,
    read_record,
    read_records,
)
from aioupsert._plan.request import (
    CONTAINER,
    CONTAINERS,
    PLAIN,
    PLAIN_CLASSES,
    Arguments,
    Request,
    RequestShape,
    plain_node,
    read_value,
)
from aioupsert._plan.schema import Names, Table
from aioupsert.errors import UsageError
from aioupsert.expressions import Expression, Node
from aioupsert.typing import (
    Value,
)


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
        groups = [
            RowGroup(
                *self._request_for(some.names, some.nodes, some.generated),
                some.positions,
                some.columns,
            )
            for some in uniform
        ]
        groups = order_groups(groups, request.key, table, semantics, merges=True)
        return groups, rejected

    def _request_for(
        self, names: Names, nodes: tuple[Node, ...], generated: frozenset[str]
    ) -> tuple[RequestShape, Sequence[Value]]:
        """Return the request that rows make, which mostly is that of the last ones."""
        request, lock_timeout = self._request, self._lock_timeout
        columns = (names, nodes, generated, lock_timeout)
        found = request.known.get(columns)
        if found is None:
            shape, constants = request.request(names, nodes, generated)
            shape = Request(*shape)._replace(lock_timeout=lock_timeout)
            found = request.keep(columns, (shape, constants))
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
            kinds = (names, self._lock_timeout, *map(type, cells))
            kept = self._request.known.get(kinds)
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
        if kinds and PLAIN_CLASSES.issuperset(kinds[2:]):
            self._request.keep(kinds, request)
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
    arguments: Arguments, of_model: OfModel | None = None
) -> tuple[RequestShape, list[Value]]:
    """
    Return the shape of a call that has a whole row, and its values.

    Raises:
        UsageError: The arguments are wrong.
    """
    (
        row,
        key,
        update,
        defaults,
        create_defaults,
        where,
        skip_unchanged,
        touch,
        returning,
        old,
        without_unique_index,
        strategy,
    ) = arguments
    if defaults is not None:
        raise UsageError(_DEFAULTS)
    call: _PlainCall | None = None
    if create_defaults is None and where is None and touch is None and of_model is None:
        # Such arguments are the same whenever a line of code runs, and of plain values
        # no more than their classes matters.
        columns, cells = read_cells(row)
        names = (
            tuple(key) if isinstance(key, list) else key,
            tuple(update) if isinstance(update, list) else update,
            tuple(returning) if isinstance(returning, list) else returning,
        )
        flags = (skip_unchanged, old)
        said = (names, flags, without_unique_index, strategy)
        call = (said, columns, *map(type, cells))
        try:
            plain = _plain_rows.get(call)
        except TypeError:
            call = None  # update is a mapping, or an argument is wrong
        else:
            if plain is not None:
                shape, order, constants = plain
                return shape, [*order(cells), *constants]
    if isinstance(key, Mapping):
        msg = f"key names columns of the row, such as 'id'; it cannot be {key!r}"
        raise UsageError(msg)
    given: dict[str, Any] = {**arguments._asdict(), **(of_model or {})}
    del given["row"], given["defaults"]
    request = bulk_request(**given)
    shape, values = RowGrouper(request).read_row(row)
    if call is not None:
        _keep_plain(call, request.key, shape, values)
    return shape, values


_PlainCall: TypeAlias = tuple[object, tuple[Value, ...], *tuple[type, ...]]


class _PlainRow(NamedTuple):
    """
    How a row is read whose cells are plain.

    Attributes:
        shape: The request that it makes.
        order: Returns its cells in the order of that request.
        constants: The values of the request that do not come from the row.
    """

    shape: RequestShape
    order: Callable[[tuple[Value, ...]], tuple[Value, ...]]
    constants: Sequence[Value]


_plain_rows: Final[dict[_PlainCall, _PlainRow]] = {}
_MAX_PLAIN_ROWS: Final = 256


def _keep_plain(
    call: _PlainCall, key: Names, shape: RequestShape, values: Sequence[Value]
) -> None:
    """Keep how a row was read, if others with these classes of cells are read so."""
    _, columns, *classes = call
    if (
        len(columns) > 1  # a getter of one returns no tuple
        and {*map(type, columns)} == {str}
        and PLAIN_CLASSES.issuperset(classes)
    ):
        if len(_plain_rows) >= _MAX_PLAIN_ROWS:
            _plain_rows.clear()
        order = itemgetter(*key_first(key, columns))
        _plain_rows[call] = _PlainRow(shape, order, values[len(columns) :])


class OfModel(TypedDict):
    """What a model adds to the arguments of a call."""

    on_update: Mapping[str, Value]
    convert_text: bool
    translation: RowTranslation


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
        if not check.harmless.issuperset(_classes_of(cells)):
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


def lacking_values(plan: Plan, group: RowGroup) -> list[int]:
    """Return the positions of rows that have NULL for a column which cannot hold it."""
    if plan.table.has_before_insert_trigger:  # it may replace NULL
        return []
    rows: set[int] = set()
    for column, value in plan.insert:
        if column.not_null and value is not None and value.kind == "value":
            of_rows = value.parameter < len(group.columns)
            cells = group.columns[value.parameter] if of_rows else ()
            if NoneType in _classes_of(cells):
                rows.update(row for row, cell in enumerate(cells) if cell is None)
    return [group.positions[row] for row in rows]


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
    names: Names
    nodes: tuple[Node, ...]
    generated: frozenset[str]


# Kinds of values are few; a caller who makes them up must not fill the memory.
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
        _common_node(_classes_of(column), as_text=n in texts, is_key=n < width)
        for n, column in enumerate(columns)
    ]
    common = tuple(filter(None, nodes))
    if len(common) == len(nodes):
        return [UniformRows(positions, columns, names, common, generated)]
    return _split_mixed(records, nodes, texts, width=width, rejected=rejected)


def _classes_of(column: Sequence[Value]) -> frozenset[type]:
    if isinstance(column, ArrowColumn):
        return column.classes
    return frozenset(map(type, column))


def _convert_text(
    records: Records, table: Table, semantics: ValueSemantics
) -> set[int]:
    """Convert text in columns of other types; return the columns the database converts."""
    left: set[int] = set()
    for number, name in enumerate(records.names):
        column = table.columns.get(name)
        if column is None or column.family == "text":
            continue
        converted = semantics.convert_text(column, records.columns[number])
        if converted is None:
            left.add(number)
        else:
            records.columns[number] = converted
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
