"""What importing the package gives, and what it costs."""

import importlib.metadata
import importlib.resources
import subprocess
import sys
from typing import Any

import pytest

import aioupsert

FOREIGN = (
    *("asyncpg", "aiosqlite", "psycopg", "sqlalchemy", "sqlite3", "typer", "rich"),
    *("opentelemetry", "prometheus_client"),
)


def run(code: str) -> str:
    """Run it in an interpreter of its own, where warnings are errors."""
    done = subprocess.run(  # noqa: S603  # our own code
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_importing_it_imports_no_driver() -> None:
    loaded = run("import sys, aioupsert; print(*sys.modules)").split()
    assert "aioupsert" in loaded
    assert set(FOREIGN).isdisjoint(loaded)


def test_what_is_no_connection_is_told_without_any_driver() -> None:
    said = run(
        "import sys, asyncio, aioupsert\n"
        "async def main():\n"
        "    try:\n"
        "        await aioupsert.create_or_update(None, 't', key={'k': 1})\n"
        "    except aioupsert.UnsupportedConnectionError as exc:\n"
        "        print(exc)\n"
        "asyncio.run(main())\n"
        "print(aioupsert.is_retryable(ValueError()), *sys.modules)\n"
    )
    told, state = said.splitlines()
    assert told.startswith("cannot use this builtins.NoneType: pass an asyncpg")
    assert state.startswith("False ")
    assert set(FOREIGN).isdisjoint(state.split())


async def test_what_is_not_a_table_is_refused_without_sqlalchemy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "sqlalchemy")
    conn: Any = None
    table: Any = object()
    with pytest.raises(aioupsert.UsageError, match="a table is a name"):
        await aioupsert.create_or_update(conn, table, key={"k": 1})


@pytest.mark.parametrize(
    ("driver", "other"), [("asyncpg", "aiosqlite"), ("aiosqlite", "asyncpg")]
)
def test_one_driver_does_not_bring_the_other(driver: str, other: str) -> None:
    loaded = run(
        f"import sys, {driver}, aioupsert\n"
        "aioupsert.is_retryable(ValueError())\n"
        "print(*sys.modules)"
    ).split()
    assert f"aioupsert._drivers.{driver}" in loaded
    assert other not in loaded


def test_all_is_sorted_and_names_everything_public() -> None:
    public = {
        name
        for name, value in vars(aioupsert).items()
        if name[0] != "_" and getattr(value, "__module__", "").startswith("aioupsert.")
    }
    assert set(aioupsert.__all__) == public
    # Constants, then classes, then functions, as the linter has it.
    constants, classes, functions = (
        [name for name in aioupsert.__all__ if kind(name)]
        for kind in (
            lambda n: n.isupper() and len(n) > 1,
            lambda n: n[0].isupper() and not (n.isupper() and len(n) > 1),
            str.islower,
        )
    )
    assert aioupsert.__all__ == [*constants, *classes, *functions]
    for names in (constants, classes, functions):
        assert names == sorted(names)


def test_a_star_import_gives_them_all() -> None:
    names = run("from aioupsert import *; print(*dir())").split()
    assert set(aioupsert.__all__) <= set(names)


def test_it_says_that_it_is_typed() -> None:
    assert importlib.resources.files("aioupsert").joinpath("py.typed").is_file()


def test_its_version_is_that_of_the_installed_package() -> None:
    assert aioupsert.__version__ == importlib.metadata.version("aioupsert")


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'aioupsert' has no attribute 'upsert'"):
        _ = aioupsert.upsert
