"""
How long the import takes, after that of asyncio, which every caller has imported.

    python benchmarks/import_time.py [--check]

Each in a process of its own, in turns. The time of a process that imports nothing is
taken off from asyncio's, and asyncio's from ours.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

CODES = {
    "nothing": "pass",
    "asyncio": "import asyncio",
    "aioupsert": "import aioupsert",
}
MOST = 50.0  # milliseconds


# An installed package is compiled, and so is this one after the first turn.
ENVIRONMENT = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}


def timed(code: str) -> float:
    started = time.perf_counter()
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, env=ENVIRONMENT)  # noqa: S603  # our own
    return (time.perf_counter() - started) * 1e3


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--check", action="store_true", help="fail above 50 ms")
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in CODES}
    for _ in range(options.turns + 1):
        for name, code in CODES.items():
            times[name].append(timed(code))
    table = Table("import", "ms", "quartiles")
    added = 0.0
    for before, name in itertools.pairwise(CODES):
        pairs = zip(times[name][1:], times[before][1:], strict=True)
        low, added, high = statistics.quantiles([a - b for a, b in pairs], n=4)
        table.add_row(name, f"{added:.1f}", f"{low:.1f} to {high:.1f}")
    Console().print(table)
    print(f"Python {sys.version.split()[0]}")
    return int(options.check and added > MOST)


if __name__ == "__main__":
    sys.exit(main())
