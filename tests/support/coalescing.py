"""What tests of a coalescer do: make calls in tasks, and hold rows that they need."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from aioupsert import Coalescer, F, Result
from tests.support.databases import Database, PostgresDatabase

TABLE: Final = "CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)"
ADD: Final = {"n": F("n") + 1}
NOT_SENT: Final = "it was closed before this call was sent"
UNKNOWN: Final = (
    "it was closed while this call was under way: it has been stored or not"
)
# What hangs fails.
PATIENCE: Final = 20


def begin(
    coalescer: Coalescer, *keys: Any, **call: Any
) -> list[asyncio.Task[Result[Any]]]:
    """Make calls, one for each key, in tasks of their own."""
    return [
        asyncio.create_task(
            coalescer.create_or_update(key={"k": key}, **({"defaults": ADD} | call))
        )
        for key in keys
    ]


async def outcomes(tasks: list[asyncio.Task[Result[Any]]]) -> list[Any]:
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*tasks, return_exceptions=True)


async def numbers(db: Database) -> dict[int, int]:
    return dict(await db.query("SELECT k, n FROM t"))


@asynccontextmanager
async def locked(pg: PostgresDatabase, *keys: int) -> AsyncIterator[Any]:
    """Have another session hold rows, until it is told to commit or the block ends."""
    async with pg.connect() as other:
        await other.execute("BEGIN")
        for key in keys:
            await other.execute(
                f"INSERT INTO t (k) VALUES ({key})"
                " ON CONFLICT (k) DO UPDATE SET n = t.n"
            )
        # Twice does no harm.
        commit = partial(other.execute, "COMMIT")
        try:
            yield commit
        finally:
            await commit()


async def blocked(pg: PostgresDatabase, number: int = 1) -> list[int]:
    """Return once so many sessions of the test wait for a lock: their processes."""
    return await _waiting(pg, lambda found: found >= number)


async def unblocked(pg: PostgresDatabase) -> None:
    """Return once no session of the test waits for a lock."""
    await _waiting(pg, lambda found: not found)


async def make_sleepy(pg: PostgresDatabase, *keys: int) -> None:
    """Have whoever writes one of these rows sleep, which is no lock, until `wake`."""
    among = ", ".join(map(str, keys))
    await pg.run(
        "CREATE TABLE naps (); INSERT INTO naps DEFAULT VALUES;"
        "CREATE FUNCTION nap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF NEW.k IN ({among}) AND EXISTS (SELECT FROM naps) THEN"
        " PERFORM pg_sleep(60); END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER nap BEFORE INSERT OR UPDATE ON t"
        " FOR EACH ROW EXECUTE FUNCTION nap()"
    )


async def wake(pg: PostgresDatabase) -> None:
    """Let nobody sleep any more who does not sleep yet."""
    await pg.run("DELETE FROM naps")


async def asleep(pg: PostgresDatabase, number: int = 1) -> list[int]:
    """Return once so many sessions of the test sleep: their processes."""
    return await _waiting(pg, lambda found: found >= number, _SLEEPS)


_BLOCKED: Final = (
    "EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND NOT l.granted)"
)
_SLEEPS: Final = "wait_event = 'PgSleep'"


async def _waiting(
    pg: PostgresDatabase, enough: Callable[[int], bool], how: str = _BLOCKED
) -> list[int]:
    async with asyncio.timeout(PATIENCE):
        while True:
            rows = await pg.query(
                f"SELECT a.pid FROM pg_stat_activity a WHERE {how}"
                f" AND application_name = '{pg.schema}'"
            )
            if enough(len(rows)):
                return [pid for (pid,) in rows]
            await asyncio.sleep(0.002)
