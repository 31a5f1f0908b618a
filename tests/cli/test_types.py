"""Cells are text in the file, and become what the columns hold."""

from typing import Any, Final

import pytest

from tests.cli.databases import CliDatabase, Write, counts, expected_counts

# A type of PostgreSQL, a cell, and how the database writes what is stored.
TYPES: Final = [
    ("integer", "1", "1"),
    ("bigint", " 9007199254740993 ", "9007199254740993"),
    ("numeric(5,2)", "1.005", "1.01"),
    ("double precision", "0.1", "0.1"),
    ("real", "1e3", "1000"),
    ("boolean", "yes", "true"),
    ("date", "2026-02-03", "2026-02-03"),
    ("date", "0044-03-15 BC", "0044-03-15 BC"),
    ("timestamp(0)", "2026-02-03 04:05:06.7", "2026-02-03 04:05:07"),
    ("timestamptz", "2026-02-03 04:05:06+02", "2026-02-03 02:05:06+00"),
    ("timestamptz", "infinity", "infinity"),
    ("interval", "1 month 2 days", "1 mon 2 days"),
    ("time", "04:05:06", "04:05:06"),
    ("uuid", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("bytea", r"\xDEAD", r"\xdead"),
    ("varchar(3)", "abc", "abc"),
    ("char(3)", "a", "a"),
    ("inet", "10.0.0.1/8", "10.0.0.1/8"),
    ("integer[]", "{1,2,NULL}", "{1,2,NULL}"),
    ("mood", "ok", "ok"),
    ('"odd {type}"', "1", "1"),
    ("int4range", "[1,3]", "[1,4)"),
    ("bit varying(4)", "101", "101"),
    ("money", "1.50", "$1.50"),
]  # fmt: skip
# These have no equality, so they cannot be a key.
VALUES: Final = [
    ("json", '{"a":  1}', '{"a":  1}'),
    ("jsonb", '{"a":  1}', '{"a": 1}'),
    ("pair", '(1,"a b")', '(1,"a b")'),
    ("point", "(1,2)", "(1,2)"),
    ("xml", "<a/>", "<a/>"),
]


def make_types(database: CliDatabase) -> None:
    for sql in (
        "CREATE TYPE mood AS ENUM ('ok', 'bad')",
        'CREATE DOMAIN "odd {type}" AS integer CHECK (value > 0)',
        "CREATE TYPE pair AS (a integer, b text)",
    ):
        database.query(sql)


def quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"'


@pytest.mark.parametrize(("kind", "cell", "stored"), TYPES + VALUES)
def test_the_database_converts_a_value(
    postgresql_database: CliDatabase, file: Write, kind: str, cell: str, stored: str
) -> None:
    make_types(postgresql_database)
    postgresql_database.query(f"CREATE TABLE t (id integer PRIMARY KEY, v {kind})")
    path = file(f"id,v\n1,{quoted(cell)}\n1,{quoted(cell)}\n")
    result = postgresql_database.load(path, "--key", "id", "--skip-unchanged")
    if kind == "xml" and result.exit_code:
        # Not every server was built with it.
        assert "unsupported XML feature" in result.stderr
        return
    assert counts(result) == expected_counts(created=1, unchanged=1)
    assert postgresql_database.query(READ) == [(stored,)]


# In a fixed way, whatever the server's settings.
READ: Final = (
    "SELECT v::text FROM (SELECT set_config('timezone', 'UTC', true),"
    " set_config('lc_monetary', 'C', true)) AS s, t"
)


@pytest.mark.parametrize(("kind", "cell", "stored"), TYPES)
def test_the_database_converts_a_key(
    postgresql_database: CliDatabase, file: Write, kind: str, cell: str, stored: str
) -> None:
    make_types(postgresql_database)
    postgresql_database.query(f"CREATE TABLE t (v {kind} PRIMARY KEY, n text)")
    path = file(f"v,n\n{quoted(cell)},a\n{quoted(cell)},b\n")
    assert counts(postgresql_database.load(path, "--key", "v")) == expected_counts(
        created=1, updated=1
    )
    assert postgresql_database.query(READ) == [(stored,)]


def test_null_is_of_every_type(postgresql_database: CliDatabase, file: Write) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, v integer, w text)"
    )
    path = file("id,v,w\n1,,\n2,5,x\n")
    assert counts(postgresql_database.load(path, "--key", "id")) == expected_counts(2)
    assert postgresql_database.query("SELECT * FROM t ORDER BY id") == [
        (1, None, None),
        (2, 5, "x"),
    ]


@pytest.mark.parametrize(
    ("kind", "cell", "stored"),
    [
        ("INTEGER", "05", 5),
        ("INTEGER", "1e3", 1000),
        ("INTEGER", "x", "x"),
        ("INTEGER", "", None),
        ("INTEGER", "9223372036854775807", 9223372036854775807),
        ("INTEGER", "9223372036854775808", 9.223372036854776e18),
        ("REAL", "3", 3.0),
        ("NUMERIC", "2.5", 2.5),
        ("TEXT", "05", "05"),
        ("", "05", "05"),
        ("BOOLEAN", "true", 1),
        ("BOOLEAN", "No", 0),
        ("DATE", "2026-02-03", "2026-02-03"),
        ("BLOB", "05", "05"),
    ],
)
@pytest.mark.parametrize("key", ["id", "v"])
def test_the_affinity_of_sqlite_converts(
    sqlite_database: CliDatabase,
    file: Write,
    *,
    kind: str,
    cell: str,
    stored: Any,
    key: str,
) -> None:
    sqlite_database.query(f"CREATE TABLE t (id TEXT UNIQUE, v {kind} UNIQUE)")
    path = file(f"id,v\na,{cell}\na,{cell}\n")
    result = sqlite_database.load(path, "--key", key, "--skip-unchanged")
    assert counts(result) == expected_counts(created=1, unchanged=1)
    ((found,),) = sqlite_database.query("SELECT v FROM t")
    assert (type(found), found) == (type(stored), stored)


def test_a_cell_of_another_type_is_refused_in_the_words_of_the_database(
    postgresql_database: CliDatabase, file: Write
) -> None:
    postgresql_database.query("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    for column, text in (("v", "id,v\n1,1\n2,x\n"), ("id", "id,v\n1,1\nx,2\n")):
        result = postgresql_database.load(file(text), "--key", "id")
        assert result.exit_code == 1
        assert 'invalid input syntax for type integer: "x"' in result.stderr
        assert f"line 3, column '{column}': " in result.stderr
    assert postgresql_database.query("SELECT * FROM t") == []
