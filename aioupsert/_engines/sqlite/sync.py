"""
Rows of a scope that a source does not have, on SQLite.

The transaction has the write lock from its beginning, so no other connection writes, and
calls wait for each other, until it ends. The keys of the source are noted in a temporary
table with the affinities of the table's columns. The rows of the scope that are not found
there are numbered in a second one; then they are removed by one DELETE or, for marking,
updated some after the others.

References:
    SQLite, "Row Values" (2.2, IN operators), "Datatypes In SQLite" (4.2, 7.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from aioupsert._engines.commands import Command, ResultRows, Steps
from aioupsert._engines.outcomes import bind, refused
from aioupsert._engines.sql import CompiledStatement, ParameterValues, RowCode, quote
from aioupsert._engines.sqlite.compiler import SqliteWriter, name_table
from aioupsert.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioupsert._plan import Plan, RowGroup


def compile_sync(plan: Plan, number: int) -> SqliteSync:
    """Compile the statements for a scope."""
    seen, missing = (f"temp.aioupsert_{name}_{number}" for name in ("seen", "missing"))
    return SqliteSync(
        plan,
        seen,
        missing,
        count=_count(plan),
        find=_find(plan, seen, missing),
        update=_mark(plan, missing) if plan.update else None,
    )


@dataclass(frozen=True, slots=True)
class SqliteSync:
    """
    The statements for a scope, and their steps.

    Attributes:
        plan: The scope and the marks.
        seen: The temporary table of the source's keys.
        missing: That of the missing rows.
        count: Counts the rows of the scope.
        find: Numbers the rows that the source does not have.
        update: Marks rows; None if they are removed.
    """

    plan: Plan
    seen: str
    missing: str
    count: CompiledStatement
    find: CompiledStatement
    update: CompiledStatement | None

    def lock(self, values: ParameterValues) -> Steps[None]:
        """Do nothing, as only one transaction writes."""
        del values
        yield from ()

    def begin(self, values: ParameterValues) -> Steps[int]:
        """Return the number of rows in the scope."""
        table = self.plan.table
        if not table.all_indexes_known:
            msg = (
                f"sync_rows cannot remove or mark rows of {table.label}: it is a view or"
                " a virtual table"
            )
            raise UsageError(msg)
        keys = [k.column.name for k in self.plan.key]
        for temporary, prefix, names in (
            (self.seen, "k", keys),
            (self.missing, "i", _identity(self.plan)),
        ):
            columns = ", ".join(
                f"{_table(self.plan)}.{quote(name)} AS {prefix}{n}"
                for n, name in enumerate(names)
            )
            yield Command(
                f"CREATE TABLE {temporary} AS SELECT {columns}"
                f" FROM {name_table(table)} WHERE 0",
                kind="command",
            )
        rows = yield bind(self.count, values)
        size: int = rows[0][0]
        return size

    def note(self, group: RowGroup) -> Steps[None]:
        """Note the keys of some rows of the source."""
        columns = group.columns[: len(self.plan.key)]
        marks = ", ".join("?" for _ in columns)
        yield Command(
            f"INSERT INTO {self.seen} VALUES ({marks})",
            zip(*columns, strict=True),
            kind="repeat",
        )

    def find_missing(self, values: ParameterValues) -> Steps[int]:
        """Number the rows that the source does not have."""
        yield bind(self.find, values)
        rows = yield Command(f"SELECT count(*) FROM {self.missing}")
        number: int = rows[0][0]
        return number

    def read(self, first: int, last: int) -> Steps[ResultRows]:
        """Return missing rows, as they are."""
        plan, table = self.plan, _table(self.plan)
        columns = ", ".join(f"{table}.{quote(name)}" for name in plan.returning)
        same = " AND ".join(
            f"{table}.{quote(name)} IS m.i{n}" for n, name in enumerate(_identity(plan))
        )
        sql = (
            f"SELECT {columns} FROM {self.missing} AS m JOIN {name_table(plan.table)}"
            f" ON {same} WHERE m.rowid > ? AND m.rowid <= ? ORDER BY m.rowid"
        )
        return (yield Command(sql, (first, last)))

    def remove(self) -> Steps[None]:
        """Remove all missing rows."""
        table = name_table(self.plan.table)
        among = _among(self.plan, self.missing)
        yield Command(f"DELETE FROM {table} WHERE {among}")
        # Not by the number of removed rows, as those of a cascade are not counted.
        if (yield Command(f"SELECT 1 FROM {table} WHERE {among} LIMIT 1")):
            raise refused(self.plan.table.name)

    def mark(self, values: ParameterValues, first: int, last: int) -> Steps[ResultRows]:
        """Mark missing rows, and return them as they are then."""
        assert self.update is not None  # noqa: S101  # see compile_sync
        arguments = [*self.update.arguments(values), first, last]
        written = yield Command(self.update.sql, arguments, counted_as=RowCode.UPDATED)
        if len(written) != last - first:
            raise refused(self.plan.table.name)
        if not self.plan.returning:
            return written
        return (yield from self.read(first, last))

    def end(self) -> Steps[None]:
        """Drop the tables."""
        for temporary in (self.seen, self.missing):
            yield Command(f"DROP TABLE {temporary}", kind="command")


# --- Statements -----------------------------------------------------------------------


def _table(plan: Plan) -> str:
    return quote(plan.table.name[-1])


_ROWID: Final = "rowid"


def _identity(plan: Plan) -> Sequence[str]:
    """Return the columns that tell the stored rows apart."""
    table = plan.table
    column = table.columns.get(_ROWID)
    if column is not None and column.hidden:
        return (_ROWID,)
    return sorted(table.primary_key) or ("_rowid_",)


def _in_scope(writer: SqliteWriter, plan: Plan) -> str:
    return "1" if plan.where is None else writer.expression(plan.where)


def _count(plan: Plan) -> CompiledStatement:
    writer = SqliteWriter(_table(plan))
    sql = (
        f"SELECT count(*) FROM {name_table(plan.table)} WHERE {_in_scope(writer, plan)}"
    )
    return writer.compiled(sql, "")


def _find(plan: Plan, seen: str, missing: str) -> CompiledStatement:
    writer = SqliteWriter(_table(plan))
    stored = [writer.column(k.column) for k in plan.key]
    names = [f"k{n}" for n in range(len(stored))]
    # With the column on the left, its collation compares. The set of keys is made once.
    among = _row(stored, f"SELECT {', '.join(names)} FROM {seen} WHERE {{}}")
    among = among.format(" AND ".join(f"{name} IS NOT NULL" for name in names))
    some_null = " OR ".join(f"{column} IS NULL" for column in stored)
    same = " AND ".join(
        f"{column} IS s.{name}" for column, name in zip(stored, names, strict=True)
    )
    identity = ", ".join(f"{_table(plan)}.{quote(name)}" for name in _identity(plan))
    sql = (
        f"INSERT INTO {missing} SELECT {identity} FROM {name_table(plan.table)}"
        f" WHERE {_in_scope(writer, plan)} AND NOT CASE WHEN {some_null}"
        f" THEN EXISTS (SELECT 1 FROM {seen} AS s WHERE {same}) ELSE {among} END"
        f" ORDER BY {', '.join(stored)}"
    )
    return writer.compiled(sql, "")


def _row(columns: Sequence[str], query: str) -> str:
    """Write that a row is among those of a query."""
    return f"({', '.join(columns)}) IN ({query})"


def _among(plan: Plan, missing: str, where: str = "") -> str:
    """Write that a stored row is among the missing ones."""
    identity = _identity(plan)
    stored = [f"{_table(plan)}.{quote(name)}" for name in identity]
    names = ", ".join(f"i{n}" for n in range(len(identity)))
    return _row(stored, f"SELECT {names} FROM {missing}{where}")


def _mark(plan: Plan, missing: str) -> CompiledStatement:
    writer = SqliteWriter(_table(plan))
    assignments = writer.assignments(plan.update)
    among = _among(plan, missing, " WHERE rowid > ? AND rowid <= ?")
    sql = f"UPDATE {name_table(plan.table)} SET {assignments} WHERE {among}"
    return writer.compiled(sql, "")
