"""What a call for one row would send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import typer

from aioupsert._upsert import preview as preview_call
from aioupsert.cli.databases import Database, open_database
from aioupsert.cli.errors import LoadError, words
from aioupsert.cli.load import find_table
from aioupsert.errors import AioupsertError, UnknownColumnError
from aioupsert.expressions import Expression


@dataclass(frozen=True, slots=True)
class Call:
    """A call of `create_or_update` with its values as text; None is NULL."""

    table: str
    key: Mapping[str, str | None]
    values: Mapping[str, str | None]
    expressions: Mapping[str, Expression]
    skip_unchanged: bool


async def preview(url: str, call: Call) -> None:
    """
    Print the statements and their arguments.

    Raises:
        LoadError: There is no such table, or the call makes no sense.
    """
    try:
        async with open_database(url) as database:
            await _preview(database, call)
    except (AioupsertError, UnicodeError) as exc:
        raise LoadError(words(exc)) from exc


async def _preview(database: Database, call: Call) -> None:
    statements = await preview_call(
        database.handle,
        call.table,
        key=await _converted(database, call.table, call.key),
        defaults={
            **await _converted(database, call.table, call.values),
            **call.expressions,
        },
        skip_unchanged=call.skip_unchanged,
        without_unique_index="allow",
    )
    for number, statement in enumerate(statements):
        typer.echo(f"{'' if not number else chr(10)}-- {statement.when}")
        typer.echo(f"{statement.sql};")
        for place, value in enumerate(statement.arguments, start=1):
            typer.echo(f"-- argument {place}: {value!r}")


async def _converted(
    database: Database, name: str, given: Mapping[str, str | None]
) -> dict[str, Any]:
    """Make of texts what the columns hold."""
    if not given:
        return {}
    table = await find_table(database, name)
    unknown = [column for column in given if column not in table.columns]
    if unknown:
        raise UnknownColumnError(table.label, unknown, table.visible)
    columns = [table.columns[column] for column in given]
    values = await database.convert(columns, [*given.values()])
    return dict(zip(given, values, strict=True))
