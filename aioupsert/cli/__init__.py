"""The command line; the only room that needs typer and rich."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what is missing for it."""
    try:
        from aioupsert.cli.app import app  # noqa: PLC0415  # may not be there
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in {"rich", "typer"}:
            raise
        sys.exit("the command line needs: pip install 'aioupsert[cli]'")
    app(prog_name="aioupsert")
