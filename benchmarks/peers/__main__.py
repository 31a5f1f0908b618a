"""
aioupsert beside other libraries, on the same task in the same run.

    python benchmarks/peers one     # one call
    python benchmarks/peers many    # many rows
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE / "libraries"), str(HERE)]

import alchemy  # noqa: E402  # found by the line above, as are the others
import by_hand  # noqa: E402
import django_orm  # noqa: E402
import ours  # noqa: E402
import piccolo_orm  # noqa: E402
import sqlite_tools  # noqa: E402
import tortoise_orm  # noqa: E402
from delay import delayed  # noqa: E402
from peer import One, Peer, Row, Ways  # noqa: E402
from plots import draw  # noqa: E402

from tests.support.servers import (  # noqa: E402
    NoServerError,
    session_server,
    stop_session_server,
)

MODULES: tuple[Any, ...] = (
    ours,
    by_hand,
    alchemy,
    tortoise_orm,
    piccolo_orm,
    django_orm,
    sqlite_tools,
)
POSTGRESQL: list[Peer] = [peer for module in MODULES for peer in module.POSTGRESQL]
SQLITE: list[Peer] = [peer for module in MODULES for peer in module.SQLITE]
TABLE = """
CREATE TABLE page_views
    (path text PRIMARY KEY, hits integer NOT NULL DEFAULT 0, note text)
"""
INSIDE = ", in a transaction"
CASES = ("created", "updated", f"created{INSIDE}", f"updated{INSIDE}")
MANY_CASES = ("created", "updated", "unchanged")
# Seconds after which a library is given no larger load.
PATIENCE = 20.0
COLUMNS = ("library", "ms", "by aioupsert", "quartiles", "notes")


class Figure(NamedTuple):
    """
    One line of the result.

    Attributes:
        database: PostgreSQL or SQLite.
        delay: How much longer a round trip is, in milliseconds.
        case: What was done.
        peer: By which library.
        seconds: For one call, or for all rows: the median over the turns.
        ratio: The median over the turns of this library's time by aioupsert's.
        low: The lower quartile of the ratio.
        high: The upper one.
        note: What it does otherwise than was asked.
    """

    database: str
    delay: float
    case: str
    peer: str
    seconds: float
    ratio: float
    low: float
    high: float
    note: str


class WrongRowsError(Exception):
    """A library did not store what was asked."""


class Database:
    """Where the table is: made, emptied, and looked at, by a connection of its own."""

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self.place = place

    async def run(self, sql: str) -> list[Any]:
        if self.name == "SQLite":
            with closing(sqlite3.connect(self.place, isolation_level=None)) as conn:
                return conn.execute(sql).fetchall()
        connection = await asyncpg.connect(self.place)
        try:
            return [tuple(record) for record in await connection.fetch(sql)]
        finally:
            await connection.close()

    async def make(self) -> None:
        await self.run("DROP TABLE IF EXISTS page_views")
        await self.run(TABLE)
        if self.name == "SQLite":
            await self.run("PRAGMA journal_mode = WAL")

    async def empty(self) -> None:
        await self.run("DELETE FROM page_views")
        if self.name == "PostgreSQL":
            await self.run("VACUUM ANALYZE page_views")

    async def check(self, expected: Sequence[Row], what: str) -> None:
        """Fail if it holds other rows than these, each with its counter and note."""
        stored = await self.run("SELECT path, hits, note FROM page_views")
        wrong = sorted(set(stored) ^ set(expected))
        if wrong or len(stored) != len(expected):
            msg = (
                f"{what}: {len(stored):,} rows instead of {len(expected):,}, stored or"
                f" expected alone: {wrong[:4]}"
            )
            raise WrongRowsError(msg)


@asynccontextmanager
async def opened(
    peers: Sequence[Peer], place: str
) -> AsyncIterator[list[tuple[Peer, Ways]]]:
    async with AsyncExitStack() as stack:
        yield [
            (peer, await stack.enter_async_context(peer.open(place))) for peer in peers
        ]


def figures(
    times: dict[str, list[float]],
    notes: dict[str, str],
    database: str,
    delay: float,
    case: str,
) -> list[Figure]:
    found: list[Figure] = []
    first = next(iter(times.values()))
    for peer, its in times.items():
        if not its:
            continue
        ratios = [a / b for a, b in zip(its, first, strict=False)]
        low, middle, high = (
            statistics.quantiles(ratios, n=4, method="inclusive")
            if len(ratios) > 1
            else ratios * 3
        )
        seconds = statistics.median(its)
        found.append(
            Figure(database, delay, case, peer, seconds, middle, low, high, notes[peer])
        )
    return found


# --- One call -------------------------------------------------------------------------


def calls_of(case: str, number: int) -> list[tuple[str, str]]:
    """Paths and notes: other pages where they are created, else the same one."""
    new = case.startswith("created")
    return [(f"/page/{n if new else 0}", f"seen {n}") for n in range(number)]


def rows_left(calls: Sequence[tuple[str, str]]) -> list[Row]:
    """What the calls leave, each of them a view of its page."""
    views = Counter(path for path, _ in calls)
    return [(path, views[path], note) for path, note in dict(calls).items()]


async def turn_of_one(ways: Ways, case: str, calls: Sequence[tuple[str, str]]) -> float:
    """Seconds for a call; the first one, which opens what is needed, is not timed."""
    assert ways.one is not None
    if not case.endswith(INSIDE):
        return await time_of(ways.one, calls)
    assert ways.begin is not None
    async with ways.begin():
        return await time_of(ways.inside or ways.one, calls)


async def time_of(call: One, calls: Sequence[tuple[str, str]]) -> float:
    await call(*calls[0])
    started = time.perf_counter()
    for path, note in calls[1:]:
        await call(path, note)
    return (time.perf_counter() - started) / (len(calls) - 1)


async def measure_one(
    database: Database, place: str, delay: float, peers: Sequence[Peer], options: Any
) -> list[Figure]:
    found: list[Figure] = []
    number = max(20, round(options.calls / (1 + delay)))
    shuffled = random.Random(options.seed)  # noqa: S311  # no secret
    notes = {peer.name: note_of_one(peer) for peer in peers}
    async with opened(peers, place) as those:
        for case in CASES:
            inside = case.endswith(INSIDE)
            able = [
                (peer, ways)
                for peer, ways in those
                if ways.one is not None and (ways.begin is not None or not inside)
            ]
            calls = calls_of(case, number)
            times: dict[str, list[float]] = {peer.name: [] for peer, _ in able}
            for turn in range(options.turns + 1):
                for peer, ways in shuffled.sample(able, len(able)):
                    await database.empty()
                    spent = await turn_of_one(ways, case, calls)
                    await database.check(rows_left(calls), f"{peer.name}, {case}")
                    if turn:  # the first one prepares statements and imports
                        times[peer.name].append(spent)
            found += figures(times, notes, database.name, delay, case)
    return found


def note_of_one(peer: Peer) -> str:
    silent = "" if peer.tells or "created flag" in peer.note else "no created flag"
    return noted(silent, peer.note)


def noted(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


# --- Many rows ------------------------------------------------------------------------


def rows_of(number: int, turn: int) -> list[Row]:
    """Rows in no order of their keys, with other values each turn."""
    return [
        (f"/page/{n * 7919 % number:07d}", n + turn, f"the note of page {n}, {turn}")
        for n in range(number)
    ]


async def measure_many(
    database: Database, peers: Sequence[Peer], options: Any
) -> list[Figure]:
    found: list[Figure] = []
    shuffled = random.Random(options.seed)  # noqa: S311  # no secret
    notes = {peer.name: peer.many_note for peer in peers}
    slow: set[str] = set()
    async with opened(peers, database.place) as those:
        await warm_up(database, those)
        for number in options.rows:
            able = [
                (peer, ways)
                for peer, ways in those
                if ways.many is not None and peer.name not in slow
            ]
            for case in MANY_CASES:
                times: dict[str, list[float]] = {peer.name: [] for peer, _ in able}
                for turn in range(1, options.turns + 1):
                    rows = rows_of(number, 0 if case == "unchanged" else turn)
                    for peer, ways in shuffled.sample(able, len(able)):
                        await database.empty()
                        if case != "created":
                            await by_hand_rows(database, rows_of(number, 0))
                        write = ways.many
                        if case == "unchanged":
                            write = ways.again or ways.many
                        assert write is not None
                        started = time.perf_counter()
                        await write(rows)
                        times[peer.name].append(time.perf_counter() - started)
                        await database.check(rows, f"{peer.name}, {number:,} {case}")
                name = f"{number:,} rows {case}"
                told = notes
                if case == "unchanged":
                    told = {
                        peer.name: noted(
                            "" if ways.again else "writes them again", peer.many_note
                        )
                        for peer, ways in able
                    }
                found += figures(times, told, database.name, 0, name)
                # Never ours, which the others are measured by.
                slow |= {
                    name for name, its in list(times.items())[1:] if max(its) > PATIENCE
                }
    if slow:
        print(f"{database.name}: no larger load for {', '.join(sorted(slow))}")
    return found


async def warm_up(database: Database, those: Sequence[tuple[Peer, Ways]]) -> None:
    """Let each write a few rows first, as the first time prepares and imports."""
    for peer, ways in those:
        if ways.many is not None:
            await database.empty()
            await ways.many(rows_of(10, 0))
            await database.check(rows_of(10, 0), f"{peer.name}, first rows")


async def by_hand_rows(database: Database, rows: Sequence[Row]) -> None:
    if database.name == "SQLite":
        with closing(sqlite3.connect(database.place)) as conn:
            conn.executemany("INSERT INTO page_views VALUES (?, ?, ?)", rows)
            conn.commit()
        return
    connection = await asyncpg.connect(database.place)
    await connection.copy_records_to_table("page_views", records=rows)
    await connection.execute("ANALYZE page_views")
    await connection.close()


# --- The command ----------------------------------------------------------------------


def groups_of(found: Sequence[Figure]) -> dict[str, list[Figure]]:
    """The figures that belong together under their title, the quickest first."""
    groups: dict[str, list[Figure]] = {}
    for figure in found:
        network = f", {figure.delay:g} ms away" if figure.delay else ""
        title = f"{figure.database}{network}: {figure.case}"
        groups.setdefault(title, []).append(figure)
    for those in groups.values():
        those.sort(key=lambda figure: figure.seconds)
    return groups


def cells(one: Figure) -> tuple[str, ...]:
    return (
        one.peer,
        f"{one.seconds * 1000:.3f}",
        f"{one.ratio:.2f}",
        f"{one.low:.2f} to {one.high:.2f}",
        one.note,
    )


def show(found: Sequence[Figure]) -> None:
    for title, those in groups_of(found).items():
        table = Table(*COLUMNS, title=title, title_justify="left")
        for one in those:
            table.add_row(*cells(one))
        Console().print(table)


def markdown(found: Sequence[Figure], peers: Sequence[Peer]) -> str:
    lines: list[str] = []
    for title, those in groups_of(found).items():
        lines += [f"## {title}", "", line_of(COLUMNS), line_of(["---"] * len(COLUMNS))]
        lines += [*(line_of(cells(one)) for one in those), ""]
    measured = {one.peer for one in found}
    pages = {peer.name: peer.source for peer in peers if peer.name in measured}
    lines += ["## Where each is documented", ""]
    lines += [f"- {name}: {page}" for name, page in pages.items()]
    return "\n".join(lines) + "\n"


def line_of(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"


async def run(options: Any, dsn: str, folder: str) -> list[Figure]:
    postgresql = Database("PostgreSQL", dsn)
    lite = Database("SQLite", str(Path(folder) / "peers.db"))
    await postgresql.make()
    await lite.make()
    wanted = options.only or [""]

    def chosen(peers: Sequence[Peer]) -> list[Peer]:
        return [
            peer
            for n, peer in enumerate(peers)
            if n == 0 or any(word in peer.name for word in wanted)
        ]

    if options.what != "one":
        return [
            *await measure_many(postgresql, chosen(POSTGRESQL), options),
            *await measure_many(lite, chosen(SQLITE), options),
        ]
    found: list[Figure] = []
    at = urlsplit(dsn)
    assert at.hostname is not None
    assert at.port is not None
    for delay in options.delays:
        with delayed(at.hostname, at.port, delay / 1000) as port:
            place = urlunsplit(
                at._replace(netloc=at.netloc.replace(str(at.port), str(port)))
            )
            found += await measure_one(
                postgresql, place, delay, chosen(POSTGRESQL), options
            )
    found += await measure_one(lite, lite.place, 0.0, chosen(SQLITE), options)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["one", "many"])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--calls", type=int, default=200, help="of a turn, near by")
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument(
        "--delays", type=float, nargs="+", default=[0, 2, 10], help="ms, there and back"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="words of the libraries' names")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path, help="a file for the tables")
    parser.add_argument("--plots", type=Path, help="a folder for the picture")
    options = parser.parse_args()
    server = session_server()
    if isinstance(server, NoServerError):
        raise server
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        stack.callback(stop_session_server)
        found = asyncio.run(run(options, server.dsn, folder))
    show(found)
    version = sys.version.split()[0]
    print(f"{server.version} from {server.origin}, Python {version}")
    if options.json:
        text = json.dumps([figure._asdict() for figure in found], indent=1)
        options.json.write_text(text, "utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(found, [*POSTGRESQL, *SQLITE]), "utf-8")
    if options.plots:
        draw(groups_of(found), options.plots, options.what)


if __name__ == "__main__":
    main()
