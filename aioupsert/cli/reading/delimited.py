"""CSV and TSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from aioupsert.cli.errors import LoadError, RowError
from aioupsert.cli.reading.rows import READ_ERRORS, How, Row, read_error

# The csv module refuses cells above 128 kB by default; this is its own maximum on
# every platform.
_LONGEST_CELL: Final = 2**31 - 1


def read_delimited(
    file: str, lines: Iterable[str], how: How, delimiter: str
) -> tuple[tuple[str, ...], Iterator[Row]]:
    """
    Read the header, and the rows as they are asked for.

    Raises:
        LoadError: The header is missing, or names no column or one twice; later, a row
            is bad.
    """
    csv.field_size_limit(_LONGEST_CELL)
    reader: Any = csv.reader(lines, delimiter=how.delimiter or delimiter, strict=True)
    try:
        # An empty line is no header.
        header: list[str] | None = next((cells for cells in reader if cells), None)
    except csv.Error as exc:
        raise _not_csv(file, reader.line_num, exc) from exc
    except READ_ERRORS as exc:
        raise read_error(exc, file, reader.line_num) from exc
    if header is None:
        msg = f"{file} is empty: it needs a header"
        raise LoadError(msg)
    for place, column in enumerate(header, start=1):
        if not column or "\0" in column:
            msg = f"{file}: column {place} of the header has no name"
            raise LoadError(msg)
        if header.index(column) < place - 1:
            msg = f"{file}: the header names {column!r} twice"
            raise LoadError(msg)
    return tuple(header), _rows(file, reader, header, how)


def _rows(
    file: str,
    reader: Any,  # the csv module has no public name for its type
    header: Sequence[str],
    how: How,
) -> Iterator[Row]:
    width, null = len(header), how.null
    line = reader.line_num
    while True:
        try:
            # A million rows go round here: what is not needed for all of them is not
            # done for any.
            for cells in reader:
                if len(cells) == width:
                    if null in cells:
                        cells = [None if c == null else c for c in cells]  # noqa: PLW2901  # see above
                    row = Row(zip(header, cells))  # noqa: B905  # see above
                    row.file = file
                    row.line = line + 1
                    yield row
                elif cells:  # an empty line is no row
                    how.on_bad(_uneven(file, line + 1, header, cells))
                line = reader.line_num
        except csv.Error as exc:
            how.on_bad(_not_csv(file, line + 1, exc))
            line = reader.line_num
        except READ_ERRORS as exc:
            raise read_error(exc, file, reader.line_num) from exc
        else:
            return


def _uneven(
    file: str, line: int, header: Sequence[str], cells: Sequence[str]
) -> RowError:
    reason = f"{len(cells)} cells under a header of {len(header)}"
    column = header[len(cells)] if len(cells) < len(header) else len(header) + 1
    return RowError(file, line, reason, column=column, row=cells)


def _not_csv(file: str, line: int, error: csv.Error) -> RowError:
    return RowError(file, line, f"this is not CSV: {error}")
