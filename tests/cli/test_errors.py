"""Whatever a user can cause is one message and an exit code, never a traceback."""

import json
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from typer.testing import Result

from aioupsert.cli.databases import urls
from tests.cli.databases import CliDatabase, Write, run

KEY = ("--key", "id")


def message(result: Result) -> str:
    """What a failed load says, with an exit code of 1."""
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("aioupsert: ")
    return result.stderr


def misuse(result: Result) -> str:
    """What typer says of wrong usage, without its box."""
    assert (result.exit_code, result.stdout) == (2, "")
    return " ".join(result.stderr.replace("│", " ").split())


# --- the file -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("", KEY, "rows.csv is empty: a header is required"),
        (
            "id,n\n1,2\n3\n",
            KEY,
            "line 3, column 'n': expected 2 cells as in the header, found 1",
        ),
        ('id,n\n1,"a"b\n', KEY, "rows.csv, line 2: invalid CSV: ',' expected"),
        (b"id,n\n1,\xff\n", KEY, "line 2, column 3: byte 0xff is not valid utf-8"),
        ("id,ü\n", (*KEY, "--encoding", "ascii"), "see --encoding"),
        ("idd,n\n", KEY, "rows.csv has no column 'id' (did you mean 'idd'?)"),
        ("id,n\n", ("--key", "id,m"), "rows.csv has no column 'm'"),
        ("id,n\n", ("--key", ""), "rows.csv has no column ''"),
        ('{"id": 1\n', (*KEY, "--format", "jsonl"), "invalid JSON: "),
        ('{"n": 1}\n', (*KEY, "--format", "jsonl"), "rows.csv has no column 'id'"),
        ("[]", (*KEY, "--format", "json"), "cannot create table t: no rows of"),
        ("id,n\n", (*KEY, "--format", "parquet"), "cannot be read as Parquet: "),
    ],
)
def test_what_is_wrong_with_a_file_is_said(
    database: CliDatabase,
    file: Write,
    content: str | bytes,
    options: tuple[str, ...],
    expected: str,
) -> None:
    result = database.load(file(content), *options, "--create-table")
    assert expected in message(result)
    catalog = (
        "sqlite_master" if database.is_sqlite else "pg_tables WHERE tablename = 't'"
    )
    assert database.query(f"SELECT * FROM {catalog}") == []


@pytest.mark.parametrize("content", [r"id,\ud800", "id,n\n1,\\ud800\n"])
def test_a_letter_that_no_database_stores(
    database: CliDatabase, file: Write, content: str
) -> None:
    options = (*KEY, "--create-table", "--encoding", "unicode_escape")
    said = message(database.load(file(content), *options))
    assert "surrogates not allowed" in said


@pytest.mark.parametrize("name", ["no.csv", "."])
def test_a_file_that_cannot_be_opened(
    sqlite_database: CliDatabase, tmp_path: Path, name: str
) -> None:
    said = message(sqlite_database.load(tmp_path / name, *KEY))
    assert f"cannot read {tmp_path / name}: " in said
    assert "Errno" not in said


# --- usage ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://test.db", "must be sqlite:///relative.db, sqlite:////absolute.db or"),
        (
            "test.db",
            "(did you mean sqlite:///test.db?): put its URL before the table, or use --db",
        ),
        ("sqlite:test.db", "no database given (did you mean sqlite:///test.db?)"),
        ("mysql://root:secret@host/db", "must be sqlite:///relative.db"),
        ("sqlite://test.db", "write three slashes before a file: sqlite:///test.db"),
        ("sqlite:///:memory:", "an in-memory database would not outlive the command"),
        ("sqlite://", "an in-memory database would not outlive the command"),
        ("sqlite+aiosqlite:///x.db", "write sqlite:// without +aiosqlite"),
        ("postgresql+asyncpg://u:secret@h/x", "write postgresql:// without +asyncpg"),
        ("postgresql:/u:secret@h/x", "no database given"),
        ("sqlite:///x.db?mode=ro", "mode=ro is not a parameter of SQLite here"),
        ("sqlite:///x.db?timeout=x", "timeout=x is not a parameter of SQLite here"),
    ],
)
def test_a_url_of_no_database(file: Write, url: str, expected: str) -> None:
    said = misuse(run("load", url, "t", file("id\n1\n"), *KEY))
    assert expected in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), "Missing option '--key'"),
        ((*KEY, "--delimiter", "ab"), "or a line break, not 'ab'"),
        ((*KEY, "--delimiter", ""), "or a line break, not ''"),
        ((*KEY, "--delimiter", '"'), "or a line break, not '\"'"),
        ((*KEY, "--delimiter", "\n"), r"or a line break, not '\n'"),
        ((*KEY, "--encoding", "utf-9"), "Python has no text encoding 'utf-9'"),
        ((*KEY, "--encoding", "rot13"), "Python has no text encoding 'rot13'"),
        ((*KEY, "--colour"), "No such option"),
        ((*KEY, "--json-path", "a", "-f", "csv"), "--json-path is for JSON, not for"),
    ],
)
def test_wrong_options(
    sqlite_database: CliDatabase, file: Write, options: tuple[str, ...], expected: str
) -> None:
    assert expected in misuse(sqlite_database.load(file("id\n1\n"), *options))


@pytest.mark.parametrize("table", ["a.b.c", ""])
def test_a_name_of_no_table(
    sqlite_database: CliDatabase, file: Write, table: str
) -> None:
    said = misuse(run("load", sqlite_database.url, table, file("id\n1\n"), *KEY))
    assert "is not the name of a table: write name or schema.name" in said


# --- the database ---------------------------------------------------------------------


def test_an_unknown_table_suggests_the_option(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE tt (id integer)")
    said = message(database.load(file("id\n1\n"), *KEY))
    assert "no table t (did you mean 'tt'?); --create-table creates it" in said


def test_an_unknown_column_is_said_with_the_closest(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, title text)")
    said = message(database.load(file("id,titles\n1,a\n"), *KEY, "--create-table"))
    assert "table t has no column 'titles' (did you mean 'title'?)" in said


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_column_that_the_database_computes_is_left_out(
    database: CliDatabase, file: Write, name: str
) -> None:
    database.query(
        "CREATE TABLE t (id integer PRIMARY KEY,"
        " twice integer GENERATED ALWAYS AS (id * 2) STORED)"
    )
    content = "id,twice\n1,5\n" if name == "t.csv" else '{"id": 1, "twice": 5}\n'
    result = database.load(file(content, name), *KEY)
    assert result.exit_code == 0
    assert "the database computes, and so does not get: twice\n" in result.stderr
    assert database.query("SELECT * FROM t") == [(1, 2)]


def test_an_identity_that_is_always_generated_is_left_out_unless_it_is_the_key(
    postgresql_database: CliDatabase, file: Write
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer GENERATED ALWAYS AS IDENTITY, name text UNIQUE NOT NULL,"
        " UNIQUE (id))"
    )
    path = file("id,name\n7,a\n")
    result = postgresql_database.load(path, "--key", "name")
    assert result.exit_code == 0
    assert "the database computes, and so does not get: id\n" in result.stderr
    assert postgresql_database.query("SELECT * FROM t") == [(1, "a")]
    postgresql_database.query("UPDATE t SET name = 'b'")
    assert postgresql_database.load(file("id,name\n1,c\n"), *KEY).exit_code == 0
    assert postgresql_database.query("SELECT * FROM t") == [(1, "c")]


def test_a_sqlite_file_that_is_not_there_is_not_made(
    tmp_path: Path, file: Write
) -> None:
    path = tmp_path / "typo.db"
    said = message(run("load", f"sqlite:///{path}", "t", file("id\n1\n"), *KEY))
    assert f"there is no file {path}; load --create-table creates it" in said
    assert not path.exists()


def test_a_sqlite_file_in_no_folder(tmp_path: Path, file: Write) -> None:
    url = f"sqlite:///{tmp_path}/no/test.db"
    said = message(run("load", url, "t", file("id\n1\n"), *KEY, "--create-table"))
    assert "unable to open database file" in said


def test_a_file_that_is_no_database(file: Write) -> None:
    path = file("id\n1\n" * 200)
    said = message(run("load", f"sqlite:///{path}", "t", path, *KEY))
    assert f"{path}: file is not a database" in said


def test_a_sqlite_database_that_someone_else_writes(
    sqlite_database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "_BUSY_TIMEOUT", 0.05)
    sqlite_database.query("CREATE TABLE t (id text PRIMARY KEY)")
    path = sqlite_database.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        said = message(sqlite_database.load(file("id\n1\n"), *KEY))
    assert "database is locked" in said


def test_a_url_says_how_long_to_wait_for_another_writer(
    sqlite_database: CliDatabase, file: Write
) -> None:
    sqlite_database.query("CREATE TABLE t (id text PRIMARY KEY)")
    path = sqlite_database.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        url = f"{sqlite_database.url}?timeout=0.05"
        started = time.monotonic()
        said = message(run("load", url, "t", file("id\n1\n"), *KEY))
        assert time.monotonic() - started < 3
    assert "database is locked" in said


def test_a_question_mark_in_the_name_of_a_file(tmp_path: Path, file: Write) -> None:
    url = f"sqlite:///{tmp_path}/a%3Fb.db"
    assert run("load", url, "t", file("id\n1\n"), *KEY, "--create-table").exit_code == 0
    assert (tmp_path / "a?b.db").exists()


# --- What a message shows -------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", ["\x1b[31mred", "a\rb", "a\x08b", "a\x9bb", "\u202eab"]
)
def test_control_characters_are_escaped(
    database: CliDatabase, file: Write, cell: str
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, n integer CHECK (n > 0))")
    path = file(f'id,"{cell}"\n1,2\n')
    result = database.load(path, *KEY)
    assert result.exit_code == 1
    escaped = cell.encode("unicode_escape").decode()
    assert escaped in result.stderr.replace("\\\\", "\\")
    assert cell not in result.stderr
    for options in (("--ignore-unknown",), ("--on-error", "skip")):
        assert cell not in database.load(path, *KEY, *options).output


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:secret@h/x",
        "postgresql://u:s:secret/s@secret@h/x",
        "postgresql:/u:secret@h/x",
        "postgresql://h/x?user=u&password=secret",
        "host=h password=secret",
    ],
)
def test_a_password_is_never_shown(
    file: Write, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("AIOUPSERT_DB", "postgresql://127.0.0.1:1/x")
    path = file("id\n1\n")
    for words in ((text, "t", path), ("t", text), ("t", path, "--db", text), (text,)):
        result = run("load", *words, *KEY)
        assert result.exit_code in {1, 2}
        assert "secret" not in result.output


def test_a_schema_that_is_not_there(
    postgresql_database: CliDatabase, file: Write
) -> None:
    result = run(
        "load", postgresql_database.url, "no.t", file("id\n1\n"), *KEY, "--create-table"
    )
    assert 'database error: schema "no" does not exist' in message(result)


@contextmanager
def rude_server() -> Iterator[str]:
    """Takes a connection, hangs up, and is gone."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    server.accept()[0].close()
                except OSError:
                    return

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield f"postgresql://u@127.0.0.1:{server.getsockname()[1]}/d"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_server_that_hangs_up(file: Write) -> None:
    with rude_server() as url:
        said = message(run("load", url, "t", file("id\n1\n"), *KEY))
    assert "cannot connect: " in said


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://127.0.0.1:1/x", "cannot connect: "),
        ("postgresql://u:sec/ret@host/x", "cannot read the URL"),
        ("postgresql://host/x?sslmode=sec", "cannot connect: "),
    ],
)
def test_a_database_that_nobody_can_connect_to(
    file: Write, url: str, expected: str
) -> None:
    said = message(run("load", url, "t", file("id\n1\n"), *KEY))
    assert expected in said
    assert "'sec'" not in said.replace("got 'sec'", "")


def test_a_database_that_does_not_exist(
    postgresql_database: CliDatabase, file: Write
) -> None:
    url = postgresql_database.url.replace("?", "?dbname=no&", 1)
    server, _, rest = url.partition("://")
    host, _, _ = rest.partition("?")
    address, _, _ = host.rpartition("/")
    result = run("load", f"{server}://{address}/no_such", "t", file("id\n1\n"), *KEY)
    assert "cannot connect: " in message(result)


def test_a_connection_lost_on_the_way(
    postgresql_database: CliDatabase, file: Write
) -> None:
    postgresql_database.query("CREATE TABLE t (id text PRIMARY KEY)")
    postgresql_database.query(
        "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN new; END $$"
    )
    postgresql_database.query(
        "CREATE TRIGGER leave AFTER INSERT ON t FOR EACH ROW WHEN (new.id = '2')"
        " EXECUTE FUNCTION leave()"
    )
    said = message(postgresql_database.load(file("id\n1\n2\n3\n"), *KEY))
    assert "database error: connection was closed" in said
    assert said.endswith("Nothing was stored.\n")
    assert postgresql_database.query("SELECT * FROM t") == []


@pytest.mark.parametrize(("times", "code"), [(1, 0), (2, 0), (3, 1)])
def test_the_victim_of_a_deadlock_is_loaded_again(
    postgresql_database: CliDatabase, file: Write, *, times: int, code: int
) -> None:
    for sql in (
        "CREATE TABLE t (id integer PRIMARY KEY, name text)",
        "CREATE SEQUENCE tries",
        (
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN IF nextval('tries') <= {times} THEN RAISE 'deadlock detected'"
            " USING ERRCODE = '40P01'; END IF; RETURN new; END $$"
        ),
        (
            "CREATE TRIGGER lose BEFORE INSERT ON t FOR EACH ROW WHEN (new.id = 2)"
            " EXECUTE FUNCTION lose()"
        ),
    ):
        postgresql_database.query(sql)
    path = file("id;name\n1;a\n2;b\n3;c\n")
    result = postgresql_database.load(path, *KEY)
    assert result.exit_code == code
    assert result.stderr.count("the delimiter is") == (code == 0)
    if code:
        assert "database error: deadlock detected" in result.stderr
        assert result.stderr.endswith("Nothing was stored.\n")
    assert len(postgresql_database.query("SELECT * FROM t")) == (0 if code else 3)


@pytest.mark.parametrize("output", [None, "bad.csv", "/dev/null"])
def test_what_the_victim_of_a_deadlock_has_rejected_is_rejected_once(
    postgresql_database: CliDatabase, file: Write, tmp_path: Path, output: str | None
) -> None:
    for sql in (
        "CREATE TABLE t (id integer PRIMARY KEY, n integer CHECK (n > 0))",
        "CREATE SEQUENCE tries",
        (
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN IF nextval('tries') = 1 THEN RAISE 'deadlock detected'"
            " USING ERRCODE = '40P01'; END IF; RETURN new; END $$"
        ),
        (
            "CREATE TRIGGER lose BEFORE INSERT ON t FOR EACH ROW WHEN (new.id = 9)"
            " EXECUTE FUNCTION lose()"
        ),
    ):
        postgresql_database.query(sql)
    path = file("id,n\n1,0\n2\n3,1\n4,\n9,1\n")
    options = [*KEY, "--on-error", "skip", "--batch-size", "2"]
    if output is not None:
        options += ["--rejects", str(tmp_path / output)]
    result = postgresql_database.load(path, *options, "--json")
    if output == "/dev/null":
        # What is written there cannot be taken back.
        assert result.exit_code == 1
        assert "deadlock detected" in result.stderr
        return
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert told["rejected"] == 2
    assert told["files"] == [{"file": str(path), "rows": 5, "rejected": 2}]
    if output is None:
        assert result.stderr.count("line 2") == result.stderr.count("line 3") == 1
    else:
        assert (tmp_path / output).read_text() == "id,n\n1,0\n2\n"
        assert len([*tmp_path.glob("*bad.csv*")]) == 2
    assert postgresql_database.query("SELECT id FROM t") == [(3,), (4,), (9,)]


def test_what_comes_by_a_pipe_cannot_be_loaded_again(
    postgresql_database: CliDatabase,
) -> None:
    postgresql_database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    postgresql_database.query(
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'deadlock detected' USING ERRCODE = '40P01'; END $$"
    )
    postgresql_database.query(
        "CREATE TRIGGER lose BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION lose()"
    )
    said = message(postgresql_database.load("-", *KEY, stdin="id\n1\n"))
    assert "database error: deadlock detected" in said


def test_an_error_of_the_commit_says_that_nothing_was_stored(
    sqlite_database: CliDatabase, file: Write
) -> None:
    sqlite_database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    path = sqlite_database.url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        # A reader of a rollback journal keeps the writer from committing.
        other.execute("BEGIN").execute("SELECT * FROM t").fetchall()
        result = run(
            "load", f"{sqlite_database.url}?timeout=0.05", "t", file("id\n1\n"), *KEY
        )
    assert message(result).endswith("database is locked\nNothing was stored.\n")


@pytest.mark.parametrize(
    ("driver", "url"),
    [("aiosqlite", "sqlite:///x.db"), ("asyncpg", "postgresql://host/x")],
)
def test_a_missing_driver_is_named(
    file: Write, monkeypatch: pytest.MonkeyPatch, driver: str, url: str
) -> None:
    for module in {driver, "psycopg"}:
        monkeypatch.setitem(sys.modules, module, None)
    said = message(run("load", url, "t", file("id\n1\n"), *KEY))
    assert f"this database needs {driver}: pip install 'aioupsert[{driver}]'" in said
