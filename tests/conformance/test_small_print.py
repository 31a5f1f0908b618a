"""What happens in cases that are easily overlooked, alike on every driver."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from aioupsert import (
    Action,
    MissingUniqueIndexError,
    create_or_update,
    create_or_update_many,
    iter_create_or_update,
)
from tests.support.databases import Database

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 20])


@SIZES
async def test_the_value_of_a_row_wins_over_touch(db: Database, size: int) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer, seen text)")

    async def load(update: list[str] | None, **rest: Any) -> list[tuple[Any, ...]]:
        rows = [{"k": k, **rest} for k in range(size)]
        await create_or_update_many(
            db.handle, "t", rows, key="k", update=update, touch={"seen": "touched"}
        )
        return await db.query("SELECT DISTINCT n, seen FROM t")

    assert await load(None, n=1, seen="own") == [(1, "own")]
    assert await load(None, n=1, seen="own") == [(1, "own")]
    assert await load(None, n=2, seen="new") == [(2, "new")]
    # Not named in update, it is written as what is touched is: with another change.
    assert await load(["n"], n=2, seen="later") == [(2, "new")]
    assert await load(["n"], n=3, seen="later") == [(3, "later")]
    assert await load(None, n=4) == [(4, "touched")]


@SIZES
async def test_a_primary_key_beside_the_key_is_written_on_create(
    db: Database, size: int
) -> None:
    await db.run("CREATE TABLE t (id integer PRIMARY KEY, k text UNIQUE, n integer)")

    def rows(first: int, n: int) -> list[dict[str, Any]]:
        return [{"id": first + at, "k": f"k{at:02}", "n": n} for at in range(size)]

    async def load(first: int, n: int, **options: Any) -> list[int]:
        results = iter_create_or_update(
            db.handle, "t", rows(first, n), key="k", **options
        )
        actions = {result.action async for result in results}
        assert actions == {Action.CREATED if n == 1 else Action.UPDATED}
        found = await db.query("SELECT id, n FROM t ORDER BY k")
        assert {stored for _, stored in found} == {n}
        return [number for number, _ in found]

    assert await load(100, 1) == [*range(100, 100 + size)]
    assert await load(200, 2) == [*range(100, 100 + size)]
    assert await load(300, 3, update=["id", "n"]) == [*range(300, 300 + size)]


async def test_none_in_a_key_of_a_unique_column_is_told_as_that(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer UNIQUE, n integer)")
    with pytest.raises(MissingUniqueIndexError, match="key's k is None"):
        await create_or_update(
            db.handle, "t", key={"k": None}, without_unique_index="error"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await create_or_update(db.handle, "t", key={"k": 1}, defaults={"n": 1})
