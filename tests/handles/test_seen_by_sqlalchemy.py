"""What SQLAlchemy's events and log see of a call, and its errors."""

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError, DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from aioupsert import (
    BulkError,
    Coalescer,
    F,
    create_or_update,
    create_or_update_many,
    get_or_create,
    is_retryable,
)

ADD: dict[str, Any] = {"key": {"k": "a"}, "defaults": {"n": F("n") + 1}}
WRONG: dict[str, Any] = {"key": {"k": "x"}, "defaults": {"n": 100}}


@pytest.fixture(autouse=True)
async def table(place: Any) -> None:
    await place.run(
        "CREATE TABLE t (k text PRIMARY KEY, n integer NOT NULL DEFAULT 0 CHECK (n < 9))"
    )


class Seen:
    """What listeners have been told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.parameters: list[Any] = []
        self.open = 0

    def before(self, *arguments: Any) -> None:
        """`before_cursor_execute`."""
        conn, cursor, sql, parameters, context, many = arguments
        assert context.root_connection is conn
        assert context.cursor is cursor
        assert context.executemany is many
        context.opened_here = True
        self.open += 1
        self.events.append(("before", sql))
        self.parameters.append(parameters)

    def after(self, *arguments: Any) -> None:
        """`after_cursor_execute`."""
        _, _, sql, _, context, _ = arguments
        assert context.opened_here
        self.open -= 1
        self.events.append(("after", sql))

    def failed(self, context: Any) -> None:
        """`handle_error`."""
        assert context.execution_context.opened_here
        assert isinstance(context.sqlalchemy_exception, DBAPIError)
        self.open -= 1
        self.events.append(("error", context.statement))

    def statements(self, start: str) -> list[str]:
        return [sql for kind, sql in self.events if kind == "before" and start in sql]


@contextmanager
def listening(target: Any, listeners: dict[str, Any], **options: Any) -> Iterator[None]:
    for name, listener in listeners.items():
        sa.event.listen(target, name, listener, **options)
    yield
    for name, listener in listeners.items():
        sa.event.remove(target, name, listener)


@pytest.fixture
def seen(engine: AsyncEngine) -> Iterator[Seen]:
    found = Seen()
    listeners = {
        "before_cursor_execute": found.before,
        "after_cursor_execute": found.after,
        "handle_error": found.failed,
    }
    with listening(engine.sync_engine, listeners):
        yield found


async def test_every_statement_is_seen(engine: AsyncEngine, seen: Seen) -> None:
    async with AsyncSession(engine) as session:
        await create_or_update(session, "t", **ADD)
        seen.events.clear()
        await create_or_update(session, "t", key={"k": "b"}, defaults={"n": 4})
        inserts = seen.statements("INSERT")
        assert inserts
        assert any("b" in parameters for parameters in seen.parameters)
        await get_or_create(session, "t", key={"k": "b"})
        await create_or_update_many(session, "t", [{"k": "c", "n": 1}] * 3, key="k")
        mixed = [{"k": "d", "n": 1}, {"k": "e"}, {"k": "d", "n": 2}]
        await create_or_update_many(session, "t", mixed, key="k")
        await session.commit()
    await create_or_update(engine, "t", **ADD)
    async with Coalescer(engine, "t", key="k") as coalescer:
        await coalescer.create_or_update(**ADD)
    rows = [{"k": f"{number}", "n": 1} for number in range(6000)]
    await create_or_update_many(engine, "t", rows, key="k")
    if engine.dialect.name == "postgresql":
        assert seen.statements("COPY pg_temp")
    assert seen.open == 0
    kinds = [kind for kind, _ in seen.events]
    assert kinds.count("before") == kinds.count("after")


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"], indirect=True)
async def test_one_statement_stays_one(engine: AsyncEngine, seen: Seen) -> None:
    async with AsyncSession(engine) as session:
        await create_or_update(session, "t", **ADD)
        seen.events.clear()
        await create_or_update(session, "t", **ADD)
        assert [kind for kind, _ in seen.events] == ["before", "after"]


async def test_a_failed_statement_is_handled(engine: AsyncEngine, seen: Seen) -> None:
    for _ in range(2):
        with pytest.raises(IntegrityError):
            await create_or_update(engine, "t", **WRONG)
        with pytest.raises(BulkError):
            await create_or_update_many(engine, "t", [{"k": "c", "n": 100}], key="k")
        with pytest.raises(BulkError):
            mixed = [{"k": "c", "n": 1}, {"k": "d"}, {"k": "e", "n": 100}]
            await create_or_update_many(engine, "t", mixed, key="k")
    assert seen.open == 0
    assert "error" in [kind for kind, _ in seen.events]


async def test_a_listener_for_errors_alone_knows_the_statement(
    engine: AsyncEngine,
) -> None:
    found: list[str] = []

    def look(context: Any) -> None:
        assert context.execution_context.root_connection is context.connection
        found.append(context.statement)

    await create_or_update(engine, "t", key={"k": "x"}, defaults={"n": 1})
    with (
        listening(engine.sync_engine, {"handle_error": look}),
        pytest.raises(IntegrityError),
    ):
        await create_or_update(engine, "t", **WRONG)
    assert all('"t"' in statement for statement in found)
    assert found


@pytest.mark.parametrize("driver", ["aiosqlite"], indirect=True)
async def test_an_error_that_is_not_the_database_s_is_raised_as_it_is(
    engine: AsyncEngine,
) -> None:
    found: list[Any] = []

    def look(context: Any) -> None:
        found.append((context.original_exception, context.sqlalchemy_exception))

    with listening(engine.sync_engine, {"handle_error": look}):
        async with engine.connect() as connection:
            with pytest.raises(OverflowError) as expected:
                await connection.execute(
                    sa.text("INSERT INTO t VALUES ('x', :n)"), {"n": 2**70}
                )
        with pytest.raises(OverflowError) as caught:
            await create_or_update(engine, "t", key={"k": "x"}, defaults={"n": 2**70})
    assert str(caught.value) == str(expected.value)
    assert found == [(expected.value, None), (caught.value, None)]


@pytest.mark.parametrize("driver", ["aiosqlite"], indirect=True)
async def test_an_error_of_the_check_of_the_table_is_sqlalchemy_s(
    engine: AsyncEngine,
) -> None:
    def deny(action: int, name: str, *_: Any) -> int:
        is_check = action == sqlite3.SQLITE_PRAGMA and name == "schema_version"
        return sqlite3.SQLITE_DENY if is_check else sqlite3.SQLITE_OK

    async with engine.connect() as connection:
        await create_or_update(connection, "t", key={"k": "a"})
        raw: Any = (await connection.get_raw_connection()).driver_connection
        # The oldest aiosqlite has no method for it.
        await raw._execute(raw._conn.set_authorizer, deny)
        with pytest.raises(DatabaseError, match="not authorized"):
            # A new row takes a default, which is that of the table as it was described.
            await create_or_update(
                connection, "t", key={"k": "b"}, defaults={"n": F("n") + 1}
            )
        await connection.commit()
        assert (await connection.execute(sa.text("SELECT k FROM t"))).all() == [("a",)]


@pytest.mark.parametrize("raises", [False, True])
async def test_listeners_may_change_a_statement_and_an_error(
    engine: AsyncEngine, *, raises: bool
) -> None:
    sent: list[str] = []

    def comment(*arguments: Any) -> Any:
        _, _, sql, parameters, _, _ = arguments
        return f"{sql} /* from here */", parameters

    def note(*arguments: Any) -> None:
        sent.append(arguments[2])

    class MineError(Exception):
        pass

    def mine(context: Any) -> Exception:
        error = MineError(str(context.original_exception))
        if raises:
            raise error
        return error

    target = engine.sync_engine
    with (
        listening(target, {"before_cursor_execute": comment}, retval=True),
        listening(target, {"after_cursor_execute": note}),
    ):
        assert (await create_or_update(engine, "t", **ADD)).created
    assert all(sql.endswith("/* from here */") for sql in sent)
    with listening(target, {"handle_error": mine}, retval=True):
        with pytest.raises(MineError):
            await create_or_update(engine, "t", **WRONG)
        rows = [{"k": "b", "n": 1}, {"k": "c", "n": 100}]
        with pytest.raises(BulkError) as caught:
            await create_or_update_many(engine, "t", rows, key="k")
    assert caught.value.index == 1
    assert isinstance(caught.value.__cause__, MineError)


async def test_listeners_run_in_the_caller_s_context(engine: AsyncEngine) -> None:
    request: ContextVar[str] = ContextVar("request", default="none")
    found: list[str] = []

    def look(*_: Any) -> None:
        found.append(request.get())

    async def call(name: str) -> None:
        request.set(name)
        async with AsyncSession(engine) as session:
            await create_or_update(session, "t", key={"k": name})
            await session.commit()

    with listening(engine.sync_engine, {"before_cursor_execute": look}):
        await asyncio.gather(call("a"), call("b"))
    assert {*found} == {"a", "b"}


async def test_echo_logs_statements_and_hides_parameters(
    engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        await create_or_update(engine, "t", key={"k": "shown"})
        rows = [{"k": "first"}, {"k": "second"}]
        await create_or_update_many(engine, "t", rows, key="k")
    assert 'INSERT INTO "t"' in caplog.text
    assert "('shown'" in caplog.text
    caplog.clear()
    engine.sync_engine.hide_parameters = True
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        await create_or_update(engine, "t", key={"k": "secret"})
    with pytest.raises(IntegrityError) as caught:
        await create_or_update(engine, "t", key={"k": "secret"}, defaults={"n": 10})
    assert "secret" not in caplog.text
    assert "[parameters" not in str(caught.value)


def original(error: BaseException | None) -> Any:
    assert isinstance(error, IntegrityError)
    return error.orig


DRIVERS: dict[str, Any] = {
    "psycopg": psycopg.errors.CheckViolation,
    "aiosqlite": sqlite3.IntegrityError,
}


@pytest.mark.parametrize("over", ["engine", "connection", "session"])
async def test_errors_are_sqlalchemy_s(
    engine: AsyncEngine, driver: str, over: str
) -> None:
    async def fails(call: Any) -> Any:
        if over == "engine":
            return await call(engine)
        async with AsyncSession(engine) as session:
            handle = session if over == "session" else await session.connection()
            return await call(handle)

    async def orms(handle: Any) -> None:
        handle = engine if over == "engine" else handle
        if over == "engine":
            async with engine.begin() as connection:
                await connection.execute(sa.text("INSERT INTO t VALUES ('y', 100)"))
        await handle.execute(sa.text("INSERT INTO t VALUES ('y', 100)"))

    with pytest.raises(IntegrityError) as expected:
        await fails(orms)
    with pytest.raises(IntegrityError) as caught:
        await fails(lambda handle: create_or_update(handle, "t", **WRONG))
    assert type(caught.value.orig) is type(expected.value.orig)
    assert 'INTO "t"' in str(caught.value)
    with pytest.raises(BulkError) as bulk:
        rows = [{"k": "a", "n": 1}, {"k": "b", "n": 100}]
        await fails(lambda handle: create_or_update_many(handle, "t", rows, key="k"))
    assert bulk.value.index == 1
    error = original(bulk.value.__cause__)
    if driver == "asyncpg":
        error = error.__cause__
    assert isinstance(error, DRIVERS.get(driver, asyncpg.CheckViolationError))


async def test_errors_of_single_calls_in_a_batch_are_sqlalchemy_s(
    engine: AsyncEngine,
) -> None:
    async with Coalescer(engine, "t", key="k") as coalescer:
        results = await asyncio.gather(
            coalescer.create_or_update(**ADD),
            coalescer.create_or_update(**WRONG),
            coalescer.create_or_update(**ADD),
            return_exceptions=True,
        )
    assert [isinstance(r, IntegrityError) for r in results] == [False, True, False]
    rows = [{"k": f"{n}", "n": 100 if n in {3, 77} else 0} for n in range(100)]
    counts = await create_or_update_many(
        engine, "t", rows, key="k", atomic=False, on_error="skip"
    )
    assert [row.index for row in counts.rejected] == [3, 77]
    assert all(original(row.__cause__) for row in counts.rejected)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"], indirect=True)
async def test_a_transient_error_is_retryable(engine: AsyncEngine, place: Any) -> None:
    await place.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE SQLSTATE '40001'; END $$;"
        " CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    async with AsyncSession(engine) as session:
        with pytest.raises(DBAPIError) as caught:
            await create_or_update(session, "t", **ADD)
        assert is_retryable(caught.value)
    with pytest.raises(Exception, match="transient") as lasting:
        await create_or_update(engine, "t", **ADD, timeout=0.05)
    assert is_retryable(lasting.value)
    assert isinstance(lasting.value.__cause__, DBAPIError)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"], indirect=True)
async def test_a_statement_that_is_sent_again_is_seen_again(
    engine: AsyncEngine, place: Any, seen: Seen
) -> None:
    await create_or_update(engine, "t", **ADD)
    await place.run(
        "CREATE SEQUENCE times; CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql"
        " AS $$ BEGIN IF nextval('times') = 1 THEN RAISE SQLSTATE '40001'; END IF;"
        " RETURN NEW; END $$;"
        " CREATE TRIGGER g BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    seen.events.clear()
    assert not (await create_or_update(engine, "t", **ADD)).created
    kinds = [kind for kind, _ in seen.events]
    assert kinds[:2] == ["before", "error"]
    assert kinds[2:] == ["before", "after"] * (len(kinds[2:]) // 2)
    assert await place.query("SELECT n FROM t") == [(2,)]


@pytest.mark.parametrize("driver", ["asyncpg"], indirect=True)
async def test_what_is_noted_on_the_driver_s_error_is_noted_on_sqlalchemy_s(
    engine: AsyncEngine, place: Any
) -> None:
    await place.run(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE SQLSTATE '26000'; END $$;"
        " CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()"
    )
    with pytest.raises(DBAPIError) as caught:
        await create_or_update(engine, "t", **ADD)
    (note,) = caught.value.__notes__
    assert "a pooler seems to switch this connection" in note


@pytest.mark.parametrize("driver", ["psycopg"], indirect=True)
async def test_an_error_of_a_value_is_of_its_class(engine: AsyncEngine) -> None:
    with pytest.raises(DataError):
        await create_or_update(engine, "t", key={"k": "a"}, defaults={"n": 2**40})
