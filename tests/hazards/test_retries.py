"""Transient errors of own statements are retried, to a deadline; and own commits fail."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import (
    Action,
    F,
    NotAppliedError,
    Result,
    RetriesExhaustedError,
    create_or_update,
    is_retryable,
)
from tests.support.databases import PostgresDatabase, settings

TABLES: Final = """
CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0);
CREATE TABLE bare (k integer, hits integer DEFAULT 0);
CREATE SEQUENCE calls;
"""
# Raises on UPDATE, the first times or always; a sequence is not rolled back.
FAILING: Final = """
INSERT INTO t VALUES (1, 0);
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
 IF nextval('calls') <= {times} THEN
  RAISE EXCEPTION 'once more' USING ERRCODE = '{code}'; END IF;
 RETURN new; END $$;
CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION fail();
"""
ALWAYS: Final = 2**31


async def count(conn: Any, table: str = "t", **options: Any) -> Result:
    hits = F("hits") + 1
    return await create_or_update(
        conn, table, key={"k": 1}, defaults={"hits": hits}, **options
    )


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_a_transient_error_is_retried(
    pg: PostgresDatabase, code: str, strategy: str
) -> None:
    await pg.run(TABLES + FAILING.format(code=code, times=9))
    result = await count(pg.handle, strategy=strategy)
    assert result.action is Action.UPDATED
    assert await pg.query("SELECT hits FROM t") == [(1,)]
    assert await pg.query("SELECT last_value FROM calls") == [(10,)]


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_never_inside_the_callers_transaction(
    pg: PostgresDatabase, code: str, strategy: str
) -> None:
    await pg.run(TABLES + FAILING.format(code=code, times=1))
    conn: Any = pg.handle
    await conn.execute("BEGIN")
    with pytest.raises(asyncpg.PostgresError, match="once more") as caught:
        await count(conn, strategy=strategy)
    await conn.execute("ROLLBACK")
    assert getattr(caught.value, "sqlstate", None) == code
    assert is_retryable(caught.value)
    assert await pg.query("SELECT last_value FROM calls") == [(1,)]


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("code", ["40001", "40P01"])
async def test_at_the_deadline_it_ends(
    pg: PostgresDatabase, code: str, strategy: str
) -> None:
    await pg.run(TABLES + FAILING.format(code=code, times=ALWAYS))
    with pytest.raises(RetriesExhaustedError, match="once more") as caught:
        await count(pg.handle, strategy=strategy, timeout=0.1)
    assert is_retryable(caught.value)
    assert isinstance(caught.value.__cause__, asyncpg.PostgresError)
    assert await pg.query("SELECT hits FROM t") == [(0,)]


async def test_without_time_there_is_one_attempt(pg: PostgresDatabase) -> None:
    await pg.run(TABLES + FAILING.format(code="40001", times=ALWAYS))
    with pytest.raises(RetriesExhaustedError):
        await count(pg.handle, timeout=0)
    assert await pg.query("SELECT last_value FROM calls") == [(1,)]


async def test_with_no_limit_it_goes_on(pg: PostgresDatabase) -> None:
    await pg.run(TABLES + FAILING.format(code="40001", times=100))
    result = await count(pg.handle, timeout=None)
    assert result.action is Action.UPDATED


@pytest.mark.parametrize("code", ["23514", "P0001", "55P03", "57014", "XX000", "53300"])
async def test_other_errors_are_not_retried(pg: PostgresDatabase, code: str) -> None:
    await pg.run(TABLES + FAILING.format(code=code, times=ALWAYS))
    with pytest.raises(asyncpg.PostgresError, match="once more") as caught:
        await count(pg.handle)
    assert not is_retryable(caught.value)
    assert await pg.query("SELECT last_value FROM calls") == [(1,)]


async def test_many_attempts_are_logged(
    pg: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    await pg.run(TABLES + FAILING.format(code="40001", times=11))
    with caplog.at_level(logging.WARNING, "aioupsert"):
        await count(pg.handle)
    assert [record.getMessage() for record in caplog.records] == ["t: 12 attempts"]


async def test_under_the_own_lock_too(pg: PostgresDatabase) -> None:
    await pg.run(
        TABLES
        + FAILING.format(code="40001", times=5)
        + "CREATE TRIGGER g BEFORE INSERT ON bare FOR EACH ROW EXECUTE FUNCTION fail()"
    )
    conn: Any = pg.handle
    result = await count(conn, "bare", without_unique_index="lock")
    assert result.action is Action.CREATED
    assert not conn.is_in_transaction()
    assert await pg.query("SELECT * FROM bare") == [(1, 1)]


class Faulty(asyncpg.Connection):
    """Sends another text in place of one command: what no server can be made to do."""

    command = ""
    instead: Any = None

    async def execute(
        self, query: str, *args: Any, timeout: float | None = None
    ) -> str:
        if query == self.command:
            query = await self.instead()
        return await super().execute(query, *args, timeout=timeout)


@asynccontextmanager
async def faulty(
    pg: PostgresDatabase, command: str, instead: Callable[[], Any]
) -> AsyncIterator[Any]:
    conn: Any = await asyncpg.connect(
        pg._dsn, connection_class=Faulty, server_settings=settings(pg.schema)
    )
    conn.command, conn.instead = command, instead
    try:
        yield conn
    finally:
        conn.terminate()


async def test_a_commit_that_is_answered_by_rollback_is_no_success(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLES)

    async def rollback() -> str:
        return "ROLLBACK"

    async with faulty(pg, "COMMIT", rollback) as conn:
        with pytest.raises(NotAppliedError, match="ROLLBACK to COMMIT"):
            await count(conn, "bare", without_unique_index="lock")
        assert not conn.is_in_transaction()
        assert not conn.is_closed()
    assert await pg.query("SELECT * FROM bare") == []


async def test_a_commit_that_fails_is_rolled_back(pg: PostgresDatabase) -> None:
    await pg.run(
        "CREATE TABLE parent (k integer PRIMARY KEY);"
        "CREATE TABLE bare (k integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED,"
        " hits integer DEFAULT 0)"
    )
    conn: Any = pg.handle
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await count(conn, "bare", without_unique_index="lock")
    assert not conn.is_in_transaction()
    await pg.run("INSERT INTO parent VALUES (1)")
    await count(conn, "bare", without_unique_index="lock")
    assert await pg.query("SELECT * FROM bare") == [(1, 1)]


CHECKED: Final = TABLES + "ALTER TABLE bare ADD CHECK (hits < 0)"


async def test_a_rollback_that_fails_ends_the_connection(pg: PostgresDatabase) -> None:
    await pg.run(CHECKED)

    async def fail() -> str:
        msg = "the rollback did not get through"
        raise OSError(msg)

    async with faulty(pg, "ROLLBACK", fail) as conn:
        with pytest.raises((asyncpg.CheckViolationError, OSError)):
            await count(conn, "bare", without_unique_index="lock")
        assert conn.is_closed()


async def test_a_rollback_that_hangs_ends_the_connection(
    pg: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioupsert._drivers.asyncpg.ROLLBACK_TIMEOUT", 0.1)
    await pg.run(CHECKED)

    async def hang() -> str:
        return "SELECT pg_sleep(600)"

    async with faulty(pg, "ROLLBACK", hang) as conn:
        with pytest.raises((asyncpg.PostgresError, TimeoutError)):
            async with asyncio.timeout(10):
                await count(conn, "bare", without_unique_index="lock")
        assert conn.is_closed()
