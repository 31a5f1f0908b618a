"""
The tables that a connection knows: their descriptions and compiled statements.

A description may be older than the table. Most changes are noticed by the error they
cause: the description is read again then and, if it differs, the call is made again
where that is safe. A changed default causes none, so a description is also read again
after a minute.
"""

from __future__ import annotations

import inspect
import time
import warnings
from typing import TYPE_CHECKING, Final, TypeVar

from aioupsert._drivers.base import CachedTable, Session
from aioupsert._plan import RequestShape, make_plan
from aioupsert._plan.pinning import pin
from aioupsert.errors import (
    AioupsertError,
    ConnectionHeldError,
    MissingUniqueIndexWarning,
    UnknownTableError,
    UsageError,
)
from aioupsert.expressions import TOO_DEEP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioupsert._engines.base import CompiledBatch, CompiledCall
    from aioupsert._plan.schema import TableName
    from aioupsert.typing import Value

K = TypeVar("K")
V = TypeVar("V")

_ttl = 60.0
# More than most programs use; one for each tenant, for example, must not fill the memory.
_MAX_TABLES = 256


def set_schema_cache_ttl(seconds: float) -> None:
    """
    Set how long a cached table description stays valid, on every connection.

    Most schema changes are noticed because they cause an error, and the description is
    then read again. A changed column default causes no error, so a description is also
    read again once it is this old.

    Args:
        seconds: The maximum age; 60 by default. With 0, every call reads the catalog.

    Raises:
        UsageError: *seconds* is negative.
    """
    global _ttl  # noqa: PLW0603  # one setting for the process, as documented
    if seconds < 0:
        msg = f"set_schema_cache_ttl() takes zero or more seconds, not {seconds!r}"
        raise UsageError(msg)
    _ttl = seconds


def cached_table(session: Session, name: TableName) -> CachedTable | None:
    """Return the cached table, unless it is too old."""
    cached = session.state.tables.get(name)
    if cached is None or time.monotonic() - cached.read_at >= _ttl:
        return None
    return cached


def cached_call(
    cached: CachedTable | None, shape: RequestShape, now: float
) -> CompiledCall | None:
    """Return the cached statements of a request shape, unless they are too old."""
    if cached is None or now - cached.read_at >= _ttl:
        return None
    return cached.calls.get(shape)


async def reflected_table(session: Session, name: TableName) -> CachedTable:
    """Return the cached table, read from the catalog if need be."""
    cached = cached_table(session, name)
    if cached is None:
        cached = await read_table(session, name)
        # What was kept of another isolation level may not hold for ever (`keep_call`).
        cached.calls.clear()
    return cached


async def read_table(session: Session, name: TableName) -> CachedTable:
    """Read a table from the catalog, cached or not."""
    await refresh(session, name)
    return session.state.tables[name]


async def refresh(session: Session, name: TableName) -> bool:
    """Read a table's description again; return whether it differs from the last one."""
    cached = session.state.tables.get(name)
    table = await session.run(session.engine.reflect(name))
    if cached is not None and cached.table == table:
        cached.read_at = time.monotonic()
        return False
    state = session.state
    tables = state.tables
    if len(tables) >= _MAX_TABLES and name not in tables:
        # A table in use is read again each time that its description is too old.
        oldest = min(tables, key=lambda other: tables[other].read_at)
        del tables[oldest]
        state.homonyms.pop(oldest, None)
    tables[name] = read = CachedTable(table, time.monotonic())
    failed = state.failed.pop(name, None)
    if failed is not None and failed.table.relation_id != table.relation_id:
        state.homonyms.setdefault(name, {})[failed.table.relation_id] = failed
    if name in state.homonyms:
        state.homonyms[name][table.relation_id] = read
    return True


async def choose_homonym(session: Session, name: TableName) -> None:
    """
    Find out which table a name means in the open transaction.

    An error would abort it. One query more, on a connection on which that has happened:
    tenants have a schema each, with tables and types of the same names.
    """
    homonyms = session.state.homonyms.get(name)
    if homonyms is None or not session.in_transaction():
        return
    relation_id = await session.run(session.engine.identify(name))
    cached = homonyms.get(relation_id)
    if cached is None:
        session.state.tables.pop(name, None)
    else:
        session.state.tables[name] = cached


MAX_REFRESHES: Final = 8
"""
How many times a table may turn out to have changed under one call.

Twice is rare already, as a call takes milliseconds; a migration has many steps, though.
"""


async def has_changed(
    session: Session,
    name: TableName,
    error: Exception,
    used: CachedTable | None,
    *,
    rolled_back: bool = False,
    is_suspect: bool = False,
) -> bool:
    """
    Return whether an error comes from a table that has changed since it was read.

    Args:
        session: Where it was raised.
        name: The table.
        error: The error.
        used: The cached table when what failed began, or None. Another task may have
            read it again meanwhile.
        rolled_back: Whether what failed was behind a savepoint, if not a transaction.
        is_suspect: Whether the error may come from a change, whatever it is.
    """
    if isinstance(error, (UnknownTableError, ConnectionHeldError)):
        return False  # the catalog was just asked, or nothing was
    is_ours = isinstance(error, AioupsertError)
    if not (is_ours or is_suspect) and not session.may_be_stale(error):
        return False
    may_repeat = is_ours or rolled_back or session.can_repeat(error)
    cached = session.state.tables.get(name)
    if used is not None and cached is not None and cached is not used:
        return may_repeat
    changed = unknown = False
    if may_repeat:
        try:
            changed = await refresh(session, name)
        except Exception:  # noqa: BLE001  # the caller raises the error that led here
            unknown = True
    else:
        unknown = True
    if unknown:
        # The next call reads it.
        failed = session.state.tables.pop(name, None)
        if failed is not None:
            session.state.failed[name] = failed
    if changed or unknown:
        await session.forget()
    return changed


async def compile_call(
    session: Session, name: TableName, shape: RequestShape, values: Sequence[Value]
) -> CompiledCall:
    """Check a request against its table, write its statements, and cache them."""
    cached = await reflected_table(session, name)
    pinned = pin(shape, cached.table, values)
    if pinned is not shape:
        shape = pinned
        known = cached.calls.get(shape)
        if known is not None:
            return known
    try:
        call = session.engine.compile_call(make_plan(shape, cached.table))
    except RecursionError as exc:
        raise UsageError(TOO_DEEP) from exc
    warn(session, call.plan.warning)
    _keep(cached.calls, shape, call)
    return call


def keep_call(
    session: Session, name: TableName, shape: RequestShape, call: CompiledCall
) -> None:
    """Keep the statements of a request shape in place of those that it has."""
    session.state.tables[name].calls[shape] = call


def compile_batch(
    session: Session, cached: CachedTable, shape: RequestShape, *, distinct: bool
) -> CompiledBatch:
    """Do the same for many rows."""
    batch = cached.batches.get((shape, distinct))
    if batch is None:
        try:
            plan = make_plan(shape, cached.table)
            batch = session.engine.compile_batch(plan, distinct=distinct)
        except RecursionError as exc:
            raise UsageError(TOO_DEEP) from exc
        _keep(cached.batches, (shape, distinct), batch)
    return batch


# Request shapes come from the caller's source code, so they are few; a caller who makes
# them from data must not fill the memory.
_MAX_SHAPES = 1000


def _keep(compiled: dict[K, V], shape: K, item: V) -> None:
    if len(compiled) >= _MAX_SHAPES:
        compiled.clear()
    compiled[shape] = item


def warn(session: Session, warning: str | None) -> None:
    """Warn once per connection, at the line that called this library."""
    if warning is not None and warning not in session.state.warned:
        warnings.warn(warning, MissingUniqueIndexWarning, stacklevel=_stack_level())
        session.state.warned.add(warning)


def _stack_level() -> int:
    """Return the number of frames up to the first outside of this package."""
    depth, frame = 0, inspect.currentframe()
    while frame is not None and frame.f_globals["__name__"].startswith("aioupsert."):
        depth, frame = depth + 1, frame.f_back
    return depth
