"""
How long the import takes, beside that of asyncio, which every caller has imported.

    python benchmarks/import_time.py [--check]

Each in a process of its own, in turns; the time of a process that imports nothing is
taken off.
"""

from __future__ import annotations

import argparse
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


def timed(code: str) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603  # our own
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
    medians: dict[str, float] = {}
    for name, its in times.items():
        added = [a - b for a, b in zip(its[1:], times["nothing"][1:], strict=True)]
        low, middle, high = statistics.quantiles(added, n=4)
        medians[name] = middle
        if name != "nothing":
            table.add_row(name, f"{middle:.1f}", f"{low:.1f} to {high:.1f}")
    Console().print(table)
    print(f"Python {sys.version.split()[0]}")
    return int(options.check and medians["aioupsert"] > MOST)


if __name__ == "__main__":
    sys.exit(main())
