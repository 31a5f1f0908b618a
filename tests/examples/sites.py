"""The site of examples/page_views, served and visited."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from tests.examples.programs import TIMEOUT, Program, documented, started


class Store(NamedTuple):
    """Where a site keeps its views, and a look at it."""

    url: str
    query: Callable[[str], Awaitable[list[tuple[Any, ...]]]]


class Site(NamedTuple):
    """A server that answers."""

    program: Program
    url: str


@contextmanager
def serving(store_url: str, folder: Path, port: int = 0) -> Iterator[Site]:
    """Serve it on the port, or on one that is free."""
    words = [*documented("page_views", "venv .venv"), f"--port={port}"]
    log = folder / "uvicorn.log"
    with started(words, log, PAGE_VIEWS_DB=store_url) as program:
        url = program.wait_for(r"Uvicorn running on (http://\S+)")[1]
        yield Site(program, url)


class Spread(httpx.AsyncBaseTransport):
    """Many pools of connections: one is slow with hundreds of requests at once."""

    def __init__(self, pools: int) -> None:
        # Without what only https needs, which is slow to load.
        self.pools = [httpx.AsyncHTTPTransport(verify=False) for _ in range(pools)]
        self.turns = cycle(self.pools)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await next(self.turns).handle_async_request(request)

    async def aclose(self) -> None:
        for pool in self.pools:
            await pool.aclose()


def visiting(site: Site, pools: int = 20) -> httpx.AsyncClient:
    """Any number of visitors at once, with no proxy between."""
    return httpx.AsyncClient(
        base_url=site.url, transport=Spread(pools), timeout=TIMEOUT, trust_env=False
    )


async def view(visitor: httpx.AsyncClient, path: str) -> Any:
    """Count a view; what the server says to it."""
    response = await visitor.post(f"/view{path}")
    return response.raise_for_status().json()


async def boards(stream: httpx.Response) -> AsyncIterator[Any]:
    """What the page would show, whenever it changes."""
    async for line in stream.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
