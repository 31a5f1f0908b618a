"""
aioupsert beside other libraries, on the same task in the same run.

    python benchmarks/peers one
    python benchmarks/peers many
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
from peer import NOTE, Peer, Row, Ways  # noqa: E402
from plots import draw  # noqa: E402

from tests.servers import (  # noqa: E402
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
CASES = ("created", "updated", "updated, in a transaction")
# Seconds after which a library is given no larger load.
PATIENCE = 20.0


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
    """

    database: str
    delay: float
    case: str
    peer: str
    seconds: float
    ratio: float
    low: float
    high: float


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


@asynccontextmanager
async def opened(
    peers: Sequence[Peer], place: str
) -> AsyncIterator[list[tuple[Peer, Ways]]]:
    async with AsyncExitStack() as stack:
        yield [
            (peer, await stack.enter_async_context(peer.open(place))) for peer in peers
        ]


def figures(
    times: dict[str, list[float]], database: str, delay: float, case: str, per: int
) -> list[Figure]:
    found: list[Figure] = []
    first = next(iter(times.values()))
    for peer, its in times.items():
        if not its:
            continue
        ratios = [a / b for a, b in zip(its, first, strict=False)]
        low, middle, high = (
            statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        )
        seconds = statistics.median(its) / per
        found.append(Figure(database, delay, case, peer, seconds, middle, low, high))
    return found


# --- One call -------------------------------------------------------------------------


async def turn_of_one(ways: Ways, case: str, calls: int) -> float:
    """Time calls; the page is fresh each time where it is to be created."""
    assert ways.one is not None
    paths = [f"/page/{n if case == 'created' else 0}" for n in range(calls)]
    if case == CASES[2]:
        assert ways.begin is not None
        call = ways.inside or ways.one
        async with ways.begin():
            await call(paths[0], NOTE)
            started = time.perf_counter()
            for path in paths[1:]:
                await call(path, NOTE)
            spent = time.perf_counter() - started
        return spent * calls / (calls - 1)
    if case != "created":
        await ways.one(paths[0], NOTE)
        paths.pop()
    started = time.perf_counter()
    for path in paths:
        await ways.one(path, NOTE)
    return (time.perf_counter() - started) * calls / len(paths)


async def check_one(database: Database, case: str, calls: int, peer: Peer) -> None:
    rows = await database.run("SELECT count(*), sum(hits), min(note) FROM page_views")
    pages = calls if case == "created" else 1
    assert rows == [(pages, calls, NOTE)], f"{peer.name}, {case}: {rows}"


async def measure_one(
    database: Database, place: str, delay: float, peers: Sequence[Peer], options: Any
) -> list[Figure]:
    found: list[Figure] = []
    calls = max(20, round(options.calls / (1 + delay)))
    shuffled = random.Random(options.seed)  # noqa: S311  # no secret
    async with opened(peers, place) as those:
        for case in CASES:
            able = [
                (peer, ways)
                for peer, ways in those
                if ways.one and (case != CASES[2] or ways.begin)
            ]
            times: dict[str, list[float]] = {peer.name: [] for peer, _ in able}
            for turn in range(options.turns + 1):
                for peer, ways in shuffled.sample(able, len(able)):
                    await database.empty()
                    spent = await turn_of_one(ways, case, calls)
                    await check_one(database, case, calls, peer)
                    if turn:  # the first one prepares statements and imports
                        times[peer.name].append(spent)
            found += figures(times, database.name, delay, case, calls)
    return found


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
    slow: set[str] = set()
    async with opened(peers, database.place) as those:
        for number in options.rows:
            for case in ("created", "updated", "unchanged"):
                able = [
                    (p, w)
                    for p, w in those
                    if w.many is not None and p.name not in slow
                ]
                times: dict[str, list[float]] = {peer.name: [] for peer, _ in able}
                for turn in range(1, options.turns + 1):
                    for peer, ways in shuffled.sample(able, len(able)):
                        await database.empty()
                        rows = rows_of(number, turn)
                        if case != "created":
                            before = turn if case == "unchanged" else 0
                            await by_hand_rows(database, rows_of(number, before))
                        is_again = case == "unchanged" and ways.again is not None
                        write = ways.again if is_again else ways.many
                        assert write is not None
                        started = time.perf_counter()
                        await write(rows)
                        spent = time.perf_counter() - started
                        times[peer.name].append(spent)
                        sql = "SELECT count(*), sum(hits) FROM page_views"
                        total = sum(row[1] for row in rows)
                        assert await database.run(sql) == [(number, total)], peer.name
                found += figures(times, database.name, 0, f"{number:,} rows {case}", 1)
                slow |= {
                    name for name, its in times.items() if its and max(its) > PATIENCE
                }
    return found


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


def show(found: Sequence[Figure]) -> None:
    groups: dict[tuple[str, float, str], list[Figure]] = {}
    for figure in found:
        groups.setdefault(figure[:3], []).append(figure)
    for (database, delay, case), those in groups.items():
        network = f", {delay:g} ms away" if delay else ""
        table = Table(
            "library",
            "ms",
            "by aioupsert",
            "quartiles",
            title=f"{database}{network}: {case}",
            title_justify="left",
        )
        for one in sorted(those, key=lambda figure: figure.seconds):
            table.add_row(
                one.peer,
                f"{one.seconds * 1000:.3f}",
                f"{one.ratio:.2f}",
                f"{one.low:.2f} to {one.high:.2f}",
            )
        Console().print(table)


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

    if options.what == "many":
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
        "--delays", type=float, nargs="+", default=[0, 1, 5], help="ms, of a round trip"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", help="words of the libraries' names")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="without the ending")
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
    if options.plot:
        draw([figure._asdict() for figure in found], options.plot)


if __name__ == "__main__":
    main()
