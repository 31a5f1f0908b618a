"""
Count page views from 200 tasks at once, then load two releases of the time zones.

Everything happens in one SQLite file in a temporary folder, removed at the end.
"""

import asyncio
import csv
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import aiosqlite

from aioupsert import F, create_or_update, create_or_update_many

EXAMPLES = Path(__file__).parent
TASKS, CONNECTIONS = 200, 4
PAGES = ("/", "/about", "/docs", "/pricing", "/sign-up")
ZONES = ("America/Vancouver", "Asia/Tokyo", "Europe/Berlin")
TABLES = """
CREATE TABLE page_views (page TEXT PRIMARY KEY, hits INTEGER NOT NULL DEFAULT 0);
CREATE TABLE zones (
    zone TEXT PRIMARY KEY, countries TEXT, coordinates TEXT, comment TEXT
);
"""


async def count_views(conns: list[aiosqlite.Connection]) -> None:
    """Have each task count one view of one page, all tasks at once."""
    history = dict.fromkeys(PAGES, "existed already")

    async def view(task: int) -> None:
        page = PAGES[task % len(PAGES)]
        result = await create_or_update(
            conns[task % len(conns)],
            "page_views",
            key={"page": page},
            defaults={"hits": F("hits") + 1},
        )
        if result.created:  # true in exactly one of the tasks
            history[page] = f"created by task {task}"

    await asyncio.gather(*(view(task) for task in range(TASKS)))
    async with conns[0].execute("SELECT page, hits FROM page_views ORDER BY 1") as rows:
        async for page, hits in rows:
            print(f"  {page:9} {history[page]:19} {hits} views")


async def load_zones(conn: aiosqlite.Connection, release: str) -> None:
    """Load a file of time zones over those already stored."""
    with (EXAMPLES / f"zones-{release}.csv").open(encoding="utf-8") as file:
        counts = await create_or_update_many(
            conn, "zones", csv.DictReader(file), key="zone", skip_unchanged=True
        )
    print(
        f"  {release}: created {counts.created}, updated {counts.updated},"
        f" unchanged {counts.unchanged}"
    )


async def some_zones(conn: aiosqlite.Connection) -> dict[str, str]:
    """Return the stored columns of a few zones."""
    sql = "SELECT zone, countries, comment FROM zones WHERE zone IN (?, ?, ?)"
    async with conn.execute(sql, ZONES) as rows:
        return {
            zone: f"countries {countries}, comment {comment!r}"
            async for zone, countries, comment in rows
        }


async def main() -> None:
    """Print what happens to each row."""
    with tempfile.TemporaryDirectory() as folder:
        async with AsyncExitStack() as stack:
            conns = [
                await stack.enter_async_context(
                    aiosqlite.connect(Path(folder) / "counter.db")
                )
                for _ in range(CONNECTIONS)
            ]
            await conns[0].executescript(TABLES)

            each = TASKS // len(PAGES)
            print(
                f"{TASKS} tasks count page views at once, {each} on each page,"
                f" over {CONNECTIONS} connections to one SQLite file:"
            )
            await count_views(conns)
            print(f"\n{TASKS} more tasks do the same, now that the rows exist:")
            await count_views(conns)

            print("\nThe time zones of 2020 are loaded, then those of 2026 over them:")
            await load_zones(conns[0], "2020a")
            old = await some_zones(conns[0])
            await load_zones(conns[0], "2026f")
            new = await some_zones(conns[0])
            print("\nThree of the updated zones, before and after:")
            for zone in ZONES:
                print(f"  {zone}\n    old: {old[zone]}\n    new: {new[zone]}")


asyncio.run(main())
