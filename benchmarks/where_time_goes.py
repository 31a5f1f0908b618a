"""
Where the time of one call goes, in the client: a flame graph, and a table by package.

    python benchmarks/where_time_goes.py [--flame docs/images/one-call-flame.svg]

py-spy looks five hundred times a second where a process is that updates one row again and
again, over asyncpg. What waits for the server is not counted. PostgreSQL is found as
the tests find it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import asyncpg
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioupsert import F, create_or_update  # the checkout's, see above

SCHEMA = """
CREATE TEMP TABLE views (path text PRIMARY KEY, hits integer DEFAULT 0, note text)
"""
# The packages that a frame may be of, the first that is in its place.
PACKAGES = ("aioupsert", "asyncpg", "asyncio", "selectors")


async def call(dsn: str, seconds: float) -> int:
    """Update a row for so long; how often."""
    conn = await asyncpg.connect(dsn)
    await conn.execute(SCHEMA)
    calls, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        await create_or_update(
            conn,
            "views",
            key={"path": "/"},
            defaults={"hits": F("hits") + 1, "note": "seen"},
        )
        calls += 1
    await conn.close()
    return calls


def record(dsn: str, seconds: float, form: str, path: Path) -> None:
    command = ["py-spy", "record", "--rate", "500", "--gil"]
    command += ["--format", form, "--output", str(path), "--"]
    command += [sys.executable, __file__, "--of", dsn, "--seconds", str(seconds)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # ours
    # The title is the command, which is of this machine.
    title = r"(<text id=\"title\"[^>]*>)[^<]*"
    text = re.sub(title, r"\1One row updated, over asyncpg", path.read_text("utf-8"))
    path.write_text(text, "utf-8")


def package(frame: str) -> str:
    return next((name for name in PACKAGES if f"{name}/" in frame), "other")


def shares(text: str) -> Counter[tuple[str, str]]:
    """Samples by the package and the function where the process was."""
    found: Counter[tuple[str, str]] = Counter()
    for line in text.splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        if not any("call (" in frame for frame in frames):
            continue  # it imports, or connects
        place = package(frames[-1])
        if "selectors" in frames[-1]:
            place = "asyncio"
        found[place, frames[-1].partition(" (")[0]] += int(number)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--flame", type=Path, help="draw a flame graph to this file")
    parser.add_argument("--of", help=argparse.SUPPRESS)  # the DSN, in the process
    options = parser.parse_args()
    if options.of:
        asyncio.run(call(options.of, options.seconds))
        return
    # Not before, as its import would be most of what is seen.
    from tests.support.servers import (  # noqa: PLC0415
        NoServerError,
        session_server,
        stop_session_server,
    )

    server = session_server()
    if isinstance(server, NoServerError):
        raise server
    try:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "raw.txt"
            record(server.dsn, options.seconds, "raw", raw)
            found = shares(raw.read_text("utf-8"))
        if options.flame:
            record(server.dsn, options.seconds, "flamegraph", options.flame)
    finally:
        stop_session_server()
    total = found.total()
    table = Table("package", "function", "% of the client's time")
    by_package: Counter[str] = Counter()
    for (place, _), number in found.items():
        by_package[place] += number
    for place, number in by_package.most_common():
        table.add_row(place, "", f"{100 * number / total:.1f}")
        inner = [(f, n) for (p, f), n in found.most_common() if p == place]
        for function, share in inner[:6]:
            table.add_row("", function, f"{100 * share / total:.1f}")
        table.add_section()
    Console().print(table)
    print(f"{server.version} from {server.origin}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
