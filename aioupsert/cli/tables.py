"""Creating tables and columns whose types are guessed from data."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from aioupsert._engines.sql import quote, quote_path
from aioupsert._plan.schema import TableName
from aioupsert.cli.databases import Engine
from aioupsert.cli.reading import Row, TimeText, TypedRow
from aioupsert.cli.values import with_point
from aioupsert.typing import Value

# The column type for each kind of data. SQLite has no type for dates or JSON. Its REAL
# would round large integers; NUMERIC keeps them beside fractions.
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
        "interval": "interval",
        "json": "jsonb",
        "text": "text",
    },
    "sqlite": {
        "boolean": "BOOLEAN",
        "integer": "INTEGER",
        "float": "REAL",
        "decimal": "NUMERIC",
        "bytes": "BLOB",
    },
}
# For a column with several kinds of data, the kind that can hold all of them.
_COMMON_TYPES: Final = (
    ({"integer", "decimal", "float"}, "decimal"),
    ({"date", "timestamp"}, "timestamp"),
)


@dataclass(slots=True)
class Guess:
    """
    The type of a column, guessed from its values.

    Attributes:
        type: The type.
        reason: Why it is text although some values are not, or None.
    """

    type: str
    reason: str | None = None


class TypeGuesser:
    """
    Guesses types that keep every value as it is, from rows that it is shown.

    In case of doubt the type is text, such as for 007, +1, 1,5 or a column without
    values.
    """

    def __init__(
        self,
        columns: Iterable[str],
        key: Sequence[str],
        engine: Engine,
        *,
        decimal_comma: bool = False,
    ) -> None:
        """Begin with the columns that are known; rows may have others."""
        self._engine: Engine = engine
        self._key = frozenset(key)
        self._kinds: dict[str, dict[str, str]] = {column: {} for column in columns}
        self._texts: set[str] = set()
        self._decimal_comma = decimal_comma

    def add(self, row: Row) -> None:
        """Take the values of a row into account."""
        commas = self._decimal_comma and not isinstance(row, TypedRow)
        for column, given in row.items():
            value = given
            if commas and given is not None:
                value = with_point(given) or given
            # What is text already stays text.
            if value is None or column in self._texts:
                if column not in self._kinds:
                    self._kinds[column] = {}
                continue
            kind = _kind(value, self._engine, is_key=column in self._key)
            found = self._kinds.setdefault(column, {})
            if kind not in found:
                found[kind] = f"{_shown(value)} ({row.file}, line {row.line})"
                if _common_type({*found}) == "text":
                    self._texts.add(column)

    def guesses(self) -> dict[str, Guess]:
        """Return the type of each column."""
        types = _TYPES[self._engine]
        guesses: dict[str, Guess] = {}
        for column, found in self._kinds.items():
            kind = _common_type({*found})
            guess = Guess(types.get(kind, types.get("text", "TEXT")))
            if kind == "text" and len(found) > 1:
                guess.reason = f"because of {[*found.values()][-1]}"
            guesses[column] = guess
        return guesses


def text_type(engine: Engine) -> str:
    """Return the type of columns of text."""
    return _TYPES[engine].get("text", "TEXT")


_MAX_SHOWN: Final = 40


def _shown(value: Value) -> str:
    shown = repr(value if isinstance(value, str) else str(value))
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."


def _common_type(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    for narrow, wide in _COMMON_TYPES:
        if kinds and kinds <= narrow:
            return wide
    return "text"


def _kind(value: Value, engine: Engine, *, is_key: bool) -> str:
    if isinstance(value, TimeText):
        return "interval" if _DURATION.fullmatch(value) else "text"
    if isinstance(value, str):
        return _kind_of_text(value, engine, is_key=is_key)
    if isinstance(value, int) and not isinstance(value, bool):
        if -_INT64 <= value < _INT64:
            return "integer"
        return "decimal" if engine == "postgresql" else "text"
    if isinstance(value, Decimal):
        return "decimal" if engine == "postgresql" else _kind_of_number(value, engine)
    if isinstance(value, float) and math.isnan(value) and engine == "sqlite":
        return "text"
    if isinstance(value, dt.datetime) and value.tzinfo is not None:
        return "timestamptz"
    return next(
        (kind for cls, kind in _KINDS.items() if isinstance(value, cls)), "text"
    )


def _kind_of_number(value: Decimal, engine: Engine) -> str:
    """Return "float" if a double keeps the value, and otherwise what does."""
    number = float(value)
    # A minus sign before zero would be lost.
    if (
        math.isfinite(number)
        and Decimal(repr(number)) == value
        and (value or not value.is_signed())
    ):
        return "float"
    return "decimal" if engine == "postgresql" else "text"


_INT64: Final = 2**63
# The order matters: a datetime is also a date.
_KINDS: Final[dict[type, str]] = {
    bool: "boolean",
    float: "float",
    dt.datetime: "timestamp",
    dt.date: "date",
    dt.timedelta: "interval",
    bytes: "bytes",
    dict: "json",
    list: "json",
}

# No finer than what the type keeps.
_DURATION: Final = re.compile(r"PT[^.]*(\.\d{1,6}S)?", re.ASCII)
# Only text that a number would be written back as, but for the zeros at the end of a
# fraction, with digits that 64 bits can hold.
_INTEGER: Final = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)
_DECIMAL: Final = re.compile(r"-?(0|[1-9]\d*)\.\d+", re.ASCII)
_FLOAT: Final = re.compile(r"-?\d(\.\d+)?[eE][-+]?\d{1,2}", re.ASCII)
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_TIMESTAMP: Final = re.compile(
    _DATE.pattern + r"[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[-+]\d{2}(:?\d{2})?)?",
    re.ASCII,
)


def _kind_of_text(text: str, engine: Engine, *, is_key: bool) -> str:
    if _INTEGER.fullmatch(text):
        return "integer"
    if text in {"true", "false"}:
        return "boolean"
    if _DECIMAL.fullmatch(text):
        # Two keys such as 1.1 and 1.10 would become one.
        if is_key and text.endswith("0"):
            return "text"
        # PostgreSQL keeps the digits.
        if engine == "postgresql":
            return "decimal"
        return _kind_of_number(Decimal(text), engine)
    if _FLOAT.fullmatch(text):
        return "text" if is_key else _kind_of_number(Decimal(text), engine)
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
