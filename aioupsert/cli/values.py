"""Conversion of JSON and Parquet values to what the columns of a table accept."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from typing import Any, Final, TypeAlias, cast

from aioupsert._plan.columnar import ArrowColumn
from aioupsert._plan.schema import Column, Table
from aioupsert.cli.databases import Database, Engine
from aioupsert.cli.errors import message_of
from aioupsert.cli.reading import (
    CellRows,
    ConvertedRow,
    ParquetRow,
    Part,
    Row,
    RowError,
    TimeText,
    TypedRow,
    duration_text,
    each_row,
)
from aioupsert.errors import UnknownColumnError
from aioupsert.typing import Value

Converter: TypeAlias = Callable[[Value], Value]
Texts: TypeAlias = Mapping[str, str | None]
"""Columns with values as text; None is NULL."""

_ERRORS: Final = (ValueError, TypeError, ArithmeticError, RecursionError)


def convert_rows(
    parts: Iterable[Part],
    columns: Mapping[str, Column],
    engine: Engine,
    on_bad_row: Callable[[RowError], object],
    *,
    left_out: AbstractSet[str] = frozenset(),
    ignore_unknown: bool = False,
    decimal_comma: bool = False,
) -> Iterator[Part]:
    """
    Convert the values of rows to what the columns accept.

    Most become text, which the database converts. The cells of CSV are text already and
    are passed through.

    Args:
        parts: The rows.
        columns: The columns of the table.
        engine: The kind of database.
        on_bad_row: Called with the error of a row that has a value which no conversion
            keeps; if it returns, the row is left out.
        left_out: Columns of the table that are not written.
        ignore_unknown: Whether columns that the table does not have are left out.
        decimal_comma: Whether the cells of CSV write numbers with a comma.
    """
    whole = [
        name
        for name, column in columns.items()
        if column.storage == "sqlite number" and column.family != "boolean"
    ]
    numbers = [
        name
        for name, column in columns.items()
        if decimal_comma and column.family in {"integer", "number"}
    ]
    fitted = _fitted(
        parts, columns, engine, on_bad_row, left_out, ignore_unknown=ignore_unknown
    )
    if numbers:
        fitted = _with_points(each_row(fitted), numbers, on_bad_row)
    converting = _Converting(columns, engine, on_bad_row)
    for given in _without_too_large(fitted, whole, on_bad_row):
        if isinstance(given, CellRows):
            yield from converting.columns_of(given)
        elif given.__class__ is Row:
            yield given
        elif (row := converting.row(given)) is not None:
            yield row


class _Converting:
    """Converts rows of formats with types."""

    def __init__(
        self,
        columns: Mapping[str, Column],
        engine: Engine,
        on_bad_row: Callable[[RowError], object],
    ) -> None:
        self._columns = columns
        self._engine: Engine = engine
        self._on_bad_row = on_bad_row
        self._converters: dict[tuple[str, type, bool], Converter | None] = {}

    def _converter(
        self, name: str, cls: type[Any], *, is_parquet: bool
    ) -> Converter | None:
        kind = (name, cls, is_parquet)
        if kind not in self._converters:
            self._converters[kind] = _converter(
                self._columns.get(name), cls, self._engine, is_parquet=is_parquet
            )
        return self._converters[kind]

    def columns_of(self, part: CellRows) -> Iterator[Part]:
        """Yield rows that were read as columns; one by one if one of them is bad."""
        if part.table is None:
            yield part
            return
        try:
            columns = [*map(self._column, part.names, part.columns)]
        except _ERRORS:
            yield from (row for row in map(self.row, part) if row is not None)
        else:
            yield part.with_columns(columns)

    def _column(self, name: str, cells: Sequence[Value]) -> Sequence[Value]:
        if isinstance(cells, ArrowColumn):
            convert = self._converter(name, cells.cls, is_parquet=True)
            if convert is None or convert in _KEEP_INTEGERS:
                return cells
            if cells.is_copied_to(self._columns[name].type) or (
                convert is _number_text and issubclass(cells.cls, int)
            ):
                return cells.as_text()
        convert_of: dict[type[Any], Converter] = {
            cls: self._converter(name, cls, is_parquet=True) or _unchanged
            for cls in {*map(type, cells)}
        }
        if {*convert_of.values()} <= {_unchanged}:
            return cells
        return [convert_of[type(cell)](cell) for cell in cells]

    def row(self, given: Row) -> Row | None:
        """Return a row; report one that has a value which no conversion keeps."""
        row = ConvertedRow(given)
        row.origin, row.line, row.given = given.origin, given.line, given
        is_parquet = isinstance(given, ParquetRow)
        for name, value in given.items():
            convert = self._converter(name, value.__class__, is_parquet=is_parquet)
            if convert is not None:
                try:
                    row[name] = convert(value)
                except _ERRORS as exc:
                    reason = (
                        "nested too deeply"
                        if isinstance(exc, RecursionError)
                        else message_of(exc)
                    )
                    error = given.origin.error(
                        given.line, reason, column=name, row=given.as_read
                    )
                    self._on_bad_row(error)
                    return None
        return row


def _unchanged(value: Value) -> Value:
    return value


def column_names(columns: Iterable[str], engine: Engine) -> dict[str, str]:
    """Return the names of columns by what stands for them, which SQLite ignores case in."""
    names = {name.lower(): name for name in columns} if engine == "sqlite" else {}
    return names | {name: name for name in columns}


async def convert_texts(
    database: Database, table: Table, texts: Texts
) -> dict[str, Value]:
    """
    Return the values that columns hold for text, in the same order.

    Raises:
        UnknownColumnError: The table does not have one of the columns.
    """
    names = column_names(table.columns, database.engine)
    named = {names.get(n, names.get(n.lower(), n)): text for n, text in texts.items()}
    unknown = [name for name in named if name not in table.columns]
    if unknown:
        raise UnknownColumnError(table.label, unknown, table.visible)
    if not named:
        return {}
    columns = [table.columns[name] for name in named]
    values = await database.convert(columns, [*named.values()])
    return dict(zip(named, values, strict=True))


def _fitted(
    parts: Iterable[Part],
    columns: Mapping[str, Column],
    engine: Engine,
    on_bad_row: Callable[[RowError], object],
    left_out: AbstractSet[str],
    *,
    ignore_unknown: bool,
) -> Iterator[Part]:
    """Yield rows with the names of the table's columns."""
    names = column_names(columns, engine)
    written = columns.keys() - left_out

    def chosen(given: Iterable[str]) -> dict[str, str]:
        """Return the columns that are taken, with their names."""
        found = {name: names.get(name, names.get(name.lower(), name)) for name in given}
        return {
            name: new
            for name, new in found.items()
            if new in written or not (ignore_unknown or new in left_out)
        }

    for part in parts:
        given = part.names if isinstance(part, CellRows) else part.keys()
        if written.issuperset(given):
            yield part
            continue
        try:
            named = part.with_names(chosen(given))
        except RowError as exc:
            on_bad_row(exc)
            continue
        yield named


_DECIMAL_COMMA: Final = re.compile(
    r"\s*[-+]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?([eE][-+]?\d+)?\s*", re.ASCII
)


def with_point(text: str) -> str | None:
    """Return a number that is written as 1.234,5 as 1234.5; None if it is none."""
    if _DECIMAL_COMMA.fullmatch(text) is None:
        return None
    return text.replace(".", "").replace(",", ".")


def _with_points(
    rows: Iterable[Row],
    columns: Iterable[str],
    on_bad_row: Callable[[RowError], object],
) -> Iterator[Row]:
    """Yield rows with a point in the numbers of CSV, where they have a comma."""
    for row in rows:
        changed: dict[str, Value] = {}
        for name in columns if not isinstance(row, TypedRow) else ():
            cell = row.get(name)
            if cell is None or not ("," in cell or "." in cell):
                continue
            changed[name] = with_point(cell)
            if changed[name] is None:
                reason = f"{cell!r} is not a number with a decimal comma"
                error = row.origin.error(row.line, reason, column=name, row=row.as_read)
                on_bad_row(error)
                break
        else:
            yield row.with_cells((row | changed).items()) if changed else row


def _without_too_large(
    parts: Iterable[Part],
    columns: Iterable[str],
    on_bad_row: Callable[[RowError], object],
) -> Iterator[Part]:
    """Yield rows without those of CSV whose integers are beyond SQLite's."""
    for part in parts:
        wrong: dict[int, RowError] = {}
        if isinstance(part, CellRows):
            if part.table is not None:
                yield part
                continue
            cells = dict(zip(part.names, part.columns, strict=True))
            for name in columns:
                for number in _long(cells.get(name, ())):
                    error = _too_large(part[number], columns)
                    if error is not None:
                        wrong[number] = error
            for number in sorted(wrong):
                on_bad_row(wrong[number])
            yield part.without(wrong.keys()) if wrong else part
            continue
        error = _too_large(part, columns) if part.__class__ is Row else None
        if error is None:
            yield part
        else:
            on_bad_row(error)


def _long(cells: Sequence[str | None]) -> list[int]:
    """Return the cells that may be integers of too many digits."""
    if max(map(len, filter(None, cells)), default=0) < _DIGITS:
        return []
    return [
        number
        for number, cell in enumerate(cells)
        # Most long cells of such columns are times.
        if cell is not None and len(cell) >= _DIGITS and ":" not in cell
    ]


# The digits of the smallest integer beyond 64 bits.
_DIGITS: Final = 19
_WHOLE: Final = re.compile(r"\s*[-+]?\d+\s*", re.ASCII)


def _too_large(row: Row, columns: Iterable[str]) -> RowError | None:
    """Return the error of a cell of CSV that is an integer beyond SQLite's."""
    for name in columns:
        cell = row.get(name)
        if cell is not None and len(cell) >= _DIGITS and _WHOLE.fullmatch(cell):
            try:
                _sqlite_integer(int(cell))
            except (ValueError, OverflowError) as exc:
                reason = message_of(exc)
                return row.origin.error(row.line, reason, column=name, row=row.as_read)
    return None


def _converter(
    column: Column | None, cls: type, engine: Engine, *, is_parquet: bool
) -> Converter | None:
    """Return the function that converts values of a class for a column, if any."""
    if column is None or cls is type(None):
        return None
    if column.family == "json":
        # Parquet has no type for JSON that every writer uses, so it comes as text.
        return None if cls is str and is_parquet else _strict_json
    if cls is list and _is_array(column):
        return _array_converter(column)
    if cls in _TEXTS:
        return _TEXTS[cls]
    if engine == "sqlite":
        return _sqlite_converter(column, cls)
    if cls is bytes:
        return None if column.type_name == "bytea" else _no_bytes
    if column.family == "integer" and cls in {float, Decimal}:
        return _integer_text
    return _number_text if cls in _NUMBERS else _JSON.get(cls)


def _is_array(column: Column) -> bool:
    """Return whether the type is an array: an underscore and the element type."""
    return column.type_name.startswith("_")


# --- SQLite ---------------------------------------------------------------------------


def _sqlite_converter(column: Column, cls: type) -> Converter | None:
    is_text = column.family == "text"
    if cls in _NUMBERS and is_text:
        return _number_text
    if cls is int:
        return _integer_or_float if column.storage == "sqlite real" else _sqlite_integer
    if cls is float:
        return _sqlite_float
    if cls is Decimal:
        return _sqlite_float if column.storage == "sqlite real" else _sqlite_decimal
    return None if cls is bool and not is_text else _JSON.get(cls)


_INT64: Final = 2**63


def _integer_or_float(value: int) -> int | float:
    """Return an integer as it is, or as a float if it has more than 64 bits."""
    return value if -_INT64 <= value < _INT64 else float(value)


def _sqlite_integer(value: int) -> int | float:
    number = _integer_or_float(value)
    if number != value:
        msg = (
            f"{value} is beyond the integers of SQLite, which have 64 bits; a TEXT column"
            " would keep it"
        )
        raise ValueError(msg)
    return number


# What keeps every integer that 64 bits hold.
_KEEP_INTEGERS: Final = frozenset({_integer_or_float, _sqlite_integer})


def _sqlite_float(value: float | Decimal) -> float:
    number = float(value)
    if math.isnan(number):
        msg = "SQLite has no NaN: it would store NULL"
        raise ValueError(msg)
    if math.isinf(number) and isinstance(value, Decimal):
        msg = f"{value} is beyond the numbers of SQLite; a TEXT column would keep it"
        raise ValueError(msg)
    return number


def _sqlite_decimal(value: Decimal) -> float | int:
    number = _sqlite_float(value)
    if Decimal(repr(number)) == value:
        return number
    if value == value.to_integral_value() and abs(value) < _INT64:
        return int(value)
    msg = f"SQLite would round {value} to {number!r}; a TEXT column would keep it"
    raise ValueError(msg)


# --- Text -----------------------------------------------------------------------------


def to_json(value: Value) -> str:
    """Return a value as JSON text, with numbers as they were written."""
    try:
        return json.dumps(value, ensure_ascii=False, default=_json_default)
    except _HasDecimalError:
        return _exact_json(value)


class _HasDecimalError(Exception):
    """The json module cannot write a Decimal as a number."""


def _json_default(value: Value) -> str:
    if isinstance(value, Decimal):
        raise _HasDecimalError
    if isinstance(value, bytes):
        return _no_bytes(value)
    write: Converter = _TEXTS.get(value.__class__, str)
    text: str = write(value)
    return text


def _exact_json(value: Value) -> str:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        members = cast("dict[str, Value]", value).items()
        return f"{{{', '.join(f'{to_json(k)}: {_exact_json(v)}' for k, v in members)}}}"
    if _is_list(value):
        return f"[{', '.join(map(_exact_json, value))}]"
    return to_json(value)


def _strict_json(value: Value) -> str:
    """Return a value as JSON text, which has no NaN and no Infinity."""
    try:
        return json.dumps(
            value, ensure_ascii=False, default=_json_default, allow_nan=False
        )
    except _HasDecimalError:
        _check_finite(value)
        return _exact_json(value)
    except ValueError as exc:
        _check_finite(value)
        raise ValueError(message_of(exc)) from exc


def _check_finite(value: Value) -> None:
    if isinstance(value, dict):
        for member in cast("dict[str, Value]", value).values():
            _check_finite(member)
    elif _is_list(value):
        for element in value:
            _check_finite(element)
    elif isinstance(value, float) and not math.isfinite(value):
        msg = f"{to_json(value)} is not a number of JSON"
        raise ValueError(msg)


def _number_text(value: Value) -> str:
    """Return a number as it was written."""
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


# A number with more digits is beyond every type of integers.
_MAX_EXPONENT: Final = 40


def _integer_text(value: float | Decimal) -> str:
    """Return a number as an integer if it is one: many files have 5.0 for 5."""
    number = value if isinstance(value, Decimal) else Decimal(repr(value))
    if number.is_finite() and number.adjusted() < _MAX_EXPONENT:
        whole = number.to_integral_value()
        if whole == number:
            return str(int(whole))
    return _number_text(value)


def _no_bytes(_value: bytes) -> str:
    msg = "bytes, which are not text"
    raise ValueError(msg)


def _timedelta_text(value: dt.timedelta) -> str:
    return duration_text(value // dt.timedelta(microseconds=1) * 1_000)


def _datetime_text(value: dt.datetime) -> str:
    return value.isoformat(" ")


# --- Arrays of PostgreSQL -------------------------------------------------------------


_INTEGER_ARRAYS: Final = {"_int2", "_int4", "_int8"}
_JSON_ARRAYS: Final = {"_json", "_jsonb"}


def _is_list(value: Value) -> bool:
    return isinstance(value, list)


def _array_converter(column: Column) -> Converter:
    """Return the function that writes a list as PostgreSQL's array literal."""
    kind = column.type_name
    delimiter = ";" if kind == "_box" else ","
    is_json = kind in _JSON_ARRAYS
    is_integer = kind in _INTEGER_ARRAYS

    def element(value: Value) -> str:
        if value is None:
            return "NULL"
        if is_json:
            text = _strict_json(value)
        elif _is_list(value):
            return array(value)
        elif isinstance(value, str):
            text = value
        elif isinstance(value, bytes):
            text = rf"\x{value.hex()}" if kind == "_bytea" else _no_bytes(value)
        elif isinstance(value, (float, Decimal)) and is_integer:
            text = _integer_text(value)
        elif isinstance(value, _NUMBERS):
            text = _number_text(value)
        else:
            write: Converter = _TEXTS.get(value.__class__, to_json)
            text = write(value)
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    def array(values: list[Value]) -> str:
        return f"{{{delimiter.join(map(element, values))}}}"

    return array


_NUMBERS: Final = (bool, int, float, Decimal)
_JSON: Final[dict[type, Converter]] = {dict: to_json, list: to_json}
_TEXTS: Final[dict[type, Converter]] = {
    TimeText: str,
    uuid.UUID: str,
    dt.date: dt.date.isoformat,
    dt.time: dt.time.isoformat,
    dt.datetime: _datetime_text,
    dt.timedelta: _timedelta_text,
}
