"""Faults of objects that have a public name: the library's, and asyncio's."""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import asyncpg
import psycopg
from sqlalchemy.ext.asyncio import AsyncConnection

import aioupsert
from tests.stress.mutations.registry import (
    REACHED,
    called_by_library,
    changes_objects,
    replace,
)

Call: TypeAlias = Callable[..., Awaitable[Any]]


@changes_objects("tests/unit/test_results.py::test_only_a_created_row_was_created")
def created_means_updated() -> None:
    """created means updated."""

    def created(self: aioupsert.Result) -> bool:
        REACHED.add()
        return self.action is aioupsert.Action.UPDATED

    replace(aioupsert.Result, "created", lambda _: property(created))


@changes_objects(
    "tests/conformance/test_create_or_update.py::test_an_equal_row_is_left_if_asked"
)
def skip_unchanged_is_ignored() -> None:
    """skip_unchanged is ignored."""
    _change_arguments(lambda options: {**options, "skip_unchanged": False})


@changes_objects(
    "tests/conformance/test_create_or_update.py"
    "::test_create_defaults_are_merged_over_defaults_on_create_only"
)
def create_defaults_are_defaults() -> None:
    """create_defaults are written on update."""

    def merged(options: dict[str, Any]) -> dict[str, Any]:
        also = options.get("create_defaults") or {}
        return {**options, "defaults": {**(options.get("defaults") or {}), **also}}

    _change_arguments(merged)


def _change_arguments(change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    def changed(original: Call) -> Call:
        @functools.wraps(original)
        async def create_or_update(*args: Any, **options: Any) -> Any:
            different = change(options)
            if different != options:
                REACHED.add()
            return await original(*args, **different)

        return create_or_update

    replace(aioupsert, "create_or_update", changed)


@changes_objects(
    "tests/conformance/test_bulk_atomic.py::test_the_temporary_table_that_is_left_is_empty"
)
def copied_values_are_mixed_up() -> None:
    """the last row of those that are copied gets a value of the row before."""

    def mixing(original: Call) -> Call:
        async def copy(*args: Any, records: Any, **options: Any) -> Any:
            REACHED.add()
            *others, before, last = records
            mixed = [*others, before, (*last[:-2], before[-2], last[-1])]
            return await original(*args, records=mixed, **options)

        return _of_library(original, copy)

    replace(asyncpg.Connection, "copy_records_to_table", mixing)


@changes_objects("tests/hazards/test_retries.py::test_at_the_deadline_it_ends")
def timeouts_are_ignored() -> None:
    """the timeout is ignored."""
    start = time.monotonic()

    def stopped(original: Callable[[], float]) -> Callable[[], float]:
        def monotonic() -> float:
            if not called_by_library():
                return original()
            REACHED.add()
            return start

        return monotonic

    replace(time, "monotonic", stopped)


@changes_objects("tests/hazards/test_cancellation.py::test_at_every_suspension_point")
def rollbacks_can_be_cancelled() -> None:
    """a ROLLBACK can be cancelled."""
    let_cancellations_through(lambda _: True)


def let_cancellations_through(
    concerned: Callable[[asyncio.Future[Any]], bool],
) -> None:
    """Cancel what the library waits for to its end, when it is cancelled itself."""

    def waiting(original: Call) -> Call:
        async def wait(tasks: Any, **options: Any) -> Any:
            tasks = [*tasks]
            try:
                return await original(tasks, **options)
            except asyncio.CancelledError:
                for task in filter(concerned, tasks):
                    REACHED.add()
                    task.cancel()
                raise

        return _of_library(original, wait)

    def shielding(original: Callable[..., Any]) -> Callable[..., Any]:
        def shield(awaitable: Any) -> Any:
            future = asyncio.ensure_future(awaitable)
            if not concerned(future):
                return original(future)
            REACHED.add()
            return future

        return _of_library(original, shield)

    replace(asyncio, "wait", waiting)
    replace(asyncio, "shield", shielding)


def _of_library(
    original: Callable[..., Any], changed: Callable[..., Any]
) -> Callable[..., Any]:
    """Call what is changed for the library, and the original for all others."""

    @functools.wraps(original)
    def call(*args: Any, **options: Any) -> Any:
        return (changed if called_by_library() else original)(*args, **options)

    return call


@changes_objects("tests/hazards/test_psycopg.py::test_a_pool_adds_no_round_trip")
def pools_lend_connections_as_they_are() -> None:
    """a call over a pool of psycopg takes place in a transaction of the driver."""

    async def nothing(*_: Any) -> None:
        REACHED.add()

    replace(
        psycopg.AsyncConnection,
        "set_autocommit",
        lambda original: _of_library(original, nothing),
    )


@changes_objects("tests/handles/test_sqlalchemy.py::test_the_caller_commits")
def sqlalchemy_does_not_begin() -> None:
    """a connection of SQLAlchemy does not know of the transaction."""

    async def nothing(*_: Any) -> None:
        REACHED.add()

    replace(AsyncConnection, "begin", lambda begin: _of_library(begin, nothing))


@changes_objects(
    "tests/hazards/test_coalescer.py::test_counters_are_counted_as_by_single_calls"
)
def a_coalescer_sends_calls_twice() -> None:
    """a coalescer sends a call twice."""

    async def twice(call: Call, number: int, *args: Any, **options: Any) -> Any:
        if number % 5 == 0:
            REACHED.add()
            await call(*args, **options)
        return await call(*args, **options)

    _change_calls(twice)


@changes_objects(
    "tests/conformance/test_coalescer.py::test_no_batch_is_larger_than_it_may_be"
)
def a_coalescer_loses_calls() -> None:
    """a coalescer answers a call that it did not send."""
    last: list[Any] = []

    async def lose(call: Call, number: int, *args: Any, **options: Any) -> Any:
        if number % 5 == 4 and last:
            REACHED.add()
            return last[-1]
        last.append(await call(*args, **options))
        return last[-1]

    _change_calls(lose)


@changes_objects(
    "tests/conformance/test_coalescer.py"
    "::test_the_last_value_in_the_order_of_the_calls_stays"
)
def a_coalescer_ignores_the_order() -> None:
    """calls of a coalescer for one row lose their order."""

    async def later(call: Call, number: int, *args: Any, **options: Any) -> Any:
        if number % 5 == 3:
            REACHED.add()
            await asyncio.sleep(0.002)
        return await call(*args, **options)

    _change_calls(later)


@changes_objects(
    "tests/hazards/test_coalescer.py"
    "::test_a_lost_connection_fails_the_callers_of_its_batch_only"
)
def callers_share_one_error() -> None:
    """all callers of a failed batch share one error."""
    errors: dict[str, Exception] = {}

    async def share(call: Call, _: int, *args: Any, **options: Any) -> Any:
        try:
            return await call(*args, **options)
        except Exception as exc:  # noqa: BLE001  # what it raises instead is one
            first = errors.setdefault(repr(exc), exc)
            if first is not exc:
                REACHED.add()
            raise first from None

    _change_calls(share)


@changes_objects(
    "tests/hazards/test_coalescer.py"
    "::test_a_call_that_was_not_sent_is_withdrawn_and_others_go_on"
)
def cancelled_calls_are_sent() -> None:
    """a call of a coalescer is sent although its caller was cancelled."""

    async def protected(call: Call, _: int, *args: Any, **options: Any) -> Any:
        task = asyncio.ensure_future(call(*args, **options))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            REACHED.add()
            raise

    _change_calls(protected)


def _change_calls(change: Callable[..., Awaitable[Any]]) -> None:
    """Change a coalescer's calls; each has its number, by its coalescer."""
    numbers: WeakKeyDictionary[Any, itertools.count[int]] = WeakKeyDictionary()

    def changed(original: Call) -> Call:
        @functools.wraps(original)
        async def create_or_update(self: Any, **options: Any) -> Any:
            number = next(numbers.setdefault(self, itertools.count()))
            return await change(original, number, self, **options)

        return create_or_update

    replace(aioupsert.Coalescer, "create_or_update", changed)


@changes_objects(
    "tests/conformance/test_coalescer.py::test_no_batch_is_larger_than_it_may_be"
)
def batches_have_any_size() -> None:
    """a batch of a coalescer has any size."""
    _raise_limit("max_batch")


@changes_objects(
    "tests/conformance/test_coalescer.py::test_callers_beyond_the_limit_wait_in_order"
)
def any_number_may_be_pending() -> None:
    """a coalescer takes any number of calls."""
    _raise_limit("max_pending")


_BOUNDLESS: Final = 1_000_000


def _raise_limit(name: str) -> None:
    def changed(original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def init(self: Any, *args: Any, **options: Any) -> None:
            if options.get(name, 0) > 0:
                REACHED.add()
                options[name] = _BOUNDLESS
            original(self, *args, **options)

        return init

    replace(aioupsert.Coalescer, "__init__", changed)
