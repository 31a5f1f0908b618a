"""The commands and their options."""

from __future__ import annotations

import asyncio
import logging
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from aioupsert.cli.databases import open_database
from aioupsert.cli.errors import LoadError
from aioupsert.cli.load import Options, load
from aioupsert.cli.reading import Source, open_source
from aioupsert.results import Action

app: typer.Typer = typer.Typer(
    help="Create rows, or update them if they are there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(version("aioupsert"))
        raise typer.Exit


@app.callback()
def common(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, help="Print the version."),
    ] = False,
) -> None:
    """Create rows, or update them if they are there."""


@app.command("load")
def load_file(
    url: Annotated[
        str,
        typer.Argument(
            help="sqlite:///file.db (relative), sqlite:////file.db, or postgresql://..."
        ),
    ],
    table: Annotated[str, typer.Argument(help="The table: name, or schema.name.")],
    file: Annotated[
        Path,
        typer.Argument(help="A CSV file with a header, or - for standard input."),
    ],
    key: Annotated[
        list[str],
        typer.Option(help="A column that identifies the row; may be repeated."),
    ],
    create_table: Annotated[
        bool,
        typer.Option(
            "--create-table", help="Create the table, of text columns, if missing."
        ),
    ] = False,
    skip_unchanged: Annotated[
        bool,
        typer.Option("--skip-unchanged", help="Leave rows that hold every value."),
    ] = False,
    null: Annotated[
        str | None, typer.Option(help="The text of a cell that means NULL.")
    ] = None,
    delimiter: Annotated[str, typer.Option(help="What separates the cells.")] = ",",
    encoding: Annotated[
        str, typer.Option(help="The encoding of the file.")
    ] = "utf-8-sig",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the statements.")
    ] = False,
) -> None:
    """
    Load a CSV file into a table: create the rows that are missing, update the others.

    All rows or none are stored. Cells are converted to the columns' types by the
    database.
    """
    if verbose:
        logger = logging.getLogger("aioupsert")
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.DEBUG)
    options = Options(table, tuple(key), create_table, skip_unchanged, null)
    try:
        with open_source(file, delimiter=delimiter, encoding=encoding) as source:
            counts = asyncio.run(_load(url, source, options))
    except LoadError as exc:
        typer.echo(f"aioupsert: {exc}", err=True)
        raise typer.Exit(1) from exc
    words = [f"{counts.get(action, 0)} {action}" for action in Action][:3]
    typer.echo(f"{table}: {', '.join(words)}")


async def _load(url: str, source: Source, options: Options) -> dict[Action, int]:
    console = Console(stderr=True)
    columns = SpinnerColumn(), TextColumn("{task.completed} rows"), TimeElapsedColumn()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("rows", total=None)
        async with open_database(url) as database:
            return await load(database, source, options, lambda: progress.advance(task))
