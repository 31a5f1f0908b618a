"""What a caller is told while rows are written."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import FrozenInstanceError
from typing import Any, Final

import pytest

from aioupsert import (
    BulkError,
    BulkResult,
    Progress,
    create_or_update_many,
)
from aioupsert._bulk import writing
from tests.support.databases import CONNECTIONS, Database, every_handle

TABLE: Final = "CREATE TABLE t (k integer PRIMARY KEY, a integer CHECK (a >= 0))"
ROWS: Final = [{"k": n // 2, "a": n} for n in range(40)]

engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)


@pytest.fixture(autouse=True)
async def made(db: Database) -> None:
    await db.run(TABLE)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise what is seen depends on how fast the machine is.
    monkeypatch.setattr(writing, "_PROGRESS_INTERVAL", 0)


async def load(db: Database, rows: Any, **options: Any) -> BulkResult:
    return await create_or_update_many(db.handle, "t", rows, key="k", **options)


@every_handle
@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.usefixtures("always")
async def test_progress_counts_up_to_the_end(db: Database, *, atomic: bool) -> None:
    seen: list[Progress] = []
    result = await load(db, ROWS, batch_size=6, atomic=atomic, progress=seen.append)
    assert [progress.rows for progress in seen] == [6, 12, 18, 24, 30, 36, 40]
    assert [progress.result.created for progress in seen] == [3, 6, 9, 12, 15, 18, 20]
    assert all(progress.rows == progress.result.rows for progress in seen)
    assert seen[-1].result == result == BulkResult(created=20, updated=20)


@engines
@pytest.mark.usefixtures("always")
async def test_progress_tells_the_rate(db: Database) -> None:
    seen: list[Progress] = []
    started = time.monotonic()
    await load(db, ROWS, batch_size=6, progress=seen.append)
    passed = time.monotonic() - started
    seconds = [progress.seconds for progress in seen]
    assert seconds == sorted(seconds)
    assert 0 < seconds[-1] <= passed
    assert all(p.rows_per_second == p.rows / p.seconds for p in seen)


def test_progress_of_no_time_has_no_rate() -> None:
    assert Progress(5, 0.0, BulkResult(created=5)).rows_per_second == 0


def test_progress_cannot_be_changed() -> None:
    progress = Progress(5, 0.1, BulkResult(created=5))
    with pytest.raises(FrozenInstanceError):
        progress.rows = 6  # type: ignore[misc]  # that it fails is the point


@engines
async def test_progress_comes_at_most_ten_times_a_second(db: Database) -> None:
    times: list[float] = []
    started = time.monotonic()

    async def rows() -> AsyncIterator[dict[str, Any]]:
        n = 0
        while time.monotonic() - started < 0.7:
            yield {"k": n, "a": n}
            n += 1

    await load(
        db, rows(), batch_size=1, progress=lambda _: times.append(time.monotonic())
    )
    assert len(times) >= 1
    assert len(times) <= (time.monotonic() - started) * 10 + 1


@engines
async def test_the_end_is_reported_however_soon_it_comes(db: Database) -> None:
    seen: list[Progress] = []
    result = await load(db, ROWS, batch_size=6, progress=seen.append)
    assert seen[-1].rows == 40
    assert seen[-1].result == result


@engines
@pytest.mark.usefixtures("always")
async def test_rows_left_out_count_as_done(db: Database) -> None:
    rows = [{"k": n, "a": n if n % 4 else -1} for n in range(20)]
    seen: list[Progress] = []
    result = await load(
        db, rows, batch_size=5, atomic=False, on_error="skip", progress=seen.append
    )
    assert len(result.rejected) == 5
    assert [progress.rows for progress in seen] == [5, 10, 15, 20]


class StoppedError(Exception):
    pass


def stop(_progress: Progress) -> None:
    raise StoppedError


@every_handle
@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.usefixtures("always")
async def test_an_error_of_the_callback_ends_the_call(
    db: Database, *, atomic: bool
) -> None:
    with pytest.raises(StoppedError):
        await load(db, ROWS, batch_size=6, atomic=atomic, progress=stop)
    assert await db.query("SELECT count(*) FROM t") == [(0 if atomic else 3,)]
    assert (await load(db, ROWS)).rows == 40


@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
@pytest.mark.usefixtures("always")
async def test_progress_of_several_connections_is_of_all_rows(db: Database) -> None:
    seen: list[Progress] = []
    result = await load(db, ROWS, batch_size=6, connections=3, progress=seen.append)
    rows = [progress.rows for progress in seen]
    assert rows == sorted(rows)
    assert rows[-1] == 40
    assert seen[-1].result == result


@engines
@pytest.mark.usefixtures("always")
async def test_no_progress_of_a_batch_that_fails(db: Database) -> None:
    seen: list[Progress] = []
    with pytest.raises(BulkError):
        await load(
            db, [*ROWS[:12], {"k": 99, "a": -1}], batch_size=6, progress=seen.append
        )
    assert [progress.rows for progress in seen] == [6, 12]


@engines
@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_call_that_fails_tells_its_last_batch(
    db: Database,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    *,
    atomic: bool,
) -> None:
    monkeypatch.setattr(writing, "_PROGRESS_INTERVAL", 1_000)

    def rows() -> Iterator[dict[str, int]]:
        yield from ROWS[:20]
        raise error

    seen: list[Progress] = []
    with pytest.raises(error):
        await load(db, rows(), batch_size=6, atomic=atomic, progress=seen.append)
    assert [progress.rows for progress in seen] == [18]
    assert seen[0].result == BulkResult(created=9, updated=9)
    assert await db.query("SELECT count(*) FROM t") == [(0 if atomic else 9,)]
