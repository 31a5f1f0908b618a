"""
The process that `where_time_goes` looks into: it updates one row again and again.

    python -m benchmarks._sampled_process DSN SECONDS

It imports no more than it needs, so that little else is seen.
"""

from __future__ import annotations

import asyncio
import sys
import time

import asyncpg

from aioupsert import F, create_or_update


async def update_again_and_again(dsn: str, seconds: float) -> None:
    conn = await asyncpg.connect(dsn)
    await conn.execute(
        "CREATE TEMP TABLE views"
        " (path text PRIMARY KEY, hits integer DEFAULT 0, note text)"
    )
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await create_or_update(
            conn,
            "views",
            key={"path": "/"},
            defaults={"hits": F("hits") + 1, "note": "seen"},
        )
    await conn.close()


if __name__ == "__main__":
    asyncio.run(update_again_and_again(sys.argv[1], float(sys.argv[2])))
