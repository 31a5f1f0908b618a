"""
Rows that a caller has as columns, mostly of Apache Arrow.

A column of Arrow becomes values of Python as a whole, and only if something needs them:
rows that are copied to a server as text need those of the key alone.

References:
    Apache Arrow, "The Arrow PyCapsule Interface"; pyarrow, "Data Types and Schemas".
"""

from __future__ import annotations

import datetime as dt
import decimal
import importlib
import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, overload

from aioupsert._plan.schema import Names
from aioupsert.errors import UsageError
from aioupsert.typing import Value

Arrow: TypeAlias = Any
"""An object of pyarrow, which has no annotations."""


class _Kind(NamedTuple):
    """
    How the values of a column are read.

    Attributes:
        cls: Their class in Python.
        type: The type of Arrow that they are cast to before; None if they are not.
        copied_to: The types of PostgreSQL that read them from text as Python's values
            would be stored.
    """

    cls: type
    type: Arrow = None
    copied_to: frozenset[str] = frozenset()


# Of which Arrow takes the same values for equal as Python.
_COUNTED: Final = frozenset({bool, int, str})
_SCALARS: Final = _COUNTED | {float, decimal.Decimal, dt.date, dt.datetime}


class ArrowColumn(Sequence[Value]):
    """
    A column.

    Attributes:
        array: Its values, as Arrow has them.
        cls: Their class in Python.
        classes: Their class, and that of None if there is a null.
    """

    def __init__(self, array: Arrow, kind: _Kind) -> None:
        """Convert no value yet."""
        self.array = array
        self.cls: type = kind.cls
        self._kind = kind
        nulls, rows = array.null_count, len(array)
        found: set[type] = {kind.cls} if nulls < rows else set()
        self.classes: frozenset[type] = frozenset(
            {*found, type(None)} if nulls else found
        )
        self._values: list[Value] | None = None

    def is_copied_to(self, type_: str) -> bool:
        """Return whether a type of PostgreSQL reads the values from text, as they are."""
        return type_ in self._kind.copied_to or self.array.null_count == len(self)

    def part(self, start: int, stop: int) -> ArrowColumn:
        """Return the column of some rows."""
        return ArrowColumn(self.array.slice(start, stop - start), self._kind)

    def as_text(self) -> ArrowColumn:
        """Return the column with its values as text, as Arrow writes them."""
        arrow: Arrow = importlib.import_module("pyarrow")
        return ArrowColumn(self.array.cast(arrow.large_string()), _text(arrow, None))

    def followed_by(self, others: Sequence[ArrowColumn]) -> ArrowColumn:
        """Return the column with, after its values, those of others of its type."""
        arrow: Arrow = importlib.import_module("pyarrow")
        arrays = [column.array for column in (self, *others)]
        chunks = [
            chunk
            for array in arrays
            for chunk in getattr(array, "chunks", [array])  # an array is one chunk
        ]
        return ArrowColumn(arrow.chunked_array(chunks), self._kind)

    def samples(self) -> Sequence[Value]:
        """Return values by which Python compares as it does by all of them."""
        if self._kind.cls is dt.datetime:
            return self  # each may be of another zone
        valid = self.array.drop_null()
        found: list[Value] = valid.slice(0, 1).to_pylist()
        return [*found, None] if self.array.null_count else found

    def is_distinct(self) -> bool:
        """Return whether no value occurs twice."""
        if self._kind.cls not in _COUNTED:
            return len({*self._read()}) == len(self)
        # Takes half of the time of pyarrow.compute.count_distinct.
        return len(self.array.unique()) == len(self)

    def _read(self) -> list[Value]:
        if self._values is None:
            self._values = [*self.array.to_pylist()]
        return self._values

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.array)

    @overload
    def __getitem__(self, row: int) -> Value: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Value]: ...

    def __getitem__(self, row: int | slice) -> Value:
        """Return the value of a row, or those of some."""
        return self._read()[row]

    def __iter__(self) -> Iterator[Value]:
        """Return an iterator over the values."""
        return iter(self._read())


class ColumnarRows(Sequence[Any]):
    """
    Rows that are read as columns; one of them is made only when it is asked for.

    Attributes:
        names: Their columns.
        columns: The values of the rows, column by column.
    """

    names: Names
    columns: Sequence[Sequence[Value]]


class ArrowRows(ColumnarRows):
    """Rows of Arrow."""

    def __init__(self, names: Names, columns: Sequence[ArrowColumn]) -> None:
        """Make rows of columns."""
        self.names = names
        self.columns = self._columns = columns

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.columns[0])

    @overload
    def __getitem__(self, row: int) -> dict[str, Value]: ...

    @overload
    def __getitem__(self, row: slice) -> ArrowRows: ...

    def __getitem__(self, row: int | slice) -> dict[str, Value] | ArrowRows:
        """Return a row as a dict, or some rows."""
        if isinstance(row, slice):
            start, stop, _ = row.indices(len(self))
            columns = [column.part(start, stop) for column in self._columns]
            return ArrowRows(self.names, columns)
        cells = [column[row] for column in self.columns]
        return dict(zip(self.names, cells, strict=True))


# --- Reading --------------------------------------------------------------------------


def is_columnar(rows: object) -> bool:
    """Return whether rows are columns of Arrow, as data frames are."""
    return hasattr(rows, "__arrow_c_stream__")


class ArrowReader:
    """
    Reads rows, some after the others.

    Attributes:
        is_empty: Whether all have been read.
    """

    def __init__(self, rows: object) -> None:
        """
        Begin to read.

        Raises:
            UsageError: pyarrow is not installed, or a column cannot be read.
        """
        try:
            self._arrow: Arrow = importlib.import_module("pyarrow")
        except ImportError as exc:
            msg = (
                "rows are columns of Arrow, which are read by pyarrow: pip install"
                " 'aioupsert[arrow]', or pass the rows as dicts"
            )
            raise UsageError(msg) from exc
        self._stream: Arrow = self._arrow.RecordBatchReader.from_stream(rows)
        schema = self._stream.schema
        self._names: Names = tuple(schema.names)
        if not self._names or len({*self._names}) < len(self._names):
            msg = f"rows have no columns, or one twice: {', '.join(self._names)}"
            raise UsageError(msg)
        self._kinds = [
            _kind_of(self._arrow, field.type, field.name) for field in schema
        ]
        self._ahead: list[Arrow] = []
        self._rows: int = 0
        self.is_empty = False

    def read(self, rows: int, size: int) -> ArrowRows:
        """
        Return the next rows.

        Args:
            rows: How many at most.
            size: How many bytes they have at most, about.

        Raises:
            UsageError: A value is none that Python has.
        """
        while self._rows <= rows:
            batch = next(self._stream, None)
            if batch is None:
                self.is_empty = True
                break
            self._ahead.append(batch)
            self._rows += batch.num_rows
        table: Arrow = self._arrow.Table.from_batches(self._ahead, self._stream.schema)
        mean = max(1, table.nbytes // max(1, self._rows))
        most = min(rows, max(1, size // mean))
        if most < self._rows:
            self.is_empty = False
        self._ahead = table.slice(most).to_batches()
        self._rows = max(0, self._rows - most)
        taken = table.slice(0, most)
        columns = map(self._column, range(len(self._names)), taken.columns)
        return ArrowRows(self._names, [*columns])

    def _column(self, number: int, array: Arrow) -> ArrowColumn:
        kind = self._kinds[number]
        if kind.type is not None:
            try:
                array = array.cast(kind.type)
            except self._arrow.ArrowInvalid as exc:
                msg = f"column {self._names[number]!r}: {exc}"
                raise UsageError(msg) from exc
        return ArrowColumn(array, kind)


def scalar_column(array: Arrow) -> ArrowColumn | None:
    """
    Return a column whose values are of a type that Python has; None for others.

    Raises:
        ValueError: Text is not UTF-8.
    """
    arrow: Arrow = importlib.import_module("pyarrow")
    given = array.type
    make = _plain_kind(arrow.types, given)
    kind = None if make is None else make(arrow, given)
    if kind is None or kind.cls not in _SCALARS:
        return None
    if given in {arrow.uint64(), arrow.float16()}:  # not of 64 bits; cannot be cast
        return None
    if kind.type is not None:
        try:
            array = array.cast(kind.type)
        except arrow.ArrowInvalid:  # a fraction that Python does not have
            return None
    if kind.cls is str:
        array.validate(full=True)
    if issubclass(kind.cls, dt.date) and not all(
        dt.MINYEAR < year < dt.MAXYEAR for year in _years(array)
    ):
        return None
    return ArrowColumn(array, kind)


# --- Types ----------------------------------------------------------------------------


def _kind_of(arrow: Arrow, given: Arrow, name: str) -> _Kind:
    """
    Return how the values of a type are read.

    Raises:
        UsageError: They cannot be.
    """
    types: Arrow = arrow.types
    if types.is_dictionary(given):
        kind = _kind_of(arrow, given.value_type, name)
        return kind._replace(type=kind.type or given.value_type)
    plain = _plain_kind(types, given)
    if plain is not None:
        return plain(arrow, given)
    if _is_of_plain(types, given):
        return _Kind(dict if types.is_struct(given) else list)
    if str(given) == "extension<arrow.uuid>":
        return _Kind(uuid.UUID)
    msg = (
        f"column {name!r} has the type {given} of Arrow, which is none of Python's: cast"
        " it, or pass the rows as dicts"
    )
    raise UsageError(msg)


def _is_of_plain(types: Arrow, given: Arrow) -> bool:
    """Return whether a type is of lists or structs of plain values."""
    if not (
        types.is_struct(given)
        or types.is_list(given)
        or types.is_large_list(given)
        or types.is_fixed_size_list(given)
    ):
        return False
    members = [given.field(number).type for number in range(given.num_fields)]
    return all(
        _is_of_plain(types, member)
        # Of nanoseconds only some are values of Python.
        or (_plain_kind(types, member) and getattr(member, "unit", "us") != "ns")
        for member in members
    )


_Make: TypeAlias = Callable[[Arrow, Arrow], _Kind]


def _plain_kind(types: Arrow, given: Arrow) -> _Make | None:
    """Return what tells how the values of a type are read; None if it is not plain."""
    return next((make for of, make in _KINDS if getattr(types, of)(given)), None)


def _always(cls: type, *copied_to: str) -> _Make:
    kind = _Kind(cls, copied_to=frozenset(f"pg_catalog.{name}" for name in copied_to))
    return lambda _arrow, _given: kind


def _float(arrow: Arrow, given: Arrow) -> _Kind:
    # Python has no others, and text of fewer digits would be another number.
    cast = None if given == arrow.float64() else arrow.float64()
    return _Kind(float, cast, frozenset({"pg_catalog.float8"}))


def _string_view(arrow: Arrow, _given: Arrow) -> _Kind:
    return _text(arrow, _given)._replace(type=arrow.large_string())


def _date(arrow: Arrow, _given: Arrow) -> _Kind:
    return _Kind(dt.date, arrow.date32(), frozenset({"pg_catalog.date"}))


def _timestamp(arrow: Arrow, given: Arrow) -> _Kind:
    name = '"timestamp"' if given.tz is None else "timestamptz"
    cast = arrow.timestamp("us", given.tz)
    return _Kind(dt.datetime, cast, frozenset({f"pg_catalog.{name}"}))


def _time(arrow: Arrow, _given: Arrow) -> _Kind:
    return _Kind(dt.time, arrow.time64("us"))


def _duration(arrow: Arrow, _given: Arrow) -> _Kind:
    return _Kind(dt.timedelta, arrow.duration("us"))


_text: Final = _always(str, "text", '"varchar"')
_bytes: Final = _always(bytes)
# By the names of functions in pyarrow.types.
_KINDS: Final[tuple[tuple[str, _Make], ...]] = (
    ("is_integer", _always(int, "int2", "int4", "int8")),
    ("is_floating", _float),
    ("is_boolean", _always(bool, "bool")),
    ("is_string", _text),
    ("is_large_string", _text),
    ("is_string_view", _string_view),
    ("is_binary", _bytes),
    ("is_large_binary", _bytes),
    ("is_binary_view", _bytes),
    ("is_fixed_size_binary", _bytes),
    ("is_date", _date),
    ("is_timestamp", _timestamp),
    ("is_time", _time),
    ("is_duration", _duration),
    ("is_decimal", _always(decimal.Decimal, '"numeric"')),
    ("is_null", _always(type(None))),
)


# --- Copying --------------------------------------------------------------------------


class CopiedRows:
    """Rows to copy to a table of a server, each after its number, from 1."""

    def __init__(
        self, columns: Sequence[Sequence[Value]], types: Sequence[str]
    ) -> None:
        """
        Copy rows.

        Args:
            columns: Their values, column by column.
            types: The types of PostgreSQL that the columns have there.
        """
        self._columns = columns
        self._types = types

    def __iter__(self) -> Iterator[tuple[Value, ...]]:
        """Return an iterator over the rows."""
        return zip(itertools.count(1), *self._columns, strict=False)

    def as_csv(self) -> bytes | None:
        """
        Return the rows as CSV in UTF-8, made without a value of Python for each cell.

        An empty field without quotes is NULL. None if not all columns are of Arrow, of
        types whose text the server reads as the same values.
        """
        arrays: list[Arrow] = []
        for column, type_ in zip(self._columns, self._types, strict=True):
            if not isinstance(column, ArrowColumn) or not column.is_copied_to(type_):
                return None
            arrays.append(column.array)
        arrow: Arrow = importlib.import_module("pyarrow")
        compute: Arrow = importlib.import_module("pyarrow.compute")
        csv: Arrow = importlib.import_module("pyarrow.csv")
        if any(_means_another_as_text(arrow, compute, array) for array in arrays):
            return None
        numbers = compute.cumulative_sum(arrow.repeat(1, len(arrays[0])))
        names = [str(number) for number in range(len(arrays) + 1)]
        sink = arrow.BufferOutputStream()
        options = csv.WriteOptions(include_header=False, quoting_style="all_valid")
        csv.write_csv(arrow.table([numbers, *arrays], names), sink, options)
        text: bytes = sink.getvalue().to_pybytes()
        return text


def _means_another_as_text(arrow: Arrow, compute: Arrow, array: Arrow) -> bool:
    """Return whether the server may take the text of a value for something else."""
    types: Arrow = arrow.types
    if types.is_string(array.type) or types.is_large_string(array.type):
        # Before version 17, a line of these two is the end of the data, even in quotes.
        return bool(compute.any(compute.match_substring(array, "\\.")).as_py())
    if types.is_date(array.type) or types.is_timestamp(array.type):
        # The first and the last moment of Python are infinity to a driver.
        return not {dt.MINYEAR, dt.MAXYEAR}.isdisjoint(_years(array))
    return False


def _years(array: Arrow) -> set[int]:
    """Return the first and the last year of dates or times, if there are any."""
    compute: Arrow = importlib.import_module("pyarrow.compute")
    return {*compute.min_max(compute.year(array)).as_py().values()} - {None}
