"""Piccolo."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from piccolo.columns import Integer, Text, Varchar
from piccolo.columns.combination import WhereRaw
from piccolo.engine.postgres import PostgresEngine
from piccolo.querystring import QueryString
from piccolo.table import Table

from benchmarks.peers.library import Peer, Ways
from benchmarks.support.rows import Row

# Parameters of a statement, by the rows' three columns.
_ROWS = 32_767 // 3


ONLY_CHANGED = WhereRaw(
    "(page_views.hits, page_views.note) IS DISTINCT FROM (excluded.hits, excluded.note)"
)


class PageView(Table, tablename="page_views"):
    path = Varchar(length=200, primary_key=True)
    hits = Integer()
    note = Text(null=True)


@asynccontextmanager
async def opened(place: str) -> AsyncIterator[Ways]:
    engine = PostgresEngine({"dsn": place}, extensions=(), log_queries=False)
    await engine.start_connection_pool(min_size=1, max_size=1)
    PageView._meta._db = engine  # noqa: SLF001  # else it is read from a file
    # PageView.hits + 1 is ambiguous in the statement.
    more = QueryString('"page_views"."hits" + 1')

    async def one(path: str, note: str) -> None:
        await PageView.insert(PageView(path=path, hits=1, note=note)).on_conflict(
            target=PageView.path,
            action="DO UPDATE",
            values=[(PageView.hits, more), PageView.note],
        )

    async def many(rows: Sequence[Row], where: WhereRaw | None = None) -> None:
        async with engine.transaction():
            for start in range(0, len(rows), _ROWS):
                part = rows[start : start + _ROWS]
                await PageView.insert(
                    *(PageView(path=p, hits=h, note=n) for p, h, n in part)
                ).on_conflict(
                    target=PageView.path,
                    action="DO UPDATE",
                    values=[PageView.hits, PageView.note],
                    where=where,
                )

    async def again(rows: Sequence[Row]) -> None:
        await many(rows, ONLY_CHANGED)

    yield Ways(one, engine.transaction, many=many, again=again)
    await engine.close_connection_pool()


PEER = Peer(
    "Piccolo",
    opened,
    "",
    "https://piccolo-orm.readthedocs.io/en/latest/piccolo/query_clauses/on_conflict.html",
    many_note="in statements of 10,922 rows",
)
