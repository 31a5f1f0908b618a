"""The types that a table is made with."""

import datetime as dt
import decimal
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioupsert.cli.databases import Engine
from aioupsert.cli.tables import guess_types
from tests.cli.databases import CliDatabase, Write, counts, expected_counts

UTC: Final = dt.UTC
NAMES: Final[dict[str, tuple[str, str]]] = {
    "text": ("text", "TEXT"),
    "integer": ("bigint", "INTEGER"),
    "decimal": ("numeric", "TEXT"),
    "float": ("double precision", "REAL"),
    "boolean": ("boolean", "BOOLEAN"),
    "date": ("date", "TEXT"),
    "timestamp": ("timestamp", "TEXT"),
    "timestamptz": ("timestamptz", "TEXT"),
    "bytes": ("bytea", "BLOB"),
    "json": ("jsonb", "TEXT"),
}


def guessed(*values: Any, engine: Engine = "postgresql") -> str:
    return guess_types([{"a": value} for value in values], ["a"], engine)["a"]


@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ((), "text"),
        ((None, None), "text"),
        (("x", "1"), "text"),
        (("1", "-20", "0", None), "integer"),
        (("9" * 18,), "integer"),
        (("9" * 19,), "text"),
        (("007", "1"), "text"),
        (("+1",), "text"),
        (("-0",), "text"),
        (("1,5",), "text"),
        (("1_000",), "text"),
        (("٣",), "text"),
        ((" 1",), "text"),
        (("",), "text"),
        (("01.5",), "text"),
        (("1.",), "text"),
        ((".5",), "text"),
        (("NaN",), "text"),
        (("true", "false"), "boolean"),
        (("true", "1"), "text"),
        (("t", "f"), "text"),
        (("2026-02-03",), "date"),
        (("2026-02-30",), "text"),
        (("2026-2-3",), "text"),
        (("20260203",), "integer"),
        (("2026-02-03 04:05", "2026-02-03T04:05:06.7"), "timestamp"),
        (("2026-02-03", "2026-02-03 04:05"), "timestamp"),
        (("2026-02-03 04:05:06Z", "2026-02-03T04:05:06.789+02:00"), "timestamptz"),
        (("2026-02-03 04:05:06Z", "2026-02-03 04:05:06"), "text"),
        ((1, -2), "integer"),
        ((1, 2.5), "float"),
        ((True, False), "boolean"),
        ((True, 1), "text"),
        ((1, "x"), "text"),
        (({"a": 1}, [2]), "json"),
        (([1], "x"), "text"),
        ((b"x",), "bytes"),
        ((dt.date(2026, 2, 3),), "date"),
        ((dt.datetime(2026, 2, 3),), "timestamp"),  # noqa: DTZ001  # without a zone
        ((dt.datetime(2026, 2, 3, tzinfo=UTC),), "timestamptz"),
        ((decimal.Decimal("1.10"), 1), "decimal"),
        ((2**63,), "decimal"),
        ((dt.time(1, 2),), "text"),
    ],
)
def test_a_type_is_guessed(engine: Engine, values: tuple[Any, ...], kind: str) -> None:
    assert guessed(*values, engine=engine) == NAMES[kind][engine == "sqlite"]


@pytest.mark.parametrize(
    ("values", "postgresql", "sqlite"),
    [
        (("1.5", "-0.25"), "numeric", "REAL"),
        (("1.5", "2"), "numeric", "REAL"),
        # SQLite would make 1.1 of it.
        (("1.5", "1.10"), "numeric", "TEXT"),
        (("0.1234567890123456789",), "numeric", "TEXT"),
        (("1e5", "2.5E-3"), "double precision", "TEXT"),
        (("1e5", "1.5", "2"), "double precision", "TEXT"),
        (("1e500",), "text", "TEXT"),
    ],
)
def test_a_number_is_kept_as_it_is_written(
    values: tuple[str, ...], postgresql: str, sqlite: str
) -> None:
    assert guessed(*values, engine="postgresql") == postgresql
    assert guessed(*values, engine="sqlite") == sqlite


WORDS = st.text(alphabet="0123456789.-+eE: TZtrufals", max_size=12)


@given(st.lists(WORDS, min_size=1, max_size=3))
def test_what_is_no_text_reads_back_as_it_was_written(values: list[str]) -> None:
    kind = guessed(*values, engine="sqlite")
    back = {"INTEGER": int, "REAL": float}.get(kind, str)
    if kind == "REAL":
        assert all(repr(float(value)) == value for value in values if "." in value)
    else:
        assert [str(back(value)) for value in values] == values


def test_types_are_guessed_from_the_first_rows(
    database: CliDatabase, file: Write
) -> None:
    lines = "".join(f"{n},{n}\n" for n in range(10_000))
    result = database.load(
        file(f"id,n\n{lines}10000,y\n"), "--key", "id", "--create-table"
    )
    if database.is_sqlite:
        # Its types are hints.
        assert counts(result) == expected_counts(created=10_001)
    else:
        assert result.exit_code == 1
        assert "line 10002, column 'n': invalid input syntax" in result.stderr


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", 'i,b,d,j,z\n1,true,2026-02-03,"x,{1",007\n'),
        (
            "t.jsonl",
            '{"i": 1, "b": true, "d": "2026-02-03", "j": "x,{1", "z": "007"}\n',
        ),
    ],
)
def test_a_table_is_made_with_these_types(
    database: CliDatabase, file: Write, name: str, content: str
) -> None:
    result = database.load(file(content, name), "--key", "i", "--create-table")
    assert counts(result) == expected_counts(created=1)
    date = "2026-02-03" if database.is_sqlite else dt.date(2026, 2, 3)
    true = 1 if database.is_sqlite else True
    assert database.query("SELECT i, b, d, j, z FROM t") == [
        (1, true, date, "x,{1", "007")
    ]


def test_a_table_has_the_columns_of_every_row_looked_at(
    database: CliDatabase, file: Write
) -> None:
    path = file('{"id": 1}\n{"id": 2, "data": {"x": [1]}}\n', "t.jsonl")
    result = database.load(path, "--key", "id", "--create-table")
    assert counts(result) == expected_counts(created=2)
    assert database.query("SELECT * FROM t ORDER BY id") == [
        (1, None),
        (2, '{"x": [1]}'),
    ]


def test_new_columns_are_added(database: CliDatabase, file: Write) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, name text)")
    path = file("id,name,n,when\n1,a,5,2026-02-03\n")
    refused = database.load(path, "--key", "id")
    assert "has no column 'n', 'when'" in refused.stderr
    result = database.load(path, "--key", "id", "--add-columns")
    assert counts(result) == expected_counts(created=1)
    integer, date = ("INTEGER", "TEXT") if database.is_sqlite else ("bigint", "date")
    assert result.stderr == (
        f"added column n {integer} to t\nadded column when {date} to t\n"
    )
    when = "2026-02-03" if database.is_sqlite else dt.date(2026, 2, 3)
    assert database.query("SELECT * FROM t") == [(1, "a", 5, when)]


def test_without_new_columns_none_is_added(database: CliDatabase, file: Write) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, name text)")
    result = database.load(file("id,name\n1,a\n"), "--key", "id", "--add-columns")
    assert (result.exit_code, result.stderr) == (0, "")


def test_columns_are_not_added_when_a_row_is_bad(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    result = database.load(file("id,n\n1,2\n3\n"), "--key", "id", "--add-columns")
    assert result.exit_code == 1
    database.query("INSERT INTO t VALUES (1)")
    assert database.query("SELECT * FROM t") == [(1,)]
