"""Reading files as rows, lazily; an error in a row names the file and the line."""

from aioupsert.cli.reading.files import FORMATS, STDIN, Input, open_input
from aioupsert.cli.reading.rows import (
    ConvertedRow,
    Origin,
    ParquetRow,
    ReadOptions,
    Row,
    RowError,
    TimeText,
    TypedRow,
    duration_text,
    raise_error,
)

__all__ = [
    "FORMATS",
    "STDIN",
    "ConvertedRow",
    "Input",
    "Origin",
    "ParquetRow",
    "ReadOptions",
    "Row",
    "RowError",
    "TimeText",
    "TypedRow",
    "duration_text",
    "open_input",
    "raise_error",
]
