"""
The Python in a page runs when it is copied.

It is one program, from the first block to the last: imports, connection and tables are on
the page. It runs in a fresh environment that has what the page says to install. A line
that ends with "# => value" has that value. A comment before a block says on which
database alone it runs, of which other library it is, or that another test runs it.
"""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.documentation.environments import Environments
from tests.documentation.pages import (
    DOCS,
    PAGES,
    POSTGRESQL,
    ROOT,
    SQLITE,
    Copied,
    blocks,
    copied,
)
from tests.support.databases import PostgresDatabase, url_in
from tests.support.servers import Server

DSN: Final = "postgresql://localhost/test"
RUNNER: Final = Path(__file__).with_name("copied.py")
PROGRAMS: Final = [
    program for page in [ROOT / "README.md", *PAGES] for program in copied(page)
]


@pytest.fixture(scope="session")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Environments:
    # Workers have folders of their own in one of the run.
    base = tmp_path_factory.getbasetemp()
    run = base.parent if base.name.startswith("popen-") else base
    return Environments(run / "environments")


def printed_by(
    program: Copied, environments: Environments, folder: Path, dsn: str
) -> str:
    """Run the program in its environment; return what it printed."""
    file = folder / "page.py"
    file.write_text(program.checked().replace(DSN, dsn), "utf-8")
    python = environments.python_with(program.packages)
    # Another library may warn of what it uses.
    warnings = ["-W", "error"] if program.mark in {"", POSTGRESQL, SQLITE} else []
    done = subprocess.run(  # noqa: S603  # our own documentation
        [str(python), "-I", *warnings, str(RUNNER), str(file)],
        cwd=folder,
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=[p.name for p in PROGRAMS])
def test_the_code_of_a_page_runs_when_copied(
    program: Copied,
    environments: Environments,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    dsn = DSN
    if program.mark == POSTGRESQL:
        pg: PostgresDatabase = request.getfixturevalue("pg")
        server: Server = request.getfixturevalue("pg_server")
        dsn = url_in(server.dsn, pg.schema)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    printed = printed_by(program, environments, tmp_path, dsn)
    if printed:
        said = [b.text for b in blocks(program.page) if b.language == "text"]
        assert printed == "".join(said)


def test_the_commands_of_the_import_do_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = DOCS / "get-started" / "import-a-file.md"
    monkeypatch.chdir(tmp_path)
    first_block = next(b for b in blocks(page) if b.language == "python")
    exec(first_block.text)  # noqa: S102  # it writes the files
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
    (program,) = copied(page)
    with pytest.raises(AssertionError):
        exec(program.checked())  # noqa: S102  # as above


def test_each_page_with_code_says_what_to_install() -> None:
    assert all(program.packages for program in PROGRAMS)
