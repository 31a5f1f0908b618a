"""The commands, their arguments and their options."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

import typer

import aioupsert
from aioupsert._plan.schema import table_name
from aioupsert.cli import inspect as inspection
from aioupsert.cli import preview as previewing
from aioupsert.cli.databases import check_url, is_postgresql
from aioupsert.cli.diff import Diff
from aioupsert.cli.errors import (
    FAILED,
    INTERRUPTED,
    REJECTED,
    InterruptedLoadError,
    LoadError,
    printable,
    without_password,
)
from aioupsert.cli.load import LoadOptions
from aioupsert.cli.options import (
    DB_HELP,
    AsJson,
    BatchSize,
    Db,
    DbAndTable,
    DryRun,
    Files,
    Key,
    Quiet,
    Reading,
    ShowDiff,
    UpdateColumns,
    Verbose,
    Where,
    parse_option,
    reads_files,
)
from aioupsert.cli.rejects import MaxErrors
from aioupsert.cli.run import LoadRequest, Summary, load_files
from aioupsert.cli.statements import show_statements
from aioupsert.cli.sync import SyncOptions
from aioupsert.cli.updates import Operand, parse_condition, parse_updates

app: Final = typer.Typer(
    help="Create rows, or update the ones that already exist.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # In the tables that rich makes of options, descriptions do not fit 80 columns.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"aioupsert {aioupsert.__version__}")
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
    """Create rows, or update the ones that already exist."""


# What the names of SQLite's files often end with.
_SQLITE_NAMES: Final = (".db", ".db3", ".sqlite", ".sqlite3")


def _split_arguments(
    given: Sequence[str], db: str | None
) -> tuple[str, str, list[str]]:
    """Return the URL, the table and the remaining arguments."""
    rest = [*given]
    if "://" in rest[0]:  # only a URL contains this
        db = rest.pop(0)
    if not db:
        hint = ""
        if rest[0].endswith(_SQLITE_NAMES):
            hint = f" (did you mean sqlite:///{rest[0].removeprefix('sqlite:')}?)"
        msg = (
            f"no database given{hint}: put its URL before the table, or use --db or"
            f" AIOUPSERT_DB. A URL is {DB_HELP}"
        )
        raise typer.BadParameter(msg)
    if not rest:
        msg = "no table given: put its name after the database"
        raise typer.BadParameter(msg)
    try:
        check_url(db)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    table = rest.pop(0)
    if rest.count("-") > 1:
        msg = "standard input, -, can be read once"
        raise typer.BadParameter(msg)
    try:
        table_name(table)
    except ValueError as exc:
        shown = without_password(repr(table))
        msg = f"{shown} is not the name of a table: write name or schema.name"
        raise typer.BadParameter(msg) from exc
    return db, table, rest


def _split_db_and_table(given: Sequence[str], db: str | None) -> tuple[str, str]:
    url, table, rest = _split_arguments(given, db)
    if rest:
        msg = f"unexpected argument {rest[0]!r}"
        raise typer.BadParameter(msg)
    return url, table


def _parse_updates(
    texts: Sequence[str] | None, create_only: bool
) -> dict[str, Operand] | None:
    if create_only and texts:
        msg = "--create-only updates no rows, so it cannot be combined with --update"
        raise typer.BadParameter(msg)
    if not texts:
        return {} if create_only else None
    return parse_option("--update", texts, parse_updates)


# What the name of a type may consist of.
_TYPE: Final = re.compile(r'[\w .,()\[\]"]+')


def _parse_types(texts: Sequence[str]) -> dict[str, str]:
    types: dict[str, str] = {}
    for text in texts:
        column, _, type_ = text.partition("=")
        if not column or not _TYPE.fullmatch(type_.strip()):
            msg = f"{text!r} is not COLUMN=TYPE, such as zip=text"
            raise ValueError(msg)
        if column in types:
            msg = f"{column!r} is given twice"
            raise ValueError(msg)
        types[column] = type_.strip()
    return types


_MAX_ERRORS: Final = re.compile(r"(\d{1,18})|(\d{1,2}(?:\.\d+)?|100)%", re.ASCII)


def _parse_max_errors(text: str) -> MaxErrors:
    match = _MAX_ERRORS.fullmatch(text)
    if match is None:
        msg = f"{text!r} is neither a number of rows, such as 100, nor a share, such as 1%"
        raise ValueError(msg)
    if match[1]:
        return MaxErrors(rows=int(match[1]))
    return MaxErrors(share=float(match[2]) / 100)


@contextmanager
def _report_failures() -> Generator[None]:
    """Turn a failure into a message and an exit code."""
    try:
        yield
    except LoadError as exc:
        _exit_with(str(exc), FAILED, exc)
    except InterruptedLoadError as exc:
        _exit_with(str(exc), exc.exit_code, exc)
    except KeyboardInterrupt as exc:
        _exit_with("interrupted", INTERRUPTED, exc)


def _exit_with(message: str, code: int, cause: BaseException) -> NoReturn:
    typer.echo(f"aioupsert: {printable(without_password(message))}", err=True)
    raise typer.Exit(code) from cause


# --- The commands ---------------------------------------------------------------------


@app.command(
    "load",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  aioupsert load sqlite:///shop.db prices prices.csv -k sku --create-table\n"
    "  aioupsert load postgresql:///shop prices new.csv -k sku --on-error skip --rejects bad.csv",
)
@reads_files
def load_command(
    arguments: Files,
    key: Key,
    *,
    db: Db = None,
    create_table: Annotated[
        bool,
        typer.Option(
            "--create-table",
            help="Create the table if it does not exist, with the key as primary key"
            " and with types that keep every value. Leave an existing table as it is.",
        ),
    ] = False,
    types: Annotated[
        list[str] | None,
        typer.Option(
            "--type",
            "-t",
            metavar="COLUMN=TYPE",
            help="The type of a column that is created; may be repeated.",
            show_default=False,
        ),
    ] = None,
    all_text: Annotated[
        bool, typer.Option("--all-text", help="Create every column as text.")
    ] = False,
    sample: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Guess types from the first rows only, without reading the input twice.",
            show_default="all rows",
        ),
    ] = None,
    add_columns: Annotated[
        bool,
        typer.Option("--add-columns", help="Add columns that the table does not have."),
    ] = False,
    update: UpdateColumns = None,
    create_only: Annotated[
        bool, typer.Option("--create-only", help="Leave existing rows as they are.")
    ] = False,
    where: Where = None,
    skip_unchanged: Annotated[
        bool,
        typer.Option(
            "--skip-unchanged",
            help="Do not write rows that already hold every value; count them as"
            " unchanged.",
        ),
    ] = False,
    reading: Reading,
    on_error: Annotated[
        Literal["raise", "skip"],
        typer.Option(
            help="Whether a bad row ends the load (raise) or is left out (skip)."
        ),
    ] = "raise",
    rejects: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A file for the rows that are left out, in the format of the input, to"
            " be loaded again; FILE.reasons.jsonl beside it says what is wrong with each.",
            show_default=False,
        ),
    ] = None,
    max_errors: Annotated[
        str | None,
        typer.Option(
            metavar="N|SHARE%",
            help="Leave out bad rows, but end the load if there are more than N, or more"
            " than a share of all, such as 1%.",
            show_default=False,
        ),
    ] = None,
    atomic: Annotated[
        bool | None,
        typer.Option(
            "--atomic/--no-atomic",
            help="Store all rows or none, or commit each batch by itself.",
            show_default="atomic",
        ),
    ] = None,
    batch_size: BatchSize = None,
    connections: Annotated[
        int,
        typer.Option(
            "--connections",
            "-c",
            min=1,
            metavar="N",
            help="The number of connections to write over, for PostgreSQL; more than one"
            " implies --no-atomic.",
        ),
    ] = 1,
    dry_run: DryRun = False,
    diff: ShowDiff = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """
    Load files into a table: create missing rows and update existing ones.

    Reads CSV, TSV, JSON Lines and JSON arrays, also as .gz, .bz2, .xz, .zst or .zip, and
    Parquet.
    The database converts text to the types of its columns. By default, all rows are
    stored or none.

    Exit codes: 0 all rows were stored, 1 an error, 2 wrong usage, 3 some rows were
    rejected and all others stored, 130 interrupted.
    """
    url, table, files = _split_arguments(arguments, db)
    if connections > 1:
        if not is_postgresql(url):
            msg = "--connections needs PostgreSQL: SQLite has one writer at a time"
            raise typer.BadParameter(msg)
        if atomic or dry_run:
            msg = (
                "--connections cannot be combined with --atomic or --dry-run: a"
                " transaction uses one connection"
            )
            raise typer.BadParameter(msg)
    limit = None
    if max_errors is not None:
        limit = parse_option("--max-errors", max_errors, _parse_max_errors)
        on_error = "skip"
    if rejects is not None and on_error != "skip":
        msg = "--rejects needs --on-error skip or --max-errors"
        raise typer.BadParameter(msg)
    options = LoadOptions(
        table=table,
        key=(),  # set once the columns of the input are known
        update=_parse_updates(update, create_only),
        where=None
        if where is None
        else parse_option("--where", where, parse_condition),
        create_table=create_table,
        add_columns=add_columns,
        skip_unchanged=skip_unchanged,
        skip_bad_rows=on_error == "skip",
        dry_run=dry_run,
        atomic=connections == 1 if atomic is None else atomic,
        connections=connections,
        batch_size=batch_size,
        types=parse_option("--type", types or (), _parse_types),
        all_text=all_text,
        sample=sample,
        ignore_unknown=reading.ignore_unknown,
        decimal_comma=reading.decimal_comma,
    )
    request = LoadRequest(
        url=url,
        files=[Path(file) for file in files],
        read_options=reading.options(),
        key=key,
        options=options,
        rejects=rejects,
        max_errors=limit,
        show_progress=not (quiet or verbose),
    )
    _run(request, diff=diff, as_json=as_json, quiet=quiet, verbose=verbose)


def _run(
    request: LoadRequest, *, diff: bool, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Make a load, print what it has done, and exit with its code."""
    if diff and quiet:
        msg = "--diff cannot be combined with --quiet, which prints errors only"
        raise typer.BadParameter(msg)
    if diff and not request.options.in_transaction:
        msg = (
            "--diff cannot be combined with --no-atomic: changes are printed at the end"
        )
        raise typer.BadParameter(msg)
    try:
        request.check_outputs()
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    with ExitStack() as stack:
        if diff:
            changes = stack.enter_context(closing(Diff(as_json=as_json)))
            request = replace(request, diff=changes)
        with _report_failures(), show_statements(verbose):
            summary = load_files(request)
        if not quiet:
            _print(summary, as_json=as_json)
    if summary.rejected:
        raise typer.Exit(REJECTED)


def _print(summary: Summary, *, as_json: bool) -> None:
    """Print what was done, or exit with a message if that cannot be written."""
    try:
        summary.print(as_json=as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as head, has seen enough. Python writes the rest at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as exc:
        is_dry = summary.options.dry_run
        outcome = "It was a dry run." if is_dry else "The rows are stored."
        msg = f"cannot write to standard output: {exc.strerror}\n{outcome}"
        _exit_with(msg, FAILED, exc)


_SHARE: Final = re.compile(r"(\d{1,2}(?:\.\d+)?|100)%", re.ASCII)


def _parse_max_missing(text: str) -> float:
    match = _SHARE.fullmatch(text)
    if match is not None:
        return float(match[1]) / 100
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        msg = f"{text!r} is neither a number of rows, such as 100, nor a share, such as 20%"
        raise ValueError(msg)
    return int(text)


def _parse_missing(
    texts: Sequence[str],
) -> Literal["delete", "keep"] | dict[str, str | None]:
    match texts:
        case ["delete" | "keep" as action]:
            return action
        case _:
            marks = _parse_pairs("--missing", texts)
    if None in marks.values():
        msg = (
            "--missing is delete, keep, or COLUMN=VALUE, such as gone_at=now(), which may"
            " be repeated"
        )
        raise typer.BadParameter(msg)
    return marks


@app.command(
    "sync",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  aioupsert sync sqlite:///shop.db prices list.csv -k shop,sku --scope shop=7 -n --diff\n"
    "  aioupsert sync postgresql:///shop prices list.csv -k shop,sku --scope shop=7 --missing gone_at=now()",
)
@reads_files
def sync_command(
    arguments: Files,
    key: Key,
    *,
    db: Db = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope",
            "-s",
            metavar="COLUMN=VALUE",
            help="The rows of the table that the files speak for; COLUMN alone means"
            " NULL. A row that has something else there is an error. May be repeated.",
            show_default=False,
        ),
    ] = None,
    whole_table: Annotated[
        bool,
        typer.Option(
            "--whole-table", help="The files speak for every row of the table."
        ),
    ] = False,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            metavar="delete|keep|COLUMN=VALUE",
            help="Whether rows that the files do not have are deleted, kept, or marked by"
            " values, such as gone_at=now(). COLUMN=VALUE may be repeated.",
            show_default="delete",
        ),
    ] = None,
    max_missing: Annotated[
        str,
        typer.Option(
            metavar="N|SHARE%",
            help="Store nothing if more than N rows, or more than a share of the scope,"
            " would be deleted or marked.",
        ),
    ] = "50%",
    allow_empty: Annotated[
        bool,
        typer.Option(
            "--allow-empty", help="Let files without a row be right: all rows may go."
        ),
    ] = False,
    update: UpdateColumns = None,
    where: Where = None,
    reading: Reading,
    batch_size: BatchSize = None,
    dry_run: DryRun = False,
    diff: ShowDiff = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """
    Make the rows of a scope of a table equal to those of files.

    Creates missing rows, updates those that differ, and deletes, marks or keeps rows of
    the scope that the files do not have. All is one transaction: a bad row, a source
    that lacks too much or an interrupt leave the table as it was.

    Exit codes: 0 all is stored, 1 an error, 2 wrong usage, 130 interrupted.
    """
    url, table, files = _split_arguments(arguments, db)
    if bool(scope) == whole_table:
        msg = "give either --scope COLUMN=VALUE or --whole-table"
        raise typer.BadParameter(msg)
    options = LoadOptions(
        table=table,
        key=(),  # set once the columns of the input are known
        update=_parse_updates(update, create_only=False),
        where=None
        if where is None
        else parse_option("--where", where, parse_condition),
        dry_run=dry_run,
        batch_size=batch_size,
        ignore_unknown=reading.ignore_unknown,
        decimal_comma=reading.decimal_comma,
        sync=SyncOptions(
            scope=_parse_pairs("--scope", scope or ()),
            missing=_parse_missing(missing or ["delete"]),
            max_missing=parse_option("--max-missing", max_missing, _parse_max_missing),
            allow_empty=allow_empty,
        ),
    )
    request = LoadRequest(
        url=url,
        files=[Path(file) for file in files],
        read_options=reading.options(),
        key=key,
        options=options,
        rejects=None,
        max_errors=None,
        show_progress=not (quiet or verbose),
    )
    _run(request, diff=diff, as_json=as_json, quiet=quiet, verbose=verbose)


@app.command(
    "inspect",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  aioupsert inspect sqlite:///shop.db prices\n"
    "  aioupsert inspect postgresql:///shop prices -k sku",
)
def inspect_command(
    arguments: DbAndTable,
    db: Db = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            "-k",
            metavar="COLUMN",
            help="A key: also show how rows with this key are written.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """
    Show a table as the library sees it: columns, unique indexes, and how a key works.

    Reads only the catalog.
    """
    url, table = _split_db_and_table(arguments, db)
    with _report_failures():
        asyncio.run(inspection.inspect(url, table, key or ()))


@app.command(
    "preview",
    no_args_is_help=True,
    epilog="\b\nExamples:\n"
    "  aioupsert preview sqlite:///shop.db prices -k sku=A -s price=9.50\n"
    "  aioupsert preview postgresql:///shop visits -k path=/ -u hits=hits+1",
)
def preview_command(
    arguments: DbAndTable,
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            "-k",
            metavar="COLUMN[=VALUE]",
            help="A column of the key and its value; without one, NULL. May be repeated.",
        ),
    ],
    db: Db = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="COLUMN[=VALUE]",
            help="A column and its value; without one, NULL. May be repeated.",
            show_default=False,
        ),
    ] = None,
    update_expr: Annotated[
        list[str] | None,
        typer.Option(
            "--update-expr",
            "-u",
            metavar="COLUMN=EXPRESSION",
            help="A column and its value on update, such as 'hits=hits+1'. May be"
            " repeated.",
            show_default=False,
        ),
    ] = None,
    skip_unchanged: Annotated[
        bool,
        typer.Option(
            "--skip-unchanged",
            help="Do not write a row that already holds every value.",
        ),
    ] = False,
) -> None:
    """
    Print the SQL that would be sent to create or update one row, without sending it.

    Reads only the catalog, and asks the database to convert the values.
    """
    url, table = _split_db_and_table(arguments, db)
    call = previewing.PreviewCall(
        table=table,
        key=_parse_pairs("--key", key),
        values=_parse_pairs("--set", values or ()),
        expressions=parse_option("--update-expr", update_expr or (), parse_updates),
        skip_unchanged=skip_unchanged,
    )
    with _report_failures():
        asyncio.run(previewing.preview(url, call))


def _parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str | None]:
    pairs: dict[str, str | None] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if name in pairs:
            msg = f"{option}: {name!r} is given twice"
            raise typer.BadParameter(msg)
        pairs[name] = value if separator else None
    return pairs
