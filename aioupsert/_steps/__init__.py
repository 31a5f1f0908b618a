"""
What is sent and in which order: one room for each database, with one row and many.

The steps are generators that know no driver; `Dialect` is what a driver's adapter needs
of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from aioupsert._plan.rows import Typing
from aioupsert._sql import (
    cockroachdb_catalog,
    postgresql_catalog,
    sqlite_catalog,
)
from aioupsert._sql import (
    postgresql as postgresql_sql,
)
from aioupsert._sql import (
    postgresql_bulk as postgresql_bulk_sql,
)
from aioupsert._sql import (
    sqlite as sqlite_sql,
)
from aioupsert._sql import (
    sqlite_bulk as sqlite_bulk_sql,
)
from aioupsert._sql.sending import Steps
from aioupsert._steps import postgresql, postgresql_bulk, sqlite, sqlite_bulk
from aioupsert._steps.common import (
    MAX_LOST,
    Frame,
    Lost,
    Tally,
    Unstored,
    Values,
    check_committed,
    find,
    framed,
    hopeless,
    read_result,
)

if TYPE_CHECKING:
    from aioupsert._plan import Plan
    from aioupsert._plan.rows import Group
    from aioupsert._schema import Table, TableName
    from aioupsert.results import Result

P = TypeVar("P")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Dialect(Generic[P, B]):
    """
    A database.

    Attributes:
        system: What OpenTelemetry calls it.
        describe: Reads a table from the catalog.
        compile_plan: Writes the statements of a plan.
        attempt: Makes one attempt by the classic steps, given how many inserts were
            lost before, and whether the caller has a transaction open.
        compile_rows: Writes the statements for many rows of one shape.
        write_rows: Writes a group of rows, in a transaction that is open.
        write_alone: Writes a group of rows by a statement that is a transaction by
            itself; steps that end in the rows left, or None where it takes more.
        typing: What it makes of values.
        frame: Gives a transaction, or a savepoint in the one that is open.
    """

    system: str
    describe: Callable[[TableName], Steps[Table]]
    compile_plan: Callable[[Plan], P]
    attempt: Callable[[P, Values, int, bool], Steps[Result | Lost]]
    compile_rows: Callable[..., B]
    write_rows: Callable[[B, Group, Tally], Steps[None]]
    write_alone: Callable[[B, Group, Tally], Steps[Values] | None]
    typing: Typing
    frame: Callable[..., Frame]


POSTGRESQL: Final[Dialect[Any, Any]] = Dialect(
    system="postgresql",
    describe=postgresql_catalog.describe,
    compile_plan=postgresql_sql.compile_plan,
    attempt=postgresql.attempt,
    compile_rows=postgresql_bulk_sql.compile_rows,
    write_rows=postgresql_bulk.write_rows,
    write_alone=postgresql_bulk.write_alone,
    typing=Typing(postgresql_bulk_sql.is_identity, postgresql_bulk_sql.text_converter),
    frame=postgresql.frame,
)
COCKROACHDB: Final = replace(
    POSTGRESQL, system="cockroachdb", describe=cockroachdb_catalog.describe
)
SQLITE: Final[Dialect[Any, Any]] = Dialect(
    system="sqlite",
    describe=sqlite_catalog.describe,
    compile_plan=sqlite_sql.compile_plan,
    attempt=sqlite.attempt,
    compile_rows=sqlite_bulk_sql.compile_rows,
    write_rows=sqlite_bulk.write_rows,
    write_alone=sqlite_bulk.write_alone,
    typing=Typing(None, sqlite_bulk_sql.text_converter),
    frame=sqlite.frame,
)


def dialect_of(crdb_version: str | None) -> Dialect[Any, Any]:
    """Choose by what the server says of itself; None of PostgreSQL."""
    return POSTGRESQL if crdb_version is None else COCKROACHDB


__all__ = [
    "COCKROACHDB",
    "MAX_LOST",
    "POSTGRESQL",
    "SQLITE",
    "Dialect",
    "Frame",
    "Lost",
    "Tally",
    "Unstored",
    "Values",
    "check_committed",
    "dialect_of",
    "find",
    "framed",
    "hopeless",
    "read_result",
]
