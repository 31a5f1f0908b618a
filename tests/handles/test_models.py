"""Tables of SQLAlchemy: names, types, defaults, and mapped objects."""

import asyncio
import datetime as dt
import enum
import json
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aioupsert import (
    Action,
    BulkError,
    BulkResult,
    Coalescer,
    Excluded,
    F,
    UnknownColumnError,
    UsageError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
    preview,
)
from tests.support.databases import Database, psycopg_pooling
from tests.support.tables import create_tables

NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)


class Mood(enum.Enum):
    """Stored by name."""

    GOOD = "+"
    BAD = "-"


class Upper(sa.types.TypeDecorator[str]):
    """Stored in capitals, read in small letters."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        del dialect
        if value == "bad":
            msg = "it is bad"
            raise ValueError(msg)
        return None if value is None else value.upper()

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        del dialect
        return None if value is None else value.lower()


class Cents(sa.types.TypeDecorator[Decimal]):
    """Stored as a number."""

    impl = sa.Numeric(8, 2)
    cache_ok = True


class Base(DeclarativeBase):
    """What is mapped here."""


def slug(context: Any) -> str:
    return f"slug of {context.get_current_parameters()['name']}"


class Thing(Base):
    """A column of every kind."""

    __tablename__ = "things"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column("the_name", Upper(50), unique=True)
    hits: Mapped[int] = mapped_column(server_default="0")
    mood: Mapped[Mood | None]
    extra: Mapped[Any] = mapped_column(sa.JSON, nullable=True)
    price: Mapped[Decimal | None] = mapped_column(sa.Numeric(8, 2))
    cents: Mapped[Decimal | None] = mapped_column(Cents())
    ratio: Mapped[float | None]
    data: Mapped[bytes | None]
    flag: Mapped[bool] = mapped_column(default=True)
    slug: Mapped[str] = mapped_column(default=slug)
    made: Mapped[str | None] = mapped_column(default=sa.func.lower("{MADE}"))
    at: Mapped[dt.datetime | None] = mapped_column(sa.DateTime(timezone=True))
    seen: Mapped[int | None] = mapped_column(onupdate=lambda: 7)


PAIRS = sa.Table(
    "pairs",
    Base.metadata,
    sa.Column("one", sa.Integer, primary_key=True),
    sa.Column("Other", sa.Integer, primary_key=True, key="other"),
    sa.Column("n", sa.Integer, sa.Sequence("numbers"), nullable=True),
)


class Parent(Base):
    """Has children."""

    __tablename__ = "parents"

    id: Mapped[int] = mapped_column(primary_key=True)


class Child(Parent):
    """Is mapped to two tables."""

    __tablename__ = "children"

    id: Mapped[int] = mapped_column(sa.ForeignKey(Parent.id), primary_key=True)


class Wrapped(sa.types.UserDefinedType[str]):
    """Writes SQL around its values."""

    def bind_expression(self, bindvalue: Any) -> Any:
        return sa.func.upper(bindvalue)


@pytest.fixture(autouse=True)
async def tables(place: Database) -> None:
    await create_tables(place, Base.metadata)


@pytest.fixture
async def session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    async with AsyncSession(engine, expire_on_commit=False) as opened:
        yield opened


EVERY: dict[str, Any] = {
    "mood": Mood.BAD,
    "extra": {"a": [1, None]},
    "price": Decimal("1.50"),
    "cents": Decimal("2.25"),
    "ratio": 0.5,
    "data": b"\x00\xff",
    "flag": False,
    "slug": "own",
    "made": "own",
    "at": NOON,
}


def with_zone(row: dict[str, Any]) -> dict[str, Any]:
    """SQLite keeps no zone, and SQLAlchemy gives none."""
    at = row.get("at")
    return row | ({} if at is None else {"at": at.replace(tzinfo=at.tzinfo or dt.UTC)})


async def test_names_and_types_both_ways(session: AsyncSession) -> None:
    for created in (True, False):
        result = await create_or_update(
            session, Thing, key={"name": "x"}, defaults=EVERY, returning="*"
        )
        assert result.created is created
        assert result.row is not None
        row = with_zone({**result.row})
        assert {k: row[k] for k in EVERY} == EVERY
        assert (row["name"], row["hits"]) == ("x", 0)
        assert isinstance(row["id"], uuid.UUID)
        assert row["seen"] == (None if created else 7)
    thing = (await session.execute(sa.select(Thing))).scalar_one()
    assert {k: with_zone(vars(thing))[k] for k in EVERY} == EVERY
    stored = await session.execute(sa.text("SELECT the_name FROM things"))
    assert stored.scalar_one() == "X"
    found = (
        await get_or_create(session, Thing, key={"name": "x"}, returning="mood")
    ).row
    assert found["mood"] is Mood.BAD


async def test_python_side_defaults(session: AsyncSession) -> None:
    returning = ["flag", "slug", "made", "seen", "hits"]
    result = await create_or_update(
        session, Thing, key={"name": "x"}, returning=returning
    )
    assert result.row == {
        "flag": True,
        "slug": "slug of x",
        "made": "{made}",
        "seen": None,
        "hits": 0,
    }
    # Nothing is written, so nothing is updated.
    result = await create_or_update(session, Thing, key={"name": "x"}, returning="seen")
    assert (result.action, result.row) == (Action.UNCHANGED, {"seen": None})
    for value, expected in ((5, Action.UPDATED), (5, Action.UNCHANGED)):
        result = await create_or_update(
            session,
            Thing,
            key={"name": "x"},
            defaults={"hits": value},
            skip_unchanged=True,
            returning=["hits", "seen", "slug"],
        )
        assert result.action is expected
        assert result.row == {"hits": 5, "seen": 7, "slug": "slug of x"}
    result = await create_or_update(
        session,
        Thing,
        key={"name": "x"},
        defaults={"hits": lambda: 6},
        touch={"seen": 9},
        returning="seen",
    )
    assert result.row == {"seen": 9}
    result = await get_or_create(
        session, Thing, key={"name": "y"}, defaults={"flag": False}, returning="flag"
    )
    assert (result.created, result.row) == (True, {"flag": False})


async def test_expressions_name_attributes_and_literals_take_types(
    session: AsyncSession,
) -> None:
    call: dict[str, Any] = {"key": {"name": "x"}, "returning": ["price", "mood"]}
    await create_or_update(
        session, Thing, **call, defaults={"mood": Mood.GOOD, "price": Decimal(1)}
    )
    result = await create_or_update(
        session,
        Thing,
        **call,
        defaults={"price": F("price") + Decimal("0.5"), "hits": F("hits") + 1},
        where=(F("mood") == Mood.GOOD) & (F("name") == "x") & (F("hits") + 1 < 2),
    )
    assert result.action is Action.UPDATED
    assert result.row == {"price": Decimal("1.5"), "mood": Mood.GOOD}
    result = await create_or_update(
        session, Thing, **call, defaults={"hits": 1}, where=F("mood") == Mood.BAD
    )
    assert result.action is Action.SKIPPED
    shown = await preview(session, Thing, key={"name": "x"}, defaults={"hits": 1})
    assert all('"the_name"' in statement.sql for statement in shown)


async def test_the_mapped_object_is_the_session_s_and_fresh(
    session: AsyncSession,
) -> None:
    thing, created = await create_or_update(
        session, Thing, key={"name": "x"}, returning=Thing
    )
    assert (type(thing), created, thing.name) == (Thing, True, "x")
    thing.mood = Mood.BAD  # pending; sent before the call
    result = await create_or_update(
        session,
        Thing,
        key={"name": "x"},
        defaults={"hits": F("hits") + 1},
        where=F("mood") == Mood.BAD,
        returning=Thing,
    )
    assert result.row is thing
    assert (thing.hits, thing.mood, result.created) == (1, Mood.BAD, False)
    assert result.rows == (thing,)
    await session.commit()


async def test_a_scoped_session_gives_objects_too(engine: AsyncEngine) -> None:
    scoped = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
    result = await get_or_create(scoped, Thing, key={"name": "x"}, returning=Thing)
    assert result.row in scoped
    await scoped.remove()


async def test_a_table_with_keys_of_its_own(engine: AsyncEngine) -> None:
    key = {"one": 1, "other": 2}
    result = await create_or_update(engine, PAIRS, key=key, returning="*")
    drawn = 1 if engine.dialect.name == "postgresql" else None
    assert result.row == {**key, "n": drawn}
    again = await create_or_update(engine, PAIRS, key=key, defaults={"n": 5})
    assert again.action is Action.UPDATED


async def test_a_plain_connection_takes_a_model(place: Database) -> None:
    result = await create_or_update(
        place.handle, Thing, key={"name": "x"}, defaults=EVERY, returning="*"
    )
    row = with_zone({**(result.row or {})})
    # Engines of SQLAlchemy have asyncpg read JSON; by itself it gives the text.
    expected = EVERY | ({} if place.engine == "sqlite" else {"extra": row["extra"]})
    if place.engine == "postgresql":
        assert json.loads(row["extra"]) == EVERY["extra"]
    assert {k: row[k] for k in EVERY} == expected


async def test_a_pool_of_psycopg_takes_a_model(
    pg_server: Any, place: Any, driver: str
) -> None:
    if driver == "psycopg":
        async with psycopg_pooling(pg_server.dsn, place.schema) as pool:
            assert (await create_or_update(pool, Thing, key={"name": "x"})).created


async def test_many_rows(engine: AsyncEngine) -> None:
    rows: list[dict[str, Any]] = [
        {"name": f"n{n}", "hits": n, "mood": Mood.GOOD} for n in range(5)
    ]
    rows += [{"name": "given", "flag": False}, {"name": "not given"}]
    counts = await create_or_update_many(engine, Thing, rows, key="name")
    assert counts == BulkResult(created=7)
    # What was made for a row does not change one that is there; what is given does.
    rows = [{"name": "given"}, {"name": "not given", "flag": False, "hits": 1}]
    rows += [{"name": "n0", "hits": 9, "seen": 1}]
    counts = await create_or_update_many(engine, Thing, rows, key=["name"])
    assert counts == BulkResult(updated=2, unchanged=1)
    async with AsyncSession(engine) as session:
        things = (await session.execute(sa.select(Thing))).scalars().all()
    found = {thing.name: thing for thing in things}
    assert len({thing.id for thing in things}) == 7
    assert (found["n4"].mood, found["n4"].slug) == (Mood.GOOD, "slug of n4")
    assert (found["given"].flag, found["given"].seen) == (False, None)
    assert (found["not given"].flag, found["not given"].seen) == (False, 7)
    assert (found["n0"].hits, found["n0"].seen) == (9, 1)


@pytest.mark.parametrize(
    "update", ["hits", ["hits"], {"hits": F("hits") + Excluded("hits")}]
)
async def test_what_an_update_sets(engine: AsyncEngine, update: Any) -> None:
    rows = [{"name": "x", "hits": 2, "mood": Mood.GOOD}]
    await create_or_update_many(engine, Thing, rows, key="name")
    rows[0]["mood"] = Mood.BAD
    results = [
        result
        async for result in iter_create_or_update(
            engine,
            Thing,
            rows * 2,
            key="name",
            update=update,
            create_defaults={"flag": True},
            where=F("mood") == Mood.GOOD,
            touch={"data": b"1"},
            returning=["hits", "mood", "data", "seen"],
        )
    ]
    last = results[-1].row
    assert last is not None
    assert last["mood"] is Mood.GOOD
    assert last["hits"] == (6 if isinstance(update, dict) else 2)


async def test_rows_spread_over_connections(engine: AsyncEngine) -> None:
    rows = [{"name": f"n{n}", "hits": n} for n in range(50)]
    for counts in (BulkResult(created=50), BulkResult(updated=50)):
        done = await create_or_update_many(
            engine, Thing, rows, key="name", connections=3
        )
        assert done == counts


async def test_a_row_that_its_type_refuses_is_named(engine: AsyncEngine) -> None:
    rows = [{"name": name} for name in ("a", "b", "bad", "c")]
    with pytest.raises(BulkError) as caught:
        await create_or_update_many(engine, Thing, rows, key="name")
    assert (caught.value.index, caught.value.row) == (2, {"name": "bad"})
    assert isinstance(caught.value.__cause__, ValueError)
    counts = await create_or_update_many(
        engine, Thing, rows, key="name", atomic=False, on_error="skip"
    )
    assert (counts.created, [error.index for error in counts.rejected]) == (3, [2])


async def test_callers_are_gathered(engine: AsyncEngine) -> None:
    async with Coalescer(engine, Thing, key="name") as coalescer:
        results = await asyncio.gather(
            *(
                coalescer.create_or_update(
                    key={"name": "x"},
                    defaults={"hits": F("hits") + 1, "mood": Mood.BAD},
                    returning=["name", "hits", "mood"],
                )
                for _ in range(30)
            )
        )
    rows = sorted((result.row or {})["hits"] for result in results)
    assert rows == [*range(1, 31)]
    assert sum(result.created for result in results) == 1
    assert all(result.row and result.row["mood"] is Mood.BAD for result in results)


async def test_what_is_no_model_is_refused(engine: AsyncEngine) -> None:
    call: dict[str, Any] = {"key": {"name": "x"}}
    with pytest.raises(UsageError, match="write it with F"):
        await create_or_update(engine, Thing, **call, defaults={"hits": Thing.hits + 1})
    with pytest.raises(UsageError, match="Child is mapped to more than one table"):
        await create_or_update(engine, Child, key={"id": 1})
    with pytest.raises(UsageError, match="returning=Parent: a mapped class can be"):
        await create_or_update(engine, Thing, **call, returning=Parent)
    with pytest.raises(
        UsageError, match="a mapped class can be returned only by a call"
    ):
        await create_or_update(engine, "things", **call, returning=Thing)
    with pytest.raises(UnknownColumnError, match="nope"):
        await create_or_update(engine, Thing, **call, defaults={"nope": 1})
    wrapped = sa.Table("w", sa.MetaData(), sa.Column("k", Wrapped()))
    with pytest.raises(UsageError, match=r"the type of w\.k writes SQL around"):
        await create_or_update(engine, wrapped, key={"k": "x"})
    for strange in (3, object, None, object()):
        with pytest.raises(UsageError, match="a table is a name"):
            await create_or_update(engine, strange, key={"k": 1})  # type: ignore[call-overload]


async def test_a_table_in_a_schema(engine: AsyncEngine, place: Any) -> None:
    if engine.dialect.name == "postgresql":
        table = sa.Table(
            "pairs", sa.MetaData(), sa.Column("one", sa.Integer), schema=place.schema
        )
        result = await create_or_update(
            engine, table, key={"one": 1, "Other": 1}, without_unique_index="allow"
        )
        assert result.created
