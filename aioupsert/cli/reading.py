"""A CSV file as rows, lazily; whatever is wrong with it is said with its line."""

from __future__ import annotations

import csv
import io
import os
import stat
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from aioupsert.cli.errors import LoadError

# The csv module refuses cells above 128 kB by default; this is its own maximum on
# every platform.
_LONGEST_CELL: Final = 2**31 - 1


class Row(NamedTuple):
    """A row and the line it starts on; as many cells as the header has."""

    line: int
    cells: list[str]


@dataclass(frozen=True, slots=True)
class Source:
    """
    Rows to load.

    Attributes:
        name: What messages call it.
        columns: The header.
        rows: The rows, read as they are asked for.
        size: How many bytes there are to read, or None where nobody knows.
        position: Tells how many bytes are read, where the size is known.
    """

    name: str
    columns: tuple[str, ...]
    rows: Iterator[Row]
    size: int | None = None
    position: Callable[[], int] = int


@contextmanager
def open_source(path: Path, *, delimiter: str, encoding: str) -> Generator[Source]:
    """
    Open a file, or standard input for ``-``.

    Raises:
        LoadError: It cannot be opened, or has no usable header.
    """
    piped = str(path) == "-"
    name = "standard input" if piped else str(path)
    try:
        opened = nullcontext(sys.stdin.buffer) if piped else path.open("rb")
    except (OSError, ValueError) as exc:
        msg = f"cannot read {name}: {getattr(exc, 'strerror', None) or exc}"
        raise LoadError(msg) from exc
    with opened as binary:
        # newline: the csv module reads line ends itself, those in cells too.
        text = io.TextIOWrapper(binary, encoding=encoding, newline="")
        try:
            columns, rows = read_rows(name, text, delimiter=delimiter)
            size = None if piped else _size(binary)
            # A pipe cannot tell.
            position = int if size is None else binary.tell
            yield Source(name, columns, rows, size, position)
        finally:
            text.detach()  # which would close standard input


def _size(file: BinaryIO) -> int | None:
    status = os.fstat(file.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def read_rows(
    name: str, lines: Iterable[str], *, delimiter: str = ","
) -> tuple[tuple[str, ...], Iterator[Row]]:
    """
    Read the header, and the rows as they are asked for.

    Raises:
        LoadError: The header is missing, or names no column or one twice; later, a row
            is bad.
    """
    records = _records(name, lines, delimiter)
    header = next(records, None)
    if header is None:
        msg = f"{name} is empty: it needs a header"
        raise LoadError(msg)
    columns = tuple(header.cells)
    for place, column in enumerate(columns, start=1):
        if not column or "\0" in column:
            msg = f"{name}: column {place} of the header has no name"
            raise LoadError(msg)
        if columns.index(column) < place - 1:
            msg = f"{name}: the header names {column!r} twice"
            raise LoadError(msg)
    return columns, _checked(name, len(columns), records)


def _records(name: str, lines: Iterable[str], delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except UnicodeError as exc:
            # Text is decoded in blocks, so the line of the bad byte is not known.
            msg = f"{name}, at line {line} or later: {exc}; see --encoding"
            raise LoadError(msg) from exc
        except csv.Error as exc:
            msg = f"{name}, line {line}: this is not CSV: {exc}"
            raise LoadError(msg) from exc
        except OSError as exc:
            msg = f"{name}, line {line}: {exc.strerror}"
            raise LoadError(msg) from exc
        if cells is None:
            return
        if cells:  # an empty line is no row
            yield Row(line, cells)


def _checked(name: str, width: int, records: Iterator[Row]) -> Iterator[Row]:
    for row in records:
        if len(row.cells) != width:
            msg = (
                f"{name}, line {row.line}: {len(row.cells)} cells under a header of"
                f" {width}"
            )
            raise LoadError(msg)
        yield row
