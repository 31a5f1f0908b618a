"""The command line run in this process, on a database of either engine."""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol

import asyncpg
from typer.testing import CliRunner, Result

from aioupsert.cli.app import app

EXAMPLES: Final = Path(__file__).parents[2] / "examples"

Query = Callable[[str], list[tuple[Any, ...]]]


COUNTED: Final = (
    "created",
    "updated",
    "unchanged",
    "skipped",
    "deleted",
    "rejected",
    "rows",
)


class Write(Protocol):
    def __call__(self, content: str | bytes, name: str = ...) -> Path: ...


# How a terminal looks must not depend on the one that runs the tests.
PLAIN: Final = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}


def run(*arguments: object, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), input=stdin, env=PLAIN)


def counts(result: Result) -> dict[str, int]:
    """What the summary says, without the seconds."""
    assert result.exit_code == 0, result.output
    grid = [line.rsplit(None, 1) for line in result.stdout.splitlines()]
    lines = {words[0]: words[-1] for words in grid}
    assert float(lines.pop("seconds")) >= 0
    return {name: int(count) for name, count in lines.items() if name in COUNTED}


def expected_counts(
    created: int = 0, updated: int = 0, unchanged: int = 0
) -> dict[str, int]:
    rows = created + updated + unchanged
    return {
        "created": created,
        "updated": updated,
        "unchanged": unchanged,
        "rows": rows,
    }


class CliDatabase:
    """A database, by its URL; *query* looks at it through another connection."""

    def __init__(self, url: str, query: Query) -> None:
        self.url = url
        self.query = query
        self.is_sqlite = url.startswith("sqlite:")

    def load(
        self, file: object, *options: str, stdin: str | bytes | None = None
    ) -> Result:
        return run("load", self.url, "t", file, *options, stdin=stdin)

    def sync(self, file: object, *options: str, stdin: str | None = None) -> Result:
        return run("sync", self.url, "t", file, *options, stdin=stdin)


def sqlite_in(folder: Path) -> CliDatabase:
    path = folder / "test.db"

    def query(sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    return CliDatabase(f"sqlite:///{path}", query)


def postgresql_in(dsn: str, schema: str) -> CliDatabase:
    async def ask(sql: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(dsn, server_settings={"search_path": schema})
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    separator = "&" if "?" in dsn else "?"
    url = f"{dsn}{separator}options=-csearch_path%3D{schema}"
    return CliDatabase(url, lambda sql: asyncio.run(ask(sql)))


def environment() -> dict[str, str]:
    """For a process of its own."""
    return {**os.environ, **PLAIN}
