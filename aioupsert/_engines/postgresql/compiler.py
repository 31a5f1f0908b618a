"""
A plan as PostgreSQL statements.

See the PostgreSQL documentation: "WITH Queries, Data-Modifying Statements in WITH",
"INSERT, ON CONFLICT Clause", "Transaction Isolation".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aioupsert._engines.postgresql.steps import PostgresqlCall
from aioupsert._engines.sql import (
    CREATED,
    SKIPPED,
    UNCHANGED,
    UPDATED,
    CompiledStatement,
    SqlWriter,
    encode_json,
    quote,
    quote_escaped,
    quote_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioupsert._plan import Assignment, KeyColumn, Plan, Resolved
    from aioupsert._plan.schema import Column, UniqueIndex

ALIAS: Final = quote("t")


def compile_call(plan: Plan) -> PostgresqlCall:
    """Write every statement that a call with this plan may need."""
    single = None
    if plan.on_conflict:
        single = _on_conflict(plan)
    elif not plan.exact_because and not plan.lock:
        single = _fast(plan)
    when = "when a concurrent call got in between" if single else "first"
    return PostgresqlCall(
        plan=plan,
        single=single,
        update=_update(plan, when) if plan.update else None,
        find=_find(plan, when) if plan.conditional else None,
        insert=_insert(plan, "when no row was there"),
        probe=_probe(plan),
        lock=_lock(plan) if plan.lock else None,
    )


class PostgresqlWriter(SqlWriter):
    """PostgreSQL: numbered placeholders, each cast to a type."""

    def __init__(self) -> None:
        super().__init__(ALIAS)
        self._positions: dict[tuple[int, str], int] = {}
        self.inlines_default: bool = False

    def placeholder(self, parameter: int, cast: str, sent_as: str = "") -> str:
        """
        Write a value, cast to a type.

        Args:
            parameter: The index of the value.
            cast: The type; "" for what the database makes of it.
            sent_as: "json" for what is encoded here, "text" for what the database
                converts, "" for what the driver knows.
        """
        base = TEXT if sent_as else untyped(cast)
        position = self._positions.setdefault(
            (parameter, base), len(self._positions) + 1
        )
        if position > len(self.parameters):
            self.parameters.append(parameter)
            if sent_as == "json":
                self.encoders.append((position - 1, encode_json))
        text = f"${position}::{TEXT}" if sent_as else f"${position}"
        return f"{text}::{cast}" if cast else text

    def literal(self, term: Resolved) -> str:
        if term.column is not None:
            sent_as = _sent_as(term.name, term.column)
            return self.placeholder(term.parameter, term.column.type, sent_as)
        if term.name == "null":
            return "NULL"
        sent_as = "json" if term.name == "json" else ""
        return self.placeholder(term.parameter, _LITERAL_TYPES[term.name], sent_as)

    def default(self, column: Column) -> str:
        self.inlines_default = True
        return f"CAST(({column.default or 'NULL'}) AS {column.type})"

    def assigned(self, item: Assignment) -> str:
        return "DEFAULT" if item.term is None else self.term(item.term)

    def ordered(self, args: Sequence[Resolved]) -> list[str]:
        if any(arg.family == "text" for arg in args):
            return [f'({self.term(arg)} COLLATE "C")' for arg in args]
        return [self.term(arg) for arg in args]

    def term(self, term: Resolved) -> str:
        # Without a type a text argument resolves as a quoted literal would, which is
        # what a caller of an arbitrary function or of raw SQL expects.
        if term.kind in {"call", "sql"}:
            bare = tuple(
                replace(arg, name="bare") if arg.name == "str" else arg
                for arg in term.args
            )
            term = replace(term, args=bare)
        return super().term(term)

    def function(self, term: Resolved) -> str:
        args = term.args
        match term.name:
            case "/" | "%":
                left, right = self.term(args[0]), self.term(args[1])
                return f"({left} {term.name} NULLIF({right}, 0))"
            case "greatest" | "least":
                return f"{term.name}({', '.join(self.ordered(args))})"
            case "lower" | "upper":
                return f'{term.name}({self.term(args[0])} COLLATE "C")'
            case "concat":
                parts = (f"{self.term(arg)}::pg_catalog.text" for arg in args)
                return f"({' || '.join(parts)})"
            case "merge":
                one, other = (f"({self.term(a)})::pg_catalog.jsonb" for a in args)
                return (
                    "(SELECT CASE WHEN m.one IS NULL OR m.other IS NULL THEN NULL"
                    " WHEN jsonb_typeof(m.one) = 'object'"
                    " AND jsonb_typeof(m.other) = 'object' THEN m.one || m.other"
                    " ELSE m.other END"
                    f" FROM (SELECT {one} AS one, {other} AS other) AS m)"
                )
            case _:
                return f"{term.name}({self.all(args)})"

    def key(self, plan: Plan) -> str:
        return " AND ".join(
            f"{self.column(k.column)} IS NULL"
            if k.is_null
            else f"{self.column(k.column)} = {self.key_value(k)}"
            for k in plan.key
        )

    def key_value(self, key: KeyColumn) -> str:
        sent_as = _sent_as(key.kind, key.column)
        return self.placeholder(key.parameter, key.column.key_type, sent_as)

    def passes(self, plan: Plan) -> str:
        return "TRUE" if plan.where is None else f"({self.term(plan.where)} IS TRUE)"

    def changes(self, plan: Plan) -> str:
        """Write whether an update would change anything, to the very stored image."""
        if plan.compare is None:
            return "TRUE"
        stored: list[str] = []
        given: list[str] = []
        padded: list[str] = []
        for item in plan.compare:
            column, cast = item.column, item.column.key_type
            old, new = f"{self.column(column)}::{cast}", self.term(item.term)
            if column.storage == "bpchar":
                padded.append(f"{old} IS DISTINCT FROM {new}::{cast}")
            else:
                stored.append(old)
                given.append(f"({new})::{cast}")
        if stored:
            one, other = ", ".join(stored), ", ".join(given)
            padded.append(f"ROW({one})::record *<> ROW({other})::record")
        return f"({' OR '.join(padded)})" if padded else "FALSE"

    def values(self, items: Sequence[Assignment]) -> tuple[str, str]:
        """Write the column list of an INSERT and its values; DEFAULT is left out."""
        given = [item for item in items if item.term is not None]
        names = ", ".join(quote(item.column.name) for item in given)
        values = ", ".join(self.term(i.term) for i in given if i.term is not None)
        return (f"({names}) " if names else ""), values

    def guard(self, plan: Plan) -> str:
        """
        Write whether the name still means the relation that was described.

        Another search_path, or a table made anew, would otherwise get the default of
        the old one. The server looks the name up when it plans the statement, and plans
        it anew when either changes.
        """
        name = quote_escaped(quote_path(plan.table.name))
        return f"{name}::pg_catalog.regclass = {plan.table.relation_id}::pg_catalog.oid"


TEXT: Final = "pg_catalog.text"


def _sent_as(kind: str, column: Column) -> str:
    if kind == "text":
        return "text"
    json = column.family == "json" and kind in {"container", "json", "list"}
    return "json" if json else ""


_LITERAL_TYPES: Final = {
    "bool": "pg_catalog.bool",
    "int4": "pg_catalog.int4",
    "int8": "pg_catalog.int8",
    "numeric": "pg_catalog.numeric",
    "float": "pg_catalog.float8",
    "decimal": "pg_catalog.numeric",
    "str": "pg_catalog.text",
    "bytes": "pg_catalog.bytea",
    "datetime": "pg_catalog.timestamp",
    "datetimetz": "pg_catalog.timestamptz",
    "date": "pg_catalog.date",
    "time": "pg_catalog.time",
    "timedelta": "pg_catalog.interval",
    "uuid": "pg_catalog.uuid",
    "json": "pg_catalog.jsonb",
    "list": "",
    "other": "",
    "bare": "",
}


def untyped(cast: str) -> str:
    """Give a type without its precision."""
    return cast.partition("(")[0]


def name_cte(plan: Plan, name: str) -> str:
    """Name a WITH query so that it hides no table, neither this one nor one in SQL()."""
    name = f"aioupsert_{name}"
    return quote(f"{name}_" if name == plan.table.name[-1] else name)


def _row(codes: str, columns: Iterable[str]) -> str:
    return ", ".join([codes, *columns])


def returned(plan: Plan) -> list[str]:
    """List the columns asked for."""
    return [f"{ALIAS}.{quote(name)}" for name in plan.returning]


def name_table(plan: Plan) -> str:
    """Write the table with the alias that columns are qualified by."""
    return f"{quote_path(plan.table.name)} AS {ALIAS}"


def _conditions(writer: PostgresqlWriter, plan: Plan) -> str:
    conditions = [writer.key(plan)]
    if plan.where is not None:
        conditions.append(writer.passes(plan))
    if plan.compare is not None:
        conditions.append(writer.changes(plan))
    return " AND ".join(conditions)


def _fast(plan: Plan) -> CompiledStatement:
    """
    Write the whole call as one statement.

    The update runs first, since the insert looks at what it returned. The insert names
    no conflict target, so that no unique index of any kind can raise. No row at all
    means that a concurrent call got in between, or something permanent.
    """
    writer = PostgresqlWriter()
    updated, inserted, found = (
        name_cte(plan, n) for n in ("updated", "inserted", "found")
    )
    columns = [quote(f"c{n}") for n in range(1, len(plan.returning) + 1)]
    parts: list[str] = []
    answers: list[str] = []
    missing: list[str] = []
    if plan.conditional:
        codes = [writer.passes(plan), writer.changes(plan) if plan.update else "FALSE"]
        names = ", ".join([quote("passes"), quote("changes"), *columns])
        parts.append(
            f"{found} ({names}) AS (SELECT {_row(', '.join(codes), returned(plan))}"
            f" FROM {name_table(plan)} WHERE {writer.key(plan)})"
        )
        missing.append(f"NOT EXISTS (SELECT FROM {found})")
        left_alone = (
            f"SELECT {_row(LEFT_ALONE, columns)} FROM {found}"
            ' WHERE NOT ("passes" AND "changes")'
        )
        if plan.update:
            left_alone += f" AND NOT EXISTS (SELECT FROM {updated})"
        answers.append(left_alone)
    if plan.update:
        changed = writer.assignments(plan.update)
        conditions = _conditions(writer, plan)
        parts.append(
            f"{updated} AS (UPDATE {name_table(plan)} SET {changed} WHERE {conditions}"
            f" RETURNING {_row(str(UPDATED), returned(plan))})"
        )
        missing.append(f"NOT EXISTS (SELECT FROM {updated})")
        answers.append(f"SELECT * FROM {updated}")
    names, values = writer.values(plan.insert)
    if writer.inlines_default:
        missing.append(writer.guard(plan))
    parts.append(
        f"{inserted} AS (INSERT INTO {name_table(plan)} {names}SELECT {values}"
        f" WHERE {' AND '.join(missing)} ON CONFLICT DO NOTHING"
        f" RETURNING {_row(str(CREATED), returned(plan))})"
    )
    answers.append(f"SELECT * FROM {inserted}")
    sql = f"WITH {', '.join(parts)} {' UNION ALL '.join(answers)}"
    return writer.compiled(sql, "first")


LEFT_ALONE: Final = f'CASE WHEN "passes" THEN {UNCHANGED} ELSE {SKIPPED} END'


def _update(plan: Plan, when: str) -> CompiledStatement:
    writer = PostgresqlWriter()
    changed = writer.assignments(plan.update)
    sql = (
        f"UPDATE {name_table(plan)} SET {changed} WHERE {_conditions(writer, plan)}"
        f" RETURNING {_row(str(UPDATED), returned(plan))}"
    )
    return writer.compiled(sql, when)


def _find(plan: Plan, when: str) -> CompiledStatement:
    """Write a query for the row as it is; UPDATED means that an update would apply."""
    writer = PostgresqlWriter()
    changes = writer.changes(plan) if plan.update else "FALSE"
    code = (
        f"CASE WHEN NOT {writer.passes(plan)} THEN {SKIPPED}"
        f" WHEN NOT {changes} THEN {UNCHANGED} ELSE {UPDATED} END"
    )
    sql = (
        f"SELECT {_row(code, returned(plan))} FROM {name_table(plan)}"
        f" WHERE {writer.key(plan)}"
    )
    return writer.compiled(sql, f"{when}, if nothing was updated")


def _insert(plan: Plan, when: str) -> CompiledStatement:
    writer = PostgresqlWriter()
    names, values = writer.values(plan.insert)
    lock = source = ""
    if plan.table.needs_key_lock:
        name = name_cte(plan, "lock")
        lock = f"WITH {name} AS MATERIALIZED (SELECT {_advisory_lock(writer, plan)}) "
        source = f" FROM {name}"
    guard = f" WHERE {writer.guard(plan)}" if writer.inlines_default else ""
    sql = (
        f"{lock}INSERT INTO {name_table(plan)} {names}SELECT {values}{source}{guard}"
        f" RETURNING {_row(str(CREATED), returned(plan))}"
    )
    return writer.compiled(sql, when)


def native_code(plan: Plan) -> str:
    """
    Tell created from updated in the RETURNING of a native upsert.

    From version 18 on the row before is there to ask, which a row just inserted has not;
    see the documentation's "RETURNING". Before, a row that this very statement inserted
    has no xmax; see "System Columns", which partitioned tables do not have.
    """
    if plan.table.supports_returning_old:
        created = f"old.{quote(plan.key[0].column.name)} IS NULL"
    else:
        created = f"{ALIAS}.xmax = 0"
    return f"CASE WHEN {created} THEN {CREATED} ELSE {UPDATED} END"


def _on_conflict(plan: Plan) -> CompiledStatement:
    """
    Write the native upsert.

    No row means that *where* or *skip_unchanged* left it alone.
    """
    writer = PostgresqlWriter()
    names, values = writer.values(plan.insert)
    target = ", ".join(quote(k.column.name) for k in plan.key)
    action = "NOTHING"
    if plan.update:
        action = f"UPDATE SET {writer.assignments(plan.update)}"
        if plan.where is not None or plan.compare is not None:
            action += f" WHERE {writer.passes(plan)} AND {writer.changes(plan)}"
    code = native_code(plan)
    guard = f"WHERE {writer.guard(plan)}" if writer.inlines_default else "WHERE TRUE"
    sql = (
        f"INSERT INTO {name_table(plan)} {names}SELECT {values} {guard}"
        f" ON CONFLICT ({target}) DO {action}"
        f" RETURNING {_row(code, returned(plan))}"
    )
    return writer.compiled(sql, "first")


def _probe(plan: Plan) -> CompiledStatement:
    """
    Ask why an insert keeps failing: isolation level, own row visible, another's.

    All in one statement, so from one snapshot: a row that is visible by another unique
    index while the key is not is a different row, and waiting will not help.
    """
    writer = PostgresqlWriter()
    given = {item.column.name: item.term for item in plan.insert}
    tests = [
        f"EXISTS (SELECT FROM {name_table(plan)} WHERE {condition})"
        for condition in [
            writer.key(plan),
            *(
                _same_row(writer, index, given)
                for index in plan.table.unique
                if _comparable(index, given)
            ),
        ]
    ]
    # Behind postgres_fdw every transaction is at least that.
    level = (
        "'repeatable read'"
        if plan.table.has_remote_rows
        else "current_setting('transaction_isolation')"
    )
    sql = f"SELECT {level}, {', '.join(tests)}"
    return writer.compiled(sql, "when the insert fails again")


def _comparable(index: UniqueIndex, given: dict[str, Resolved | None]) -> bool:
    terms = (given.get(column) if column else None for column in index.columns)
    return all(term is not None and term.kind == "value" for term in terms)


def _same_row(
    writer: PostgresqlWriter, index: UniqueIndex, given: dict[str, Resolved | None]
) -> str:
    tests = [
        f"{writer.column(term.column)} = {writer.term(term)}"
        for column in index.columns
        if column and (term := given[column]) is not None and term.column is not None
    ]
    return " AND ".join([*tests, f"({index.predicate or 'TRUE'})"])


# Equal values of these have equal texts; others would need the type's own hash, so
# they do not narrow the lock.
_CANONICAL: Final = frozenset({"integer", "boolean", "uuid", "text", "varchar"})


def _advisory_lock(writer: PostgresqlWriter, plan: Plan) -> str:
    parts = [
        f"coalesce({writer.placeholder(k.parameter, k.column.type)}::pg_catalog.text, '')"
        for k in plan.key
        if k.column.storage in _CANONICAL and not k.is_null
    ]
    text = " || '/' || ".join(parts) or "''"
    return f"pg_advisory_xact_lock(hashtextextended({text}, {plan.table.relation_id}))"


def _lock(plan: Plan) -> CompiledStatement:
    """Write the lock; it answers the isolation level, without a lock above the first."""
    writer = PostgresqlWriter()
    level = "current_setting('transaction_isolation')"
    sql = (
        f"SELECT {level}, CASE WHEN {level} = 'read committed'"
        f" THEN {_advisory_lock(writer, plan)} END"
    )
    return writer.compiled(sql, "first, in a transaction of its own if there is none")
