"""Reading CSV and TSV."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from aioupsert.cli.errors import LoadError
from aioupsert.cli.reading.rows import (
    LINE_END,
    NULLS,
    READ_ERRORS,
    Dialect,
    Origin,
    ReadOptions,
    Row,
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
    rows: Iterator[Row]
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
    return Delimited(columns, _rows(origin, reader, source, options), note)


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
    """

    def __init__(self, lines: Iterable[str], options: ReadOptions) -> None:
        self.number = 0
        self.record: list[str] = []
        self._lines = iter(lines)
        self._comment = options.comment

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

    def __iter__(self) -> Iterator[str]:
        record, comment = self.record, self._comment
        for line in self._lines:
            self.number += 1
            if comment and not record and line.startswith(comment):
                continue
            record.append(line)
            yield line


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


def _rows(
    origin: Origin, reader: Any, lines: _Lines, options: ReadOptions
) -> Iterator[Row]:
    columns, nulls, record = origin.columns, origin.dialect.nulls, lines.record
    trim = options.trim
    width = len(columns)
    record.clear()
    while True:
        try:
            # This loop may run for millions of rows, so it does only what each needs.
            for cells in reader:
                if len(cells) == width:
                    if trim or not nulls.isdisjoint(cells):
                        cells = _with_nulls(cells, origin.dialect, record, trim=trim)  # noqa: PLW2901  # a second name would be assigned for every row
                    row = Row(zip(columns, cells))  # noqa: B905  # the lengths are equal, and strict is slower
                    row.origin = origin
                    row.line = lines.number - len(record) + 1
                    yield row
                elif cells:  # an empty line is skipped
                    line = lines.number - len(record) + 1
                    text = "".join(record).rstrip("\r\n")
                    options.on_bad_row(uneven(origin, line, cells, text))
                record.clear()
        except csv.Error as exc:
            for error in _broken(origin, lines, exc):
                options.on_bad_row(error)
            record.clear()
        except READ_ERRORS as exc:
            raise read_error(exc, origin.file, lines.number) from exc
        else:
            return


def _with_nulls(
    cells: list[str], dialect: Dialect, record: Sequence[str], *, trim: bool
) -> list[str | None]:
    """Return cells with None for those that mean NULL: they are not in quotes."""
    quote, nulls = dialect.quote, dialect.nulls
    if quote is None or not any(quote in line for line in record):
        bare = [cell.strip() for cell in cells] if trim else cells
        return [None if cell in nulls else cell for cell in bare]
    quoted = _quoted("".join(record), dialect)
    if len(quoted) != len(cells):  # such as with an escape character
        quoted = [False] * len(cells)
    found: list[str | None] = []
    for cell, is_quoted in zip(cells, quoted, strict=True):
        text = cell.strip() if trim and not is_quoted else cell
        found.append(None if text in nulls and not is_quoted else text)
    return found


def _quoted(text: str, dialect: Dialect) -> list[bool]:
    """Return which cells of a record are in quotes."""
    return [cell.is_quoted for cell in _cells(text, dialect)]


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
