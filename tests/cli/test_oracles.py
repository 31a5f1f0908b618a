"""What a load stores is what others make of the same file, value by value."""

import asyncio
import datetime as dt
import importlib
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.databases import run
from tests.support.servers import Server

# pyarrow has no annotations.
pa: Any = importlib.import_module("pyarrow")
pq: Any = importlib.import_module("pyarrow.parquet")

# --- Values ---------------------------------------------------------------------------

WORDS: Final = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"])
    | st.sampled_from(list("\"',;\t\r\n\\ N{}[]0e.-")),
    max_size=6,
)
INTEGERS: Final = st.integers(-(2**63), 2**63 - 1)
DECIMALS: Final = st.decimals(allow_nan=False, allow_infinity=False)
FLOATS: Final = st.floats(allow_nan=False, allow_infinity=False)
PLAIN: Final = st.none() | st.booleans() | st.integers() | WORDS
JSON: Final = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner)
)

# How the types write what they are given, in the words of a file.
CELLS: Final[dict[str, st.SearchStrategy[str]]] = {
    "text": WORDS,
    "bigint": INTEGERS.map("{:+d} ".format) | INTEGERS.map(str),
    "numeric": DECIMALS.map(str),
    "double precision": FLOATS.map(repr) | st.sampled_from(["NaN", "-Infinity", "1e5"]),
    "boolean": st.sampled_from(["t", "FALSE", "yes", "0", " on "]),
    "timestamptz": st.datetimes().map(lambda time: f"{time}+02:30"),
    "interval": st.timedeltas().map(lambda span: f"{span.days} days {span.seconds} s"),
    "bytea": st.binary(max_size=4).map(lambda data: rf"\x{data.hex()}"),
    "jsonb": JSON.map(json.dumps).filter(lambda text: r"\u0000" not in text),
    "text[]": st.lists(WORDS.map(json.dumps), max_size=3).map(
        lambda words: f"{{{','.join(words)}}}"
    ),
}


def written(path: Path, rows: Sequence[Sequence[str | None]]) -> Path:
    """A file of CSV, in which NULL is an empty cell and no text is."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(f"c{n}" for n in range(len(rows[0]))) + "\n")
        for row in rows:
            cells = (
                "" if cell is None else '"' + cell.replace('"', '""') + '"'
                for cell in row
            )
            file.write(",".join(cells) + "\n")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oracles")


class Schema:
    """Tables of a type, in a schema of PostgreSQL."""

    def __init__(self, dsn: str) -> None:
        self.url = dsn
        self._connection = psycopg.connect(dsn, autocommit=True)

    def execute(self, sql: str) -> list[Any]:
        cursor = self._connection.execute(sql.encode())
        return cursor.fetchall() if cursor.description else []

    def copy(self, table: str, path: Path) -> None:
        sql = f"COPY {table} FROM STDIN (FORMAT csv, HEADER)".encode()
        with self._connection.cursor().copy(sql) as copy:
            copy.write(path.read_bytes())

    def close(self) -> None:
        self.execute("DROP TABLE IF EXISTS oracle, loaded")
        self._connection.close()


@pytest.fixture(scope="module")
def schema(pg_server: Server) -> Any:
    with closing(Schema(pg_server.dsn)) as found:
        yield found


# --- CSV ------------------------------------------------------------------------------


@given(
    rows=st.lists(
        st.tuples(*(st.none() | cells for cells in CELLS.values())), min_size=1
    )
)
def test_csv_is_stored_as_copy_stores_it(
    schema: Schema, folder: Path, rows: list[tuple[str | None, ...]]
) -> None:
    path = written(
        folder / "rows.csv", [(str(n), *cells) for n, cells in enumerate(rows)]
    )
    types = ", ".join(f"c{n} {type_}" for n, type_ in enumerate(CELLS, start=1))
    schema.execute(
        "DROP TABLE IF EXISTS oracle, loaded;"
        f"CREATE TABLE oracle (c0 integer PRIMARY KEY, {types});"
        "CREATE TABLE loaded (LIKE oracle INCLUDING ALL)"
    )
    schema.copy("oracle", path)
    result = run("load", schema.url, "loaded", path, "--key", "c0")
    assert result.exit_code == 0, result.output
    everything = "SELECT t::text FROM {} AS t ORDER BY c0"
    assert schema.execute(everything.format("loaded")) == schema.execute(
        everything.format("oracle")
    )


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="without SQLite's shell")
@given(
    rows=st.lists(
        # The shell knows no NULL, and takes a line's end for another.
        st.tuples(*[WORDS.filter(lambda text: "\r" not in text), *CELLS.values()][:6]),
        min_size=1,
    )
)
def test_csv_is_stored_as_sqlite_imports_it(
    folder: Path, rows: list[tuple[str, ...]]
) -> None:
    database = folder / "oracle.db"
    database.unlink(missing_ok=True)
    types = ["TEXT", "BLOB", "INTEGER", "NUMERIC", "REAL", ""]
    columns = ", ".join(f"c{n} {type_}" for n, type_ in enumerate(types, start=1))
    with closing(sqlite3.connect(database)) as connection:
        for table in ("oracle", "loaded"):
            connection.execute(
                f"CREATE TABLE {table} (c0 INTEGER PRIMARY KEY, {columns})"
            )
    path = written(
        folder / "rows.csv",
        [
            (str(n), *(cell.replace("\r", "") for cell in cells))
            for n, cells in enumerate(rows)
        ],
    )
    subprocess.run(  # noqa: S603  # SQLite's own shell
        ["sqlite3", str(database), f".import --csv --skip 1 '{path}' oracle"],  # noqa: S607  # where it is installed
        check=True,
        capture_output=True,
    )
    result = run("load", f"sqlite:///{database}", "loaded", path, "--key", "c0")
    assert result.exit_code == 0, result.output
    values = ", ".join(f"typeof(c{n}), quote(c{n})" for n in range(1, len(types) + 1))
    with closing(sqlite3.connect(database)) as connection:
        loaded, oracle = (
            connection.execute(f"SELECT {values} FROM {table} ORDER BY c0").fetchall()
            for table in ("loaded", "oracle")
        )
    assert loaded == oracle


# --- JSON -----------------------------------------------------------------------------

NUMBERS: Final = (
    st.integers().map(str)
    | FLOATS.map(repr)
    | DECIMALS.map(str).filter(lambda text: "E" not in text)
    | st.sampled_from(["1e400", "-0.0", "0.10", "12345678901234567890.125"])
)


@given(
    rows=st.lists(
        st.tuples(NUMBERS, JSON, WORDS, st.booleans(), st.lists(WORDS)), min_size=1
    )
)
def test_json_is_stored_as_it_is_read_with_all_digits(
    schema: Schema, folder: Path, rows: list[tuple[str, Any, str, bool, list[str]]]
) -> None:
    path = folder / "rows.jsonl"
    lines = [
        f'{{"id": {n}, "n": {number}, "x": {{"n": {number}, "v": {json.dumps(value)}}},'
        f' "t": {json.dumps(text)}, "b": {json.dumps(flag)}, "a": {json.dumps(words)}}}'
        for n, (number, value, text, flag, words) in enumerate(rows)
        if r"\u0000" not in json.dumps(value)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    read = partial(json.loads, parse_float=Decimal)
    expected = [read(line) for line in lines]
    schema.execute(
        "DROP TABLE IF EXISTS loaded; CREATE TABLE loaded (id integer PRIMARY KEY,"
        " n numeric, x jsonb, t text, b boolean, a text[])"
    )
    result = run("load", schema.url, "loaded", path, "--key", "id", "-f", "jsonl")
    assert result.exit_code == 0, result.output
    stored = schema.execute("SELECT id, n, x::text, t, b, a FROM loaded ORDER BY id")
    assert [
        {"id": id_, "n": n, "x": read(x), "t": t, "b": b, "a": a}
        for id_, n, x, t, b, a in stored
    ] == expected


# --- Parquet --------------------------------------------------------------------------

# More microseconds than this are beyond 64 bits.
LONG: Final = dt.timedelta(days=100_000_000)
PARQUET: Final[dict[str, tuple[Any, str, st.SearchStrategy[Any]]]] = {
    "i": (pa.int64(), "bigint", INTEGERS),
    "u": (pa.uint64(), "numeric", st.integers(0, 2**64 - 1)),
    "f": (pa.float64(), "double precision", FLOATS),
    "d": (
        pa.decimal128(20, 5),
        "numeric",
        st.decimals(-(10**14), 10**14, places=5),
    ),
    "t": (pa.string(), "text", WORDS),
    "b": (pa.binary(), "bytea", st.binary(max_size=5)),
    "o": (pa.bool_(), "boolean", st.booleans()),
    "y": (pa.date32(), "date", st.dates()),
    "m": (pa.timestamp("us"), "timestamp", st.datetimes()),
    "s": (pa.duration("us"), "interval", st.timedeltas(-LONG, LONG)),
    "a": (pa.list_(pa.int32()), "integer[]", st.lists(st.integers(-9, 9))),
}


@given(
    rows=st.lists(
        st.tuples(*(st.none() | values for _, _, values in PARQUET.values())),
        min_size=1,
    )
)
def test_parquet_is_stored_as_pyarrow_reads_it(
    schema: Schema, folder: Path, rows: list[tuple[Any, ...]]
) -> None:
    path = folder / "rows.parquet"
    columns = dict(zip(PARQUET, zip(*rows, strict=True), strict=True))
    arrays = {
        name: pa.array(values, PARQUET[name][0]) for name, values in columns.items()
    }
    pq.write_table(pa.table({"id": pa.array(range(len(rows))), **arrays}), path)
    types = ", ".join(f"{name} {sql}" for name, (_, sql, _) in PARQUET.items())
    schema.execute(
        "DROP TABLE IF EXISTS loaded;"
        f"CREATE TABLE loaded (id integer PRIMARY KEY, {types})"
    )
    result = run("load", schema.url, "loaded", path, "--key", "id")
    assert result.exit_code == 0, result.output

    async def stored() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(schema.url)
        try:
            rows = await connection.fetch("SELECT * FROM loaded ORDER BY id")
            return [dict(row) for row in rows]
        finally:
            await connection.close()

    assert asyncio.run(stored()) == pq.read_table(path).to_pylist()
