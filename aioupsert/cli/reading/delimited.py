"""Reading CSV and TSV."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

from aioupsert.cli.errors import LoadError
from aioupsert.cli.reading.rows import (
    LINE_END,
    NULLS,
    READ_ERRORS,
    CellRows,
    Dialect,
    Origin,
    Part,
    ReadOptions,
    RowError,
    read_error,
)

# Characters. A cell that is longer is more likely one whose quote is never closed: no
# database stores much more in a value.
_MAX_CELL_LENGTH: Final = 1 << 28


class Delimited(NamedTuple):
    """
    A file of CSV or TSV that is being read.

    Attributes:
        header: The names of the columns.
        rows: An iterator that reads the rows lazily.
        note: How the file is read, if that is not what most would expect.
    """

    header: tuple[str, ...]
    rows: Iterator[Part]
    note: str | None


def read_delimited(
    file: str, lines: Iterable[str], options: ReadOptions, delimiter: str | None
) -> Delimited:
    """
    Read the header, and return it with an iterator that reads the rows lazily.

    Args:
        file: The name of the file.
        lines: Its lines.
        options: How to read it.
        delimiter: The delimiter of the format, or None to find it in the first line.

    Raises:
        LoadError: The header is missing, or a name in it is empty or repeated. The
            iterator raises it for a bad row.
    """
    csv.field_size_limit(_MAX_CELL_LENGTH)
    source = _Lines(lines, options)
    note = None
    try:
        source.skip(options.skip_lines)
        first = source.first()
        delimiter = options.delimiter or delimiter
        if delimiter is None:
            delimiter = source.take_separator() or _sniff(first, options)
            if delimiter != ",":
                shown = "a tab" if delimiter == "\t" else repr(delimiter)
                note = f"{file}: the delimiter is {shown}"
        # A quote is doubled anyway, which is what escaping it by itself means.
        escape = None if options.escape == options.quote else options.escape
        nulls = NULLS if options.nulls is None else options.nulls
        dialect = Dialect(delimiter, options.quote, escape, nulls)
        reader = _reader(source, dialect)
        if not options.header:
            header = None
            columns = options.columns or ()
        else:
            # Empty lines before the header are skipped.
            header = next((tuple(cells) for cells in reader if cells), None)
            columns = header or ()
    except csv.Error as exc:
        origin = Origin(file, "csv", dialect=Dialect(delimiter or ",", options.quote))
        raise _broken(origin, source, exc)[0] from exc
    except READ_ERRORS as exc:
        raise read_error(exc, file, source.number) from exc
    if header is None and options.header:
        msg = f"{file} is empty: a header is required"
        raise LoadError(msg)
    columns = checked_header(file, columns, trim=options.trim)
    kind = "tsv" if delimiter == "\t" else "csv"
    origin = Origin(file, kind, header, columns, dialect)
    return Delimited(columns, _Records(origin, source, options).parts(), note)


def checked_header(file: str, header: Sequence[str], *, trim: bool) -> tuple[str, ...]:
    """
    Return the names of the columns.

    Raises:
        LoadError: One is empty, or comes twice.
    """
    columns = tuple(column.strip() if trim else column for column in header)
    for number, column in enumerate(columns, start=1):
        if not column or "\0" in column:
            msg = f"{file}: column {number} of the header has no name"
            raise LoadError(msg)
        if columns.index(column) < number - 1:
            msg = f"{file}: the header names {column!r} twice"
            raise LoadError(msg)
    return columns


class _Lines:
    """
    The lines of a file, with those of the current record.

    Attributes:
        number: How many lines were read.
        record: The lines of the record that is being read.
        failed: The error that ended them, if one has.
    """

    def __init__(self, lines: Iterable[str], options: ReadOptions) -> None:
        self.number = 0
        self.record: list[str] = []
        self._lines = iter(lines)
        self._comment = options.comment
        self.failed: Exception | None = None

    def skip(self, number: int) -> None:
        """Skip lines before the header."""
        for _ in itertools.islice(self._lines, number):
            self.number += 1

    def first(self) -> str:
        """Return the first line that is neither empty nor a comment, unread."""
        skipped = 0
        for line in self._lines:
            if line.strip() and not (self._comment and line.startswith(self._comment)):
                self.number += skipped
                self._lines = itertools.chain([line], self._lines)
                self._first = line
                return line
            skipped += 1
        self.number += skipped
        self._first = ""
        return ""

    def take_separator(self) -> str | None:
        """Skip a line that tells Excel the delimiter, and return that."""
        match = _SEPARATOR.fullmatch(self._first)
        if match is None:
            return None
        self.skip(1)
        return match[1]

    def take(self, most: int) -> list[str]:
        """Return the next lines, to be passed to `after`; none at the end."""
        taken: list[str] = []
        room = _MOST_CHARACTERS
        if self.failed is not None:
            return taken
        try:
            for line in itertools.islice(self._lines, most):
                taken.append(line)
                room -= len(line)
                if room < 0:
                    break
        except READ_ERRORS as exc:
            self.failed = exc
        return taken

    def after(self, taken: Iterable[str]) -> Iterator[str]:
        """Yield lines of records: those that were taken, then all others."""
        record, comment = self.record, self._comment
        for line in itertools.chain(taken, self._others()):
            self.number += 1
            if comment and not record and line.startswith(comment):
                continue
            record.append(line)
            yield line

    def _others(self) -> Iterator[str]:
        if self.failed is not None:
            raise self.failed
        yield from self._lines

    def __iter__(self) -> Iterator[str]:
        return self.after(())


# No more lines are taken at once than have so many characters.
_MOST_CHARACTERS: Final = 1_000_000
_SEPARATOR: Final = re.compile("sep=([^\r\n])[\r\n]*", re.IGNORECASE)
_DELIMITERS: Final = ",;\t|"


def _sniff(line: str, options: ReadOptions) -> str:
    """Return the delimiter that occurs most in a line, outside of quotes."""
    quote = re.escape(options.quote or '"')
    bare = re.sub(f"{quote}[^{quote}]*{quote}", "", line)
    return max(_DELIMITERS, key=bare.count)


def _reader(lines: Iterable[str], dialect: Dialect) -> Any:
    # The csv module has no public name for its type.
    return csv.reader(
        lines,
        delimiter=dialect.delimiter,
        quotechar=dialect.quote,
        quoting=csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE,
        escapechar=dialect.escape,
        strict=True,
    )


class _Rows:
    """
    Rows of a file that are passed on together.

    Attributes:
        lines: The lines on which they start.
        cells: Their cells.
        texts: How they are written.
    """

    def __init__(self, origin: Origin) -> None:
        self.lines: list[int] = []
        self.cells: list[list[str]] = []
        self.texts: list[str] = []
        self._origin = origin

    def add(self, line: int, cells: list[str], text: str) -> None:
        """Add a row."""
        self.lines.append(line)
        self.cells.append(cells)
        self.texts.append(text)

    def part(self) -> CellRows:
        """Return them, with None for the cells that mean NULL: they are not in quotes."""
        nulls = self._origin.dialect.nulls
        columns: list[Sequence[str | None]] = [*zip(*self.cells, strict=True)]
        for number, column in enumerate(columns):
            if any(null in column for null in nulls):
                cells = [None if cell in nulls else cell for cell in column]
                for row, quoted in self._quoted.items():
                    if quoted[number]:
                        cells[row] = column[row]
                columns[number] = cells
        size = sum(map(len, self.texts))
        origin = self._origin
        return CellRows(origin, self.lines, columns, size, origin.positions)

    @cached_property
    def _quoted(self) -> dict[int, list[bool]]:
        """Which cells are in quotes, of the rows that have quotes."""
        dialect, width = self._origin.dialect, len(self._origin.columns)
        return {
            row: _quoted(text, dialect, width)
            for row, text in enumerate(self.texts)
            if dialect.quote is not None and dialect.quote in text
        }


class _Records:
    """The records of a file, of which all with the right number of cells are rows."""

    def __init__(self, origin: Origin, lines: _Lines, options: ReadOptions) -> None:
        self._origin = origin
        self._lines = lines
        self._options = options

    def parts(self) -> Iterator[CellRows]:
        """Yield the rows, many at once; those before an error before it is raised."""
        options = self._options
        self._lines.record.clear()
        while taken := self._lines.take(options.lines_at_once):
            rows = _Rows(self._origin)
            try:
                self._read(taken, rows)
            except LoadError:
                if rows.lines:
                    yield rows.part()
                raise
            if rows.lines:
                yield rows.part()
        failed = self._lines.failed
        if failed is not None:
            raise read_error(failed, self._origin.file, self._lines.number) from failed

    def _read(self, taken: list[str], rows: _Rows) -> None:
        """Read lines that were taken, and those after them that end the last record."""
        if self._options.trim or self._options.comment is not None:
            self._read_one_by_one(taken, rows)
            return
        # Mostly each line is a record, and is not looked at by itself.
        try:
            records = [*_reader(taken, self._origin.dialect)]
        except csv.Error:
            records = []
        if len(records) != len(taken):
            self._read_one_by_one(taken, rows)
            return
        first = self._lines.number + 1
        self._lines.number += len(taken)
        numbers = [*range(first, first + len(taken))]
        if {*map(len, records)} == {len(self._origin.columns)}:
            rows.lines, rows.cells, rows.texts = numbers, records, taken
            return
        for number, cells, text in zip(numbers, records, taken, strict=True):
            self._add(number, cells, text, rows)

    def _read_one_by_one(self, taken: list[str], rows: _Rows) -> None:
        lines, record = self._lines, self._lines.record
        last = lines.number + len(taken)
        reader = _reader(lines.after(taken), self._origin.dialect)
        while True:
            try:
                for cells in reader:
                    line = lines.number - len(record) + 1
                    self._add(line, cells, "".join(record), rows)
                    record.clear()
                    if lines.number >= last:
                        return
            except csv.Error as exc:
                for error in _broken(self._origin, lines, exc):
                    self._options.on_bad_row(error)
                record.clear()
            except READ_ERRORS as exc:
                raise read_error(exc, self._origin.file, lines.number) from exc
            else:
                return

    def _add(self, line: int, cells: list[str], text: str, rows: _Rows) -> None:
        """Add a record to the rows, if it is one."""
        if len(cells) == len(self._origin.columns):
            if self._options.trim:
                cells = _trimmed(cells, self._origin.dialect, text)
            rows.add(line, cells, text)
        elif cells:  # an empty line is skipped
            text = text.rstrip("\r\n")
            self._options.on_bad_row(uneven(self._origin, line, cells, text))


def _trimmed(cells: list[str], dialect: Dialect, text: str) -> list[str]:
    """Return cells without the spaces around them, unless they are in quotes."""
    quoted = _quoted(text, dialect, len(cells))
    return [
        cell if is_quoted else cell.strip()
        for cell, is_quoted in zip(cells, quoted, strict=True)
    ]


def _quoted(text: str, dialect: Dialect, width: int) -> list[bool]:
    """Return which cells of a record are in quotes; none if that cannot be told."""
    if dialect.quote is None or dialect.quote not in text:
        return [False] * width
    quoted = [cell.is_quoted for cell in _cells(text, dialect)]
    # Such as with an escape character.
    return quoted if len(quoted) == width else [False] * width


def uneven(
    origin: Origin, line: int, cells: Sequence[str | None], text: str
) -> RowError:
    """Return the error of a row with too few or too many cells."""
    columns = origin.columns
    where = "in the header" if origin.header is not None else "in --columns"
    reason = f"expected {len(columns)} cells as {where}, found {len(cells)}"
    column = columns[len(cells)] if len(cells) < len(columns) else len(columns) + 1
    return origin.error(line, reason, column=column, text=text)


def _broken(origin: Origin, lines: _Lines, error: csv.Error) -> list[RowError]:
    """
    Return the errors of text that is not CSV: where it is broken, then every other line.

    Args:
        origin: The file.
        lines: Its lines, with the record as far as it was read.
        error: What the csv module says about it.
    """
    record = lines.record
    line = lines.number - len(record)
    reason, column = f"invalid CSV: {error}", None
    number, position, is_closed = _last_quote("".join(record), origin.dialect)
    if not is_closed:
        reason = "invalid CSV: the quote that opens here is never closed"
        column = position
    elif number < len(record):
        reason = (
            "invalid CSV: the quote that opens here is closed on line"
            f" {line + len(record)}, where the cell does not end"
        )
        column = position
    swallowed = f"it is inside the quotes that open on line {line + number}"
    errors = [
        origin.error(line + n, swallowed, text=text.rstrip("\r\n"))
        for n, text in enumerate(record, start=1)
        if n != number
    ]
    text = record[number - 1].rstrip("\r\n")
    first = origin.error(line + number, reason, column=column, text=text)
    return [first, *errors]


class _Cell(NamedTuple):
    """
    A cell as it stands in the text.

    Attributes:
        start: Where it begins.
        is_quoted: Whether it begins with a quote.
        is_closed: Whether that is closed.
    """

    start: int
    is_quoted: bool
    is_closed: bool


def _cells(text: str, dialect: Dialect) -> Iterator[_Cell]:
    """Yield the cells of a record, up to one that does not end where its quote does."""
    delimiter, quote = re.escape(dialect.delimiter), re.escape(dialect.quote or '"')
    escape = "" if dialect.escape is None else f"|{re.escape(dialect.escape)}(?s:.)"
    inner = re.compile(f"(?:{quote}{quote}{escape}|(?!{quote})(?s:.))*+")
    ends = re.compile(f"(?:{delimiter}|\r\n|\r|\n|$)")
    position = 0
    while True:
        is_quoted = text[position : position + 1] == dialect.quote
        end = position
        if is_quoted:
            match = inner.match(text, position + 1)
            end = match.end() if match else len(text)
            yield _Cell(position, is_quoted, end < len(text))
            end += 1
            if end > len(text) or not ends.match(text, end):
                return
        else:
            yield _Cell(position, is_quoted, True)
        found = ends.search(text, end)
        if found is None or found[0] != dialect.delimiter:
            return
        position = found.end()


def _last_quote(text: str, dialect: Dialect) -> tuple[int, int, bool]:
    """Return the line and column of the last quote that opens a cell; is it closed."""
    quoted = [cell for cell in _cells(text, dialect) if cell.is_quoted]
    last = quoted[-1] if quoted else _Cell(0, is_quoted=False, is_closed=True)
    before = [*LINE_END.finditer(text, 0, last.start)]
    start = before[-1].end() if before else 0
    return len(before) + 1, last.start - start + 1, last.is_closed
