"""
The same change by the ORM and by a call: it must not be seen which of them made it.

Compared are the stored rows, what a loaded object shows, what listeners are told, and
the error of a change that the database refuses, for models with several features.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, mapped_column

from aioupsert import F, create_or_update, create_or_update_many
from tests.models.conftest import MakeEngine
from tests.models.tables import Code
from tests.support.pairwise import pairwise

FEATURES: Final = ("counts versions", "has defaults", "has a type", "has classes")
MODELS: Final = [*pairwise(*((False, True) for _ in FEATURES))]

Change = Callable[[AsyncSession, Any], Awaitable[object]]


def model_with(*, version: bool, defaults: bool, kind: bool, classes: bool) -> Any:
    class Base(DeclarativeBase):
        """What is mapped here."""

    mapper: dict[str, Any] = {}
    body: dict[str, Any] = {
        "__tablename__": "things",
        "__mapper_args__": mapper,
        "id": mapped_column("the_id", sa.Integer, primary_key=True),
        "name": mapped_column(Code(50) if kind else sa.String(50), unique=True),
        "hits": mapped_column(
            "Hits", sa.Integer, sa.CheckConstraint('"Hits" < 9'), server_default="0"
        ),
        "note": mapped_column(sa.String(50)),
    }
    if version:
        body["version"] = mapper["version_id_col"] = mapped_column(sa.Integer)
    if defaults:
        body["made"] = mapped_column(
            sa.String(50), default=lambda: "made", onupdate=lambda: "again"
        )
    if not classes:
        return type("Thing", (Base,), body)
    body["kind"] = mapper["polymorphic_on"] = mapped_column(sa.String(50))
    mapper["polymorphic_identity"] = "thing"
    args = {"__mapper_args__": {"polymorphic_identity": "special"}}
    return type("Special", (type("Thing", (Base,), body),), args)


# --- The changes ----------------------------------------------------------------------


async def held(session: AsyncSession, model: Any) -> Any:
    return (await session.execute(sa.select(model).where(model.name == "a"))).scalar()


async def orm_creates(session: AsyncSession, model: Any) -> None:
    session.add(model(name="a", note="first"))
    await session.flush()


async def orm_updates(session: AsyncSession, model: Any) -> None:
    thing = await held(session, model)
    thing.note, thing.hits = "second", model.hits + 1
    await session.flush()


async def orm_stores_many(session: AsyncSession, model: Any) -> None:
    (await held(session, model)).note = "third"
    session.add(model(name="b", hits=3))
    await session.flush()


async def orm_is_refused(session: AsyncSession, model: Any) -> None:
    (await held(session, model)).hits = 100
    await session.flush()


async def call_creates(session: AsyncSession, model: Any) -> None:
    await create_or_update(
        session, model, key={"name": "a"}, defaults={"note": "first"}
    )


async def call_updates(session: AsyncSession, model: Any) -> None:
    defaults = {"note": "second", "hits": F("hits") + 1}
    await create_or_update(session, model, key={"name": "a"}, defaults=defaults)


async def call_stores_many(session: AsyncSession, model: Any) -> None:
    rows = [{"name": "a", "note": "third"}, {"name": "b", "hits": 3}]
    await create_or_update_many(session, model, rows, key="name")


async def call_is_refused(session: AsyncSession, model: Any) -> None:
    await create_or_update(session, model, key={"name": "a"}, defaults={"hits": 100})


BY_ORM: Final[list[Change]] = [
    orm_creates,
    orm_updates,
    orm_stores_many,
    orm_is_refused,
]
BY_CALLS: Final[list[Change]] = [
    call_creates,
    call_updates,
    call_stores_many,
    call_is_refused,
]


# --- What is seen of them -------------------------------------------------------------


async def outcome(
    engine: AsyncEngine, model: Any, change: Change, *, refresh: bool
) -> tuple[Any, ...]:
    """
    Make a change, and return what was seen of it.

    Args:
        engine: Where.
        model: What it changes.
        change: The change.
        refresh: Whether the object must be refreshed to show what is stored.
    """
    told: set[str] = set()
    errors: list[Any] = []

    def sent(*arguments: Any) -> None:
        told.update(verb for verb in ("INSERT", "UPDATE") if verb in arguments[2])

    def failed(context: Any) -> None:
        errors.append(type(context.sqlalchemy_exception))

    raised: Any = None
    shown: Any = None
    names = [attribute.key for attribute in sa.inspect(model).column_attrs]
    async with AsyncSession(engine) as session:
        thing = await held(session, model)
        sa.event.listen(engine.sync_engine, "before_cursor_execute", sent)
        sa.event.listen(engine.sync_engine, "handle_error", failed)
        try:
            await change(session, model)
        except DBAPIError as exc:
            raised = type(exc), type(exc.orig)
            await session.rollback()
        else:
            if thing is not None and refresh:
                await session.refresh(thing)
            if thing is not None:
                shown = {name: getattr(thing, name) for name in names}
            await session.commit()
        finally:
            sa.event.remove(engine.sync_engine, "before_cursor_execute", sent)
            sa.event.remove(engine.sync_engine, "handle_error", failed)
    async with engine.connect() as connection:
        table = model.__table__
        rows = await connection.execute(sa.select(table).order_by(table.c.name))
        stored = [{**row._mapping} for row in rows]
    return stored, shown, raised, errors, told


@pytest.mark.parametrize("features", MODELS, ids=str)
async def test_it_is_not_seen_who_made_a_change(
    make_engine: MakeEngine, features: tuple[bool, ...]
) -> None:
    version, defaults, kind, classes = features
    model = model_with(version=version, defaults=defaults, kind=kind, classes=classes)
    engine = make_engine()
    seen: list[list[tuple[Any, ...]]] = []
    for changes in (BY_ORM, BY_CALLS):
        async with engine.begin() as connection:
            await connection.run_sync(model.metadata.drop_all)
            await connection.run_sync(model.metadata.create_all)
        seen.append(
            [
                await outcome(engine, model, change, refresh=changes is BY_ORM)
                for change in changes
            ]
        )
    await engine.dispose()
    for (*by_orm, told), (*by_call, told_by_call) in zip(*seen, strict=True):
        assert by_call == by_orm
        assert told <= told_by_call
    assert seen[0][-1][2] is not None
    assert [row["Hits"] for row in seen[0][-1][0]] == [1, 3]
