"""The code in docs/guides/servers.md does what is said there."""

import ast
import asyncio
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import asyncpg
import psycopg_pool
import pytest
import trio
import uvloop

from aioupsert import F, create_or_update
from tests.support.databases import PostgresDatabase, open_sqlite
from tests.support.servers import Server
from tests.support.violations import LOST
from tests.topologies.failover import replicating
from tests.topologies.pgbouncer import bouncing

PAGE: Final = Path(__file__).parents[2] / "docs" / "guides" / "servers.md"
MODULES: Final = {
    module.__name__: module
    for module in (anyio, asyncio, asyncpg, psycopg_pool, trio, uvloop)
}


def block(marker: str, replace: dict[str, str] | None = None) -> Callable[..., Any]:
    """The code that has the marker, as a function that gives its variables."""
    blocks = re.findall(r"```python\n(.+?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (text,) = [block for block in blocks if marker in block]
    for old, new in (replace or {}).items():
        assert old in text
        text = text.replace(old, new)
    code = compile(text, PAGE, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    def run(**variables: Any) -> Any:
        scope = MODULES | variables
        awaitable = eval(code, scope)  # noqa: S307 - our own documentation

        async def finish() -> dict[str, Any]:
            await awaitable
            return scope

        return finish() if inspect.iscoroutine(awaitable) else scope

    return run


@pytest.fixture(scope="module")
def bouncer(pg_server: Server) -> Iterator[str]:
    with bouncing(pg_server.dsn, size=2) as dsn:
        yield dsn


@pytest.mark.parametrize("marker", ["statement_cache_size", "prepare_threshold"])
async def test_pools_behind_pgbouncer(
    pg: PostgresDatabase, bouncer: str, marker: str
) -> None:
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)")
    run = block(marker, {"postgresql://app@pgbouncer.example:6432/app": bouncer})
    scope = run()
    pool = (await scope if inspect.isawaitable(scope) else scope)["pool"]
    async with pool:
        await asyncio.gather(
            *(
                create_or_update(
                    pool, (pg.schema, "t"), key={"k": 1}, defaults={"n": F("n") + 1}
                )
                for _ in range(40)
            )
        )
    assert await pg.query("SELECT k, n FROM t") == [(1, 40)]


async def test_the_pool_for_failover_takes_the_server_that_takes_writes() -> None:
    with replicating() as (primary, standby):
        # The standby first.
        run = block(
            "target_session_attrs",
            {
                "app@db1.example:5432": f"postgres@127.0.0.1:{standby.port}",
                "db2.example:5432/app": f"127.0.0.1:{primary.port}/postgres",
            },
        )
        async with (await run())["pool"] as pool:
            assert not await pool.fetchval("SELECT pg_is_in_recovery()")


def test_the_errors_of_a_failover_are_those_that_are_tested() -> None:
    assert block("LOST")()["LOST"] == LOST


@pytest.mark.parametrize("marker", ["asyncio.Runner", "anyio.run", "from_trio"])
def test_programs(lite_path: Path, marker: str) -> None:
    created: list[bool] = []

    async def main() -> None:
        async with open_sqlite(lite_path) as db:
            await db.run("CREATE TABLE t (k integer PRIMARY KEY)")
            result = await create_or_update(db.handle, "t", key={"k": 1})
            created.append(result.created)

    scope = block(marker)(main=main)
    if marker in scope:
        trio.run(scope[marker])
    assert created == [True]
