"""
Many rows as SQLite statements.

One statement is run for every row of a batch, with a function of the connection that
writes down what happened to a row that was there: a row nothing is written down for was
created. See the SQLite documentation: "UPSERT", "Application-Defined SQL Functions".
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aioupsert._plan import Term
from aioupsert._schema import Column, looks_like_number
from aioupsert._sql.quoting import quote, quote_path
from aioupsert._sql.rendering import SKIPPED, UNCHANGED, UPDATED
from aioupsert._sql.sqlite import Program, SqliteWriter, compile_plan

if TYPE_CHECKING:
    from aioupsert._plan import Plan
    from aioupsert._schema import UniqueIndex

NOTE: Final = "aioupsert_note"
"""The function where all rows are updated: writes down a row's number, gives NULL."""
NUMBER: Final = -1
"""Stands among slots for the row's number."""
MARK: Final = "aioupsert_mark"
"""The one for the others: a row's number and code; tells whether to update it."""


@dataclass(frozen=True, slots=True)
class BulkProgram:
    """
    The statements of one shape of row.

    Attributes:
        single: Those of one row alone.
        upsert: The statement to run for every row, or None.
        order: What its placeholders bind, in their order: slots, and NUMBER.
        conditional: Whether a row that is there may be left alone.
        encoders: Placeholders whose value is encoded first.
        how: How many rows are written, or why one by one.
    """

    single: Program
    upsert: str | None
    order: tuple[int, ...]
    conditional: bool
    encoders: tuple[tuple[int, Callable[[Any], Any]], ...]
    how: str


def compile_rows(plan: Plan, *, distinct: bool) -> BulkProgram:  # noqa: ARG001  # rows keep their order here
    """Write every statement for rows of one shape."""
    single = compile_plan(plan)
    why = _why_one_by_one(plan)
    if why is not None:
        return BulkProgram(single, None, (), plan.conditional, (), f"one by one: {why}")
    writer = _RowWriter(quote(plan.table.name[-1]))
    return BulkProgram(
        single,
        _upsert(plan, writer),
        tuple(writer.slots),
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
        "it is a view or a virtual table": not table.upserts,
        "no unique index is on exactly the key": target is None,
        "the key itself is given another value": bool(plan.renames),
        "another unique index may be in the way": any(
            _is_touched(index, given, set(key)) for index in table.unique
        ),
        "a trigger sees every insert": table.sees_inserts,
        "a trigger may refuse an update": table.refuses_updates,
        "it would use up numbers of AUTOINCREMENT": any(
            c.draws and c.name not in given for c in table.columns.values()
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

    def literal(self, term: Term) -> str:
        """Write what was proposed for the same column, or a placeholder."""
        column = self.proposed.get(term.slot)
        if column is not None and column == term.column:
            return f"excluded.{quote(column.name)}"
        return super().literal(term)

    def number(self) -> str:
        """Write a placeholder for the row's number."""
        self.slots.append(NUMBER)
        return "?"


def _upsert(plan: Plan, writer: _RowWriter) -> str:
    # In the order of the text, which is that of the placeholders.
    inserted = writer.inserted(plan)
    if plan.table.name[-1].lower() != "excluded":  # whose columns it would name
        writer.proposed = {
            item.term.slot: item.column
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


_TRUTHS: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "on"), 1),
    **dict.fromkeys(("false", "f", "no", "n", "off"), 0),
}
_NUMERIC: Final = frozenset({"sqlite number", "sqlite real"})
_INT64: Final = 2**63


def text_converter(column: Column) -> Callable[[str], Any]:
    """Give what makes of a text what a column's affinity would, or what it means."""
    if column.family == "boolean":
        return _truth
    return _number if column.storage in _NUMERIC else str


def _truth(text: str) -> Any:
    return _TRUTHS.get(text.strip().lower(), text) if text.isalpha() else _number(text)


def _number(text: str) -> int | float | str:
    if not looks_like_number(text):
        return text
    try:
        number = int(text)
    except ValueError:
        return float(text)
    return number if -_INT64 <= number < _INT64 else float(text)


def row_arguments(
    program: BulkProgram, columns: Sequence[Sequence[Any]], constants: Sequence[Any]
) -> Iterable[tuple[Any, ...]]:
    """Put what rows bring in the order of the placeholders, numbered from 0."""
    values: list[Iterable[Any]] = [*columns, *map(itertools.repeat, constants)]
    numbers = itertools.count()
    bound = [numbers if slot == NUMBER else values[slot] for slot in program.order]
    for place, encode in program.encoders:
        bound[place] = map(encode, bound[place])
    return zip(*bound, strict=False)
