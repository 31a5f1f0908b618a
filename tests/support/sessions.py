"""Several sessions of PostgreSQL at once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.support.databases import PostgresDatabase


@asynccontextmanager
async def clients(pg: PostgresDatabase, number: int) -> AsyncIterator[list[Any]]:
    """Open connections of their own."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(pg.connect()) for _ in range(number)]


async def together(
    conns: list[Any], work: Callable[[Any, int], Coroutine[Any, Any, None]]
) -> None:
    """Run the work on each connection at the same time; it is told its number."""
    async with asyncio.TaskGroup() as group:
        for number, conn in enumerate(conns):
            group.create_task(work(conn, number))


async def waiting(pg: PostgresDatabase, conn: Any) -> None:
    """Return once the connection waits for a lock."""
    pid = conn.get_server_pid()
    await pg.run(
        "DO $$ BEGIN WHILE NOT EXISTS"
        f" (SELECT FROM pg_locks WHERE pid = {pid} AND NOT granted)"
        " LOOP PERFORM pg_sleep(0.001); END LOOP; END $$"
    )


async def idle(pg: PostgresDatabase) -> bool:
    """Tell whether no session of the test has a transaction open."""
    return not await pg.query(
        "SELECT pid, state FROM pg_stat_activity"
        f" WHERE application_name = '{pg.schema}' AND pid <> pg_backend_pid()"
        " AND state <> 'idle'"
    )
