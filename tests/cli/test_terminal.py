"""The command as a user starts it: a process, a terminal, a pipe, an interrupt."""

import importlib
import os
import pty
import runpy
import signal
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pytest

from aioupsert import cli
from tests.cli.databases import (
    EXAMPLES,
    CliDatabase,
    Write,
    counts,
    environment,
    expected_counts,
    run,
)

NEW = ("--key", "id", "--create-table")


def start(*arguments: str, code: Sequence[str] = ("-m", "aioupsert")) -> list[str]:
    return [sys.executable, *code, *arguments]


def finished(
    command: Sequence[str], stdin: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603  # our own command
        command,
        input=stdin,
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_module_loads_the_time_zones(tmp_path: Path) -> None:
    url, key = "sqlite:///zones.db", ("--key", "zone")
    old, new = (str(EXAMPLES / f"zones-{name}.csv") for name in ("2020a", "2026f"))
    first = finished(
        start("load", url, "zones", old, *key, "--create-table"), cwd=tmp_path
    )
    assert first.returncode == 0
    assert first.stderr.startswith("created table zones: zone TEXT, countries TEXT, ")
    second = finished(
        start("load", url, "zones", new, *key, "--skip-unchanged"), cwd=tmp_path
    )
    lines = [line.split() for line in second.stdout.splitlines()]
    assert second.stderr == ""
    assert lines[:4] == [
        ["created", "4"],
        ["updated", "64"],
        ["unchanged", "244"],
        ["rows", "312"],
    ]


def test_a_pipe_is_loaded(sqlite_database: CliDatabase) -> None:
    done = finished(start("load", sqlite_database.url, "t", "-", *NEW), "id,n\n1,ü\n")
    assert done.returncode == 0
    assert sqlite_database.query("SELECT * FROM t") == [(1, "ü")]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(
    sqlite_database: CliDatabase, file: Write, tmp_path: Path, closed: str
) -> None:
    rejects = tmp_path / "bad.csv"
    command = start("load", sqlite_database.url, "t", str(file("id,n\n1,a\n2\n")), *NEW)
    options = ["--on-error", "skip", "--rejects", str(rejects), "--diff"]
    script = f'exec "$@" {closed}'
    done = finished(["sh", "-c", script, "sh", *command, *options])
    assert done.returncode == 3
    assert (
        done.stderr == "" if "2>" in closed else "1 rejected row is in" in done.stderr
    )
    assert sqlite_database.query("SELECT * FROM t") == [(1, "a")]
    assert rejects.read_text() == "id,n\n2\n"


def test_standard_input_that_is_closed_is_empty(sqlite_database: CliDatabase) -> None:
    script = 'exec "$@" <&-'
    command = start("load", sqlite_database.url, "t", "-", *NEW)
    done = finished(["sh", "-c", script, "sh", *command])
    assert done.returncode == 1
    assert done.stderr == ("aioupsert: standard input is empty: a header is required\n")


def test_main_opens_streams_that_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["aioupsert", "--version"])
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert sys.stdin is not None
    assert sys.stdin.read() == ""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        assert stream is not None
        stream.close()


def test_a_failure_is_one_message(sqlite_database: CliDatabase) -> None:
    done = finished(start("load", sqlite_database.url, "t", "-", *NEW), "id,n\n1\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "aioupsert: standard input, line 2, column 'n': expected 2 cells as in the header, found 1",
        "Nothing was stored.",
    ]


def test_a_database_that_cannot_be_opened_is_one_message(tmp_path: Path) -> None:
    # The thread of the driver used to add a traceback of its own, now and then.
    url = f"sqlite:///{tmp_path}/no/x.db"
    done = finished(start("load", url, "t", "-", *NEW), "id\n1\n")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def on_a_terminal(command: Sequence[str], code: int = 0) -> str:
    """What the command writes to a terminal as its standard error."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(  # noqa: S603  # our own command
        command,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={**environment(), "TERM": "xterm"},
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                block = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not block:
                break
            shown += block
    os.close(ours)
    assert process.returncode == code
    return shown.decode()


@pytest.mark.parametrize(
    ("options", "shown"), [((), True), (("-q",), False), (("-v",), False)]
)
def test_progress_is_shown_on_a_terminal(
    sqlite_database: CliDatabase, file: Write, options: tuple[str, ...], *, shown: bool
) -> None:
    path = file("id\n" + "\n".join(map(str, range(500))))
    command = start("load", sqlite_database.url, "t", str(path), *NEW, *options)
    screen = on_a_terminal(command)
    assert ("500 rows" in screen) is shown
    assert ("rows.csv" in screen) is shown


def test_progress_ends_complete_and_has_the_rejected_rows(
    sqlite_database: CliDatabase, tmp_path: Path
) -> None:
    content = "id,n\n" + "\n".join(f"{n},1" for n in range(5_000))
    path = tmp_path / "rows.csv.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("rows.csv", f"{content}\n1\n")
        archive.comment = b" " * 10_000
    skip = ("--on-error", "skip", "--rejects", str(tmp_path / "rejects.csv"))
    command = start("load", sqlite_database.url, "t", str(path), *NEW, *skip)
    screen = on_a_terminal(command, code=3)
    assert "5,000 rows" in screen
    assert "/s, 1 rejected" in screen
    assert "100%" in screen


def test_progress_is_not_shown_elsewhere(
    sqlite_database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Some systems that run jobs ask for colours in their logs this way.
    monkeypatch.setenv("FORCE_COLOR", "1")
    result = sqlite_database.load(file("id\n1\n"), *NEW)
    assert result.stderr == "created table t: id INTEGER; primary key id\n"


def test_an_interrupt_stores_nothing(database: CliDatabase, file: Write) -> None:
    database.query("CREATE TABLE t (id text PRIMARY KEY)")
    path = file("id\n" + "\n".join(map(str, range(200_000))))
    command = start("load", database.url, "t", str(path), "--key", "id", "-v")
    with subprocess.Popen(  # noqa: S603  # our own command
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
        # Jobs in the background may have been started with interrupts ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads yet
    ) as process:
        assert process.stderr is not None
        assert any("INSERT" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.endswith("aioupsert: interrupted\nNothing was stored.\n")
    assert "Traceback" not in stderr
    assert database.query("SELECT * FROM t") == []


def test_an_interrupt_ends_the_wait_for_standard_input(
    sqlite_database: CliDatabase,
) -> None:
    command = start("load", sqlite_database.url, "t", *NEW, "-v")
    with subprocess.Popen(  # noqa: S603  # our own command
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads yet
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        # More than the rows that are looked at first, so that the table is made.
        process.stdin.write(b"id\n" + b"1\n" * 50_000)
        process.stdin.flush()
        assert any(b"sqlite_master" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        process.stdin.close()
    assert process.returncode == 130
    assert rest.endswith(b"aioupsert: interrupted\nNothing was stored.\n")


def test_verbose_shows_the_sql_but_no_values(sqlite_database: CliDatabase) -> None:
    command = start("load", sqlite_database.url, "t", "-", *NEW, "-v")
    done = finished(command, "id,note\n1,classified\n")
    assert "INSERT INTO" in done.stderr
    assert "classified" not in done.stderr


def test_verbose_shows_each_statement_once_in_lines_that_fit(
    database: CliDatabase, file: Write
) -> None:
    database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    options = ("--key", "id", "--batch-size", "1", "--no-atomic", "-v")
    result = database.load(file("id\n1\n2\n3\n"), *options)
    lines = result.stderr.splitlines()
    statements = [line for line in lines if not line.startswith(" ")]
    assert len({*statements}) == len(statements) > 2
    assert all(len(line) < 80 or " " not in line.strip() for line in lines)


def test_verbose_leaves_the_logger_as_it_was(
    sqlite_database: CliDatabase, file: Write
) -> None:
    path = file("id\n1\n")
    assert "INSERT INTO" in sqlite_database.load(path, *NEW, "--verbose").stderr
    assert sqlite_database.load(path, *NEW).stderr == ""


def test_version() -> None:
    assert run("--version").stdout == f"aioupsert {version('aioupsert')}\n"


def test_help_tells_the_options() -> None:
    result = run("load", "--help")
    assert result.exit_code == 0
    for words in ("--key", "--create-table", "sqlite:///relative.db", "standard input"):
        assert words in result.stdout
    assert "-k, --key COLUMN " in result.stdout
    assert "load" in run().output
    assert "--install-completion" in run("--help").stdout


BLOCKED = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
sys.argv = ["aioupsert", "--version"]
runpy.run_module("aioupsert", run_name="__main__")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize(
    ("options", "outcome"),
    [((), "The rows are stored."), (("-n",), "It was a dry run.")],
)
def test_output_that_cannot_be_written_is_told_with_what_is_stored(
    sqlite_database: CliDatabase,
    file: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    *,
    options: tuple[str, ...],
    outcome: str,
) -> None:
    sqlite_database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    words = ("load", sqlite_database.url, "t", str(file("id\n1\n")), "-k", "id")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        monkeypatch.setattr(sys, "argv", ["aioupsert", *words, *options])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        with suppress(OSError):
            full.close()
    assert raised.value.code == 1
    assert capsys.readouterr().err == (
        "aioupsert: cannot write to standard output: No space left on device\n"
        f"{outcome}\n"
    )
    assert len(sqlite_database.query("SELECT * FROM t")) == (not options)


@pytest.mark.parametrize("options", [(), ("--json",), ("--diff",)])
def test_a_reader_who_has_seen_enough_is_no_error(
    sqlite_database: CliDatabase,
    file: Write,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
) -> None:
    sqlite_database.query("CREATE TABLE t (id integer PRIMARY KEY)")
    words = ("load", sqlite_database.url, "t", str(file("id\n1\n")), "-k", "id")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        monkeypatch.setattr(sys, "argv", ["aioupsert", *words, *options])
        with pytest.raises(SystemExit) as raised:
            cli.main()
    assert (raised.value.code, capsys.readouterr().err) == (0, "")
    assert sqlite_database.query("SELECT * FROM t") == [(1,)]


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_named(missing: str) -> None:
    done = finished(start(code=("-c", BLOCKED.format(missing=missing))))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == "the command line needs typer and rich: pip install 'aioupsert[cli]'\n"
    )


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_main_names_a_missing_extra(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith("aioupsert.cli."):
            monkeypatch.delitem(sys.modules, name)
        if name.partition(".")[0] == missing:
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match=r"pip install 'aioupsert\[cli\]'"):
        cli.main()


def test_another_missing_module_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "aioupsert.cli.app", raising=False)
    monkeypatch.setitem(sys.modules, "aioupsert.cli.load", None)
    with pytest.raises(ModuleNotFoundError, match=r"aioupsert\.cli\.load"):
        cli.main()


def test_the_module_and_the_console_script_run_main(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["aioupsert", "--version"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("aioupsert", run_name="__main__")
    assert stopped.value.code == 0
    # The script imports the module instead of running it.
    assert importlib.import_module("aioupsert.__main__").main is cli.main


def test_the_console_script_is_installed(
    sqlite_database: CliDatabase, file: Write
) -> None:
    script = Path(sys.executable).with_name("aioupsert")
    done = finished(
        [str(script), "load", sqlite_database.url, "t", str(file("id\n")), *NEW]
    )
    assert done.returncode == 0
    assert counts(sqlite_database.load(file("id\n1\n"), *NEW)) == expected_counts(
        created=1
    )


@pytest.mark.parametrize("command", ["load", "inspect", "preview"])
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_fits_a_terminal(command: str, option: str) -> None:
    result = run(command, option)
    assert result.exit_code == 0
    assert "…" not in result.stdout
    text, _, examples = result.stdout.partition("Examples:\n")
    assert all(len(line) <= 80 for line in text.splitlines())
    assert examples.count(f"  aioupsert {command} ") == 2
