"""
Many rows as SQLite statements.

One statement is run for every row of a batch, with a function of the connection that
writes down what happened to a row that was there: a row nothing is written down for was
created. See the SQLite documentation: "UPSERT", "Application-Defined SQL Functions".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioupsert._engines.sql import SKIPPED, UNCHANGED, UPDATED, quote, quote_path
from aioupsert._engines.sqlite.bulk_steps import MARK, NOTE, ROW_NUMBER, SqliteBatch
from aioupsert._engines.sqlite.compiler import SqliteWriter, compile_call
from aioupsert._plan import Resolved
from aioupsert._plan.schema import Column

if TYPE_CHECKING:
    from aioupsert._plan import Plan
    from aioupsert._plan.schema import UniqueIndex


def compile_batch(plan: Plan) -> SqliteBatch:
    """Write every statement for rows of one shape."""
    per_row = compile_call(plan)
    why = _why_one_by_one(plan)
    if why is not None:
        return SqliteBatch(
            per_row, None, (), plan.conditional, (), f"one by one: {why}"
        )
    writer = _RowWriter(quote(plan.table.name[-1]))
    return SqliteBatch(
        per_row,
        _upsert(plan, writer),
        tuple(writer.parameters),
        plan.conditional,
        tuple(writer.encoders),
        "INSERT ... ON CONFLICT DO UPDATE",
    )


def _why_one_by_one(plan: Plan) -> str | None:
    table = plan.table
    key = {k.column.name: k.is_null for k in plan.key}
    given = {item.column.name for item in plan.insert if item.term is not None}
    target = next((index for index in table.unique if index.matches(key)), None)
    reasons = {
        "rows are asked for": bool(plan.returning),
        "it is a view or a virtual table": not table.supports_on_conflict_update,
        "no unique index is on exactly the key": target is None,
        "the key itself is given another value": bool(plan.renames),
        "another unique index may be in the way": any(
            _is_touched(index, given, set(key)) for index in table.unique
        ),
        "a trigger sees every insert": table.has_before_insert_trigger,
        "a trigger may refuse an update": table.updates_may_be_refused,
        "it would use up numbers of AUTOINCREMENT": any(
            c.consumes_sequence and c.name not in given for c in table.columns.values()
        ),
        "rows lack columns that are NOT NULL": any(
            c.required and c.name not in given for c in table.columns.values()
        ),
    }
    return next((why for why, applies in reasons.items() if applies), None)


def _is_touched(index: UniqueIndex, given: set[str], key: set[str]) -> bool:
    columns = set(index.columns)
    return columns != key and (None in columns or not columns.isdisjoint(given))


class _RowWriter(SqliteWriter):
    """Writes what was proposed for a column as EXCLUDED, so that it is bound once."""

    def __init__(self, table: str) -> None:
        super().__init__(table)
        self.proposed: dict[int, Column] = {}

    def literal(self, term: Resolved) -> str:
        """Write what was proposed for the same column, or a placeholder."""
        column = self.proposed.get(term.parameter)
        if column is not None and column == term.column:
            return f"excluded.{quote(column.name)}"
        return super().literal(term)

    def number(self) -> str:
        """Write a placeholder for the row's number."""
        self.parameters.append(ROW_NUMBER)
        return "?"


def _upsert(plan: Plan, writer: _RowWriter) -> str:
    # In the order of the text, which is that of the placeholders.
    inserted = writer.inserted(plan)
    if plan.table.name[-1].lower() != "excluded":  # whose columns it would name
        writer.proposed = {
            item.term.parameter: item.column
            for item in plan.insert
            if item.term is not None and item.term.kind == "value"
        }
    # With nothing to update the function says no, and this is not done.
    key = quote(plan.key[0].column.name)
    assigned = writer.assignments(plan.update) or f"{key} = {key}"
    number = writer.number()
    condition = f"{NOTE}({number}) IS NULL"
    if plan.conditional:
        passes = writer.passes(plan)
        changes = writer.changes(plan) if plan.update else "0"
        condition = (
            f"{MARK}({number}, CASE WHEN NOT {passes} THEN {SKIPPED}"
            f" WHEN NOT {changes} THEN {UNCHANGED} ELSE {UPDATED} END)"
        )
    target = ", ".join(quote(k.column.name) for k in plan.key)
    return (
        f"INSERT INTO {quote_path(plan.table.name)} {inserted}"
        f" ON CONFLICT ({target}) DO UPDATE SET {assigned} WHERE {condition}"
    )
