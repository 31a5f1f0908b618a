"""
`sync_rows` does what plain SQL does while nobody else writes.

Which keys are equal, only the database knows: the oracle asks it, by ON CONFLICT and by
DELETE ... WHERE NOT EXISTS under an exclusive lock of the table.
"""

import random
from typing import Any, Final

import pytest

from aioupsert import sync_rows
from tests.support.databases import PostgresDatabase, SQLiteDatabase
from tests.support.tables import make_collation

# Types of keys, and spellings of some values of each, of which some are equal.
KEYS: Final = {
    "integer": ["1", "01", "2", "3"],
    "numeric(6, 1)": ["1", "1.04", "1.0", "2.5", "2.51", "-3"],
    "char(3)": ["a", "a ", "b", "A"],
    "text": ["a", "a ", "A", ""],
    "text COLLATE ci": ["a", "A", "b", "B"],
    "timestamp(0)": ["2026-01-02 03:04:05", "2026-01-02 03:04:05.4", "2026-01-02"],
    "uuid": [
        "00000000-0000-0000-0000-00000000000a",
        "0000000000000000000000000000000A",
        "00000000-0000-0000-0000-00000000000b",
    ],
    "boolean": ["t", "yes", "false"],
}
SQLITE_KEYS: Final = {
    "INTEGER": ["1", "01", "2", "3"],
    "NUMERIC": ["1", "1.0", "2.5", "x"],
    "TEXT": ["a", "a ", "A", ""],
    "TEXT COLLATE NOCASE": ["a", "A", "b", "B"],
    "TEXT COLLATE RTRIM": ["a", "a ", "b"],
}
COLUMNS: Final = "shop integer, k {} NOT NULL, n integer, PRIMARY KEY (shop, k)"
WRITE: Final = "INSERT INTO o VALUES (7, {}, {}) ON CONFLICT (shop, k) DO UPDATE SET n = excluded.n"
REMOVE: Final = (
    "DELETE FROM o WHERE shop = 7 AND NOT EXISTS (SELECT 1 FROM s WHERE s.k = o.k)"
)


def statements(
    kind: str, source: list[dict[str, Any]], stored: list[str]
) -> tuple[list[str], list[str]]:
    """What makes the tables, and what the oracle does to its own."""
    rows = [f"({shop}, {k}, 0)" for k in stored for shop in (7, 8)]
    make = [f"CREATE TABLE t ({COLUMNS.format(kind)})"]
    # The first of equal keys stays.
    make += [f"INSERT INTO t VALUES {row} ON CONFLICT DO NOTHING" for row in rows]
    make += [
        f"CREATE TABLE o ({COLUMNS.format(kind)})",
        "INSERT INTO o SELECT * FROM t",
        f"CREATE TABLE s (k {kind})",
    ]
    keys = [f"'{row['k']}'" for row in source]
    write = [WRITE.format(k, row["n"]) for k, row in zip(keys, source, strict=True)]
    noted = [f"INSERT INTO s VALUES ({k})" for k in keys]
    return make, [*write, *noted, REMOVE]


def generated(kind: str, spellings: list[str], seed: int) -> tuple[Any, ...]:
    choose = random.Random(f"{kind} {seed}")  # noqa: S311  # no secret
    stored = [f"'{k}'" for k in choose.sample(spellings, 3)]
    source = [{"k": choose.choice(spellings), "n": choose.randrange(3)} for _ in "123"]
    return source, *statements(kind, source, stored)


@pytest.mark.parametrize("kind", KEYS)
async def test_postgresql_agrees_with_its_own_statements(
    pg: PostgresDatabase, kind: str
) -> None:
    if kind.endswith("ci") and not await make_collation(pg.handle):
        return
    for seed in range(4):
        source, make, oracle = generated(kind, KEYS[kind], seed)
        await pg.run("; ".join(make))
        async with pg.handle.transaction():
            await pg.handle.execute("LOCK TABLE o IN ACCESS EXCLUSIVE MODE")
            await pg.handle.execute("; ".join(oracle))
        await sync_rows(
            *(pg.handle, "t", source),
            key=["shop", "k"],
            scope={"shop": 7},
            convert_text=True,
            max_missing=1.0,
        )
        assert await rows(pg, "t") == await rows(pg, "o"), (source, make)
        await pg.run("DROP TABLE t, o, s")


@pytest.mark.parametrize("kind", SQLITE_KEYS)
async def test_sqlite_agrees_with_its_own_statements(
    lite: SQLiteDatabase, kind: str
) -> None:
    for seed in range(4):
        source, make, oracle = generated(kind, SQLITE_KEYS[kind], seed)
        for sql in [*make, *oracle]:
            await lite.run(sql)
        await sync_rows(
            *(lite.handle, "t", source),
            key=["shop", "k"],
            scope={"shop": 7},
            convert_text=True,
            max_missing=1.0,
        )
        assert await rows(lite, "t") == await rows(lite, "o"), (source, make)
        for table in "tos":
            await lite.run(f"DROP TABLE {table}")


async def rows(db: PostgresDatabase | SQLiteDatabase, table: str) -> list[Any]:
    return sorted(await db.query(f"SELECT shop, k, n FROM {table}"), key=repr)
