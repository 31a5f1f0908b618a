"""Parsing of the updates and conditions that are given on the command line."""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias, cast

from aioupsert.expressions import (
    Excluded,
    Expression,
    F,
    coalesce,
    greatest,
    least,
    length,
    lower,
    now,
    upper,
)

Operand: TypeAlias = Expression | int | float | str
_Operator: TypeAlias = Callable[[Any, Any], Expression]
_OPERATORS: Final[dict[type[ast.operator], _Operator]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda a, b: a / b,  # typeshed's truediv is untyped
    ast.Mod: operator.mod,
}
_COMPARISONS: Final[dict[type[ast.cmpop], _Operator]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: Final[dict[str, Callable[..., Expression]]] = {
    "coalesce": coalesce,
    "greatest": greatest,
    "least": least,
    "length": length,
    "lower": lower,
    "upper": upper,
    "now": now,
}
# For columns whose names are not Python identifiers.
_COLUMNS: Final[dict[str, Callable[[str], Expression]]] = {"F": F, "Excluded": Excluded}


def parse_updates(texts: Sequence[str]) -> dict[str, Operand]:
    """
    Parse the columns that an update sets.

    Args:
        texts: Each is ``column``, which takes the value of the row in the file, or
            ``column=expression``.

    Raises:
        ValueError: One of them is invalid; the message says why.
    """
    updates: dict[str, Operand] = {}
    for text in texts:
        name, separator, expression = text.partition("=")
        name = name.strip()
        if not name:
            msg = f"{text!r} does not name a column"
            raise ValueError(msg)
        if name in updates:
            msg = f"{name!r} is set twice"
            raise ValueError(msg)
        updates[name] = parse_expression(expression) if separator else Excluded(name)
    return updates


def parse_condition(text: str) -> Expression:
    """
    Parse the condition of an update.

    Raises:
        ValueError: It is invalid; the message says why.
    """
    condition = parse_expression(text)
    if not isinstance(condition, Expression):
        msg = f"{text!r} is not a condition"
        raise ValueError(msg)  # noqa: TRY004  # the text is wrong, not the type of an argument
    return condition


def parse_expression(text: str) -> Operand:
    """
    Parse an expression.

    A name is a stored value, and ``excluded.name`` is the value of the row in the file;
    ``F("odd name")`` and ``Excluded("odd name")`` do the same for any name. Numbers,
    quoted text, the operators + - * / %, some functions and, in conditions, == != < <=
    > >= and or not, is None are allowed.

    Raises:
        ValueError: It is invalid; the message says why.
    """
    try:
        with warnings.catch_warnings():
            # Python warns about what looks wrong as code; this is never run as code.
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval")
        return _read(tree.body)
    except SyntaxError as exc:
        msg = f"cannot read {text!r}: {exc.msg}"
        raise ValueError(msg) from exc
    except (RecursionError, MemoryError) as exc:
        msg = "nested too deeply"
        raise ValueError(msg) from exc


def _read(node: ast.expr) -> Operand:
    match node:
        case ast.Constant(value=value) if type(value) in {int, float, str}:
            return cast("int | float | str", value)
        case ast.Name(id=name):
            return F(name)
        case ast.Attribute(value=ast.Name(id="excluded"), attr=name):
            return Excluded(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            negated = _read(operand)
            if isinstance(negated, (int, float)):
                return -negated
            return _operate(operator.sub, 0, negated)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _operate(_OPERATORS[type(op)], _read(left), _read(right))
        case ast.Call(
            func=ast.Name(id=name), args=[ast.Constant(value=str(column))], keywords=[]
        ) if name in _COLUMNS:
            return _COLUMNS[name](column)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _call(name.lower(), [_read(arg) for arg in args])
        case _:
            return _read_condition(node)


def _read_condition(node: ast.expr) -> Expression:
    match node:
        case ast.Compare(
            left=left,
            ops=[ast.Is() | ast.IsNot() as op],
            comparators=[ast.Constant(value=None)],
        ):
            is_null = _expression(_read(left)).is_null()
            return is_null if isinstance(op, ast.Is) else ~is_null
        case ast.Compare(left=left, ops=[op], comparators=[right]) if (
            type(op) in _COMPARISONS
        ):
            compare = _COMPARISONS[type(op)]
            return _expression(compare(_expression(_read(left)), _read(right)))
        case ast.BoolOp(op=op, values=[first, *others]):
            both = _expression(_read(first))
            for other in others:
                more = _read(other)
                both = both & more if isinstance(op, ast.And) else both | more
            return both
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_expression(_read(operand))
        case _:
            msg = (
                f"cannot read {ast.unparse(node)!r}: use columns, excluded.column,"
                " numbers, 'text', + - * / % and functions"
            )
            raise ValueError(msg)


def _operate(function: _Operator, left: Operand, right: Operand) -> Expression:
    if isinstance(left, Expression) or isinstance(right, Expression):
        return function(left, right)
    if isinstance(left, str) or isinstance(right, str):
        msg = f"cannot compute with {left!r} and {right!r}"
        raise ValueError(msg)  # noqa: TRY004  # the text is wrong, not the type of an argument
    return function(_expression(left), right)


def _expression(value: Operand) -> Expression:
    """Wrap a plain value, so that the database computes with it and not Python."""
    return value if isinstance(value, Expression) else coalesce(value)


def _call(name: str, values: Sequence[Operand]) -> Expression:
    if name not in _FUNCTIONS:
        msg = (
            f"there is no function {name!r}; the functions are {', '.join(_FUNCTIONS)}"
        )
        raise ValueError(msg)
    try:
        return _FUNCTIONS[name](*values)
    except (TypeError, ValueError) as exc:
        msg = f"{name}: {exc}"
        raise ValueError(msg) from exc
