"""Creating tables and columns whose types are guessed from data."""

from __future__ import annotations

import datetime as dt
import decimal
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from aioupsert._engines.sql import quote, quote_path
from aioupsert._plan.schema import TableName
from aioupsert.cli.databases import Engine

SAMPLE_ROWS: Final = 10_000
"""The number of rows from which types are guessed."""

# The column type for each kind of data. SQLite has no type for dates or JSON, and its
# NUMERIC affinity would rewrite text that looks like a number.
_TYPES: Final[dict[Engine, dict[str, str]]] = {
    "postgresql": {
        "boolean": "boolean",
        "integer": "bigint",
        "decimal": "numeric",
        "float": "double precision",
        "date": "date",
        "timestamp": "timestamp",
        "timestamptz": "timestamptz",
        "bytes": "bytea",
        "json": "jsonb",
        "text": "text",
    },
    "sqlite": {
        "boolean": "BOOLEAN",
        "integer": "INTEGER",
        "float": "REAL",
        "bytes": "BLOB",
    },
}
# For a column with several kinds of data, the kind that can hold all of them.
_COMMON_TYPES: Final = (
    ({"integer", "decimal"}, "decimal"),
    ({"integer", "decimal", "float"}, "float"),
    ({"date", "timestamp"}, "timestamp"),
)


def guess_types(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], engine: Engine
) -> dict[str, str]:
    """
    Return a type for each column that keeps every given value as it is.

    In case of doubt the type is text, such as for 007, +1, 1,5 or a column without
    values.
    """
    kinds: dict[str, set[str]] = {column: set() for column in columns}
    for row in rows:
        for column, value in row.items():
            if value is not None:
                kinds[column].add(_kind(value, engine))
    types = _TYPES[engine]
    return {
        column: types.get(_common_type(found), types.get("text", "TEXT"))
        for column, found in kinds.items()
    }


def _common_type(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    for narrow, wide in _COMMON_TYPES:
        if kinds and kinds <= narrow:
            return wide
    return "text"


def _kind(value: Any, engine: Engine) -> str:
    if isinstance(value, str):
        return _kind_of_text(value, engine)
    if isinstance(value, int) and not isinstance(value, bool):
        return "integer" if -_INT64 <= value < _INT64 else "decimal"
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return "timestamptz"
    return next((kind for cls, kind in _KINDS.items() if isinstance(value, cls)), "")


_INT64: Final = 2**63
# The order matters: a datetime is also a date.
_KINDS: Final[dict[type, str]] = {
    bool: "boolean",
    float: "float",
    decimal.Decimal: "decimal",
    dt.datetime: "timestamp",
    dt.date: "date",
    bytes: "bytes",
    dict: "json",
    list: "json",
}

# Only text that a number would be written back as, with digits that 64 bits can hold.
_INTEGER: Final = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)
_DECIMAL: Final = re.compile(r"-?(0|[1-9]\d*)\.\d+", re.ASCII)
_FLOAT: Final = re.compile(r"-?\d(\.\d+)?[eE][-+]?\d{1,2}", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIMESTAMP: Final = re.compile(
    _DATE.pattern + r"[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[-+]\d{2}(:?\d{2})?)?",
    re.ASCII,
)


def _kind_of_text(text: str, engine: Engine) -> str:
    if text in {"true", "false"}:
        return "boolean"
    if _INTEGER.fullmatch(text):
        return "integer"
    if _DECIMAL.fullmatch(text):
        if engine == "postgresql":
            return "decimal"
        # SQLite would turn 1.10 into 1.1.
        return "float" if repr(float(text)) == text else "text"
    if _FLOAT.fullmatch(text):
        return "float" if engine == "postgresql" else "text"
    if _DATE.fullmatch(text) or _TIMESTAMP.fullmatch(text):
        return _kind_of_time(text)
    return "text"


def _kind_of_time(text: str) -> str:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        return "text"
    if moment.tzinfo is not None:
        return "timestamptz"
    return "date" if _DATE.fullmatch(text) else "timestamp"


def create_table_sql(
    name: TableName, types: Mapping[str, str], key: Sequence[str]
) -> str:
    """Write the statement that creates a table."""
    columns = ", ".join(f"{quote(column)} {type_}" for column, type_ in types.items())
    names = ", ".join(map(quote, key))
    # Another process may have created it in the meantime.
    return (
        f"CREATE TABLE IF NOT EXISTS {quote_path(name)}"
        f" ({columns}, PRIMARY KEY ({names}))"
    )


def add_column_sql(name: TableName, column: str, type_: str) -> str:
    """Write the statement that adds a column to a table."""
    return f"ALTER TABLE {quote_path(name)} ADD COLUMN {quote(column)} {type_}"
