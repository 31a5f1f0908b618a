"""Somebody else changes the table while we run."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import asyncpg
import pytest

from aioupsert import (
    Action,
    F,
    MissingUniqueIndexError,
    Result,
    create_or_update,
    set_schema_cache_ttl,
)
from tests.support.databases import PostgresDatabase
from tests.support.sessions import clients

Values = dict[str, Any]
HIT: Final[Values] = {"hits": F("hits") + 1}
TABLE: Final = "CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0)"


class Change(NamedTuple):
    """
    A change between two calls.

    Attributes:
        tables: What is there first.
        first: What the first call writes.
        change: What somebody does then.
        key: The key of the second call.
        second: What that writes.
        row: What it gives.
        first_key: The key of the first call.
    """

    tables: str
    first: Values
    change: str
    key: Any
    second: Values
    row: Values
    first_key: Any = 1


CHANGES: Final = {
    "column added": Change(
        TABLE,
        HIT,
        "ALTER TABLE t ADD v text",
        1,
        {**HIT, "v": "a"},
        {"k": 1, "hits": 2, "v": "a"},
    ),
    "column added and not used": Change(
        TABLE, HIT, "ALTER TABLE t ADD v text", 1, HIT, {"k": 1, "hits": 2}
    ),
    "column dropped": Change(
        f"{TABLE}; ALTER TABLE t ADD v text",
        HIT,
        "ALTER TABLE t DROP v",
        1,
        HIT,
        {"k": 1, "hits": 2},
    ),
    "column dropped and added": Change(
        f"{TABLE}; ALTER TABLE t ADD v text",
        {"v": "a"},
        "ALTER TABLE t DROP v; ALTER TABLE t ADD v integer",
        1,
        {"v": 5},
        {"k": 1, "hits": 0, "v": 5},
    ),
    "type changed": Change(
        "CREATE TABLE t (k integer PRIMARY KEY, v integer)",
        {"v": 1},
        "ALTER TABLE t ALTER v TYPE text",
        1,
        {"v": "a"},
        {"k": 1, "v": "a"},
    ),
    "type of the key changed": Change(
        "CREATE TABLE t (k integer PRIMARY KEY, v integer)",
        {"v": 1},
        "ALTER TABLE t ALTER k TYPE text",
        "1",
        {"v": 2},
        {"k": "1", "v": 2},
    ),
    "integer widened": Change(
        "CREATE TABLE t (k integer PRIMARY KEY, v integer)",
        {"v": 1},
        "ALTER TABLE t ALTER v TYPE bigint",
        1,
        {"v": 2**40},
        {"k": 1, "v": 2**40},
    ),
    "precision widened": Change(
        "CREATE TABLE t (k varchar(1) PRIMARY KEY, v integer)",
        {"v": 1},
        "ALTER TABLE t ALTER k TYPE varchar(3)",
        "1  ",
        {"v": 2},
        {"k": "1  ", "v": 2},
        "1",
    ),
    "enum made anew": Change(
        "CREATE TYPE e AS ENUM ('x'); CREATE TABLE t (k integer PRIMARY KEY, v e)",
        {"v": "x"},
        "ALTER TABLE t DROP v; DROP TYPE e; CREATE TYPE e AS ENUM ('y');"
        "ALTER TABLE t ADD v e",
        1,
        {"v": "y"},
        {"k": 1, "v": "y"},
    ),
    "enum extended": Change(
        "CREATE TYPE e AS ENUM ('x'); CREATE TABLE t (k integer PRIMARY KEY, v e)",
        {"v": "x"},
        "ALTER TYPE e ADD VALUE 'y'",
        1,
        {"v": "y"},
        {"k": 1, "v": "y"},
    ),
    "table made anew with another default": Change(
        TABLE,
        HIT,
        "DROP TABLE t; CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 9)",
        1,
        HIT,
        {"k": 1, "hits": 10},
    ),
    "table made anew with other columns": Change(
        TABLE,
        HIT,
        "DROP TABLE t; CREATE TABLE t (v text, k text PRIMARY KEY)",
        "a",
        {"v": "a"},
        {"v": "a", "k": "a"},
    ),
    "table replaced by a view": Change(
        TABLE,
        HIT,
        "ALTER TABLE t RENAME TO b; CREATE VIEW t AS SELECT * FROM b",
        1,
        HIT,
        {"k": 1, "hits": 2},
    ),
    "constraint that needs other steps": Change(
        TABLE,
        HIT,
        "ALTER TABLE t ADD UNIQUE (hits) DEFERRABLE",
        2,
        {"hits": 7},
        {"k": 2, "hits": 7},
    ),
    "rule that needs other steps": Change(
        TABLE,
        HIT,
        "CREATE RULE r AS ON UPDATE TO t WHERE false DO ALSO NOTHING",
        1,
        HIT,
        {"k": 1, "hits": 2},
    ),
}


async def upsert(conn: Any, key: Any, values: Values, **options: Any) -> Result:
    return await create_or_update(
        conn, "t", key={"k": key}, defaults=values, returning="*", **options
    )


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("name", CHANGES)
async def test_the_next_call_knows(
    pg: PostgresDatabase, name: str, strategy: str
) -> None:
    case = CHANGES[name]
    await pg.run(case.tables)
    conn: Any = pg.handle
    await upsert(conn, case.first_key, case.first, strategy=strategy)
    await pg.run(case.change)
    result = await upsert(conn, case.key, case.second, strategy=strategy)
    # A column that it does not use may be known or not.
    assert result.row.items() >= case.row.items()


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("name", CHANGES)
async def test_a_transaction_that_meets_the_change_works_once_repeated(
    pg: PostgresDatabase, name: str, strategy: str
) -> None:
    case = CHANGES[name]
    await pg.run(case.tables)
    conn: Any = pg.handle
    async with conn.transaction():
        await upsert(conn, case.first_key, case.first, strategy=strategy)
    await pg.run(case.change)
    await conn.execute("BEGIN")
    # An error of the server has aborted it, and nothing can be repeated inside.
    with contextlib.suppress(asyncpg.PostgresError, asyncpg.DataError):
        await upsert(conn, case.key, case.second, strategy=strategy)
    await conn.execute("ROLLBACK")
    async with conn.transaction():
        result = await upsert(conn, case.key, case.second, strategy=strategy)
    assert result.row.items() >= case.row.items()


@pytest.fixture
def read_always() -> Iterator[None]:
    set_schema_cache_ttl(0)
    yield
    set_schema_cache_ttl(60)


@pytest.mark.usefixtures("read_always")
@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_a_changed_default_is_known_after_the_ttl(
    pg: PostgresDatabase, *, inside: bool
) -> None:
    await pg.run(TABLE)
    conn: Any = pg.handle
    await upsert(conn, 1, HIT)
    await pg.run("ALTER TABLE t ALTER hits SET DEFAULT 9")
    async with conn.transaction() if inside else contextlib.nullcontext():
        result = await upsert(conn, 2, HIT)
    assert result.row == {"k": 2, "hits": 10}


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("strategy", ["auto", "exact", "on_conflict"])
async def test_another_search_path_is_another_table(
    pg: PostgresDatabase, strategy: str, *, inside: bool
) -> None:
    await pg.run(TABLE)
    conn: Any = pg.handle
    other = f"{pg.schema}_other"
    await pg.run(
        f"CREATE SCHEMA {other};"
        f"CREATE TABLE {other}.t (k integer PRIMARY KEY, hits integer DEFAULT 9)"
    )
    try:
        await upsert(conn, 1, HIT, strategy=strategy)
        async with conn.transaction() if inside else contextlib.nullcontext():
            await conn.execute(f"SET search_path = {other}")
            there = await upsert(conn, 1, HIT, strategy=strategy)
            again = await upsert(conn, 1, HIT, strategy=strategy)
            await conn.execute(f"SET search_path = {pg.schema}")
            back = await upsert(conn, 2, HIT, strategy=strategy)
    finally:
        await pg.run(f"DROP SCHEMA {other} CASCADE")
    assert [there.row, again.row, back.row] == [
        {"k": 1, "hits": 10},
        {"k": 1, "hits": 11},
        {"k": 2, "hits": 1},
    ]


async def test_a_unique_index_that_comes_and_goes(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k integer, hits integer DEFAULT 0)")
    conn: Any = pg.handle
    for _ in range(2):
        with pytest.raises(MissingUniqueIndexError):
            await upsert(conn, 1, HIT, strategy="on_conflict")
        with pytest.raises(MissingUniqueIndexError):
            await upsert(conn, 1, HIT, without_unique_index="error")
        await pg.run("CREATE UNIQUE INDEX i ON t (k)")
        native = await upsert(conn, 1, HIT, strategy="on_conflict")
        checked = await upsert(conn, 1, HIT, without_unique_index="error")
        assert (native.action, checked.action) == (Action.CREATED, Action.UPDATED)
        await pg.run("DROP INDEX i; DELETE FROM t")


CHANGES_UNDER_WAY: Final = [
    "ALTER TABLE t ADD extra text",
    "ALTER TABLE t ALTER hits TYPE bigint",
    "ALTER TABLE t DROP extra",
    "ALTER TABLE t ADD UNIQUE (k)",
    "ALTER TABLE t ALTER v TYPE varchar(9)",
    "CREATE INDEX ON t (hits)",
    "ALTER TABLE t DROP CONSTRAINT t_k_key",
    "ALTER TABLE t ALTER hits TYPE numeric",
]


@pytest.mark.parametrize("strategy", ["auto", "exact", "on_conflict"])
async def test_writers_go_on_while_the_table_changes(
    pg: PostgresDatabase, strategy: str
) -> None:
    await pg.run(f"{TABLE}; ALTER TABLE t ADD v text")
    acknowledged = 0
    over = asyncio.Event()

    async def work(conn: Any, number: int) -> None:
        nonlocal acknowledged
        while not over.is_set():
            await upsert(conn, number % 2, {**HIT, "v": "a"}, strategy=strategy)
            acknowledged += 1

    async with clients(pg, 4) as conns, asyncio.TaskGroup() as group:
        for number, conn in enumerate(conns):
            group.create_task(work(conn, number))
        for change in CHANGES_UNDER_WAY * 2:
            await pg.run(change)
            await asyncio.sleep(0.02)
        over.set()
    assert await pg.query("SELECT sum(hits) FROM t") == [(acknowledged,)]
