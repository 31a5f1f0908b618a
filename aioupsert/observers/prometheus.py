"""Prometheus metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Final
from weakref import WeakValueDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aioupsert._observation import COALESCERS
from aioupsert.events import Event, SharedHook, observe
from aioupsert.results import CoalescerStats

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
) -> SharedHook:
    """
    Return a hook that maintains metrics of calls, rows, retries and durations.

    All metrics have the labels ``operation`` and ``table``:

    - ``aioupsert_calls_total``, a counter with the further label ``outcome``: done,
      failed or cancelled.
    - ``aioupsert_rows_total``, a counter with the further label ``action``: created,
      updated, unchanged, skipped, deleted or failed.
    - ``aioupsert_retries_total``, a counter of repeated attempts.
    - ``aioupsert_call_seconds``, a histogram of the duration of calls.
    - ``aioupsert_batch_rows``, a histogram of the number of calls in a batch of a
      `Coalescer`.
    - ``aioupsert_pending_calls``, a gauge of the calls of coalescers that have begun
      and not ended; of all live processes in multiprocess mode.
    - ``aioupsert_waiting_for_connection``, ``aioupsert_waiting_for_lock`` and
      ``aioupsert_oldest_call_seconds``, gauges of the attributes of `CoalescerStats`, of
      *oldest_seconds* the largest, read when they are collected. They are not available
      in multiprocess mode.

    A call of a `Coalescer` is counted twice: as ``Coalescer.create_or_update``, and in
    its batch as ``Coalescer.batch``.

    A registry has one hook, which counts once however often it is registered. When the
    last `stop` of `on_event` has been called, its metrics are unregistered.

    Args:
        registry: The registry in which the metrics are registered.
        buckets: The upper bounds of the buckets of ``aioupsert_call_seconds``, in
            seconds, unless the registry has the hook already.

    Returns:
        A hook for `aioupsert.on_event`.

    Raises:
        ValueError: The registry has other metrics of these names.

    References:
        Prometheus, "Metric and label naming".
    """
    hook = _hooks.get(id(registry))
    if hook is None:
        hook = _hooks[id(registry)] = _Metrics(registry, buckets)
    return hook


_LABELS: Final = ("operation", "table")
_BATCH: Final = "Coalescer.batch"


class _Metrics(SharedHook):
    """The metrics of one registry, which refers to this."""

    def __init__(self, registry: CollectorRegistry, buckets: Sequence[float]) -> None:
        self._registry = registry
        self._uses = 0
        self._stop: Callable[[], None] = _do_nothing
        self._calls = Counter(
            "aioupsert_calls", "Number of calls.", (*_LABELS, "outcome"), registry=None
        )
        self._rows = Counter(
            "aioupsert_rows", "Number of rows.", (*_LABELS, "action"), registry=None
        )
        self._retries = Counter(
            "aioupsert_retries", "Number of repeated attempts.", _LABELS, registry=None
        )
        self._seconds = Histogram(
            "aioupsert_call_seconds",
            "Duration of calls in seconds.",
            _LABELS,
            registry=None,
            buckets=buckets,
        )
        self._sizes = Histogram(
            "aioupsert_batch_rows",
            "Number of calls in a batch of a coalescer.",
            _LABELS,
            registry=None,
            buckets=_BATCH_BUCKETS,
        )
        self._pending = Gauge(
            "aioupsert_pending_calls",
            "Number of pending calls of coalescers.",
            _LABELS,
            registry=None,
            multiprocess_mode="livesum",
        )
        self._collectors: tuple[Collector, ...] = (
            *(self._calls, self._rows, self._retries, self._seconds, self._sizes),
            *(self._pending, _Coalescers(self)),
        )
        self._register()

    def start(self) -> Callable[[], None]:
        """Observe operations, unless that has begun."""
        if not self._uses:
            if _hooks.get(id(self._registry)) is not self:
                self._register()
                _hooks[id(self._registry)] = self
            self._stop = observe(self._observed)
        self._uses += 1
        ends = iter((self._end_use,))

        def stop() -> None:
            next(ends, _do_nothing)()

        return stop

    def __call__(self, event: Event, /) -> None:
        """Count an operation that has ended."""
        names = event.operation, event.table
        self._calls.labels(*names, _outcome(event)).inc()
        result = event.result
        for action, number in (
            ("created", result.created),
            ("updated", result.updated),
            ("unchanged", result.unchanged),
            ("skipped", result.skipped),
            ("deleted", result.deleted),
            ("failed", event.failed),
        ):
            if number:
                self._rows.labels(*names, action).inc(number)
        if event.retries:
            self._retries.labels(*names).inc(event.retries)
        self._seconds.labels(*names).observe(event.seconds)
        if event.pending is not None:
            self._sizes.labels(*names).observe(event.rows)

    @contextmanager
    def _observed(self, event: Event) -> Generator[None]:
        pending = None
        if event.operation == "Coalescer.create_or_update":
            pending = self._pending.labels(_BATCH, event.table)
            pending.inc()
        try:
            yield
        finally:
            if pending is not None:
                pending.dec()
            self(event)

    def _register(self) -> None:
        for collector in self._collectors:
            self._registry.register(collector)

    def _end_use(self) -> None:
        self._uses -= 1
        if not self._uses:
            self._stop()
            del _hooks[id(self._registry)]
            for collector in self._collectors:
                self._registry.unregister(collector)


# By the identity of their registries, to which they refer.
_hooks: Final[WeakValueDictionary[int, _Metrics]] = WeakValueDictionary()


class _Coalescers(Collector):
    """What the coalescers of this process are doing."""

    def __init__(self, hook: _Metrics) -> None:
        # So that the hook lasts as long as the registry.
        self._hook = hook

    def collect(self) -> list[Metric]:
        """Return the metrics as they are now."""
        waiting: dict[str, int] = {}
        locked: dict[str, int] = {}
        oldest: dict[str, float] = {}
        for table, reference in [*COALESCERS.values()]:
            coalescer = reference()
            stats = CoalescerStats() if coalescer is None else coalescer.stats
            waiting[table] = waiting.get(table, 0) + stats.waiting_for_connection
            locked[table] = locked.get(table, 0) + stats.waiting_for_lock
            oldest[table] = max(oldest.get(table, 0.0), stats.oldest_seconds)
        families: list[Metric] = []
        for name, help_text, values in (
            (
                "aioupsert_waiting_for_connection",
                "Number of calls in batches that wait for a connection.",
                waiting,
            ),
            (
                "aioupsert_waiting_for_lock",
                "Number of calls that wait for rows which others have locked.",
                locked,
            ),
            (
                "aioupsert_oldest_call_seconds",
                "Age of the oldest pending call of a coalescer in seconds.",
                oldest,
            ),
        ):
            family = GaugeMetricFamily(name, help_text, labels=_LABELS)
            for table, value in values.items():
                family.add_metric((_BATCH, table), value)
            families.append(family)
        return families


def _do_nothing() -> None:
    pass


def _outcome(event: Event) -> str:
    if event.error is None:
        return "done"
    cancelled = isinstance(event.error, asyncio.CancelledError)
    return "cancelled" if cancelled else "failed"
