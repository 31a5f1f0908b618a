"""Calls as spans of OpenTelemetry and metrics of Prometheus, on real databases."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import IntegrityError

from aioupsert import (
    Coalescer,
    Event,
    F,
    create_or_update,
    create_or_update_many,
    observe,
    on_event,
)
from aioupsert._observation import COALESCERS
from aioupsert.observers.opentelemetry import spans
from aioupsert.observers.prometheus import metrics
from tests.support.databases import CONNECTIONS, Database, PostgresDatabase
from tests.support.violations import INTEGRITY

KEY = {"k": 1}
ADD = {"n": F("n") + 1}

one_of_each_engine = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)


@pytest.fixture
async def conn(db: Database) -> Any:
    """A connection with an empty table, in which no n is over 100."""
    await db.run(
        "CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER DEFAULT 0 CHECK (n < 100))"
    )
    return db.handle


class Traces:
    """A tracer, and the spans that have ended."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer = self.provider.get_tracer("test")

    def ended(self) -> tuple[ReadableSpan, ...]:
        return self._kept.get_finished_spans()


@pytest.fixture
def traces() -> Iterator[Traces]:
    traces = Traces()
    stop = observe(spans(traces.provider))
    yield traces
    stop()


@one_of_each_engine
async def test_a_call_is_a_span_in_the_trace_of_its_caller(
    db: Database, conn: Any, traces: Traces
) -> None:
    with traces.tracer.start_as_current_span("handler") as handler:
        await create_or_update(conn, "t", key=KEY, defaults=ADD)
    span = traces.ended()[0]
    assert (span.name, span.kind) == ("create_or_update t", trace.SpanKind.CLIENT)
    assert span.parent == handler.get_span_context()
    assert dict(span.attributes or {}) == {
        "db.system.name": db.engine,
        "db.operation.name": "create_or_update",
        "db.collection.name": "t",
        "aioupsert.created": 1,
    }
    assert span.status.is_unset


@pytest.mark.parametrize(
    "db",
    [
        *CONNECTIONS,
        *("connection of asyncpg", "connection of psycopg", "connection of aiosqlite"),
    ],
    indirect=True,
)
async def test_the_span_of_a_call_that_fails_has_its_error(
    db: Database, conn: Any, traces: Traces
) -> None:
    with pytest.raises((*INTEGRITY, IntegrityError)) as caught:
        await create_or_update(conn, "t", key=KEY, defaults={"n": 100})
    (span,) = traces.ended()
    assert span.status.status_code is trace.StatusCode.ERROR
    attributes = span.attributes or {}
    assert attributes["error.type"] == type(caught.value).__qualname__
    assert attributes["db.response.status_code"] == db.sql(
        postgresql="23514", sqlite="SQLITE_CONSTRAINT_CHECK"
    )
    assert attributes["aioupsert.failed"] == 1
    assert [event.name for event in span.events] == ["exception"]


@one_of_each_engine
async def test_the_span_of_many_rows_has_their_number(
    conn: Any, traces: Traces
) -> None:
    rows = [{"k": n, "n": n} for n in range(5)]
    await create_or_update_many(conn, "t", rows, key="k")
    (span,) = traces.ended()
    attributes = span.attributes or {}
    assert attributes["db.operation.batch.size"] == 5
    assert attributes["aioupsert.created"] == 5


@one_of_each_engine
async def test_a_batch_of_a_coalescer_is_a_trace_of_its_own(
    conn: Any, traces: Traces
) -> None:
    async with Coalescer(conn, "t", key="k") as coalescer:
        with traces.tracer.start_as_current_span("handler") as handler:
            await asyncio.gather(
                *(
                    coalescer.create_or_update(key={"k": n}, defaults=ADD)
                    for n in range(5)
                )
            )
    by_name: dict[str, list[ReadableSpan]] = {}
    for span in traces.ended():
        by_name.setdefault(span.name, []).append(span)
    calls, batches = (
        by_name[name] for name in ("Coalescer.create_or_update t", "Coalescer.batch t")
    )
    assert [span.parent for span in calls] == [handler.get_span_context()] * 5
    assert [span.parent for span in batches] == [None] * len(batches)
    links = [link.context for span in batches for link in span.links]
    assert links == [span.context for span in calls]
    assert len(batches) < len(calls)
    sizes = [(span.attributes or {})["aioupsert.created"] for span in batches]
    assert sum(int(str(size)) for size in sizes) == 5


async def test_a_batch_has_no_link_to_a_call_that_began_unobserved(
    pg: PostgresDatabase, traces: Traces
) -> None:
    await pg.run("CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER DEFAULT 0)")
    late = Traces()
    async with Coalescer(pg.handle, "t", key="k", max_delay=60) as coalescer:
        call = asyncio.create_task(coalescer.create_or_update(key=KEY, defaults=ADD))
        await asyncio.sleep(0)
        stop = observe(spans(late.provider))
    stop()
    await call
    (batch,) = late.ended()
    assert [*batch.links] == []
    assert len(traces.ended()) == 2


@one_of_each_engine
async def test_metrics_count_calls_rows_and_time(conn: Any) -> None:
    registry = CollectorRegistry()
    stop = on_event(metrics(registry))
    try:
        for _ in range(3):
            await create_or_update(conn, "t", key=KEY, defaults=ADD)
        with pytest.raises(INTEGRITY):
            await create_or_update(conn, "t", key=KEY, defaults={"n": 100})
        async with Coalescer(conn, "t", key="k", max_delay=60) as coalescer:
            calls = [
                asyncio.ensure_future(
                    coalescer.create_or_update(key={"k": n}, defaults=ADD)
                )
                for n in range(5)
            ]
            await asyncio.sleep(0)
            calls[4].cancel()
            await asyncio.wait(calls[4:])
        await asyncio.gather(*calls[:4])
    finally:
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in registry.collect()
            for sample in family.samples
        }
        stop()

    def value(name: str, operation: str, **labels: str) -> float:
        return samples.get((f"aioupsert_{name}", operation, "t", *labels.values()), 0.0)

    single, batch = "create_or_update", "Coalescer.batch"
    coalesced = "Coalescer.create_or_update"
    assert value("calls_total", single, outcome="done") == 3
    assert value("calls_total", single, outcome="failed") == 1
    assert value("calls_total", coalesced, outcome="done") == 4
    assert value("calls_total", coalesced, outcome="cancelled") == 1
    assert value("rows_total", single, action="created") == 1
    assert value("rows_total", single, action="updated") == 2
    assert value("rows_total", single, action="failed") == 1
    assert value("rows_total", batch, action="created") == 3
    assert value("rows_total", batch, action="updated") == 1
    assert value("call_seconds_count", single) == 4
    assert 0 < value("call_seconds_sum", single) < 60
    assert value("batch_rows_sum", batch) == 4
    assert ("aioupsert_pending_calls", batch, "t") in samples
    assert value("pending_calls", batch) == 0
    assert value("retries_total", single) == 0


async def test_attempts_are_counted(pg: PostgresDatabase) -> None:
    await pg.run(
        """
        CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0);
        CREATE SEQUENCE tries;
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('tries') < 3 THEN
                RAISE 'try again' USING ERRCODE = '40001';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER fail BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fail();
        """
    )
    registry = CollectorRegistry()
    events: list[Event] = []
    stops = on_event(metrics(registry)), on_event(events.append)
    try:
        await create_or_update(pg.handle, "t", key=KEY)
        labels = {"operation": "create_or_update", "table": "t"}
        assert registry.get_sample_value("aioupsert_retries_total", labels) == 2
    finally:
        for stop in stops:
            stop()
    assert [event.retries for event in events] == [2]


async def test_metrics_show_what_is_pending_while_it_is(conn: Any) -> None:
    registry = CollectorRegistry()
    labels = {"operation": "Coalescer.batch", "table": "t"}

    def value(name: str) -> float:
        found = registry.get_sample_value(f"aioupsert_{name}", labels)
        assert found is not None
        return found

    stop = on_event(metrics(registry))
    try:
        async with Coalescer(conn, "t", key="k", max_delay=60) as coalescer:
            calls = [
                asyncio.create_task(coalescer.create_or_update(key={"k": n}))
                for n in range(3)
            ]
            await asyncio.sleep(0.02)
            assert value("pending_calls") == 3
            assert value("waiting_for_connection") == value("waiting_for_lock") == 0
            assert 0.01 < value("oldest_call_seconds") < 20
            calls[0].cancel()
            await asyncio.wait(calls[:1])
            assert value("pending_calls") == 2
        await asyncio.wait(calls)
        assert value("pending_calls") == value("oldest_call_seconds") == 0
    finally:
        stop()


async def test_metrics_are_counted_once_however_often_they_are_asked_for(
    conn: Any,
) -> None:
    registry = CollectorRegistry()
    labels = {"operation": "create_or_update", "table": "t", "outcome": "done"}

    def counted() -> float | None:
        return registry.get_sample_value("aioupsert_calls_total", labels)

    hook = metrics(registry)
    stops = [on_event(hook), on_event(metrics(registry))]
    await create_or_update(conn, "t", key=KEY)
    assert counted() == 1
    stops[0]()
    stops[0]()  # twice is once
    await create_or_update(conn, "t", key=KEY)
    assert counted() == 2
    stops[1]()
    # Now they are unregistered, and others can be registered.
    await create_or_update(conn, "t", key=KEY)
    assert counted() is None
    stop = on_event(metrics(registry))
    await create_or_update(conn, "t", key=KEY)
    assert counted() == 1
    stop()
    stop = on_event(hook)  # which goes on
    await create_or_update(conn, "t", key=KEY)
    assert counted() == 3
    stop()


MULTIPROCESS = """
import asyncio, sys
import aiosqlite
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from aioupsert import Coalescer, on_event
from aioupsert.observers.prometheus import metrics

async def main():
    on_event(metrics())
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    labels = {"operation": "Coalescer.batch", "table": "t"}
    async with aiosqlite.connect(":memory:", isolation_level=None) as conn:
        await conn.execute("CREATE TABLE t (k INTEGER PRIMARY KEY)")
        async with Coalescer(conn, "t", key="k", max_delay=60) as coalescer:
            calls = [
                asyncio.create_task(coalescer.create_or_update(key={"k": n}))
                for n in range(3)
            ]
            await asyncio.sleep(0)
            print(registry.get_sample_value("aioupsert_pending_calls", labels))
        await asyncio.wait(calls)
    print(registry.get_sample_value("aioupsert_pending_calls", labels))

asyncio.run(main())
"""


async def test_pending_calls_are_a_sum_over_processes(tmp_path: Path) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", MULTIPROCESS],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["3.0", "0.0"], done.stderr


async def test_a_coalescer_that_is_gone_is_seen_no_more(conn: Any) -> None:
    before = len(COALESCERS)
    coalescer = Coalescer(conn, "t", key="k")
    async with coalescer:
        assert len(COALESCERS) == before + 1
    del coalescer
    gc.collect()
    assert len(COALESCERS) <= before
