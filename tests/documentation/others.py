"""
The code that docs/guides/coming-from.md starts from, run with the library that it is for.

    python -m tests.documentation.others Django pages.db

In a process of its own, since such libraries change what `sqlite3` makes of values.
"""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import django
import sqlite_utils
from asgiref.sync import sync_to_async
from django import conf
from django.db import connections, models
from sqlalchemy.ext.asyncio import AsyncSession
from tortoise import Tortoise, fields
from tortoise.models import Model

from tests.documentation.models import Page
from tests.documentation.pages import DOCS, blocks, checked, run, tables
from tests.support.engines import engine_on

PAGE: Final = DOCS / "guides" / "coming-from.md"


@asynccontextmanager
async def for_django(path: Path) -> AsyncIterator[dict[str, Any]]:
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path)}
    conf.settings.configure(DATABASES={"default": database}, USE_TZ=True)
    django.setup()

    class PageView(models.Model):  # noqa: DJ008  # nobody prints it
        path: Any = models.TextField(primary_key=True)
        hits: Any = models.IntegerField(db_default=0)
        title: Any = models.TextField(null=True)  # noqa: DJ001  # as the table has it

        class Meta:
            app_label = "pages"
            db_table = "page_views"

    yield {"PageView": PageView}
    await sync_to_async(connections.close_all)()


class PageView(Model):
    path = fields.CharField(max_length=100, primary_key=True)
    hits = fields.IntField(default=0)
    title = fields.TextField(null=True)

    class Meta:
        table = "page_views"


@asynccontextmanager
async def for_tortoise(path: Path) -> AsyncIterator[dict[str, Any]]:
    await Tortoise.init(db_url=f"sqlite://{path}", modules={"models": [__name__]})
    yield {"PageView": PageView}
    await Tortoise.close_connections()


@asynccontextmanager
async def for_sqlalchemy(path: Path) -> AsyncIterator[dict[str, Any]]:
    engine = engine_on("aiosqlite", str(path))
    async with AsyncSession(engine) as session:
        yield {"session": session, "Page": Page}
    await engine.dispose()


@asynccontextmanager
async def for_sqlite_utils(path: Path) -> AsyncIterator[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as conn:
        yield {"db": sqlite_utils.Database(conn)}


Preparing = Callable[[Path], AbstractAsyncContextManager[dict[str, Any]]]
LIBRARIES: Final[dict[str, Preparing]] = {
    "Django": for_django,
    "SQLAlchemy": for_sqlalchemy,
    "Tortoise": for_tortoise,
    "sqlite-utils": for_sqlite_utils,
}


async def run_those_of(library: str, path: Path) -> None:
    """Run what the page has of the library, on a file with the table of the guide."""
    (table,) = tables(DOCS / "reference" / "arguments.md")
    with closing(sqlite3.connect(path)) as conn:
        conn.execute(table)
    texts = [block.text for block in blocks(PAGE) if block.mark == library]
    assert texts
    async with LIBRARIES[library](path) as scope:
        await run(checked("\n".join(texts)), PAGE, scope)


if __name__ == "__main__":
    asyncio.run(run_those_of(sys.argv[1], Path(sys.argv[2])))
