"""
Values that the database computes: `F`, `Excluded`, `DEFAULT`, operators, functions.

An expression consists of a tree of nodes, which is hashable and contains no values, and
of the values of its literals, from left to right. Calls with equal trees share one
statement, whatever their values are. This module is independent of any database.
"""

from __future__ import annotations

import datetime as dt
import decimal
import re
import string
import uuid
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias, TypeVar

from aioupsert.errors import UsageError
from aioupsert.typing import Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


NodeKind: TypeAlias = Literal[
    "column", "excluded", "default", "literal", "operator", "function", "call", "sql"
]
"""What a node of an expression is."""

LiteralKind: TypeAlias = Literal[
    "value",
    "container",
    "text",
    "null",
    "bool",
    "int4",
    "int8",
    "numeric",
    "float",
    "decimal",
    "str",
    "bytes",
    "datetime",
    "datetimetz",
    "date",
    "time",
    "timedelta",
    "uuid",
    "json",
    "list",
    "ints",
    "strs",
    "other",
    "bare",
]
"""
What a literal is.

The first three take the type of a column: a plain value, a dict or list, and text that
the database converts. The others have the type of their Python value; a bare one is
text whose type the database chooses. Integers and texts, as members of a set, are one
value.
"""

MEMBERS: Final[frozenset[str]] = frozenset({"ints", "strs"})
"""The kinds of literals that are the members of a set."""

Operator: TypeAlias = Literal[
    "+", "-", "*", "/", "%", "=", "<>", "<", "<=", ">", ">=", "AND", "OR", "NOT"
]
"""An operator of SQL."""

Node: TypeAlias = "tuple[NodeKind, str, tuple[Node, ...]]"
"""
A node of an expression, without values: its kind, its name and its operands.

The name is that of a column, operator or function, SQL text, or the kind of a literal.
Nodes are plain tuples because every call creates and hashes some.
"""

Operand: TypeAlias = "Expression | Value"
"""An expression, or a plain value that becomes a bound parameter."""

T = TypeVar("T")

_INT4: Final[Node] = ("literal", "int4", ())
_INT4_MIN: Final = -(2**31)
_INT4_MAX: Final = 2**31 - 1
_INT64: Final = 2**63

# Hashing a tree takes stack for each level of it.
_MAX_DEPTH: Final = 1_000
TOO_DEEP: Final = (
    "an expression is nested too deeply: write one of some hundred operands as SQL(),"
    " and alternatives as .in_()"
)
"""Says why an expression cannot be used that takes more stack than there is."""

COMPARISONS: Final = ("=", "<>", "<", "<=", ">", ">=", "in")
"""The operators that compare values of the same type."""

CHOICES: Final = ("coalesce", "greatest", "least", "case", "nullif")
"""The functions that return one of their arguments, which have the same type."""

SAME_TYPE: Final = frozenset({*COMPARISONS, *CHOICES})
"""The operators and functions whose operands have the same type."""

MARKING: Final = frozenset({"holds", "kept_if"})
"""
The functions of marked rows, which no caller writes.

``holds(column, value)`` is true also if both are NULL; ``kept_if(condition, column,
value)`` is the column if the condition is true, otherwise the value.
"""

ARITHMETIC: Final = frozenset({"+", "-", "*", "/"})
"""The operators that compute a number from numbers."""

# The Python type of a literal decides its SQL type unless a column does. The order
# matters only for subclasses, such as an IntEnum; a datetime is also a date.
_KINDS: Final[dict[type, LiteralKind]] = {
    type(None): "null",
    bool: "bool",
    int: "int4",
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


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes below it, from left to right."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(node[2])


def of_same_type(name: str, operands: Sequence[T]) -> Sequence[T]:
    """Return the operands that have the same type: of `case` not the conditions."""
    return (*operands[1:-1:2], operands[-1]) if name == "case" else operands


def column_beside(node: Node) -> str | None:
    """
    Return the column that stands beside a literal among the operands of a node.

    A literal takes the type of this column if the operands have the same type.
    """
    for operand in of_same_type(node[1], node[2]):
        kind, name, _ = operand
        if kind in {"column", "excluded"}:
            return name
        if name in CHOICES and (found := column_beside(operand)):
            return found
    return None


def literal_kind(value: Value) -> LiteralKind:
    """Return what a literal is by its Python type, which becomes part of the node."""
    kind = _KINDS.get(value.__class__) or _kind_of_subclass(value)
    if kind == "int4":
        if _INT4_MIN <= value <= _INT4_MAX:
            return kind
        return "int8" if -_INT64 <= value < _INT64 else "numeric"
    if kind == "datetime" and value.tzinfo is not None:
        return "datetimetz"
    return kind


def literals_of_members(members: Sequence[Value]) -> tuple[list[Node], list[Value]]:
    """Return the literals that are the members of a set, none of them None."""
    kind = _kind_of_members(members)
    if kind is not None:
        return [("literal", kind, ())], [[*members]]
    return [("literal", literal_kind(member), ()) for member in members], [*members]


def _kind_of_members(members: Sequence[Value]) -> LiteralKind | None:
    """Return what members of a set are that are sent as one value, or None."""
    classes = set(map(type, members))
    if classes == {int} and min(members) >= -_INT64 and max(members) < _INT64:
        return "ints"
    # PostgreSQL has no text with NUL, and JSON of SQLite ends there.
    if classes == {str} and not any("\0" in member for member in members):
        return "strs"
    return None


def _kind_of_subclass(value: Value) -> LiteralKind:
    for cls, kind in _KINDS.items():
        if isinstance(value, cls):
            # The driver may have an adapter for a kind of dict or list.
            return "other" if cls in {dict, list} else kind
    return "other"


class Expression:
    """
    A value that the database computes, made by `F` and the functions of this module.

    The operators ``+ - * / %`` and the comparisons, including ``==``, build further
    expressions; nothing is computed in Python. An expression has no truth value:
    combine conditions with ``&``, ``|`` and ``~``.
    """

    __slots__ = ("depth", "node", "values")

    def __init__(
        self, node: Node, values: tuple[Value, ...] = (), depth: int = 0
    ) -> None:
        """Create an expression; callers use the functions of this module instead."""
        if depth > _MAX_DEPTH:
            raise UsageError(TOO_DEEP)
        self.depth: int = depth
        self.node: Node = node
        self.values: tuple[Value, ...] = values

    def __repr__(self) -> str:
        """Return the tree as text, including the values of its literals."""
        return _describe(self.node, iter(self.values))

    def __hash__(self) -> int:
        """Hash by identity, since ``==`` builds an expression and does not compare."""
        return object.__hash__(self)

    def __bool__(self) -> bool:
        """Raise, because ``and``, ``or`` and ``not`` would silently drop a condition."""
        msg = f"{self!r} has no truth value: combine conditions with &, | and ~"
        raise UsageError(msg)

    def __add__(self, other: Operand) -> Expression:
        return self._operate("+", other)

    def __radd__(self, other: Operand) -> Expression:
        return _build("operator", "+", other, self)

    def __sub__(self, other: Operand) -> Expression:
        return self._operate("-", other)

    def __rsub__(self, other: Operand) -> Expression:
        return _build("operator", "-", other, self)

    def __mul__(self, other: Operand) -> Expression:
        return self._operate("*", other)

    def __rmul__(self, other: Operand) -> Expression:
        """Multiply, with the plain value on the left."""
        return _build("operator", "*", other, self)

    def __truediv__(self, other: Operand) -> Expression:
        """Divide; integers truncate toward zero, and division by zero is NULL."""
        return self._operate("/", other)

    def __rtruediv__(self, other: Operand) -> Expression:
        return _build("operator", "/", other, self)

    def __mod__(self, other: Operand) -> Expression:
        """Return the remainder of integers, with the dividend's sign; by zero NULL."""
        return self._operate("%", other)

    def __rmod__(self, other: Operand) -> Expression:
        return _build("operator", "%", other, self)

    def __eq__(self, other: Operand) -> Expression:  # type: ignore[override]  # builds a condition, as in every query builder
        """Return a condition; with None it means IS NULL."""
        return self.is_null() if other is None else self._operate("=", other)

    def __ne__(self, other: Operand) -> Expression:  # type: ignore[override]  # builds a condition, as in every query builder
        """Return a condition; with None it means IS NOT NULL."""
        if other is None:
            return ~self.is_null()
        return self._operate("<>", other)

    def __lt__(self, other: Operand) -> Expression:
        """Return a condition; text is compared by code point on both engines."""
        return self._operate("<", other)

    def __le__(self, other: Operand) -> Expression:
        """Return a condition; text is compared by code point on both engines."""
        return self._operate("<=", other)

    def __gt__(self, other: Operand) -> Expression:
        """Return a condition; text is compared by code point on both engines."""
        return self._operate(">", other)

    def __ge__(self, other: Operand) -> Expression:
        """Return a condition; text is compared by code point on both engines."""
        return self._operate(">=", other)

    def __and__(self, other: Operand) -> Expression:
        """Return the conjunction of two conditions; this is not a bitwise operator."""
        return self._operate("AND", other)

    def __rand__(self, other: Operand) -> Expression:
        return _build("operator", "AND", other, self)

    def __or__(self, other: Operand) -> Expression:
        """Return the disjunction of two conditions; this is not a bitwise operator."""
        return self._operate("OR", other)

    def __ror__(self, other: Operand) -> Expression:
        return _build("operator", "OR", other, self)

    def __invert__(self) -> Expression:
        """Return the negation of a condition; NULL stays NULL."""
        return _build("operator", "NOT", self)

    def _operate(self, operator: Operator, other: Operand) -> Expression:
        # The same as _build, but faster, because most calls build F("n") + 1.
        if other.__class__ is int and _INT4_MIN <= other <= _INT4_MAX:
            node: Node = ("operator", operator, (self.node, _INT4))
            return Expression(node, (*self.values, other), self.depth + 1)
        return _build("operator", operator, self, other)

    def is_null(self) -> Expression:
        """Return the condition that the value is NULL."""
        return _build("function", "is_null", self)

    def in_(self, values: Iterable[Value]) -> Expression:
        """Return the condition that the value is in *values*; None means IS NULL."""
        members = tuple(values)
        present = [member for member in members if member is not None]
        kind = _kind_of_members(present)
        if kind is None:
            # The last one repeated, so that not every length is another statement.
            size = 1 << (len(present) - 1).bit_length() if present else 0
            padding = present[-1:] * (size - len(present))
            among = _build("function", "in", self, *present, *padding)
        else:
            node: Node = ("function", "in", (self.node, ("literal", kind, ())))
            among = Expression(node, (*self.values, present), self.depth + 1)
        return among if len(present) == len(members) else among | self.is_null()

    def concat(self, *others: Operand) -> Expression:
        """Concatenate text, or integers as text; NULL if any part is NULL."""
        return _build("function", "concat", self, *others)

    def merge(self, other: Operand) -> Expression:
        """
        Merge a JSON object into this one, key by key, not recursively.

        The result is NULL if either is NULL, and *other* if either is not an object.
        """
        return _build("function", "merge", self, other)


class F(Expression):
    """
    The stored value of a column; when the row is created, the column's default.

    The default of a column that has none is NULL, so on create ``F("hits") + 1`` is
    NULL and ``coalesce(F("hits"), 0) + 1`` is 1.
    """

    __slots__ = ()

    def __init__(self, column: str) -> None:
        """Name the column."""
        if not isinstance(column, str):
            _refuse_name(column, "F")
        self.node: Node = ("column", column, ())
        self.values: tuple[Value, ...] = ()
        self.depth: int = 0


class Excluded(Expression):
    """The value that this call would insert into a column, as EXCLUDED in SQL."""

    __slots__ = ()

    def __init__(self, column: str) -> None:
        """Name the column."""
        if not isinstance(column, str):
            _refuse_name(column, "Excluded")
        self.node: Node = ("excluded", column, ())
        self.values: tuple[Value, ...] = ()
        self.depth: int = 0


DEFAULT: Final = Expression(("default", "", ()))
"""
The default of the column, as in ``defaults={"state": DEFAULT}``.

It is a whole value and cannot be part of another expression.
"""


def coalesce(*values: Operand) -> Expression:
    """Return the first value that is not NULL."""
    return _function("coalesce", values, at_least=1)


def greatest(*values: Operand) -> Expression:
    """Return the greatest value; NULLs are ignored on both engines."""
    return _function("greatest", values, at_least=1)


def least(*values: Operand) -> Expression:
    """Return the least value; NULLs are ignored on both engines."""
    return _function("least", values, at_least=1)


def case(*branches: tuple[Operand, Operand], else_: Operand = None) -> Expression:
    """
    Return the value beside the first condition that is true, or *else_*.

    Each of *branches* is a condition and a value, as in
    ``case((F("hits") >= 100, "hot"), (F("hits") >= 10, "warm"), else_="cold")``.

    Raises:
        UsageError: There are no branches, or one is not a pair.
    """
    given: tuple[Value, ...] = branches
    if {*map(type, given)} != {tuple} or any(len(b) != _PAIR for b in given):
        msg = "case() takes pairs of a condition and a value, at least one"
        raise UsageError(msg)
    operands = [operand for branch in branches for operand in branch]
    return _build("function", "case", *operands, else_)


_PAIR: Final = 2


def nullif(value: Operand, other: Operand) -> Expression:
    """Return *value*, or NULL if it equals *other*."""
    return _build("function", "nullif", value, other)


def like(value: Operand, pattern: str) -> Expression:
    """
    Return the condition that text matches a pattern as a whole.

    ``%`` stands for any number of characters, ``_`` for one, and a backslash before one
    of these, or before another backslash, for the character itself. Letters match only
    themselves, whatever the collation: ``like(lower(F("name")), "a%")`` takes both
    cases of ASCII letters.

    Raises:
        UsageError: *pattern* is not text, or ends with an escaping backslash.
    """
    text: Value = pattern
    if not isinstance(text, str) or (len(text) - len(text.rstrip("\\"))) % 2:
        msg = (
            "like() takes its pattern as text that does not end with an escaping"
            f" backslash, not {text!r}"
        )
        raise UsageError(msg)
    return _build("function", "like", value, pattern)


def now() -> Expression:
    """
    Return the current time of the database.

    On PostgreSQL this is ``now()``, the start of the transaction; on SQLite it is text
    of the form ``YYYY-MM-DD HH:MM:SS.SSS`` in UTC, the start of the statement.
    """
    return _build("function", "now")


def lower(value: Operand) -> Expression:
    """Convert ASCII letters to lower case; both engines leave other letters as is."""
    return _build("function", "lower", value)


def upper(value: Operand) -> Expression:
    """Convert ASCII letters to upper case; both engines leave other letters as is."""
    return _build("function", "upper", value)


def length(value: Operand) -> Expression:
    """Return the number of characters of text, or of bytes of a binary value."""
    return _build("function", "length", value)


def func(name: str, *values: Operand) -> Expression:
    """
    Call a function of the database by its plain or schema-qualified name.

    It is not translated between engines. Text in *values* is sent without a type, so
    the database chooses the function as it does for a quoted literal.

    Raises:
        UsageError: *name* is not a plain or schema-qualified name.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", name, re.ASCII):
        msg = f"func() takes a plain function name, not {name!r}"
        raise UsageError(msg)
    return _build("call", name, *values)


def SQL(text: str, *values: Operand) -> Expression:  # noqa: N802  # reads as the keyword it stands for
    """
    Insert raw SQL; each ``{}`` in it stands for one of *values*, a bound parameter.

    *text* is sent as it is, so never build it from user input. Write ``{{`` and ``}}``
    for braces.

    Raises:
        UsageError: The placeholders in *text* are invalid, or do not match *values*.
    """
    fields = [
        field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        for _, field, spec, conversion in _parse(text)
        if field is not None
    ]
    if any(fields):
        msg = (
            f"SQL() takes plain {{}} placeholders, not {{{next(filter(None, fields))}}}"
        )
        raise UsageError(msg)
    if len(fields) != len(values):
        msg = f"SQL() needs one value for each {{}}: {len(fields)}, not {len(values)}"
        raise UsageError(msg)
    return _build("sql", text, *values)


def sql_parts(text: str) -> tuple[str, ...]:
    """Split the text of `SQL` at its placeholders, into one part more than values."""
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
        msg = f"{name}() needs at least one value"
        raise UsageError(msg)
    return _build("function", name, *values)


def _refuse_name(column: object, function: str) -> NoReturn:
    msg = f"{function}() takes a column name, not {column!r}"
    raise UsageError(msg)


def _build(kind: NodeKind, name: str, *operands: Operand) -> Expression:
    nodes: list[Node] = []
    values: list[Value] = []
    depth = 0
    for operand in operands:
        if isinstance(operand, Expression):
            depth = max(depth, operand.depth)
            nodes.append(operand.node)
            values += operand.values
        else:
            nodes.append(("literal", literal_kind(operand), ()))
            values.append(operand)
    return Expression((kind, name, tuple(nodes)), tuple(values), depth + 1)


def _describe(node: Node, values: Iterator[Value]) -> str:
    kind, name, operands = node
    match kind:
        case "column":
            return f"F({name!r})"
        case "excluded":
            return f"Excluded({name!r})"
        case "default":
            return "DEFAULT"
        case "literal" if name in MEMBERS:
            return ", ".join(map(repr, next(values)))
        case "literal":
            return repr(next(values))
        case _:
            args = ", ".join([_describe(operand, values) for operand in operands])
            return f"{name}({args})"
