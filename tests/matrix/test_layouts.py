"""
Rows of several layouts mean what single calls for each of them would have meant.

The same rows, some with columns that others lack, with keys that are repeated and spelt in
several ways, are written in bulk to one table and by single calls to another. Results and
rows must be the same, with the same numbers in a serial column.
"""

import random
from decimal import Decimal
from typing import Any, Final

import pytest

from aioupsert import (
    BulkResult,
    F,
    create_or_update,
    create_or_update_many,
    iter_create_or_update,
)
from tests.support.databases import CONNECTIONS, Database, SQLiteDatabase

KEYS: Final[dict[str, tuple[str, list[Any]]]] = {
    "compared here": ("integer", [1, 2, 3, 4, 5, 6]),
    "compared by the database": (
        "numeric",
        [Decimal(text) for text in ("1", "1.0", "2", "2.00", "3", "4")],
    ),
}
OPTIONS: Final[list[dict[str, Any]]] = [
    {},
    {"skip_unchanged": True},
    {"touch": {"c": "touched"}},
]
INDEXES: Final = {
    "plain": "CREATE UNIQUE INDEX {0}_k ON {0} (k)",
    "partial": "CREATE UNIQUE INDEX {0}_k ON {0} (k) WHERE kind = 1",
}

pytestmark = pytest.mark.filterwarnings("ignore::aioupsert.MissingUniqueIndexWarning")


def row_of(choose: random.Random, keys: list[Any], *, partial: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"k": choose.choice(keys)}
    if partial:
        row["kind"] = choose.choice([1, 1, 1, 2])
    if choose.random() < 0.6:
        row["a"] = choose.choice([1, 2, None])
    if choose.random() < 0.6:
        row["b"] = choose.choice([1, 2, 3])
    if choose.random() < 0.3:
        row["c"] = choose.choice(["x", "y", F("c")])
    return row


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("db", CONNECTIONS, indirect=True)
async def test_many_rows_are_as_many_calls(
    db: Database, kind: str, index: str, seed: int
) -> None:
    choose = random.Random(seed)  # noqa: S311  # no secret
    type_, keys = KEYS[kind]
    if isinstance(db, SQLiteDatabase):
        keys = [float(key) for key in keys]
    serial = "INTEGER PRIMARY KEY" if isinstance(db, SQLiteDatabase) else "serial"
    for table in ("single", "many"):
        await db.run(
            f"CREATE TABLE {table} (id {serial}, k {type_}, kind integer DEFAULT 1,"
            " a integer DEFAULT 7, b integer, c text DEFAULT 'x')"
        )
        await db.run(INDEXES[index].format(table))
    key = ["k", "kind"] if index == "partial" else ["k"]
    options = OPTIONS[seed % len(OPTIONS)]
    for size in (choose.choice([1, 2, 3, 6]), choose.choice([2, 3, 15])):
        rows = [row_of(choose, keys, partial=index == "partial") for _ in range(size)]
        single = [
            await create_or_update(
                db.handle,
                "single",
                key={name: row[name] for name in key},
                defaults={name: row[name] for name in row if name not in key},
                **options,
            )
            for row in rows
        ]
        actions = [result.action for result in single]
        if seed % 2:
            found = iter_create_or_update(db.handle, "many", rows, key=key, **options)
            assert [result.action async for result in found] == actions, rows
        else:
            counts: BulkResult = await create_or_update_many(
                db.handle, "many", rows, key=key, **options
            )
            told = (counts.created, counts.updated, counts.unchanged)
            names = ("created", "updated", "unchanged")
            assert told == tuple(map(actions.count, names)), rows
        stored = await db.query("SELECT * FROM many ORDER BY id")
        assert stored == await db.query("SELECT * FROM single ORDER BY id"), rows


@pytest.mark.parametrize("number", [2, 3])
@pytest.mark.parametrize("db", CONNECTIONS, indirect=True)
async def test_a_row_is_judged_by_what_an_equal_one_before_it_has_written(
    db: Database, number: int
) -> None:
    await db.run("CREATE TABLE t (k numeric PRIMARY KEY, n integer)")
    await db.run("INSERT INTO t VALUES (1, 3)")
    key: Any = float if isinstance(db, SQLiteDatabase) else Decimal
    rows = [{"k": key("1.0"), "n": 2}, {"k": key("1"), "n": 3}, {"k": key("2"), "n": 3}]
    result = await create_or_update_many(
        db.handle, "t", rows[:number], key="k", skip_unchanged=True
    )
    assert result == BulkResult(created=number - 2, updated=2)
    assert await db.query("SELECT n FROM t ORDER BY k") == [(3,)] * (number - 1)
