"""One load from the files to the summary: the terminal's side of it."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from aioupsert.cli.databases import Database
from aioupsert.cli.errors import LoadError, RowError, words
from aioupsert.cli.load import Options, Report, load, open_for, split_key
from aioupsert.cli.progress import Bar
from aioupsert.cli.reading import How, Input, open_input
from aioupsert.results import BulkResult, Progress

# How many rejected rows are shown when there is no file for them.
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Run:
    """
    What was asked for.

    Attributes:
        url: The database.
        files: The files.
        how: How they are read.
        key: The key, as it was given.
        options: What to do with the rows.
        rejects: Where rejected rows are written.
        shows_progress: Whether there is a bar, on a terminal.
    """

    url: str
    files: Sequence[Path]
    how: How
    key: Sequence[str]
    options: Options
    rejects: Path | None
    shows_progress: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """
    What a load has done.

    Attributes:
        result: How many rows met which fate.
        rejected: How many were left out.
        seconds: How long it took.
        notes: What else the user should know.
        dry_run: Whether it was undone.
    """

    result: BulkResult
    rejected: int
    seconds: float
    notes: Sequence[str]
    dry_run: bool

    @property
    def rows_per_second(self) -> int:
        """The mean rate."""
        return round((self.result.rows + self.rejected) / self.seconds)

    def print(self, *, as_json: bool) -> None:
        """Print it, the notes on standard error."""
        for note in self.notes:
            typer.echo(note, err=True)
        result = self.result
        numbers: dict[str, Any] = {
            "created": result.created,
            "updated": result.updated,
            "unchanged": result.unchanged,
            "skipped": result.skipped,
            "rejected": self.rejected,
            "seconds": round(self.seconds, 3),
            "rows_per_second": self.rows_per_second,
        }
        if as_json:
            typer.echo(json.dumps({**numbers, "dry_run": self.dry_run}))
            return
        summary = Table.grid(padding=(0, 2))
        summary.add_column()
        summary.add_column(justify="right", style="bold")
        for name in ("created", "updated", "unchanged"):
            summary.add_row(name, f"{numbers[name]}")
        for name in ("skipped", "rejected"):
            if numbers[name]:
                summary.add_row(name, f"{numbers[name]}")
        summary.add_row("rows", str(result.rows + self.rejected))
        summary.add_row("seconds", f"{self.seconds:.2f}")
        Console().print(summary)
        if self.dry_run:
            typer.echo("dry run: nothing was stored")


def load_files(run: Run) -> Summary:
    """
    Load the files.

    Raises:
        LoadError: It has failed; the message says what is stored all the same.
        KeyboardInterrupt: Likewise.
    """
    started = time.perf_counter()
    report = Report()
    how = run.how
    if run.options.skip_bad:
        how = replace(how, on_bad=report.rejected.append)
    with _rejects(run.rejects) as rejects, open_input(run.files, how) as source:
        options = replace(run.options, key=split_key(run.key, source))
        bar = Bar(source, hidden=not run.shows_progress)
        with _interrupt_explained(options, bar):
            asyncio.run(_load(run.url, source, options, report, bar))
        files = {str(file): place for place, file in enumerate(run.files)}
        report.rejected.sort(key=lambda row: (files.get(row.file, 0), row.line))
        _write_rejected(report, rejects)
    return Summary(
        result=report.result,
        rejected=len(report.rejected),
        seconds=time.perf_counter() - started,
        notes=report.notes,
        dry_run=options.dry_run,
    )


async def _load(
    url: str, source: Input, options: Options, report: Report, bar: Bar
) -> None:
    with _interruptible(source), bar.shown():
        async with open_for(url, options) as database:
            await _load_into(database, source, options, report, bar)


async def _load_into(
    database: Database, source: Input, options: Options, report: Report, bar: Bar
) -> None:
    started = time.perf_counter()
    try:
        await load(database, source, options, report, bar.note)
    except LoadError as exc:
        done = report.result if report.result.rows else bar.done
        msg = f"{exc}\n{_stored(options, done)}"
        raise LoadError(msg) from exc
    seconds = time.perf_counter() - started
    bar.note(Progress(report.result.rows, seconds, report.result))


def _stored(options: Options, done: BulkResult) -> str:
    """Say what is stored of a load that has failed."""
    if options.in_transaction:
        return "Nothing was stored."
    if not done.rows:
        return "Whole batches before that are stored."
    return (
        f"The batches before that are stored: {done.created} rows created,"
        f" {done.updated} updated, {done.unchanged} unchanged."
    )


@contextmanager
def _interrupt_explained(options: Options, bar: Bar) -> Generator[None]:
    """Say at an interrupt what is stored."""
    try:
        yield
    except KeyboardInterrupt:
        msg = f"interrupted\n{_stored(options, bar.done)}"
        raise KeyboardInterrupt(msg) from None


@contextmanager
def _interruptible(source: Input) -> Generator[None]:
    """Let an interrupt end the wait for standard input, which nothing else can."""
    ours = signal.getsignal(signal.SIGINT)
    if not callable(ours):  # interrupts are ignored
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        (signal.default_int_handler if source.waits else ours)(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ours)


@contextmanager
def _rejects(path: Path | None) -> Generator[IO[str] | None]:
    """Open the file for rejected rows, if there is one."""
    try:
        opened = nullcontext() if path is None else path.open("w", encoding="utf-8")
    except (OSError, ValueError) as exc:
        msg = f"cannot write {path}: {getattr(exc, 'strerror', None) or words(exc)}"
        raise LoadError(msg) from exc
    with opened as file:
        yield file


def _write_rejected(report: Report, file: IO[str] | None) -> None:
    rejected = report.rejected
    if file is not None:
        for row in rejected:
            file.write(json.dumps(_described(row), default=str) + "\n")
        return
    report.notes += [str(row) for row in rejected[:_SHOWN]]
    if len(rejected) > _SHOWN:
        report.notes.append(f"... and {len(rejected) - _SHOWN} more; see --rejects")


def _described(row: RowError) -> dict[str, Any]:
    return {"file": row.file, "line": row.line, "reason": row.reason, "row": row.row}
