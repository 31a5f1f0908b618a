"""Many rows: created, updated, and written again as they are."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from random import Random
from typing import Final

from benchmarks.peers.database import Database
from benchmarks.peers.figures import Figure, figures_of, joined
from benchmarks.peers.library import Peer, Ways, opened
from benchmarks.support.rows import rows_of, seeded
from benchmarks.support.timing import stopwatch

UNCHANGED: Final = "unchanged"
CASES: Final = ("created", "updated", UNCHANGED)
# Seconds for one load; a library that took longer is given no larger one.
LONGEST: Final = 20.0


async def measure_many(
    database: Database, peers: Sequence[Peer], options: Namespace
) -> list[Figure]:
    """Return the figures of each library that can do it, for each number of rows."""
    found: list[Figure] = []
    slow: set[str] = set()
    shuffled = seeded(options.seed)
    async with opened(peers, database.place) as connected:
        await warm_up(database, connected)
        for number in options.rows:
            able = [
                (peer, ways)
                for peer, ways in connected
                if ways.many is not None and peer.name not in slow
            ]
            for case in CASES:
                times = await seconds_of_case(
                    database, able, case, number, turns=options.turns, shuffled=shuffled
                )
                notes = {peer.name: note_of(peer, ways, case) for peer, ways in able}
                title = f"{number:,} rows {case}"
                found += figures_of(times, notes, database.name, 0, title)
                # Never ours, with which the others are compared.
                _, *others = times.items()
                slow |= {name for name, seconds in others if max(seconds) > LONGEST}
    if slow:
        print(f"{database.name}: no larger load for {', '.join(sorted(slow))}")
    return found


async def warm_up(database: Database, connected: Sequence[tuple[Peer, Ways]]) -> None:
    """Let each library write a few rows, as the first time prepares and imports."""
    for peer, ways in connected:
        if ways.many is not None:
            await database.empty()
            await ways.many(rows_of(10, 0))
            await database.check(rows_of(10, 0), f"{peer.name}, first rows")


async def seconds_of_case(
    database: Database,
    able: Sequence[tuple[Peer, Ways]],
    case: str,
    number: int,
    *,
    turns: int,
    shuffled: Random,
) -> dict[str, list[float]]:
    """Return the seconds of each library, turn by turn."""
    times: dict[str, list[float]] = {peer.name: [] for peer, _ in able}
    for turn in range(1, turns + 1):
        rows = rows_of(number, 0 if case == UNCHANGED else turn)
        for peer, ways in shuffled.sample(able, len(able)):
            await database.empty()
            if case != "created":
                await database.insert(rows_of(number, 0))
            write = (case == UNCHANGED and ways.again) or ways.many
            assert write is not None
            with stopwatch() as elapsed:
                await write(rows)
            times[peer.name].append(elapsed.wall)
            await database.check(rows, f"{peer.name}, {number:,} {case}")
    return times


def note_of(peer: Peer, ways: Ways, case: str) -> str:
    again = "writes them again" if case == UNCHANGED and not ways.again else ""
    return joined(again, peer.many_note)
