"""
A data frame as rows, and the same rows as dicts.

Rows of a table of Arrow are written as they are, as dicts that the caller has already, and
as dicts that are made from it first, in turns of one run. Processor times are the least of
the turns, as memory that is new to the process costs much in some; a ratio by the clock,
which has the server's time, is the median. The command fails if on PostgreSQL the table takes
more than its limit of the processor time of the dicts that exist.
"""

from __future__ import annotations

import asyncio
import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import psycopg
from rich.table import Table

from aioupsert import create_or_update_many
from benchmarks.support.databases import (
    postgresql,
    postgresql_server,
    refill,
    refill_sqlite,
    sqlite,
    sqlite_path,
)
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import show, show_versions, verdict
from benchmarks.support.rows import Row, as_dicts, rows_of
from benchmarks.support.timing import Elapsed, cpu, in_turns, ratio, stopwatch, wall

QUICK: Final = {"rows": 200, "turns": 1}
LIMIT: Final = 0.7
"""Times the processor time of dicts, at most, on PostgreSQL."""

Reset: TypeAlias = Callable[[Sequence[Row]], Awaitable[object]]
pa: Final[Any] = importlib.import_module("pyarrow")
"""It has no annotations."""
Form: TypeAlias = Callable[[list[dict[str, Any]], Any], Any]
FORMS: Final[Mapping[str, Form]] = {
    "frame": lambda _dicts, frame: frame,
    "dicts": lambda dicts, _frame: dicts,
    "made dicts": lambda _dicts, frame: frame.to_pylist(),
}


async def measure(
    conn: Any, reset: Reset, existing: int, options: Namespace
) -> dict[str, list[Elapsed]]:
    """Return the time of each form, turn by turn, if so many of the rows exist."""

    async def timed(form: Form, turn: int) -> Elapsed:
        await reset(rows_of(existing, -1))
        dicts = as_dicts(rows_of(options.rows, turn))
        frame = pa.Table.from_pylist(dicts)
        with stopwatch() as elapsed:
            rows = form(dicts, frame)
            done = await create_or_update_many(conn, "views", rows, key="path")
        assert (done.created, done.updated) == (options.rows - existing, existing)
        return elapsed

    forms = {name: partial(timed, form) for name, form in FORMS.items()}
    return await in_turns(forms, options.turns)


async def compare(
    name: str, conn: Any, reset: Reset, table: Table, options: Namespace
) -> float:
    """Fill in the lines of a driver; return the highest ratio of processor times."""
    highest = 0.0
    for case, existing in (("created", 0), ("updated", options.rows)):
        measured = await measure(conn, reset, existing, options)
        frame, dicts, made = measured.values()
        least = [min(cpu(form)) for form in (frame, dicts, made)]
        table.add_row(
            f"{name}, {case}",
            *(f"{seconds:.3f}" for seconds in least),
            *(f"{least[0] / seconds:.2f}" for seconds in least[1:]),
            *(f"{ratio(wall(frame), wall(way)).median:.2f}" for way in (dicts, made)),
        )
        highest = max(highest, least[0] / least[1])
    return highest


async def measure_all(options: Namespace) -> int:
    table = Table(
        *("", "frame, CPU s", "dicts, CPU s", "made dicts, CPU s"),
        *("frame to dicts, CPU", "to made dicts, CPU"),
        *("to dicts, by the clock", "to made dicts, by the clock"),
        title=f"{options.rows:,} rows",
    )
    too_slow: list[str] = []
    with postgresql_server() as server:
        async with (
            postgresql(server.dsn, "views") as conn,
            await psycopg.AsyncConnection.connect(server.dsn, autocommit=True) as other,
        ):
            reset = partial(refill, conn, "views")
            for name, each in (("asyncpg", conn), ("psycopg", other)):
                if await compare(name, each, reset, table, options) > LIMIT:
                    too_slow.append(name)
    with sqlite_path() as path:
        async with sqlite(path, "views") as on_sqlite:
            reset = partial(refill_sqlite, on_sqlite, "views")
            await compare("aiosqlite", on_sqlite, reset, table, options)
    show(table)
    show_versions(server)
    return verdict(too_slow, check=options.check)


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=100_000)
    add_turns(parser, 7)
    add_check(parser)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
