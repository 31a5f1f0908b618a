"""Rows into a table, one call of the library each, all in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from aioupsert._adapters import with_session
from aioupsert._adapters.base import read_table
from aioupsert._schema import Column, table_name
from aioupsert._sql.quoting import quote, quote_path
from aioupsert._upsert import create_or_update
from aioupsert.cli.databases import Database
from aioupsert.cli.errors import LoadError
from aioupsert.cli.reading import Source
from aioupsert.errors import AioupsertError, UnknownColumnError, UnknownTableError
from aioupsert.results import Action


@dataclass(frozen=True, slots=True)
class Options:
    """What to do with the rows; see the command's options."""

    table: str
    key: tuple[str, ...]
    create_table: bool
    skip_unchanged: bool
    null: str | None


async def load(
    database: Database, source: Source, options: Options, advance: Callable[[], None]
) -> Counter[Action]:
    """
    Store every row; tell how many rows met which fate.

    Raises:
        LoadError: What went wrong, with the row's line.
    """
    counts: Counter[Action] = Counter()
    try:
        columns = await _columns(database, source, options)
    except AioupsertError as exc:
        raise LoadError(_explain(exc)) from exc
    for line, cells in source.rows:
        row = [None if cell == options.null else cell for cell in cells]
        try:
            values = dict(
                zip(source.columns, await database.convert(columns, row), strict=True)
            )
            result = await create_or_update(
                database.connection,
                options.table,
                key={name: values.pop(name) for name in options.key},
                defaults=values,
                skip_unchanged=options.skip_unchanged,
            )
        except Exception as exc:
            msg = f"{source.name}, line {line}: {exc}"
            raise LoadError(msg) from exc
        counts[result.action] += 1
        advance()
    return counts


async def _columns(
    database: Database, source: Source, options: Options
) -> list[Column]:
    """Check the header against the table, made first if asked for."""
    missing = [name for name in options.key if name not in source.columns]
    if missing:
        raise UnknownColumnError(source.name, missing, source.columns)
    name = table_name(options.table)
    if options.create_table:
        texts = ", ".join(f"{quote(column)} text" for column in source.columns)
        key = ", ".join(map(quote, dict.fromkeys(options.key)))
        await database.execute(
            f"CREATE TABLE IF NOT EXISTS {quote_path(name)}"
            f" ({texts}, PRIMARY KEY ({key}))"
        )
    known = await with_session(database.connection, read_table, name)
    columns_there = known.table.columns
    unknown = [column for column in source.columns if column not in columns_there]
    if unknown:
        raise UnknownColumnError(known.table.label, unknown, known.table.visible)
    return [columns_there[column] for column in source.columns]


def _explain(error: AioupsertError) -> str:
    if isinstance(error, UnknownTableError):
        return f"{error}; --create-table makes it"
    return str(error)
