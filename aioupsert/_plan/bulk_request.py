"""The arguments of a bulk call, read once; with a row's columns they become a call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypedDict, cast

from aioupsert._plan.plan import (
    check_without_unique_index,
    columns_of,
    missing_index,
)
from aioupsert._plan.request import (
    Items,
    Request,
    RequestShape,
    pairs,
    read_items,
    read_names,
    read_where,
)
from aioupsert._plan.schema import Table
from aioupsert.errors import UnknownColumnError, UsageError
from aioupsert.expressions import DEFAULT, Expression, Node

if TYPE_CHECKING:
    from aioupsert._plan.records import Records


class Assigned(NamedTuple):
    """
    A column and what it is set to, the same for every row.

    Attributes:
        name: The column.
        node: The expression.
        values: The values of its literals.
        takes: The columns whose values it takes from the row, by `Excluded`.
    """

    name: str
    node: Node
    values: Sequence[Any]
    takes: frozenset[str]


Names: TypeAlias = tuple[str, ...]


class RowTranslation(NamedTuple):
    """
    How rows are read whose columns have other names.

    Attributes:
        key: The key's columns as the rows name them.
        keys: Translates rows of which only the key is read.
        records: Translates rows with the same columns.
    """

    key: Names
    keys: Callable[[Records], Records]
    records: Callable[[Records], Records]


@dataclass(frozen=True, slots=True)
class BulkRequest:
    """
    The arguments of a bulk call.

    Attributes:
        key: The columns that identify a row.
        update: What an update sets: names of the row's columns, or expressions; None
            for every column that is no part of the key.
        create_defaults: What is added on create.
        touch: What is written when another value changes.
        where: The condition of an update.
        skip_unchanged: Whether to leave a row that already holds every value.
        returning: The columns to return.
        convert_text: Whether the database converts text to the types of the columns.
        without_unique_index: What to do without a unique index.
        on_update: What an update sets beside that, where the row does not bring it.
        reads: How the rows are read, if not as they are.
    """

    key: Names
    update: Names | tuple[Assigned, ...] | None
    create_defaults: tuple[Assigned, ...]
    touch: tuple[Assigned, ...]
    where: Assigned | None
    skip_unchanged: bool
    returning: str | Names | None
    convert_text: bool
    without_unique_index: str
    on_update: tuple[Assigned, ...] = ()
    reads: RowTranslation | None = None

    def call(
        self,
        key: tuple[tuple[str, str], ...],
        incoming: Items,
        generated: AbstractSet[str] = frozenset(),
    ) -> tuple[RequestShape, list[Any]]:
        """
        Make the call for rows of one shape.

        Args:
            key: The key's columns.
            incoming: The other columns of the rows.
            generated: Which of that only a row that is created takes.

        Returns:
            Its shape, and the values that do not come from the rows.
        """
        there = {name for name, _ in (*key, *incoming)} - generated
        update = self.update
        if update is None:
            update = tuple(name for name, _ in incoming if name in there)
        assigned = [
            _taken(item) if isinstance(item, str) else item
            for item in update
            if (item in there if isinstance(item, str) else item.takes <= there)
        ]
        touch, created = self.touch, self.create_defaults
        if assigned or touch:
            done = {*there, *(item.name for item in (*assigned, *touch))}
            also = [item for item in self.on_update if item.name not in done]
            if self.skip_unchanged or touch:
                touch = (*touch, *also)
                # A row that is created does not take it.
                known = {*generated, *(item.name for item in created)}
                created += tuple(
                    item._replace(node=DEFAULT.node, values=())
                    for item in also
                    if item.name not in known
                )
            else:
                assigned += also
        constants = [*assigned, *created, *touch]
        if self.where is not None:
            constants.append(self.where)
        shape = Request(
            key=key,
            defaults=_items(assigned),
            create_defaults=_items(created),
            touch=_items(touch),
            where=None if self.where is None else self.where.node,
            skip_unchanged=self.skip_unchanged,
            returning=self.returning,
            without_unique_index=self.without_unique_index,
            strategy="auto",
            incoming=incoming,
        )
        return tuple(shape), [value for item in constants for value in item.values]

    def check(self, table: Table) -> None:
        """
        Check the arguments against the table, before any row is read.

        Raises:
            UnknownColumnError: Columns that it does not have, all of them named.
            MissingUniqueIndexError: No unique index, and the call insisted on one.
        """
        named = {*self.key}
        if self.returning is not None and self.returning != "*":
            named |= {*self.returning}
        for item in self._items():
            named |= {item} if isinstance(item, str) else _named(item)
        unknown = named.difference(table.columns)
        if unknown:
            raise UnknownColumnError(table.label, map(str, unknown), table.visible)
        if not table.is_unique(dict.fromkeys(self.key, False)):
            missing_index(self.key, self.without_unique_index, table)

    def _items(self) -> Iterator[str | Assigned]:
        yield from self.update or ()
        yield from self.create_defaults
        yield from self.touch
        if self.where is not None:
            yield self.where._replace(name=self.key[0])


def _taken(name: str) -> Assigned:
    return Assigned(name, ("excluded", name, ()), (), frozenset({name}))


def _items(assigned: Sequence[Assigned]) -> Items:
    return tuple((item.name, item.node) for item in assigned)


def _named(item: Assigned) -> set[str]:
    return {item.name, *columns_of(item.node)}


def read_bulk_request(
    *,
    key: str | Sequence[str],
    update: Sequence[str] | Mapping[str, Any] | None = None,
    create_defaults: Mapping[str, Any] | None = None,
    where: Expression | None = None,
    skip_unchanged: bool = False,
    touch: Mapping[str, Any] | None = None,
    returning: str | Sequence[str] | type[Any] | None = None,
    convert_text: bool = False,
    without_unique_index: str = "warn",
    on_update: Mapping[str, Any] | None = None,
    reads: RowTranslation | None = None,
) -> BulkRequest:
    """
    Check the arguments of a bulk call by themselves.

    Raises:
        UsageError: They make no sense.
    """
    check_without_unique_index(without_unique_index)
    condition = None
    if where is not None:
        values: list[Any] = []
        condition = _assigned("", read_where(where, values), values)
    written: Names | tuple[Assigned, ...] | None = None
    if isinstance(update, Mapping):
        written = _read("update", update)
    elif update is not None:
        written = _names("update", update)
    if returning is not None and not isinstance(returning, str):
        returning = read_names(returning)
    elif returning not in {None, "*"}:
        returning = (str(returning),)
    call = BulkRequest(
        key=read_key_names(key),
        update=written,
        create_defaults=_read("create_defaults", create_defaults),
        touch=_read("touch", touch),
        where=condition,
        skip_unchanged=skip_unchanged,
        returning=returning,
        convert_text=convert_text,
        without_unique_index=without_unique_index,
        on_update=_read("on_update", on_update),
        reads=reads,
    )
    both = sorted(
        {i if isinstance(i, str) else i.name for i in call.update or ()}
        & {item.name for item in call.touch}
    )
    if both:
        msg = f"in both update and touch: {', '.join(map(repr, both))}"
        raise UsageError(msg)
    return call


def read_key_names(key: str | Sequence[str]) -> Names:
    """
    Read the names of a key's columns.

    Raises:
        UsageError: They are none.
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


def _read(argument: str, items: Mapping[str, Any] | None) -> tuple[Assigned, ...]:
    read: list[Assigned] = []
    for name, value in () if items is None else pairs(argument, items):
        values: list[Any] = []
        ((_, node),) = read_items(argument, {name: value}, values)
        read.append(_assigned(name, node, values))
    return tuple(read)


def _assigned(name: str, node: Node, values: Sequence[Any]) -> Assigned:
    return Assigned(name, node, tuple(values), frozenset(_taken_by(node)))


def _taken_by(node: Node) -> Iterator[str]:
    kind, name, operands = node
    if kind == "excluded":
        yield name
    for operand in operands:
        yield from _taken_by(operand)


class BulkArguments(TypedDict):
    """The arguments of a bulk call, as the caller gave them."""

    key: str | Sequence[str]
    update: Sequence[str] | Mapping[str, Any] | None
    create_defaults: Mapping[str, Any] | None
    where: Expression | None
    skip_unchanged: bool
    touch: Mapping[str, Any] | None
    returning: str | Sequence[str] | type[Any] | None
    convert_text: bool
    without_unique_index: str
