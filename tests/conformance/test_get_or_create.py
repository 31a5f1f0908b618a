"""What get_or_create means: a row that is there is only read."""

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, get_args

import pytest

from aioupsert import (
    DEFAULT,
    Action,
    F,
    Result,
    UsageError,
    create_or_update,
    get_or_create,
)
from aioupsert.typing import Strategy
from tests.support.databases import Database, every_handle

TAGS = """
    CREATE TABLE tags (
        name TEXT PRIMARY KEY,
        color TEXT DEFAULT 'grey',
        uses INTEGER NOT NULL DEFAULT 10
    )
"""
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
RED = {"name": "red"}

# Settings of a session need a session.
one_connection = pytest.mark.parametrize(
    "db", ["asyncpg", "pooled", "aiosqlite"], indirect=True
)
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@pytest.fixture
async def tags(db: Database) -> Database:
    """An empty table with a primary key."""
    await db.run(TAGS)
    return db


@every_handle
@every_strategy
async def test_a_missing_row_is_created_and_one_that_is_there_returned(
    tags: Database, strategy: Strategy
) -> None:
    results = [
        await get_or_create(
            tags.handle, "tags", key=RED, defaults={"color": color}, strategy=strategy
        )
        for color in ("#f00", "#e00")
    ]
    row = {"name": "red", "color": "#f00", "uses": 10}
    assert results == [
        Result(Action.CREATED, 1, (row,)),
        Result(Action.UNCHANGED, 0, (row,)),
    ]
    assert await tags.query("SELECT * FROM tags") == [("red", "#f00", 10)]


@every_strategy
@pytest.mark.parametrize("defaults", [None, {}], ids=["none", "empty"])
async def test_without_defaults_the_database_gives_them(
    tags: Database, strategy: Strategy, defaults: dict[str, Any] | None
) -> None:
    row, created = await get_or_create(
        tags.handle, "tags", key=RED, defaults=defaults, strategy=strategy
    )
    assert (row, created) == ({"name": "red", "color": "grey", "uses": 10}, True)


@pytest.mark.parametrize(
    ("returning", "row"),
    [
        (None, None),
        ("*", {"name": "red", "color": "grey", "uses": 10}),
        ("uses", {"uses": 10}),
        (("uses", "name"), {"uses": 10, "name": "red"}),
    ],
    ids=str,
)
async def test_the_row_has_the_columns_asked_for(
    tags: Database, returning: Any, row: dict[str, Any] | None
) -> None:
    for created in (True, False):
        result = await get_or_create(tags.handle, "tags", key=RED, returning=returning)
        assert tuple(result) == (row, created)


async def test_expressions_stand_for_the_columns_default_on_create(
    tags: Database,
) -> None:
    result = await get_or_create(
        tags.handle,
        "tags",
        key=RED,
        defaults={"uses": F("uses") + 1, "color": DEFAULT},
    )
    assert result.row == {"name": "red", "color": "grey", "uses": 11}


async def test_defaults_win_over_the_key_on_create(tags: Database) -> None:
    result = await get_or_create(
        tags.handle, "tags", key=RED, defaults={"name": "crimson"}
    )
    assert result.row is not None
    assert result.row["name"] == "crimson"


@every_strategy
async def test_callables_are_called_once_and_only_if_the_row_is_missing(
    tags: Database, strategy: Strategy
) -> None:
    calls: list[str] = []

    def color() -> str:
        calls.append("called")
        return "#f00"

    for _ in range(2):
        row, _ = await get_or_create(
            tags.handle,
            "tags",
            key=RED,
            defaults={"color": color, "uses": 3},
            strategy=strategy,
        )
        assert row == {"name": "red", "color": "#f00", "uses": 3}
        assert calls == ["called"]


async def test_names_are_checked_even_if_the_row_is_there(tags: Database) -> None:
    await tags.run("INSERT INTO tags (name) VALUES ('red')")
    for value in ("x", lambda: "x"):
        with pytest.raises(UsageError, match="no column 'colour'"):
            await get_or_create(
                tags.handle, "tags", key=RED, defaults={"colour": value}
            )


async def test_none_in_the_key_means_is_null(db: Database) -> None:
    await db.run("CREATE TABLE t (a INTEGER, b TEXT, n INTEGER)")
    await db.run("INSERT INTO t VALUES (1, 'x', 1)")
    results = [
        await get_or_create(
            db.handle,
            "t",
            key={"a": 1, "b": None},
            defaults={"n": n},
            returning="n",
            without_unique_index="allow",
        )
        for n in (2, 3)
    ]
    assert [tuple(result) for result in results] == [
        ({"n": 2}, True),
        ({"n": 2}, False),
    ]


async def test_every_row_that_matches_is_returned(db: Database) -> None:
    await db.run("CREATE TABLE t (a INTEGER, n INTEGER)")
    await db.run("INSERT INTO t VALUES (1, 1), (1, 2), (2, 3)")
    result = await get_or_create(
        db.handle, "t", key={"a": 1}, without_unique_index="allow"
    )
    assert (result.action, result.rows_affected) == (Action.UNCHANGED, 0)
    assert sorted(row["n"] for row in result.rows) == [1, 2]


async def test_an_empty_key_is_refused(tags: Database) -> None:
    with pytest.raises(UsageError, match="key is empty"):
        await get_or_create(tags.handle, "tags", key={})


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("level", ["ROW", "STATEMENT"])
async def test_a_row_that_is_there_fires_no_trigger(
    tags: Database, level: str, strategy: Strategy
) -> None:
    await tags.run("INSERT INTO tags (name) VALUES ('red')")
    await tags.run(
        tags.sql(
            postgresql=f"""
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN RAISE 'written'; END $$;
                CREATE TRIGGER refuse AFTER INSERT OR UPDATE ON tags
                    FOR EACH {level} EXECUTE FUNCTION refuse()
            """,
            # It knows triggers for each row only.
            sqlite="""
                CREATE TRIGGER refuse1 BEFORE INSERT ON tags
                    BEGIN SELECT RAISE(ABORT, 'written'); END;
                CREATE TRIGGER refuse2 BEFORE UPDATE ON tags
                    BEGIN SELECT RAISE(ABORT, 'written'); END
            """,
        )
    )
    result = await get_or_create(
        tags.handle, "tags", key=RED, defaults={"color": "#f00"}, strategy=strategy
    )
    assert result.action is Action.UNCHANGED


@one_connection
@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
async def test_a_row_that_is_there_can_be_had_where_nothing_may_be_written(
    tags: Database, *, inside: bool
) -> None:
    await get_or_create(tags.handle, "tags", key=RED)
    await tags.handle.execute(
        tags.sql(
            postgresql="SET default_transaction_read_only = on",
            sqlite="PRAGMA query_only = on",
        )
    )
    async with tags.transaction() if inside else nullcontext():
        row, created = await get_or_create(tags.handle, "tags", key=RED)
    assert (row, created) == ({"name": "red", "color": "grey", "uses": 10}, False)


@every_handle
async def test_one_of_many_at_once_creates(tags: Database) -> None:
    async def get(number: int) -> tuple[Mapping[str, Any] | None, bool]:
        async with tags.connect() as conn:
            row, created = await get_or_create(
                conn, "tags", key=RED, defaults={"uses": lambda: number}
            )
        return row, created

    results = await asyncio.gather(*map(get, range(8)))
    assert [created for _, created in results].count(True) == 1
    winner = next(row for row, created in results if created)
    assert [row for row, _ in results] == [winner] * 8


async def test_it_finds_what_create_or_update_wrote(tags: Database) -> None:
    await create_or_update(tags.handle, "tags", key=RED, defaults={"uses": 1})
    row, created = await get_or_create(tags.handle, "tags", key=RED)
    assert (row, created) == ({"name": "red", "color": "grey", "uses": 1}, False)
