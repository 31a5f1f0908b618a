"""One input of several files, which may have different formats."""

from __future__ import annotations

import gzip
import io
import itertools
import stat
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from aioupsert.cli.errors import LoadError, message_of
from aioupsert.cli.reading.delimited import read_delimited
from aioupsert.cli.reading.json import read_json, read_json_lines
from aioupsert.cli.reading.parquet import read_parquet
from aioupsert.cli.reading.rows import ReadOptions, Row

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FORMATS: Final[dict[str, tuple[str, ...]]] = {
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "parquet": (".parquet", ".pq"),
}
"""The formats, each with the file name extensions that select it."""
_GZIP: Final = b"\x1f\x8b"
STDIN: Final = Path("-")
"""The name of standard input."""


class Input:
    """
    Files that are read one after the other, as one input.

    Attributes:
        name: The name of the input in messages.
        columns: The columns of the header or, in a format without one, of the first
            row.
        size: The size of all files in bytes, or None if unknown.
        waiting: Whether a read of standard input is blocking right now.
    """

    def __init__(
        self, files: Sequence[Path], options: ReadOptions, stack: ExitStack
    ) -> None:
        """Open the first file and read the columns."""
        self.name: str = _name(files[0]) if len(files) == 1 else f"{len(files)} files"
        self.waiting: bool = False
        self._files = [*files]
        self._options = options
        self._stack = stack
        self._sizes = {file: _size(file) for file in files}
        sizes = [self._sizes[file] for file in files]
        self.size: int | None = None if None in sizes else sum(filter(None, sizes))
        self._done = 0
        self._raw: BinaryIO | None = None
        self._share: float | None = None
        header, rows = self._open(files[0])
        others = itertools.chain.from_iterable(map(self._open_next, files[1:]))
        self._rows = itertools.chain(rows, others)
        self.columns: tuple[str, ...] = header or tuple(
            dict.fromkeys(itertools.chain(*self.peek(1)))
        )

    @property
    def rows(self) -> Iterator[Row]:
        """An iterator that reads the rows lazily; they can be read once."""
        return self._rows

    def peek(self, number: int) -> list[Row]:
        """Return the first rows without consuming them."""
        first = [*itertools.islice(self._rows, number)]
        self._rows = itertools.chain(first, self._rows)
        return first

    def position(self) -> int:
        """Return the number of bytes that were read, if the size is known."""
        if self.size is None or self._raw is None:
            return self._done
        if self._share is not None:
            return self._done + int(self._share * (self._sizes[self._file] or 0))
        return self._done + self._raw.tell()

    def _open_next(self, file: Path) -> Iterator[Row]:
        """Close the current file, open the next one and return its rows."""
        self._raw = None
        self._done += self._sizes[self._file] or 0
        self._stack.close()
        _, rows = self._open(file)
        return rows

    def _open(self, file: Path) -> tuple[tuple[str, ...], Iterator[Row]]:
        """Open a file, to be closed with the stack; return its columns and rows."""
        self._file, self._share = file, None
        name, kind = _name(file), self._options.format or _format(file)
        binary = self._stack.enter_context(self._binary(file))
        if kind == "parquet":
            if file == STDIN:
                msg = "Parquet is read from its end, so it cannot come from standard input"
                raise LoadError(msg)
            return read_parquet(name, binary, self._record_share)
        try:
            if binary.peek(2)[:2] == _GZIP:
                unpacked = gzip.GzipFile(fileobj=binary)
                binary = io.BufferedReader(cast("io.RawIOBase", unpacked))
        except OSError as exc:
            raise _cannot_read(file, exc) from exc
        if kind == "json":
            return (), read_json(name, binary, self._options)
        # newline="": the csv module handles line ends itself, including those in cells.
        text = io.TextIOWrapper(binary, self._options.encoding, newline="")
        # Detached, so that closing the text does not also close the file.
        self._stack.callback(text.detach)
        if kind == "jsonl":
            return (), read_json_lines(name, text, self._options)
        delimiter = "\t" if kind == "tsv" else ","
        return read_delimited(name, text, self._options, delimiter)

    @contextmanager
    def _binary(self, file: Path) -> Generator[io.BufferedReader[Any]]:
        if file == STDIN:
            binary = io.BufferedReader(_StandardInput(self))
            try:
                yield binary
            finally:
                binary.detach()
            return
        try:
            opened = file.open("rb")
        except (OSError, ValueError) as exc:
            raise _cannot_read(file, exc) from exc
        with opened:
            self._raw = opened
            yield opened

    def _record_share(self, share: float) -> None:
        self._share = share


class _StandardInput(io.RawIOBase):
    """Standard input, which marks its input as waiting while a read blocks."""

    def __init__(self, source: Input) -> None:
        self._source = source
        self._binary = cast("io.BufferedReader", sys.stdin.buffer)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._source.waiting = True
        try:
            # readinto would block until the buffer is full.
            return self._binary.readinto1(buffer)
        finally:
            self._source.waiting = False


@contextmanager
def open_input(files: Sequence[Path], options: ReadOptions) -> Generator[Input]:
    """
    Open files as one input; ``-`` or no file means standard input.

    Raises:
        LoadError: A file cannot be opened, or the header of the first is invalid.
    """
    with ExitStack() as stack:
        yield Input(files or [STDIN], options, stack)


def _name(file: Path) -> str:
    return "standard input" if file == STDIN else str(file)


def _format(file: Path) -> str:
    """Return the format that a file's name selects."""
    name = file.name.lower().removesuffix(".gz")
    for kind, ends in FORMATS.items():
        if name.endswith(ends):
            return kind
    return "csv"


def _size(file: Path) -> int | None:
    """Return a file's size in bytes, or None if it has none, such as a pipe."""
    if file == STDIN:
        return None
    try:
        status = file.stat()
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            file.open("rb").close()  # fail now rather than after the files before it
            return status.st_size
    except (OSError, ValueError) as exc:
        raise _cannot_read(file, exc) from exc
    return None


def _cannot_read(file: Path, error: Exception) -> LoadError:
    reason = getattr(error, "strerror", None) or message_of(error)
    return LoadError(f"cannot read {_name(file)}: {reason}")
