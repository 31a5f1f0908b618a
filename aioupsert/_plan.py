"""
The arguments of a call, checked.

First what can be seen without the database: the call's *shape*, hashable and without
values, so that calls which differ only in values share one plan and its statements.
Then against the table's description: the *plan*. Values travel beside both in a flat
list; a *slot* is a place in that list.
"""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias, cast

from aioupsert._schema import Column, Table, looks_like_number
from aioupsert.errors import MissingUniqueIndexError, UnknownColumnError, UsageError
from aioupsert.expressions import Expression, Node

Items: TypeAlias = tuple[tuple[str, Node], ...]


class Call(NamedTuple):
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


Shape: TypeAlias = tuple[Any, ...]
"""A `Call` as a plain tuple, which is quicker to make and to hash."""

# A plain value takes the type of its column. Whether it is a dict or a list belongs to
# the shape: as JSON it is encoded here, as an array or a composite by the driver.
_VALUE: Final[Node] = ("literal", "value", ())
_CONTAINER: Final[Node] = ("literal", "container", ())

WITHOUT_UNIQUE_INDEX: Final = ("warn", "error", "allow", "lock")
STRATEGIES: Final = ("auto", "fast", "exact", "on_conflict")


def read_call(
    *,
    key: Mapping[str, Any],
    defaults: Mapping[str, Any] | None,
    create_defaults: Mapping[str, Any] | None,
    where: Expression | None,
    skip_unchanged: bool,
    touch: Mapping[str, Any] | None,
    returning: str | Sequence[str] | None,
    without_unique_index: str,
    strategy: str,
) -> tuple[Shape, list[Any]]:
    """Split the arguments of a call into its shape and its values."""
    values: list[Any] = []
    shape = (
        _read_key(key, values),
        _read_items("defaults", defaults, values) if defaults else (),
        _read_items("create_defaults", create_defaults, values)
        if create_defaults
        else (),
        _read_items("touch", touch, values) if touch else (),
        None if where is None else _read_where(where, values),
        skip_unchanged,
        returning
        if returning is None or isinstance(returning, str)
        else tuple(returning),
        without_unique_index,
        strategy,
    )
    return shape, values


def _read_key(key: Mapping[str, Any], values: list[Any]) -> tuple[tuple[str, str], ...]:
    names: list[tuple[str, str]] = []
    for name, value in _pairs("key", key):
        if isinstance(value, Expression):
            msg = f"key[{name!r}] must be a plain value, not {value!r}"
            raise UsageError(msg)
        names.append((name, "null" if value is None else _plain(value)[1]))
        values.append(value)
    if not names:
        msg = "key is empty: name the columns that identify the row"
        raise UsageError(msg)
    return tuple(names)


def _read_items(argument: str, items: Mapping[str, Any], values: list[Any]) -> Items:
    nodes: list[tuple[str, Node]] = []
    for name, given in _pairs(argument, items):
        value = given() if callable(given) else given
        if isinstance(value, Expression):
            nodes.append((name, value.node))
            values.extend(value.values)
        else:
            nodes.append((name, _plain(value)))
            values.append(value)
    return tuple(nodes)


def _plain(value: Any) -> Node:
    return _CONTAINER if isinstance(value, (dict, list)) else _VALUE


def _read_where(where: object, values: list[Any]) -> Node:
    if not isinstance(where, Expression):
        msg = f'where takes an expression such as F("version") < 3, not {where!r}'
        raise UsageError(msg)
    values.extend(where.values)
    return where.node


def _pairs(argument: str, items: object) -> Iterable[tuple[str, Any]]:
    # The first test is the quick one.
    if items.__class__ is dict or isinstance(items, Mapping):
        return cast("Mapping[str, Any]", items).items()
    msg = f"{argument} must be a mapping of column names to values, not {items!r}"
    raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class Term:
    """
    One node of an expression, resolved for one branch (update or create).

    Attributes:
        kind: column, default (the column's default, inlined), value (typed by
            *column*), literal (typed by its Python type), operator, function, call or
            sql.
        name: As in `Node`.
        args: The operands.
        slot: Where the value of a literal or value is.
        column: The column that types it.
        family: What expressions may do with it; "" where nobody can know.
    """

    kind: str
    name: str = ""
    args: tuple[Term, ...] = ()
    slot: int = -1
    column: Column | None = None
    family: str = ""


class Assignment(NamedTuple):
    """A column and what it is set to; None means the keyword DEFAULT."""

    column: Column
    term: Term | None


class Comparison(NamedTuple):
    """A column and the value that would replace the stored one."""

    column: Column
    term: Term


class KeyTerm(NamedTuple):
    """A column of the key, the slot of its value, and what that is."""

    column: Column
    slot: int
    kind: str

    @property
    def is_null(self) -> bool:
        """Whether the value is NULL."""
        return self.kind == "null"


@dataclass(frozen=True, slots=True)
class Plan:
    """
    A checked call: everything its statements need but the values.

    Attributes:
        table: The table.
        key: What identifies the row.
        update: What an update sets; empty when a row that is there is left alone.
        compare: The columns whose values decide UNCHANGED, with the new values; None
            when nobody asked.
        insert: What an insert sets.
        where: The condition of an update, or None.
        returning: The columns to return.
        exact: Why the single statement is not used, or None.
        on_conflict: Whether the caller asked for ``INSERT ... ON CONFLICT DO UPDATE``.
        lock: Whether an advisory lock replaces the missing unique index.
        warning: What to warn of, once, or None.
        checks: Checks of key values, each with the slot it reads.
    """

    table: Table
    key: tuple[KeyTerm, ...]
    update: tuple[Assignment, ...]
    compare: tuple[Comparison, ...] | None
    insert: tuple[Assignment, ...]
    where: Term | None
    returning: tuple[str, ...]
    exact: str | None
    on_conflict: bool
    lock: bool
    warning: str | None
    checks: tuple[tuple[int, Callable[[Any], None]], ...]

    @property
    def conditional(self) -> bool:
        """Whether a row that is there may not be updated."""
        return (
            not self.update
            or self.where is not None
            or self.compare is not None
            or self.table.refuses_updates
            or self.table.reads_back
        )


def make_plan(given: Shape, table: Table) -> Plan:
    """
    Check a call, given as its shape, against the table.

    Raises:
        UsageError: The arguments contradict each other or the table.
        UnknownColumnError: Columns that the table does not have, all of them named.
        MissingUniqueIndexError: No unique index, and the call insisted on one.
    """
    shape = Call(*given)
    _check_words(shape)
    _check_columns(shape, table)
    key = tuple(
        KeyTerm(table.columns[name], slot, kind)
        for slot, (name, kind) in enumerate(shape.key)
    )
    slots = itertools.count(len(key))
    defaults = _number(shape.defaults, slots)
    create_defaults = _number(shape.create_defaults, slots)
    touch = _number(shape.touch, slots)
    where = None if shape.where is None else _number_node(shape.where, slots)

    keys = {
        k.column.name: _Numbered(
            "literal", k.kind if k.kind == "container" else "value", slot=k.slot
        )
        for k in key
    }
    on_update = _Branch(
        table, {**create_defaults, **keys, **touch, **defaults}, creates=False
    )
    on_create = _Branch(
        table, {**keys, **defaults, **touch, **create_defaults}, creates=True
    )
    guarded = shape.skip_unchanged or bool(touch)
    written = {**defaults, **touch} if defaults else {}
    returning = _returning(shape, table)
    unique = table.is_unique({k.column.name: k.is_null for k in key})
    plan = Plan(
        table=table,
        key=key,
        update=tuple(on_update.assignment(c, n) for c, n in written.items()),
        compare=tuple(on_update.comparison(c, n) for c, n in defaults.items())
        if guarded
        else None,
        insert=tuple(
            on_create.assignment(c, n)
            for c, n in on_create.brought.items()
            if not table.columns[c].generated
        ),
        where=None if where is None else on_update.condition(where),
        returning=returning,
        exact=_why_exact(shape, table),
        on_conflict=shape.strategy == "on_conflict",
        lock=shape.without_unique_index == "lock" and not unique,
        warning=None if unique else _missing_index(shape, table),
        checks=tuple(
            (k.slot, check)
            for k in key
            if not k.is_null and (check := _key_check(k.column)) is not None
        ),
    )
    _check_strategy(shape, plan)
    return plan


def _check_words(shape: Call) -> None:
    if shape.without_unique_index not in WITHOUT_UNIQUE_INDEX:
        _refuse_word(
            "without_unique_index", shape.without_unique_index, WITHOUT_UNIQUE_INDEX
        )
    if shape.strategy not in STRATEGIES:
        _refuse_word("strategy", shape.strategy, STRATEGIES)
    both = sorted(dict(shape.defaults).keys() & dict(shape.touch))
    if both:
        msg = f"in both defaults and touch: {', '.join(map(repr, both))}"
        raise UsageError(msg)


def _refuse_word(argument: str, word: str, words: Sequence[str]) -> None:
    msg = f"{argument} must be one of {', '.join(map(repr, words))}, not {word!r}"
    raise UsageError(msg)


def _check_columns(shape: Call, table: Table) -> None:
    named = {name for name, _ in shape.key}
    nodes = [] if shape.where is None else [shape.where]
    for items in (shape.defaults, shape.create_defaults, shape.touch):
        named |= {name for name, _ in items}
        nodes += [node for _, node in items]
    for node in nodes:
        named |= set(_columns_of(node))
    if shape.returning is not None and shape.returning != "*":
        named |= set(_names(shape.returning))
    unknown = [name for name in named if name not in table.columns]
    if unknown:
        raise UnknownColumnError(table.label, map(str, unknown), table.visible)
    for argument in ("defaults", "create_defaults", "touch"):
        for name, _ in getattr(shape, argument):
            if table.columns[name].generated:
                msg = (
                    f"{argument}[{name!r}]: the database computes this column of"
                    f" {table.label}, it cannot be written"
                )
                raise UsageError(msg)


def _columns_of(node: Node) -> Iterator[str]:
    kind, name, operands = node
    if kind in {"column", "excluded"}:
        yield name
    for operand in operands:
        yield from _columns_of(operand)


def _names(returning: str | tuple[str, ...]) -> tuple[str, ...]:
    return (returning,) if isinstance(returning, str) else returning


def _returning(shape: Call, table: Table) -> tuple[str, ...]:
    if shape.returning is None:
        return ()
    named = table.visible if shape.returning == "*" else _names(shape.returning)
    names = tuple(dict.fromkeys(named))
    if names and not table.returns_rows and not table.reads_back:
        msg = f"returning: a virtual table such as {table.label} returns no rows"
        raise UsageError(msg)
    return names


def _missing_index(shape: Call, table: Table) -> str | None:
    key = ", ".join(name for name, _ in shape.key)
    text = (
        f"no unique index makes ({key}) of {table.label} unique, so concurrent calls"
        " may create the row twice; add one, or pass without_unique_index="
        '"lock" or "allow"'
    )
    if shape.without_unique_index == "error":
        raise MissingUniqueIndexError(text)
    warn = shape.without_unique_index == "warn" and table.shows_indexes
    return text if warn else None


def _why_exact(shape: Call, table: Table) -> str | None:
    if shape.strategy == "exact":
        return "asked for"
    written = [name for name, _ in shape.key]
    if any(
        table.columns[n].generated or table.columns[n].always_identity for n in written
    ):
        return "the key has a column that only the database may write"
    return table.needs_exact


def _check_strategy(shape: Call, plan: Plan) -> None:
    if shape.strategy == "fast" and plan.exact:
        msg = f'strategy="fast" cannot serve {plan.table.label}: {plan.exact}'
        raise UsageError(msg)
    if not plan.on_conflict:
        return
    key = {k.column.name: k.is_null for k in plan.key}
    if not any(index.matches(key) for index in plan.table.unique):
        msg = (
            f'strategy="on_conflict" needs a unique index on exactly ({", ".join(key)})'
            f" of {plan.table.label}, neither partial nor deferrable"
        )
        raise MissingUniqueIndexError(msg)
    items = (*shape.defaults, *shape.create_defaults, *shape.touch)
    renamed = sorted({name for name, _ in items if name in key})
    if renamed or not plan.table.upserts:
        why = (
            f"the key's {', '.join(renamed)} is given another value, which would create"
            " a second row"
            if renamed
            else "it cannot tell created from updated there"
        )
        msg = f'strategy="on_conflict" cannot serve {plan.table.label}: {why}'
        raise UsageError(msg)


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A node whose literals know their slots."""

    kind: str
    name: str
    args: tuple[_Numbered, ...] = ()
    slot: int = -1


def _number(items: Items, slots: Iterator[int]) -> dict[str, _Numbered]:
    return {name: _number_node(node, slots) for name, node in items}


def _number_node(node: Node, slots: Iterator[int]) -> _Numbered:
    kind, name, operands = node
    if kind == "literal":
        return _Numbered(kind, name, slot=next(slots))
    return _Numbered(kind, name, tuple(_number_node(o, slots) for o in operands))


_LITERAL_FAMILIES: Final = {
    "bool": "boolean",
    "int4": "integer",
    "int8": "integer",
    "numeric": "integer",
    "float": "number",
    "decimal": "number",
    "str": "text",
    "bytes": "bytes",
    "json": "json",
}
# Literals whose SQL type is that of the column beside them: an enum label is a str, and
# NULL is of any type.
_HINTED_LITERALS: Final = {"null", "str", "list", "json", "other"}
# Columns beside which a str may stand for one of their values.
_SPELT_AS_TEXT: Final = frozenset({"", "text", "date", "other"})
_NUMBERS: Final = frozenset({"integer", "number"})
_DATES: Final = frozenset({"date", "other"})
_COMPARISONS: Final = ("=", "<>", "<", "<=", ">", ">=", "in")
_SAME_FAMILY: Final = ("coalesce", "greatest", "least")
_ALIKE: Final = frozenset({*_COMPARISONS, *_SAME_FAMILY})
_ARITHMETIC: Final = frozenset({"+", "-", "*", "/"})
_NULL_OF_NULLS: Final = frozenset({*_ARITHMETIC, "%", *_SAME_FAMILY})
_RESULT_FAMILIES: Final = {
    **dict.fromkeys((*_COMPARISONS, "AND", "OR", "NOT", "is_null"), "boolean"),
    **dict.fromkeys(("concat", "lower", "upper"), "text"),
    "length": "integer",
    "merge": "json",
    "now": "other",
}
# What each operator or function can take so that both engines agree; "" is unknown and
# passes. The words after it say why the rest is refused.
_OPERANDS: Final[dict[str, tuple[frozenset[str], str]]] = {
    **dict.fromkeys(
        _ARITHMETIC,
        (
            frozenset({"integer", "number", "other"}),
            "text has .concat(), JSON has .merge(), and it is arithmetic, on numbers",
        ),
    ),
    **dict.fromkeys(
        (*_COMPARISONS, "greatest", "least"),
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
    "merge": (frozenset({"json", "text"}), "it joins JSON objects"),
}
_KNOWN_FAMILIES: Final = frozenset(
    {"integer", "number", "text", "boolean", "json", "bytes", *_DATES}
)
# What messages call a family; one engine's dates are the other's other types.
_WORDS: Final = {**{family: family for family in _KNOWN_FAMILIES}, "date": "other"}


class _Branch:
    """Resolves expressions for one branch: what F and Excluded mean there."""

    def __init__(
        self, table: Table, brought: dict[str, _Numbered], *, creates: bool
    ) -> None:
        self.table = table
        self.brought = brought
        self._creates = creates
        self._open: list[str] = []

    def assignment(self, name: str, value: _Numbered) -> Assignment:
        column = self.table.columns[name]
        if value.kind == "default":
            return Assignment(column, None)
        return Assignment(column, self._assigned(value, column))

    def comparison(self, name: str, value: _Numbered) -> Comparison:
        column = self.table.columns[name]
        if value.kind == "default":
            return Comparison(column, self._default(column))
        return Comparison(column, self._assigned(value, column))

    def _assigned(self, value: _Numbered, column: Column) -> Term:
        term = self._resolve(value, column)
        if not _fits(term.family, column.family):
            msg = (
                f"{column.name!r} ({_WORDS[column.family]}) cannot take this expression"
                f" ({_WORDS[term.family]}): the engines would store different values"
            )
            raise UsageError(msg)
        return term

    def condition(self, value: _Numbered) -> Term:
        term = self._resolve(value, None)
        self._check_operands("AND", (term,), "where")
        return term

    def _resolve(self, value: _Numbered, hint: Column | None) -> Term:
        match value.kind:
            case "literal":
                return self._literal(value, hint)
            case "column":
                column = self.table.columns[value.name]
                if self._creates:
                    return self._default(column)
                return Term("column", column=column, family=column.family)
            case "excluded":
                return self._excluded(value.name)
            case "default":
                msg = "DEFAULT is a whole value; inside an expression use F(column)"
                raise UsageError(msg)
            case _:
                return self._operation(value, hint)

    def _literal(self, value: _Numbered, hint: Column | None) -> Term:
        kind = value.name
        plain = kind in {"value", "container"}
        if hint and not plain:
            plain = kind in _HINTED_LITERALS and (
                kind != "str" or hint.family in _SPELT_AS_TEXT
            )
        if plain:
            family = "" if hint is None or kind == "null" else hint.family
            return Term("value", kind, slot=value.slot, column=hint, family=family)
        family = _LITERAL_FAMILIES.get(kind, "" if kind == "null" else "other")
        return Term("literal", kind, slot=value.slot, family=family)

    def _default(self, column: Column) -> Term:
        if column.generated:
            msg = (
                f"F({column.name!r}) has no value when the row is created:"
                " the database computes this column"
            )
            raise UsageError(msg)
        return Term("default", column=column, family=column.family)

    def _excluded(self, name: str) -> Term:
        if name not in self.brought:
            msg = f"Excluded({name!r}): this call brings no value for {name!r}"
            raise UsageError(msg)
        if name in self._open:
            msg = f"Excluded({name!r}) is defined by itself"
            raise UsageError(msg)
        value = self.brought[name]
        column = self.table.columns[name]
        if value.kind == "default":
            return self._default(column)
        self._open.append(name)
        term = self._resolve(value, column)
        self._open.pop()
        return term

    def _operation(self, value: _Numbered, hint: Column | None) -> Term:
        kind, name = value.kind, value.name
        beside = self._column_beside(value)
        inner = None
        if name in _ALIKE:
            inner = beside or (hint if name in _SAME_FAMILY else None)
        elif name in _ARITHMETIC and beside and beside.family in _NUMBERS:
            inner = beside
        args = tuple(self._resolve(arg, inner) for arg in value.args)
        if kind in {"call", "sql"}:
            return Term(kind, name, args)
        if name in _NULL_OF_NULLS and all(arg.name == "null" for arg in args):
            return args[0]  # which has a type where the database needs one
        self._check_operands(name, args, name)
        if name in _ALIKE:
            _check_alike(name, args)
        return Term(kind, name, args, family=_family(name, args))

    def _column_beside(self, value: _Numbered) -> Column | None:
        """Find the column whose type the literals among the operands take."""
        for arg in value.args:
            if arg.kind in {"column", "excluded"}:
                return self.table.columns[arg.name]
            if arg.name in _SAME_FAMILY and (found := self._column_beside(arg)):
                return found
        return None

    def _check_operands(self, rule: str, args: Iterable[Term], where: str) -> None:
        allowed, why = _OPERANDS.get(rule, (_KNOWN_FAMILIES, ""))
        for arg in args:
            if arg.family and arg.family not in allowed:
                what = arg.column.name if arg.column else arg.name
                msg = f"{where} cannot take {what!r} ({_WORDS[arg.family]}): {why}"
                raise UsageError(msg)


def _family(name: str, args: Sequence[Term]) -> str:
    if name in _RESULT_FAMILIES:
        return _RESULT_FAMILIES[name]
    families = [arg.family for arg in args if arg.family]
    for family in ("other", "number"):
        if family in families:
            return family
    if name in _SAME_FAMILY:
        return families[0] if families else ""
    return "integer" if len(families) == len(args) else ""


def _check_alike(name: str, args: Sequence[Term]) -> None:
    known = [arg for arg in args if arg.family]
    for arg in known[1:]:
        first = known[0].family
        if arg.family != first and not _group(first) & _group(arg.family):
            msg = (
                f"{name} cannot take {_WORDS[first]} beside {_WORDS[arg.family]}:"
                " PostgreSQL refuses it, and SQLite gives some value"
            )
            raise UsageError(msg)


def _group(family: str) -> frozenset[str]:
    if family in _NUMBERS:
        return _NUMBERS
    return _DATES if family in _DATES else frozenset({family})


def _fits(family: str, column: str) -> bool:
    """Tell whether both engines store an expression as the same value in a column."""
    if not family or not column or family == column:
        return True
    if "other" in {family, column} or "date" in {family, column}:
        return True
    return (family, column) in {("integer", "number"), ("json", "text")}


def _key_check(column: Column) -> Callable[[Any], None] | None:
    check = _KEY_CHECKS.get(column.storage)
    if check is None:
        return None

    def refuse(value: Any) -> None:
        why = check(value, column)
        if why:
            msg = (
                f"key[{column.name!r}]: {value!r} would be stored as something else:"
                f" {why}"
            )
            raise UsageError(msg)

    return refuse


def _check_integer(value: Any, _: Column) -> str | None:
    whole = (
        value.is_integer()
        if isinstance(value, float)
        else not isinstance(value, decimal.Decimal)
        or value == value.to_integral_value()
    )
    return None if whole else "the column holds whole numbers"


def _check_numeric(value: Any, _: Column) -> str | None:
    if (
        isinstance(value, float)
        and value == value  # noqa: PLR0124  # NaN is a value numeric can hold
        and decimal.Decimal(value) != decimal.Decimal(repr(value))
    ):
        return f'a float is not exact; pass Decimal("{value!r}")'
    return None


def _check_date(value: Any, _: Column) -> str | None:
    if isinstance(value, dt.datetime):
        return "the column holds dates, and the time of day would be cut off"
    return None


def _check_timestamptz(value: Any, _: Column) -> str | None:
    if not isinstance(value, dt.datetime):
        return "a date has no time of day or time zone" if _is_date(value) else None
    if value.tzinfo is None:
        return "a naive datetime has no time zone; pass an aware one"
    return None


def _is_date(value: Any) -> bool:
    return isinstance(value, dt.date)


def _check_time(value: Any, _: Column) -> str | None:
    if isinstance(value, dt.time) and value.tzinfo is not None:
        return "the column holds no time zone"
    return None


def _check_timetz(value: Any, _: Column) -> str | None:
    if isinstance(value, dt.time) and value.tzinfo is None:
        return "a naive time has no time zone; pass an aware one"
    return None


def _check_varchar(value: Any, column: Column) -> str | None:
    if (
        column.length is not None
        and isinstance(value, str)
        and len(value.rstrip(" ")) <= column.length < len(value)
    ):
        return f"the column holds {column.length} characters"
    return None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and value != value  # noqa: PLR0124  # only NaN is unequal to itself


def _check_sqlite_number(value: Any, _: Column) -> str | None:
    if _is_nan(value):
        return "SQLite stores NaN as NULL"
    if isinstance(value, str) and looks_like_number(value):
        return "the column's affinity turns it into a number"
    return None


def _check_sqlite_real(value: Any, column: Column) -> str | None:
    if isinstance(value, int) and int(float(value)) != value:
        return "the column holds floating point numbers, which cannot hold this one"
    return _check_sqlite_number(value, column)


def _check_sqlite_text(value: Any, _: Column) -> str | None:
    if isinstance(value, (int, float)):
        return "the column's affinity turns it into text"
    return None


def _check_sqlite_blob(value: Any, _: Column) -> str | None:
    return "SQLite stores NaN as NULL" if _is_nan(value) else None


_KEY_CHECKS: Final[dict[str, Callable[[Any, Column], str | None]]] = {
    "integer": _check_integer,
    "numeric": _check_numeric,
    "date": _check_date,
    "timestamptz": _check_timestamptz,
    "time": _check_time,
    "timetz": _check_timetz,
    "varchar": _check_varchar,
    "sqlite number": _check_sqlite_number,
    "sqlite real": _check_sqlite_real,
    "sqlite text": _check_sqlite_text,
    "sqlite blob": _check_sqlite_blob,
}
