"""The built pages mention whatever a user may meet."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, Final

import pytest
import typer

import aioupsert
from aioupsert import Coalescer, errors, events, results, typing
from aioupsert.cli.app import app
from tests.documentation.pages import DOCS, PAGES, ROOT, page_name

CALLS: Final = (
    aioupsert.create_or_update,
    aioupsert.get_or_create,
    aioupsert.preview,
    aioupsert.create_or_update_many,
    aioupsert.iter_create_or_update,
    aioupsert.sync_rows,
    Coalescer,
)


@pytest.fixture(scope="module")
def texts(site: Path) -> dict[str, str]:
    """Return each page as Markdown, with what is generated."""
    names = map(page_name, PAGES)
    return {name: (site / name).read_text("utf-8") for name in names}


def is_mentioned(name: str, text: str) -> bool:
    """Whether it stands there as code, or in a block of code."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


@pytest.mark.parametrize("name", aioupsert.__all__)
def test_every_public_name_is(name: str, texts: dict[str, str]) -> None:
    # The page that is made of the docstrings mentions all of them.
    others = [text for page, text in texts.items() if page != "reference/api.md"]
    assert is_mentioned(name, "\n".join(others))


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_every_argument_is(call: Any, texts: dict[str, str]) -> None:
    # On a page for readers, who need not look at the signature.
    others = [text for page, text in texts.items() if page != "reference/api.md"]
    for name in inspect.signature(call).parameters:
        assert is_mentioned(name, "\n".join(others)), name


@pytest.mark.parametrize(
    ("page", "call"),
    [
        ("reference/arguments.md", aioupsert.create_or_update),
        ("guides/many-rows.md", aioupsert.create_or_update_many),
        ("guides/sync.md", aioupsert.sync_rows),
        ("guides/coalescer.md", Coalescer),
    ],
)
def test_every_argument_is_explained(
    page: str, call: Any, texts: dict[str, str]
) -> None:
    _, _, text = texts[page].partition("| argument | meaning | default |")
    table, _, _ = text.partition("\n\n")
    rows = re.findall(r"^\| `(\w+)` \| \S.* \|$", table, re.MULTILINE)
    assert rows == [*inspect.signature(call).parameters]


def test_every_error_is_with_what_to_do(texts: dict[str, str]) -> None:
    named = re.findall(r"^class (\w+)\(", inspect.getsource(errors), re.MULTILINE)
    rows = re.findall(
        r"^\| \[`(\w+)`\]\(.+?\).* \| \S.+ \| .* \|$",
        texts["reference/errors.md"],
        re.MULTILINE,
    )
    assert rows == named


@pytest.mark.parametrize(
    "cls",
    [
        results.Result,
        results.BulkResult,
        results.Progress,
        results.CoalescerStats,
        results.Statement,
        events.Event,
    ],
    ids=lambda cls: cls.__name__,
)
def test_every_attribute_of_what_is_reported_is_described(
    cls: Any, texts: dict[str, str]
) -> None:
    for field in dataclasses.fields(cls):
        assert f"{field.name}: " in (cls.__doc__ or ""), field.name
    assert f"### `{cls.__name__}`" in texts["reference/api.md"]


def test_every_name_to_annotate_with_is_described() -> None:
    assert "::: aioupsert.typing" in (DOCS / "reference/api.md").read_text("utf-8")
    text = Path(inspect.getfile(typing)).read_text("utf-8")
    _, *aliases = re.split(r"^(?=\w+: TypeAlias = )", text, flags=re.MULTILINE)
    assert aliases
    for alias in aliases:
        assert '\n"""' in alias, alias.partition(":")[0]


def options() -> list[tuple[str, str]]:
    group: Any = typer.main.get_command(app)
    return [
        (command, option)
        for command, made in group.commands.items()
        for parameter in made.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    ]


@pytest.mark.parametrize(("command", "option"), options())
def test_every_option_of_the_command_line_is(
    command: str, option: str, texts: dict[str, str]
) -> None:
    _, _, section = texts["reference/command-line.md"].partition(
        f"\n## {command.title()}\n"
    )
    section, _, _ = section.partition("\n## ")
    rows = re.findall(r"^\| `(-.+?)` \| .+ \|$", section, re.MULTILINE)
    assert any(is_mentioned(option, row) for row in rows)


def test_every_line_of_the_log_is(texts: dict[str, str]) -> None:
    found: list[str] = []
    for file in (ROOT / "aioupsert").rglob("*.py"):
        code = file.read_text("utf-8")
        found += re.findall(r"_logger\.(?:warning|exception)\(\s*\"([^\"]+)\"", code)
    assert len(found) == 4
    for line in found:
        shown = re.escape(line).replace("%s", "[A-Z]+").replace("%d", "N")
        assert re.search(f"`{shown}`", texts["guides/observability.md"]), line
