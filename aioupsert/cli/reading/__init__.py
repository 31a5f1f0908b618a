"""Reading files as rows, lazily; an error in a row names the file and the line."""

from aioupsert.cli.reading.files import FORMATS, STDIN, Input, open_input
from aioupsert.cli.reading.rows import (
    MOST_ROWS,
    CellRows,
    ConvertedRow,
    Origin,
    ParquetRow,
    Part,
    ReadOptions,
    Row,
    RowError,
    TimeText,
    TypedRow,
    duration_text,
    each_row,
    joined,
    raise_error,
    rows_at_once,
)

__all__ = [
    "FORMATS",
    "MOST_ROWS",
    "STDIN",
    "CellRows",
    "ConvertedRow",
    "Input",
    "Origin",
    "ParquetRow",
    "Part",
    "ReadOptions",
    "Row",
    "RowError",
    "TimeText",
    "TypedRow",
    "duration_text",
    "each_row",
    "joined",
    "open_input",
    "raise_error",
    "rows_at_once",
]
