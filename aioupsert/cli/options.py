"""Arguments and options that more than one command has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Annotated, Final, Literal, TypeVar, get_type_hints

import typer

from aioupsert.cli.reading import ReadOptions
from aioupsert.typing import Value

S = TypeVar("S")
T = TypeVar("T")

DB_HELP: Final = (
    "sqlite:///relative.db, sqlite:////absolute.db, or"
    " postgresql://user:password@host/database"
)
Db = Annotated[
    str | None,
    typer.Option(
        "--db",
        "-d",
        metavar="URL",
        envvar="AIOUPSERT_DB",
        help=f"The database, if it is not the first argument: {DB_HELP}.",
        show_default=False,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Show each SQL statement once, without the values."
    ),
]
DbAndTable = Annotated[
    list[str],
    typer.Argument(
        metavar="[DB] TABLE",
        help=f"The database: {DB_HELP}. The table: name or schema.name.",
        show_default=False,
    ),
]
Files = Annotated[
    list[str],
    typer.Argument(
        metavar="[DB] TABLE [FILE]",
        help=f"The database: {DB_HELP}. The table: name or schema.name. The files,"
        " read as one input; - or no file means standard input.",
        show_default=False,
    ),
]
Key = Annotated[
    list[str],
    typer.Option(
        "--key",
        "-k",
        metavar="COLUMN",
        help="The columns that identify a row: repeat the option, or separate them by"
        " commas.",
    ),
]
UpdateColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--update",
        "-u",
        metavar="COLUMN[=EXPRESSION]",
        help="What to set in an existing row: COLUMN, or COLUMN=EXPRESSION such as"
        " 'hits=hits+excluded.hits'; may be repeated. By default every column.",
        show_default=False,
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        "-w",
        metavar="CONDITION",
        help="Update an existing row only if this is true, such as"
        " 'excluded.version > version'; otherwise count it as skipped.",
        show_default=False,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="The number of rows in a batch.",
        show_default="up to 100,000",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        "-n",
        help="Do everything, report what was done, and roll it back.",
    ),
]
ShowDiff = Annotated[
    bool,
    typer.Option(
        "--diff",
        help="Also print every change, old and new side by side; with --json as a JSON"
        " object on one line.",
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print the summary as a JSON object on one line."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def parse_option(option: str, value: S, parse: Callable[[S], T]) -> T:
    """
    Parse the value of an option.

    Raises:
        typer.BadParameter: It is invalid; the message names the option.
    """
    try:
        return parse(value)
    except ValueError as exc:
        msg = f"{option}: {exc}"
        raise typer.BadParameter(msg) from exc


# --- How to read files ----------------------------------------------------------------


def _parse_delimiter(value: str | None) -> str | None:
    delimiter = "\t" if value == r"\t" else value
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        msg = (
            "must be one character other than a quotation mark or a line break, not"
            f" {value!r}"
        )
        raise typer.BadParameter(msg)
    return delimiter


def _parse_character(value: str | None) -> str | None:
    if value is not None and (len(value) != 1 or value in "\r\n"):
        msg = f"must be one character other than a line break, not {value!r}"
        raise typer.BadParameter(msg)
    return value


def _split_path(path: str | None) -> tuple[str, ...]:
    return () if path is None else tuple(path.split("."))


def _json_format(file_format: str | None) -> str:
    if file_format not in {None, "json"}:
        msg = f"--json-path is for JSON, not for --format {file_format}"
        raise typer.BadParameter(msg)
    return "json"


def _split_columns(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(name.strip() for text in texts for name in text.split(","))


def _parse_encoding(value: str) -> str:
    try:
        is_utf8 = "\ufeff".encode(value) == b"\xef\xbb\xbf"
    except LookupError as exc:
        msg = f"Python has no text encoding {value!r}"
        raise typer.BadParameter(msg) from exc
    except ValueError:
        return value  # it cannot encode a byte order mark, so there is none to skip
    return "utf-8-sig" if is_utf8 else value


def _parse_names(texts: Sequence[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for text in texts:
        name, _, column = text.partition("=")
        if not name or not column:
            msg = f"{text!r} is not NAME=COLUMN"
            raise ValueError(msg)
        if name in names or column in names.values():
            msg = f"{text!r} names a column twice"
            raise ValueError(msg)
        names[name] = column
    return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How to read files: the options of these names."""

    file_format: Annotated[
        Literal["csv", "tsv", "copy", "jsonl", "json", "parquet"] | None,
        typer.Option(
            "--format",
            "-f",
            help="The format of the files; by default it follows from their names, or from"
            " what they begin with. That of PostgreSQL's COPY and of pg_dump is copy.",
            show_default=False,
        ),
    ] = None
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--columns",
            metavar="COLUMN,...",
            help="The columns to read, separated by commas; with --no-header, the names"
            " of all.",
            show_default=False,
        ),
    ] = None
    names: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="NAME=COLUMN",
            help="The column of the table for a column of the files that has another"
            " name; may be repeated.",
            show_default=False,
        ),
    ] = None
    ignore_unknown: Annotated[
        bool,
        typer.Option(
            "--ignore-unknown", help="Leave out columns that the table does not have."
        ),
    ] = False
    null: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A cell of CSV, TSV or COPY that means NULL if it is not in quotes; may"
            " be repeated.",
            show_default=r"an empty cell; \N for COPY",
        ),
    ] = None
    header: Annotated[
        bool, typer.Option("--header/--no-header", help="Whether CSV has a header.")
    ] = True
    quote: Annotated[
        str,
        typer.Option(
            metavar="CHARACTER",
            help="The character that encloses cells of CSV.",
            callback=_parse_character,
        ),
    ] = '"'
    no_quote: Annotated[
        bool, typer.Option("--no-quote", help="No character encloses cells of CSV.")
    ] = False
    escape: Annotated[
        str | None,
        typer.Option(
            metavar="CHARACTER",
            help="The character before one that means itself, in cells of CSV; a quote may"
            " be doubled, too.",
            callback=_parse_character,
            show_default=False,
        ),
    ] = None
    skip_lines: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="The number of lines before the header of CSV."
        ),
    ] = 0
    comment: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What a line of CSV begins with that is not read.",
            show_default=False,
        ),
    ] = None
    trim: Annotated[
        bool,
        typer.Option("--trim", help="Leave out spaces around cells without quotes."),
    ] = False
    decimal_comma: Annotated[
        bool,
        typer.Option(
            "--decimal-comma",
            help="Numbers of CSV are written as 1.234,5 for 1234.5; one with a point"
            " elsewhere is an error.",
        ),
    ] = False
    delimiter: Annotated[
        str | None,
        typer.Option(
            metavar="CHARACTER",
            help=r"The character that separates the cells of CSV; \t for a tab.",
            callback=_parse_delimiter,
            show_default="found in the first line",
        ),
    ] = None
    encoding: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="The encoding of the files.",
            callback=_parse_encoding,
            show_default="utf-8, or what a byte order mark says",
        ),
    ] = "utf-8"
    encoding_errors: Annotated[
        Literal["strict", "replace", "ignore"],
        typer.Option(
            help="Whether bytes that are not of the encoding end the load (strict),"
            " become question marks in a diamond (replace), or are left out (ignore)."
        ),
    ] = "strict"
    json_path: Annotated[
        str | None,
        typer.Option(
            metavar="NAME.NAME",
            help="Where the array of rows is in JSON that is one object, such as"
            " data.items.",
            show_default=False,
        ),
    ] = None

    def options(self) -> ReadOptions:
        """
        Return the options that the values mean.

        Raises:
            typer.BadParameter: They contradict each other, or one is invalid.
        """
        if not self.header and self.columns is None:
            msg = "--no-header needs --columns, which names the columns"
            raise typer.BadParameter(msg)
        file_format: str | None = self.file_format
        if self.json_path is not None:
            file_format = _json_format(file_format)
        columns = self.columns
        return ReadOptions(
            format=file_format,
            delimiter=self.delimiter,
            encoding=self.encoding,
            encoding_errors=self.encoding_errors,
            json_path=_split_path(self.json_path),
            nulls=None if self.null is None else frozenset(self.null),
            quote=None if self.no_quote else self.quote,
            escape=self.escape,
            header=self.header,
            columns=None if columns is None else _split_columns(columns),
            skip_lines=self.skip_lines,
            comment=self.comment,
            trim=self.trim,
            names=parse_option("--map", self.names or (), _parse_names),
        )


def reads_files(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Reading`, in the place of its argument *reading*."""
    signature = inspect.signature(command, eval_str=True)
    hints = get_type_hints(Reading, include_extras=True)
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(Reading)
    ]
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        parameters += options if name == "reading" else [parameter]

    @wraps(command)
    def run(**arguments: Value) -> None:
        given = {option.name: arguments.pop(option.name) for option in options}
        command(reading=Reading(**given), **arguments)

    vars(run)["__signature__"] = signature.replace(parameters=parameters)
    return run
