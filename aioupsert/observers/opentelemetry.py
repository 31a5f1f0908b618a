"""OpenTelemetry spans that follow the semantic conventions for databases."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.context import Context

from aioupsert.events import Event, Observer
from aioupsert.typing import Value

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

# The first version of the conventions in which those for databases are stable.
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.33.0"


def spans(tracer_provider: trace.TracerProvider | None = None) -> Observer:
    """
    Return an observer that creates a span for each operation.

    The spans of an instrumented driver are children of this span. Its kind is CLIENT
    and its name consists of the operation and the table. Its attributes are:

    - ``db.system.name``, ``db.operation.name`` and ``db.collection.name``;
    - ``db.operation.batch.size``, if there is more than one row;
    - ``error.type`` if the operation failed, and ``db.response.status_code`` if the
      database sent an error code;
    - those of ``aioupsert.created``, ``.updated``, ``.unchanged``, ``.skipped``,
      ``.deleted``, ``.failed``, ``.retries`` and ``.pending`` that are not zero.

    A batch of a `Coalescer` is a separate trace, because it serves several callers, with
    links to the spans of its calls. The trace of each caller has a span for its call,
    including the time it waited.

    Args:
        tracer_provider: The provider of the tracer; by default the global one.

    Returns:
        An observer for `aioupsert.observe`.

    References:
        OpenTelemetry, "Semantic conventions for database client spans".
    """
    tracer = trace.get_tracer(
        "aioupsert", tracer_provider=tracer_provider, schema_url=_SCHEMA
    )

    # Of the operations that have not ended, by the identity of their events.
    contexts: dict[int, trace.SpanContext] = {}

    @contextmanager
    def observer(event: Event) -> Generator[None]:
        links = [
            trace.Link(contexts[id(call)])
            for call in event.calls
            if id(call) in contexts
        ]
        with tracer.start_as_current_span(
            f"{event.operation} {event.table}",
            # Not the span in which the coalescer was entered, which has ended or lasts
            # as long as the process.
            context=Context() if event.operation == "Coalescer.batch" else None,
            kind=trace.SpanKind.CLIENT,
            attributes={
                "db.operation.name": event.operation,
                "db.collection.name": event.table,
            },
            links=links,
        ) as span:
            contexts[id(event)] = span.get_span_context()
            try:
                yield
            finally:
                contexts.pop(id(event), None)
                span.set_attributes(_attributes(event))

    return observer


def _attributes(event: Event) -> dict[str, AttributeValue]:
    """Return the attributes of an event that is complete."""
    result = event.result
    attributes: dict[str, Value] = {
        "db.system.name": event.system,
        "db.operation.batch.size": event.rows if event.rows > 1 else 0,
        "aioupsert.created": result.created,
        "aioupsert.updated": result.updated,
        "aioupsert.unchanged": result.unchanged,
        "aioupsert.skipped": result.skipped,
        "aioupsert.deleted": result.deleted,
        "aioupsert.failed": event.failed,
        "aioupsert.retries": event.retries,
        "aioupsert.pending": event.pending,
    }
    if event.error is not None:
        attributes["error.type"] = type(event.error).__qualname__
        # SQLAlchemy wraps the driver's error.
        error = getattr(event.error, "orig", event.error)
        # PostgreSQL drivers set the first, SQLite sets the second.
        attributes["db.response.status_code"] = getattr(
            error, "sqlstate", None
        ) or getattr(error, "sqlite_errorname", None)
    return {name: value for name, value in attributes.items() if value}
