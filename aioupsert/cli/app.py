"""The commands and their options."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn, TypeVar

import typer

from aioupsert._plan.schema import table_name
from aioupsert.cli import inspect as inspection
from aioupsert.cli import preview as previewing
from aioupsert.cli.databases import check_url, is_postgresql
from aioupsert.cli.errors import FAILED, INTERRUPTED, REJECTED, LoadError
from aioupsert.cli.load import Options
from aioupsert.cli.reading import How
from aioupsert.cli.run import Run, load_files
from aioupsert.cli.updates import read_condition, read_updates
from aioupsert.expressions import Expression

S = TypeVar("S")
T = TypeVar("T")

app: Final = typer.Typer(
    help="Create rows, or update them if they are there.",
    no_args_is_help=True,
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


# --- Arguments that several commands have ---------------------------------------------


_DB_HELP: Final = (
    "sqlite:///relative.db, sqlite:////absolute.db, or"
    " postgresql://user:password@host/database"
)
Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        "-d",
        envvar="AIOUPSERT_DB",
        help=f"The database, if it is not the first argument: {_DB_HELP}",
        show_default=False,
    ),
]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show the SQL, without values.")
]
DbAndTable = Annotated[
    list[str],
    typer.Argument(
        metavar="[DB] TABLE",
        help=f"The database: {_DB_HELP}; and the table: name or schema.name.",
        show_default=False,
    ),
]


def _split_arguments(
    given: Sequence[str], db: str | None
) -> tuple[str, str, list[str]]:
    """Tell the database, the table and the rest; only a database has :// in it."""
    rest = [*given]
    if "://" in rest[0]:
        db = rest.pop(0)
    if not db:
        msg = f"no database: it comes before the table, as --db or in AIOUPSERT_DB: {_DB_HELP}"
        raise typer.BadParameter(msg)
    if not rest:
        msg = "no table: give its name after the database"
        raise typer.BadParameter(msg)
    try:
        check_url(db)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    table = rest.pop(0)
    try:
        table_name(table)
    except ValueError as exc:
        msg = f"{table!r} is neither name nor schema.name"
        raise typer.BadParameter(msg) from exc
    return db, table, rest


def _split_two(given: Sequence[str], db: str | None) -> tuple[str, str]:
    url, table, rest = _split_arguments(given, db)
    if rest:
        msg = f"there is nothing to do with {rest[0]!r}"
        raise typer.BadParameter(msg)
    return url, table


def _delimiter(value: str | None) -> str | None:
    delimiter = "\t" if value == r"\t" else value
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
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


def _updates(
    texts: Sequence[str] | None, create_only: bool
) -> dict[str, Expression] | None:
    if create_only and texts:
        msg = "--create-only updates nothing, so --update makes no sense with it"
        raise typer.BadParameter(msg)
    if not texts:
        return {} if create_only else None
    return _read("--update", texts, read_updates)


def _read(option: str, given: S, read: Callable[[S], T]) -> T:
    try:
        return read(given)
    except ValueError as exc:
        msg = f"{option}: {exc}"
        raise typer.BadParameter(msg) from exc


@contextmanager
def _failures_told() -> Generator[None]:
    """Make of a failure a message and an exit code."""
    try:
        yield
    except LoadError as exc:
        _fail(str(exc), FAILED, exc)
    except KeyboardInterrupt as exc:
        _fail(str(exc) or "interrupted", INTERRUPTED, exc)


def _fail(message: str, code: int, cause: BaseException) -> NoReturn:
    typer.echo(f"aioupsert: {message}", err=True)
    raise typer.Exit(code) from cause


# --- The commands ---------------------------------------------------------------------


@app.command("load", no_args_is_help=True)
def load_command(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[DB] TABLE [FILE]",
            help=f"The database: {_DB_HELP}. The table: name or schema.name. The files,"
            " read as one; - or none is standard input.",
            show_default=False,
        ),
    ],
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            "-k",
            help="The columns that identify a row: repeated, or separated by commas.",
        ),
    ],
    db: Db = None,
    file_format: Annotated[
        Literal["csv", "tsv", "jsonl", "json", "parquet"] | None,
        typer.Option(
            "--format",
            "-f",
            help="What the files are; by default what their names say, and csv.",
            show_default=False,
        ),
    ] = None,
    create_table: Annotated[
        bool,
        typer.Option(
            "--create-table",
            help="Make the table if it is missing: types guessed from the first rows,"
            " the key as primary key. One that is there is left as it is.",
        ),
    ] = False,
    add_columns: Annotated[
        bool,
        typer.Option("--add-columns", help="Add columns that the table does not have."),
    ] = False,
    update: Annotated[
        list[str] | None,
        typer.Option(
            "--update",
            "-u",
            help="What to set in a row that is there: COLUMN, or COLUMN=EXPRESSION such"
            " as 'hits=hits+excluded.hits'; repeated. By default every column.",
            show_default=False,
        ),
    ] = None,
    create_only: Annotated[
        bool, typer.Option("--create-only", help="Leave rows that are there.")
    ] = False,
    where: Annotated[
        str | None,
        typer.Option(
            "--where",
            "-w",
            help="Leave a row that is there if this is not true, such as"
            " 'excluded.version > version'; count it as skipped.",
            show_default=False,
        ),
    ] = None,
    skip_unchanged: Annotated[
        bool,
        typer.Option(
            "--skip-unchanged",
            help="Do not write rows that hold every value already; count them apart.",
        ),
    ] = False,
    null: Annotated[
        str,
        typer.Option(
            help="The cell of CSV or TSV that means NULL.",
            show_default="an empty one",
        ),
    ] = "",
    delimiter: Annotated[
        str | None,
        typer.Option(
            help=r"What separates the cells of CSV; \t for a tab.",
            callback=_delimiter,
            show_default="a comma",
        ),
    ] = None,
    encoding: Annotated[
        str, typer.Option(help="The encoding of the files.", callback=_encoding)
    ] = "utf-8",
    on_error: Annotated[
        Literal["raise", "skip"],
        typer.Option(help="Whether a bad row ends the load, or is left out."),
    ] = "raise",
    rejects: Annotated[
        Path | None,
        typer.Option(
            help="Where rows that are left out are written, as JSON Lines, with the"
            " reason.",
            show_default=False,
        ),
    ] = None,
    atomic: Annotated[
        bool | None,
        typer.Option(
            "--atomic/--no-atomic",
            help="Store all rows or none; or each batch by itself.",
            show_default="atomic",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="How many rows make a batch.", show_default=False),
    ] = None,
    connections: Annotated[
        int,
        typer.Option(
            "--connections",
            "-c",
            min=1,
            help="How many connections to write over (PostgreSQL); more than one means"
            " --no-atomic.",
        ),
    ] = 1,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", "-n", help="Say what would be done, and undo it at the end."
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the summary as a JSON object on one line."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors only.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """
    Load files into a table: create the rows that are missing, update the others.

    CSV, TSV, JSON Lines, a JSON array, each also as .gz, and Parquet. The database
    converts text to the types of its columns. All rows are stored or none.

    Exit codes: 0 all is stored, 1 an error, 2 wrong usage, 3 some rows were rejected
    and the others stored, 130 interrupted.
    """
    url, table, files = _split_arguments(arguments, db)
    if connections > 1:
        if not is_postgresql(url):
            msg = "--connections is for PostgreSQL; SQLite has one writer at a time"
            raise typer.BadParameter(msg)
        if atomic or dry_run:
            msg = (
                "one transaction has one connection: --connections makes no sense here"
            )
            raise typer.BadParameter(msg)
    if rejects is not None and on_error != "skip":
        msg = "--rejects needs --on-error skip"
        raise typer.BadParameter(msg)
    options = Options(
        table=table,
        key=(),  # when the columns are known
        update=_updates(update, create_only),
        where=None if where is None else _read("--where", where, read_condition),
        create_table=create_table,
        add_columns=add_columns,
        skip_unchanged=skip_unchanged,
        skip_bad=on_error == "skip",
        dry_run=dry_run,
        atomic=connections == 1 if atomic is None else atomic,
        connections=connections,
        batch_size=batch_size,
    )
    run = Run(
        url=url,
        files=[Path(file) for file in files],
        how=How(file_format, delimiter, encoding, null),
        key=key,
        options=options,
        rejects=rejects,
        shows_progress=not (quiet or verbose),
    )
    with _failures_told(), _logging(verbose):
        summary = load_files(run)
    if not quiet:
        summary.print(as_json=as_json)
    if summary.rejected:
        raise typer.Exit(REJECTED)


@app.command("inspect", no_args_is_help=True)
def inspect_command(
    arguments: DbAndTable,
    db: Db = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            "-k",
            help="A key, of which is said how rows with it are written.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """
    Show a table as the library sees it: columns, unique indexes, and what a key means.

    Only the catalog is read.
    """
    url, table = _split_two(arguments, db)
    with _failures_told():
        asyncio.run(inspection.inspect(url, table, key or ()))


@app.command("preview", no_args_is_help=True)
def preview_command(
    arguments: DbAndTable,
    key: Annotated[
        list[str],
        typer.Option("--key", "-k", help="COLUMN=VALUE, or COLUMN for NULL; repeated."),
    ],
    db: Db = None,
    values: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            help="COLUMN=VALUE, or COLUMN for NULL; repeated.",
            show_default=False,
        ),
    ] = None,
    update_expr: Annotated[
        list[str] | None,
        typer.Option(
            "--update-expr",
            "-u",
            help="COLUMN=EXPRESSION, such as 'hits=hits+1'; repeated.",
            show_default=False,
        ),
    ] = None,
    skip_unchanged: Annotated[
        bool,
        typer.Option("--skip-unchanged", help="As for load."),
    ] = False,
) -> None:
    """
    Print the SQL that creating or updating one row would send; send nothing.

    Only the catalog is read, and the database is asked to convert the values.
    """
    url, table = _split_two(arguments, db)
    call = previewing.Call(
        table=table,
        key=_pairs("--key", key),
        values=_pairs("--set", values or ()),
        expressions=_read("--update-expr", update_expr or (), read_updates),
        skip_unchanged=skip_unchanged,
    )
    with _failures_told():
        asyncio.run(previewing.preview(url, call))


def _pairs(option: str, texts: Sequence[str]) -> dict[str, str | None]:
    pairs: dict[str, str | None] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if name in pairs:
            msg = f"{option}: {name!r} is there twice"
            raise typer.BadParameter(msg)
        pairs[name] = value if separator else None
    return pairs


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
