"""Reading CSV and TSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from aioupsert.cli.errors import LoadError, RowError
from aioupsert.cli.reading.rows import (
    LINE_END,
    READ_ERRORS,
    Origin,
    ReadOptions,
    Row,
    read_error,
)

# Characters. A cell that is longer is more likely one whose quote is never closed: no
# database stores much more in a value.
_MAX_CELL_LENGTH: Final = 1 << 28


def read_delimited(
    file: str, lines: Iterable[str], options: ReadOptions, delimiter: str
) -> tuple[tuple[str, ...], Iterator[Row]]:
    """
    Return the header, and an iterator that reads the rows lazily.

    Raises:
        LoadError: The header is missing, or a name in it is empty or repeated. The
            iterator raises it for a bad row.
    """
    csv.field_size_limit(_MAX_CELL_LENGTH)
    delimiter = options.delimiter or delimiter
    record: list[str] = []
    reader: Any = csv.reader(_remember(lines, record), delimiter=delimiter, strict=True)
    try:
        # Empty lines before the header are skipped.
        header: list[str] | None = next((cells for cells in reader if cells), None)
    except csv.Error as exc:
        raise _broken(Origin(file, "csv", None, delimiter), 0, record, exc)[0] from exc
    except READ_ERRORS as exc:
        raise read_error(exc, file, reader.line_num) from exc
    if header is None:
        msg = f"{file} is empty: a header is required"
        raise LoadError(msg)
    for number, column in enumerate(header, start=1):
        if not column or "\0" in column:
            msg = f"{file}: column {number} of the header has no name"
            raise LoadError(msg)
        if header.index(column) < number - 1:
            msg = f"{file}: the header names {column!r} twice"
            raise LoadError(msg)
    kind = "tsv" if delimiter == "\t" else "csv"
    origin = Origin(file, kind, tuple(header), delimiter, options.null)
    return tuple(header), _rows(origin, reader, record, options)


def _remember(lines: Iterable[str], record: list[str]) -> Iterator[str]:
    """Yield the lines, and keep those of the current record in a list."""
    for line in lines:
        record.append(line)
        yield line


def _rows(
    origin: Origin,
    reader: Any,  # the csv module has no public name for its type
    record: list[str],
    options: ReadOptions,
) -> Iterator[Row]:
    header, null = origin.header or (), origin.null
    width = len(header)
    line = reader.line_num
    record.clear()
    while True:
        try:
            # This loop may run for millions of rows, so it does only what each needs.
            for cells in reader:
                if len(cells) == width:
                    if null in cells:
                        cells = [None if c == null else c for c in cells]  # noqa: PLW2901  # a second name would be assigned for every row
                    row = Row(zip(header, cells))  # noqa: B905  # the lengths are equal, and strict is slower
                    row.origin = origin
                    row.line = line + 1
                    yield row
                elif cells:  # an empty line is skipped
                    options.on_bad_row(_uneven(origin, line + 1, cells, record))
                line = reader.line_num
                record.clear()
        except csv.Error as exc:
            for error in _broken(origin, line, record, exc):
                options.on_bad_row(error)
            line = reader.line_num
            record.clear()
        except READ_ERRORS as exc:
            raise read_error(exc, origin.file, reader.line_num) from exc
        else:
            return


def _uneven(
    origin: Origin, line: int, cells: Sequence[str], record: Sequence[str]
) -> RowError:
    header = origin.header or ()
    reason = f"expected {len(header)} cells as in the header, found {len(cells)}"
    column = header[len(cells)] if len(cells) < len(header) else len(header) + 1
    text = "".join(record).rstrip("\r\n")
    return origin.error(line, reason, column=column, row=cells, text=text)


def _broken(
    origin: Origin, line: int, record: Sequence[str], error: csv.Error
) -> list[RowError]:
    """
    Return the errors of text that is not CSV: where it is broken, then every other line.

    Args:
        origin: The file.
        line: The number of lines before the record.
        record: The lines of the record, as far as it was read.
        error: What the csv module says about it.
    """
    reason, column = f"invalid CSV: {error}", None
    number, position, is_closed = _last_quote("".join(record), origin.delimiter)
    if not is_closed:
        reason, column = (
            "invalid CSV: the quote that opens here is never closed",
            position,
        )
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


_QUOTED: Final = re.compile(r'(?:[^"]++|"")*+')


def _last_quote(text: str, delimiter: str) -> tuple[int, int, bool]:
    """Return the line and column of the last quote that opens a cell; is it closed."""
    ends = re.compile(f"[{re.escape(delimiter)}\r\n]")
    position, opened, is_closed = 0, 0, True
    while position < len(text):
        if text[position] == '"':
            opened = position
            match = _QUOTED.match(text, position + 1)
            position = match.end() if match else len(text)
            is_closed = position < len(text)
            position += 1
            if text[position : position + 1] not in {delimiter, "\r", "\n"}:
                break  # a cell does not end where its quote is closed
        else:
            end = ends.search(text, position)
            position = end.start() if end else len(text)
        position += 1
    before = [*LINE_END.finditer(text, 0, opened)]
    start = before[-1].end() if before else 0
    return len(before) + 1, opened - start + 1, is_closed
