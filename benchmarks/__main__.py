"""
Run a benchmark.

    python -m benchmarks                        # list them
    python -m benchmarks single_call --quick    # see that one works
    python -m benchmarks single_call --help     # what it measures, and its options
"""

from __future__ import annotations

import sys
from argparse import (
    ArgumentParser,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final, Protocol, cast

PROGRAM: Final = "python -m benchmarks"
BENCHMARKS: Final = {
    "single_call": "one call and the same statement by hand",
    "in_a_session": "one call in a session and SQLAlchemy's own ON CONFLICT",
    "bulk": "many rows, by hand and with other libraries",
    "cliffs": "awkward rows over plain ones, each with its limit",
    "tables": "many rows in tables of several kinds, and COPY and ON CONFLICT by hand",
    "bulk_forms": "the statements that many rows can be sent with",
    "frames": "a data frame as rows, and the same rows as dicts",
    "lookups": "the ids of many names, which are created where they are missing",
    "sync": "a table that is to equal its source, and the statements by hand",
    "loader": "CSV from the command line, and the tools of the databases",
    "recipes": "the recipes of the documentation, and what people write",
    "coalescer": "a thousand tasks: plain calls and a Coalescer",
    "crowd": "one to two thousand tasks: plain calls and a Coalescer",
    "locked_rows": "a Coalescer while other sessions have rows locked",
    "growth": "one call and many rows as the table grows",
    "pools": "pools of several sizes, slow rows and networks",
    "peers": "the same task in other libraries: one call, or many rows",
    "memory": "the memory that ten million rows take",
    "observers": "one call with each kind of observer",
    "import_time": "how long the import takes",
    "calls": "how many of the package's functions one call runs",
    "where_time_goes": "the time of one call by package and function (py-spy)",
    "cluster": "count on a cluster and check that nothing is lost",
}
DESCRIPTION: Final = "Run a benchmark of aioupsert.\n\n" + "\n".join(
    f"  {name:<17}{summary}" for name, summary in BENCHMARKS.items()
)


class Benchmark(Protocol):
    """A module of this package that measures something."""

    @property
    def QUICK(self) -> Mapping[str, object]:  # noqa: N802  # a constant of the module
        """The options of its shortest run."""

    def add_options(self, parser: ArgumentParser) -> None:
        """Add its own options to the command line."""

    def run(self, options: Namespace) -> int:
        """Measure, print the figures and return the exit code."""


def main(arguments: Sequence[str]) -> int:
    """Run the benchmark that the arguments name, or list them all."""
    parser = ArgumentParser(
        PROGRAM, description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter
    )
    benchmarks = parser.add_subparsers(metavar="NAME", help="which to run")
    for name in BENCHMARKS:
        command = benchmarks.add_parser(
            name, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False
        )
        # The others are not imported: each needs libraries of its own.
        if name in arguments[:1]:
            add_benchmark(name, command, quick="--quick" in arguments)
    options = parser.parse_args(arguments)
    if not arguments:
        parser.print_help()
        return 0
    return int(options.run(options))


def add_benchmark(name: str, command: ArgumentParser, *, quick: bool) -> None:
    """Add what the benchmark's module says of itself to its command line."""
    module = import_module(f"benchmarks.{name}")
    benchmark = cast("Benchmark", module)
    command.description = module.__doc__
    benchmark.add_options(command)
    command.add_argument(
        "--quick",
        action="store_true",
        help="the shortest run; its figures mean nothing",
    )
    command.set_defaults(run=benchmark.run)
    if quick:
        command.set_defaults(**benchmark.QUICK)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
