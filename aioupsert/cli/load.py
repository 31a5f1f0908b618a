"""Rows into a table, one call of the library each, all in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aioupsert._adapters import with_session
from aioupsert._adapters.base import read_table
from aioupsert._schema import Column, Table, table_name
from aioupsert._sql.quoting import quote, quote_path
from aioupsert._upsert import create_or_update
from aioupsert.cli.databases import Database
from aioupsert.cli.errors import LoadError, words
from aioupsert.cli.reading import Row, Source
from aioupsert.errors import AioupsertError, UnknownColumnError, UnknownTableError
from aioupsert.results import Action


@dataclass(frozen=True, slots=True)
class Options:
    """What to do with the rows; see the command's options."""

    table: str
    key: tuple[str, ...]
    create_table: bool = False
    skip_unchanged: bool = False
    null: str | None = None


def split_key(given: Sequence[str], source: Source) -> tuple[str, ...]:
    """
    Take the names of the key apart at commas, unless a column is called so.

    Raises:
        LoadError: The file has no such column.
    """
    parts = (
        [name] if name in source.columns else name.split(",")  # a name with a comma
        for name in given
    )
    names = tuple(dict.fromkeys(name for group in parts for name in group))
    missing = [name for name in names if name not in source.columns]
    if missing:
        error = UnknownColumnError(source.name, missing, source.columns)
        raise LoadError(str(error).removeprefix("table "))
    return names


@dataclass(frozen=True, slots=True)
class Report:
    """
    What a load has done, once it is committed.

    Attributes:
        counts: How many rows met which fate.
        notes: What else the user should know.
    """

    counts: Counter[Action]
    notes: list[str]


async def load(
    database: Database, source: Source, options: Options, advance: Callable[[], None]
) -> Report:
    """
    Write every row; *advance* is called after each.

    Raises:
        LoadError: What went wrong, with the row's line.
    """
    report = Report(Counter(), [])
    columns = await _prepare(database, source, options, report.notes)
    try:
        for row in source.rows:
            action = await _write(database, source, options, columns, row)
            report.counts[action] += 1
            advance()
    except LoadError as exc:
        msg = f"{exc}\nNothing was stored."
        raise LoadError(msg) from exc
    return report


async def _write(
    database: Database,
    source: Source,
    options: Options,
    columns: dict[str, Column],
    row: Row,
) -> Action:
    cells = {
        name: None if cell == options.null else cell
        for name, cell in zip(source.columns, row.cells, strict=True)
    }
    try:
        key = await database.key(
            [columns[name] for name in options.key],
            [cells.pop(name) for name in options.key],
        )
        result = await create_or_update(
            database.connection,
            options.table,
            key=dict(zip(options.key, key, strict=True)),
            defaults={n: database.value(columns[n], c) for n, c in cells.items()},
            skip_unchanged=options.skip_unchanged,
            without_unique_index="allow",  # _prepare has noted it
        )
    except Exception as exc:  # drivers refuse values with errors of any class
        msg = f"{source.name}, line {row.line}: {words(exc)}"
        raise LoadError(msg) from exc
    return result.action


async def _prepare(
    database: Database, source: Source, options: Options, notes: list[str]
) -> dict[str, Column]:
    """Check the header against the table, made first if asked for."""
    try:
        table = await _table(database, source, options, notes)
        unknown = [name for name in source.columns if name not in table.columns]
        if unknown:
            raise UnknownColumnError(table.label, unknown, table.visible)
    except (AioupsertError, UnicodeError) as exc:  # a name may be no text to it
        raise LoadError(str(exc)) from exc
    key = dict.fromkeys(options.key, False)
    if table.shows_indexes and not table.is_unique(key):
        notes.append(
            f"{table.label} has no unique index on {', '.join(key)}: this is slow, and"
            " concurrent loads may create a row twice"
        )
    return {name: table.columns[name] for name in source.columns}


async def _table(
    database: Database, source: Source, options: Options, notes: list[str]
) -> Table:
    name = table_name(options.table)
    try:
        return (await with_session(database.connection, read_table, name)).table
    except UnknownTableError as exc:
        if not options.create_table:
            msg = f"{exc}; --create-table makes it"
            raise LoadError(msg) from exc
    columns = ", ".join(f"{quote(column)} text" for column in source.columns)
    key = ", ".join(map(quote, options.key))
    # Someone else may just have made it.
    await database.execute(
        f"CREATE TABLE IF NOT EXISTS {quote_path(name)}"
        f" ({columns}, PRIMARY KEY ({key}))"
    )
    notes.append(
        f"created table {options.table}: {', '.join(source.columns)};"
        f" primary key {', '.join(options.key)}"
    )
    return (await with_session(database.connection, read_table, name)).table
