"""Conditions that are written as SQLAlchemy's expressions, as those of the library."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    False_,
    Null,
    True_,
    UnaryExpression,
)

from aioupsert.errors import UsageError
from aioupsert.expressions import Expression, F

# What means the same here, whatever the types of both sides.
_ANY: Final[dict[Any, Callable[[Any, Any], Any]]] = {
    operators.eq: operator.eq,
    operators.ne: operator.ne,
    operators.is_: operator.eq,
    operators.is_not: operator.ne,
}
# And what does so but for text, which is ordered by its collation there.
_NOT_TEXT: Final[dict[Any, Callable[[Any, Any], Any]]] = {
    operators.lt: operator.lt,
    operators.le: operator.le,
    operators.gt: operator.gt,
    operators.ge: operator.ge,
    operators.add: operator.add,
    operators.sub: operator.sub,
    operators.mul: operator.mul,
}


def _and(left: Any, right: Any) -> Any:
    return left & right


def _or(left: Any, right: Any) -> Any:
    return left | right


# The only operators of a list of clauses, by their names.
_LISTS: Final = {"and_": _and, "or_": _or}


def condition_of(clause: Any, name_of: Callable[[Any], str]) -> Expression:
    """
    Return a condition of SQLAlchemy's over stored columns as one of the library.

    Args:
        clause: The condition.
        name_of: Returns the name of a column.

    Raises:
        UsageError: A part of it has no counterpart.
    """
    made = _operand(clause, name_of)
    if not isinstance(made, Expression):
        raise _refused(clause)
    return made


def _operand(clause: Any, name_of: Callable[[Any], str]) -> Any:
    """Return an expression, or a plain value."""
    # An attribute of a class is a column then, and a grouping what is grouped.
    if hasattr(clause, "__clause_element__"):
        clause = clause.__clause_element__()
    made: Any = None
    if isinstance(clause, sa.Column):
        made = F(name_of(clause))
    elif isinstance(clause, BindParameter):
        made = cast("Any", clause).effective_value
    elif isinstance(clause, (True_, False_)):
        made = isinstance(clause, True_)
    elif isinstance(clause, BooleanClauseList):
        parts = (_operand(part, name_of) for part in clause.clauses)
        made = reduce(_LISTS[cast("Any", clause).operator.__name__], parts)
    elif isinstance(clause, UnaryExpression) and clause.operator is operators.inv:
        made = ~_operand(cast("Any", clause).element, name_of)
    elif isinstance(clause, BinaryExpression):
        made = _binary(clause, name_of)
    elif not isinstance(clause, Null):
        raise _refused(cast("object", clause))
    return made


def _binary(clause: Any, name_of: Callable[[Any], str]) -> Any:
    left = _operand(clause.left, name_of)
    right = _operand(clause.right, name_of)
    sign: Any = clause.operator
    if sign in {operators.in_op, operators.not_in_op} and isinstance(left, F):
        among = left.in_(right)
        return among if sign is operators.in_op else ~among
    is_text = any(isinstance(s.type, sa.String) for s in (clause.left, clause.right))
    make = _ANY.get(sign) or (None if is_text else _NOT_TEXT.get(sign))
    if make is None or not isinstance(left, Expression):
        raise _refused(clause)
    return make(left, right)


def _refused(clause: object) -> UsageError:
    return UsageError(
        f"where cannot take {clause}: of SQLAlchemy's expressions it takes comparisons of"
        ' stored columns; write the rest with F("column"), Excluded("column") or'
        ' SQL("...")'
    )
