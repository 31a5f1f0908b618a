"""The types that a table is made with."""

import datetime as dt
import decimal
import gzip
import sqlite3
from contextlib import closing
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioupsert.cli.databases import Engine
from aioupsert.cli.reading import Origin, Row, TimeText
from aioupsert.cli.tables import TypeGuesser
from tests.cli.databases import CliDatabase, Write, counts, expected_counts

UTC: Final = dt.UTC
NAMES: Final[dict[str, tuple[str, str]]] = {
    "text": ("text", "TEXT"),
    "integer": ("bigint", "INTEGER"),
    "decimal": ("numeric", "NUMERIC"),
    "interval": ("interval", "TEXT"),
    "float": ("double precision", "REAL"),
    "boolean": ("boolean", "BOOLEAN"),
    "date": ("date", "TEXT"),
    "timestamp": ("timestamp", "TEXT"),
    "timestamptz": ("timestamptz", "TEXT"),
    "bytes": ("bytea", "BLOB"),
    "json": ("jsonb", "TEXT"),
}


def guessed(*values: Any, engine: Engine = "postgresql", key: str = "b") -> str:
    guesser = TypeGuesser(["a"], [key], engine)
    for number, value in enumerate(values, start=1):
        row = Row(a=value)
        row.origin, row.line = Origin("test.csv", "csv"), number
        guesser.add(row)
    return guesser.guesses()["a"].type


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
        ((1, 2.5), "decimal"),
        ((True, False), "boolean"),
        ((True, 1), "text"),
        ((1, "x"), "text"),
        (({"a": 1}, [2]), "json"),
        (([1], "x"), "text"),
        ((b"x",), "bytes"),
        ((dt.date(2026, 2, 3),), "date"),
        ((dt.datetime(2026, 2, 3),), "timestamp"),  # noqa: DTZ001  # without a zone
        ((dt.datetime(2026, 2, 3, tzinfo=UTC),), "timestamptz"),
        ((2**53 + 1, 0.5), "decimal"),
        ((dt.time(1, 2),), "text"),
        ((dt.timedelta(1),), "interval"),
        ((TimeText("PT1.5S"),), "interval"),
        ((TimeText("PT-2H3S"),), "interval"),
        ((TimeText("PT0.0000005S"),), "text"),
        ((TimeText("10000-01-01"),), "text"),
    ],
)
def test_a_type_is_guessed(engine: Engine, values: tuple[Any, ...], kind: str) -> None:
    assert guessed(*values, engine=engine) == NAMES[kind][engine == "sqlite"]


@pytest.mark.parametrize(
    ("values", "postgresql", "sqlite"),
    [
        (("1.5", "-0.25"), "numeric", "REAL"),
        (("1.5", "2"), "numeric", "NUMERIC"),
        # They compare as numbers, and are the same number when read back.
        (("1.5", "1.10"), "numeric", "REAL"),
        (("9007199254740993", "0.5"), "numeric", "NUMERIC"),
        (("0.1234567890123456789",), "numeric", "TEXT"),
        (("1e5", "2.5E-3"), "double precision", "REAL"),
        (("1.2345678901234567890e5",), "numeric", "TEXT"),
        (("1e5", "1.5", "2"), "numeric", "NUMERIC"),
        (("1e500",), "text", "TEXT"),
        (("-0.0",), "numeric", "TEXT"),
        ((decimal.Decimal("5.50"), 0.1), "numeric", "REAL"),
        ((2**63,), "numeric", "TEXT"),
        ((decimal.Decimal("1E+400"),), "numeric", "TEXT"),
        ((float("nan"), 1.5), "double precision", "TEXT"),
    ],
)
def test_a_number_is_kept(
    values: tuple[Any, ...], postgresql: str, sqlite: str
) -> None:
    assert guessed(*values, engine="postgresql") == postgresql
    assert guessed(*values, engine="sqlite") == sqlite


@pytest.mark.parametrize("engine", ["postgresql", "sqlite"])
@pytest.mark.parametrize("text", ["1.10", "1.0", "1e5"])
def test_two_keys_do_not_become_one(engine: Engine, text: str) -> None:
    assert guessed("1.1", text, engine=engine, key="a").lower() == "text"
    assert guessed("1", "2", engine=engine, key="a").lower() != "text"


WORDS = st.text(alphabet="0123456789.-+eE: TZtrufals", max_size=12)


@given(values=st.lists(WORDS, min_size=1, max_size=3))
def test_what_is_no_text_reads_back_and_compares_as_it_was_written(
    values: list[str],
) -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        kind = guessed(*values, engine="sqlite")
        connection.execute(f"CREATE TABLE t (id INTEGER, a {kind})")
        convert: Any = {"INTEGER": int, "REAL": float, "BOOLEAN": "true".__eq__}
        for number, value in enumerate(values):
            number_or_text: Any = convert.get(kind, str)(value)
            if kind == "NUMERIC":
                number_or_text = (
                    float(value) if "." in value or "e" in value.lower() else int(value)
                )
            connection.execute("INSERT INTO t VALUES (?, ?)", (number, number_or_text))
        found = [row[0] for row in connection.execute("SELECT a FROM t ORDER BY id")]
        order = [
            row[0] for row in connection.execute("SELECT id FROM t ORDER BY a, id")
        ]
    if kind in {"INTEGER", "REAL", "NUMERIC"}:
        numbers = [decimal.Decimal(value) for value in values]
        assert [decimal.Decimal(repr(value)) for value in found] == numbers
        assert order == sorted(range(len(values)), key=numbers.__getitem__)
    elif kind != "BOOLEAN":
        assert found == values


@pytest.mark.parametrize("source", ["file", "pipe", "gzip"])
def test_the_whole_input_is_read_for_its_types(
    database: CliDatabase, file: Write, source: str
) -> None:
    lines = "".join(f"{n},{n}\n" for n in range(10_000))
    text = f"id,n\n{lines}10000,00501\n"
    path = file(gzip.compress(text.encode()) if source == "gzip" else text)
    if source == "pipe":
        result = database.load("-", "--key", "id", "--create-table", stdin=text)
    else:
        result = database.load(path, "--key", "id", "--create-table")
    assert counts(result) == expected_counts(created=10_001)
    name = "standard input" if source == "pipe" else path
    kind = "TEXT" if database.is_sqlite else "text"
    assert (
        f"column n is {kind} because of '00501' ({name}, line 10002)" in result.stderr
    )
    assert database.query("SELECT n FROM t WHERE id = 10000") == [("00501",)]


def test_a_sample_of_the_input_is_read_for_its_types(
    postgresql_database: CliDatabase, file: Write
) -> None:
    path = file("id,n\n1,1\n2,x\n")
    options = ("--key", "id", "--create-table", "--sample")
    result = postgresql_database.load(path, *options, "1")
    assert result.exit_code == 1
    assert "line 3, column 'n': invalid input syntax" in result.stderr
    assert postgresql_database.load(path, *options, "2").exit_code == 0


def test_bad_rows_are_counted_once(database: CliDatabase, file: Write) -> None:
    path = file('5\n{"id": 1}\nx\n{"id": 2, "n": 1}\n', "t.jsonl")
    options = ("--key", "id", "--create-table", "--max-errors", "2")
    result = database.load(path, *options)
    assert result.exit_code == 3
    assert result.stderr.count("t.jsonl, line ") == 2
    assert database.query("SELECT * FROM t ORDER BY id") == [(1, None), (2, 1)]


def test_the_user_decides_about_types(database: CliDatabase, file: Write) -> None:
    path = file("id,zip,n\n1,501,2\n")
    options = ("--key", "id", "--create-table", "--type", "zip=varchar(5)")
    result = database.load(path, *options)
    assert "zip varchar(5)" in result.stderr
    assert database.query("SELECT zip, n FROM t") == [("501", 2)]
    database.query("DROP TABLE t")
    result = database.load(path, *options, "--all-text")
    assert database.query("SELECT id, zip, n FROM t") == [("1", "501", "2")]


@pytest.mark.parametrize(
    ("types", "code", "expected"),
    [
        (("zap=text",), 1, "has no column 'zap' (did you mean 'zip'?)"),
        (("zip",), 2, "'zip' is not COLUMN=TYPE, such as zip=text"),
        (("zip=text; drop",), 2, "is not COLUMN=TYPE"),
        (("zip=text", "zip=text"), 2, "'zip' is given twice"),
    ],
)
def test_types_that_make_no_sense(
    sqlite_database: CliDatabase,
    file: Write,
    types: tuple[str, ...],
    code: int,
    expected: str,
) -> None:
    options = [word for type_ in types for word in ("--type", type_)]
    path = file("id,zip\n1,501\n")
    result = sqlite_database.load(path, "--key", "id", "--create-table", *options)
    assert result.exit_code == code
    assert expected in " ".join(result.stderr.replace("│", " ").split())


def test_prices_compare_as_numbers(sqlite_database: CliDatabase, file: Write) -> None:
    path = file("sku,price\nA,9.50\nB,100.25\nC,20.10\n")
    assert sqlite_database.load(path, "--key", "sku", "--create-table").exit_code == 0
    assert sqlite_database.query("SELECT sku FROM t WHERE price > 50") == [("B",)]


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
    path = file('{"id": 1}\n{"id": 2, "data": {"x": [1]}, "no": null}\n', "t.jsonl")
    result = database.load(path, "--key", "id", "--create-table")
    assert counts(result) == expected_counts(created=2)
    assert database.query("SELECT * FROM t ORDER BY id") == [
        (1, None, None),
        (2, '{"x": [1]}', None),
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
