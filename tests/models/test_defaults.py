"""What SQLAlchemy makes in Python when a row is written: `default` and `onupdate`."""

import uuid
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from aioupsert import (
    Action,
    BulkResult,
    Coalescer,
    Excluded,
    F,
    UsageError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
)
from tests.models.tables import Copied, Mood, Note, Post

ADD: dict[str, Any] = {"key": {"id": 1}, "defaults": {"hits": F("hits") + 1}}
STAMPED = {"plain": "yes", "by_sql": "SQL", "mood": Mood.BAD}
NOT_STAMPED = dict.fromkeys(STAMPED)


async def rows_of(engine: Any, model: Any, rows: Any, **call: Any) -> list[Any]:
    results = iter_create_or_update(engine, model, rows, returning="*", **call)
    return [result.row async for result in results]


def part(row: Any, names: Any = STAMPED) -> dict[str, Any]:
    return {name: row[name] for name in names}


# --- default --------------------------------------------------------------------------


@pytest.mark.parametrize("call", [create_or_update, get_or_create])
async def test_a_row_that_is_created_takes_every_default(
    engine: AsyncEngine, call: Any
) -> None:
    result = await call(engine, Post, key={"name": "x"}, returning="*")
    row = dict(result.row)
    assert isinstance(row.pop("id"), uuid.UUID)
    assert row == {
        "name": "x",
        "title": "Untitled",
        "slug": "untitled",
        "twice": "untitleduntitled",
        "mood": Mood.GOOD,
        "share": "50% {a}",
        "number": 1 if engine.dialect.name == "postgresql" else None,
        "hits": 0,
    }
    again = await call(engine, Post, key={"name": "x"}, returning="*")
    assert (again.action, again.row) == (Action.UNCHANGED, result.row)


@pytest.mark.parametrize("argument", ["defaults", "create_defaults", "touch"])
async def test_what_is_given_wins(engine: AsyncEngine, argument: str) -> None:
    given = {"title": "Own", "mood": Mood.BAD, "share": "own"}
    call: dict[str, Any] = {argument: given}
    row = (
        await create_or_update(engine, Post, key={"name": "x"}, returning="*", **call)
    ).row
    assert row is not None
    assert row == {**row, **given, "slug": "own"}


async def test_a_default_sees_what_the_row_is_created_with(
    engine: AsyncEngine,
) -> None:
    row, _ = await create_or_update(
        engine,
        Post,
        key={"name": "x"},
        defaults={"title": lambda: "Called"},
        returning=["title", "slug"],
    )
    assert row == {"title": "Called", "slug": "called"}
    row, _ = await create_or_update(
        engine,
        Post,
        key={"name": "y"},
        defaults={"title": "Later"},
        create_defaults={"title": "First"},
        returning=["title", "slug"],
    )
    assert row == {"title": "First", "slug": "first"}


@pytest.mark.parametrize("title", ["Own", lambda: "Own"])
async def test_get_or_create_makes_no_default_while_it_looks(
    session: AsyncSession, title: Any
) -> None:
    post, created = await get_or_create(
        session, Post, key={"name": "x"}, defaults={"title": title}
    )
    assert created
    assert (post.title, post.slug) == ("Own", "own")

    def unwanted() -> Any:
        msg = "called although the row is there"
        raise AssertionError(msg)

    _, created = await get_or_create(
        session, Post, key={"name": "x"}, defaults={"title": unwanted}
    )
    assert not created


async def test_a_default_is_made_for_each_row_and_never_updates(
    engine: AsyncEngine,
) -> None:
    given = uuid.uuid4()
    rows: list[dict[str, Any]] = [
        {"name": "a"},
        {"name": "b", "title": "Own"},
        {"name": "c", "id": given, "mood": Mood.BAD},
        {"name": "d", "title": lambda: "Called"},
    ]
    made = await rows_of(engine, Post, rows, key="name")
    assert len({row["id"] for row in made}) == 4
    assert made[2]["id"] == given
    assert [row["mood"] for row in made] == [Mood.GOOD, Mood.GOOD, Mood.BAD, Mood.GOOD]
    assert [row["twice"] for row in made] == [
        2 * slug for slug in ("untitled", "own", "untitled", "called")
    ]
    rows = [{"name": "a"}, {"name": "b", "mood": Mood.BAD}, {"name": "c", "hits": 2}]
    again = await rows_of(engine, Post, rows, key="name")
    assert again == [
        made[0],
        {**made[1], "mood": Mood.BAD},
        {**made[2], "hits": 2},
    ]


async def test_what_a_bulk_call_gives_wins(engine: AsyncEngine) -> None:
    made = await rows_of(
        engine,
        Post,
        [{"name": "a"}],
        key="name",
        create_defaults={"mood": Mood.BAD},
        touch={"title": "Touched"},
        update={"hits": F("hits") + Excluded("hits"), "slug": Excluded("slug")},
    )
    assert part(made[0], ["title", "mood"]) == {"title": "Touched", "mood": Mood.BAD}


async def test_rows_over_several_connections_take_defaults(engine: AsyncEngine) -> None:
    if engine.dialect.name == "postgresql":
        rows = [{"name": f"n{n}", "title": f"T{n}"} for n in range(60)]
        for counts in (BulkResult(created=60), BulkResult(unchanged=60)):
            done = await create_or_update_many(
                engine, Post, rows, key="name", connections=3, skip_unchanged=True
            )
            assert done == counts


# --- onupdate -------------------------------------------------------------------------


async def single(engine: AsyncEngine, **call: Any) -> Any:
    return await create_or_update(engine, Note, **call, returning="*")


async def coalesced(engine: AsyncEngine, **call: Any) -> Any:
    async with Coalescer(engine, Note, key="id") as coalescer:
        return await coalescer.create_or_update(**call, returning="*")


async def bulk(engine: AsyncEngine, **call: Any) -> Any:
    row = {**call.pop("key"), "hits": 0}
    update = call.pop("defaults", {})
    results = iter_create_or_update(
        engine, Note, [row], key="id", update=update, **call, returning="*"
    )
    return await anext(results)


every_way = pytest.mark.parametrize("write", [single, coalesced, bulk])


@every_way
async def test_an_update_sets_more(engine: AsyncEngine, write: Any) -> None:
    created = await write(engine, **ADD)
    assert (created.created, part(created.row)) == (True, NOT_STAMPED)
    assert created.row["stamp"] == 0
    updated = await write(engine, **ADD)
    assert (updated.action, part(updated.row)) == (Action.UPDATED, STAMPED)
    assert updated.row["stamp"] > 0
    assert (await write(engine, **ADD)).row["stamp"] > updated.row["stamp"]


@every_way
@pytest.mark.parametrize("extra", [{"skip_unchanged": True}, {"touch": {"stamp": 77}}])
async def test_a_row_that_does_not_change_is_left(
    engine: AsyncEngine, write: Any, extra: Any
) -> None:
    call = {"key": {"id": 1}, "defaults": {"title": "a"}, **extra}
    created = await write(engine, **call)
    assert part(created.row) == NOT_STAMPED
    if "touch" in extra or write is not bulk:
        assert created.row["stamp"] == (77 if "touch" in extra else 0)
    call["defaults"] = {"title": "b"}
    changed = await write(engine, **call)
    assert (changed.action, part(changed.row)) == (Action.UPDATED, STAMPED)
    assert ("touch" in extra) == (changed.row["stamp"] == 77)
    again = await write(engine, **call)
    assert (again.action, again.row) == (Action.UNCHANGED, changed.row)


@every_way
async def test_nothing_more_is_set_where_nothing_is_written(
    engine: AsyncEngine, write: Any
) -> None:
    for action in (Action.CREATED, Action.UNCHANGED):
        result = await write(engine, key={"id": 1})
        assert (result.action, part(result.row)) == (action, NOT_STAMPED)


@every_way
async def test_what_is_given_wins_over_onupdate(
    engine: AsyncEngine, write: Any
) -> None:
    given = {"plain": "own", "stamp": -1, "by_sql": None}
    for mood in (None, Mood.BAD):
        result = await write(engine, key={"id": 1}, defaults=given)
        if mood or write is not bulk:
            assert result.row == {**result.row, **given, "mood": mood}


@pytest.mark.parametrize("strategy", ["auto", "exact", "on_conflict", "fast"])
async def test_every_strategy_sets_more(engine: AsyncEngine, strategy: Any) -> None:
    if strategy != "fast" or engine.dialect.name == "postgresql":
        for expected in (NOT_STAMPED, STAMPED):
            result = await create_or_update(
                engine, Note, **ADD, strategy=strategy, returning="*"
            )
            assert part(result.row) == expected


async def test_onupdate_sees_what_an_update_writes(engine: AsyncEngine) -> None:
    for expected in (None, "Later"):
        row, _ = await create_or_update(
            engine,
            Copied,
            key={"id": 1},
            defaults={"title": "Later"},
            create_defaults={"title": "First"},
            returning="copy",
        )
        assert row == {"copy": expected}
    with pytest.raises(UsageError, match=r"onupdate of copied\.copy asks for"):
        await create_or_update_many(engine, Copied, [{"id": 1, "title": "a"}], key="id")


async def test_rows_bring_what_an_update_would_set(engine: AsyncEngine) -> None:
    rows: list[dict[str, Any]] = [{"id": 1, "hits": 1}, {"id": 2, "hits": 1}]
    await create_or_update_many(engine, Note, rows, key="id")
    rows[0]["plain"] = "own"
    one, two = await rows_of(engine, Note, rows, key="id")
    assert part(one) == {**STAMPED, "plain": "own"}
    assert part(two) == STAMPED
