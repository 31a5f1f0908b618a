"""Files into a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from aioupsert._bulk import create_or_update_many
from aioupsert._drivers import session_on
from aioupsert._execution.table_cache import read_table
from aioupsert._plan.schema import Column, Table, table_name
from aioupsert.cli.databases import Database, End, open_database
from aioupsert.cli.errors import LoadError, RowError, words
from aioupsert.cli.reading import ConvertedRow, Input, Row
from aioupsert.cli.tables import SAMPLE, add_column, create_table, guess_types
from aioupsert.cli.values import converted
from aioupsert.errors import (
    AioupsertError,
    BulkError,
    UnknownColumnError,
    UnknownTableError,
)
from aioupsert.expressions import Expression
from aioupsert.results import BulkResult, Progress


@dataclass(frozen=True, slots=True)
class Options:
    """What to do with the rows; see the command's options."""

    table: str
    key: tuple[str, ...]
    update: Mapping[str, Expression] | None = None
    where: Expression | None = None
    create_table: bool = False
    add_columns: bool = False
    skip_unchanged: bool = False
    skip_bad: bool = False
    dry_run: bool = False
    atomic: bool = True
    connections: int = 1
    batch_size: int | None = None

    @property
    def in_transaction(self) -> bool:
        """Whether the whole load is one transaction."""
        return self.atomic or self.dry_run


@dataclass(slots=True)
class Report:
    """
    What a load does.

    Attributes:
        result: What happened to the rows, so far or at the end.
        rejected: The rows that were left out.
        notes: What else the user should know.
    """

    result: BulkResult = field(default_factory=BulkResult)
    rejected: list[RowError] = field(default_factory=list[RowError])
    notes: list[str] = field(default_factory=list[str])


def split_key(given: Sequence[str], source: Input) -> tuple[str, ...]:
    """
    Take the names of the key apart at commas, unless a column is called so.

    Raises:
        LoadError: The input has no such column.
    """
    names = split_names(given, source.columns)
    missing = [name for name in names if name not in source.columns]
    if missing and source.columns:
        error = UnknownColumnError(source.name, missing, source.columns)
        raise LoadError(str(error).removeprefix("table "))
    return names


def split_names(given: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Take names apart at commas, unless a column is called so."""
    parts = ([name] if name in columns else name.split(",") for name in given)
    return tuple(dict.fromkeys(name for group in parts for name in group))


def open_for(url: str, options: Options) -> AbstractAsyncContextManager[Database]:
    """Open the database in the way that a load needs."""
    end: End = "ROLLBACK" if options.dry_run else "COMMIT"
    return open_database(
        url,
        create=options.create_table,
        end=end if options.in_transaction else None,
        connections=options.connections,
    )


async def load(
    database: Database,
    source: Input,
    options: Options,
    report: Report,
    progress: Callable[[Progress], object],
) -> None:
    """
    Write each row.

    Args:
        database: As `open_for` opens it.
        source: The rows.
        options: What to do with them.
        report: Filled in.
        progress: Called now and then.

    Raises:
        LoadError: What went wrong, with the row's line.
    """
    columns: Mapping[str, Column] = {}
    try:
        table = await _prepare(database, source, options, report.notes)
        columns = table.columns
        report.result = await create_or_update_many(
            database.handle,
            options.table,
            converted(source.rows, columns, database.engine),
            key=options.key,
            update=options.update,
            where=options.where,
            skip_unchanged=options.skip_unchanged,
            convert_text=True,
            without_unique_index="allow",  # _prepare has noted it
            batch_size=options.batch_size,
            progress=progress,
            # To leave some rows out and store all others or none: the transaction is
            # ours.
            atomic=options.in_transaction and not options.skip_bad,
            on_error="skip" if options.skip_bad else "raise",
            connections=options.connections,
        )
    except BulkError as exc:
        report.result = exc.committed
        row: Any = exc.row
        column = await database.blame(columns, row, exc.__cause__)
        raise _row_error(exc, column) from exc
    except (AioupsertError, UnicodeError) as exc:  # a name may be no text to it
        raise LoadError(words(exc)) from exc
    except database.errors as exc:
        msg = f"the database says: {words(exc)}"
        raise LoadError(msg) from exc
    report.rejected += [_row_error(error) for error in report.result.rejected]
    report.result = replace(report.result, rejected=())


def _row_error(error: BulkError, column: str | None = None) -> RowError:
    row: Any = error.row
    given = row.given if isinstance(row, ConvertedRow) else row
    cause = error.__cause__
    # What a driver says further is about its own arguments.
    reason = words(cause) if cause is not None else str(error)
    return RowError(row.file, row.line, reason, column=column, row=given)


async def _prepare(
    database: Database, source: Input, options: Options, notes: list[str]
) -> Table:
    """Check the columns against the table, after making what is asked for."""
    table = await _table(database, source, options, notes)
    unknown = [name for name in source.columns if name not in table.columns]
    if unknown and not options.skip_bad:
        raise UnknownColumnError(table.label, unknown, table.visible)
    key = dict.fromkeys(options.key, False)
    if table.all_indexes_known and not table.is_unique(key):
        notes.append(
            f"{table.label} has no unique index on {', '.join(key)}: this is slow, and"
            " concurrent loads may create a row twice"
        )
    return table


async def _table(
    database: Database, source: Input, options: Options, notes: list[str]
) -> Table:
    name = table_name(options.table)
    try:
        table = await find_table(database, options.table)
    except UnknownTableError as exc:
        if not options.create_table:
            msg = f"{exc}; --create-table makes it"
            raise LoadError(msg) from exc
        types = _guess(database, source.peek(SAMPLE), source.columns)
        missing = [column for column in options.key if column not in types]
        if missing:
            msg = f"cannot make a table: no rows of {source.name} have {', '.join(missing)}"
            raise LoadError(msg) from exc
        await database.execute(create_table(name, types, options.key))
        columns = ", ".join(f"{column} {type_}" for column, type_ in types.items())
        notes.append(
            f"created table {options.table}: {columns}; primary key"
            f" {', '.join(options.key)}"
        )
        return await find_table(database, options.table)
    if options.add_columns:
        types = _guess(database, source.peek(SAMPLE), source.columns)
        new = {c: type_ for c, type_ in types.items() if c not in table.columns}
        for column, type_ in new.items():
            await database.execute(add_column(name, column, type_))
            notes.append(f"added column {column} {type_} to {options.table}")
        if new:
            return await find_table(database, options.table)
    return table


def _guess(
    database: Database, rows: Sequence[Row], columns: Sequence[str]
) -> dict[str, str]:
    names = dict.fromkeys(columns)
    for row in rows:
        names.update(dict.fromkeys(row))
    return guess_types(rows, [*names], database.engine)


async def find_table(database: Database, name: str) -> Table:
    """
    Read a table's description.

    Raises:
        UnknownTableError: There is none.
    """
    async with session_on(database.handle) as session:
        return (await read_table(session, table_name(name))).table
