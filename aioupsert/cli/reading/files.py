"""Several files, of any format, as one input."""

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

from aioupsert.cli.errors import LoadError, words
from aioupsert.cli.reading.delimited import read_delimited
from aioupsert.cli.reading.json import read_json, read_json_lines
from aioupsert.cli.reading.parquet import read_parquet
from aioupsert.cli.reading.rows import How, Row

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FORMATS: Final[dict[str, tuple[str, ...]]] = {
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "parquet": (".parquet", ".pq"),
}
"""What can be read, with the ends of such files' names."""
_GZIP: Final = b"\x1f\x8b"
_STDIN: Final = Path("-")


class Input:
    """
    Files as one input.

    Attributes:
        name: What messages call it.
        columns: The columns, as far as a header or the first rows tell.
        size: How many bytes there are to read, or None where nobody knows.
        waits: Whether standard input is being waited for just now.
    """

    def __init__(self, files: Sequence[Path], how: How, stack: ExitStack) -> None:
        """Read what tells the columns."""
        self.name: str = _name(files[0]) if len(files) == 1 else f"{len(files)} files"
        self.waits: bool = False
        self._files = [*files]
        self._how = how
        self._stack = stack
        self._sizes = {file: _size(file) for file in files}
        sizes = [self._sizes[file] for file in files]
        self.size: int | None = None if None in sizes else sum(filter(None, sizes))
        self._done = 0
        self._raw: BinaryIO | None = None
        self._share: float | None = None
        header, rows = self._open(files[0])
        others = itertools.chain.from_iterable(map(self._read_other, files[1:]))
        self._rows = itertools.chain(rows, others)
        self.columns: tuple[str, ...] = header or tuple(
            dict.fromkeys(itertools.chain(*self.peek(1)))
        )

    @property
    def rows(self) -> Iterator[Row]:
        """The rows, which are read as they are asked for, once."""
        return self._rows

    def peek(self, number: int) -> list[Row]:
        """Give the first rows, and keep them for later."""
        first = [*itertools.islice(self._rows, number)]
        self._rows = itertools.chain(first, self._rows)
        return first

    def position(self) -> int:
        """Tell how many bytes have been read, where the size is known."""
        if self.size is None or self._raw is None:
            return self._done
        if self._share is not None:
            return self._done + int(self._share * (self._sizes[self._file] or 0))
        return self._done + self._raw.tell()

    def _read_other(self, file: Path) -> Iterator[Row]:
        """Read a file that is not the first."""
        self._raw = None
        self._done += self._sizes[self._file] or 0
        self._stack.close()
        _, rows = self._open(file)
        return rows

    def _open(self, file: Path) -> tuple[tuple[str, ...], Iterator[Row]]:
        """Open a file, and close it with the stack."""
        self._file, self._share = file, None
        name, kind = _name(file), self._how.format or _format(file)
        binary = self._stack.enter_context(self._binary(file))
        if kind == "parquet":
            if file == _STDIN:
                msg = "Parquet is read from the end, which standard input has not"
                raise LoadError(msg)
            return read_parquet(name, binary, self._pass)
        try:
            if binary.peek(2)[:2] == _GZIP:
                unpacked = gzip.GzipFile(fileobj=binary)
                binary = io.BufferedReader(cast("io.RawIOBase", unpacked))
        except OSError as exc:
            raise _unreadable(file, exc) from exc
        if kind == "json":
            return (), read_json(name, binary, self._how)
        # newline: the csv module reads line ends itself, those in cells too.
        text = io.TextIOWrapper(binary, self._how.encoding, newline="")
        # Whoever opened the file closes it.
        self._stack.callback(text.detach)
        if kind == "jsonl":
            return (), read_json_lines(name, text, self._how)
        delimiter = "\t" if kind == "tsv" else ","
        return read_delimited(name, text, self._how, delimiter)

    @contextmanager
    def _binary(self, file: Path) -> Generator[io.BufferedReader[Any]]:
        if file == _STDIN:
            binary = io.BufferedReader(_Waiting(self))
            try:
                yield binary
            finally:
                binary.detach()
            return
        try:
            opened = file.open("rb")
        except (OSError, ValueError) as exc:
            raise _unreadable(file, exc) from exc
        with opened:
            self._raw = opened
            yield opened

    def _pass(self, share: float) -> None:
        self._share = share


class _Waiting(io.RawIOBase):
    """Standard input; says when it is waited for, as that cannot be cancelled."""

    def __init__(self, source: Input) -> None:
        self._source = source
        self._binary = cast("io.BufferedReader", sys.stdin.buffer)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        self._source.waits = True
        try:
            # Not readinto, which waits until the buffer is full.
            return self._binary.readinto1(buffer)
        finally:
            self._source.waits = False


@contextmanager
def open_input(files: Sequence[Path], how: How) -> Generator[Input]:
    """
    Open files as one input; ``-``, or no file, is standard input.

    Raises:
        LoadError: One cannot be opened, or the first has no usable header.
    """
    with ExitStack() as stack:
        yield Input(files or [_STDIN], how, stack)


def _name(file: Path) -> str:
    return "standard input" if file == _STDIN else str(file)


def _format(file: Path) -> str:
    """Go by a file's name."""
    name = file.name.lower().removesuffix(".gz")
    for kind, ends in FORMATS.items():
        if name.endswith(ends):
            return kind
    return "csv"


def _size(file: Path) -> int | None:
    """Give a file's size, or None where it has none."""
    if file == _STDIN:
        return None
    try:
        status = file.stat()
        if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
            file.open("rb").close()  # says now what would else be found out late
            return status.st_size
    except (OSError, ValueError) as exc:
        raise _unreadable(file, exc) from exc
    return None


def _unreadable(file: Path, error: Exception) -> LoadError:
    reason = getattr(error, "strerror", None) or words(error)
    return LoadError(f"cannot read {_name(file)}: {reason}")
