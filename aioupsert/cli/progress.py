"""A bar on the terminal, while a load goes on."""

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

from aioupsert.cli.reading import Input
from aioupsert.results import BulkResult, Progress

# In seconds.
_SHOWN_EVERY = 0.1


class Bar:
    """How far a load is; `note` is what the library calls."""

    def __init__(self, source: Input, *, hidden: bool) -> None:
        """Prepare the bar."""
        self._source = source
        self._last = Progress(0, 0.0, BulkResult())
        console = Console(stderr=True)
        # Not is_terminal: a variable of the environment makes that true in a log file.
        self._progress = rich.progress.Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rows]} rows, {task.fields[rate]}/s"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=hidden or not console.file.isatty(),
        )

    @property
    def done(self) -> BulkResult:
        """What has been done, as far as the library has said."""
        return self._last.result

    def note(self, progress: Progress) -> None:
        """Remember what the library says."""
        self._last = progress

    @contextmanager
    def shown(self) -> Generator[None]:
        """Show the bar while the block runs, in the running event loop."""
        with self._progress:
            name = self._source.name.rpartition("/")[2]
            self._task = self._progress.add_task(
                name, total=self._source.size, rows="0", rate="0"
            )
            self._follow()
            try:
                yield
            finally:
                self._next.cancel()
                self._update()

    def _follow(self) -> None:
        """Show how far the load is, now and again later."""
        self._update()
        loop = asyncio.get_running_loop()
        self._next = loop.call_later(_SHOWN_EVERY, self._follow)

    def _update(self) -> None:
        self._progress.update(
            self._task,
            completed=self._source.position(),
            rows=f"{self._last.rows:,}",
            rate=f"{self._last.rows_per_second:,.0f}",
        )
