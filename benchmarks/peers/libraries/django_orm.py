"""Django's asynchronous methods, and django-pgbulk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import django
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connections, models
from django.db.models import F

from benchmarks.peers.library import Peer, Ways
from benchmarks.support.rows import Row

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    USE_TZ=True,
)
django.setup()

import pgbulk  # noqa: E402  # needs the settings


class PageView(models.Model):
    path = models.TextField(primary_key=True)
    hits = models.IntegerField()
    note = models.TextField(null=True)  # noqa: DJ001  # as the table has it

    class Meta:
        app_label = "pages"
        db_table = "page_views"

    def __str__(self) -> str:
        return self.path


@asynccontextmanager
async def database(place: str) -> AsyncIterator[Any]:
    """A connection of its own; it is opened by the first call, in Django's thread."""
    at = urlsplit(place)
    chosen = (
        {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": at.path[1:],
            "USER": at.username,
            "HOST": at.hostname,
            "PORT": at.port,
        }
        if at.scheme
        else {"ENGINE": "django.db.backends.sqlite3", "NAME": place}
    )
    databases = connections.configure_settings({"default": {}, place: chosen})
    connections.databases[place] = databases[place]
    yield PageView.objects.using(place)
    await sync_to_async(connections.close_all)()


@asynccontextmanager
async def opened(place: str) -> AsyncIterator[Ways]:
    async with database(place) as pages:

        async def one(path: str, note: str) -> object:
            return await pages.aupdate_or_create(
                path=path,
                defaults={"hits": F("hits") + 1, "note": note},
                create_defaults={"hits": 1, "note": note},
            )

        async def many(rows: Sequence[Row]) -> None:
            await pages.abulk_create(
                [PageView(path=p, hits=h, note=n) for p, h, n in rows],
                update_conflicts=True,
                unique_fields=["path"],
                update_fields=["hits", "note"],
            )

        # atomic() is for synchronous code.
        yield Ways(one, many=many)


@asynccontextmanager
async def by_pgbulk(place: str) -> AsyncIterator[Ways]:
    async with database(place) as pages:

        async def one(path: str, note: str) -> None:
            await pgbulk.aupsert(
                pages,
                [PageView(path=path, hits=1, note=note)],
                ["path"],
                [pgbulk.UpdateField("hits", expression=F("hits") + 1), "note"],
            )

        async def many(rows: Sequence[Row], **options: Any) -> None:
            await pgbulk.aupsert(
                pages,
                [PageView(path=p, hits=h, note=n) for p, h, n in rows],
                ["path"],
                ["hits", "note"],
                **options,
            )

        async def again(rows: Sequence[Row]) -> None:
            await many(rows, ignore_unchanged=True)

        yield Ways(one, many=many, again=again)


DJANGO = Peer(
    "Django",
    opened,
    "created",
    "https://docs.djangoproject.com/en/stable/ref/models/querysets/#update-or-create",
    "synchronous, in a thread; no transaction in async code",
    "synchronous, in a thread",
)
PGBULK = Peer(
    "django-pgbulk",
    by_pgbulk,
    "",
    "https://django-pgbulk.readthedocs.io/",
    "created flag only with returning=True; synchronous, in a thread; no transaction in async code",
    "synchronous, in a thread",
)
POSTGRESQL = (DJANGO, PGBULK)
SQLITE = (DJANGO,)
