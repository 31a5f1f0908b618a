"""OpenTelemetry's own instrumentation of SQLAlchemy sees the statements of a call."""

import re
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from aioupsert import F, create_or_update, create_or_update_many

instrumentation: Any = pytest.importorskip("opentelemetry.instrumentation.sqlalchemy")


async def test_it_has_a_span_for_each_statement(
    engine: AsyncEngine, place: Any
) -> None:
    await place.run("CREATE TABLE t (k text PRIMARY KEY, n integer DEFAULT 0)")
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = instrumentation.SQLAlchemyInstrumentor()
    instrumentor.instrument(
        engine=engine.sync_engine,
        tracer_provider=provider,
        enable_commenter=True,
        skip_dep_check=True,  # it knows of SQLAlchemy up to 2.0
    )
    try:
        with provider.get_tracer("t").start_as_current_span("request") as request:
            async with AsyncSession(engine) as session:
                for number in range(2):
                    await create_or_update(
                        session, "t", key={"k": "a"}, defaults={"n": F("n") + number}
                    )
                await create_or_update_many(session, "t", [{"k": "b"}], key="k")
                await session.commit()
                await place.run("CREATE TABLE gone AS SELECT * FROM t; DROP TABLE t")
                with pytest.raises(DBAPIError):
                    await create_or_update(session, "t", key={"k": "a"})
    finally:
        instrumentor.uninstrument()
    assert await place.query("SELECT k, n FROM gone ORDER BY k") == [("a", 1), ("b", 0)]
    spans: list[Any] = [*exporter.get_finished_spans()][:-1]
    assert all(span.parent == request.get_span_context() for span in spans)
    sent = [span.attributes.get("db.statement", "") for span in spans]
    assert sum(bool(re.search(r"\b(INSERT|UPDATE)\b", sql)) for sql in sent) >= 3
    assert "ERROR" in {span.status.status_code.name for span in spans}
