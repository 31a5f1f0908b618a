"""What people have: packed files, other delimiters, quotes, headers and names."""

import asyncio
import bz2
import gzip
import importlib
import io
import json
import lzma
import os
import sqlite3
import sys
import threading
import zipfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioupsert.cli.reading import ReadOptions, open_input
from tests.cli.databases import CliDatabase, Write
from tests.support.servers import Server

# It has no annotations.
pyarrow: Any = importlib.import_module("pyarrow")

NEW = ("--key", "id", "--create-table")
CSV = b"id,n\n1,a\n2,b\n"


def zipped(content: bytes, *names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names or ("rows.csv",):
            archive.writestr(zipfile.ZipInfo(name), content)
    return packed.getvalue()


def zstd(content: bytes) -> bytes:
    buffer = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
    packed: bytes = buffer.getvalue().to_pybytes()
    return packed


PACKED: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gz": partial(gzip.compress, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
    "zip": zipped,
}


def read(path: Path, **options: Any) -> list[dict[str, Any]]:
    with open_input([path], ReadOptions(**options)) as source:
        return [dict(row) for row in source.rows]


@pytest.mark.parametrize("options", [(), ("--format", "json")])
def test_rows_inside_of_a_json_object_by_an_option(
    sqlite_database: CliDatabase, file: Write, options: tuple[str, ...]
) -> None:
    path = file('{"data": {"items": [{"id": 1, "n": "a"}]}}', "t.txt")
    path_to_rows = ("--json-path", "data.items")
    result = sqlite_database.load(path, *NEW, *path_to_rows, *options)
    assert result.exit_code == 0, result.stderr
    assert sqlite_database.query("SELECT * FROM t") == [(1, "a")]


# --- What a file is -------------------------------------------------------------------


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("how", ["name", "no name", "standard input", "pipe"])
def test_packed_files(
    sqlite_database: CliDatabase, file: Write, tmp_path: Path, *, kind: str, how: str
) -> None:
    content = PACKED[kind](CSV)
    if how == "standard input":
        result = sqlite_database.load("-", *NEW, stdin=content)
    elif how == "pipe":
        os.mkfifo(tmp_path / "pipe")
        thread = threading.Thread(
            target=(tmp_path / "pipe").write_bytes, args=[content]
        )
        thread.start()
        result = sqlite_database.load(tmp_path / "pipe", *NEW)
        thread.join()
    else:
        path = file(content, f"rows.csv.{kind}" if how == "name" else "rows")
        result = sqlite_database.load(path, *NEW)
    assert result.exit_code == 0, result.stderr
    assert sqlite_database.query("SELECT * FROM t") == [(1, "a"), (2, "b")]


def test_a_zip_file_is_copied_though_its_rows_are_read_once(
    sqlite_database: CliDatabase,
) -> None:
    sqlite_database.query("CREATE TABLE t (id INTEGER PRIMARY KEY, n TEXT)")
    result = sqlite_database.load("-", "--key", "id", stdin=zipped(CSV))
    assert result.exit_code == 0, result.stderr
    assert sqlite_database.query("SELECT * FROM t") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("kind", PACKED)
def test_packed_files_that_break_off(
    sqlite_database: CliDatabase, file: Write, kind: str
) -> None:
    content = PACKED[kind](b"id,n\n" + os.urandom(50_000).hex().encode())
    result = sqlite_database.load(file(content[:9_000]), *NEW)
    assert result.exit_code == 1
    assert result.stderr.startswith("aioupsert: ")


# Zip files have one directory at their end.
SEVERAL: Final = [*PACKED][:-1]


@pytest.mark.parametrize("kind", SEVERAL)
@pytest.mark.parametrize("size", [0, 1_000, 200_000])
def test_packed_files_of_several_parts(
    sqlite_database: CliDatabase, file: Write, kind: str, size: int
) -> None:
    words = os.urandom(size).hex()
    first, second = f"id,n\n1,{words}\n2,".encode(), b"b\n"
    whole = PACKED[kind](first) + PACKED[kind](second)
    result = sqlite_database.load(file(whole), *NEW)
    assert result.exit_code == 0, result.stderr
    assert sqlite_database.query("SELECT * FROM t") == [(1, words or None), (2, "b")]


@pytest.mark.parametrize("zeros", [4, 100_000])
@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_packed_files_may_be_filled_up_with_zeros(
    sqlite_database: CliDatabase, file: Write, kind: str, zeros: int
) -> None:
    content = PACKED[kind](CSV[:-4]) + bytes(zeros) + PACKED[kind](CSV[-4:])
    result = sqlite_database.load(file(content + bytes(zeros)), *NEW)
    assert result.exit_code == 0, result.stderr
    assert sqlite_database.query("SELECT * FROM t") == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("rest", ["a broken part", "half of a part", "something else"])
@pytest.mark.parametrize("kind", SEVERAL)
def test_what_follows_in_a_packed_file_is_not_left_out_silently(
    sqlite_database: CliDatabase, file: Write, kind: str, rest: str
) -> None:
    second = PACKED[kind](os.urandom(1_000).hex().encode())
    ends = {
        "a broken part": b"\xff" + second[1:],
        "half of a part": second[: len(second) // 2],
        "something else": b"and so on",
    }
    result = sqlite_database.load(file(PACKED[kind](CSV) + ends[rest]), *NEW)
    assert result.exit_code == 1
    assert result.stderr.startswith("aioupsert: ")
    assert sqlite_database.query("SELECT name FROM sqlite_master") == []


def test_without_pyarrow_zstd_is_unpacked_by_others(
    sqlite_database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = sqlite_database.load(file(b"\x28\xb5\x2f\xfd"), *NEW)
    assert result.exit_code == 1
    assert "reading zstd needs pyarrow" in result.stderr
    assert "zstd -dc FILE" in result.stderr


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (zipped(b"", "[Content_Types].xml", "xl/workbook.xml"), "is an Excel workbook"),
        (zipped(b"", "mimetype", "content.xml"), "is an OpenDocument file"),
        (zipped(b"", "a.csv", "b.csv"), "is a zip file of 2 files: unpack it"),
        (zipped(b"", "folder/"), "is a zip file of 0 files: unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Excel workbook: save the sheet"),
        (b"SQLite format 3\0", "is a SQLite database"),
        (gzip.compress(mtime=0, data=b"SQLite format 3\0"), "is a SQLite database"),
        (b"PGDMP", "is a dump of PostgreSQL"),
        (b"%PDF-1.4", "is a PDF document"),
    ],
)
def test_what_is_not_read_is_named(
    sqlite_database: CliDatabase, file: Write, content: bytes, expected: str
) -> None:
    result = sqlite_database.load(file(content), *NEW)
    assert result.exit_code == 1
    assert f"rows.csv {expected}" in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        b'{"id": 1}\n{"id": 2}\n',
        b'\xef\xbb\xbf {"id": 1}\n{"id": 2}',
        b'{\n"id": 1}\n{"id": 2}\n',
        b'[{"id": 1}, {"id": 2}]',
        b'[\n {"id": 1}, {"id": 2}]',
        b"id\n1\n2\n",
        "id\n1\n2\n".encode("utf-16"),
        "id\n1\n2\n".encode("utf-32"),
        gzip.compress(mtime=0, data=b'{"id": 1}\n{"id": 2}\n'),
    ],
)
def test_the_first_bytes_tell_the_format_if_the_name_does_not(
    sqlite_database: CliDatabase, file: Write, content: bytes
) -> None:
    assert sqlite_database.load(file(content, "rows"), *NEW).exit_code == 0
    assert sqlite_database.query("SELECT * FROM t") == [(1,), (2,)]


# --- Delimiters and quotes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ("id;n\n1;a,b\n", "';'"),
        ("id\tn\n1\ta,b\n", "a tab"),
        ('id|"x,y,z"|n\n1||a,b\n', "'|'"),
        ("sep=;\nid;n\n1;a,b\n", "';'"),
        ("\ufeffSEP=\t\r\nid\tn\r\n1\ta,b\r\n", "a tab"),
    ],
)
def test_the_delimiter_is_found_and_said(
    sqlite_database: CliDatabase, file: Write, content: str, shown: str
) -> None:
    path = file(content)
    result = sqlite_database.load(path, *NEW)
    assert result.exit_code == 0
    assert f"{path}: the delimiter is {shown}\n" in result.stderr
    assert sqlite_database.query("SELECT id, n FROM t") == [(1, "a,b")]


@pytest.mark.parametrize(
    "content", ["id\n1;2\n", 'id,"a;b;c"\n1;2,\n', "sep=,\nid\n1;2\n"]
)
def test_a_comma_is_not_worth_a_note(
    sqlite_database: CliDatabase, file: Write, content: str
) -> None:
    result = sqlite_database.load(file(content), *NEW)
    assert "delimiter" not in result.stderr
    assert sqlite_database.query("SELECT id FROM t") == [("1;2",)]


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("a,b\n'x,y','it''s'\n", {"quote": "'"}, ["x,y", "it's"]),
        ('a,b\n"x\\"y,",z\n', {"escape": "\\"}, ['x"y,', "z"]),
        ('a,b\n"x""y,",z\n', {"escape": '"'}, ['x"y,', "z"]),
        ('a,b\n"x,y"\n', {"quote": None}, ['"x', 'y"']),
        ("x\n\na,b\n1,2\n", {"skip_lines": 1}, ["1", "2"]),
        ("#x,y\na,b\n#1,2\n1,#2\n", {"comment": "#"}, ["1", "#2"]),
        ('a, b\n x ," y "\n', {"trim": True}, ["x", " y "]),
        ("1,2\n", {"header": False, "columns": ("a", "b")}, ["1", "2"]),
        ("a,c,b\n1,2,3\n", {"columns": ("a", "b")}, ["1", "3"]),
        ("a,c\n1,2\n", {"names": {"c": "b"}}, ["1", "2"]),
        ('a,b\n"",\n', {}, ["", None]),
        ('a,b\n"NULL",NULL\n', {"nulls": frozenset(["NULL"])}, ["NULL", None]),
        ('a,b\n"""",\n', {}, ['"', None]),
        ('a,b\n"\n",\n', {}, ["\n", None]),
        ('a,b\n"",x\\,y\n', {"escape": "\\"}, [None, "x,y"]),
        ("a,b\nNA,-\n", {"nulls": frozenset(["NA", "-"])}, [None, None]),
        ("a,b\n , \n", {"trim": True}, [None, None]),
    ],
)
def test_how_cells_are_written(
    file: Write, content: str, options: dict[str, Any], expected: list[str | None]
) -> None:
    assert read(file(content), **options) == [dict(zip("ab", expected, strict=True))]


def test_lines_are_counted_whatever_is_skipped(
    sqlite_database: CliDatabase, file: Write
) -> None:
    path = file('title\n\n# x\nid,n\n# y\n\n1,"a\nb"\n# z\n2\n')
    options = ("--skip-lines", "1", "--comment", "#", *NEW)
    result = sqlite_database.load(path, *options)
    assert result.exit_code == 1
    assert f"{path}, line 10, column 'n': expected 2 cells" in result.stderr


CELLS = st.text(st.sampled_from('ab,"\n NUL\\;'), max_size=4)
TEXT = st.lists(st.tuples(CELLS, st.booleans()), min_size=2, max_size=2)


@given(rows=st.lists(TEXT, min_size=1, max_size=4), null=st.sampled_from(["", "NUL"]))
def test_cells_are_those_of_copy(
    pg_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[tuple[str, bool]]],
    null: str,
) -> None:
    def written(cell: str, *, quoted: bool) -> str:
        if quoted or not set(',"\n ').isdisjoint(cell) or cell == "\\.":
            return '"' + cell.replace('"', '""') + '"'
        return cell

    lines = [",".join(written(c, quoted=q) for c, q in row) for row in rows]
    content = "\n".join(["a,b", *lines, ""]).encode()

    async def copied() -> list[dict[str, Any]]:
        connection = await asyncpg.connect(pg_server.dsn)
        try:
            await connection.execute(
                "CREATE TEMPORARY TABLE t (n serial, a text, b text)"
            )
            await connection.copy_to_table(
                *("t",),
                source=io.BytesIO(content),
                columns=["a", "b"],
                format="csv",
                header=True,
                null=null,
            )
            return [
                dict(row)
                for row in await connection.fetch("SELECT a, b FROM t ORDER BY n")
            ]
        finally:
            await connection.close()

    path = tmp_path_factory.getbasetemp() / "copied.csv"
    path.write_bytes(content)
    assert read(path, nulls=frozenset([null])) == asyncio.run(copied())


# --- Columns --------------------------------------------------------------------------


def made(database: CliDatabase) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, name text)")


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
@pytest.mark.parametrize(
    "options",
    [
        ("--columns", "no,title", "--map", "no=id", "--map", "title=name"),
        ("--map", "no=id", "--map", "title=name", "--ignore-unknown"),
    ],
)
def test_columns_are_chosen_and_renamed(
    database: CliDatabase,
    file: Write,
    tmp_path: Path,
    *,
    name: str,
    options: tuple[str, ...],
) -> None:
    made(database)
    content = "no,title,extra\n1,a,x\nz,b,y\n"
    if name == "t.jsonl":
        rows = [
            {"no": 1, "title": "a", "extra": "x"},
            {"no": "z", "title": "b", "extra": "y"},
        ]
        content = "".join(json.dumps(row) + "\n" for row in rows)
    path, rejects = file(content, name), tmp_path / name.replace("t.", "bad.")
    skip = ("--on-error", "skip", "--rejects", str(rejects))
    result = database.load(path, "--key", "id", *options, *skip)
    found = database.query("SELECT * FROM t WHERE id = 1")
    assert found == [(1, "a")]
    if not database.is_sqlite:
        assert result.exit_code == 3
        # With the columns of the file, to be loaded with the same options.
        lines = content.splitlines(keepends=True)
        expected = [lines[0], lines[2]] if name == "t.csv" else [lines[1]]
        assert rejects.read_text() == "".join(expected)


def test_columns_that_are_left_out_are_said(
    sqlite_database: CliDatabase, file: Write
) -> None:
    made(sqlite_database)
    path = file("id,name,x,y\n1,a,2,3\n")
    result = sqlite_database.load(path, "--key", "id", "--ignore-unknown")
    assert result.exit_code == 0
    assert "t does not have, and so does not get: x, y" in result.stderr


COMMAS: Final = (
    "id;n;whole;t\n1;1.234,5;1.000;1,5\n2;0,5;;\n3;-7;12;1.2.3\n4;0,1e3;1;x\n"
)


@pytest.mark.parametrize("created", [True, False])
def test_numbers_may_have_a_decimal_comma(
    database: CliDatabase, file: Write, *, created: bool
) -> None:
    if not created:
        database.query(
            "CREATE TABLE t (id integer PRIMARY KEY, n double precision,"
            " whole integer, t text)"
        )
    result = database.load(file(COMMAS), *NEW, "--decimal-comma")
    assert result.exit_code == 0, result.stderr
    rows = database.query("SELECT id, n, whole, t FROM t ORDER BY id")
    assert [(id_, float(n), whole, t) for id_, n, whole, t in rows] == [
        (1, 1234.5, 1000, "1,5"),
        (2, 0.5, None, None),
        (3, -7.0, 12, "1.2.3"),
        (4, 100.0, 1, "x"),
    ]


def test_a_point_where_it_cannot_be_is_an_error_then(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, n double precision)")
    path = file("id;n\n1;1,5\n2;1.5\n")
    result = database.load(path, "--key", "id", "--decimal-comma")
    assert result.exit_code == 1
    assert "line 3, column 'n': '1.5' is not a number with a decimal" in result.stderr
    assert database.query("SELECT * FROM t") == []
    skipping = ("--decimal-comma", "--on-error", "skip")
    assert database.load(path, "--key", "id", *skipping).exit_code == 3
    assert database.query("SELECT id FROM t") == [(1,)]


TWO: Final = [("Name", ()), ("title", ("--map", "title=name"))]


@pytest.mark.parametrize(("other", "options"), TWO)
def test_two_columns_of_a_file_are_not_for_one_of_the_table(
    database: CliDatabase, file: Write, other: str, options: tuple[str, ...]
) -> None:
    made(database)
    path = file(f"id,name,{other}\n1,a,b\n", "t.csv")
    result = database.load(path, "--key", "id", "--on-error", "skip", *options)
    assert result.exit_code == 1
    said = f"t.csv: 'name' and '{other}' are for one column, 'name'"
    assert said in " ".join(result.stderr.split())
    assert database.query("SELECT * FROM t") == []


@pytest.mark.parametrize(("other", "options"), TWO)
def test_a_row_of_two_values_for_one_column_is_rejected(
    database: CliDatabase,
    file: Write,
    other: str,
    options: tuple[str, ...],
) -> None:
    made(database)
    rows = [{"id": 1, "name": "a"}, {"id": 2, "name": "b", other: "c"}]
    path = file("\n".join(map(json.dumps, rows)), "t.jsonl")
    skip = ("--on-error", "skip", "--json")
    result = database.load(path, "--key", "id", *skip, *options)
    (counted,) = json.loads(result.stdout)["files"]
    assert (counted["rows"], counted["rejected"]) == (2, 1)
    said = f"line 2: 'name' and '{other}' are for one column, 'name'"
    assert said in " ".join(result.stderr.split())
    assert database.query("SELECT * FROM t") == [(1, "a")]


def test_a_row_of_two_values_is_rejected_once_if_it_is_read_twice(
    database: CliDatabase, file: Write
) -> None:
    rows = [{"id": 1, "name": "a"}, {"id": 2, "name": "b", "title": "c"}]
    path = file("\n".join(map(json.dumps, rows)), "t.jsonl")
    options = ("--map", "title=name", "--create-table", "--on-error", "skip", "--json")
    result = database.load(path, "--key", "id", *options)
    assert json.loads(result.stdout)["rejected"] == 1
    assert database.query("SELECT * FROM t") == [(1, "a")]


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (("--columns", "id,nome"), 1, "has no column 'nome' (did you mean 'name'?)"),
        (("--map", "nome=n"), 1, "has no column 'nome' (did you mean 'name'?)"),
        (("--map", "nome"), 2, "'nome' is not NAME=COLUMN"),
        (("--map", "a=b", "--map", "c=b"), 2, "'c=b' names a column twice"),
        (("--no-header",), 2, "--no-header needs --columns, which names the columns"),
        (
            ("--quote", "ab"),
            2,
            "must be one character other than a line break, not 'ab'",
        ),
    ],
)
def test_options_that_make_no_sense(
    sqlite_database: CliDatabase,
    file: Write,
    options: tuple[str, ...],
    code: int,
    expected: str,
) -> None:
    made(sqlite_database)
    result = sqlite_database.load(file("id,name\n1,a\n"), "--key", "id", *options)
    assert result.exit_code == code
    assert expected in " ".join(result.stderr.replace("│", " ").split())


def test_a_file_without_a_header(database: CliDatabase, file: Write) -> None:
    made(database)
    options = ("--no-header", "--columns", "id, name", "--key", "id")
    result = database.load(file("1,a\n2\n"), *options, "--max-errors", "1")
    assert "line 2, column 'name': expected 2 cells as in --columns" in result.stderr
    assert database.query("SELECT * FROM t") == [(1, "a")]


@pytest.mark.parametrize(
    ("how", "content", "rejected"),
    [
        (("--no-quote",), '1,"\n"2",\n', '"2",\n'),
        (("--quote", "/", "--escape", "!"), '1,"\n/2!/!!/,\n', "/2//!!/,\n"),
    ],
)
def test_rejects_of_a_file_without_a_header_have_none(
    sqlite_database: CliDatabase,
    file: Write,
    *,
    how: tuple[str, ...],
    content: str,
    rejected: str,
) -> None:
    sqlite_database.query("CREATE TABLE t (id TEXT PRIMARY KEY, n TEXT NOT NULL)")
    options = ("--no-header", "--columns", "id,n", "--key", "id", *how)
    path, rejects = file(content), file("", "bad.csv")
    skip = ("--on-error", "skip", "--rejects", str(rejects))
    assert sqlite_database.load(path, *options, *skip).exit_code == 3
    assert rejects.read_text() == rejected
    assert sqlite_database.query("SELECT * FROM t") == [("1", '"')]


def test_what_is_not_read_twice_is_not_copied(sqlite_database: CliDatabase) -> None:
    made(sqlite_database)
    text = "id,name\n" + "".join(f"{n},{n}\n" for n in range(20_000))
    assert sqlite_database.load("-", *NEW, stdin=text).exit_code == 0
    assert sqlite_database.query("SELECT count(*) FROM t") == [(20_000,)]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_the_names_of_sqlite_ignore_case(
    sqlite_database: CliDatabase, file: Write, name: str
) -> None:
    sqlite_database.query('CREATE TABLE t ("Id" INTEGER PRIMARY KEY, "Name" TEXT)')
    content = "ID,name\n1,a\n" if name == "t.csv" else '{"ID": 1, "name": "a"}\n'
    result = sqlite_database.load(file(content, name), "--key", "ID")
    assert result.exit_code == 0, result.stderr
    with closing(
        sqlite3.connect(sqlite_database.url.removeprefix("sqlite:///"))
    ) as raw:
        assert raw.execute("SELECT * FROM t").fetchall() == [(1, "a")]
