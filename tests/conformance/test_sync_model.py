"""Generated tables and sources: `sync_rows` does what a model in plain Python does."""

import random
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import pytest

from aioupsert import BulkResult, sync_rows
from tests.support.databases import Database

TABLE: Final = """
    CREATE TABLE t (
        shop INTEGER, k INTEGER PRIMARY KEY, n INTEGER, gone INTEGER DEFAULT 0
    )
"""


class Row(NamedTuple):
    shop: int | None
    k: int
    n: int | None
    gone: int = 0


def model(
    stored: list[Row],
    source: list[dict[str, Any]],
    scope: Mapping[str, Any],
    missing: Any,
) -> tuple[list[Row], BulkResult]:
    """The rows that are left, and what became of them."""
    table = {row.k: row for row in stored}
    marks = isinstance(missing, dict)
    mine = [
        row for row in stored if all(getattr(row, c) == v for c, v in scope.items())
    ]
    created = updated = unchanged = deleted = 0
    for given in source:
        new = {**given, **scope, **({"gone": 0} if marks else {})}
        row = table.get(given["k"])
        if row is None:
            made: dict[str, Any] = {"shop": None, "n": None, **new}
            table[given["k"]] = Row(**made)
            created += 1
            continue
        table[row.k] = row._replace(**new)
        if table[row.k] == row:
            unchanged += 1
        else:
            updated += 1
    keys = {given["k"] for given in source}
    for row in mine:
        if row.k in keys or missing == "keep" or (marks and row.gone):
            continue
        deleted += 1
        if marks:
            table[row.k] = row._replace(gone=1)
        else:
            del table[row.k]
    counts = BulkResult(
        created=created, updated=updated, unchanged=unchanged, deleted=deleted
    )
    return sorted(table.values(), key=lambda row: row.k), counts


@pytest.mark.parametrize("seed", range(3))
async def test_generated_scopes_are_as_in_the_model(db: Database, seed: int) -> None:
    await db.run(TABLE)
    choose = random.Random(seed)  # noqa: S311  # no secret
    for _ in range(8):
        keys = choose.sample(range(12), choose.randrange(9))
        stored = [
            Row(
                choose.choice([1, 2, None]), k, choose.randrange(2), choose.randrange(2)
            )
            for k in keys
        ]
        # A key may come twice.
        source = [
            {"k": choose.randrange(12), "n": choose.choice([0, 1, None])}
            for _ in range(choose.randrange(1, 8))
        ]
        source = [{k: row[k] for k in choose.sample(["k", "n"], 2)} for row in source]
        scope: Any = choose.choice([{}, {"shop": 1}, {"shop": None}])
        missing: Any = choose.choice(["delete", "keep", {"gone": 1}])
        values = ", ".join(str(tuple(row)).replace("None", "NULL") for row in stored)
        await db.run("DELETE FROM t")
        if stored:
            await db.run(f"INSERT INTO t VALUES {values}")
        expected, counts = model(stored, source, scope, missing)
        report = await sync_rows(
            *(db.handle, "t", source),
            key="k",
            scope=scope,
            missing=missing,
            max_missing=1.0,
            batch_size=choose.choice([1, 3, None]),
        )
        assert report == counts
        assert await db.query("SELECT * FROM t ORDER BY k") == [*map(tuple, expected)]
