"""Objects that the session holds, after a call has written their rows."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aioupsert import (
    Action,
    Coalescer,
    F,
    UsageError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
)
from aioupsert._sqlalchemy.loaded import expire, loaded_states
from tests.models.tables import Note, Seat

SILENT: dict[str, Any] = {"synchronize_session": False}


async def one(session: AsyncSession, **options: Any) -> None:
    await create_or_update(
        session, Note, key={"id": 1}, defaults={"hits": F("hits") + 5}, **options
    )


async def one_returning(session: AsyncSession, **options: Any) -> None:
    result = await create_or_update(
        session,
        Note,
        key={"id": 1},
        defaults={"hits": F("hits") + 5},
        returning=["hits"],
        **options,
    )
    assert result.row is not None
    assert [*result.row] == ["hits"]


async def one_returning_all(session: AsyncSession, **options: Any) -> None:
    result = await create_or_update(
        session,
        Note,
        key={"id": 1},
        defaults={"hits": F("hits") + 5},
        returning="*",
        **options,
    )
    assert result.row is not None
    assert (result.row["id"], result.row["hits"]) == (1, 6)


async def many(session: AsyncSession, **options: Any) -> None:
    rows: Any = [{"id": 1, "hits": F("hits") + 5}, {"id": 2}]
    await create_or_update_many(session, Note, rows, key="id", **options)


async def iterated(session: AsyncSession, **options: Any) -> None:
    rows: Any = [{"id": 1, "hits": F("hits") + 5}, {"id": 2}]
    async for _ in iter_create_or_update(session, Note, rows, key="id", **options):
        pass


@pytest.mark.parametrize(
    "call", [one, one_returning, one_returning_all, many, iterated]
)
async def test_a_loaded_object_shows_what_is_stored(
    engine: AsyncEngine, call: Any
) -> None:
    async with AsyncSession(engine) as session:
        session.add(note := Note(id=1, hits=1))
        await session.flush()
        await session.refresh(note)
        await call(session)
        assert note.hits == 6
        assert note.plain == "yes"
        assert not sa.inspect(note).modified
        note.hits += 1
        await session.commit()
        await session.refresh(note)
        assert note.hits == 7


@pytest.mark.parametrize(
    ("kind", "given", "spelled"),
    [
        (sa.CHAR(5), "ab", "ab   "),
        (
            sa.Uuid(as_uuid=False),
            "A0000000-0000-0000-0000-00000000000B",
            "a0000000-0000-0000-0000-00000000000b",
        ),
    ],
    ids=["char", "uuid"],
)
async def test_an_object_keeps_the_key_that_it_was_added_with(
    engine: AsyncEngine, kind: Any, given: str, spelled: str
) -> None:
    class Spelled(DeclarativeBase):
        pass

    class Thing(Spelled):
        __tablename__ = "things"

        k: Mapped[str] = mapped_column(kind, primary_key=True)
        part: Mapped[int] = mapped_column(primary_key=True)
        n: Mapped[int]

    rows: Any = [{"k": spelled, "part": 1, "n": 3}]
    async with AsyncSession(engine) as session:
        connection = await session.connection()
        await connection.run_sync(Spelled.metadata.create_all)
        session.add(thing := Thing(k=given, part=1, n=1))
        await session.flush()
        if engine.dialect.name == "sqlite":
            await create_or_update_many(session, Thing, rows, key=["k", "part"])
            assert thing.n == 1  # to SQLite the two are different
            return
        result = await create_or_update(
            *(session, Thing),
            key={"k": given, "part": 1},
            defaults={"n": 2},
            returning=Thing,
        )
        # As a query of SQLAlchemy's would return, by the key that is stored.
        assert (result.action, thing.n, result.row.n) == (Action.UPDATED, 2, 2)
        assert sa.inspect(result.row).identity == (spelled, 1)
        await create_or_update_many(session, Thing, rows, key=["k", "part"])
        assert (thing.n, result.row.n) == (3, 3)


@pytest.mark.parametrize("call", [one, many])
async def test_as_after_an_update_of_the_orm(engine: AsyncEngine, call: Any) -> None:
    shown: list[tuple[Any, ...]] = []
    for upsert in (True, False):
        async with AsyncSession(engine, autoflush=False) as session:
            await session.execute(sa.delete(Note))
            session.add(note := Note(id=1, title="t", hits=1))
            await session.flush()
            await session.refresh(note)
            note.title = "mine"
            if upsert:
                await call(session)
            else:
                await session.execute(sa.update(Note).values(hits=Note.hits + 5))
            shown.append((note.title, note.hits))
            await session.commit()
        async with engine.connect() as connection:
            found = await connection.execute(sa.select(Note.title).where(Note.id == 1))
            assert found.scalar_one() == "mine"
    assert shown == [("mine", 6), ("mine", 6)]


async def test_edits_are_flushed_first(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(note := Note(id=1, hits=1))
        await one(session)  # flushes the new object
        assert note.hits == 6
        note.hits = 100
        await one(session)
        assert note.hits == 105
        await session.commit()


async def test_edits_are_kept_without_autoflush(engine: AsyncEngine) -> None:
    async with AsyncSession(engine, autoflush=False) as session:
        session.add(note := Note(id=1, hits=1))
        await session.flush()
        await session.refresh(note)
        note.hits = 100
        await one(session)
        result = await create_or_update(
            session, Note, key={"id": 1}, defaults={"title": "t"}, returning=Note
        )
        assert (result.row is note, note.hits, note.title) == (True, 100, "t")
        await session.commit()
        await session.refresh(note)
        assert note.hits == 100


@pytest.mark.parametrize("call", [one, many, iterated])
async def test_it_can_be_switched_off(engine: AsyncEngine, call: Any) -> None:
    async with AsyncSession(engine) as session:
        session.add(note := Note(id=1, hits=1))
        await session.flush()
        await session.refresh(note)
        await call(session, execution_options=SILENT)
        assert note.hits == 1
        await session.rollback()


@pytest.mark.parametrize("silent", [False, True])
async def test_a_coalescer_expires_what_it_may_have_changed(
    engine: AsyncEngine, *, silent: bool
) -> None:
    async with AsyncSession(engine, autoflush=False) as session:
        session.add_all(
            [note := Note(id=1, hits=1, title="t"), seat := Seat(number=1, hall="a")]
        )
        await session.flush()
        for loaded in (note, seat):
            await session.refresh(loaded)
        note.title = "mine"
        options = SILENT if silent else None
        async with Coalescer(
            session, Note, key="id", execution_options=options
        ) as all_:
            await asyncio.gather(
                *(
                    all_.create_or_update(
                        key={"id": n}, defaults={"hits": F("hits") + 5}
                    )
                    for n in (1, 1, 2)
                )
            )
        if silent:
            assert (note.hits, note.title) == (1, "mine")
        else:
            # A look at it would have SQLAlchemy read it, or say that it cannot.
            assert "hits" in sa.inspect(note).expired_attributes
            await session.refresh(note, ["hits"])
            assert (note.hits, note.title) == (11, "mine")
        assert seat.taken is False
        await session.rollback()


async def test_an_object_that_is_collected_in_between_is_not_expired(
    engine: AsyncEngine,
) -> None:
    async with AsyncSession(engine) as session:
        held = [Note(id=1, hits=1)]
        session.add_all([*held, kept := Note(id=2, hits=1)])
        await session.flush()
        states = loaded_states(session, sa.inspect(Note))
        held.clear()
        assert len(session.identity_map) == 1
        expire(session, states, ["hits"])
        assert sa.inspect(kept).expired_attributes == {"hits"}


async def test_a_key_of_two_columns(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        seats = [Seat(number=n, hall=hall) for n in (1, 2) for hall in "ab"]
        session.add_all(seats)
        await session.flush()
        rows = [{"number": 1, "hall": "b", "taken": True}]
        await create_or_update_many(session, Seat, rows, key=["hall", "number"])
        assert [seat.taken for seat in seats] == [False, True, False, False]
        await create_or_update(
            session, Seat, key={"number": 2, "hall": "a"}, defaults={"taken": True}
        )
        assert [seat.taken for seat in seats] == [False, True, True, False]


async def test_nothing_more_is_sent_for_other_objects(engine: AsyncEngine) -> None:
    sent: list[str] = []

    def note_sql(*arguments: Any) -> None:
        sent.append(arguments[2])

    async with AsyncSession(engine) as session:
        await one(session)
        session.add_all([Seat(number=1, hall="a"), other := Note(id=9, hits=1)])
        await session.flush()
        await one(session)
        sa.event.listen(engine.sync_engine, "before_cursor_execute", note_sql)
        await one(session)
        await get_or_create(session, Note, key={"id": 1}, returning="*")
        created = await create_or_update(session, Note, key={"id": 2})
        assert (created.created, created.row) == (True, None)
        assert not [sql for sql in sent if sql.startswith("SELECT notes")]
        assert other.hits == 1


async def test_an_object_that_nobody_holds_any_more_is_left(
    engine: AsyncEngine,
) -> None:
    def drop(*arguments: Any) -> None:
        if arguments[2].startswith("SELECT notes"):
            held.clear()

    async with AsyncSession(engine) as session:
        held = [Note(id=1, hits=1)]
        session.add_all([*held, kept := Note(id=2, hits=1)])
        await session.flush()
        await session.refresh(kept)
        sa.event.listen(engine.sync_engine, "before_cursor_execute", drop)
        rows = [{"id": 1, "hits": 6}, {"id": 2, "hits": 7}]
        await create_or_update_many(session, Note, rows, key="id")
        assert (held, kept.hits) == ([], 7)
        assert len(session.identity_map) == 1


@pytest.mark.parametrize("db", ["aiosqlite"], indirect=True)
async def test_a_row_whose_key_the_column_takes_for_equal_is_another_s(
    engine: AsyncEngine,
) -> None:
    class Local(DeclarativeBase):
        pass

    class Word(Local):
        __tablename__ = "words"

        text: Mapped[str] = mapped_column(primary_key=True)
        id: Mapped[int] = mapped_column(unique=True)
        hits: Mapped[int]

    async with AsyncSession(engine) as session:
        connection = await session.connection()
        await connection.exec_driver_sql(
            "CREATE TABLE words (text TEXT COLLATE NOCASE, id INTEGER UNIQUE,"
            " hits INTEGER, PRIMARY KEY (text COLLATE BINARY))"
        )
        await connection.exec_driver_sql("INSERT INTO words VALUES ('a', 2, 200)")
        session.add(word := Word(text="A", id=1, hits=1))
        await session.flush()
        await session.refresh(word)
        rows = [{"id": 1, "hits": 5}, {"id": 2, "hits": 300}]
        await create_or_update_many(session, Word, rows, key="id")
        assert word.hits == 5


async def test_other_options_are_refused(engine: AsyncEngine) -> None:
    wrong: list[dict[str, Any]] = [{"synchronize_session": "fetch"}, {"stream": True}]
    for options in wrong:
        with pytest.raises(UsageError, match="synchronize_session"):
            await create_or_update(
                engine, Note, key={"id": 1}, execution_options=options
            )
