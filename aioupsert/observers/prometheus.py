"""Metrics of Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from aioupsert.events import Event

# In seconds, as a round trip takes less than one of them or many.
_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30)
_ROWS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 10_000)


def metrics(
    registry: CollectorRegistry = REGISTRY, *, buckets: Sequence[float] = _SECONDS
) -> Callable[[Event], None]:
    """
    Make a hook that counts calls, rows, attempts and time.

    The metrics, each with the labels ``operation`` and ``table``:

    - ``aioupsert_calls_total``, also by ``outcome``: done, failed or cancelled.
    - ``aioupsert_rows_total``, also by ``action``: created, updated, unchanged, skipped
      or failed.
    - ``aioupsert_retries_total``: attempts made again.
    - ``aioupsert_call_seconds``: how long calls took, a histogram.
    - ``aioupsert_batch_rows``: how many calls the batches of a `Coalescer` had, a
      histogram; ``aioupsert_pending_calls``: how many were pending after the last one.

    A call of a `Coalescer` is counted as ``Coalescer.create_or_update``, and once more
    in its batch, as ``Coalescer.batch``.

    Args:
        registry: Where they are registered, once.
        buckets: Those of the seconds.

    Returns:
        A hook for `aioupsert.on_event`.

    Raises:
        ValueError: They are in that registry already.

    References:
        Prometheus, "Metric and label naming".
    """
    labels = ("operation", "table")
    calls = Counter(
        "aioupsert_calls", "Calls.", (*labels, "outcome"), registry=registry
    )
    rows = Counter("aioupsert_rows", "Rows.", (*labels, "action"), registry=registry)
    retries = Counter(
        "aioupsert_retries", "Attempts made again.", labels, registry=registry
    )
    seconds = Histogram(
        "aioupsert_call_seconds",
        "Seconds that calls took.",
        labels,
        registry=registry,
        buckets=buckets,
    )
    sizes = Histogram(
        "aioupsert_batch_rows",
        "Calls in a batch of a coalescer.",
        labels,
        registry=registry,
        buckets=_ROWS,
    )
    pending = Gauge(
        "aioupsert_pending_calls", "Calls pending.", labels, registry=registry
    )

    def hook(event: Event) -> None:
        names = event.operation, event.table
        calls.labels(*names, _outcome(event)).inc()
        result = event.result
        for action, number in (
            ("created", result.created),
            ("updated", result.updated),
            ("unchanged", result.unchanged),
            ("skipped", result.skipped),
            ("failed", event.failed),
        ):
            if number:
                rows.labels(*names, action).inc(number)
        if event.retries:
            retries.labels(*names).inc(event.retries)
        seconds.labels(*names).observe(event.seconds)
        if event.pending is not None:
            sizes.labels(*names).observe(event.rows)
            pending.labels(*names).set(event.pending)

    return hook


def _outcome(event: Event) -> str:
    if event.error is None:
        return "done"
    cancelled = isinstance(event.error, asyncio.CancelledError)
    return "cancelled" if cancelled else "failed"
