"""What the options of a load do."""

import itertools
import json
from pathlib import Path

import pytest

from tests.cli.databases import CliDatabase, Write, counts, expected_counts, run

NEW = ("--key", "id", "--create-table")
KEY = ("--key", "id")


def pairs(summary: str) -> list[tuple[str, str]]:
    words = summary.split()
    return [*itertools.pairwise(words)]


# --- Where from and where to ----------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "option", "environment", "both"])
def test_the_database_is_an_argument_an_option_or_in_the_environment(
    sqlite_database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    path, before, options = file("id\n1\n"), [], []
    if how in {"argument", "both"}:
        before = [sqlite_database.url]
    if how == "option":
        options = ["--db", sqlite_database.url]
    if how in {"environment", "both"}:
        url = "sqlite:////nowhere/x.db" if how == "both" else sqlite_database.url
        monkeypatch.setenv("AIOUPSERT_DB", url)
    result = run("load", *before, "t", path, *NEW, *options)
    assert counts(result) == expected_counts(created=1)


def test_no_file_is_standard_input(sqlite_database: CliDatabase) -> None:
    result = run("load", sqlite_database.url, "t", *NEW, stdin="id\n1\n2\n")
    assert counts(result) == expected_counts(created=2)


def test_several_files_are_loaded_as_one(database: CliDatabase, file: Write) -> None:
    first, second = file("id,n\n1,a\n2,b\n", "1.csv"), file('{"id": 1}\n', "2.jsonl")
    third = file("id,n\n1,c\n3,d\n", "3.csv")
    result = run("load", database.url, "t", first, second, third, *NEW)
    assert counts(result) == expected_counts(created=3, updated=1, unchanged=1)
    assert database.query("SELECT * FROM t ORDER BY id") == [
        (1, "c"),
        (2, "b"),
        (3, "d"),
    ]


def test_a_bad_row_of_the_second_file_stores_nothing(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, n integer CHECK (n > 0))")
    first, second = file("id,n\n1,1\n", "1.csv"), file("id,n\n2,1\n3,0\n", "2.csv")
    result = run("load", database.url, "t", first, second, *KEY)
    assert result.exit_code == 1
    assert f"{second}, line 3" in result.stderr
    assert database.query("SELECT * FROM t") == []


def test_the_format_of_standard_input(sqlite_database: CliDatabase) -> None:
    stdin = '[{"id": 1},\n{"id": 2}]'
    result = sqlite_database.load("-", *NEW, "--format", "json", stdin=stdin)
    assert counts(result) == expected_counts(created=2)


# --- All or some ----------------------------------------------------------------------


def checked(database: CliDatabase) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, n integer CHECK (n > 0))")


FIVE = "id,n\n1,1\n2,1\n3,0\n4,1\n5,1\n"


def test_batches_before_a_bad_row_stay_without_atomic(
    database: CliDatabase, file: Write
) -> None:
    checked(database)
    result = database.load(file(FIVE), *KEY, "--no-atomic", "--batch-size", "2")
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "The batches before that are stored: 2 rows created, 0 updated, 0 unchanged.\n"
    )
    assert database.query("SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def test_a_bad_line_without_atomic_says_what_is_known(
    database: CliDatabase, file: Write
) -> None:
    checked(database)
    result = database.load(file("id,n\n1\n"), *KEY, "--no-atomic")
    assert result.exit_code == 1
    assert result.stderr.endswith("Any complete batches before that are stored.\n")


def test_rejected_rows_without_a_file_are_shown(
    database: CliDatabase, file: Write
) -> None:
    checked(database)
    path = file("id,n\n" + "".join(f"{n},0\n" for n in range(12)) + "13,1\n")
    result = database.load(path, *KEY, "--on-error", "skip")
    assert result.exit_code == 3
    shown = result.stderr.splitlines()
    assert sum("rows.csv, line " in line for line in shown) == 10
    assert shown[-1] == "... and 2 more; see --rejects"


def test_without_bad_rows_the_file_of_rejects_is_empty(
    sqlite_database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    rejects = tmp_path / "bad.jsonl"
    rejects.write_text("from before", "utf-8")
    options = ("--on-error", "skip", "--rejects", str(rejects))
    assert counts(
        sqlite_database.load(file("id\n1\n"), *NEW, *options)
    ) == expected_counts(created=1)
    assert rejects.read_text("utf-8") == ""


def test_a_file_of_rejects_that_cannot_be_written(
    sqlite_database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    options = ("--on-error", "skip", "--rejects", str(tmp_path))
    result = sqlite_database.load(file("id\n1\n"), *NEW, *options)
    assert result.exit_code == 1
    assert f"cannot write {tmp_path}: " in result.stderr
    assert not Path(sqlite_database.url.removeprefix("sqlite:///")).exists()


def test_unknown_columns_are_rejected_row_by_row(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    path = file('{"id": 1, "n": 2}\n{"id": 2}\n', "t.jsonl")
    result = database.load(path, *KEY, "--on-error", "skip")
    assert result.exit_code == 3
    assert "line 1: table t has no column 'n'" in result.stderr
    assert database.query("SELECT * FROM t") == [(2,)]


def test_several_connections(postgresql_database: CliDatabase, file: Write) -> None:
    rows = "".join(f"{n % 700},{n}\n" for n in range(2_000))
    options = ("--connections", "3", "--batch-size", "100")
    result = postgresql_database.load(file(f"id,n\n{rows}"), *NEW, *options)
    assert counts(result) == expected_counts(created=700, updated=1_300)
    assert postgresql_database.query("SELECT count(*), min(n), max(n) FROM t") == [
        (700, 1_300, 1_999)
    ]


def test_several_connections_and_a_bad_row(
    postgresql_database: CliDatabase, file: Write
) -> None:
    checked(postgresql_database)
    result = postgresql_database.load(
        file(FIVE), *KEY, "--connections", "2", "--batch-size", "1"
    )
    assert result.exit_code == 1
    assert "rows.csv, line 4: " in result.stderr


# --- Trying ---------------------------------------------------------------------------


def test_a_dry_run_counts_and_stores_nothing(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, n text)")
    database.query("INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    path = file("id,n\n1,a\n2,x\n3,y\n")
    options = (*KEY, "--skip-unchanged", "--dry-run")
    result = database.load(path, *options)
    *table, last = result.stdout.splitlines(keepends=True)
    assert last == "dry run: nothing was stored\n"
    assert [line.split()[1] for line in table[:3]] == ["1", "1", "1"]
    assert database.query("SELECT * FROM t ORDER BY id") == [(1, "a"), (2, "b")]
    told = json.loads(database.load(path, *options, "--json").stdout)
    assert told["dry_run"] is True
    assert counts(database.load(path, *options[:-1])) == expected_counts(1, 1, 1)


def test_a_dry_run_makes_no_table_and_no_file(
    database: CliDatabase, file: Write
) -> None:
    result = database.load(file("id\n1\n"), *NEW, "--dry-run", "--no-atomic")
    assert result.exit_code == 0
    assert ("created", "1") in pairs(result.stdout)
    if database.is_sqlite:
        assert not Path(database.url.removeprefix("sqlite:///")).exists()
    else:
        assert database.query("SELECT * FROM pg_tables WHERE tablename = 't'") == []


def test_a_dry_run_finds_every_bad_row(database: CliDatabase, file: Write) -> None:
    checked(database)
    result = database.load(file(FIVE), *KEY, "--dry-run", "--on-error", "skip")
    assert result.exit_code == 3
    assert "rows.csv, line 4: " in result.stderr
    assert database.query("SELECT * FROM t") == []


# --- What is told ---------------------------------------------------------------------


def test_the_summary_as_json(database: CliDatabase, file: Write) -> None:
    checked(database)
    database.query("INSERT INTO t VALUES (1, 1), (2, 2)")
    options = ("--skip-unchanged", "--on-error", "skip", "--json")
    path = file("id,n\n1,1\n2,3\n3,0\n4,4\n")
    result = database.load(path, *KEY, *options)
    told = json.loads(result.stdout)
    assert told.pop("seconds") > 0
    assert told.pop("rows_per_second") > 0
    assert told == {
        "created": 1,
        "updated": 1,
        "unchanged": 1,
        "skipped": 0,
        "rejected": 1,
        "repeated_keys": 0,
        "files": [{"file": str(path), "rows": 4, "rejected": 1}],
        "dry_run": False,
    }


def test_the_summary_of_several_files(
    database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked(database)
    first = file("id,n\n1,1\n2,0\n1,2\n", "first\x1b.csv").name
    monkeypatch.chdir(file("id,n\n2,1\n1,3\n", "second.csv").parent)
    second = "second.csv"
    options = (*KEY, "--on-error", "skip")
    result = run("load", database.url, "t", first, second, *options)
    lines = result.stdout.splitlines()
    assert [line.split() for line in lines[4:6]] == [
        ["rows", "5"],
        ["repeated", "keys", "3"],
    ]
    assert lines[-2:] == [
        r"first\x1b.csv: 3 rows, 1 rejected",
        "second.csv: 2 rows",
    ]


def test_repeated_keys_are_not_counted_among_too_many_rows(
    sqlite_database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioupsert.cli.repeated._MAX_ROWS", 2)
    options = ("--key", "a,b", "--create-table", "--json")
    twice = file("a,b\n1,1\n1,1\n")
    for more, expected in [((), 1), ((str(twice), str(twice)), None)]:
        result = sqlite_database.load(twice, *more, *options)
        assert json.loads(result.stdout)["repeated_keys"] == expected


def test_repeated_keys_of_many_rows_are_counted_in_parts(
    sqlite_database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioupsert.cli.repeated._COMPARED", 7)
    rows = "a\n" + "".join(f"{n % 20}\n" for n in range(50))
    result = sqlite_database.load(file(rows), "--key", "a", "--create-table", "--json")
    assert json.loads(result.stdout)["repeated_keys"] == 30


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--rejects", "x"), "--rejects needs --on-error skip or --max-errors"),
        (
            ("--connections", "2"),
            "--connections needs PostgreSQL: SQLite has one writer at a time",
        ),
        (("--connections", "0"), "should be greater than or equal to 1"),
        (("--batch-size", "0"), "should be greater than or equal to 1"),
        (("--max-errors", "x"), "'x' is neither a number of rows, such as 100, nor a"),
        (("--max-errors", "101%"), "'101%' is neither a number of rows"),
        (("--format", "xls"), "'xls' is not one of"),
        (("--on-error", "stop"), "'stop' is not one of"),
    ],
)
def test_options_that_make_no_sense(
    sqlite_database: CliDatabase, file: Write, options: tuple[str, ...], expected: str
) -> None:
    result = sqlite_database.load(file("id\n1\n"), *KEY, *options)
    assert result.exit_code == 2
    assert expected in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("option", ["--atomic", "--dry-run"])
def test_one_transaction_has_one_connection(option: str) -> None:
    url = "postgresql://u:secret@127.0.0.1:1/x"
    result = run("load", url, "t", *KEY, "--connections", "2", option)
    assert result.exit_code == 2
    assert "cannot be combined with --atomic or --dry-run" in result.stderr
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("load", "t", *KEY), "no database given: put its URL before the table"),
        (
            ("load", "sqlite:///x.db", *KEY),
            "no table given: put its name after the database",
        ),
        (("inspect", "sqlite:///x.db", "t", "u"), "unexpected argument 'u'"),
        (
            ("load", "sqlite:///x.db", "t", "-", "x.csv", "-", *KEY),
            "standard input, -, can be read once",
        ),
        (
            ("sync", "sqlite:///x.db", "t", "-", "-", *KEY, "--whole-table"),
            "standard input, -, can be read once",
        ),
    ],
)
def test_arguments_that_are_missing_or_too_many(
    arguments: tuple[str, ...], expected: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert expected in " ".join(result.stderr.replace("│", " ").split())


def test_a_password_in_the_environment_is_never_shown(
    monkeypatch: pytest.MonkeyPatch, file: Write
) -> None:
    for url in ("postgresql://u:secret@127.0.0.1:1/x", "mysql://u:secret@h/x"):
        monkeypatch.setenv("AIOUPSERT_DB", url)
        for words in (("t", str(file("id\n1\n")), *KEY), ("--help",), ("t",)):
            assert "secret" not in run("load", *words).output


def test_a_row_that_is_too_long_for_its_column(
    postgresql_database: CliDatabase, file: Write
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, a varchar(9), b varchar(2))"
    )
    result = postgresql_database.load(file("id,a,b\n1,abcdef,abc\n"), *KEY)
    assert "line 2, column 'b': value too long for type" in result.stderr


@pytest.mark.parametrize("options", [(), ("--no-atomic",), ("--connections", "2")])
def test_the_column_of_a_bad_cell_is_found_whatever_is_open(
    postgresql_database: CliDatabase, file: Write, options: tuple[str, ...]
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, a integer, b date)"
    )
    result = postgresql_database.load(file("id,a,b\n1,2,2026-02-30\n"), *KEY, *options)
    assert "line 2, column 'b': date/time field value out of range" in result.stderr


def test_division_by_zero_names_no_column(
    postgresql_database: CliDatabase, file: Write
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, a integer CHECK (1/a > 0))"
    )
    result = postgresql_database.load(file("id,a\n1,0\n"), *KEY)
    assert "rows.csv, line 2: division by zero" in result.stderr
