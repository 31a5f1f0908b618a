"""What a call does to a table, in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from aioupsert import DEFAULT, Action

Row: TypeAlias = dict[str, Any]
# Given the stored row (of a new one the defaults) and the incoming one.
Meaning: TypeAlias = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]


class Value(NamedTuple):
    """
    Something to write, or a condition.

    Attributes:
        given: What the library is given.
        meaning: What it means. None is NULL.
        takes: The columns of the incoming row that it cannot do without.
    """

    given: Any
    meaning: Meaning
    takes: frozenset[str] = frozenset()


Values: TypeAlias = Mapping[str, Value]


def literal(value: Any) -> Value:
    """A value that means itself."""
    return Value(value, lambda *_: value)


def given_values(values: Values) -> Row:
    """What the library is given for them."""
    return {name: value.given for name, value in values.items()}


@dataclass(frozen=True)
class Upsert:
    """
    What a call means for its row.

    Attributes:
        created: What a new row gets in place of the defaults.
        updated: What an existing row gets.
        touched: What either gets, an existing one if it is changed.
        where: Which existing rows are updated.
        skip_unchanged: Whether equal values leave an existing row alone.
    """

    created: Values
    updated: Values
    touched: Values = field(default_factory=dict)
    where: Value | None = None
    skip_unchanged: bool = False


def anything(_: Row) -> bool:
    return True


class Model:
    """
    A table.

    Attributes:
        rows: The stored rows by key.
    """

    def __init__(self, defaults: Row, allows: Callable[[Row], bool] = anything) -> None:
        self.rows: dict[Hashable, Row] = {}
        self._defaults = defaults
        self._allows = allows

    def write(
        self, key: Hashable, upsert: Upsert, incoming: Mapping[str, Any]
    ) -> tuple[Action, Row] | None:
        """Tell what was done and which row that left; None if the table refuses it."""
        stored = self.rows.get(key)
        if stored is None:
            new = self._defaults | self._evaluated(
                {**upsert.touched, **upsert.created}, self._defaults, incoming
            )
            return self._store(key, Action.CREATED, new)
        where = upsert.where
        if where is not None and where.meaning(stored, incoming) is not True:
            return Action.SKIPPED, stored
        values = self._evaluated(upsert.updated, stored, incoming)
        changes = any(stored[name] != value for name, value in values.items())
        is_careful = upsert.skip_unchanged or upsert.touched
        if not values or (is_careful and not changes):
            return Action.UNCHANGED, stored
        touched = self._evaluated(upsert.touched, stored, incoming)
        return self._store(key, Action.UPDATED, stored | values | touched)

    def _evaluated(
        self, values: Values, stored: Row, incoming: Mapping[str, Any]
    ) -> Row:
        return {
            name: self._defaults[name]
            if value.given is DEFAULT
            else value.meaning(stored, incoming)
            for name, value in values.items()
        }

    def _store(
        self, key: Hashable, action: Action, row: Row
    ) -> tuple[Action, Row] | None:
        if not self._allows(row):
            return None
        self.rows[key] = row
        return action, row
