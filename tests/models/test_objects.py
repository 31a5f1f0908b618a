"""Mapped objects as results, kinds of tables, and what is refused."""

import uuid
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm.util import identity_key

from aioupsert import (
    Coalescer,
    F,
    UnknownColumnError,
    UnsupportedConnectionError,
    UsageError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
    preview,
)
from tests.models.tables import (
    SWAPPED,
    Animal,
    Cat,
    Dog,
    Mood,
    Note,
    Post,
    Seat,
    Tag,
    Typed,
)
from tests.support.databases import Database, PostgresDatabase


async def test_the_object_is_the_session_s_own_and_fresh(session: AsyncSession) -> None:
    post, created = await create_or_update(
        session, Post, key={"name": "x"}, returning=Post
    )
    assert created
    assert session.identity_map[identity_key(Post, post.id)] is post
    post.title = "Pending"
    result = await create_or_update(
        session,
        Post,
        key={"name": "x"},
        defaults={"hits": F("hits") + 1},
        where=F("title") == "Pending",
        returning=Post,
    )
    assert (result.row is post, result.created, result.rows) == (True, False, (post,))
    assert (post.title, post.hits, post.slug) == ("Pending", 1, "untitled")
    found, created = await get_or_create(
        session, Post, key={"name": "x"}, returning=Post
    )
    assert (found is post, created) == (True, False)
    await session.rollback()
    session.expunge_all()
    assert await session.scalar(sa.select(sa.func.count()).select_from(Post)) == 0


async def test_a_whole_row_is_an_instance_or_has_attributes(
    session: AsyncSession,
) -> None:
    row = Post(name="y", hits=1, title="one")
    name: Any = Post.name
    hits: Any = Post.hits
    first, created = await create_or_update(
        session, Post, row, key=name, returning=Post
    )
    assert (created, first.hits, first.slug) == (True, 1, "one")
    again = {"name": "y", "hits": 2, "title": "two"}
    post, created = await create_or_update(
        session, Post, again, key="name", update=[hits], returning=Post
    )
    assert (created, post is first, post.hits, post.title) == (False, True, 2, "one")
    async with Coalescer(session, Post, key="name") as coalescer:
        result = await coalescer.create_or_update(again, returning=["id", "title"])
    assert result.row == {"id": post.id, "title": "two"}


async def test_without_a_session_an_instance_is_transient(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    key, mood = {"name": "z"}, {"mood": Mood.BAD}
    post, created = await create_or_update(
        engine, Post, key=key, defaults=mood, returning=Post
    )
    assert sa.inspect(post).transient
    assert (created, post.mood, post.slug, post.hits) == (True, Mood.BAD, "untitled", 0)
    async with Coalescer(engine, Post, key="name") as coalescer:
        again, _ = await coalescer.create_or_update(key=key, returning=Post)
    assert (again.id, sa.inspect(again).transient) == (post.id, True)
    tag, _ = await get_or_create(engine, Tag, key={"name": "x"}, returning=Tag)
    assert (type(tag), tag.used, tag.mood) == (Tag, 1, Mood.GOOD)
    async with Coalescer(session, Post, key="name") as coalescer:
        with pytest.raises(UsageError, match="loaded in a session"):
            await coalescer.create_or_update(key=key, returning=Post)


async def test_rows_of_bulk_are_objects_of_the_session(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    loaded = Post(name="a", hits=1)
    session.add(loaded)
    await session.commit()
    rows = [{"name": name, "hits": 2} for name in "abc"]
    results = [
        result
        async for result in iter_create_or_update(
            session, Post, rows, key="name", returning=Post
        )
    ]
    posts = [result.row for result in results]
    assert [post.name for post in posts] == [*"abc"]
    assert (posts[0] is loaded, loaded.hits) == (True, 2)
    assert all(post in session for post in posts)
    await session.commit()
    transient = [
        result.row
        async for result in iter_create_or_update(
            engine, Post, rows, key="name", returning=Post
        )
    ]
    assert [(post.name, post.hits) for post in transient] == [
        (name, 2) for name in "abc"
    ]
    seats = [{"hall": "A", "number": number} for number in (1, 2)]
    found = iter_create_or_update(
        session, Seat, seats, key=["hall", "number"], returning=Seat
    )
    assert [(r.row.hall, r.row.number) async for r in found] == [("A", 1), ("A", 2)]


async def test_get_or_create_over_a_session_gives_the_object(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    post, created = await get_or_create(session, Post, key={"name": "x"})
    assert (type(post), created, post in session) == (Post, True, True)
    row, _ = await get_or_create(session, Post, key={"name": "x"}, returning="*")
    assert row["id"] == post.id
    await session.commit()
    elsewhere, _ = await get_or_create(engine, Post, key={"name": "x"})
    assert elsewhere["id"] == post.id
    named, _ = await get_or_create(session, Post.__table__, key={"the_name": "x"})
    assert named["id"] == post.id


async def test_old_rows_have_attributes_types_and_classes(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    async def write(handle: Any, returning: Any, title: str) -> Any:
        return await create_or_update(
            handle,
            Post,
            key={"name": "x"},
            defaults={"title": title, "mood": Mood.BAD},
            returning=returning,
            old=True,
        )

    created = await write(engine, ["name", "mood"], "one")
    assert created.old is None
    assert {"name", "title", "mood", "id", "slug"} <= {*created.changed}
    mapping = await write(engine, ["name", "title"], "two")
    assert (mapping.old, mapping.changed) == ({"name": "x", "title": "one"}, ("title",))
    transient = await write(engine, Post, "three")
    assert (transient.old.title, transient.row.title) == ("two", "three")
    result = await write(session, Post, "four")
    assert (result.old.title, result.old.mood) == ("three", Mood.BAD)
    assert (result.row.title, result.row in session) == ("four", True)
    assert result.old not in session
    # With an object loaded, it is refreshed, and only what was asked for is returned.
    again = await write(session, ["name"], "five")
    assert (again.old, again.row, result.row.title) == (
        {"name": "x"},
        {"name": "x"},
        "five",
    )
    nothing = await write(session, None, "six")
    assert (nothing.old, nothing.changed, result.row.title) == (None, ("title",), "six")
    rows = [{"name": name, "hits": 1} for name in ("x", "y", "z")]
    found = iter_create_or_update(
        session, Post, rows, key="name", returning=Post, old=True
    )
    results = [one async for one in found]
    assert [one.created for one in results] == [False, True, True]
    first = results[0]
    assert first.old is not None
    assert (first.old.hits, first.row.hits, first.changed) == (0, 1, ("hits",))


class Summary(NamedTuple):
    """Attributes of a post."""

    name: str
    mood: Mood


async def test_another_class_has_attributes_and_their_types(
    engine: AsyncEngine, session: AsyncSession
) -> None:
    for handle in (engine, session):
        row, _ = await create_or_update(
            handle, Post, key={"name": "x"}, defaults={"hits": 1}, returning=Summary
        )
        assert row == Summary("x", Mood.GOOD)
    post, _ = await get_or_create(session, Post, key={"name": "x"})
    row, _ = await create_or_update(
        session, Post, key={"name": "x"}, defaults={"hits": 2}, returning=Summary
    )
    assert (row, post.hits) == (Summary("x", Mood.GOOD), 2)


async def test_a_key_of_two_columns_in_any_order(session: AsyncSession) -> None:
    for taken in (False, True):
        seat, _ = await create_or_update(
            session,
            Seat,
            key={"hall": "A", "number": 7},
            defaults={"taken": True} if taken else {},
            returning=Seat,
        )
        assert (seat.number, seat.hall, seat.taken) == (7, "A", taken)
    rows = [{"hall": "A", "number": 7, "taken": False}, {"number": 8, "hall": "A"}]
    counts = await create_or_update_many(session, Seat, rows, key=["hall", "number"])
    assert (counts.created, counts.updated) == (1, 1)


async def test_a_class_on_its_parent_s_table_says_which_it_is(
    session: AsyncSession,
) -> None:
    cat, created = await create_or_update(session, Cat, key={"id": 1}, returning=Cat)
    assert (created, type(cat), cat.kind, cat.lives) == (True, Cat, "cat", 9)
    counts = await create_or_update_many(session, Animal, [{"id": 2}], key="id")
    assert counts.created == 1
    assert type(await session.get(Animal, 2)) is Animal


async def test_a_table_with_keys_of_its_own(engine: AsyncEngine) -> None:
    for mood in (Mood.GOOD, Mood.BAD):
        row, _ = await create_or_update(
            engine, SWAPPED, key={"b": 1}, defaults={"a": mood}, returning="*"
        )
        assert row == {"b": 1, "a": mood}
    row, _ = await get_or_create(engine, SWAPPED, key={"b": 1}, returning=["a"])
    assert row == {"a": Mood.BAD}
    async with engine.connect() as connection:
        assert (await connection.execute(sa.select(SWAPPED))).one() == (1, Mood.BAD)


async def test_a_table_in_a_schema(engine: AsyncEngine, db: Database) -> None:
    if isinstance(db, PostgresDatabase):
        table = sa.Table(
            "seats",
            sa.MetaData(schema=db.schema),
            *(sa.Column(name) for name in ("n", "hall", "taken")),
        )
        call: dict[str, Any] = {"key": {"n": 1, "hall": "A"}}
        row = {"n": 1, "hall": "A", "taken": True}
        result = await create_or_update(
            engine, table, **call, defaults={"taken": True}, returning="*"
        )
        assert result.row == row
        shown = await preview(engine, table, **call, defaults={"taken": True})
        assert f'"{db.schema}"."seats"' in shown[0].sql


async def test_a_class_of_sqlmodel(session: AsyncSession) -> None:
    tag, created = await create_or_update(
        session, Tag, key={"name": "x"}, defaults={"mood": Mood.BAD}, returning=Tag
    )
    assert created
    assert (tag.used, tag.mood) == (1, Mood.BAD)
    assert isinstance(tag.uid, uuid.UUID)
    tag, created = await create_or_update(
        session, Tag, key={"name": "x"}, defaults={"used": F("used") + 1}, returning=Tag
    )
    assert (created, tag.used, tag.mood) == (False, 2, Mood.BAD)


# --- Refused before anything is sent --------------------------------------------------


class Shouted(sa.types.UserDefinedType[str]):
    """Writes SQL around its values."""

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.upper(bindvalue)


STRANGE: tuple[Any, ...] = (3, object, None, [], {}, object())
SHOUTED = sa.Table("shouted", sa.MetaData(), sa.Column("k", Shouted()))


@pytest.mark.parametrize(
    ("table", "call", "words"),
    [
        (Post, {"defaults": {"hits": Post.hits + 1}}, r'write it with F\("column"\)'),
        (Post, {"defaults": {"title": Post.slug}}, r"Post\.slug is an expression"),
        (Post, {"touch": {"hits": sa.func.now()}}, "has no value on create"),
        (
            Post,
            {"returning": Seat},
            "returning=Seat: a mapped class can be returned only by a call that",
        ),
        (Post.__table__, {"returning": Post}, "returning=Post: a mapped class can be"),
        (Dog, {}, "Dog is mapped to more than one table"),
        (SHOUTED, {}, r"the type of shouted\.k writes SQL around its values"),
        (Post, {"defaults": 3}, "defaults must be a mapping"),
        (Post, {"key": None}, "key must be a mapping"),
        *((strange, {}, "a table is a name") for strange in STRANGE),
    ],
)
async def test_what_makes_no_sense_is_refused(
    engine: AsyncEngine, table: Any, call: Any, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        await create_or_update(engine, table, **{"key": {"name": "x"}, **call})


async def test_an_engine_for_the_table_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(UsageError, match="a table is a name"):
        await create_or_update(engine, engine, key={"id": 1})  # type: ignore[call-overload]


@pytest.mark.parametrize("handle", ["postgresql://", object(), None])
async def test_no_connection_is_refused_as_with_a_name(handle: Any) -> None:
    with pytest.raises(UnsupportedConnectionError):
        await create_or_update(handle, Post, key={"name": "x"})


async def test_rows_refuse_the_same(engine: AsyncEngine) -> None:
    with pytest.raises(UsageError, match="returning=Post: a mapped class can be"):
        await anext(iter_create_or_update(engine, Note, [], key="id", returning=Post))
    with pytest.raises(Exception, match="write it with F"):
        await create_or_update_many(
            engine, Note, [{"id": 1, "hits": Note.hits + 1}], key="id"
        )


@pytest.mark.parametrize(
    "call",
    [
        {"key": {"wrong": 1}},
        {"defaults": {"wrong": 1}},
        {"defaults": {"hits": F("wrong")}},
        {"where": F("wrong") == 1},
        {"touch": {"wrong": 1}},
        {"returning": ["wrong"]},
    ],
)
async def test_an_unknown_name_is_the_caller_s(engine: AsyncEngine, call: Any) -> None:
    call = {"key": {"code": "x"}, **call}
    with pytest.raises(UnknownColumnError, match="wrong"):
        await create_or_update(engine, Typed, **call, without_unique_index="allow")
