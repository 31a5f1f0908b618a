import asyncio
import csv
import importlib
import logging
import re
import runpy
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from aioupsert import cli
from aioupsert.cli.app import app
from aioupsert.cli.errors import LoadError
from aioupsert.cli.reading import open_source, read_source
from tests.servers import Server

EXAMPLES: Final = Path(__file__).parents[2] / "examples"

Query = Callable[[str], list[tuple[Any, ...]]]


def run(*arguments: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), input=stdin)


class Place:
    """A database of either engine, by its URL."""

    def __init__(self, url: str, query: Query) -> None:
        self.url = url
        self.query = query

    def load(self, file: object, *options: str, stdin: str | None = None) -> Result:
        return run("load", self.url, "t", file, *options, stdin=stdin)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        yield sqlite_place(tmp_path)
        return
    server: Server = request.getfixturevalue("pg_server")
    schema = f"t_{uuid4().hex}"

    async def ask(sql: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(
            server.dsn, server_settings={"search_path": schema}
        )
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    def query(sql: str) -> list[tuple[Any, ...]]:
        return asyncio.run(ask(sql))

    query(f"CREATE SCHEMA {schema}")
    separator = "&" if "?" in server.dsn else "?"
    yield Place(f"{server.dsn}{separator}search_path={schema}", query)
    query(f"DROP SCHEMA {schema} CASCADE")


def sqlite_place(folder: Path) -> Place:
    path = folder / "test.db"

    def query(sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return connection.execute(sql).fetchall()

    return Place(f"sqlite:///{path}", query)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "rows.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


Write = Callable[[str], Path]


def test_two_releases_of_the_time_zones(place: Place) -> None:
    old, new = EXAMPLES / "zones-2020a.csv", EXAMPLES / "zones-2026f.csv"
    first = place.load(old, "--key", "zone", "--create-table")
    assert (first.exit_code, first.stdout) == (
        0,
        "t: 348 created, 0 updated, 0 unchanged\n",
    )
    second = place.load(new, "--key", "zone", "--skip-unchanged")
    assert second.stdout == "t: 4 created, 64 updated, 244 unchanged\n"
    again = place.load(new, "--key", "zone", "--skip-unchanged")
    assert again.stdout == "t: 0 created, 0 updated, 312 unchanged\n"
    with new.open(encoding="utf-8", newline="") as lines:
        rows = {tuple(row) for row in csv.reader(lines)} - {
            ("zone", "countries", "coordinates", "comment")
        }
    assert rows <= set(place.query("SELECT * FROM t"))


def test_without_skip_unchanged_every_row_is_written(place: Place, file: Write) -> None:
    path = file("id,name\n1,a\n2,b\n")
    place.load(path, "--key", "id", "--create-table")
    result = place.load(path, "--key", "id")
    assert result.stdout == "t: 0 created, 2 updated, 0 unchanged\n"


def test_cells_are_converted_to_the_types_of_the_columns(
    place: Place, file: Write
) -> None:
    place.query("CREATE TABLE t (id integer PRIMARY KEY, price real, note text)")
    path = file("id,price,note\n1,2.5,05\n2,3,x\n")
    assert place.load(path, "--key", "id").exit_code == 0
    assert place.load(path, "--key", "id").stdout == (
        "t: 0 created, 2 updated, 0 unchanged\n"
    )
    assert place.query("SELECT * FROM t ORDER BY id") == [(1, 2.5, "05"), (2, 3, "x")]


def test_composite_keys_and_odd_names(place: Place, file: Write) -> None:
    path = file('"a ""b""",Select,é\n1,2,x\n1,3,y\n1,2,z\n')
    result = place.load(
        path, "--key", 'a "b"', "--key", "Select", "--create-table", "--skip-unchanged"
    )
    assert result.stdout == "t: 2 created, 1 updated, 0 unchanged\n"
    assert sorted(place.query("SELECT * FROM t")) == [("1", "2", "z"), ("1", "3", "y")]


def test_an_empty_cell_is_empty_text_and_null_is_what_the_option_says(
    place: Place, file: Write
) -> None:
    path = file("id,name\n1,\n2,NULL\n")
    place.load(path, "--key", "id", "--create-table", "--null", "NULL")
    assert sorted(place.query("SELECT * FROM t")) == [("1", ""), ("2", None)]


def test_standard_input_and_another_delimiter(place: Place) -> None:
    text = "id;name\n1;a,b\n"
    options = ("--key", "id", "--create-table", "--delimiter", ";")
    result = place.load("-", *options, stdin=text)
    assert result.stdout == "t: 1 created, 0 updated, 0 unchanged\n"
    assert place.query("SELECT name FROM t") == [("a,b",)]


def test_a_table_that_is_there_is_not_made_again(place: Place, file: Write) -> None:
    place.query("CREATE TABLE t (id integer PRIMARY KEY, name text, extra text)")
    place.load(file("id,name\n1,a\n"), "--key", "id", "--create-table")
    assert place.query("SELECT * FROM t") == [(1, "a", None)]


def test_a_row_that_the_database_refuses_stores_nothing(
    place: Place, file: Write
) -> None:
    place.query("CREATE TABLE t (id integer PRIMARY KEY, n integer CHECK (n > 0))")
    result = place.load(file("id,n\n1,1\n\n2,0\n3,1\n"), "--key", "id")
    assert result.exit_code == 1
    assert "rows.csv, line 4: " in result.stderr
    assert place.query("SELECT * FROM t") == []


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", (), "is empty: it needs a header"),
        ("id,id\n", (), "names a column twice: 'id'"),
        ("id,n\n1\n", (), "line 2: 1 cells under a header of 2"),
        ('id,n\n1,"a\n', (), "line 2: unexpected end of data"),
        ("id,n\n", ("--delimiter", "ab"), "the delimiter must be one character"),
        ("id,n\n", ("--encoding", "utf-9"), "unknown encoding"),
        ("id,é\n", ("--encoding", "ascii"), "line 1: 'ascii' codec"),
        ("idd,n\n", (), "has no column 'id' (did you mean 'idd'?)"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    tmp_path: Path, file: Write, text: str, options: tuple[str, ...], message: str
) -> None:
    place = sqlite_place(tmp_path)
    result = place.load(file(text), "--key", "id", "--create-table", *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert message in result.stderr
    assert place.query("SELECT * FROM sqlite_master") == []


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    result = sqlite_place(tmp_path).load(tmp_path / "no.csv", "--key", "id")
    assert result.exit_code == 1
    assert "cannot read" in result.stderr


def test_an_unknown_table_suggests_the_option(place: Place, file: Write) -> None:
    result = place.load(file("id\n1\n"), "--key", "id")
    assert result.exit_code == 1
    assert "there is no table t; --create-table makes it" in result.stderr


def test_an_unknown_column_is_said_with_the_closest(place: Place, file: Write) -> None:
    place.query("CREATE TABLE t (id integer PRIMARY KEY, title text)")
    result = place.load(file("id,titles\n1,a\n"), "--key", "id")
    assert "has no column 'titles' (did you mean 'title'?)" in result.stderr


@pytest.mark.parametrize(
    "url", ["test.db", "sqlite://test.db", "sqlite:///:memory:", "mysql://host/db"]
)
def test_a_url_of_no_database(url: str, file: Write) -> None:
    result = run("load", url, "t", file("id\n1\n"), "--key", "id")
    assert result.exit_code == 1
    assert "is none of sqlite:///relative.db" in result.stderr


def test_a_database_that_cannot_be_opened(tmp_path: Path, file: Write) -> None:
    for url in (f"sqlite:///{tmp_path}/no/test.db", "postgresql://127.0.0.1:1/x"):
        result = run("load", url, "t", file("id\n1\n"), "--key", "id")
        assert result.exit_code == 1
        assert result.stderr.startswith("aioupsert: ")


def test_a_file_that_is_no_database(file: Write) -> None:
    path = file("id\n1\n")
    result = run("load", f"sqlite:///{path}", "t", path, "--key", "id")
    assert result.exit_code == 1
    assert "file is not a database" in result.stderr


def test_a_constraint_checked_by_commit_stores_nothing(
    place: Place, file: Write
) -> None:
    # SQLite only defers foreign keys, and checks them only when told to.
    later = "" if place.url.startswith("sqlite") else "DEFERRABLE INITIALLY DEFERRED"
    place.query(f"CREATE TABLE t (id integer PRIMARY KEY, p integer UNIQUE {later})")
    result = place.load(file("id,p\n1,7\n2,7\n"), "--key", "id")
    assert result.exit_code == 1
    assert re.search("duplicate key|UNIQUE constraint", result.stderr)
    assert place.query("SELECT * FROM t") == []


def test_the_statements_are_shown_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id,note\n1,classified\n", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "aioupsert", "load", f"sqlite:///{tmp_path}/x.db"),
        *("t", str(path), "--key", "id", "--create-table", "--verbose"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # our own
    assert "INSERT INTO" in done.stderr
    assert "classified" not in done.stderr
    assert done.stdout == "t: 1 created, 0 updated, 0 unchanged\n"


def test_showing_them_logs_no_value(
    tmp_path: Path, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: list[logging.Handler] = []
    monkeypatch.setattr(logging.getLogger("aioupsert"), "handlers", handlers)
    monkeypatch.setattr(logging.getLogger("aioupsert"), "level", logging.NOTSET)
    path = file("id,note\n1,classified\n")
    options = ("--key", "id", "--create-table", "--verbose")
    assert sqlite_place(tmp_path).load(path, *options).exit_code == 0
    assert len(handlers) == 1


def test_version_and_usage() -> None:
    assert run("--version").stdout.strip()
    assert run("load").exit_code == 2
    assert "Load a CSV file" in run("load", "--help").stdout


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_extras_are_named(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "aioupsert.cli.app", raising=False)
    for name in list(sys.modules):
        if name == missing or name.startswith(f"{missing}."):
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match=r"pip install 'aioupsert\[cli\]'"):
        cli.main()


def test_another_missing_module_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "aioupsert.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "aioupsert.cli.load", None)
    with pytest.raises(ModuleNotFoundError, match=r"aioupsert\.cli\.load"):
        cli.main()


def test_a_missing_driver_is_named(
    tmp_path: Path, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "aiosqlite", None)
    result = sqlite_place(tmp_path).load(file("id\n1\n"), "--key", "id")
    assert "pip install 'aioupsert[aiosqlite]'" in result.stderr


def test_main_runs_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["aioupsert", "--version"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("aioupsert", run_name="__main__")
    assert stopped.value.code == 0
    # The console script imports the module instead of running it.
    assert importlib.import_module("aioupsert.__main__").main is cli.main


@given(st.binary(max_size=200))
def test_any_bytes_are_rows_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    error, widths = "", {0}
    try:
        with open_source(path, delimiter=",", encoding="utf-8-sig") as source:
            widths = {len(source.columns), *(len(cells) for _, cells in source.rows)}
    except LoadError as exc:
        error = str(exc)
    assert len(widths) == 1
    assert str(path) in error or not error


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=5))
def test_what_csv_writes_is_read_back(rows: list[list[str]]) -> None:
    clean = [[c.replace("\r", "").replace("\0", "") for c in row] for row in rows]
    lines: list[str] = []

    class Lines:
        def write(self, text: str) -> int:
            lines.append(text)
            return len(text)

    csv.writer(Lines()).writerows([["a", "b"], *clean])
    source = read_source("test", lines, ",")
    assert [cells for _, cells in source.rows] == clean
