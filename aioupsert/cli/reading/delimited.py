"""Reading CSV and TSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from aioupsert.cli.errors import LoadError, RowError
from aioupsert.cli.reading.rows import READ_ERRORS, ReadOptions, Row, read_error

# The csv module rejects cells above 128 kB by default; this is the highest limit that
# it accepts on every platform.
_MAX_CELL_LENGTH: Final = 2**31 - 1


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
    reader: Any = csv.reader(
        lines, delimiter=options.delimiter or delimiter, strict=True
    )
    try:
        # Empty lines before the header are skipped.
        header: list[str] | None = next((cells for cells in reader if cells), None)
    except csv.Error as exc:
        raise _not_csv(file, reader.line_num, exc) from exc
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
    return tuple(header), _rows(file, reader, header, options)


def _rows(
    file: str,
    reader: Any,  # the csv module has no public name for its type
    header: Sequence[str],
    options: ReadOptions,
) -> Iterator[Row]:
    width, null = len(header), options.null
    line = reader.line_num
    while True:
        try:
            # This loop may run for millions of rows, so it does only what each needs.
            for cells in reader:
                if len(cells) == width:
                    if null in cells:
                        cells = [None if c == null else c for c in cells]  # noqa: PLW2901  # a second name would be assigned for every row
                    row = Row(zip(header, cells))  # noqa: B905  # the lengths are equal, and strict is slower
                    row.file = file
                    row.line = line + 1
                    yield row
                elif cells:  # an empty line is skipped
                    options.on_bad_row(_uneven(file, line + 1, header, cells))
                line = reader.line_num
        except csv.Error as exc:
            options.on_bad_row(_not_csv(file, line + 1, exc))
            line = reader.line_num
        except READ_ERRORS as exc:
            raise read_error(exc, file, reader.line_num) from exc
        else:
            return


def _uneven(
    file: str, line: int, header: Sequence[str], cells: Sequence[str]
) -> RowError:
    reason = f"expected {len(header)} cells as in the header, found {len(cells)}"
    column = header[len(cells)] if len(cells) < len(header) else len(header) + 1
    return RowError(file, line, reason, column=column, row=cells)


def _not_csv(file: str, line: int, error: csv.Error) -> RowError:
    return RowError(file, line, f"invalid CSV: {error}")
