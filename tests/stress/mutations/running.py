"""
Mutation testing: break the library on purpose, and see which test notices.

    python -m tests.stress mutations

Each fault is injected in a process of its own, by the plugin, and the tests that should
notice it run there. The same tests pass without a fault: that is the control, which
comes first. A fault that no test reaches counts as not noticed, since what failed then
was something else. The table is written to docs/evidence/mutations.csv.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from tests.stress.mutations.faults import MUTATIONS
from tests.stress.mutations.registry import Mutation

ROOT: Final = Path(__file__).parents[3]
DOCUMENT: Final = ROOT / "docs" / "evidence" / "mutations.csv"
# Seconds after which a test counts as hanging.
_HANGS_AFTER: Final = 45


class Outcome(NamedTuple):
    """
    What the tests of a fault did.

    Attributes:
        test: The first that failed, or None.
        reached: How often the fault was reached, by that test or by all.
        output: What pytest printed, if it did not succeed.
    """

    test: str | None
    reached: int
    output: str

    @property
    def noticed(self) -> bool:
        """Whether a test failed because of the fault."""
        return self.test is not None and self.reached > 0

    def verdict(self) -> str:
        """Return what became of the fault, on one line if it was noticed."""
        if self.noticed:
            return f"{self.test}, reached {self.reached} times"
        if self.reached:
            return "NOTICED BY NO TEST"
        return f"NOT REACHED\n{self.output}".rstrip()


def control(mutations: Iterable[Mutation], dsn: str) -> str | None:
    """Run all tests without a fault; return what pytest printed if one fails."""
    tests = dict.fromkeys(test for m in mutations for test in m.tests)
    done = _pytest([*tests], dsn)
    return None if done.returncode == 0 else done.stdout + done.stderr


def inject(mutation: Mutation, dsn: str) -> Outcome:
    """Run the tests of a fault until the first fails."""
    with TemporaryDirectory() as folder:
        reached = Path(folder) / "reached"
        reached.touch()
        options = ("--mutation", mutation.name, "--reached", str(reached))
        done = _pytest([*options, *mutation.tests], dsn)
        output = done.stdout + done.stderr if done.returncode else ""
        test = _failed(done)
        marks = reached.read_text("ascii")
        count = marks.rpartition("\n")[2].count(".") if test else marks.count(".")
        return Outcome(test, count, output)


def _pytest(arguments: Iterable[str], dsn: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - ours
        [
            *(sys.executable, "-m", "pytest", "-xv", "-n", "0"),
            *("-p", "no:cacheprovider", "-p", "tests.stress.mutations.plugin"),
            *("-o", f"faulthandler_timeout={_HANGS_AFTER}", *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "AIOUPSERT_TEST_DSN": dsn},
        capture_output=True,
        text=True,
        check=False,
    )


def _failed(done: subprocess.CompletedProcess[str]) -> str | None:
    """Return the test that failed, without its parameters."""
    if done.returncode == 0:
        return None
    # One that hangs is killed, and is the last that began.
    began = re.findall(r"^(tests/\S+?::\w+)", done.stdout, re.MULTILINE)
    if not began:
        return None  # none ran: a wrong name, or an error while they were collected
    hangs = not re.search(r"^(FAILED|ERROR) ", done.stdout, re.MULTILINE)
    return f"{began[-1]} (hangs)" if hangs else began[-1]


def document(tests: Mapping[str, str]) -> None:
    """Write which test noticed which fault."""
    with DOCUMENT.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("fault", "the first test that failed", "fixed by"))
        writer.writerows(
            (m.title, f"`{tests[m.name]}`", m.commit) for m in MUTATIONS.values()
        )
