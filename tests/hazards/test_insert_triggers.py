"""Many rows in tables with INSERT triggers, beside the same rows one by one."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import pytest

from aioupsert import (
    BulkResult,
    F,
    create_or_update,
    create_or_update_many,
    get_or_create_many,
    iter_create_or_update,
)
from tests.support.databases import Database, PostgresDatabase
from tests.support.sessions import waiting

TABLE: Final = (
    "CREATE TABLE t (k text PRIMARY KEY, n integer DEFAULT 0, v text);"
    "CREATE TABLE log (what text)"
)
FUNCTION: Final = """
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {} END';
CREATE TRIGGER g {} ON t FOR EACH {} EXECUTE FUNCTION f();
"""
SEEN: Final = "INSERT INTO log VALUES (tg_op || new.k);"
TRIGGERS: Final = {
    "sees": (SEEN + "RETURN new;", "BEFORE INSERT OR UPDATE", "ROW"),
    "sets a value": (
        SEEN + "new.v = coalesce(new.v, '''') || tg_op; RETURN new;",
        "BEFORE INSERT OR UPDATE",
        "ROW",
    ),
    "changes the key": (
        SEEN + "new.k = lower(new.k); RETURN new;",
        "BEFORE INSERT",
        "ROW",
    ),
    "numbers": (
        SEEN + "new.v = (SELECT count(*) FROM t); RETURN new;",
        "BEFORE INSERT",
        "ROW",
    ),
    "creates another": (
        SEEN
        + "IF new.k NOT LIKE ''%+'' THEN INSERT INTO t VALUES (new.k || ''+''); END IF;"
        "RETURN new;",
        "BEFORE INSERT",
        "ROW",
    ),
    "before statements": ("RETURN NULL;", "BEFORE INSERT", "STATEMENT"),
    "after statements": ("RETURN NULL;", "AFTER INSERT", "STATEMENT"),
    "partly swallows": (
        "IF new.k LIKE ''%7'' THEN RETURN NULL; END IF;" + SEEN + "RETURN new;",
        "BEFORE INSERT",
        "ROW",
    ),
    "partly raises": (
        "IF new.k LIKE ''%7'' THEN RAISE ''not seven''; END IF;" + SEEN + "RETURN new;",
        "BEFORE INSERT",
        "ROW",
    ),
}
Rows: TypeAlias = Sequence[Mapping[str, Any]]
Load: TypeAlias = Callable[[Any, Rows], Awaitable[object]]


def trigger(name: str) -> str:
    body, time, each = TRIGGERS[name]
    return FUNCTION.format(body, time, each)


async def in_bulk(conn: Any, rows: Rows, **options: Any) -> None:
    await create_or_update_many(
        *(conn, "t", rows), key="k", on_error="skip", atomic=False, **options
    )


async def compared(conn: Any, rows: Rows) -> None:
    await in_bulk(conn, rows, skip_unchanged=True)


async def under_a_condition(conn: Any, rows: Rows) -> None:
    await in_bulk(conn, rows, where=F("n") > 0)


def single(**options: Any) -> Load:
    async def load(conn: Any, rows: Rows) -> None:
        for row in sorted(rows, key=lambda row: row["k"]):
            values = {name: row[name] for name in ("n", "v")}
            try:
                await create_or_update(
                    conn, "t", key={"k": row["k"]}, defaults=values, **options
                )
            except Exception:  # noqa: BLE001, S112  # its row is left out
                continue

    return load


async def stored(db: Database) -> tuple[list[Any], list[Any]]:
    return (
        await db.query("SELECT k, n, v FROM t ORDER BY k"),
        await db.query("SELECT what FROM log ORDER BY what"),
    )


@pytest.mark.parametrize(
    ("load", "one_by_one"),
    [
        (in_bulk, single()),
        (compared, single(skip_unchanged=True)),
        (under_a_condition, single(where=F("n") > 0)),
    ],
    ids=["plain", "compared", "under a condition"],
)
@pytest.mark.parametrize("number", [4, 40])
@pytest.mark.parametrize("name", TRIGGERS)
@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_many_rows_are_stored_and_seen_like_single_ones(
    db: Database, name: str, number: int, load: Load, one_by_one: Load
) -> None:
    rows = [{"k": f"K{n:03}", "n": n % 3, "v": "x"} for n in range(number)]
    found: list[Any] = []
    for call in (one_by_one, load):
        await db.run("DROP TABLE IF EXISTS t, log; DROP FUNCTION IF EXISTS f")
        await db.run(TABLE)
        existing = ", ".join(f"('K{n:03}', {n % 2}, 'x')" for n in range(0, number, 3))
        await db.run(f"INSERT INTO t VALUES {existing}")
        await db.run(trigger(name))
        await call(db.handle, rows)
        found.append(await stored(db))
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["sees", "sets a value", "changes the key"])
@pytest.mark.parametrize("old", [False, True])
async def test_the_result_of_each_row_is_as_it_is_stored(
    pg: PostgresDatabase, name: str, *, old: bool
) -> None:
    await pg.run(f"{TABLE}; INSERT INTO t VALUES ('b', 1), ('D', 2); {trigger(name)}")
    rows = [{"k": k, "n": 7} for k in ("E", "D", "A", "b", "C")]
    results = [
        result
        async for result in iter_create_or_update(
            *(pg.handle, "t", rows), key="k", returning=["k", "n", "v"], old=old
        )
    ]
    assert [r.created for r in results] == [True, False, True, False, True]
    assert [r.old and r.old["n"] for r in results] == (
        [None, 2, None, 1, None] if old else [None] * 5
    )
    assert sorted(tuple((r.row or {}).values()) for r in results) == sorted(
        await pg.query("SELECT k, n, v FROM t")
    )


@pytest.mark.parametrize("name", ["sees", "partly swallows", "before statements"])
async def test_existing_rows_are_only_read(pg: PostgresDatabase, name: str) -> None:
    await pg.run(f"{TABLE}; INSERT INTO t VALUES ('b'), ('d'); {trigger(name)}")
    keys = [{"k": k} for k in "abcde"]
    results = await get_or_create_many(pg.handle, "t", keys, key="k", returning=["k"])
    assert [result.created for result in results] == [True, False, True, False, True]
    log = await pg.query("SELECT what FROM log ORDER BY what")
    seen = name != "before statements"
    assert log == ([("INSERTa",), ("INSERTc",), ("INSERTe",)] if seen else [])
    async with pg.transaction():
        await pg.run("SET TRANSACTION READ ONLY")
        again = await get_or_create_many(pg.handle, "t", keys, key="k")
    assert not any(result.created for result in again)


@pytest.mark.parametrize("number", [10, 5_100])
async def test_a_trigger_sees_no_row_that_another_has_created_meanwhile(
    pg: PostgresDatabase, number: int
) -> None:
    await pg.run(TABLE + ";" + trigger("sees"))
    rows = [{"k": f"{n:05}", "n": 1} for n in range(number)]
    async with pg.connect() as other:
        await other.execute("BEGIN; INSERT INTO t (k, n) VALUES ('00003', 10)")
        load = create_or_update_many(
            *(pg.handle, "t", rows), key="k", update={"n": F("n") + 5}
        )
        task = asyncio.create_task(load)
        await waiting(pg, pg.handle)
        await other.execute("COMMIT")
        assert await task == BulkResult(created=number - 1, updated=1)
    assert await pg.query("SELECT n FROM t WHERE k = '00003'") == [(15,)]
    # The other's, one for each that was created, and the update.
    assert await pg.query(
        "SELECT count(*), count(DISTINCT what) FROM log WHERE what LIKE 'INSERT%'"
    ) == [(number, number)]


async def test_a_key_that_repeats_uses_up_no_value_of_a_sequence(
    pg: PostgresDatabase,
) -> None:
    await pg.run(f"{TABLE}; ALTER TABLE t ADD COLUMN id serial; {trigger('sees')}")
    rows = [{"k": k, "n": n} for n, k in enumerate("abacb")]
    results = await get_or_create_many(pg.handle, "t", rows, key="k")
    assert [r.row["id"] for r in results] == [1, 2, 1, 3, 2]
    assert await pg.query("SELECT last_value FROM t_id_seq") == [(3,)]
