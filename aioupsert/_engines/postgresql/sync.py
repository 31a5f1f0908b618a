"""
Rows of a scope that a source does not have, on PostgreSQL.

A row that others create while the source is read must stay, even if they first removed
one with the same key; a row that they change must be judged as it is in the end. Only a
cursor does both: it is declared before the first row of the source is read, so it sees
the rows of that moment and no later ones, and it has FOR UPDATE, so it follows each of
them to its newest version when it is fetched.

What is sent, in the open transaction:

1. an advisory lock on the scope, so that two calls with one scope wait for each other;
2. DECLARE CURSOR, the number of rows in the scope, and a temporary table for keys;
3. for each batch of the source, once it is written: its keys, to that table;
4. the query for the rows of the scope whose key is not in the table. A setting takes the
   keys of those as text, since the cursor cannot see a table that was filled later;
5. FETCH, which locks the rows, to a second temporary table, by their place;
6. one DELETE or, for marking, an UPDATE for some thousand rows after the others.

References:
    PostgreSQL, "DECLARE" (FOR UPDATE), "Transaction Isolation" (13.2.1), "Explicit
    Locking" (13.3.5, Advisory Locks), "System Columns" (ctid).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from aioupsert._engines.commands import (
    ArrayArgument,
    Command,
    ResultRows,
    StaleTableError,
    Steps,
)
from aioupsert._engines.outcomes import bind, refused
from aioupsert._engines.postgresql import citus
from aioupsert._engines.postgresql.compiler import (
    ALIAS,
    CANONICAL,
    TEXT,
    PostgresqlWriter,
    name_cte,
    name_table,
    returned,
    type_guards,
)
from aioupsert._engines.postgresql.qualifying import (
    CONCATENATED,
    EQUALS,
    LESS,
    operator,
)
from aioupsert._engines.sql import (
    CompiledStatement,
    ParameterValues,
    quote,
    quote_escaped,
)
from aioupsert._plan.request import Request
from aioupsert.errors import UsageError

if TYPE_CHECKING:
    from aioupsert._plan import Plan, RowGroup
    from aioupsert._plan.schema import Names
    from aioupsert.typing import Value

# The number of rows that one command fetches, or whose keys one command notes.
_AT_ONCE: Final = 5_000


class _Names(NamedTuple):
    """The names of what a call creates."""

    cursor: str
    setting: str
    seen: str
    missing: str


def compile_sync(plan: Plan, scope: Names, number: int) -> PostgresqlSync:
    """Compile the statements for a scope."""
    names = _Names(
        f"aioupsert_sync_{number}",
        f"aioupsert.missing_{number}",
        f"pg_temp.aioupsert_seen_{number}",
        f"pg_temp.aioupsert_missing_{number}",
    )
    return PostgresqlSync(
        plan,
        names,
        lock_scope=_lock(plan, scope),
        declare=_declare(plan, names),
        count=_count(plan),
        find=_find(plan, names, with_nulls=False),
        find_with_nulls=_find(plan, names, with_nulls=True),
        update=_mark(plan, names) if plan.update else None,
    )


@dataclass(slots=True)
class PostgresqlSync:
    """
    The statements for a scope, and their steps.

    Attributes:
        plan: The scope and the marks.
        names: The names of what is created.
        lock_scope: Waits for other calls.
        declare: Declares the cursor.
        count: Counts the rows of the scope; also returns whether the table is as it was.
        find: Passes the keys that the source has not to the cursor.
        find_with_nulls: The same, if the source has keys with a NULL.
        update: Marks rows; None if they are removed.
    """

    plan: Plan
    names: _Names
    lock_scope: CompiledStatement
    declare: CompiledStatement
    count: CompiledStatement
    find: CompiledStatement
    find_with_nulls: CompiledStatement
    update: CompiledStatement | None
    _has_nulls: bool = False

    def lock(self, values: ParameterValues) -> Steps[None]:
        """Wait for other calls of the same scope."""
        yield bind(self.lock_scope, values)

    def begin(self, values: ParameterValues) -> Steps[int]:
        """Declare the cursor, and return the number of rows in the scope."""
        plan, (_, setting, seen, missing) = self.plan, self.names
        for reason in _reasons_against(plan):
            msg = (
                f"sync_rows cannot remove or mark rows of {plan.table.label}: {reason}"
            )
            raise UsageError(msg)
        # The server plans the cursor now, and takes what is to come for few keys.
        loops = yield Command(
            "SELECT pg_catalog.current_setting('enable_nestloop'),"
            f" pg_catalog.set_config('{setting}', '{{}}', true),"
            " pg_catalog.set_config('enable_nestloop', 'off', true)"
        )
        yield bind(self.declare, values)
        restore = (
            "SELECT pg_catalog.set_config('enable_nestloop', $1::pg_catalog.text, true)"
        )
        yield Command(restore, loops[0][:1])
        keys = ", ".join(
            f'{ALIAS}.{quote(k.column.name)} AS "k{n}"' for n, k in enumerate(plan.key)
        )
        yield Command(
            f"CREATE TEMPORARY TABLE {seen} AS SELECT {keys} FROM {name_table(plan)}"
            " WITH NO DATA",
            kind="command",
        )
        yield Command(
            f'CREATE TEMPORARY TABLE {missing} ("n" pg_catalog.int8 PRIMARY KEY,'
            ' "relation" pg_catalog.oid, "place" pg_catalog.tid)',
            kind="command",
        )
        rows = yield bind(self.count, values)
        number, is_same = rows[0]
        if not is_same:
            msg = f"{plan.table.label} has changed since it was reflected"
            raise StaleTableError(msg)
        size: int = number
        return size

    def note(self, group: RowGroup) -> Steps[None]:
        """Note the keys of some rows of the source."""
        kinds = [kind for _, kind in Request(*group.shape).key]
        columns = [k.column for k in self.plan.key]
        cells = group.columns[: len(columns)]
        self._has_nulls = self._has_nulls or any(
            column.__contains__(None) for column in cells
        )
        types = [
            TEXT if kind == "text" else column.type
            for kind, column in zip(kinds, columns, strict=True)
        ]
        into = f"INSERT INTO {self.names.seen} SELECT "
        if not all(column.supports_unnest for column in columns):
            values = ", ".join(f"${n}::{type_}" for n, type_ in enumerate(types, 1))
            for key in zip(*cells, strict=True):
                yield Command(into + values, key)
            return
        names = [f'"k{n}"' for n in range(len(columns))]
        arrays = ", ".join(
            f"pg_catalog.unnest(${n}::{type_}[])" for n, type_ in enumerate(types, 1)
        )
        selected = ", ".join(
            f"x.{name}::{column.type}"
            for name, column in zip(names, columns, strict=True)
        )
        sql = f"{into}{selected} FROM ROWS FROM ({arrays}) AS x ({', '.join(names)})"
        for start in range(0, len(cells[0]), _AT_ONCE):
            some = [ArrayArgument(c[start : start + _AT_ONCE]) for c in cells]
            yield Command(sql, some)

    def find_missing(self, values: ParameterValues) -> Steps[int]:
        """Lock and number the rows that the source does not have."""
        find = self.find_with_nulls if self._has_nulls else self.find
        rows = yield bind(find, values)
        if not rows[0][0]:
            return 0
        insert = (
            f'INSERT INTO {self.names.missing} SELECT x."n" {operator("+")}'
            ' $3::pg_catalog.int8, x."relation"::pg_catalog.oid,'
            ' x."place"::pg_catalog.tid FROM ROWS FROM'
            " (pg_catalog.unnest($1::pg_catalog.int8[]),"
            " pg_catalog.unnest($2::pg_catalog.text[]))"
            ' WITH ORDINALITY AS x ("relation", "place", "n")'
        )
        fetch = Command(f"FETCH {_AT_ONCE} FROM {self.names.cursor}", kind="once")
        number = 0
        while rows := (yield fetch):
            relations, places = (
                ArrayArgument(column) for column in zip(*rows, strict=True)
            )
            yield Command(insert, (relations, places, number))
            number += len(rows)
        return number

    def read(self, first: int, last: int) -> Steps[ResultRows]:
        """Return missing rows, as they are."""
        sql = (
            f"SELECT {', '.join(returned(self.plan))} FROM {name_table(self.plan)},"
            f' {_missing(self.names)} AND {_between("$1", "$2")} ORDER BY m."n"'
        )
        columns = len(self.plan.returning)
        return (yield Command(sql, (first, last), "once", caller_columns=columns))

    def remove(self) -> Steps[None]:
        """Remove all missing rows."""
        gone = name_cte(self.plan, "gone")
        sql = (
            f"WITH {gone} AS (DELETE FROM {name_table(self.plan)} USING"
            f" {_missing(self.names)} RETURNING 1)"
            f" SELECT (SELECT pg_catalog.count(*) FROM {gone}) {EQUALS}"
            f" (SELECT pg_catalog.count(*) FROM {self.names.missing})"
        )
        rows = yield Command(sql, kind="once")
        if not rows[0][0]:
            raise refused(self.plan.table.name)

    def mark(self, values: ParameterValues, first: int, last: int) -> Steps[ResultRows]:
        """Mark missing rows, and return them as they are then."""
        assert self.update is not None  # noqa: S101  # see compile_sync
        columns = len(self.plan.returning)
        arguments = [*self.update.arguments(values), first, last]
        rows = yield Command(self.update.sql, arguments, caller_columns=columns)
        if len(rows) != last - first:
            raise refused(self.plan.table.name)
        return [row[1:] for row in sorted(rows, key=_number)]

    def end(self) -> Steps[None]:
        """Close the cursor, and drop the tables."""
        cursor, setting, seen, missing = self.names
        yield Command(f"CLOSE {cursor}", kind="command")
        yield Command(f"DROP TABLE {seen}, {missing}", kind="command")
        yield Command(f"SELECT pg_catalog.set_config('{setting}', '', true)")


def _number(row: Sequence[Value]) -> Value:
    return row[0]


def _reasons_against(plan: Plan) -> Iterator[str]:
    """Yield why the rows of a table cannot be told apart by their places."""
    table = plan.table
    is_elsewhere = table.has_remote_rows or table.exact_because == citus.EXACT_BECAUSE
    if is_elsewhere or not table.all_indexes_known:
        yield "it is a view, or other servers have some of its rows"
    if not table.temporary_tables_allowed:
        yield "this role may not create temporary tables in the database"


# --- Statements -----------------------------------------------------------------------


def _lock(plan: Plan, scope: Names) -> CompiledStatement:
    """
    Write the locks of a scope.

    That of a whole table excludes those of its scopes. Values that may be equal but have
    different texts are left out, so that more calls wait than have to, but none too few.
    """
    writer = PostgresqlWriter()
    relation = plan.table.relation_id
    table = f"pg_catalog.hashtextextended('aioupsert', {relation})"
    if not scope:
        return writer.compiled(f"SELECT pg_catalog.pg_advisory_xact_lock({table})", "")
    parts = ["'aioupsert'"]
    for name in sorted(scope):
        column = plan.table.columns[name]
        values = () if plan.where is None else plan.where.walk()
        for part in values:
            if (
                part.kind == "value"
                and part.column == column
                and column.storage in CANONICAL
                and not column.collation
            ):
                text = f"{writer.expression(part)}::{TEXT}"
                parts.append(f"coalesce({text}, '')")
                break
        parts.append(quote_escaped(name))
    text = f" {CONCATENATED} '/' {CONCATENATED} ".join(parts)
    return writer.compiled(
        f"SELECT pg_catalog.pg_advisory_xact_lock_shared({table}),"
        " pg_catalog.pg_advisory_xact_lock("
        f"pg_catalog.hashtextextended({text}, {relation}))",
        "",
    )


def _in_scope(writer: PostgresqlWriter, plan: Plan) -> str:
    # Without IS TRUE, so that an index serves it.
    return "TRUE" if plan.where is None else writer.expression(plan.where)


def _key_text(plan: Plan) -> str:
    """Write the stored key as text, by which a stored row is found again."""
    keys = ", ".join(f"{ALIAS}.{quote(k.column.name)}" for k in plan.key)
    return f"ROW({keys})::{TEXT}"


def _declare(plan: Plan, names: _Names) -> CompiledStatement:
    writer = PostgresqlWriter()
    order = ", ".join(writer.column(k.column) for k in plan.key)
    strength = "NO KEY UPDATE" if plan.update else "UPDATE"
    sql = (
        f"DECLARE {names.cursor} NO SCROLL CURSOR FOR SELECT"
        f" {ALIAS}.tableoid::pg_catalog.int8, {ALIAS}.ctid::{TEXT}"
        f" FROM {name_table(plan)}, pg_catalog.unnest(pg_catalog.current_setting("
        f"'{names.setting}')::{TEXT}[]) AS m (\"key\")"
        f' WHERE {_key_text(plan)} {EQUALS} m."key" AND {_in_scope(writer, plan)}'
        f" ORDER BY {order} FOR {strength} OF {ALIAS}"
    )
    return writer.compiled(sql, "")


def _count(plan: Plan) -> CompiledStatement:
    writer = PostgresqlWriter()
    guards = " AND ".join(type_guards(plan)) or "TRUE"
    sql = (
        f"SELECT (SELECT pg_catalog.count(*) FROM {name_table(plan)}"
        f" WHERE {_in_scope(writer, plan)}), {guards}"
    )
    return writer.compiled(sql, "")


def _find(plan: Plan, names: _Names, *, with_nulls: bool) -> CompiledStatement:
    writer = PostgresqlWriter()
    tests: list[str] = []
    for n, k in enumerate(plan.key):
        stored, seen = writer.column(k.column), f's."k{n}"'
        test = writer.equal(stored, seen, k.column)
        if with_nulls:
            test = f"({test} OR {stored} IS NULL AND {seen} IS NULL)"
        tests.append(test)
    sql = (
        f"SELECT pg_catalog.count(*), pg_catalog.set_config('{names.setting}',"
        f" coalesce(pg_catalog.array_agg(DISTINCT {_key_text(plan)})::{TEXT}, '{{}}'),"
        f" true) IS NULL FROM {name_table(plan)} WHERE {_in_scope(writer, plan)}"
        f" AND NOT EXISTS (SELECT FROM {names.seen} AS s WHERE {' AND '.join(tests)})"
    )
    return writer.compiled(sql, "")


def _missing(names: _Names) -> str:
    """Write the join of the table with its missing rows."""
    return (
        f'{names.missing} AS m WHERE {ALIAS}.tableoid {EQUALS} m."relation"'
        f' AND {ALIAS}.ctid {EQUALS} m."place"'
    )


def _between(first: str, last: str) -> str:
    int8 = "pg_catalog.int8"
    return f'{first}::{int8} {LESS} m."n" AND m."n" {operator("<=")} {last}::{int8}'


def _mark(plan: Plan, names: _Names) -> CompiledStatement:
    writer = PostgresqlWriter()
    assignments = writer.assignments(plan.update)
    number = len(writer.parameters)  # of the values before the two numbers
    first, last = f"${number + 1}", f"${number + 2}"
    returning = ", ".join(['m."n"', *returned(plan)])
    sql = (
        f"UPDATE {name_table(plan)} SET {assignments} FROM {_missing(names)}"
        f" AND {_between(first, last)} RETURNING {returning}"
    )
    return writer.compiled(sql, "")
