"""
An application that counts, over each kind of handle, by plain and by coalesced calls.

    /asyncpg/plain/7
    /sqlalchemy/coalesced/7

The answer is 200 when the count is stored. The places are in the environment.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final

import aiosqlite
import asyncpg
import psycopg_pool
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from aioupsert import Coalescer, F, create_or_update

DSN: Final = "SERVICE_DSN"
FILE: Final = "SERVICE_FILE"
HANDLES: Final = ("asyncpg", "psycopg", "sqlalchemy", "aiosqlite")
WAYS: Final = ("plain", "coalesced")
# Seconds; a call for a locked row must not keep the process.
CLOSE_TIMEOUT: Final = 1.0

Call = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    """Open the handles, then the coalescers, which are so closed first."""
    dsn = os.environ[DSN]
    url = dsn.partition("?")[0].replace("postgresql", "postgresql+asyncpg", 1)
    engine = create_async_engine(url, pool_size=4, pool_pre_ping=True)
    calls: dict[tuple[str, str], Call] = {}
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.dispose)
        # A pool waits for its connections, which are waiting for a locked row.
        pool = await asyncpg.create_pool(dsn, min_size=1, max_size=4)
        stack.callback(pool.terminate)
        handles: dict[str, Any] = {
            "asyncpg": pool,
            "psycopg": await stack.enter_async_context(
                psycopg_pool.AsyncConnectionPool(
                    dsn,
                    min_size=1,
                    max_size=4,
                    check=psycopg_pool.AsyncConnectionPool.check_connection,
                )
            ),
            "sqlalchemy": engine,
            "aiosqlite": await stack.enter_async_context(
                aiosqlite.connect(os.environ[FILE], isolation_level=None)
            ),
        }
        for name, handle in handles.items():
            table = f"counts_{name}"
            coalescer = Coalescer(handle, table, key="k", close_timeout=CLOSE_TIMEOUT)
            await stack.enter_async_context(coalescer)
            calls[name, "plain"] = partial(create_or_update, handle, table)
            calls[name, "coalesced"] = coalescer.create_or_update
        app.state.calls = calls
        yield


async def count(request: Request) -> Response:
    handle, way, key = (request.path_params[name] for name in ("handle", "way", "key"))
    call = request.app.state.calls[handle, way]
    await call(key={"k": key}, defaults={"n": F("n") + 1})
    return Response()


app = Starlette(routes=[Route("/{handle}/{way}/{key:int}", count)], lifespan=lifespan)
