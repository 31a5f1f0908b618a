"""aioupsert."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiosqlite
import asyncpg
import psycopg

from aioupsert import F, create_or_update, create_or_update_many
from benchmarks.peers.library import Peer, Ways
from benchmarks.support.rows import COLUMNS, Row

REPORTS = "created, updated, unchanged or skipped"
SOURCE = "README.md"


def ways(conn: Any, begin: Any) -> Ways:
    async def one(path: str, note: str) -> object:
        return await create_or_update(
            conn,
            "page_views",
            key={"path": path},
            defaults={"hits": F("hits") + 1, "note": note},
        )

    async def many(rows: Sequence[Row], **options: Any) -> object:
        dicts = (dict(zip(COLUMNS, row, strict=True)) for row in rows)
        return await create_or_update_many(
            conn, "page_views", dicts, key="path", **options
        )

    async def again(rows: Sequence[Row]) -> object:
        return await many(rows, skip_unchanged=True)

    return Ways(one, begin, many=many, again=again)


@asynccontextmanager
async def on_asyncpg(dsn: str) -> AsyncIterator[Ways]:
    conn = await asyncpg.connect(dsn)
    yield ways(conn, conn.transaction)
    await conn.close()


@asynccontextmanager
async def on_psycopg(dsn: str) -> AsyncIterator[Ways]:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        yield ways(conn, conn.transaction)


@asynccontextmanager
async def on_aiosqlite(path: str) -> AsyncIterator[Ways]:
    async with aiosqlite.connect(path, isolation_level=None) as conn:

        @asynccontextmanager
        async def begin() -> AsyncIterator[None]:
            await conn.execute("BEGIN IMMEDIATE")
            yield
            await conn.execute("COMMIT")

        yield ways(conn, begin)


POSTGRESQL = (
    Peer("aioupsert", on_asyncpg, REPORTS, SOURCE),
    Peer("aioupsert on psycopg", on_psycopg, REPORTS, SOURCE),
)
SQLITE = (Peer("aioupsert", on_aiosqlite, REPORTS, SOURCE),)
