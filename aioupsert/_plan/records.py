"""Rows as callers pass them, read into columns."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, cast

from aioupsert._plan.columnar import ColumnarRows
from aioupsert._plan.schema import Names
from aioupsert.errors import UsageError
from aioupsert.typing import Value

Row: TypeAlias = Any
"""A row as the caller passes it: a mapping, or an instance of a class with fields."""

Columns: TypeAlias = tuple[Any, ...]
"""The columns of a row as it has them, mostly their names."""


class Records(NamedTuple):
    """
    Rows with the same columns.

    Attributes:
        names: The columns that were read.
        positions: The positions of the rows in their batch.
        columns: The values of the rows, column by column.
        generated: The columns whose values are defaults made here, which only a row
            that is created takes.
    """

    names: Names
    positions: Sequence[int]
    columns: list[Sequence[Value]]
    generated: frozenset[str] = frozenset()


class RejectedRow(NamedTuple):
    """
    A row that cannot be stored.

    Attributes:
        position: Its position in its batch, or in the input.
        error: Why.
        row: The row as the caller passed it, once the batch is known.
    """

    position: int
    error: Exception
    row: Row = None


def _as_it_is(column: object) -> object:
    return column


class RowTranslation(NamedTuple):
    """
    How to translate rows whose columns have other names in the database.

    Attributes:
        key: The columns of the key, as the rows name them.
        translate_keys: Translates rows of which only the key was read.
        translate_rows: Translates whole rows.
        name_of: Returns the name that is meant by something else than text.
    """

    key: Names
    translate_keys: Callable[[Records], Records]
    translate_rows: Callable[[Records], Records]
    name_of: Callable[[object], object] = _as_it_is


def read_record(
    row: Row, key: Names, name_of: Callable[[object], object] = _as_it_is
) -> tuple[Names, list[Value]]:
    """
    Read a single row.

    Args:
        row: The row.
        key: The columns that come first, and that it must have.
        name_of: As in `RowTranslation`.

    Returns:
        Its columns, and their values.

    Raises:
        UsageError: It is not a row, or has not all columns of the key.
    """
    layout = _layout_for(row)
    given = layout.columns_of(row) if layout.fields is None else layout.fields
    names, columns = _ordered(key, given, name_of)
    if layout.getter is itemgetter:
        return names, [row[column] for column in columns]
    return names, [getattr(row, column) for column in columns]


def read_cells(row: Row) -> tuple[Columns, tuple[Value, ...]]:
    """
    Read a single row as it comes.

    Returns:
        Its columns, and their values.

    Raises:
        UsageError: It is not a row.
    """
    if row.__class__ is dict:
        return tuple(row), tuple(row.values())
    layout = _layout_for(row)
    columns = layout.columns_of(row) if layout.fields is None else layout.fields
    if layout.getter is itemgetter:
        return columns, tuple([row[column] for column in columns])
    return columns, tuple([getattr(row, column) for column in columns])


def key_first(key: Names, columns: Columns) -> list[int]:
    """Return the positions of columns in the order in which rows are read."""
    return [columns.index(name) for name in _ordered_names(key, columns)]


def read_records(
    rows: Sequence[Row],
    key: Names,
    *,
    only_key: bool = False,
    name_of: Callable[[object], object] = _as_it_is,
) -> tuple[list[Records], list[RejectedRow]]:
    """
    Read a batch.

    Args:
        rows: The rows.
        key: The columns that come first, and that every row must have.
        only_key: Whether to read no other columns.
        name_of: As in `RowTranslation`.
    """
    if isinstance(rows, ColumnarRows):
        return _read_columns(rows, key, name_of, only_key=only_key)
    uniform = _read_uniform(rows, key, name_of, only_key=only_key)
    if uniform is not None:
        return [uniform], []
    rejected: list[RejectedRow] = []
    records: list[Records] = []
    width = len(key) if only_key else None
    for (layout, given), positions in _sort_by_columns(rows, rejected).items():
        try:
            names, columns = _ordered(key, given, name_of)
        except UsageError as exc:
            rejected += [RejectedRow(position, exc) for position in positions]
        else:
            some = [rows[position] for position in positions]
            cells = _columns(layout, columns[:width], some)
            records.append(Records(names[:width], positions, cells))
    return records, rejected


def _read_columns(
    rows: ColumnarRows,
    key: Names,
    name_of: Callable[[object], object],
    *,
    only_key: bool,
) -> tuple[list[Records], list[RejectedRow]]:
    """Read rows that are columns already."""
    positions = range(len(rows))
    try:
        names, columns = _ordered(key, rows.names, name_of)
    except UsageError as exc:
        return [], [RejectedRow(position, exc) for position in positions]
    width = len(key) if only_key else None
    given = dict(zip(rows.names, rows.columns, strict=True))
    cells: list[Sequence[Value]] = [given[column] for column in columns[:width]]
    return [Records(names[:width], positions, cells)], []


def _read_uniform(
    rows: Sequence[Row],
    key: Names,
    name_of: Callable[[object], object],
    *,
    only_key: bool,
) -> Records | None:
    """Read rows that are all of one class and have the same columns, as most do."""
    layout = _layouts[type(rows[0])]
    if layout is None or len(set(map(type, rows))) > 1:
        return None
    fields = layout.fields
    given = layout.columns_of(rows[0]) if fields is None else fields
    try:
        if {*map(type, given)} == {str}:  # as mostly, and without a call
            names = columns = _ordered_names(key, given)
        else:
            names, columns = _ordered(key, given, name_of)
    except UsageError:
        return None
    if layout.raises_key_error:
        # A row that lacks one of the columns raises the error below.
        if sum(map(len, rows)) != len(given) * len(rows):
            return None
    elif fields is None and set(map(layout.columns_of, rows)) != {given}:
        return None
    try:
        cells = _columns(layout, columns, rows)
    except KeyError:
        return None
    width = len(key) if only_key else None
    return Records(names[:width], range(len(rows)), cells[:width])


def _sort_by_columns(
    rows: Sequence[Row], rejected: list[RejectedRow]
) -> dict[tuple[_Layout, Columns], list[int]]:
    """Return the positions of the rows that have the same class and columns."""
    found: dict[tuple[_Layout, Columns], list[int]] = {}
    for position, row in enumerate(rows):
        cls = _class_of(row)
        layout = _layouts[cls]
        if layout is None:
            rejected.append(RejectedRow(position, UsageError(_not_a_row(cls))))
        else:
            fields = layout.fields
            names = layout.columns_of(row) if fields is None else fields
            found.setdefault((layout, names), []).append(position)
    return found


_ROW: Final = (
    "a row is a mapping, dataclass, attrs, pydantic or mapped instance, or named tuple"
)


def _not_a_row(cls: type[object]) -> str:
    return f"{_ROW}, not {cls.__module__}.{cls.__qualname__}"


def _columns(
    layout: _Layout, columns: Columns, rows: Sequence[Row]
) -> list[Sequence[Value]]:
    return [[*map(layout.getter(column), rows)] for column in columns]


# --- Columns --------------------------------------------------------------------------

# What depends on a class or on names only is kept. Programs that make classes or names
# while they run must not fill the memory.
_MAX_CACHED: Final = 256


def _ordered(
    key: Names, columns: Columns, name_of: Callable[[object], object]
) -> tuple[Names, Columns]:
    """
    Return the names of the columns of a row, the key's first, and the columns so.

    Raises:
        UsageError: The row cannot be stored.
    """
    if {*map(type, columns)} == {str}:
        names = _ordered_names(key, columns)
        return names, names
    named = {name_of(column): column for column in columns}
    if len(named) < len(columns):
        msg = "it has a column twice"
        raise UsageError(msg)
    if not all(isinstance(name, str) for name in named):
        msg = "its columns are not named by text"
        raise UsageError(msg)
    names = _ordered_names(key, tuple(named))
    return names, tuple(named[name] for name in names)


@functools.lru_cache(maxsize=_MAX_CACHED)
def _ordered_names(key: Names, names: Columns) -> Names:
    missing = [name for name in key if name not in names]
    if missing:
        msg = f"it has no {', '.join(map(repr, missing))}, which key names"
        raise UsageError(msg)
    return (*key, *sorted({*names}.difference(key)))


class _Layout(NamedTuple):
    """
    How the rows of a class have their columns.

    Attributes:
        fields: The columns of every instance; None if each row has columns of its own.
        columns_of: Returns the columns of such a row.
        raises_key_error: Whether the row is a dict that has no other answer to a column
            that it lacks.
        getter: Returns what reads a column of a row.
    """

    fields: Columns | None
    columns_of: Callable[[Row], Columns]
    raises_key_error: bool = False
    getter: Callable[[Any], Callable[[Row], Value]] = itemgetter


class _SetAttributes:
    """
    The attributes of a mapped instance that are set, as the ORM writes them.

    A primary key that is None is left to the database, and the version to the mapper.
    """

    def __init__(self, mapper: Any) -> None:
        columns = mapper.local_table.columns
        attributes = {
            attribute.key: attribute.columns[0]
            for attribute in mapper.column_attrs
            if columns.contains_column(attribute.columns[0])
        }
        self._names = tuple(
            name
            for name, column in attributes.items()
            if column is not mapper.version_id_col
        )
        self._ids = {name for name, c in attributes.items() if c in mapper.primary_key}

    def __call__(self, row: Any) -> Names:
        """Return the names of those of a row."""
        values = row.__dict__
        # SQLModel sets every field, and knows which ones the caller has set.
        chosen = getattr(row, "__pydantic_fields_set__", None)
        if chosen is None or row._sa_instance_state.key is not None:  # noqa: SLF001  # the one way without importing SQLAlchemy
            chosen = values
        return tuple(
            name
            for name in self._names
            if name in values
            and name in chosen
            and not (name in self._ids and values[name] is None)
        )


def _layout_of(cls: type[object]) -> _Layout | None:
    """Return the layout of a class's rows; None if its instances are not rows."""
    if issubclass(cls, dict):
        return _Layout(None, tuple, not hasattr(cast("Any", cls), "__missing__"))
    if issubclass(cls, Mapping) or (
        hasattr(cls, "keys") and hasattr(cls, "__getitem__")
    ):
        return _Layout(None, _columns_of_mapping)
    if hasattr(cls, "_sa_class_manager") and hasattr(cls, "__mapper__"):
        attributes = _SetAttributes(cast("Any", cls).__mapper__)
        return _Layout(None, attributes, getter=attrgetter)
    fields = _fields_of(cls)
    return (
        None
        if fields is None
        else _Layout(fields, _columns_of_mapping, getter=attrgetter)
    )


class _Layouts(dict[type[object], _Layout | None]):
    def __missing__(self, cls: type[object]) -> _Layout | None:
        if len(self) >= _MAX_CACHED:
            self.clear()
        layout = self[cls] = _layout_of(cls)
        return layout


_layouts: Final = _Layouts()


def _layout_for(row: Row) -> _Layout:
    layout = _layouts[_class_of(row)]
    if layout is None:
        raise UsageError(_not_a_row(_class_of(row)))
    return layout


def _class_of(row: object) -> type[object]:
    return type(row)


def _columns_of_mapping(row: Row) -> Names:
    return tuple(row.keys())


def _fields_of(cls: type[object]) -> Names | None:
    # Of pydantic 2 and 1, named tuples, and msgspec.
    for attribute in ("model_fields", "__fields__", "_fields", "__struct_fields__"):
        names = getattr(cls, attribute, None)
        if isinstance(names, (Mapping, tuple)):
            return tuple(cast("Iterable[str]", names))
    fields: Iterable[Any] = getattr(cls, "__attrs_attrs__", ())
    if dataclasses.is_dataclass(cls):
        fields = dataclasses.fields(cls)
    return tuple(field.name for field in fields) or None
