"""Several connections and processes on one file, and commits that fail."""

import asyncio
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest

from aioupsert import (
    Action,
    BulkResult,
    F,
    Result,
    RetriesExhaustedError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    is_retryable,
    sync_rows,
)
from tests.support.databases import SQLiteDatabase, opened, run_query, run_script

TABLE = "CREATE TABLE t (k TEXT PRIMARY KEY, hits INTEGER DEFAULT 0)"


@pytest.fixture(params=["wal", "delete"])
def path(request: pytest.FixtureRequest, lite_path: Path) -> Path:
    """A file with an empty table, in each journal mode."""
    run_script(lite_path, f"PRAGMA journal_mode = {request.param}; {TABLE}")
    return lite_path


@pytest.fixture
def wal(lite_path: Path) -> Path:
    run_script(lite_path, f"PRAGMA journal_mode = wal; {TABLE}")
    return lite_path


@pytest.fixture
def rollback_journal(lite_path: Path) -> Path:
    run_script(lite_path, f"PRAGMA journal_mode = delete; {TABLE}")
    return lite_path


async def count(conn: aiosqlite.Connection, **options: Any) -> Result:
    hits = F("hits") + 1
    return await create_or_update(
        conn, "t", key={"k": "a"}, defaults={"hits": hits}, **options
    )


@contextmanager
def holding(path: Path, *statements: str) -> Iterator[sqlite3.Connection]:
    """Another connection in a transaction, which holds what the statements lock."""
    # Ended by a timer's thread in one test.
    with closing(
        sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    ) as other:
        for sql in statements:
            other.execute(sql).fetchall()
        yield other


WORKER = """
import asyncio, sys
import aiosqlite
from aioupsert import F, create_or_update

async def main(path, calls):
    created = deleted = taken = 0
    async with aiosqlite.connect(path, isolation_level=None) as conn:
        await conn.execute("PRAGMA synchronous = OFF")
        for n in range(int(calls)):
            key = "abc"[n % 3]
            hits = F("hits") + 1
            result = await create_or_update(
                conn, "t", key={"k": key}, defaults={"hits": hits}
            )
            created += result.created
            if n % 10 == 9:
                sql = "DELETE FROM t WHERE k = ? RETURNING hits"
                for row in await conn.execute_fetchall(sql, (key,)):
                    deleted += 1
                    taken += row[0]
    print(created, deleted, taken)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_several_processes_lose_nothing(path: Path) -> None:
    async def worker() -> list[int]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", WORKER, str(path), "200"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert (process.returncode, errors.decode()) == (0, "")
        return [int(word) for word in output.split()]

    reports = await asyncio.gather(*(worker() for _ in range(4)))
    created, deleted, taken = map(sum, zip(*reports, strict=True))
    left = run_query(path, "SELECT hits FROM t")
    assert taken + sum(hits for (hits,) in left) == 800
    assert created == deleted + len(left)
    assert run_query(path, "PRAGMA integrity_check") == [("ok",)]


async def test_connections_that_never_wait_lose_nothing(path: Path) -> None:
    async with AsyncExitStack() as stack:
        conns = [
            await stack.enter_async_context(opened(path, timeout=0)) for _ in range(8)
        ]

        for conn in conns:
            await conn.execute("PRAGMA synchronous = OFF")

        async def task(conn: aiosqlite.Connection) -> int:
            return sum([(await count(conn)).created for _ in range(20)])

        created = await asyncio.gather(*map(task, conns))
        assert not any(conn.in_transaction for conn in conns)
    assert sum(created) == 1
    assert run_query(path, "SELECT hits FROM t") == [(160,)]
    assert run_query(path, "PRAGMA integrity_check") == [("ok",)]


async def get(conn: aiosqlite.Connection, **options: Any) -> Result:
    return await get_or_create(conn, "t", key={"k": "b"}, **options)


@pytest.mark.parametrize("call", [count, get])
async def test_the_drivers_timeout_is_waited_for(path: Path, call: Any) -> None:
    async with opened(path, timeout=5) as conn:
        await count(conn)
        with holding(path, "BEGIN IMMEDIATE") as other:
            later = asyncio.get_running_loop().call_later(0.1, other.execute, "COMMIT")
            # No attempt after the first, so that only the driver can wait.
            await call(conn, timeout=0)
            later.cancel()
    assert run_query(path, "SELECT count(*) FROM t WHERE hits > 1 OR k = 'b'") == [(1,)]


async def test_busy_lasts_until_the_timeout(path: Path) -> None:
    async with opened(path, timeout=0) as conn:
        await count(conn)
        with (
            holding(path, "BEGIN IMMEDIATE"),
            pytest.raises(RetriesExhaustedError) as caught,
        ):
            await count(conn, timeout=0.05)
        cause = caught.value.__cause__
        assert isinstance(cause, sqlite3.OperationalError)
        assert cause.sqlite_errorcode == sqlite3.SQLITE_BUSY
        assert is_retryable(caught.value)
        assert not conn.in_transaction
        assert (await count(conn)).action is Action.UPDATED
    assert run_query(path, "SELECT hits FROM t") == [(2,)]


async def test_busy_ends_before_the_timeout(path: Path) -> None:
    async with opened(path, timeout=0) as conn:
        await count(conn)
        with holding(path, "BEGIN IMMEDIATE"):
            call = asyncio.create_task(count(conn))
            await asyncio.sleep(0.05)
            assert not call.done()
        assert (await call).action is Action.UPDATED


async def test_busy_while_the_table_is_read_lasts_until_the_timeout(
    rollback_journal: Path,
) -> None:
    async with opened(rollback_journal, timeout=0) as conn:
        with holding(rollback_journal, "BEGIN EXCLUSIVE"):
            with pytest.raises(RetriesExhaustedError) as caught:
                await count(conn, timeout=0.05)
            assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
            call = asyncio.create_task(count(conn))
            await asyncio.sleep(0.05)
            assert not call.done()
        assert (await call).created


async def test_a_row_that_is_there_is_got_without_a_lock(path: Path) -> None:
    async with opened(path, timeout=0) as conn:
        await count(conn)
        with holding(path, "BEGIN IMMEDIATE"):
            result = await get_or_create(conn, "t", key={"k": "a"}, timeout=0)
        assert result.action is Action.UNCHANGED


async def test_callables_wait_for_the_answer_that_the_row_is_missing(
    rollback_journal: Path,
) -> None:
    called: list[str] = []
    async with opened(rollback_journal, timeout=0) as conn:
        await count(conn)
        with holding(rollback_journal, "BEGIN EXCLUSIVE"):
            call = asyncio.create_task(
                get_or_create(
                    conn,
                    "t",
                    key={"k": "a"},
                    defaults={"hits": lambda: called.append("!")},
                )
            )
            await asyncio.sleep(0.05)
        assert (await call).action is Action.UNCHANGED
    assert called == []


async def test_busy_in_the_callers_transaction_is_the_drivers(path: Path) -> None:
    async with opened(path, timeout=0) as conn:
        await count(conn)
        await conn.execute("BEGIN")
        with (
            holding(path, "BEGIN IMMEDIATE"),
            pytest.raises(sqlite3.OperationalError) as caught,
        ):
            await count(conn)
        assert caught.value.sqlite_errorcode == sqlite3.SQLITE_BUSY
        assert is_retryable(caught.value)
        assert conn.in_transaction
        await count(conn)
        await conn.execute("COMMIT")
    assert run_query(path, "SELECT hits FROM t") == [(2,)]


async def test_an_old_snapshot_of_the_callers_is_the_drivers_error(wal: Path) -> None:
    async with opened(wal) as conn:
        await count(conn)
        await conn.execute("BEGIN")
        await conn.execute_fetchall("SELECT * FROM t")
        run_script(wal, "UPDATE t SET hits = 5")
        with pytest.raises(sqlite3.OperationalError) as caught:
            await count(conn)
        assert caught.value.sqlite_errorcode == sqlite3.SQLITE_BUSY_SNAPSHOT
        assert is_retryable(caught.value)
        assert conn.in_transaction
        await conn.execute("ROLLBACK")
        await count(conn)
    assert run_query(wal, "SELECT hits FROM t") == [(6,)]


async def test_a_commit_that_a_foreign_key_refuses_is_rolled_back(wal: Path) -> None:
    run_script(
        wal,
        "CREATE TABLE child (id INTEGER PRIMARY KEY,"
        " k TEXT REFERENCES t DEFERRABLE INITIALLY DEFERRED)",
    )
    async with opened(wal) as conn:
        await conn.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            await create_or_update(
                conn, "child", key={"id": 1}, defaults={"k": "missing"}
            )
        assert not conn.in_transaction
        assert run_query(wal, "SELECT * FROM child") == []
        await count(conn)
        await create_or_update(conn, "child", key={"id": 1}, defaults={"k": "a"})
    assert run_query(wal, "SELECT * FROM child") == [(1, "a")]


async def test_in_the_callers_transaction_a_foreign_key_may_be_mended(
    wal: Path,
) -> None:
    run_script(
        wal,
        "CREATE TABLE child (id INTEGER PRIMARY KEY,"
        " k TEXT REFERENCES t DEFERRABLE INITIALLY DEFERRED)",
    )
    async with opened(wal) as conn:
        await conn.execute("PRAGMA foreign_keys = ON")
        await conn.execute("BEGIN")
        await create_or_update(conn, "child", key={"id": 1}, defaults={"k": "a"})
        await count(conn)
        await conn.execute("COMMIT")
    assert run_query(wal, "SELECT * FROM child") == [(1, "a")]


async def test_a_commit_that_a_reader_blocks_is_rolled_back(
    rollback_journal: Path,
) -> None:
    async with opened(rollback_journal, timeout=0) as conn:
        await count(conn)
        with holding(rollback_journal, "BEGIN", "SELECT * FROM t") as reader:
            with pytest.raises(RetriesExhaustedError) as caught:
                await count(conn, timeout=0.05)
            assert is_retryable(caught.value)
            assert not conn.in_transaction
            assert reader.execute("SELECT hits FROM t").fetchall() == [(1,)]
        assert run_query(rollback_journal, "SELECT hits FROM t") == [(1,)]
        await count(conn)
    assert run_query(rollback_journal, "SELECT hits FROM t") == [(2,)]


@pytest.mark.parametrize("call", [create_or_update_many, sync_rows])
async def test_a_call_of_several_batches_waits_until_it_may_begin(
    lite: SQLiteDatabase, monkeypatch: pytest.MonkeyPatch, call: Any
) -> None:
    await lite.run("CREATE TABLE t (k integer PRIMARY KEY)")
    await lite.handle.execute("PRAGMA busy_timeout = 0")
    options: Any = {"scope": {}} if call is sync_rows else {}
    with closing(
        sqlite3.connect(lite.path, isolation_level=None, check_same_thread=False)
    ) as other:

        async def write(timeout: float | None) -> BulkResult:
            rows = ({"k": k} for k in (1, 2))  # can be read once
            result: BulkResult = await call(
                *(lite.handle, "t", rows),
                key="k",
                batch_size=1,
                timeout=timeout,
                **options,
            )
            return result

        async def release(_: int) -> None:
            other.execute("ROLLBACK")

        monkeypatch.setattr("aioupsert._bulk.writing.back_off", release)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(RetriesExhaustedError, match="locked"):
            await write(0)
        assert await write(None) == BulkResult(created=2)
