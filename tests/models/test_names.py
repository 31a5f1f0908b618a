"""Attributes and columns where a name is taken, and conditions of SQLAlchemy."""

from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from aioupsert import (
    Action,
    BulkError,
    Coalescer,
    UsageError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
)
from tests.models import tables
from tests.models.tables import SWAPPED

# Any: the types of the arguments do not speak of attributes.
Note: Any = tables.Note
Seat: Any = tables.Seat
Typed: Any = tables.Typed
NOTES: Any = Note.__table__
SEATS: Any = Seat.__table__


@pytest.mark.parametrize("by", [Seat, SEATS.c], ids=["attributes", "columns"])
async def test_names(engine: AsyncEngine, by: Any) -> None:
    number = Seat.number if by is Seat else SEATS.c.n
    result = await create_or_update(
        engine,
        Seat,
        key={number: 7, by.hall: "a"},
        defaults={by.taken: True},
        returning=[number, by.taken],
    )
    assert result.row == {"number": 7, "taken": True}
    found = await get_or_create(
        engine, Seat, key={number: 7, "hall": "a"}, returning=by.taken
    )
    assert found.row == {"taken": True}
    rows = [{"number": 7, "hall": "a", "taken": False}]
    counts = await create_or_update_many(
        engine, Seat, rows, key=[by.hall, number], update=[by.taken]
    )
    assert counts.updated == 1
    results = [
        r
        async for r in iter_create_or_update(
            engine,
            Seat,
            rows,
            key=(number, by.hall),
            update={by.taken: True},
            returning=[by.taken],
        )
    ]
    assert results[0].row == {"taken": True}
    async with Coalescer(engine, Seat, key=[number, by.hall]) as coalescer:
        for key in ({number: 7, by.hall: "a"}, {"hall": "a", "number": 7}):
            made = await coalescer.create_or_update(key=key, returning=[by.hall])
            assert (made.row, made.created) == ({"hall": "a"}, False)


async def test_one_name(engine: AsyncEngine) -> None:
    counts = await create_or_update_many(
        engine, Note, [{"id": 1, "title": "t", "hits": 5}], key=Note.id
    )
    assert counts.created == 1
    rows = [{"id": 1, "title": "u", "hits": 7}]
    await create_or_update_many(engine, Note, rows, key=Note.id, update=Note.title)
    found = await get_or_create(engine, Note, key={Note.id: 1}, returning=Note.hits)
    assert found.row == {"hits": 5}


@pytest.mark.parametrize("by", [Seat, SEATS.c], ids=["attributes", "columns"])
async def test_rows(engine: AsyncEngine, by: Any) -> None:
    number = Seat.number if by is Seat else SEATS.c.n
    rows = [{number: n, by.hall: "a", by.taken: True} for n in (1, 2)]
    by_text = {"number": 3, "hall": "a"}
    mixed: Any = {number: 4, "hall": "a", by.taken: False}
    # Of one layout, of several, and of one but for the order.
    for some in (rows, [*rows, by_text, mixed], [rows[0], mixed]):
        await create_or_update_many(engine, Seat, some, key=[by.hall, number])
    results = iter_create_or_update(
        engine, Seat, [*rows, mixed], key=["number", by.hall], returning="taken"
    )
    assert [r.row async for r in results] == [
        {"taken": True},
        {"taken": True},
        {"taken": False},
    ]
    # Keys alone are read to divide the rows.
    counts = await create_or_update_many(
        engine, Seat, rows, key=[number, "number", by.hall], connections=2
    )
    assert counts.updated == 2
    async with engine.connect() as connection:
        found = await connection.execute(sa.select(SEATS.c.n).order_by(SEATS.c.n))
        assert [*found.scalars()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({Note.id: 1, "id": 1}, "it has a column twice"),
        ({Note.title: "t"}, "it has no 'id', which key names"),
        ({Note.id: 1, 5: 1}, "its columns are not named by text"),
        ({Note.id: 1, Seat.taken: True}, "Seat.taken is not a column of Note"),
    ],
    ids=["twice", "without its key", "a number", "of another table"],
)
async def test_rows_that_are_refused(engine: AsyncEngine, row: Any, why: str) -> None:
    rows: Any = [{"id": 1}, row]
    with pytest.raises(BulkError, match=why):
        await create_or_update_many(engine, Note, rows, key="id")


async def test_a_column_that_is_given_twice_is_refused(engine: AsyncEngine) -> None:
    both: Any = {"title": "a", Note.title: "b"}
    with pytest.raises(UsageError, match="defaults has a column twice: title, Note"):
        await create_or_update(engine, Note, key={"id": 1}, defaults=both)
    with pytest.raises(UsageError, match="update has a column twice"):
        await create_or_update_many(engine, Note, [], key="id", update=both)


async def test_columns_whose_names_are_those_of_others(engine: AsyncEngine) -> None:
    column: Any = SWAPPED.c.b  # "a" in the database
    result = await create_or_update(
        engine, SWAPPED, key={column: 1}, returning=[column]
    )
    assert result.row == {"b": 1}


async def test_what_is_no_name_of_the_table_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(UsageError, match="is not a column of Note"):
        await create_or_update(engine, Note, key={Seat.number: 1})
    with pytest.raises(UsageError, match="key takes the names of columns"):
        wrong: Any = {"id": 1}
        await create_or_update_many(engine, Note, [{"id": 1}], key=wrong)
    with pytest.raises(UsageError, match="the names of columns, or a class"):
        await create_or_update(engine, "notes", key={"id": 1}, returning=Note.id)


NOTE = {"id": 1, "title": "t", "hits": 5}


@pytest.mark.parametrize(
    ("where", "is_true"),
    [
        (Note.hits < 6, True),
        (Note.hits + 1 > 6, False),
        (Note.hits - 5 == 0, True),
        (Note.title == "t", True),
        (Note.title != "t", False),
        (Note.title.is_(None), False),
        (Note.title.is_not(None), True),
        (Note.title.in_(["s", "t"]), True),
        (Note.title.not_in(["s", "t"]), False),
        ((Note.hits >= 5) & (Note.title == "t"), True),
        (sa.and_(Note.hits > 5, Note.title == "t"), False),
        (sa.or_(Note.hits > 5, Note.title == "t"), True),
        (sa.not_(sa.or_(Note.hits > 5, Note.title == "t")), False),
        (NOTES.c.hits <= Note.hits, True),
        (Note.hits - (Note.hits - 5) == 5, True),
        ((Note.title == "t") == sa.false(), False),
    ],
    ids=str,
)
async def test_conditions(engine: AsyncEngine, where: Any, *, is_true: bool) -> None:
    async with engine.begin() as connection:
        await connection.execute(sa.insert(Note).values(NOTE))
        rows = await connection.execute(sa.select(Note.id).where(where))
        assert bool(rows.all()) is is_true
    result = await create_or_update(
        engine, Note, key={"id": 1}, defaults={"title": "u"}, where=where
    )
    assert result.action is (Action.UPDATED if is_true else Action.SKIPPED)
    async with engine.begin() as connection:
        await connection.execute(sa.update(Note).values(NOTE))
    row = {"id": 1, "title": "u"}
    counts = await create_or_update_many(engine, Note, [row], key="id", where=where)
    assert counts.updated == is_true


async def test_values_in_conditions_are_written_as_their_columns_are(
    engine: AsyncEngine,
) -> None:
    for code in ("x", "y"):
        await create_or_update(
            engine, Typed, key={"code": code}, defaults={"tag": code}
        )
        result = await create_or_update(
            engine,
            Typed,
            key={"code": code},
            defaults={"hits": 3},
            where=Typed.tag == "x",
        )
        assert (result.action is Action.UPDATED) is (code == "x")


@pytest.mark.parametrize(
    "where",
    [
        Note.title < "t",
        Note.title + "a" == "ta",
        Note.title.like("t%"),
        Note.hits / 2 == 2,
        sa.func.lower(Note.title) == "t",
        Note.id.in_(sa.select(Note.id)),
        sa.text("hits < 3"),
        sa.true(),
        Seat.number == 1,
    ],
    ids=str,
)
async def test_other_conditions_are_refused(engine: AsyncEngine, where: Any) -> None:
    with pytest.raises(UsageError, match=r"where cannot take|not a column of"):
        await create_or_update(
            engine, Note, key={"id": 1}, defaults={"title": "u"}, where=where
        )
