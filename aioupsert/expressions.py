"""
Values that the database computes: `F`, `Excluded`, `DEFAULT`, operators, functions.

An expression is a tree of nodes (hashable, without values) and, beside it, the
values bound to its literals from left to right. Two calls with equal trees share one
statement, whatever their values are. Nothing here knows a database.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
import string
import uuid
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

from aioupsert.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


Node: TypeAlias = "tuple[str, str, tuple[Node, ...]]"
"""
One node of an expression, without its values: kind, name, operands.

The kind is column, excluded, default, literal, operator, function, call or sql; the
name is a column, an operator, a function, SQL text, or a literal's Python type. Plain
tuples, since one is made and hashed in every call.
"""

Operand: TypeAlias = "Expression | Any"
"""An expression, or a plain value that becomes a bound parameter."""

_INT32: Final = 2**31
_INT64: Final = 2**63

COMPARISONS: Final = ("=", "<>", "<", "<=", ">", ">=", "in")
"""The operators whose sides are of one type."""

# A literal's Python type decides its SQL type where no column does. The order matters
# for subclasses only (an IntEnum, a str subclass): datetime is a date.
_KINDS: Final[dict[type, str]] = {
    type(None): "null",
    bool: "bool",
    int: "int",
    float: "float",
    decimal.Decimal: "decimal",
    str: "str",
    bytes: "bytes",
    dt.datetime: "datetime",
    dt.date: "date",
    dt.time: "time",
    dt.timedelta: "timedelta",
    uuid.UUID: "uuid",
    dict: "json",
    list: "list",
}


def literal_kind(value: Any) -> str:
    """Name the Python type of a literal; part of the expression's shape."""
    kind = _KINDS.get(value.__class__) or next(
        (kind for cls, kind in _KINDS.items() if isinstance(value, cls)), "other"
    )
    if kind == "int":
        if -_INT32 <= value < _INT32:
            return "int4"
        return "int8" if -_INT64 <= value < _INT64 else "numeric"
    if kind == "datetime" and value.tzinfo is not None:
        return "datetimetz"
    return kind


class Expression:
    """
    A value that the database computes; made by `F` and the functions of this module.

    Comparing with ``==`` builds an expression and does not compare. An expression has
    no truth value: combine conditions with ``&``, ``|`` and ``~``.
    """

    __slots__ = ("node", "values")

    def __init__(self, node: Node, values: tuple[Any, ...] = ()) -> None:
        """Hold a node and the values of its literals; use the functions instead."""
        self.node: Node = node
        self.values: tuple[Any, ...] = values

    def __repr__(self) -> str:
        """Show the tree, with the values in their places."""
        return _describe(self.node, iter(self.values))

    def __hash__(self) -> int:
        """Hash by identity, as == builds an expression and does not compare."""
        return object.__hash__(self)

    def __bool__(self) -> bool:
        """Refuse: ``and``, ``or`` and ``not`` would silently drop a condition."""
        msg = f"{self!r} has no truth value here; combine conditions with &, | and ~"
        raise UsageError(msg)

    def __add__(self, other: Operand) -> Expression:
        """Add."""
        return self._operate("+", other)

    def __radd__(self, other: Operand) -> Expression:
        """Add, with the plain value on the left."""
        return _build("operator", "+", other, self)

    def __sub__(self, other: Operand) -> Expression:
        """Subtract."""
        return self._operate("-", other)

    def __rsub__(self, other: Operand) -> Expression:
        """Subtract, with the plain value on the left."""
        return _build("operator", "-", other, self)

    def __mul__(self, other: Operand) -> Expression:
        """Multiply."""
        return self._operate("*", other)

    def __rmul__(self, other: Operand) -> Expression:
        """Multiply, with the plain value on the left."""
        return _build("operator", "*", other, self)

    def __truediv__(self, other: Operand) -> Expression:
        """Divide; integers truncate toward zero, by zero gives NULL."""
        return self._operate("/", other)

    def __rtruediv__(self, other: Operand) -> Expression:
        """Divide, with the plain value on the left."""
        return _build("operator", "/", other, self)

    def __mod__(self, other: Operand) -> Expression:
        """Take the remainder of integers, signed as the dividend; by zero gives NULL."""
        return self._operate("%", other)

    def __rmod__(self, other: Operand) -> Expression:
        """Take the remainder, with the plain value on the left."""
        return _build("operator", "%", other, self)

    def __eq__(self, other: Operand) -> Expression:  # type: ignore[override]  # builds a condition, as in every query builder
        """Compare; with None it means IS NULL."""
        return self.is_null() if other is None else self._operate("=", other)

    def __ne__(self, other: Operand) -> Expression:  # type: ignore[override]  # builds a condition, as in every query builder
        """Compare; with None it means IS NOT NULL."""
        if other is None:
            return ~self.is_null()
        return self._operate("<>", other)

    def __lt__(self, other: Operand) -> Expression:
        """Compare; text by code point on both engines."""
        return self._operate("<", other)

    def __le__(self, other: Operand) -> Expression:
        """Compare; text by code point on both engines."""
        return self._operate("<=", other)

    def __gt__(self, other: Operand) -> Expression:
        """Compare; text by code point on both engines."""
        return self._operate(">", other)

    def __ge__(self, other: Operand) -> Expression:
        """Compare; text by code point on both engines."""
        return self._operate(">=", other)

    def __and__(self, other: Operand) -> Expression:
        """Both conditions; not a bitwise operator."""
        return self._operate("AND", other)

    def __rand__(self, other: Operand) -> Expression:
        """Both conditions, with the plain value on the left."""
        return _build("operator", "AND", other, self)

    def __or__(self, other: Operand) -> Expression:
        """Either condition; not a bitwise operator."""
        return self._operate("OR", other)

    def __ror__(self, other: Operand) -> Expression:
        """Either condition, with the plain value on the left."""
        return _build("operator", "OR", other, self)

    def __invert__(self) -> Expression:
        """Not the condition; NULL stays NULL."""
        return _build("operator", "NOT", self)

    def _operate(self, operator: str, other: Operand) -> Expression:
        # As _build does, but quicker: F("n") + 1 is made in most calls.
        if isinstance(other, Expression):
            node, values = other.node, (*self.values, *other.values)
        else:
            node, values = ("literal", literal_kind(other), ()), (*self.values, other)
        return Expression(("operator", operator, (self.node, node)), values)

    def is_null(self) -> Expression:
        """Whether the value is NULL."""
        return _build("function", "is_null", self)

    def in_(self, values: Iterable[Any]) -> Expression:
        """Whether the value is among *values*; a None there means IS NULL."""
        members = tuple(values)
        present = [member for member in members if member is not None]
        among = _build("function", "in", self, *present)
        return among if len(present) == len(members) else among | self.is_null()

    def concat(self, *others: Operand) -> Expression:
        """Join text (or integers, as text); NULL if any part is NULL."""
        return _build("function", "concat", self, *others)

    def merge(self, other: Operand) -> Expression:
        """
        Merge a JSON object over this one, key by key (not recursively).

        NULL if either is NULL; where one of the two is no object, *other* replaces.
        """
        return _build("function", "merge", self, other)


class F(Expression):
    """
    The stored value of a column; on create, the column's database default.

    A column without a default gives NULL there, so ``F("hits") + 1`` is NULL on create
    and ``coalesce(F("hits"), 0) + 1`` is 1.
    """

    __slots__ = ()

    def __init__(self, column: str) -> None:
        """Name the column."""
        if not isinstance(column, str):
            _refuse_name(column, "F")
        self.node: Node = ("column", column, ())
        self.values: tuple[Any, ...] = ()


class Excluded(Expression):
    """The value that this call brings for a column (SQL: EXCLUDED)."""

    __slots__ = ()

    def __init__(self, column: str) -> None:
        """Name the column."""
        if not isinstance(column, str):
            _refuse_name(column, "Excluded")
        self.node: Node = ("excluded", column, ())
        self.values: tuple[Any, ...] = ()


DEFAULT: Final = Expression(("default", "", ()))
"""The column's database default, as a whole value: ``defaults={"state": DEFAULT}``."""


def coalesce(*values: Operand) -> Expression:
    """Give the first value that is not NULL."""
    return _function("coalesce", values, at_least=1)


def greatest(*values: Operand) -> Expression:
    """Give the greatest value; NULLs are ignored on both engines."""
    return _function("greatest", values, at_least=1)


def least(*values: Operand) -> Expression:
    """Give the least value; NULLs are ignored on both engines."""
    return _function("least", values, at_least=1)


def now() -> Expression:
    """
    Give the database's current time.

    PostgreSQL: ``now()``, the start of the transaction. SQLite: ``CURRENT_TIMESTAMP``,
    the text ``YYYY-MM-DD HH:MM:SS`` in UTC.
    """
    return _build("function", "now")


def lower(value: Operand) -> Expression:
    """Lower the ASCII letters of a text; other letters stay on both engines."""
    return _build("function", "lower", value)


def upper(value: Operand) -> Expression:
    """Raise the ASCII letters of a text; other letters stay on both engines."""
    return _build("function", "upper", value)


def length(value: Operand) -> Expression:
    """Count the characters of a text, or the bytes of a binary value."""
    return _build("function", "length", value)


def func(name: str, *values: Operand) -> Expression:
    """
    Call any function of the database by its plain or schema-qualified name.

    What it does on another engine is the caller's business. Text among *values* is
    sent without a type, so the database chooses the function as for a quoted literal.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", name, re.ASCII):
        msg = f"func() takes a plain function name, not {name!r}"
        raise UsageError(msg)
    return _build("call", name, *values)


def SQL(text: str, *values: Operand) -> Expression:  # noqa: N802  # reads as the keyword it stands for
    """
    Trusted raw SQL; each ``{}`` takes one of *values*, as a bound parameter.

    *text* is sent as it is: never build it from user input. Write ``{{`` and ``}}``
    for braces.
    """
    places = [
        field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        for _, field, spec, conversion in _parse(text)
        if field is not None
    ]
    if any(places):
        msg = f"SQL() takes plain {{}} places, not {{{next(filter(None, places))}}}"
        raise UsageError(msg)
    if len(places) != len(values):
        msg = f"SQL() has {len(places)} places for {len(values)} values"
        raise UsageError(msg)
    return _build("sql", text, *values)


def sql_parts(text: str) -> tuple[str, ...]:
    """Split the text of `SQL` at its places; one part more than there are values."""
    parts = [""]
    for literal, field, _, _ in _parse(text):
        parts[-1] += literal
        if field is not None:
            parts.append("")
    return tuple(parts)


def _parse(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(text))
    except ValueError as exc:
        msg = f"SQL() cannot read {text!r}: {exc}"
        raise UsageError(msg) from exc


def _function(name: str, values: tuple[Operand, ...], at_least: int) -> Expression:
    if len(values) < at_least:
        msg = f"{name}() needs a value"
        raise UsageError(msg)
    return _build("function", name, *values)


def _refuse_name(column: object, who: str) -> NoReturn:
    msg = f"{who}() takes a column name, not {column!r}"
    raise UsageError(msg)


def _build(kind: str, name: str, *operands: Operand) -> Expression:
    nodes: list[Node] = []
    values: list[Any] = []
    for operand in operands:
        if isinstance(operand, Expression):
            nodes.append(operand.node)
            values += operand.values
        else:
            nodes.append(("literal", literal_kind(operand), ()))
            values.append(operand)
    return Expression((kind, name, tuple(nodes)), tuple(values))


def _describe(node: Node, values: Iterator[Any]) -> str:
    kind, name, operands = node
    match kind:
        case "column":
            return f"F({name!r})"
        case "excluded":
            return f"Excluded({name!r})"
        case "default":
            return "DEFAULT"
        case "literal":
            return repr(next(values))
        case _:
            args = ", ".join([_describe(operand, values) for operand in operands])
            return f"{name}({args})"
