"""Reading Parquet with pyarrow."""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any, Final, TypeAlias

from aioupsert._plan.columnar import scalar_column
from aioupsert.cli.errors import LoadError, message_of
from aioupsert.cli.reading.rows import (
    CellRows,
    Origin,
    TimeText,
    duration_text,
    rows_at_once,
)
from aioupsert.typing import Value

_Scalar: TypeAlias = Any  # pyarrow has no annotations


def read_parquet(
    file: str, binary: IO[bytes], progress: Callable[[float], None]
) -> tuple[tuple[str, ...], Iterator[CellRows]]:
    """
    Return the names of the columns, and an iterator that reads the rows lazily.

    Args:
        file: The name of the file.
        binary: The open file.
        progress: Called after each batch with the fraction of rows read so far.

    Raises:
        LoadError: pyarrow is not installed, or the file is not Parquet.
    """
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as exc:
        msg = "reading Parquet needs pyarrow: pip install 'aioupsert[parquet]'"
        raise LoadError(msg) from exc
    errors = (arrow.ArrowException, OSError, ValueError)
    try:
        opened = parquet.ParquetFile(binary)
    except errors as exc:
        raise _not_parquet(file, exc) from exc
    names = tuple(opened.schema_arrow.names)
    if len(set(names)) < len(names) or not all(names):
        msg = f"{file}: every column needs a name, and names must not repeat"
        raise LoadError(msg)
    origin = Origin(file, "parquet", names, names, schema=opened.schema_arrow)
    return names, _parts(origin, opened, errors, progress)


def _parts(
    origin: Origin,
    opened: Any,
    errors: tuple[type[Exception], ...],
    progress: Callable[[float], None],
) -> Iterator[CellRows]:
    arrow: Any = importlib.import_module("pyarrow")
    done, total = 0, opened.metadata.num_rows
    batches = opened.iter_batches(batch_size=rows_at_once(len(origin.columns)))
    while True:
        try:
            batch = next(batches, None)
            cells = () if batch is None else [*map(_cells, batch.columns)]
        except errors as exc:
            raise _not_parquet(origin.file, exc) from exc
        if batch is None:
            return
        lines = range(done + 1, done + 1 + batch.num_rows)
        table = arrow.Table.from_batches([batch])
        yield CellRows(
            origin, lines, cells, batch.nbytes, origin.positions, table=table
        )
        done += batch.num_rows
        progress(done / total)


# --- Values ---------------------------------------------------------------------------


def _cells(array: Any) -> Sequence[Value]:
    """Return the values of a column, as Python's types or as text."""
    column = scalar_column(array)
    if column is not None:
        return column
    if not _SPECIAL.search(str(array.type)):
        # Years beyond Python's.
        with contextlib.suppress(ValueError, OverflowError):
            values: list[Value] = array.to_pylist()
            return values
    return [_value(scalar) for scalar in array]


# Types that Python does not have, and maps, which pyarrow returns as lists of pairs.
_SPECIAL: Final = re.compile(r"\[ns|map<")


def _value(scalar: _Scalar) -> Any:
    if not scalar.is_valid:
        return None
    kind = str(scalar.type)
    name = kind.partition("<")[0].partition("[")[0]
    if name == "struct":
        return {key: _value(member) for key, member in scalar.items()}
    if name == "map":
        return _map(scalar)
    if name.endswith("list"):
        return [_value(element) for element in scalar.values]
    if name in _TIMES and "[ns" not in kind:
        with contextlib.suppress(ValueError, OverflowError):
            return scalar.as_py()
    return _TIMES[name](scalar) if name in _TIMES else scalar.as_py()


def _map(scalar: _Scalar) -> Any:
    """Return a map as an object of JSON, or as pairs if a key comes twice."""
    pairs = [(_value(pair["key"]), _value(pair["value"])) for pair in scalar.values]
    found = {key if isinstance(key, str) else str(key): value for key, value in pairs}
    return found if len(found) == len(pairs) else [[*pair] for pair in pairs]


_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_DAY: Final = 86_400


def _timestamp(scalar: _Scalar) -> TimeText:
    days, time = _split(scalar, scalar.value)
    year, rest, era = _date(days)
    zone = "" if scalar.type.tz is None else "+00:00"
    return TimeText(f"{year}-{rest} {time}{zone}{era}")


def _date_of_year(scalar: _Scalar) -> TimeText:
    value = scalar.value
    days = value if str(scalar.type) == "date32[day]" else value // (_DAY * 1_000)
    year, rest, era = _date(days)
    return TimeText(f"{year}-{rest}{era}")


def _time(scalar: _Scalar) -> TimeText:
    return TimeText(_split(scalar, scalar.value)[1])


def _duration(scalar: _Scalar) -> TimeText:
    unit = 1_000_000_000 // _PER_SECOND[scalar.type.unit]
    return TimeText(duration_text(scalar.value * unit))


def _split(scalar: _Scalar, value: int) -> tuple[int, str]:
    """Return days, and the time of the day as text."""
    per_second = _PER_SECOND[scalar.type.unit]
    seconds, rest = divmod(value, per_second)
    days, seconds = divmod(seconds, _DAY)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    fraction = f"{rest + per_second}"[1:].rstrip("0")
    time = f"{hour:02}:{minute:02}:{second:02}{'.' if fraction else ''}{fraction}"
    return days, time


# The calendar repeats after 400 years.
_YEARS: Final = 400
_YEARS_DAYS: Final = 146_097
_FIRST_DAY: Final = dt.date(2000, 1, 1).toordinal()
_EPOCH: Final = dt.date(1970, 1, 1).toordinal() - _FIRST_DAY


def _date(days: int) -> tuple[str, str, str]:
    """Return the year, month and day, and era of a day, counted from 1970."""
    times, day = divmod(days + _EPOCH, _YEARS_DAYS)
    date = dt.date.fromordinal(_FIRST_DAY + day)
    year = date.year + times * _YEARS
    # As PostgreSQL writes it; the year before 1 is 1 BC.
    era = " BC" if year < 1 else ""
    return f"{year if year > 0 else 1 - year:04}", f"{date:%m-%d}", era


_TIMES: Final[dict[str, Callable[[_Scalar], TimeText]]] = {
    "timestamp": _timestamp,
    "date32": _date_of_year,
    "date64": _date_of_year,
    "time32": _time,
    "time64": _time,
    "duration": _duration,
}


def _not_parquet(file: str, error: Exception) -> LoadError:
    return LoadError(f"{file} cannot be read as Parquet: {message_of(error)}")
