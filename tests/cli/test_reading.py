import csv
import errno
import gzip
import io
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aioupsert.cli.errors import LoadError
from aioupsert.cli.reading import ReadOptions, Row, RowError, each_row, open_input
from aioupsert.cli.reading.delimited import read_delimited
from aioupsert.cli.reading.json import read_json, read_json_lines
from tests.cli.databases import Write, run

CSV = b"a,b\n1,x\n2,\n"
JSONL = b'{"a": 1, "b": "x"}\n\n{"a": 2.5, "b": [null]}\n'
JSON = b'[\n {"a": 1, "b": "x"},\n\n{"a":2.5,"b":[null]}]\n'
TYPED = [{"a": 1, "b": "x"}, {"a": 2.5, "b": [None]}]


def read_all(*paths: Path, options: ReadOptions | None = None) -> list[Row]:
    with open_input(paths, options or ReadOptions()) as source:
        return [*source.rows]


def where(rows: list[Row]) -> list[tuple[str, int]]:
    return [(Path(row.file).name, row.line) for row in rows]


def message(path: Path, options: ReadOptions | None = None) -> str:
    with pytest.raises(LoadError) as caught:
        read_all(path, options=options)
    return str(caught.value).removeprefix(f"{path}")


# --- What is read ---------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("name", "content", "rows", "lines"),
    [
        ("t.csv", CSV, [{"a": "1", "b": "x"}, {"a": "2", "b": None}], [2, 3]),
        ("t.txt", CSV, [{"a": "1", "b": "x"}, {"a": "2", "b": None}], [2, 3]),
        ("T.TSV", b'a\tb\n"1\n2"\tx,y\n3\t4\n', [{"a": "1\n2", "b": "x,y"}], [2]),
        ("t.jsonl", JSONL, TYPED, [1, 3]),
        ("t.ndjson", JSONL, TYPED, [1, 3]),
        ("t.json", JSON, TYPED, [2, 4]),
        ("t.json", b"[]", [], []),
        ("t.json", JSONL, TYPED, [1, 3]),
        ("t.json", b'{"a":\n1}{"a": 2}', [{"a": 1}, {"a": 2}], [1, 2]),
        ("t.json", b" [\n\n] ", [], []),
        ("t.jsonl", b"", [], []),
    ],
)
def test_the_name_of_a_file_tells_its_format(
    file: Write,
    name: str,
    content: bytes,
    rows: list[Any],
    lines: list[int],
    *,
    packed: bool,
) -> None:
    if packed:
        name, content = f"{name}.gz", gzip.compress(content)
    found = read_all(file(content, name))[: len(rows)]
    assert found == rows
    assert where(found) == [(name, line) for line in lines]


def test_gzip_is_known_by_its_content(file: Write) -> None:
    assert len(read_all(file(gzip.compress(CSV), "t.csv"))) == 2
    assert len(read_all(file(CSV, "t.csv.gz"))) == 2


def test_the_option_wins_over_the_name(file: Write) -> None:
    path = file(JSONL, "t.csv")
    assert read_all(path, options=ReadOptions("jsonl")) == TYPED


def test_several_files_are_one_input_in_their_order(file: Write) -> None:
    first, second = file("a,b\n1,2\n", "1.csv"), file('{"b": 3}\n', "2.jsonl")
    third = file("b,c\n\n4,5\n", "3.csv")
    rows = read_all(first, second, third, first)
    assert [dict(row) for row in rows] == [
        {"a": "1", "b": "2"},
        {"b": 3},
        {"b": "4", "c": "5"},
        {"a": "1", "b": "2"},
    ]
    assert where(rows) == [("1.csv", 2), ("2.jsonl", 1), ("3.csv", 3), ("1.csv", 2)]


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("t.csv", "a,b\n", ("a", "b")),
        ("t.jsonl", '{"b": 1, "a": 2}\n{"c": 3}\n', ("b", "a")),
        ("t.json", "[]", ()),
    ],
)
def test_the_columns_are_known_before_the_rows(
    file: Write, name: str, content: str, columns: tuple[str, ...]
) -> None:
    with open_input([file(content, name)], ReadOptions()) as source:
        assert source.columns == columns


def test_peeking_loses_no_row(file: Write) -> None:
    with open_input([file(CSV)], ReadOptions()) as source:
        assert [row["a"] for row in source.peek(1)] == ["1"]
        assert [row["a"] for row in source.rows] == ["1", "2"]


@pytest.mark.parametrize(
    ("null", "expected"), [("", [None, "NULL"]), ("NULL", ["", None])]
)
def test_the_cell_that_means_null(
    file: Write, null: str, expected: list[str | None]
) -> None:
    rows = read_all(file("a,b\n,NULL\n"), options=ReadOptions(nulls=frozenset([null])))
    assert [*rows[0].values()] == expected


def test_numbers_and_texts_of_json_are_what_they_are(file: Write) -> None:
    line = {"a": 10**20, "b": "é😀", "c": True, "d": None, "e": {"f": [1]}}
    assert read_all(file(json.dumps(line), "t.jsonl")) == [line]


CELLS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2)))
def test_what_csv_writes_is_read_back(rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    text.seek(0)
    columns, found, _ = read_delimited(
        "test", text, ReadOptions(nulls=frozenset()), ","
    )
    assert columns == ("a", "b")
    assert [[*row.values()] for row in each_row(found)] == rows


WRITTEN = st.lists(st.sampled_from(["x", '"', '""', ",", "\n", "\r\n", "#", " ", "N"]))


@given(
    text=WRITTEN.map("".join),
    at_once=st.integers(2, 9),
    trim=st.booleans(),
    comment=st.none() | st.just("#"),
)
def test_lines_mean_the_same_read_at_once_or_one_by_one(
    text: str, at_once: int, comment: str | None, *, trim: bool
) -> None:
    nulls = {"", "N"}

    def found(lines: int) -> tuple[list[Any], list[Any]]:
        errors: list[RowError] = []
        options = ReadOptions(
            on_bad_row=errors.append,
            nulls=frozenset(nulls),
            lines_at_once=lines,
            comment=comment,
            trim=trim,
        )
        source = io.StringIO("a,b\n" + text, newline="")
        rows = each_row(read_delimited("test", source, options, ",").rows)
        return (
            [(row.line, [*row.values()]) for row in rows],
            [(error.line, str(error), error.text) for error in errors],
        )

    rows, errors = found(1)
    assert found(at_once) == (rows, errors)
    if comment is None and not trim:
        records = csv.reader(io.StringIO(text, newline=""), strict=True)
        with suppress(csv.Error):
            expected = [cells for cells in records if len(cells) == 2]
            assert len(rows) == len(expected)
            for (_, cells), its in zip(rows, expected, strict=True):
                for cell, its_text in zip(cells, its, strict=True):
                    assert cell == its_text or (cell is None and its_text in nulls)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | CELLS,
    lambda inner: st.lists(inner) | st.dictionaries(CELLS, inner),
    max_leaves=5,
)


@given(
    rows=st.lists(st.dictionaries(CELLS, VALUES, max_size=4), max_size=5),
    indent=st.sampled_from([None, 0, 3]),
    block=st.integers(1, 70),
)
def test_what_json_writes_is_read_back_in_blocks_of_any_size(
    rows: list[dict[str, Any]], indent: int | None, block: int
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=False)

    class Blocks(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            assert size
            return super().read(block)

    found = [*read_json("test", Blocks(text.encode()), ReadOptions())]
    assert found == rows


def test_a_row_of_json_may_be_longer_than_a_block() -> None:
    rows = [{"a": "x" * 300_000, "b": [1] * 100_000}, {"a": ""}]
    binary = io.BytesIO(json.dumps(rows).encode())
    assert [*read_json("test", binary, ReadOptions())] == rows


def test_a_cell_may_be_long() -> None:
    _, rows, _ = read_delimited("test", ["a\n", "x" * 200_000], ReadOptions(), ",")
    assert len(next(each_row(rows))["a"]) == 200_000


# --- How it is read -------------------------------------------------------------------


def test_rows_of_csv_are_read_as_they_are_asked_for() -> None:
    lines = iter(["a\n", "1\n", "2\n", "3\n"])
    options = ReadOptions(lines_at_once=2)
    _, rows, _ = read_delimited("test", lines, options, ",")
    assert [*next(rows)] == [{"a": "1"}, {"a": "2"}]
    assert [*lines] == ["3\n"]


def test_fewer_long_lines_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aioupsert.cli.reading.delimited._MOST_CHARACTERS", 10)
    lines = ["a\n", *["1234\n"] * 7]
    _, parts, _ = read_delimited("test", lines, ReadOptions(), ",")
    assert [len(part) for part in parts] == [3, 3, 1]


@pytest.mark.parametrize("last", ["2\n", '"2\n'])
def test_rows_before_what_cannot_be_read_are_read(last: str) -> None:
    def lines() -> Iterator[str]:
        yield from ["a\n", "1\n", last]
        raise OSError(errno.EIO, "the disk is broken")

    _, parts, _ = read_delimited("test", lines(), ReadOptions(), ",")
    first = next(parts)
    assert [*each_row([first])] == [{"a": "1"}, {"a": "2"}][: len(first)]
    assert len(first) == (1 if '"' in last else 2)
    with pytest.raises(LoadError, match="test, line 4: the disk is broken"):
        next(parts)


def test_lines_of_json_are_read_as_they_are_asked_for() -> None:
    lines = iter(['{"a": 1}\n', "{}\n"])
    assert next(read_json_lines("test", lines, ReadOptions())) == {"a": 1}
    assert [*lines] == ["{}\n"]


def test_an_array_of_json_is_read_as_it_is_asked_for() -> None:
    binary = io.BytesIO(b"[" + b'{"a": 1},\n' * 30_000 + b"{}]")
    rows = read_json("test", binary, ReadOptions())
    assert next(rows) == {"a": 1}
    assert binary.tell() < 100_000
    assert sum(1 for _ in rows) == 30_000


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.jsonl", "t.json"])
def test_an_input_tells_how_far_it_is(file: Write, name: str) -> None:
    # More than one block, of the compressed file too.
    rows = [{"a": os.urandom(50).hex()} for _ in range(10_000)]
    text = "a\n" + "\n".join(row["a"] for row in rows)
    if "json" in name:
        text = json.dumps(rows)
        text = text if name.endswith("json") else text[1:-1].replace("},", "}\n")
    content = gzip.compress(text.encode()) if name.endswith("gz") else text.encode()
    path = file(content, name)
    with open_input([path, path], ReadOptions()) as source:
        size = path.stat().st_size
        assert source.size == size * 2
        before = source.position()
        assert sum(1 for _ in source.rows) == 20_000
        assert before < size < source.position() == source.size


def test_a_named_pipe_has_no_size(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(CSV,))
    thread.start()
    with open_input([path], ReadOptions()) as source:
        assert len([*source.rows]) == 2
        assert (source.size, source.position()) == (None, 0)
    thread.join()


# --- What is wrong with it ------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", " is empty: a header is required"),
        ("\n\n", " is empty: a header is required"),
        ("id,n,id\n", ": the header names 'id' twice"),
        ("id,,n\n", ": column 2 of the header has no name"),
        ("id,n\0\n", ": column 2 of the header has no name"),
        (
            'id,"n\n',
            ", line 1, column 4: invalid CSV: the quote that opens here is never closed",
        ),
        (
            'id,n\n1,"a\n2,b\n3,"c"\n4,d\n',
            ", line 2, column 3: invalid CSV: the quote that opens here is closed on line 4, where the cell does not end",
        ),
        (
            'id,n\n"1""",2\n3,"a""\n',
            ", line 3, column 3: invalid CSV: the quote that opens here is never closed",
        ),
        (
            "id,n\n1,2\n3\n",
            ", line 3, column 'n': expected 2 cells as in the header, found 1",
        ),
        (
            "id,n\n1,2,3\n",
            ", line 2, column 3: expected 2 cells as in the header, found 3",
        ),
        (
            'id,n\n"1\n",2\n\n1,"a\n',
            ", line 5, column 3: invalid CSV: the quote that opens here is never closed",
        ),
        ('id,n\n1,"a"b\n', ", line 2: invalid CSV: ',' expected after '\"'"),
    ],
)
def test_broken_csv(file: Write, content: str, expected: str) -> None:
    assert message(file(content)) == expected


BROKEN = ": invalid JSON: "


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"a": 1}\n{"a" 1}\n', f", line 2, column 6{BROKEN}Expecting ':' delimiter"),
        ('{"a": 1\n}\n', f", line 1, column 1{BROKEN}"),
        ("\n[1]\n", ", line 2: a row must be an object, not an array"),
        ("null\n", ", line 1: a row must be an object, not null"),
        ("true\n", ", line 1: a row must be an object, not a boolean"),
        ("1\n", ", line 1: a row must be an object, not a number"),
        ('"a"\n', ", line 1: a row must be an object, not text"),
        ("[" * 100_000, f", line 1{BROKEN}nested too deeply"),
        ('{"a": ' + "1" * 5_000 + "}", f", line 1{BROKEN}Exceeds the limit"),
        (
            '{"a": 1, "b": 2}\n{"a": 1, "b": 2, "a": 1}\n',
            f", line 2{BROKEN}an object has two members 'a'",
        ),
        ('{"a": {"b": 1, "b": null}}\n', f", line 1{BROKEN}an object has two"),
        ('{"a": [{"": 1, "": 2}]}\n', f", line 1{BROKEN}an object has two members ''"),
    ],
)
def test_broken_lines_of_json(file: Write, content: str, expected: str) -> None:
    said = message(file(content, "t.jsonl"))
    # Python has a column for the end of a line of its own.
    assert said.startswith(expected) or "Expecting" in said


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", f", line 1, column 1{BROKEN}expecting an array or an object"),
        ('\n "a"', f", line 2, column 2{BROKEN}expecting an array or an object"),
        ('{"a": 1}\n2', ", line 2: a row must be an object, not a number"),
        ('{"a": 1},\n', f", line 1, column 9{BROKEN}Expecting value"),
        ("[", f", line 1, column 2{BROKEN}Expecting value"),
        ('[{"a": 1}', f", line 1, column 10{BROKEN}expecting ',' or ']'"),
        ('[{"a": 1},\n  ]', f", line 2, column 3{BROKEN}Expecting value"),
        ('[{}\n\n {"a": 1}]', f", line 3, column 2{BROKEN}expecting ',' or ']'"),
        ("[{}]\n{}", f", line 2, column 1{BROKEN}unexpected text after the array"),
        ('[{},\n{"a": x}]', f", line 2, column 7{BROKEN}Expecting value"),
        ('[\n{"a": "x}]', f", line 2, column 7{BROKEN}Unterminated string"),
        ('[{"a" 1}' + " " * 99_999, f", line 1, column 7{BROKEN}Expecting ':'"),
        ("[{},\n 1]", ", line 2: a row must be an object, not a number"),
        ("[" * 200_000, f", line 1{BROKEN}nested too deeply"),
        ('[{"a": ' + "1" * 5_000 + "}]", f", line 1{BROKEN}Exceeds the limit"),
        ('[{},\n{"a": 1, "a": 2}]', f", line 2{BROKEN}an object has two members 'a'"),
        ('{"a": 1}\n{"b": {"a": 1, "a": 1}}', f", line 2{BROKEN}an object has two"),
    ],
)
def test_a_broken_array_of_json(file: Write, content: str, expected: str) -> None:
    assert message(file(content, "t.json")).startswith(expected)


def test_a_text_that_never_ends_is_not_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aioupsert.cli.reading.json._MAX_VALUE_LENGTH", 1 << 17)
    binary = io.BytesIO(b'[{"a": "' + b"x" * 10_000_000)
    with pytest.raises(LoadError, match=r"^test, line 1, column 8: .* Unterminated"):
        next(read_json("test", binary, ReadOptions()))
    assert binary.tell() < 1_000_000


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.json"])
@pytest.mark.parametrize(
    ("before", "column"), [(b"", None), (b"\n", 2), (b"\n" * 100_000, 2)]
)
def test_a_bad_byte_has_its_line(
    file: Write, name: str, before: bytes, column: int | None
) -> None:
    start, row = b'{"a": 1}' if "jsonl" in name else b'[{"a": 1}', b" "
    if "csv" in name:
        start, row = b"a", b"1"
    said = message(file(start + before + row + b"\xff\n", name))
    position = f", column {column}" if column else ""
    assert said.startswith(
        f", line {before.count(10) + 1}{position}: byte 0xff is not valid utf"
    )
    assert said.endswith("; see --encoding")


def test_text_of_another_encoding_is_refused(file: Write) -> None:
    said = message(file("a\n"), ReadOptions(encoding="utf-16"))
    assert said.startswith(", line 1: ")
    assert "tream does not start with BOM" in said


@pytest.mark.parametrize(
    ("errors", "expected"), [("replace", "1\ufffd"), ("ignore", "1")]
)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b"a\n1\xff\n"),
        ("t.jsonl", b'{"a": "1\xff"}'),
        ("t.json", b'[{"a": "1\xff"}]'),
    ],
)
def test_or_what_is_not_of_the_encoding_is_replaced_or_left_out(
    file: Write, name: str, content: bytes, errors: Any, expected: str
) -> None:
    rows = read_all(file(content, name), options=ReadOptions(encoding_errors=errors))
    assert rows == [{"a": expected}]


@pytest.mark.parametrize(
    "content",
    [
        '{"meta": {"items": [{"a": 2}]}, "data": {"x": "[", "items": [{"a": 1}]}, "n": 1}',
        ' {"data" : {"items" : {"a": 1}}}'.replace('{"a": 1}', '[\n{"a": 1}\n]'),
    ],
)
def test_rows_of_json_may_be_inside_of_objects(file: Write, content: str) -> None:
    options = ReadOptions(format="json", json_path=("data", "items"))
    assert read_all(file(content, "t.json"), options=options) == [{"a": 1}]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "[]",
            ", line 1, column 1: invalid JSON: expecting an object with the member 'data'",
        ),
        ('{"data": [1]}', "expecting an object with the member 'items'"),
        ('{"data": {"item": 1}}', "the object has no member 'items'"),
        ('{"data": {}}', "Expecting value"),
        ('{"data": {"items" 1}}', "the object has no member 'items'"),
        ('{"data": {"items": 1}}', "expecting an array or an object"),
    ],
)
def test_what_does_not_lead_to_them_is_named(
    file: Write, content: str, expected: str
) -> None:
    options = ReadOptions(format="json", json_path=("data", "items"))
    assert expected in message(file(content, "t.json"), options)


@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz", "t.json.gz"])
@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda packed: packed[:-20], "end-of-stream marker"),
        (lambda packed: packed[:-8] + b"\0" * 8, "CRC check failed"),
        (lambda packed: packed[:20] + b"\xff" * 40 + packed[60:], "decompressing"),
    ],
    ids=["cut", "checksum", "content"],
)
def test_a_broken_gzip_file(
    file: Write, name: str, harm: Callable[[bytes], bytes], expected: str
) -> None:
    rows = [{"a": os.urandom(9).hex()} for _ in range(100)]
    text = "a\n" + "\n".join(row["a"] for row in rows)
    if "json" in name:
        text = json.dumps(rows)
        text = text if name.endswith("json.gz") else text[1:-1].replace("},", "}\n")
    assert expected in message(file(harm(gzip.compress(text.encode())), name))


@pytest.mark.parametrize(
    "name", ["no.csv", ".", "no.json", "no.parquet", "bad\0name.csv"]
)
def test_a_file_that_cannot_be_opened(file: Write, tmp_path: Path, name: str) -> None:
    with ExitStack() as stack:
        # The second is looked at before a row of the first is read.
        files = open_input([file(CSV), tmp_path / name], ReadOptions())
        with pytest.raises(LoadError, match=r"^cannot read ") as caught:
            stack.enter_context(files)
    assert "Errno" not in str(caught.value)


def test_a_file_that_is_nothing_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The name of a socket must be short.
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        assert message(Path("socket")).startswith("cannot read ")


def test_an_error_of_the_system_while_reading_has_its_line() -> None:
    def lines() -> Iterator[str]:
        yield "a\n"
        raise OSError(errno.EIO, "Input/output error")

    _, rows, _ = read_delimited("test", lines(), ReadOptions(), ",")
    with pytest.raises(LoadError, match=r"^test, line 2: Input/output error$"):
        next(rows)


class BrokenPipe(io.BytesIO):
    def readinto1(self, _buffer: object, /) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_standard_input_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(BrokenPipe()))
    with pytest.raises(LoadError, match=r"^cannot read standard input: Input/output"):
        read_all(Path("-"))


@pytest.mark.parametrize(
    ("name", "content", "places"),
    [
        ("t.csv", 'a,b\n1,2\n3\n4,"5"6\n7,8\n', [(3, "b"), (4, None)]),
        ("t.jsonl", '{"a": "1"}\n{"a": \n2\n{"a": "7"}\n', [(2, 7), (3, None)]),
        ("t.json", '[{"a": "1"},\n2,{"a": "7"}]\n', [(2, None)]),
    ],
)
def test_bad_rows_can_be_left_out(
    file: Write, name: str, content: str, places: list[tuple[int, str | int | None]]
) -> None:
    bad: list[RowError] = []
    rows = read_all(file(content, name), options=ReadOptions(on_bad_row=bad.append))
    assert [row["a"] for row in rows] == ["1", "7"]
    assert [(error.line, error.column) for error in bad] == places


# --- Whatever is in a file ------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@given(
    content=st.binary(max_size=200) | st.text('{}[]",:1.\n\\ua ').map(str.encode),
    name=st.sampled_from(["t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet"]),
    encoding=st.sampled_from(["utf-8-sig", "utf-16"]),
    packed=st.booleans(),
)
def test_any_bytes_are_rows_or_a_clear_error(
    folder: Path, content: bytes, name: str, encoding: str, *, packed: bool
) -> None:
    path = folder / name
    path.write_bytes(gzip.compress(content) if packed else content)
    try:
        rows = read_all(path, options=ReadOptions(encoding=encoding))
    except LoadError as exc:
        assert str(exc).startswith(str(path))  # noqa: PT017  # or there is none
    else:
        assert all(row.line >= 1 for row in rows)


# Letters that mean something to CSV, to JSON, to SQL, or to the names of columns.
TEXTS = st.text(alphabet='a1,";\n\r\0 é\ufeff.-{}[]:', max_size=30)


# Each example loads a file into a new database, which takes long on a busy machine.
@settings(deadline=None)
@given(text=TEXTS, name=st.sampled_from(["t.csv", "t.jsonl", "t.json"]))
def test_any_file_is_loaded_or_refused_without_a_traceback(
    folder: Path, text: str, name: str
) -> None:
    path, database = folder / name, folder / "text.db"
    start = {"t.csv": "a,", "t.jsonl": '{"a": 1, ', "t.json": '[{"a": 1, '}
    path.write_bytes((start[name] + text).encode())
    database.unlink(missing_ok=True)
    result = run(
        "load", f"sqlite:///{database}", "t", path, "-k", "a", "--create-table"
    )
    assert result.exit_code in {0, 1}
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stderr.startswith(("created table t: ", "aioupsert: "))
