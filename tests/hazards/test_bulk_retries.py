"""What goes wrong around a batch, and what is done again."""

import asyncio
from typing import Any, Final

import asyncpg
import pytest

from aioupsert import (
    BulkError,
    BulkResult,
    F,
    NotAppliedError,
    RetriesExhaustedError,
    UsageError,
    create_or_update_many,
)
from tests.support.databases import (
    CONNECTIONS,
    Database,
    PostgresDatabase,
    SQLiteDatabase,
)
from tests.support.sessions import waiting

engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)
SKIP: Final[dict[str, Any]] = {"atomic": False, "on_error": "skip"}


def rows(number: int, n: object = 1) -> list[dict[str, Any]]:
    return [{"k": k, "n": n} for k in range(number)]


# The first two times the row 13 is met, it fails: as a bad row, then as a transient error.
TWICE: Final = """
CREATE SEQUENCE met;
CREATE TABLE t (k integer PRIMARY KEY, n integer);
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE m bigint; BEGIN
    IF new.k = 13 THEN
        m := nextval('met');
        IF m = 1 THEN RAISE EXCEPTION 'bad'; END IF;
        IF m = 2 THEN RAISE serialization_failure; END IF;
    END IF;
    RETURN new;
END $$;
CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()
"""


async def test_a_transient_error_while_a_bad_row_is_looked_for_is_retried(
    pg: PostgresDatabase,
) -> None:
    await pg.run(TWICE)
    result = await create_or_update_many(pg.handle, "t", rows(40), key="k")
    assert result == BulkResult(created=40)
    assert await pg.query("SELECT count(*) FROM t") == [(40,)]


async def test_it_is_until_the_timeout(pg: PostgresDatabase) -> None:
    await pg.run(TWICE)
    with pytest.raises(RetriesExhaustedError) as caught:
        await create_or_update_many(pg.handle, "t", rows(40), key="k", timeout=0)
    assert isinstance(caught.value.__cause__, asyncpg.SerializationError)
    assert await pg.query("SELECT count(*) FROM t") == [(0,)]


async def test_in_a_callers_transaction_it_is_raised(pg: PostgresDatabase) -> None:
    await pg.run(TWICE)
    conn: Any = pg.handle
    await conn.execute("BEGIN")
    with pytest.raises(asyncpg.SerializationError):
        await create_or_update_many(conn, "t", rows(40), key="k")
    await conn.execute("ROLLBACK")
    assert await pg.query("SELECT count(*) FROM t") == [(0,)]


@engines
@pytest.mark.parametrize("number", [2, 40])
async def test_a_table_that_has_changed_meanwhile_is_read_again(
    db: Database, number: int
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await create_or_update_many(db.handle, "t", rows(number), key="k")
    await db.run("ALTER TABLE t RENAME COLUMN n TO m")
    await db.run("ALTER TABLE t ADD COLUMN n text")
    result = await create_or_update_many(db.handle, "t", rows(number, "x"), key="k")
    assert result == BulkResult(updated=number)
    assert await db.query("SELECT DISTINCT m, n FROM t") == [(1, "x")]


@engines
async def test_a_row_that_is_refused_silently_is_named(db: Database) -> None:
    body = (
        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN IF new.k = 13 THEN RETURN NULL; END IF; RETURN new; END $$;"
        " CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()"
    )
    if isinstance(db, SQLiteDatabase):
        body = (
            "CREATE TRIGGER g BEFORE INSERT ON t WHEN new.k = 13"
            " BEGIN SELECT RAISE(IGNORE); END"
        )
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await db.run(body)
    with pytest.raises(BulkError) as caught:
        await create_or_update_many(db.handle, "t", rows(20), key="k")
    assert caught.value.index == 13
    assert isinstance(caught.value.__cause__, NotAppliedError)
    result = await create_or_update_many(db.handle, "t", rows(20), key="k", **SKIP)
    assert (result.created, [e.index for e in result.rejected]) == (19, [13])


@pytest.mark.parametrize("number", [1, 8])
async def test_so_is_one_whose_update_is_refused(
    pg: PostgresDatabase, number: int
) -> None:
    await pg.run(
        "CREATE TABLE t (k integer PRIMARY KEY, n integer); INSERT INTO t VALUES (0, 0);"
        "CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION g()"
    )
    async with asyncio.timeout(20):
        with pytest.raises(BulkError) as caught:
            await create_or_update_many(pg.handle, "t", rows(number), key="k")
    assert caught.value.index == 0
    assert isinstance(caught.value.__cause__, NotAppliedError)
    assert await pg.query("SELECT k, n FROM t") == [(0, 0)]


@engines
async def test_a_key_that_would_be_stored_as_something_else_is_named(
    db: Database,
) -> None:
    kind = "text" if isinstance(db, SQLiteDatabase) else "integer"
    wrong: Any = 5 if kind == "text" else 5.5
    await db.run(f"CREATE TABLE t (k {kind} PRIMARY KEY, n integer)")
    keys: list[Any] = ["a", "b", "c"] if kind == "text" else [1, 2, 3]
    given = [{"k": k, "n": 1} for k in (keys[0], wrong, *keys[1:])]
    with pytest.raises(BulkError, match="would be stored as something else") as caught:
        await create_or_update_many(db.handle, "t", given, key="k")
    assert caught.value.index == 1
    assert isinstance(caught.value.__cause__, UsageError)
    result = await create_or_update_many(db.handle, "t", given, key="k", **SKIP)
    assert (result.created, [e.index for e in result.rejected]) == (3, [1])
    only = await create_or_update_many(db.handle, "t", given[1:2], key="k", **SKIP)
    assert (only.created, len(only.rejected)) == (0, 1)


@pytest.mark.parametrize("db", ["asyncpg"], indirect=True)
@pytest.mark.parametrize("in_one_message", [True, False])
async def test_a_connection_that_is_in_use_is_no_fault_of_a_row(
    db: PostgresDatabase, *, in_one_message: bool
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    conn: Any = db.handle
    # Otherwise it begins a transaction, and cannot roll it back either.
    options: dict[str, Any] = {"skip_unchanged": not in_one_message}
    await create_or_update_many(conn, "t", rows(3), key="k", **options)
    busy = asyncio.create_task(conn.fetch("SELECT pg_sleep(0.2)"))
    await asyncio.sleep(0.05)
    with pytest.raises(asyncpg.InterfaceError, match="another operation"):
        await create_or_update_many(conn, "t", rows(3), key="k", **options)
    await busy


@engines
@pytest.mark.parametrize("number", [40, 6_000])
async def test_only_the_rows_that_differ_are_written(db: Database, number: int) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await create_or_update_many(db.handle, "t", rows(number), key="k")
    half = number // 2
    given = rows(half) + [{"k": k, "n": 2} for k in range(half, number + 5)]
    result = await create_or_update_many(
        db.handle, "t", given, key="k", skip_unchanged=True
    )
    assert result == BulkResult(created=5, updated=number - half, unchanged=half)
    assert await db.query("SELECT n, count(*) FROM t GROUP BY n ORDER BY n") == [
        (1, half),
        (2, number - half + 5),
    ]


@engines
async def test_a_constraint_that_is_checked_at_commit_leaves_out_its_rows_only(
    db: Database,
) -> None:
    await db.run("CREATE TABLE parent (id integer PRIMARY KEY)")
    await db.run("INSERT INTO parent VALUES (1)")
    await db.run(
        "CREATE TABLE t (k integer PRIMARY KEY,"
        " n integer REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)"
    )
    if isinstance(db, SQLiteDatabase):
        await db.handle.execute("PRAGMA foreign_keys = ON")
    given = rows(20)
    given[13]["n"] = given[17]["n"] = 9
    result = await create_or_update_many(db.handle, "t", given, key="k", **SKIP)
    assert (result.created, [e.index for e in result.rejected]) == (18, [13, 17])
    assert await db.query("SELECT count(*), max(n) FROM t") == [(18, 1)]


@pytest.mark.parametrize("db", ["asyncpg"], indirect=True)
async def test_a_connection_that_was_terminated_says_so(db: PostgresDatabase) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    async with db.connect() as conn:
        await create_or_update_many(conn, "t", rows(3), key="k")
        conn.terminate()
        with pytest.raises(asyncpg.InterfaceError, match="closed"):
            await create_or_update_many(conn, "t", rows(3), key="k")


# Seen before it is known to be an insert, so that the classic steps are taken.
SEEN: Final = """
CREATE TABLE t (k integer PRIMARY KEY, n integer);
CREATE FUNCTION g() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION g()
"""


async def test_a_row_of_another_that_its_snapshot_lacks_is_met_in_the_next_one(
    pg: PostgresDatabase,
) -> None:
    await pg.run(SEEN)
    async with pg.connect() as conn, pg.connect() as other:
        await conn.execute("SET default_transaction_isolation = 'repeatable read'")
        await other.execute("BEGIN; INSERT INTO t VALUES (1, 5)")
        task = asyncio.create_task(
            create_or_update_many(conn, "t", rows(2), key="k", update={"n": F("n") + 1})
        )
        await waiting(pg, conn)
        await other.execute("COMMIT")
        assert await task == BulkResult(created=1, updated=1)
    assert await pg.query("SELECT k, n FROM t ORDER BY k") == [(0, 1), (1, 6)]
