"""Connections, sessions and engines of SQLAlchemy: whose transaction a call is in."""

import asyncio
import gc
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import create_mock_engine, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from aioupsert import (
    Action,
    BulkResult,
    Coalescer,
    F,
    UnsupportedConnectionError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    is_retryable,
    iter_create_or_update,
    preview,
)
from tests.support.cancellation import DELAYS, CancelledAt
from tests.support.databases import CONNECTIONS
from tests.support.pairwise import pairwise

ADD: dict[str, Any] = {"key": {"k": "a"}, "defaults": {"n": F("n") + 1}}


@pytest.fixture(autouse=True)
async def table(place: Any) -> None:
    await place.run("CREATE TABLE t (k text PRIMARY KEY, n integer NOT NULL DEFAULT 0)")


@asynccontextmanager
async def scoped(engine: AsyncEngine) -> Any:
    sessions = async_scoped_session(async_sessionmaker(engine), asyncio.current_task)
    yield sessions
    await sessions.remove()


HANDLES: dict[str, Any] = {
    "connection": AsyncEngine.connect,
    "session": AsyncSession,
    "scoped session": scoped,
    "session of SQLModel": SQLModelSession,
}
every_handle = pytest.mark.parametrize("opened", HANDLES.values(), ids=HANDLES)


async def stored(place: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = await place.query("SELECT k, n FROM t ORDER BY k")
    return rows


@every_handle
async def test_the_caller_commits(engine: AsyncEngine, place: Any, opened: Any) -> None:
    async with opened(engine) as handle:
        assert (await create_or_update(handle, "t", **ADD)).created
        assert (await create_or_update(handle, "t", **ADD)).action is Action.UPDATED
        await create_or_update(handle, "t", key={"k": "a"}, defaults={"n": 12})
        assert (await get_or_create(handle, "t", key={"k": "a"})).row == {
            "k": "a",
            "n": 12,
        }
        assert await preview(handle, "t", **ADD)
        assert await stored(place) == []
        await handle.commit()
    assert await stored(place) == [("a", 12)]


@every_handle
async def test_a_rollback_undoes_a_call_that_came_first(
    engine: AsyncEngine, place: Any, opened: Any
) -> None:
    for _ in range(2):
        async with opened(engine) as handle:
            await create_or_update(handle, "t", **ADD)
            await handle.rollback()
        async with opened(engine) as handle:
            await create_or_update_many(handle, "t", [{"k": "b", "n": 1}], key="k")
    assert await stored(place) == []


async def test_a_savepoint_of_the_caller_is_the_caller_s(
    engine: AsyncEngine, place: Any
) -> None:
    async with AsyncSession(engine) as session, session.begin():
        await create_or_update(session, "t", **ADD)
        nested = await session.begin_nested()
        await create_or_update(session, "t", **ADD)
        await nested.rollback()
    assert await stored(place) == [("a", 1)]


async def test_an_engine_s_call_is_committed(engine: AsyncEngine, place: Any) -> None:
    assert (await create_or_update(engine, "t", **ADD)).created
    assert await stored(place) == [("a", 1)]
    rows = [{"k": f"{number}", "n": number} for number in range(6000)]
    counts = await create_or_update_many(engine, "t", rows, key="k")
    assert counts == BulkResult(created=6000)
    results = [r async for r in iter_create_or_update(engine, "t", rows[:3], key="k")]
    assert [result.action for result in results] == [Action.UPDATED] * 3
    if engine.dialect.name == "postgresql":
        counts = await create_or_update_many(
            engine, "t", rows, key="k", connections=3, skip_unchanged=True
        )
        assert counts == BulkResult(unchanged=6000)
    async with engine.connect() as connection:
        assert not connection.in_transaction()
        found = await connection.execute(text("SELECT count(*) FROM t"))
        assert found.scalar_one() == 6001


async def test_callers_of_an_engine_are_gathered(
    engine: AsyncEngine, place: Any
) -> None:
    async with Coalescer(engine, "t", key="k") as coalescer:
        calls = (coalescer.create_or_update(**ADD) for _ in range(200))
        results = await asyncio.gather(*calls)
    assert sum(result.created for result in results) == 1
    assert await stored(place) == [("a", 200)]
    assert coalescer.stats.batches < 100


async def test_sessions_that_race_create_one_row(
    engine: AsyncEngine, place: Any
) -> None:
    async def count() -> bool:
        async with AsyncSession(engine) as session, session.begin():
            return (await create_or_update(session, "t", **ADD)).created

    created = await asyncio.gather(*(count() for _ in range(12)))
    assert sum(created) == 1
    assert await stored(place) == [("a", 12)]


async def test_autocommit_commits_each_call(engine: AsyncEngine, place: Any) -> None:
    automatic = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with automatic.connect() as connection:
        await create_or_update(connection, "t", **ADD)
        assert await stored(place) == [("a", 1)]
        await connection.rollback()
    await create_or_update(automatic, "t", **ADD)
    assert await stored(place) == [("a", 2)]


async def test_a_table_that_has_changed_is_read_again(
    engine: AsyncEngine, place: Any
) -> None:
    await create_or_update(engine, "t", **ADD)
    await place.run("ALTER TABLE t ADD COLUMN m integer")
    await create_or_update(engine, "t", key={"k": "a"}, defaults={"m": 5})
    await place.run("ALTER TABLE t DROP COLUMN n")
    await create_or_update(engine, "t", key={"k": "b"}, defaults={"m": 6})
    assert await place.query("SELECT k, m FROM t ORDER BY k") == [("a", 5), ("b", 6)]


async def test_an_isolation_level_is_kept(engine: AsyncEngine) -> None:
    options = {"isolation_level": "SERIALIZABLE"}
    async with engine.connect() as connection:
        await connection.execution_options(**options)
        await create_or_update(connection, "t", **ADD)
        if engine.dialect.name == "postgresql":
            found = await connection.execute(text("SHOW transaction_isolation"))
            assert found.scalar_one() == "serializable"


async def test_an_error_leaves_the_session_to_its_caller(
    engine: AsyncEngine, place: Any
) -> None:
    await place.run("CREATE UNIQUE INDEX u ON t (n); INSERT INTO t VALUES ('b', 1)")
    async with AsyncSession(engine) as session:
        with pytest.raises(IntegrityError):
            await create_or_update(session, "t", key={"k": "a"}, defaults={"n": 1})
        await session.rollback()
        await create_or_update(session, "t", key={"k": "a"}, defaults={"n": 2})
        await session.commit()
    with pytest.raises(IntegrityError):
        await create_or_update(engine, "t", key={"k": "c"}, defaults={"n": 1})
    assert await stored(place) == [("a", 2), ("b", 1)]


# A connection is lost when SQLAlchemy or aiosqlite is cancelled while it opens it.
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*was deleted before being:ResourceWarning")
async def test_a_cancelled_call_leaves_the_engine_and_the_session_usable(
    engine: AsyncEngine, place: Any
) -> None:
    gc.freeze()  # thousands of tests are not to be looked through in the end
    for turn in range(12):
        with suppress(TimeoutError):
            async with asyncio.timeout(turn / 2000):
                await create_or_update(engine, "t", **ADD)
        async with AsyncSession(engine) as session:
            await create_or_update(session, "t", key={"k": "b"})
            with suppress(TimeoutError):
                async with asyncio.timeout(turn / 4000):
                    await create_or_update(session, "t", **ADD)
            await session.rollback()
    await create_or_update(engine, "t", key={"k": "c"})
    assert ("c", 0) in await stored(place)
    assert ("b", 0) not in await stored(place)
    gc.collect()  # those that were lost: here, and not in another test
    gc.unfreeze()


@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*was deleted before being:ResourceWarning")
@pytest.mark.parametrize(
    ("driver", "opened", "delay", "twice"),
    [
        *pairwise(
            CONNECTIONS,
            [AsyncSession, AsyncEngine.connect, None],
            DELAYS,
            [False, True],
        ),
        # Only at once is the connection's BEGIN under way.
        ("asyncpg", AsyncEngine.connect, 0, False),
    ],
    indirect=["driver"],
)
async def test_cancelled_at_every_suspension_point(
    engine: AsyncEngine, place: Any, opened: Any, delay: float, *, twice: bool
) -> None:
    gc.freeze()  # as above
    point = acknowledged = 0
    reached = True
    while reached and point < 60:
        point += 1
        if opened is None:
            ours = CancelledAt(
                create_or_update(engine, "t", **ADD), point, delay, twice=twice
            )
            await ours.outcome()
        else:
            async with opened(engine) as handle:
                ours = CancelledAt(
                    create_or_update(handle, "t", **ADD), point, delay, twice=twice
                )
                await ours.outcome()
                await handle.rollback()
        reached = ours.reached
        # Whoever comes next is not disturbed, and what it writes is there.
        result = await create_or_update(
            engine, "t", key={"k": "b"}, defaults={"n": F("n") + 1}
        )
        acknowledged += 1
        assert result.created is (acknowledged == 1)
        assert ("b", acknowledged) in await stored(place)
    assert point > 1
    if opened is not None:
        assert await stored(place) == [("b", acknowledged)]
    gc.collect()
    gc.unfreeze()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"], indirect=True)
async def test_errors_that_sqlalchemy_wraps_are_told_apart(
    engine: AsyncEngine,
) -> None:
    async def fails(state: str) -> DBAPIError:
        async with engine.connect() as connection:
            block = f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"
            with pytest.raises(DBAPIError) as caught:
                await connection.execute(text(block))
        return caught.value

    assert is_retryable(await fails("40001"))
    assert not is_retryable(await fails("P0001"))


async def test_another_driver_is_refused() -> None:
    class Elsewhere(AsyncEngine):
        pass

    mock: Any = create_mock_engine("sqlite+pysqlite://", lambda *_: None)

    class Connection:
        dialect = mock.dialect

    @asynccontextmanager
    async def connect() -> Any:
        yield Connection

    handle: Any = Elsewhere.__new__(Elsewhere)
    handle.connect = connect
    words = r"SQLAlchemy's sqlite\+pysqlite: create the engine with"
    with pytest.raises(UnsupportedConnectionError, match=words):
        await create_or_update(handle, "t", **ADD)
