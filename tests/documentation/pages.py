"""The code in the pages: found, checked, and run."""

import ast
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
PAGES: Final = sorted(DOCS.rglob("*.md"))
FENCE: Final = re.compile(
    r"(?:^ *<!-- (?P<mark>[^>]+?) -->\n+)?^ *```(?P<language>python|sql|text)[^\n]*\n(?P<text>.+?)^ *```",
    re.DOTALL | re.MULTILINE,
)
VALUE: Final = re.compile(r"^( *)(\S.*?)  # => (.+)$", re.MULTILINE)


def page_name(page: Path) -> str:
    """Return the path of a page in the folder of pages, or of another in the project."""
    return page.relative_to(DOCS if page.is_relative_to(DOCS) else ROOT).as_posix()


class Block(NamedTuple):
    """A block of a page: its language, its text, and the comment before it."""

    language: str
    text: str
    mark: str


def blocks(page: Path) -> list[Block]:
    return [
        Block(found["language"], textwrap.dedent(found["text"]), found["mark"] or "")
        for found in FENCE.finditer(page.read_text("utf-8"))
    ]


def tables(page: Path) -> list[str]:
    return [
        block.text
        for block in blocks(page)
        if block.text.startswith("CREATE TABLE") and not block.mark
    ]


def checked(text: str) -> str:
    """Have the lines that say what they give checked."""
    return VALUE.sub(r"\1assert (\2) == (\3), (\2)", text)


async def run(text: str, page: Path, scope: dict[str, Any]) -> None:
    """Run code of a page, which may await."""
    code = compile(text, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, scope)  # noqa: S307 - our own documentation
    if inspect.isawaitable(running):
        await running
