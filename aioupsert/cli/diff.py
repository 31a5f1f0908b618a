"""
The changes that a command makes, a row a line, old and new side by side.

They are kept in a temporary file while the command runs, and printed once its transaction
has ended: a reader that takes its time holds no locks, and what is rolled back or made
again is not printed.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from typing import Final, cast

from rich.console import Console

from aioupsert.cli.values import to_json
from aioupsert.results import Action, Result
from aioupsert.typing import RowValues, Value

# Bytes, from which on the file is not in memory.
_IN_MEMORY: Final = 1_000_000

_RED: Final = 31
_GREEN: Final = 32
_YELLOW: Final = 33
_SIGNS: Final = {
    Action.CREATED: ("+", _GREEN),
    Action.UPDATED: ("~", _YELLOW),
    Action.DELETED: ("-", _RED),
}


class Diff:
    """The changes of a command; pass `record` to the library as its callback."""

    def __init__(self, *, as_json: bool) -> None:
        """
        Open the temporary file.

        Args:
            as_json: Whether a change is printed as a JSON object.
        """
        self._as_json = as_json
        console = Console()
        # Console.is_terminal would be true in a file if FORCE_COLOR is set.
        self._has_colours = (
            sys.stdout.isatty()
            and console.color_system is not None
            and not console.no_color
        )
        self._encoding = sys.stdout.encoding
        self._key: Sequence[str] = ()
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # see close

    def begin(self, key: Sequence[str]) -> None:
        """Forget all changes; what comes has this key."""
        self._key = key
        self._file.seek(0)
        self._file.truncate()

    def record(self, result: Result[RowValues | None]) -> None:
        """Keep the change of a row, if the call has changed it."""
        old, new = result.old, result.row
        row = new or old
        if row is None or result.action not in _SIGNS or (new and not result.changed):
            return
        write = self._object if self._as_json else self._line
        # Text that the terminal does not have must not end the command.
        line = write(result, row).encode(self._encoding, "backslashreplace")
        self._file.write(line + b"\n")

    def print(self) -> None:
        """Print the changes to standard output."""
        self._file.seek(0)
        sys.stdout.flush()
        shutil.copyfileobj(self._file, sys.stdout.buffer)
        sys.stdout.flush()

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def _object(self, result: Result[RowValues | None], row: RowValues) -> str:
        change: dict[str, Value] = {
            "action": result.action,
            "key": {name: _plain(row[name]) for name in self._key},
            "old": _plain_row(result.old),
            "new": _plain_row(result.row),
            "changed": result.changed,
            "rows": result.rows_affected,
        }
        # In JSON, only text has characters beyond ASCII.
        return _escaped(_BEYOND_ASCII, to_json(change))

    def _line(self, result: Result[RowValues | None], row: RowValues) -> str:
        sign, colour = _SIGNS[result.action]
        old, new = result.old, result.row
        if old and new:
            cells = [
                f"{_name(name)} {self._painted(_RED, _text(old[name]))} ->"
                f" {self._painted(_GREEN, _text(new[name]))}"
                for name in result.changed
            ]
        else:
            cells = [
                f"{_name(name)} {self._painted(colour, _text(value))}"
                for name, value in row.items()
                if name not in self._key and value is not None
            ]
        key = " ".join(f"{_name(name)}={_text(row[name])}" for name in self._key)
        line = f"{self._painted(colour, sign)} {key}"
        if cells:
            line = f"{line}: {', '.join(cells)}"
        if result.rows_affected > 1:
            line = f"{line} (the first of {result.rows_affected} rows)"
        return line

    def _painted(self, colour: int, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._has_colours else text


def _text(value: Value) -> str:
    """Return a value as a line can hold it: text in quotes, and NULL without them."""
    return "NULL" if value is None else _escaped(_UNPRINTABLE, to_json(_plain(value)))


def _name(name: str) -> str:
    return name if name.isidentifier() else _text(name)


def _plain_row(row: RowValues | None) -> dict[str, Value] | None:
    return None if row is None else {name: _plain(cell) for name, cell in row.items()}


def _plain(value: Value) -> Value:
    """Return a value that JSON has, or whose text stands for it."""
    if isinstance(value, (bytes, memoryview)):
        return rf"\x{value.hex()}"
    if isinstance(value, (float, Decimal)) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(element) for element in cast("Sequence[Value]", value)]
    return value


# Control characters beyond those that JSON escapes, marks of the direction of writing,
# and what some take for the end of a line.
_UNPRINTABLE: Final = re.compile(
    r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
_BEYOND_ASCII: Final = re.compile(r"[^ -~]")


def _escaped(characters: re.Pattern[str], text: str) -> str:
    """Return JSON text with some characters written as JSON escapes them."""
    return characters.sub(lambda found: json.dumps(found[0])[1:-1], text)
