"""What a mapper promises on a write: versions, classes of one table, instances."""

import dataclasses
import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    column_property,
    composite,
    mapped_column,
    relationship,
    synonym,
)
from sqlalchemy.orm.exc import StaleDataError
from sqlmodel import Field, SQLModel

from aioupsert import (
    Action,
    BulkError,
    Coalescer,
    F,
    UsageError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    iter_create_or_update,
)
from tests.models.conftest import MakeEngine
from tests.support.databases import Database
from tests.support.tables import create_tables

tokens = (f"token {number}" for number in itertools.count())


class Base(DeclarativeBase):
    """What is mapped here."""


class Doc(Base):
    """Counts its versions."""

    __tablename__ = "docs"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    body: Mapped[str | None]
    version: Mapped[int] = mapped_column("the_version")
    title: Mapped[str | None] = synonym("body")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # as SQLAlchemy has it


class Sheet(Base):
    """Has a version that no row is needed for."""

    __tablename__ = "sheets"

    name: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[str | None]
    token: Mapped[str] = mapped_column()
    __mapper_args__ = {  # noqa: RUF012  # as above
        "version_id_col": token,
        "version_id_generator": lambda _: next(tokens),
    }


class Tens(Base):
    """Has a version that is computed from the last one."""

    __tablename__ = "tens"

    name: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[str | None]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {  # noqa: RUF012  # as above
        "version_id_col": version,
        "version_id_generator": lambda v: 10 if v is None else v + 10,
    }


class Letters(Base):
    """Has one that is computed by a method of the last one."""

    __tablename__ = "letters"

    name: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[str | None]
    version: Mapped[str] = mapped_column()
    before_name: Mapped[str | None] = mapped_column(sa.ForeignKey("letters.name"))
    before: Mapped["Letters | None"] = relationship(remote_side=name)
    earlier: Mapped["Letters | None"] = synonym("before")
    __mapper_args__ = {  # noqa: RUF012  # as above
        "version_id_col": version,
        "version_id_generator": lambda v: "a" if v is None else v.upper(),
    }


class Pet(Base):
    """Has two kinds, of which one has a kind of its own."""

    __tablename__ = "pets"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column("the_kind")
    name: Mapped[str] = mapped_column(unique=True)
    age: Mapped[int] = mapped_column(server_default="0")
    __mapper_args__ = {"polymorphic_on": kind, "polymorphic_identity": "pet"}  # noqa: RUF012  # as above


class Cat(Pet):
    """By itself."""

    __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012  # as above


class Dog(Pet):
    """With a class below it."""

    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012  # as above


class Poodle(Dog):
    """Below it."""

    __mapper_args__ = {"polymorphic_identity": "poodle"}  # noqa: RUF012  # as above


class Spot(MappedAsDataclass, Base):
    """A dataclass whose key the database makes."""

    __tablename__ = "spots"

    id: Mapped[int] = mapped_column(primary_key=True, init=False)
    name: Mapped[str] = mapped_column(unique=True)
    hits: Mapped[int] = mapped_column(server_default="3", init=False)


class Hero(SQLModel, table=True):
    """A class of SQLModel."""

    __tablename__ = "heroes"
    metadata = Base.metadata

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    power: str = "none"
    age: int | None = None


class Shout(sa.types.TypeDecorator[str]):
    """Read in capitals, which the database makes."""

    impl = sa.String
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return sa.func.upper(column)


@dataclasses.dataclass
class Size:
    """Two columns as one value."""

    width: int
    height: int


class Parcel(Base):
    """Has attributes that are not columns."""

    __tablename__ = "parcels"

    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(Shout, server_default="none")
    sender: Mapped[int | None] = mapped_column(sa.ForeignKey("pets.id"))
    pet: Mapped[Pet | None] = relationship()
    size: Mapped[Size] = composite(
        mapped_column("width", server_default="1"),
        mapped_column("height", server_default="2"),
    )
    area: Mapped[int] = column_property(sa.literal_column("width * height"))

    @hybrid_property
    def loud(self) -> str:
        """In Python."""
        return f"{self.label}!"


@pytest.fixture
async def engine(db: Database, make_engine: MakeEngine) -> AsyncIterator[AsyncEngine]:
    await create_tables(db, Base.metadata)
    made = make_engine()
    yield made
    await made.dispose()


async def column(engine: AsyncEngine, attribute: Any, key: Any) -> list[Any]:
    async with engine.connect() as connection:
        found = await connection.execute(sa.select(attribute).order_by(key))
        return [*found.scalars()]


# --- Versions -------------------------------------------------------------------------


async def test_a_form_with_an_old_version_is_refused(engine: AsyncEngine) -> None:
    async with (
        AsyncSession(engine, expire_on_commit=False) as mine,
        AsyncSession(engine) as other,
    ):
        form, created = await create_or_update(
            mine, Doc, key={"name": "a"}, defaults={"body": "0"}, returning=Doc
        )
        assert (created, form.version) == (True, 1)
        await mine.commit()
        await create_or_update(
            other, Doc, key={"name": "a"}, defaults={"body": "newer"}
        )
        await other.commit()
        form.body = "old form"
        with pytest.raises(StaleDataError):
            await mine.commit()
        await mine.rollback()
    assert await column(engine, Doc.body, Doc.id) == ["newer"]


async def test_versions_are_counted_by_updates_that_change(
    engine: AsyncEngine,
) -> None:
    async def version() -> Any:
        return (await column(engine, Doc.version, Doc.id))[0]

    for body in ("a", "b", "b"):
        await create_or_update(
            engine, Doc, key={"name": "a"}, defaults={"body": body}, skip_unchanged=True
        )
    assert await version() == 2
    await create_or_update(engine, Doc, key={"name": "a"}, defaults={"title": "c"})
    assert await version() == 3
    with pytest.raises(BulkError, match="a row has a column twice: 'name', 'body'"):
        twice = {"name": "a", "body": "b", "title": "c"}
        await create_or_update_many(engine, Doc, [twice], key="name")
    await get_or_create(engine, Doc, key={"name": "a"})
    assert await version() == 3
    rows = [{"name": "a", "body": "c"}, {"name": "b", "body": "b"}]
    await create_or_update_many(engine, Doc, rows, key="name", skip_unchanged=True)
    assert await column(engine, Doc.version, Doc.name) == [3, 1]
    await create_or_update_many(engine, Doc, [*rows, *rows], key="name")
    assert await column(engine, Doc.version, Doc.name) == [5, 3]
    async with Coalescer(engine, Doc, key="name") as coalescer:
        await coalescer.create_or_update(key={"name": "a"}, defaults={"body": "z"})
    await create_or_update(engine, Doc, key={"name": "b"}, defaults={"version": 40})
    assert await column(engine, Doc.version, Doc.name) == [6, 40]
    stale = [Doc(name="a", body="by instance", version=1)]
    await create_or_update_many(engine, Doc, stale, key="name")
    assert await version() == 7


async def test_a_generator_of_versions_is_called(engine: AsyncEngine) -> None:
    seen: set[Any] = set()
    for body in ("a", "b"):
        await create_or_update(
            engine, Sheet, key={"name": "a"}, defaults={"body": body}
        )
        await create_or_update_many(
            engine, Sheet, [{"name": "a", "body": body + body}], key="name"
        )
        seen |= {*await column(engine, Sheet.token, Sheet.name)}
    assert len(seen) == 2
    classes: tuple[Any, ...] = (Tens, Letters)
    for cls in classes:
        for call in (
            create_or_update(engine, cls, key={"name": "a"}, defaults={"body": "a"}),
            create_or_update_many(
                engine, cls, [{"name": "a", "body": "b"}], key="name"
            ),
        ):
            with pytest.raises(UsageError, match="computes from the stored version"):
                await call
    row = (await get_or_create(engine, Tens, key={"name": "a"})).row
    assert row == {"name": "a", "body": None, "version": 10}
    await create_or_update(
        engine,
        Tens,
        key={"name": "a"},
        defaults={"version": F("version") + 10},
        create_defaults={"version": 10},
    )
    assert await column(engine, Tens.version, Tens.name) == [20]


async def test_a_synonym_of_a_relationship_is_not_a_column(engine: AsyncEngine) -> None:
    assert (await get_or_create(engine, Letters, key={"name": "a"})).created
    with pytest.raises(UsageError, match="earlier is not a column; name 'bef"):
        await get_or_create(engine, Letters, key={"name": "a", "earlier": "b"})


# --- Classes of one table -------------------------------------------------------------


async def test_a_row_of_another_class_is_not_touched(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add(Dog(name="rex"))
        await session.commit()
        for call in (
            create_or_update(session, Cat, key={"name": "rex"}, defaults={"age": 5}),
            get_or_create(session, Cat, key={"name": "rex"}, defaults={"age": 5}),
        ):
            with pytest.raises(IntegrityError):
                await call
            await session.rollback()
        with pytest.raises(BulkError) as caught:
            await create_or_update_many(
                session, Cat, [{"name": "tom"}, {"name": "rex", "age": 5}], key="name"
            )
        assert caught.value.index == 1
        await session.rollback()
    async with Coalescer(engine, Cat, key="name") as coalescer:
        with pytest.raises(IntegrityError):
            await coalescer.create_or_update(key={"name": "rex"}, defaults={"age": 5})
        made = await coalescer.create_or_update(key={"name": "tom"}, returning="*")
        again = await coalescer.create_or_update(
            key={"name": "tom"}, defaults={"age": 1}, returning="kind"
        )
    assert made.row is not None
    assert made.row["kind"] == "cat"
    assert (again.row, again.created) == ({"kind": "cat"}, False)
    assert await column(engine, Pet.age, Pet.name) == [0, 1]
    assert await column(engine, Pet.kind, Pet.name) == ["dog", "cat"]


async def test_rows_of_the_class_are_created_and_updated(engine: AsyncEngine) -> None:
    for age in (1, 2):
        async with AsyncSession(engine) as session:
            cat, created = await create_or_update(
                session, Cat, key={"name": "tom"}, defaults={"age": age}, returning=Cat
            )
            assert (cat.age, created, type(cat)) == (age, age == 1, Cat)
            rows: Any = [{"name": "kit", "age": age}, {"kind": "cat", "name": "mia"}]
            results = [
                r async for r in iter_create_or_update(session, Cat, rows, key="name")
            ]
            assert [r.created for r in results] == [age == 1] * 2
            await session.commit()
    assert await column(engine, Pet.kind, Pet.name) == ["cat"] * 3
    found = await get_or_create(engine, Cat, key={"name": "tom", "kind": "cat"})
    assert not found.created
    with pytest.raises(UsageError, match="its class is 'dog'"):
        await create_or_update(engine, Cat, key={"name": "rex", "kind": "dog"})
    with pytest.raises(BulkError, match="its class is 'dog'"):
        await create_or_update_many(
            engine, Cat, [{"name": "rex", "kind": "dog"}], key="name"
        )


async def test_a_class_updates_those_below_it(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        session.add_all([Cat(name="tom"), Dog(name="rex"), Poodle(name="fifi")])
        await session.commit()
    actions = [
        (
            await create_or_update(
                engine,
                cls,
                key={"name": name},
                defaults={"age": F("age") + 1},
                where=F("age") < 9,
            )
        ).action
        for cls in (Dog, Pet)
        for name in ("fifi", "rex", "tom")
    ]
    assert actions == [
        *[Action.UPDATED] * 2,
        Action.SKIPPED,
        *[Action.UPDATED] * 3,
    ]
    rows = [{"name": n, "age": 7} for n in ("fifi", "rex", "tom")]
    counts = await create_or_update_many(engine, Dog, rows, key="name")
    assert (counts.updated, counts.skipped) == (2, 1)
    assert await column(engine, Pet.kind, Pet.name) == ["poodle", "dog", "cat"]
    assert await column(engine, Pet.age, Pet.name) == [7, 7, 1]


# --- Attributes that are not columns, and columns that are not read as they are --------


@pytest.mark.parametrize(
    ("attribute", "instead"),
    [
        ("pet", "'sender'"),
        ("size", "'height', 'width'"),
        ("area", "the columns that it is computed from"),
        ("loud", "the columns that it is computed from"),
    ],
)
async def test_what_is_not_a_column_is_refused(
    engine: AsyncEngine, attribute: str, instead: str
) -> None:
    names: list[Any] = [attribute]
    if attribute != "loud":  # a function for the class
        names.append(getattr(Parcel, attribute))
    why = f"Parcel.{attribute} is not a column; name {instead}"
    for name in names:
        for call in (
            create_or_update(engine, Parcel, key={"id": 1}, defaults={name: 1}),
            get_or_create(engine, Parcel, key={"id": 1}, returning=[name]),
            create_or_update_many(engine, Parcel, [{"id": 1, name: 1}], key="id"),
        ):
            with pytest.raises((UsageError, BulkError), match=why):
                await call
    with pytest.raises(UsageError, match=why):
        await create_or_update(engine, Parcel, key={"id": 1}, where=F(attribute) == 1)


async def test_what_sql_reads_is_read_by_a_select(engine: AsyncEngine) -> None:
    async with AsyncSession(engine) as session:
        parcel, _ = await create_or_update(
            session, Parcel, key={"id": 1}, defaults={"label": "a"}, returning=Parcel
        )
        assert (parcel.label, parcel.size, parcel.area) == ("A", Size(1, 2), 2)
        await create_or_update(session, Parcel, key={"id": 1}, defaults={"label": "b"})
        assert parcel.label == "B"
        for returning in ("*", "label", [Parcel.id, Parcel.label]):
            with pytest.raises(UsageError, match="the type of 'label' reads values"):
                await get_or_create(session, Parcel, key={"id": 1}, returning=returning)
        found = await get_or_create(session, Parcel, key={"id": 1}, returning="id")
        assert found.row == {"id": 1}


# --- Instances ------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Hero, Spot, Cat])
async def test_the_database_makes_the_ids(engine: AsyncEngine, cls: Any) -> None:
    rows = [cls(name="a"), cls(name="b")]
    counts = await create_or_update_many(engine, cls, rows, key="name")
    assert counts.created == 2
    ids = await column(engine, cls.id, cls.name)
    assert len(set(ids)) == 2
    rows = [cls(name="b"), cls(name="a")]
    counts = await create_or_update_many(engine, cls, rows, key="name")
    assert counts.created == 0
    assert await column(engine, cls.id, cls.name) == ids


async def test_only_what_is_set_is_brought(engine: AsyncEngine) -> None:
    await create_or_update_many(
        engine, Hero, [Hero(name="a", power="flies", age=5)], key="name"
    )
    await create_or_update_many(
        engine, Hero, [Hero(name="a", age=6), Hero(name="b")], key="name"
    )
    assert await column(engine, Hero.power, Hero.name) == ["flies", "none"]
    assert await column(engine, Hero.age, Hero.name) == [6, None]
    await create_or_update_many(engine, Hero, [Hero(name="a", age=None)], key="name")
    assert await column(engine, Hero.age, Hero.name) == [None, None]
    await create_or_update_many(engine, Spot, [Spot(name="a")], key="name")
    assert await column(engine, Spot.hits, Spot.name) == [3]
    await create_or_update_many(engine, Doc, [Doc(name="a", body="b")], key="name")
    await create_or_update_many(engine, Doc, [Doc(name="a")], key="name")
    assert await column(engine, Doc.body, Doc.name) == ["b"]


async def test_loaded_instances_bring_what_is_loaded(engine: AsyncEngine) -> None:
    async with AsyncSession(engine, expire_on_commit=False) as session:
        session.add(Hero(name="a", power="flies", age=5))
        await session.commit()
        hero = (await session.execute(sa.select(Hero))).scalar_one()
        session.expunge(hero)
    hero.age = 7
    counts = await create_or_update_many(engine, Hero, [hero], key="id")
    assert counts.updated == 1
    assert await column(engine, Hero.age, Hero.name) == [7]
    with pytest.raises(BulkError, match="it has no 'id', which key names"):
        await create_or_update_many(engine, Hero, [Hero(name="b")], key="id")
