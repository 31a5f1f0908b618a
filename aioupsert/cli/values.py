"""Conversion of JSON and Parquet values to what the columns of a table accept."""

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

Converter: TypeAlias = Callable[[Any], Any]


def convert_rows(
    rows: Iterable[Row], columns: Mapping[str, Column], engine: Engine
) -> Iterator[Row]:
    """
    Convert the values of rows to what the columns accept.

    Most become text, which the database converts. The cells of CSV are text already and
    are passed through.
    """
    converters: dict[tuple[str, type], Converter | None] = {}
    for given in rows:
        if not isinstance(given, TypedRow):
            yield given
            continue
        row = ConvertedRow(given)
        row.origin, row.line, row.given = given.origin, given.line, given
        for name, value in given.items():
            cls: type[Any] = value.__class__
            column_and_class = (name, cls)
            if column_and_class not in converters:
                converters[column_and_class] = _converter(
                    columns.get(name), cls, engine
                )
            convert = converters[column_and_class]
            if convert is not None:
                row[name] = convert(value)
        yield row


def _converter(column: Column | None, cls: type, engine: Engine) -> Converter | None:
    """Return the function that converts values of a class for a column, if any."""
    if column is None or cls is type(None):
        return None
    if column.family == "json":
        return to_json
    if cls is list and _is_array(column):
        return None  # the driver accepts lists
    if cls in _TEXTS:
        return _TEXTS[cls]
    if engine == "sqlite":
        if cls in {int, float} or (cls is bool and column.family != "text"):
            return None
    elif cls is float and column.family == "integer":
        return _integer_text
    return to_json if cls in _JSON else None


def _is_array(column: Column) -> bool:
    """Return whether the type is an array: an underscore and the element type."""
    return column.type_name.startswith("_")


def to_json(value: Any) -> str:
    """Return a value as JSON text."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _integer_text(value: float) -> str:
    """Return a float as an integer if it is one: many files have 5.0 for 5."""
    return str(int(value)) if value.is_integer() else str(value)


def _datetime_text(value: dt.datetime) -> str:
    return value.isoformat(" ")


_JSON: Final = (bool, int, float, dict, list)
_TEXTS: Final[dict[type, Converter]] = {
    decimal.Decimal: str,
    uuid.UUID: str,
    dt.date: dt.date.isoformat,
    dt.time: dt.time.isoformat,
    dt.datetime: _datetime_text,
}
