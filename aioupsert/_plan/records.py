"""Rows as callers have them, read into columns."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from aioupsert._plan.bulk_request import Names
from aioupsert.errors import UsageError


class Records(NamedTuple):
    """
    Rows with the same columns.

    Attributes:
        names: The columns that were read.
        places: Where in the batch the rows stand.
        columns: What they bring, column by column.
        generated: Which columns were made for them, for rows that are created.
    """

    names: Names
    positions: Sequence[int]
    columns: list[list[Any]]
    generated: frozenset[str] = frozenset()


class RejectedRow(NamedTuple):
    """
    A row that cannot be stored.

    Attributes:
        position: Where it stands in its batch, or in the input.
        error: Why.
        row: The row as it was given, once the batch is known.
    """

    position: int
    error: Exception
    row: object = None


def read_records(
    rows: Sequence[Any], key: Names, *, only_key: bool = False
) -> tuple[list[Records], list[RejectedRow]]:
    """
    Read a batch.

    Args:
        rows: The rows.
        key: The columns that come first, and that every row must have.
        only_key: Whether no others are read.
    """
    bad: list[RejectedRow] = []
    records: list[Records] = []
    alike = _all_alike(rows, key, only_key=only_key)
    if alike is not None:
        return [alike], bad
    for (cls, names), positions in _sorted_by_layout(rows, bad).items():
        missing = [name for name in key if name not in names]
        if missing:
            what = f"it has no {', '.join(map(repr, missing))}, which key names"
            bad += [RejectedRow(position, UsageError(what)) for position in positions]
        elif not all(isinstance(name, str) for name in names):
            error = UsageError("its columns are not named by text")
            bad += [RejectedRow(position, error) for position in positions]
        else:
            order = key if only_key else _ordered(key, names)
            columns = _columns(cls, order, [rows[position] for position in positions])
            records.append(Records(order, positions, columns))
    return records, bad


def _class_of(row: object) -> type[Any]:
    return type(row)


def _ordered(key: Names, names: Iterable[str]) -> Names:
    return (*key, *sorted(set(names).difference(key)))


def _all_alike(rows: Sequence[Any], key: Names, *, only_key: bool) -> Records | None:
    """Read rows that are all of one class and have the same columns, as most have."""
    cls = _class_of(rows[0])
    layout = _layout(cls)
    if layout is None or len(set(map(type, rows))) > 1:
        return None
    names = layout(rows[0])
    if not all(isinstance(name, str) for name in names) or not set(key) <= set(names):
        return None
    if layout is tuple and not hasattr(cls, "__missing__"):
        if set(map(len, rows)) != {len(names)}:
            return None
    elif layout in _BY_NAME and set(map(layout, rows)) != {names}:
        return None
    order = _ordered(key, names)
    try:
        columns = _columns(cls, order, rows)
    except KeyError:
        return None  # as many columns, but others
    if only_key:
        order, columns = key, columns[: len(key)]
    return Records(order, range(len(rows)), columns)


def _columns(cls: type[Any], names: Names, rows: Sequence[Any]) -> list[list[Any]]:
    by_name = _layout(cls) in _BY_NAME
    getter = operator.itemgetter if by_name else operator.attrgetter
    return [[*map(getter(name), rows)] for name in names]


def _sorted_by_layout(
    rows: Sequence[Any], bad: list[RejectedRow]
) -> dict[tuple[type[Any], Names], list[int]]:
    found: dict[tuple[type[Any], Names], list[int]] = {}
    for position, row in enumerate(rows):
        cls = _class_of(row)
        layout = _layout(cls)
        if layout is None:
            kind = f"{cls.__module__}.{cls.__qualname__}"
            bad.append(RejectedRow(position, UsageError(f"{_ROW}, not {kind}")))
        else:
            found.setdefault((cls, layout(row)), []).append(position)
    return found


_ROW: Final = (
    "a row is a mapping, dataclass, attrs or pydantic instance, or named tuple"
)


def _names_of_mapping(row: Any) -> Names:
    return tuple(row.keys())


# Such rows have columns of their own; the others those of their class.
_BY_NAME: Final[tuple[Callable[[Any], Names], ...]] = (tuple, _names_of_mapping)

_layouts: Final[dict[type[Any], Callable[[Any], Names] | None]] = {}


def _layout(cls: type[Any]) -> Callable[[Any], Names] | None:
    """Give what tells the columns of a class's rows; None if they are no rows."""
    if cls not in _layouts:
        if len(_layouts) >= _MAX_LAYOUTS:
            _layouts.clear()
        _layouts[cls] = _find_layout(cls)
    return _layouts[cls]


# Classes that a program makes as it runs must not fill the memory.
_MAX_LAYOUTS: Final = 256


def _find_layout(cls: type[Any]) -> Callable[[Any], Names] | None:
    if issubclass(cls, dict):
        return tuple
    if issubclass(cls, Mapping) or (
        hasattr(cls, "keys") and hasattr(cls, "__getitem__")
    ):
        return _names_of_mapping
    # Of pydantic 2 and 1, named tuples, and msgspec.
    for attribute in ("model_fields", "__fields__", "_fields", "__struct_fields__"):
        fields = getattr(cls, attribute, None)
        if isinstance(fields, (Mapping, tuple)):
            return _fixed(cast("Iterable[str]", fields))
    fields = getattr(cls, "__attrs_attrs__", ())
    if dataclasses.is_dataclass(cls):
        fields = dataclasses.fields(cls)
    return _fixed(field.name for field in fields) if fields else None


def _fixed(fields: Iterable[str]) -> Callable[[Any], Names]:
    names = tuple(fields)
    return lambda _: names
