"""Values of JSON and Parquet become what columns hold."""

import datetime as dt
import decimal
import importlib
import json
import sys
import uuid
from pathlib import Path
from typing import Any, Final

import pytest

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
    ("text", "5.50", "5.5"),
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
]  # fmt: skip
TO_SQLITE: Final = [
    ("INTEGER", "5", 5),
    ("INTEGER", "5.0", 5),
    ("INTEGER", '"5"', 5),
    ("INTEGER", "true", 1),
    ("BOOLEAN", "true", 1),
    ("BOOLEAN", '"true"', 1),
    ("REAL", "5", 5.0),
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
    postgresql_database.query("SET timezone = 'UTC'")
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
        assert found == expected


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


def test_parquet_cannot_come_by_standard_input(sqlite_database: CliDatabase) -> None:
    result = sqlite_database.load(
        "-", "--key", "id", "--format", "parquet", stdin=b"PAR1"
    )
    assert result.exit_code == 1
    assert (
        "Parquet is read from its end, so it cannot come from standard input"
        in result.stderr
    )


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
