"""Parquet, by pyarrow."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final

from aioupsert.cli.errors import LoadError, words
from aioupsert.cli.reading.rows import TypedRow


def read_parquet(
    file: str, binary: BinaryIO, passed: Callable[[float], None]
) -> tuple[tuple[str, ...], Iterator[TypedRow]]:
    """
    Read the names of the columns, and the rows as they are asked for.

    Args:
        file: The file.
        binary: The same, opened.
        passed: Called with the share of the rows that is read.

    Raises:
        LoadError: There is no pyarrow, or this is no Parquet.
    """
    try:
        arrow = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as exc:
        msg = "Parquet needs: pip install 'aioupsert[parquet]'"
        raise LoadError(msg) from exc
    errors = (arrow.ArrowException, OSError, ValueError)
    try:
        opened = parquet.ParquetFile(binary)
    except errors as exc:
        raise _no_parquet(file, exc) from exc
    names = tuple(opened.schema_arrow.names)
    if len(set(names)) < len(names) or not all(names):
        msg = f"{file}: its columns need names, each its own"
        raise LoadError(msg)
    return names, _rows(file, opened, errors, passed)


def _rows(
    file: str,
    opened: Any,
    errors: tuple[type[Exception], ...],
    passed: Callable[[float], None],
) -> Iterator[TypedRow]:
    done, total = 0, opened.metadata.num_rows
    batches = opened.iter_batches(batch_size=_BATCH)
    while True:
        try:
            batch = next(batches, None)
            found: list[Any] = [] if batch is None else batch.to_pylist()
        except errors as exc:
            raise _no_parquet(file, exc) from exc
        if batch is None:
            return
        for number, cells in enumerate(found, start=done + 1):
            row = TypedRow(cells)
            row.file = file
            row.line = number
            yield row
        done += len(found)
        passed(done / total)


_BATCH: Final = 10_000


def _no_parquet(file: str, error: Exception) -> LoadError:
    return LoadError(f"{file} cannot be read as Parquet: {words(error)}")
