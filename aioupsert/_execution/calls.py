"""
One call: attempts until one succeeds, or until nothing can be expected of another.

An attempt is one statement where the engine has one for the whole call, and the classic
steps otherwise. It fails in one of three ways after which another may succeed: it lost
a race against a concurrent call; the database ended it with a transient error, and
nothing of it is stored; or the table has changed since its description was read. A lost
connection is none of them: what happened is unknown, and a counter must not be
incremented twice.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from aioupsert._drivers import DIRECT, session_on
from aioupsert._drivers.base import CachedTable, ReadOnlyError, Session, TransientError
from aioupsert._engines.outcomes import (
    MAX_LOST_RACES,
    LostRace,
    race_error,
    read_result,
)
from aioupsert._execution.retrying import Deadline, back_off
from aioupsert._execution.table_cache import (
    MAX_REFRESHES,
    cached_call,
    choose_homonym,
    compile_call,
    has_changed,
    keep_call,
    refresh,
)
from aioupsert._execution.targets import Target
from aioupsert._observation import observed
from aioupsert._plan import read_request, read_row_request
from aioupsert._plan.schema import NAMES
from aioupsert.events import OBSERVERS
from aioupsert.results import Result, Statement
from aioupsert.typing import Value

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from aioupsert._engines.base import CompiledCall
    from aioupsert._plan import Plan, RequestShape
    from aioupsert._plan.request import Arguments
    from aioupsert._plan.schema import TableName

_logger: Final = logging.getLogger("aioupsert")

# After so many attempts the log has a warning.
_MANY_ATTEMPTS: Final = 10


def create_or_update(
    conn: object,
    table: object,
    arguments: Arguments,
    timeout: float | None,
    options: Mapping[str, object] | None,
) -> Coroutine[object, object, Result]:
    """
    Create or update one row, on a connection or on one of a pool.

    Returns:
        What is to be awaited. This is not a coroutine itself, since each of them takes
        time on every call.
    """
    session_on_it = DIRECT.get(conn.__class__)
    if (
        session_on_it is None
        or OBSERVERS
        or options is not None
        or not isinstance(table, str)
        or isinstance(arguments.returning, type)
    ):
        return _create_or_update(conn, table, arguments, timeout, options)
    name = NAMES[table]
    if arguments.row is None:
        shape, values = read_request(arguments)
    else:
        shape, values = read_row_request(arguments)
    return write(session_on_it(conn), name, shape, values, timeout)


async def _create_or_update(
    conn: object,
    table: object,
    arguments: Arguments,
    timeout: float | None,
    options: Mapping[str, object] | None,
) -> Result:
    """Create or update one row, whatever the table and the connection are."""
    target = Target(conn, table, options)
    tracked = target.tracked(arguments)
    shape, values = target.read(tracked or arguments)
    with observed("create_or_update", target.name) as observation:
        async with session_on(target.handle, timeout) as session:
            if observation is not None:
                observation.event.system = session.engine.system
            result = await write(session, target.name, shape, values, timeout)
        if observation is not None:
            observation.record_each(result)
    return await target.translate(
        result, arguments.returning, tracked=tracked is not None
    )


async def get_or_create(
    conn: object,
    table: object,
    arguments: Arguments,
    timeout: float | None,
    options: Mapping[str, object] | None,
) -> Result:
    """Return the row, or create it with the defaults, which are its create_defaults."""
    target = Target(conn, table, options)
    returning = target.default_returning(arguments.returning)
    arguments = arguments._replace(returning=returning)
    with observed("get_or_create", target.name) as observation:
        async with session_on(target.handle, timeout) as session:
            if observation is not None:
                observation.event.system = session.engine.system
            result = await _get_or_create(session, target, arguments, timeout)
        if observation is not None:
            observation.record_each(result)
    return await target.translate(result, returning)


async def _get_or_create(
    session: Session, target: Target, arguments: Arguments, timeout: float | None
) -> Result:
    defaults = arguments.create_defaults or {}
    has_factories = any(map(callable, defaults.values()))
    # A transaction may be read-only, and a statement with an INSERT would abort it.
    looks_first = has_factories or not session.can_repeat()
    request = None
    if looks_first:
        if has_factories or target.model is not None:
            # Names are checked as if every value were known.
            names = arguments._replace(create_defaults=dict.fromkeys(defaults))
            shape, values = target.read_without_defaults(names)
        else:
            shape, values = request = target.read(arguments)
        found = await _look_up(session, target.name, shape, values, timeout)
        if found is not None:
            return found
    shape, values = request or target.read(arguments)
    return await write(
        session, target.name, shape, values, timeout, is_absent=looks_first
    )


async def preview(
    conn: object,
    table: object,
    arguments: Arguments,
    timeout: float | None,
    options: Mapping[str, object] | None,
) -> tuple[Statement, ...]:
    """Return the statements that a call would send."""
    target = Target(conn, table, options)
    shape, values = target.read(arguments)
    retries = _Retries(target.name, timeout, time.monotonic())
    async with session_on(target.handle, timeout) as session:
        while True:
            try:
                call = await _compiled(session, target.name, shape, values)
            except Exception as exc:
                if not await retries.follow(session, exc):
                    raise
            else:
                return tuple(
                    Statement(s.sql, tuple(s.arguments(values)), s.when)
                    for s in call.statements()
                )


async def write(  # noqa: C901  # another function would be called on every call
    session: Session,
    name: TableName,
    shape: RequestShape,
    values: list[Value],
    timeout: float | None,
    *,
    is_absent: bool = False,
) -> Result:
    """
    Create or update one row.

    Args:
        session: Where to.
        name: The table.
        shape: The call.
        values: Its values.
        timeout: The seconds that it may be retried for.
        is_absent: Whether it only creates the row, which was just looked for in vain.

    Raises:
        RetriesExhaustedError: Transient errors lasted until the timeout.
    """
    started = time.monotonic()
    retries: _Retries | None = None
    state = session.state
    call: CompiledCall | None
    instead: CompiledCall | None = None
    while True:
        if state.homonyms:
            await choose_homonym(session, name)
        used = state.tables.get(name)
        now = started if retries is None else time.monotonic()
        call = instead or cached_call(used, shape, now)
        try:
            if call is None:
                call = await compile_call(session, name, shape, values)
            plan = call.plan
            single = call.create if is_absent else call.single
            if plan.checks:
                _check_key(plan, values)
            lost = 0 if retries is None else retries.attempts
            outcome: Result | LostRace
            if single is None or lost:
                outcome = await session.run(call.attempt(values, lost))
            else:
                rows = await session.fetch(
                    single.sql, single.arguments(values), plan.caller_columns
                )
                if rows:
                    return read_result(plan, rows)
                if call.at_any_level is not None:
                    instead = await _instead(session, name, shape, call.at_any_level)
                    continue
                outcome = LostRace()
        except Exception as exc:
            retries = retries or _Retries(name, timeout, started)
            if not await retries.follow(session, exc, used, call):
                raise
            instead = None
            continue
        if not isinstance(outcome, LostRace):
            return outcome if retries is None else retries.logged(outcome)
        retries = retries or _Retries(name, timeout, started)
        await retries.follow_lost_race(outcome)


async def _instead(
    session: Session, name: TableName, shape: RequestShape, call: CompiledCall
) -> CompiledCall | None:
    """
    Return what to send in place of a call that has proposed no row.

    None if the table has changed; else the call for its isolation level, which the next
    calls on the connection will be at, too.
    """
    if await refresh(session, name):
        return None
    keep_call(session, name, shape, call)
    return call


def _check_key(plan: Plan, values: list[Value]) -> None:
    """
    Check the values of the key.

    Raises:
        UsageError: One would be stored as something else.
    """
    for parameter, check in plan.checks:
        if values[parameter].__class__ not in check.harmless:
            check.check(values[parameter])


async def _look_up(
    session: Session,
    name: TableName,
    shape: RequestShape,
    values: list[Value],
    timeout: float | None,
) -> Result | None:
    """Return the row of a call that updates nothing, or None if there is none."""
    retries = _Retries(name, timeout, time.monotonic())
    while True:
        try:
            call = await _compiled(session, name, shape, values)
            return await session.run(call.read_existing(values))
        except Exception as exc:
            if not await retries.follow(session, exc):
                raise


async def _compiled(
    session: Session, name: TableName, shape: RequestShape, values: list[Value]
) -> CompiledCall:
    """Return the statements of a call, with its key checked."""
    call = cached_call(session.state.tables.get(name), shape, time.monotonic())
    if call is None:
        call = await compile_call(session, name, shape, values)
    _check_key(call.plan, values)
    return call


class _Retries:
    """
    The attempts of one call that have failed.

    Attributes:
        attempts: How many were lost, or ended by a transient error.
    """

    def __init__(self, name: TableName, timeout: float | None, started: float) -> None:
        self.attempts = 0
        self._name = name
        self._deadline = Deadline(timeout, started)
        self._refreshes = 0

    async def follow(
        self,
        session: Session,
        error: Exception,
        used: CachedTable | None = None,
        call: CompiledCall | None = None,
    ) -> bool:
        """
        Return whether the call is to be made again after an error, after a pause.

        Args:
            session: Where to.
            error: The error.
            used: The cached table that the call began with, or None.
            call: The statements of the call, or None if there were none yet.

        Raises:
            RetriesExhaustedError: The error is transient, but the deadline has passed.
        """
        if isinstance(error, TransientError):
            self._deadline.check(error.__cause__)
            await self._pause()
            return True
        if isinstance(error, ReadOnlyError):
            # The steps may find that there is nothing to write.
            await self.follow_lost_race(LostRace())
            return True
        # A new constraint refuses a row that is proposed, though it need not be inserted.
        is_suspect = (
            call is not None
            and call.at_any_level is not None
            and session.fault_of(error) == "row"
        )
        # An error that comes from a changed table is worth another attempt.
        if self._refreshes >= MAX_REFRESHES or not await has_changed(
            session, self._name, error, used, is_suspect=is_suspect
        ):
            return False
        self._refreshes += 1
        return True

    async def follow_lost_race(self, lost: LostRace) -> None:
        """
        Let the call be made again after a lost race.

        Raises:
            Exception: It has lost too many, or the deadline has passed.
        """
        if self.attempts + 1 >= MAX_LOST_RACES or self._deadline.is_over():
            raise race_error(self._name, lost)
        await self._pause()

    def logged(self, result: Result) -> Result:
        """Return the result of the last attempt; log a warning if there were many."""
        if self.attempts >= _MANY_ATTEMPTS:
            name = ".".join(self._name)
            _logger.warning("%s: %d attempts", name, self.attempts + 1)
        return result

    async def _pause(self) -> None:
        self.attempts += 1
        await back_off(self.attempts)
