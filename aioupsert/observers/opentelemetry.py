"""Spans of OpenTelemetry, after its semantic conventions for databases."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.context import Context

from aioupsert.events import Event, Observer

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

# The version in which the conventions for databases became stable.
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.33.0"


def spans(tracer_provider: trace.TracerProvider | None = None) -> Observer:
    """
    Make an observer that has a span for each call, around those of the driver.

    The span is of kind CLIENT, is called after the call and the table, and has the
    attributes ``db.system.name``, ``db.operation.name`` and ``db.collection.name``;
    ``db.operation.batch.size`` where there are several rows; ``error.type``, and
    ``db.response.status_code`` where the database gave a code, if it failed; and
    ``aioupsert.created``, ``.updated``, ``.unchanged``, ``.skipped``, ``.failed``,
    ``.retries`` and ``.pending`` where they are not zero.

    A batch of a `Coalescer` is a trace of its own, as it belongs to no single caller;
    the time that a caller waits is a span in the caller's trace.

    Args:
        tracer_provider: By default the global one.

    Returns:
        An observer for `aioupsert.observe`.

    References:
        OpenTelemetry, "Semantic conventions for database client spans".
    """
    tracer = trace.get_tracer(
        "aioupsert", tracer_provider=tracer_provider, schema_url=_SCHEMA
    )

    @contextmanager
    def observer(event: Event) -> Generator[None]:
        with tracer.start_as_current_span(
            f"{event.operation} {event.table}",
            # The task of a batch has the context of whichever call had it sent.
            context=Context() if event.operation == "Coalescer.batch" else None,
            kind=trace.SpanKind.CLIENT,
            attributes={
                "db.operation.name": event.operation,
                "db.collection.name": event.table,
            },
        ) as span:
            try:
                yield
            finally:
                span.set_attributes(_attributes(event))

    return observer


def _attributes(event: Event) -> dict[str, AttributeValue]:
    """What is known of a call at its end."""
    result = event.result
    found: dict[str, Any] = {
        "db.system.name": event.system,
        "db.operation.batch.size": event.rows if event.rows > 1 else 0,
        "aioupsert.created": result.created,
        "aioupsert.updated": result.updated,
        "aioupsert.unchanged": result.unchanged,
        "aioupsert.skipped": result.skipped,
        "aioupsert.failed": event.failed,
        "aioupsert.retries": event.retries,
        "aioupsert.pending": event.pending,
    }
    if event.error is not None:
        found["error.type"] = type(event.error).__qualname__
        # SQLAlchemy's errors have the driver's.
        error = getattr(event.error, "orig", event.error)
        # Every driver of PostgreSQL has the one, that of SQLite the other.
        found["db.response.status_code"] = getattr(error, "sqlstate", None) or getattr(
            error, "sqlite_errorname", None
        )
    return {name: value for name, value in found.items() if value}
