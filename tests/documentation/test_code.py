"""
The Python in the pages is a program, a page each; it runs on PostgreSQL and on SQLite.

A page has the table of the guide unless it makes one of that name, and `conn` and `pool`.
A line that ends with "# => value" has that value. A comment before a block says on which
database alone it runs, or of which other library it is.
"""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.ext.asyncio import AsyncSession

import aioupsert
from aioupsert.events import OBSERVERS
from tests.documentation.models import Page
from tests.documentation.pages import (
    DOCS,
    PAGES,
    ROOT,
    blocks,
    checked,
    page_name,
    run,
    tables,
)
from tests.support.databases import open_postgresql, open_sqlite, url_in
from tests.support.engines import engine_on
from tests.support.servers import Server

# Run by tests of their own, as what they need is not a table.
ELSEWHERE: Final = {
    "guides/sqlalchemy.md",
    "guides/servers.md",
    "get-started/quickstart.md",
}
DSN: Final = "postgresql://localhost/test"
WITH_CODE: Final = [
    page
    for page in [ROOT / "README.md", *PAGES]
    if page_name(page) not in ELSEWHERE and "```python" in page.read_text("utf-8")
]


@pytest.fixture(params=["postgresql", "sqlite"])
async def scope(
    request: pytest.FixtureRequest, pg_server: Server, lite_path: Path
) -> AsyncIterator[dict[str, Any]]:
    """The names that a page may use."""
    scope: dict[str, Any] = {n: getattr(aioupsert, n) for n in aioupsert.__all__}
    scope |= {"engine": request.param, "Page": Page, "dsn": DSN}
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            lite = await stack.enter_async_context(open_sqlite(lite_path))
            scope["conn"] = scope["pool"] = lite.handle
            engine = engine_on("aiosqlite", str(lite_path), "")
        else:
            dsn = pg_server.dsn
            pg = await stack.enter_async_context(open_postgresql(dsn, "pool"))
            scope["conn"] = await stack.enter_async_context(pg.connect())
            scope["pool"] = pg.handle
            scope["dsn"] = url_in(dsn, pg.schema)
            engine = engine_on("asyncpg", dsn, pg.schema)
        stack.push_async_callback(engine.dispose)
        scope["session"] = await stack.enter_async_context(AsyncSession(engine))
        yield scope


def program(page: Path, engine: str) -> str:
    """What is run of a page."""
    here = {"postgresql": "PostgreSQL only", "sqlite": "SQLite only"}[engine]
    texts = [
        block.text
        for block in blocks(page)
        if block.language == "python" and block.mark in {"", here}
    ]
    return checked("\n".join(texts))


@pytest.fixture(autouse=True)
def afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Files go where no others are, and what observes the process goes."""
    monkeypatch.chdir(tmp_path)
    collectors = {*REGISTRY._collector_to_names}
    yield
    OBSERVERS.clear()
    for collector in {*REGISTRY._collector_to_names} - collectors:
        REGISTRY.unregister(collector)


@pytest.mark.parametrize("page", WITH_CODE, ids=map(page_name, WITH_CODE))
async def test_the_code_of_a_page_runs(page: Path, scope: dict[str, Any]) -> None:
    made = tables(page)
    if not any("CREATE TABLE page_views" in table for table in made):
        made += tables(DOCS / "reference" / "arguments.md")
    for table in made:
        await scope["conn"].execute(table)
    text = program(page, scope["engine"]).replace(DSN, scope["dsn"])
    await run(text, page, scope)


def test_the_programs_of_the_quickstart_print_what_it_says(
    pg_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    page = DOCS / "get-started" / "quickstart.md"
    scope: dict[str, Any] = {}
    exec(program(page, "postgresql").replace(DSN, pg_server.dsn), scope)  # noqa: S102 - our own documentation
    printed = [block.text for block in blocks(page) if block.language == "text"]
    assert capsys.readouterr().out == "".join(printed)


def test_the_commands_of_the_import_do_what_it_says() -> None:
    page = DOCS / "get-started" / "import-a-file.md"
    exec(blocks(page)[0].text)  # noqa: S102 - it writes the files
    commands = re.findall(r"^\$ (aioupsert .+)", page.read_text("utf-8"), re.MULTILINE)
    said = [
        subprocess.run(  # noqa: S603  # our own documentation
            [sys.executable, "-m", *shlex.split(command), "--json"],
            check=True,
            capture_output=True,
        ).stdout
        for command in commands
    ]
    first, second = map(json.loads, said)
    assert first["created"] == 3
    assert (second["created"], second["updated"], second["unchanged"]) == (1, 1, 1)


def test_a_wrong_value_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nn = 1\nn + 1  # => 3\n```\n", "utf-8")
    with pytest.raises(AssertionError):
        exec(program(page, "sqlite"))  # noqa: S102 - as above
