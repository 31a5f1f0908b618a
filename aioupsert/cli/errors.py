"""What the command line says and exits with."""

from __future__ import annotations

from typing import Any, Final

FAILED: Final = 1
"""Exit code: nothing is stored, or not everything that should be."""
REJECTED: Final = 3
"""Exit code: some rows were rejected, all others are stored."""
INTERRUPTED: Final = 130
"""Exit code: 128 and the number of the signal, as shells have it."""


class LoadError(Exception):
    """The load has failed; the message is for the user."""


class RowError(LoadError):
    """
    A row of the input is bad.

    Attributes:
        file: The file.
        line: The line the row starts on.
        column: Where on the line, or in which column, if that is known.
        reason: What is wrong.
        row: What was read of it.
    """

    def __init__(
        self,
        file: str,
        line: int,
        reason: str,
        *,
        column: int | str | None = None,
        row: Any = None,
    ) -> None:
        """Say where, and what is wrong."""
        self.file = file
        self.line = line
        self.column = column
        self.reason = reason
        self.row = row
        where = "" if column is None else f", column {column!r}"
        super().__init__(f"{file}, line {line}{where}: {reason}")


def words(error: BaseException) -> str:
    """Say what an error says; some say nothing but their name."""
    return str(error) or type(error).__name__
