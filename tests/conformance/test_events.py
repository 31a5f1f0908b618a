"""What observers are told of every call; nothing they do changes a call."""

import asyncio
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from aioupsert import (
    BulkError,
    BulkResult,
    Coalescer,
    Event,
    F,
    UnknownColumnError,
    UsageError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    get_or_create_many,
    iter_create_or_update,
    observe,
    on_event,
)
from tests.support.databases import Database, every_handle
from tests.support.violations import INTEGRITY

KEY = {"k": 1}
ADD = {"n": F("n") + 1}


@pytest.fixture
async def conn(db: Database) -> Any:
    """A connection with an empty table, in which no n is over 100."""
    await db.run("CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER DEFAULT 0)")
    await db.run("CREATE TABLE few (k INTEGER PRIMARY KEY, n INTEGER CHECK (n < 100))")
    return db.handle


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """Those of the calls that have ended."""
    found: list[Event] = []
    stop = on_event(found.append)
    yield found
    stop()


@every_handle
async def test_each_call_is_an_event(
    db: Database, conn: Any, events: list[Event]
) -> None:
    for _ in range(2):
        await create_or_update(conn, "t", key=KEY, defaults=ADD)
    await create_or_update(conn, "t", key=KEY, defaults=ADD, where=F("n") < 0)
    await get_or_create(conn, "t", key=KEY)
    assert [(e.operation, e.table, e.system, e.rows, e.result) for e in events] == [
        (operation, "t", db.engine, 1, result)
        for operation, result in (
            ("create_or_update", BulkResult(created=1)),
            ("create_or_update", BulkResult(updated=1)),
            ("create_or_update", BulkResult(skipped=1)),
            ("get_or_create", BulkResult(unchanged=1)),
        )
    ]
    for event in events:
        assert 0 < event.seconds < 60
        assert (event.error, event.failed, event.retries, event.pending) == (
            None,
            0,
            0,
            None,
        )


async def test_many_rows_are_an_event(conn: Any, events: list[Event]) -> None:
    rows = [{"k": n % 4, "n": n} for n in range(6)]
    counts = await create_or_update_many(conn, "t", rows, key="k")
    (event,) = events
    assert (event.operation, event.rows) == ("create_or_update_many", 6)
    assert event.result == counts == BulkResult(created=4, updated=2)


async def test_each_batch_of_many_results_is_an_event(
    db: Database, conn: Any, events: list[Event]
) -> None:
    rows = [{"k": n % 4, "n": n} for n in range(6)]
    found = iter_create_or_update(conn, "t", rows, key="k", batch_size=4)
    assert len([result async for result in found]) == 6
    assert [(e.operation, e.system, e.result) for e in events] == [
        ("iter_create_or_update", db.engine, BulkResult(created=4)),
        ("iter_create_or_update", db.engine, BulkResult(updated=2)),
    ]
    events.clear()
    await get_or_create_many(conn, "t", [*rows, {"k": 5}], key="k", batch_size=6)
    assert [(e.operation, e.result) for e in events] == [
        ("get_or_create_many", BulkResult(unchanged=6)),
        ("get_or_create_many", BulkResult(created=1)),
    ]


@every_handle
async def test_a_call_that_fails_is_an_event(conn: Any, events: list[Event]) -> None:
    with pytest.raises(INTEGRITY) as caught:
        await create_or_update(conn, "few", key=KEY, defaults={"n": 100})
    depth = len(caught.traceback)
    with pytest.raises(UnknownColumnError) as unknown:
        await create_or_update(conn, "few", key=KEY, defaults={"m": 100})
    assert [(e.error, e.rows, e.failed, e.result) for e in events] == [
        (caught.value, 1, 1, BulkResult()),
        (unknown.value, 1, 1, BulkResult()),
    ]
    assert depth > 2  # the traceback is as it was


async def test_a_call_that_is_refused_is_none(conn: Any, events: list[Event]) -> None:
    with pytest.raises(UsageError):
        await create_or_update(conn, "few", key={})
    assert events == []


async def test_rows_that_are_left_out_have_failed(
    conn: Any, events: list[Event]
) -> None:
    rows = [{"k": n, "n": 98 + n} for n in range(4)]
    await create_or_update_many(
        conn, "few", rows, key="k", atomic=False, on_error="skip"
    )
    (event,) = events
    assert (event.rows, event.failed, event.error) == (4, 2, None)
    assert event.result.created == 2


async def test_an_error_of_many_rows_says_what_is_stored(
    conn: Any, events: list[Event]
) -> None:
    rows = [{"k": n, "n": 98 + n} for n in range(4)]
    with pytest.raises(BulkError) as caught:
        await create_or_update_many(
            conn, "few", rows, key="k", atomic=False, batch_size=1
        )
    (event,) = events
    assert event.error is caught.value
    assert (event.rows, event.failed, event.result.created) == (3, 1, 2)


@every_handle
async def test_a_coalescer_tells_of_its_calls_and_batches(
    db: Database, conn: Any, events: list[Event]
) -> None:
    async with Coalescer(conn, "few", key="k") as coalescer:
        results = await asyncio.gather(
            *(
                coalescer.create_or_update(key={"k": n}, defaults={"n": 95 + n})
                for n in range(8)
            ),
            return_exceptions=True,
        )
    assert sum(isinstance(result, INTEGRITY) for result in results) == 3
    calls = [e for e in events if e.operation == "Coalescer.create_or_update"]
    batches = [e for e in events if e.operation == "Coalescer.batch"]
    assert {(e.table, e.system) for e in batches} == {("few", db.engine)}
    assert sum(e.rows for e in batches) == len(calls) == 8
    assert sum(e.result.created for e in batches) == 5
    assert sum(e.failed for e in batches) == 3
    # A slow machine may send some of them alone.
    assert all((e.error is not None) == (e.failed == e.rows == 1) for e in batches)
    assert max(e.pending or 0 for e in batches) in {7, 8}
    assert sum(e.result.created for e in calls) == 5
    assert sum(isinstance(e.error, INTEGRITY) for e in calls) == 3
    assert {e.system for e in calls if e.error is None} == {db.engine}


async def test_a_coalescer_tells_of_a_batch_that_fails(
    conn: Any, events: list[Event]
) -> None:
    async with Coalescer(conn, "nowhere", key="k") as coalescer:
        with pytest.raises(UsageError) as caught:
            await coalescer.create_or_update(key=KEY)
    batch, call = events
    assert (batch.operation, batch.rows, batch.failed) == ("Coalescer.batch", 1, 1)
    assert batch.error is call.error is caught.value


@every_handle
async def test_a_cancelled_call_is_an_event(conn: Any, events: list[Event]) -> None:
    async with Coalescer(conn, "t", key="k", max_delay=60) as coalescer:
        calls = [
            asyncio.ensure_future(coalescer.create_or_update(key={"k": n}))
            for n in range(2)
        ]
        await asyncio.sleep(0)
        calls[0].cancel()
        await asyncio.wait(calls[:1])
        (event,) = events
        assert isinstance(event.error, asyncio.CancelledError)
    batch = next(e for e in events if e.operation == "Coalescer.batch")
    assert (batch.rows, batch.result) == (1, BulkResult(created=1))


async def test_an_observer_is_around_the_call(db: Database, conn: Any) -> None:
    seen: list[Any] = []

    @contextmanager
    def observer(event: Event) -> Generator[None]:
        seen.append((event.operation, event.system, event.seconds))
        try:
            yield
        except INTEGRITY as exc:
            seen.append(exc)
            raise
        seen.append((event.operation, event.system, event.result.created))

    stop = observe(observer)
    await create_or_update(conn, "few", key=KEY)
    with pytest.raises(INTEGRITY) as caught:
        await create_or_update(conn, "few", key=KEY, defaults={"n": 100})
    stop()
    stop()  # once more changes nothing
    await create_or_update(conn, "few", key=KEY)
    began = ("create_or_update", "", 0.0)
    ended = ("create_or_update", db.engine, 1)
    assert seen == [began, ended, began, caught.value]


def broken(where: str) -> Callable[[Event], Any]:
    @contextmanager
    def in_its_context(_: Event) -> Generator[None]:
        if where == "enter":
            raise LookupError
        yield
        raise LookupError

    def at_once(_: Event) -> Any:
        raise LookupError

    return at_once if where == "call" else in_its_context


@pytest.mark.parametrize("where", ["call", "enter", "exit"])
async def test_an_observer_that_fails_changes_nothing(
    conn: Any, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    stop = observe(broken(where))
    try:
        result = await create_or_update(conn, "t", key=KEY)
    finally:
        stop()
    assert result.created
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.getMessage().startswith("an observer failed when a call")


async def test_an_observer_may_hide_no_error(conn: Any) -> None:
    @contextmanager
    def hiding(_: Event) -> Generator[None]:
        with suppress(*INTEGRITY):
            yield

    stop = observe(hiding)
    try:
        with pytest.raises(INTEGRITY):
            await create_or_update(conn, "few", key=KEY, defaults={"n": 100})
    finally:
        stop()
