"""A call with a whole row means the bulk call of that one row."""

from typing import Any, Final

import pytest

from aioupsert import (
    Action,
    Coalescer,
    Excluded,
    F,
    Result,
    UsageError,
    create_or_update,
    create_or_update_many,
    iter_create_or_update,
    preview,
)
from tests.support.databases import Database

TABLE: Final = """
    CREATE TABLE t (
        id INTEGER, k TEXT PRIMARY KEY, n INTEGER DEFAULT 10, note TEXT, seen TEXT
    )
"""
ROW: Final = {"n": 2, "k": "a", "note": "new"}

# Options, and what they make of the row ("a", 1, "old", "-") and of a missing one.
CASES: Final[dict[str, tuple[dict[str, Any], Any, Any]]] = {
    "all": ({}, (2, "new", "-"), (2, "new", None)),
    "one name": ({"update": "n"}, (2, "old", "-"), (2, "new", None)),
    "names": ({"update": ["note"]}, (1, "new", "-"), (2, "new", None)),
    "none": ({"update": []}, (1, "old", "-"), (2, "new", None)),
    "expressions": (
        {"update": {"n": F("n") + Excluded("n"), "seen": "x"}},
        (3, "old", "x"),
        (2, "new", None),
    ),
    "where": ({"where": F("n") > 1}, (1, "old", "-"), (2, "new", None)),
    "create_defaults": (
        {"create_defaults": {"note": "c", "seen": lambda: "c"}},
        (2, "new", "-"),
        (2, "c", "c"),
    ),
    "touch": ({"touch": {"seen": "t"}}, (2, "new", "t"), (2, "new", "t")),
}
COLUMNS: Final = "n, note, seen"


@pytest.fixture
async def table(db: Database) -> Database:
    """A table with the row a."""
    await db.run(TABLE)
    await db.run("INSERT INTO t (k, n, note, seen) VALUES ('a', 1, 'old', '-')")
    return db


@pytest.mark.parametrize(
    ("options", "updated", "created"), CASES.values(), ids=list(CASES)
)
async def test_the_row_is_updated_or_created_as_in_bulk(
    table: Database, options: dict[str, Any], updated: Any, created: Any
) -> None:
    rows = [ROW, {**ROW, "k": "b"}]
    for row, expected in zip(rows, (updated, created), strict=True):
        result = await create_or_update(
            table.handle, "t", row, key="k", returning=COLUMNS.split(", "), **options
        )
        assert tuple(result.rows[0].values()) == expected
    written = await table.query(f"SELECT {COLUMNS} FROM t ORDER BY k")
    assert written == [updated, created]
    await table.run("UPDATE t SET n = 1, note = 'old', seen = '-' WHERE k = 'a'")
    await table.run("DELETE FROM t WHERE k = 'b'")
    await create_or_update_many(table.handle, "t", rows, key="k", **options)
    assert await table.query(f"SELECT {COLUMNS} FROM t ORDER BY k") == written
    async with Coalescer(table.handle, "t", key="k") as coalescer:
        await table.run("UPDATE t SET n = 1, note = 'old', seen = '-' WHERE k = 'a'")
        await table.run("DELETE FROM t WHERE k = 'b'")
        for row in rows:
            await coalescer.create_or_update(row, **options)
    assert await table.query(f"SELECT {COLUMNS} FROM t ORDER BY k") == written


async def test_cells_may_be_expressions_callables_and_none(table: Database) -> None:
    row = {"k": "a", "n": F("n") + 5, "note": lambda: "made", "seen": None}
    result = await create_or_update(table.handle, "t", row, key=["k"], returning="*")
    assert result.row == {"id": None, "k": "a", "n": 6, "note": "made", "seen": None}
    assert result.action is Action.UPDATED


async def test_a_key_may_be_none(db: Database) -> None:
    await db.run("CREATE TABLE t (k INTEGER, n INTEGER)")
    results = [
        await create_or_update(
            db.handle, "t", {"k": None, "n": n}, key="k", without_unique_index="allow"
        )
        for n in (1, 2)
    ]
    assert [r.action for r in results] == [Action.CREATED, Action.UPDATED]
    assert await db.query("SELECT k, n FROM t") == [(None, 2)]


async def test_a_primary_key_is_written_on_update_only_if_named(db: Database) -> None:
    await db.run("CREATE TABLE t (id INTEGER PRIMARY KEY, k TEXT UNIQUE, n INTEGER)")

    async def write(id_: int, **options: Any) -> Result:
        row = {"id": id_, "k": "a", "n": id_}
        return await create_or_update(db.handle, "t", row, key="k", **options)

    assert (await write(1)).created
    assert (await write(2)).action is Action.UPDATED
    assert await db.query("SELECT id, n FROM t") == [(1, 2)]
    await write(3, update=["id", "n"])
    assert await db.query("SELECT id, n FROM t") == [(3, 3)]
    only = {"id": 4, "k": "a"}
    left = await create_or_update(db.handle, "t", only, key="k")
    assert left.action is Action.UNCHANGED


WRONG: Final[dict[str, tuple[Any, dict[str, Any], str]]] = {
    "defaults beside a row": (ROW, {"key": "k", "defaults": {"n": 1}}, "no defaults"),
    "update without a row": (None, {"key": {"k": 1}, "update": ["n"]}, "without a row"),
    "a key with values": (ROW, {"key": {"k": "a"}}, "names columns of the row"),
    "a key that is no name": (ROW, {"key": {"k"}}, "key takes the names"),
    "no row": (5, {"key": "k"}, "a row is a mapping.*builtins.int"),
    "a row without its key": ({"n": 1}, {"key": "k"}, "it has no 'k'"),
    "an expression as key": ({"k": F("k")}, {"key": "k"}, "plain value"),
    "update and touch": (
        ROW,
        {"key": "k", "update": ["n"], "touch": {"n": 1}},
        "both update and touch",
    ),
}


@pytest.mark.parametrize(("row", "options", "why"), WRONG.values(), ids=list(WRONG))
async def test_what_makes_no_sense_is_refused(
    table: Database, row: Any, options: dict[str, Any], why: str
) -> None:
    for call in (create_or_update, preview):
        with pytest.raises(UsageError, match=why):
            await call(table.handle, "t", row, **options)


async def test_a_coalescer_takes_the_key_from_the_row(table: Database) -> None:
    async with Coalescer(table.handle, "t", key=("note", "k")) as coalescer:
        with pytest.raises(UsageError, match="a row has its key"):
            await coalescer.create_or_update(ROW, key={"k": "a"})  # type: ignore[call-overload]
        with pytest.raises(UsageError, match="it has no 'note'"):
            await coalescer.create_or_update({"k": "a"})
        with pytest.raises(UsageError, match="key must have"):
            await coalescer.create_or_update()  # type: ignore[call-overload]


async def test_the_statements_are_those_of_the_key_form(table: Database) -> None:
    key, defaults = {"k": "a"}, {"n": 2, "note": "new"}
    by_key = await preview(table.handle, "t", key=key, defaults=defaults)
    by_row = await preview(table.handle, "t", ROW, key="k")
    assert by_row == by_key


async def test_a_row_may_be_read_in_bulk_and_singly(table: Database) -> None:
    results = iter_create_or_update(table.handle, "t", [ROW], key="k", returning="n")
    assert [result async for result in results] == [
        await create_or_update(table.handle, "t", ROW, key="k", returning="n")
    ]
