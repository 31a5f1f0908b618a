"""What `sync` adds to a load: the scope, and what becomes of the rows it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from aioupsert._plan.schema import Table
from aioupsert.cli.databases import Database
from aioupsert.cli.errors import LoadError
from aioupsert.cli.reading import Row, RowError
from aioupsert.cli.values import Texts, convert_texts, to_json
from aioupsert.errors import SyncRefusedError
from aioupsert.expressions import now
from aioupsert.typing import Value, Values


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """The scope, and what becomes of missing rows: the options of `sync`."""

    scope: Texts
    missing: Literal["delete", "keep"] | Texts
    max_missing: float
    allow_empty: bool


@dataclass(frozen=True, slots=True)
class SyncTerms:
    """
    The scope and the marks, in the terms of a table.

    Attributes:
        texts: The scope as it was given.
        scope: The scope.
        missing: What becomes of missing rows.
    """

    texts: Texts
    scope: Mapping[str, Value]
    missing: Literal["delete", "keep"] | Values


# The only expression among marks, which are mostly times.
_NOW: Final = "now()"


async def sync_terms(
    database: Database, table: Table, options: SyncOptions
) -> SyncTerms:
    """
    Return the scope and the marks in the terms of a table.

    Raises:
        UnknownColumnError: The table does not have one of the columns.
    """
    scope = await convert_texts(database, table, options.scope)
    texts = dict(zip(scope, options.scope.values(), strict=True))
    missing = options.missing
    if isinstance(missing, str):
        return SyncTerms(texts, scope, missing)
    marks = {name: None if text == _NOW else text for name, text in missing.items()}
    values = await convert_texts(database, table, marks)
    given = zip(values.items(), missing.values(), strict=True)
    return SyncTerms(
        texts,
        scope,
        {name: now() if text == _NOW else value for (name, value), text in given},
    )


def outside_scope(
    rows: Iterable[Row], scope: Texts, on_bad_row: Callable[[RowError], object]
) -> Iterator[Row]:
    """
    Yield rows without the columns of the scope, which the library adds.

    Args:
        rows: The rows.
        scope: The columns, with what the rows must have in them.
        on_bad_row: Called with the error of a row that has something else.
    """
    for row in rows:
        if scope.keys().isdisjoint(row):
            yield row
            continue
        for name, text in scope.items():
            cell = row.get(name, text)
            if cell != text and (cell is None or _text(cell) != text):
                reason = f"it has {_shown(cell)}, but the scope has {_shown(text)}"
                error = row.origin.error(row.line, reason, column=name, row=row.as_read)
                on_bad_row(error)
        yield row.with_cells(item for item in row.items() if item[0] not in scope)


def _text(cell: Value) -> str:
    return cell if isinstance(cell, str) else to_json(cell)


def _shown(cell: Value) -> str:
    return "NULL" if cell is None else repr(_text(cell))


def refusal(error: SyncRefusedError, max_missing: float) -> LoadError:
    """Return the error of a source that lacks too much, in the words of the options."""
    is_share = isinstance(max_missing, float)
    limit = f"{max_missing * 100:g}%" if is_share else max_missing
    reason = str(error).removesuffix("; nothing is stored")
    reason = reason.replace(f"max_missing={max_missing!r}", f"--max-missing {limit}")
    return LoadError(f"{reason}; see --max-missing and --allow-empty")
