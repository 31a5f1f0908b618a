"""Each benchmark runs; what it measures when it is run so shortly says nothing."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.documentation.pages import ROOT
from tests.support.databases import PostgresDatabase, url_in
from tests.support.servers import DSN_VARIABLE, Server

FOLDER: Final = ROOT / "benchmarks"
SHORTLY: Final = {
    "bulk": "--rows 200 --turns 2",
    "bulk_forms": "--turns 2 --most 100",
    "coalescer": "--turns 2 --calls 1000 --plot {folder}/plot.svg",
    "crowd": "--turns 1 --calls 100 --plot {folder}/plot",
    "growth": "--turns 2 --most 1000 --plot {folder}/plot",
    "import_time": "--turns 2",
    "in_a_session": "--turns 2 --number 20",
    "memory": "--rows 2000",
    "observers": "--turns 2 --calls 50",
    "single_call": "--turns 2 --calls 50",
}
# Looks into another process, which not every machine lets it.
NOT_HERE: Final = {"where_time_goes"}


def test_all_of_them_are_here() -> None:
    assert {file.stem for file in FOLDER.glob("*.py")} == {*SHORTLY, *NOT_HERE}


@pytest.mark.parametrize("name", SHORTLY)
def test_it_runs(
    name: str, pg: PostgresDatabase, pg_server: Server, tmp_path: Path
) -> None:
    done = subprocess.run(  # noqa: S603  # a benchmark of ours, no shell
        [
            *(sys.executable, "-W", "error", FOLDER / f"{name}.py"),
            *shlex.split(SHORTLY[name].format(folder=tmp_path)),
        ],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, DSN_VARIABLE: url_in(pg_server.dsn, pg.schema)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
