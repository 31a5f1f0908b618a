"""The `inspect` command: a table as the library sees it, and how a key works."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import rich.box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from aioupsert._drivers import session_on
from aioupsert._drivers.base import Session
from aioupsert._execution.table_cache import read_table
from aioupsert._plan import RequestShape, make_plan, read_bulk_request
from aioupsert._plan.request import PLAIN
from aioupsert._plan.schema import Column, Table, UniqueIndex, table_name
from aioupsert.cli.databases import Engine, open_database
from aioupsert.cli.errors import LoadError, message_of, printable
from aioupsert.cli.load import split_names
from aioupsert.errors import AioupsertError, UnknownColumnError


async def inspect(url: str, name: str, key: Sequence[str]) -> None:
    """
    Print a table's columns and unique indexes and, given a key, how rows are written.

    Raises:
        LoadError: The table or a column of the key does not exist.
    """
    try:
        async with (
            open_database(url) as database,
            session_on(database.handle) as session,
        ):
            await _inspect(session, name, key, database.engine)
    except (AioupsertError, UnicodeError) as exc:
        raise LoadError(message_of(exc)) from exc


async def _inspect(
    session: Session, name: str, given_key: Sequence[str], engine: Engine
) -> None:
    table = (await read_table(session, table_name(name))).table
    key = split_names(given_key, [*table.columns])
    unknown = [name for name in key if name not in table.columns]
    if unknown:
        raise UnknownColumnError(table.label, unknown, table.visible)
    console = Console(highlight=False)
    console.print(_columns(table, engine))
    for line in _indexes(table):
        console.print(_text(line))
    if key:
        single = "one job on the connection's thread"
        if engine == "postgresql":
            single = single_row_method(table, key)
        console.print()
        console.print(_text(f"key {', '.join(key)}: {_uniqueness(table, key)}"))
        console.print(_text(f"one row: {single}"))
        console.print(_text(f"many rows: {bulk_method(session, table, key)}"))


def _text(shown: str) -> Text:
    return Text(printable(shown))


def _columns(table: Table, engine: Engine) -> Grid:
    grid = Grid(box=rich.box.SIMPLE, title=_text(f"table {table.label}"))
    for heading in ("column", "type", "default", ""):
        grid.add_column(heading, overflow="fold")
    for name in table.visible:
        column = table.columns[name]
        grid.add_row(
            _text(name),
            _text(_type(column, engine)),
            # The default of an identity column is a sequence that users never name.
            _text("" if column.always_identity else column.default or ""),
            _text(", ".join(_properties(column))),
        )
    return grid


def _type(column: Column, engine: Engine) -> str:
    if engine == "sqlite":
        # The declared type is followed by two flags.
        return column.type_id.rsplit(" ", 2)[0]
    name = column.key_type
    if name.startswith("pg_catalog."):
        name = name.removeprefix("pg_catalog.").replace('"', "")
    if name.startswith("_"):
        return f"{name[1:]}[]"
    return name if column.length is None else f"{name}({column.length})"


def _properties(column: Column) -> list[str]:
    properties = {
        "required": column.required,
        "generated": column.generated,
        "generated always as identity": column.always_identity,
    }
    return [name for name, applies in properties.items() if applies]


def _indexes(table: Table) -> Iterator[str]:
    shown = [index for index in table.unique if set(index.columns) - _hidden(table)]
    if not table.all_indexes_known:
        yield "unique indexes: those of the underlying tables"
    elif not shown:
        yield "no unique index"
    for index in shown:
        yield f"unique index {index.name}: {_describe(index)}"


def _hidden(table: Table) -> set[str]:
    """Return the columns that ``SELECT *`` leaves out, such as SQLite's rowid."""
    return {column.name for column in table.columns.values() if column.hidden}


def _describe(index: UniqueIndex) -> str:
    parts = [", ".join(column or "an expression" for column in index.columns)]
    if index.predicate is not None:
        parts.append(f"where {index.predicate}")
    if not index.nulls_distinct:
        parts.append("nulls not distinct")
    if index.deferrable:
        parts.append("deferrable")
    return "; ".join(parts)


def _uniqueness(table: Table, key: Sequence[str]) -> str:
    if not table.all_indexes_known:
        return "it is unknown whether it is unique"
    if table.is_unique(dict.fromkeys(key, False)):
        return "at most one row has it"
    if predicate := table.unique_where(key):
        return (
            f"at most one row has it where {predicate}; of other rows, concurrent calls may"
            " create one twice"
        )
    return "no unique index makes it unique; concurrent calls may create a row twice"


def single_row_method(table: Table, key: Sequence[str]) -> str:
    """Return how `create_or_update` writes a row by a key, and why."""
    plan = make_plan(_shape(table, key), table)
    if plan.exact_because is None:
        return "one statement"
    return f"the exact steps, because {plan.exact_because}"


def bulk_method(session: Session, table: Table, key: Sequence[str]) -> str:
    """Return how `create_or_update_many` writes rows with all columns, and why."""
    plan = make_plan(_shape(table, key), table)
    return session.engine.compile_batch(plan, distinct=True).how


def _shape(table: Table, key: Sequence[str]) -> RequestShape:
    """Return the shape of a call that writes every column that can be written."""
    request = read_bulk_request(key=key, without_unique_index="allow")
    others = [
        name
        for name in table.visible
        if name not in key
        and not table.columns[name].generated
        and not table.columns[name].always_identity
    ]
    names = (*key, *others)
    shape, _ = request.request(names, [PLAIN] * len(names), frozenset())
    return shape
