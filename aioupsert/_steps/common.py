"""What the steps of every database share: attempts, results, and transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeVar

from aioupsert._sql.rendering import (
    CREATED,
    SKIPPED,
    UNCHANGED,
    UPDATED,
    Compiled,
)
from aioupsert._sql.sending import Rows, Send, Steps
from aioupsert.errors import NotAppliedError
from aioupsert.results import Action, Result

if TYPE_CHECKING:
    from aioupsert._plan import Plan
    from aioupsert._schema import TableName
    from aioupsert._sql import postgresql, sqlite

T = TypeVar("T")

Values: TypeAlias = Sequence[Any]


class Lost(NamedTuple):
    """
    A concurrent call got in between; the next attempt starts over.

    Attributes:
        error: What the insert failed with, or None.
        visible: Whether a row with the key was there all the same.
    """

    error: Exception | None = None
    visible: bool = False


MAX_LOST: Final = 64
"""
After how many lost attempts there is no hope.

Losing this often in a row happens only while the very same row comes and goes (at most
30 times were seen), or when something that cannot be seen stays in the way.
"""


def hopeless(table: TableName, lost: Lost) -> Exception:
    """Make the error for a call that was lost too often."""
    if lost.error is None or lost.visible:
        error = refused(table)
        error.__cause__ = lost.error
        return error
    return lost.error


def find(
    program: postgresql.Program | sqlite.Program, values: Values
) -> Steps[Result | None]:
    """Look for the row of a call that has nothing to update; write nothing."""
    assert program.find is not None  # noqa: S101  # see Plan.conditional
    rows = yield send(program.find, values, len(program.plan.returning))
    return read_result(program.plan, rows) if rows else None


def send(statement: Compiled, values: Values, asked: int = 0) -> Send:
    """Fill in the values of a statement; *asked* is as in `Send`."""
    return Send(
        statement.sql,
        statement.arguments(values),
        counted=statement.counted,
        asked=asked,
    )


_ACTIONS: Final = {
    CREATED: Action.CREATED,
    UPDATED: Action.UPDATED,
    UNCHANGED: Action.UNCHANGED,
    SKIPPED: Action.SKIPPED,
}


_WRITTEN: Final = frozenset({CREATED, UPDATED})
# What is told of a row by itself of which nothing else was asked.
_BARE: Final = {
    code: Result(action, int(code in _WRITTEN)) for code, action in _ACTIONS.items()
}


def read_result(plan: Plan, rows: Rows) -> Result:
    """Read the rows of a statement: what happened first, then what was asked for."""
    names = plan.returning
    if not names and len(rows) == 1:
        return _BARE[rows[0][0]]
    # Several rows match: one that was written outweighs one left unchanged, and that
    # one outweighs one that was skipped; the codes are in this order.
    code = rows[0][0] if len(rows) == 1 else min(row[0] for row in rows)
    mappings = (
        tuple([dict(zip(names, row[1:], strict=True)) for row in rows]) if names else ()
    )
    return Result(_ACTIONS[code], len(rows) if code in _WRITTEN else 0, mappings)


_REFUSED: Final = (
    "the row of {} was neither created nor updated, and the database gave no error;"
    " likely causes: a BEFORE trigger that returns NULL (RAISE(IGNORE) on SQLite), a"
    " rule, a row-level security policy that hides the row, or a key that is stored as"
    " another value than was given"
)


def refused(table: TableName) -> NotAppliedError:
    """Make the error for a row that the database refuses silently."""
    return NotAppliedError(_REFUSED.format(".".join(table)))


class Frame(NamedTuple):
    """
    A transaction, or a savepoint in one.

    Attributes:
        begin: Opens it.
        commit: Keeps what was done in it.
        undo: Undoes that, if it can still be undone.
    """

    begin: Send
    commit: Send
    undo: tuple[Send, ...]


def framed(frame: Frame, body: Steps[T]) -> Steps[T]:
    """Run steps so that all of their work is kept or none."""
    try:
        yield frame.begin
        result = yield from body
        status = yield frame.commit
        check_committed(status)
    except BaseException:
        for undo in frame.undo:  # noqa: UP028  # the answers cannot be sent to a tuple
            yield undo
        raise
    return result


def check_committed(answer: Rows) -> None:
    """
    Look at what the database answered to COMMIT.

    Raises:
        NotAppliedError: A transaction of PostgreSQL that has failed answers ROLLBACK,
            and that is no error of its own.
    """
    if answer and answer[0][0] == "ROLLBACK":
        msg = "the database answered ROLLBACK to COMMIT; nothing is stored"
        raise NotAppliedError(msg)


class Unstored(NamedTuple):
    """A row that could not be stored, by its place in the input."""

    place: int
    row: object
    error: Exception


class Tally:
    """
    What happened to the rows of a batch.

    Attributes:
        counts: How many rows have each action.
        results: What happened to each, by its place; None when nobody asks.
        unstored: The rows that were left out.
        sent: How many rows were sent, fewer than calls where some were folded.
        left: Places of calls of which nothing was written, and that are due again.
    """

    def __init__(self, *, each: bool) -> None:
        """Start with nothing; *each* is whether every row's result is asked for."""
        self.counts: dict[Action, int] = dict.fromkeys(Action, 0)
        self.results: dict[int, Result] | None = {} if each else None
        self.unstored: list[Unstored] = []
        self.sent = 0
        self.left: Sequence[int] = ()

    def count(self, code: int, number: int = 1) -> None:
        """Count rows of which nothing else is known."""
        self.counts[_ACTIONS[code]] += number

    def add(self, place: int, result: Result) -> None:
        """Count a row, and keep its result if it is asked for."""
        self.counts[result.action] += 1
        if self.results is not None:
            self.results[place] = result

    def add_bare(self, codes: Mapping[int, int]) -> None:
        """Count rows of which nothing but their code was asked, by their places."""
        for code, number in Counter(codes.values()).items():
            self.count(code, number)
        if self.results is not None:
            self.results |= {place: _BARE[code] for place, code in codes.items()}

    def follow(self, folded: Mapping[int, Sequence[int]]) -> None:
        """Count calls that were folded into others: they found the row there."""
        found = _BARE[UPDATED]
        followed = dict.fromkeys(chain.from_iterable(folded.values()), found)
        self.counts[found.action] += len(followed)
        if self.results is not None:
            self.results.update(followed)

    def name_places(self, places: Sequence[int]) -> None:
        """Take places in a batch for places in the input."""
        # Those of a whole batch are the same.
        if self.results is not None and places != range(len(places)):
            self.results = {places[at]: r for at, r in self.results.items()}
            self.left = [places[at] for at in self.left]

    def merge(self, other: Tally) -> None:
        """Add what happened to other rows."""
        for action, number in other.counts.items():
            self.counts[action] += number
        if self.results is not None:
            self.results.update(other.results or {})
        self.unstored += other.unstored
        self.sent += other.sent
