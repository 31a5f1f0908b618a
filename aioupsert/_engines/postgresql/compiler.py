"""
The statements of one row on PostgreSQL.

`_single` writes a whole call as one statement, which is one round trip. The update is a
WITH query with RETURNING; the insert is another one, WHERE NOT EXISTS a row of the
first. PostgreSQL runs all parts of such a statement with the same snapshot and in no
defined order, except that a part which reads the output of another waits for it: the
reference makes the update come first. The insert has ON CONFLICT DO NOTHING without a
conflict target, so that no unique index of any kind raises an error, and a row that a
concurrent call has just created makes the statement return no row instead. Where it does
the same, INSERT ... ON CONFLICT DO UPDATE replaces both (see `insert_first`). Then, and
where the one statement is not possible (a rule, an exclusion constraint, ...), the
classic steps of `steps` send the update, the insert and the queries one by one.

Every statement returns rows that begin with their `RowCode`.

A value is a placeholder with a cast to a qualified type, so that neither its context nor
the search_path decides what it is. The expression of a default is written only together
with a guard, since the table may have been created again (see `PostgresqlWriter.guard`), and a
cast to a column's type with one that it still is its type (see `type_guards`).

References:
    PostgreSQL, "WITH Queries" (Data-Modifying Statements in WITH), "INSERT" (ON
    CONFLICT Clause), "Transaction Isolation", "System Columns".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from aioupsert._engines.postgresql.citus import EXACT_BECAUSE
from aioupsert._engines.postgresql.insert_first import may_insert_first
from aioupsert._engines.postgresql.qualifying import (
    CONCATENATED,
    EQUALS,
    LESS,
    is_built_in,
    operator,
)
from aioupsert._engines.postgresql.steps import PostgresqlCall
from aioupsert._engines.sql import (
    CompiledStatement,
    RowCode,
    SqlWriter,
    encode_json,
    quote,
    quote_escaped,
    quote_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aioupsert._plan import Assignment, KeyColumn, Plan, Resolved
    from aioupsert._plan.schema import Column, Constant, Storage, UniqueIndex

ALIAS: Final = quote("t")


def compile_call(plan: Plan) -> PostgresqlCall:
    """Compile every statement that a call with this plan may send."""
    single = None
    insert_first = may_insert_first(plan)
    if plan.on_conflict:
        single = _on_conflict(plan)
    elif not plan.exact_because and not plan.lock:
        when = "at REPEATABLE READ and above" if insert_first else "first"
        single = _single(plan, when)
    when = "when a concurrent call got in between" if single else "first"
    call = PostgresqlCall(
        plan=plan,
        single=single,
        at_any_level=None,
        update=_update(plan, when) if plan.update else None,
        find=_find(plan, when) if plan.conditional else None,
        insert=_insert(plan, "when the row does not exist"),
        insert_or_nothing=_insert(plan, _AGAIN, " ON CONFLICT DO NOTHING")
        if plan.table.supports_do_nothing
        else None,
        probe=_probe(plan),
        probed=tuple(index.name for index in _probed(plan)),
        look=_look(plan)
        if plan.table.row_security or plan.table.may_store_others
        else None,
        lock_row=_lock_row(plan) if plan.update and plan.table.lockable else None,
        lock=_lock(plan) if plan.lock else None,
        lock_rows=_lock_rows(plan) if plan.old and not plan.unique else None,
    )
    if not insert_first:
        return call
    return replace(call, single=_on_conflict(plan, proposes=True), at_any_level=call)


class PostgresqlWriter(SqlWriter):
    """
    Writes PostgreSQL's SQL, with numbered placeholders that are cast to a type.

    Attributes:
        defaults: The columns of which the expression of a default has been written.
    """

    def __init__(self) -> None:
        super().__init__(ALIAS)
        self._numbers: dict[tuple[int, str], int] = {}
        self.defaults: list[Column] = []

    def placeholder(
        self, parameter: int, cast: str, sent_as: SentAs = "", type_: str | None = None
    ) -> str:
        """
        Write the value of a parameter, cast to a type.

        Args:
            parameter: The parameter.
            cast: The type; "" leaves it to the database.
            sent_as: How the value is sent.
            type_: The type that the driver sends, where *cast* has a modifier too.
        """
        base = TEXT if sent_as else (type_ or cast)
        number = self._numbers.setdefault((parameter, base), len(self._numbers) + 1)
        if number > len(self.parameters):
            self.parameters.append(parameter)
            if sent_as == "json":
                self.encoders.append((number - 1, encode_json))
        text = f"${number}::{TEXT}" if sent_as else f"${number}"
        return f"{text}::{cast}" if cast else text

    def literal(self, expression: Resolved) -> str:
        name, column, parameter = (
            expression.name,
            expression.column,
            expression.parameter,
        )
        if column is not None:
            return self.placeholder(parameter, column.type, _sent_as(name, column))
        if name == "null":
            return "NULL"
        sent_as: SentAs = "json" if name == "json" else ""
        return self.placeholder(parameter, _LITERAL_TYPES[name], sent_as)

    def default(self, column: Column) -> str:
        self.defaults.append(column)
        return f"CAST(({column.default or 'NULL'}) AS {column.type})"

    def assigned(self, item: Assignment) -> str:
        return "DEFAULT" if item.term is None else self.expression(item.term)

    def ordered(self, args: Sequence[Resolved]) -> list[str]:
        if any(arg.family == "text" for arg in args):
            return [f'({self.expression(arg)} COLLATE "C")' for arg in args]
        return [self.expression(arg) for arg in args]

    def among(self, value: Resolved, members: Resolved) -> str:
        column = members.column
        type_ = _LITERAL_TYPES[members.name] if column is None else column.type
        array = self.placeholder(members.parameter, f"{type_}[]")
        equals = EQUALS if is_built_in(value) and is_built_in(members) else "="
        return f"({self.expression(value)} {equals} ANY ({array}))"

    def expression(self, expression: Resolved) -> str:
        # A string argument of an arbitrary function or of raw SQL has no cast, so that
        # its type is resolved as that of a quoted literal is.
        if expression.kind in {"call", "sql"}:
            bare = tuple(
                replace(arg, name="bare") if arg.name == "str" else arg
                for arg in expression.args
            )
            expression = replace(expression, args=bare)
        return super().expression(expression)

    def operator(self, expression: Resolved) -> str:
        # Operators of the caller's own types can only be found by the search_path.
        known = all(map(is_built_in, expression.args))
        return operator(expression.name) if known else expression.name

    def one_of(self, value: Resolved, values: Sequence[Resolved]) -> str:
        if not all(map(is_built_in, (value, *values))):
            return super().one_of(value, values)
        one = self.expression(value)
        tests = (f"{one} {EQUALS} {self.expression(other)}" for other in values)
        return f"({' OR '.join(tests)})"

    def same(self, one: Resolved, other: Resolved) -> str:
        equals = EQUALS if is_built_in(one) and is_built_in(other) else "="
        stored, value = self.expression(one), self.expression(other)
        return (
            f"({stored} IS NULL AND {value} IS NULL OR {stored} IS NOT NULL"
            f" AND {value} IS NOT NULL AND {stored} {equals} {value})"
        )

    def function(self, expression: Resolved) -> str:
        name, args = expression.name, expression.args
        match name:
            case "/" | "%":
                left, right = self.expression(args[0]), self._not_zero(args[1])
                return f"({left} {self.operator(expression)} {right})"
            case "greatest" | "least":
                return f"{name}({', '.join(self.ordered(args))})"
            case "lower" | "upper":
                text = f'{self.expression(args[0])} COLLATE "C"'
                return f"pg_catalog.{name}({text})"
            case "nullif":
                return self._null_if(args[0], args[1])
            case "like":
                text = f'({self.expression(args[0])})::{TEXT} COLLATE "C"'
                return f"({text} {operator('~~')} {self.expression(args[1])})"
            case "concat":
                parts = (f"{self.expression(arg)}::pg_catalog.text" for arg in args)
                return f"({f' {CONCATENATED} '.join(parts)})"
            case "merge":
                one, other = (f"({self.expression(a)})::pg_catalog.jsonb" for a in args)
                return (
                    "(SELECT CASE WHEN m.one IS NULL OR m.other IS NULL THEN NULL"
                    f" WHEN pg_catalog.jsonb_typeof(m.one) {EQUALS} 'object'"
                    f" AND pg_catalog.jsonb_typeof(m.other) {EQUALS} 'object'"
                    f" THEN m.one {CONCATENATED} m.other"
                    " ELSE m.other END"
                    f" FROM (SELECT {one} AS one, {other} AS other) AS m)"
                )
            case _:
                return f"pg_catalog.{name}({self.expressions(args)})"

    def _null_if(self, value: Resolved, other: Resolved) -> str:
        equals = EQUALS if is_built_in(value) and is_built_in(other) else "="
        return (
            f"(SELECT CASE WHEN n.v {equals} {self.expression(other)} THEN NULL"
            f" ELSE n.v END FROM (SELECT {self.expression(value)} AS v OFFSET 0) AS n)"
        )

    def _not_zero(self, divisor: Resolved) -> str:
        """Write a divisor, or NULL in place of zero; it is evaluated once."""
        text = self.expression(divisor)
        if divisor.name == "null":
            return text
        if not is_built_in(divisor):
            return f"NULLIF({text}, 0)"
        return (
            f"(SELECT CASE WHEN n.v {EQUALS} 0 THEN NULL ELSE n.v END"
            f" FROM (SELECT {text} AS v OFFSET 0) AS n)"
        )

    def key(self, plan: Plan) -> str:
        tests = [
            f"{self.column(k.column)} IS NULL"
            if k.is_null
            else self.equal(self.column(k.column), self.key_value(k), k.column)
            for k in plan.key
        ]
        # By which the planner finds an index WHERE column IS TRUE.
        tests += [
            f"{self.column(k.column)} IS {str(k.constant).upper()}"
            for k in plan.key
            if isinstance(k.constant, bool)
        ]
        return " AND ".join(tests)

    def lookup(self, plan: Plan) -> str:
        """
        Write the condition by which one row is looked up: by an index, if there is one.

        The server keeps the plan of a statement, and one that was made for a table of few
        rows would scan it also after it has grown. So for a small table the first equality
        is written again as part of an OR whose other part is costly by the planner's
        estimate, for each row that a scan would read. The equality implies the OR, which
        therefore disappears from a scan of the index, and nothing evaluates its other part.
        A scan of one row stays cheaper, and of none: see `size_guards`.

        With that, a statement for more than two partitions is planned each time anyway, as
        the planner then looks at one of them only. So there it is made sure of, by a
        condition that takes less time to plan (see `planned_anew`).
        """
        text = self.key(plan)
        given = [key for key in plan.key if not key.is_null and key.constant is None]
        table = plan.table
        if not (table.is_small and not table.is_empty and plan.unique and given):
            return text
        first = given[0]
        value = self.key_value(first)
        if table.has_many_partitions:
            is_true = f"pg_catalog.num_nulls({value}) {operator('>=')} 0"
            return f"{text} AND {planned_anew(is_true)}"
        test = self.equal(self.column(first.column), value, first.column)
        # The planner takes it that a thousand rows are read to find one.
        costly = (
            "EXISTS (SELECT FROM pg_catalog.generate_series(1, 1000) AS g (n)"
            f" WHERE n {EQUALS} 0 AND (n {operator('+')} 1) {EQUALS} 1 AND {test})"
        )
        return f"{text} AND ({test} OR {costly})"

    def equal(self, one: str, other: str, column: Column) -> str:
        """Write that two values of a column are equal."""
        return f"{one} {operator('=', column.operators)} {other}"

    def key_value(self, key: KeyColumn) -> str:
        if key.constant is not None:
            return f"{_constant(key.constant)}::{key.column.key_type}"
        sent_as = _sent_as(key.kind, key.column)
        column = key.column
        return self.placeholder(key.parameter, column.key_type, sent_as, column.type)

    def passes(self, plan: Plan) -> str:
        return (
            "TRUE" if plan.where is None else f"({self.expression(plan.where)} IS TRUE)"
        )

    def changes(self, plan: Plan) -> str:
        """
        Write whether an update would change a stored value.

        The operator *<> compares the stored images of records, so that 1.0 and 1.00
        differ, and columns without an equality operator can be compared. Images of
        char(n) differ in trailing spaces, which mean nothing.
        """
        if plan.compare is None:
            return "TRUE"
        stored: list[str] = []
        given: list[str] = []
        for item in plan.compare:
            cast = f"::{item.column.key_type}"
            if item.column.storage == "bpchar":
                cast += f"::{TEXT}"  # which has no trailing spaces
            stored.append(f"{self.column(item.column)}{cast}")
            given.append(f"({self.expression(item.term)}){cast}")
        one, other = ", ".join(stored), ", ".join(given)
        record = "::pg_catalog.record"
        return f"(ROW({one}){record} {operator('*<>')} ROW({other}){record})"

    def values(self, items: Sequence[Assignment]) -> tuple[str, str]:
        """Write the columns of an INSERT and their values; DEFAULT is left out."""
        given = [item for item in items if item.term is not None]
        names = ", ".join(quote(item.column.name) for item in given)
        values = ", ".join(self.expression(i.term) for i in given if i.term is not None)
        return (f"({names}) " if names else ""), values

    def insert_guards(self, plan: Plan) -> list[str]:
        """Write what must hold for the insert's values to be right."""
        return [*statement_guards(plan), *size_guards(plan), *self.default_guards(plan)]

    def default_guards(self, plan: Plan) -> list[str]:
        """Write whether the defaults whose expressions were written are still the same."""
        if not self.defaults:
            return []
        return [same_relation(plan), *same_defaults(plan, self.defaults)]


def planned_anew(is_true: str) -> str:
    """
    Write a condition by which a statement is planned each time.

    A kept plan would scan a small table also after it has grown. This makes it so costly
    that the server plans the statement for its arguments: with those the condition is TRUE
    when it is planned. Nothing evaluates the query.

    Args:
        is_true: A condition on an argument that always holds.
    """
    return (
        f"({is_true} OR (SELECT pg_catalog.count(*) {operator('>')} 0"
        " FROM pg_catalog.generate_series(1, 1000000000)))"
    )


def _constant(value: Constant) -> str:
    """Write a constant of a predicate, to be cast to a type."""
    return quote_escaped(str(value).lower() if isinstance(value, bool) else str(value))


def _relation(plan: Plan) -> str:
    return f"{quote_escaped(quote_path(plan.table.name))}::pg_catalog.regclass"


def same_relation(plan: Plan) -> str:
    """
    Write whether the table's name still means the relation that was reflected.

    With another search_path, or when the table has been created again, it may not. The
    server resolves the name when it plans the statement, and plans it again when either
    has changed.
    """
    return f"{_relation(plan)} {EQUALS} {plan.table.relation_id}::pg_catalog.oid"


def same_defaults(plan: Plan, columns: Iterable[Column]) -> list[str]:
    """
    Write whether columns still have the defaults that they were described with.

    ALTER COLUMN ... SET DEFAULT creates a new row of pg_attrdef, and changes nothing else
    that a guard looks at.
    """
    guards: list[str] = []
    for column in dict.fromkeys(columns):
        row = "EXISTS (SELECT FROM pg_catalog.pg_attrdef AS d WHERE"
        if column.default_id:
            guards.append(f"{row} d.oid {EQUALS} {column.default_id}::pg_catalog.oid)")
        elif column.number:
            guards.append(
                f"NOT {row} d.adrelid {EQUALS} {plan.table.relation_id}::pg_catalog.oid"
                f" AND d.adnum {EQUALS} {column.number}::pg_catalog.int2)"
            )
    return guards


def statement_guards(plan: Plan, *, only_key: bool = False) -> list[str]:
    """
    Write what holds before a statement reads or locks a row.

    A timeout for locks is set by the statement itself, which saves a round trip: as a
    subquery of its own that part is evaluated once, first. What is set so ends with the
    transaction, which by default is the statement.
    """
    guards = type_guards(plan, only_key=only_key)
    if not plan.lock_timeout or plan.table.exact_because == EXACT_BECAUSE:
        return guards
    limit = f"pg_catalog.set_config('lock_timeout', '{plan.lock_timeout}', true)"
    return [f"(SELECT {limit}) IS NOT NULL", *guards]


def type_guards(plan: Plan, *, only_key: bool = False) -> list[str]:
    """
    Write whether the columns still have the types that values are cast to.

    After ALTER TABLE a value would otherwise be cut to what the old type can hold, and a
    key be rounded to that of another row. Every part of a statement has the same guards:
    a stale statement writes nothing and returns no row, and the classic steps, which have
    them too, then end in an error after which the table is reflected again.

    A NULL of the row type has a type in every field, and needs no privilege and no row.
    The server plans the statement again when the table has changed. A precision is not
    part of a type, so it is read from the catalog, where a key or a comparison uses it.
    """
    table = plan.table
    if not table.row_type:
        return []
    keys = [k.column for k in plan.key if not k.is_null]
    compared = [] if only_key else [item.column for item in plan.compare or ()]
    typed = [
        part.column
        for part in (() if only_key else expressions_of(plan))
        if part.kind in {"value", "default"}
        and part.column is not None
        and part.column.type not in _LOSSLESS
    ]
    guards = [
        f"pg_catalog.pg_typeof((NULL::{table.row_type}).{quote(c.name)})"
        f"::pg_catalog.oid {EQUALS} {c.declared_type_id}::pg_catalog.oid"
        for c in {c.name: c for c in (*keys, *compared, *typed)}.values()
    ]
    guards += [
        "(SELECT a.atttypmod FROM pg_catalog.pg_attribute AS a WHERE a.attrelid"
        f" {EQUALS} {_relation(plan)} AND a.attname {EQUALS} {quote_escaped(c.name)})"
        f" {EQUALS} {c.modifier}"
        for c in {c.name: c for c in (*keys, *compared)}.values()
        # Without a precision, a value that is compared is not rounded to another one.
        if c.modifier is not None and (c.modifier >= 0 or c in keys)
    ]
    if table.row_type != quote_path(table.name):
        # A type hides the name, so the row type's schema is written.
        guards.append(same_relation(plan))
    return guards


_COUNTED: Final = ("relnatts", "relchecks")
_FLAGS: Final = ("relhastriggers", "relhassubclass", "relhasrules", "relrowsecurity")


def shape_guard(plan: Plan) -> str:
    """
    Write whether nothing looks at a row that is proposed but what did when it was described.

    ON CONFLICT proposes a row that may exist, which a new trigger or CHECK would see, and a
    new column would need a value for. A row of a child that has come since it would not
    find. One query of the row that the catalog has for the table tells all of this. A
    constraint NOT NULL or a unique index is not among them; these raise an error.
    """
    table = plan.table
    if not table.shape:
        return same_relation(plan)
    values = dict(zip((*_COUNTED, *_FLAGS), table.shape, strict=True))
    tests = [f"c.oid {EQUALS} {_relation(plan)}"]
    tests.append(f"c.oid {EQUALS} {table.relation_id}::pg_catalog.oid")
    tests += [f"c.{n} {EQUALS} {values[n]}::pg_catalog.int2" for n in _COUNTED]
    tests += [f"c.{n}" if values[n] else f"NOT c.{n}" for n in _FLAGS]
    if values["relhastriggers"]:
        # Then the flag tells nothing of another one. Bits: 1 row, 2 before, 4 insert.
        kind = f"(g.tgtype {operator('&')} {{}}::pg_catalog.int2) {EQUALS} {{}}"
        tests.append(
            "NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS g WHERE g.tgrelid"
            f" {EQUALS} c.oid AND g.tgenabled {operator('<>')} 'D'"
            f" AND ({kind.format(7, 7)} OR {kind.format(5, 4)}))"
        )
    return f"EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE {' AND '.join(tests)})"


def size_guards(plan: Plan) -> list[str]:
    """
    Write whether the table is still as small as a plan took it to be.

    If not, a statement that looks up one row finds nothing, the classic steps end in an
    error, as after a change of types, and the statement for a larger table is planned.
    """
    limit = plan.table.scan_limit
    if not (limit and plan.unique) or plan.on_conflict:
        return []
    return [f"{_size(plan)} {LESS} {limit}"]


def batch_size_guards(plan: Plan) -> list[str]:
    """
    Write whether the table is still so large that each batch looks its rows up by an index.

    The server plans a kept statement again after TRUNCATE, for a table without rows, and
    would scan it for each row also after it has grown. If the table has become small, the
    batch is stale, and is written by statements that are planned each time.
    """
    limit = plan.table.min_size
    return [f"{_size(plan)} {operator('>=')} {limit}"] if limit else []


def _size(plan: Plan) -> str:
    # As a subquery of its own it is evaluated once.
    return f"(SELECT pg_catalog.pg_relation_size({_relation(plan)}, 'main'))"


# A cast to one of these changes no value, so no other type of the column makes it wrong.
_LOSSLESS: Final = frozenset({"pg_catalog.text", "pg_catalog.varchar"})


def expressions_of(plan: Plan) -> Iterator[Resolved]:
    """Walk through all expressions of a plan, with their operands."""
    items = [item.term for item in (*plan.update, *plan.insert)]
    items += [item.term for item in plan.compare or ()]
    items.append(plan.where)
    for item in items:
        if item is not None:
            yield from item.walk()


TEXT: Final = "pg_catalog.text"
SentAs: TypeAlias = Literal["", "text", "json"]
"""How a value is sent: as the driver does, as text to be converted, or as JSON text."""


def _sent_as(kind: str, column: Column) -> SentAs:
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
    "ints": "pg_catalog.int8",
    "strs": "pg_catalog.text",
    "list": "",
    "other": "",
    "bare": "",
}


NOT_COMPARED: Final = "NULL::pg_catalog.bool[]"
"""Stands for which columns have changed where none has been updated."""


def name_cte(plan: Plan, name: str) -> str:
    """Return a name for a WITH query that hides no table of the statement."""
    name = f"aioupsert_{name}"
    return quote(f"{name}_" if name == plan.table.name[-1] else name)


def _row(code: str, columns: Iterable[str]) -> str:
    return ", ".join([code, *columns])


def returned(plan: Plan) -> list[str]:
    """Return the columns that the caller asked for."""
    return [f"{ALIAS}.{quote(name)}" for name in plan.returning]


def answer(
    code: str,
    plan: Plan,
    changed: str = NOT_COMPARED,
    old: Sequence[str] | None = None,
) -> str:
    """
    Write the columns of an answer, as `read_result` reads them.

    Args:
        code: The row's code.
        plan: The plan.
        changed: Which columns have changed.
        old: The columns as they were; None if they are what they are.
    """
    columns = returned(plan)
    if not plan.old:
        return _row(code, columns)
    return _row(code, [changed, *columns, *(columns if old is None else old)])


def kept_columns(plan: Plan) -> dict[str, str]:
    """Return names for the columns of a row as it was, by their own names."""
    names = dict.fromkeys([*plan.returning, *plan.table.visible])
    return {name: quote(f"aioupsert_{n}") for n, name in enumerate(names)}


def kept(plan: Plan) -> list[str]:
    """Write the columns of an existing row, to be kept beside the updated one."""
    columns = kept_columns(plan).items()
    return [f"{ALIAS}.{quote(name)} AS {kept}" for name, kept in columns]


def changed(plan: Plan, source: str) -> str:
    """
    Write which columns of an updated row differ from those that were kept.

    By their stored images, as `PostgresqlWriter.changes` compares them.
    """
    record = "::pg_catalog.record"
    columns = kept_columns(plan)
    tests = (
        f"ROW({ALIAS}.{quote(name)}){record} {operator('*<>')}"
        f" ROW({source}.{columns[name]}){record}"
        for name in plan.table.visible
    )
    return f"ARRAY[{', '.join(tests)}]::pg_catalog.bool[]"


def as_it_was(plan: Plan, source: str) -> list[str]:
    """Write the columns that the caller asked for as they were kept."""
    columns = kept_columns(plan)
    return [f"{source}.{columns[name]}" for name in plan.returning]


def name_table(plan: Plan) -> str:
    """Return the table's name, with the alias that columns are qualified by."""
    return f"{quote_path(plan.table.name)} AS {ALIAS}"


def _identified(writer: PostgresqlWriter, plan: Plan) -> str:
    guards = [*statement_guards(plan), *size_guards(plan)]
    return " AND ".join([writer.lookup(plan), *guards])


def _conditions(writer: PostgresqlWriter, plan: Plan) -> str:
    conditions = [_identified(writer, plan)]
    if plan.where is not None:
        conditions.append(writer.passes(plan))
    if plan.compare is not None:
        conditions.append(writer.changes(plan))
    return " AND ".join(conditions)


def _single(plan: Plan, when: str) -> CompiledStatement:
    """
    Write the whole call as one statement.

    It returns no row if a concurrent call came in between, or if the row can neither be
    updated nor inserted.
    """
    writer = PostgresqlWriter()
    updated, inserted, found = (
        name_cte(plan, n) for n in ("updated", "inserted", "found")
    )
    columns = [quote(f"c{n}") for n in range(1, len(plan.returning) + 1)]
    ctes: list[str] = []
    queries: list[str] = []
    insert_if: list[str] = []
    if plan.conditional:
        codes = [writer.passes(plan), writer.changes(plan) if plan.update else "FALSE"]
        names = ", ".join([quote("passes"), quote("changes"), *columns])
        ctes.append(
            f"{found} ({names}) AS (SELECT {_row(', '.join(codes), returned(plan))}"
            f" FROM {name_table(plan)} WHERE {_identified(writer, plan)})"
        )
        insert_if.append(f"NOT EXISTS (SELECT FROM {found})")
        left = [NOT_COMPARED, *columns, *columns] if plan.old else columns
        unchanged = (
            f"SELECT {_row(UNCHANGED_CODE, left)} FROM {found}"
            ' WHERE NOT ("passes" AND "changes")'
        )
        if plan.update:
            unchanged += f" AND NOT EXISTS (SELECT FROM {updated})"
        queries.append(unchanged)
    if plan.update:
        ctes += _updating(writer, plan, updated)
        insert_if.append(f"NOT EXISTS (SELECT FROM {updated})")
        queries.append(f"SELECT * FROM {updated}")
    names, values = writer.values(plan.insert)
    insert_if += writer.insert_guards(plan)
    ctes.append(
        f"{inserted} AS (INSERT INTO {name_table(plan)} {names}SELECT {values}"
        f" WHERE {' AND '.join(insert_if)} ON CONFLICT DO NOTHING"
        f" RETURNING {answer(str(RowCode.CREATED), plan, old=())})"
    )
    # Untyped, as the type of a NULL in the WITH query would not be that of the others.
    absent = ", NULL" * len(plan.returning) if plan.old else ""
    queries.append(f"SELECT *{absent} FROM {inserted}")
    sql = f"WITH {', '.join(ctes)} {' UNION ALL '.join(queries)}"
    return writer.compiled(sql, when)


UNCHANGED_CODE: Final = (
    f'CASE WHEN "passes" THEN {RowCode.UNCHANGED} ELSE {RowCode.SKIPPED} END'
)
"""The code of a row that is not updated, from the columns "passes" and "changes"."""


def _updating(writer: PostgresqlWriter, plan: Plan, name: str) -> list[str]:
    """
    Write the WITH query that updates, after one that keeps the row as it was.

    That one locks the row, and so sees it as it is then, not as in the statement's
    snapshot. The update waits for it, as it reads its output, and updates that version
    of the row, as it would after waiting for another writer. Where the key may match
    several rows, they have been locked before (`PostgresqlCall.lock_rows`), so that no
    version is newer than the snapshot, and each is found by all its columns.
    """
    if not plan.old:
        return [f"{name} AS ({_plain_update(writer, plan)})"]
    update = f"UPDATE {name_table(plan)} SET {writer.assignments(plan.update)}"
    conditions = _conditions(writer, plan)
    code = str(RowCode.UPDATED)
    source = name_cte(plan, "old")
    columns, pairs = kept(plan), ""
    if not plan.unique:
        whole, row = f"({ALIAS}.*)::pg_catalog.record", quote("aioupsert_row")
        columns.append(f"{whole} AS {row}")
        pairs = f" AND {whole} {operator('*=')} {source}.{row}"
    returning = answer(code, plan, changed(plan, source), as_it_was(plan, source))
    return [
        (
            f"{source} AS MATERIALIZED (SELECT {', '.join(columns)}"
            f" FROM {name_table(plan)} WHERE {conditions} FOR NO KEY UPDATE)"
        ),
        (
            f"{name} AS ({update} FROM {source} WHERE {conditions}{pairs}"
            f" RETURNING {returning})"
        ),
    ]


def _update(plan: Plan, when: str) -> CompiledStatement:
    writer = PostgresqlWriter()
    if plan.old:
        updated = name_cte(plan, "updated")
        ctes = ", ".join(_updating(writer, plan, updated))
        return writer.compiled(f"WITH {ctes} SELECT * FROM {updated}", when)
    return writer.compiled(_plain_update(writer, plan), when)


def lock_order(plan: Plan) -> list[Column]:
    """
    Return the columns by whose order the rows of a key are locked, if it may have several.

    An update locks rows in the order in which it finds them. That is not the same for two
    statements, one of which began before the rows were written and so moved, so that they
    could deadlock.
    """
    table = plan.table
    if plan.unique or table.has_children or table.has_remote_rows or not table.lockable:
        return []
    columns = [table.columns[name] for name in sorted(table.primary_key)]
    return columns if all(column.readable for column in columns) else []


def collated(text: str, column: Column) -> str:
    """Write a value by which rows are sorted."""
    # By code point, which is faster than by language, and the same for every session.
    return f'{text} COLLATE "C"' if column.storage in {"text", "varchar"} else text


def _in_order(writer: PostgresqlWriter, plan: Plan) -> str:
    columns = [collated(writer.column(c), c) for c in lock_order(plan)]
    return f" ORDER BY {', '.join(columns)}" if columns else ""


def _plain_update(writer: PostgresqlWriter, plan: Plan) -> str:
    """Write the update that does not keep the row as it was."""
    update = f"UPDATE {name_table(plan)} SET {writer.assignments(plan.update)}"
    conditions = _conditions(writer, plan)
    order = lock_order(plan)
    if order:
        # An expression of the caller's may name a column without its table.
        names = {c: quote(f"aioupsert_{n}") for n, c in enumerate(order)}
        locked = name_cte(plan, "locked")
        columns = (f"{writer.column(c)} AS {name}" for c, name in names.items())
        update += (
            f" FROM (SELECT {', '.join(columns)} FROM {name_table(plan)} WHERE"
            f" {conditions}{_in_order(writer, plan)} FOR NO KEY UPDATE) AS {locked}"
        )
        # A row that is locked has met the others as it is now.
        conditions = " AND ".join(
            writer.equal(writer.column(c), f"{locked}.{name}", c)
            for c, name in names.items()
        )
        conditions += f" AND {_identified(writer, plan)}"
    returning = answer(str(RowCode.UPDATED), plan)
    return f"{update} WHERE {conditions} RETURNING {returning}"


def _lock_rows(plan: Plan) -> CompiledStatement:
    writer = PostgresqlWriter()
    sql = (
        f"SELECT FROM {name_table(plan)} WHERE {_identified(writer, plan)}"
        f"{_in_order(writer, plan)} FOR NO KEY UPDATE"
    )
    return writer.compiled(sql, "first, in a transaction of its own if there is none")


def _find(plan: Plan, when: str) -> CompiledStatement:
    """Write a query for the existing row; UPDATED means that an update would apply."""
    writer = PostgresqlWriter()
    changes = writer.changes(plan) if plan.update else "FALSE"
    code = (
        f"CASE WHEN NOT {writer.passes(plan)} THEN {RowCode.SKIPPED}"
        f" WHEN NOT {changes} THEN {RowCode.UNCHANGED} ELSE {RowCode.UPDATED} END"
    )
    sql = (
        f"SELECT {answer(code, plan)} FROM {name_table(plan)}"
        f" WHERE {_identified(writer, plan)}"
    )
    return writer.compiled(sql, f"{when}, if nothing was updated")


def _insert(plan: Plan, when: str, on_conflict: str = "") -> CompiledStatement:
    writer = PostgresqlWriter()
    names, values = writer.values(plan.insert)
    lock = source = ""
    if plan.table.needs_key_lock:
        name = name_cte(plan, "lock")
        lock = f"WITH {name} AS MATERIALIZED (SELECT {_advisory_lock(writer, plan)}) "
        source = f" FROM {name}"
    guards = " AND ".join(writer.insert_guards(plan))
    guard = f" WHERE {guards}" if guards else ""
    sql = (
        f"{lock}INSERT INTO {name_table(plan)} {names}SELECT {values}{source}{guard}"
        f"{on_conflict} RETURNING {answer(str(RowCode.CREATED), plan)}"
    )
    return writer.compiled(sql, when)


def native_code(plan: Plan) -> str:
    """
    Write the code of a native upsert, in its RETURNING.

    From version 18 on RETURNING has the old row, which is NULL for one just inserted
    ("Returning Data from Modified Rows"). Before, a row that this statement inserted has
    an xmax of 0 ("System Columns"); partitioned tables have no xmax to return.
    """
    if plan.table.supports_returning_old:
        # The right to read tableoid is that to read all columns.
        stored = [quote(k.column.name) for k in plan.key_with_values] or ["tableoid"]
        created = f"old.{stored[0]} IS NULL"
    else:
        created = f"{ALIAS}.xmax {EQUALS} 0"
    return f"CASE WHEN {created} THEN {RowCode.CREATED} ELSE {RowCode.UPDATED} END"


def _on_conflict(plan: Plan, *, proposes: bool = False) -> CompiledStatement:
    """
    Write the native upsert.

    It returns no row if *where* or *skip_unchanged* leaves the existing one unchanged.

    Args:
        plan: The plan.
        proposes: Whether it is in place of update and insert, and returns no row either
            if that is not right (see `may_insert_first`).
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
    guards = statement_guards(plan)
    if proposes:
        guards += [f"{LEVEL} {EQUALS} '{_READ_COMMITTED}'", shape_guard(plan)]
        guards += same_defaults(plan, writer.defaults)
    else:
        guards += writer.default_guards(plan)
    sql = (
        f"INSERT INTO {name_table(plan)} {names}SELECT {values}"
        f" WHERE {' AND '.join(guards) or 'TRUE'}"
        f" ON CONFLICT ({target}) DO {action}"
        f" RETURNING {_row(code, returned(plan))}"
    )
    return writer.compiled(sql, "first")


LEVEL: Final = "pg_catalog.current_setting('transaction_isolation')"
_READ_COMMITTED: Final = "read committed"


def _probe(plan: Plan) -> CompiledStatement:
    """
    Write a query for the reason why an insert keeps failing.

    It returns the isolation level, whether a row with the key is visible, and for each
    other unique index whether a row with the same values is. All of it comes from one
    snapshot: if a row is visible by another index and none by the key, it is a different
    row, and no retry can succeed.
    """
    writer = PostgresqlWriter()
    conditions = [writer.key(plan)]
    conditions += [_same_row(writer, plan, index) for index in _probed(plan)]
    tests = [
        f"EXISTS (SELECT FROM {name_table(plan)} WHERE {condition})"
        for condition in conditions
    ]
    # On the servers behind postgres_fdw, every transaction is at least REPEATABLE READ.
    level = "'repeatable read'" if plan.table.has_remote_rows else LEVEL
    sql = f"SELECT {level}, {', '.join(tests)}"
    return writer.compiled(sql, _AGAIN)


_AGAIN: Final = "when the insert fails again"


def _look(plan: Plan) -> CompiledStatement:
    """Write a query for whether policies apply, and whether a row with the key is visible."""
    writer = PostgresqlWriter()
    hides = (
        "TRUE"
        if plan.table.may_store_others
        else f"pg_catalog.row_security_active({_relation(plan)})"
    )
    # As the detail of a violation has them.
    written = [
        "NULL" if k.is_null else f"({writer.key_value(k)})::{TEXT}" for k in plan.key
    ]
    sql = (
        f"SELECT {hides},"
        f" EXISTS (SELECT FROM {name_table(plan)} WHERE {writer.key(plan)}),"
        f" {', '.join(written)}"
        f" FROM pg_catalog.pg_sleep({_LOOK_SECONDS})"
    )
    return writer.compiled(sql, f"{_AGAIN} in a transaction")


_LOOK_SECONDS: Final = 0.005


def _lock_row(plan: Plan) -> CompiledStatement:
    """Write a query that locks the rows with the key."""
    writer = PostgresqlWriter()
    sql = (
        f"SELECT 1 FROM {name_table(plan)} WHERE {_identified(writer, plan)}"
        f"{_in_order(writer, plan)} FOR NO KEY UPDATE OF {ALIAS}"
    )
    return writer.compiled(sql, "when nothing was updated several times")


def _probed(plan: Plan) -> list[UniqueIndex]:
    """Return the indexes by which another row can be found that is in the way."""
    given = {i.column.name for i in plan.insert if i.term and i.term.kind == "value"}
    return [
        index
        for index in plan.table.unique
        if all(
            expression is not None or column in given
            for column, expression in index.parts
        )
    ]


def _same_row(writer: PostgresqlWriter, plan: Plan, index: UniqueIndex) -> str:
    """Write the condition that a stored row has the same values for an index."""
    given: dict[str | None, Assignment] = {i.column.name: i for i in plan.insert}
    tests: list[str] = []
    for column, expression in index.parts:
        if expression is not None:
            tests.append(f"({expression}) = {_proposed(writer, plan, expression)}")
        else:
            item = given[column]
            one, other = writer.column(item.column), writer.assigned(item)
            tests.append(writer.equal(one, other, item.column))
    tests.append(f"({index.predicate or 'TRUE'})")
    if index.predicate is not None:
        tests.append(_proposed(writer, plan, index.predicate))
    return " AND ".join(tests)


def _proposed(writer: PostgresqlWriter, plan: Plan, expression: str) -> str:
    """
    Write the value of an index's expression for the row to insert.

    Each column that it may name is there, or the name would be taken for a column of the
    stored row. A default that takes the next value of a sequence is left out.
    """
    given = {item.column.name: item.term for item in plan.insert}
    columns: list[str] = []
    for column in plan.table.columns.values():
        if column.name not in expression and quote(column.name) not in expression:
            continue
        value = given.get(column.name)
        text = f"NULL::{column.type}"
        if value is not None and value.kind == "value":
            text = writer.expression(value)
        elif value is None and not column.consumes_sequence and column.default:
            text = f"CAST(({column.default}) AS {column.type})"
        columns.append(f"{text} AS {quote(column.name)}")
    return f"(SELECT {expression} FROM (SELECT {', '.join(columns)}) AS {ALIAS})"


# Equal values of these have equal texts. Columns of other types are left out of the
# lock's key, so that more calls wait for each other than have to, but none too few.
CANONICAL: Final[frozenset[Storage]] = frozenset(
    {"integer", "boolean", "uuid", "text", "varchar"}
)


def key_number(writer: PostgresqlWriter, plan: Plan) -> str:
    """Write the number of the advisory lock on a key."""
    parts = [
        "coalesce("
        f"{writer.placeholder(k.parameter, k.column.type, _sent_as(k.kind, k.column))}"
        "::pg_catalog.text, '')"
        for k in plan.key
        if k.column.storage in CANONICAL and not k.is_null
    ]
    text = f" {CONCATENATED} '/' {CONCATENATED} ".join(parts) or "''"
    return f"pg_catalog.hashtextextended({text}, {plan.table.relation_id})"


def lock_all_keys(plan: Plan, *, shared: bool) -> str:
    """
    Write the advisory lock on all keys of a table.

    One that is shared comes before those on single keys. So a session can lock thousands of
    keys without filling the server's table of locks, which is for all sessions.
    """
    function = f"pg_advisory_xact_lock{'_shared' if shared else ''}"
    return f"pg_catalog.{function}({plan.table.relation_id}::pg_catalog.int8)"


def _advisory_lock(writer: PostgresqlWriter, plan: Plan) -> str:
    return (
        f"CASE WHEN {lock_all_keys(plan, shared=True)} IS NOT NULL"
        f" THEN pg_catalog.pg_advisory_xact_lock({key_number(writer, plan)}) END"
    )


def _lock(plan: Plan) -> CompiledStatement:
    """Write the advisory lock; above READ COMMITTED it only returns the level."""
    writer = PostgresqlWriter()
    sql = (
        f"SELECT {LEVEL}, CASE WHEN {LEVEL} {EQUALS} '{_READ_COMMITTED}'"
        f" THEN {_advisory_lock(writer, plan)} END"
    )
    return writer.compiled(sql, "first, in a transaction of its own if there is none")
