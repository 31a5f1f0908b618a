"""Stands between a client and PostgreSQL: counts round trips, or passes on no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

FLUSH: Final = b"H\x00\x00\x00\x04"


class Proxy:
    """
    A proxy of the server.

    Attributes:
        port: Where it listens.
        trips: How often the client has spoken after the server had.
        passes: Whether it passes on what it hears.
        stop: Takes no more connections.
    """

    def __init__(self, host: str, port: int) -> None:
        self.trips = 0
        self.port = 0
        self.stop: Callable[[], None]
        self.passes = asyncio.Event()
        self.passes.set()
        self._to = host, port
        self._spoke: object = None
        self._serving: set[asyncio.Task[Any]] = set()
        self._passing: set[asyncio.Task[Any]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.stop = server.close
        yield
        server.close()
        # Tests that come later would be blamed for connections that are left open.
        for passing in self._passing:
            passing.cancel()
        while self._serving:
            await asyncio.wait(self._serving)

    async def _connected(
        self, near: asyncio.StreamReader, near_out: asyncio.StreamWriter
    ) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        far, far_out = await asyncio.open_connection(*self._to)
        passing = {
            asyncio.create_task(self._pass(near, far_out)),
            asyncio.create_task(self._pass(far, near_out, near)),
        }
        self._passing |= passing
        await asyncio.gather(*passing, return_exceptions=True)
        self._passing -= passing
        for out in (near_out, far_out):
            out.close()
            with contextlib.suppress(OSError):
                await out.wait_closed()

    async def _pass(
        self,
        source: asyncio.StreamReader,
        to: asyncio.StreamWriter,
        client: object = None,
    ) -> None:
        while data := await source.read(65536):
            await self.passes.wait()
            if data != FLUSH:  # for whose answer nobody waits
                self.trips += self._spoke is not source and client is None
                self._spoke = source
            to.write(data)
        to.close()

    async def of(self, call: Awaitable[Any]) -> tuple[Any, int]:
        self.trips = 0
        return await call, self.trips


@asynccontextmanager
async def proxied(dsn: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy of a server, and where to connect to it."""
    server = conninfo_to_dict(dsn)
    proxy = Proxy(str(server["host"]), int(server["port"] or 0))
    async with proxy.listening():
        user, password = (
            quote(str(server.get(name) or ""), safe="") for name in ("user", "password")
        )
        # A URL, which every driver reads.
        address = f"{user}:{password}@127.0.0.1:{proxy.port}"
        yield proxy, f"postgresql://{address}/{server.get('dbname') or ''}"
