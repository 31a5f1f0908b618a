"""JSON Lines, and other JSON: an array of objects, or one object after the other."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, NoReturn, cast

from aioupsert.cli.errors import RowError
from aioupsert.cli.reading.rows import READ_ERRORS, How, TypedRow, read_error

# What the decoder raises: its own error, one for numbers of thousands of digits (both
# are ValueErrors), and one for arrays in arrays in arrays.
_JSON_ERRORS: Final = (ValueError, RecursionError)


def read_json_lines(file: str, lines: Iterable[str], how: How) -> Iterator[TypedRow]:
    """
    Read an object per line, as they are asked for.

    Raises:
        LoadError: A line is bad.
    """
    number = 0
    try:
        for number, line in enumerate(lines, start=1):
            try:
                found: Any = json.loads(line)
            except _JSON_ERRORS as exc:
                if not line.isspace():
                    how.on_bad(_not_json(file, number, exc, line))
                continue
            if isinstance(found, dict):
                row = TypedRow(cast("dict[str, Any]", found))
                row.file = file
                row.line = number
                yield row
            else:
                how.on_bad(_no_object(file, number, found))
    except READ_ERRORS as exc:
        raise read_error(exc, file, number) from exc


def _not_json(file: str, line: int, error: Exception, row: str) -> RowError:
    column, reason = None, str(error)
    if isinstance(error, json.JSONDecodeError):
        # Python counts from the last line end, which here ends the line.
        column, reason = min(error.pos, len(row.rstrip("\r\n"))) + 1, error.msg
    if isinstance(error, RecursionError):
        reason = "nested too deeply"
    return RowError(
        file, line, f"this is not JSON: {reason}", column=column, row=row.rstrip("\r\n")
    )


def _no_object(file: str, line: int, found: Any) -> RowError:
    kind = next(kind for cls, kind in _KINDS.items() if isinstance(found, cls))
    return RowError(file, line, f"a row is an object, not {kind}", row=found)


_KINDS: Final[dict[type, str]] = {
    str: "text",
    bool: "a boolean",  # which is an int
    int: "a number",
    float: "a number",
    type(None): "null",
    list: "an array",
}


def read_json(file: str, binary: BinaryIO, how: How) -> Iterator[TypedRow]:
    """
    Read the objects of an array, or of a file, as they are asked for.

    At most a block, or one object, is in memory.

    Raises:
        LoadError: What is there is no object or no JSON.
    """
    text = _Text(file, binary, how.encoding)
    first = text.skip()
    if first == "{":
        while text.skip():
            yield from _object(text, how)
        return
    if first != "[":
        text.refuse("an array starts with [")
    text.take()
    if text.skip() == "]":
        text.take()
    else:
        yield from _array(text, how)
    if text.skip():
        text.refuse("something follows the array")


def _object(text: _Text, how: How) -> Iterator[TypedRow]:
    line = text.line
    found = text.value()
    if isinstance(found, dict):
        row = TypedRow(cast("dict[str, Any]", found))
        row.file = text.file
        row.line = line
        yield row
    else:
        how.on_bad(_no_object(text.file, line, found))


def _array(text: _Text, how: How) -> Iterator[TypedRow]:
    end = ","
    while end == ",":
        text.skip()
        yield from _object(text, how)
        end = text.skip()
        if end not in {",", "]"}:
            text.refuse("expecting ',' or ']'")
        text.take()


_BLOCK: Final = 1 << 16
# A broken value cannot be told from one that goes on in the next block, except that the
# error is far from the end; and where a text never ends, by its length.
_NEAR: Final = 32
_LONGEST: Final = 1 << 28
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_decode: Final = json.JSONDecoder().raw_decode


class _Text:
    """Text of JSON that is read in blocks; behind is forgotten."""

    def __init__(self, file: str, binary: BinaryIO, encoding: str) -> None:
        self.file = file
        self.line = 1
        self._binary = binary
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._text = ""
        self._place = 0
        self._line_start = 0
        self._ended = False

    def skip(self) -> str:
        """Skip space; give the next character, or nothing at the end."""
        while True:
            match = _SPACE.match(self._text, self._place)
            self._move(match.end() if match else self._place)
            if self._place < len(self._text):
                return self._text[self._place]
            if self._ended:
                return ""
            self._read(_BLOCK)

    def take(self) -> None:
        """Pass one character."""
        self._move(self._place + 1)

    def value(self) -> Any:
        """Read a value that starts here."""
        while True:
            try:
                value, end = _decode(self._text, self._place)
            except _JSON_ERRORS as exc:
                if self._is_broken(exc):
                    raise self._explain(exc) from exc
            else:
                # A number may go on in the next block.
                if end < len(self._text) or self._ended:
                    self._move(end)
                    return value
            self._read(max(_BLOCK, len(self._text)))

    def _is_broken(self, error: Exception) -> bool:
        length = len(self._text) - self._place
        if self._ended or length > _LONGEST:
            return True
        if isinstance(error, json.JSONDecodeError):
            unended = error.msg.startswith("Unterminated string")
            return not unended and error.pos < len(self._text) - _NEAR
        return True

    def _explain(self, error: Exception) -> RowError:
        if isinstance(error, json.JSONDecodeError):
            self._move(error.pos)
            return self._wrong(error.msg)
        return _not_json(self.file, self.line, error, "")

    def refuse(self, reason: str) -> NoReturn:
        """Say what is wrong here."""
        raise self._wrong(reason)

    def _wrong(self, reason: str) -> RowError:
        column = self._place - self._line_start + 1
        return RowError(
            self.file, self.line, f"this is not JSON: {reason}", column=column
        )

    def _move(self, place: int) -> None:
        """Go on to a place, counting lines."""
        lines = self._text.count("\n", self._place, place)
        if lines:
            self.line += lines
            self._line_start = self._text.rindex("\n", self._place, place) + 1
        self._place = place

    def _read(self, size: int) -> None:
        """Read more, and forget what is behind."""
        lines = self.line - 1 + self._text.count("\n", self._place)
        try:
            block = self._binary.read(size)
            more = self._decoder.decode(block, final=not block)
        except READ_ERRORS as exc:
            raise read_error(exc, self.file, lines) from exc
        self._text = self._text[self._place :] + more
        self._line_start -= self._place
        self._place = 0
        self._ended = not block
