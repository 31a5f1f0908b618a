"""Tortoise."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tortoise import Tortoise, fields
from tortoise.expressions import F
from tortoise.models import Model
from tortoise.transactions import in_transaction

from benchmarks.peers.library import Peer, Ways
from benchmarks.support.rows import Row


class PageView(Model):
    path = fields.CharField(max_length=200, primary_key=True)
    hits = fields.IntField()
    note = fields.TextField(null=True)

    class Meta:
        table = "page_views"


def url(place: str) -> str:
    if "://" not in place:
        return f"sqlite://{place}"
    return "asyncpg://" + place.partition("://")[2].partition("?")[0]


@asynccontextmanager
async def opened(place: str) -> AsyncIterator[Ways]:
    await Tortoise.init(db_url=url(place), modules={"models": [__name__]})

    # update_or_create takes no expression. No transaction is needed: get_or_create
    # gets what another caller created, and the update is one statement.
    async def one(path: str, note: str) -> bool:
        defaults = {"hits": 1, "note": note}
        _, created = await PageView.get_or_create(defaults, path=path)
        if not created:
            await PageView.filter(path=path).update(hits=F("hits") + 1, note=note)
        return created

    async def many(rows: Sequence[Row]) -> None:
        await PageView.bulk_create(
            [PageView(path=path, hits=hits, note=note) for path, hits, note in rows],
            on_conflict=["path"],
            update_fields=["hits", "note"],
        )

    yield Ways(one, in_transaction, many=many)
    await Tortoise.close_connections()


PEER = Peer(
    "Tortoise",
    opened,
    "created",
    "https://tortoise.github.io/models.html",
    "get_or_create, then update: update_or_create takes no expression",
)
