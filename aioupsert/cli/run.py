"""The `load` command: the input, the progress bar, interrupts and the summary."""

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
from aioupsert.cli.errors import LoadError, RowError, message_of
from aioupsert.cli.load import LoadOptions, Report, load, open_for_load, split_key
from aioupsert.cli.progress import ProgressBar
from aioupsert.cli.reading import Input, ReadOptions, open_input
from aioupsert.results import BulkResult, Progress

# How many rejected rows are printed if no file was given for them.
_MAX_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """
    The arguments of the command.

    Attributes:
        url: The URL of the database.
        files: The files, in order.
        read_options: How to read the files.
        key: The key as given, not yet split at commas.
        options: How to store the rows.
        rejects: The file for rejected rows, or None to print them.
        show_progress: Whether to show a progress bar if standard error is a terminal.
    """

    url: str
    files: Sequence[Path]
    read_options: ReadOptions
    key: Sequence[str]
    options: LoadOptions
    rejects: Path | None
    show_progress: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """
    What a load has done.

    Attributes:
        result: How many rows were created, updated, and so on.
        rejected: How many rows were left out.
        seconds: The duration of the load.
        notes: Further messages for the user.
        dry_run: Whether everything was rolled back.
    """

    result: BulkResult
    rejected: int
    seconds: float
    notes: Sequence[str]
    dry_run: bool

    @property
    def rows_per_second(self) -> int:
        """The mean rate, rounded."""
        return round((self.result.rows + self.rejected) / self.seconds)

    def print(self, *, as_json: bool) -> None:
        """Print the numbers to standard output and the notes to standard error."""
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


def load_files(request: LoadRequest) -> Summary:
    """
    Load the files and return the summary.

    Raises:
        LoadError: The load failed; the message also says what is stored.
        KeyboardInterrupt: The load was interrupted; the message also says what is
            stored.
    """
    started = time.perf_counter()
    report = Report()
    read_options = request.read_options
    if request.options.skip_bad_rows:
        read_options = replace(read_options, on_bad_row=report.rejected.append)
    with (
        _open_rejects(request.rejects) as rejects,
        open_input(request.files, read_options) as source,
    ):
        options = replace(request.options, key=split_key(request.key, source))
        bar = ProgressBar(source, hidden=not request.show_progress)
        with _explain_interrupt(options, bar):
            asyncio.run(_load(request.url, source, options, report, bar))
        order = {str(file): number for number, file in enumerate(request.files)}
        report.rejected.sort(key=lambda row: (order.get(row.file, 0), row.line))
        _write_rejected(report, rejects)
    return Summary(
        result=report.result,
        rejected=len(report.rejected),
        seconds=time.perf_counter() - started,
        notes=report.notes,
        dry_run=options.dry_run,
    )


async def _load(
    url: str, source: Input, options: LoadOptions, report: Report, bar: ProgressBar
) -> None:
    with _interrupt_stdin_reads(source), bar.display():
        async with open_for_load(url, options) as database:
            await _load_into(database, source, options, report, bar)


async def _load_into(
    database: Database,
    source: Input,
    options: LoadOptions,
    report: Report,
    bar: ProgressBar,
) -> None:
    started = time.perf_counter()
    try:
        await load(database, source, options, report, bar.record)
    except LoadError as exc:
        done = report.result if report.result.rows else bar.done
        msg = f"{exc}\n{_describe_stored(options, done)}"
        raise LoadError(msg) from exc
    seconds = time.perf_counter() - started
    bar.record(Progress(report.result.rows, seconds, report.result))


def _describe_stored(options: LoadOptions, done: BulkResult) -> str:
    """Return a sentence on what a failed load has stored."""
    if options.in_transaction:
        return "Nothing was stored."
    if not done.rows:
        return "Any complete batches before that are stored."
    return (
        f"The batches before that are stored: {done.created} rows created,"
        f" {done.updated} updated, {done.unchanged} unchanged."
    )


@contextmanager
def _explain_interrupt(options: LoadOptions, bar: ProgressBar) -> Generator[None]:
    """Add to an interrupt what the load has stored."""
    try:
        yield
    except KeyboardInterrupt:
        msg = f"interrupted\n{_describe_stored(options, bar.done)}"
        raise KeyboardInterrupt(msg) from None


@contextmanager
def _interrupt_stdin_reads(source: Input) -> Generator[None]:
    """
    Let an interrupt end a read of standard input.

    asyncio's own handler cancels the main task, which cannot end a blocking read.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # interrupts are ignored
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        (signal.default_int_handler if source.waiting else handler)(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def _open_rejects(path: Path | None) -> Generator[IO[str] | None]:
    """Open the file for rejected rows, if one was given."""
    try:
        opened = nullcontext() if path is None else path.open("w", encoding="utf-8")
    except (OSError, ValueError) as exc:
        msg = (
            f"cannot write {path}: {getattr(exc, 'strerror', None) or message_of(exc)}"
        )
        raise LoadError(msg) from exc
    with opened as file:
        yield file


def _write_rejected(report: Report, file: IO[str] | None) -> None:
    rejected = report.rejected
    if file is not None:
        for row in rejected:
            file.write(json.dumps(_rejected_record(row), default=str) + "\n")
        return
    report.notes += [str(row) for row in rejected[:_MAX_SHOWN]]
    if len(rejected) > _MAX_SHOWN:
        report.notes.append(f"... and {len(rejected) - _MAX_SHOWN} more; see --rejects")


def _rejected_record(row: RowError) -> dict[str, Any]:
    return {"file": row.file, "line": row.line, "reason": row.reason, "row": row.row}
