"""
The statement for many rows on SQLite.

One INSERT ... ON CONFLICT DO UPDATE is run for every row of a batch, by
`sqlite3.Cursor.executemany`, which prepares it once. It cannot return rows there, so
the condition of its update calls an SQL function that this library registers on the
connection. SQLite evaluates the condition only for a row that exists, so the function
records these rows, and all others were created:

- ``aioupsert_note(n)`` records the row's number and lets the update happen;
- ``aioupsert_mark(n, code)`` also records the code, and decides by it.

Where only numbers are asked for, and each created row raises the table's largest rowid by
one, that tells how many were created, and no function is called.

SQLite looks for a row with the key before it looks at any other unique index, so that a
row that exists is updated whatever else is in the way of an insert, as by the classic
steps. Whatever could make this differ from those has the rows written by them, one by
one: `_reasons_for_one_by_one` lists it.

References:
    SQLite, "UPSERT", "Application-Defined SQL Functions".
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from aioupsert._engines.sql import RowCode, quote
from aioupsert._engines.sqlite.bulk_steps import (
    MARK,
    NOTE,
    ROW_NUMBER,
    RowStatement,
    SqliteBatch,
)
from aioupsert._engines.sqlite.catalog import ROWID_KEY
from aioupsert._engines.sqlite.compiler import (
    SqliteWriter,
    compile_call,
    lock_sql,
    name_table,
)
from aioupsert._plan import Resolved
from aioupsert._plan.schema import Column

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from aioupsert._plan import Plan
    from aioupsert._plan.schema import UniqueIndex


def compile_batch(plan: Plan) -> SqliteBatch:
    """Compile the statement for rows of one request shape."""
    per_row = compile_call(plan)
    reason = next(_reasons_for_one_by_one(plan), None)
    if reason is not None:
        how = f"one by one: {reason}"
        return SqliteBatch(per_row, None, conditional=plan.conditional, how=how)
    counted = None
    if not plan.conditional and _rowids_count(plan):
        counted = _upsert(plan, marks=False)
    return SqliteBatch(
        per_row,
        _upsert(plan, marks=True),
        conditional=plan.conditional,
        how="INSERT ... ON CONFLICT DO UPDATE",
        counted=counted,
        newest=f"SELECT coalesce(max(rowid), 0) FROM {name_table(plan.table)}",
        lock=lock_sql(plan.table),
    )


def _rowids_count(plan: Plan) -> bool:
    """Return whether a created row has the largest rowid and one, and no other has."""
    table = plan.table
    rowid = table.columns.get("rowid")
    given = {item.column.name for item in plan.insert if item.term is not None}
    keys = [index.columns for index in table.unique if index.name == ROWID_KEY]
    return (
        table.is_plain
        and rowid is not None
        and rowid.hidden
        and given.isdisjoint({"rowid", *chain.from_iterable(keys)})
    )


def _reasons_for_one_by_one(plan: Plan) -> Iterator[str]:
    """Yield why one statement for all rows would do something else than the steps."""
    table = plan.table
    key = {k.column.name: k.is_null for k in plan.key}
    given = {item.column.name for item in plan.insert if item.term is not None}
    left_out = [c for c in table.columns.values() if c.name not in given]
    if plan.returning or plan.old:
        yield "rows are returned"
    if table.one_by_one_because:
        yield table.one_by_one_because
    if not table.infers(key):
        yield "no unique index is on exactly the key"
    if any(_may_be_inferred(index, key) for index in table.unique):
        yield "another index may be on the key, by another collation"
    if plan.renames:
        yield "the call changes the key itself"
    if table.has_before_insert_trigger:
        yield "a trigger fires on every attempted insert"
    if table.updates_may_be_refused:
        yield "a trigger may ignore an update"
    if any(c.consumes_sequence for c in table.columns.values() if c.name not in key):
        yield "updates would consume AUTOINCREMENT values"
    if any(column.required for column in left_out):
        yield "rows lack columns that are NOT NULL"


def _may_be_inferred(index: UniqueIndex, key: Collection[str]) -> bool:
    """Return whether ON CONFLICT may take an index for the key's, whose collation is another."""
    return (
        None in index.columns
        and index.predicate is None
        and len(index.columns) == len(key)
        and {*index.columns} <= {*key, None}
    )


class _RowWriter(SqliteWriter):
    """
    Writes a value that the insert proposes as EXCLUDED, so that it is bound once.

    Attributes:
        excluded: The columns that the insert proposes a parameter's value for.
    """

    def __init__(self, table: str) -> None:
        super().__init__(table)
        self.excluded: dict[int, Column] = {}

    def literal(self, expression: Resolved) -> str:
        """Write the value proposed for the same column, or a placeholder."""
        column = self.excluded.get(expression.parameter)
        if column is not None and column == expression.column:
            return f"excluded.{quote(column.name)}"
        return super().literal(expression)

    def row_number(self) -> str:
        """Write a placeholder for the row's number."""
        self.parameters.append(ROW_NUMBER)
        return "?"


def _upsert(plan: Plan, *, marks: bool) -> RowStatement:
    writer = _RowWriter(quote(plan.table.name[-1]))
    # Placeholders are bound in the order of the text, so it is written in that order.
    inserted = writer.inserted(plan)
    # In a table of that name "excluded" would mean the table's own columns.
    if plan.table.name[-1].lower() != "excluded":
        writer.excluded = {
            item.term.parameter: item.column
            for item in plan.insert
            if item.term is not None and item.term.kind == "value"
        }
    # With nothing to update this is never executed: the function returns false.
    key = quote(plan.key[0].column.name)
    assigned = writer.assignments(plan.update) or f"{key} = {key}"
    condition = ""
    if marks:
        condition = f" WHERE {_condition(plan, writer)}"
    target = ", ".join(quote(k.column.name) for k in plan.key)
    sql = (
        f"INSERT INTO {name_table(plan.table)} {inserted}"
        f" ON CONFLICT ({target}) DO UPDATE SET {assigned}{condition}"
    )
    return RowStatement(sql, tuple(writer.parameters), tuple(writer.encoders))


def _condition(plan: Plan, writer: _RowWriter) -> str:
    """Write the condition of the update, which records the row."""
    number = writer.row_number()
    if not plan.conditional:
        return f"{NOTE}({number}) IS NULL"
    passes = writer.passes(plan)
    changes = writer.changes(plan) if plan.update else "0"
    return (
        f"{MARK}({number}, CASE WHEN NOT {passes} THEN {RowCode.SKIPPED}"
        f" WHEN NOT {changes} THEN {RowCode.UNCHANGED}"
        f" ELSE {RowCode.UPDATED} END)"
    )
