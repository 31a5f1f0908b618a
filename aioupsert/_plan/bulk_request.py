"""The arguments of a bulk call: read once, and made a request for rows of some columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias, TypedDict, cast

from aioupsert._plan.plan import (
    check_without_unique_index,
    columns_of,
    missing_index,
)
from aioupsert._plan.records import RowTranslation
from aioupsert._plan.request import (
    Items,
    KeyItems,
    Request,
    RequestShape,
    pairs,
    read_names,
    read_value,
    read_where,
)
from aioupsert._plan.schema import Names, Table
from aioupsert.errors import UnknownColumnError, UsageError
from aioupsert.expressions import DEFAULT, Expression, Node, walk
from aioupsert.typing import (
    Name,
    Returning,
    SqlalchemyExpression,
    Strategy,
    Update,
    Value,
    Values,
    WithoutUniqueIndex,
)


class BulkArguments(TypedDict):
    """The arguments of a bulk call, as the caller passed them."""

    key: Name | Sequence[Name]
    update: Update
    create_defaults: Values | None
    where: Expression | SqlalchemyExpression | None
    skip_unchanged: bool
    touch: Values | None
    returning: Returning
    old: bool
    convert_text: bool
    without_unique_index: WithoutUniqueIndex


class BoundExpression(NamedTuple):
    """
    An expression of the caller, the same for every row.

    Attributes:
        node: The expression.
        values: The values of its literals.
        excluded: The columns whose values it takes from the row, by `Excluded`.
    """

    node: Node
    values: Sequence[Value]
    excluded: frozenset[str]


BoundExpressions: TypeAlias = Mapping[str, BoundExpression]
"""Columns, each with the expression it is set to."""

# Columns and kinds of values are few; a caller who makes them up must not fill the memory.
_MAX_KNOWN: Final = 512
_name_of: Final = itemgetter(1)
_DEFAULT: Final = BoundExpression(DEFAULT.node, (), frozenset())


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """
    The arguments of a bulk call.

    Attributes:
        key: The columns that identify a row.
        update: What an update sets: names of the row's columns, or expressions; None
            for every column that is not part of the key.
        create_defaults: What is added on create.
        touch: What is written when another value changes.
        where: The condition of an update.
        skip_unchanged: Whether to leave a row that already holds every value.
        returning: The columns to return.
        old: Whether to return the row as it was, too.
        convert_text: Whether the database converts text to the types of the columns.
        without_unique_index: What to do without a unique index.
        on_update: What an update also sets, unless the call or the row sets it.
        translation: How to translate the rows, if they are not stored as they are.
        strategy: How to execute a call of a single row.
        resets: What an update also sets, and compares, unless the call or the row does.
        known: The requests that were made for rows, by what the rows have.
        checked: The table that it was checked against last.
    """

    key: Names
    update: Names | BoundExpressions | None
    create_defaults: BoundExpressions
    touch: BoundExpressions
    where: BoundExpression | None
    skip_unchanged: bool
    returning: str | Names | None
    old: bool
    convert_text: bool
    without_unique_index: WithoutUniqueIndex
    on_update: BoundExpressions
    translation: RowTranslation | None
    strategy: Strategy = "auto"
    resets: BoundExpressions = field(default_factory=dict[str, BoundExpression])
    # Not taken over by `replace`, which changes what they depend on.
    known: dict[object, tuple[RequestShape, Sequence[Value]]] = field(
        default_factory=dict[object, "tuple[RequestShape, Sequence[Value]]"],
        init=False,
        compare=False,
        repr=False,
    )
    checked: list[Table] = field(
        default_factory=list[Table], init=False, compare=False, repr=False
    )

    def keep(
        self, of: object, request: tuple[RequestShape, Sequence[Value]]
    ) -> tuple[RequestShape, Sequence[Value]]:
        """Keep the request for rows that have something in common, and return it."""
        if len(self.known) >= _MAX_KNOWN:
            self.known.clear()
        self.known[of] = request
        return request

    def request(
        self,
        names: Names,
        nodes: Sequence[Node],
        generated: AbstractSet[str],
    ) -> tuple[RequestShape, list[Value]]:
        """
        Return the request for rows of some columns.

        Args:
            names: The columns of the rows, those of the key first.
            nodes: What each of them holds.
            generated: The columns that only a row that is created takes.

        Returns:
            Its shape, and the values that do not come from the rows.
        """
        width = len(self.key)
        present = {*names} - generated
        update = self._update_of(names, present)
        if self.resets:
            update = {**self.resets, **update}
        also: BoundExpressions = {}
        # A value that the row has for a touched column is the one to write, but for a
        # default that was made for the row.
        touch = {n: e for n, e in self.touch.items() if n not in update}
        made = {n: e for n, e in touch.items() if n in generated}
        created = {**made, **self.create_defaults} if made else self.create_defaults
        if self.on_update and (update or touch):
            done = {*present, *update, *touch}
            also = {n: e for n, e in self.on_update.items() if n not in done}
            if self.skip_unchanged or touch:
                touch = {**touch, **also}
                # A row that is created does not take it.
                created = {
                    **created,
                    **{n: _DEFAULT for n in also if n not in {*generated, *created}},
                }
            else:
                update = {**update, **also}
        constants: list[Value] = []
        for expressions in (update, created, touch):
            for expression in expressions.values():
                constants += expression.values
        if self.where is not None:
            constants += self.where.values
        # A value of a key is a literal, which is named after its kind.
        key = tuple(zip(names[:width], map(_name_of, nodes[:width]), strict=True))
        request = Request(
            key=cast("KeyItems", key),
            defaults=_items(update),
            create_defaults=_items(created),
            touch=_items(touch),
            where=None if self.where is None else self.where.node,
            skip_unchanged=self.skip_unchanged,
            returning=self.returning,
            old=self.old,
            without_unique_index=self.without_unique_index,
            strategy=self.strategy,
            incoming=tuple(zip(names[width:], nodes[width:], strict=True)),
            spares=tuple(also) if self.update is None else None,
            coalesced=False,
        )
        return request, constants

    def _update_of(self, names: Names, present: AbstractSet[str]) -> BoundExpressions:
        """Return what an update sets to values of the row, or the caller's expressions."""
        update = self.update
        if isinstance(update, Mapping):
            return {n: e for n, e in update.items() if e.excluded <= present}
        taken = names[len(self.key) :] if update is None else update
        return {name: _excluded(name) for name in taken if name in present}

    def check(self, table: Table) -> None:
        """
        Check the arguments against the table, before any row is read.

        Raises:
            UnknownColumnError: Columns that it does not have, all of them named.
            MissingUniqueIndexError: No unique index, and the call insisted on one.
        """
        if self.checked and self.checked[0] is table:
            return
        named = {*self.key, *self.create_defaults, *self.touch, *(self.update or ())}
        if self.returning is not None and self.returning != "*":
            named.update(self.returning)
        expressions = [*self.create_defaults.values(), *self.touch.values()]
        if isinstance(self.update, Mapping):
            expressions += self.update.values()
        if self.where is not None:
            expressions.append(self.where)
        for expression in expressions:
            named.update(columns_of(expression.node))
        unknown = named.difference(table.columns)
        if unknown:
            raise UnknownColumnError(table.label, map(str, unknown), table.visible)
        # Whether the values of a row make its key unique is seen when it is written.
        if not (
            table.is_unique(dict.fromkeys(self.key, False))
            or table.unique_where(self.key)
        ):
            missing_index(self.key, self.without_unique_index, table)
        self.checked[:] = [table]


def _items(expressions: BoundExpressions) -> Items:
    return tuple([(name, expression.node) for name, expression in expressions.items()])


@lru_cache(maxsize=1024)
def _excluded(name: str) -> BoundExpression:
    """Return the expression of an update that takes a column from the row."""
    return BoundExpression(("excluded", name, ()), (), frozenset({name}))


def read_bulk_request(
    *,
    key: Name | Sequence[Name],
    update: Update = None,
    create_defaults: Values | None = None,
    where: Expression | SqlalchemyExpression | None = None,
    skip_unchanged: bool = False,
    touch: Values | None = None,
    returning: Returning = None,
    old: bool = False,
    convert_text: bool = False,
    without_unique_index: WithoutUniqueIndex = "warn",
    on_update: Mapping[str, Value] | None = None,
    translation: RowTranslation | None = None,
    strategy: Strategy = "auto",
) -> BulkRequest:
    """
    Check the arguments of a bulk call by themselves.

    Raises:
        UsageError: They make no sense.
    """
    check_without_unique_index(without_unique_index)
    condition = None
    if where is not None:
        values: list[Value] = []
        condition = _bound(read_where(where, values), values)
    written: Names | BoundExpressions | None = None
    if isinstance(update, Mapping):
        written = _read("update", update)
    elif update is not None:
        written = _names("update", update)
    touched: BoundExpressions = {} if touch is None else _read("touch", touch)
    both = sorted(touched.keys() & {*(written or ())})
    if both:
        msg = f"in both update and touch: {', '.join(map(repr, both))}"
        raise UsageError(msg)
    if isinstance(returning, str):
        returning = returning if returning == "*" else (str(returning),)
    elif returning is not None:
        returning = read_names(returning)
    return BulkRequest(
        key=read_key_names(key),
        update=written,
        create_defaults={}
        if create_defaults is None
        else _read("create_defaults", create_defaults),
        touch=touched,
        where=condition,
        skip_unchanged=skip_unchanged,
        returning=returning,
        old=old,
        convert_text=convert_text,
        without_unique_index=without_unique_index,
        on_update={} if on_update is None else _read("on_update", on_update),
        translation=translation,
        strategy=strategy,
    )


def bulk_request(
    *,
    key: Name | Sequence[Name],
    update: Update,
    create_defaults: Values | None,
    where: Expression | SqlalchemyExpression | None,
    skip_unchanged: bool,
    touch: Values | None,
    returning: Returning,
    old: bool,
    without_unique_index: WithoutUniqueIndex,
    convert_text: bool = False,
    on_update: Mapping[str, Value] | None = None,
    translation: RowTranslation | None = None,
    strategy: Strategy = "auto",
) -> BulkRequest:
    """
    Return what `read_bulk_request` does; the same object again for the same names.

    Raises:
        UsageError: They make no sense.
    """
    if (
        create_defaults is None
        and where is None
        and touch is None
        and on_update is None
        and translation is None
    ):
        # Such arguments are the same whenever a line of code runs.
        names = (
            tuple(key) if isinstance(key, list) else key,
            tuple(update) if isinstance(update, list) else update,
            tuple(returning) if isinstance(returning, list) else returning,
        )
        flags = (skip_unchanged, old, convert_text)
        try:
            return _of_names(names, flags, without_unique_index, strategy)
        except TypeError:
            pass  # update is a mapping, or an argument is wrong
    return read_bulk_request(
        key=key,
        update=update,
        create_defaults=create_defaults,
        where=where,
        skip_unchanged=skip_unchanged,
        touch=touch,
        returning=returning,
        old=old,
        convert_text=convert_text,
        without_unique_index=without_unique_index,
        on_update=on_update,
        translation=translation,
        strategy=strategy,
    )


@lru_cache(maxsize=256)
def _of_names(
    names: tuple[Name | Sequence[Name], Update, Returning],
    flags: tuple[bool, bool, bool],
    without_unique_index: WithoutUniqueIndex,
    strategy: Strategy,
) -> BulkRequest:
    key, update, returning = names
    skip_unchanged, old, convert_text = flags
    return read_bulk_request(
        key=key,
        update=update,
        returning=returning,
        skip_unchanged=skip_unchanged,
        old=old,
        convert_text=convert_text,
        without_unique_index=without_unique_index,
        strategy=strategy,
    )


def read_key_names(key: Name | Sequence[Name]) -> Names:
    """
    Return the names of a key's columns.

    Raises:
        UsageError: They are not names, or there are none.
    """
    names = _names("key", key)
    if not names:
        msg = "key is empty: name the columns that identify a row"
        raise UsageError(msg)
    return names


def _names(argument: str, names: object) -> Names:
    if isinstance(names, str):
        return (names,)
    if isinstance(names, Sequence):
        given = cast("Sequence[object]", names)
        texts = [name for name in given if isinstance(name, str)]
        if len(texts) == len(given):
            return tuple(dict.fromkeys(texts))
    msg = f"{argument} takes the names of columns, not {names!r}"
    raise UsageError(msg)


def _read(argument: str, items: Values) -> BoundExpressions:
    read: dict[str, BoundExpression] = {}
    for name, value in pairs(argument, items):
        values: list[Value] = []
        read[name] = _bound(read_value(value, values), values)
    return read


def _bound(node: Node, values: Sequence[Value]) -> BoundExpression:
    excluded = {name for kind, name, _ in walk(node) if kind == "excluded"}
    return BoundExpression(node, tuple(values), frozenset(excluded))
