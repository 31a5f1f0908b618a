"""The commands that only look: inspect and preview."""

import pytest
from typer.testing import Result

from tests.cli.databases import CliDatabase, run


def shown(result: Result) -> str:
    """What is printed, without the layout."""
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def inspect(database: CliDatabase, *options: str) -> str:
    return shown(run("inspect", database.url, "t", *options))


def test_inspect_shows_columns_of_postgresql(postgresql_database: CliDatabase) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
        " name varchar(30) NOT NULL, price numeric(6,2) DEFAULT 0, tags text[],"
        " twice integer GENERATED ALWAYS AS (2 * 2) STORED)"
    )
    said = inspect(postgresql_database)
    for row in (
        "id int4 generated always as identity",
        "name varchar(30) required",
        "price numeric(6,2) 0",
        "tags text[]",
        "twice int4",
    ):
        assert row in said
    assert said.endswith("unique index t_pkey: id")


def test_inspect_shows_columns_of_sqlite(sqlite_database: CliDatabase) -> None:
    sqlite_database.query(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, name VARCHAR(30) NOT NULL,"
        " price NUMERIC DEFAULT 0, twice AS (price * 2))"
    )
    said = inspect(sqlite_database)
    for row in ("id INTEGER", "name VARCHAR(30) required", "price NUMERIC 0"):
        assert row in said
    assert "twice generated" in said


def test_inspect_shows_unique_indexes(postgresql_database: CliDatabase) -> None:
    postgresql_database.query(
        "CREATE TABLE t (a text, b text UNIQUE DEFERRABLE, c text)"
    )
    postgresql_database.query(
        "CREATE UNIQUE INDEX i ON t (a, lower(b)) WHERE c IS NOT NULL"
    )
    said = inspect(postgresql_database)
    assert "unique index t_b_key: b; deferrable" in said
    assert "unique index i: a, an expression; where " in said


def test_inspect_says_that_nulls_are_not_distinct(
    postgresql_database: CliDatabase,
) -> None:
    (version,) = postgresql_database.query("SHOW server_version_num")[0]
    postgresql_database.query("CREATE TABLE t (a text)")
    if int(version) < 150_000:
        # The server has no such index.
        assert "no unique index" in inspect(postgresql_database)
        return
    postgresql_database.query("CREATE UNIQUE INDEX i ON t (a) NULLS NOT DISTINCT")
    assert "unique index i: a; nulls not distinct" in inspect(postgresql_database)


def test_inspect_says_how_a_key_is_written(database: CliDatabase) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, name text)")
    said = inspect(database, "--key", "id")
    one = (
        "one job on the connection's thread" if database.is_sqlite else "one statement"
    )
    assert said.endswith(
        f"key id: at most one row has it one row: {one}"
        " many rows: INSERT ... ON CONFLICT DO UPDATE"
    )


def test_inspect_says_what_a_key_without_an_index_means(database: CliDatabase) -> None:
    database.query("CREATE TABLE t (id integer, name text)")
    said = inspect(database, "--key", "id,name")
    assert "no unique index key id, name: no unique index makes it unique" in said
    assert "no unique index is on exactly the key" in said.rpartition("many rows: ")[2]


def test_inspect_says_for_which_rows_an_index_counts(database: CliDatabase) -> None:
    database.query("CREATE TABLE t (id integer, gone date)")
    database.query("CREATE UNIQUE INDEX i ON t (id) WHERE gone IS NULL")
    database.query("CREATE UNIQUE INDEX j ON t (gone) WHERE id > 0")
    said = inspect(database, "--key", "id,gone").replace("(", "").replace(")", "")
    assert "key id, gone: at most one row has it where gone IS NULL; of" in said


def test_inspect_says_why_the_exact_steps_are_taken(
    postgresql_database: CliDatabase,
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer PRIMARY KEY DEFERRABLE, name text)"
    )
    said = inspect(postgresql_database, "--key", "id")
    assert "one row: the exact steps, because " in said
    assert "many rows: update, then insert: it has a deferrable unique" in said
    postgresql_database.query("CREATE RULE r AS ON UPDATE TO t DO ALSO NOTHING")
    said = inspect(postgresql_database, "--key", "id")
    assert "one row: the exact steps, because " in said
    assert "many rows: one by one: " in said


def test_inspect_of_a_view(postgresql_database: CliDatabase) -> None:
    postgresql_database.query("CREATE TABLE s (id integer PRIMARY KEY)")
    postgresql_database.query("CREATE VIEW t AS SELECT * FROM s")
    said = inspect(postgresql_database, "--key", "id")
    assert "unique indexes: those of the underlying tables" in said
    assert "key id: it is unknown whether it is unique" in said


@pytest.mark.parametrize(
    ("table", "options", "expected"),
    [
        ("tt", (), "there is no table tt (did you mean 't'?)"),
        ("t", ("--key", "idd"), "table t has no column 'idd' (did you mean 'id'?)"),
    ],
)
def test_inspect_of_what_is_not_there(
    database: CliDatabase, table: str, options: tuple[str, ...], expected: str
) -> None:
    database.query("CREATE TABLE t (id integer)")
    result = run("inspect", database.url, table, *options)
    assert (result.exit_code, result.stdout) == (1, "")
    assert expected in result.stderr


def preview(database: CliDatabase, *options: str) -> Result:
    return run("preview", database.url, "t", *options)


def test_preview_prints_statements_with_their_arguments(database: CliDatabase) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, name text, hits integer)")
    said = shown(
        preview(database, "--key", "id=7", "--set", "name=x=y", "-u", "hits=hits+2")
    )
    assert said.startswith("-- first ")
    assert 'UPDATE "t"' in said
    assert 'INSERT INTO "t"' in said
    for number, value in ((1, "'x=y'"), (2, "2"), (3, "7")):
        assert f"-- argument {number}: {value}" in said
    assert database.query("SELECT * FROM t") == []


def test_preview_of_a_key_alone(database: CliDatabase) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    said = shown(preview(database, "--key", "id=7"))
    assert "argument 1: 7" in said
    assert "UPDATE" not in said


def test_preview_converts_values_as_the_database_does(
    postgresql_database: CliDatabase,
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id date PRIMARY KEY, n numeric(4,1), s text)"
    )
    said = shown(
        preview(postgresql_database, "-k", "id=2026-02-03", "-s", "n=1.25", "-s", "s")
    )
    assert "datetime.date(2026, 2, 3)" in said
    assert "Decimal('1.3')" in said
    assert "None" in said


def test_preview_gives_sqlite_numbers(sqlite_database: CliDatabase) -> None:
    sqlite_database.query("CREATE TABLE t (id INTEGER PRIMARY KEY, n REAL, s TEXT)")
    options = ("-s", "n=1.5", "-s", "s=05", "--skip-unchanged")
    said = shown(preview(sqlite_database, "-k", "id=9223372036854775808", *options))
    assert "argument 1: 1.5" in said
    assert "'05'" in said
    assert "9.223372036854776e+18" in said


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (("--key", "i=1"), 1, "table t has no column 'i' (did you mean 'id'?)"),
        (("--key", "id=1", "--set", "n=1"), 1, "table t has no column 'n'"),
        (("--key", "id=1", "--key", "id=2"), 2, "--key: 'id' is given twice"),
        (("--key", "id=1", "--update-expr", "n=("), 2, "--update-expr: cannot read"),
        ((), 2, "Missing option '--key'"),
    ],
)
def test_previews_that_make_no_sense(
    database: CliDatabase, options: tuple[str, ...], code: int, expected: str
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    result = preview(database, *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert expected in " ".join(result.stderr.replace("│", " ").split())


def test_a_value_of_a_preview_that_is_none_of_its_type(
    postgresql_database: CliDatabase,
) -> None:
    postgresql_database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    result = preview(postgresql_database, "--key", "id=x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert 'invalid input syntax for type integer: "x"' in result.stderr
