"""CREATED and UPDATED are exact on every kind of relation, and read by position."""

from typing import Any, Final

import pytest

from aioupsert import Action, F, create_or_update, get_or_create
from tests.support.databases import PostgresDatabase

# Names that a statement of ours, or the server, may use for something else.
NAMES: Final = [
    *("created", "updated", "inserted", "found", "passes", "changes", "c1", "c2"),
    *("t", "excluded", "xmax_", "action", "lock", "new", "old", "value", "_updated"),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("strategy", ["auto", "exact", "on_conflict"])
async def test_names_of_tables_and_columns_do_not_collide(
    pg: PostgresDatabase, name: str, strategy: Any
) -> None:
    others = [other for other in NAMES if other != name]
    columns = ", ".join(f'"{other}" integer DEFAULT 7' for other in others)
    await pg.run(f'CREATE TABLE "{name}" ("{name}" integer PRIMARY KEY, {columns})')
    results = [
        await create_or_update(
            pg.handle,
            name,
            key={name: 1},
            defaults={others[0]: F(others[0]) + 1},
            where=F(others[1]) == 7,
            skip_unchanged=True,
            returning="*",
            strategy=strategy,
        )
        for _ in range(2)
    ]
    sevens = {name: 1, **dict.fromkeys(others, 7)}
    assert [result.action for result in results] == [Action.CREATED, Action.UPDATED]
    assert [result.row for result in results] == [
        sevens | {others[0]: 8},
        sevens | {others[0]: 9},
    ]
    got = await get_or_create(pg.handle, name, key={name: 1}, strategy=strategy)
    assert (got.row, got.action) == (sevens | {others[0]: 9}, Action.UNCHANGED)


RELATIONS: Final = {
    "plain": "CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0)",
    "hash partitions": """
CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0) PARTITION BY HASH (k);
CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)
""",
    "partition of another layout": """
CREATE TABLE t (gone text, k integer, hits integer DEFAULT 0) PARTITION BY RANGE (k);
ALTER TABLE t DROP gone; ALTER TABLE t ADD PRIMARY KEY (k);
CREATE TABLE t0 (hits integer DEFAULT 0, k integer PRIMARY KEY);
ALTER TABLE t ATTACH PARTITION t0 FOR VALUES FROM (0) TO (100)
""",
    "view": """
CREATE TABLE b (k integer PRIMARY KEY, hits integer);
CREATE VIEW t AS SELECT * FROM b; ALTER VIEW t ALTER hits SET DEFAULT 0
""",
    "view with triggers": """
CREATE TABLE b (k integer PRIMARY KEY, hits integer);
CREATE VIEW t AS SELECT * FROM b; ALTER VIEW t ALTER hits SET DEFAULT 0;
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
 IF tg_op = 'INSERT' THEN INSERT INTO b VALUES (new.k, new.hits);
 ELSE UPDATE b SET hits = new.hits WHERE k = old.k; END IF; RETURN new; END $$;
CREATE TRIGGER g INSTEAD OF INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()
""",
    "unlogged": "CREATE UNLOGGED TABLE t (k integer PRIMARY KEY, hits int DEFAULT 0)",
    "inheritance": """
CREATE TABLE t (k integer PRIMARY KEY, hits integer DEFAULT 0);
CREATE TABLE child (PRIMARY KEY (k)) INHERITS (t)
""",
}


async def actions(conn: Any, key: int, strategy: Any) -> list[Action]:
    hits = F("hits") + 1
    return [
        (
            await create_or_update(
                conn, "t", key={"k": key}, defaults={"hits": hits}, strategy=strategy
            )
        ).action
        for _ in range(3)
    ]


BOTH: Final = [Action.CREATED, Action.UPDATED, Action.UPDATED]


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("relation", RELATIONS)
async def test_flags_on_every_relation(
    pg: PostgresDatabase, relation: str, strategy: str, *, inside: bool
) -> None:
    await pg.run(RELATIONS[relation])
    conn: Any = pg.handle
    if inside:
        await conn.execute("BEGIN")
    assert [await actions(conn, key, strategy) for key in (1, 2)] == [BOTH, BOTH]
    if inside:
        await conn.execute("COMMIT")
    assert await pg.query("SELECT k, hits FROM t ORDER BY k") == [(1, 3), (2, 3)]


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("relation", ["plain", "hash partitions", "view"])
async def test_flags_within_one_transaction_of_deletes_and_savepoints(
    pg: PostgresDatabase, relation: str, strategy: str
) -> None:
    await pg.run(RELATIONS[relation])
    conn: Any = pg.handle
    async with conn.transaction():
        assert await actions(conn, 1, strategy) == BOTH
        await conn.execute("DELETE FROM t")
        assert await actions(conn, 1, strategy) == BOTH
        await conn.execute("SAVEPOINT s; DELETE FROM t; ROLLBACK TO SAVEPOINT s")
        assert Action.CREATED not in await actions(conn, 1, strategy)
    await pg.run("BEGIN; DELETE FROM t; ROLLBACK")
    assert Action.CREATED not in await actions(conn, 1, strategy)


@pytest.mark.parametrize("strategy", ["auto", "exact", "on_conflict"])
async def test_flags_of_a_row_whose_key_others_hold(
    pg: PostgresDatabase, strategy: str
) -> None:
    await pg.run(
        f"{RELATIONS['plain']}; CREATE TABLE child (k integer REFERENCES t (k))"
    )
    conn: Any = pg.handle
    assert await actions(conn, 1, strategy) == BOTH
    async with pg.connect() as other, other.transaction():
        await other.execute("INSERT INTO child VALUES (1)")
        await other.execute("SELECT FROM t FOR KEY SHARE")
        assert Action.CREATED not in await actions(conn, 1, strategy)


async def test_a_row_of_a_child_table_is_updated(pg: PostgresDatabase) -> None:
    await pg.run(f"{RELATIONS['inheritance']}; INSERT INTO child VALUES (1, 5)")
    assert Action.CREATED not in await actions(pg.handle, 1, "auto")
    assert await pg.query("SELECT hits FROM t") == [(8,)]
