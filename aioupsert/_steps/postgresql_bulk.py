"""Many rows on PostgreSQL: by arrays, by a temporary table, and at last one by one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aioupsert._sql.postgresql_bulk import Answers, Batch, BulkProgram
from aioupsert._sql.quoting import quote
from aioupsert._sql.rendering import CREATED, UPDATED
from aioupsert._sql.sending import CannotCopyError, Column, Rows, Send, Steps
from aioupsert._steps.common import Tally, framed, read_result
from aioupsert._steps.postgresql import frame, write_one

if TYPE_CHECKING:
    from aioupsert._plan.rows import Group

T = TypeVar("T")

# Up to here arrays are as quick as copying, and need no temporary table.
_MAX_ARRAYS: Final = 5_000
# So few are written one by one as quickly.
_FEW: Final = 2


def write_rows(program: BulkProgram, group: Group, tally: Tally) -> Steps[None]:
    """Write a group of rows, in a transaction that is open."""
    pending: Sequence[int] = range(len(group.places))
    if program.write is not None and len(pending) > _FEW:
        pending = yield from _write_rounds(program, group, pending, tally)
    for row in _sorted(program, group, pending):
        result = yield from write_one(program.single, group.values(row))
        tally.add(group.places[row], result)


def write_alone(
    program: BulkProgram, group: Group, tally: Tally
) -> Steps[Sequence[int]] | None:
    """
    Write a group of rows by a statement that is a transaction by itself.

    Returns:
        Steps that end in the rows which were not reached, and are not written; None
        where it takes more than one statement.
    """
    number = len(group.places)
    is_one = (
        program.write is not None
        and program.look is None
        and program.takes_arrays
        and not program.looks_up
        and number <= _MAX_ARRAYS
    )
    if not is_one:
        return None
    return _write_some(program, group, range(number), tally, copied=False)


def _sorted(program: BulkProgram, group: Group, rows: Sequence[int]) -> Sequence[int]:
    """Sort rows by their keys, so that two writers do not wait for each other."""
    if not group.distinct:
        return rows  # equal keys of the database must stay in their order
    key = [group.columns[k.slot] for k in program.single.plan.key if not k.is_null]
    return sorted(rows, key=lambda row: [column[row] for column in key])


# Compiling a statement takes the server longer than running it once. (Not by "jit", which
# asyncpg sets for the session when it meets a type, to what it finds then.)
_PLAINLY: Final = {"jit_above_cost": "-1"}
# The server may have planned a statement when the table was small, or guess that the
# arrays are: what was right then is a disaster for many rows. An index never is.
_BY_INDEX: Final = {
    **_PLAINLY,
    **dict.fromkeys(("enable_seqscan", "enable_hashjoin", "enable_mergejoin"), "off"),
}


def _planned(settings: Mapping[str, str], body: Steps[T]) -> Steps[T]:
    """Run steps under settings of the planner; leave those as they were."""
    now = [f"current_setting('{name}')" for name in settings]
    new = [f"set_config('{name}', '{s}', true)" for name, s in settings.items()]
    rows = yield Send(f"SELECT {', '.join(now + new)}")
    result = yield from body
    back = [f"set_config('{name}', ${n}, true)" for n, name in enumerate(settings, 1)]
    yield Send(f"SELECT {', '.join(back)}", rows[0][: len(settings)])
    return result


def _write_rounds(
    program: BulkProgram, group: Group, pending: Sequence[int], tally: Tally
) -> Steps[Sequence[int]]:
    """Write what many can; return the rows that are better written one by one."""
    while len(pending) > _FEW:
        left = yield from _write_round(program, group, pending, tally)
        if len(left) > len(pending) // 2:
            return left
        pending = left
    return pending


def _write_round(
    program: BulkProgram, group: Group, pending: Sequence[int], tally: Tally
) -> Steps[Sequence[int]]:
    """Write rows once; return those that were not reported, in their order."""
    if program.create_stage and (
        len(pending) > _MAX_ARRAYS or not program.takes_arrays
    ):
        copied = _copied(program, group, pending, tally)
        try:
            # A savepoint, since the driver may find out late that it cannot copy.
            return (yield from framed(frame(in_transaction=True), copied))
        except CannotCopyError:
            pass
    if not program.takes_arrays:
        return pending
    left: list[int] = []
    for start in range(0, len(pending), _MAX_ARRAYS):
        some = pending[start : start + _MAX_ARRAYS]
        body = _write_some(program, group, some, tally, copied=False)
        left += yield from _planned(_BY_INDEX, body) if program.looks_up else body
    return left


def _copied(
    program: BulkProgram, group: Group, some: Sequence[int], tally: Tally
) -> Steps[list[int]]:
    """Write rows through a temporary table, made for this."""
    yield Send(program.create_stage, kind="command")
    yield _copy(program, group, some)
    body = _write_some(program, group, some, tally, copied=True)
    left = yield from _planned(_PLAINLY, body)
    yield Send(f"DROP TABLE pg_temp.{quote(program.stage)}", kind="command")
    return left


def _copy(program: BulkProgram, group: Group, some: Sequence[int]) -> Send:
    columns = _columns(program, group, some)
    rows = zip(itertools.count(1), *columns, strict=False)
    return Send(program.stage, rows, kind="copy")


def _columns(
    program: BulkProgram, group: Group, some: Sequence[int]
) -> list[Sequence[Any]]:
    """Give what the rows bring, column by column, the JSON encoded."""
    columns = group.some(some)
    return [
        columns[slot] if encode is None else [*map(encode, columns[slot])]
        for slot, _, encode in program.inputs
    ]


def _write_some(
    program: BulkProgram,
    group: Group,
    some: Sequence[int],
    tally: Tally,
    *,
    copied: bool,
) -> Steps[list[int]]:
    """Write rows by one statement; return those it did not report."""
    assert program.write is not None  # noqa: S101  # see write_rows
    if program.look is not None:
        rest = yield from _look(
            program, program.look, group, some, tally, copied=copied
        )
        if copied and rest and len(rest) < len(some):
            yield Send(f"TRUNCATE pg_temp.{quote(program.stage)}", kind="command")
            yield _copy(program, group, rest)
        some = rest
    if not some:
        return []
    write = program.write
    counts = write.counts if tally.results is None else None
    ask = _ask(counts or write.reports, program, group, some, copied=copied)
    rows = yield ask
    if counts is None:
        return _report(program, group, some, tally, rows)
    created, updated, left = rows[0]
    tally.count(CREATED, created)
    tally.count(UPDATED, updated)
    return [some[number - 1] for number in sorted(left or ())]


def _look(
    program: BulkProgram,
    look: Answers,
    group: Group,
    some: Sequence[int],
    tally: Tally,
    *,
    copied: bool,
) -> Steps[list[int]]:
    """Find the rows that are left alone; return the others."""
    counts = look.counts if tally.results is None else None
    ask = _ask(counts or look.reports, program, group, some, copied=copied)
    rows = yield ask
    if counts is None:
        return _report(program, group, some, tally, rows)
    alone: set[int] = set()
    for code, numbers in rows:
        tally.count(code, len(numbers))
        alone.update(numbers)
    if not alone:
        return [*some]
    return [row for number, row in enumerate(some, 1) if number not in alone]


def _ask(
    batch: Batch,
    program: BulkProgram,
    group: Group,
    some: Sequence[int],
    *,
    copied: bool,
) -> Send:
    """Ask a statement for its answers, of which the reports have what was asked for."""
    plan = program.single.plan
    width = plan.row_slots
    asked = len(plan.returning)
    constants = batch.constants.arguments([*(None,) * width, *group.constants])
    if copied:
        return Send(batch.staged, constants, asked=asked)
    arrays = map(Column, _columns(program, group, some))
    return Send(batch.arrays, [*constants, *arrays], asked=asked)


def _report(
    program: BulkProgram,
    group: Group,
    some: Sequence[int],
    tally: Tally,
    rows: Rows,
) -> list[int]:
    """Note what happened to every row reported; return those that were not."""
    plan = program.single.plan
    written = [row for row in rows if row[1] is not None]
    reported: dict[int, Any] = {}
    if plan.unique and not plan.returning:
        reported = {row[0]: row[1] for row in written}
        tally.add_bare(
            {group.places[some[number - 1]]: code for number, code in reported.items()}
        )
    else:
        for number, *its in written:
            reported.setdefault(number, []).append(its)
        for number, its_rows in reported.items():
            tally.add(group.places[some[number - 1]], read_result(plan, its_rows))
    return [row for number, row in enumerate(some, 1) if number not in reported]
