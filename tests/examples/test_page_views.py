"""The site, under uvicorn and over HTTP, on a database of either engine."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.examples.programs import TIMEOUT
from tests.examples.sites import Site, Store, boards, serving, view, visiting

on_both = pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
on_postgresql = pytest.mark.parametrize("store", ["postgresql"], indirect=True)

# Seconds. It takes less than one, and for ever if it waits for its streams.
PROMPTLY = 10


@pytest.fixture
def site(store: Store, tmp_path: Path) -> Iterator[Site]:
    with serving(store.url, tmp_path) as serves:
        yield serves


@pytest.fixture
async def visitor(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    async with visiting(site) as client:
        yield client


@on_both
async def test_views_at_once_all_count_and_one_creates_each_page(
    visitor: httpx.AsyncClient, store: Store
) -> None:
    pages = [f"/page/{number}" for number in range(5)]
    answers = await asyncio.gather(*(view(visitor, page) for page in pages * 40))
    for page in pages:
        of_page = [answer for answer in answers if answer["path"] == page]
        assert sorted(answer["hits"] for answer in of_page) == list(range(1, 41))
        assert [answer["hits"] for answer in of_page if answer["created"]] == [1]
    stored = await store.query("SELECT path, hits FROM page_views ORDER BY path")
    assert stored == [(page, 40) for page in pages]
    expected = [{"path": page, "hits": 40} for page in pages]
    assert (await visitor.get("/top")).json() == expected
    async with visitor.stream("GET", "/events") as stream:
        board = await anext(boards(stream))
    assert (board["top"], board["views"]) == (expected, 200)
    # They were executed together.
    assert board["batches"] < 100


# Its text and its indexes take less than those of SQLite.
@on_postgresql
async def test_a_path_is_stored_as_it_is_or_refused(
    visitor: httpx.AsyncClient, store: Store
) -> None:
    odd = ["/", "//", "/é 100% ?#", "/'; DROP TABLE page_views --", "/" + 500 * "ü"]
    for path in odd:
        assert await view(visitor, quote(path)) == {
            "path": path,
            "hits": 1,
            "created": True,
        }
    for path in ["/a%00b", "/" + 501 * "a"]:
        assert (await visitor.post(f"/view{path}")).status_code == 422
    stored = await store.query("SELECT path FROM page_views")
    assert sorted(path for (path,) in stored) == sorted(odd)


@on_postgresql
async def test_open_pages_hear_of_views_that_any_server_counts(
    visitor: httpx.AsyncClient, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with serving(store.url, tmp_path_factory.mktemp("other")) as other:
        async with (
            asyncio.timeout(TIMEOUT),
            visiting(other) as elsewhere,
            visitor.stream("GET", "/events") as stream,
        ):
            tops = (board["top"] async for board in boards(stream))
            assert await anext(tops) == []
            for hits, somebody in enumerate((visitor, elsewhere), 1):
                await view(somebody, "/")
                # Their number may be known before they are.
                while (top := await anext(tops)) != [{"path": "/", "hits": hits}]:
                    assert top == [{"path": "/", "hits": hits - 1}][: hits - 1]


class Crowd:
    """Visitors who view one page again and again, until they get no answer."""

    def __init__(self, visitor: httpx.AsyncClient) -> None:
        self.visitor = visitor
        self.asked = 0
        self.answered = 0
        self.has_come = asyncio.Event()

    async def visit(self) -> None:
        with suppress(httpx.TransportError):
            while True:
                self.asked += 1
                await view(self.visitor, "/")
                self.answered += 1
                if self.answered == 100:
                    self.has_come.set()


@asynccontextmanager
async def crowded(site: Site) -> AsyncIterator[Crowd]:
    """In the middle of it; they are all gone in the end."""
    # In one pool each keeps its connection. A new one, accepted just when uvicorn stops
    # listening, would hold it up for the five seconds that it may be idle.
    async with visiting(site, pools=1) as visitor, asyncio.timeout(TIMEOUT):
        crowd = Crowd(visitor)
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(crowd.visit())
            await crowd.has_come.wait()
            yield crowd


@pytest.mark.parametrize(
    # uvicorn ends by the signal itself, once it is done; Python makes an interrupt
    # an exception, which uvicorn takes as a normal end.
    ("store", "number", "code"),
    [("sqlite", signal.SIGINT, 0), ("postgresql", signal.SIGTERM, -signal.SIGTERM)],
    indirect=["store"],
)
async def test_a_server_told_to_stop_ends_its_streams_and_keeps_what_it_answered(
    site: Site,
    visitor: httpx.AsyncClient,
    store: Store,
    number: signal.Signals,
    code: int,
) -> None:
    async with visitor.stream("GET", "/events") as stream:
        async with crowded(site) as crowd:
            told = time.monotonic()
            assert await asyncio.to_thread(site.program.stop, number) == code
            assert time.monotonic() - told < PROMPTLY
        # Read to an end that is one: nothing is raised.
        assert [board async for board in boards(stream)]
    site.program.wait_for("Application shutdown complete")
    ((hits,),) = await store.query("SELECT hits FROM page_views")
    assert crowd.answered <= hits <= crowd.asked


@on_both
async def test_a_server_that_is_killed_has_stored_what_it_answered(
    site: Site, store: Store
) -> None:
    async with crowded(site) as crowd:
        site.program.stop(signal.SIGKILL)
    ((hits,),) = await store.query("SELECT hits FROM page_views")
    assert crowd.answered <= hits <= crowd.asked
