"""Tables with what SQLAlchemy can say of one."""

import datetime as dt
import enum
import itertools
import uuid
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlmodel import Field, SQLModel


class Base(DeclarativeBase):
    """What is mapped here."""


class Mood(enum.Enum):
    """Stored by name."""

    GOOD = "+"
    BAD = "-"


class Code(sa.types.TypeDecorator[str]):
    """Stored in capitals with a mark, read in small letters; refuses "bad"."""

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str:
        del dialect
        if value is None or value == "bad":
            msg = f"{value} is bad"
            raise ValueError(msg)
        return f"#{value.upper()}"

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        del dialect
        return None if value is None else value[1:].lower()


class Typed(Base):
    """A column of every type, and names that are not those of the columns."""

    __tablename__ = "typed"

    code: Mapped[str] = mapped_column("the_code", Code(50), primary_key=True)
    hits: Mapped[int] = mapped_column("Hits", server_default="0")
    mood: Mapped[Mood | None]
    extra: Mapped[Any] = mapped_column(sa.JSON, nullable=True)
    uid: Mapped[uuid.UUID | None]
    price: Mapped[Decimal | None] = mapped_column(sa.Numeric(8, 2))
    at: Mapped[dt.datetime | None] = mapped_column(sa.DateTime(timezone=True))
    data: Mapped[bytes | None] = mapped_column(sa.LargeBinary)
    flag: Mapped[bool | None]
    took: Mapped[dt.timedelta | None] = mapped_column(sa.Interval)
    tag: Mapped[str | None] = mapped_column(Code(50))


def slug_of(context: Any) -> str:
    return str(context.get_current_parameters()["title"]).lower()


def twice(context: Any) -> str:
    return 2 * str(context.current_parameters["slug"])


def title_then(context: Any) -> str:
    return str(context.get_current_parameters()["title"])


numbers = sa.Sequence("numbers", metadata=Base.metadata)
stamps = itertools.count(1)


class Post(Base):
    """Has a default of every kind."""

    __tablename__ = "posts"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    name: Mapped[str] = mapped_column("the_name", unique=True)
    title: Mapped[str] = mapped_column(default="Untitled")
    slug: Mapped[str] = mapped_column(default=slug_of)
    twice: Mapped[str] = mapped_column(default=twice)
    mood: Mapped[Mood] = mapped_column(default=Mood.GOOD)
    share: Mapped[str] = mapped_column(default=sa.func.lower("50% {A}"))
    number: Mapped[int | None] = mapped_column(numbers)
    hits: Mapped[int] = mapped_column(server_default="0")


class Note(Base):
    """Has what SQLAlchemy sets on an update, in every way."""

    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    hits: Mapped[int] = mapped_column(server_default="0")
    plain: Mapped[str | None] = mapped_column(onupdate="yes")
    stamp: Mapped[int] = mapped_column(default=0, onupdate=lambda: next(stamps))
    by_sql: Mapped[str | None] = mapped_column(onupdate=sa.func.upper("sql"))
    mood: Mapped[Mood | None] = mapped_column(onupdate=Mood.BAD)


class Copied(Base):
    """Sets a column from the other values of an update."""

    __tablename__ = "copied"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    copy: Mapped[str | None] = mapped_column(onupdate=title_then)


class Seat(Base):
    """Has a key of two columns, of which the second comes first."""

    __tablename__ = "seats"

    number: Mapped[int] = mapped_column("n", primary_key=True)
    hall: Mapped[str] = mapped_column(primary_key=True)
    taken: Mapped[bool] = mapped_column(default=False)


SWAPPED = sa.Table(
    "swapped",
    Base.metadata,
    sa.Column("a", sa.Integer, primary_key=True, key="b"),
    sa.Column("b", sa.Enum(Mood), key="a"),
)


class Animal(Base):
    """Has a child on its own table, and one on another."""

    __tablename__ = "animals"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012  # as SQLAlchemy has it

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]


class Cat(Animal):
    """Is on the table of animals."""

    __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012  # as above

    lives: Mapped[int | None] = mapped_column(default=9)


class Dog(Animal):
    """Has a table of its own beside it."""

    __tablename__ = "dogs"
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012  # as above

    id: Mapped[int] = mapped_column(sa.ForeignKey(Animal.id), primary_key=True)


class Tag(SQLModel, table=True):
    """A class of SQLModel."""

    __tablename__ = "tags"
    metadata = Base.metadata

    name: str = Field(primary_key=True)
    used: int = 1
    mood: Mood = Mood.GOOD
    uid: uuid.UUID = Field(default_factory=uuid.uuid4)
