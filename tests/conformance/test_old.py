"""With old=True a result has the row as it was, and which columns have changed."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Final

import pytest

from aioupsert import (
    Action,
    Coalescer,
    F,
    Result,
    UsageError,
    create_or_update,
    iter_create_or_update,
    preview,
)
from tests.support.databases import Database, PostgresDatabase, SQLiteDatabase

CREATED, UPDATED, UNCHANGED, SKIPPED, _ = Action

TABLE: Final = """
    CREATE TABLE t (
        k TEXT PRIMARY KEY, n INTEGER DEFAULT 10, note TEXT, seen TEXT, doc {json}
    )
"""
STORED: Final = {"k": "a", "n": 1, "note": None, "seen": "-"}
NAMES: Final = [*STORED]


async def singly(db: Database, row: Any, **options: Any) -> Result:
    return await create_or_update(db.handle, "t", row, key="k", old=True, **options)


async def iterated(db: Database, row: Any, **options: Any) -> Result:
    # More than are written one by one.
    rows = [row, {**row, "k": "y"}, {**row, "k": "z"}]
    results = [
        result
        async for result in iter_create_or_update(
            db.handle, "t", rows, key="k", old=True, **options
        )
    ]
    assert results[1].action == results[2].action
    return results[0]


async def coalesced(db: Database, row: Any, **options: Any) -> Result:
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        return await coalescer.create_or_update(row, old=True, **options)


Way = Callable[..., Any]
every_way = pytest.mark.parametrize("write", [singly, iterated, coalesced])


@pytest.fixture
async def table(db: Database) -> Database:
    """A table with one row."""
    json = "jsonb" if isinstance(db, PostgresDatabase) else "text"
    await db.run(TABLE.format(json=json))
    await db.run("INSERT INTO t (k, n, note, seen) VALUES ('a', 1, NULL, '-')")
    return db


# What is written of the row, and what is expected.
CASES: Final[dict[str, tuple[dict[str, Any], Any, Any, Any]]] = {
    "updated": ({"n": 2, "note": "x"}, {}, UPDATED, ("n", "note")),
    "updated with the same": ({"n": 1, "note": "x"}, {}, UPDATED, ("note",)),
    "nothing new": ({"n": 1, "note": None}, {}, UPDATED, ()),
    "unchanged": ({"n": 1}, {"skip_unchanged": True}, UNCHANGED, ()),
    "changed": ({"n": 3, "note": None}, {"skip_unchanged": True}, UPDATED, ("n",)),
    "skipped": ({"n": 2}, {"where": F("n") > 1}, SKIPPED, ()),
    "not skipped": ({"n": F("n") + 1}, {"where": F("n") == 1}, UPDATED, ("n",)),
    "touched": ({"n": 2}, {"touch": {"seen": "t"}}, UPDATED, ("n", "seen")),
    "not touched": ({"n": 1}, {"touch": {"seen": "t"}}, UNCHANGED, ()),
    "nothing to update": ({"n": 2}, {"update": []}, UNCHANGED, ()),
}


@every_way
@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
async def test_an_existing_row(table: Database, write: Way, case: Any) -> None:
    row, options, action, changed = case
    result = await write(table, {"k": "a", **row}, returning=NAMES, **options)
    assert (result.action, result.old, result.changed) == (action, STORED, changed)
    different = [name for name in NAMES if result.row[name] != STORED[name]]
    assert different == [*changed]


@every_way
async def test_a_created_row_has_no_old_one(table: Database, write: Way) -> None:
    row = {"k": "b", "note": "x"}
    result = await write(table, row, create_defaults={"seen": "c"}, returning="*")
    assert (result.action, result.old) == (CREATED, None)
    assert result.changed == ("k", "note", "seen")
    assert result.row["n"] == 10


@every_way
async def test_without_returning_only_changed_is_there(
    table: Database, write: Way
) -> None:
    result = await write(table, {"k": "a", "n": 2})
    assert (result.row, result.old, result.changed) == (None, None, ("n",))
    assert result.action is UPDATED
    result = await write(table, {"k": "a", "n": 2}, skip_unchanged=True)
    assert (result.action, result.changed) == (UNCHANGED, ())


@pytest.mark.parametrize("strategy", ["auto", "exact"])
async def test_a_key_that_changes_shows_in_both(table: Database, strategy: Any) -> None:
    result = await create_or_update(
        table.handle,
        "t",
        key={"k": "a"},
        defaults={"k": "b"},
        returning="k",
        old=True,
        strategy=strategy,
    )
    assert (result.old, result.row) == ({"k": "a"}, {"k": "b"})
    assert result.changed == ("k",)


@pytest.mark.parametrize("names", [("id", "g", "n"), ("id",), None])
async def test_several_rows_of_a_key_are_told_apart(db: Database, names: Any) -> None:
    await db.run("CREATE TABLE t (id INTEGER PRIMARY KEY, g TEXT, n INTEGER)")
    await db.run("INSERT INTO t VALUES (1, 'a', 1), (2, 'a', 5), (3, 'b', 1)")
    result = await create_or_update(
        db.handle,
        "t",
        key={"g": "a"},
        defaults={"n": F("n") * F("n")},
        returning=names,
        old=True,
        without_unique_index="allow",
    )
    assert (result.action, result.rows_affected) == (UPDATED, 2)
    assert result.changed == ("n",)
    if names is not None:
        assert result.old is not None
        assert result.old["id"] == result.rows[0]["id"]
    async with Coalescer(
        db.handle, "t", key="g", without_unique_index="allow"
    ) as coalescer:
        again = await coalescer.create_or_update(
            key={"g": "a"}, defaults={"n": 25}, returning="n", old=True
        )
    assert sorted(row["n"] for row in again.rows) == [25, 25]
    assert again.old in ({"n": 1}, {"n": 25})


async def test_several_rows_without_a_primary_key(db: Database) -> None:
    await db.run("CREATE TABLE t (g TEXT, n INTEGER)")
    await db.run("INSERT INTO t VALUES ('a', 1), ('a', 1), ('a', 2)")
    result = await create_or_update(
        db.handle,
        "t",
        key={"g": "a"},
        defaults={"n": F("n") + 1},
        where=F("n") < 2,
        returning="n",
        old=True,
        without_unique_index="lock",
    )
    assert (result.rows, result.old) == (({"n": 2}, {"n": 2}), {"n": 1})
    created = await create_or_update(
        db.handle, "t", key={"g": "b"}, old=True, without_unique_index="allow"
    )
    assert (created.created, created.changed) == (True, ("g",))


async def test_in_the_caller_s_transaction(table: Database) -> None:
    async with table.transaction():
        for n in (2, 3):
            result = await singly(table, {"k": "a", "n": n}, returning="n")
            assert result.old == {"n": n - 1}
    assert await table.query("SELECT n FROM t") == [(3,)]


async def test_columns_that_are_generated_or_set_by_a_trigger_have_changed(
    db: Database,
) -> None:
    await db.run(
        "CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER,"
        " twice INTEGER GENERATED ALWAYS AS (n * 2) STORED)"
    )
    await create_or_update(db.handle, "t", {"k": 1, "n": 1}, key="k")
    result = await create_or_update(
        db.handle, "t", {"k": 1, "n": 2}, key="k", returning="*", old=True
    )
    assert result.changed == ("n", "twice")
    assert result.old == {"k": 1, "n": 1, "twice": 2}


async def test_types_without_equality_are_compared(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k int PRIMARY KEY, j json, p point, m numeric)")
    row = {"k": 1, "j": '{"a": 1}', "m": Decimal("1.0")}
    await create_or_update(pg.handle, "t", row, key="k")
    result = await create_or_update(pg.handle, "t", row, key="k", old=True)
    assert result.changed == ()
    row = {**row, "j": '{"a":1}', "m": Decimal("1.00")}
    result = await create_or_update(pg.handle, "t", row, key="k", old=True)
    assert result.changed == ("j", "m")


VIEW_PG: Final = """
    CREATE TABLE base (k text PRIMARY KEY, n int);
    CREATE VIEW t AS SELECT k, n FROM base;
    CREATE FUNCTION put() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP = 'INSERT' THEN INSERT INTO base VALUES (NEW.k, NEW.n);
        ELSE UPDATE base SET n = NEW.n WHERE k = OLD.k; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER put INSTEAD OF INSERT OR UPDATE ON t
        FOR EACH ROW EXECUTE FUNCTION put()
"""
VIEW_LITE: Final = """
    CREATE TABLE base (k TEXT PRIMARY KEY, n INTEGER);
    CREATE VIEW t AS SELECT k, n FROM base;
    CREATE TRIGGER put INSTEAD OF UPDATE ON t
        BEGIN UPDATE base SET n = NEW.n WHERE k = OLD.k; END;
    CREATE TRIGGER make INSTEAD OF INSERT ON t
        BEGIN INSERT INTO base VALUES (NEW.k, NEW.n); END
"""


async def make_view(db: Database) -> None:
    await db.run(db.sql(postgresql=VIEW_PG, sqlite=VIEW_LITE))


async def test_a_view_with_triggers(db: Database) -> None:
    await make_view(db)
    results = [await singly(db, {"k": "a", "n": n}, returning="n") for n in (1, 2, 2)]
    found = [(r.action, r.old, r.row, r.changed) for r in results]
    assert found == [
        (CREATED, None, {"n": 1}, ("k", "n")),
        (UPDATED, {"n": 1}, {"n": 2}, ("n",)),
        (UPDATED, {"n": 2}, {"n": 2}, ()),
    ]
    left = await singly(db, {"k": "a", "n": 2}, returning="n", skip_unchanged=True)
    assert (left.action, left.old) == (UNCHANGED, {"n": 2})


async def test_a_row_that_a_trigger_keeps_is_an_error(lite: SQLiteDatabase) -> None:
    await lite.run("CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER)")
    await lite.run("INSERT INTO t VALUES ('a', 1)")
    for event in ("INSERT", "UPDATE"):
        await lite.run(
            f"CREATE TRIGGER keep_{event} BEFORE {event} ON t"
            " BEGIN SELECT RAISE(IGNORE); END"
        )
    for key in "ab":
        with pytest.raises(Exception, match="neither created nor updated"):
            await singly(lite, {"k": key, "n": 2})


async def test_rows_that_cannot_be_told_apart_are_refused(lite: SQLiteDatabase) -> None:
    await lite.run("CREATE TABLE t (id TEXT PRIMARY KEY, g TEXT)")
    await lite.run("INSERT INTO t VALUES (NULL, 'a'), (NULL, 'a')")
    with pytest.raises(UsageError, match="nothing tells which of them was which"):
        await create_or_update(
            lite.handle,
            "t",
            key={"g": "a"},
            defaults={"g": "b"},
            old=True,
            without_unique_index="allow",
        )
    assert await lite.query("SELECT g FROM t") == [("a",), ("a",)]


@asynccontextmanager
async def refused(why: str) -> AsyncIterator[None]:
    with pytest.raises(UsageError, match=why):
        yield


async def test_what_cannot_return_the_old_row_is_refused(db: Database) -> None:
    await db.run("CREATE TABLE u (k TEXT PRIMARY KEY, n INTEGER)")
    async with refused('old: strategy="on_conflict" does not read the row first'):
        await create_or_update(
            db.handle, "u", key={"k": "a"}, old=True, strategy="on_conflict"
        )
    if isinstance(db, SQLiteDatabase):
        await make_view(db)
        async with refused("old: the key of a view such as t is given another value"):
            await create_or_update(
                db.handle, "t", key={"k": "a"}, defaults={"k": "b"}, old=True
            )
        await db.run("CREATE VIRTUAL TABLE v USING fts5 (k)")
        async with refused("old: a virtual table such as v returns no rows"):
            await create_or_update(
                db.handle, "v", key={"k": "a"}, old=True, without_unique_index="allow"
            )


async def test_a_preview_shows_how_the_row_is_read(table: Database) -> None:
    statements = await preview(
        table.handle, "t", key={"k": "a"}, defaults={"n": 1}, old=True
    )
    first = statements[0]
    if isinstance(table, PostgresDatabase):
        assert "FOR NO KEY UPDATE" in first.sql
    else:
        assert [s.sql.split()[0] for s in statements] == [
            *("DELETE", "SELECT", "UPDATE", "INSERT")
        ]
        assert first.when == "first, for the write lock"
