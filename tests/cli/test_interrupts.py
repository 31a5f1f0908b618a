"""An interrupt at a certain point, in this process."""

import asyncio
import io
import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from aioupsert.cli import databases, load, values
from aioupsert.cli.reading import files
from tests.cli.places import Place, Write, counts, fates

NEW = ("--key", "id", "--create-table")
convert_rows = values.convert_rows


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Jobs in the background may have been started with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_after(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt while the rows are read."""

    def reading(*arguments: Any) -> Iterator[Any]:
        for number, row in enumerate(convert_rows(*arguments)):
            if number == rows:
                interrupt()
            yield row

    monkeypatch.setattr(load, "convert_rows", reading)


ROWS = "id,n\n" + "".join(f"{n},{n}\n" for n in range(5_000))


def test_an_interrupt_undoes_an_atomic_load(
    place: Place, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(4_000, monkeypatch)
    result = place.load(file(ROWS), *NEW, "--batch-size", "100")
    assert result.exit_code == 130
    assert result.stderr == "aioupsert: interrupted\nNothing was stored.\n"
    catalog = "sqlite_master" if place.is_sqlite else "pg_tables WHERE tablename = 't'"
    assert place.query(f"SELECT * FROM {catalog}") == []


def test_an_interrupt_leaves_whole_batches_without_atomic(
    place: Place, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(4_000, monkeypatch)
    result = place.load(file(ROWS), *NEW, "--batch-size", "100", "--no-atomic")
    assert result.exit_code == 130
    assert "atches before that are stored" in result.stderr
    ((stored,),) = place.query("SELECT count(*) FROM t")
    assert stored % 100 == 0
    assert 3_000 < stored <= 4_000


def test_an_interrupt_over_several_connections(
    pg_place: Place, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(4_000, monkeypatch)
    result = pg_place.load(file(ROWS), *NEW, "-c", "3", "--batch-size", "100")
    assert result.exit_code == 130
    assert "atches before that are stored" in result.stderr


class Waiting(io.BytesIO):
    """Standard input that is interrupted when it has nothing more."""

    def readinto1(self, buffer: Any, /) -> int:
        read = self.readinto(buffer)
        if not read:
            interrupt()
            # A handler that does not raise would go on to wait.
            pytest.fail("still waiting")
        return read


@pytest.mark.parametrize("content", [b"", ROWS.encode()])
def test_an_interrupt_ends_the_wait_for_standard_input(
    place: Place, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    stdin = io.TextIOWrapper(Waiting(content))
    monkeypatch.setattr(files, "sys", SimpleNamespace(stdin=stdin))
    place.query("CREATE TABLE t (id integer PRIMARY KEY, n integer)")
    result = place.load("-", "--key", "id")
    assert result.exit_code == 130
    assert result.stderr.startswith("aioupsert: interrupted\n")
    assert place.query("SELECT * FROM t") == []


def test_ignored_interrupts_stay_ignored(
    lite_place: Place, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupt_after(10, monkeypatch)
    assert counts(lite_place.load(file(ROWS), *NEW)) == fates(created=5_000)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


async def test_an_interrupt_that_comes_after_the_commit_is_too_late() -> None:
    answered = asyncio.Event()
    task = asyncio.create_task(databases._end_transaction(answered.wait()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    answered.set()
    await task


def test_a_server_that_does_not_say_goodbye(
    pg_place: Place, file: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(databases, "_CLOSE_TIMEOUT", 0)
    assert counts(pg_place.load(file("id\n1\n"), *NEW)) == fates(created=1)
