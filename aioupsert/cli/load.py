"""Loading the rows of an input into a table."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Final

from aioupsert._bulk import running
from aioupsert._bulk.batching import RowReader
from aioupsert._drivers import is_retryable, session_on
from aioupsert._execution.table_cache import read_table
from aioupsert._execution.targets import Target
from aioupsert._plan.bulk_request import BulkArguments
from aioupsert._plan.schema import Column, Table, table_name
from aioupsert._sync import sync_rows
from aioupsert._upsert import TIMEOUT
from aioupsert.cli.databases import Database, TransactionEnd, open_database
from aioupsert.cli.diff import Diff
from aioupsert.cli.errors import (
    LoadError,
    TransientLoadError,
    message_of,
)
from aioupsert.cli.reading import (
    MOST_ROWS,
    CellRows,
    Input,
    Part,
    Row,
    RowError,
    each_row,
    joined,
    raise_error,
    rows_at_once,
)
from aioupsert.cli.references import ParentsFirst
from aioupsert.cli.rejects import Rejects
from aioupsert.cli.repeated import RepeatedKeys
from aioupsert.cli.sync import (
    SyncOptions,
    SyncTerms,
    outside_scope,
    refusal,
    sync_terms,
)
from aioupsert.cli.tables import (
    Guess,
    TypeGuesser,
    add_column_sql,
    create_table_sql,
    text_type,
)
from aioupsert.cli.updates import Operand
from aioupsert.cli.values import column_names, convert_rows
from aioupsert.errors import (
    AioupsertError,
    BulkError,
    SyncRefusedError,
    UnknownColumnError,
    UnknownTableError,
)
from aioupsert.expressions import Expression
from aioupsert.results import BulkResult, Progress
from aioupsert.typing import Value


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to store the rows: the options of the `load` and the `sync` command."""

    table: str
    key: tuple[str, ...]
    update: Mapping[str, Operand] | None = None
    where: Expression | None = None
    create_table: bool = False
    add_columns: bool = False
    skip_unchanged: bool = False
    skip_bad_rows: bool = False
    dry_run: bool = False
    atomic: bool = True
    connections: int = 1
    batch_size: int | None = None
    types: Mapping[str, str] = field(default_factory=dict[str, str])
    all_text: bool = False
    sample: int | None = None
    ignore_unknown: bool = False
    decimal_comma: bool = False
    sync: SyncOptions | None = None

    @property
    def in_transaction(self) -> bool:
        """Whether the whole load is a single transaction."""
        return self.atomic or self.dry_run


@dataclass(slots=True)
class Report:
    """
    What a load has done, filled in while it runs.

    Attributes:
        rejects: The rows that were left out.
        result: How many rows were created, updated, and so on.
        notes: Further messages for the user.
        diff: What keeps the changes, if they are to be printed.
        repeated_keys: Counts rows whose key has come before.
        files: The rows of each file, once the load has succeeded.
        is_over: Whether it has.
    """

    rejects: Rejects
    diff: Diff | None = None
    repeated_keys: RepeatedKeys = field(default_factory=lambda: RepeatedKeys(()))
    files: Sequence[tuple[str, int]] = ()
    is_over: bool = False
    result: BulkResult = field(default_factory=BulkResult)
    notes: list[str] = field(default_factory=list[str])

    def on_bad_row(self, options: LoadOptions) -> Callable[[RowError], None]:
        """Return what is called with the error of a bad row."""
        return self.rejects.add if options.skip_bad_rows else raise_error


def split_key(
    given: Sequence[str], source: Input, others: Sequence[str] = ()
) -> tuple[str, ...]:
    """
    Return the columns of the key, split at commas unless a column has such a name.

    Args:
        given: The names as given.
        source: The input.
        others: The columns that rows have beside those of the input.

    Raises:
        LoadError: The input does not have one of the columns.
    """
    columns = [*source.columns, *others]
    names = split_names(given, columns)
    missing = [name for name in names if name not in columns]
    if missing and source.columns:
        error = UnknownColumnError(source.name, missing, columns)
        raise LoadError(str(error).removeprefix("table "))
    return names


def split_names(given: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Return names split at commas, except where a column has the whole name."""
    parts = ([name] if name in columns else name.split(",") for name in given)
    return tuple(dict.fromkeys(name for group in parts for name in group))


def open_for_load(
    url: str, options: LoadOptions
) -> AbstractAsyncContextManager[Database]:
    """Open the database as a load with these options needs it."""
    end: TransactionEnd = "ROLLBACK" if options.dry_run else "COMMIT"
    return open_database(
        url,
        create=options.create_table,
        end=end if options.in_transaction else None,
        connections=options.connections,
    )


async def load(
    database: Database,
    source: Input,
    options: LoadOptions,
    report: Report,
    progress: Callable[[Progress], object],
) -> None:
    """
    Store the rows of an input.

    Args:
        database: A database that `open_for_load` opened.
        source: The input.
        options: How to store the rows.
        report: Filled in by this function, also if it raises.
        progress: Called after batches with the progress so far.

    Raises:
        LoadError: The load failed; the message names the line if a row is at fault.
    """
    columns: Mapping[str, Column] = {}
    try:
        table = await _prepare_table(database, source, options, report.notes)
        columns = table.columns
        names = column_names(columns, database.engine)
        key = [names.get(name, names.get(name.lower(), name)) for name in options.key]
        options = replace(
            options,
            key=tuple(key),
            batch_size=options.batch_size
            or _rows_of_batch(source.columns, report.diff),
        )
        if report.diff is not None:
            report.diff.begin(options.key)
        computed = _computed(columns, options.key)
        read = [names.get(name, names.get(name.lower())) for name in source.columns]
        shown = [name for name in read if name is not None and name in computed]
        if shown:
            report.notes.append(
                f"{table.label} has columns that the database computes, and so does not"
                f" get: {', '.join(shown)}"
            )
        parts = convert_rows(
            source.parts,
            columns,
            database.engine,
            report.on_bad_row(options),
            left_out=computed,
            ignore_unknown=options.ignore_unknown,
            decimal_comma=options.decimal_comma,
        )
        report.repeated_keys = RepeatedKeys(options.key)
        parts = report.repeated_keys.watch(parts)
        if options.sync is not None:
            terms = await sync_terms(database, table, options.sync)
            rows = outside_scope(
                each_row(parts), terms.texts, report.on_bad_row(options)
            )
            report.result = await _sync(
                database, rows, options, options.sync, terms, report.diff, progress
            )
            return
        batches = _Batches(parts, report.rejects)
        written = frozenset(filter(None, read)) - computed
        order = await _parents_first(database, table, written, options)
        if options.skip_bad_rows or order is not None:
            await _store_batches(
                database, columns, batches, options, report, progress, order
            )
        else:
            report.result = await _store(
                database, batches, options, report.diff, progress
            )
    except SyncRefusedError as exc:
        limit = 0.0 if options.sync is None else options.sync.max_missing
        raise refusal(exc, limit) from exc
    except BulkError as exc:
        report.result = _sum(report.result, exc.committed)
        raise await _row_error(database, columns, exc) from exc
    except (AioupsertError, UnicodeError) as exc:  # a name may not be encodable
        raise LoadError(message_of(exc)) from exc
    except database.errors as exc:
        msg = f"database error: {message_of(exc)}"
        error = TransientLoadError if is_retryable(exc) else LoadError
        raise error(msg) from exc


def _computed(columns: Mapping[str, Column], key: Sequence[str]) -> frozenset[str]:
    """Return the columns that cannot be written; as part of the key they are read."""
    return frozenset(
        name
        for name, column in columns.items()
        if (column.generated or column.always_identity) and name not in key
    )


async def _sync(
    database: Database,
    rows: Iterable[Row],
    options: LoadOptions,
    sync: SyncOptions,
    terms: SyncTerms,
    diff: Diff | None,
    progress: Callable[[Progress], object],
) -> BulkResult:
    return await sync_rows(
        database.handle,
        options.table,
        rows,
        key=options.key,
        scope=terms.scope,
        missing=terms.missing,
        max_missing=sync.max_missing,
        allow_empty=sync.allow_empty,
        on_result=None if diff is None else diff.record,
        update=options.update,
        where=options.where,
        convert_text=True,
        without_unique_index="allow",  # _prepare_table has added a note
        batch_size=options.batch_size,
        progress=progress,
    )


async def _store(
    database: Database,
    rows: RowReader,
    options: LoadOptions,
    diff: Diff | None,
    progress: Callable[[Progress], object],
) -> BulkResult:
    return await running.create_or_update_many(
        Target(database.handle, options.table),
        rows,
        BulkArguments(
            key=options.key,
            update=options.update,
            create_defaults=None,
            where=options.where,
            skip_unchanged=options.skip_unchanged,
            touch=None,
            returning=None if diff is None else "*",
            old=diff is not None,
            convert_text=True,
            without_unique_index="allow",  # _prepare_table has added a note
        ),
        running.Options(
            batch_size=options.batch_size,
            progress=progress,
            # A call that skips rows cannot be atomic; it then runs in the transaction
            # that open_for_load began.
            atomic=options.in_transaction and not options.skip_bad_rows,
            on_error="skip" if options.skip_bad_rows else "raise",
            connections=options.connections,
            timeout=TIMEOUT,
            on_result=None if diff is None else diff.record,
        ),
    )


async def _parents_first(
    database: Database, table: Table, written: frozenset[str], options: LoadOptions
) -> ParentsFirst | None:
    """Return what puts rows in order if some of them refer to others."""
    references = [
        reference
        for reference in await database.self_references(table)
        if written.issuperset(reference.columns)
    ]
    return ParentsFirst(references, options.key, table) if references else None


async def _store_batches(
    database: Database,
    columns: Mapping[str, Column],
    batches: _Batches,
    options: LoadOptions,
    report: Report,
    progress: Callable[[Progress], object],
    order: ParentsFirst | None,
) -> None:
    """Store a batch at a time, and write down what is rejected once it is stored."""
    started = time.monotonic()
    size = options.batch_size or MOST_ROWS
    while not batches.is_empty:
        before = report.result
        batch = await batches.next(size, _BATCH_SIZE)
        if order is not None:
            # In one statement, which may have a row before its parent.
            batch = await order.next(batch, is_last=batches.is_empty)

        def record(done: Progress, before: BulkResult = before) -> None:
            total = _sum(before, done.result)
            progress(Progress(total.rows, time.monotonic() - started, total))

        rows = _OneBatch(batch)
        result = await _store(database, rows, options, report.diff, record)
        report.result = _sum(before, result)
        for error in result.rejected:
            report.rejects.add(await _row_error(database, columns, error))
        report.rejects.write()
        if not options.in_transaction:
            report.rejects.check_share(report.result.rows + report.rejects.count)
    if batches.error is not None:
        raise batches.error
    report.rejects.check_share(report.result.rows + report.rejects.count)


def _sum(first: BulkResult, second: BulkResult) -> BulkResult:
    """Add up two results, without the rejected rows."""
    return BulkResult(
        first.created + second.created,
        first.updated + second.updated,
        first.unchanged + second.unchanged,
        first.skipped + second.skipped,
    )


def _rows_of_batch(columns: Sequence[str], diff: Diff | None) -> int:
    """Return how many rows are stored at once if the user does not say so."""
    most = MOST_ROWS if diff is None else _BATCH_WITH_CHANGES
    return rows_at_once(len(columns), most)


# Rows whose changes are kept are in memory, each with all columns.
_BATCH_WITH_CHANGES: Final = 1_000
# Bytes; below the size at which the library itself would split a batch, whose rejected
# rows would be unknown until the last part is stored.
_BATCH_SIZE: Final = 24_000_000
# Every so many rows one is measured; a cell takes some bytes beside its text.
_SAMPLED: Final = 16
# How many rows are read before other tasks run.
_MOST_AT_ONCE: Final = 1_000
_CELL: Final = 16


class _Batches(RowReader):
    """
    The rows of an input, a batch at a time.

    Attributes:
        error: The error that ended them early. The rows before it are stored first.
    """

    def __init__(self, parts: Iterator[Part], rejects: Rejects) -> None:
        self.error: LoadError | None = None
        self._parts = parts
        self._rejects = rejects

    async def read(self, rows: int, size: int) -> Sequence[Row]:
        """
        Return the next batch.

        Raises:
            LoadError: A row cannot be read.
        """
        batch = await self.next(rows, size)
        if self.error is not None:
            raise self.error
        return batch

    async def next(self, rows: int, size: int) -> Sequence[Row]:
        """Return the next batch; at an error, the rows before it."""
        taken: list[Part] = []
        try:
            while rows > 0 and size > 0 and not self._rejects.are_many:
                part = next(self._parts, None)
                if part is None:
                    self.is_empty = True
                    break
                if isinstance(part, CellRows) and len(part) > rows:
                    rest = part[rows:]
                    self._parts = itertools.chain([rest], self._parts)
                    part = part[:rows]
                taken.append(part)
                if isinstance(part, CellRows):
                    rows -= len(part)
                    size -= part.size + _CELL * len(part) * len(part.names)
                    await asyncio.sleep(0)  # lets other tasks run
                    continue
                rows -= 1
                if len(taken) % _SAMPLED == 0:
                    size -= _SAMPLED * _size_of(part)
                if len(taken) % _MOST_AT_ONCE == 0:
                    await asyncio.sleep(0)
        except LoadError as exc:
            self.error = exc
            self.is_empty = True
        return joined(taken)


def _size_of(row: Row) -> int:
    return sum(
        _CELL + (len(cell) if isinstance(cell, (str, bytes)) else 0)
        for cell in row.values()
    )


class _OneBatch(RowReader):
    """A batch that was read already."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    async def read(self, rows: int, size: int) -> Sequence[Row]:
        del rows, size
        self.is_empty = True
        return self._rows


async def _row_error(
    database: Database, columns: Mapping[str, Column], error: BulkError
) -> RowError:
    """Return the error of a row, with its position in the input."""
    row: Value = error.row
    cause = error.__cause__
    column = await database.find_faulty_column(columns, row, cause)
    given: Row = row.as_read
    # str(error) would repeat the index of the row, which means nothing to the user.
    reason = message_of(cause) if cause is not None else str(error)
    return given.origin.error(given.line, reason, column=column, row=given)


async def _prepare_table(
    database: Database, source: Input, options: LoadOptions, notes: list[str]
) -> Table:
    """Create the table or its columns if requested, then check the columns."""
    table = await _find_or_create_table(database, source, options, notes)
    names = column_names(table.columns, database.engine)
    unknown = [
        name
        for name in source.columns
        if name not in names and name.lower() not in names
    ]
    if unknown and options.ignore_unknown:
        shown = ", ".join(unknown)
        notes.append(f"{table.label} does not have, and so does not get: {shown}")
    elif unknown and not options.skip_bad_rows:
        raise UnknownColumnError(table.label, unknown, table.visible)
    key = {
        names.get(name, names.get(name.lower(), name)): False for name in options.key
    }
    if table.all_indexes_known and not table.is_unique(key):
        notes.append(_without_index(table, key))
    return table


def _without_index(table: Table, key: Iterable[str]) -> str:
    names = [*key]
    what = f"unique index on {', '.join(names)}"
    if predicate := table.unique_where(names):
        return (
            f"{table.label} has a {what} only where {predicate}: the load of other rows is"
            " slow, and concurrent loads may create one of them twice"
        )
    return (
        f"{table.label} has no {what}: the load is slow, and concurrent loads may create a"
        " row twice"
    )


async def _find_or_create_table(
    database: Database, source: Input, options: LoadOptions, notes: list[str]
) -> Table:
    name = table_name(options.table)
    try:
        table = await find_table(database, options.table)
    except UnknownTableError as exc:
        if not options.create_table:
            msg = f"{exc}; --create-table creates it"
            raise LoadError(msg) from exc
        types = await _choose_types(database, source, options)
        missing = [column for column in options.key if column not in types]
        if missing:
            msg = (
                f"cannot create table {options.table}: no rows of {source.name} have"
                f" {', '.join(missing)}"
            )
            raise LoadError(msg) from exc
        chosen = {column: guess.type for column, guess in types.items()}
        await database.execute(create_table_sql(name, chosen, options.key))
        columns = ", ".join(f"{column} {type_}" for column, type_ in chosen.items())
        notes.append(
            f"created table {options.table}: {columns}; primary key"
            f" {', '.join(options.key)}"
        )
        notes += _reasons(types)
        return await find_table(database, options.table)
    if options.add_columns:
        types = await _choose_types(database, source, options)
        new = {c: guess for c, guess in types.items() if c not in table.columns}
        for column, guess in new.items():
            await database.execute(add_column_sql(name, column, guess.type))
            notes.append(f"added column {column} {guess.type} to {options.table}")
        notes += _reasons(new)
        if new:
            return await find_table(database, options.table)
    else:
        source.keep_no_copy()
    return table


def _reasons(types: Mapping[str, Guess]) -> list[str]:
    return [
        f"column {column} is {guess.type} {guess.reason}"
        for column, guess in types.items()
        if guess.reason is not None
    ]


# How many rows are looked at before other tasks run, such as the progress bar.
_SURVEYED: Final = 1_000


async def _choose_types(
    database: Database, source: Input, options: LoadOptions
) -> dict[str, Guess]:
    """
    Return the types of all columns of the input.

    Raises:
        LoadError: The input does not have a column whose type is given.
    """
    guesser = TypeGuesser(
        source.columns,
        options.key,
        database.engine,
        decimal_comma=options.decimal_comma,
    )
    for number, row in enumerate(source.survey(options.sample)):
        guesser.add(row)
        if number % _SURVEYED == 0:
            await asyncio.sleep(0)
    types = guesser.guesses()
    unknown = [column for column in options.types if column not in types]
    if unknown:
        error = UnknownColumnError(source.name, unknown, [*types])
        raise LoadError(str(error).removeprefix("table "))
    if options.all_text:
        types = dict.fromkeys(types, Guess(text_type(database.engine)))
    return types | {column: Guess(type_) for column, type_ in options.types.items()}


async def find_table(database: Database, name: str) -> Table:
    """
    Return the description of a table.

    Raises:
        UnknownTableError: The table does not exist.
    """
    async with session_on(database.handle) as session:
        return (await read_table(session, table_name(name))).table
