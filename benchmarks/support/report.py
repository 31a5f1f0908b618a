"""What the benchmarks print, and the exit code."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    # Not all benchmarks need a server, and what finds one imports a lot.
    from tests.support.servers import Server

# Characters; a file or pipe has no width of its own.
PIPE_WIDTH: Final = 160


def microseconds(times: Sequence[float]) -> str:
    """Return the median of times in seconds."""
    return f"{statistics.median(times) * 1e6:.0f}"


def show(table: Table) -> None:
    """Print the table."""
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def show_versions(server: Server | None = None) -> None:
    """Print what the figures depend on."""
    python = f"Python {sys.version.split()[0]}"
    if server is None:
        print(python)
    else:
        print(f"PostgreSQL {server.version} from {server.origin}, {python}")


def verdict(missed: Sequence[str], *, check: bool) -> int:
    """Print the cases beyond their limits; return 1 if that is to be a failure."""
    for case in missed:
        print(f"beyond its limit: {case}")
    return int(check and bool(missed))
