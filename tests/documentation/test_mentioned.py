"""The pages mention whatever a user may meet."""

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any, Final

import pytest
import typer

import aioupsert
from aioupsert import Coalescer, events, results, typing
from aioupsert.cli.app import app
from tests.documentation.pages import PAGES, ROOT, page_name

TEXTS: Final = {page_name(page): page.read_text("utf-8") for page in PAGES}
TEXT: Final = "\n".join(TEXTS.values())
CALLS: Final = (
    aioupsert.create_or_update,
    aioupsert.get_or_create,
    aioupsert.preview,
    aioupsert.create_or_update_many,
    aioupsert.iter_create_or_update,
    aioupsert.sync_rows,
    Coalescer,
)


def is_mentioned(name: str, text: str = TEXT) -> bool:
    """Whether it stands there as code, or in a block of code."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text) is not None


@pytest.mark.parametrize("name", aioupsert.__all__)
def test_every_public_name_is(name: str) -> None:
    # The page that is made of the docstrings mentions modules as a whole.
    assert is_mentioned(name, TEXT.replace(TEXTS["reference/api.md"], ""))


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_every_argument_is(call: Any) -> None:
    for name in inspect.signature(call).parameters:
        assert is_mentioned(name), name


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
def test_every_attribute_of_what_is_reported_is_described(cls: Any) -> None:
    for field in dataclasses.fields(cls):
        assert f"{field.name}: " in (cls.__doc__ or ""), field.name
    assert f"::: {cls.__module__}" in TEXTS["reference/api.md"]


def test_every_name_to_annotate_with_is_described() -> None:
    assert "::: aioupsert.typing" in TEXTS["reference/api.md"]
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
        for option in parameter.opts
        if option.startswith("--")
    ]


@pytest.mark.parametrize(("command", "option"), options())
def test_every_option_of_the_command_line_is(command: str, option: str) -> None:
    page = TEXTS["reference/command-line.md"]
    assert is_mentioned(f"aioupsert {command}", page)
    assert is_mentioned(option, page)


def test_every_line_of_the_log_is() -> None:
    found: list[str] = []
    for file in (ROOT / "aioupsert").rglob("*.py"):
        code = file.read_text("utf-8")
        found += re.findall(r"_logger\.(?:warning|exception)\(\s*\"([^\"]+)\"", code)
    assert len(found) == 4
    for line in found:
        shown = re.escape(line).replace("%s", "[A-Z]+").replace("%d", "N")
        assert re.search(f"`{shown}`", TEXTS["guides/observability.md"]), line
