"""Tables and columns made from data."""

from __future__ import annotations

import datetime as dt
import decimal
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from aioupsert._engines.sql import quote, quote_path
from aioupsert._plan.schema import TableName
from aioupsert.cli.databases import Engine

SAMPLE: Final = 10_000
"""How many rows types are guessed from."""

# What each kind of data is stored as. SQLite has no type for a date or JSON, and its
# NUMERIC would rewrite text that happens to look like a number.
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
# Several kinds in one column, and the one that holds them all.
_WIDER: Final = (
    ({"integer", "decimal"}, "decimal"),
    ({"integer", "decimal", "float"}, "float"),
    ({"date", "timestamp"}, "timestamp"),
)


def guess_types(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[str], engine: Engine
) -> dict[str, str]:
    """
    Name a type for each column, such that every value given is kept as it is.

    What is not certain is text: among others 007, +1, 1,5, and a column without values.
    """
    kinds: dict[str, set[str]] = {column: set() for column in columns}
    for row in rows:
        for column, value in row.items():
            if value is not None:
                kinds[column].add(_kind(value, engine))
    types = _TYPES[engine]
    return {
        column: types.get(_widest(found), types.get("text", "TEXT"))
        for column, found in kinds.items()
    }


def _widest(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    for narrow, wide in _WIDER:
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
# The order matters: a datetime is a date.
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

# Read back as they are written, and no more digits than 64 bits hold.
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
        # Without this, 1.10 would become 1.1.
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


def create_table(name: TableName, types: Mapping[str, str], key: Sequence[str]) -> str:
    """Write the statement that makes a table."""
    columns = ", ".join(f"{quote(column)} {type_}" for column, type_ in types.items())
    names = ", ".join(map(quote, key))
    # Someone else may just have made it.
    return (
        f"CREATE TABLE IF NOT EXISTS {quote_path(name)}"
        f" ({columns}, PRIMARY KEY ({names}))"
    )


def add_column(name: TableName, column: str, type_: str) -> str:
    """Write the statement that adds a column to a table."""
    return f"ALTER TABLE {quote_path(name)} ADD COLUMN {quote(column)} {type_}"
