"""The commands in docs/reference/command-line.md print what stands there, and in pictures."""

import html
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.documentation.pages import DOCS, ROOT
from tests.support.databases import PostgresDatabase, url_in
from tests.support.servers import Server

PAGE: Final = (DOCS / "reference" / "command-line.md").read_text("utf-8")
BLOCK: Final = re.compile(r"^```console\n(\$.+?)^```", re.DOTALL | re.MULTILINE)
SHOP: Final = "postgresql:///shop"
PRICES: Final = """
CREATE TABLE prices
    (sku text PRIMARY KEY, price numeric NULL, changed timestamptz DEFAULT now())
"""


def plain(text: str) -> list[str]:
    """The words of each line; how long it took is not the same each time."""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    lines = [re.sub("─+", "─", line) for line in lines]
    return [line for line in lines if line and not line.startswith("seconds")]


def printed(command: str) -> list[str]:
    done = subprocess.run(  # noqa: S603  # our own documentation
        [sys.executable, "-m", *shlex.split(command)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return plain(done.stdout)


def commands() -> list[tuple[str, list[str]]]:
    """Each command, and what it prints."""
    found: list[tuple[str, list[str]]] = []
    for block in BLOCK.findall(PAGE):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, plain(output)))
    return found


async def test_each_command_prints_what_the_page_says(
    pg: PostgresDatabase,
    pg_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    rows = [f"{n},{n / 100}" for n in range(810)]
    csv = "\n".join(["sku,price", *rows, "x,n/a"])
    (tmp_path / "prices.csv").write_text(csv, "utf-8")
    await pg.run(PRICES)
    shop = url_in(pg_server.dsn, pg.schema)
    assert len(commands()) == 5
    for command, output in commands():
        given = command.replace(SHOP, shlex.quote(shop))
        assert printed(given) == output, command


def test_the_picture_of_the_help_shows_it_as_it_is() -> None:
    svg = (DOCS / "images" / "help.svg").read_text("utf-8")
    drawn = re.findall(r"<text [^>]*>(.*?)</text>", svg, re.DOTALL)
    seen = " ".join(html.unescape("".join(drawn)).split())
    # If it differs, draw it again: python docs/pictures.py
    assert [line for line in printed("aioupsert --help") if line not in seen] == []
