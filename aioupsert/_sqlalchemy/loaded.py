"""The objects that a session has loaded, as a call leaves their rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm.attributes import set_committed_value

from aioupsert._drivers.base import Handle
from aioupsert.typing import Value

# Fewer than any database takes as parameters.
ROWS_AT_ONCE: Final = 500
"""How many rows are asked for by one query."""


def loaded_states(session: Handle, mapper: Any) -> list[Value]:
    """Return the states of the objects of a class that a session has loaded."""
    states: Iterable[Value] = session.sync_session.identity_map.all_states()
    return [state for state in states if state.mapper.isa(mapper)]


Spell: TypeAlias = Callable[[Sequence[Value]], tuple[Value, ...]]
"""Writes a key so that it is equal to those which the database takes for equal."""


def spelling(key: Sequence[Value], dialect: str) -> Spell:
    """
    Return how the keys of objects and of rows are made comparable.

    An object keeps the key that it was added with, where PostgreSQL has another spelling.
    """
    spell: list[Callable[[Value], Value]] = []
    for column in key:
        kind: Value = column.type
        if isinstance(kind, sa.CHAR):
            spell.append(_without_padding)
        elif isinstance(kind, sa.Uuid) and not kind.as_uuid:
            spell.append(_as_uuid)
        else:
            spell.append(_as_it_is)
    if dialect != "postgresql" or {*spell} == {_as_it_is}:
        return tuple
    return lambda values: tuple(
        write(value) for write, value in zip(spell, values, strict=True)
    )


def _without_padding(value: str) -> str:
    return value.rstrip(" ")


def _as_uuid(value: str) -> UUID:
    return UUID(value)


def _as_it_is(value: Value) -> Value:
    return value


def with_keys(key: Sequence[Value], values: Sequence[Sequence[Value]]) -> Value:
    """Return the condition that a key is one of these."""
    if len(key) == 1:
        return key[0].in_([one[0] for one in values])
    return sa.or_(
        *(sa.and_(*(c == v for c, v in zip(key, one, strict=True))) for one in values)
    )


async def refresh(
    connection: Handle,
    states: Sequence[Value],
    columns: Mapping[str, Value],
    identity: Sequence[str],
    spell: Spell,
    *,
    options: Mapping[str, object],
    expired: bool,
) -> list[Value]:
    """
    Give loaded objects the values that are stored.

    What the caller has set but not flushed is kept.

    Returns:
        The states of those that have no row.

    Args:
        connection: The session's connection.
        states: The states of the objects.
        columns: The columns of the class, by attribute.
        identity: The attributes of its primary key.
        spell: Makes keys comparable.
        options: Execution options.
        expired: Whether attributes are loaded that are not, or have expired.
    """
    key = [columns[name] for name in identity]
    gone: list[Value] = []
    for start in range(0, len(states), ROWS_AT_ONCE):
        some: dict[tuple[Value, ...], list[Value]] = {}
        for state in states[start : start + ROWS_AT_ONCE]:
            some.setdefault(spell(state.key[1]), []).append(state)
        keys = [tuple(those[0].key[1]) for those in some.values()]
        statement = sa.select(*key, *columns.values()).where(with_keys(key, keys))
        rows = await connection.execute(statement, execution_options=options)
        for row in rows:
            stored = dict(zip(columns, row[len(key) :], strict=True))
            for state in some.pop(spell(row[: len(key)]), ()):
                _set(state, stored, expired=expired)
        gone += itertools.chain.from_iterable(some.values())
    return gone


def expire(session: Handle, states: Iterable[Value], attributes: Iterable[str]) -> None:
    """
    Have SQLAlchemy read loaded objects again before they are looked at.

    What the caller has set but not flushed is kept.

    Args:
        session: The session.
        states: The states of the objects.
        attributes: The attributes that may have changed.
    """
    for state in states:
        instance = state.obj()
        if instance is not None:
            names = [name for name in attributes if name not in state.committed_state]
            session.sync_session.expire(instance, names)


def _set(state: Any, stored: Mapping[str, Value], *, expired: bool) -> None:
    instance = state.obj()
    if instance is None:
        return  # it has been garbage collected
    for name, value in stored.items():
        if (expired or name in state.dict) and name not in state.committed_state:
            set_committed_value(instance, name, value)
