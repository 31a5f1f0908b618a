"""What the logger "aioupsert" writes: statements, and never a value."""

import logging
from typing import Any, get_args

import pytest

from aioupsert import F, create_or_update, get_or_create
from aioupsert.typing import Strategy
from tests.support.databases import Database, every_handle

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
SECRET = "s3cret"  # noqa: S105  # what must not be logged


@pytest.fixture
async def conn(db: Database) -> Any:
    """A connection with an empty table."""
    await db.run("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT, n INTEGER DEFAULT 0)")
    return db.handle


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_statements_are_logged_on_one_line_and_values_never(
    conn: Any, caplog: pytest.LogCaptureFixture, strategy: Strategy
) -> None:
    caplog.set_level(logging.DEBUG, "aioupsert")
    for _ in range(2):
        await create_or_update(
            conn,
            "t",
            key={"k": SECRET},
            defaults={"v": f"{SECRET}\nvalue", "n": F("n") + 918273},
            where=F("v") != f"not {SECRET}",
            returning="*",
            strategy=strategy,
        )
        await get_or_create(conn, "t", key={"k": f"other {SECRET}"}, strategy=strategy)
    records = [r for r in caplog.records if r.name == "aioupsert"]
    assert {record.levelno for record in records} == {logging.DEBUG}
    for record in records:
        assert len(record.getMessage().splitlines()) == 1
        assert SECRET not in record.getMessage()
        assert "918273" not in record.getMessage()
        assert SECRET not in repr(record.args)


# One statement; on SQLite all within one transaction, which costs no round trip.
POSTGRESQL = (["INSERT"], ["INSERT"])
SQLITE = (
    ["BEGIN", "UPDATE", "INSERT", "COMMIT"],
    ["BEGIN", "UPDATE", "COMMIT"],
)


@every_handle
async def test_every_statement_is_logged_once(
    conn: Any, db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    expected = {"postgresql": POSTGRESQL, "sqlite": SQLITE}[db.engine]
    # The table's description is read and logged by this one.
    await create_or_update(conn, "t", key={"k": "a"}, defaults={"n": 1})
    with caplog.at_level(logging.DEBUG, "aioupsert"):
        for words in expected:
            caplog.clear()
            await create_or_update(conn, "t", key={"k": "b"}, defaults={"n": 1})
            assert [message.split()[0] for message in caplog.messages] == words


async def test_nothing_is_logged_above_debug(
    conn: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "aioupsert")
    for _ in range(2):
        await create_or_update(conn, "t", key={"k": "a"}, defaults={"n": 1})
    assert caplog.records == []


# As often as it is told, an insert loses against another transaction.
FLICKER = """
    CREATE FUNCTION flicker() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('attempts') <= {} THEN
                RAISE serialization_failure;
            END IF;
            RETURN NEW;
        END
    $$;
    CREATE SEQUENCE attempts;
    CREATE TRIGGER flicker BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION flicker()
"""


@pytest.mark.parametrize("db", ["asyncpg"], indirect=True)
@pytest.mark.parametrize(
    ("conflicts", "warnings"), [(9, []), (12, ["t: 13 attempts"])], ids=["few", "many"]
)
async def test_unusually_many_attempts_are_a_warning(
    conn: Any,
    db: Database,
    caplog: pytest.LogCaptureFixture,
    conflicts: int,
    warnings: list[str],
) -> None:
    await db.run(FLICKER.format(conflicts))
    with caplog.at_level(logging.WARNING, "aioupsert"):
        result = await create_or_update(conn, "t", key={"k": "a"}, defaults={"n": 1})
    assert result.created
    assert [(r.name, r.levelname) for r in caplog.records] == [
        ("aioupsert", "WARNING") for _ in warnings
    ]
    assert caplog.messages == warnings
