"""One input of several files, which may have different formats."""

from __future__ import annotations

import io
import itertools
import shutil
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, Final, cast

from aioupsert.cli.errors import LoadError, message_of
from aioupsert.cli.reading.contents import encoding_of, format_of, is_zip, unpack
from aioupsert.cli.reading.copy import read_copy
from aioupsert.cli.reading.delimited import read_delimited
from aioupsert.cli.reading.json import read_json, read_json_lines
from aioupsert.cli.reading.parquet import read_parquet
from aioupsert.cli.reading.rows import (
    READ_ERRORS,
    CellRows,
    Part,
    ReadOptions,
    Row,
    RowError,
    each_row,
)
from aioupsert.errors import UnknownColumnError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FORMATS: Final[dict[str, tuple[str, ...]]] = {
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "parquet": (".parquet", ".pq"),
    "copy": (),
}
"""The formats, each with the file name extensions that select it."""
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
        notes: What the user is told about how the files are read.
    """

    def __init__(
        self,
        files: Sequence[Path],
        options: ReadOptions,
        stack: ExitStack,
        streams: ExitStack,
    ) -> None:
        """
        Open the first file and read the columns.

        Args:
            files: The files.
            options: How to read them.
            stack: Closes the current file.
            streams: Closes what is kept open until the end, such as a pipe.
        """
        self.name: str = _name(files[0]) if len(files) == 1 else f"{len(files)} files"
        self.waiting: bool = False
        self.notes: list[str] = []
        self._files = [*files]
        self._on_bad_row = options.on_bad_row
        self._options = replace(options, on_bad_row=self._report)
        self._stack = stack
        self._streams = streams
        self._copies: dict[Path, _CopiedStream] = {}
        self._bad_rows = self._reported = 0
        self._bad_rows_of: Counter[str] = Counter()
        self._surveying = False
        self._sizes = {file: _size(file) for file in files}
        sizes = [self._sizes[file] for file in files]
        self.size: int | None = None if None in sizes else sum(filter(None, sizes))
        header = self._begin()
        self.columns: tuple[str, ...] = header or tuple(
            dict.fromkeys(itertools.chain(*self.peek(1)))
        )

    def _begin(self) -> tuple[str, ...]:
        """Open the first file, and return its header."""
        self._stack.close()
        self._done = self._bad_rows = 0
        self._raw: BinaryIO | None = None
        self._share: float | None = None
        self._counted: list[_CountedParts] = []
        header, parts = self._open(self._files[0])
        others = itertools.chain.from_iterable(map(self._open_next, self._files[1:]))
        self._parts: Iterator[Part] = itertools.chain(parts, others)
        chosen = self._options.columns if self._options.header else None
        names = self._options.names
        if chosen is None and not names:
            return header
        for name in (*(chosen or ()), *names):
            if header and name not in header:
                error = UnknownColumnError(self.name, [name], header)
                raise LoadError(str(error).removeprefix("table "))
        self._parts = _chosen(self._parts, chosen, names, self._report_named)
        return tuple(names.get(n, n) for n in header if chosen is None or n in chosen)

    def _report(self, error: RowError) -> None:
        """Report a bad row, but not again when it is read again."""
        if self._is_new():
            self._bad_rows_of[error.file] += 1
            self._on_bad_row(error)

    def _report_named(self, error: RowError) -> None:
        """Do the same with a row that was read, and so is counted already."""
        if self._is_new():
            self._on_bad_row(error)

    def _is_new(self) -> bool:
        """Return whether a bad row was not reported before, and is to be now."""
        self._bad_rows += 1
        if self._bad_rows <= self._reported or self._surveying:
            return False
        self._reported = self._bad_rows
        return True

    def survey(self, number: int | None) -> Iterator[Row]:
        """
        Yield the first rows, or all of them, without consuming them.

        Bad rows are left out, and reported once the rows are read.

        Args:
            number: How many rows, or None for all. Those are read again from the files,
                and what comes by a pipe is copied to the disk.
        """
        if number is not None:
            yield from self.peek(number)
            return
        self._surveying = True
        try:
            self._begin()
            yield from self.rows
        finally:
            self._surveying = False
            self._begin()

    def restart(self) -> None:
        """Read the files again from the start, and report their bad rows again."""
        self._reported = 0
        self._bad_rows_of.clear()
        self._begin()

    def keep_no_copy(self) -> None:
        """Stop to copy what comes by a pipe: there will be no survey."""
        for copy in self._copies.values():
            copy.stop()

    @property
    def parts(self) -> Iterator[Part]:
        """An iterator that reads the rows lazily; they can be read once."""
        return self._parts

    @property
    def rows(self) -> Iterator[Row]:
        """The same, with each row by itself."""
        return each_row(self._parts)

    def count_rows(self) -> list[tuple[str, int]]:
        """Return how many rows each file has, bad ones included, once all are read."""
        return [
            (parts.name, parts.rows + self._bad_rows_of[parts.name])
            for parts in self._counted
        ]

    def peek(self, number: int) -> list[Row]:
        """Return the first rows without consuming them."""
        first: list[Part] = []
        rows: list[Row] = []
        while len(rows) < number and (part := next(self._parts, None)) is not None:
            first.append(part)
            rows += each_row([part])
        self._parts = itertools.chain(first, self._parts)
        return rows[:number]

    def position(self) -> int:
        """Return the number of bytes that were read, if the size is known."""
        if self.size is None or self._raw is None:
            return self._done
        if self._share is not None:
            return self._done + int(self._share * (self._sizes[self._file] or 0))
        return self._done + self._raw.tell()

    def _open_next(self, file: Path) -> Iterator[Part]:
        """Close the current file, open the next one and return its rows."""
        self._raw = None
        self._done += self._sizes[self._file] or 0
        self._stack.close()
        _, parts = self._open(file)
        return parts

    def _open(self, file: Path) -> tuple[tuple[str, ...], Iterator[Part]]:
        """Open a file, to be closed with the stack; return its columns and rows."""
        header, parts = self._open_as_it_is(file)
        counted = _CountedParts(_name(file), parts)
        self._counted.append(counted)
        return header, iter(counted)

    def _open_as_it_is(self, file: Path) -> tuple[tuple[str, ...], Iterator[Part]]:
        self._file, self._share = file, None
        name, options = _name(file), self._options
        kind = options.format or _format(file)
        binary = self._stack.enter_context(self._binary(file))
        try:
            if self._sizes[file] is None and is_zip(binary):
                binary = self._copy(binary)
            if kind != "parquet":
                binary = unpack(name, binary, self._stack)
            kind = kind or format_of(binary) or "csv"
            if kind == "parquet" and not binary.seekable():
                binary = self._copy(binary)
            encoding = options.encoding
            if encoding == "utf-8-sig" and kind != "parquet":
                encoding = encoding_of(binary) or encoding
                options = replace(options, encoding=encoding)
        except (*READ_ERRORS, ValueError) as exc:
            raise _cannot_read(file, exc) from exc
        if kind == "parquet":
            return read_parquet(name, binary, self._record_share)
        if kind == "json":
            return (), read_json(name, binary, options)
        return self._open_text(name, binary, kind, options)

    def _open_text(
        self, name: str, binary: BinaryIO, kind: str, options: ReadOptions
    ) -> tuple[tuple[str, ...], Iterator[Part]]:
        """Do the same with a file of lines."""
        # newline="": the csv module handles line ends itself, including those in cells.
        text = io.TextIOWrapper(
            binary, options.encoding, options.encoding_errors, newline=""
        )
        # Detached, so that closing the text does not also close the file.
        self._stack.callback(text.detach)
        if kind == "jsonl":
            return (), read_json_lines(name, text, options)
        if kind == "copy":
            found = read_copy(name, text, options, options.encoding)
        else:
            delimiter = "\t" if kind == "tsv" else None
            found = read_delimited(name, text, options, delimiter)
        if found.note is not None and found.note not in self.notes:
            self.notes.append(found.note)
        return found.header, found.rows

    def _copy(self, binary: IO[bytes]) -> io.BufferedReader:
        """Return a copy of what is read from its end, such as Parquet."""
        copy = _temporary(self._stack)
        shutil.copyfileobj(binary, copy)
        copy.seek(0)
        return cast("io.BufferedReader", copy)

    @contextmanager
    def _binary(self, file: Path) -> Generator[io.BufferedReader]:
        stream: io.RawIOBase | None = None
        if self._options.read_twice and self._sizes[file] is None:
            stream = self._copied(file)
        elif file == STDIN:
            stream = _StandardInput(self)
        if stream is not None:
            binary: io.BufferedReader = io.BufferedReader(stream)
            try:
                yield binary
            finally:
                binary.detach()
            return
        with _opened(file) as opened:
            self._raw = opened
            yield opened

    def _copied(self, file: Path) -> _CopiedStream:
        """Return a stream at its start, as it was or will be read."""
        if file not in self._copies:
            stream: io.RawIOBase = _StandardInput(self)
            if file != STDIN:
                stream = self._streams.enter_context(_opened(file).detach())
            self._copies[file] = _CopiedStream(stream, _temporary(self._streams))
        self._copies[file].rewind()
        return self._copies[file]

    def _record_share(self, share: float) -> None:
        self._share = share


class _CountedParts:
    """
    The rows of a file.

    Attributes:
        name: The name of the file.
        rows: How many of them were read.
    """

    def __init__(self, name: str, parts: Iterable[Part]) -> None:
        self.name = name
        self.rows: int = 0
        self._parts = parts

    def __iter__(self) -> Iterator[Part]:
        for part in self._parts:
            self.rows += len(part) if isinstance(part, CellRows) else 1
            yield part


def _chosen(
    parts: Iterator[Part],
    columns: Sequence[str] | None,
    names: Mapping[str, str],
    on_bad_row: Callable[[RowError], object],
) -> Iterator[Part]:
    """Yield rows with some columns, or with other names."""
    for part in parts:
        given = part.names if isinstance(part, CellRows) else part.keys()
        taken = {
            name: names.get(name, name)
            for name in given
            if columns is None or name in columns
        }
        try:
            renamed = part.with_names(taken)
        except RowError as exc:
            on_bad_row(exc)
            continue
        yield renamed


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


class _CopiedStream(io.RawIOBase):
    """A stream that is copied while it is read, so that it can be read again."""

    def __init__(self, stream: io.RawIOBase, copy: IO[bytes]) -> None:
        self._stream = stream
        self._copy = copy
        self._copied = 0
        self._position = 0
        self._stopped = False

    def rewind(self) -> None:
        """Return to the start."""
        self._position = 0

    def stop(self) -> None:
        """Copy no more."""
        self._stopped = True

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        if self._position < self._copied:
            self._copy.seek(self._position)
            block = self._copy.read(len(view))
            view[: len(block)] = block
            self._position += len(block)
            return len(block)
        size = self._stream.readinto(view) or 0
        if not self._stopped:
            self._copy.seek(0, io.SEEK_END)
            self._copy.write(view[:size])
            self._copied += size
            self._position += size
        return size


def _temporary(stack: ExitStack) -> IO[bytes]:
    return stack.enter_context(tempfile.TemporaryFile())


def _opened(file: Path) -> io.BufferedReader:
    try:
        return file.open("rb")
    except (OSError, ValueError) as exc:
        raise _cannot_read(file, exc) from exc


@contextmanager
def open_input(files: Sequence[Path], options: ReadOptions) -> Generator[Input]:
    """
    Open files as one input; ``-`` or no file means standard input.

    Raises:
        LoadError: A file cannot be opened, or the header of the first is invalid.
    """
    with ExitStack() as streams, ExitStack() as stack:
        yield Input(files or [STDIN], options, stack, streams)


def _name(file: Path) -> str:
    return "standard input" if file == STDIN else str(file)


# The names of packed files.
_PACKED: Final = (".gz", ".bz2", ".xz", ".zst", ".zip")


def _format(file: Path) -> str | None:
    """Return the format that a file's name selects, if it does."""
    name = file.name.lower()
    for end in _PACKED:
        name = name.removesuffix(end)
    for kind, ends in FORMATS.items():
        if name.endswith(ends):
            return kind
    return None


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
