"""An interrupt at a certain point, in this process."""

import asyncio
import io
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from aioupsert.cli import load, values
from aioupsert.cli.databases import base, postgresql
from aioupsert.cli.reading import files
from tests.cli.databases import CliDatabase, Write, counts, expected_counts

NEW = ("--key", "id", "--create-table")
convert_rows = values.convert_rows


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Jobs in the background may have been started with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def interrupt_after(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt while the rows are read."""

    def reading(*arguments: Any, **options: Any) -> Iterator[Any]:
        seen = 0
        for part in convert_rows(*arguments, **options):
            if seen <= rows < seen + len(part):
                interrupt()
            seen += len(part)
            yield part

    monkeypatch.setattr(load, "convert_rows", reading)


ROWS = "id,n\n" + "".join(f"{n},{n}\n" for n in range(5_000))


def test_an_interrupt_undoes_an_atomic_load(
    database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(4_000, monkeypatch)
    result = database.load(file(ROWS), *NEW, "--batch-size", "100")
    assert result.exit_code == 130
    assert result.stderr == "aioupsert: interrupted\nNothing was stored.\n"
    catalog = (
        "sqlite_master" if database.is_sqlite else "pg_tables WHERE tablename = 't'"
    )
    assert database.query(f"SELECT * FROM {catalog}") == []


def test_an_interrupt_leaves_whole_batches_without_atomic(
    database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(4_000, monkeypatch)
    result = database.load(file(ROWS), *NEW, "--batch-size", "100", "--no-atomic")
    assert result.exit_code == 130
    assert "atches before that are stored" in result.stderr
    ((stored,),) = database.query("SELECT count(*) FROM t")
    assert stored % 100 == 0
    assert 3_000 < stored <= 4_000
    assert (
        f"\nThe batches before that are stored: {stored} rows created" in result.stderr
    )


def test_an_interrupt_over_several_connections(
    postgresql_database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(4_000, monkeypatch)
    result = postgresql_database.load(
        file(ROWS), *NEW, "-c", "3", "--batch-size", "100"
    )
    assert result.exit_code == 130
    ((stored,),) = postgresql_database.query("SELECT count(*) FROM t")
    assert (
        f"\nThe batches before that are stored: {stored} rows created" in result.stderr
    )


class Waiting(io.BytesIO):
    """Standard input during which a signal comes when it has nothing more."""

    number: int = signal.SIGINT

    def readinto1(self, buffer: Any, /) -> int:
        read = self.readinto(buffer)
        if not read:
            interrupt(self.number)
            # A handler that does not raise would go on to wait.
            pytest.fail("still waiting")
        return read


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("content", [b"", ROWS.encode()])
def test_a_signal_ends_the_wait_for_standard_input(
    database: CliDatabase,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes,
    number: signal.Signals,
) -> None:
    monkeypatch.setattr(Waiting, "number", number)
    stdin = io.TextIOWrapper(Waiting(content))
    monkeypatch.setattr(files, "sys", SimpleNamespace(stdin=stdin))
    database.query("CREATE TABLE t (id integer PRIMARY KEY, n integer)")
    result = database.load("-", "--key", "id")
    assert result.exit_code == 128 + number
    how = "interrupted" if number == signal.SIGINT else "terminated"
    assert result.stderr.startswith(f"aioupsert: {how}\n")
    assert database.query("SELECT * FROM t") == []


def test_ignored_interrupts_stay_ignored(
    sqlite_database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupt_after(10, monkeypatch)
    assert counts(sqlite_database.load(file(ROWS), *NEW)) == expected_counts(
        created=5_000
    )
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


async def test_an_interrupt_that_comes_after_the_commit_is_too_late() -> None:
    answered = asyncio.Event()
    task = asyncio.create_task(base.end_transaction(answered.wait()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    answered.set()
    await task


def test_a_server_that_does_not_say_goodbye(
    postgresql_database: CliDatabase, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgresql, "_CLOSE_TIMEOUT", 0)
    assert counts(postgresql_database.load(file("id\n1\n"), *NEW)) == expected_counts(
        created=1
    )
