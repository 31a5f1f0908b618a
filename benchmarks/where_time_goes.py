"""
Where the time of one call goes, in the client: a table by package, and a flame graph.

py-spy looks five hundred times a second at what a process does that updates one row again
and again over asyncpg. The time in which it waits for the server is not counted.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from typing import Final

from rich.table import Table

from benchmarks._sampled_process import update_again_and_again
from benchmarks.support.databases import postgresql_server
from benchmarks.support.report import show, show_versions

QUICK: Final = {"seconds": 1.0}
# The packages that a frame may be of; the first that is in its path counts.
PACKAGES: Final = ("aioupsert", "asyncpg", "asyncio", "selectors")
CALLER: Final = update_again_and_again.__name__
FUNCTIONS_SHOWN: Final = 6


def record(dsn: str, seconds: float, form: str, path: Path) -> None:
    """Write what py-spy sees in that time to the file."""
    command = ["py-spy", "record", "--rate", "500", "--gil"]
    command += ["--format", form, "--output", str(path), "--"]
    command += [sys.executable, "-m", "benchmarks._sampled_process", dsn, str(seconds)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # ours
    # The title is the command, with the paths of this machine.
    title = r"(<text id=\"title\"[^>]*>)[^<]*"
    text = re.sub(title, r"\1One row updated, over asyncpg", path.read_text("utf-8"))
    path.write_text(text, "utf-8")


def package_of(frame: str) -> str:
    if "selectors" in frame:
        return "asyncio"
    return next((name for name in PACKAGES if f"{name}/" in frame), "other")


def shares(text: str) -> Counter[tuple[str, str]]:
    """Return the number of samples by the package and function that ran."""
    found: Counter[tuple[str, str]] = Counter()
    for line in text.splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        # Otherwise it is importing.
        if any(frame.startswith(f"{CALLER} (") for frame in frames):
            function = frames[-1].partition(" (")[0]
            found[package_of(frames[-1]), function] += int(number)
    return found


def table_of(found: Counter[tuple[str, str]]) -> Table:
    table = Table("package", "function", "% of the client's time")
    total = found.total()
    by_package: Counter[str] = Counter()
    for (package, _), number in found.items():
        by_package[package] += number
    for package, number in by_package.most_common():
        table.add_row(package, "", f"{100 * number / total:.1f}")
        inside = [(name, n) for (p, name), n in found.most_common() if p == package]
        for function, share in inside[:FUNCTIONS_SHOWN]:
            table.add_row("", function, f"{100 * share / total:.1f}")
        table.add_section()
    return table


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--flame", type=Path, help="draw a flame graph to this file")


def run(options: Namespace) -> int:
    with postgresql_server() as server:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw.txt"
            record(server.dsn, options.seconds, "raw", raw)
            found = shares(raw.read_text("utf-8"))
        if options.flame:
            record(server.dsn, options.seconds, "flamegraph", options.flame)
    show(table_of(found))
    show_versions(server)
    return 0
