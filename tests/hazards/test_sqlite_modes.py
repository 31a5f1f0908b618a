"""
aiosqlite connections in every mode and with every setting a caller may choose.

All of it with one job for each call, and statement by statement, as where aiosqlite
has no way to run a job.
"""

import sqlite3
from collections.abc import Callable
from typing import Any

import aiosqlite
import pytest

from aioupsert import Action, F, Result, create_or_update, get_or_create
from tests.support.databases import LITE_MODES, LiteFactory, SQLiteDatabase

TABLE = """
    CREATE TABLE t (
        k TEXT PRIMARY KEY ON CONFLICT ABORT,
        hits INTEGER DEFAULT 0 CHECK (hits >= 0),
        note TEXT DEFAULT 'none',
        once TEXT UNIQUE ON CONFLICT ROLLBACK
    );
"""
# In the others a call without a transaction of the caller's has one of its own.
ALWAYS_INSIDE = {"no-autocommit"}
OWN_MODES = [mode for mode in LITE_MODES if mode not in ALWAYS_INSIDE]
# The driver begins a transaction before the caller's first write.
IMPLICIT_MODES = [
    mode
    for mode in LITE_MODES
    if mode in {"deferred", "immediate"} or mode in ALWAYS_INSIDE
]


@pytest.fixture(params=LITE_MODES)
async def conn(
    request: pytest.FixtureRequest, lite: SQLiteDatabase, lite_factory: LiteFactory
) -> aiosqlite.Connection:
    await lite.run(TABLE)
    return await lite_factory(**LITE_MODES[request.param])


async def count(conn: aiosqlite.Connection, key: str = "a") -> Result:
    hits = F("hits") + 1
    return await create_or_update(conn, "t", key={"k": key}, defaults={"hits": hits})


async def test_every_action(conn: aiosqlite.Connection) -> None:
    async def call(**options: Any) -> tuple[Action, Any]:
        result = await create_or_update(
            conn, "t", key={"k": "a"}, returning="hits", **options
        )
        return result.action, result.row

    hit = {"defaults": {"hits": F("hits") + 1}}
    same = {"defaults": {"hits": 2}, "skip_unchanged": True}
    assert [
        await call(**hit),
        await call(**hit),
        await call(**same),
        await call(**hit, where=F("hits") > 5),
        await call(),
        await call(defaults={"hits": 9}, strategy="on_conflict"),
    ] == [
        (Action.CREATED, {"hits": 1}),
        (Action.UPDATED, {"hits": 2}),
        (Action.UNCHANGED, {"hits": 2}),
        (Action.SKIPPED, {"hits": 2}),
        (Action.UNCHANGED, {"hits": 2}),
        (Action.UPDATED, {"hits": 9}),
    ]


async def test_get_or_create(conn: aiosqlite.Connection) -> None:
    results = [
        await get_or_create(conn, "t", key={"k": "a"}, defaults={"note": value})
        for value in ("first", lambda: "second")
    ]
    row = {"k": "a", "hits": 0, "note": "first", "once": None}
    assert [tuple(result) for result in results] == [(row, True), (row, False)]


@pytest.mark.parametrize("conn", OWN_MODES, indirect=True)
async def test_without_a_transaction_a_call_is_committed(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    for hits in (1, 2):
        result = await count(conn)
        assert result.created == (hits == 1)
        assert not conn.in_transaction
        assert await lite.query("SELECT k, hits FROM t") == [("a", hits)]


async def test_in_the_callers_transaction_commit_stores(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    async with lite.transaction(conn):
        assert [(await count(conn)).created for _ in range(2)] == [True, False]
        assert conn.in_transaction
        assert await lite.query("SELECT * FROM t") == []
    assert await lite.query("SELECT k, hits FROM t") == [("a", 2)]


async def test_in_the_callers_transaction_rollback_undoes(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await lite.run("INSERT INTO t (k, hits) VALUES ('old', 5)")

    async def transaction() -> None:
        async with lite.transaction(conn):
            assert [(await count(conn, k)).created for k in ("new", "old")] == [1, 0]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await transaction()
    assert await lite.query("SELECT k, hits FROM t") == [("old", 5)]


@pytest.mark.parametrize("conn", IMPLICIT_MODES, indirect=True)
@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
async def test_a_transaction_the_driver_began_is_the_callers(
    conn: aiosqlite.Connection, lite: SQLiteDatabase, *, commits: bool
) -> None:
    await conn.execute("INSERT INTO t (k, hits) VALUES ('b', 1)")
    await count(conn)
    assert conn.in_transaction
    assert await lite.query("SELECT * FROM t") == []
    await (conn.commit() if commits else conn.rollback())
    stored = [("a", 1), ("b", 1)] if commits else []
    assert await lite.query("SELECT k, hits FROM t ORDER BY k") == stored


async def test_a_savepoint_of_the_callers_survives(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    async with lite.transaction(conn):
        await count(conn, "kept")
        # The library's savepoints may even have the same name.
        await conn.execute("SAVEPOINT aioupsert")
        await count(conn, "undone")
        await conn.execute("ROLLBACK TO aioupsert")
        await conn.execute("RELEASE aioupsert")
    assert await lite.query("SELECT k FROM t") == [("kept",)]


async def test_an_error_keeps_the_callers_transaction(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    async with lite.transaction(conn):
        await count(conn)
        with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
            await create_or_update(conn, "t", key={"k": "b"}, defaults={"hits": -1})
        assert conn.in_transaction
        await count(conn)
    assert await lite.query("SELECT k, hits FROM t") == [("a", 2)]


@pytest.mark.parametrize("conn", OWN_MODES, indirect=True)
async def test_an_error_leaves_no_transaction(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        await create_or_update(conn, "t", key={"k": "b"}, defaults={"hits": -1})
    assert not conn.in_transaction
    await count(conn)
    assert await lite.query("SELECT k, hits FROM t") == [("a", 1)]


async def test_an_error_says_that_it_ended_the_callers_transaction(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await lite.run("INSERT INTO t (k, once) VALUES ('x', 'taken')")
    # The driver begins the next one at once where it is always inside.
    if not conn.in_transaction:
        await conn.execute("BEGIN")
    await count(conn)
    with pytest.raises(sqlite3.IntegrityError, match="once") as caught:
        await create_or_update(conn, "t", key={"k": "b"}, defaults={"once": "taken"})
    assert "caller's transaction is gone" in "".join(caught.value.__notes__)
    assert not conn.in_transaction
    assert await lite.query("SELECT k FROM t") == [("x",)]


@pytest.mark.parametrize("conn", OWN_MODES, indirect=True)
async def test_a_conflict_clause_that_rolls_back_our_own_transaction_is_plain(
    conn: aiosqlite.Connection, lite: SQLiteDatabase
) -> None:
    await lite.run("INSERT INTO t (k, once) VALUES ('x', 'taken')")
    with pytest.raises(sqlite3.IntegrityError, match="once") as caught:
        await create_or_update(conn, "t", key={"k": "b"}, defaults={"once": "taken"})
    assert not hasattr(caught.value, "__notes__")
    assert not conn.in_transaction
    assert (await count(conn)).created


def _reversed(text: bytes) -> str:
    return text.decode()[::-1]


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> dict[str, Any]:
    return {d[0]: value for d, value in zip(cursor.description, row, strict=True)}


@pytest.mark.parametrize("row_factory", [None, sqlite3.Row, _as_dict])
async def test_the_row_factory_is_left_and_changes_no_result(
    conn: aiosqlite.Connection, row_factory: Any
) -> None:
    conn.row_factory = row_factory
    result = await create_or_update(conn, "t", key={"k": "a"}, returning="*")
    assert result.row == {"k": "a", "hits": 0, "note": "none", "once": None}
    assert conn.row_factory is row_factory


@pytest.mark.parametrize(
    ("text_factory", "note"), [(str, "none"), (bytes, b"none"), (_reversed, "enon")]
)
async def test_the_text_factory_is_left_and_makes_the_texts_of_rows(
    conn: aiosqlite.Connection, text_factory: Callable[[bytes], Any], note: Any
) -> None:
    conn.text_factory = text_factory
    result = await create_or_update(
        conn, "t", key={"k": "a"}, returning=["hits", "note"]
    )
    assert result.row == {"hits": 0, "note": note}
    assert conn.text_factory is text_factory


async def test_converters_of_the_caller_apply_to_rows_only(
    lite: SQLiteDatabase, lite_factory: LiteFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lite.run(TABLE)
    monkeypatch.setitem(sqlite3.converters, "TEXT", list)
    conn = await lite_factory(detect_types=sqlite3.PARSE_DECLTYPES)
    assert (await count(conn)).created
    assert await lite.query("SELECT k, hits, note FROM t") == [("a", 1, "none")]


async def test_the_settings_are_left(conn: aiosqlite.Connection) -> None:
    names = ("isolation_level", "autocommit", "row_factory", "text_factory")

    async def settings() -> list[Any]:
        raw = conn._conn
        # On the thread of the connection: the driver refuses some of them elsewhere.
        read = [conn._execute(getattr, raw, name, None) for name in names]  # type: ignore[no-untyped-call]  # no public way
        return [await setting for setting in read]

    before = await settings()
    await count(conn)
    with pytest.raises(sqlite3.IntegrityError):
        await create_or_update(conn, "t", key={"k": "b"}, defaults={"hits": -1})
    assert await settings() == before
