"""The `preview` command: the statements that one call would send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import typer

from aioupsert._upsert import preview as preview_call
from aioupsert.cli.databases import Database, open_database
from aioupsert.cli.errors import LoadError, message_of
from aioupsert.cli.load import find_table
from aioupsert.cli.updates import Operand
from aioupsert.cli.values import Texts, convert_texts
from aioupsert.errors import AioupsertError


@dataclass(frozen=True, slots=True)
class PreviewCall:
    """The arguments of `create_or_update`, with values as text; None is NULL."""

    table: str
    key: Texts
    values: Texts
    expressions: Mapping[str, Operand]
    skip_unchanged: bool


async def preview(url: str, call: PreviewCall) -> None:
    """
    Print the statements that the call would send, each with its arguments.

    Raises:
        LoadError: The table does not exist, or the arguments are invalid.
    """
    try:
        async with open_database(url) as database:
            await _preview(database, call)
    except (AioupsertError, UnicodeError) as exc:
        raise LoadError(message_of(exc)) from exc


async def _preview(database: Database, call: PreviewCall) -> None:
    table = await find_table(database, call.table)
    statements = await preview_call(
        database.handle,
        call.table,
        key=await convert_texts(database, table, call.key),
        defaults={
            **await convert_texts(database, table, call.values),
            **call.expressions,
        },
        skip_unchanged=call.skip_unchanged,
        without_unique_index="allow",
    )
    for number, statement in enumerate(statements):
        if number:
            typer.echo()
        typer.echo(f"-- {statement.when}")
        typer.echo(f"{statement.sql};")
        for position, value in enumerate(statement.arguments, start=1):
            typer.echo(f"-- argument {position}: {value!r}")
