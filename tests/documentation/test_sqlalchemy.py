"""The code in docs/guides/sqlalchemy.md does the same on every driver."""

import ast
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

from tests.documentation.pages import DOCS, copied
from tests.support.databases import PostgresDatabase
from tests.support.servers import Server

PAGE: Final = DOCS / "guides" / "sqlalchemy.md"
ENGINE: Final = 'create_async_engine("sqlite+aiosqlite:///pages.db")'


async def run_on(engine: Any) -> dict[str, Any]:
    """Run the page's code; what it has left."""
    (program,) = copied(PAGE)
    assert program.text.count(ENGINE) == 1
    # Mapped classes have a module, in which there is one of a name.
    module = f"{__name__}.{engine.driver}"
    scope: dict[str, Any] = {"the_engine": engine, "__name__": module}
    text = program.text.replace(ENGINE, "the_engine")
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    await eval(compile(text, PAGE, "exec", flags=flags), scope)  # noqa: S307  # our own documentation
    return scope


@pytest.fixture(params=["aiosqlite", "asyncpg", "psycopg"])
async def engine(
    request: pytest.FixtureRequest,
    lite_path: Path,
    pg: PostgresDatabase,
    pg_server: Server,
) -> Any:
    server = pg_server.dsn.partition("?")[0].partition("://")[2]
    url, options = {
        "aiosqlite": (f"sqlite+aiosqlite:///{lite_path}", {}),
        "asyncpg": (
            f"postgresql+asyncpg://{server}",
            {"server_settings": {"search_path": pg.schema}},
        ),
        "psycopg": (
            f"postgresql+psycopg://{server}",
            {"options": f"-csearch_path={pg.schema}"},
        ),
    }[request.param]
    engine = create_async_engine(url, connect_args=options)
    yield engine
    await engine.dispose()


async def test_the_page_does_what_it_says(engine: Any) -> None:
    done = await run_on(engine)
    # The next run defines it anew.
    SQLModel.metadata.remove(done["Tag"].__table__)
    page = done["page"]
    assert (page.path, page.title, page.hits, page.seen) == (
        "/pricing",
        "Pricing",
        1,
        None,
    )
    assert done["created"]
    result = done["result"]
    assert not result.created
    assert result.row["title"] == "Core"
    assert result.row["seen"] is not None
    assert (done["counts"].created, done["counts"].updated) == (1, 1)
    assert done["viewed"].row == {"hits": 4}
    assert done["tag"].row == {"used": 1}

    transport = httpx.ASGITransport(app=done["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
        answers = [(await client.post("/view/x")).json() for _ in range(2)]
    assert answers == [{"hits": 1, "created": True}, {"hits": 2, "created": False}]
    async with done["sessions"]() as session:
        counted = await session.execute(
            select(done["Page"].hits).where(done["Page"].path == "all")
        )
        assert counted.scalar_one() == 2
