"""The command line run in this process, on a database of either engine."""

import asyncio
import functools
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Protocol

import asyncpg
from typer import main, testing
from typer.testing import CliRunner, Result

from aioupsert.cli.app import app

# To make the command takes longer than most runs of it.
testing._get_command = functools.cache(main.get_command)  # type: ignore[attr-defined]

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


class PostgresSession:
    """One connection for the queries of all tests, in a loop of its own."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(self._connect())

    async def _connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(self.dsn, statement_cache_size=0)

    def query(self, schema: str, sql: str) -> list[tuple[Any, ...]]:
        return self._runner.run(self._query(schema, sql))

    async def _query(self, schema: str, sql: str) -> list[tuple[Any, ...]]:
        await self._connection.execute(f"RESET ALL; SET search_path = {schema}")
        return [tuple(row) for row in await self._connection.fetch(sql)]

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()


def postgresql_in(session: PostgresSession, schema: str) -> CliDatabase:
    separator = "&" if "?" in session.dsn else "?"
    url = f"{session.dsn}{separator}options=-csearch_path%3D{schema}"
    return CliDatabase(url, functools.partial(session.query, schema))


def environment() -> dict[str, str]:
    """For a process of its own."""
    return {**os.environ, **PLAIN}
