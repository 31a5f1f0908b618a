"""Errors: what they name, and that nothing of the call is left behind."""

import logging
import sqlite3
from typing import Any

import asyncpg
import pytest

from aioupsert import (
    Action,
    AioupsertError,
    Excluded,
    F,
    NotAppliedError,
    UnknownColumnError,
    UnknownTableError,
    UnsupportedConnectionError,
    UsageError,
    coalesce,
    create_or_update,
    get_or_create,
    preview,
)
from tests.support.databases import Database, every_handle, execute
from tests.support.violations import ABORTED, DATABASE, MISFIT, check_kind

KEY = {"path": "/"}


@pytest.fixture
async def pages(db: Database) -> Database:
    """An empty table."""
    await db.run(
        "CREATE TABLE pages (path TEXT PRIMARY KEY, hits INTEGER, title TEXT,"
        " total INTEGER GENERATED ALWAYS AS (hits * 2) STORED)"
    )
    return db


# --- unknown names ---


@pytest.mark.parametrize("call", [create_or_update, get_or_create, preview])
@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("page", r"^there is no table page \(did you mean 'pages'\?\)$"),
        ("zzz", r"^there is no table zzz$"),
        ("nowhere.pages", r"^there is no table nowhere\.pages"),
        (("pages.pages",), r"^there is no table pages\.pages"),
    ],
    ids=str,
)
async def test_an_unknown_table_is_named_with_the_closest_one(
    pages: Database, call: Any, table: Any, words: str
) -> None:
    with pytest.raises(UnknownTableError, match=words) as caught:
        await call(pages.handle, table, key=KEY)
    assert caught.value.table == ".".join([table] if isinstance(table, str) else table)


@every_handle
async def test_a_table_made_meanwhile_is_found(db: Database) -> None:
    with pytest.raises(UnknownTableError):
        await get_or_create(db.handle, "late", key={"k": 1})
    await db.run("CREATE TABLE late (k INTEGER PRIMARY KEY)")
    assert (await get_or_create(db.handle, "late", key={"k": 1})).created


PLACES: dict[str, dict[str, Any]] = {
    "key": {"key": {"titel": "x"}},
    "defaults": {"defaults": {"titel": "x"}},
    "create_defaults": {"create_defaults": {"titel": "x"}},
    "touch": {"touch": {"titel": "x"}},
    "returning": {"returning": "titel"},
    "among returning": {"returning": ("path", "titel")},
    "where": {"where": F("titel") == "x"},
    "F": {"defaults": {"title": F("titel")}},
    "Excluded": {"where": Excluded("titel") == "x"},
    "deep inside": {"defaults": {"hits": coalesce(F("hits"), 0) + (F("titel") + 1)}},
    "on create": {"create_defaults": {"title": F("titel").concat("x")}},
}


@pytest.mark.parametrize("arguments", PLACES.values(), ids=PLACES)
async def test_an_unknown_column_is_named_with_the_closest_one(
    pages: Database, arguments: dict[str, Any]
) -> None:
    with pytest.raises(UnknownColumnError) as caught:
        await create_or_update(pages.handle, "pages", **({"key": KEY} | arguments))
    assert str(caught.value) == (
        "table pages has no column 'titel' (did you mean 'title'?)"
    )
    assert (caught.value.table, caught.value.columns) == ("pages", ("titel",))
    assert await pages.query("SELECT * FROM pages") == []


async def test_unknown_columns_are_listed_together_and_sorted(pages: Database) -> None:
    with pytest.raises(UnknownColumnError) as caught:
        await create_or_update(
            pages.handle,
            "pages",
            key={"pth": "/"},
            defaults={"zzz": 1, "title": F("hitz")},
            create_defaults={"pth": 1},
            where=F("aaa") == 1,
            touch={"titles": 1},
            returning=("path", "qqqq"),
        )
    assert caught.value.columns == ("aaa", "hitz", "pth", "qqqq", "titles", "zzz")
    assert str(caught.value) == (
        "table pages has no column 'aaa', 'hitz' (did you mean 'hits'?),"
        " 'pth' (did you mean 'path'?), 'qqqq', 'titles' (did you mean 'title'?), 'zzz'"
    )
    assert await pages.query("SELECT * FROM pages") == []


@every_handle
async def test_an_unknown_name_does_not_abort_the_callers_transaction(
    pages: Database,
) -> None:
    async with pages.transaction() as conn:
        for table, key in (("page", KEY), ("pages", {"pth": "/"})):
            with pytest.raises(UsageError):
                await create_or_update(conn, table, key=key)
        await create_or_update(conn, "pages", key=KEY)
    assert await pages.query("SELECT path FROM pages") == [("/",)]


@pytest.mark.parametrize("name", [1, None, b"title", ("title",)], ids=repr)
async def test_a_column_name_that_is_no_text_is_unknown(
    pages: Database, name: Any
) -> None:
    with pytest.raises(UsageError, match=r"title|1|None"):
        await create_or_update(pages.handle, "pages", key=KEY, defaults={name: 1})


# --- arguments that make no sense ---

SENSELESS: dict[str, tuple[dict[str, Any], str]] = {
    "a text for defaults": ({"defaults": "title"}, "defaults must be a mapping"),
    "pairs for touch": ({"touch": [("title", 1)]}, "touch must be a mapping"),
    "a set for create_defaults": (
        {"create_defaults": {"title"}},
        "create_defaults must be a mapping",
    ),
    "a computed column": (
        {"defaults": {"total": 1}},
        r"defaults\['total'\]: the database computes this column of pages",
    ),
    "a computed column to touch": (
        {"touch": {"total": 1}},
        r"touch\['total'\]: the database computes this column",
    ),
    "a computed column's default": (
        {"defaults": {"hits": F("total") + 1}},
        r"F\('total'\) has no value when the row is created",
    ),
    "nothing is brought": (
        {"defaults": {"title": Excluded("hits").concat("x")}},
        r"Excluded\('hits'\): this call has no value for 'hits'",
    ),
    "a circle": (
        {"defaults": {"hits": Excluded("hits") + 1}},
        r"Excluded\('hits'\) is defined by itself",
    ),
    "a number for a condition": ({"where": 1}, "where takes an expression"),
    "a number as a condition": ({"where": F("hits")}, r"where cannot take 'hits'"),
}


@pytest.mark.parametrize(("arguments", "words"), SENSELESS.values(), ids=SENSELESS)
async def test_a_senseless_argument_is_named(
    pages: Database, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        await create_or_update(pages.handle, "pages", key=KEY, **arguments)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, AioupsertError)
    assert await pages.query("SELECT * FROM pages") == []


async def test_a_callable_that_fails_ends_the_call(pages: Database) -> None:
    def fail() -> None:
        msg = "mine"
        raise LookupError(msg)

    for call in (create_or_update, get_or_create):
        with pytest.raises(LookupError, match="mine"):
            await call(pages.handle, "pages", key=KEY, defaults={"title": fail})
    assert await pages.query("SELECT * FROM pages") == []


# --- what is no connection ---


def instance(module: str, name: str) -> Any:
    """Make something that says it comes from a module."""
    return type(name, (), {"__module__": module})()


STRANGERS: dict[str, tuple[Any, str]] = {
    "psycopg2": (
        instance("psycopg2.extensions", "connection"),
        "cannot use this psycopg2.extensions.connection: .* cannot be awaited",
    ),
    "psycopg": (instance("psycopg", "Connection"), "this cannot be awaited"),
    "psycopg_pool": (
        instance("psycopg_pool", "ConnectionPool"),
        "this cannot be awaited",
    ),
    "SQLAlchemy": (
        instance("sqlalchemy.orm.session", "Session"),
        r"not an AsyncConnection, AsyncSession or AsyncEngine of SQLAlchemy",
    ),
    "SQLModel": (
        instance("sqlmodel.orm.session", "Session"),
        "use sqlmodel.ext.asyncio.session.AsyncSession",
    ),
    "text": ("postgresql://localhost/db", "a string; open a connection first"),
    "None": (None, "pass an asyncpg Connection or Pool, an AsyncConnection"),
    "object": (object(), "cannot use this builtins.object: pass an asyncpg"),
}


@pytest.mark.parametrize(("stranger", "words"), STRANGERS.values(), ids=STRANGERS)
@pytest.mark.parametrize("call", [create_or_update, get_or_create, preview])
async def test_what_is_no_connection_is_told_with_a_hint(
    call: Any, stranger: Any, words: str
) -> None:
    with pytest.raises(UnsupportedConnectionError, match=words) as caught:
        await call(stranger, "pages", key=KEY)
    assert isinstance(caught.value, TypeError)
    assert "localhost" not in str(caught.value)


async def test_a_synchronous_connection_is_told_with_a_hint() -> None:
    conn: Any = sqlite3.connect(":memory:")
    with pytest.raises(UnsupportedConnectionError, match="open it with aiosqlite"):
        await create_or_update(conn, "pages", key=KEY)
    conn.close()


async def test_a_coroutine_is_told_with_a_hint() -> None:
    async def connect() -> None: ...

    conn: Any = connect()
    with pytest.raises(UnsupportedConnectionError, match="this was not awaited"):
        await create_or_update(conn, "pages", key=KEY)
    conn.close()


@pytest.mark.parametrize("db", ["pool"], indirect=True)
async def test_an_acquire_that_was_not_awaited_is_told_with_a_hint(
    db: Database,
) -> None:
    with pytest.raises(UnsupportedConnectionError, match="before it was awaited"):
        await create_or_update(db.handle.acquire(), "pages", key=KEY)


@pytest.mark.parametrize("db", ["asyncpg", "pooled"], indirect=True)
async def test_a_transaction_is_told_with_a_hint(db: Database) -> None:
    with pytest.raises(UnsupportedConnectionError, match="pass its connection"):
        await create_or_update(db.handle.transaction(), "pages", key=KEY)


# --- the database's own errors ---

STRICT = """
    CREATE TABLE parents (id INTEGER PRIMARY KEY);
    CREATE TABLE strict (
        id INTEGER PRIMARY KEY,
        email TEXT UNIQUE,
        age INTEGER NOT NULL DEFAULT 1 CHECK (age > 0),
        parent INTEGER REFERENCES parents (id)
    );
    INSERT INTO strict (id, email) VALUES (1, 'taken'), (2, 'other')
"""
VIOLATIONS: dict[str, tuple[dict[str, Any], type[Exception], int]] = {
    "not null": (
        {"age": None},
        asyncpg.NotNullViolationError,
        sqlite3.SQLITE_CONSTRAINT_NOTNULL,
    ),
    "check": (
        {"age": -1},
        asyncpg.CheckViolationError,
        sqlite3.SQLITE_CONSTRAINT_CHECK,
    ),
    "foreign key": (
        {"parent": 9},
        asyncpg.ForeignKeyViolationError,
        sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
    ),
    "another unique": (
        {"email": "taken"},
        asyncpg.UniqueViolationError,
        sqlite3.SQLITE_CONSTRAINT_UNIQUE,
    ),
}


@pytest.fixture
async def strict(db: Database) -> Database:
    """A table with constraints of every kind, and two rows."""
    await db.run(STRICT)
    if db.engine == "sqlite":
        await execute(db.handle, "PRAGMA foreign_keys = ON")
    return db


async def violate(conn: Any, values: dict[str, Any], key: int) -> Exception:
    with pytest.raises(DATABASE) as caught:
        await create_or_update(conn, "strict", key={"id": key}, defaults=values)
    return caught.value


violations = pytest.mark.parametrize(
    ("values", "postgresql", "sqlite"), VIOLATIONS.values(), ids=VIOLATIONS
)
create_and_update = pytest.mark.parametrize(
    "key", [3, 2], ids=["on create", "on update"]
)


@every_handle
@violations
@create_and_update
async def test_a_violation_is_the_drivers_own_error(
    strict: Database,
    values: dict[str, Any],
    key: int,
    postgresql: type[Exception],
    sqlite: int,
) -> None:
    before = await strict.query("SELECT * FROM strict ORDER BY id")
    error = await violate(strict.handle, values, key)
    check_kind(error, postgresql, sqlite)
    assert error.__traceback__ is not None
    assert await strict.query("SELECT * FROM strict ORDER BY id") == before
    # The connection is as usable as before.
    result = await create_or_update(strict.handle, "strict", key={"id": 1})
    assert result.action is Action.UNCHANGED


@violations
@create_and_update
async def test_get_or_create_lets_violations_through_on_create_only(
    strict: Database,
    values: dict[str, Any],
    key: int,
    postgresql: type[Exception],
    sqlite: int,
) -> None:
    call = get_or_create(strict.handle, "strict", key={"id": key}, defaults=values)
    if key == 2:
        assert not (await call).created
    else:
        with pytest.raises(DATABASE) as caught:
            await call
        check_kind(caught.value, postgresql, sqlite)


@every_handle
@violations
async def test_a_violation_leaves_the_callers_transaction_as_the_engine_does(
    strict: Database, values: dict[str, Any], postgresql: type[Exception], sqlite: int
) -> None:
    # PostgreSQL aborts it; a unique violation is behind a savepoint, since it may be
    # a lost race.
    aborts = strict.engine == "postgresql" and "email" not in values
    try:
        async with strict.transaction() as conn:
            await create_or_update(conn, "strict", key={"id": 7})
            check_kind(await violate(conn, values, 3), postgresql, sqlite)
            await create_or_update(conn, "strict", key={"id": 8})
    except ABORTED:
        assert aborts
    rows = await strict.query("SELECT id FROM strict WHERE id > 2 ORDER BY id")
    assert rows == ([] if aborts else [(7,), (8,)])


async def test_another_row_under_the_new_key_is_a_violation_soon(
    strict: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "aioupsert"):
        error = await violate(strict.handle, {"id": 1}, 3)
    check_kind(
        error, asyncpg.UniqueViolationError, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
    )
    # It is no race that more attempts could win.
    assert sum("INSERT INTO" in message for message in caplog.messages) <= 4


async def test_a_value_of_another_type_is_the_drivers_own_error(
    strict: Database,
) -> None:
    with pytest.raises(MISFIT):
        await create_or_update(
            strict.handle, "strict", key={"id": 1}, defaults={"age": object()}
        )
    result = await create_or_update(
        strict.handle, "strict", key={"id": 1}, defaults={"age": 5}, returning="age"
    )
    assert result.row == {"age": 5}


@every_handle
async def test_a_row_refused_in_silence_is_not_applied(db: Database) -> None:
    await db.run("CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER)")
    await db.run(
        db.sql(
            postgresql="""
                CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN RETURN NULL; END $$;
                CREATE TRIGGER refuse BEFORE INSERT ON t
                    FOR EACH ROW EXECUTE FUNCTION refuse()
            """,
            sqlite="CREATE TRIGGER refuse BEFORE INSERT ON t"
            " BEGIN SELECT RAISE(IGNORE); END",
        )
    )
    with pytest.raises(NotAppliedError) as caught:
        await create_or_update(db.handle, "t", key={"k": 1}, defaults={"n": 1})
    for cause in ("the row of t", "BEFORE trigger", "RAISE(IGNORE)", "rule", "policy"):
        assert cause in str(caught.value)
    assert not isinstance(caught.value, UsageError)
    assert await db.query("SELECT * FROM t") == []
