"""
Draw the pictures of the command line, from what it writes to a real terminal.

    python docs/pictures.py [FOLDER]

Each command runs in a terminal of its own (`pty`); what stood there at some moment is
drawn as SVG, into docs/images unless another folder is given.
"""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.text import Text

ROOT: Final = Path(__file__).parents[1]
WIDTH: Final = 80
ROWS: Final = 400_000
SETTING: Final = {"COLUMNS": str(WIDTH), "LINES": "40", "TERM": "xterm-256color"}
# As rich draws it, without the fonts that it would fetch.
FORMAT: Final = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="rich-terminal">
<style>
.{unique_id}-matrix {{ font: {char_height}px ui-monospace, monospace; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font: bold 18px system-ui, sans-serif; }}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""
# What a progress bar writes before it is drawn again.
AGAIN: Final = re.compile(r"\r\x1b\[2K")
OTHER_ESCAPES: Final = re.compile(r"\x1b\[(?!\d*(?:;\d+)*m)[?\d;]*[A-Za-z]")


def written(arguments: Sequence[str], folder: Path) -> str:
    """Run the command line in a terminal; return what it wrote there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(  # noqa: S603  # ours
        [sys.executable, "-m", "aioupsert", *arguments],
        cwd=folder,
        env={**os.environ, **SETTING, "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ):
        os.close(theirs)
        parts: list[bytes] = []
        try:
            while part := os.read(ours, 65_536):
                parts.append(part)
        except OSError:
            pass  # which is how a terminal ends on Linux
    os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n")


def shown(text: str, *, progress: float = 1.0) -> str:
    """Return what stands in the terminal after that part of the time."""
    head, *frames = AGAIN.split(text)
    frame = frames[round(progress * (len(frames) - 1))] if frames else ""
    return OTHER_ESCAPES.sub("", head + frame)


def draw(file: Path, lines: Sequence[tuple[str, str]]) -> None:
    """Draw the commands, each with what it showed."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True)
    for command, output in lines:
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        console.print(Text.from_ansi(output.rstrip()))
    # Else what hangs below the last line is cut.
    console.print()
    console.save_svg(
        str(file), title="aioupsert", code_format=FORMAT, unique_id=file.stem
    )


def main(images: Path) -> None:
    """Draw all pictures."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        rows = "".join(f"{n},page {n},{n % 97}\n" for n in range(ROWS))
        folder.joinpath("pages.csv").write_text(f"path,title,hits\n{rows}", "utf-8")
        prices = {
            "monday": "shop,sku,cents\n7,bolt,10\n7,nut,5\n7,washer,2\n8,bolt,11\n",
            "tuesday": "sku,cents\nbolt,12\nnut,5\nscrew,8\n",
        }
        for day, text in prices.items():
            folder.joinpath(f"{day}.csv").write_text(text, "utf-8")

        draw(images / "help.svg", [("aioupsert --help", written(["--help"], folder))])

        load = "load sqlite:///site.db pages pages.csv --key path --create-table"
        text = shown(written(load.split(), folder), progress=0.6)
        draw(images / "load.svg", [(f"aioupsert {load}", text)])

        shop = "load sqlite:///shop.db prices monday.csv -k shop,sku --create-table -q"
        written(shop.split(), folder)
        sync = (
            "sync sqlite:///shop.db prices tuesday.csv -k shop,sku -s shop=7"
            " --dry-run --diff"
        )
        text = shown(written(sync.split(), folder))
        draw(images / "diff.svg", [(f"aioupsert {sync}", text)])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
