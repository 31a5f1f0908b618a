"""Rejected rows: counted, and written to a file from which they can be loaded again."""

from __future__ import annotations

import codecs
import importlib
import json
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from aioupsert.cli.errors import LoadError
from aioupsert.cli.outputs import OutputFile, cannot_write
from aioupsert.cli.reading import Origin, ParquetRow, RowError
from aioupsert.cli.values import to_json
from aioupsert.typing import Value

# How many rejected rows are printed if no file has them.
_MAX_SHOWN: Final = 10
_REASONS: Final = ".reasons.jsonl"
# Rows in memory, of some kilobyte each.
_MANY_PENDING: Final = 2_000
_MAX_PENDING: Final = 20_000


def reasons_path(path: Path) -> Path:
    """Return the name of the file that has the reasons, beside one of rejected rows."""
    return path.with_name(f"{path.name}{_REASONS}")


@dataclass(frozen=True, slots=True)
class MaxErrors:
    """
    How many rows may be rejected: a number of rows, or a share of those read.

    Attributes:
        rows: The number, or None.
        share: The share, from 0 to 1, or None.
    """

    rows: int | None = None
    share: float | None = None


class TooManyErrorsError(LoadError):
    """More rows were rejected than the user allows."""


class Rejects:
    """
    The rows that a load leaves out, in the order of the input.

    Attributes:
        count: How many there are.
        shown: The first of them, if no file has them.
        by_file: How many there are of each file.
    """

    def __init__(
        self,
        path: Path | None,
        encoding: str,
        may_write: Callable[[Path], object],
        limit: MaxErrors | None,
    ) -> None:
        """
        Open the file, if one was named.

        Args:
            path: The name of the file, or None.
            encoding: The encoding of text.
            may_write: Raises a ValueError for a file that must not be overwritten.
            limit: How many rows may be rejected, or None for any number.

        Raises:
            LoadError: The file cannot be written.
        """
        self.count: int = 0
        self.shown: list[RowError] = []
        self.by_file: Counter[str] = Counter()
        self._path = path
        self._encoding = "utf-8" if encoding == "utf-8-sig" else encoding
        self._may_write = may_write
        self._limit = limit or MaxErrors()
        self._pending: list[RowError] = []
        self._files: dict[Origin, _RejectsFile] = {}
        self._order: dict[str, int] = {}
        self._first: _RejectsFile | None = None
        self._is_finished = self._is_incomplete = False
        if path is not None:
            self._first = _RejectsFile(path, self._encoding)

    @property
    def can_restart(self) -> bool:
        """Whether nothing was written to what is no file, such as a pipe."""
        return not self.count or self._first is None or self._first.is_regular

    def restart(self) -> None:
        """
        Forget all rows.

        Raises:
            LoadError: The file cannot be written.
        """
        for file in self._all_files():
            file.finish(keep=False)
        self.count = 0
        self.shown.clear()
        self.by_file.clear()
        self._pending.clear()
        self._files.clear()
        self._order.clear()
        if self._path is not None:
            self._first = _RejectsFile(self._path, self._encoding)

    def _all_files(self) -> list[_RejectsFile]:
        files = {id(file): file for file in self._files.values()}
        if self._first is not None:
            files[id(self._first)] = self._first
        return [*files.values()]

    def add(self, error: RowError) -> None:
        """
        Add a row; it is written with its batch.

        Raises:
            TooManyErrorsError: There are more than allowed.
        """
        self._order.setdefault(error.file, len(self._order))
        self._pending.append(error)
        if len(self._pending) >= _MAX_PENDING:
            self.write()  # before its batch, rather than take more and more memory
        self.count += 1
        self.by_file[error.file] += 1
        if self._limit.rows is not None and self.count > self._limit.rows:
            msg = (
                f"{error}\nmore rows were rejected than --max-errors {self._limit.rows}"
            )
            raise TooManyErrorsError(msg)

    @property
    def are_many(self) -> bool:
        """Whether so many rows wait for their batch that it should be stored soon."""
        return len(self._pending) >= _MANY_PENDING

    def check_share(self, rows: int) -> None:
        """
        Check the share of rejected rows.

        Args:
            rows: How many rows were read, rejected ones included.

        Raises:
            TooManyErrorsError: It is larger than allowed.
        """
        share = self._limit.share
        if share is not None and self.count > share * rows:
            msg = (
                f"{self.count} of {rows} rows were rejected, more than --max-errors"
                f" {share * 100:g}%"
            )
            raise TooManyErrorsError(msg)

    def write(self) -> None:
        """
        Write the rows that were added since the last call, in their order.

        Raises:
            LoadError: A file cannot be written.
        """
        rows, self._pending = self._pending, []
        rows.sort(key=lambda row: (self._order[row.file], row.line))
        if self._first is None or not self._first.is_regular:
            self.shown += rows[: _MAX_SHOWN - len(self.shown)]
        if self._first is not None:
            with self._noticing_errors():
                for origin, row in [(row.origin, row) for row in rows if row.origin]:
                    self._file_of(origin).write(row)
                for file in self._files.values():
                    file.flush()

    @contextmanager
    def _noticing_errors(self) -> Generator[None]:
        """Remember that a file could not be written, or not to its end."""
        try:
            yield
        except LoadError:
            self._is_incomplete = True
            raise

    def _file_of(self, origin: Origin) -> _RejectsFile:
        """Return the file for rows of a format and header, of which it has one each."""
        if origin not in self._files:
            self._files[origin] = self._open(origin)
        return self._files[origin]

    def _open(self, origin: Origin) -> _RejectsFile:
        for other, file in self._files.items():
            if other.layout == origin.layout:
                return file
        if not self._files and self._first is not None:
            file = self._first
        else:
            path = self._path or Path()
            number = len({*map(id, self._files.values())}) + 1
            path = path.with_stem(f"{path.stem}-{number}")
            try:
                for written in (path, reasons_path(path)):
                    self._may_write(written)
            except ValueError as exc:
                raise LoadError(str(exc)) from exc
            file = _RejectsFile(path, self._encoding)
        file.begin(origin)
        return file

    def finish(self, *, failed: bool) -> None:
        """
        Write what is left, and give the files their names; do nothing the second time.

        A file of an earlier load is left as it is if this one failed without a rejected
        row.

        Raises:
            LoadError: A file cannot be written.
        """
        if self._is_finished:
            return
        self._is_finished = True
        keep = not failed or self.count > 0
        with self._noticing_errors():
            try:
                self.write()
            finally:
                with ExitStack() as stack:
                    for file in self._all_files():
                        stack.callback(file.finish, keep=keep)

    def notes(self) -> list[str]:
        """Return what the user is told about the rejected rows."""
        notes = [str(row) for row in self.shown]
        if self.shown and self.count > len(self.shown):
            notes.append(f"... and {self.count - len(self.shown)} more; see --rejects")
        if self.count and self._first is not None and self._first.is_regular:
            files = {id(file): file for file in self._files.values()}.values()
            names = ", ".join(str(file.path) for file in files)
            reasons = ", ".join(str(reasons_path(file.path)) for file in files)
            rows = (
                "1 rejected row is"
                if self.count == 1
                else f"{self.count} rejected rows are"
            )
            if self._is_incomplete:
                rows = f"not all of the {self.count} rejected rows are"
            notes.append(f"{rows} in {names}, with the reasons in {reasons}")
        return notes


@contextmanager
def open_rejects(
    path: Path | None,
    encoding: str,
    may_write: Callable[[Path], object],
    limit: MaxErrors | None,
) -> Generator[Rejects]:
    """
    Collect rejected rows while the block runs; keep what there is if it fails.

    Raises:
        LoadError: The file cannot be written.
    """
    rejects = Rejects(path, encoding, may_write, limit)
    try:
        yield rejects
    except BaseException:
        # The error that ended the load is worth more than one of writing.
        with suppress(LoadError):
            rejects.finish(failed=True)
        raise
    rejects.finish(failed=False)


@contextmanager
def _writing(path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:
        raise cannot_write(path, exc) from exc


class _RejectsFile:
    """A file of rejected rows in the format of the input, and one of the reasons."""

    def __init__(self, path: Path, encoding: str) -> None:
        self.path = path
        self._encoding = encoding
        self._records: list[_Records] = []
        self._output = OutputFile(path)
        self.is_regular = self._output.is_regular
        self._reasons: OutputFile | None = None
        if self.is_regular:
            try:
                self._reasons = OutputFile(reasons_path(path))
            except LoadError:
                self._output.finish(keep=False)
                raise

    def begin(self, origin: Origin) -> None:
        """Begin to write rows of a format."""
        self._records = [_records(self._output, origin, self._encoding)]

    def write(self, error: RowError) -> None:
        """Write a row, and the reason."""
        reason = {
            "file": error.file,
            "line": error.line,
            "column": error.column,
            "reason": error.reason,
        }
        with _writing(self.path):
            for records in self._records:
                records.write(error)
            if self._reasons is not None:
                line = json.dumps(reason, ensure_ascii=False)
                self._reasons.binary.write(line.encode("utf-8", "replace") + b"\n")

    def flush(self) -> None:
        """Hand what was written to the system."""
        with _writing(self.path):
            self._output.binary.flush()
            if self._reasons is not None:
                self._reasons.binary.flush()

    def finish(self, *, keep: bool) -> None:
        """Close both files, and give them their names or remove them."""
        with ExitStack() as stack:
            stack.callback(self._output.finish, keep=keep)
            if self._reasons is not None:
                stack.callback(self._reasons.finish, keep=keep)
            with _writing(self.path):
                for records in self._records if keep else ():
                    records.close()


class _Records(Protocol):
    """Writes rows in a format."""

    def write(self, error: RowError, /) -> None:
        """Write a row."""
        ...

    def close(self) -> None:
        """Write what the format has at its end."""
        ...


def _records(output: OutputFile, origin: Origin, encoding: str) -> _Records:
    if origin.format == "parquet":
        return _ParquetRecords(output, origin)
    if origin.format == "json":
        return _TextRecords(output, encoding, _json_text, ("[\n", ",\n", "\n]\n"))
    if origin.format == "jsonl":
        return _TextRecords(output, encoding, _json_text, ("", "\n", "\n"))
    start = ""
    if origin.header is not None:
        start = origin.dialect.write(origin.header) + "\n"
    return _TextRecords(output, encoding, _delimited_text, (start, "\n", "\n"))


class _TextRecords:
    """Writes text: a start, the rows, something between two of them, and an end."""

    def __init__(
        self,
        output: OutputFile,
        encoding: str,
        write: Callable[[RowError], str],
        frame: tuple[str, str, str],
    ) -> None:
        self._binary = output.binary
        self._encoder = codecs.getincrementalencoder(encoding)("replace")
        self._text = write
        self._next, self._between, self._end = frame

    def write(self, error: RowError, /) -> None:
        text = self._next + self._text(error)
        self._binary.write(self._encoder.encode(text))
        self._next = self._between

    def close(self) -> None:
        self._binary.write(self._encoder.encode(self._end, final=True))


def _json_text(error: RowError) -> str:
    return to_json(error.row) if error.text is None else error.text


def _delimited_text(error: RowError) -> str:
    if error.text is not None or error.origin is None:
        return error.text or ""
    return error.origin.dialect.write(map(error.row.get, error.origin.columns))


class _ParquetRecords:
    """Writes Parquet, a group of rows at a time."""

    def __init__(self, output: OutputFile, origin: Origin) -> None:
        self._arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
        self._schema = origin.schema
        self._writer: Any = parquet.ParquetWriter(output.binary, origin.schema)
        self._rows: list[Value] = []

    def write(self, error: RowError, /) -> None:
        row: ParquetRow = error.row
        self._rows.append(row.table.slice(row.index, 1))
        if len(self._rows) >= _ROW_GROUP:
            self._write_group()

    def _write_group(self) -> None:
        table = self._arrow.concat_tables(self._rows or [self._schema.empty_table()])
        self._writer.write_table(table.combine_chunks())
        self._rows.clear()

    def close(self) -> None:
        self._write_group()
        self._writer.close()


_ROW_GROUP: Final = 1_000
