"""The job, its tables, and the queue that it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TypeAlias

import asyncpg
from procrastinate import App, Blueprint, JobContext, PsycopgConnector

from aioupsert import Coalescer, Excluded, F

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

TABLES = """
CREATE TABLE IF NOT EXISTS views (day date NOT NULL, path text NOT NULL);
CREATE INDEX IF NOT EXISTS views_of_a_day ON views (day, path);
CREATE TABLE IF NOT EXISTS daily_totals (
    day date, path text, views bigint NOT NULL, PRIMARY KEY (day, path)
);
"""
COUNT = "SELECT count(*) FROM views WHERE day = $1 AND path = $2"

jobs = Blueprint()


@dataclass
class Resources:
    """What the jobs share."""

    pool: Pool
    daily_totals: Coalescer


@jobs.task(name="count", pass_context=True)
async def count(context: JobContext, *, day: str, path: str) -> None:
    """
    Store how often a page was viewed on a day.

    A queue may run a job twice, so this counts anew rather than adding. Views are only
    ever added: the greater count is the newer one, and a job that is late loses.
    """
    resources: Resources = context.additional_context["resources"]
    key = {"day": date.fromisoformat(day), "path": path}
    views = await resources.pool.fetchval(COUNT, *key.values())
    result = await resources.daily_totals.create_or_update(
        key=key, defaults={"views": views}, where=Excluded("views") > F("views")
    )
    print(f"{day} {path}: {views} views, {result.action}", flush=True)


def queue(dsn: str) -> App:
    """Make the queue, which has a few connections of its own."""
    app = App(connector=PsycopgConnector(conninfo=dsn))
    app.add_tasks_from(jobs, namespace="totals")
    return app


async def set_up(pool: Pool, app: App) -> None:
    """Create what is missing, once, however many workers start together."""
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock(hashtext('daily_totals'))")
        await conn.execute(TABLES)
        if await conn.fetchval("SELECT to_regclass('procrastinate_jobs')") is None:
            await conn.execute(app.schema_manager.get_schema())
