"""No file and no row is lost: what a load leaves out can be loaded again."""

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioupsert.cli import load as loading
from aioupsert.cli import rejects as rejecting
from aioupsert.cli.outputs import check_output
from aioupsert.cli.reading import ReadOptions, RowError, files, open_input
from aioupsert.cli.rejects import open_rejects
from tests.cli.databases import CliDatabase, Write, environment, run

KEY = ("--key", "id")
SKIP = (*KEY, "--on-error", "skip")
FOUR = "id,n\n1,1\n2,0\n3,1\n4,0\n"


def checked(database: CliDatabase) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY, n integer CHECK (n > 0))")


def started(*words: str) -> subprocess.Popen[bytes]:
    """The command line as a process of its own, which an interrupt reaches."""
    return subprocess.Popen(  # noqa: S603  # our own command
        [sys.executable, "-m", "aioupsert", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        # A shell may have started the tests with interrupts ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509  # it is safe here
    )


def reasons(path: Path) -> list[dict[str, Any]]:
    text = path.with_name(f"{path.name}.reasons.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def message(result: Any) -> str:
    return " ".join(result.stderr.replace("│", " ").split())


# --- What is written ------------------------------------------------------------------


@pytest.mark.parametrize("atomic", ["--atomic", "--no-atomic"])
def test_rows_of_csv_are_written_as_csv_with_the_reasons_beside_them(
    database: CliDatabase, file: Write, tmp_path: Path, atomic: str
) -> None:
    checked(database)
    path, rejects = file('id,n\n1,1\n2,\n3,0\n4\n5,"6"7\n8,1\n'), tmp_path / "bad.csv"
    result = database.load(path, *SKIP, "--rejects", str(rejects), atomic)
    assert result.exit_code == 3
    assert database.query("SELECT * FROM t ORDER BY id") == [(1, 1), (2, None), (8, 1)]
    assert rejects.read_text("utf-8") == 'id,n\n3,0\n4\n5,"6"7\n'
    third, fourth, fifth = reasons(rejects)
    assert "check constraint" in third.pop("reason").lower()
    assert third == {"file": str(path), "line": 4, "column": None}
    assert fourth == {
        "file": str(path),
        "line": 5,
        "column": "n",
        "reason": "expected 2 cells as in the header, found 1",
    }
    assert fifth["line"] == 6
    assert result.stderr == (
        f"3 rejected rows are in {rejects}, with the reasons in"
        f" {rejects}.reasons.jsonl\n"
    )


@pytest.mark.parametrize("name", ["t.jsonl", "t.json"])
def test_rows_of_json_are_written_as_they_were_given(
    database: CliDatabase, file: Write, tmp_path: Path, name: str
) -> None:
    kind = "JSON" if database.is_sqlite else "jsonb"
    database.query(f"CREATE TABLE t (id integer PRIMARY KEY, data {kind} NOT NULL)")
    bad: list[Any] = [
        {"id": 1, "data": None},
        {"data": {"a": "é"}},
        {"id": 2, "data": 1, "more": 2.5},
    ]
    good = {"id": 3, "data": [1]}
    text = "\n".join(map(json.dumps, [*bad, 5, good]))
    if name == "t.json":
        text = f"[{text.replace(chr(10), f',{chr(10)}')}]"
    else:
        text += '\n{"id": 4\n'
    path, rejects = file(text, name), tmp_path / f"bad-{name}"
    result = database.load(path, *SKIP, "--rejects", str(rejects))
    assert result.exit_code == 3
    assert database.query("SELECT id FROM t") == [(3,)]
    written = rejects.read_text("utf-8")
    if name == "t.json":
        assert json.loads(written) == [*bad, 5]
    else:
        *values, last = written.splitlines()
        assert [*map(json.loads, values)] == [*bad, 5]
        assert last == '{"id": 4'
    assert [line["line"] for line in reasons(rejects)] == [1, 2, 3, 4, 6][
        : len(bad) + 1 + (name == "t.jsonl")
    ]
    again = database.load(rejects, *SKIP)
    assert again.exit_code == 3
    assert again.stdout.split("rejected")[1].split()[0] == str(len(reasons(rejects)))


def test_rows_of_parquet_are_written_as_parquet(
    database: CliDatabase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rejecting, "_ROW_GROUP", 3)
    pa: Any = importlib.import_module("pyarrow")
    pq: Any = importlib.import_module("pyarrow.parquet")
    checked(database)
    table = pa.table(
        {"id": [*range(60)], "n": pa.array([0, 1, 1, 1, 1, 1] * 10, pa.int8())}
    )
    path, rejects = tmp_path / "t.parquet", tmp_path / "bad.parquet"
    pq.write_table(table, path)
    result = database.load(path, *SKIP, "--rejects", str(rejects))
    assert result.exit_code == 3
    found = pq.read_table(rejects)
    assert found.schema == table.schema
    assert found["id"].to_pylist() == [*range(0, 60, 6)]
    assert [line["line"] for line in reasons(rejects)] == [*range(1, 61, 6)]


def test_a_batch_of_few_columns_is_of_several_that_were_read(
    database: CliDatabase, tmp_path: Path
) -> None:
    pa: Any = importlib.import_module("pyarrow")
    pq: Any = importlib.import_module("pyarrow.parquet")
    checked(database)
    size = 1_300
    columns = {
        "id": pa.array(range(size)),
        # Python makes the values of the other.
        "n": pa.array([float(n != 1_100) for n in range(size)]),
        "list": pa.array([[n] for n in range(size)]),
    }
    # With more columns, fewer rows are read at once.
    columns |= {f"x{n}": pa.nulls(size) for n in range(400)}
    path, rejects = tmp_path / "t.parquet", tmp_path / "bad.parquet"
    pq.write_table(pa.table(columns), path)
    result = database.load(path, *SKIP, "--columns", "id,n", "--rejects", str(rejects))
    assert result.exit_code == 3
    assert database.query("SELECT count(*), sum(id) FROM t WHERE n = 1") == [
        (size - 1, sum(range(size)) - 1_100)
    ]
    (found,) = pq.read_table(rejects).to_pylist()
    assert (found["id"], found["list"]) == (1_100, [1_100])
    assert [line["line"] for line in reasons(rejects)] == [1_101]


def test_what_was_rejected_can_be_loaded_once_the_reason_is_gone(
    database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    checked(database)
    rejects = tmp_path / "bad.csv"
    text = FOUR.replace(",", ";").encode("utf-16")
    options = ("--delimiter", ";", "--encoding", "utf-16")
    first = database.load(file(text), *SKIP, "--rejects", str(rejects), *options)
    assert first.exit_code == 3
    rejects.write_bytes(
        rejects.read_bytes().decode("utf-16").replace(";0", ";5").encode("utf-16")
    )
    assert database.load(rejects, *KEY, *options).exit_code == 0
    assert database.query("SELECT * FROM t ORDER BY id") == [
        *((1, 1), (2, 5), (3, 1), (4, 5)),
    ]


def test_rows_of_other_columns_or_formats_have_a_file_of_their_own(
    database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    checked(database)
    inputs = [
        file("id,n\n1,0\n", "1.csv"),
        file("n,id\n0,2\n", "2.csv"),
        file('{"id": 3, "n": 0}\n', "3.jsonl"),
        file("id,n\n4,0\n", "4.csv"),
    ]
    rejects = tmp_path / "bad.csv"
    result = run("load", database.url, "t", *inputs, *SKIP, "--rejects", rejects)
    assert result.exit_code == 3
    assert rejects.read_text() == "id,n\n1,0\n4,0\n"
    assert (tmp_path / "bad-2.csv").read_text() == "n,id\n0,2\n"
    assert (tmp_path / "bad-3.csv").read_text() == '{"id": 3, "n": 0}\n'
    assert [line["file"] for line in reasons(rejects)] == [
        str(inputs[0]),
        str(inputs[3]),
    ]
    assert (
        f"4 rejected rows are in {rejects}, {tmp_path / 'bad-2.csv'}, " in result.stderr
    )


def test_a_second_file_of_rejects_is_not_an_input(
    sqlite_database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    checked(sqlite_database)
    first, second = file("id,n\n1,0\n", "1.csv"), file("n,id\n0,2\n", "bad-2.csv")
    rejects = tmp_path / "bad.csv"
    result = run(
        "load", sqlite_database.url, "t", first, second, *SKIP, "--rejects", rejects
    )
    assert result.exit_code == 1
    assert f"would overwrite the input {second}" in result.stderr
    assert second.read_text() == "n,id\n0,2\n"


CELLS = st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(
    rows=st.lists(st.lists(CELLS, min_size=2, max_size=2), max_size=5),
    delimiter=st.sampled_from(",;\t|"),
)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[str | None]],
    delimiter: str,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path, rejects = folder / "first.csv", folder / "bad.csv"
    path.write_text(f"a{delimiter}b\n1{delimiter}2\n", "utf-8")
    options = ReadOptions(delimiter=delimiter)
    with open_input([path], options) as source:
        row = next(source.rows)
    with open_rejects(rejects, "utf-8", lambda _: None, None) as written:
        for a, b in rows:
            copy = {"a": a, "b": b}
            error = RowError("first.csv", 1, "", row=copy, origin=row.origin)
            written.add(error)
    if rows:
        with open_input([rejects], options) as source:
            assert [[*row.values()] for row in source.rows] == rows


def test_without_bad_rows_the_files_are_empty(
    sqlite_database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    rejects = tmp_path / "bad.csv"
    rejects.write_text("from before", "utf-8")
    rejects.chmod(0o640)
    result = sqlite_database.load(
        file("id\n1\n"), *SKIP, "--create-table", "--rejects", str(rejects)
    )
    assert (result.exit_code, result.stderr.count("\n")) == (0, 1)
    assert (rejects.read_text("utf-8"), reasons(rejects)) == ("", [])
    assert rejects.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "bad.csv",
        "bad.csv.reasons.jsonl",
        "rows.csv",
        "test.db",
    ]


def test_a_load_that_fails_without_a_bad_row_leaves_the_file_of_an_earlier_one(
    sqlite_database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    rejects = tmp_path / "bad.csv"
    rejects.write_text("from before", "utf-8")
    checked(sqlite_database)
    result = sqlite_database.load(
        file(b"id,n\n\xff\n"), *SKIP, "--rejects", str(rejects)
    )
    assert result.exit_code == 1
    assert rejects.read_text("utf-8") == "from before"
    assert not [*tmp_path.glob(".*")]


def test_a_link_to_a_file_of_rejects_stays_a_link(
    sqlite_database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    checked(sqlite_database)
    link, target = tmp_path / "link.csv", tmp_path / "target.csv"
    link.symlink_to(target)
    sqlite_database.load(file(FOUR), *SKIP, "--rejects", str(link))
    assert link.is_symlink()
    assert target.read_text("utf-8") == "id,n\n2,0\n4,0\n"


def test_what_is_no_regular_file_is_written_to_directly(
    sqlite_database: CliDatabase, file: Write
) -> None:
    checked(sqlite_database)
    result = sqlite_database.load(file(FOUR), *SKIP, "--rejects", "/dev/null")
    assert result.exit_code == 3
    assert "rows.csv, line 3: " in result.stderr
    assert Path("/dev/null").is_char_device()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("rows", [1, 1_500])
def test_a_full_disk_ends_the_load(
    sqlite_database: CliDatabase, file: Write, rows: int
) -> None:
    checked(sqlite_database)
    text = "id,n\n" + "".join(f"{n},0\n" for n in range(rows)) + f"{rows},1\n"
    result = sqlite_database.load(file(text), *SKIP, "--rejects", "/dev/full")
    assert result.exit_code == 1
    assert "cannot write /dev/full: No space left on device" in result.stderr
    assert sqlite_database.query("SELECT * FROM t") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("sent", [b"", b'[{"id": 1', b"PK\3\4", b"PAR1"])
def test_a_signal_before_the_first_row_leaves_no_file(
    sqlite_database: CliDatabase,
    tmp_path: Path,
    number: signal.Signals,
    sent: bytes,
) -> None:
    checked(sqlite_database)
    rejects = tmp_path / "bad.csv"
    with started(
        *("load", sqlite_database.url, "t", *SKIP, "--rejects", str(rejects))
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(sent)
        process.stdin.flush()
        for _ in range(400):
            if len([*tmp_path.glob(".bad.csv.*.tmp")]) == 2:
                break
            time.sleep(0.05)
        time.sleep(0.1)
        process.send_signal(number)
        said = process.stderr.read().decode()
        process.wait()
    assert process.returncode == 128 + number
    how = "interrupted" if number == signal.SIGINT else "terminated"
    assert said == f"aioupsert: {how}\n"
    assert not [*tmp_path.glob("*bad.csv*")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_after_the_load_is_too_late(
    sqlite_database: CliDatabase,
    file: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    checked(sqlite_database)
    rejects = tmp_path / "bad.csv"
    count_rows = files.Input.count_rows

    def counting(source: files.Input) -> list[tuple[str, int]]:
        os.kill(os.getpid(), number)
        return count_rows(source)

    monkeypatch.setattr(files.Input, "count_rows", counting)
    result = sqlite_database.load(file(FOUR), *SKIP, "--rejects", str(rejects))
    assert result.exit_code == 3
    assert rejects.read_text("utf-8") == "id,n\n2,0\n4,0\n"


@pytest.fixture
def little_space() -> Iterator[None]:
    """No file can be larger than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def filled(database: CliDatabase, folder: Path, kind: str) -> Path:
    """A file whose rejected rows need more space than there is."""
    database.query("CREATE TABLE t (id integer PRIMARY KEY, n text NOT NULL)")
    words = [*(os.urandom(400).hex() for _ in range(199)), "a"]
    path = folder / f"t.{kind}"
    if kind == "csv":
        lines = (f"{n},{word},\n" for n, word in enumerate(words[:-1]))
        path.write_text(f"id,n\n{''.join(lines)}199,a\n")
        return path
    pa: Any = importlib.import_module("pyarrow")
    pq: Any = importlib.import_module("pyarrow.parquet")
    missing = pa.array([None] * 199 + ["a"], pa.string())
    pq.write_table(pa.table({"id": [*range(200)], "n": missing, "w": words}), path)
    return path


@pytest.mark.parametrize("atomic", ["--atomic", "--no-atomic"])
def test_rejected_rows_for_which_there_is_no_space_are_in_no_file(
    database: CliDatabase, tmp_path: Path, atomic: str, request: pytest.FixtureRequest
) -> None:
    path, rejects = filled(database, tmp_path, "csv"), tmp_path / "bad.csv"
    request.getfixturevalue("little_space")
    result = database.load(path, *SKIP, "--rejects", str(rejects), atomic)
    assert result.exit_code == 1
    before, stored, after = result.stderr.splitlines()
    assert before == f"aioupsert: cannot write {rejects}: File too large"
    assert after.startswith(f"not all of the 199 rejected rows are in {rejects}, ")
    rows = database.query("SELECT id, n FROM t")
    if atomic == "--atomic":
        assert (stored, rows) == ("Nothing was stored.", [])
    else:
        assert stored.startswith("The batches before that are stored: 1 rows created")
        assert rows == [(199, "a")]
    assert not [*tmp_path.glob(".*")]


@pytest.mark.parametrize("dry_run", [(), ("--dry-run",)])
def test_rejected_rows_may_lack_space_at_the_very_end(
    database: CliDatabase,
    tmp_path: Path,
    dry_run: tuple[str, ...],
    request: pytest.FixtureRequest,
) -> None:
    path, rejects = filled(database, tmp_path, "parquet"), tmp_path / "bad.parquet"
    options = (*SKIP, "--ignore-unknown", "--rejects", str(rejects), *dry_run)
    request.getfixturevalue("little_space")
    result = database.load(path, *options)
    assert result.exit_code == 1
    before, stored, after = result.stderr.splitlines()
    assert before == f"aioupsert: cannot write {rejects}: File too large"
    assert stored == ("It was a dry run." if dry_run else "All other rows are stored.")
    assert after.startswith(f"not all of the 199 rejected rows are in {rejects}, ")
    expected = [] if dry_run else [(199, "a")]
    assert database.query("SELECT id, n FROM t") == expected
    assert not [*tmp_path.glob(".*")]


def test_a_database_that_is_full_says_what_is_stored(
    sqlite_database: CliDatabase, file: Write, request: pytest.FixtureRequest
) -> None:
    sqlite_database.query("CREATE TABLE t (id integer PRIMARY KEY, n text)")
    path = file("id,n\n" + "".join(f"{n},{'n' * 100}\n" for n in range(2_000)))
    request.getfixturevalue("little_space")
    result = sqlite_database.load(path, *KEY, "--no-atomic", "--batch-size", "10")
    assert result.exit_code == 1
    ((stored,),) = sqlite_database.query("SELECT count(*) FROM t")
    assert result.stderr.endswith(
        f"\nThe batches before that are stored: {stored} rows created, 0 updated,"
        " 0 unchanged.\n"
    )


# --- What is not overwritten ----------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("how", ["name", "path", "symbolic", "hard", "reasons"])
@pytest.mark.parametrize("what", ["input", "database"])
def test_nothing_that_is_read_or_stored_is_overwritten(
    sqlite_database: CliDatabase, file: Write, folder: Path, *, how: str, what: str
) -> None:
    checked(sqlite_database)
    tmp_path = folder
    target = tmp_path / ("x.reasons.jsonl" if how == "reasons" else "a.db")
    url = sqlite_database.url
    if what == "input":
        source = file(FOUR, target.name)
    else:
        source = file(FOUR)
        (tmp_path / "test.db").rename(target)
        url = f"sqlite:///{target}"
    name = {"name": "a.db", "reasons": "x", "path": f"../{tmp_path.name}/a.db"}.get(how)
    if how == "symbolic":
        (tmp_path / "link").symlink_to(target)
    if how == "hard":
        (tmp_path / "link").hardlink_to(target)
    before = target.read_bytes()
    options = (*SKIP, "--format", "csv", "--rejects", name or "link")
    result = run("load", url, "t", source, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"would overwrite the {what} " in message(result)
    assert target.read_bytes() == before


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_a_database_that_does_not_exist_yet_is_not_the_file_of_rejects(
    folder: Path, file: Write, suffix: str
) -> None:
    options = (*SKIP, "--create-table", "--rejects", f"{folder}/new.db{suffix}")
    result = run("load", "sqlite:///new.db", "t", file(FOUR), *options)
    assert result.exit_code == 2
    assert "would overwrite the database new.db" in message(result)


def test_standard_input_is_not_overwritten(
    sqlite_database: CliDatabase, file: Write
) -> None:
    checked(sqlite_database)
    path = file(FOUR)
    command = ["load", sqlite_database.url, "t", *SKIP, "--rejects", str(path)]
    with path.open("rb") as stdin:
        done = subprocess.run(  # noqa: S603  # our own command
            [sys.executable, "-m", "aioupsert", *command],
            stdin=stdin,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert "would overwrite the input standard input" in message(done)
    assert path.read_text() == FOUR


@pytest.mark.parametrize("name", ["bad.csv", "bad.csv.reasons.jsonl"])
def test_a_file_of_rejects_that_cannot_be_written(
    sqlite_database: CliDatabase, file: Write, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    options = (*SKIP, "--create-table", "--rejects", str(tmp_path / "bad.csv"))
    result = sqlite_database.load(file("id\n1\n"), *options)
    assert result.exit_code == 1
    assert f"cannot write {tmp_path / name}: " in result.stderr
    assert not Path(sqlite_database.url.removeprefix("sqlite:///")).exists()
    assert not [*tmp_path.glob(".*")]


# --- How a load ends ------------------------------------------------------------------


def mixed(rows: int) -> bytes:
    return b"id,n\n" + b"".join(b"%d,%d\n" % (n, n % 50) for n in range(rows))


def test_what_was_rejected_before_an_error_is_kept(
    database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    checked(database)
    rejects = tmp_path / "bad.csv"
    path = file(mixed(3_000) + b"\xff\n")
    options = ("--no-atomic", "--batch-size", "500", "--rejects", str(rejects))
    result = database.load(path, *SKIP, *options)
    assert result.exit_code == 1
    ((stored,),) = database.query("SELECT count(*) FROM t")
    bad = len(reasons(rejects))
    assert bad == len(range(0, stored + bad, 50))
    assert stored > 1_000
    assert f"The batches before that are stored: {stored} rows created" in result.stderr
    assert f"{bad} rejected rows are in {rejects}" in result.stderr
    assert len(rejects.read_text().splitlines()) == bad + 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_was_rejected_before_a_signal_is_kept(
    sqlite_database: CliDatabase, tmp_path: Path, number: signal.Signals
) -> None:
    checked(sqlite_database)
    rejects = tmp_path / "bad.csv"
    command = ["load", sqlite_database.url, "t", *SKIP, "--rejects", str(rejects)]
    with started(*command, "--no-atomic", "--batch-size", "100") as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(mixed(1_000))
        process.stdin.flush()
        for _ in range(200):
            if [*tmp_path.glob(".bad.csv.*.tmp")] and sqlite_database.query(
                "SELECT count(*) FROM t"
            ) >= [(784,)]:
                break
            time.sleep(0.05)
        time.sleep(0.1)
        process.send_signal(number)
        said = process.stderr.read().decode()
        process.stdout.read()  # type: ignore[union-attr]
        process.wait()
    assert process.returncode == 128 + number
    ((stored,),) = sqlite_database.query("SELECT count(*) FROM t")
    assert stored >= 784
    assert len(reasons(rejects)) * 49 == stored
    how = "interrupted" if number == signal.SIGINT else "terminated"
    assert said.startswith(f"aioupsert: {how}\nThe batches before that are stored: ")
    assert "rejected rows are in" in said
    assert not [*tmp_path.glob(".*")]


@pytest.fixture
def open_quote(file: Write) -> Path:
    return file('id,n\n1,1\n2,"1\n' + "".join(f"{n},1\n" for n in range(3, 100)))


def test_what_a_quote_swallows_is_rejected_line_by_line(
    database: CliDatabase, open_quote: Path, tmp_path: Path
) -> None:
    checked(database)
    rejects = tmp_path / "bad.csv"
    result = database.load(open_quote, *SKIP, "--rejects", str(rejects))
    assert result.exit_code == 3
    assert database.query("SELECT id FROM t") == [(1,)]
    first, second, *others = reasons(rejects)
    assert (first["line"], first["column"]) == (3, 3)
    assert first["reason"] == "invalid CSV: the quote that opens here is never closed"
    assert second["reason"] == "it is inside the quotes that open on line 3"
    assert len(others) == 96
    # The lines are there to be loaded again once the first is mended.
    rejects.write_text(rejects.read_text().replace('"', ""))
    assert database.load(rejects, *KEY).exit_code == 0
    assert database.query("SELECT count(*) FROM t") == [(99,)]


def test_the_line_of_an_open_quote_is_said(
    sqlite_database: CliDatabase, open_quote: Path
) -> None:
    checked(sqlite_database)
    result = sqlite_database.load(open_quote, *KEY)
    assert result.exit_code == 1
    assert f"{open_quote}, line 3, column 3: invalid CSV: the quote" in result.stderr


# --- How many -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "code"),
    [("2", 3), ("1", 1), ("0", 1), ("50%", 3), ("49.9%", 1), ("100%", 3)],
)
def test_a_load_ends_when_too_many_rows_are_bad(
    database: CliDatabase, file: Write, limit: str, code: int
) -> None:
    checked(database)
    result = database.load(file(FOUR), *KEY, "--max-errors", limit)
    assert result.exit_code == code
    if code == 1:
        assert f"than --max-errors {limit}" in result.stderr
        assert "Nothing was stored." in result.stderr
        assert database.query("SELECT * FROM t") == []
    else:
        assert database.query("SELECT count(*) FROM t") == [(2,)]


@pytest.mark.parametrize("limit", ["10", "1%"])
def test_batches_before_too_many_bad_rows_stay_without_atomic(
    database: CliDatabase, file: Write, tmp_path: Path, limit: str
) -> None:
    checked(database)
    rejects = tmp_path / "bad.csv"
    options = ("--no-atomic", "--batch-size", "100", "--rejects", str(rejects))
    result = database.load(file(mixed(1_000)), *KEY, "--max-errors", limit, *options)
    assert result.exit_code == 1
    ((stored,),) = database.query("SELECT count(*) FROM t")
    assert stored == {"10": 588, "1%": 98}[limit]
    assert len(reasons(rejects)) >= {"10": 11, "1%": 2}[limit]


def test_batches_of_large_rows_are_small(
    sqlite_database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked(sqlite_database)
    monkeypatch.setattr(loading, "_BATCH_SIZE", 10_000)
    result = sqlite_database.load(file(mixed(1_000)), *SKIP, "--no-atomic")
    assert result.exit_code == 3
    assert sqlite_database.query("SELECT count(*) FROM t") == [(980,)]


def test_standard_input_is_compared_with_the_file_of_rejects(
    file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(FOUR)
    with path.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        with pytest.raises(
            ValueError, match="would overwrite the input standard input"
        ):
            check_output("--rejects", path, [Path("-")], None)
        check_output("--rejects", path.with_name("bad.csv"), [Path("-")], None)


def test_bad_lines_count_too(sqlite_database: CliDatabase, file: Write) -> None:
    checked(sqlite_database)
    result = sqlite_database.load(file("id,n\n1\n2\n"), *KEY, "--max-errors", "1")
    assert result.exit_code == 1
    assert "line 3, column 'n': expected 2 cells" in result.stderr
    assert "rows.csv, line 3" in result.stderr.splitlines()[0]


def test_many_bad_rows_in_a_row_are_written_before_their_batch(
    sqlite_database: CliDatabase,
    file: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aioupsert.cli.rejects._MANY_PENDING", 20)
    monkeypatch.setattr("aioupsert.cli.rejects._MAX_PENDING", 50)
    monkeypatch.setattr("aioupsert.cli.run._LINES_AT_ONCE", 10)
    sqlite_database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, n integer CHECK (n))"
    )
    # Of each ten rows one has too few cells, and one breaks the rule; then come others.
    texts = {0: "{}", 1: "{},0"}
    rows = [texts.get(n % 10, "{},1").format(n) for n in range(1_000)]
    rows += ["x"] * 120
    rejects = tmp_path / "bad.csv"
    options = (*KEY, *SKIP, "--rejects", str(rejects))
    result = sqlite_database.load(file("id,n\n" + "\n".join(rows)), *options)
    assert result.exit_code == 3
    written = rejects.read_text().splitlines()
    expected = [row for row in rows if not row.endswith(",1")]
    # In order, but for the batch in which too many come in a row.
    assert written[:120] == ["id,n", *expected[:119]]
    assert sorted(written[1:]) == sorted(expected)
    assert sqlite_database.query("SELECT count(*) FROM t") == [(800,)]


MANY_BAD: dict[str, tuple[str, str]] = {
    "no parent": ("parent", "{}"),
    "a check": ("n", "-{}"),
    "no value": ("n", ""),
    "another row's value": ("code", "p{}"),
    "no number": ("price", "x{}"),
}


@pytest.mark.parametrize("what", MANY_BAD)
@pytest.mark.parametrize("every", [1, 2, 9])
def test_where_many_rows_are_bad_each_has_its_own_reason(
    postgresql_database: CliDatabase,
    file: Write,
    tmp_path: Path,
    what: str,
    every: int,
) -> None:
    database, rejects = postgresql_database, tmp_path / "bad.csv"
    database.query("CREATE TABLE parents (id integer PRIMARY KEY)")
    database.query("INSERT INTO parents VALUES (0)")
    database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, parent integer REFERENCES parents,"
        " n integer NOT NULL CHECK (n >= 0), code text UNIQUE, price numeric)"
    )
    database.query(
        "INSERT INTO t SELECT -i, 0, 0, 'p' || i FROM generate_series(1, 80) i"
    )
    column, text = MANY_BAD[what]
    lines: list[str] = []
    for number in range(1, 81):
        row = {"id": number, "parent": 0, "n": 5, "code": f"c{number}", "price": "1.5"}
        if number % every == 0:
            row[column] = text.format(number)
        lines.append(",".join(map(str, row.values())))
    path = file("\n".join(["id,parent,n,code,price", *lines, ""]))
    result = database.load(path, *SKIP, "--rejects", str(rejects), "--json")
    bad = [number for number in range(1, 81) if number % every == 0]
    counts = json.loads(result.stdout)
    assert (counts["created"], counts["rejected"]) == (80 - len(bad), len(bad))
    found = reasons(rejects)
    assert [reason["line"] for reason in found] == [number + 1 for number in bad]
    if text:
        assert all(
            text.format(number) in reason["reason"]
            for number, reason in zip(bad, found, strict=True)
        )
    if what in {"no value", "no number"}:
        assert {reason["column"] for reason in found} == {column}
    assert rejects.read_text("utf-8").splitlines()[1:] == [
        lines[number - 1] for number in bad
    ]


def test_the_column_is_found_whatever_the_message_quotes(
    postgresql_database: CliDatabase, file: Write, tmp_path: Path
) -> None:
    database, rejects = postgresql_database, tmp_path / "bad.csv"
    database.query(
        "CREATE TABLE t (id integer PRIMARY KEY, note text, a integer, zone text,"
        " b timestamptz, c numeric(3,1), d jsonb)"
    )
    path = file(
        "id,note,a,zone,b,c,d\n"
        "1,x,x,UTC,,1,\n"  # the text of two columns is what the message quotes
        "2,x,y,UTC,,1,\n"
        "3,x,1,nowhere,2026-01-01 10:00 nowhere,1,\n"  # of another column
        "4,x,1,UTC,,1000,\n"  # of none
        "5,x,1,UTC,,1,{x\n"  # of another only
    )
    result = database.load(path, *SKIP, "--rejects", str(rejects))
    assert result.exit_code == 3
    assert [reason["column"] for reason in reasons(rejects)] == [
        *("a", "a", "b", "c", "d")
    ]
