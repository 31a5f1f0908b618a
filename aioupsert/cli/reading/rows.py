"""Rows as they are read, and what all readers have in common."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aioupsert.cli.errors import LoadError, RowError, message_of


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """
    Where rows come from, and how they are written there.

    Attributes:
        file: The name of the file.
        format: A name of `FORMATS`.
        header: The names of the columns, in a format that has a header.
        delimiter: The character that separates the cells of CSV or TSV.
        null: The cell of CSV or TSV that means NULL, or None if no cell does.
        schema: The schema of pyarrow, for Parquet.
    """

    file: str
    format: str
    header: tuple[str, ...] | None = None
    delimiter: str = ","
    null: str | None = ""
    schema: Any = None

    @property
    def layout(self) -> tuple[Any, ...]:
        """What files have in common whose rows one file can hold."""
        return self.format, self.header, self.delimiter, str(self.schema)

    def error(
        self,
        line: int,
        reason: str,
        *,
        column: int | str | None = None,
        row: Any = None,
        text: str | None = None,
    ) -> RowError:
        """Return the error of a row that comes from here."""
        return RowError(
            self.file, line, reason, column=column, row=row, origin=self, text=text
        )


class Row(dict[str, Any]):
    """
    A row with its position in the input.

    Attributes:
        origin: Where the row comes from.
        line: The line on which the row starts, or the number of the row in a format
            without lines; counted from 1.
    """

    __slots__ = ("line", "origin")

    origin: Origin
    line: int

    @property
    def file(self) -> str:
        """The name of the file."""
        return self.origin.file


class TypedRow(Row):
    """A row from a format with types; every value of CSV is text."""

    __slots__ = ()


class TimeText(str):
    """A date or time that Python's types do not hold, as text for a database."""

    __slots__ = ()


class ParquetRow(TypedRow):
    """
    A row of Parquet.

    Attributes:
        batch: The batch of pyarrow that has the row.
        index: The position of the row in it.
    """

    __slots__ = ("batch", "index")

    batch: Any
    index: int


class ConvertedRow(Row):
    """
    A `TypedRow` whose values were converted for the columns of a table.

    Attributes:
        given: The row before the conversion.
    """

    __slots__ = ("given",)

    given: TypedRow


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
        null: The cell of CSV or TSV that means NULL, or None if no cell does.
        on_bad_row: Called with the error of a bad row; if it returns, the row is left
            out.
        read_twice: Whether the rows may be read twice, for `Input.survey`.
    """

    format: str | None = None
    delimiter: str | None = None
    encoding: str = "utf-8-sig"
    null: str | None = ""
    on_bad_row: Callable[[RowError], None] = raise_error
    read_twice: bool = False


READ_ERRORS: Final = (UnicodeError, OSError, EOFError, zlib.error)
"""The exceptions that reading may raise; a broken gzip file raises the last two."""

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
