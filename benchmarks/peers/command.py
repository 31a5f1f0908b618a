"""The options, and which libraries are measured on which databases."""

from __future__ import annotations

import asyncio
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from benchmarks.peers.database import Database
from benchmarks.peers.figures import Figure, groups_of, markdown, show_tables
from benchmarks.peers.libraries import POSTGRESQL, SQLITE
from benchmarks.peers.library import Peer
from benchmarks.peers.many import measure_many
from benchmarks.peers.one import measure_one
from benchmarks.peers.plots import draw
from benchmarks.support.databases import postgresql_server, sqlite_path
from benchmarks.support.delay import delayed
from benchmarks.support.options import add_turns
from benchmarks.support.report import show_versions

QUICK: Final = {"turns": 1, "calls": 20, "rows": [100], "delays": [0.0, 1.0]}


def chosen(peers: Sequence[Peer], words: Sequence[str]) -> list[Peer]:
    """Return aioupsert and the others with one of the words in their names."""
    ours, *others = peers
    return [
        ours,
        *(peer for peer in others if any(word in peer.name for word in words)),
    ]


async def measure(dsn: str, path: Path, options: Namespace) -> list[Figure]:
    postgresql, lite = Database("PostgreSQL", dsn), Database("SQLite", str(path))
    on_postgresql = chosen(POSTGRESQL, options.only)
    on_sqlite = chosen(SQLITE, options.only)
    await postgresql.create()
    await lite.create()
    if options.what == "many":
        found = await measure_many(postgresql, on_postgresql, options)
        found += await measure_many(lite, on_sqlite, options)
    else:
        found = await over_networks(postgresql, on_postgresql, options)
        found += await measure_one(lite, lite.place, 0.0, on_sqlite, options)
    await postgresql.drop()
    return found


async def over_networks(
    postgresql: Database, peers: Sequence[Peer], options: Namespace
) -> list[Figure]:
    """Measure one call with each of the delays."""
    found: list[Figure] = []
    address = urlsplit(postgresql.place)
    assert address.hostname is not None
    assert address.port is not None
    for delay in options.delays:
        with delayed(address.hostname, address.port, delay / 1000) as port:
            netloc = address.netloc.replace(str(address.port), str(port))
            place = urlunsplit(address._replace(netloc=netloc))
            found += await measure_one(postgresql, place, delay, peers, options)
    return found


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("what", choices=["one", "many"])
    add_turns(parser, 7)
    parser.add_argument(
        "--calls", type=int, default=200, help="in a turn; fewer with a delay"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument(
        "--delays",
        type=float,
        nargs="+",
        default=[0.0, 2.0, 10.0],
        help="milliseconds that are added to a round trip",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", nargs="+", default=[""], help="words of the libraries' names"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument("--plots", type=Path, help="draw pictures in this folder")


def run(options: Namespace) -> int:
    with postgresql_server() as server, sqlite_path() as path:
        found = asyncio.run(measure(server.dsn, path, options))
    show_tables(found)
    show_versions(server)
    if options.json:
        text = json.dumps([figure._asdict() for figure in found], indent=1)
        options.json.write_text(text, "utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(found, [*POSTGRESQL, *SQLITE]), "utf-8")
    if options.plots:
        draw(groups_of(found), options.plots, options.what)
    return 0
