"""The commands and their options."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from aioupsert._schema import table_name
from aioupsert.cli.databases import check_url, open_database
from aioupsert.cli.errors import LoadError
from aioupsert.cli.load import Options, Report, load, split_key
from aioupsert.cli.reading import Source, open_source
from aioupsert.results import Action

app: typer.Typer = typer.Typer(
    help="Create rows, or update them if they are there.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"aioupsert {version('aioupsert')}")
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Create rows, or update them if they are there."""


def _url(value: str) -> str:
    try:
        return check_url(value)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


def _table_name(value: str) -> str:
    try:
        table_name(value)
    except ValueError as exc:
        msg = f"{value!r} is neither name nor schema.name"
        raise typer.BadParameter(msg) from exc
    return value


def _delimiter(value: str) -> str:
    delimiter = "\t" if value == r"\t" else value
    if len(delimiter) != 1 or delimiter in '"\r\n':
        msg = f"one character, no quotation mark and no line end, not {value!r}"
        raise typer.BadParameter(msg)
    return delimiter


def _encoding(value: str) -> str:
    try:
        is_utf8 = "\ufeff".encode(value) == b"\xef\xbb\xbf"
    except LookupError as exc:
        msg = f"Python knows no text encoding {value!r}"
        raise typer.BadParameter(msg) from exc
    except ValueError:
        return value  # one without the byte order mark
    return "utf-8-sig" if is_utf8 else value


@app.command("load", no_args_is_help=True)
def load_file(
    url: Annotated[
        str,
        typer.Argument(
            help="sqlite:///relative.db, sqlite:////absolute.db, or"
            " postgresql://user:password@host/database",
            callback=_url,
        ),
    ],
    table: Annotated[
        str,
        typer.Argument(help="The table: name or schema.name.", callback=_table_name),
    ],
    file: Annotated[
        Path,
        typer.Argument(help="A CSV file with a header, or - for standard input."),
    ],
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            "-k",
            help="The columns that identify a row: repeated, or separated by commas.",
        ),
    ],
    create_table: Annotated[
        bool,
        typer.Option(
            "--create-table",
            help="Make the table if it is missing: columns of text, the key as primary"
            " key. One that is there is left as it is.",
        ),
    ] = False,
    skip_unchanged: Annotated[
        bool,
        typer.Option(
            "--skip-unchanged",
            help="Do not write rows that hold every value already; count them apart.",
        ),
    ] = False,
    null: Annotated[
        str | None,
        typer.Option(
            help="A cell of this text means NULL; '' for empty cells.",
            show_default="no cell does; an empty one is empty text",
        ),
    ] = None,
    delimiter: Annotated[
        str,
        typer.Option(
            help=r"What separates the cells; \t for a tab.", callback=_delimiter
        ),
    ] = ",",
    encoding: Annotated[
        str, typer.Option(help="The encoding of the file.", callback=_encoding)
    ] = "utf-8",
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Show the SQL, without values."),
    ] = False,
) -> None:
    """
    Load a CSV file into a table: create the rows that are missing, update the others.

    All rows are stored or none. The database converts cells to the types of its
    columns. Exit codes: 0 all is stored, 1 nothing is, 2 wrong usage.
    """
    started = time.perf_counter()
    try:
        with (
            _logging(verbose),
            open_source(file, delimiter=delimiter, encoding=encoding) as source,
        ):
            names = split_key(key, source)
            options = Options(table, names, create_table, skip_unchanged, null)
            progress = _progress(hidden=quiet or verbose)
            report = asyncio.run(_load(url, source, options, progress))
    except LoadError as exc:
        typer.echo(f"aioupsert: {exc}", err=True)
        raise typer.Exit(1) from exc
    if not quiet:
        _print(report, time.perf_counter() - started)


async def _load(
    url: str,
    source: Source,
    options: Options,
    progress: Progress,
) -> Report:
    rows = 0
    with progress:
        name = Path(source.name).name
        task = progress.add_task(name, total=source.size, rows=rows)

        def advance() -> None:
            nonlocal rows
            rows += 1
            progress.update(task, completed=source.position(), rows=rows)

        async with open_database(url, create=options.create_table) as database:
            return await load(database, source, options, advance)


@contextmanager
def _logging(wanted: bool) -> Generator[None]:
    """Show what the library logs, while the block runs."""
    logger, handler = logging.getLogger("aioupsert"), logging.StreamHandler()
    level = logger.level
    if wanted:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _progress(*, hidden: bool) -> Progress:
    console = Console(stderr=True)
    # Not is_terminal: a variable of the environment makes that true in a log file.
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]} rows"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=hidden or not console.file.isatty(),
    )


def _print(report: Report, seconds: float) -> None:
    for note in report.notes:
        typer.echo(note, err=True)
    summary = Table.grid(padding=(0, 2))
    summary.add_column()
    summary.add_column(justify="right", style="bold")
    for action in (Action.CREATED, Action.UPDATED, Action.UNCHANGED):
        summary.add_row(action, str(report.counts[action]))
    summary.add_row("rows", str(report.counts.total()))
    summary.add_row("seconds", f"{seconds:.2f}")
    Console().print(summary)
