"""Several rows of one key are locked in the order of the primary key, on PostgreSQL."""

import asyncio
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest

from aioupsert import (
    Action,
    Coalescer,
    F,
    create_or_update,
    create_or_update_many,
    iter_create_or_update,
)
from tests.support.coalescing import blocked
from tests.support.databases import PostgresDatabase

both_drivers = pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)

# The row that comes last by its id is the first that a scan finds.
TABLE: Final = """
    CREATE TABLE t (
        id text PRIMARY KEY DEFAULT gen_random_uuid(), g text, n integer, seen integer);
    INSERT INTO t VALUES ('z', 'a', 2), ('y', 'a', 9), ('x', 'a', 1), ('w', 'b', 1)
"""
CALL: Final[dict[str, Any]] = {"without_unique_index": "allow", "returning": "id"}


async def singly(db: PostgresDatabase, row: Any, **options: Any) -> list[Any]:
    return [
        await create_or_update(db.handle, "t", row, key="g", **CALL, **options),
    ]


async def exactly(db: PostgresDatabase, row: Any, **options: Any) -> list[Any]:
    return await singly(db, row, strategy="exact", **options)


async def iterated(db: PostgresDatabase, row: Any, **options: Any) -> list[Any]:
    # More than are written one by one.
    rows = [row, {**row, "g": "b"}, {**row, "g": "c"}]
    results = iter_create_or_update(db.handle, "t", rows, key="g", **CALL, **options)
    return [result async for result in results]


async def coalesced(db: PostgresDatabase, row: Any, **options: Any) -> list[Any]:
    async with Coalescer(
        db.handle, "t", key="g", without_unique_index="allow"
    ) as coalescer:
        return [await coalescer.create_or_update(row, returning="id", **options)]


OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "conditional": {
        "where": F("n") < 5,
        "skip_unchanged": True,
        "touch": {"seen": 1},
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("write", [singly, exactly, iterated, coalesced])
@both_drivers
async def test_a_call_that_waits_has_locked_no_row_that_comes_later(
    db: PostgresDatabase, write: Callable[..., Any], options: Any, *, old: bool
) -> None:
    await db.run(TABLE)
    async with asyncio.TaskGroup() as group, db.connect() as other:
        await other.execute("BEGIN")
        await other.execute("UPDATE t SET seen = 7 WHERE id = 'x'")
        call = group.create_task(
            write(db, {"g": "a", "n": F("n") * 2}, old=old, **options)
        )
        await blocked(db)
        later = "SELECT id FROM t WHERE id <> 'x' ORDER BY id FOR UPDATE NOWAIT"
        assert await db.query(later) == [("w",), ("y",), ("z",)]
        await other.execute("COMMIT")
    first = call.result()[0]
    written = {"x": 2, "y": 18, "z": 4} if not options else {"x": 2, "z": 4}
    assert (first.action, first.rows_affected) == (Action.UPDATED, len(written))
    assert {row["id"] for row in first.rows} == {*written}
    if old:
        assert first.old == first.row
    stored = await db.query("SELECT id, n, seen FROM t WHERE g = 'a' ORDER BY id")
    seen = 1 if options else None
    assert stored == [
        ("x", 2, seen or 7),
        ("y", written.get("y", 9), None),
        ("z", 4, seen),
    ]


async def test_a_role_that_may_not_read_the_primary_key_updates(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TABLE)
    role = f"r_{uuid4().hex}"
    await pg.run(
        f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA {pg.schema} TO {role};"
        f" GRANT SELECT (g, n), INSERT (g, n), UPDATE (n) ON t TO {role}"
    )
    try:
        await pg.handle.execute(f"SET ROLE {role}")
        call: dict[str, Any] = {"key": "g", "without_unique_index": "allow"}
        row = {"g": "a", "n": 5}
        result = await create_or_update(pg.handle, "t", row, **call)
        assert result.rows_affected == 3
        done = await create_or_update_many(
            pg.handle, "t", [row, {"g": "b", "n": 5}, {"g": "b", "n": 6}], **call
        )
        assert done.updated == 3
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await create_or_update(pg.handle, "t", {"g": "a", "seen": 1}, **call)
    finally:
        await pg.handle.execute("RESET ROLE")
        await pg.run(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert await pg.query("SELECT n FROM t ORDER BY id") == [(6,), (5,), (5,), (5,)]
