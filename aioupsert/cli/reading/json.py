"""Reading JSON Lines, and JSON that is an array or a sequence of objects."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import BinaryIO, Final, NoReturn, cast

from aioupsert.cli.reading.rows import (
    READ_ERRORS,
    Origin,
    ReadOptions,
    RowError,
    TypedRow,
    read_error,
)
from aioupsert.typing import Value

# What the decoder raises: its own error, another ValueError for numbers with thousands
# of digits and for repeated names, and RecursionError for deeply nested arrays or objects.
_JSON_ERRORS: Final = (ValueError, RecursionError)


def _number(text: str) -> float | Decimal:
    """Return a number as a float if it is written as Python would write it."""
    number = float(text)
    if repr(number) == text:
        return number
    try:
        return Decimal(text)
    except ArithmeticError as exc:
        msg = f"the exponent of {text:.80} is too large"
        raise ValueError(msg) from exc


def _members(members: list[tuple[str, Value]]) -> dict[str, Value]:
    """Return the members of an object, of which a dict would keep one of each name."""
    found = dict(members)
    if len(found) < len(members):
        ((name, _),) = Counter(name for name, _ in members).most_common(1)
        msg = f"an object has two members {name!r}"
        raise ValueError(msg)
    return found


_DECODER: Final = json.JSONDecoder(parse_float=_number, object_pairs_hook=_members)
_load: Final = _DECODER.decode


def read_json_lines(
    file: str, lines: Iterable[str], options: ReadOptions
) -> Iterator[TypedRow]:
    """
    Yield the object of each line, lazily.

    Raises:
        LoadError: A line is not an object.
    """
    origin, number = Origin(file, "jsonl"), 0
    try:
        for number, line in enumerate(lines, start=1):
            try:
                found: Value = _load(line)
            except _JSON_ERRORS as exc:
                if not line.isspace():
                    options.on_bad_row(_not_json(origin, number, exc, line))
                continue
            if isinstance(found, dict):
                row = TypedRow(cast("dict[str, Value]", found))
                row.origin = origin
                row.line = number
                yield row
            else:
                options.on_bad_row(_not_an_object(origin, number, found))
    except READ_ERRORS as exc:
        raise read_error(exc, file, number) from exc


def _not_json(origin: Origin, line: int, error: Exception, row: str) -> RowError:
    column, reason = None, str(error)
    if isinstance(error, json.JSONDecodeError):
        # Python reports an error at the end of a line as column 1 of the next line.
        column, reason = min(error.pos, len(row.rstrip("\r\n"))) + 1, error.msg
    if isinstance(error, RecursionError):
        reason = "nested too deeply"
    text = row.rstrip("\r\n")
    reason = f"invalid JSON: {reason}"
    return origin.error(line, reason, column=column, row=text, text=text)


def _not_an_object(origin: Origin, line: int, found: Value) -> RowError:
    kind = next(kind for cls, kind in _KINDS.items() if isinstance(found, cls))
    return origin.error(line, f"a row must be an object, not {kind}", row=found)


_KINDS: Final[dict[type, str]] = {
    str: "text",
    bool: "a boolean",  # before int, of which bool is a subclass
    int: "a number",
    float: "a number",
    Decimal: "a number",
    type(None): "null",
    list: "an array",
}


def read_json(file: str, binary: BinaryIO, options: ReadOptions) -> Iterator[TypedRow]:
    """
    Yield the objects of an array, or objects that follow one another, lazily.

    Memory holds one block of the file at a time, or one object if that is longer.

    Raises:
        LoadError: The text is not JSON, or an element is not an object.
    """
    text = _JsonText(file, binary, options)
    for name in options.json_path:
        _enter(text, name)
    first = text.skip_whitespace()
    if first == "{":
        while text.skip_whitespace():
            yield from _object(text, options)
        return
    if first != "[":
        text.fail("expecting an array or an object")
    text.advance()
    if text.skip_whitespace() == "]":
        text.advance()
    else:
        yield from _array(text, options)
    if not options.json_path and text.skip_whitespace():
        text.fail("unexpected text after the array")


def _enter(text: _JsonText, name: str) -> None:
    """Move to the value of a member of the object that begins here."""
    if text.skip_whitespace() != "{":
        text.fail(f"expecting an object with the member {name!r}")
    end = ","
    while end == ",":
        text.advance()
        text.skip_whitespace()
        found = text.read_value()
        if text.skip_whitespace() != ":":
            break
        text.advance()
        text.skip_whitespace()
        if found == name:
            return
        text.read_value()
        end = text.skip_whitespace()
    text.fail(f"the object has no member {name!r}")


def _object(text: _JsonText, options: ReadOptions) -> Iterator[TypedRow]:
    line = text.line
    found = text.read_value()
    if isinstance(found, dict):
        row = TypedRow(cast("dict[str, Value]", found))
        row.origin = text.origin
        row.line = line
        yield row
    else:
        options.on_bad_row(_not_an_object(text.origin, line, found))


def _array(text: _JsonText, options: ReadOptions) -> Iterator[TypedRow]:
    end = ","
    while end == ",":
        text.skip_whitespace()
        yield from _object(text, options)
        end = text.skip_whitespace()
        if end not in {",", "]"}:
            text.fail("expecting ',' or ']'")
        text.advance()


# Bytes.
_BLOCK: Final = 1 << 16
# A value that fails to parse may be broken, or may continue in the next block. It is
# broken if the error is more than this many characters before the end of the text, ...
_BLOCK_MARGIN: Final = 32
# ... or if it is longer than this many characters, as a string that never ends.
_MAX_VALUE_LENGTH: Final = 1 << 28
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_decode: Final = _DECODER.raw_decode


class _JsonText:
    """JSON text that is read in blocks; what was parsed is dropped from memory."""

    def __init__(self, file: str, binary: BinaryIO, options: ReadOptions) -> None:
        self.origin = Origin(file, "json")
        self.line = 1
        self._binary = binary
        self._decoder = codecs.getincrementaldecoder(options.encoding)(
            options.encoding_errors
        )
        self._text = ""
        self._position = 0
        self._line_start = 0
        self._ended = False

    def skip_whitespace(self) -> str:
        """Skip whitespace; return the next character, or "" at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._position)
            self._move(match.end() if match else self._position)
            if self._position < len(self._text):
                return self._text[self._position]
            if self._ended:
                return ""
            self._read(_BLOCK)

    def advance(self) -> None:
        """Move past one character."""
        self._move(self._position + 1)

    def read_value(self) -> Value:
        """Parse the value that starts at the current position."""
        while True:
            try:
                value, end = _decode(self._text, self._position)
            except _JSON_ERRORS as exc:
                if self._is_broken(exc):
                    raise self._explain(exc) from exc
            else:
                # A number at the end of the block may continue in the next one.
                if end < len(self._text) or self._ended:
                    self._move(end)
                    return value
            self._read(max(_BLOCK, len(self._text)))

    def _is_broken(self, error: Exception) -> bool:
        length = len(self._text) - self._position
        if self._ended or length > _MAX_VALUE_LENGTH:
            return True
        if isinstance(error, json.JSONDecodeError):
            unterminated = error.msg.startswith("Unterminated string")
            return not unterminated and error.pos < len(self._text) - _BLOCK_MARGIN
        return True

    def _explain(self, error: Exception) -> RowError:
        if isinstance(error, json.JSONDecodeError):
            self._move(error.pos)
            return self._error(error.msg)
        return _not_json(self.origin, self.line, error, "")

    def fail(self, reason: str) -> NoReturn:
        """Raise an error at the current position."""
        raise self._error(reason)

    def _error(self, reason: str) -> RowError:
        column = self._position - self._line_start + 1
        return self.origin.error(self.line, f"invalid JSON: {reason}", column=column)

    def _move(self, position: int) -> None:
        """Move forward to a position, and count the lines in between."""
        lines = self._text.count("\n", self._position, position)
        if lines:
            self.line += lines
            self._line_start = self._text.rindex("\n", self._position, position) + 1
        self._position = position

    def _read(self, size: int) -> None:
        """Read another block, and drop the text before the current position."""
        lines = self.line - 1 + self._text.count("\n", self._position)
        try:
            block = self._binary.read(size)
            more = self._decoder.decode(block, final=not block)
        except READ_ERRORS as exc:
            raise read_error(exc, self.origin.file, lines) from exc
        self._text = self._text[self._position :] + more
        self._line_start -= self._position
        self._position = 0
        self._ended = not block
