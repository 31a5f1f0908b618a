"""The pages, and the code in them."""

import re
import shlex
import textwrap
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = sorted(DOCS.rglob("*.md"))
FENCE: Final = re.compile(
    r"(?:^ *<!-- (?P<mark>[^>]+?) -->\n+)?^ *```(?P<language>\w+)[^\n]*\n(?P<text>.+?)^ *```",
    re.DOTALL | re.MULTILINE,
)
VALUE: Final = re.compile(r"^( *)(\S.*?)  # => (.+)$", re.MULTILINE)
# What the mark before a block may say, beside the name of another library.
POSTGRESQL, SQLITE, ELSEWHERE = "PostgreSQL only", "SQLite only", "tested elsewhere"


def page_name(page: Path) -> str:
    """Return the path of a page in the folder of pages, or of another in the project."""
    return page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT).as_posix()


class Block(NamedTuple):
    """A block of a page: its language, its text, and the comment before it."""

    language: str
    text: str
    mark: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in their order."""
    return [
        Block(found["language"], textwrap.dedent(found["text"]), found["mark"] or "")
        for found in FENCE.finditer(page.read_text("utf-8"))
    ]


class Copied(NamedTuple):
    """
    What a reader copies from a page and runs.

    Attributes:
        page: The page.
        mark: The database or other library that it is for, or "".
        packages: What the page says to install.
        text: The blocks of Python, one after the other.
    """

    page: Path
    mark: str
    packages: tuple[str, ...]
    text: str

    @property
    def name(self) -> str:
        return f"{page_name(self.page)}-{self.mark or 'any'}".replace(" ", "-")

    def checked(self) -> str:
        """Return the text with the values that it says checked."""
        return VALUE.sub(r"\1assert (\2) == (\3), (\2)", self.text)


def copied(page: Path) -> list[Copied]:
    """Return the programs of a page: one for each database, and for each other library."""
    found = blocks(page)
    marks = {block.mark for block in found if block.language == "python"}
    libraries = marks - {"", POSTGRESQL, SQLITE, ELSEWHERE}
    databases = marks & {POSTGRESQL, SQLITE} or marks & {""}
    programs = [(mark, {mark, ""}) for mark in sorted(databases)]
    programs += [(mark, {mark}) for mark in sorted(libraries)]
    return [
        Copied(page, mark, installed(found, taken), code(found, taken))
        for mark, taken in programs
    ]


def code(found: list[Block], marks: set[str]) -> str:
    return "\n".join(
        block.text
        for block in found
        if block.language == "python" and block.mark in marks
    )


def installed(found: list[Block], marks: set[str]) -> tuple[str, ...]:
    """Return what the commands of the page install."""
    commands = [
        command.partition("pip install ")[2]
        for block in found
        if block.language == "console" and block.mark in marks
        for line in block.text.splitlines()
        for command in line.split(" && ")
    ]
    words = {word for command in commands for word in shlex.split(command)}
    return tuple(sorted(word for word in words if not word.startswith("-")))
