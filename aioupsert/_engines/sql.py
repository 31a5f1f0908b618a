"""
SQL text: names, expressions, and statements with the values that they bind.

A statement never contains a value. `SqlWriter` writes a placeholder in its place and
records which value of the call it binds: a parameter, an index of the call's values.
The values themselves are picked when the statement is sent, so that one text, prepared
once by the server, serves every call of the same shape.
"""

from __future__ import annotations

import abc
import enum
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from aioupsert.expressions import MEMBERS, sql_parts
from aioupsert.typing import Value

if TYPE_CHECKING:
    from aioupsert._plan import Assignment, Resolved
    from aioupsert._plan.schema import Column


class RowCode(enum.IntEnum):
    """
    What happened to a row: the first value of every row that a statement returns.

    In the order of their weight where several rows match a key.
    """

    CREATED = 1
    UPDATED = 2
    UNCHANGED = 3
    SKIPPED = 4


ParameterValues: TypeAlias = Sequence[Value]
"""The values of one call; a parameter is an index of it."""
Binder: TypeAlias = Callable[[ParameterValues], Sequence[Value]]
"""Returns the values of a call that a statement binds, as it binds them."""
Encoder: TypeAlias = Callable[[Value], str | None]
"""Encodes a value that the driver would not write as this library means it."""
Encoders: TypeAlias = tuple[tuple[int, Encoder], ...]
"""The positions of placeholders whose value is encoded, each with its encoder."""


@dataclass(frozen=True, slots=True)
class CompiledStatement:
    """
    A statement, and the values of a call that it binds.

    Attributes:
        sql: The text.
        arguments: Returns the values in the order of the placeholders, encoded.
        when: In which case it is sent, for `preview`.
        counted_as: The code of each written row if the statement returns no rows.
    """

    sql: str
    arguments: Binder
    when: str = ""
    counted_as: RowCode | None = None


def _binder(parameters: Sequence[int], encoders: Encoders) -> Binder:
    first = parameters[0] if parameters else 0
    pick: Binder = (
        itemgetter(*parameters)
        if len(parameters) > 1
        # Of one, itemgetter would return the value itself.
        else itemgetter(slice(first, first + len(parameters)))
    )
    if not encoders:
        return pick

    def encoded(values: ParameterValues) -> Sequence[Value]:
        picked = [*pick(values)]
        for position, encode in encoders:
            picked[position] = encode(picked[position])
        return picked

    return encoded


# --- Names and texts ------------------------------------------------------------------


def quote(name: str) -> str:
    """Quote an identifier; both engines double the quotation marks inside."""
    return '"' + name.replace('"', '""') + '"'


def quote_path(parts: Iterable[str]) -> str:
    """Quote a table's name with its schema."""
    return ".".join(map(quote, parts))


def quote_text(text: str) -> str:
    """Quote a string from the catalog, where a placeholder is not allowed."""
    return "'" + text.replace("'", "''") + "'"


def quote_escaped(text: str) -> str:
    """Quote a string for PostgreSQL, whatever standard_conforming_strings is."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"


def encode_json(value: Value) -> str | None:
    """Write JSON as SQLite does: compact, and with letters unescaped; None is NULL."""
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class SqlWriter(abc.ABC):
    """
    Writes the expressions of one statement and collects its placeholders.

    The writer of an engine overrides what its database writes differently.

    Attributes:
        qualifier: What columns are qualified by.
        parameters: The parameters that the placeholders bind, in their order.
        encoders: The placeholders whose value is encoded.
    """

    _SAME_EVERYWHERE: ClassVar = frozenset({"+", "-", "*", "=", "<>"})
    _INEQUALITIES: ClassVar = frozenset({"<", "<=", ">", ">="})

    def __init__(self, qualifier: str) -> None:
        """Start a statement whose columns are qualified by *qualifier*."""
        self.qualifier: str = qualifier
        self.parameters: list[int] = []
        self.encoders: list[tuple[int, Encoder]] = []

    def compiled(
        self, sql: str, when: str, counted_as: RowCode | None = None
    ) -> CompiledStatement:
        """Return the statement with the placeholders written so far."""
        return CompiledStatement(
            sql, _binder(self.parameters, tuple(self.encoders)), when, counted_as
        )

    def column(self, column: Column) -> str:
        """Write a stored column, always qualified."""
        return f"{self.qualifier}.{quote(column.name)}"

    def expression(self, expression: Resolved) -> str:
        """Write an expression that needs no further parentheses anywhere."""
        match expression.kind:
            case "column" if expression.column:
                return self.column(expression.column)
            case "default" if expression.column:
                return self.default(expression.column)
            case "value" | "literal":
                return self.literal(expression)
            case "call":
                return f"{expression.name}({self.expressions(expression.args)})"
            case "sql":
                parts = sql_parts(expression.name)
                written = [*map(self.expression, expression.args), ""]
                text = "".join(p + w for p, w in zip(parts, written, strict=True))
                return f"({text})"
            case "marking":
                return self.marking(expression)
            case _:
                return self.operation(expression)

    def expressions(self, expressions: Sequence[Resolved]) -> str:
        """Write expressions, separated by commas."""
        return ", ".join(map(self.expression, expressions))

    def operation(self, expression: Resolved) -> str:
        """Write an operator, or a function that this library defines."""
        name, args = expression.name, expression.args
        if name in self._SAME_EVERYWHERE:
            left, right = map(self.expression, args)
            return f"({left} {self.operator(expression)} {right})"
        if name in self._INEQUALITIES:
            left, right = self.ordered(args)
            return f"({left} {self.operator(expression)} {right})"
        match name:
            case "AND" | "OR":
                return f"({self.expression(args[0])} {name} {self.expression(args[1])})"
            case "NOT":
                return f"(NOT {self.expression(args[0])})"
            case "is_null":
                return f"({self.expression(args[0])} IS NULL)"
            case "in" if args[-1].parameter >= 0 and args[-1].name in MEMBERS:
                return self.among(args[0], args[1])
            case "in":
                return self.one_of(args[0], args[1:]) if args[1:] else "FALSE"
            case "case":
                return self.choice([*map(self.expression, args)])
            case "coalesce":
                # SQLite's takes at least two arguments; another NULL changes nothing.
                return f"coalesce({self.expressions(args)}, NULL)"
            case _:
                return self.function(expression)

    def choice(self, parts: Sequence[str]) -> str:
        """Write the first value whose condition is true, or the last one."""
        branches = zip(parts[:-1:2], parts[1:-1:2], strict=True)
        text = " ".join(f"WHEN {test} THEN {value}" for test, value in branches)
        return f"(CASE {text} ELSE {parts[-1]} END)"

    def marking(self, expression: Resolved) -> str:
        """Write a function of marked rows; see `MARKING`."""
        if expression.name == "kept_if":
            return self.choice([*map(self.expression, expression.args)])
        stored, value = expression.args
        if value.kind == "default" and value.column and not value.column.default:
            return f"({self.expression(stored)} IS NULL)"
        return self.same(stored, value)

    def operator(self, expression: Resolved) -> str:
        """Write the name of an operator."""
        return expression.name

    def one_of(self, value: Resolved, values: Sequence[Resolved]) -> str:
        """Write whether a value equals one of several."""
        return f"({self.expression(value)} IN ({self.expressions(values)}))"

    @abc.abstractmethod
    def literal(self, expression: Resolved) -> str:
        """Write a placeholder."""

    @abc.abstractmethod
    def default(self, column: Column) -> str:
        """Write the expression of a column's default."""

    @abc.abstractmethod
    def assigned(self, item: Assignment) -> str:
        """Write the value that UPDATE sets a column to."""

    @abc.abstractmethod
    def ordered(self, args: Sequence[Resolved]) -> list[str]:
        """Write operands of which the greater one matters: text by code point."""

    @abc.abstractmethod
    def among(self, value: Resolved, members: Resolved) -> str:
        """Write whether a value is one of the members of a set, which is one parameter."""

    @abc.abstractmethod
    def same(self, one: Resolved, other: Resolved) -> str:
        """Write whether two values are equal, or both NULL."""

    @abc.abstractmethod
    def function(self, expression: Resolved) -> str:
        """Write an operation that differs between the databases."""

    def assignments(self, items: Sequence[Assignment]) -> str:
        """Write the SET list of an UPDATE."""
        return ", ".join(f"{quote(a.column.name)} = {self.assigned(a)}" for a in items)
