"""A row as it is read, and what every reader needs."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aioupsert.cli.errors import LoadError, RowError, words


class Row(dict[str, Any]):
    """
    A row that knows where it comes from.

    Attributes:
        file: The file.
        line: The line the row starts on; its number, in a file without lines.
    """

    __slots__ = ("file", "line")

    file: str
    line: int


class TypedRow(Row):
    """A row whose values have types of their own, where those of CSV are all text."""

    __slots__ = ()


class ConvertedRow(Row):
    """
    What was made of a `TypedRow` for a table.

    Attributes:
        given: That row.
    """

    __slots__ = ("given",)

    given: TypedRow


def refuse(error: RowError) -> None:
    """End the load at a bad row."""
    raise error


@dataclass(frozen=True, slots=True)
class How:
    """
    How files are read.

    Attributes:
        format: A name of `FORMATS`, or None to go by the names of the files.
        delimiter: What separates the cells of CSV.
        encoding: The encoding of text.
        null: The cell of CSV or TSV that means NULL.
        on_bad: Called with a bad row; it is left out if this returns.
    """

    format: str | None = None
    delimiter: str | None = None
    encoding: str = "utf-8-sig"
    null: str | None = ""
    on_bad: Callable[[RowError], None] = refuse


READ_ERRORS: Final = (UnicodeError, OSError, EOFError, zlib.error)
"""What reading may raise; the last two come from a broken gzip file."""

_LINE_END: Final = re.compile("\r\n|\r|\n")


def read_error(error: Exception, file: str, lines: int) -> LoadError:
    """
    Say what went wrong while reading.

    Args:
        error: One of `READ_ERRORS`.
        file: The file.
        lines: How many lines had been read before.
    """
    line, column = lines + 1, None
    reason = getattr(error, "strerror", None) or words(error)
    if isinstance(error, UnicodeError):
        reason = f"{words(error)}; see --encoding"
    if isinstance(error, UnicodeDecodeError):
        # Text is decoded in blocks. What was before the bad byte has its lines.
        before = error.object[: error.start].decode(error.encoding, "replace")
        ends = [*_LINE_END.finditer(before)]
        line += len(ends)
        column = len(before) - ends[-1].end() + 1 if ends else None
        byte = error.object[error.start]
        reason = (
            f"byte 0x{byte:02x} is not {error.encoding}: {error.reason}; see --encoding"
        )
    return RowError(file, line, reason, column=column)
