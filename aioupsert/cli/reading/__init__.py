"""Files as rows, lazily; whatever is wrong with one is said with its line."""

from aioupsert.cli.reading.files import FORMATS, Input, open_input
from aioupsert.cli.reading.rows import ConvertedRow, How, Row, TypedRow

__all__ = ["FORMATS", "ConvertedRow", "How", "Input", "Row", "TypedRow", "open_input"]
