"""Reading Parquet with pyarrow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from aioupsert.cli.errors import LoadError, message_of
from aioupsert.cli.reading.rows import Origin, ParquetRow


def read_parquet(
    file: str, binary: BinaryIO, progress: Callable[[float], None]
) -> tuple[tuple[str, ...], Iterator[ParquetRow]]:
    """
    Return the names of the columns, and an iterator that reads the rows lazily.

    Args:
        file: The name of the file.
        binary: The open file.
        progress: Called after each batch with the fraction of rows read so far.

    Raises:
        LoadError: pyarrow is not installed, or the file is not Parquet.
    """
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as exc:
        msg = "reading Parquet needs pyarrow: pip install 'aioupsert[parquet]'"
        raise LoadError(msg) from exc
    errors = (arrow.ArrowException, OSError, ValueError)
    try:
        opened = parquet.ParquetFile(binary)
    except errors as exc:
        raise _not_parquet(file, exc) from exc
    names = tuple(opened.schema_arrow.names)
    if len(set(names)) < len(names) or not all(names):
        msg = f"{file}: every column needs a name, and names must not repeat"
        raise LoadError(msg)
    origin = Origin(file, "parquet", names, schema=opened.schema_arrow)
    return names, _rows(origin, opened, errors, progress)


def _rows(
    origin: Origin,
    opened: Any,
    errors: tuple[type[Exception], ...],
    progress: Callable[[float], None],
) -> Iterator[ParquetRow]:
    done, total = 0, opened.metadata.num_rows
    batches = opened.iter_batches(batch_size=_BATCH)
    while True:
        try:
            batch = next(batches, None)
            found: list[Any] = [] if batch is None else batch.to_pylist()
        except errors as exc:
            raise _not_parquet(origin.file, exc) from exc
        if batch is None:
            return
        for number, cells in enumerate(found, start=done + 1):
            row = ParquetRow(cells)
            row.origin = origin
            row.line = number
            row.batch, row.index = batch, number - done - 1
            yield row
        done += len(found)
        progress(done / total)


_BATCH: Final = 10_000


def _not_parquet(file: str, error: Exception) -> LoadError:
    return LoadError(f"{file} cannot be read as Parquet: {message_of(error)}")
