"""
Many rows as PostgreSQL statements.

A statement reads the rows from arrays that are its arguments, or from a temporary table
they were copied to. It reports every row that it wrote; the rows it does not report were
in the way of a concurrent call, come again within the batch, or were refused, and are
for the caller of this room to try again.

Whatever joins the rows of a batch with each other is a FULL JOIN: the server has no
other way to run one than by hashing or merging, however wrong its guess of their number.

See the PostgreSQL documentation: "INSERT, ON CONFLICT Clause", "WITH Queries", "SELECT,
The Locking Clause", "Populating a Database".
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from aioupsert._engines.postgresql.bulk_steps import (
    Answers,
    BatchStatement,
    Input,
    PostgresqlBatch,
)
from aioupsert._engines.postgresql.compiler import (
    ALIAS,
    LEFT_ALONE,
    TEXT,
    PostgresqlWriter,
    compile_call,
    name_cte,
    name_table,
    native_code,
    returned,
    untyped,
)
from aioupsert._engines.sql import (
    CREATED,
    UPDATED,
    encode_json,
    quote,
)
from aioupsert._plan.resolving import added

if TYPE_CHECKING:
    from aioupsert._plan import Plan, Resolved
    from aioupsert._plan.schema import Column


def compile_batch(plan: Plan, *, distinct: bool) -> PostgresqlBatch:
    """
    Write every statement for rows of one shape.

    Args:
        plan: Their plan.
        distinct: Whether no key is known to come twice.
    """
    per_row = compile_call(plan)
    why = _why_one_by_one(plan)
    if why is not None:
        return PostgresqlBatch(per_row, f"one by one: {why}")
    why = _why_not_native(plan, distinct=distinct)
    write = _native if why is None else partial(_update_first, distinct=distinct)
    left_alone = not plan.update or plan.where is not None or plan.compare is not None
    inputs: list[Input] = []

    def answers() -> tuple[Answers | None, Answers]:
        look = None
        if left_alone:
            look = _answers(_look, plan, inputs, counts=plan.unique)
        return look, _answers(write, plan, inputs, counts=distinct and plan.unique)

    answers()  # so that every statement knows what the others need of the rows
    look, writes = answers()
    stage = _stage(inputs)
    columns = ", ".join(f'"c{n}" {i.type}' for n, i in enumerate(inputs, start=1))
    return PostgresqlBatch(
        per_row,
        "INSERT ... ON CONFLICT DO UPDATE" if why is None else f"update first: {why}",
        look,
        writes,
        tuple(inputs),
        stage,
        f'CREATE TEMPORARY TABLE pg_temp.{quote(stage)} ("ord" pg_catalog.int8, {columns})'
        if plan.table.temporary_tables_allowed
        else "",
        takes_arrays=all(column.supports_unnest for column in _brought(plan)),
        joins_table=plan.unique and (left_alone or why is not None),
    )


def _stage(inputs: Sequence[Input]) -> str:
    """Name a temporary table after its columns, since drivers remember a table's."""
    types = ",".join(given.type for given in inputs)
    return f"aioupsert_{zlib.crc32(types.encode()):08x}"


def _brought(plan: Plan) -> Iterable[Column]:
    """Give the columns that type what a row brings, except for what is sent as text."""
    yield from (k.column for k in plan.key if k.kind != "text")
    for term in _terms(plan):
        if term.column is not None and term.kind == "value" and term.name != "text":
            yield term.column


def _why_one_by_one(plan: Plan) -> str | None:
    if plan.exact_because or plan.lock:
        return plan.exact_because or "each key is locked first"
    if any(key.is_null for key in plan.key):
        return "a value of the key is NULL"
    if plan.renames:
        return "the key itself is given another value"
    if not all(_is_typed(term, plan) for term in _terms(plan)):
        return "an expression brings a value whose type nothing tells"
    return plan.table.one_by_one_because


def _terms(plan: Plan) -> Iterable[Resolved]:
    """Walk through every expression of a plan."""
    items = [item.term for item in (*plan.update, *plan.insert)]
    items += [item.term for item in plan.compare or ()]
    items.append(plan.where)
    stack = [term for term in items if term is not None]
    while stack:
        term = stack.pop()
        yield term
        stack += term.args


def _is_typed(term: Resolved, plan: Plan) -> bool:
    if term.kind == "literal" and term.parameter < plan.row_parameters:
        return term.name not in {"list", "other", "null", "bare"}
    return term.kind not in {"call", "sql"} or not any(
        arg.kind == "literal" and arg.parameter < plan.row_parameters
        for arg in term.args
    )


def _why_not_native(plan: Plan, *, distinct: bool) -> str | None:
    """Tell why ``ON CONFLICT DO UPDATE`` would do something else than was asked."""
    table = plan.table
    given = {item.column.name: item.term for item in plan.insert}
    key = {k.column.name: False for k in plan.key}
    left_out = [c for c in table.columns.values() if given.get(c.name) is None]
    reasons = {
        "its flags cannot be had here": not table.supports_on_conflict_update,
        "no unique index is on exactly the key": not any(
            index.matches(key) for index in table.unique
        ),
        "rows may have the same key": not distinct,
        "nothing is updated": not plan.update,
        "it would use up numbers of a sequence": any(
            term.kind == "default"
            and term.column is not None
            and term.column.consumes_sequence
            for term in _terms(plan)
        )
        or any(column.consumes_sequence for column in left_out),
        "rows lack columns that are NOT NULL": any(c.required for c in left_out),
        "EXCLUDED is not what the row brings": not _is_excluded(plan),
    }
    return next((why for why, applies in reasons.items() if applies), None)


def _is_excluded(plan: Plan) -> bool:
    """Tell whether EXCLUDED has what the update takes from the row."""
    proposed = _proposed(plan)
    taken = [a.term for a in plan.update]
    if plan.where is not None:
        taken.append(plan.where)
    targets = [*(a.column for a in plan.update), None]
    for term, column in zip(taken, targets, strict=False):
        if term is None or (
            term.kind == "value"
            and column is not None
            and proposed.get(term.parameter) == column
        ):
            continue
        stack = [term]
        while stack:
            part = stack.pop()
            stack += part.args
            if (
                part.kind in {"value", "literal"}
                and part.parameter < plan.row_parameters
            ):
                source = proposed.get(part.parameter)
                if source is None or source.may_alter_values:
                    return False
    return True


def _proposed(plan: Plan) -> dict[int, Column]:
    """Give the columns that a row's values are proposed for, as they are, by slot."""
    updates = {item.column.name: item.term for item in plan.update}
    proposed: dict[int, Column] = {}
    for column, term in plan.insert:
        if term is None:
            continue
        if term.kind == "value":
            proposed[term.parameter] = column
        elif _counts_from_zero(column) and term.name == "+":
            # Zero and what is added, which is the same.
            parameter = added(updates.get(column.name), term, column)
            if parameter is not None:
                proposed[parameter] = column
    return proposed


def _counts_from_zero(column: Column) -> bool:
    """Tell whether a new row's column holds what is added to it, whatever that is."""
    is_counter = column.type_name in {"int4", "int8"} and column.default == "0"
    return is_counter and column.unconstrained


class _BatchWriter(PostgresqlWriter):
    """Writes the values of a row as columns of the batch, and the rest as arguments."""

    def __init__(self, plan: Plan, inputs: list[Input]) -> None:
        """Start a statement; *inputs* are shared by all those that read the batch."""
        super().__init__()
        self.rows: str = name_cte(plan, "rows")
        self.inputs = inputs
        self.proposed: dict[int, Column] = {}
        self._row_parameters = plan.row_parameters

    def placeholder(self, parameter: int, cast: str, sent_as: str = "") -> str:
        """Write a value: what was proposed, a column of the batch, or an argument."""
        if parameter >= self._row_parameters:
            return super().placeholder(parameter, cast, sent_as)
        if parameter in self.proposed:
            return f"EXCLUDED.{quote(self.proposed[parameter].name)}"
        encode = encode_json if sent_as == "json" else None
        given = Input(parameter, TEXT if sent_as else untyped(cast), encode)
        if given not in self.inputs:
            self.inputs.append(given)
        return f'{self.rows}."c{self.inputs.index(given) + 1}"::{cast}'

    def order(self, plan: Plan) -> str:
        """Write the order of the rows' keys, the same for whoever writes to the table."""
        return ", ".join(_collated(self.key_value(k), k.column) for k in plan.key)

    def same_key(self, plan: Plan, written: str) -> str:
        """Write the condition that a row of the batch is one that was written."""
        return " AND ".join(
            f'{self.key_value(k)} = {written}."k{n}"' for n, k in enumerate(plan.key)
        )

    def counts(self, plan: Plan, created: str, updated: str, *written: str) -> str:
        """
        Answer how many were created and updated, and the numbers of the other rows.

        Those are found by grouping: their keys are those that nothing written has.
        """
        keys = [f'"k{n}"' for n in range(len(plan.key))]
        values = [
            f"{self.key_value(k)} AS {n}" for k, n in zip(plan.key, keys, strict=True)
        ]
        sources = [f'SELECT {", ".join(values)}, {self.rows}."ord" FROM {self.rows}']
        names = ", ".join(keys)
        sources += [f"SELECT {names}, NULL FROM {name}" for name in written]
        rest = (
            f'SELECT max("ord") FROM ({" UNION ALL ".join(sources)}) AS every'
            f" GROUP BY {names} HAVING count(*) = 1"
        )
        return (
            'SELECT "created", "updated", CASE WHEN "created" + "updated" <'
            f" (SELECT count(*) FROM {self.rows}) THEN ARRAY({rest}) END"
            f' FROM (SELECT {created} AS "created", {updated} AS "updated" OFFSET 0) n'
        )

    def batch(self, parts: Sequence[str], answer: str) -> BatchStatement:
        """Finish the statement: put the rows first."""
        names = [f'"c{n}"' for n in range(1, len(self.inputs) + 1)]
        first = len(self.parameters) + 1
        arrays = (f"${n}::{i.type}[]" for n, i in enumerate(self.inputs, start=first))
        columns = ", ".join([*names, '"ord"'])
        sources = (
            (
                f"MATERIALIZED (SELECT * FROM unnest({', '.join(arrays)})"
                f" WITH ORDINALITY AS x ({columns}))"
            ),
            f"NOT MATERIALIZED (SELECT {columns} FROM pg_temp.{quote(_stage(self.inputs))})",
        )
        texts = [
            f"WITH {', '.join([f'{self.rows} AS {source}', *parts])} {answer}"
            for source in sources
        ]
        return BatchStatement(texts[0], texts[1], self.compiled("", ""))


def _collated(text: str, column: Column) -> str:
    # By code point, which is quicker than by language and the same for every session.
    return f'{text} COLLATE "C"' if column.storage in {"text", "varchar"} else text


def _answers(
    write: Callable[..., BatchStatement],
    plan: Plan,
    inputs: list[Input],
    *,
    counts: bool,
) -> Answers:
    return Answers(
        write(plan, inputs, counts=True) if counts else None,
        write(plan, inputs, counts=False),
    )


def _look(plan: Plan, inputs: list[Input], *, counts: bool) -> BatchStatement:
    """Find the rows that fail the condition, or hold every value already."""
    writer = _BatchWriter(plan, inputs)
    passes = writer.passes(plan)
    changes = writer.changes(plan) if plan.update else "FALSE"
    columns = ["passes", "changes", *(f"r{n}" for n in range(len(plan.returning)))]
    values = ", ".join([f'{writer.rows}."ord"', passes, changes, *returned(plan)])
    names = ", ".join(map(quote, ["ord", *columns]))
    found = (
        f"SELECT {values} FROM {name_table(plan)}, {writer.rows}"
        f" WHERE {writer.key(plan)}"
    )
    rest = "".join(f", {quote(c)}" for c in columns[2:])
    answer = (
        f'SELECT "ord", {LEFT_ALONE} AS "code"{rest} FROM ({found}) AS found ({names})'
        ' WHERE NOT ("passes" AND "changes")'
    )
    if counts:
        answer = (
            f'SELECT "code", array_agg("ord") FROM ({answer}) AS alone GROUP BY "code"'
        )
    return writer.batch([], answer)


def _written(writer: _BatchWriter, plan: Plan, code: str, *first: str) -> str:
    """Write what a statement returns of a row it wrote."""
    keys = (f'{writer.column(k.column)} AS "k{n}"' for n, k in enumerate(plan.key))
    asked = (f'{text} AS "r{n}"' for n, text in enumerate(returned(plan)))
    return ", ".join([*first, f'{code} AS "code"', *keys, *asked])


def _native(plan: Plan, inputs: list[Input], *, counts: bool) -> BatchStatement:
    """Write ``INSERT ... ON CONFLICT DO UPDATE``, in the order of the keys."""
    writer = _BatchWriter(plan, inputs)
    written = name_cte(plan, "written")
    names, values = writer.values(plan.insert)
    order = writer.order(plan)
    same = writer.same_key(plan, written)
    guard = f" WHERE {writer.guard(plan)}" if writer.inlines_default else ""
    target = ", ".join(quote(k.column.name) for k in plan.key)
    code = native_code(plan)
    writer.proposed = _proposed(plan)
    action = f"UPDATE SET {writer.assignments(plan.update)}"
    conditional = plan.where is not None or plan.compare is not None
    if conditional:
        action += f" WHERE {writer.passes(plan)} AND {writer.changes(plan)}"
    writer.proposed = {}
    # Then nobody asks which rows were not written, and keys need not be returned.
    certain = not (conditional or guard or plan.table.updates_may_be_refused)
    row = f'{code} AS "code"' if counts and certain else _written(writer, plan, code)
    part = (
        f"{written} AS (INSERT INTO {name_table(plan)} {names}SELECT {values}"
        f" FROM {writer.rows}{guard} ORDER BY {order}"
        f" ON CONFLICT ({target}) DO {action} RETURNING {row})"
    )
    numbers = [
        f'count(*) FILTER (WHERE "code" = {number})' for number in (CREATED, UPDATED)
    ]
    if counts and certain:
        answer = f"SELECT {', '.join(numbers)}, NULL FROM {written}"
    elif counts:
        queries = (f"(SELECT {number} FROM {written})" for number in numbers)
        answer = writer.counts(plan, *queries, written)
    else:
        columns = [f'{written}."r{n}"' for n in range(len(plan.returning))]
        named = ", ".join([f'{writer.rows}."ord"', f'{written}."code"', *columns])
        answer = f"SELECT {named} FROM {writer.rows} FULL JOIN {written} ON {same}"
    return writer.batch([part], answer)


def _update_first(
    plan: Plan, inputs: list[Input], *, counts: bool, distinct: bool
) -> BatchStatement:
    """
    Write the classic steps for many rows.

    Rows that are there are locked in the order of their keys and updated; the others
    are inserted in that order, ignoring conflicts, so that no default is evaluated and
    no constraint checked for rows that are not created.
    """
    writer = _BatchWriter(plan, inputs)
    rows, table = writer.rows, name_table(plan)
    locked, updated, inserted = (
        name_cte(plan, name) for name in ("locked", "updated", "inserted")
    )
    key = writer.key(plan)
    first = rows
    parts: list[str] = []
    if not distinct:
        # Rows with the same key wait until the first of them is written.
        first = name_cte(plan, "first")
        keys = ", ".join(writer.key_value(k) for k in plan.key)
        parts.append(
            f"{first} AS MATERIALIZED (SELECT * FROM (SELECT {rows}.*, row_number()"
            f' OVER (PARTITION BY {keys} ORDER BY {rows}."ord") AS "turn" FROM {rows})'
            ' AS x WHERE "turn" = 1)'
        )
    written = [inserted]
    if plan.update:
        written.append(updated)
        conditions = key
        if plan.where is not None or plan.compare is not None:
            conditions += f" AND {writer.passes(plan)} AND {writer.changes(plan)}"
        number = f'{rows}."ord"'
        order = ", ".join(
            _collated(writer.column(k.column), k.column) for k in plan.key
        )
        parts += [
            (
                f"{locked} AS MATERIALIZED (SELECT {rows}.* FROM {table},"
                f" {first} AS {rows} WHERE {conditions} ORDER BY {order}"
                f" FOR NO KEY UPDATE OF {ALIAS})"
            ),
            (
                f"{updated} AS (UPDATE {table} SET {writer.assignments(plan.update)}"
                f" FROM {locked} AS {rows} WHERE {conditions}"
                f" RETURNING {_written(writer, plan, str(UPDATED), number)})"
            ),
        ]
    names, values = writer.values(plan.insert)
    guard = f" AND {writer.guard(plan)}" if writer.inlines_default else ""
    parts.append(
        f"{inserted} AS (INSERT INTO {table} {names}SELECT {values}"
        f" FROM {first} AS {rows} WHERE NOT EXISTS (SELECT FROM {table} WHERE {key})"
        f"{guard} ORDER BY {writer.order(plan)} ON CONFLICT DO NOTHING"
        f" RETURNING {_written(writer, plan, str(CREATED))})"
    )
    if counts:
        numbers = [f"(SELECT count(*) FROM {name})" for name in written]
        answer = writer.counts(plan, *[*numbers, "0"][:2], *written)
        return writer.batch(parts, answer)
    joined = f"{first} AS {rows} FULL JOIN {inserted} ON"
    joined += f" {writer.same_key(plan, inserted)}"
    columns = ['"code"', *(f'"r{n}"' for n in range(len(plan.returning)))]
    answers = [f"{inserted}.{c}" for c in columns]
    if plan.update:
        joined += f' FULL JOIN {updated} ON {updated}."ord" = {rows}."ord"'
        answers = [
            f'CASE WHEN {updated}."code" IS NULL THEN {inserted}.{c}'
            f" ELSE {updated}.{c} END"
            for c in columns
        ]
    answer = ", ".join([f'{rows}."ord"', *answers])
    return writer.batch(parts, f"SELECT {answer} FROM {joined}")
