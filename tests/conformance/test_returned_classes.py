"""A class as *returning*: every way to call gives its instances."""

from dataclasses import dataclass

import pytest

from aioupsert import (
    Action,
    Coalescer,
    F,
    UnknownColumnError,
    UsageError,
    create_or_update,
    get_or_create,
    iter_create_or_update,
)
from tests.support.databases import Database


@dataclass
class Page:
    path: str
    hits: int


@dataclass
class Other:
    path: str
    missing: int


@pytest.fixture
async def pages(db: Database) -> Database:
    await db.run("CREATE TABLE t (path text PRIMARY KEY, hits integer, note text)")
    return db


async def test_every_call_returns_instances(pages: Database) -> None:
    key, hits = {"path": "/"}, {"hits": 1}
    result = await create_or_update(
        pages.handle, "t", key=key, defaults=hits, returning=Page
    )
    assert (result.row, result.rows) == (Page("/", 1), (Page("/", 1),))
    row, created = await get_or_create(pages.handle, "t", key=key, returning=Page)
    assert (row, created) == (Page("/", 1), False)
    row, created = await create_or_update(
        pages.handle, "t", Page("/", 5), key="path", returning=Page
    )
    assert (row, created) == (Page("/", 5), False)
    rows = [Page(f"/{n}", n) for n in range(5)]
    results = iter_create_or_update(
        pages.handle, "t", rows, key="path", returning=Page, batch_size=3
    )
    assert [result.row async for result in results] == rows
    async with Coalescer(pages.handle, "t", key="path") as coalescer:
        row, created = await coalescer.create_or_update(
            key=key, defaults={"hits": F("hits") + 1}, returning=Page
        )
    assert (row, created) == (Page("/", 6), False)


async def test_all_rows_of_a_key_are_instances(pages: Database) -> None:
    await pages.run("INSERT INTO t VALUES ('/a', 1, 'x'), ('/b', 2, 'x')")
    result = await create_or_update(
        pages.handle,
        "t",
        key={"note": "x"},
        defaults={"hits": 7},
        returning=Page,
        without_unique_index="allow",
    )
    assert result.action is Action.UPDATED
    assert sorted(page.path for page in result.rows) == ["/a", "/b"]


async def test_a_class_that_does_not_fit_is_refused_before_anything_is_written(
    pages: Database,
) -> None:
    with pytest.raises(UnknownColumnError, match="missing"):
        await create_or_update(pages.handle, "t", key={"path": "/"}, returning=Other)
    with pytest.raises(UsageError, match="a class with fields"):
        await create_or_update(pages.handle, "t", key={"path": "/"}, returning=int)
    assert await pages.query("SELECT * FROM t") == []
