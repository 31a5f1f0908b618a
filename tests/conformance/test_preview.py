"""What preview shows: the statements of a call, none of which it sends."""

import logging
import re
from typing import Any, Final, get_args

import psycopg
import psycopg_pool
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from aioupsert import (
    Excluded,
    F,
    MissingUniqueIndexError,
    Statement,
    UnknownColumnError,
    UnknownTableError,
    UsageError,
    create_or_update,
    preview,
)
from aioupsert.typing import Strategy
from tests.support.databases import Database, driver_connection, every_handle

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
KEY = {"k": "secret key"}
# On PostgreSQL with its schema, as another operator may be before it in the search_path.
PLUS: Final = r"(\+|OPERATOR\(pg_catalog\.\+\))"

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


@pytest.fixture
async def conn(db: Database) -> Any:
    """A connection, with an empty table."""
    await db.run("CREATE TABLE t (k TEXT PRIMARY KEY, n INTEGER DEFAULT 0, s TEXT)")
    return db.handle


@every_handle
@every_strategy
async def test_it_writes_nothing(conn: Any, db: Database, strategy: Strategy) -> None:
    shown = await preview(conn, "t", key=KEY, defaults={"n": 1}, strategy=strategy)
    assert shown
    assert all(isinstance(statement, Statement) for statement in shown)
    assert await db.query("SELECT * FROM t") == []


async def test_it_leaves_a_row_that_is_there(conn: Any, db: Database) -> None:
    await db.run("INSERT INTO t VALUES ('secret key', 7, 'x')")
    await preview(conn, "t", key=KEY, defaults={"n": F("n") + 1})
    assert await db.query("SELECT * FROM t") == [("secret key", 7, "x")]


async def test_it_knows_a_column_that_was_added_since(conn: Any, db: Database) -> None:
    await preview(conn, "t", key=KEY, defaults={"n": 1})
    await db.run("ALTER TABLE t ADD COLUMN added INTEGER")
    shown = await preview(conn, "t", key=KEY, defaults={"added": 1})
    assert any('"added"' in statement.sql for statement in shown)


@every_strategy
async def test_values_are_arguments_and_never_text(
    conn: Any, strategy: Strategy
) -> None:
    shown = await preview(
        conn,
        "t",
        key=KEY,
        defaults={"n": 123456},
        create_defaults={"s": "secret text"},
        where=F("n") < 654321,
        strategy=strategy,
    )
    sent = {argument for statement in shown for argument in statement.arguments}
    assert sent == {"secret key", 123456, "secret text", 654321}
    for statement in shown:
        assert not re.search("secret|123456|654321", statement.sql)


@every_handle
@every_strategy
@pytest.mark.parametrize("there", [False, True], ids=["creates", "updates"])
async def test_a_call_sends_what_was_shown(
    conn: Any,
    db: Database,
    caplog: pytest.LogCaptureFixture,
    strategy: Strategy,
    *,
    there: bool,
) -> None:
    arguments: dict[str, Any] = {
        "key": KEY,
        "defaults": {"n": F("n") + 1, "s": "x"},
        "where": Excluded("s") != F("s"),
        "returning": "*",
        "strategy": strategy,
    }
    if there:
        await db.run("INSERT INTO t VALUES ('secret key', 7, 'x')")
    shown = await preview(conn, "t", **arguments)
    with caplog.at_level(logging.DEBUG, "aioupsert"):
        caplog.clear()
        await create_or_update(conn, "t", **arguments)
    commands = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
    sent = [m for m in caplog.messages if not m.startswith(commands)]
    assert sent
    assert set(sent) <= {" ".join(statement.sql.split()) for statement in shown}


async def run_by_hand(conn: Any, shown: tuple[Statement, ...]) -> list[Any]:
    """Send one after the other with the driver, until one has settled the matter."""
    for statement in shown:
        if isinstance(conn, AsyncEngine):
            async with conn.connect() as own:
                await own.execution_options(isolation_level="AUTOCOMMIT")
                return await run_by_hand(driver_connection(own), shown)
        elif isinstance(conn, AsyncConnection):
            return await run_by_hand(driver_connection(conn), shown)
        elif hasattr(conn, "fetch"):
            rows = await conn.fetch(statement.sql, *statement.arguments)
        elif isinstance(conn, psycopg_pool.AsyncConnectionPool):
            async with conn.connection() as lent:
                return await run_by_hand(lent, shown)
        elif isinstance(conn, psycopg.AsyncConnection):
            cursor = psycopg.AsyncRawCursor(conn)
            await cursor.execute(statement.sql.encode(), statement.arguments)
            rows = await cursor.fetchall()
        else:
            rows = await conn.execute_fetchall(statement.sql, statement.arguments)
        # A query that finds a row to be written (2) does not write it.
        if rows and not (statement.sql.startswith("SELECT") and rows[0][0] == 2):
            return list(rows)
    return []


# What is there before, and what is there then.
BY_HAND: dict[str, tuple[tuple[int, str] | None, tuple[int, str]]] = {
    "creates": (None, (5, "new")),
    "updates": ((7, "old"), (12, "new")),
    "leaves what is equal": ((7, "new"), (7, "new")),
    "skips": ((99, "old"), (99, "old")),
}


@every_strategy
@pytest.mark.parametrize(("before", "after"), BY_HAND.values(), ids=BY_HAND)
async def test_the_statements_do_the_same_when_run_by_hand(
    conn: Any,
    db: Database,
    strategy: Strategy,
    before: tuple[int, str] | None,
    after: tuple[int, str],
) -> None:
    if before is not None:
        await db.run(f"INSERT INTO t VALUES ('secret key', {before[0]}, '{before[1]}')")
    shown = await preview(
        conn,
        "t",
        key=KEY,
        defaults={"s": "new"},
        touch={"n": F("n") + 5},
        where=F("n") < 50,
        returning=("n", "s"),
        strategy=strategy,
    )
    rows = await run_by_hand(conn, shown)
    # The first column is for the library only, which knows what it asked before.
    assert [tuple(row)[1:] for row in rows] == [after]
    assert await db.query("SELECT k, n, s FROM t") == [("secret key", *after)]


@pytest.mark.parametrize(
    ("strategy", "postgresql", "sqlite"),
    [
        *(
            (strategy, ["first", "at REPEATABLE", "when a"], ["first", "when the row"])
            for strategy in ("auto", "fast")
        ),
        ("exact", ["first", "when the row"], ["first", "when the row"]),
        ("on_conflict", ["first", "when a concurrent"], ["first", "when the row"]),
    ],
)
async def test_each_statement_says_when_it_is_sent(
    conn: Any,
    db: Database,
    strategy: Strategy,
    postgresql: list[str],
    sqlite: list[str],
) -> None:
    shown = await preview(conn, "t", key=KEY, defaults={"n": 1}, strategy=strategy)
    expected = {"postgresql": postgresql, "sqlite": sqlite}[db.engine]
    assert len(shown) >= len(expected)
    for statement, when in zip(shown, expected, strict=False):
        assert statement.when.startswith(when)


async def test_expressions_are_written_for_both_branches(conn: Any) -> None:
    shown = await preview(conn, "t", key=KEY, defaults={"n": F("n") + 5})
    text = " ".join(statement.sql for statement in shown)
    assert re.search(rf'UPDATE .*"t"\."n" {PLUS} ', text)
    assert re.search(rf"INSERT .*\(0\).* {PLUS} ", text)


async def test_callables_are_called(conn: Any) -> None:
    shown = await preview(conn, "t", key=KEY, defaults={"s": lambda: "made"})
    assert any("made" in statement.arguments for statement in shown)


@pytest.mark.parametrize(
    ("table", "arguments", "error"),
    [
        ("nowhere", {"key": KEY}, UnknownTableError),
        ("t", {"key": {"x": 1}}, UnknownColumnError),
        ("t", {"key": {}}, UsageError),
        (
            "t",
            {"key": {"s": "x"}, "without_unique_index": "error"},
            MissingUniqueIndexError,
        ),
    ],
    ids=["table", "column", "key", "index"],
)
async def test_it_refuses_what_the_call_would_refuse(
    conn: Any, table: str, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        await preview(conn, table, **arguments)
