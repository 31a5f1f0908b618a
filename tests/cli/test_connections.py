"""Connections to PostgreSQL: by either driver, as the URL and the environment say."""

import json
import socket
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.cli.databases import CliDatabase, Write, counts, expected_counts, run
from tests.support.servers import Server

KEY = ("--key", "id")
NEW = (*KEY, "--create-table")
# Only libpq, and so psycopg, knows it.
LIBPQ = "&keepalives=1"


@pytest.fixture(params=["asyncpg", "psycopg"])
def either(
    request: pytest.FixtureRequest, postgresql_database: CliDatabase
) -> CliDatabase:
    """The database over each driver in turn."""
    if request.param == "psycopg":
        postgresql_database.url += LIBPQ
    return postgresql_database


# --- Either driver --------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--no-atomic",), ("--connections", "2")])
def test_either_driver_stores_rows_and_names_the_bad_ones(
    either: CliDatabase, file: Write, tmp_path: Path, options: tuple[str, ...]
) -> None:
    either.query("CREATE TABLE t (id integer PRIMARY KEY, a text NOT NULL, b date)")
    path = file("id,a,b\n1,x,2026-01-02\n2,x,2026-02-30\n3,,\n4,x,\n")
    rejects = tmp_path / "bad.csv"
    skip = ("--on-error", "skip", "--rejects", str(rejects))
    result = either.load(path, *KEY, *skip, *options)
    assert result.exit_code == 3, result.output
    assert either.query("SELECT id FROM t ORDER BY 1") == [(1,), (4,)]
    reasons = rejects.with_name("bad.csv.reasons.jsonl").read_text().splitlines()
    assert [
        (r["line"], r["column"], r["reason"]) for r in map(json.loads, reasons)
    ] == [
        (3, "b", 'date/time field value out of range: "2026-02-30"'),
        (
            4,
            "a",
            (
                'null value in column "a" of relation "t" violates not-null constraint\n'
                "DETAIL:  Failing row contains (3, null, null)."
            ),
        ),
    ]


def test_either_driver_creates_a_table_and_shows_it(
    either: CliDatabase, file: Write
) -> None:
    path = file(
        '{"id": 1, "n": 1.50, "x": {"a": [1, null]}, "d": "2026-01-02"}\n', "1.jsonl"
    )
    assert counts(either.load(path, *NEW)) == expected_counts(created=1)
    assert either.query("SELECT id, n::text, x::text, d::text FROM t") == [
        (1, "1.50", '{"a": [1, null]}', "2026-01-02")
    ]
    shown = run("inspect", either.url, "t", *KEY)
    assert "unique index t_pkey: id" in shown.stdout
    shown = run("preview", either.url, "t", "--key", "id=2", "--set", "n=7.10")
    assert "argument 2: Decimal('7.10')" in shown.stdout


def test_an_error_of_the_commit_says_that_nothing_was_stored(
    either: CliDatabase, file: Write
) -> None:
    either.query(
        "CREATE TABLE t (id text PRIMARY KEY, p text UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    )
    result = either.load(file("id,p\n1,7\n2,7\n"), *KEY)
    assert result.exit_code == 1
    assert "database error: duplicate key value" in result.stderr
    assert result.stderr.endswith("Nothing was stored.\n")


def test_a_connection_lost_at_the_commit_leaves_the_outcome_unknown(
    either: CliDatabase, file: Write
) -> None:
    for sql in (
        "CREATE TABLE t (id text PRIMARY KEY)",
        (
            "CREATE FUNCTION leave() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM"
            " pg_terminate_backend(pg_backend_pid()); RETURN new; END $$"
        ),
        (
            "CREATE CONSTRAINT TRIGGER leave AFTER INSERT ON t DEFERRABLE INITIALLY"
            " DEFERRED FOR EACH ROW EXECUTE FUNCTION leave()"
        ),
    ):
        either.query(sql)
    result = either.load(file("id\n1\n"), *KEY)
    assert result.exit_code == 1
    assert "it is unknown whether the rows are stored: all are" in result.stderr
    assert "Nothing was stored" not in result.stderr


@pytest.mark.parametrize("without", ["asyncpg", "psycopg"])
def test_one_driver_is_enough(
    postgresql_database: CliDatabase,
    file: Write,
    monkeypatch: pytest.MonkeyPatch,
    without: str,
) -> None:
    monkeypatch.setitem(sys.modules, without, None)
    result = postgresql_database.load(file("id\n1\n"), *NEW)
    assert counts(result) == expected_counts(created=1)


def test_a_server_that_does_not_say_goodbye_to_a_pool(
    either: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioupsert.cli.databases.postgresql._CLOSE_TIMEOUT", 0)
    result = either.load(file("id\n1\n"), *NEW, "--connections", "2")
    assert counts(result) == expected_counts(created=1)


# --- The URL and the environment ------------------------------------------------------


@pytest.fixture(params=["", LIBPQ], ids=["asyncpg", "psycopg"])
def more(request: pytest.FixtureRequest) -> str:
    """What a URL ends with so that the driver is either."""
    parameter: str = request.param
    return parameter


@pytest.mark.parametrize(
    ("parameters", "variables", "expected"),
    [
        ("", {}, "/UTC/on"),
        ("&application_name=a%20b&timezone=Asia/Tokyo", {}, "a b/Asia/Tokyo/on"),
        ("&fallback_application_name=c%5Cd", {}, "c\\d/UTC/on"),
        ("&fallback_application_name=x&application_name=y", {}, "y/UTC/on"),
        ("", {"PGAPPNAME": "e", "PGTZ": "Asia/Tokyo"}, "e/Asia/Tokyo/on"),
        ("&application_name=f", {"PGAPPNAME": "g"}, "f/UTC/on"),
        ("", {"PGGEQO": "off", "PGCONNECT_TIMEOUT": "9"}, "/UTC/off"),
        ("&geqo=off&connect_timeout=0", {"PGCLIENTENCODING": "latin1"}, "/UTC/off"),
        ("&client_encoding=latin1&connect_timeout=9", {}, "/UTC/on"),
    ],
)
def test_settings_reach_the_server(  # noqa: PLR0917  # pytest passes them by name
    postgresql_database: CliDatabase,
    monkeypatch: pytest.MonkeyPatch,
    more: str,
    parameters: str,
    variables: dict[str, str],
    expected: str,
) -> None:
    monkeypatch.setenv("PGTZ", "UTC")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    postgresql_database.query(
        "CREATE TABLE t (id text PRIMARY KEY, s text DEFAULT"
        " concat_ws('/', current_setting('application_name'),"
        " current_setting('timezone'), current_setting('geqo')))"
    )
    # No encoding but UTF-8 would carry this.
    url = f"{postgresql_database.url}{parameters}{more}"
    result = run("load", url, "t", *KEY, stdin="id\n\N{SNOWMAN}\n")
    assert result.exit_code == 0, result.output
    assert postgresql_database.query("SELECT * FROM t") == [("\N{SNOWMAN}", expected)]


def test_a_setting_that_the_server_does_not_have(
    postgresql_database: CliDatabase, more: str
) -> None:
    url = f"{postgresql_database.url}&nosuch=1{more}"
    result = run("load", url, "t", *KEY, stdin="id\n1\n")
    assert result.exit_code == 1
    said = 'cannot connect: unrecognized configuration parameter "nosuch"'
    assert said in result.stderr


def test_options_of_the_environment(
    postgresql_database: CliDatabase,
    pg_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    more: str,
) -> None:
    postgresql_database.query("CREATE TABLE t (id text PRIMARY KEY, s text)")
    (schema,) = postgresql_database.query("SELECT current_schema()")[0]
    monkeypatch.setenv("PGOPTIONS", f"-c search_path={schema}")
    url = f"{pg_server.dsn}{'&' if '?' in pg_server.dsn else '?'}geqo=off{more}"
    result = run("load", url, "t", *KEY, stdin="id\n1\n")
    assert counts(result) == expected_counts(created=1)


@pytest.mark.parametrize("how", ["parameter", "variable"])
def test_a_service(  # noqa: PLR0917  # pytest passes them by name
    postgresql_database: CliDatabase,
    pg_server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: str,
    how: str,
) -> None:
    postgresql_database.query("CREATE TABLE t (id text PRIMARY KEY)")
    parts = urlsplit(pg_server.dsn)
    options = postgresql_database.url.partition("options=")[2].replace("%3D", "=")
    (tmp_path / "pg_service.conf").write_text(
        f"# ours\n[mine]\nhost={parts.hostname}\nport={parts.port}\n"
        f"user={parts.username}\npassword={parts.password or ''}\n"
        f"dbname=nosuch\noptions={options}\n"
    )
    (tmp_path / "empty").touch()
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "empty"))
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    # What the URL says comes before the service.
    url = f"postgresql:///{parts.path.removeprefix('/')}"
    if how == "variable":
        monkeypatch.setenv("PGSERVICE", "mine")
        url += f"?{more.removeprefix('&')}" if more else ""
    else:
        url += f"?service=mine{more}"
    result = run("load", url, "t", *KEY, stdin="id\n1\n")
    assert counts(result) == expected_counts(created=1)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("[other]\n", "no service 'mine' is defined in "),
        ("host=x\n", "cannot read the services of "),
    ],
)
def test_a_service_that_cannot_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, expected: str
) -> None:
    path = tmp_path / "services"
    path.write_text(content)
    monkeypatch.setenv("PGSERVICEFILE", str(path))
    result = run("load", "postgresql:///?service=mine", "t", *KEY, stdin="id\n1\n")
    assert result.exit_code == 1
    assert f"{expected}{path}" in result.stderr


@pytest.mark.parametrize(
    ("parameter", "variable"),
    [("channel_binding=require", None), ("", "PGREQUIREPEER")],
)
def test_what_asyncpg_would_ignore_is_refused_without_psycopg(
    monkeypatch: pytest.MonkeyPatch, parameter: str, variable: str | None
) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    if variable is not None:
        monkeypatch.setenv(variable, "postgres")
    url = f"postgresql://u:secret@127.0.0.1:1/x?{parameter}"
    result = run("load", url, "t", *KEY, stdin="id\n1\n")
    assert result.exit_code == 1
    name = variable or "channel_binding"
    assert f"{name} needs psycopg: pip install 'aioupsert[psycopg]'" in result.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:secret/x@127.0.0.1/db?sslmode=disable", "cannot read the URL"),
        ("postgresql://u:p@secret@127.0.0.1/db?sslmode=disable", "cannot "),
        ("postgresql://u:secret@127.0.0.1:1/db?connect_timeout=x", "cannot "),
        ("postgresql://u:secret@127.0.0.1:1/db?sslmode=x", "cannot "),
        ("postgresql://u:secret@127.0.0.1:1/db?sslmode=disable", "cannot connect: "),
        ("postgresql://u:sec%ret@127.0.0.1:1/db?sslmode=disable", "cannot "),
    ],
)
def test_a_password_is_never_shown_whatever_is_wrong(
    url: str, expected: str, more: str
) -> None:
    result = run("load", f"{url}{more}", "t", *KEY, stdin="id\n1\n")
    assert (result.exit_code, result.stdout) == (1, "")
    assert expected in result.stderr
    assert "sec" not in result.stderr


def test_a_server_that_does_not_answer_in_time(more: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        url = f"postgresql://u@127.0.0.1:{port}/x?sslmode=disable"
        timeout = "&connect_timeout=2" if more else "&connect_timeout=0.05"
        result = run("load", f"{url}{timeout}{more}", "t", *KEY, stdin="id\n1\n")
    assert result.exit_code == 1
    assert "cannot connect: " in result.stderr
