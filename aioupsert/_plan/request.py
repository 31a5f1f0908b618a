"""
The arguments of a call: what can be checked without the database.

A request *shape* is hashable and holds no values, so that calls which differ only in
their values share one plan and its statements. The values travel beside it in a flat
list; a *parameter* is an index into that list.
"""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, cast

from aioupsert._plan.row_classes import row_class
from aioupsert._plan.schema import Constant, Names
from aioupsert.errors import UsageError
from aioupsert.expressions import Expression, LiteralKind, Node
from aioupsert.typing import (
    Name,
    Returning,
    SqlalchemyExpression,
    Strategy,
    Update,
    Value,
    Values,
    WithoutUniqueIndex,
)

Items: TypeAlias = tuple[tuple[str, Node], ...]
"""Columns, each with the expression it is set to."""

Condition: TypeAlias = "Node | None"
"""The condition of an update, or None."""

KeyItems: TypeAlias = tuple[tuple[str, LiteralKind], ...]
"""The columns of a key, each with the kind of its value."""


class Request(NamedTuple):
    """
    A request shape, with names: a call without its values.

    Attributes:
        incoming: The columns of a row beside its key, when the values of *defaults* are
            taken from the rows of a bulk call; None if *defaults* has the new values.
        spares: None if an update sets all of *defaults*. Otherwise it sets no column of
            the primary key, and nothing at all if only these columns remain.
        coalesced: Whether this is one of several calls whose values become the rows of
            one statement.
        constants: The columns of the key that have a constant of an index's predicate,
            with that; None before they are compared with the table's.
        lock_timeout: For how many milliseconds the statements wait for a lock at most;
            0 for as long as the connection's settings let them.
    """

    key: KeyItems
    defaults: Items
    create_defaults: Items
    touch: Items
    where: Condition
    skip_unchanged: bool
    returning: str | Names | None
    old: bool
    without_unique_index: WithoutUniqueIndex
    strategy: Strategy
    incoming: Items | None = None
    spares: Names | None = None
    coalesced: bool = False
    constants: tuple[tuple[str, Constant], ...] | None = None
    lock_timeout: int = 0


RequestShape: TypeAlias = tuple[
    KeyItems,
    Items,
    Items,
    Items,
    Condition,
    bool,
    str | Names | None,
    bool,
    WithoutUniqueIndex,
    Strategy,
    *tuple[Any, ...],
]
"""A `Request`, or its first fields as a plain tuple, which is quicker to make."""


class Arguments(NamedTuple):
    """
    The arguments of a call for one row, as the caller passed them.

    Attributes:
        row: The whole row; None if *key* and *defaults* have its values.
        key: The key's columns with their values or, beside *row*, their names.
    """

    row: object
    key: Values | Name | Sequence[Name]
    update: Update = None
    defaults: Values | None = None
    create_defaults: Values | None = None
    where: Expression | SqlalchemyExpression | None = None
    skip_unchanged: bool = False
    touch: Values | None = None
    returning: Returning = None
    old: bool = False
    without_unique_index: WithoutUniqueIndex = "warn"
    strategy: Strategy = "auto"


# A plain value takes the type of its column. Whether it is a dict or a list is part of
# the shape: SQLite needs it encoded as JSON, and so does a JSON column of PostgreSQL.
PLAIN: Final[Node] = ("literal", "value", ())
CONTAINER: Final[Node] = ("literal", "container", ())
# Only these, as the driver may have an adapter for a subclass.
CONTAINERS: Final = frozenset({dict, list})
# Values of these classes are plain without further inspection.
PLAIN_CLASSES: Final = frozenset(
    {
        bool,
        bytes,
        dt.date,
        dt.datetime,
        decimal.Decimal,
        float,
        int,
        str,
        type(None),
        uuid.UUID,
    }
)
_KEY_CLASSES: Final = PLAIN_CLASSES - {type(None)}


def read_request(arguments: Arguments) -> tuple[RequestShape, list[Value]]:
    """
    Split the arguments of a call without *row* into its shape and its values.

    This runs in every call, so plain arguments are read right here: a function call for
    each of them would take longer than the rest.

    Raises:
        UsageError: The arguments are wrong.
    """
    values: list[Value] = []
    kinds: list[tuple[str, LiteralKind]] = []
    (
        _,
        key,
        update,
        defaults,
        create_defaults,
        where,
        skip_unchanged,
        touch,
        returning,
        old,
        without_unique_index,
        strategy,
    ) = arguments
    for name, value in key.items() if isinstance(key, dict) else pairs("key", key):
        if value.__class__ in _KEY_CLASSES:
            kinds.append((name, "value"))
        else:
            kinds.append((name, _read_key_value(name, value)))
        values.append(value)
    if not kinds or update is not None:
        raise UsageError(_UPDATE if kinds else _NO_KEY)
    shape = (
        tuple(kinds),
        () if defaults is None else _read("defaults", defaults, values),
        ()
        if create_defaults is None
        else _read("create_defaults", create_defaults, values),
        () if touch is None else _read("touch", touch, values),
        None if where is None else read_where(where, values),
        skip_unchanged,
        returning
        if returning is None or isinstance(returning, str)
        else read_names(returning),
        old,
        without_unique_index,
        strategy,
    )
    return shape, values


def _read(argument: str, given: Values, values: list[Value]) -> Items:
    """Return the items of a mapping, and add their values to *values*."""
    items: list[tuple[str, Node]] = []
    for name, value in (
        given.items() if given.__class__ is dict else pairs(argument, given)
    ):
        if value.__class__ in PLAIN_CLASSES:
            items.append((name, PLAIN))
            values.append(value)
        elif isinstance(value, Expression):
            items.append((name, value.node))
            values += value.values
        else:
            items.append((name, read_value(value, values)))
    return tuple(items)


_NO_KEY: Final = "key is empty: name the columns that identify the row"
_UPDATE: Final = (
    "update names columns of a row, which is passed as the argument after the table;"
    " without a row, defaults has what is written either way"
)


def _read_key_value(name: str, value: Value) -> LiteralKind:
    if value is None:
        return "null"
    if isinstance(value, Expression):
        msg = f"key[{name!r}] must be a plain value, not {value!r}"
        raise UsageError(msg)
    return "container" if type(value) in CONTAINERS else "value"


def read_names(returning: object) -> Names:
    """
    Return the names of the columns to return, given those or a class.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(returning, type):
        return row_class(returning).names
    if isinstance(returning, Iterable):
        return tuple(cast("Iterable[str]", returning))
    msg = f"returning takes the names of columns, or a class, not {returning!r}"
    raise UsageError(msg)


def read_value(given: Value, values: list[Value]) -> Node:
    """Return the node of what a column is set to, and add its values to *values*."""
    value = given() if callable(given) else given
    if isinstance(value, Expression):
        values += value.values
        return value.node
    values.append(value)
    return plain_node(value)


def plain_node(value: Value) -> Node:
    """Return the node of a plain value."""
    return CONTAINER if type(value) in CONTAINERS else PLAIN


def read_where(where: object, values: list[Value]) -> Node:
    """Return the node of a condition, and add its values to *values*."""
    if not isinstance(where, Expression):
        msg = f'where takes an expression such as F("version") < 3, not {where!r}'
        raise UsageError(msg)
    values += where.values
    return where.node


def pairs(argument: str, items: object) -> Iterable[tuple[str, Value]]:
    """
    Return the items of a mapping.

    Raises:
        UsageError: It is not a mapping.
    """
    if isinstance(items, Mapping):
        return cast("Mapping[str, Value]", items).items()
    msg = f"{argument} must be a mapping of column names to values, not {items!r}"
    raise UsageError(msg)
