"""Names of attributes, and types of columns both ways, wherever a call has a value."""

import asyncio
import datetime as dt
import uuid
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aioupsert import (
    Action,
    BulkError,
    BulkResult,
    Coalescer,
    Excluded,
    F,
    UsageError,
    coalesce,
    create_or_update,
    create_or_update_many,
    get_or_create,
    greatest,
    iter_create_or_update,
)
from tests.models.conftest import MakeEngine
from tests.models.tables import Mood, Typed
from tests.support.databases import Database

KEY = {"code": "x"}
VALUES: dict[str, Any] = {
    "hits": 5,
    "mood": Mood.BAD,
    "extra": {"a": [1, None]},
    "uid": uuid.UUID(int=5),
    "price": Decimal("1.50"),
    "at": dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC),
    "data": b"\x00\xff",
    "flag": False,
    "took": dt.timedelta(hours=1),
    "tag": "y",
}
ROW = {**KEY, **VALUES}
every_value = pytest.mark.parametrize("name", VALUES)


def zoned(row: Any) -> dict[str, Any]:
    """SQLite keeps no zone, and SQLAlchemy gives none."""
    at = row.get("at")
    return {**row} if at is None else {**row, "at": at.replace(tzinfo=dt.UTC)}


async def stored(engine: AsyncEngine) -> list[dict[str, Any]]:
    """The rows as SQLAlchemy itself reads them."""
    async with AsyncSession(engine) as session:
        found = await session.scalars(sa.select(Typed).order_by(Typed.code))
        return [zoned({name: getattr(one, name) for name in ROW}) for one in found]


@pytest.mark.parametrize("argument", ["defaults", "create_defaults", "touch"])
async def test_values_are_written_and_read_as_their_types_say(
    engine: AsyncEngine, argument: str
) -> None:
    call: dict[str, Any] = {argument: VALUES}
    for returning in ("*", [*ROW]):
        result = await create_or_update(
            engine, Typed, key=KEY, **call, returning=returning
        )
        assert zoned(result.row) == ROW
    assert await stored(engine) == [ROW]
    found = await get_or_create(engine, Typed, key=KEY)
    assert (found.created, zoned(found.row)) == (False, ROW)
    async with engine.connect() as connection:
        text = await connection.execute(sa.text("SELECT the_code, tag FROM typed"))
        assert text.one() == ("#X", "#Y")


@every_value
async def test_a_literal_beside_a_column_is_of_its_type(
    engine: AsyncEngine, name: str
) -> None:
    value = VALUES[name]
    if name == "extra":
        return  # no engine compares JSON
    await create_or_update(engine, Typed, key=KEY, defaults=VALUES)
    for where, action in (
        (F(name) == value, Action.UPDATED),
        (F(name) != value, Action.SKIPPED),
        (F(name).in_([value]), Action.UPDATED),
        (coalesce(F(name), value) == value, Action.UPDATED),
        (F("hits") + 1 < 0, Action.SKIPPED),
    ):
        result = await create_or_update(
            engine, Typed, key=KEY, defaults={"hits": 5}, where=where
        )
        assert result.action is action, repr(where)


async def test_members_are_what_the_type_makes_of_each(engine: AsyncEngine) -> None:
    class Halved(sa.types.TypeDecorator[int]):
        impl = sa.Double
        cache_ok = True

        def process_bind_param(self, value: int | None, dialect: Any) -> Any:
            del dialect
            return None if value is None else value / 2

    class Local(DeclarativeBase):
        pass

    class Half(Local):
        __tablename__ = "halves"

        id: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[int] = mapped_column(Halved)

    async with engine.begin() as connection:
        await connection.run_sync(Local.metadata.create_all)
        await connection.execute(sa.insert(Half).values(id=1, number=3))
        for members, action in (([1, 3], Action.UPDATED), ([2, 6], Action.SKIPPED)):
            result = await create_or_update(
                connection,
                Half,
                key={"id": 1},
                defaults={"number": 3},
                where=F("number").in_(members),
            )
            assert result.action is action
        found = await connection.execute(sa.text("SELECT number FROM halves"))
        assert found.scalar_one() == 1.5


async def test_an_expression_that_is_nested_too_deeply_is_refused(
    engine: AsyncEngine,
) -> None:
    total: Any = F("hits")
    for _ in range(900):
        total = total + 1
    with pytest.raises(UsageError, match="nested too deeply"):
        await create_or_update(
            engine, Typed, key={"code": "x"}, defaults={"hits": total}
        )


async def test_none_is_what_the_type_makes_of_it(engine: AsyncEngine) -> None:
    names = [name for name in VALUES if name not in {"hits", "tag"}]
    row, _ = await create_or_update(
        engine, Typed, key=KEY, defaults=dict.fromkeys(names), returning=names
    )
    assert row == dict.fromkeys(names)
    async with engine.connect() as connection:
        text = "SELECT CAST(extra AS text), mood FROM typed"
        assert (await connection.execute(sa.text(text))).one() == ("null", None)


async def test_an_amount_may_be_added(engine: AsyncEngine) -> None:
    call: dict[str, Any] = {"key": KEY, "returning": ["price", "extra"]}
    await create_or_update(
        engine, Typed, **call, defaults={"price": Decimal(1), "extra": {"a": 1}}
    )
    row, _ = await create_or_update(
        engine,
        Typed,
        **call,
        defaults={
            "price": greatest(coalesce(F("price"), Decimal(0)) + Decimal("0.5"), 0),
            "extra": F("extra").merge({"b": 2}),
        },
    )
    assert row == {"price": Decimal("1.5"), "extra": {"a": 1, "b": 2}}


async def test_a_plain_connection_takes_a_model(
    db: Database, engine: AsyncEngine
) -> None:
    result = await create_or_update(
        db.handle, Typed, key=KEY, defaults=VALUES, returning=[*KEY, "mood", "uid"]
    )
    assert result.row == {**KEY, "mood": Mood.BAD, "uid": VALUES["uid"]}
    await create_or_update_many(db.handle, Typed, [{**ROW, "code": "y"}], key="code")
    assert await stored(engine) == [ROW, {**ROW, "code": "y"}]


async def test_a_class_of_one_s_own_is_a_plain_connection_too(
    db: Database, engine: AsyncEngine
) -> None:
    own = type("Own", (type(db.handle),), {"__slots__": ()})
    db.handle.__class__ = own  # as asyncpg's connection_class
    result = await create_or_update(
        db.handle, Typed, key=KEY, defaults=VALUES, returning="mood"
    )
    assert result.row == {"mood": Mood.BAD}
    assert await stored(engine) == [ROW]


async def test_an_engine_s_own_way_to_write_json(
    engine: AsyncEngine, make_engine: MakeEngine
) -> None:
    own = make_engine(json_serializer=lambda _: '"own"')
    for used, extra in ((engine, 1), (own, "own"), (engine, 1)):
        row, _ = await create_or_update(
            used, Typed, key=KEY, defaults={"extra": 1}, returning="extra"
        )
        assert row == {"extra": extra}
    await own.dispose()


# --- Many rows ------------------------------------------------------------------------


async def test_rows_are_written_and_read_as_types_say(engine: AsyncEngine) -> None:
    rows = [
        ROW,
        {"code": "y", "hits": F("hits") + 1, "tag": lambda: "z"},
        {"code": "z"},
    ]
    for hits in (1, 2):
        results = iter_create_or_update(
            engine, Typed, rows, key="code", returning=["code", "hits", "mood", "tag"]
        )
        assert [result.row async for result in results] == [
            {"code": "x", "hits": 5, "mood": Mood.BAD, "tag": "y"},
            {"code": "y", "hits": hits, "mood": None, "tag": "z"},
            {"code": "z", "hits": 0, "mood": None, "tag": None},
        ]
    assert (await stored(engine))[0] == ROW


@pytest.mark.parametrize(
    "update", ["hits", ["hits", "tag"], {"hits": F("hits") + Excluded("hits")}]
)
async def test_what_an_update_sets(engine: AsyncEngine, update: Any) -> None:
    await create_or_update_many(engine, Typed, [ROW], key="code")
    row = {**ROW, "hits": 2, "mood": Mood.GOOD, "tag": "new"}
    call: dict[str, Any] = {
        "update": update,
        "create_defaults": {"tag": "created"},
        "where": (F("mood") == Mood.BAD) & (F("tag") != "no"),
        "touch": {"price": Decimal(9)},
    }
    counts = await create_or_update_many(
        engine, Typed, [row, {**row, "code": "y"}], key=["code"], **call
    )
    assert counts == BulkResult(created=1, updated=1)
    old, new = await stored(engine)
    assert (old["mood"], old["price"]) == (Mood.BAD, 9)
    assert old["hits"] == (7 if isinstance(update, dict) else 2)
    assert old["tag"] == ("new" if isinstance(update, list) else "y")
    assert (new["tag"], new["hits"]) == ("created", 2)


async def test_a_row_that_its_type_refuses_is_named(engine: AsyncEngine) -> None:
    rows = [{"code": code} for code in ("a", "b", "bad", "c")]
    with pytest.raises(BulkError) as caught:
        await create_or_update_many(engine, Typed, rows, key="code")
    assert (caught.value.index, caught.value.row) == (2, {"code": "bad"})
    spreads: list[dict[str, Any]] = (
        [{}, {"connections": 2}] if engine.dialect.name == "postgresql" else [{}]
    )
    for created, spread in zip((3, 0), spreads, strict=False):
        counts = await create_or_update_many(
            engine, Typed, rows, key="code", atomic=False, on_error="skip", **spread
        )
        assert counts.created == created
        assert [error.index for error in counts.rejected] == [2]
        assert isinstance(counts.rejected[0].__cause__, ValueError)


async def test_callers_are_gathered(engine: AsyncEngine) -> None:
    async with Coalescer(engine, Typed, key="code") as coalescer:
        results = await asyncio.gather(
            *(
                coalescer.create_or_update(
                    key=KEY,
                    defaults={"hits": F("hits") + 1, "mood": Mood.BAD},
                    where=coalesce(F("mood"), Mood.BAD) == Mood.BAD,
                    returning=["code", "hits", "mood"],
                )
                for _ in range(20)
            )
        )
    rows = sorted(
        (dict(result.row or {}) for result in results), key=lambda row: row["hits"]
    )
    assert rows == [{**KEY, "hits": n, "mood": Mood.BAD} for n in range(1, 21)]
    assert sum(result.created for result in results) == 1


async def test_text_is_converted_by_the_database(engine: AsyncEngine) -> None:
    row = {"code": "x", "hits": "7", "flag": "1", "uid": str(VALUES["uid"]), "tag": "y"}
    if engine.dialect.name == "sqlite":
        row["uid"] = VALUES["uid"].hex
    await create_or_update_many(engine, Typed, [row], key="code", convert_text=True)
    (found,) = await stored(engine)
    assert found == {**found, "hits": 7, "flag": True, "uid": VALUES["uid"], "tag": "y"}
