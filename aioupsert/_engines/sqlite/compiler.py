"""
A plan as SQLite statements.

Columns are qualified everywhere: a misspelt ``"name"`` alone would be a string there.
See the SQLite documentation: "UPSERT", "RETURNING", "Quirks, Caveats, and Gotchas".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioupsert._engines.sql import (
    CREATED,
    SKIPPED,
    UNCHANGED,
    UPDATED,
    CompiledStatement,
    SqlWriter,
    encode_json,
    quote,
    quote_path,
)
from aioupsert._engines.sqlite.steps import SqliteCall
from aioupsert._plan import Resolved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioupsert._plan import Assignment, KeyColumn, Plan
    from aioupsert._plan.schema import Column


def compile_call(plan: Plan) -> SqliteCall:
    """Write every statement that a call with this plan may need."""
    if plan.on_conflict:
        return SqliteCall(plan, None, _find(plan, "first"), _upsert(plan))
    update = _update(plan) if plan.update else None
    when = "if nothing was updated" if update else "first"
    if plan.table.written_by_triggers:
        when = "before and after"
    find = _find(plan, when) if plan.conditional else None
    return SqliteCall(plan, update, find, _insert(plan))


class SqliteWriter(SqlWriter):
    """SQLite: a placeholder for every use of a value."""

    def literal(self, term: Resolved) -> str:
        if term.name == "null":
            return "NULL"
        if term.name in {"container", "json", "list"}:
            self.encoders.append((len(self.parameters), encode_json))
        self.parameters.append(term.parameter)
        return "?"

    def default(self, column: Column) -> str:
        return f"({column.default or 'NULL'})"

    def assigned(self, item: Assignment) -> str:
        return self.default(item.column) if item.term is None else self.term(item.term)

    def ordered(self, args: Sequence[Resolved]) -> list[str]:
        if any(arg.family == "text" for arg in args):
            return [f"({self.term(arg)} COLLATE BINARY)" for arg in args]
        return [self.term(arg) for arg in args]

    def function(self, term: Resolved) -> str:
        args = term.args
        match term.name:
            case "/" if term.family == "number":
                return f"(CAST({self.term(args[0])} AS REAL) / {self.term(args[1])})"
            case "/" | "%":
                return f"({self.term(args[0])} {term.name} {self.term(args[1])})"
            case "greatest" | "least":
                return self._extreme("max" if term.name == "greatest" else "min", args)
            case "concat":
                return f"({' || '.join(map(self.term, args))})"
            case "merge":
                return self._merge(args[0], args[1])
            case "now":
                return "CURRENT_TIMESTAMP"
            case _:
                return f"{term.name}({self.all(args)})"

    def _extreme(self, name: str, args: Sequence[Resolved]) -> str:
        """Write max or min so that NULLs do not win: each gives way to the others."""
        if len(args) == 1:
            return self.term(args[0])
        turns = [[*args[n:], *args[:n]] for n in range(len(args))]
        parts = (f"coalesce({', '.join(self.ordered(turn))})" for turn in turns)
        return f"{name}({', '.join(parts)})"

    def _merge(self, one: Resolved, other: Resolved) -> str:
        # json_patch would merge recursively and drop nulls; this is jsonb's || instead.
        member = (
            "json(CASE type WHEN 'object' THEN value WHEN 'array' THEN value"
            " WHEN 'text' THEN json_quote(value) WHEN 'integer' THEN json_quote(value)"
            " WHEN 'real' THEN json_quote(value) ELSE type END)"
        )
        merged = (
            f"SELECT key, {member} AS member FROM json_each(m.one)"
            " WHERE key NOT IN (SELECT key FROM json_each(m.other))"
            f" UNION ALL SELECT key, {member} FROM json_each(m.other)"
        )
        return (
            "(SELECT CASE WHEN m.one IS NULL OR m.other IS NULL THEN NULL"
            " WHEN json_type(m.one) = 'object' AND json_type(m.other) = 'object'"
            f" THEN (SELECT json_group_object(key, json(member)) FROM ({merged}))"
            " ELSE json(m.other) END"
            f" FROM (SELECT {self.term(one)} AS one, {self.term(other)} AS other) AS m)"
        )

    def key(self, plan: Plan) -> str:
        tests: list[str] = []
        for k in plan.key:
            if k.is_null:
                tests.append(f"{self.column(k.column)} IS NULL")
            else:
                tests.append(f"{self.column(k.column)} = {self.key_value(k)}")
        return " AND ".join(tests)

    def key_value(self, key: KeyColumn) -> str:
        return self.literal(Resolved("value", key.kind, parameter=key.parameter))

    def passes(self, plan: Plan) -> str:
        # Neither TRUE nor IS TRUE: a column may have that name.
        return "1" if plan.where is None else f"coalesce({self.term(plan.where)}, 0)"

    def changes(self, plan: Plan) -> str:
        if plan.compare is None:
            return "1"
        tests = [
            f"{self.column(column)} IS NOT {self.term(term)} COLLATE BINARY"
            for column, term in plan.compare
        ]
        return f"({' OR '.join(tests)})" if tests else "0"

    def inserted(self, plan: Plan) -> str:
        """Write the column list of an INSERT and its values; DEFAULT is left out."""
        given = [(a.column, a.term) for a in plan.insert if a.term is not None]
        if not given:
            return "DEFAULT VALUES"
        names = ", ".join(quote(column.name) for column, _ in given)
        values = ", ".join(self.term(term) for _, term in given)
        return f"({names}) VALUES ({values})"

    def finished(self, plan: Plan, sql: str, code: int, when: str) -> CompiledStatement:
        """Let the statement answer one row for each it wrote, where it can."""
        if not plan.table.supports_returning:
            return self.compiled(sql, when, counted_as=code)
        return self.compiled(f"{sql} RETURNING {_row(str(code), plan)}", when)

    def created(self, plan: Plan) -> str:
        """
        Write whether the row of an upsert has the very key that was given.

        One that was there under another spelling, by the index's collation, has not.
        """
        tests: list[str] = []
        for k in plan.key:
            value = self.key_value(k)
            tests.append(f"{self.column(k.column)} IS {value} COLLATE BINARY")
        return f"CASE WHEN {' AND '.join(tests)} THEN {CREATED} ELSE {UPDATED} END"


def _writer(plan: Plan) -> SqliteWriter:
    # RETURNING knows the table by its own name only, so no alias is used anywhere.
    return SqliteWriter(quote(plan.table.name[-1]))


def _row(code: str, plan: Plan) -> str:
    table = quote(plan.table.name[-1])
    return ", ".join([code, *(f"{table}.{quote(name)}" for name in plan.returning)])


def _update(plan: Plan) -> CompiledStatement:
    writer = _writer(plan)
    sql = (
        f"UPDATE {quote_path(plan.table.name)} SET {writer.assignments(plan.update)}"
        f" WHERE {writer.key(plan)}"
    )
    if plan.where is not None:
        sql += f" AND {writer.passes(plan)}"
    if plan.compare is not None:
        sql += f" AND {writer.changes(plan)}"
    return writer.finished(plan, sql, UPDATED, "first")


def _find(plan: Plan, when: str) -> CompiledStatement:
    writer = _writer(plan)
    passes = writer.passes(plan)
    changes = writer.changes(plan) if plan.update else "0"
    code = (
        f"CASE WHEN NOT {passes} THEN {SKIPPED} WHEN NOT {changes} THEN {UNCHANGED}"
        f" ELSE {UPDATED} END"
    )
    sql = (
        f"SELECT {_row(code, plan)} FROM {quote_path(plan.table.name)}"
        f" WHERE {writer.key(plan)}"
    )
    return writer.compiled(sql, when)


def _insert(plan: Plan) -> CompiledStatement:
    writer = _writer(plan)
    sql = f"INSERT INTO {quote_path(plan.table.name)} {writer.inserted(plan)}"
    return writer.finished(plan, sql, CREATED, "when no row was there")


def _upsert(plan: Plan) -> CompiledStatement:
    writer = _writer(plan)
    target = ", ".join(quote(k.column.name) for k in plan.key)
    sql = (
        f"INSERT INTO {quote_path(plan.table.name)} {writer.inserted(plan)}"
        f" ON CONFLICT ({target}) DO "
    )
    sql += f"UPDATE SET {writer.assignments(plan.update)}" if plan.update else "NOTHING"
    sql += f" RETURNING {_row(writer.created(plan), plan)}"
    return writer.compiled(sql, "when the row is missing or is to be written")
