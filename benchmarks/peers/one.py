"""One call: a view of a page is counted, and the page is created if it is missing."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from typing import Final

from benchmarks.peers.database import Database
from benchmarks.peers.figures import Figure, figures_of, joined
from benchmarks.peers.library import One, Peer, Ways, opened
from benchmarks.support.rows import Row, seeded
from benchmarks.support.timing import stopwatch

INSIDE: Final = ", in a transaction"
CASES: Final = ("created", "updated", f"created{INSIDE}", f"updated{INSIDE}")
LEAST_CALLS: Final = 20


def calls_of(case: str, number: int) -> list[tuple[str, str]]:
    """Return paths and notes: new pages if they are to be created, else the same one."""
    new = case.startswith("created")
    return [(f"/page/{n if new else 0}", f"seen {n}") for n in range(number)]


def rows_left(calls: Sequence[tuple[str, str]]) -> list[Row]:
    """Return the rows that the calls leave, each of them a view of its page."""
    views = Counter(path for path, _ in calls)
    return [(path, views[path], note) for path, note in dict(calls).items()]


async def seconds_of_case(
    ways: Ways, case: str, calls: Sequence[tuple[str, str]]
) -> float:
    """Return the seconds of a call, made as the case says."""
    assert ways.one is not None
    if not case.endswith(INSIDE):
        return await seconds_of(ways.one, calls)
    assert ways.begin is not None
    async with ways.begin():
        return await seconds_of(ways.inside or ways.one, calls)


async def seconds_of(call: One, calls: Sequence[tuple[str, str]]) -> float:
    # The first one, which opens what is needed, is not timed.
    await call(*calls[0])
    with stopwatch() as elapsed:
        for path, note in calls[1:]:
            await call(path, note)
    return elapsed.wall / (len(calls) - 1)


async def measure_one(
    database: Database,
    place: str,
    delay: float,
    peers: Sequence[Peer],
    options: Namespace,
) -> list[Figure]:
    """
    Measure all cases.

    Args:
        database: Where the table is.
        place: How the libraries reach it.
        delay: How much longer a round trip is there, in milliseconds.
        peers: The libraries, aioupsert first.
        options: Of the command line.

    Returns:
        The figures of each library that can do it, for each case.
    """
    found: list[Figure] = []
    number = max(LEAST_CALLS, round(options.calls / (1 + delay)))
    shuffled = seeded(options.seed)
    notes = {peer.name: note_of(peer) for peer in peers}
    async with opened(peers, place) as connected:
        for case in CASES:
            able = [
                (peer, ways)
                for peer, ways in connected
                if ways.one is not None
                and (ways.begin is not None or not case.endswith(INSIDE))
            ]
            calls = calls_of(case, number)
            times: dict[str, list[float]] = {peer.name: [] for peer, _ in able}
            for turn in range(options.turns + 1):
                for peer, ways in shuffled.sample(able, len(able)):
                    await database.empty()
                    seconds = await seconds_of_case(ways, case, calls)
                    await database.check(rows_left(calls), f"{peer.name}, {case}")
                    if turn:  # the first one prepares statements and imports
                        times[peer.name].append(seconds)
            found += figures_of(times, notes, database.name, delay, case)
    return found


def note_of(peer: Peer) -> str:
    silent = "" if peer.reports or "created flag" in peer.note else "no created flag"
    return joined(silent, peer.note)
