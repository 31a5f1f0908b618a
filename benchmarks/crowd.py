"""
One to two thousand tasks at once: plain calls, and the same through a `Coalescer`.

    python benchmarks/crowd.py [--plot docs/images/crowd]

On a pool of 10 connections of PostgreSQL, with the calls spread over 100,000 rows, over
100, and all for one; both ways in turns in one run, and every count is checked. The
measuring is that of `benchmarks/coalescer.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import statistics
import sys
from pathlib import Path

import asyncpg
import matplotlib as mpl
from coalescer import Case, on_postgresql, turns
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.servers import NoServerError, session_server, stop_session_server

TASKS = (1, 10, 50, 200, 500, 1_000, 2_000)
KEYS = (100_000, 100, 1)

Point = tuple[int, float, float]
"""Tasks, and calls a second, plain and coalesced."""


def plot(found: dict[int, list[Point]], path: Path) -> None:
    mpl.use("agg")
    fig, axes = plt.subplots(
        1, len(found), figsize=(12, 3.6), sharey=True, layout="constrained"
    )
    for axis, (keys, points) in zip(axes, found.items(), strict=True):
        tasks = [number for number, _, _ in points]
        axis.plot(tasks, [rate for _, _, rate in points], "o-", color="#3f51b5")
        axis.plot(tasks, [rate for _, rate, _ in points], "o--", color="#9e9e9e")
        axis.legend(["coalesced", "plain"], fontsize="small")
        axis.set(xscale="log", yscale="log", xlabel="tasks at once")
        axis.set_title(f"{keys:,} rows" if keys > 1 else "one row", fontsize=10)
    axes[0].set_ylabel("calls a second")
    for ending in (".svg", ".png"):
        fig.savefig(path.with_name(path.name + ending), dpi=110)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--calls", type=int, default=4_000, help="plain ones, a turn")
    parser.add_argument("--plot", type=Path, help="without the ending")
    options = parser.parse_args()
    # As there.
    gc.freeze()
    server = session_server()
    if isinstance(server, NoServerError):
        raise server
    table = Table("rows", "tasks", "plain, calls a second", "coalesced", "ratio")
    found: dict[int, list[Point]] = {}
    async with asyncpg.create_pool(server.dsn, min_size=10, max_size=10) as pool:
        database = await on_postgresql(pool)
        for keys in KEYS:
            for tasks in TASKS:
                case = Case("", keys, tasks, 0)
                calls = max(tasks, options.calls // (4 if tasks == 1 else 1))
                pairs = [
                    (plain.rate, ours.rate)
                    async for plain, ours in turns(
                        database, case, options.turns, calls - calls % tasks
                    )
                ]
                plain, ours = (
                    statistics.median(each) for each in zip(*pairs, strict=True)
                )
                ratio = statistics.median(b / a for a, b in pairs)
                found.setdefault(keys, []).append((tasks, plain, ours))
                table.add_row(
                    f"{keys:,}",
                    f"{tasks:,}",
                    f"{plain:,.0f}",
                    f"{ours:,.0f}",
                    f"{ratio:.2f}",
                )
            table.add_section()
    Console().print(table)
    print(f"{server.version} from {server.origin}, Python {sys.version.split()[0]}")
    if options.plot:
        plot(found, options.plot)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    finally:
        stop_session_server()
