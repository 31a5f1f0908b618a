"""Values of JSON and Parquet as what the columns of a table take."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

from aioupsert._plan.schema import Column
from aioupsert.cli.databases import Engine
from aioupsert.cli.reading import ConvertedRow, Row, TypedRow

Convert: TypeAlias = Callable[[Any], Any]


def converted(
    rows: Iterable[Row], columns: Mapping[str, Column], engine: Engine
) -> Iterator[Row]:
    """
    Make of values what columns take: text, mostly, which the database converts.

    The cells of CSV are text already, and go through as they are.
    """
    known: dict[tuple[str, type], Convert | None] = {}
    for given in rows:
        if type(given) is not TypedRow:
            yield given
            continue
        row = ConvertedRow(given)
        row.file, row.line, row.given = given.file, given.line, given
        for name, value in given.items():
            cls: type[Any] = value.__class__
            kind = (name, cls)
            if kind not in known:
                known[kind] = _converter(columns.get(name), cls, engine)
            convert = known[kind]
            if convert is not None:
                row[name] = convert(value)
        yield row


def _converter(column: Column | None, cls: type, engine: Engine) -> Convert | None:
    """Find what makes of a value of a class what a column takes; None: nothing does."""
    if column is None or cls is type(None):
        return None
    if column.family == "json":
        return as_json
    if cls is list and _is_array(column):
        return None  # the driver knows arrays
    if cls in _TEXTS:
        return _TEXTS[cls]
    if engine == "sqlite":
        if cls in {int, float} or (cls is bool and column.family != "text"):
            return None
    elif cls is float and column.family == "integer":
        return _whole
    return as_json if cls in _JSON else None


def _is_array(column: Column) -> bool:
    """Tell by the name of the type: that of the elements behind an underscore."""
    return column.type_name.startswith("_")


def as_json(value: Any) -> str:
    """Write a value as JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _whole(value: float) -> str:
    """Write a number for a column of integers; files often have 5.0 where 5 is meant."""
    return str(int(value)) if value.is_integer() else str(value)


def _spaced(value: dt.datetime) -> str:
    return value.isoformat(" ")


_JSON: Final = (bool, int, float, dict, list)
_TEXTS: Final[dict[type, Convert]] = {
    decimal.Decimal: str,
    uuid.UUID: str,
    dt.date: dt.date.isoformat,
    dt.time: dt.time.isoformat,
    dt.datetime: _spaced,
}
