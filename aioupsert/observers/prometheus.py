"""Prometheus metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from aioupsert.events import Event

# Seconds: from a fraction of a local round trip to the default timeout of a call.
_DURATION_BUCKETS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    1,
    5,
    30,
)
_BATCH_BUCKETS: Final = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 10_000)


def metrics(
    registry: CollectorRegistry = REGISTRY,
    *,
    buckets: Sequence[float] = _DURATION_BUCKETS,
) -> Callable[[Event], None]:
    """
    Return a hook that maintains metrics of calls, rows, retries and durations.

    All metrics have the labels ``operation`` and ``table``:

    - ``aioupsert_calls_total``, a counter with the further label ``outcome``: done,
      failed or cancelled.
    - ``aioupsert_rows_total``, a counter with the further label ``action``: created,
      updated, unchanged, skipped or failed.
    - ``aioupsert_retries_total``, a counter of repeated attempts.
    - ``aioupsert_call_seconds``, a histogram of the duration of calls.
    - ``aioupsert_batch_rows``, a histogram of the number of calls in a batch of a
      `Coalescer`.
    - ``aioupsert_pending_calls``, a gauge of the calls that were pending when the last
      batch of a `Coalescer` ended.

    A call of a `Coalescer` is counted twice: as ``Coalescer.create_or_update``, and in
    its batch as ``Coalescer.batch``.

    Args:
        registry: The registry in which the metrics are registered.
        buckets: The upper bounds of the buckets of ``aioupsert_call_seconds``, in
            seconds.

    Returns:
        A hook for `aioupsert.on_event`.

    Raises:
        ValueError: The metrics are already registered in this registry.

    References:
        Prometheus, "Metric and label naming".
    """
    labels = ("operation", "table")
    calls = Counter(
        "aioupsert_calls", "Number of calls.", (*labels, "outcome"), registry=registry
    )
    rows = Counter(
        "aioupsert_rows", "Number of rows.", (*labels, "action"), registry=registry
    )
    retries = Counter(
        "aioupsert_retries", "Number of repeated attempts.", labels, registry=registry
    )
    seconds = Histogram(
        "aioupsert_call_seconds",
        "Duration of calls in seconds.",
        labels,
        registry=registry,
        buckets=buckets,
    )
    sizes = Histogram(
        "aioupsert_batch_rows",
        "Number of calls in a batch of a coalescer.",
        labels,
        registry=registry,
        buckets=_BATCH_BUCKETS,
    )
    pending = Gauge(
        "aioupsert_pending_calls",
        "Number of pending calls of a coalescer.",
        labels,
        registry=registry,
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
