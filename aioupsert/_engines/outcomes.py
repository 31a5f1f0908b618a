"""The outcomes that rows of an answer stand for: of a call, a lost race, a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, compress
from typing import TYPE_CHECKING, Final, NamedTuple

from aioupsert._engines.commands import Command, ResultRows, Steps
from aioupsert._engines.sql import CompiledStatement, ParameterValues, RowCode
from aioupsert.errors import NotAppliedError
from aioupsert.results import Action, Result, results_of_rows

if TYPE_CHECKING:
    from aioupsert._plan import Plan, RejectedRow
    from aioupsert._plan.schema import TableName


# --- One row --------------------------------------------------------------------------


class LostRace(NamedTuple):
    """
    A concurrent call was faster; the next attempt starts over.

    Attributes:
        error: The error of the insert, or None.
        visible: Whether the snapshot shows a row with the key nevertheless.
    """

    error: Exception | None = None
    visible: bool = False


MAX_LOST_RACES: Final = 64
"""
The number of consecutive lost races after which a call fails.

A call loses as many only while its row is created and deleted all the time (at most 30
in a row were seen), or when an invisible row keeps blocking its insert and nothing tells
that from a race.
"""


def race_error(table: TableName, lost: LostRace) -> Exception:
    """Return the error of a call that has lost too many races."""
    if lost.error is None or lost.visible:
        error = refused(table)
        error.__cause__ = lost.error
        return error
    return lost.error


def bind(
    statement: CompiledStatement, values: ParameterValues, caller_columns: int = 0
) -> Command:
    """Return the command that sends a statement with these values."""
    return Command(
        statement.sql,
        statement.arguments(values),
        counted_as=statement.counted_as,
        caller_columns=caller_columns,
    )


def read_existing(
    statement: CompiledStatement | None, plan: Plan, values: ParameterValues
) -> Steps[Result | None]:
    """Return the result of a call that updates nothing, if its row exists."""
    assert statement is not None  # noqa: S101  # see Plan.conditional
    rows = yield bind(statement, values, plan.caller_columns)
    return read_result(plan, rows) if rows else None


# By plain int, which is what the database returns, and quicker to look up.
_ACTIONS: Final = {int(code): Action[code.name] for code in RowCode}
_WRITTEN: Final = frozenset({int(RowCode.CREATED), int(RowCode.UPDATED)})
_ATTRIBUTES: Final = {
    code: {"action": action, "rows_affected": int(code in _WRITTEN)}
    for code, action in _ACTIONS.items()
}
_IS_CREATED: Final = {code: code == RowCode.CREATED for code in _ACTIONS}
# Results are immutable, so calls for one row that return no columns share one.
_SHARED: Final = {
    code: Result(action, int(code in _WRITTEN)) for code, action in _ACTIONS.items()
}


def read_result(plan: Plan, rows: ResultRows) -> Result:
    """
    Return the result of a call whose rows each have a code, then their columns.

    With `Plan.old` there is a list between these that tells of each visible column
    whether it has changed, and at the end the columns as they were; of a row that was
    not updated the list is None.
    """
    names = plan.returning
    if plan.old:
        return _read_with_old(plan, rows)
    if not names and len(rows) == 1:
        return _SHARED[rows[0][0]]
    # Several rows match: one that was written outweighs one left unchanged, which
    # outweighs one that was skipped.
    code = rows[0][0] if len(rows) == 1 else min(row[0] for row in rows)
    mappings = (
        tuple([dict(zip(names, row[1:], strict=True)) for row in rows]) if names else ()
    )
    return Result(_ACTIONS[code], len(rows) if code in _WRITTEN else 0, mappings)


def _read_with_old(plan: Plan, rows: ResultRows) -> Result:
    names = plan.returning
    width = len(names)
    code = min(row[0] for row in rows)
    new = [dict(zip(names, row[2 : 2 + width], strict=True)) for row in rows]
    old = None
    changed: tuple[str, ...] = ()
    if code == RowCode.CREATED:
        written = {item.column.name for item in plan.insert if item.term is not None}
        changed = tuple(name for name in plan.table.columns if name in written)
    elif names:
        old = dict(zip(names, rows[0][2 + width :], strict=True))
    if code == RowCode.UPDATED:
        flags = map(any, zip(*(row[1] for row in rows), strict=True))
        changed = tuple(compress(plan.table.visible, flags))
    number = len(rows) if code in _WRITTEN else 0
    return Result(_ACTIONS[code], number, tuple(new) if names else (), old, changed)


_REFUSED: Final = (
    "the row of {} was neither created nor updated, and the database raised no error;"
    " likely causes: a BEFORE trigger that returns NULL (RAISE(IGNORE) on SQLite), a"
    " rule, a row-level security policy that hides the row, or a key that is stored as"
    " another value than was given"
)


def refused(table: TableName) -> NotAppliedError:
    """Return the error for a row that the database silently does not write."""
    return NotAppliedError(_REFUSED.format(".".join(table)))


# --- Many rows ------------------------------------------------------------------------


class BatchOutcome:
    """
    What happened to the rows of a batch.

    Attributes:
        counts: The number of rows by action.
        results: The result of each row by its position; None unless requested.
        rejected: The rows that were left out.
        sent: The number of rows sent; less than that of calls if some were merged.
        left: The positions of calls that were not written, and have to be sent again.
        skips: Whether rows that cannot be stored may be left out, of which the steps
            then may find some themselves.
    """

    def __init__(self, *, each: bool, skips: bool = False) -> None:
        """Start empty; *each* requests the result of every row."""
        self.skips = skips
        self.counts: dict[Action, int] = dict.fromkeys(Action, 0)
        self.results: dict[int, Result] | None = {} if each else None
        self.rejected: list[RejectedRow] = []
        self.sent: int = 0
        self.left: Sequence[int] = ()

    def count(self, code: int, number: int = 1) -> None:
        """Count rows that have this code."""
        self.counts[_ACTIONS[code]] += number

    def add(self, position: int, result: Result) -> None:
        """Count a row, and keep its result if requested."""
        self.counts[result.action] += 1
        if self.results is not None:
            self.results[position] = result

    def add_codes(self, codes: Mapping[int, int]) -> None:
        """Count rows that return no columns, given the code at each position."""
        for code, number in Counter(codes.values()).items():
            self.counts[_ACTIONS[code]] += number
        if self.results is not None:
            self.results |= {
                position: _SHARED[code] for position, code in codes.items()
            }

    def add_rows(
        self, names: Sequence[str], positions: Sequence[int], rows: ResultRows
    ) -> None:
        """
        Count rows of which each is the only one that has its key.

        Args:
            names: The columns that are returned.
            positions: The positions of the rows.
            rows: Of each a number, its code, and these columns.
        """
        codes = [row[1] for row in rows]
        if not names or self.results is None:
            self.add_codes(dict(zip(positions, codes, strict=True)))
            return
        for code, number in Counter(codes).items():
            self.counts[_ACTIONS[code]] += number
        if len(names) == 1:
            (name,) = names  # as mostly: an id, and no slice of the row
            mappings = [{name: row[2]} for row in rows]
        else:
            mappings = [dict(zip(names, row[2:], strict=True)) for row in rows]
        created = map(_IS_CREATED.__getitem__, codes)
        attributes = map(_ATTRIBUTES.__getitem__, codes)
        results = results_of_rows(mappings, created, attributes)
        self.results.update(zip(positions, results, strict=True))

    def add_merged(self, merged: Mapping[int, Sequence[int]], *, updates: bool) -> None:
        """
        Count calls that were merged into earlier ones.

        Args:
            merged: Their positions, by those of the earlier ones.
            updates: Whether each of them updates the row, or leaves it unchanged.
        """
        if updates or self.results is None:
            code = RowCode.UPDATED if updates else RowCode.UNCHANGED
            positions = chain.from_iterable(merged.values())
            self.add_codes(dict.fromkeys(positions, int(code)))
            return
        for position, others in merged.items():
            rows = self.results[position].rows
            for other in others:
                again = tuple([dict(row) for row in rows])
                self.add(other, Result(Action.UNCHANGED, 0, again))

    def use_input_positions(self, positions: Sequence[int]) -> None:
        """Replace positions in the batch by positions in the input."""
        # They are equal if the batch is the whole input.
        if self.results is not None and positions != range(len(positions)):
            self.results = {positions[at]: r for at, r in self.results.items()}
            self.left = [positions[at] for at in self.left]

    def merge(self, other: BatchOutcome) -> None:
        """Add the outcome of other rows."""
        for action, number in other.counts.items():
            self.counts[action] += number
        if self.results is not None:
            self.results.update(other.results or {})
        self.rejected += other.rejected
        self.sent += other.sent
