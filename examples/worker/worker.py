"""
Keep the number of views per day and page, in jobs of a PostgreSQL queue.

    python worker.py              work until told to stop
    python worker.py defer 500    add 500 views, and the jobs that count them

WORKER_DB names the PostgreSQL, as in postgresql://user:password@host/database.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

import asyncpg
from procrastinate import App
from totals import Pool, Resources, count, queue, set_up

from aioupsert import Coalescer

Command: TypeAlias = Callable[[Pool, App], Awaitable[None]]

ADD_VIEWS = """
WITH added AS (
    INSERT INTO views SELECT current_date - n % 2, '/page/' || n % 25
    FROM generate_series(1, $1::integer) AS n RETURNING day, path
)
SELECT DISTINCT day, path FROM added
"""


async def work(pool: Pool, app: App) -> None:
    """Run jobs, ten at a time; what they store is stored together."""
    async with Coalescer(pool, "daily_totals", key=("day", "path")) as daily_totals:
        resources = Resources(pool, daily_totals)
        print("working", flush=True)
        await app.run_worker_async(
            concurrency=10, additional_context={"resources": resources}
        )


async def defer(pool: Pool, _app: App, *, views: int) -> None:
    """Add views, and a job for every page and day that got some."""
    added = await pool.fetch(ADD_VIEWS, views)
    await count.batch_defer_async(
        *({"day": row["day"].isoformat(), "path": row["path"]} for row in added)
    )
    print(f"{views} views, {len(added)} jobs")


async def main(dsn: str, do: Command) -> None:
    """Connect, create what is missing, and do what is asked."""
    app = queue(dsn)
    async with asyncpg.create_pool(dsn, min_size=1) as pool, app.open_async():
        await set_up(pool, app)
        await do(pool, app)


if __name__ == "__main__":
    match os.environ.get("WORKER_DB"), sys.argv[1:]:
        case str(dsn), []:
            asyncio.run(main(dsn, work))
        case str(dsn), ["defer", views] if views.isdecimal():
            asyncio.run(main(dsn, partial(defer, views=int(views))))
        case _:
            sys.exit(__doc__)
