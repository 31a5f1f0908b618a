"""What happens in cases that are easily overlooked, alike on every driver."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Final

import pytest

from aioupsert import (
    Action,
    AioupsertError,
    F,
    MissingUniqueIndexError,
    UnsupportedConnectionError,
    create_or_update,
    create_or_update_many,
    func,
    iter_create_or_update,
    preview,
)
from aioupsert._drivers.base import STATES
from aioupsert._execution.targets import of_sqlalchemy
from tests.support.databases import Database

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 20])


@SIZES
async def test_the_value_of_a_row_wins_over_touch(db: Database, size: int) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer, seen text)")

    async def load(update: list[str] | None, **rest: Any) -> list[tuple[Any, ...]]:
        rows = [{"k": k, **rest} for k in range(size)]
        await create_or_update_many(
            db.handle, "t", rows, key="k", update=update, touch={"seen": "touched"}
        )
        return await db.query("SELECT DISTINCT n, seen FROM t")

    assert await load(None, n=1, seen="own") == [(1, "own")]
    assert await load(None, n=1, seen="own") == [(1, "own")]
    assert await load(None, n=2, seen="new") == [(2, "new")]
    # A column of the row that update does not name is none of an update.
    assert await load(["n"], n=2, seen="later") == [(2, "new")]
    assert await load(["n"], n=3, seen="later") == [(3, "touched")]
    assert await load(None, n=4) == [(4, "touched")]


@SIZES
async def test_a_primary_key_beside_the_key_is_written_on_create(
    db: Database, size: int
) -> None:
    await db.run("CREATE TABLE t (id integer PRIMARY KEY, k text UNIQUE, n integer)")

    def rows(first: int, n: int) -> list[dict[str, Any]]:
        return [{"id": first + at, "k": f"k{at:02}", "n": n} for at in range(size)]

    async def load(first: int, n: int, **options: Any) -> list[int]:
        results = iter_create_or_update(
            db.handle, "t", rows(first, n), key="k", **options
        )
        actions = {result.action async for result in results}
        assert actions == {Action.CREATED if n == 1 else Action.UPDATED}
        found = await db.query("SELECT id, n FROM t ORDER BY k")
        assert {stored for _, stored in found} == {n}
        return [number for number, _ in found]

    assert await load(100, 1) == [*range(100, 100 + size)]
    assert await load(200, 2) == [*range(100, 100 + size)]
    assert await load(300, 3, update=["id", "n"]) == [*range(300, 300 + size)]


async def test_none_in_a_key_of_a_unique_column_is_told_as_that(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer UNIQUE, n integer)")
    with pytest.raises(MissingUniqueIndexError, match="key's k is None"):
        await create_or_update(
            db.handle, "t", key={"k": None}, without_unique_index="error"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        await create_or_update(db.handle, "t", key={"k": 1}, defaults={"n": 1})


MEMBERS: Final[dict[str, tuple[Any, Callable[[int], list[Any]]]]] = {
    "integer": (2, lambda n: [*range(3 - n, 3)]),
    "bigint": (2**40, lambda n: [2**40 + at for at in range(1 - n, 1)]),
    "text": ("b", lambda n: [*(f"x{at}" for at in range(1, n)), "b"]),
    "char(3)": ("b", lambda n: [*(f"x{at}" for at in range(1, n)), "b"]),
    "varchar(9)": ('q"\\', lambda n: [*(f"x{at}" for at in range(1, n)), 'q"\\']),
    "double precision": (1.5, lambda n: [at + 0.5 for at in range(2 - n, 2)]),
}


@pytest.mark.parametrize("type_", MEMBERS)
async def test_members_of_a_set_of_any_size_are_one_statement(
    db: Database, type_: str
) -> None:
    stored, members_of = MEMBERS[type_]
    await db.run(f"CREATE TABLE t (k integer PRIMARY KEY, c {type_}, n integer)")
    for k in range(3):
        await create_or_update(db.handle, "t", key={"k": k}, defaults={"c": stored})
    texts: set[tuple[str, ...]] = set()
    for size in (1, 2, 3, 5, 17, 300):
        members = members_of(size)
        assert len(members) == size
        for among, action in (
            (members, Action.UPDATED),
            ([*members, None], Action.UPDATED),
            (members[:-1], Action.SKIPPED),
        ):
            result = await create_or_update(
                *(db.handle, "t"),
                key={"k": 1},
                defaults={"n": size},
                where=F("c").in_(among),
            )
            assert result.action == action
            rows = [{"k": k, "n": size} for k in range(3)]
            counts = await create_or_update_many(
                db.handle, "t", rows, key="k", where=F("c").in_(among)
            )
            assert counts.updated == (3 if action is Action.UPDATED else 0)
        where = F("c").in_(members[:-1])
        statements = await preview(
            db.handle, "t", key={"k": 1}, defaults={"n": 1}, where=where
        )
        texts.add(tuple(statement.sql for statement in statements))
    # The empty set, and the others; of floats one statement for each power of two.
    assert len(texts) == (2 if type_ != "double precision" else 6)


async def test_what_a_function_returns_may_be_one_of_some(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer)")
    await db.run("INSERT INTO t VALUES (1, -5)")
    absolute = func("abs", F("n"))
    for members, action in (([1.5, 2.5], "skipped"), ([1.5, 5.0], "updated")):
        where = absolute.in_(members)
        result = await create_or_update(
            db.handle, "t", key={"k": 1}, defaults={"n": 1}, where=where
        )
        assert result.action == action


async def test_each_row_may_have_members_of_its_own(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer, c boolean)")
    await db.run("INSERT INTO t VALUES (1, 1, NULL), (2, 2, NULL), (3, 3, NULL)")
    rows = [{"k": k, "c": F("n").in_([k - 1, 2])} for k in (1, 2, 3)]
    counts = await create_or_update_many(db.handle, "t", rows, key="k")
    assert counts.updated == 3
    stored = await db.query("SELECT c FROM t ORDER BY k")
    assert [bool(c) for (c,) in stored] == [False, True, False]


async def test_an_expression_that_is_nested_too_deeply_is_refused(
    db: Database,
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)")

    def total(levels: int) -> Any:
        total: Any = F("n")
        for _ in range(levels):
            total = total + 1
        return total

    async def one(levels: int) -> None:
        for row in ({"k": 1}, {"k": 1}):
            defaults = {"n": total(levels)}
            await create_or_update(db.handle, "t", key=row, defaults=defaults)

    async def many(levels: int) -> None:
        rows = [{"k": k, "n": 1} for k in range(3)]
        update = {"n": total(levels)}
        await create_or_update_many(db.handle, "t", rows, key="k", update=update)

    # Coverage misses what follows the RecursionError of a single call in a test.
    for call in (many, one):
        for levels in (900, 5_000):
            with pytest.raises(AioupsertError, match="nested too deeply"):
                await call(levels)
    assert await db.query("SELECT n FROM t") == []
    for call in (one, many):
        await call(40)
    assert await db.query("SELECT n FROM t WHERE k = 1") == [(120,)]


async def test_few_classes_of_connections_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aioupsert._execution.targets._MAX_CACHED", 3)
    for number in range(5):
        connection: Any = type(f"Own{number}", (), {})()
        with pytest.raises(UnsupportedConnectionError, match=f"Own{number}"):
            await create_or_update(connection, "t", key={"k": 1})
        assert len(of_sqlalchemy) <= 3


async def test_few_tables_are_kept_for_a_connection(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioupsert._execution.table_cache._MAX_TABLES", 3)
    for _ in range(2):
        for number in range(5):
            await db.run(
                f"CREATE TABLE IF NOT EXISTS t{number} (k integer PRIMARY KEY)"
            )
            await create_or_update(db.handle, f"t{number}", key={"k": 1})
    kept = [len(state.tables) for state in STATES.values()]
    assert max(kept) == 3
