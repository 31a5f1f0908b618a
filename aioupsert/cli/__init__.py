"""The command line; the only part of the package that needs typer and rich."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or exit with a message if its packages are missing."""
    try:
        from aioupsert.cli.app import app  # noqa: PLC0415  # an optional dependency
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in {"rich", "typer"}:
            raise
        sys.exit("the command line needs typer and rich: pip install 'aioupsert[cli]'")
    app(prog_name="aioupsert")
