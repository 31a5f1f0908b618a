"""
Count page views, each with an upsert of its own that is executed with the others.

They are stored in SQLite, or in the PostgreSQL that PAGE_VIEWS_DB names.
"""

import asyncio
import os
import pathlib
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Annotated, Any

import aiosqlite
import asyncpg
from fastapi import Depends, FastAPI, Path, Request
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel

from aioupsert import Coalescer, F

TABLE = """
CREATE TABLE IF NOT EXISTS page_views (
    path text PRIMARY KEY,
    hits bigint NOT NULL DEFAULT 0
)
"""
TOP = "SELECT path, hits FROM page_views ORDER BY hits DESC, path LIMIT 10"
REFRESH_SECONDS = 0.2


class Page(BaseModel):
    """A page, and how often it was viewed."""

    path: str
    hits: int


class View(Page):
    """One view of a page, and whether it is the first."""

    created: bool


class Board(BaseModel):
    """What the page shows: the most viewed, and what this process has done."""

    top: list[Page]
    views: int
    batches: int


@dataclass
class Site:
    """What the requests share."""

    coalescer: Coalescer
    query: Callable[[str], Awaitable[Iterable[Any]]]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def top(self) -> list[Page]:
        """Read the pages with the most views."""
        return [Page.model_validate(dict(row)) for row in await self.query(TOP)]

    async def board(self) -> Board:
        """Read what the page shows."""
        top, stats = await self.top(), self.coalescer.stats
        return Board(top=top, views=stats.calls, batches=stats.batches)


@asynccontextmanager
async def open_site(database: str) -> AsyncIterator[Site]:
    """Connect, create the table if it is missing, and close in the end."""
    if database.startswith(("postgres://", "postgresql://")):
        async with asyncpg.create_pool(database, min_size=1) as pool:
            await pool.execute(TABLE)
            async with Coalescer(pool, "page_views", key="path") as coalescer:
                yield Site(coalescer, pool.fetch)
    else:
        async with aiosqlite.connect(database, isolation_level=None) as conn:
            conn.row_factory = aiosqlite.Row
            await conn.execute("PRAGMA journal_mode = WAL")
            await conn.execute(TABLE)
            async with Coalescer(conn, "page_views", key="path") as coalescer:
                yield Site(coalescer, conn.execute_fetchall)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the site; closing it waits for the views that are being counted."""
    database = os.environ.get("PAGE_VIEWS_DB", "page-views.db")
    async with open_site(database) as app.state.site:
        call_when_told_to_stop(app.state.site.stopping.set)
        yield


def call_when_told_to_stop(callback: Callable[[], None]) -> None:
    """
    Hear of a signal to stop together with the server.

    The server ends the lifespan only when no response is open any more, and an event
    stream is open until it is told to end.
    """
    if threading.current_thread() is not threading.main_thread():
        return  # As in a TestClient; no signal is heard there.
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        of_server = signal.getsignal(number)

        def handle(
            number: int, frame: FrameType | None, of_server: Any = of_server
        ) -> None:
            loop.call_soon_threadsafe(callback)
            of_server(number, frame)

        signal.signal(number, handle)


async def site_of(request: Request) -> Site:
    """Find what the lifespan has opened."""
    site: Site = request.app.state.site
    return site


OfSite = Annotated[Site, Depends(site_of)]
# What both databases can store, and index.
PagePath = Annotated[str, Path(max_length=500, pattern="^[^\0]*$")]

app = FastAPI(title="Page views", lifespan=lifespan)


@app.post("/view/{path:path}")
async def view(path: PagePath, site: OfSite) -> View:
    """Count one view. It is committed when this answers."""
    row, created = await site.coalescer.create_or_update(
        key={"path": f"/{path}"}, defaults={"hits": F("hits") + 1}, returning="*"
    )
    return View(**row, created=created)


@app.get("/top")
async def top(site: OfSite) -> list[Page]:
    """Give the pages with the most views."""
    return await site.top()


@app.get("/events", response_class=EventSourceResponse)
async def events(site: OfSite) -> AsyncIterator[Board]:
    """Send what the page shows, now and whenever it changes."""
    sent = None
    while not site.stopping.is_set():
        # Read, so that the views other processes have counted are seen too.
        board = await site.board()
        if board != sent:
            yield (sent := board)
        with suppress(TimeoutError):
            await asyncio.wait_for(site.stopping.wait(), REFRESH_SECONDS)


@app.get("/", include_in_schema=False)
async def index() -> FileResponse:
    """Serve the page."""
    return FileResponse(pathlib.Path(__file__).with_name("index.html"))
