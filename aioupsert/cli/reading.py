"""A CSV file as rows, lazily; whatever is wrong with it is said with its line."""

from __future__ import annotations

import csv
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aioupsert.cli.errors import LoadError


@dataclass(frozen=True, slots=True)
class Source:
    """
    Rows to load.

    Attributes:
        name: What messages call it.
        columns: The header.
        rows: Line numbers and cells, as many as the header has.
    """

    name: str
    columns: tuple[str, ...]
    rows: Iterator[tuple[int, list[str]]]


@contextmanager
def open_source(path: Path, *, delimiter: str, encoding: str) -> Generator[Source]:
    """
    Open a file, or standard input for ``-``.

    Raises:
        LoadError: It cannot be opened, or has no usable header.
    """
    if str(path) == "-":
        yield read_source("standard input", sys.stdin, delimiter)
        return
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield read_source(str(path), file, delimiter)
    except (OSError, LookupError) as exc:
        msg = f"cannot read {path}: {exc}"
        raise LoadError(msg) from exc


def read_source(name: str, lines: Iterable[str], delimiter: str) -> Source:
    """
    Read the header, and the rows as they are asked for.

    Raises:
        LoadError: The header is missing or names a column twice; later, a row is bad.
    """
    try:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
    except TypeError as exc:
        msg = f"the delimiter must be one character, not {delimiter!r}"
        raise LoadError(msg) from exc
    cells = _cells(name, reader)
    try:
        _, header = next(cells)
    except StopIteration:
        msg = f"{name} is empty: it needs a header"
        raise LoadError(msg) from None
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        msg = f"{name} names a column twice: {', '.join(map(repr, twice))}"
        raise LoadError(msg)
    return Source(name, tuple(header), _checked(name, len(header), cells))


def _cells(name: str, reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeError) as exc:
            msg = f"{name}, line {line}: {exc}"
            raise LoadError(msg) from exc
        if cells:  # an empty line is no row
            yield line, cells
        line = getattr(reader, "line_num", line) + 1


def _checked(
    name: str, width: int, cells: Iterator[tuple[int, list[str]]]
) -> Iterator[tuple[int, list[str]]]:
    for line, row in cells:
        if len(row) != width:
            msg = f"{name}, line {line}: {len(row)} cells under a header of {width}"
            raise LoadError(msg)
        yield line, row
