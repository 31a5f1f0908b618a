import csv
import errno
import io
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioupsert.cli.errors import LoadError
from aioupsert.cli.reading import open_source, read_rows
from tests.cli.places import run


def read_all(path: Path, encoding: str) -> tuple[set[int], str]:
    """The widths of header and rows, or the error."""
    try:
        with open_source(path, delimiter=",", encoding=encoding) as source:
            return {len(source.columns), *(len(row.cells) for row in source.rows)}, ""
    except LoadError as exc:
        return set(), str(exc)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


@given(
    content=st.binary(max_size=200), encoding=st.sampled_from(["utf-8-sig", "utf-16"])
)
def test_any_bytes_are_rows_of_one_width_or_a_clear_error(
    folder: Path, content: bytes, encoding: str
) -> None:
    path = folder / "any.csv"
    path.write_bytes(content)
    widths, error = read_all(path, encoding)
    assert error.startswith(str(path)) if error else len(widths) == 1


# Letters that mean something to CSV, to SQL, or to the names of columns.
TEXTS = st.text(alphabet='a1,";\n\r\0 é\ufeff.-', max_size=30)


@given(text=TEXTS)
def test_any_file_is_loaded_or_refused_without_a_traceback(
    folder: Path, text: str
) -> None:
    path, database = folder / "text.csv", folder / "text.db"
    path.write_bytes(("a," + text).encode())
    database.unlink(missing_ok=True)
    result = run(
        "load", f"sqlite:///{database}", "t", path, "-k", "a", "--create-table"
    )
    assert result.exit_code in {0, 1}
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stderr.startswith(("created table t: ", "aioupsert: "))


CELLS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2)))
def test_what_csv_writes_is_read_back(rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    text.seek(0)
    columns, found = read_rows("test", text)
    assert columns == ("a", "b")
    assert [row.cells for row in found] == rows


def test_rows_are_read_as_they_are_asked_for() -> None:
    lines = iter(["a\n", "1\n", "2\n"])
    _, rows = read_rows("test", lines)
    assert next(rows).cells == ["1"]
    assert list(lines) == ["2\n"]


def test_a_row_knows_the_line_it_starts_on() -> None:
    _, rows = read_rows("test", ["a\n", '"x\n', 'y"\n', "\n", "z\n"])
    assert [tuple(row) for row in rows] == [(2, ["x\ny"]), (5, ["z"])]


def test_a_cell_may_be_long() -> None:
    _, rows = read_rows("test", ["a\n", "x" * 200_000])
    assert len(next(rows).cells[0]) == 200_000


def test_a_source_tells_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a\n" + "1\n" * 10_000, encoding="utf-8")
    with open_source(path, delimiter=",", encoding="utf-8") as source:
        before = source.position()
        assert sum(1 for _ in source.rows) == 10_000
        assert 0 < before < source.position() == source.size == 20_002


def test_a_named_pipe_has_no_size(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_text, args=("a\n1\n",))
    thread.start()
    with open_source(path, delimiter=",", encoding="utf-8") as source:
        assert [row.cells for row in source.rows] == [["1"]]
        assert (source.size, source.position()) == (None, 0)
    thread.join()


def test_an_error_of_the_system_while_reading_has_its_line() -> None:
    def lines() -> Iterator[str]:
        yield "a\n"
        raise OSError(errno.EIO, "Input/output error")

    _, rows = read_rows("test", lines())
    with pytest.raises(LoadError, match=r"^test, line 2: Input/output error$"):
        next(rows)


def test_the_line_of_a_bad_byte_is_not_above_it(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a\n" + b"1\n" * 10_000 + b"\xff\n")
    _, error = read_all(path, "utf-8")
    found = re.search(r"at line (\d+) or later: 'utf-8' codec", error)
    assert found is not None
    assert 1000 < int(found[1]) <= 10_002
