"""Key values that would be stored as something else, and so never be found again."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Iterable
from typing import Any, Final

from aioupsert._schema import Column, looks_like_number
from aioupsert.errors import UsageError


def key_check(column: Column) -> Callable[[Any], None] | None:
    check = _KEY_CHECKS.get(column.storage)
    if check is None:
        return None

    def refuse(value: Any) -> None:
        why = check(value, column)
        if why:
            msg = (
                f"key[{column.name!r}]: {value!r} would be stored as something else:"
                f" {why}"
            )
            raise UsageError(msg)

    return refuse


def needs_check(column: Column, types: Iterable[type]) -> bool:
    """Tell whether a key's values, of these types, must be looked at one by one."""
    if column.storage == "varchar" and column.length is None:
        return False
    return not _HARMLESS.get(column.storage, frozenset()).issuperset(types)


_HARMLESS: Final[dict[str, frozenset[type]]] = {
    "integer": frozenset({int, bool}),
    "numeric": frozenset({int, decimal.Decimal}),
    "date": frozenset({dt.date}),
    "sqlite number": frozenset({int, bool}),
    "sqlite text": frozenset({str, bytes}),
    "sqlite blob": frozenset({str, bytes, int}),
}


def _check_integer(value: Any, _: Column) -> str | None:
    whole = (
        value.is_integer()
        if isinstance(value, float)
        else not isinstance(value, decimal.Decimal)
        or value == value.to_integral_value()
    )
    return None if whole else "the column holds whole numbers"


def _check_numeric(value: Any, _: Column) -> str | None:
    if (
        isinstance(value, float)
        and value == value  # noqa: PLR0124  # NaN is a value numeric can hold
        and decimal.Decimal(value) != decimal.Decimal(repr(value))
    ):
        return f'a float is not exact; pass Decimal("{value!r}")'
    return None


def _check_date(value: Any, _: Column) -> str | None:
    if isinstance(value, dt.datetime):
        return "the column holds dates, and the time of day would be cut off"
    return None


def _check_timestamptz(value: Any, _: Column) -> str | None:
    if not isinstance(value, dt.datetime):
        return "a date has no time of day or time zone" if _is_date(value) else None
    if value.tzinfo is None and value not in _INFINITIES:
        return "a naive datetime has no time zone; pass an aware one"
    return None


# asyncpg gives infinity and -infinity as these, without a time zone.
_INFINITIES: Final = (dt.datetime.max, dt.datetime.min)  # noqa: DTZ901  # see above


def _is_date(value: Any) -> bool:
    return isinstance(value, dt.date)


def _check_time(value: Any, _: Column) -> str | None:
    if isinstance(value, dt.time) and value.tzinfo is not None:
        return "the column holds no time zone"
    return None


def _check_timetz(value: Any, _: Column) -> str | None:
    if isinstance(value, dt.time) and value.tzinfo is None:
        return "a naive time has no time zone; pass an aware one"
    return None


def _check_varchar(value: Any, column: Column) -> str | None:
    if (
        column.length is not None
        and isinstance(value, str)
        and len(value.rstrip(" ")) <= column.length < len(value)
    ):
        return f"the column holds {column.length} characters"
    return None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value  # noqa: PLR0124  # only NaN is unequal to itself


def _check_sqlite_number(value: Any, _: Column) -> str | None:
    if _is_nan(value):
        return "SQLite stores NaN as NULL"
    if isinstance(value, str) and looks_like_number(value):
        return "the column's affinity turns it into a number"
    return None


def _check_sqlite_real(value: Any, column: Column) -> str | None:
    if isinstance(value, int) and int(float(value)) != value:
        return "the column holds floating point numbers, which cannot hold this one"
    return _check_sqlite_number(value, column)


def _check_sqlite_text(value: Any, _: Column) -> str | None:
    if isinstance(value, (int, float)):
        return "the column's affinity turns it into text"
    return None


def _check_sqlite_blob(value: Any, _: Column) -> str | None:
    return "SQLite stores NaN as NULL" if _is_nan(value) else None


_KEY_CHECKS: Final[dict[str, Callable[[Any, Column], str | None]]] = {
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
