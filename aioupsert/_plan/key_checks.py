"""
Checks of key values that would be stored as another value.

Such a row would never be found by its key again: every call would create another one.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from aioupsert._plan.schema import Column, Storage
from aioupsert.errors import UsageError
from aioupsert.typing import Value

# SQLite, "Datatypes In SQLite", section 3: a text that looks like this becomes a number.
looks_like_number: Final = re.compile(
    r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", re.ASCII | re.IGNORECASE
).fullmatch


class KeyCheck(NamedTuple):
    """
    A check of a key column's values.

    Attributes:
        harmless: The Python types whose values need no check.
        column: The column.
        why_not: Returns why a value would be stored as something else, or None.
    """

    harmless: frozenset[type]
    column: Column
    why_not: Callable[[Value, Column], str | None]

    def check(self, value: Value) -> None:
        """
        Check a value.

        Raises:
            UsageError: It would be stored as another value.
        """
        why = self.why_not(value, self.column)
        if why:
            msg = (
                f"key[{self.column.name!r}]: {value!r} would be stored as something"
                f" else: {why}"
            )
            raise UsageError(msg)


def key_check(column: Column) -> KeyCheck | None:
    """Return the check of a key column, or None if it needs none."""
    why_not = _KEY_CHECKS.get(column.storage)
    if why_not is None or (column.storage == "varchar" and column.length is None):
        return None
    return KeyCheck(_HARMLESS.get(column.storage, frozenset()), column, why_not)


_HARMLESS: Final[dict[Storage, frozenset[type]]] = {
    "integer": frozenset({int, bool}),
    "numeric": frozenset({int, decimal.Decimal}),
    "date": frozenset({dt.date}),
    "sqlite number": frozenset({int, bool}),
    "sqlite text": frozenset({str, bytes}),
    "sqlite blob": frozenset({str, bytes, int}),
}


def _check_integer(value: Value, _: Column) -> str | None:
    whole = (
        value.is_integer()
        if isinstance(value, float)
        else not isinstance(value, decimal.Decimal)
        or value == value.to_integral_value()
    )
    return None if whole else "the column holds whole numbers"


def _check_numeric(value: Value, _: Column) -> str | None:
    if (
        isinstance(value, float)
        and value == value  # noqa: PLR0124  # NaN is a value numeric can hold
        and decimal.Decimal(value) != decimal.Decimal(repr(value))
    ):
        return f'a float is not exact; pass Decimal("{value!r}")'
    return None


def _check_date(value: Value, _: Column) -> str | None:
    if isinstance(value, dt.datetime):
        return "the column holds dates, and the time of day would be cut off"
    return None


def _check_timestamptz(value: Value, _: Column) -> str | None:
    if not isinstance(value, dt.datetime):
        return "a date has no time of day or time zone" if _is_date(value) else None
    if value.tzinfo is None and value not in _INFINITIES:
        return "a naive datetime has no time zone; pass an aware one"
    return None


# asyncpg returns infinity and -infinity as these.
_INFINITIES: Final = (dt.datetime.max, dt.datetime.min)  # noqa: DTZ901  # asyncpg's are naive, too


def _is_date(value: Value) -> bool:
    return isinstance(value, dt.date)


def _check_time(value: Value, _: Column) -> str | None:
    if isinstance(value, dt.time) and value.tzinfo is not None:
        return "the column holds no time zone"
    return None


def _check_timetz(value: Value, _: Column) -> str | None:
    if isinstance(value, dt.time) and value.tzinfo is None:
        return "a naive time has no time zone; pass an aware one"
    return None


def _check_varchar(value: Value, column: Column) -> str | None:
    if (
        column.length is not None
        and isinstance(value, str)
        and len(value.rstrip(" ")) <= column.length < len(value)
    ):
        return f"the column holds {column.length} characters"
    return None


def _is_nan(value: Value) -> bool:
    return isinstance(value, float) and value != value  # noqa: PLR0124  # only NaN is unequal to itself


def _check_sqlite_number(value: Value, _: Column) -> str | None:
    if _is_nan(value):
        return "SQLite stores NaN as NULL"
    if isinstance(value, str) and looks_like_number(value):
        return "the column's affinity turns it into a number"
    return None


def _check_sqlite_real(value: Value, column: Column) -> str | None:
    if isinstance(value, int) and int(float(value)) != value:
        return "the column holds floating point numbers, which cannot hold this one"
    return _check_sqlite_number(value, column)


def _check_sqlite_text(value: Value, _: Column) -> str | None:
    if isinstance(value, (int, float)):
        return "the column's affinity turns it into text"
    return None


def _check_sqlite_blob(value: Value, _: Column) -> str | None:
    return "SQLite stores NaN as NULL" if _is_nan(value) else None


_KEY_CHECKS: Final[dict[Storage, Callable[[Value, Column], str | None]]] = {
    "integer": _check_integer,
    "numeric": _check_numeric,
    "date": _check_date,
    "timestamptz": _check_timestamptz,
    "time": _check_time,
    "timetz": _check_timetz,
    "varchar": _check_varchar,
    "sqlite number": _check_sqlite_number,
    "sqlite real": _check_sqlite_real,
    "sqlite text": _check_sqlite_text,
    "sqlite blob": _check_sqlite_blob,
}
