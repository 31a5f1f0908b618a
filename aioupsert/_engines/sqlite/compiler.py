"""
The statements of one row on SQLite.

An UPDATE by the key, a SELECT of the row as it is, and an INSERT; `steps` says in which
order they run. If the caller asked for columns, each one that writes ends with RETURNING,
whose first value is the `RowCode` and whose others are these columns. Otherwise, and of a
view or a virtual table, which cannot return rows, the driver counts those written.

With ``strategy="on_conflict"`` one INSERT ... ON CONFLICT DO UPDATE replaces the update
and the insert. SQLite cannot say which of the two it did, but a query before it, under
the same lock, can.

Columns are qualified everywhere: SQLite takes a misspelt ``"name"`` without a qualifier
for a string.

References:
    SQLite, "UPSERT", "RETURNING", "Quirks, Caveats, and Gotchas" (8, double-quoted
    string literals).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from aioupsert._engines.sql import (
    CompiledStatement,
    RowCode,
    SqlWriter,
    encode_json,
    quote,
    quote_path,
)
from aioupsert._engines.sqlite.steps import SqliteCall
from aioupsert._plan import Resolved
from aioupsert.typing import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aioupsert._plan import Assignment, KeyColumn, Plan
    from aioupsert._plan.schema import Column, Table


def compile_call(plan: Plan) -> SqliteCall:
    """Compile every statement that a call with this plan may send."""
    on_create = any(
        part.kind == "default" for a in plan.insert if a.term for part in a.term.walk()
    )
    defaults = (any(item.term is None for item in plan.update), on_create)
    if plan.on_conflict:
        return SqliteCall(plan, None, _find(plan, "first"), _upsert(plan), *defaults)
    update = _update(plan) if plan.update else None
    when = "if nothing was updated" if update else "first"
    if plan.table.written_by_triggers:
        when = "before and after"
    if plan.old:
        return SqliteCall(
            plan,
            update,
            _find(plan, "before the update"),
            _insert(plan),
            *defaults,
            lock=None
            if plan.table.written_by_triggers
            else _writer(plan).compiled(
                lock_sql(plan.table), "first, for the write lock"
            ),
            identity=len(_identity(plan)),
        )
    find = _find(plan, when) if plan.conditional else None
    return SqliteCall(plan, update, find, _insert(plan), *defaults)


class SqliteWriter(SqlWriter):
    """Writes SQLite's SQL, with a placeholder for every use of a value."""

    def literal(self, expression: Resolved) -> str:
        if expression.name == "null":
            return "NULL"
        if expression.name in {"container", "json", "list"}:
            self.encoders.append((len(self.parameters), encode_json))
        self.parameters.append(expression.parameter)
        return "?"

    def default(self, column: Column) -> str:
        return f"({column.default or 'NULL'})"

    def assigned(self, item: Assignment) -> str:
        if item.term is None:
            return self.default(item.column)
        return self.expression(item.term)

    def ordered(self, args: Sequence[Resolved]) -> list[str]:
        if any(arg.family == "text" for arg in args):
            return [f"({self.expression(arg)} COLLATE BINARY)" for arg in args]
        return [self.expression(arg) for arg in args]

    def among(self, value: Resolved, members: Resolved) -> str:
        text = self.expression(value)
        self.encoders.append((len(self.parameters), encode_json))
        self.parameters.append(members.parameter)
        return f"({text} IN (SELECT value FROM json_each(?)))"

    def same(self, one: Resolved, other: Resolved) -> str:
        return f"({self.expression(one)} IS {self.expression(other)})"

    def function(self, expression: Resolved) -> str:
        name, args = expression.name, expression.args
        match name:
            case "/" if expression.family == "number":
                return f"(CAST({self.expression(args[0])} AS REAL) / {self.expression(args[1])})"
            case "/" | "%":
                return f"({self.expression(args[0])} {name} {self.expression(args[1])})"
            case "greatest" | "least":
                return self._extreme("max" if name == "greatest" else "min", args)
            case "nullif":
                # Not its own function, which compares without the columns' affinity.
                other, value = self.expression(args[1]), self.expression(args[0])
                return (
                    f"(SELECT CASE WHEN n.v = {other} THEN NULL ELSE n.v END"
                    f" FROM (SELECT {value} AS v) AS n)"
                )
            case "like":
                text = self.expression(args[0])
                self.encoders.append((len(self.parameters), _glob))
                return f"({text} GLOB {self.expression(args[1])})"
            case "concat":
                return f"({' || '.join(map(self.expression, args))})"
            case "merge":
                return self._merge(args[0], args[1])
            case "now":
                return "strftime('%Y-%m-%d %H:%M:%f', 'now')"
            case _:
                return f"{name}({self.expressions(args)})"

    def _extreme(self, name: str, args: Sequence[Resolved]) -> str:
        """Write max or min that ignore NULLs, as PostgreSQL's GREATEST and LEAST do."""
        if len(args) == 1:
            return self.expression(args[0])
        # Each argument, or the next one that is not NULL.
        rotated = [[*args[n:], *args[:n]] for n in range(len(args))]
        parts = (f"coalesce({', '.join(self.ordered(those))})" for those in rotated)
        return f"{name}({', '.join(parts)})"

    def _merge(self, one: Resolved, other: Resolved) -> str:
        # As PostgreSQL's || does. json_patch would merge recursively and drop nulls.
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
            f" FROM (SELECT {self.expression(one)} AS one, {self.expression(other)} AS other) AS m)"
        )

    def key(self, plan: Plan) -> str:
        tests: list[str] = []
        for k in plan.key:
            if k.is_null:
                tests.append(f"{self.column(k.column)} IS NULL")
            else:
                tests.append(f"{self.column(k.column)} = {self.key_value(k)}")
        # SQLite uses a partial index where its predicate is among the conditions.
        key, constants = plan.key_nulls, plan.constants
        tests += [
            f"({index.predicate})"
            for index in plan.table.unique
            if index.predicate is not None and index.covers(key, constants)
        ]
        return " AND ".join(tests)

    def key_value(self, key: KeyColumn) -> str:
        return self.literal(Resolved("value", key.kind, parameter=key.parameter))

    def passes(self, plan: Plan) -> str:
        # Not TRUE or IS TRUE, as a column may be called "true".
        return (
            "1" if plan.where is None else f"coalesce({self.expression(plan.where)}, 0)"
        )

    def changes(self, plan: Plan) -> str:
        if plan.compare is None:
            return "1"
        tests = [
            f"{self.column(column)} IS NOT {self.expression(new)} COLLATE BINARY"
            for column, new in plan.compare
        ]
        return f"({' OR '.join(tests)})" if tests else "0"

    def inserted(self, plan: Plan) -> str:
        """Write the columns of an INSERT and their values; DEFAULT is left out."""
        given = [(a.column, a.term) for a in plan.insert if a.term is not None]
        if not given:
            return "DEFAULT VALUES"
        names = ", ".join(quote(column.name) for column, _ in given)
        values = ", ".join(self.expression(value) for _, value in given)
        return f"({names}) VALUES ({values})"

    def returning(
        self, plan: Plan, sql: str, code: RowCode, when: str
    ) -> CompiledStatement:
        """Compile a statement that returns each row it wrote, where that is needed."""
        # In a transaction RETURNING makes SQLite keep a copy of every page it changes.
        needs_rows = bool(plan.returning) or plan.old
        if not (needs_rows and plan.table.supports_returning):
            return self.compiled(sql, when, counted_as=code)
        return self.compiled(f"{sql} RETURNING {_row(str(code), plan)}", when)

    def native_code(self, plan: Plan) -> str:
        """
        Write the code of a native upsert.

        An existing row that was found by the index's collation, under another spelling
        of its key, has been updated. The others were told apart by the query before.
        """
        tests: list[str] = []
        for k in plan.key:
            value = self.key_value(k)
            tests.append(f"{self.column(k.column)} IS {value} COLLATE BINARY")
        return f"CASE WHEN {' AND '.join(tests)} THEN {RowCode.CREATED} ELSE {RowCode.UPDATED} END"


def _glob(pattern: Value) -> str:
    """
    Return the pattern of GLOB for one of LIKE.

    GLOB tells capitals from small letters, as PostgreSQL's LIKE does.
    """
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    return "".join(
        _GLOBS.get(part) or (f"[{part[-1]}]" if part[-1] in "*?[" else part[-1])
        for part in parts
    )


_GLOBS: Final = {"%": "*", "_": "?"}


def name_table(table: Table) -> str:
    """
    Return the table's name, with its database if that is a temporary or attached one.

    Without it, a prepared statement would keep to its table when another one hides that.
    """
    return quote_path(table.path or table.name)


def _writer(plan: Plan) -> SqliteWriter:
    # RETURNING knows the table by its own name only, so no alias is used anywhere.
    return SqliteWriter(quote(plan.table.name[-1]))


def _row(code: str, plan: Plan) -> str:
    """
    Write the columns of an answer.

    With `Plan.old` the identity of the row follows its code, and then all its columns,
    to be compared: by a plus sign, which keeps a value and leaves no declared type for
    which the caller may have a converter.
    """
    table = quote(plan.table.name[-1])
    columns = [f"{table}.{quote(name)}" for name in plan.returning]
    if plan.old:
        compared = [f"+{table}.{quote(name)}" for name in plan.table.visible]
        identity = [f"{table}.{name}" for name in _identity(plan)]
        columns = [*identity, *compared, *columns]
    return ", ".join([code, *columns])


def _identity(plan: Plan) -> list[str]:
    """Return what tells several rows of a key apart."""
    table = plan.table
    if plan.unique or table.written_by_triggers:
        return []
    if table.primary_key:
        return [quote(name) for name in sorted(table.primary_key)]
    # A table without a primary key has row numbers, by the name that no column has.
    names = {name.lower() for name in table.columns}
    return [next(n for n in ("rowid", "oid", "_rowid_") if n not in names)]


def lock_sql(table: Table) -> str:
    """
    Return a statement that takes the write lock, and writes nothing.

    A transaction that reads first may fail to write when others have written meanwhile.
    """
    return f"DELETE FROM {name_table(table)} WHERE 0"


def _update(plan: Plan) -> CompiledStatement:
    writer = _writer(plan)
    sql = (
        f"UPDATE {name_table(plan.table)} SET {writer.assignments(plan.update)}"
        f" WHERE {writer.key(plan)}"
    )
    if plan.where is not None:
        sql += f" AND {writer.passes(plan)}"
    if plan.compare is not None:
        sql += f" AND {writer.changes(plan)}"
    return writer.returning(plan, sql, RowCode.UPDATED, "first")


def _find(plan: Plan, when: str) -> CompiledStatement:
    writer = _writer(plan)
    passes = writer.passes(plan)
    changes = writer.changes(plan) if plan.update else "0"
    code = (
        f"CASE WHEN NOT {passes} THEN {RowCode.SKIPPED} WHEN NOT {changes} THEN {RowCode.UNCHANGED}"
        f" ELSE {RowCode.UPDATED} END"
    )
    sql = (
        f"SELECT {_row(code, plan)} FROM {name_table(plan.table)}"
        f" WHERE {writer.key(plan)}"
    )
    return writer.compiled(sql, when)


def _insert(plan: Plan) -> CompiledStatement:
    writer = _writer(plan)
    sql = f"INSERT INTO {name_table(plan.table)} {writer.inserted(plan)}"
    return writer.returning(plan, sql, RowCode.CREATED, "when the row does not exist")


def _upsert(plan: Plan) -> CompiledStatement:
    writer = _writer(plan)
    target = ", ".join(quote(k.column.name) for k in plan.key)
    sql = (
        f"INSERT INTO {name_table(plan.table)} {writer.inserted(plan)}"
        f" ON CONFLICT ({target}) DO "
    )
    sql += f"UPDATE SET {writer.assignments(plan.update)}" if plan.update else "NOTHING"
    sql += f" RETURNING {_row(writer.native_code(plan), plan)}"
    return writer.compiled(sql, "when the row is missing or is to be written")
