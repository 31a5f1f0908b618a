"""sqlite-utils, which is synchronous, in a thread."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import sqlite_utils

from benchmarks.peers.library import Peer, Ways
from benchmarks.support.rows import Row


@asynccontextmanager
async def opened(path: str) -> AsyncIterator[Ways]:
    conn = sqlite3.connect(path, check_same_thread=False)
    table: Any = sqlite_utils.Database(conn)["page_views"]

    # It takes no expression: the row is read before.
    def count(path: str, note: str) -> None:
        try:
            hits = table.get(path)["hits"] + 1
        except sqlite_utils.db.NotFoundError:
            hits = 1
        table.upsert({"path": path, "hits": hits, "note": note}, pk="path")

    async def one(path: str, note: str) -> None:
        await asyncio.to_thread(count, path, note)

    async def many(rows: Sequence[Row]) -> None:
        dicts = ({"path": p, "hits": h, "note": n} for p, h, n in rows)
        await asyncio.to_thread(table.upsert_all, dicts, pk="path")

    yield Ways(one, many=many)
    conn.close()


PEER = Peer(
    "sqlite-utils",
    opened,
    "",
    "https://sqlite-utils.datasette.io/en/stable/python-api.html#upserting-data",
    "value, not expression; synchronous, in a thread",
    "synchronous, in a thread",
)
