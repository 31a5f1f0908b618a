"""Many rows on SQLite: one statement, run for each."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING, Any

from aioupsert._sql.rendering import CREATED, UPDATED
from aioupsert._sql.sending import Send, Steps
from aioupsert._sql.sqlite_bulk import BulkProgram, row_arguments
from aioupsert._steps.common import Tally
from aioupsert._steps.sqlite import write_one

if TYPE_CHECKING:
    from aioupsert._plan.rows import Group


def write_alone(_program: BulkProgram, _group: Group, _tally: Tally) -> None:
    """Write nothing: a statement for each row, and a transaction around all."""


def write_rows(program: BulkProgram, group: Group, tally: Tally) -> Steps[None]:
    """Write a group of rows, in a transaction that is open."""
    # One by itself is written exactly, since a batch that fails ends here at last.
    number = len(group.places)
    if program.upsert is None or number == 1:
        for row, place in enumerate(group.places):
            result = yield from write_one(program.single, group.values(row))
            tally.add(place, result)
        return
    arguments = row_arguments(program, group.columns, group.constants)
    marks = yield Send(program.upsert, arguments, kind="repeat")
    if tally.results is None:
        tally.count(CREATED, number - len(marks))
        if not program.conditional:
            tally.count(UPDATED, len(marks))
            return
        for _, code in marks:
            tally.count(code)
        return
    codes = [CREATED] * number
    marked: Any = marks if program.conditional else zip(marks, repeat(UPDATED))
    for row, code in marked:
        codes[row] = code
    tally.add_bare(dict(zip(group.places, codes, strict=True)))
