"""Reading files as rows, lazily; an error in a row names the file and the line."""

from aioupsert.cli.reading.files import FORMATS, Input, open_input
from aioupsert.cli.reading.rows import ConvertedRow, ReadOptions, Row, TypedRow

__all__ = [
    "FORMATS",
    "ConvertedRow",
    "Input",
    "ReadOptions",
    "Row",
    "TypedRow",
    "open_input",
]
