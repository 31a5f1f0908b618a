"""Each benchmark runs; the figures of so short a run mean nothing."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from tests.support.databases import PostgresDatabase, url_in
from tests.support.servers import DSN_VARIABLE, Server

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "benchmarks"
QUICK: Final = (
    "bulk",
    "bulk_forms",
    "cliffs",
    "cluster {dsn}",
    "coalescer --plot {folder}/plot.svg",
    "crowd --plot {folder}/plot",
    "frames",
    "growth --plot {folder}/plot",
    "import_time",
    "in_a_session",
    "loader",
    "locked_rows",
    "lookups",
    "memory",
    "observers",
    "pools",
    "recipes",
    "single_call",
    "sync",
    "tables",
)
# One after the other, as both use the same table.
PEERS: Final = (
    "peers one --plots {folder} --markdown {folder}/one.md;"
    "peers many --plots {folder} --json {folder}/many.json"
)
# These libraries are in a group of dependencies of their own.
HAS_PEERS: Final = find_spec("pgbulk") and find_spec("piccolo")
# It looks into another process, which not every machine allows.
NOT_HERE: Final = "where_time_goes"


def run(*arguments: str, dsn: str = "") -> str:
    """What the command prints."""
    done = subprocess.run(  # noqa: S603  # our own benchmarks, no shell
        [sys.executable, "-W", "error", "-m", "benchmarks", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, DSN_VARIABLE: dsn},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_alone_it_lists_them_in_a_line_each() -> None:
    _, _, rest = run().partition("aioupsert.\n\n")
    lines = rest.partition("\n\n")[0].splitlines()
    listed = {line.split()[0] for line in lines}
    files = {file.stem for file in FOLDER.glob("[!_]*.py")}
    assert listed == {*files, "peers"}
    assert all(len(line.split()) > 1 for line in lines)
    assert listed == {
        *(command.split()[0] for command in QUICK),
        *("calls", "peers", NOT_HERE),
    }


@pytest.mark.parametrize(
    "commands",
    [*QUICK, *([PEERS] if HAS_PEERS else [])],
    ids=lambda commands: commands.split()[0],
)
def test_it_runs(
    commands: str, pg: PostgresDatabase, pg_server: Server, tmp_path: Path
) -> None:
    dsn = url_in(pg_server.dsn, pg.schema)
    if commands == PEERS:
        # Not all of the libraries take the options of a DSN.
        dsn = pg_server.dsn
    for command in commands.split(";"):
        arguments = [part.format(folder=tmp_path, dsn=dsn) for part in command.split()]
        assert run(*arguments, "--quick", dsn=dsn).strip()


def test_it_counts_the_functions_that_a_call_runs(
    pg: PostgresDatabase, pg_server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "calls.json"
    dsn = url_in(pg_server.dsn, pg.schema)
    printed = run("calls", "--quick", "--names", f"--json={file}", dsn=dsn)
    counted = json.loads(file.read_text("utf-8"))
    assert [(each["driver"], each["call"]) for each in counted] == [
        ("aiosqlite", "one row"),
        ("aiosqlite", "ten rows in bulk"),
        ("asyncpg", "one row"),
        ("asyncpg", "ten rows in bulk"),
    ]
    for each in counted:
        names = each["names"]
        assert len(names) == each["main"] > 0
        assert (each["all_threads"] > each["main"]) == (each["driver"] == "aiosqlite")
        assert all(name in printed for name in names)
        called = (
            "create_or_update_many" if "bulk" in each["call"] else "create_or_update"
        )
        assert any(name.endswith(f":{called}") for name in names)
