"""A request, checked against the description of its table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, NoReturn, get_args

from aioupsert._plan.key_checks import KeyCheck, key_check
from aioupsert._plan.request import Request, RequestShape
from aioupsert._plan.resolving import (
    Assignment,
    Branch,
    Comparison,
    NumberedNode,
    Resolved,
    number,
    number_node,
)
from aioupsert._plan.schema import Column, Constant, Table
from aioupsert.errors import MissingUniqueIndexError, UnknownColumnError, UsageError
from aioupsert.expressions import LiteralKind, Node, walk
from aioupsert.typing import Strategy, WithoutUniqueIndex

WITHOUT_UNIQUE_INDEX: Final[tuple[str, ...]] = get_args(WithoutUniqueIndex)
STRATEGIES: Final[tuple[str, ...]] = get_args(Strategy)


class KeyColumn(NamedTuple):
    """
    A column of the key.

    Attributes:
        column: The column.
        parameter: The parameter that holds its value.
        kind: The kind of the value.
        constant: The value, if a predicate of a unique index has it; None otherwise.
    """

    column: Column
    parameter: int
    kind: LiteralKind
    constant: Constant = None

    @property
    def is_null(self) -> bool:
        """Whether the value is NULL."""
        return self.kind == "null"


@dataclass(frozen=True, slots=True)
class Plan:
    """
    A checked request: everything its statements need except the values.

    Attributes:
        table: The table.
        key: The columns that identify the row.
        update: What an update sets; empty if an existing row is left alone.
        compare: The columns whose values decide UNCHANGED, with the new values; None
            if the call does not compare.
        insert: What an insert sets.
        where: The condition of an update, or None.
        returning: The columns to return.
        old: Whether to return these as they were, too, and which columns have changed.
        caller_columns: How many of the last columns of an answer the caller asked for.
        exact_because: Why the single statement is not used, or None.
        on_conflict: Whether the caller asked for ``INSERT ... ON CONFLICT DO UPDATE``.
        lock: Whether an advisory lock replaces the missing unique index.
        unique: Whether at most one row can have the key.
        renames: The columns of the key that are given another value.
        row_parameters: How many parameters, the first ones, are columns of the rows
            when many rows are written.
        warning: A warning for the caller, given once, or None.
        checks: Checks of key values, each with the parameter it reads.
        lock_timeout: As in `Request`.
    """

    table: Table
    key: tuple[KeyColumn, ...]
    update: tuple[Assignment, ...]
    compare: tuple[Comparison, ...] | None
    insert: tuple[Assignment, ...]
    where: Resolved | None
    returning: tuple[str, ...]
    old: bool
    caller_columns: int
    exact_because: str | None
    on_conflict: bool
    lock: bool
    unique: bool
    renames: tuple[str, ...]
    row_parameters: int
    warning: str | None
    checks: tuple[tuple[int, KeyCheck], ...]
    lock_timeout: int

    @property
    def key_nulls(self) -> dict[str, bool]:
        """The columns of the key, each with whether its value is NULL."""
        return {k.column.name: k.is_null for k in self.key}

    @property
    def key_with_values(self) -> list[KeyColumn]:
        """The columns of the key whose values are not NULL."""
        return [k for k in self.key if not k.is_null]

    @property
    def constants(self) -> dict[str, Constant]:
        """The values of the key that predicates of unique indexes have."""
        return {k.column.name: k.constant for k in self.key if k.constant is not None}

    @property
    def conditional(self) -> bool:
        """Whether an existing row may be left as it is."""
        return (
            not self.update
            or self.where is not None
            or self.compare is not None
            or self.table.updates_may_be_refused
            or self.table.written_by_triggers
        )


def make_plan(shape: RequestShape, table: Table) -> Plan:
    """
    Check a request against the table.

    Raises:
        UsageError: The arguments contradict each other or the table.
        UnknownColumnError: Columns that the table does not have, all of them named.
        MissingUniqueIndexError: No unique index, and the call insisted on one.
    """
    request = Request(*shape)
    _check_choices(request)
    _check_columns(request, table)
    constants = dict(request.constants or ())
    key = tuple(
        KeyColumn(table.columns[name], parameter, kind, constants.get(name))
        for parameter, (name, kind) in enumerate(request.key)
    )
    parameters = itertools.count(len(key))
    incoming = (
        None if request.incoming is None else number(request.incoming, parameters)
    )
    row_parameters = 0
    if incoming is not None:
        row_parameters = next(parameters)
        parameters = itertools.count(row_parameters)
    defaults = number(request.defaults, parameters)
    if request.spares is not None:
        defaults = {
            name: node
            for name, node in defaults.items()
            if name not in table.primary_key
        }
        if defaults.keys() <= {*request.spares}:
            defaults = {}
    create_defaults = number(request.create_defaults, parameters)
    touch = number(request.touch, parameters)
    # The value that the caller gives for a touched column is the one to write.
    touch = {name: node for name, node in touch.items() if name not in defaults}
    where = None if request.where is None else number_node(request.where, parameters)
    if request.coalesced:
        row_parameters = next(parameters)

    keys = {
        k.column.name: NumberedNode(
            ("literal", "value" if k.is_null else k.kind, ()), parameter=k.parameter
        )
        for k in key
    }
    given = defaults if incoming is None else incoming
    on_update = Branch(
        table, {**create_defaults, **keys, **touch, **given}, creates=False
    )
    touched = {name: node for name, node in touch.items() if name not in given}
    on_create = Branch(
        table, {**keys, **given, **touched, **create_defaults}, creates=True
    )
    guarded = request.skip_unchanged or bool(touch)
    written = {**defaults, **touch} if defaults else {}
    returning = _returning(request, table)
    indexed = table.is_unique({k.column.name: k.is_null for k in key}, constants)
    unique = indexed and not table.has_children
    plan = Plan(
        table=table,
        key=key,
        update=tuple(on_update.assignment(c, n) for c, n in written.items()),
        compare=tuple(on_update.comparison(c, n) for c, n in defaults.items())
        if guarded
        else None,
        insert=tuple(
            on_create.assignment(c, n)
            for c, n in on_create.incoming.items()
            if not table.columns[c].generated
        ),
        where=None if where is None else on_update.condition(where),
        returning=returning,
        old=request.old,
        caller_columns=len(returning) * (2 if request.old else 1),
        exact_because=_why_exact(request, table, unique=unique),
        on_conflict=request.strategy == "on_conflict",
        lock=request.without_unique_index == "lock" and not indexed,
        unique=unique,
        renames=tuple(sorted(keys.keys() & {*defaults, *touch, *create_defaults})),
        row_parameters=row_parameters,
        warning=None
        if indexed
        else missing_index(
            [name for name, _ in request.key],
            request.without_unique_index,
            table,
            nulls=[k.column.name for k in key if k.is_null],
        ),
        checks=tuple(
            (k.parameter, check)
            for k in key
            if k.kind not in {"null", "text"}
            and (check := key_check(k.column)) is not None
        ),
        lock_timeout=request.lock_timeout,
    )
    _check_strategy(request, plan)
    return plan


def _check_choices(request: Request) -> None:
    check_without_unique_index(request.without_unique_index)
    if request.strategy not in STRATEGIES:
        _refuse_choice("strategy", request.strategy, STRATEGIES)


def check_without_unique_index(choice: object) -> None:
    """
    Check an argument that a type checker may not have seen.

    Raises:
        UsageError: It is not one of the choices.
    """
    if choice not in WITHOUT_UNIQUE_INDEX:
        _refuse_choice("without_unique_index", choice, WITHOUT_UNIQUE_INDEX)


def _refuse_choice(argument: str, given: object, choices: Sequence[str]) -> NoReturn:
    msg = f"{argument} must be one of {', '.join(map(repr, choices))}, not {given!r}"
    raise UsageError(msg)


def _check_columns(request: Request, table: Table) -> None:
    named = {name for name, _ in request.key}
    nodes = [] if request.where is None else [request.where]
    for items in (
        request.incoming or (),
        *(request.defaults, request.create_defaults, request.touch),
    ):
        named |= {name for name, _ in items}
        nodes += [node for _, node in items]
    for node in nodes:
        named |= set(columns_of(node))
    if request.returning is not None and request.returning != "*":
        named |= set(_names(request.returning))
    unknown = [name for name in named if name not in table.columns]
    if unknown:
        raise UnknownColumnError(table.label, map(str, unknown), table.visible)
    distribution = table.distribution_column
    if distribution is not None and distribution not in dict(request.key):
        msg = f"key must have {distribution!r}, by which {table.label} is distributed"
        raise UsageError(msg)
    for argument in ("incoming", "defaults", "create_defaults", "touch"):
        for name, _ in getattr(request, argument) or ():
            if table.columns[name].generated:
                called = argument if request.incoming is None else _BULK_NAMES[argument]
                msg = (
                    f"{called}[{name!r}]: the database computes this column of"
                    f" {table.label}, it cannot be written"
                )
                raise UsageError(msg)


# How the caller of a bulk call knows them.
_BULK_NAMES: Final = {
    "incoming": "row",
    "defaults": "update",
    "create_defaults": "create_defaults",
    "touch": "touch",
}


def columns_of(node: Node) -> Iterator[str]:
    """Yield the columns that an expression names."""
    return (name for kind, name, _ in walk(node) if kind in {"column", "excluded"})


def _names(returning: str | tuple[str, ...]) -> tuple[str, ...]:
    return (returning,) if isinstance(returning, str) else returning


def _returning(request: Request, table: Table) -> tuple[str, ...]:
    if request.returning is None:
        return ()
    named = table.visible if request.returning == "*" else _names(request.returning)
    names = tuple(dict.fromkeys(named))
    if names and not table.supports_returning and not table.written_by_triggers:
        msg = f"returning: a virtual table such as {table.label} returns no rows"
        raise UsageError(msg)
    return names


def missing_index(
    key: Sequence[str],
    choice: WithoutUniqueIndex,
    table: Table,
    *,
    nulls: Sequence[str] = (),
) -> str | None:
    """
    Return a warning about a key that no unique index makes unique, or None.

    Args:
        key: The columns of the key.
        choice: What the caller wants to be done about it.
        table: The table.
        nulls: The columns of the key that are None.

    Raises:
        MissingUniqueIndexError: The caller wants an error.
    """
    text = (
        f"no unique index makes ({', '.join(key)}) of {table.label} unique, so concurrent"
        " calls may create the row twice; add one, or pass without_unique_index="
        '"lock" or "allow"'
    )
    if nulls and table.is_unique(dict.fromkeys(key, False)):
        text = (
            f"the key's {', '.join(nulls)} is None, and the unique index on"
            f" ({', '.join(key)}) of {table.label} allows any number of NULLs, so"
            " concurrent calls may create the row twice; give it a value, or pass"
            ' without_unique_index="lock" or "allow"'
        )
    if choice == "error":
        raise MissingUniqueIndexError(text)
    return text if choice == "warn" and table.all_indexes_known else None


def _why_exact(request: Request, table: Table, *, unique: bool) -> str | None:
    if request.strategy == "exact":
        return "asked for"
    if request.old and not unique:
        return "old is asked for, and the key may match several rows"
    written = [name for name, _ in request.key]
    if any(
        table.columns[n].generated or table.columns[n].always_identity for n in written
    ):
        return KEY_IS_GENERATED
    return table.exact_because


KEY_IS_GENERATED: Final = "the key has a column that only the database may write"


def _check_old(plan: Plan) -> None:
    table = plan.table
    why = None
    if plan.on_conflict:
        why = 'strategy="on_conflict" does not read the row first'
    elif table.written_by_triggers and plan.renames:
        why = f"the key of a view such as {table.label} is given another value"
    elif not table.supports_returning and not table.written_by_triggers:
        why = f"a virtual table such as {table.label} returns no rows"
    if why is not None:
        msg = f"old: {why}"
        raise UsageError(msg)


def _check_strategy(request: Request, plan: Plan) -> None:
    if request.strategy == "fast" and plan.exact_because:
        msg = f'strategy="fast" cannot serve {plan.table.label}: {plan.exact_because}'
        raise UsageError(msg)
    if plan.old:
        _check_old(plan)
    if not plan.on_conflict:
        return
    key = {k.column.name: k.is_null for k in plan.key}
    if not plan.table.infers(key):
        msg = (
            f'strategy="on_conflict" needs a unique index on exactly ({", ".join(key)})'
            f" of {plan.table.label}, neither partial nor deferrable, with the columns'"
            " own collation, and no tables that inherit from it"
        )
        raise MissingUniqueIndexError(msg)
    if plan.renames or not plan.table.supports_on_conflict_update:
        why = (
            f"the key's {', '.join(plan.renames)} is given another value, which would"
            " create a second row"
            if plan.renames
            else "it cannot report whether a row was created or updated there"
        )
        msg = f'strategy="on_conflict" cannot serve {plan.table.label}: {why}'
        raise UsageError(msg)
