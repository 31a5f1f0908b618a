import csv
from pathlib import Path

import pytest

from tests.cli.places import EXAMPLES, Place, Write, counts, fates, run, sqlite_place

NEW = ("--key", "id", "--create-table")


def test_two_releases_of_the_time_zones(place: Place) -> None:
    old, new = EXAMPLES / "zones-2020a.csv", EXAMPLES / "zones-2026f.csv"
    first = place.load(old, "--key", "zone", "--create-table")
    assert counts(first) == fates(created=348)
    second = place.load(new, "--key", "zone", "--skip-unchanged")
    assert counts(second) == fates(created=4, updated=64, unchanged=244)
    again = place.load(new, "--key", "zone", "--skip-unchanged")
    assert counts(again) == fates(unchanged=312)
    with new.open(encoding="utf-8", newline="") as lines:
        rows = [tuple(row) for row in csv.reader(lines)][1:]
    expected = {tuple(cell or None for cell in row) for row in rows}
    assert expected <= set(place.query("SELECT * FROM t"))


def test_without_skip_unchanged_every_row_is_written(place: Place, file: Write) -> None:
    path = file("id,name\n1,a\n2,b\n")
    place.load(path, *NEW)
    assert counts(place.load(path, "--key", "id")) == fates(updated=2)


def test_a_key_that_comes_twice_is_updated_in_the_order_of_the_file(
    place: Place, file: Write
) -> None:
    result = place.load(file("id,name\n1,a\n1,b\n1,b\n"), *NEW, "--skip-unchanged")
    assert counts(result) == fates(created=1, updated=1, unchanged=1)
    assert place.query("SELECT * FROM t") == [(1, "b")]


def test_rows_that_are_all_key_are_left_when_they_are_there(
    place: Place, file: Write
) -> None:
    assert counts(place.load(file("id\n1\n1\n"), *NEW)) == fates(1, unchanged=1)


def test_a_header_alone_loads_nothing(place: Place, file: Write) -> None:
    assert counts(place.load(file("id,name\n"), *NEW)) == fates()
    assert place.query("SELECT * FROM t") == []


@pytest.mark.parametrize(
    "key",
    [('a "b"', "Select"), ('a "b",Select',), ('a "b"', "Select", 'a "b"')],
    ids=["repeated", "commas", "twice"],
)
def test_composite_keys_and_odd_names(
    place: Place, file: Write, key: tuple[str, ...]
) -> None:
    path = file('"a ""b""",Select,é\n1,2,x\n1,3,y\n1,2,z\n')
    options = [word for name in key for word in ("--key", name)]
    result = place.load(path, *options, "--create-table", "--skip-unchanged")
    assert counts(result) == fates(created=2, updated=1)
    assert sorted(place.query("SELECT * FROM t")) == [(1, 2, "z"), (1, 3, "y")]


def test_a_column_whose_name_has_a_comma_can_be_the_key(
    place: Place, file: Write
) -> None:
    result = place.load(file('"a,b",c\n1,2\n'), "--key", "a,b", "--create-table")
    assert counts(result) == fates(created=1)
    assert place.query('SELECT "a,b" FROM t') == [(1,)]


@pytest.mark.parametrize(
    ("null", "stored"),
    [
        ((), [(1, None), (2, "NULL")]),
        (("--null", "NULL"), [(1, ""), (2, None)]),
        (("--null", ""), [(1, None), (2, "NULL")]),
    ],
)
def test_an_empty_cell_is_null_unless_the_option_names_another(
    place: Place,
    file: Write,
    null: tuple[str, ...],
    stored: list[tuple[int, str | None]],
) -> None:
    place.load(file("id,name\n1,\n2,NULL\n"), *NEW, *null)
    assert sorted(place.query("SELECT * FROM t")) == stored


def test_a_key_that_is_null_finds_its_row(place: Place, file: Write) -> None:
    place.query("CREATE TABLE t (id integer, name text)")
    path = file("id,name\n,a\n,b\n")
    result = place.load(path, "--key", "id")
    assert counts(result) == fates(created=1, updated=1)
    assert place.query("SELECT * FROM t") == [(None, "b")]


def test_standard_input(place: Place) -> None:
    result = place.load("-", *NEW, stdin='id,name\n1,"a\nb"\n')
    assert counts(result) == fates(created=1)
    assert place.query("SELECT name FROM t") == [("a\nb",)]


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
    lite_place: Place,
    file: Write,
    content: str | bytes,
    options: tuple[str, ...],
    *,
    piped: bool,
) -> None:
    path = file(content)
    source, stdin = ("-", path.read_bytes()) if piped else (path, None)
    result = lite_place.load(source, *NEW, *options, stdin=stdin)
    assert counts(result) == fates(created=1)
    assert lite_place.query("SELECT id, name FROM t") == [(1, "ü,b")]


def test_the_table_that_is_made_has_the_key_as_primary_key(
    place: Place, file: Write
) -> None:
    result = place.load(file("a,b,c\n1,2,x\n"), "--key", "c,a", "--create-table")
    integer, text = ("INTEGER", "TEXT") if place.is_sqlite else ("bigint", "text")
    assert result.stderr == (
        f"created table t: a {integer}, b {integer}, c {text}; primary key c, a\n"
    )
    assert place.query("SELECT a, b, c FROM t") == [(1, 2, "x")]
    twice = "INSERT INTO t VALUES (1, 3, 'x')"
    with pytest.raises(Exception, match=r"UNIQUE constraint|duplicate key"):
        place.query(twice)


def test_a_table_that_is_there_is_not_made_again(place: Place, file: Write) -> None:
    place.query("CREATE TABLE t (id integer PRIMARY KEY, name text, extra text)")
    result = place.load(file("id,name\n1,a\n"), *NEW)
    assert (result.exit_code, result.stderr) == (0, "")
    assert place.query("SELECT * FROM t") == [(1, "a", None)]


def test_a_table_in_a_schema(pg_place: Place, file: Write) -> None:
    ((schema,),) = pg_place.query("SELECT current_schema()")
    whole_server, _, _ = pg_place.url.partition("options=")
    url = whole_server.rstrip("?&").replace("postgresql://", "postgres://", 1)
    result = run("load", url, f"{schema}.t", file("id\n1\n"), *NEW)
    assert counts(result) == fates(created=1)
    assert pg_place.query("SELECT * FROM t") == [(1,)]


def test_a_file_beside_the_working_directory(
    tmp_path: Path, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("load", "sqlite:///test.db", "main.t", file("id\n1\n"), *NEW)
    assert counts(result) == fates(created=1)
    assert sqlite_place(tmp_path).query("SELECT * FROM t") == [(1,)]


def test_a_key_without_a_unique_index_is_pointed_out(place: Place, file: Write) -> None:
    place.query("CREATE TABLE t (id integer, name text)")
    result = place.load(file("id,name\n1,a\n1,b\n"), "--key", "id")
    assert counts(result) == fates(created=1, updated=1)
    assert "t has no unique index on id" in result.stderr


def test_quiet_prints_nothing(place: Place, file: Write) -> None:
    result = place.load(file("id\n1\n"), *NEW, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert place.query("SELECT * FROM t") == [(1,)]


def test_a_row_that_the_database_refuses_stores_nothing(
    place: Place, file: Write
) -> None:
    place.query("CREATE TABLE t (id integer PRIMARY KEY, n integer CHECK (n > 0))")
    result = place.load(file('id,n\n\n1,"1"\n2,0\n3,1\n'), "--key", "id")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "rows.csv, line 4: " in result.stderr
    assert "check constraint" in result.stderr.lower()
    assert result.stderr.endswith("Nothing was stored.\n")
    assert place.query("SELECT * FROM t") == []


def test_a_bad_row_undoes_the_table_too(place: Place, file: Write) -> None:
    result = place.load(file("id,n\n1,1\n2\n"), *NEW)
    assert result.exit_code == 1
    catalog = "sqlite_master" if place.is_sqlite else "pg_tables WHERE tablename = 't'"
    assert place.query(f"SELECT * FROM {catalog}") == []


def test_a_constraint_checked_by_the_commit_stores_nothing(
    pg_place: Place, file: Write
) -> None:
    pg_place.query(
        "CREATE TABLE t (id text PRIMARY KEY, p text UNIQUE DEFERRABLE INITIALLY DEFERRED)"
    )
    result = pg_place.load(file("id,p\n1,7\n2,7\n"), "--key", "id")
    assert result.exit_code == 1
    assert "database error: duplicate key value" in result.stderr
    assert pg_place.query("SELECT * FROM t") == []
