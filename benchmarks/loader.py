"""
`aioupsert load` of CSV, beside the tools that the databases bring.

On PostgreSQL, psql: `\\copy` into a temporary table, then one INSERT ... ON CONFLICT. On
SQLite, its shell: `.import` into a temporary table, then the same; and the least that Python
does, whose csv module is the argument of `executemany`. On both, `aioupsert load` of the same
rows as Parquet. Each is a process of its own, from its start to its end, on an empty table
and on one that has all rows; what is stored is compared. Then the same load with 1 % of rows that the database rejects, the memory that
rejected rows take, and that of rows with 200 columns. A tool that is not installed is left
out.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import importlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
from rich.table import Table

from benchmarks.support.databases import postgresql_server
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import show, show_versions, verdict
from benchmarks.support.rows import seeded
from benchmarks.support.timing import in_turns, ratio

QUICK: Final = {"rows": 400, "wide_rows": 20, "turns": 1}
LIMITS: Final = {"PostgreSQL": 2.0, "SQLite": 1.5}
"""Times the duration of the database's own tool, at most."""
REJECTS_LIMIT: Final = 4.0
"""Times the duration of the load without bad rows, at most."""
REJECT_BYTES: Final = 200
WIDE_MEGABYTES: Final = 200
WIDE_COLUMNS: Final = 200

COLUMNS: Final = ("sku", "title", "price", "stock", "seen_at")
SQL: Final = (
    "CREATE TABLE prices (sku text PRIMARY KEY, title text, price numeric,"
    " stock integer CHECK (stock >= 0), seen_at timestamp)"
)
ON_CONFLICT: Final = "ON CONFLICT (sku) DO UPDATE SET " + ", ".join(
    f"{name} = excluded.{name}" for name in COLUMNS[1:]
)
UPSERT: Final = f"INSERT INTO prices SELECT * FROM staged WHERE true {ON_CONFLICT}"
LEAST: Final = f"""
import csv, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
with open(sys.argv[2], newline="") as file:
    rows = csv.reader(file)
    next(rows)
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO prices VALUES (?, ?, ?, ?, ?) {ON_CONFLICT}", rows)
    connection.execute("COMMIT")
"""


class Used(NamedTuple):
    """
    What a process took.

    Attributes:
        wall: Seconds by the clock.
        cpu: Seconds of its processor time.
        bytes: Its largest resident size.
    """

    wall: float
    cpu: float
    bytes: int


class Place(NamedTuple):
    """
    A database of one kind.

    Attributes:
        engine: Its name.
        url: For the loader.
        execute: Executes a statement.
        contents: Returns a digest of the rows of the table.
        tool: Loads a file with the database's own tool; None if it is not installed.
        least: Does so with as little of Python as can be; None if that is not measured.
    """

    engine: str
    url: str
    execute: Callable[[str], None]
    contents: Callable[[], str]
    tool: Callable[[Path], Sequence[str]] | None
    least: Callable[[Path], Sequence[str]] | None = None


# --- Files ----------------------------------------------------------------------------


def write_rows(path: Path, number: int, *, bad_share: int = 0, uneven: int = 0) -> Path:
    """
    Write rows that are not in the order of their keys.

    Args:
        path: The file.
        number: How many rows.
        bad_share: Every so many rows one breaks a rule of the table; 0 for none.
        uneven: Every so many rows one has a cell too few; 0 for none.
    """
    random = seeded(number)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for n in range(number):
            is_bad = bad_share and n % bad_share == bad_share // 2
            row = [
                f"{n * 7919 % number:07d}",
                f"the title of {n}, and more",
                f"{random.randrange(1, 1_000_000) / 100:.2f}",
                -1 if is_bad else random.randrange(1_000),
                f"2026-01-{n % 28 + 1:02d} 10:00:{n % 60:02d}",
            ]
            writer.writerow(row[:-1] if uneven and n % uneven == 0 else row)
    return path


def write_parquet(path: Path) -> Path:
    """Write the rows of a file of CSV as Parquet, with types."""
    pa: Any = importlib.import_module("pyarrow")
    pa_csv: Any = importlib.import_module("pyarrow.csv")
    parquet: Any = importlib.import_module("pyarrow.parquet")
    types = (pa.string(), pa.string(), pa.decimal128(10, 2), pa.int64())
    options = pa_csv.ConvertOptions(
        column_types=dict(zip(COLUMNS, (*types, pa.timestamp("us")), strict=True))
    )
    written = path.with_suffix(".parquet")
    parquet.write_table(pa_csv.read_csv(path, convert_options=options), written)
    return written


def write_wide(path: Path, number: int) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *(f"c{n}" for n in range(1, WIDE_COLUMNS))])
        for row in range(number):
            writer.writerow(
                [row, *(f"value {row + n}" for n in range(1, WIDE_COLUMNS))]
            )
    return path


# --- Processes ------------------------------------------------------------------------


def used_by(command: Sequence[str], *, codes: Iterable[int] = (0,)) -> Used:
    """Run a process to its end; return what it took."""
    # Modules are compiled once, as those of an installed package are.
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    process = subprocess.run(  # noqa: S603  # our own commands, no shell
        [sys.executable, "-m", "benchmarks._measured_process", *command],
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    code, wall, cpu, size = process.stdout.split()
    if int(code) not in codes:
        msg = f"{' '.join(command)}: {process.stderr}"
        raise SystemExit(msg)
    unit = 1 if sys.platform == "darwin" else 1_024
    return Used(float(wall), float(cpu), int(size) * unit)


def load(url: str, path: Path, *options: str, table: str = "prices") -> list[str]:
    key = "sku" if table == "prices" else "id"
    words = ["load", url, table, str(path), "--key", key, *options]
    return [sys.executable, "-m", "aioupsert", *words]


def psql(dsn: str, path: Path) -> list[str]:
    script = [
        "BEGIN",
        "CREATE TEMP TABLE staged (LIKE prices) ON COMMIT DROP",
        rf"\copy staged from '{path}' csv header",
        UPSERT,
        "COMMIT",
    ]
    words = [word for command in script for word in ("-c", command)]
    return ["psql", "-q", "-X", "-v", "ON_ERROR_STOP=1", dsn, *words]


def sqlite_shell(database: Path, path: Path) -> list[str]:
    script = [
        "BEGIN",
        "CREATE TEMP TABLE staged AS SELECT * FROM prices WHERE false",
        f'.import --csv --skip 1 --schema temp "{path}" staged',
        UPSERT,
        "COMMIT",
    ]
    commands = [line if line.startswith(".") else f"{line};" for line in script]
    return ["sqlite3", "-bail", str(database), *commands]


def least(database: Path, path: Path) -> list[str]:
    return [sys.executable, "-c", LEAST, str(database), str(path)]


# --- Measurements ---------------------------------------------------------------------


Ways = Mapping[str, Callable[[Path], Sequence[str]]]


async def measure_ways(
    place: Place, ways: Ways, path: Path, turns: int, *, is_update: bool
) -> dict[str, list[Used]]:
    """Measure each way to load a file, and check that all store the same."""
    stored: dict[str, str] = {}

    async def timed(name: str, _turn: int) -> Used:
        place.execute("DROP TABLE IF EXISTS prices")
        place.execute(SQL)
        if is_update:
            used_by(load(place.url, path))
            place.execute("UPDATE prices SET stock = stock + 1")
        used = used_by(ways[name](path))
        stored[name] = place.contents()
        return used

    measured = await in_turns({name: partial(timed, name) for name in ways}, turns)
    assert len({*stored.values()}) == 1, "not all have stored the same"
    return measured


async def beside_the_tool(place: Place, path: Path, turns: int) -> list[str]:
    """Measure the loader and the tool; return what is beyond its limit."""
    missed: list[str] = []
    parquet = write_parquet(path)
    ways: dict[str, Callable[[Path], Sequence[str]]] = {
        "aioupsert load": partial(load, place.url),
        "the same of Parquet": lambda _path: load(place.url, parquet),
    }
    if place.tool is None:
        print(f"{place.engine}: its own tool is not installed")
    else:
        ways[place.tool(path)[0]] = place.tool
    if place.least is not None:
        ways["csv and executemany"] = place.least
    columns = ("", "", "seconds", "ratio", "quartiles", "of the processor", "ratio")
    table = Table(*columns)
    table.title = f"{place.engine}, {path.name}"
    for what in ("created", "updated"):
        measured = await measure_ways(
            place, ways, path, turns, is_update=what == "updated"
        )
        own = measured["aioupsert load"]
        for name, all_used in measured.items():
            seconds = [used.wall for used in all_used]
            times = ratio([used.wall for used in own], seconds)
            cpu = [min(used.cpu for used in those) for those in (all_used, own)]
            cells = (f"{min(seconds):.2f}", *times.cells(), f"{cpu[0]:.2f}")
            table.add_row(what, name, *cells, f"{cpu[1] / cpu[0]:.2f}")
            if ways[name] is place.tool and times.median > LIMITS[place.engine]:
                missed.append(f"{place.engine}, {what}")
    show(table)
    return missed


async def with_rejects(place: Place, folder: Path, rows: int, turns: int) -> list[str]:
    """Measure a load with bad rows; return what is beyond its limit."""
    clean = write_rows(folder / "clean.csv", rows)
    bad = write_rows(folder / "bad.csv", rows, bad_share=100)
    uneven = write_rows(folder / "uneven.csv", rows, uneven=2)
    rejects = folder / "rejects.csv"
    skip = ("--on-error", "skip", "--rejects", str(rejects))

    async def timed(path: Path, _turn: int) -> Used:
        place.execute("DROP TABLE IF EXISTS prices")
        place.execute(SQL)
        return used_by(load(place.url, path, *skip), codes=(0, 3))

    files = {"clean": clean, "1 % bad rows": bad, "half uneven rows": uneven}
    ways = {name: partial(timed, path) for name, path in files.items()}
    measured = await in_turns(ways, turns)
    walls = {name: [used.wall for used in all_] for name, all_ in measured.items()}
    sizes = {name: min(used.bytes for used in all_) for name, all_ in measured.items()}
    times = ratio(walls["1 % bad rows"], walls["clean"])
    each = (sizes["half uneven rows"] - sizes["clean"]) / (rows / 2)
    print(
        f"{place.engine}: 1 % bad rows take {times.median:.2f} times the time of none"
        f" (quartiles {times.low:.2f} to {times.high:.2f}), and {rows // 2:,} rejected"
        f" rows {each:.0f} bytes each"
    )
    beyond = {
        f"{place.engine}, time of 1 % bad rows": times.median > REJECTS_LIMIT,
        f"{place.engine}, memory of a rejected row": each > REJECT_BYTES,
    }
    return [name for name, is_beyond in beyond.items() if is_beyond]


def wide(place: Place, folder: Path, rows: int) -> list[str]:
    """Measure the memory for many columns; return what is beyond its limit."""
    path = write_wide(folder / "wide.csv", rows)
    place.execute("DROP TABLE IF EXISTS wide")
    used = used_by(load(place.url, path, "--create-table", table="wide"))
    place.execute("DROP TABLE wide")
    megabytes = used.bytes / 1_000_000
    print(
        f"{place.engine}: {rows:,} rows of {WIDE_COLUMNS} columns take {used.wall:.1f} s"
        f" and {megabytes:.0f} MB"
    )
    is_beyond = megabytes > WIDE_MEGABYTES
    return [f"{place.engine}, memory of many columns"] * is_beyond


# --- Databases ------------------------------------------------------------------------


def digest(rows: Iterable[Sequence[object]]) -> str:
    found = hashlib.sha256()
    for row in rows:
        found.update(repr([*row]).encode())
    return found.hexdigest()


def on_postgresql(dsn: str) -> Place:
    async def ask(sql: str) -> list[asyncpg.Record]:
        conn = await asyncpg.connect(dsn)
        try:
            return await conn.fetch(sql)
        finally:
            await conn.close()

    def ask_elsewhere(sql: str) -> list[asyncpg.Record]:
        # The measuring itself runs in a loop.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, ask(sql)).result()

    def execute(sql: str) -> None:
        ask_elsewhere(sql)

    def contents() -> str:
        rows = ask_elsewhere("SELECT *, price::text FROM prices ORDER BY sku")
        return digest(tuple(row) for row in rows)

    tool = partial(psql, dsn) if shutil.which("psql") else None
    return Place("PostgreSQL", dsn, execute, contents, tool)


def on_sqlite(path: Path) -> Place:
    def execute(sql: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as conn:
            conn.execute(sql)

    def contents() -> str:
        columns = ", ".join(f"{name}, typeof({name})" for name in COLUMNS)
        with closing(sqlite3.connect(path)) as conn:
            return digest(conn.execute(f"SELECT {columns} FROM prices ORDER BY sku"))

    tool = partial(sqlite_shell, path) if shutil.which("sqlite3") else None
    url = f"sqlite:///{path}"
    return Place("SQLite", url, execute, contents, tool, partial(least, path))


async def measure(place: Place, folder: Path, options: Namespace) -> list[str]:
    path = write_rows(folder / "rows.csv", options.rows)
    missed = await beside_the_tool(place, path, options.turns)
    missed += await with_rejects(place, folder, options.rows, options.turns)
    missed += wide(place, folder, options.wide_rows)
    place.execute("DROP TABLE prices")
    return missed


def add_options(parser: ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--wide-rows", type=int, default=20_000)
    add_turns(parser, 3)
    add_check(parser)


def run(options: Namespace) -> int:
    missed: list[str] = []
    used_by([sys.executable, "-m", "aioupsert", "--version"])
    with tempfile.TemporaryDirectory() as name, postgresql_server() as server:
        folder = Path(name)
        for place in (on_postgresql(server.dsn), on_sqlite(folder / "test.db")):
            missed += asyncio.run(measure(place, folder, options))
    show_versions(server)
    return verdict(missed, check=options.check)
