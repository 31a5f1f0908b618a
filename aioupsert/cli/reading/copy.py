"""Reading the text format of PostgreSQL's COPY, also as pg_dump writes it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from aioupsert.cli.errors import LoadError
from aioupsert.cli.reading.delimited import Delimited, checked_header, uneven
from aioupsert.cli.reading.rows import (
    READ_ERRORS,
    Dialect,
    Origin,
    ReadOptions,
    Row,
    read_error,
)

_NULL: Final = r"\N"
_END: Final = r"\."
# What pg_dump writes before the rows.
_STATEMENT: Final = re.compile(
    r"COPY\s+(?:[^(\"]|\"(?:[^\"]|\"\")*\")+\((?P<names>.+)\)\s+FROM\s+stdin\b.*",
    re.IGNORECASE | re.DOTALL,
)
_NAME: Final = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\s",]+))\s*(?:,|$)')


@dataclass(frozen=True, slots=True)
class CopyDialect(Dialect):
    """How COPY writes cells: with escape characters, and without quotes."""

    def _write(self, cell: str | None) -> str:
        if cell is None:
            return min(self.nulls, default=_NULL)
        escaped = cell.translate(_ESCAPES).replace(
            self.delimiter, f"\\{self.delimiter}"
        )
        if escaped in self.nulls:
            first, rest = escaped[:1], escaped[1:]
            return f"\\{ord(first):03o}{rest}" if first.isascii() else f"\\{escaped}"
        return escaped


_LETTERS: Final = {
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
}
_ESCAPES: Final = str.maketrans(
    {"\\": r"\\"} | {char: f"\\{letter}" for letter, char in _LETTERS.items()}
)
_ESCAPE: Final = re.compile(
    r"(?P<bytes>(?:\\(?:[0-7]{1,3}|x[0-9a-fA-F]{1,2}))+)|\\(?P<char>.)", re.DOTALL
)
_BYTE: Final = re.compile(r"\\(?:x([0-9a-fA-F]+)|([0-7]+))")


def read_copy(
    file: str, lines: Iterable[str], options: ReadOptions, encoding: str
) -> Delimited:
    """
    Read the header, and return it with an iterator that reads the rows lazily.

    Raises:
        LoadError: The header is missing, or a name in it is empty or repeated. The
            iterator raises it for a bad row.
    """
    nulls = frozenset([_NULL]) if options.nulls is None else options.nulls
    dialect = CopyDialect(options.delimiter or "\t", None, "\\", nulls)
    reader = _Reader(lines, dialect, encoding)
    header: tuple[str, ...] | None = None
    try:
        reader.skip(options.skip_lines)
        first = reader.peek()
        if (match := _STATEMENT.fullmatch(first.strip())) is not None:
            reader.skip(1)
            header = tuple(
                quoted.replace('""', '"') or bare
                for quoted, bare in _NAME.findall(match["names"])
            )
        elif options.header:
            header = tuple(cell or "" for cell in reader.cells(first.rstrip("\r\n")))
            reader.skip(1)
    except (*READ_ERRORS, ValueError) as exc:
        raise read_error(exc, file, reader.number) from exc
    if options.header and not first:
        msg = f"{file} is empty: a header is required"
        raise LoadError(msg)
    columns = checked_header(
        file, header if header is not None else options.columns or (), trim=False
    )
    origin = Origin(file, "copy", header, columns, dialect)
    return Delimited(columns, _rows(origin, reader, options), None)


class _Reader:
    """
    The rows of a file as they are written.

    Attributes:
        number: How many lines were read.
    """

    def __init__(self, lines: Iterable[str], dialect: Dialect, encoding: str) -> None:
        self.number = 0
        self._lines = iter(lines)
        self._delimiter = dialect.delimiter
        self._nulls = dialect.nulls
        self._encoding = encoding
        # A delimiter after an odd number of escape characters is part of a cell.
        self._cell = re.compile(
            rf"((?:[^\\{re.escape(self._delimiter)}]|\\.)*+)"
            rf"(?:{re.escape(self._delimiter)}|$)",
            re.DOTALL,
        )

    def skip(self, number: int) -> None:
        """Skip lines."""
        for _ in itertools.islice(self._lines, number):
            self.number += 1

    def peek(self) -> str:
        """Return the next line, or "" at the end, without consuming it."""
        line = next(self._lines, None)
        if line is None:
            return ""
        self._lines = itertools.chain([line], self._lines)
        return line

    def __iter__(self) -> Iterator[tuple[int, str]]:
        """Yield the number of the first line and the text of each row."""
        for line in self._lines:
            self.number += 1
            number = self.number
            text = line.rstrip("\r\n")
            # A line's end after an escape character is part of a cell.
            while text.endswith("\\") and _ends_in_escape(text):
                more = next(self._lines, None)
                if more is None:
                    break
                self.number += 1
                text = f"{text}\n{more.rstrip(chr(13) + chr(10))}"
            yield number, text

    def cells(self, text: str) -> list[str | None]:
        """
        Return the cells of a row.

        Raises:
            ValueError: Bytes that are written as numbers are not of the encoding.
        """
        if "\\" not in text:
            cells = text.split(self._delimiter)
            if self._nulls.isdisjoint(cells):
                return [*cells]
        else:
            cells = self._split(text)
        return [None if cell in self._nulls else self._plain(cell) for cell in cells]

    def _split(self, text: str) -> list[str]:
        if f"\\{self._delimiter}" not in text:
            return text.split(self._delimiter)
        cells: list[str] = []
        position = 0
        while True:
            match = self._cell.match(text, position)
            if match is None:  # an escape character before nothing
                return [*cells, text[position:]]
            cells.append(match[1])
            position = match.end()
            if position == match.end(1):
                return cells

    def _plain(self, cell: str) -> str:
        return _ESCAPE.sub(self._unescape, cell) if "\\" in cell else cell

    def _unescape(self, match: re.Match[str]) -> str:
        if match["bytes"] is None:
            return _LETTERS.get(match["char"], match["char"])
        numbers = (
            int(hexadecimal, 16) if hexadecimal else int(octal, 8) & 0xFF
            for hexadecimal, octal in _BYTE.findall(match["bytes"])
        )
        return bytes(numbers).decode(self._encoding)


def _ends_in_escape(text: str) -> bool:
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1


def _rows(origin: Origin, reader: _Reader, options: ReadOptions) -> Iterator[Row]:
    columns = origin.columns
    width = len(columns)
    try:
        for line, text in reader:
            if text == _END:
                _check_end(origin, reader, options)
                return
            try:
                cells = reader.cells(text)
            except ValueError as exc:
                error = origin.error(line, f"invalid escape: {exc}", text=text)
                options.on_bad_row(error)
                continue
            if len(cells) == width:
                row = Row(zip(columns, cells, strict=True))
                row.origin, row.line = origin, line
                yield row
            else:
                options.on_bad_row(uneven(origin, line, cells, text))
    except READ_ERRORS as exc:
        raise read_error(exc, origin.file, reader.number) from exc


def _check_end(origin: Origin, reader: _Reader, options: ReadOptions) -> None:
    """Report text after the mark of the end that pg_dump does not write there."""
    for line, text in reader:
        if text and not text.startswith(("--", r"\unrestrict ")):
            reason = r"text after the line \. at which the rows end"
            options.on_bad_row(origin.error(line, reason, text=text))
