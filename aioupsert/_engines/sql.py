"""SQL text: names, expressions, and statements with the values they bind."""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final

from aioupsert.expressions import sql_parts

if TYPE_CHECKING:
    from aioupsert._plan import Assignment, Resolved
    from aioupsert._plan.schema import Column

# The first value of every row our statements return: what happened to that row.
CREATED: Final = 1
UPDATED: Final = 2
UNCHANGED: Final = 3
SKIPPED: Final = 4


@dataclass(frozen=True, slots=True)
class CompiledStatement:
    """
    A statement that fills in values.

    Attributes:
        sql: The text.
        pick: Puts the values in the order of the placeholders.
        encoders: Placeholders whose value is encoded first.
        when: In which case it is sent, for `preview`.
        counted: What a row counts as where the statement cannot return rows.
    """

    sql: str
    pick: Callable[[Sequence[Any]], tuple[Any, ...]]
    encoders: tuple[tuple[int, Callable[[Any], Any]], ...] = ()
    when: str = ""
    counted_as: int | None = None

    def arguments(self, values: Sequence[Any]) -> Sequence[Any]:
        """Put the values in the order of the placeholders."""
        picked = self.pick(values)
        if not self.encoders:
            return picked
        encoded = list(picked)
        for position, encode in self.encoders:
            encoded[position] = encode(encoded[position])
        return encoded


def _picker(parameters: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    if len(parameters) > 1:
        return itemgetter(*parameters)
    return lambda values: tuple([values[parameter] for parameter in parameters])


# --- Names and texts ------------------------------------------------------------------


def quote(name: str) -> str:
    """Quote an identifier; both engines double the quotation marks inside."""
    return '"' + name.replace('"', '""') + '"'


def quote_path(parts: Iterable[str]) -> str:
    """Quote a table's name with its schema."""
    return ".".join(map(quote, parts))


def quote_text(text: str) -> str:
    """Quote a text that comes from the catalog, for where no parameter may stand."""
    return "'" + text.replace("'", "''") + "'"


def quote_escaped(text: str) -> str:
    """Quote a text for PostgreSQL, whatever it takes a backslash for."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"


def encode_json(value: Any) -> str | None:
    """Write JSON as SQLite itself does: compact, letters as they are; None is NULL."""
    if value is None:
        return None
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class SqlWriter(abc.ABC):
    """
    Writes the expressions of one statement and collects its placeholders.

    A dialect overrides what its database writes differently.
    """

    _PLAIN: ClassVar = frozenset({"+", "-", "*", "=", "<>", "AND", "OR"})
    _ORDERED: ClassVar = frozenset({"<", "<=", ">", ">="})

    def __init__(self, qualifier: str) -> None:
        """Start a statement whose columns are qualified by *qualifier*."""
        self.qualifier: str = qualifier
        self.parameters: list[int] = []
        self.encoders: list[tuple[int, Callable[[Any], Any]]] = []

    def compiled(
        self, sql: str, when: str, counted_as: int | None = None
    ) -> CompiledStatement:
        """Finish the statement."""
        return CompiledStatement(
            sql, _picker(self.parameters), tuple(self.encoders), when, counted_as
        )

    def column(self, column: Column) -> str:
        """Write a stored column, always qualified."""
        return f"{self.qualifier}.{quote(column.name)}"

    def term(self, term: Resolved) -> str:
        """Write an expression; it can stand anywhere without further parentheses."""
        match term.kind:
            case "column" if term.column:
                return self.column(term.column)
            case "default" if term.column:
                return self.default(term.column)
            case "value" | "literal":
                return self.literal(term)
            case "call":
                return f"{term.name}({self.all(term.args)})"
            case "sql":
                parts = sql_parts(term.name)
                positions = [*map(self.term, term.args), ""]
                text = "".join(p + v for p, v in zip(parts, positions, strict=True))
                return f"({text})"
            case _:
                return self.operation(term)

    def all(self, terms: Sequence[Resolved]) -> str:
        """Write expressions, separated by commas."""
        return ", ".join(map(self.term, terms))

    def operation(self, term: Resolved) -> str:
        """Write an operator or one of our functions."""
        name, args = term.name, term.args
        if name in self._PLAIN:
            return f"({self.term(args[0])} {name} {self.term(args[1])})"
        if name in self._ORDERED:
            left, right = self.ordered(args)
            return f"({left} {name} {right})"
        match name:
            case "NOT":
                return f"(NOT {self.term(args[0])})"
            case "is_null":
                return f"({self.term(args[0])} IS NULL)"
            case "in" if len(args) > 1:
                return f"({self.term(args[0])} IN ({self.all(args[1:])}))"
            case "in":
                return "(1 = 0)"
            case "coalesce":
                # SQLite's takes two arguments or more; a second NULL changes nothing.
                return f"coalesce({self.all(args)}, NULL)"
            case _:
                return self.function(term)

    @abc.abstractmethod
    def literal(self, term: Resolved) -> str:
        """Write a placeholder."""

    @abc.abstractmethod
    def default(self, column: Column) -> str:
        """Write a column's default in place."""

    @abc.abstractmethod
    def assigned(self, item: Assignment) -> str:
        """Write one value that UPDATE sets."""

    @abc.abstractmethod
    def ordered(self, args: Sequence[Resolved]) -> list[str]:
        """Write operands whose order matters: text goes by code point."""

    @abc.abstractmethod
    def function(self, term: Resolved) -> str:
        """Write what the dialects write differently."""

    def assignments(self, items: Sequence[Assignment]) -> str:
        """Write what UPDATE sets."""
        return ", ".join(f"{quote(a.column.name)} = {self.assigned(a)}" for a in items)
