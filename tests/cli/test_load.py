import csv
from pathlib import Path

import pytest

from tests.cli.databases import (
    EXAMPLES,
    CliDatabase,
    Write,
    counts,
    expected_counts,
    run,
    sqlite_in,
)

NEW = ("--key", "id", "--create-table")


def test_two_releases_of_the_time_zones(database: CliDatabase) -> None:
    old, new = EXAMPLES / "zones-2020a.csv", EXAMPLES / "zones-2026f.csv"
    first = database.load(old, "--key", "zone", "--create-table")
    assert counts(first) == expected_counts(created=348)
    second = database.load(new, "--key", "zone", "--skip-unchanged")
    assert counts(second) == expected_counts(created=4, updated=64, unchanged=244)
    again = database.load(new, "--key", "zone", "--skip-unchanged")
    assert counts(again) == expected_counts(unchanged=312)
    with new.open(encoding="utf-8", newline="") as lines:
        rows = [tuple(row) for row in csv.reader(lines)][1:]
    expected = {tuple(cell or None for cell in row) for row in rows}
    assert expected <= set(database.query("SELECT * FROM t"))


def test_without_skip_unchanged_every_row_is_written(
    database: CliDatabase, file: Write
) -> None:
    path = file("id,name\n1,a\n2,b\n")
    database.load(path, *NEW)
    assert counts(database.load(path, "--key", "id")) == expected_counts(updated=2)


def test_a_key_that_comes_twice_is_updated_in_the_order_of_the_file(
    database: CliDatabase, file: Write
) -> None:
    result = database.load(file("id,name\n1,a\n1,b\n1,b\n"), *NEW, "--skip-unchanged")
    assert counts(result) == expected_counts(created=1, updated=1, unchanged=1)
    assert database.query("SELECT * FROM t") == [(1, "b")]


def test_rows_that_are_all_key_are_left_when_they_are_there(
    database: CliDatabase, file: Write
) -> None:
    assert counts(database.load(file("id\n1\n1\n"), *NEW)) == expected_counts(
        1, unchanged=1
    )


def test_a_header_alone_loads_nothing(database: CliDatabase, file: Write) -> None:
    assert counts(database.load(file("id,name\n"), *NEW)) == expected_counts()
    assert database.query("SELECT * FROM t") == []


@pytest.mark.parametrize(
    "key",
    [('a "b"', "Select"), ('a "b",Select',), ('a "b"', "Select", 'a "b"')],
    ids=["repeated", "commas", "twice"],
)
def test_composite_keys_and_odd_names(
    database: CliDatabase, file: Write, key: tuple[str, ...]
) -> None:
    path = file('"a ""b""",Select,é\n1,2,x\n1,3,y\n1,2,z\n')
    options = [word for name in key for word in ("--key", name)]
    result = database.load(path, *options, "--create-table", "--skip-unchanged")
    assert counts(result) == expected_counts(created=2, updated=1)
    assert sorted(database.query("SELECT * FROM t")) == [(1, 2, "z"), (1, 3, "y")]


def test_a_column_whose_name_has_a_comma_can_be_the_key(
    database: CliDatabase, file: Write
) -> None:
    result = database.load(file('"a,b",c\n1,2\n'), "--key", "a,b", "--create-table")
    assert counts(result) == expected_counts(created=1)
    assert database.query('SELECT "a,b" FROM t') == [(1,)]


@pytest.mark.parametrize(
    ("null", "stored"),
    [
        ((), [(1, None), (2, "NULL")]),
        (("--null", "NULL"), [(1, ""), (2, None)]),
        (("--null", ""), [(1, None), (2, "NULL")]),
    ],
)
def test_an_empty_cell_is_null_unless_the_option_names_another(
    database: CliDatabase,
    file: Write,
    null: tuple[str, ...],
    stored: list[tuple[int, str | None]],
) -> None:
    database.load(file("id,name\n1,\n2,NULL\n"), *NEW, *null)
    assert sorted(database.query("SELECT * FROM t")) == stored


def test_a_key_that_is_null_finds_its_row(database: CliDatabase, file: Write) -> None:
    database.query("CREATE TABLE t (id integer, name text)")
    path = file("id,name\n,a\n,b\n")
    result = database.load(path, "--key", "id")
    assert counts(result) == expected_counts(created=1, updated=1)
    assert database.query("SELECT * FROM t") == [(None, "b")]


def test_standard_input(database: CliDatabase) -> None:
    result = database.load("-", *NEW, stdin='id,name\n1,"a\nb"\n')
    assert counts(result) == expected_counts(created=1)
    assert database.query("SELECT name FROM t") == [("a\nb",)]


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("id;name\n1;ü,b\n", ("--delimiter", ";")),
        ("id\tname\n1\tü,b\n", ("--delimiter", r"\t")),
        ('\ufeffid,name\r\n1,"ü,b"\r\n', ()),
        ('\ufeff"id",name\n1,"ü,b"', ("--encoding", "UTF8")),
        ('id,name\n1,"ü,b"\n'.encode("latin-1"), ("--encoding", "latin-1")),
        ('id,name\n1,"ü,b"\n'.encode("utf-16"), ("--encoding", "utf-16")),
    ],
)
@pytest.mark.parametrize("piped", [False, True])
def test_delimiters_encodings_and_line_ends(
    sqlite_database: CliDatabase,
    file: Write,
    content: str | bytes,
    options: tuple[str, ...],
    *,
    piped: bool,
) -> None:
    path = file(content)
    source, stdin = ("-", path.read_bytes()) if piped else (path, None)
    result = sqlite_database.load(source, *NEW, *options, stdin=stdin)
    assert counts(result) == expected_counts(created=1)
    assert sqlite_database.query("SELECT id, name FROM t") == [(1, "ü,b")]


def test_the_table_that_is_made_has_the_key_as_primary_key(
    database: CliDatabase, file: Write
) -> None:
    result = database.load(file("a,b,c\n1,2,x\n"), "--key", "c,a", "--create-table")
    integer, text = ("INTEGER", "TEXT") if database.is_sqlite else ("bigint", "text")
    assert result.stderr == (
        f"created table t: a {integer}, b {integer}, c {text}; primary key c, a\n"
    )
    assert database.query("SELECT a, b, c FROM t") == [(1, 2, "x")]
    twice = "INSERT INTO t VALUES (1, 3, 'x')"
    with pytest.raises(Exception, match=r"UNIQUE constraint|duplicate key"):
        database.query(twice)


def test_a_table_that_is_there_is_not_made_again(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, name text, extra text)")
    result = database.load(file("id,name\n1,a\n"), *NEW)
    assert (result.exit_code, result.stderr) == (0, "")
    assert database.query("SELECT * FROM t") == [(1, "a", None)]


def test_a_table_in_a_schema(postgresql_database: CliDatabase, file: Write) -> None:
    ((schema,),) = postgresql_database.query("SELECT current_schema()")
    whole_server, _, _ = postgresql_database.url.partition("options=")
    url = whole_server.rstrip("?&").replace("postgresql://", "postgres://", 1)
    result = run("load", url, f"{schema}.t", file("id\n1\n"), *NEW)
    assert counts(result) == expected_counts(created=1)
    assert postgresql_database.query("SELECT * FROM t") == [(1,)]


def test_a_file_beside_the_working_directory(
    tmp_path: Path, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("load", "sqlite:///test.db", "main.t", file("id\n1\n"), *NEW)
    assert counts(result) == expected_counts(created=1)
    assert sqlite_in(tmp_path).query("SELECT * FROM t") == [(1,)]


def test_a_key_without_a_unique_index_is_pointed_out(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer, name text)")
    result = database.load(file("id,name\n1,a\n1,b\n"), "--key", "id")
    assert counts(result) == expected_counts(created=1, updated=1)
    assert "t has no unique index on id" in result.stderr


def test_a_key_that_a_partial_index_makes_unique_is_pointed_out(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer, gone date)")
    database.query("CREATE UNIQUE INDEX i ON t (id) WHERE gone IS NULL")
    result = database.load(file("id,gone\n1,\n"), "--key", "id,gone")
    assert counts(result) == expected_counts(created=1)
    assert "t has a unique index on id, gone only where " in result.stderr


def test_quiet_prints_nothing(database: CliDatabase, file: Write) -> None:
    result = database.load(file("id\n1\n"), *NEW, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert database.query("SELECT * FROM t") == [(1,)]


def test_a_row_that_the_database_refuses_stores_nothing(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, n integer CHECK (n > 0))")
    result = database.load(file('id,n\n\n1,"1"\n2,0\n3,1\n'), "--key", "id")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "rows.csv, line 4: " in result.stderr
    assert "check constraint" in result.stderr.lower()
    assert result.stderr.endswith("Nothing was stored.\n")
    assert database.query("SELECT * FROM t") == []


def test_a_bad_row_undoes_the_table_too(database: CliDatabase, file: Write) -> None:
    result = database.load(file("id,n\n1,1\n2\n"), *NEW)
    assert result.exit_code == 1
    catalog = (
        "sqlite_master" if database.is_sqlite else "pg_tables WHERE tablename = 't'"
    )
    assert database.query(f"SELECT * FROM {catalog}") == []


def test_a_constraint_checked_by_the_commit_stores_nothing(
    postgresql_database: CliDatabase, file: Write
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id text PRIMARY KEY, p text UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    )
    result = postgresql_database.load(file("id,p\n1,7\n2,7\n"), "--key", "id")
    assert result.exit_code == 1
    assert "database error: duplicate key value" in result.stderr
    assert postgresql_database.query("SELECT * FROM t") == []
