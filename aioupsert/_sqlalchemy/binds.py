"""Where a call goes: what a session is asked with, and the options of what it has."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Mapper

from aioupsert._drivers.base import Handle
from aioupsert.typing import Value

BindArguments = Mapping[str, Value]

_SCOPED: Final[Any] = async_scoped_session
_known: Final[WeakKeyDictionary[Any, BindArguments]] = WeakKeyDictionary()


def mapper_of(table: object) -> Any:
    """Return the mapper of a mapped class; None for anything else."""
    inspect: Any = sa.inspect
    described = inspect(table, raiseerr=False) if isinstance(table, type) else None
    return described if isinstance(described, cast("type", Mapper)) else None


def bind_arguments_of(table: Any) -> BindArguments:
    """
    Return what tells a session which connection a table's rows are written over.

    The clause is an UPDATE, by which a session knows a statement that writes.
    """
    if isinstance(table, tuple):
        return _by_name(cast("tuple[str, ...]", table))
    known = _known.get(table)
    if known is None:
        mapper = mapper_of(table)
        known = _known[table] = (
            {"clause": sa.update(table)}
            if mapper is None
            else {"mapper": mapper, "clause": sa.update(mapper.local_table)}
        )
    return known


@lru_cache(maxsize=256)
def _by_name(name: tuple[str, ...]) -> BindArguments:
    *schema, table = name
    return {"clause": sa.update(sa.table(table, schema=".".join(schema) or None))}


def session_of(handle: Handle) -> Any:
    """Return the session that a connection argument is or stands for, or None."""
    given: Any = handle() if isinstance(handle, _SCOPED) else handle
    return given if isinstance(given, AsyncSession) else None


def bind_of(handle: Handle, table: Any) -> Any:
    """
    Return what the connection of a call is from, before there is one.

    That is a connection or engine of SQLAlchemy: for a session, the connection that its
    transaction has, or the bind from which it will get one.
    """
    session = session_of(handle)
    if session is None:
        return getattr(handle, "sync_connection", None) or getattr(
            handle, "sync_engine", handle
        )
    sync: Handle = session.sync_session
    bind = sync.get_bind(**bind_arguments_of(table))
    transaction = sync.get_nested_transaction() or sync.get_transaction()
    while transaction is not None:
        # Public as `connections` only in newer versions, and not by bind.
        known = transaction._connections.get(bind)  # noqa: SLF001  # see above
        if known is not None:
            return known[0]
        transaction = transaction.parent
    return bind


def options_of(handle: Handle, bind: Any) -> Mapping[str, Value]:
    """Return the execution options that hold for a call: the engine's, ..."""
    get: Any = getattr(bind, "get_execution_options", None)
    options: Mapping[str, object] = {} if get is None else get()
    session = session_of(handle)
    # Sessions have options of their own since SQLAlchemy 2.1.
    own = getattr(getattr(session, "sync_session", None), "execution_options", None)
    return {**options, **own} if own else options
