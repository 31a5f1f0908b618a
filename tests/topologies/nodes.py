"""Servers that the machine's PostgreSQL runs, beside the one of the run."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.servers import USUAL_PLACES, Account, listen_options, newest_first

# It is the processes that fail in a test, never the machine.
OPTIONS: Final = ("-c", "fsync=off", "-c", "synchronous_commit=on")


@dataclass(frozen=True)
class Node:
    """A server."""

    binaries: Path
    account: Account | None
    folder: Path
    port: int

    def run(self, program: str, *arguments: str) -> str:
        """Run a program of PostgreSQL to its end; what it printed."""
        account = self.account
        # Not a pipe, which the started server would inherit and keep open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(  # noqa: S603 - what was found below, no shell
                [self.binaries / program, *arguments],
                check=False,
                cwd="/",  # ours may be closed to the other user
                env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
                extra_groups=[] if account else None,
                group=account.gid if account else None,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                user=account.uid if account else None,
            )
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
        assert not done.returncode, f"{program}: {said}"
        return said

    @property
    def data(self) -> str:
        """Where it keeps its data."""
        return str(self.folder / str(self.port))

    def start(self) -> None:
        options = shlex.join([*listen_options(self.port), *OPTIONS])
        log = f"{self.data}.log"
        self.control("start", "-t", "60", "-l", log, "-o", options)

    def control(self, *words: str) -> None:
        """Start, stop or promote it, and wait until that is done."""
        self.run("pg_ctl", "-D", self.data, "-w", *words)

    @property
    def dsn(self) -> str:
        """Where it is reached."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres?sslmode=disable"

    def query(self, sql: str) -> str:
        """The one value that a statement gives."""
        return self.run("psql", "-XAtqc", sql, self.dsn)


def installed(programs: Sequence[str]) -> Path:
    """The folder of the newest PostgreSQL that has them all; on a CI, one must."""
    command = shutil.which("pg_ctl")
    on_path = [Path(command).resolve().parent] if command else []
    usual = [folder for place in USUAL_PLACES for folder in Path("/").glob(place)]
    for folder in [*on_path, *newest_first(usual)]:
        if all((folder / program).exists() for program in programs):
            return folder
    missing = f"no PostgreSQL is installed that has {', '.join(programs)}"
    if "CI" in os.environ:
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def stopped(node: Node) -> None:
    """Stop it, unless the test has."""
    if (Path(node.data) / "postmaster.pid").exists():
        node.control("-m", "immediate", "stop")
