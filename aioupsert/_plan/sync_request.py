"""
The arguments of `sync_rows`: how rows are written, and which rows of the table are missing.

Whether a row is marked is a condition on its columns. A column that is set to a time, or
to an expression, marks a row while it does not hold its default, as what it was set to
differs from call to call. If there is no such column, a row is marked while every column
holds what it is set to.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Final, Literal, NamedTuple, TypeAlias, cast

from aioupsert._plan.bulk_request import BoundExpression, BulkRequest
from aioupsert._plan.records import Records, RowTranslation
from aioupsert._plan.request import (
    Request,
    RequestShape,
    pairs,
    plain_node,
    read_value,
)
from aioupsert._plan.schema import Names
from aioupsert.errors import UsageError
from aioupsert.expressions import DEFAULT, Excluded, Expression, Node
from aioupsert.typing import Update, Value, Values

Missing: TypeAlias = Literal["delete", "keep"] | Values
"""What to do with the rows that the source does not have."""


class SyncTerms(NamedTuple):
    """
    The scope and the marks of a call.

    Attributes:
        cells: The columns that the rows get, by the names that rows have.
        scope: The same by the names of the database, with what else limits the scope.
        classes: A further condition of the scope, or None.
        marks: What marks a row; None if missing rows are removed or kept.
        resets: What a marking column is set back to, if not to its default.
        updates: What an update also sets.
    """

    cells: Mapping[str, Value]
    scope: Mapping[str, Value]
    classes: Expression | None
    marks: Mapping[str, Value] | None
    resets: Mapping[str, Value]
    updates: Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """
    A call, checked by itself.

    Attributes:
        rows: How rows are written.
        removal: The request of which the plan has the scope as condition, and the marks
            as update.
        values: The values of that request.
        keeps: Whether missing rows are kept.
        scope: The columns of the scope.
    """

    rows: BulkRequest
    removal: RequestShape
    values: Sequence[Value]
    keeps: bool
    scope: Names


def read_scope(scope: object) -> dict[str, Value]:
    """
    Return the columns of a scope with their values.

    Raises:
        UsageError: It is not a mapping of columns to plain values.
    """
    cells = dict(pairs("scope", scope))
    for name, value in cells.items():
        if isinstance(value, Expression) or callable(value):
            msg = f"scope[{name!r}] must be a plain value, not {value!r}"
            raise UsageError(msg)
    return cells


def read_marks(missing: object) -> dict[str, Value] | None:
    """
    Return what marks a row; None if missing rows are removed or kept.

    Raises:
        UsageError: It is neither of these.
    """
    if isinstance(missing, Mapping):
        marks = dict(pairs("missing", cast("object", missing)))
        if marks:
            return {n: v() if callable(v) else v for n, v in marks.items()}
    elif missing in {"delete", "keep"}:
        return None
    msg = (
        "missing must be 'delete', 'keep', or a mapping of the columns that mark a row"
        f" to their values, not {missing!r}"
    )
    raise UsageError(msg)


def with_scope(update: Update, scope: Sequence[str], key: Sequence[str]) -> Update:
    """
    Return what an update sets, with the columns of the scope.

    Raises:
        UsageError: It sets one of these to something else.
    """
    names = [name for name in scope if name not in key]
    if update is None or not names:
        return update
    if isinstance(update, Mapping):
        _check_outside("update", [name for name in names if name in update])
        return {**{name: Excluded(name) for name in names}, **update}
    if isinstance(update, str) or not isinstance(update, Sequence):
        update = [update]
    return [*update, *(name for name in names if name not in update)]


def read_sync_request(
    rows: BulkRequest, key: Names, terms: SyncTerms, *, keeps: bool
) -> SyncRequest:
    """
    Return the request of a call.

    Args:
        rows: How rows are written, without the scope.
        key: The columns of the key, by the names that rows have.
        terms: The scope and the marks.
        keeps: Whether missing rows are kept.

    Raises:
        UsageError: The arguments contradict each other.
    """
    marks = terms.marks or {}
    _check_apart(rows, terms)
    scope: list[Node] = []
    values: list[Value] = [None] * len(rows.key)
    updates = {**terms.updates, **marks} if marks else {}
    defaults = tuple((n, read_value(value, values)) for n, value in updates.items())
    for name, value in terms.scope.items():
        if value is None:
            scope.append(("function", "is_null", (_column(name),)))
            continue
        is_text = rows.convert_text and isinstance(value, str)
        literal: Node = ("literal", "text", ()) if is_text else plain_node(value)
        scope.append(("operator", "=", (_column(name), literal)))
        values.append(value)
    if terms.classes is not None:
        scope.append(terms.classes.node)
        values += terms.classes.values
    resets: dict[str, BoundExpression] = {}
    if marks:
        unmarked = _unmarked(marks, terms.resets)
        scope.append(unmarked.node)
        values += unmarked.values
        for name in marks:
            reset, its_values = _reset(name, terms.resets)
            resets[name] = BoundExpression(
                ("function", "kept_if", (unmarked.node, _column(name), reset)),
                (*unmarked.values, *its_values),
                frozenset(),
            )
    removal = Request(
        key=tuple((name, "value") for name in rows.key),
        defaults=defaults,
        create_defaults=(),
        touch=(),
        where=reduce(_both, scope) if scope else None,
        skip_unchanged=False,
        returning=rows.returning,
        old=False,
        without_unique_index="allow",
        strategy="auto",
        incoming=None,
        spares=None,
        coalesced=False,
    )
    scoped = _ScopedRows(key, terms.cells, rows.translation)
    return SyncRequest(
        rows=replace(rows, resets=resets, translation=scoped.translation()),
        removal=removal,
        values=values,
        keeps=keeps,
        scope=tuple(terms.scope),
    )


def _check_apart(rows: BulkRequest, terms: SyncTerms) -> None:
    marks = {*(terms.marks or ())}
    updates = {*rows.update} if isinstance(rows.update, Mapping) else set[str]()
    for argument, names in (
        ("create_defaults", {*rows.create_defaults}),
        ("touch", {*rows.touch}),
        ("missing", marks),
    ):
        _check_outside(argument, sorted(names & {*terms.scope, *rows.key}))
    if both := sorted(marks & ({*rows.touch} | updates)):
        msg = f"in both missing and update or touch: {', '.join(map(repr, both))}"
        raise UsageError(msg)


def _check_outside(argument: str, both: Sequence[str]) -> None:
    if both:
        msg = (
            f"{argument} cannot set {', '.join(map(repr, both))}, a column of the scope"
            " or the key"
        )
        raise UsageError(msg)


# --- Marks ----------------------------------------------------------------------------


def _unmarked(
    marks: Mapping[str, Value], resets: Mapping[str, Value]
) -> BoundExpression:
    """Return the condition that a row is not marked."""
    tests: list[Node] = []
    values: list[Value] = []
    changing = [name for name, value in marks.items() if _changes(value)]
    for name in changing or marks:
        if changing:
            other, its_values = _reset(name, resets)
        else:
            other, its_values = plain_node(marks[name]), (marks[name],)
        test: Node = ("function", "holds", (_column(name), other))
        tests.append(test if changing else ("operator", "NOT", (test,)))
        values += its_values
    node = reduce(lambda one, other: ("operator", "OR", (one, other)), tests)
    return BoundExpression(node, tuple(values), frozenset())


def _changes(mark: Value) -> bool:
    """Return whether what a column is set to differs from call to call."""
    if isinstance(mark, str):
        # As SQLite has its times.
        try:
            dt.datetime.fromisoformat(mark)
        except ValueError:
            return False
        return True
    return isinstance(mark, (Expression, dt.date, dt.time))


def _reset(name: str, resets: Mapping[str, Value]) -> tuple[Node, tuple[Value, ...]]:
    """Return what a marking column is set back to, with its values."""
    reset = resets.get(name, DEFAULT)
    if isinstance(reset, Expression):
        return reset.node, reset.values
    return plain_node(reset), (reset,)


def _column(name: str) -> Node:
    return ("column", name, ())


def _both(one: Node, other: Node) -> Node:
    return ("operator", "AND", (one, other))


# --- Rows -----------------------------------------------------------------------------


class _ScopedRows:
    """Adds the columns of the scope to rows."""

    def __init__(
        self, key: Names, cells: Mapping[str, Value], base: RowTranslation | None
    ) -> None:
        self._key = key
        self._cells = cells
        self._base = base

    def translation(self) -> RowTranslation:
        """Return the translation of rows, which need not have the scope's columns."""
        key = tuple(name for name in self._key if name not in self._cells)
        if self._base is None:
            return RowTranslation(key, self._rows, self._rows)
        return RowTranslation(key, self._rows, self._rows, self._base.name_of)

    def _rows(self, records: Records) -> Records:
        number = len(records.positions)
        columns = dict(zip(records.names, records.columns, strict=True))
        for name, value in self._cells.items():
            given = columns.get(name)
            if given is None:
                columns[name] = [value] * number
                continue
            for cell in given:
                if isinstance(cell, Expression) or cell != value:
                    raise UsageError(_CONTRADICTS.format(name, cell, value))
        names = (*self._key, *sorted({*columns}.difference(self._key)))
        scoped = records._replace(names=names, columns=[columns[n] for n in names])
        return scoped if self._base is None else self._base.translate_rows(scoped)


_CONTRADICTS: Final = "it has {0!r} {1!r}, but the scope's is {2!r}"
