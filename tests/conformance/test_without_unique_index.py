"""What happens when no unique index makes the key unique."""

import asyncio
import warnings
from typing import Any, get_args

import pytest

from aioupsert import (
    Action,
    F,
    MissingUniqueIndexError,
    MissingUniqueIndexWarning,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
    preview,
)
from aioupsert.typing import WithoutUniqueIndex
from tests.support.databases import Database, PostgresDatabase, every_handle

WORDS: tuple[WithoutUniqueIndex, ...] = get_args(WithoutUniqueIndex)
KEY = {"kind": "a"}
HIT = {"hits": F("hits") + 1}


@pytest.fixture
async def conn(db: Database) -> Any:
    """A connection, with a table that has no unique index."""
    await db.run("CREATE TABLE events (kind TEXT, day INTEGER, hits INTEGER DEFAULT 0)")
    return db.handle


async def test_it_warns_and_goes_on(conn: Any, db: Database) -> None:
    with pytest.warns(
        MissingUniqueIndexWarning,
        match=r'makes \(kind, day\) of events unique, .*"lock" or "allow"',
    ):
        result = await create_or_update(
            conn, "events", key={"kind": "a", "day": 1}, defaults=HIT
        )
    assert result.created
    assert await db.query("SELECT * FROM events") == [("a", 1, 1)]


@every_handle
async def test_the_warning_points_to_the_callers_line(conn: Any) -> None:
    with pytest.warns(MissingUniqueIndexWarning) as caught:
        await create_or_update(conn, "events", key=KEY, defaults=HIT)
    assert [warning.filename for warning in caught] == [__file__]


@every_handle
async def test_it_warns_once_for_each_table_and_key(db: Database) -> None:
    await db.run(
        "CREATE TABLE one (a INTEGER, b INTEGER);CREATE TABLE two (a INTEGER, b INTEGER)"
    )
    async with db.connect() as conn:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                for table in ("one", "two"):
                    for key in ({"a": 1}, {"b": 1}, {"a": 2}):
                        await create_or_update(conn, table, key=key)
                        await create_or_update(conn, table, key=key, returning="*")
                        await get_or_create(conn, table, key=key)
    said = sorted(str(w.message).split(" unique,")[0] for w in caught)
    assert said == [
        f"no unique index makes ({column}) of {table}"
        for column in "ab"
        for table in ("one", "two")
    ]


async def test_error_refuses_and_writes_nothing(conn: Any, db: Database) -> None:
    for call in (create_or_update, get_or_create):
        with pytest.raises(MissingUniqueIndexError, match=r"\(kind\) of events"):
            await call(
                conn, "events", key=KEY, defaults=HIT, without_unique_index="error"
            )
    assert await db.query("SELECT * FROM events") == []


@pytest.mark.parametrize("word", ["allow", "lock"])
async def test_others_create_and_update_in_silence(
    conn: Any, db: Database, word: WithoutUniqueIndex
) -> None:
    actions = [
        (
            await create_or_update(
                conn, "events", key=KEY, defaults=HIT, without_unique_index=word
            )
        ).action
        for _ in range(2)
    ]
    assert actions == [Action.CREATED, Action.UPDATED]
    assert await db.query("SELECT kind, hits FROM events") == [("a", 2)]


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    "unique", ["kind TEXT PRIMARY KEY", "kind TEXT, UNIQUE (kind)"], ids=str
)
async def test_with_a_unique_index_all_are_the_same(
    db: Database, word: WithoutUniqueIndex, unique: str
) -> None:
    await db.run(f"CREATE TABLE t (hits INTEGER DEFAULT 0, {unique})")
    for hits in (1, 2):
        result = await create_or_update(
            db.handle,
            "t",
            key=KEY,
            defaults=HIT,
            returning="hits",
            without_unique_index=word,
        )
        assert result.row == {"hits": hits}


INDEXES: dict[str, tuple[str, dict[str, Any], bool]] = {
    "a part of the key is unique": ("(a)", {"a": 1, "b": 1}, True),
    "more than the key is unique": ("(a, b)", {"a": 1}, False),
    "NULL is not unique": ("(a, b)", {"a": 1, "b": None}, False),
    "a condition": ("(a) WHERE b > 0", {"a": 1}, False),
    "a condition that the key meets": (
        "(a) WHERE b IS NULL",
        {"a": 1, "b": None},
        True,
    ),
    "an expression": ("(abs(a))", {"a": 1}, False),
}


@pytest.mark.parametrize(("index", "key", "unique"), INDEXES.values(), ids=INDEXES)
async def test_only_an_index_that_makes_the_key_unique_counts(
    db: Database, index: str, key: dict[str, Any], *, unique: bool
) -> None:
    await db.run("CREATE TABLE t (a INTEGER, b INTEGER, hits INTEGER)")
    await db.run(f"CREATE UNIQUE INDEX i ON t {index}")
    call = preview(db.handle, "t", key=key, defaults=HIT, without_unique_index="error")
    if unique:
        assert await call
    else:
        with pytest.raises(MissingUniqueIndexError):
            await call


@every_handle
async def test_a_lock_lets_one_of_many_create(db: Database) -> None:
    await db.run("CREATE TABLE events (kind TEXT, hits INTEGER DEFAULT 0)")

    async def hit() -> bool:
        async with db.connect() as conn:
            result = await create_or_update(
                conn, "events", key=KEY, defaults=HIT, without_unique_index="lock"
            )
        return result.created

    assert sum(await asyncio.gather(*(hit() for _ in range(8)))) == 1
    assert await db.query("SELECT * FROM events") == [("a", 8)]


async def test_the_lock_ends_with_the_call(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE events (kind TEXT, hits INTEGER DEFAULT 0)")
    await create_or_update(
        pg.handle, "events", key=KEY, defaults=HIT, without_unique_index="lock"
    )
    held = f"SELECT FROM pg_locks WHERE pid = {pg.handle.get_server_pid()}"
    assert await pg.query(f"{held} AND locktype = 'advisory'") == []


CONDITIONS: dict[str, dict[str, Any]] = {
    "where": {"where": F("hits") < 2},
    "skip_unchanged": {"skip_unchanged": True},
    "touch": {"touch": {"day": 7}},
}


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
async def test_a_condition_leaves_some_rows_of_a_key(
    conn: Any, db: Database, condition: dict[str, Any]
) -> None:
    rows = [{"kind": kind, "hits": 2} for kind in "abcd"]
    call: dict[str, Any] = {"key": "kind", "without_unique_index": "allow", **condition}

    async def reset() -> None:
        await db.run(
            "DELETE FROM events; INSERT INTO events (kind, hits)"
            " VALUES ('a', 1), ('a', 2), ('b', 0), ('c', 2), ('c', 2), ('a', 1)"
        )

    async def stored() -> list[Any]:
        found = await db.query("SELECT kind, hits, day FROM events")
        return sorted(found, key=str)

    await reset()
    call["returning"] = "hits"
    singly = [await create_or_update(conn, "events", row, **call) for row in rows]
    assert [result.rows_affected for result in singly] == [2, 1, 0, 1]
    expected = await stored()
    await reset()
    iterated = [r async for r in iter_create_or_update(conn, "events", rows, **call)]
    assert (iterated, await stored()) == (singly, expected)
    await reset()
    del call["returning"]
    done = await create_or_update_many(conn, "events", rows, **call)
    assert (done.created, done.updated) == (1, 2)
    assert await stored() == expected
