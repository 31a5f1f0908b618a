"""
Expressions, resolved against a table for one branch of a call: update or create.

This decides what `F` and `Excluded` mean in the branch and which type a literal takes,
and refuses expressions on which the engines would disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from aioupsert._plan.request import Items
from aioupsert._plan.schema import Column, Family, Table
from aioupsert.errors import UsageError
from aioupsert.expressions import (
    ARITHMETIC,
    CHOICES,
    COMPARISONS,
    MARKING,
    SAME_TYPE,
    Node,
    NodeKind,
    column_beside,
    of_same_type,
)

ResolvedKind: TypeAlias = Literal[
    "column",
    "default",
    "value",
    "literal",
    "operator",
    "function",
    "marking",
    "call",
    "sql",
]
"""
What a resolved node is.

A ``default`` is the default of its column, written in place; a ``value`` has the type of
its column, and a ``literal`` that of its Python value.
"""


@dataclass(frozen=True, slots=True)
class Resolved:
    """
    One node of an expression, resolved for one branch (update or create).

    Attributes:
        kind: What it is.
        name: As in `Node`.
        args: The operands.
        parameter: The parameter that holds the value of a literal or value.
        column: The column that it stands for, or that types it.
        family: What expressions can do with it; "" if unknown.
    """

    kind: ResolvedKind
    name: str = ""
    args: tuple[Resolved, ...] = ()
    parameter: int = -1
    column: Column | None = None
    family: Family = ""

    def walk(self) -> Iterator[Resolved]:
        """Yield this node and all nodes below it, from left to right."""
        yield self
        for arg in self.args:
            yield from arg.walk()


class Assignment(NamedTuple):
    """A column and what it is set to; None means the keyword DEFAULT."""

    column: Column
    term: Resolved | None


class Comparison(NamedTuple):
    """A column and the value that would replace the stored one."""

    column: Column
    term: Resolved


@dataclass(frozen=True, slots=True)
class NumberedNode:
    """
    A node whose literals know their parameters.

    Attributes:
        node: The node.
        args: Its operands, numbered.
        parameter: The parameter of a literal.
    """

    node: Node
    args: tuple[NumberedNode, ...] = ()
    parameter: int = -1

    @property
    def kind(self) -> NodeKind:
        """The kind of the node."""
        return self.node[0]

    @property
    def name(self) -> str:
        """The name of the node."""
        return self.node[1]


def number(items: Items, parameters: Iterator[int]) -> dict[str, NumberedNode]:
    """Assign the literals of several columns to the next parameters, from left to right."""
    return {name: number_node(node, parameters) for name, node in items}


def number_node(node: Node, parameters: Iterator[int]) -> NumberedNode:
    """Assign the literals of an expression to the next parameters, from left to right."""
    kind, _, operands = node
    if kind == "literal":
        return NumberedNode(node, parameter=next(parameters))
    return NumberedNode(node, tuple(number_node(o, parameters) for o in operands))


_LITERAL_FAMILIES: Final[dict[str, Family]] = {
    "bool": "boolean",
    "int4": "integer",
    "int8": "integer",
    "numeric": "number",
    "float": "number",
    "decimal": "number",
    "str": "text",
    "bytes": "bytes",
    "json": "json",
    "list": "list",
    "ints": "integer",
    "strs": "text",
}
# Literals that take the type of the column beside them if it is of such a family: an enum
# label is a str, an array a list, a composite value a dict, and NULL is of any type.
_HINTED_LITERALS: Final[dict[str, frozenset[Family]]] = {
    **dict.fromkeys(("str", "strs"), frozenset({"", "text", "date", "other"})),
    "list": frozenset({"", "json", "other"}),
    "json": frozenset({"", "json", "other"}),
}
_ALWAYS_HINTED: Final = frozenset({"null", "other"})
_NUMBERS: Final[frozenset[Family]] = frozenset({"integer", "number"})
_DATES: Final[frozenset[Family]] = frozenset({"date", "other"})
_NULL_OF_NULLS: Final = frozenset({*ARITHMETIC, "%", *CHOICES})
_RESULT_FAMILIES: Final[dict[str, Family]] = {
    **dict.fromkeys((*COMPARISONS, "AND", "OR", "NOT", "is_null", "like"), "boolean"),
    **dict.fromkeys(("concat", "lower", "upper"), "text"),
    "length": "integer",
    "merge": "json",
    "now": "other",
}
# What each operator or function can take so that both engines agree, and why it cannot
# take the rest. An unknown family passes.
_OPERANDS: Final[dict[str, tuple[frozenset[Family], str]]] = {
    **dict.fromkeys(
        ARITHMETIC,
        (
            frozenset({"integer", "number", "other"}),
            "text has .concat(), JSON has .merge(), and it is arithmetic, on numbers",
        ),
    ),
    **dict.fromkeys(
        (*COMPARISONS, "greatest", "least", "nullif"),
        (
            frozenset({"integer", "number", "text", "boolean", "bytes", *_DATES}),
            "the engines compare JSON differently",
        ),
    ),
    "%": (frozenset({"integer"}), "SQLite cuts the operands of % to integers"),
    **dict.fromkeys(
        ("AND", "OR", "NOT"),
        (frozenset({"boolean"}), "&, | and ~ combine conditions, not numbers"),
    ),
    "concat": (
        frozenset({"text", "integer"}),
        "the engines write other values differently as text",
    ),
    **dict.fromkeys(
        ("lower", "upper"), (frozenset({"text"}), "they change letters only")
    ),
    "length": (
        frozenset({"text", "bytes"}),
        "it counts characters of text and bytes of binary values",
    ),
    "like": (frozenset({"text"}), "it compares text with a pattern"),
    "merge": (frozenset({"json", "text"}), "it joins JSON objects"),
}
_KNOWN_FAMILIES: Final[frozenset[Family]] = frozenset(
    {"integer", "number", "text", "boolean", "json", "bytes", *_DATES}
)
# What messages call a family: the dates of one engine are other types of the other.
_WORDS: Final = {
    **{family: family for family in (*_KNOWN_FAMILIES, "list")},
    "date": "other",
}
_UNTYPED: Final = "a list takes its type from a column beside it"


class Branch:
    """Resolves expressions for one branch: what F and Excluded mean there."""

    def __init__(
        self, table: Table, incoming: Mapping[str, NumberedNode], *, creates: bool
    ) -> None:
        """
        Begin a branch.

        Args:
            table: The table.
            incoming: The values that the call has for columns, which `Excluded` means.
            creates: Whether the branch creates the row.
        """
        self.table = table
        self.incoming = incoming
        self._creates = creates
        self._open: list[str] = []

    def assignment(self, name: str, value: NumberedNode) -> Assignment:
        column = self.table.columns[name]
        if value.kind == "default":
            return Assignment(column, None)
        return Assignment(column, self._assigned(value, column))

    def comparison(self, name: str, value: NumberedNode) -> Comparison:
        column = self.table.columns[name]
        if value.kind == "default":
            return Comparison(column, self._default(column))
        return Comparison(column, self._assigned(value, column))

    def _assigned(self, value: NumberedNode, column: Column) -> Resolved:
        term = self._resolve(value, column)
        if not _fits(term.family, column.family):
            msg = (
                f"{column.name!r} ({_WORDS[column.family]}) cannot take this expression"
                f" ({_WORDS[term.family]}): the engines would store different values"
            )
            raise UsageError(msg)
        return term

    def condition(self, value: NumberedNode) -> Resolved:
        term = self._resolve(value, None)
        self._check_operands("AND", (term,), "where")
        return term

    def _resolve(self, value: NumberedNode, hint: Column | None) -> Resolved:
        match value.kind:
            case "literal":
                return self._literal(value, hint)
            case "column":
                column = self.table.columns[value.name]
                if self._creates:
                    return self._default(column)
                return Resolved("column", column=column, family=column.family)
            case "excluded":
                return self._excluded(value.name)
            case "default":
                msg = "DEFAULT is a whole value; inside an expression use F(column)"
                raise UsageError(msg)
            case kind:
                return self._operation(kind, value, hint)

    def _literal(self, value: NumberedNode, hint: Column | None) -> Resolved:
        kind = value.name
        plain = kind in {"value", "container", "text"}
        if hint and not plain:
            families = _HINTED_LITERALS.get(kind, ())
            plain = kind in _ALWAYS_HINTED or hint.family in families
        if plain:
            family = "" if hint is None or kind == "null" else hint.family
            return Resolved(
                "value", kind, parameter=value.parameter, column=hint, family=family
            )
        family = _LITERAL_FAMILIES.get(kind, "" if kind == "null" else "other")
        return Resolved("literal", kind, parameter=value.parameter, family=family)

    def _default(self, column: Column) -> Resolved:
        if column.generated:
            msg = (
                f"F({column.name!r}) has no value when the row is created:"
                " the database computes this column"
            )
            raise UsageError(msg)
        return Resolved("default", column=column, family=column.family)

    def _excluded(self, name: str) -> Resolved:
        if name not in self.incoming:
            msg = f"Excluded({name!r}): this call has no value for {name!r}"
            raise UsageError(msg)
        if name in self._open:
            msg = f"Excluded({name!r}) is defined by itself"
            raise UsageError(msg)
        value = self.incoming[name]
        column = self.table.columns[name]
        if value.kind == "default":
            return self._default(column)
        self._open.append(name)
        term = self._resolve(value, column)
        self._open.pop()
        return term

    def _operation(
        self,
        kind: Literal["operator", "function", "call", "sql"],
        value: NumberedNode,
        hint: Column | None,
    ) -> Resolved:
        name = value.name
        if name in MARKING:
            return self._marking(name, value.args)
        name_beside = column_beside(value.node)
        beside = None if name_beside is None else self.table.columns[name_beside]
        inner = null = None
        if name in SAME_TYPE:
            inner = null = beside or (hint if name in CHOICES else None)
        elif name in ARITHMETIC and beside and beside.family in _NUMBERS:
            null = beside
        conditions = value.args[:-1:2] if name == "case" else ()
        args = tuple(
            self._resolve(arg, None)
            if any(arg is condition for condition in conditions)
            else self._resolve(arg, null if arg.name == "null" else inner)
            for arg in value.args
        )
        if kind in {"call", "sql"}:
            return Resolved(kind, name, args)
        if name in _NULL_OF_NULLS and all(arg.name == "null" for arg in args):
            return args[0]  # which has a type if the database needs one
        if conditions:
            self._check_operands("AND", args[:-1:2], name)
        alike = of_same_type(name, args)
        self._check_operands(name, alike, name)
        if name in SAME_TYPE:
            _check_alike(name, alike)
        return Resolved(kind, name, args, family=_family(name, alike))

    def _marking(self, name: str, values: Sequence[NumberedNode]) -> Resolved:
        """Resolve a function of a column and a value, which may be its default."""
        *conditions, stored, other = values
        column = self.table.columns[stored.name]
        is_default = other.kind == "default"
        args = (
            *(self._resolve(condition, None) for condition in conditions),
            self._resolve(stored, None),
            self._default(column) if is_default else self._resolve(other, column),
        )
        family: Family = "boolean" if name == "holds" else column.family
        return Resolved("marking", name, args, family=family)

    def _check_operands(self, rule: str, args: Iterable[Resolved], where: str) -> None:
        allowed, why = _OPERANDS.get(rule, (_KNOWN_FAMILIES, _UNTYPED))
        for arg in args:
            if arg.family and arg.family not in allowed:
                what = arg.column.name if arg.column else arg.name
                msg = f"{where} cannot take {what!r} ({_WORDS[arg.family]}): {why}"
                raise UsageError(msg)


def _family(name: str, args: Sequence[Resolved]) -> Family:
    if name in _RESULT_FAMILIES:
        return _RESULT_FAMILIES[name]
    families: list[Family] = [arg.family for arg in args if arg.family]
    if "other" in families:
        return "other"
    if "number" in families:
        return "number"
    if name in CHOICES:
        return families[0] if families else ""
    return "integer" if len(families) == len(args) else ""


def _check_alike(name: str, args: Sequence[Resolved]) -> None:
    known = [arg for arg in args if arg.family]
    for arg in known[1:]:
        first = known[0].family
        if arg.family != first and not _group(first) & _group(arg.family):
            msg = (
                f"{name} cannot take {_WORDS[first]} beside {_WORDS[arg.family]}:"
                " PostgreSQL refuses it, and SQLite gives some value"
            )
            raise UsageError(msg)


def _group(family: Family) -> frozenset[Family]:
    if family in _NUMBERS:
        return _NUMBERS
    return _DATES if family in _DATES else frozenset({family})


def _fits(family: Family, column: Family) -> bool:
    """Return whether both engines store an expression as the same value in a column."""
    if not family or not column or family == column:
        return True
    if "other" in {family, column} or "date" in {family, column}:
        return True
    return (family, column) in {("integer", "number"), ("json", "text")}


def added_parameter(
    term: Resolved | None, created: Resolved, column: Column
) -> int | None:
    """Return the parameter that is added to a column on update and create, or None."""
    if term is None or column.family != "integer" or term.name not in {"+", "-"}:
        return None
    parameters = [
        arg.parameter
        for arg in term.args
        if arg.kind == "literal" and arg.name == "int4"
    ]
    # By create_defaults, something else may be added on create.
    is_same = created.name == term.name and parameters == [
        arg.parameter for arg in created.args if arg.kind == "literal"
    ]
    if len(parameters) != 1 or not is_same:
        return None
    positions = [0, 1] if term.name == "+" else [0]
    stored = [term.args[position] for position in positions]
    fresh = [created.args[position] for position in positions]
    is_sum = any(
        one.kind == "column" and one.column == column for one in stored
    ) and any(one.kind == "default" and one.column == column for one in fresh)
    return parameters[0] if is_sum else None
