"""Rows as they are read, and what all readers have in common."""

from __future__ import annotations

import importlib
import itertools
import lzma
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self, TypeAlias, cast, overload

from aioupsert._plan.columnar import ArrowColumn, ColumnarRows
from aioupsert._plan.schema import Names
from aioupsert.cli.errors import LoadError, message_of
from aioupsert.typing import Value

MOST_ROWS: Final = 50_000
# A cell takes some hundred bytes on its way, whatever is in it.
_MOST_CELLS: Final = 250_000


def rows_at_once(columns: int, most: int = MOST_ROWS) -> int:
    """Return how many rows of so many columns are read, and stored, at once."""
    return max(1, min(most, _MOST_CELLS // max(1, columns)))


NULLS: Final = frozenset([""])
"""The cells of CSV that mean NULL, unless others are chosen."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """
    How the cells of CSV or TSV are written.

    Attributes:
        delimiter: The character that separates them.
        quote: The character that encloses them, or None.
        escape: The character before a character that means itself, or None.
        nulls: The cells that mean NULL, unless they are quoted.
    """

    delimiter: str = ","
    quote: str | None = '"'
    escape: str | None = None
    nulls: frozenset[str] = NULLS

    def write(self, cells: Iterable[str | None]) -> str:
        """Return a line of cells, without its end."""
        line = self.delimiter.join(map(self._write, cells))
        # An empty line would not be a row.
        return line or (self.quote or "") * 2

    def _write(self, cell: str | None) -> str:
        if cell is None:
            return min(self.nulls, default="")
        quote, escape = self.quote, self.escape
        if quote is None:
            return cell
        special = {self.delimiter, quote, "\r", "\n", escape}
        if special.isdisjoint(cell) and cell not in self.nulls and cell == cell.strip():
            return cell
        if escape is not None:
            cell = cell.replace(escape, escape * 2)
        cell = cell.replace(quote, quote * 2)
        return f"{quote}{cell}{quote}"


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """
    Where rows come from, and how they are written there.

    Attributes:
        file: The name of the file.
        format: A name of `FORMATS`.
        header: The names of the columns, in a format that has a header.
        columns: The names of the columns, in a format of cells.
        dialect: How the cells are written, in such a format.
        schema: The schema of pyarrow, for Parquet.
    """

    file: str
    format: str
    header: tuple[str, ...] | None = None
    columns: tuple[str, ...] = ()
    dialect: Dialect = Dialect()
    schema: Any = None

    @property
    def positions(self) -> dict[str, int]:
        """The columns with their positions in the file."""
        return {name: number for number, name in enumerate(self.columns)}

    @property
    def layout(self) -> tuple[Value, ...]:
        """What files have in common whose rows one file can hold."""
        return self.format, self.header, self.dialect, str(self.schema)

    def error(
        self,
        line: int,
        reason: str,
        *,
        column: int | str | None = None,
        row: Value = None,
        text: str | None = None,
    ) -> RowError:
        """Return the error of a row that comes from here."""
        return RowError(
            self.file, line, reason, column=column, row=row, origin=self, text=text
        )


class RowError(LoadError):
    """
    A row of the input cannot be read or stored.

    Attributes:
        file: The file.
        line: The line the row starts on.
        column: The name of the column, or the position on the line counted from 1; None
            if unknown.
        reason: What is wrong with it.
        row: The row as far as it was read, or None.
        origin: Where the row comes from; None if there is nothing of it to keep.
        text: The row as it is written in the file, without the line's end; None if
            *row* has its values.
    """

    def __init__(
        self,
        file: str,
        line: int,
        reason: str,
        *,
        column: int | str | None = None,
        row: Value = None,
        origin: Origin | None = None,
        text: str | None = None,
    ) -> None:
        """Compose the message from the position and the reason."""
        self.file = file
        self.line = line
        self.column = column
        self.reason = reason
        self.row = row
        self.origin = origin
        self.text = text
        where = "" if column is None else f", column {column!r}"
        super().__init__(f"{file}, line {line}{where}: {reason}")


class Row(dict[str, Value]):
    """
    A row with its position in the input.

    Attributes:
        origin: Where the row comes from.
        line: The line on which the row starts, or the number of the row in a format
            without lines; counted from 1.
        given: The row that this one was made from; not set if it is as it was read.
    """

    __slots__ = ("given", "line", "origin")

    origin: Origin
    line: int
    given: Row

    def with_cells(self, cells: Iterable[tuple[str, Value]]) -> Self:
        """Return a row with other cells that is made from this one."""
        row = type(self)(cells)
        row.origin, row.line, row.given = self.origin, self.line, self
        return row

    def with_names(self, names: Mapping[str, str]) -> Self:
        """
        Return a row with some of the columns, by other names.

        Raises:
            RowError: Two of them would have one name.
        """
        row = self.with_cells((new, self[name]) for name, new in names.items())
        if len(row) < len(names):
            raise self.origin.error(self.line, _two_for_one(names), row=self.as_read)
        return row

    @property
    def as_read(self) -> Row:
        """The row as it was read."""
        row = self
        while (given := getattr(row, "given", None)) is not None:
            row = given
        return row

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.origin.file


def _two_for_one(names: Mapping[str, str]) -> str:
    """Return the reason why columns cannot have other names."""
    ((column, _),) = Counter(names.values()).most_common(1)
    given = [repr(name) for name, new in names.items() if new == column]
    return f"{' and '.join(given)} are for one column, {column!r}"


@dataclass(eq=False)
class CellRows(ColumnarRows):
    """
    Rows of one file that were read as columns; one is made only when it is asked for.

    Attributes:
        origin: Where they come from.
        lines: The lines on which they start, or their numbers.
        cells: The columns of the file, and after them columns that were made of these.
        size: How many bytes they have, about.
        taken: The columns that the rows have, with their positions in *cells*.
        table: The rows as pyarrow has them, for Parquet; None for a file of text, whose
            cells are text.
    """

    origin: Origin
    lines: Sequence[int]
    cells: Sequence[Sequence[Value]]
    size: int
    taken: Mapping[str, int]
    table: Any = None

    def __post_init__(self) -> None:
        """Find the columns that are taken."""
        self.names: Names = tuple(self.taken)
        self.columns: Sequence[Sequence[Value]] = [
            self.cells[number] for number in self.taken.values()
        ]
        self._is_as_read = self.taken == self.origin.positions

    def with_names(self, names: Mapping[str, str]) -> CellRows:
        """
        Return the rows with some of their columns, by other names.

        Raises:
            LoadError: Two of them would have one name.
        """
        taken = {names[name]: n for name, n in self.taken.items() if name in names}
        if len(taken) < len(names):
            msg = f"{self.origin.file}: {_two_for_one(names)}"
            raise LoadError(msg)
        return replace(self, taken=taken)

    def with_columns(self, columns: Sequence[Sequence[Value]]) -> CellRows:
        """Return the rows with other values, column by column, made of theirs."""
        taken = {name: n for n, name in enumerate(self.names, start=len(self.cells))}
        return replace(self, cells=[*self.cells, *columns], taken=taken)

    def without(self, rows: AbstractSet[int]) -> CellRows:
        """Return the others of the rows, which are of a file of text."""
        kept = [row not in rows for row in range(len(self))]
        lines = [*itertools.compress(self.lines, kept)]
        cells = [[*itertools.compress(column, kept)] for column in self.cells]
        return replace(self, lines=lines, cells=cells)

    def is_like(self, other: CellRows) -> bool:
        """Return whether other rows have the same columns of the same file."""
        return self.origin is other.origin and self.taken == other.taken

    def followed_by(self, others: Sequence[CellRows]) -> CellRows:
        """Return these rows and, after them, others that are like them."""
        every = (self, *others)
        lines = [line for rows in every for line in rows.lines]
        columns = zip(*(rows.cells for rows in every), strict=True)
        cells = [_concatenated(parts) for parts in columns]
        size = sum(rows.size for rows in every)
        table = self.table
        if table is not None:
            arrow: Any = importlib.import_module("pyarrow")
            table = arrow.concat_tables([rows.table for rows in every])
        return replace(self, lines=lines, cells=cells, size=size, table=table)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lines)

    @overload
    def __getitem__(self, row: int) -> Row: ...

    @overload
    def __getitem__(self, row: slice) -> CellRows: ...

    def __getitem__(self, row: int | slice) -> Row | CellRows:
        """Return a row, or some."""
        if isinstance(row, int):
            return self._row(row, [column[row] for column in self.cells])
        start, stop, _ = row.indices(len(self))
        cells = [
            column.part(start, stop) if isinstance(column, ArrowColumn) else column[row]
            for column in self.cells
        ]
        lines = self.lines[row]
        size = self.size * len(lines) // max(1, len(self.lines))
        table = None if self.table is None else self.table.slice(start, stop - start)
        return replace(self, lines=lines, cells=cells, size=size, table=table)

    def __iter__(self) -> Iterator[Row]:
        """Return an iterator over the rows."""
        return map(self._row, itertools.count(), zip(*self.cells, strict=True))

    def _row(self, number: int, cells: Sequence[Value]) -> Row:
        given = zip(self.origin.columns, cells, strict=False)
        if self.table is None:
            row = Row(given)
        else:
            row = ParquetRow(given)
            row.table, row.index = self.table, number
        row.origin, row.line = self.origin, self.lines[number]
        if self._is_as_read:
            return row
        return row.with_cells((name, cells[n]) for name, n in self.taken.items())


def _concatenated(columns: Sequence[Sequence[Value]]) -> Sequence[Value]:
    """Return columns one after the other."""
    alike = [column for column in columns if isinstance(column, ArrowColumn)]
    if alike and len(alike) == len(columns):
        return alike[0].followed_by(alike[1:])
    return [*itertools.chain.from_iterable(columns)]


Part: TypeAlias = "Row | CellRows"
"""A row of an input, or several at once."""


def each_row(parts: Iterable[Part]) -> Iterator[Row]:
    """Yield the rows of an input one by one."""
    for part in parts:
        if type(part) is CellRows:
            yield from part
        else:
            yield cast("Row", part)


def joined(parts: Sequence[Part]) -> Sequence[Row]:
    """Return rows together: as columns, if all have the same ones of the same file."""
    alike = [part for part in parts if isinstance(part, CellRows)]
    if alike and len(alike) == len(parts):
        first, *others = alike
        if all(first.is_like(other) for other in others):
            return first.followed_by(others) if others else first
    return [*each_row(parts)]


class TypedRow(Row):
    """A row from a format with types; every value of CSV is text."""

    __slots__ = ()


class TimeText(str):
    """A date or time that Python's types do not hold, as text for a database."""

    __slots__ = ()


def duration_text(nanoseconds: int) -> str:
    """
    Return a duration as ISO 8601 writes it.

    Its seconds are fewer than sixty, as databases read a fraction as floating point.
    """
    sign = "-" if nanoseconds < 0 else ""
    whole, rest = divmod(abs(nanoseconds), 1_000_000_000)
    minutes, seconds = divmod(whole, 60)
    fraction = f".{rest:09}".rstrip("0").rstrip(".")
    parts = {
        "H": f"{minutes // 60}",
        "M": f"{minutes % 60}",
        "S": f"{seconds}{fraction}",
    }
    text = "".join(f"{sign}{n}{unit}" for unit, n in parts.items() if n != "0")
    return f"PT{text or '0S'}"


class ParquetRow(TypedRow):
    """
    A row of Parquet.

    Attributes:
        table: The table of pyarrow that has the row.
        index: The position of the row in it.
    """

    __slots__ = ("index", "table")

    table: Any
    index: int


class ConvertedRow(Row):
    """A `TypedRow` whose values were converted for the columns of a table."""

    __slots__ = ()


def raise_error(error: RowError) -> None:
    """Raise the error of a bad row, which ends the load."""
    raise error


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """
    How to read files.

    Attributes:
        format: A name of `FORMATS`, or None to choose by the names of the files.
        delimiter: The character that separates the cells of CSV, or None for the
            default of the format.
        encoding: The encoding of text files.
        encoding_errors: What becomes of bytes that are not of the encoding.
        json_path: The names of the members that lead to the rows in a JSON object.
        nulls: The cells that mean NULL, unless they are quoted; None for those of the
            format.
        quote: The character that encloses cells, or None if none does.
        escape: The character before a character that means itself, in addition to a
            quote that is doubled; or None.
        header: Whether the first line has the names of the columns.
        columns: The names of the columns if there is no header, otherwise the columns
            to read; None for all.
        skip_lines: The number of lines before the header or the first row.
        comment: What a line begins with that is not read, or None.
        trim: Whether spaces around a cell that is not quoted are left out.
        on_bad_row: Called with the error of a bad row; if it returns, the row is left
            out.
        names: The columns of the table that other columns of the files go into.
        read_twice: Whether the rows may be read twice, for `Input.survey`.
        lines_at_once: How many lines are read before the first row of them is used.
    """

    format: str | None = None
    delimiter: str | None = None
    encoding: str = "utf-8-sig"
    encoding_errors: Literal["strict", "replace", "ignore"] = "strict"
    json_path: tuple[str, ...] = ()
    nulls: frozenset[str] | None = None
    quote: str | None = '"'
    escape: str | None = None
    header: bool = True
    columns: tuple[str, ...] | None = None
    skip_lines: int = 0
    comment: str | None = None
    trim: bool = False
    on_bad_row: Callable[[RowError], None] = raise_error
    names: Mapping[str, str] = field(default_factory=dict[str, str])
    read_twice: bool = False
    lines_at_once: int = 1_000


READ_ERRORS: Final = (
    UnicodeError,
    OSError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)
"""The exceptions that reading may raise; a broken packed file raises the last four."""

LINE_END: Final = re.compile("\r\n|\r|\n")
"""What ends a line."""


def read_error(error: Exception, file: str, lines: int) -> LoadError:
    """
    Return an error that names the line on which reading failed.

    Args:
        error: One of `READ_ERRORS`.
        file: The name of the file.
        lines: The number of lines that were read before.
    """
    line, column = lines + 1, None
    reason = getattr(error, "strerror", None) or message_of(error)
    if isinstance(error, UnicodeError):
        reason = f"{message_of(error)}; see --encoding"
    if isinstance(error, UnicodeDecodeError):
        # Text is decoded in blocks, so the lines of the block before the bad byte count.
        before = error.object[: error.start].decode(error.encoding, "replace")
        ends = [*LINE_END.finditer(before)]
        line += len(ends)
        column = len(before) - ends[-1].end() + 1 if ends else None
        byte = error.object[error.start]
        reason = (
            f"byte 0x{byte:02x} is not valid {error.encoding}: {error.reason};"
            " see --encoding"
        )
    return RowError(file, line, reason, column=column)
