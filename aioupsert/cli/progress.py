"""The progress bar that a terminal shows during a load."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

import rich.progress
from rich.console import Console
from rich.progress import (
    BarColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from aioupsert.cli.errors import printable
from aioupsert.cli.reading import Input
from aioupsert.cli.rejects import Rejects
from aioupsert.results import BulkResult, Progress

# Seconds.
_REFRESH_INTERVAL = 0.1


class ProgressBar:
    """A progress bar; pass `record` to the library as its progress callback."""

    def __init__(self, source: Input, rejects: Rejects, *, hidden: bool) -> None:
        """Prepare the bar for an input, without showing it."""
        self._source = source
        self._rejects = rejects
        self._is_finished = False
        self._last = Progress(0, 0.0, BulkResult())
        console = Console(stderr=True)
        # Console.is_terminal would be true in a log file if FORCE_COLOR is set.
        self._progress = rich.progress.Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn(
                "{task.fields[rows]} rows, {task.fields[rate]}/s{task.fields[rejected]}"
            ),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=hidden or not console.file.isatty(),
        )

    @property
    def done(self) -> BulkResult:
        """What was done to the rows, as of the last report."""
        return self._last.result

    def record(self, progress: Progress) -> None:
        """Record a report of the library."""
        self._last = progress

    def finish(self) -> None:
        """Record that all rows are stored, even if the file has more after them."""
        self._is_finished = True

    @contextmanager
    def display(self) -> Generator[None]:
        """Show the bar while the block runs, refreshed by the running event loop."""
        with self._progress:
            name = printable(self._source.name.rpartition("/")[2])
            self._task = self._progress.add_task(
                name, total=self._source.size, rows="0", rate="0", rejected=""
            )
            self._keep_refreshing()
            try:
                yield
            finally:
                self._timer.cancel()
                self._refresh()

    def _keep_refreshing(self) -> None:
        self._refresh()
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_REFRESH_INTERVAL, self._keep_refreshing)

    def _refresh(self) -> None:
        size, rejected = self._source.size, self._rejects.count
        is_complete = self._is_finished and size is not None
        self._progress.update(
            self._task,
            completed=size if is_complete else self._source.position(),
            rows=f"{self._last.rows:,}",
            rate=f"{self._last.rows_per_second:,.0f}",
            rejected=f", {rejected:,} rejected" if rejected else "",
        )
