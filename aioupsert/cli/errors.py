"""Exit codes, and errors whose message is for the user."""

from __future__ import annotations

from typing import Any, Final

FAILED: Final = 1
"""Exit code: the command failed; nothing, or not everything, was stored."""
REJECTED: Final = 3
"""Exit code: some rows were rejected, and all others stored."""
INTERRUPTED: Final = 130
"""Exit code: 128 plus the number of SIGINT, as in a shell."""


class LoadError(Exception):
    """A command failed; the message is for the user."""


class RowError(LoadError):
    """
    A row of the input cannot be read or stored.

    Attributes:
        file: The file.
        line: The line the row starts on.
        column: The name of the column, or the position on the line counted from 1; None
            if unknown.
        reason: What is wrong with it.
        row: The row as far as it was read, or None.
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
        """Compose the message from the position and the reason."""
        self.file = file
        self.line = line
        self.column = column
        self.reason = reason
        self.row = row
        where = "" if column is None else f", column {column!r}"
        super().__init__(f"{file}, line {line}{where}: {reason}")


def message_of(error: BaseException) -> str:
    """Return the message of an error, or the name of its type if it has none."""
    return str(error) or type(error).__name__
