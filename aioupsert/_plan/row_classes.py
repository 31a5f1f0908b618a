"""The classes that callers have rows returned as."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple, cast

from aioupsert._plan.schema import Names
from aioupsert.errors import UsageError
from aioupsert.typing import Value


class RowClass(NamedTuple):
    """
    A class of rows.

    Attributes:
        names: The columns that an instance is made from.
        make: Makes one.
    """

    names: Names
    make: Callable[[Mapping[str, Value]], object]


def row_class(cls: type[object]) -> RowClass:
    """
    Return how instances of a class are made of rows.

    Raises:
        UsageError: It does not say which fields its instances have.
    """
    return _read_class(cast("Hashable", cls))


@functools.lru_cache(maxsize=256)
def _read_class(cls: Any) -> RowClass:
    if hasattr(cls, "__mapper__"):
        msg = (
            f"returning={cls.__name__}: a mapped class can be returned only by a call"
            " that has it as its table"
        )
        raise UsageError(msg)
    if hasattr(cls, "__required_keys__"):
        return RowClass(tuple(cls.__annotations__), dict)
    arguments = _arguments_of(cls)
    if not arguments:
        msg = (
            "returning takes the names of columns, or a class with fields: a dataclass,"
            " attrs class, pydantic model, NamedTuple, TypedDict, or the mapped class"
            f" that is the table; not {cls!r}"
        )
        raise UsageError(msg)
    call: Callable[..., object] = cls

    def make(row: Mapping[str, Value]) -> object:
        return call(**{arguments[name]: value for name, value in row.items()})

    return RowClass(tuple(arguments), make)


def _arguments_of(cls: type[object]) -> dict[str, str]:
    """Return the fields of a class, with the arguments that its instances take them by."""
    # Of pydantic 2 and 1.
    for attribute in ("model_fields", "__fields__"):
        fields: Any = getattr(cls, attribute, None)
        if isinstance(fields, Mapping):
            named = cast("Mapping[str, Any]", fields)
            return {name: _alias_of(name, field) for name, field in named.items()}
    # Of named tuples, and msgspec.
    for attribute in ("_fields", "__struct_fields__"):
        names = getattr(cls, attribute, None)
        if isinstance(names, tuple):
            return {name: name for name in cast("Names", names)}
    members: Iterable[Any] = getattr(cls, "__attrs_attrs__", ())
    if dataclasses.is_dataclass(cls):
        members = dataclasses.fields(cls)
    return {m.name: getattr(m, "alias", m.name) for m in members if m.init}


def _alias_of(name: str, field: Any) -> str:
    alias = getattr(field, "validation_alias", None) or field.alias
    return alias if isinstance(alias, str) else name
