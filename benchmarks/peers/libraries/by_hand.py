"""Statements written by hand, on the drivers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiosqlite
import asyncpg
import psycopg

from benchmarks.peers.library import Peer, Ways
from benchmarks.support.rows import Row

COUNT = """
INSERT INTO page_views AS v (path, hits, note) VALUES ($1, 1, $2)
ON CONFLICT (path) DO UPDATE SET hits = v.hits + 1, note = excluded.note
RETURNING (xmax = 0) AS created
"""
COUNT_LITE = """
INSERT INTO page_views AS v (path, hits, note) VALUES (?, 1, ?)
ON CONFLICT (path) DO UPDATE SET hits = v.hits + 1, note = excluded.note
RETURNING hits
"""
STORE = """
INSERT INTO page_views (path, hits, note) {}
ON CONFLICT (path) DO UPDATE SET hits = excluded.hits, note = excluded.note
"""
ONLY_CHANGED = """
WHERE (page_views.hits, page_views.note)
    IS DISTINCT FROM (excluded.hits, excluded.note)
"""
# Versions of SQLite before 3.39 have no IS DISTINCT FROM.
ONLY_CHANGED_LITE = """
WHERE (page_views.hits, page_views.note) IS NOT (excluded.hits, excluded.note)
"""
DOCUMENTATION = "https://www.postgresql.org/docs/current/sql-insert.html"


@asynccontextmanager
async def on_asyncpg(dsn: str) -> AsyncIterator[Ways]:
    conn = await asyncpg.connect(dsn)

    async def one(path: str, note: str) -> object:
        return await conn.fetchval(COUNT, path, note)

    yield Ways(one, conn.transaction)
    await conn.close()


@asynccontextmanager
async def by_copy(dsn: str) -> AsyncIterator[Ways]:
    conn = await asyncpg.connect(dsn)

    async def many(rows: Sequence[Row], where: str = "") -> None:
        async with conn.transaction():
            await conn.execute(
                "CREATE TEMP TABLE staged (path text, hits integer, note text)"
                " ON COMMIT DROP"
            )
            await conn.copy_records_to_table("staged", records=rows)
            store = STORE.format("SELECT path, hits, note FROM staged")
            await conn.execute(store + where)

    async def again(rows: Sequence[Row]) -> None:
        await many(rows, ONLY_CHANGED)

    yield Ways(many=many, again=again)
    await conn.close()


@asynccontextmanager
async def in_steps(dsn: str) -> AsyncIterator[Ways]:
    conn = await asyncpg.connect(dsn)

    async def inside(path: str, note: str) -> bool:
        found = await conn.fetchval(
            "SELECT 1 FROM page_views WHERE path = $1 FOR UPDATE", path
        )
        if found:
            await conn.execute(
                "UPDATE page_views SET hits = hits + 1, note = $2 WHERE path = $1",
                path,
                note,
            )
            return False
        await conn.execute(
            "INSERT INTO page_views (path, hits, note) VALUES ($1, 1, $2)", path, note
        )
        return True

    async def one(path: str, note: str) -> bool:
        async with conn.transaction():
            return await inside(path, note)

    yield Ways(one, conn.transaction, inside)
    await conn.close()


@asynccontextmanager
async def by_executemany(dsn: str) -> AsyncIterator[Ways]:
    conn = await asyncpg.connect(dsn)

    async def many(rows: Sequence[Row], where: str = "") -> None:
        await conn.executemany(STORE.format("VALUES ($1, $2, $3)") + where, rows)

    async def again(rows: Sequence[Row]) -> None:
        await many(rows, ONLY_CHANGED)

    yield Ways(many=many, again=again)
    await conn.close()


@asynccontextmanager
async def on_psycopg(dsn: str) -> AsyncIterator[Ways]:
    statement = COUNT.replace("$1", "%s").replace("$2", "%s")
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:

        async def one(path: str, note: str) -> object:
            cursor = await conn.execute(statement, (path, note))
            return await cursor.fetchone()

        async def many(rows: Sequence[Row], where: str = "") -> None:
            store = STORE.format("VALUES (%s, %s, %s)")
            async with conn.transaction(), conn.cursor() as cursor:
                await cursor.executemany(store + where, rows)

        async def again(rows: Sequence[Row]) -> None:
            await many(rows, ONLY_CHANGED)

        yield Ways(one, conn.transaction, many=many, again=again)


@asynccontextmanager
async def on_aiosqlite(path: str) -> AsyncIterator[Ways]:
    async with aiosqlite.connect(path, isolation_level=None) as conn:

        async def one(path: str, note: str) -> object:
            return await conn.execute_fetchall(COUNT_LITE, (path, note))

        async def many(rows: Sequence[Row], where: str = "") -> None:
            async with begin():
                await conn.executemany(STORE.format("VALUES (?, ?, ?)") + where, rows)

        async def again(rows: Sequence[Row]) -> None:
            await many(rows, ONLY_CHANGED_LITE)

        @asynccontextmanager
        async def begin() -> AsyncIterator[None]:
            await conn.execute("BEGIN IMMEDIATE")
            yield
            await conn.execute("COMMIT")

        yield Ways(one, begin, many=many, again=again)


POSTGRESQL = (
    Peer("asyncpg, ON CONFLICT by hand", on_asyncpg, "created", DOCUMENTATION),
    Peer("asyncpg, SELECT FOR UPDATE by hand", in_steps, "created", DOCUMENTATION),
    Peer(
        "asyncpg, COPY and ON CONFLICT by hand",
        by_copy,
        "",
        "https://magicstack.github.io/asyncpg/current/api/index.html",
    ),
    Peer(
        "asyncpg, executemany by hand",
        by_executemany,
        "",
        "https://magicstack.github.io/asyncpg/current/api/index.html",
    ),
    Peer(
        "psycopg, ON CONFLICT by hand",
        on_psycopg,
        "created",
        DOCUMENTATION,
        many_note="executemany",
    ),
)
SQLITE = (
    Peer(
        "aiosqlite, ON CONFLICT by hand",
        on_aiosqlite,
        "",
        "https://www.sqlite.org/lang_upsert.html",
        many_note="executemany",
    ),
)
