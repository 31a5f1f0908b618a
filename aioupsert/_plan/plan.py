"""A call, checked against the table's description: everything its statements need."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

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
from aioupsert._plan.schema import Column, Table
from aioupsert.errors import MissingUniqueIndexError, UnknownColumnError, UsageError
from aioupsert.expressions import Node

WITHOUT_UNIQUE_INDEX: Final = ("warn", "error", "allow", "lock")
STRATEGIES: Final = ("auto", "fast", "exact", "on_conflict")


class KeyColumn(NamedTuple):
    """A column of the key, the slot of its value, and what that is."""

    column: Column
    parameter: int
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
        unique: Whether at most one row can have the key.
        renames: The columns of the key that are given another value.
        row_slots: How many values, the first ones, every row brings when many are
            written.
        warning: What to warn of, once, or None.
        checks: Checks of key values, each with the slot it reads.
    """

    table: Table
    key: tuple[KeyColumn, ...]
    update: tuple[Assignment, ...]
    compare: tuple[Comparison, ...] | None
    insert: tuple[Assignment, ...]
    where: Resolved | None
    returning: tuple[str, ...]
    exact_because: str | None
    on_conflict: bool
    lock: bool
    unique: bool
    renames: tuple[str, ...]
    row_parameters: int
    warning: str | None
    checks: tuple[tuple[int, KeyCheck], ...]

    @property
    def conditional(self) -> bool:
        """Whether a row that is there may not be updated."""
        return (
            not self.update
            or self.where is not None
            or self.compare is not None
            or self.table.updates_may_be_refused
            or self.table.written_by_triggers
        )


def make_plan(call: RequestShape, table: Table) -> Plan:
    """
    Check a call, given as its shape, against the table.

    Raises:
        UsageError: The arguments contradict each other or the table.
        UnknownColumnError: Columns that the table does not have, all of them named.
        MissingUniqueIndexError: No unique index, and the call insisted on one.
    """
    shape = Request(*call)
    _check_words(shape)
    _check_columns(shape, table)
    key = tuple(
        KeyColumn(table.columns[name], parameter, kind)
        for parameter, (name, kind) in enumerate(shape.key)
    )
    parameters = itertools.count(len(key))
    incoming = None if shape.incoming is None else number(shape.incoming, parameters)
    row_parameters = 0
    if incoming is not None:
        row_parameters = next(parameters)
        parameters = itertools.count(row_parameters)
    defaults = number(shape.defaults, parameters)
    create_defaults = number(shape.create_defaults, parameters)
    touch = number(shape.touch, parameters)
    where = None if shape.where is None else number_node(shape.where, parameters)
    if shape.coalesced:
        row_parameters = next(parameters)

    keys = {
        k.column.name: NumberedNode(
            "literal", "value" if k.is_null else k.kind, parameter=k.parameter
        )
        for k in key
    }
    given = defaults if incoming is None else incoming
    on_update = Branch(
        table, {**create_defaults, **keys, **touch, **given}, creates=False
    )
    on_create = Branch(
        table, {**keys, **given, **touch, **create_defaults}, creates=True
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
            for c, n in on_create.incoming.items()
            if not table.columns[c].generated
        ),
        where=None if where is None else on_update.condition(where),
        returning=returning,
        exact_because=_why_exact(shape, table),
        on_conflict=shape.strategy == "on_conflict",
        lock=shape.without_unique_index == "lock" and not unique,
        unique=unique,
        renames=tuple(sorted(keys.keys() & {*defaults, *touch, *create_defaults})),
        row_parameters=row_parameters,
        warning=None
        if unique
        else missing_index(
            [name for name, _ in shape.key], shape.without_unique_index, table
        ),
        checks=tuple(
            (k.parameter, check)
            for k in key
            if k.kind not in {"null", "text"}
            and (check := key_check(k.column)) is not None
        ),
    )
    _check_strategy(shape, plan)
    return plan


def _check_words(shape: Request) -> None:
    check_without_unique_index(shape.without_unique_index)
    _check_word("strategy", shape.strategy, STRATEGIES)
    both = sorted(dict(shape.defaults).keys() & dict(shape.touch))
    if both:
        msg = f"in both defaults and touch: {', '.join(map(repr, both))}"
        raise UsageError(msg)


def check_without_unique_index(word: str) -> None:
    """Refuse what is none of the choices."""
    _check_word("without_unique_index", word, WITHOUT_UNIQUE_INDEX)


def _check_word(argument: str, word: str, words: Sequence[str]) -> None:
    if word not in words:
        msg = f"{argument} must be one of {', '.join(map(repr, words))}, not {word!r}"
        raise UsageError(msg)


def _check_columns(shape: Request, table: Table) -> None:
    named = {name for name, _ in shape.key}
    nodes = [] if shape.where is None else [shape.where]
    for items in (
        shape.incoming or (),
        *(shape.defaults, shape.create_defaults, shape.touch),
    ):
        named |= {name for name, _ in items}
        nodes += [node for _, node in items]
    for node in nodes:
        named |= set(columns_of(node))
    if shape.returning is not None and shape.returning != "*":
        named |= set(_names(shape.returning))
    unknown = [name for name in named if name not in table.columns]
    if unknown:
        raise UnknownColumnError(table.label, map(str, unknown), table.visible)
    spread = table.distribution_column
    if spread is not None and spread not in dict(shape.key):
        msg = f"key must have {spread!r}, by which {table.label} is distributed"
        raise UsageError(msg)
    for argument in ("incoming", "defaults", "create_defaults", "touch"):
        for name, _ in getattr(shape, argument) or ():
            if table.columns[name].generated:
                word = _WORDS.get(argument if shape.incoming is not None else "")
                msg = (
                    f"{word or argument}[{name!r}]: the database computes this column of"
                    f" {table.label}, it cannot be written"
                )
                raise UsageError(msg)


# What the arguments of a bulk call are called.
_WORDS: Final = {"incoming": "row", "defaults": "update"}


def columns_of(node: Node) -> Iterator[str]:
    kind, name, operands = node
    if kind in {"column", "excluded"}:
        yield name
    for operand in operands:
        yield from columns_of(operand)


def _names(returning: str | tuple[str, ...]) -> tuple[str, ...]:
    return (returning,) if isinstance(returning, str) else returning


def _returning(shape: Request, table: Table) -> tuple[str, ...]:
    if shape.returning is None:
        return ()
    named = table.visible if shape.returning == "*" else _names(shape.returning)
    names = tuple(dict.fromkeys(named))
    if names and not table.supports_returning and not table.written_by_triggers:
        msg = f"returning: a virtual table such as {table.label} returns no rows"
        raise UsageError(msg)
    return names


def missing_index(key: Sequence[str], word: str, table: Table) -> str | None:
    """
    Give the warning for a key that no unique index makes unique, if one is due.

    Raises:
        MissingUniqueIndexError: *word*, the caller's, is "error".
    """
    text = (
        f"no unique index makes ({', '.join(key)}) of {table.label} unique, so concurrent"
        " calls may create the row twice; add one, or pass without_unique_index="
        '"lock" or "allow"'
    )
    if word == "error":
        raise MissingUniqueIndexError(text)
    return text if word == "warn" and table.all_indexes_known else None


def _why_exact(shape: Request, table: Table) -> str | None:
    if shape.strategy == "exact":
        return "asked for"
    written = [name for name, _ in shape.key]
    if any(
        table.columns[n].generated or table.columns[n].always_identity for n in written
    ):
        return "the key has a column that only the database may write"
    return table.exact_because


def _check_strategy(shape: Request, plan: Plan) -> None:
    if shape.strategy == "fast" and plan.exact_because:
        msg = f'strategy="fast" cannot serve {plan.table.label}: {plan.exact_because}'
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
    if plan.renames or not plan.table.supports_on_conflict_update:
        why = (
            f"the key's {', '.join(plan.renames)} is given another value, which would"
            " create a second row"
            if plan.renames
            else "it cannot tell created from updated there"
        )
        msg = f'strategy="on_conflict" cannot serve {plan.table.label}: {why}'
        raise UsageError(msg)
