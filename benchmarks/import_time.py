"""
How long the import takes, after that of asyncio, which every caller has imported.

Each import is timed in processes of its own, in turns. The time of a process that imports
nothing is subtracted from asyncio's, and asyncio's from aioupsert's.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from argparse import ArgumentParser, Namespace
from functools import partial
from typing import Final

from rich.table import Table

from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import show, show_versions, verdict
from benchmarks.support.timing import in_turns, quartiles, stopwatch

QUICK: Final = {"turns": 1}
CODES: Final = {
    "nothing": "pass",
    "asyncio": "import asyncio",
    "aioupsert": "import aioupsert",
}
MOST_MILLISECONDS: Final = 50.0
# An installed package is compiled, and so is this one after the first turn.
ENVIRONMENT: Final = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}


async def timed(code: str, _turn: int) -> float:
    """Return the milliseconds of a process that runs the code."""
    with stopwatch() as elapsed:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, env=ENVIRONMENT
        )
        failed = await process.wait()
    assert not failed, code
    return elapsed.wall * 1e3


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 25)
    add_check(parser)


def run(options: Namespace) -> int:
    ways = {name: partial(timed, code) for name, code in CODES.items()}
    times = asyncio.run(in_turns(ways, options.turns))
    table = Table("import", "ms", "quartiles", "at most")
    added: dict[str, float] = {}
    for before, name in itertools.pairwise(CODES):
        pairs = zip(times[name], times[before], strict=True)
        milliseconds = quartiles([after - earlier for after, earlier in pairs])
        added[name] = milliseconds.median
        most = f"{MOST_MILLISECONDS:.0f}" if name == "aioupsert" else ""
        table.add_row(name, *milliseconds.cells(digits=1), most)
    show(table)
    show_versions()
    too_slow = [name for name in ("aioupsert",) if added[name] > MOST_MILLISECONDS]
    return verdict(too_slow, check=options.check)
