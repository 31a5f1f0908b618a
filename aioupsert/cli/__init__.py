"""The command line; the only part of the package that needs typer and rich."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Final

# What is imported stays, and rows are no garbage: looking through them again and again
# took a tenth of the time of a load.
_OBJECTS: Final = 100_000


def main() -> None:
    """Run the command line, or exit with a message if its packages are missing."""
    _open_closed_streams()
    gc.set_threshold(_OBJECTS)
    try:
        from aioupsert.cli.app import app  # noqa: PLC0415  # an optional dependency
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in {"rich", "typer"}:
            raise
        sys.exit("the command line needs typer and rich: pip install 'aioupsert[cli]'")
    gc.freeze()
    app(prog_name="aioupsert")


def _open_closed_streams() -> None:
    """
    Open the null device in the place of standard streams that are closed.

    The next file to be opened would take the place, and get what is written there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115  # for good
            setattr(sys, name, null)
