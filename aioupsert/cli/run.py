"""`load` and `sync`: the input, the progress bar, interrupts and the summary."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from aioupsert.cli.databases import Database, is_postgresql, sqlite_path
from aioupsert.cli.diff import Diff
from aioupsert.cli.errors import (
    InterruptedLoadError,
    LoadError,
    TransientLoadError,
    printable,
    without_password,
)
from aioupsert.cli.load import LoadOptions, Report, load, open_for_load, split_key
from aioupsert.cli.outputs import check_output
from aioupsert.cli.progress import ProgressBar
from aioupsert.cli.reading import STDIN, Input, ReadOptions, open_input
from aioupsert.cli.rejects import MaxErrors, Rejects, open_rejects, reasons_path
from aioupsert.results import BulkResult, Progress
from aioupsert.typing import Value


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
        max_errors: How many rows may be rejected, or None for any number.
        show_progress: Whether to show a progress bar if standard error is a terminal.
        diff: What keeps the changes, if they are to be printed.
    """

    url: str
    files: Sequence[Path]
    read_options: ReadOptions
    key: Sequence[str]
    options: LoadOptions
    rejects: Path | None
    max_errors: MaxErrors | None
    show_progress: bool
    diff: Diff | None = None

    def check_outputs(self) -> None:
        """
        Check that no file to be written is one that is read or stored.

        Raises:
            ValueError: One is; the message says which.
        """
        if self.rejects is not None:
            self.check_output(self.rejects)
            self.check_output(reasons_path(self.rejects))

    def check_output(self, path: Path) -> None:
        """Check one of the files that have rejected rows, as `check_outputs` does."""
        database = None if is_postgresql(self.url) else sqlite_path(self.url)
        files = self.files or [STDIN]
        check_output("--rejects", path, files, database)


class FileCounts(NamedTuple):
    """How many rows a file has, and how many of them were left out."""

    file: str
    rows: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Summary:
    """
    What a load has done.

    Attributes:
        result: How many rows were created, updated, and so on.
        rejected: How many rows were left out.
        seconds: The duration of the load.
        notes: Further messages for the user.
        options: How the rows were stored.
        diff: The changes, if they are to be printed.
        repeated_keys: How many rows have the key of one before; None if unknown.
        files: The rows of each file, and how many of them were left out.
    """

    result: BulkResult
    rejected: int
    seconds: float
    notes: Sequence[str]
    options: LoadOptions
    diff: Diff | None
    repeated_keys: int | None
    files: Sequence[FileCounts]

    @property
    def rows_per_second(self) -> int:
        """The mean rate, rounded."""
        return round((self.result.rows + self.rejected) / self.seconds)

    def print(self, *, as_json: bool) -> None:
        """Print changes and numbers to standard output, and notes to standard error."""
        for note in self.notes:
            typer.echo(printable(without_password(note)), err=True)
        if self.diff is not None:
            self.diff.print()
        result, dry_run = self.result, self.options.dry_run
        removes = self.options.sync is not None
        numbers: dict[str, Value] = {
            "created": result.created,
            "updated": result.updated,
            "unchanged": result.unchanged,
            "skipped": result.skipped,
            **({"deleted": result.deleted} if removes else {}),
            "rejected": self.rejected,
            "repeated_keys": self.repeated_keys,
            "seconds": round(self.seconds, 3),
            "rows_per_second": self.rows_per_second,
        }
        if as_json:
            files = [counts._asdict() for counts in self.files]
            typer.echo(json.dumps({**numbers, "files": files, "dry_run": dry_run}))
            return
        summary = Table.grid(padding=(0, 2))
        summary.add_column()
        summary.add_column(justify="right", style="bold")
        for name in ("created", "updated", "unchanged", *["deleted"] * removes):
            summary.add_row(name, f"{numbers[name]}")
        for name in ("skipped", "rejected"):
            if numbers[name]:
                summary.add_row(name, f"{numbers[name]}")
        summary.add_row("rows", str(result.rows + self.rejected))
        if self.repeated_keys:
            summary.add_row("repeated keys", str(self.repeated_keys))
        summary.add_row("seconds", f"{self.seconds:.2f}")
        console = Console()
        # If nobody reads the output any more, its own print would end the process.
        with console.capture() as captured:
            console.print(summary)
        typer.echo(captured.get(), nl=False)
        for file, rows, rejected in self.files if len(self.files) > 1 else ():
            shown = f"{rows} rows, {rejected} rejected" if rejected else f"{rows} rows"
            typer.echo(f"{printable(file)}: {shown}")
        if dry_run:
            typer.echo("dry run: nothing was stored")


def load_files(request: LoadRequest) -> Summary:
    """
    Load the files and return the summary.

    Raises:
        LoadError: The load failed; the message also says what is stored.
        InterruptedLoadError: A signal ended the load; the message also says what is
            stored.
    """
    started = time.perf_counter()
    with open_rejects(
        request.rejects,
        request.read_options.encoding,
        request.check_output,
        request.max_errors,
    ) as rejects:
        report = Report(rejects, request.diff)
        with (
            _end_by_signals(report),
            _explain_rejects(rejects, dry_run=request.options.dry_run),
        ):
            options = _read_and_load(request, report)
    return Summary(
        result=report.result,
        rejected=rejects.count,
        seconds=time.perf_counter() - started,
        notes=[*report.notes, *rejects.notes()],
        options=options,
        diff=request.diff,
        repeated_keys=report.repeated_keys.count(),
        files=[
            FileCounts(file, rows, rejects.by_file[file]) for file, rows in report.files
        ],
    )


def _read_and_load(request: LoadRequest, report: Report) -> LoadOptions:
    """Open the input and the database, and load; return the options, with the key."""
    given = request.options
    read_options = replace(
        request.read_options,
        on_bad_row=report.on_bad_row(given),
        read_twice=(given.create_table or given.add_columns) and given.sample is None,
        lines_at_once=min(_LINES_AT_ONCE, given.batch_size or _LINES_AT_ONCE),
    )
    with open_input(request.files, read_options) as source:
        scope = [] if given.sync is None else [*given.sync.scope]
        options = replace(given, key=split_key(request.key, source, scope))
        bar = ProgressBar(source, report.rejects, hidden=not request.show_progress)
        report.notes += source.notes
        received: list[int] = []
        with _explain_interrupt(options, bar, received):
            asyncio.run(_load(request.url, source, options, report, bar, received))
        report.is_over = True
        report.files = source.count_rows()
    return options


# A small batch is stored before the lines after it come.
_LINES_AT_ONCE: Final = 1_000


async def _load(
    url: str,
    source: Input,
    options: LoadOptions,
    report: Report,
    bar: ProgressBar,
    received: list[int],
) -> None:
    notes = [*report.notes]
    with _handle_signals(source, received), bar.display():
        attempt = 1
        while True:
            try:
                async with open_for_load(url, options) as database:
                    await _load_into(database, source, options, report, bar)
            except TransientLoadError:
                # Files can be read again, and of a transaction nothing is stored.
                if (
                    attempt == _ATTEMPTS
                    or source.size is None
                    or not report.rejects.can_restart
                    or not options.in_transaction
                ):
                    raise
                attempt += 1
                source.restart()
                if report.rejects.count:
                    report.rejects.restart()
                report.notes[:] = notes
            else:
                return


# How often a load is made that the database ends to resolve a deadlock.
_ATTEMPTS: Final = 3


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
        is_transient = isinstance(exc, TransientLoadError)
        raise (TransientLoadError if is_transient else LoadError)(msg) from exc
    seconds = time.perf_counter() - started
    bar.record(Progress(report.result.rows, seconds, report.result))
    bar.finish()


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
def _explain_interrupt(
    options: LoadOptions, bar: ProgressBar, received: list[int]
) -> Generator[None]:
    """Add to an interrupt what the load has stored."""
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        number = received[0] if received else signal.SIGINT
        how = "interrupted" if number == signal.SIGINT else "terminated"
        msg = f"{how}\n{_describe_stored(options, bar.done)}"
        raise InterruptedLoadError(msg, number) from None


@contextmanager
def _explain_rejects(rejects: Rejects, *, dry_run: bool) -> Generator[None]:
    """Finish the files of rejected rows; add to an error what became of these."""
    try:
        yield
    except (LoadError, InterruptedLoadError) as exc:
        with suppress(LoadError):  # the error that ended the load is worth more
            rejects.finish(failed=True)
        message = "\n".join([str(exc), *rejects.notes()])
        if isinstance(exc, InterruptedLoadError):
            raise exc.with_message(message) from None
        raise LoadError(message) from exc
    try:
        rejects.finish(failed=False)
    except LoadError as exc:
        outcome = "It was a dry run." if dry_run else "All other rows are stored."
        message = "\n".join([str(exc), outcome, *rejects.notes()])
        raise LoadError(message) from exc


# Windows has no SIGHUP.
_ENDING: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)


@contextmanager
def _end_by_signals(report: Report) -> Generator[None]:
    """
    End what comes before the load when a signal asks for it, so that no file is left.

    An interrupt does so anyway. What comes after the load is over soon.
    """

    def end(number: int, _frame: FrameType | None) -> None:
        if not report.is_over:
            msg = "terminated"
            raise InterruptedLoadError(msg, number)

    with _handling(_ENDING, end):
        yield


@contextmanager
def _handle_signals(source: Input, received: list[int]) -> Generator[None]:
    """
    End the load in an orderly way when a signal asks for it.

    asyncio's own handler of interrupts cancels the main task. It cannot end a blocking
    read of standard input, and there is none for the other signals.
    """
    handler = signal.getsignal(signal.SIGINT)
    cancel = handler if callable(handler) else signal.default_int_handler

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        end = signal.default_int_handler if source.waiting else cancel
        end(signal.SIGINT, frame)

    with _handling((signal.SIGINT, *_ENDING), interrupt):
        yield


@contextmanager
def _handling(
    numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]
) -> Generator[None]:
    """Handle signals, but for those that are ignored."""
    before = {number: signal.getsignal(number) for number in numbers}
    for number, given in before.items():
        if given != signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, given in before.items():
            signal.signal(number, given)
