"""Values are values, whatever they look like, wherever a value may stand."""

import asyncio
from typing import Any, Final

from aioupsert import (
    Coalescer,
    Excluded,
    F,
    create_or_update,
    create_or_update_many,
    get_or_create,
)
from tests.conformance.hostile import hostile_texts
from tests.support.databases import Database

TEXTS: Final = hostile_texts(10_000, shorter_than=1_000)
PAGES: Final = "pages (path TEXT PRIMARY KEY, note TEXT, hits INTEGER DEFAULT 0)"


async def prepared(db: Database) -> list[tuple[Any, ...]]:
    """Make the table and another one; the names of all."""
    await db.run(f"CREATE TABLE {PAGES}")
    await db.run("CREATE TABLE canary (k INTEGER PRIMARY KEY)")
    return await tables(db)


async def tables(db: Database) -> list[tuple[Any, ...]]:
    return await db.query(
        db.sql(
            postgresql="SELECT relname FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace = current_schema()::regnamespace ORDER BY relname",
            sqlite="SELECT name FROM sqlite_master ORDER BY name",
        )
    )


async def stored(db: Database) -> dict[str, tuple[str, int]]:
    rows = await db.query("SELECT path, note, hits FROM pages")
    return {path: (note, hits) for path, note, hits in rows}


async def test_ten_thousand_values_of_many_rows_are_stored_as_they_are(
    db: Database,
) -> None:
    before = await prepared(db)
    rows = [{"path": text, "note": text[::-1], "hits": 1} for text in TEXTS]
    update = {"note": Excluded("note"), "hits": F("hits") + Excluded("hits")}
    for turn in (1, 2):
        counts = await create_or_update_many(
            db.handle, "pages", rows, key="path", update=update
        )
        assert (counts.created, counts.updated) == (
            (len(TEXTS), 0) if turn == 1 else (0, len(TEXTS))
        )
        assert await stored(db) == {text: (text[::-1], turn) for text in TEXTS}
    assert await tables(db) == before


async def test_values_of_one_row_are_stored_and_compared_as_they_are(
    db: Database,
) -> None:
    before = await prepared(db)
    for text in TEXTS[:300]:
        key, note = {"path": text}, text[::-1]
        result = await create_or_update(
            db.handle,
            "pages",
            key=key,
            defaults={"note": note, "hits": F("hits") + 1},
            where=F("note") == note,
            returning="*",
        )
        assert tuple(result) == ({"path": text, "note": note, "hits": 1}, True)
        result = await create_or_update(
            db.handle,
            "pages",
            key=key,
            defaults={"note": text},
            where=F("note") == note,
            returning="note",
        )
        assert tuple(result) == ({"note": text}, False)
        found = await get_or_create(db.handle, "pages", key=key, returning="*")
        assert tuple(found) == ({"path": text, "note": text, "hits": 1}, False)
    assert len(await stored(db)) == 300
    assert await tables(db) == before


async def test_values_of_calls_executed_together_are_stored_as_they_are(
    db: Database,
) -> None:
    before = await prepared(db)
    async with Coalescer(db.handle, "pages", key="path") as coalescer:

        async def call(text: str) -> bool:
            add = {"note": text, "hits": F("hits") + 1}
            result = await coalescer.create_or_update(key={"path": text}, defaults=add)
            return result.created

        for turn in (1, 2):
            created = await asyncio.gather(*map(call, TEXTS[:3000]))
            assert created == [turn == 1] * 3000
    assert await stored(db) == {text: (text, 2) for text in TEXTS[:3000]}
    assert await tables(db) == before
