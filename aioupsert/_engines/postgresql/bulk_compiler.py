"""
The statements for many rows on PostgreSQL.

A statement reads the rows of a batch from its first WITH query, whose source is one of
two: ``unnest()`` of arrays that are the statement's arguments, one array for each column,
or a temporary table to which the rows were copied. It is one of two forms:

- INSERT ... ON CONFLICT DO UPDATE, if that does exactly what was asked;
- update first: lock the existing rows, update them, and insert the others with ON
  CONFLICT DO NOTHING. `_reasons_against_on_conflict` lists when this is needed: ON
  CONFLICT evaluates defaults, and so consumes sequence values, and checks NOT NULL, for
  rows that are then updated.

Both take the rows in the order of their keys, so that two writers of the same rows lock
them in the same order and cannot deadlock. Whatever the statistics say, rows are looked up
in the table by an index; see `_FEW` and `planned_anew`. A condition that may leave rows
unchanged adds a query, sent first, which finds those rows.

A statement reports each row that it wrote. A row that it does not report conflicted with
a concurrent call, has the key of an earlier row of the batch, or was silently not
written; `bulk_steps` tries it again. Where counts are enough, a second text of the
statement returns one row with the counts and the numbers of the rows not reported.

Joins of the rows with each other are FULL JOINs, which PostgreSQL can only execute as
hash or merge joins: its estimate for the rows of an array can be wrong by orders of
magnitude, and a nested loop would take quadratic time.

References:
    PostgreSQL, "INSERT" (ON CONFLICT Clause), "WITH Queries", "SELECT" (The Locking
    Clause), "Array Functions" (unnest), "Populating a Database".
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from aioupsert._engines.postgresql.bulk_steps import (
    BatchColumn,
    BatchStatement,
    KeyLock,
    KeyLocks,
    PostgresqlBatch,
    ReportingStatement,
    array,
)
from aioupsert._engines.postgresql.catalog import (
    DEFERS,
    EXCLUDES,
    FIRES_BEFORE,
    FIRES_FOR_STATEMENT,
    MAY_NOT_INSERT,
)
from aioupsert._engines.postgresql.compiler import (
    ALIAS,
    CANONICAL,
    LEVEL,
    NOT_COMPARED,
    TEXT,
    UNCHANGED_CODE,
    PostgresqlWriter,
    SentAs,
    as_it_was,
    batch_size_guards,
    changed,
    collated,
    compile_call,
    expressions_of,
    kept,
    key_number,
    lock_all_keys,
    lock_order,
    name_cte,
    name_table,
    native_code,
    planned_anew,
    returned,
    same_defaults,
    same_relation,
    shape_guard,
    statement_guards,
    type_guards,
)
from aioupsert._engines.postgresql.insert_first import counts_from_zero
from aioupsert._engines.postgresql.qualifying import (
    EQUALS,
    LESS,
    PG_CATALOG,
    operator,
)
from aioupsert._engines.sql import RowCode, encode_json, quote
from aioupsert._plan import KEY_IS_GENERATED
from aioupsert._plan.resolving import added_parameter
from aioupsert.expressions import MEMBERS

if TYPE_CHECKING:
    from aioupsert._plan import Assignment, KeyColumn, Plan, Resolved
    from aioupsert._plan.schema import Column


def compile_batch(plan: Plan, *, distinct: bool) -> PostgresqlBatch:
    """
    Compile the statements for rows of one request shape.

    Args:
        plan: The plan of each row.
        distinct: Whether no two rows of a batch have the same key.
    """
    per_row = compile_call(plan)
    lock = _lock(plan)
    locks: tuple[KeyLock, ...] = ()
    if lock is not None and plan.update and plan.lock_timeout:
        locks = (
            _key_lock(_find_locked, plan),
            _key_lock(_find_holders, plan, locks=False),
        )
    draws = bool(_drawn_columns(plan))
    apart = _is_apart(plan)
    reason = next(_reasons_for_one_by_one(plan, apart=apart), None)
    if reason is not None:
        how = f"one by one: {reason}"
        return PostgresqlBatch(per_row, how, lock=lock, draws=draws, locks=locks)
    reasons = [*_reasons_against_on_conflict(plan)]
    write: _Write
    if apart:
        how = f"update, then insert: {plan.exact_because}"
        write = _update if plan.update else _insert
    elif not reasons:
        how, write = "INSERT ... ON CONFLICT DO UPDATE", _on_conflict
    else:
        how = f"update first: {reasons[0]}"
        # Its partitions take longer to plan an UPDATE for than to lock the rows.
        native = (
            reasons == [_CREATED_UNKNOWN]
            and plan.table.is_partitioned
            and _locks_all(plan)
        )
        write = partial(_update_first, native=native)
    may_skip = not plan.update or plan.where is not None or plan.compare is not None
    # All statements read the same columns, which are known once all are written.
    columns: list[BatchColumn] = []
    arrays = _returns_arrays(plan)
    unchanged = None
    if may_skip:
        unchanged = _drafts(
            _find_unchanged, plan, columns, counting=plan.unique, arrays=arrays
        )
    upsert = _drafts(write, plan, columns, counting=plan.unique)
    insert = None
    if apart and plan.exact_because != KEY_IS_GENERATED:
        insert = _drafts(_insert, plan, columns, counting=plan.unique)
    create = create_all = None
    if not apart and not plan.update and plan.unique:
        write = partial(_update_first, native=False, missing=True)
        create = _drafts(write, plan, columns, counting=True)
        write = partial(write, on_conflict="")
        create_all = _drafts(write, plan, columns, counting=False, arrays=arrays)
    takes_arrays = all(column.supports_unnest for column in _typing_columns(plan))
    staging_table = _staging_table(columns)
    names = ", ".join(f'"c{n}" {c.type}' for n, c in enumerate(columns, start=1))
    return PostgresqlBatch(
        per_row,
        how,
        None if unchanged is None else unchanged.finished(),
        upsert.finished(),
        tuple(columns),
        staging_table,
        f"CREATE TEMPORARY TABLE pg_temp.{quote(staging_table)}"
        f' ("ord" pg_catalog.int8, {names})'
        if plan.table.temporary_tables_allowed
        else "",
        # A table that is kept would prevent others from dropping or altering a type.
        keeps_staging_table=all(c.type.startswith(f"{PG_CATALOG}.") for c in columns),
        takes_arrays=takes_arrays,
        lock=lock,
        draws=draws,
        draw=tuple(_draw(plan, c) for c in _drawn_beforehand(plan)),
        create=None if create is None else create.finished(),
        create_all=None if create_all is None else create_all.finished(),
        apart=apart,
        insert=None if insert is None else insert.finished(),
        same_keys=None
        if distinct or not _has_arrays(plan)
        else _key_lock(_same_keys, plan, locks=False),
        same_table=_same_table(plan),
        locks=locks,
        lock_keys=_lock_keys(plan),
    )


def _same_table(plan: Plan) -> str:
    """Write the query for whether the defaults that a statement may write are the same."""
    written = [p.column for p in expressions_of(plan) if p.kind == "default"]
    columns = [c for c in (*written, *_drawn_columns(plan)) if c is not None]
    return (
        f"SELECT {' AND '.join([same_relation(plan), *same_defaults(plan, columns)])}"
    )


def _drawn_columns(plan: Plan) -> list[Column]:
    """Return the columns of a new row that take the next value of a sequence."""
    given = {item.column.name for item in plan.insert if item.term is not None}
    columns = plan.table.columns.values()
    return [c for c in columns if c.may_draw and c.name not in given]


_DRAWN_BEFOREHAND: Final = frozenset({"int2", "int4", "int8"})


def _drawn_beforehand(plan: Plan) -> list[Column]:
    """Return those whose values can be sent again as they were received."""
    return [c for c in _drawn_columns(plan) if c.type_name in _DRAWN_BEFOREHAND]


def _staging_table(columns: Sequence[BatchColumn]) -> str:
    """
    Name a temporary table after its columns.

    Drivers cache the columns of a name, and the server counts statements by the table.
    """
    types = ",".join(column.type for column in columns)
    return f"aioupsert_{hashlib.blake2b(types.encode(), digest_size=8).hexdigest()}"


def _typing_columns(plan: Plan) -> Iterator[Column]:
    """Yield the table's columns that give a row's values their type."""
    yield from (k.column for k in plan.key if k.kind != "text")
    for part in expressions_of(plan):
        if part.column is not None and part.kind == "value" and part.name != "text":
            yield part.column


# A trigger must not see an insert that turns out to be an update; ON CONFLICT does not know
# every constraint; and a row that cannot be inserted by this role may yet be updated.
_APART: Final = frozenset(
    {FIRES_BEFORE, FIRES_FOR_STATEMENT, EXCLUDES, DEFERS, MAY_NOT_INSERT}
)


def _is_apart(plan: Plan) -> bool:
    """Return whether rows are updated and inserted by two statements."""
    reasons = {plan.exact_because, plan.table.exact_because}
    if plan.exact_because == KEY_IS_GENERATED:
        # Rows that do not exist are left, as none can be inserted.
        return bool(plan.update) and reasons <= {*_APART, KEY_IS_GENERATED, None}
    return plan.exact_because in _APART


def _changes_key(plan: Plan) -> bool:
    """Return whether a column of the key is set to another value than the key's."""
    values = {k.column.name: k.parameter for k in plan.key}
    renamed = {*plan.renames}
    return any(
        item.term is None
        or item.term.kind != "value"
        or item.term.parameter != values[item.column.name]
        for item in (*plan.update, *plan.insert)
        if item.column.name in renamed
    )


def _reasons_for_one_by_one(plan: Plan, *, apart: bool) -> Iterator[str]:
    """Yield why no statement can write many rows, not even *apart* from each other."""
    if plan.exact_because and not apart:
        yield plan.exact_because
    if not plan.key_with_values:
        yield "each value of the key is NULL"
    if _changes_key(plan):
        yield "the call changes the key itself"
    if not all(_has_type(part, plan) for part in expressions_of(plan)):
        yield "an expression has a value of unknown type"
    if plan.table.one_by_one_because:
        yield plan.table.one_by_one_because


def _comes_from_row(part: Resolved, plan: Plan) -> bool:
    """Return whether it is a value that each row has for itself."""
    is_value = part.kind in {"value", "literal"}
    return is_value and part.parameter < plan.row_parameters


def _has_type(part: Resolved, plan: Plan) -> bool:
    """Return whether the values that it takes from a row can be typed as an array."""
    if part.name in MEMBERS and _comes_from_row(part, plan):
        return False  # an array of arrays has one dimension more
    if part.kind == "literal" and _comes_from_row(part, plan):
        return part.name not in {"list", "other", "null", "bare"}
    # An argument of an arbitrary function, or of raw SQL, has no type of its own.
    return part.kind not in {"call", "sql"} or not any(
        arg.kind == "literal" and _comes_from_row(arg, plan) for arg in part.args
    )


def _reasons_against_on_conflict(plan: Plan) -> Iterator[str]:
    """Yield why ``ON CONFLICT DO UPDATE`` would do something else than was asked."""
    table = plan.table
    given = {item.column.name: item.term for item in plan.insert}
    left_out = [c for c in table.columns.values() if given.get(c.name) is None]
    defaults = [
        part.column
        for part in expressions_of(plan)
        if part.kind == "default" and part.column is not None
    ]
    if plan.old:
        yield "old is asked for"
    if not table.supports_on_conflict_update:
        yield _CREATED_UNKNOWN
    if table.has_children:
        yield "rows of tables that inherit from it are found, too"
    if not table.infers(plan.key_nulls):
        yield "no unique index is on exactly the key"
    if not plan.update:
        yield "nothing is updated"
    if any(column.consumes_sequence for column in (*defaults, *left_out)):
        yield "updates would consume sequence values"
    if any(column.required for column in left_out):
        yield "rows lack columns that are NOT NULL"
    if not _excluded_suffices(plan):
        yield "EXCLUDED may differ from the row's own value"


_CREATED_UNKNOWN: Final = "it cannot return whether a row was created"


def _locks_all(plan: Plan) -> bool:
    """Return whether existing rows are locked one and all, and then updated."""
    return not (
        not plan.update
        or plan.where is not None
        or plan.compare is not None
        or plan.table.updates_may_be_refused
    )


def _excluded_suffices(plan: Plan) -> bool:
    """Return whether EXCLUDED has every value that the update takes from the row."""
    excluded = _excluded_columns(plan)
    used = [
        item.term
        for item in plan.update
        if item.term is not None and not _is_excluded_itself(item, excluded)
    ]
    if plan.where is not None:
        used.append(plan.where)
    for part in (part for expression in used for part in expression.walk()):
        if _comes_from_row(part, plan):
            column = excluded.get(part.parameter)
            # What EXCLUDED has is rounded, cut or padded as the column does.
            if column is None or column.may_alter_values:
                return False
    return True


def _is_excluded_itself(item: Assignment, excluded: Mapping[int, Column]) -> bool:
    """Return whether a column is set to the value that the insert proposes for it."""
    new = item.term
    return (
        new is not None
        and new.kind == "value"
        and excluded.get(new.parameter) == item.column
    )


def _excluded_columns(plan: Plan) -> dict[int, Column]:
    """Return the columns of EXCLUDED that hold a row's values, by parameter."""
    updates = {item.column.name: item.term for item in plan.update}
    columns: dict[int, Column] = {}
    for column, value in plan.insert:
        if value is None:
            continue
        if value.kind == "value":
            columns[value.parameter] = column
        elif counts_from_zero(column) and value.name == "+":
            # The insert proposes zero plus what is added.
            parameter = added_parameter(updates.get(column.name), value, column)
            if parameter is not None:
                columns[parameter] = column
    return columns


# --- Statements -----------------------------------------------------------------------

# True of every row, but the server estimates that one of three meets each of these conditions
# ("Row Estimation Examples" in its documentation). By the true number it would hash and scan
# the table, which is ruinous where the table has grown since, and compile the statement, which
# takes longer than to run it. So it uses an index, unless the table is tiny.
_FEW: Final = f'"ord" {operator(">")} 0 AND ("ord" {operator("+")} 1) {operator(">")} 1'
# What reads the temporary table is planned whenever it runs. Where the table has up to five
# times as many rows, it is quicker to hash it.
_STAGED: Final = f'{_FEW} AND ("ord" {operator("+")} 2) {operator(">")} 2'


def _guards(plan: Plan, *, only_key: bool = False) -> list[str]:
    return [*statement_guards(plan, only_key=only_key), *batch_size_guards(plan)]


_MANY_HASHED: Final = 100
"""The number of keys up to which partitions by hash without one are left out."""


class _BatchWriter(PostgresqlWriter):
    """
    Writes the values of a row as columns of the batch, and the rest as placeholders.

    Attributes:
        rows: The name of the WITH query that has the rows.
        columns: Its columns, shared by all statements for the batch; a value that none
            of them has used yet becomes another column.
        guards: What must hold for the rows to be read at all.
        joins_table: Whether the statement looks rows up by their keys.
        is_small: Whether the table may be so small that a plan would scan it.
        first_array: The number of the first array among the arguments; 0 if the rows are
            not read from arrays, or this number is not known yet.
    """

    def __init__(
        self, plan: Plan, columns: list[BatchColumn], first_array: int = 0
    ) -> None:
        """Start a statement."""
        super().__init__()
        self.rows: str = name_cte(plan, "rows")
        self.columns = columns
        self.guards: Sequence[str] = _guards(plan)
        self.joins_table: bool = False
        self.is_small: bool = plan.table.is_small
        self.first_array = first_array
        self._row_parameters = plan.row_parameters
        self._excluded: Mapping[int, Column] = {}

    def placeholder(
        self, parameter: int, cast: str, sent_as: SentAs = "", type_: str | None = None
    ) -> str:
        """Write a value: of EXCLUDED, of a column of the batch, or a placeholder."""
        if parameter >= self._row_parameters:
            return super().placeholder(parameter, cast, sent_as, type_)
        if parameter in self._excluded:
            return f"EXCLUDED.{quote(self._excluded[parameter].name)}"
        encode = encode_json if sent_as == "json" else None
        type_ = TEXT if sent_as else (type_ or cast)
        return f"{self.row_value(BatchColumn(parameter, type_, encode))}::{cast}"

    def row_value(self, column: BatchColumn) -> str:
        """Write a value of a row, of a column that is added to the batch if need be."""
        if column not in self.columns:
            self.columns.append(column)
        return f'{self.rows}."c{self.columns.index(column) + 1}"'

    def key(self, plan: Plan) -> str:
        """Write the condition that a stored row has the key of a row of the batch."""
        self.joins_table = True
        text = super().key(plan)
        if plan.table.is_partitioned and self.first_array:
            by = plan.table.partitioned_by
            text += "".join(
                self._prunes(k, by.get(k.column.name, ""))
                for k in plan.key_with_values
                if k.constant is None and (not by or k.column.name in by)
            )
        return text

    def _prunes(self, key: KeyColumn, strategy: str) -> str:
        """
        Write a condition by which the server leaves partitions without the keys out.

        It copies the array for each partition, while it plans the statement. So the condition
        is TRUE then, if so many keys are in partitions by hash: they are in all of them.
        """
        column = key.column
        at = next(
            n
            for n, sent in enumerate(self.columns)
            if sent.parameter == key.parameter and sent.encode is None
        )
        equals = operator("=", column.operators)
        keys = f"{self.array(at)}::{column.key_type}[]"
        name = self.column(column)
        # The first key again, as the planner takes no OR for a condition of an index scan
        # beside the equality with one key, which would look expensive with an array.
        is_one = f"{name} {equals} ANY ({keys}) OR {name} {equals} ({keys})[1]"
        if strategy == "h":
            number = f"pg_catalog.cardinality({keys})"
            is_one = f"{number} {operator('>')} {_MANY_HASHED} OR {is_one}"
        return f" AND ({is_one})"

    def array(self, number: int) -> str:
        """Write the array of a column."""
        return array(self.first_array + number, self.columns[number].type)

    def key_value(self, key: KeyColumn) -> str:
        """Write a value of the key, which is compared to others as the column's are."""
        text = super().key_value(key)
        if key.constant is not None:
            return text
        collation = key.column.collation
        return f"({text} COLLATE {collation})" if collation else text

    @contextlib.contextmanager
    def using_excluded(self, columns: Mapping[int, Column]) -> Generator[None]:
        """Write values of these parameters as columns of EXCLUDED for a while."""
        self._excluded = columns
        yield
        self._excluded = {}

    def order(self, plan: Plan) -> str:
        """Write the order of the rows by key, the same in every statement."""
        keys = plan.key_with_values
        return ", ".join(collated(self.key_value(k), k.column) for k in keys)

    def same_key(self, plan: Plan, written: str) -> str:
        """Write the condition that a row of the batch is a written row."""
        return " AND ".join(
            self.equal(self.key_value(k), f'{written}."k{n}"', k.column)
            for n, k in enumerate(plan.key_with_values)
        )

    def counts(self, plan: Plan, created: str, updated: str, *written: str) -> str:
        """
        Write a query for the numbers of created and updated rows, and for the others.

        The others are found by grouping the keys of the batch and of the written rows:
        a key that occurs only once has not been written.
        """
        values = [self.key_value(k) for k in plan.key_with_values]
        keys = [f'"k{n}"' for n in range(len(values))]
        values = [f"{value} AS {key}" for value, key in zip(values, keys, strict=True)]
        sources = [f'SELECT {", ".join(values)}, {self.rows}."ord" FROM {self.rows}']
        names = ", ".join(keys)
        sources += [f"SELECT {names}, NULL FROM {name}" for name in written]
        rest = (
            f'SELECT pg_catalog.max("ord") FROM ({" UNION ALL ".join(sources)})'
            f" AS every GROUP BY {names} HAVING pg_catalog.count(*) {EQUALS} 1"
        )
        return (
            f'SELECT "created", "updated", CASE WHEN ("created" {operator("+")}'
            f' "updated") {LESS} (SELECT pg_catalog.count(*) FROM {self.rows})'
            f" THEN ARRAY({rest}) END"
            f' FROM (SELECT {created} AS "created", {updated} AS "updated" OFFSET 0) n'
        )


class _Text(NamedTuple):
    """
    A statement without its first WITH query, the rows of the batch.

    Attributes:
        writer: What has written it.
        ctes: The other WITH queries.
        query: The final query.
        writes_all: As in `ReportingStatement`.
    """

    writer: _BatchWriter
    ctes: Sequence[str]
    query: str
    writes_all: bool = False

    def by_arrays(self) -> str:
        """Return it whole, with the rows of arrays."""
        writer = self.writer
        arrays = [writer.array(number) for number in range(len(writer.columns))]
        sources = ", ".join(f"pg_catalog.unnest({array})" for array in arrays)
        condition = ""
        if writer.is_small and writer.joins_table:
            is_true = f"pg_catalog.cardinality({arrays[0]}) {operator('>=')} 0"
            condition = f" AND {planned_anew(is_true)}"
        return self._reading(
            f"MATERIALIZED (SELECT * FROM ROWS FROM ({sources}) WITH ORDINALITY"
            f" AS x ({self._columns()}) WHERE {_FEW}{condition}{self._guards()})"
        )

    def staged(self) -> str:
        """Return it whole, with the rows of the temporary table."""
        table = f"pg_temp.{quote(_staging_table(self.writer.columns))}"
        return self._reading(
            f"NOT MATERIALIZED (SELECT {self._columns()} FROM {table}"
            f" WHERE {_STAGED}{self._guards()})"
        )

    def _columns(self) -> str:
        names = [f'"c{n}"' for n in range(1, len(self.writer.columns) + 1)]
        return ", ".join([*names, '"ord"'])

    def _guards(self) -> str:
        return "".join(f" AND {guard}" for guard in self.writer.guards)

    def _reading(self, source: str) -> str:
        ctes = ", ".join([f"{self.writer.rows} AS {source}", *self.ctes])
        return f"WITH {ctes} {self.query}"


class _Draft:
    """A statement, of which not all columns of the batch are known."""

    def __init__(
        self,
        write: Callable[[_BatchWriter, Plan], _Text],
        plan: Plan,
        columns: list[BatchColumn],
    ) -> None:
        """Write it, and so add its columns to the others."""
        self._write, self._plan, self._columns = write, plan, columns
        self._text = write(_BatchWriter(plan, columns), plan)

    def finished(self) -> BatchStatement:
        """Return the statement, once the columns are complete."""
        writer = self._text.writer
        staged = self._text.staged()
        constants = writer.compiled("", "")
        first_array = len(writer.parameters) + 1
        # Again, as conditions may name the arrays.
        writer = _BatchWriter(self._plan, self._columns, first_array)
        text = self._write(writer, self._plan)
        return BatchStatement(text.by_arrays(), staged, constants)

    @property
    def writes_all(self) -> bool:
        """As in `ReportingStatement`."""
        return self._text.writes_all


class _Write(Protocol):
    """Writes a statement, with counts or with the rows."""

    def __call__(
        self, writer: _BatchWriter, plan: Plan, /, *, counting: bool
    ) -> _Text: ...


class _ReportingDrafts(NamedTuple):
    """The drafts of a `ReportingStatement`."""

    counts: _Draft | None
    rows: _Draft
    arrays: _Draft | None = None

    def finished(self) -> ReportingStatement:
        """Return the statement, once the columns of the batch are complete."""
        counts = None if self.counts is None else self.counts.finished()
        arrays = None if self.arrays is None else self.arrays.finished()
        rows, writes_all = self.rows.finished(), self.rows.writes_all
        return ReportingStatement(counts, rows, arrays, writes_all)


def _drafts(
    write: _Write,
    plan: Plan,
    columns: list[BatchColumn],
    *,
    counting: bool,
    arrays: bool = False,
) -> _ReportingDrafts:
    return _ReportingDrafts(
        _Draft(partial(write, counting=True), plan, columns) if counting else None,
        _Draft(partial(write, counting=False), plan, columns),
        _Draft(partial(_in_arrays, write), plan, columns) if arrays else None,
    )


# Others may make an array that is too large.
_READ_IN_ARRAYS: Final = frozenset({"int2", "int4", "int8", "uuid"})


def _returns_arrays(plan: Plan) -> bool:
    """Return whether rows may be returned as an array for each column."""
    types = {plan.table.columns[name].type_name for name in plan.returning}
    return bool(types) and types <= _READ_IN_ARRAYS and not plan.old


def _in_arrays(write: _Write, writer: _BatchWriter, plan: Plan) -> _Text:
    """Write a statement that returns an array for each column of the rows it reports."""
    text = write(writer, plan, counting=False)
    names = [f'"a{n}"' for n in range(len(plan.returning) + 2)]
    arrays = ", ".join(f"pg_catalog.array_agg({name})" for name in names)
    return text._replace(
        query=f"SELECT {arrays} FROM ({text.query}) AS x ({', '.join(names)})"
    )


def _key_lock(
    write: Callable[[_BatchWriter, Plan], _Text], plan: Plan, *, locks: bool = True
) -> KeyLock:
    columns: list[BatchColumn] = []
    statement = _Draft(write, plan, columns).finished()
    return KeyLock(statement.arrays, tuple(columns), locks)


def _has_arrays(plan: Plan) -> bool:
    """Return whether arrays can carry the keys of rows."""
    keys = plan.key_with_values
    return bool(keys) and all(k.column.supports_unnest for k in keys)


def _lock(plan: Plan) -> KeyLock | None:
    """
    Write the query that locks the existing rows of a batch in the order of their keys.

    With nothing to set it only finds them. It is sent where several statements write the rows, each in an order of its own. Its
    text depends on nothing but the key, so that rows of several shapes are locked by one.
    It returns the numbers of the rows that exist.
    """
    table = plan.table
    if (
        not table.row_type
        or not table.all_indexes_known
        or table.has_remote_rows
        or not _has_arrays(plan)
    ):
        return None
    return _key_lock(_locking, plan, locks=bool(plan.update))


def _lock_keys(plan: Plan) -> KeyLocks | None:
    """Write the advisory locks on the keys of a batch, if rows are written under them."""
    if not plan.lock and not plan.table.needs_key_lock:
        return None
    all_keys = f"SELECT {LEVEL}, {lock_all_keys(plan, shared=False)}"
    if not any(k.column.storage in CANONICAL for k in plan.key_with_values):
        return KeyLocks(None, all_keys)  # there is but one for all
    return KeyLocks(_key_lock(_locking_keys, plan), all_keys)


def _locking_keys(writer: _BatchWriter, plan: Plan) -> _Text:
    writer.guards = ()  # as in `_same_keys`
    number = key_number(writer, plan)
    numbers = f'SELECT DISTINCT {number} AS "n" FROM {writer.rows} ORDER BY 1'
    locks = (
        f'pg_catalog.count(pg_catalog.pg_advisory_xact_lock("n")) FROM ({numbers}) AS x'
    )
    shared = lock_all_keys(plan, shared=True)
    return _Text(writer, [], f"SELECT {LEVEL}, {shared}, (SELECT {locks})")


def _locking(writer: _BatchWriter, plan: Plan) -> _Text:
    writer.guards = _guards(plan, only_key=True)
    locked = name_cte(plan, "locked")
    cte = (
        f'{locked} AS MATERIALIZED (SELECT {writer.rows}."ord" FROM {name_table(plan)},'
        f" {writer.rows} WHERE {writer.key(plan)} ORDER BY {_stored_order(writer, plan)}"
        f"{f' FOR NO KEY UPDATE OF {ALIAS}' if plan.update else ''})"
    )
    return _Text(writer, [cte], f'SELECT pg_catalog.array_agg("ord") FROM {locked}')


def _draw(plan: Plan, column: Column) -> str:
    """Write the query for a number of the next values of a column's sequence."""
    writer = PostgresqlWriter()
    return (
        f"SELECT {writer.default(column)} FROM pg_catalog.generate_series(1,"
        f" $1::pg_catalog.int4) WHERE {' AND '.join(writer.default_guards(plan))}"
    )


def _stored_order(writer: _BatchWriter, plan: Plan) -> str:
    """Write the order of stored rows by key, and of several with one key."""
    columns = [*(k.column for k in plan.key_with_values), *lock_order(plan)]
    return ", ".join(collated(writer.column(c), c) for c in columns)


def _same_keys(writer: _BatchWriter, plan: Plan) -> _Text:
    """Write the query for rows that have the key of an earlier one, and for the first."""
    # It does not read the table, so it is not planned again if that has changed; but what
    # follows is.
    writer.guards = ()
    keys = ", ".join(writer.key_value(k) for k in plan.key_with_values)
    return _Text(
        writer,
        [],
        'SELECT "ord", "first" FROM (SELECT "ord", pg_catalog.min("ord") OVER'
        f' (PARTITION BY {keys}) AS "first" FROM {writer.rows}) AS x'
        f' WHERE "first" {LESS} "ord"',
    )


def _find_unchanged(writer: _BatchWriter, plan: Plan, *, counting: bool) -> _Text:
    """Write the query for the rows that fail the condition, or need no update."""
    passes = writer.passes(plan)
    changes = writer.changes(plan) if plan.update else "FALSE"
    columns = ["passes", "changes", *(f"r{n}" for n in range(len(plan.returning)))]
    values = ", ".join([f'{writer.rows}."ord"', passes, changes, *returned(plan)])
    names = ", ".join(map(quote, ["ord", *columns]))
    found = (
        f"SELECT {values} FROM {name_table(plan)}, {writer.rows}"
        f" WHERE {writer.key(plan)}"
    )
    rest = [quote(c) for c in columns[2:]]
    rest = [NOT_COMPARED, *rest, *rest] if plan.old else rest
    source, is_written = f"({found}) AS found ({names})", '"passes" AND "changes"'
    if not plan.unique:
        # A row of the batch is left if that is so for all rows with its key.
        source = (
            f"(SELECT *, pg_catalog.bool_or({is_written}) OVER (PARTITION BY"
            f' "ord") AS "written" FROM {source}) AS found'
        )
        is_written = '"written"'
    query = (
        f'SELECT "ord", {UNCHANGED_CODE} AS "code"{", ".join(["", *rest])} FROM {source}'
        f" WHERE NOT ({is_written})"
    )
    if counting:
        query = (
            f'SELECT "code", pg_catalog.array_agg("ord") FROM ({query}) AS alone'
            ' GROUP BY "code"'
        )
    return _Text(writer, [], query)


def _find_locked(writer: _BatchWriter, plan: Plan) -> _Text:
    """Write the query for the rows that cannot be locked now, or do not exist."""
    writer.guards = type_guards(plan, only_key=True)
    free = name_cte(plan, "free")
    rows, table, key = writer.rows, name_table(plan), writer.key(plan)
    cte = (
        f'{free} AS MATERIALIZED (SELECT {rows}."ord" FROM {table}, {rows}'
        f" WHERE {key} FOR NO KEY UPDATE OF {ALIAS} SKIP LOCKED)"
    )
    exists = f"{writer.column(plan.key_with_values[0].column)} IS NOT NULL"
    query = (
        f'SELECT {rows}."ord", {exists} FROM {rows} LEFT JOIN {table} ON {key}'
        f' WHERE NOT {rows}."ord" {EQUALS} ANY (SELECT "ord" FROM {free})'
    )
    return _Text(writer, [cte], query)


def _find_holders(writer: _BatchWriter, plan: Plan) -> _Text:
    """
    Write the query for the sessions whose transactions hold the locks of rows.

    A row that is locked by one transaction has its number in xmax; by several, another
    number, which belongs to no transaction that uses the table.
    """
    writer.guards = type_guards(plan, only_key=True)
    rows = writer.rows
    query = (
        f'SELECT {rows}."ord", l.pid FROM {name_table(plan)}, {rows},'
        " pg_catalog.pg_locks AS l, pg_catalog.pg_locks AS r"
        f" WHERE {writer.key(plan)} AND l.transactionid {EQUALS} {ALIAS}.xmax"
        f" AND l.granted AND r.pid {EQUALS} l.pid AND r.relation {EQUALS}"
        f" {ALIAS}.tableoid"
    )
    return _Text(writer, [], query)


def _written(writer: _BatchWriter, plan: Plan, code: str, *first: str) -> str:
    """Write the RETURNING list of a statement that writes rows."""
    names = (writer.column(k.column) for k in plan.key_with_values)
    keys = (f'{name} AS "k{n}"' for n, name in enumerate(names))
    columns = (f'{text} AS "r{n}"' for n, text in enumerate(returned(plan)))
    return ", ".join([*first, f'{code} AS "code"', *keys, *columns])


def _on_conflict(writer: _BatchWriter, plan: Plan, *, counting: bool) -> _Text:
    """Write ``INSERT ... ON CONFLICT DO UPDATE``, in the order of the keys."""
    writer.guards = [*writer.guards, shape_guard(plan)]
    written = name_cte(plan, "written")
    same = writer.same_key(plan, written)
    upsert = _upserting(writer, plan, writer.rows)
    code = native_code(plan)
    # If every row is written, its key is not needed to find the others.
    writes_all = _locks_all(plan) and not writer.defaults
    row = (
        f'{code} AS "code"' if counting and writes_all else _written(writer, plan, code)
    )
    cte = f"{written} AS ({upsert} RETURNING {row})"
    numbers = [
        f'pg_catalog.count(*) FILTER (WHERE "code" {EQUALS} {number})'
        for number in (RowCode.CREATED, RowCode.UPDATED)
    ]
    if counting and writes_all:
        query = f"SELECT {', '.join(numbers)}, NULL FROM {written}"
    elif counting:
        queries = (f"(SELECT {number} FROM {written})" for number in numbers)
        query = writer.counts(plan, *queries, written)
    else:
        columns = [f'{written}."r{n}"' for n in range(len(plan.returning))]
        named = ", ".join([f'{writer.rows}."ord"', f'{written}."code"', *columns])
        query = f"SELECT {named} FROM {writer.rows} FULL JOIN {written} ON {same}"
    return _Text(writer, [cte], query, writes_all)


def _upserting(writer: _BatchWriter, plan: Plan, source: str) -> str:
    """Write ``INSERT ... ON CONFLICT DO UPDATE`` of rows, without RETURNING."""
    names, values = writer.values(plan.insert)
    guards = writer.default_guards(plan)
    guard = f" WHERE {' AND '.join(guards)}" if guards else ""
    order = writer.order(plan)
    target = ", ".join(quote(k.column.name) for k in plan.key)
    with writer.using_excluded(_excluded_columns(plan)):
        action = f"UPDATE SET {writer.assignments(plan.update)}"
        if plan.where is not None or plan.compare is not None:
            action += f" WHERE {writer.passes(plan)} AND {writer.changes(plan)}"
    return (
        f"INSERT INTO {name_table(plan)} {names}SELECT {values} FROM {source}{guard}"
        f" ORDER BY {order} ON CONFLICT ({target}) DO {action}"
    )


def _updating(
    writer: _BatchWriter,
    plan: Plan,
    locked: str,
    updated: str,
    *,
    native: bool,
) -> list[str]:
    """
    Write the WITH queries that lock existing rows, and update them.

    If *native*, INSERT ... ON CONFLICT DO UPDATE updates them, of which is known that they
    exist. It returns no "ord".
    """
    rows, table = writer.rows, name_table(plan)
    conditions = writer.key(plan)
    if plan.where is not None or plan.compare is not None:
        conditions += f" AND {writer.passes(plan)} AND {writer.changes(plan)}"
    columns = [f"{rows}.*"]
    code = str(RowCode.UPDATED)
    returning = _written(writer, plan, code, f'{rows}."ord"')
    if plan.old:
        # Once it is locked, a row is as it was just before the update.
        columns += kept(plan)
        was = [changed(plan, rows), *as_it_was(plan, rows)]
        returning += "".join(f', {text} AS "o{n}"' for n, text in enumerate(was))
    locking = (
        f"{locked} AS MATERIALIZED (SELECT {', '.join(columns)} FROM {table},"
        f" {rows} WHERE {conditions}"
        f" ORDER BY {_stored_order(writer, plan)} FOR NO KEY UPDATE OF {ALIAS})"
    )
    if native:
        upsert = _upserting(writer, plan, f"{locked} AS {rows}")
        row = _written(writer, plan, code)
        return [locking, f"{updated} AS ({upsert} RETURNING {row})"]
    return [
        locking,
        (
            f"{updated} AS (UPDATE {table} SET {writer.assignments(plan.update)}"
            f" FROM {locked} AS {rows} WHERE {conditions}"
            f" RETURNING {returning})"
        ),
    ]


def _hashed(written: str) -> str:
    """
    Write the source of written rows that are joined with those of the batch.

    The condition is true of each, but the server takes them for few, and so makes a hash
    table of them, and returns rows in the order of the batch.
    """
    condition = f'"code" {operator(">")} 0 AND "code" {operator("<")} 10'
    return f"(SELECT * FROM {written} WHERE {condition}) AS {written}"


_DO_NOTHING: Final = " ON CONFLICT DO NOTHING"


def _inserting(
    writer: _BatchWriter,
    plan: Plan,
    locked: str,
    inserted: str,
    *,
    missing: bool,
    on_conflict: str = _DO_NOTHING,
) -> str:
    """
    Write the WITH query that inserts the rows that do not exist.

    If *missing*, none of them did just before.
    """
    rows, table = writer.rows, name_table(plan)
    names, values = writer.values(plan.insert)
    drawn = _drawn_columns(plan)
    beforehand = _drawn_beforehand(plan)
    numbers: list[str] = []
    for n, c in enumerate(drawn):
        number = writer.default(c)
        if c in beforehand:
            taken = writer.row_value(BatchColumn(~beforehand.index(c), c.type, None))
            number = f"coalesce({taken}, {number})"
        numbers.append(f'{number} AS "s{n}"')
    guard = "".join(f" AND {guard}" for guard in writer.default_guards(plan))
    if missing:
        is_new = "TRUE"
    elif _locks_all(plan):
        # By a hash table, whatever the estimate.
        is_new = f'NOT {rows}."ord" {EQUALS} ANY (SELECT "ord" FROM {locked})'
    else:
        is_new = f"NOT EXISTS (SELECT FROM {table} WHERE {writer.key(plan)})"
        if plan.update:
            # After existing rows are locked, as in all statements.
            count = f"SELECT pg_catalog.count(*) FROM {locked}"
            is_new += f" AND ({count}) {operator('>=')} 0"
    source = f"{rows} WHERE {is_new}{guard}"
    if drawn:
        # A volatile expression is evaluated after the sort.
        select = ", ".join([f"{rows}.*", *numbers])
        source = f'(SELECT {select} FROM {source} ORDER BY {rows}."ord") AS {rows}'
        also = [quote(c.name) for c in drawn]
        names = f"({', '.join([names.strip(' ()'), *also])}) "
        values = ", ".join([values, *(f'{rows}."s{n}"' for n in range(len(drawn)))])
        if any(c.always_identity for c in drawn):
            names += "OVERRIDING SYSTEM VALUE "
    return (
        f"{inserted} AS (INSERT INTO {table} {names}SELECT {values}"
        f" FROM {source} ORDER BY {writer.order(plan)}{on_conflict}"
        f" RETURNING {_written(writer, plan, str(RowCode.CREATED))})"
    )


def _update_first(
    writer: _BatchWriter,
    plan: Plan,
    *,
    counting: bool,
    native: bool,
    missing: bool = False,
    on_conflict: str = _DO_NOTHING,
) -> _Text:
    """
    Write the classic steps for many rows as one statement.

    Existing rows are locked in the order of their keys and updated. The others are
    inserted in that order after existing ones are locked, and conflicts ignored. No default is evaluated and no
    constraint checked for a row that is not created. The values of sequences are taken
    before that, in the order of the rows.
    """
    rows = writer.rows
    if native:
        writer.guards = [*writer.guards, shape_guard(plan)]
    locked, updated, inserted = (
        name_cte(plan, name) for name in ("locked", "updated", "inserted")
    )
    ctes: list[str] = []
    written = [inserted]
    if plan.update:
        written.append(updated)
        ctes += _updating(writer, plan, locked, updated, native=native)
    insert = _inserting(
        writer, plan, locked, inserted, missing=missing, on_conflict=on_conflict
    )
    ctes.append(insert)
    if counting:
        counts = [f"(SELECT pg_catalog.count(*) FROM {name})" for name in written]
        query = writer.counts(plan, *[*counts, "0"][:2], *written)
        return _Text(writer, ctes, query)
    joined = f"{rows} FULL JOIN {_hashed(inserted)} ON"
    joined += f" {writer.same_key(plan, inserted)}"
    columns = ['"code"', *(f'"r{n}"' for n in range(len(plan.returning)))]
    outputs = [f"{inserted}.{c}" for c in columns]
    if plan.update:
        same = (
            writer.same_key(plan, updated)
            if native
            else f'{updated}."ord" {EQUALS} {rows}."ord"'
        )
        joined += f" FULL JOIN {_hashed(updated)} ON {same}"
        outputs = [
            f'CASE WHEN {updated}."code" IS NULL THEN {inserted}.{c}'
            f" ELSE {updated}.{c} END"
            for c in columns
        ]
    if plan.old:
        was = [f'{updated}."o{n}"' for n in range(len(plan.returning) + 1)]
        if not plan.update:
            was = ["NULL"] * len(was)
        code, *new = outputs
        outputs = [code, was[0], *new, *was[1:]]
    reported = ", ".join([f'{rows}."ord"', *outputs])
    return _Text(writer, ctes, f"SELECT {reported} FROM {joined}")


def _update(writer: _BatchWriter, plan: Plan, *, counting: bool) -> _Text:
    """Write the statement that updates existing rows, in the order of their keys."""
    locked, updated = name_cte(plan, "locked"), name_cte(plan, "updated")
    ctes = _updating(writer, plan, locked, updated, native=False)
    if counting:
        number = f"(SELECT pg_catalog.count(*) FROM {updated})"
        return _Text(writer, ctes, writer.counts(plan, "0", number, updated))
    columns = ['"code"', *(f'"r{n}"' for n in range(len(plan.returning)))]
    if plan.old:
        changed, *old = (f'"o{n}"' for n in range(len(plan.returning) + 1))
        columns = [columns[0], changed, *columns[1:], *old]
    return _Text(writer, ctes, f'SELECT "ord", {", ".join(columns)} FROM {updated}')


def _insert(writer: _BatchWriter, plan: Plan, *, counting: bool) -> _Text:
    """
    Write the statement that inserts rows which do not exist, without ON CONFLICT.

    A row whose key a trigger has changed is counted, and not reported.
    """
    rows, inserted = writer.rows, name_cte(plan, "inserted")
    insert = _inserting(writer, plan, "", inserted, missing=True, on_conflict="")
    if counting:
        query = f"SELECT pg_catalog.count(*), 0, NULL FROM {inserted}"
        return _Text(writer, [insert], query)
    columns = ['"code"', *(f'"r{n}"' for n in range(len(plan.returning)))]
    if plan.old:
        columns = [columns[0], "NULL", *columns[1:], *["NULL"] * len(plan.returning)]
    reported = ", ".join([f'{rows}."ord"', *columns])
    source = f"{rows} JOIN {inserted} ON {writer.same_key(plan, inserted)}"
    return _Text(writer, [insert], f"SELECT {reported} FROM {source}")
