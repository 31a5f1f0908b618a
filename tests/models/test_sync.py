"""`sync_rows` with tables and mapped classes of SQLAlchemy."""

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aioupsert import Action, BulkResult, now, sync_rows
from tests.models.tables import Animal, Cat, Seat


class Own(DeclarativeBase):
    """What is mapped here."""


class Price(Own):
    """Has names of its own, a version, and marks with defaults of Python's."""

    __tablename__ = "prices"
    version: Mapped[int] = mapped_column("v")
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012  # as SQLAlchemy has it

    shop: Mapped[int] = mapped_column("the_shop", primary_key=True)
    sku: Mapped[str] = mapped_column("the_sku", primary_key=True)
    cents: Mapped[int | None]
    active: Mapped[bool] = mapped_column(default=True)
    gone_at: Mapped[dt.datetime | None] = mapped_column(sa.DateTime)
    changed: Mapped[str | None] = mapped_column(onupdate="yes")


class Item(Own):
    """Has children, and these children, on one table."""

    __tablename__ = "items"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "item"}  # noqa: RUF012  # as above

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]


class Book(Item):
    """Is one."""

    __mapper_args__ = {"polymorphic_identity": "book"}  # noqa: RUF012  # as above


class Comic(Book):
    """Is one, too."""

    __mapper_args__ = {"polymorphic_identity": "comic"}  # noqa: RUF012  # as above


async def prices(session: AsyncSession) -> list[Any]:
    await (await session.connection()).run_sync(Own.metadata.create_all)
    made = [
        Price(shop=shop, sku=sku, cents=1, version=1, gone_at=None)
        for shop, sku in ((7, "a"), (7, "b"), (7, "c"), (8, "c"))
    ]
    session.add_all(made)
    await session.flush()
    return made


async def read(session: AsyncSession, *columns: Any) -> list[Any]:
    order = (Price.shop, Price.sku)
    rows = await session.execute(sa.select(*order, *columns).order_by(*order))
    return [tuple(row) for row in rows]


async def test_a_session_has_what_is_left(session: AsyncSession) -> None:
    a, b, c, other = await prices(session)
    results: list[Any] = []
    shop: Any = Price.shop
    report = await sync_rows(
        session,
        Price,
        [{"sku": "a", "cents": 1}, {"sku": "b", "cents": 2}],
        key=[shop, "sku"],
        scope={shop: 7},
        on_result=results.append,
    )
    assert report == BulkResult(updated=1, unchanged=1, deleted=1)
    assert (a.version, b.version, b.cents) == (1, 2, 2)
    assert c not in session
    assert other in session
    assert sa.inspect(c).deleted
    assert [(r.action, (r.row or r.old)["sku"]) for r in results] == [
        (Action.UPDATED, "b"),
        (Action.DELETED, "c"),
    ]
    assert await read(session, Price.changed) == [
        *((7, "a", None), (7, "b", "yes"), (8, "c", None))
    ]
    await session.rollback()


async def test_marks_count_the_version_and_are_set_back(session: AsyncSession) -> None:
    rows = [{"sku": sku, "cents": 1} for sku in "abc"]
    marks: list[Any] = [{"active": False}, {Price.gone_at: dt.datetime(2026, 1, 1)}]  # noqa: DTZ001  # as the column has it
    for missing in [*marks, {"gone_at": now()}]:
        *_, c, _ = await prices(session)

        async def sync(some: list[Any], missing: Any = missing) -> BulkResult:
            return await sync_rows(
                session,
                Price,
                some,
                key=["shop", "sku"],
                scope={"shop": 7},
                missing=missing,
            )

        assert await sync(rows[:2]) == BulkResult(unchanged=2, deleted=1)
        assert (c.active, c.gone_at) != (True, None)
        assert c.version == 2
        assert (7, "c", 2, "yes") in await read(session, Price.version, Price.changed)
        assert await sync(rows[:2]) == BulkResult(unchanged=2)
        assert await sync(rows) == BulkResult(unchanged=2, updated=1)
        assert (c.active, c.gone_at, c.version) == (True, None, 3)
        await session.rollback()
        session.expunge_all()


async def test_a_dry_run_leaves_objects_as_they_are(session: AsyncSession) -> None:
    _, b, c, _ = await prices(session)
    report = await sync_rows(
        session,
        Price,
        [{"sku": "a"}, {"sku": "b", "cents": 2}],
        key=["shop", "sku"],
        scope={"shop": 7},
        dry_run=True,
    )
    assert report == BulkResult(updated=1, unchanged=1, deleted=1)
    assert (b.cents, c in session) == (1, True)
    assert len(await read(session)) == 4
    await session.rollback()


async def test_a_class_leaves_the_rows_of_others_alone(session: AsyncSession) -> None:
    session.add_all([Animal(id=1), Cat(id=2), Cat(id=3)])
    await session.flush()
    report = await sync_rows(session, Cat, [{"id": 3, "lives": 7}], key="id", scope={})
    assert report == BulkResult(updated=1, deleted=1)
    kinds = await session.execute(sa.select(Animal.id, Animal.kind).order_by("id"))
    assert [tuple(row) for row in kinds] == [(1, "animal"), (3, "cat")]
    await session.rollback()


async def test_a_class_with_others_below_it_leaves_the_rest_alone(
    session: AsyncSession,
) -> None:
    await (await session.connection()).run_sync(Own.metadata.create_all)
    session.add_all([Item(id=1), Book(id=2), Comic(id=3), Comic(id=4)])
    await session.flush()
    report = await sync_rows(
        session, Book, [{"id": 4}], key="id", scope={}, max_missing=2
    )
    assert report == BulkResult(unchanged=1, deleted=2)
    left = await session.execute(sa.select(Item.id).order_by(Item.id))
    assert [*left.scalars()] == [1, 4]
    await session.rollback()


async def test_a_table_over_an_engine(engine: AsyncEngine) -> None:
    rows = [{"n": 1, "hall": "red"}, {"n": 2, "hall": "red"}]
    table: Any = Seat.__table__
    key = [table.c.n, table.c.hall]
    for some, expected in (
        (rows, BulkResult(created=2)),
        (rows[:1], BulkResult(unchanged=1, deleted=1)),
    ):
        report = await sync_rows(engine, table, some, key=key, scope={"hall": "red"})
        assert report == expected
