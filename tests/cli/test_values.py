"""Values of JSON and Parquet become what columns hold."""

import datetime as dt
import decimal
import importlib
import json
import os
import sys
import threading
import uuid
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioupsert.cli.reading import ReadOptions
from aioupsert.cli.reading.json import read_json_lines
from aioupsert.cli.values import to_json
from tests.cli.databases import CliDatabase, Write, counts, expected_counts

# These have no types.
pa: Any = importlib.import_module("pyarrow")
pq: Any = importlib.import_module("pyarrow.parquet")

# A type of PostgreSQL, a value as JSON, and what is stored, as the database writes it.
TO_POSTGRESQL: Final = [
    ("integer", "5", "5"),
    ("integer", "5.0", "5"),
    ("integer", '"5"', "5"),
    ("bigint", "9007199254740993", "9007199254740993"),
    ("numeric", "0.1", "0.1"),
    ("numeric", "10", "10"),
    ("numeric", "123456789012345678901234567890", "123456789012345678901234567890"),
    ("double precision", "0.1", "0.1"),
    ("double precision", "1", "1"),
    ("boolean", "true", "true"),
    ("boolean", "1", "true"),
    ("boolean", '"no"', "false"),
    ("text", '"5"', "5"),
    ("text", "5", "5"),
    ("text", "5.50", "5.50"),
    ("text", "123456789012345678.12", "123456789012345678.12"),
    ("numeric", "123456789012345678.12", "123456789012345678.12"),
    ("numeric", "1e3", "1000"),
    ("numeric", "NaN", "NaN"),
    ("double precision", "-Infinity", "-Infinity"),
    ("integer", "5e3", "5000"),
    ("jsonb", '{"a": 1.50, "b": [1E2]}', '{"a": 1.50, "b": [100]}'),
    ("text", "true", "true"),
    ("text", '{"a": "é"}', '{"a": "é"}'),
    ("text", '[1, "x"]', '[1, "x"]'),
    ("date", '"2026-02-03"', "2026-02-03"),
    ("timestamptz", '"2026-02-03T04:05:06Z"', "2026-02-03 04:05:06+00"),
    ("uuid", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"', "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("jsonb", '{"a": [1.5, null]}', '{"a": [1.5, null]}'),
    ("jsonb", "5", "5"),
    ("jsonb", "true", "true"),
    ("jsonb", '"5"', '"5"'),
    ("json", '"a\\"b"', '"a\\"b"'),
    ("integer[]", "[1, 2]", "{1,2}"),
    ("integer[]", '"{1,2}"', "{1,2}"),
    ("text[]", '["a", null]', "{a,NULL}"),
    ("text[]", '[1, true, "a\\"b\\\\", "NULL", ""]', r'{1,true,"a\"b\\","NULL",""}'),
    ("text[]", "[]", "{}"),
    ("date[]", '["2026-02-03"]', "{2026-02-03}"),
    ("integer[]", "[[1, 2.0], [3, 4]]", "{{1,2},{3,4}}"),
    ("numeric[]", "[1.50, NaN]", "{1.50,NaN}"),
    ("jsonb[]", '[{"a": 1.50}, [1], "x", null]', r'{"{\"a\": 1.50}",[1],"\"x\"",NULL}'),
    ("uuid[]", '["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]', "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"),
    ("bytea[]", r'["\\xdead"]', r'{"\\xdead"}'),
    ("box[]", '["(1,1),(0,0)", "(2,2),(0,0)"]', "{(1,1),(0,0);(2,2),(0,0)}"),
]  # fmt: skip
TO_SQLITE: Final = [
    ("INTEGER", "5", 5),
    ("INTEGER", "5.0", 5),
    ("INTEGER", '"5"', 5),
    ("INTEGER", "true", 1),
    ("BOOLEAN", "true", 1),
    ("BOOLEAN", '"true"', 1),
    ("REAL", "5", 5.0),
    ("INTEGER", "5.50", 5.5),
    ("INTEGER", "1e3", 1000),
    ("INTEGER", "9223372036854775808", 2.0**63),
    ("REAL", "123456789012345678901", 123456789012345678901.0),
    ("REAL", "0.1234567890123456789", 0.12345678901234568),
    ("REAL", "Infinity", float("inf")),
    ("TEXT", "123456789012345678901", "123456789012345678901"),
    ("TEXT", "1.50", "1.50"),
    ("JSON", '{"a": 1.50}', '{"a": 1.50}'),
    ("NUMERIC", "9007199254740993.0", 9007199254740993),
    ("TEXT", "5", "5"),
    ("TEXT", "true", "true"),
    ("TEXT", '{"a": "é"}', '{"a": "é"}'),
    ("TEXT", '[1, "x"]', '[1, "x"]'),
    ("JSON", '{"a": null}', '{"a": null}'),
    ("JSON", '"5"', '"5"'),
    ("", "5", 5),
    ("", '"5"', "5"),
    ("", "true", 1),
]


@pytest.mark.parametrize(("kind", "value", "stored"), TO_POSTGRESQL)
def test_a_value_of_json_in_postgresql(
    postgresql_database: CliDatabase, file: Write, kind: str, value: str, stored: str
) -> None:
    postgresql_database.query(f"CREATE TABLE t (id integer PRIMARY KEY, v {kind})")
    path = file(f'[{{"id": 1, "v": {value}}}, {{"id": 1, "v": {value}}}]', "t.json")
    # The type json has no equality.
    options = () if kind == "json" else ("--skip-unchanged",)
    result = postgresql_database.load(path, "--key", "id", *options)
    expected = (
        expected_counts(created=1, updated=1)
        if kind == "json"
        else expected_counts(1, unchanged=1)
    )
    assert counts(result) == expected
    assert postgresql_database.query(
        "SELECT v::text FROM (SELECT set_config('timezone', 'UTC', true)) AS s, t"
    ) == [(stored,)]


@pytest.mark.parametrize(("kind", "value", "stored"), TO_SQLITE)
def test_a_value_of_json_in_sqlite(
    sqlite_database: CliDatabase, file: Write, kind: str, value: str, stored: Any
) -> None:
    sqlite_database.query(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {kind})")
    path = file(f'{{"id": 1, "v": {value}}}\n' * 2, "t.jsonl")
    result = sqlite_database.load(path, "--key", "id", "--skip-unchanged")
    assert counts(result) == expected_counts(created=1, unchanged=1)
    ((found,),) = sqlite_database.query("SELECT v FROM t")
    assert (type(found), found) == (type(stored), stored)


def test_a_value_that_is_missing_is_not_written(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, a text, b text)")
    lines = [{"id": 1, "a": "x", "b": "y"}, {"id": 1, "b": None}, {"id": 2, "a": "z"}]
    path = file("\n".join(map(json.dumps, lines)), "t.jsonl")
    assert counts(database.load(path, "--key", "id")) == expected_counts(
        created=2, updated=1
    )
    assert database.query("SELECT * FROM t ORDER BY id") == [
        (1, "x", None),
        (2, "z", None),
    ]


def test_a_number_that_is_not_whole_is_no_integer(
    postgresql_database: CliDatabase, file: Write
) -> None:
    postgresql_database.query("CREATE TABLE t (id integer PRIMARY KEY, n integer)")
    result = postgresql_database.load(
        file('{"id": 1, "n": 1.5}', "t.jsonl"), "--key", "id"
    )
    assert result.exit_code == 1
    assert "line 1, column 'n': invalid input syntax for type integer" in result.stderr


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("bigint", "9223372036854775808", "out of range for type bigint"),
        ("integer", "1e999999", "integer"),
        ("double precision", "1e400", "out of range"),
        ("integer", "NaN", "invalid input syntax for type integer"),
        ("jsonb", '{"a": [NaN]}', "NaN is not a number of JSON"),
        ("jsonb", "[1.50, -Infinity]", "-Infinity is not a number of JSON"),
        ("date[]", '["x"]', 'invalid input syntax for type date: "x"'),
        ("integer[]", "[[1], [2, 3]]", "malformed array literal"),
        ("numeric", "1e9999999", "numeric"),
    ],
)
def test_what_postgresql_does_not_hold_is_an_error_of_the_column(
    postgresql_database: CliDatabase, file: Write, kind: str, value: str, expected: str
) -> None:
    postgresql_database.query(f"CREATE TABLE t (id integer PRIMARY KEY, v {kind})")
    path = file(f'{{"id": 1, "v": {value}}}\n', "t.jsonl")
    result = postgresql_database.load(path, "--key", "id")
    assert result.exit_code == 1
    assert "t.jsonl, line 1, column 'v': " in result.stderr
    assert expected in result.stderr


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("INTEGER", "9223372036854775809", "beyond the integers of SQLite"),
        ("INTEGER", "1" * 400, "too large to convert to float"),
        (
            "NUMERIC",
            "123456789012345678.12",
            "SQLite would round 123456789012345678.12",
        ),
        ("REAL", "1e400", "beyond the numbers of SQLite"),
        ("REAL", "NaN", "SQLite has no NaN: it would store NULL"),
        ("", "NaN", "SQLite has no NaN: it would store NULL"),
        ("JSON", "[NaN]", "NaN is not a number of JSON"),
    ],
)
def test_what_sqlite_does_not_hold_is_an_error_of_the_column(
    sqlite_database: CliDatabase, file: Write, kind: str, value: str, expected: str
) -> None:
    sqlite_database.query(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {kind})")
    path = file(f'{{"id": 1, "v": {value}}}\n{{"id": 2, "v": null}}\n', "t.jsonl")
    result = sqlite_database.load(path, "--key", "id")
    assert result.exit_code == 1
    assert "t.jsonl, line 1, column 'v': " in result.stderr
    assert expected in result.stderr
    assert sqlite_database.load(path, "--key", "id", "--max-errors", "1").exit_code == 3
    assert sqlite_database.query("SELECT * FROM t") == [(2, None)]


@pytest.mark.parametrize("options", [(), ("--format", "copy", "--delimiter", ",")])
def test_an_integer_as_text_beyond_those_of_sqlite(
    sqlite_database: CliDatabase, file: Write, options: tuple[str, ...]
) -> None:
    sqlite_database.query("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER)")
    path = file("id,v\n1,9223372036854775807\n2,9223372036854775809\n3,3\n")
    result = sqlite_database.load(path, "--key", "id", *options)
    assert result.exit_code == 1
    assert (
        "rows.csv, line 3, column 'v': 9223372036854775809 is beyond" in result.stderr
    )
    options = (*options, "--key", "id", "--max-errors", "1")
    assert sqlite_database.load(path, *options).exit_code == 3
    assert sqlite_database.query("SELECT * FROM t") == [(1, 2**63 - 1), (3, 3)]


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_an_exponent_that_is_too_large(
    sqlite_database: CliDatabase, file: Write, name: str
) -> None:
    path = file('{"id": 1e99999999999999999999}\n', name)
    result = sqlite_database.load(path, "--key", "id", "--create-table")
    assert result.exit_code == 1
    assert "line 1" in result.stderr
    assert "the exponent of 1e99999999999999999999 is too large" in result.stderr


NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][-+]?[0-9]{1,2})?", fullmatch=True
)


@given(st.lists(NUMBERS, min_size=1))
def test_numbers_keep_their_value_on_the_way(numbers: list[str]) -> None:
    text = f"[{', '.join(numbers)}]"
    lines = [f'{{"a": {text}}}\n']
    (row,) = read_json_lines("test", lines, ReadOptions())
    read: Any = partial(json.loads, parse_float=decimal.Decimal)
    assert read(to_json(row["a"])) == read(text)
    # With all their digits; an integer of Python has no negative zero.
    assert [str(number or abs(number)) for number in read(to_json(row["a"]))] == [
        str(number or abs(number)) for number in read(text)
    ]


@pytest.mark.parametrize("key", ["id", "x"])
def test_a_row_with_an_unknown_column_is_said(
    database: CliDatabase, file: Write, key: str
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    result = database.load(
        file(f'{{"id": 1}}\n{{"{key}": 2, "y": 3}}', "t.jsonl"), "-kid"
    )
    assert result.exit_code == 1
    assert "line 2: " in result.stderr
    assert ("has no column 'y'" if key == "id" else "it has no 'id'") in result.stderr


# --- Parquet --------------------------------------------------------------------------


MOMENT: Final = dt.datetime(2026, 2, 3, 4, 5, 6, 700_000)  # noqa: DTZ001  # a type without a zone
COLUMNS: Final = {
    "id": [1, 2],
    "price": [decimal.Decimal("1.10"), None],
    "ratio": [0.5, float("nan")],
    "day": [dt.date(2026, 2, 3), None],
    "moment": [MOMENT, None],
    "time": [dt.time(4, 5), None],
    "raw": [b"\xde\xad", b""],
    "flag": [True, False],
    "data": [{"a": [1]}, None],
    "name": ["ü", ""],
}


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_in_a_table_that_is_there(
    postgresql_database: CliDatabase, tmp_path: Path
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, price numeric, ratio real, day date,"
        " moment timestamp, time time, raw bytea, flag boolean, data jsonb, name text)"
    )
    result = postgresql_database.load(
        parquet(tmp_path / "t.parquet", COLUMNS), "--key", "id"
    )
    assert counts(result) == expected_counts(created=2)
    assert postgresql_database.query("SELECT * FROM t WHERE id = 1") == [
        (
            *(1, decimal.Decimal("1.10"), 0.5, dt.date(2026, 2, 3), MOMENT),
            *(dt.time(4, 5), b"\xde\xad", True, '{"a": [1]}', "ü"),
        )
    ]
    assert postgresql_database.query(
        "SELECT ratio::text, name FROM t WHERE id = 2"
    ) == [("NaN", "")]


@pytest.mark.parametrize("kind", ["text", "made"])
def test_parquet_in_columns_of_text_and_in_a_new_table(
    database: CliDatabase, tmp_path: Path, kind: str
) -> None:
    columns = {name: COLUMNS[name] for name in ("id", "price", "day", "moment", "time")}
    if kind == "text":
        names = ", ".join(f"{name} text" for name in [*columns][1:])
        database.query(f"CREATE TABLE t (id integer PRIMARY KEY, {names})")
    path = parquet(tmp_path / "t.pq", columns)
    result = database.load(path, "--key", "id", "--create-table")
    assert counts(result) == expected_counts(created=2)
    ((found),) = database.query("SELECT * FROM t WHERE id = 1")
    expected = (1, "1.10", "2026-02-03", "2026-02-03 04:05:06.700000", "04:05:00")
    if kind == "made" and not database.is_sqlite:
        assert found[1:4] == (decimal.Decimal("1.10"), dt.date(2026, 2, 3), MOMENT)
    else:
        # A price in a new table of SQLite compares as a number.
        price = 1.1 if kind == "made" else "1.10"
        assert found == (1, price, *expected[2:])


def test_a_uuid_of_parquet(postgresql_database: CliDatabase, tmp_path: Path) -> None:
    postgresql_database.query("CREATE TABLE t (id uuid PRIMARY KEY)")
    value = uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")
    column = pa.array([value.bytes], pa.uuid())
    result = postgresql_database.load(
        parquet(tmp_path / "t.pq", {"id": column}), "--key", "id"
    )
    assert counts(result) == expected_counts(created=1)
    assert postgresql_database.query("SELECT id::text FROM t") == [(str(value),)]


def test_an_error_in_parquet_names_the_row(
    postgresql_database: CliDatabase, tmp_path: Path
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, name text NOT NULL)"
    )
    path = parquet(tmp_path / "t.parquet", {"id": [1, 2], "name": ["a", None]})
    result = postgresql_database.load(path, "--key", "id")
    assert f"{path}, line 2, column 'name': null value in column" in result.stderr


def test_many_rows_of_parquet_and_none(
    sqlite_database: CliDatabase, tmp_path: Path
) -> None:
    path = parquet(tmp_path / "t.parquet", {"id": [*range(25_000)]})
    result = sqlite_database.load(path, "--key", "id", "--create-table")
    assert counts(result) == expected_counts(created=25_000)
    empty = parquet(tmp_path / "t.parquet", {"id": pa.array([], pa.int64())})
    assert counts(sqlite_database.load(empty, "--key", "id")) == expected_counts()


@pytest.mark.parametrize("names", [["id", "id"], ["id", ""]])
def test_columns_of_parquet_need_names(
    sqlite_database: CliDatabase, tmp_path: Path, names: list[str]
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table([[1], [2]], names=names), path)
    result = sqlite_database.load(path, "--key", "id", "--create-table")
    assert result.exit_code == 1
    assert "every column needs a name, and names must not repeat" in result.stderr


def test_parquet_that_breaks_off(sqlite_database: CliDatabase, tmp_path: Path) -> None:
    path = parquet(tmp_path / "t.parquet", {"id": [*range(100_000)]})
    content = bytearray(path.read_bytes())
    content[1000:90_000] = bytes(89_000)
    path.write_bytes(content)
    result = sqlite_database.load(path, "--key", "id", "--create-table")
    assert result.exit_code == 1
    assert f"{path} cannot be read as Parquet: " in result.stderr


@pytest.mark.parametrize("source", ["standard input", "pipe"])
def test_parquet_comes_by_a_pipe(
    sqlite_database: CliDatabase, tmp_path: Path, source: str
) -> None:
    content = parquet(tmp_path / "t.parquet", {"id": [1, 2]}).read_bytes()
    options = ("--key", "id", "--create-table")
    if source == "pipe":
        os.mkfifo(tmp_path / "pipe")
        thread = threading.Thread(
            target=(tmp_path / "pipe").write_bytes, args=[content]
        )
        thread.start()
        result = sqlite_database.load(
            tmp_path / "pipe", *options, "--format", "parquet"
        )
        thread.join()
    else:
        result = sqlite_database.load("-", *options, stdin=content)
    assert counts(result) == expected_counts(created=2)


# A type of Arrow, a value, and what SQLite and PostgreSQL store; the second as text.
ODD: Final = [
    (pa.timestamp("ns"), 1700000000123456789, "2023-11-14 22:13:20.123456789", "2023-11-14 22:13:20.123457"),
    (pa.timestamp("ns"), 1700000000123456000, "2023-11-14 22:13:20.123456", None),
    (pa.timestamp("ns", "Europe/Berlin"), 1, "1970-01-01 00:00:00.000000001+00:00", "1970-01-01 00:00:00+00"),
    (pa.timestamp("s"), 253402300800, "10000-01-01 00:00:00", None),
    (pa.timestamp("ms"), -99999999999999, "1200-02-15 14:13:20.001 BC", None),
    (pa.date32(), 2932897, "10000-01-01", None),
    (pa.date32(), -719163, "0001-12-31 BC", None),
    (pa.time64("ns"), 1000, "00:00:00.000001", None),
    (pa.duration("s"), 5, "PT5S", "00:00:05"),
    (pa.duration("us"), -1500000, "PT-1.5S", "-00:00:01.5"),
    (pa.duration("ns"), 5000, "PT0.000005S", "00:00:00.000005"),
    (pa.duration("ns"), 1, "PT0.000000001S", "00:00:00"),
    (pa.map_(pa.string(), pa.int32()), [("a", 1), ("b", None)], '{"a": 1, "b": null}', None),
    (pa.map_(pa.int32(), pa.int32()), [(1, 1), (1, 2)], "[[1, 1], [1, 2]]", None),
    (pa.list_(pa.timestamp("ns")), [1], '["1970-01-01 00:00:00.000000001"]', None),
    (pa.struct({"a": pa.date32()}), {"a": 1}, '{"a": "1970-01-02"}', None),
    (pa.struct({"a": pa.duration("ns")}), {"a": 1}, '{"a": "PT0.000000001S"}', None),
    (pa.decimal128(20, 2), decimal.Decimal("123456789012345678.12"), "123456789012345678.12", None),
    (pa.uint64(), 2**63, str(2**63), None),
]  # fmt: skip
INTO: Final = {
    "timestamp": "timestamp",
    "date32": "date",
    "time64": "time",
    "duration": "interval",
    "map": "jsonb",
    "list": "jsonb",
    "struct": "jsonb",
    "decimal128": "numeric",
    "uint64": "numeric",
}


@pytest.mark.parametrize(("kind", "value", "in_sqlite", "in_postgresql"), ODD)
@pytest.mark.parametrize("made", [False, True])
def test_odd_types_of_parquet(
    database: CliDatabase,
    tmp_path: Path,
    *,
    made: bool,
    kind: Any,
    value: Any,
    in_sqlite: str,
    in_postgresql: str | None,
) -> None:
    path = parquet(
        tmp_path / "t.parquet", {"id": [1, 2], "v": pa.array([value, None], kind)}
    )
    name = INTO[str(kind).partition("[")[0].partition("<")[0].partition("(")[0]]
    name = "timestamptz" if "tz=" in str(kind) else name
    if not made:
        column = "TEXT" if database.is_sqlite else name
        database.query(f"CREATE TABLE t (id integer PRIMARY KEY, v {column})")
    result = database.load(path, "--key", "id", "--create-table")
    assert counts(result) == expected_counts(created=2)
    if database.is_sqlite:
        assert database.query("SELECT v FROM t ORDER BY id") == [(in_sqlite,), (None,)]
    else:
        ((found, type_),) = database.query(
            "SELECT v::text, pg_typeof(v)::text FROM t,"
            " (SELECT set_config('timezone', 'UTC', true)) AS s WHERE id = 1"
        )
        as_text = made and type_ == "text"
        assert found == (in_sqlite if as_text else in_postgresql or in_sqlite)


def test_json_in_a_text_of_parquet_is_json(
    postgresql_database: CliDatabase, tmp_path: Path
) -> None:
    postgresql_database.query("CREATE TABLE t (id integer PRIMARY KEY, v jsonb)")
    path = parquet(tmp_path / "t.parquet", {"id": [1], "v": ['{"a": [1]}']})
    assert postgresql_database.load(path, "--key", "id").exit_code == 0
    assert postgresql_database.query("SELECT v->'a'->>0 FROM t") == [("1",)]
    path = parquet(tmp_path / "t.parquet", {"id": [1], "v": ["{"]})
    result = postgresql_database.load(path, "--key", "id")
    assert (
        "t.parquet, line 1, column 'v': invalid input syntax for type json"
        in result.stderr
    )


def test_lists_of_parquet_are_arrays(
    postgresql_database: CliDatabase, tmp_path: Path
) -> None:
    postgresql_database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, d date[], b bytea[])"
    )
    columns = {"id": [1], "d": [[dt.date(2026, 2, 3), None]], "b": [[b"\xde\xad"]]}
    path = parquet(tmp_path / "t.parquet", columns)
    assert postgresql_database.load(path, "--key", "id").exit_code == 0
    assert postgresql_database.query("SELECT d, b FROM t") == [
        ([dt.date(2026, 2, 3), None], [b"\xde\xad"])
    ]


@pytest.mark.parametrize("kind", ["text", "jsonb", "integer"])
def test_bytes_in_a_column_of_another_type(
    postgresql_database: CliDatabase, tmp_path: Path, kind: str
) -> None:
    postgresql_database.query(f"CREATE TABLE t (id integer PRIMARY KEY, v {kind})")
    for value in (b"x", [b"x"]):
        path = parquet(tmp_path / "t.parquet", {"id": [1], "v": [value]})
        result = postgresql_database.load(path, "--key", "id")
        assert result.exit_code == 1
        assert "line 1, column 'v': bytes, which are not text" in result.stderr


def test_parquet_without_its_library(
    sqlite_database: CliDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "t.parquet", {"id": [1]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = sqlite_database.load(path, "--key", "id")
    assert result.exit_code == 1
    assert (
        "reading Parquet needs pyarrow: pip install 'aioupsert[parquet]'"
        in result.stderr
    )
