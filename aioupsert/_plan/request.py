"""
The arguments of a call: what can be seen without the database.

A *shape* is hashable and holds no values, so that calls which differ only in values
share one plan and its statements. Values travel beside it in a flat list; a *slot* is a
place in that list.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypedDict, cast

from aioupsert.errors import UsageError
from aioupsert.expressions import Expression, Node

Items: TypeAlias = tuple[tuple[str, Node], ...]


class Request(NamedTuple):
    """A call without its values; a shape, with names."""

    key: tuple[tuple[str, str], ...]
    defaults: Items
    create_defaults: Items
    touch: Items
    where: Node | None
    skip_unchanged: bool
    returning: str | tuple[str, ...] | None
    without_unique_index: str
    strategy: str
    incoming: Items | None = None
    """What a row of a bulk call brings beside its key; None where defaults are that."""
    coalesced: bool = False
    """Whether it is one of several calls, whose values are rows of one statement."""


RequestShape: TypeAlias = tuple[Any, ...]
"""A `Call` as a plain tuple, which is quicker to make and to hash."""

# A plain value takes the type of its column. Whether it is a dict or a list belongs to
# the shape: as JSON it is encoded here, as an array or a composite by the driver.
_VALUE: Final[Node] = ("literal", "value", ())
_CONTAINER: Final[Node] = ("literal", "container", ())
# Of these classes a value is plain, without a closer look.
_PLAIN: Final = frozenset(
    {
        bool,
        bytes,
        dt.date,
        dt.datetime,
        decimal.Decimal,
        float,
        int,
        str,
        uuid.UUID,
    }
)


class Arguments(TypedDict):
    """The arguments of a call for one row, as the caller gave them."""

    key: Mapping[str, Any]
    defaults: Mapping[str, Any] | None
    create_defaults: Mapping[str, Any] | None
    where: Expression | None
    skip_unchanged: bool
    touch: Mapping[str, Any] | None
    returning: str | Sequence[str] | type[Any] | None
    without_unique_index: str
    strategy: str


def read_request(
    *,
    key: Mapping[str, Any],
    defaults: Mapping[str, Any] | None,
    create_defaults: Mapping[str, Any] | None,
    where: Expression | None,
    skip_unchanged: bool,
    touch: Mapping[str, Any] | None,
    returning: str | Sequence[str] | type[Any] | None,
    without_unique_index: str,
    strategy: str,
) -> tuple[RequestShape, list[Any]]:
    """Split the arguments of a call into its shape and its values."""
    values: list[Any] = []
    shape = (
        _read_key(key, values),
        read_items("defaults", defaults, values) if defaults is not None else (),
        read_items("create_defaults", create_defaults, values)
        if create_defaults is not None
        else (),
        read_items("touch", touch, values) if touch is not None else (),
        None if where is None else read_where(where, values),
        skip_unchanged,
        returning
        if returning is None or isinstance(returning, str)
        else read_names(returning),
        without_unique_index,
        strategy,
    )
    return shape, values


def _read_key(key: Mapping[str, Any], values: list[Any]) -> tuple[tuple[str, str], ...]:
    names: list[tuple[str, str]] = []
    for name, value in pairs("key", key):
        if value.__class__ in _PLAIN:
            kind = "value"
        elif isinstance(value, Expression):
            msg = f"key[{name!r}] must be a plain value, not {value!r}"
            raise UsageError(msg)
        else:
            kind = "null" if value is None else plain_node(value)[1]
        names.append((name, kind))
        values.append(value)
    if not names:
        msg = "key is empty: name the columns that identify the row"
        raise UsageError(msg)
    return tuple(names)


def read_names(returning: Any) -> tuple[Any, ...]:
    # A class, of which some can be iterated over.
    if not isinstance(returning, type):
        return tuple(returning)
    msg = (
        f"returning takes the names of columns, not {returning!r}; a mapped class is for"
        " a call whose table it is"
    )
    raise UsageError(msg)


def read_items(argument: str, items: Mapping[str, Any], values: list[Any]) -> Items:
    nodes: list[tuple[str, Node]] = []
    for name, given in pairs(argument, items):
        if given.__class__ in _PLAIN:
            nodes.append((name, _VALUE))
            values.append(given)
            continue
        value = given() if callable(given) else given
        if isinstance(value, Expression):
            nodes.append((name, value.node))
            values.extend(value.values)
        else:
            nodes.append((name, plain_node(value)))
            values.append(value)
    return tuple(nodes)


def plain_node(value: Any) -> Node:
    """Give the node of a plain value."""
    return _CONTAINER if isinstance(value, (dict, list)) else _VALUE


def read_where(where: object, values: list[Any]) -> Node:
    if not isinstance(where, Expression):
        msg = f'where takes an expression such as F("version") < 3, not {where!r}'
        raise UsageError(msg)
    values.extend(where.values)
    return where.node


def pairs(argument: str, items: Any) -> Iterable[tuple[str, Any]]:
    """Give the items of a mapping, or refuse what is none."""
    # The first test is the quick one.
    if items.__class__ is dict or isinstance(items, Mapping):
        return cast("Mapping[str, Any]", items).items()
    msg = f"{argument} must be a mapping of column names to values, not {items!r}"
    raise UsageError(msg)
