"""What will never work ends soon, with an error that says why or is the database's."""

import asyncio
import datetime as dt
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final, NamedTuple

import asyncpg
import pytest
from psycopg.errors import UniqueViolation

from aioupsert import (
    Action,
    F,
    NotAppliedError,
    UsageError,
    create_or_update,
    preview,
)
from tests.support.databases import Database, PostgresDatabase
from tests.support.versions import created

# Seconds; what never ends would run into it.
GUARD: Final = 10

TRIGGER: Final = """
CREATE TABLE t (k text PRIMARY KEY, v integer);
CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
CREATE TRIGGER g BEFORE {event} ON t FOR EACH ROW EXECUTE FUNCTION f();
"""


class Refusal(NamedTuple):
    """
    A table that keeps refusing the key "a".

    Attributes:
        tables: Its definition, and what is there.
        error: What is raised.
        match: What the error says.
        remains: What is there in the end.
        key: The key of the call.
    """

    tables: str
    error: type[Exception]
    match: str
    remains: list[tuple[Any, ...]]
    key: Any = "a"


SILENT: Final = "neither created nor updated.*trigger.*rule.*policy.*another value"
REFUSALS: Final = {
    "BEFORE INSERT returns NULL": Refusal(
        TRIGGER.format(body="RETURN NULL;", event="INSERT"), NotAppliedError, SILENT, []
    ),
    "BEFORE UPDATE returns NULL": Refusal(
        TRIGGER.format(body="RETURN NULL;", event="UPDATE")
        + "INSERT INTO t VALUES ('a', 1)",
        NotAppliedError,
        SILENT,
        [("a", 1)],
    ),
    "BEFORE INSERT rewrites the key": Refusal(
        TRIGGER.format(body="new.k = 'b'; RETURN new;", event="INSERT")
        + "INSERT INTO t VALUES ('b', 1)",
        asyncpg.UniqueViolationError,
        "t_pkey",
        [("b", 1)],
    ),
    "unique expression": Refusal(
        "CREATE TABLE t (k text, v integer); CREATE UNIQUE INDEX i ON t (lower(k));"
        "INSERT INTO t VALUES ('A', 1)",
        asyncpg.UniqueViolationError,
        '"i"',
        [("A", 1)],
    ),
    "another unique column": Refusal(
        "CREATE TABLE t (k text PRIMARY KEY, v integer UNIQUE);"
        "INSERT INTO t VALUES ('b', 2)",
        asyncpg.UniqueViolationError,
        "t_v_key",
        [("b", 2)],
    ),
    "another exclusion constraint": Refusal(
        "CREATE TABLE t (k text PRIMARY KEY, v integer,"
        " CONSTRAINT x EXCLUDE (v WITH =)); INSERT INTO t VALUES ('b', 2)",
        asyncpg.ExclusionViolationError,
        '"x"',
        [("b", 2)],
    ),
    "trailing blanks are cut": Refusal(
        "CREATE TABLE t (k varchar(1) PRIMARY KEY, v integer);"
        "INSERT INTO t VALUES ('a', 1)",
        UsageError,
        "holds 1 character",
        [("a", 1)],
        "a  ",
    ),
    "too long": Refusal(
        "CREATE TABLE t (k varchar(1) PRIMARY KEY, v integer);"
        "INSERT INTO t VALUES ('a', 1)",
        asyncpg.StringDataRightTruncationError,
        "too long",
        [("a", 1)],
        "ab",
    ),
    "rule": Refusal(
        "CREATE TABLE t (k text PRIMARY KEY, v integer);"
        "CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING",
        asyncpg.FeatureNotSupportedError,
        "RETURNING",
        [],
    ),
    "partial index under another row": Refusal(
        "CREATE TABLE t (k text, v integer);"
        "CREATE UNIQUE INDEX i ON t ((1)) WHERE v = 2; INSERT INTO t VALUES ('b', 2)",
        asyncpg.UniqueViolationError,
        '"i"',
        [("b", 2)],
    ),
}


@pytest.mark.filterwarnings("ignore::aioupsert.MissingUniqueIndexWarning")
@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_ends_soon(
    pg: PostgresDatabase, name: str, strategy: Any, *, inside: bool
) -> None:
    case = REFUSALS[name]
    await pg.run(case.tables)
    conn: Any = pg.handle
    if inside:
        await conn.execute("BEGIN")
    with pytest.raises(case.error, match=case.match):
        async with asyncio.timeout(GUARD):
            await create_or_update(
                conn, "t", key={"k": case.key}, defaults={"v": 2}, strategy=strategy
            )
    assert conn.is_in_transaction() == inside
    if inside:
        await conn.execute("ROLLBACK")
    assert await pg.query("SELECT * FROM t") == case.remains


async def test_so_it_does_where_a_policy_might_hide_the_row_but_does_not(
    pg: PostgresDatabase,
) -> None:
    case = REFUSALS["BEFORE INSERT rewrites the key"]
    await pg.run(case.tables + "; ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    async with asyncio.timeout(GUARD), pg.transaction() as conn:
        with pytest.raises(case.error, match=case.match):
            await create_or_update(conn, "t", key={"k": "a"}, defaults={"v": 2})
        assert not (await create_or_update(conn, "t", key={"k": "b"})).created
    assert await pg.query("SELECT * FROM t") == case.remains


@pytest.fixture
async def role(pg: PostgresDatabase) -> AsyncIterator[str]:
    """A role that policies bind, for the handle to act as."""
    name = f"r_{pg.schema}"
    await pg.run(f"CREATE ROLE {name}; GRANT USAGE ON SCHEMA {pg.schema} TO {name}")
    yield name
    await pg.handle.execute("RESET ROLE")
    await pg.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("strategy", ["auto", "exact"])
async def test_a_row_of_another_tenant_is_the_databases_error(
    pg: PostgresDatabase, role: str, strategy: Any, *, inside: bool
) -> None:
    conn: Any = pg.handle
    await pg.run(
        "CREATE TABLE t (k text PRIMARY KEY, v integer, tenant text);"
        "INSERT INTO t VALUES ('a', 1, 'other');"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY p ON t USING (tenant = 'mine');"
        f"GRANT ALL ON t TO {role}"
    )
    await conn.execute(f"SET ROLE {role}")
    if inside:
        await conn.execute("BEGIN")
    with pytest.raises(asyncpg.UniqueViolationError, match="t_pkey"):
        async with asyncio.timeout(GUARD):
            await create_or_update(
                conn,
                "t",
                key={"k": "a"},
                defaults={"v": 2, "tenant": "mine"},
                strategy=strategy,
            )
    if inside:
        await conn.execute("ROLLBACK")
    created = await create_or_update(
        conn, "t", key={"k": "b"}, defaults={"v": 2, "tenant": "mine"}
    )
    assert created.action is Action.CREATED
    assert await pg.query("SELECT * FROM t ORDER BY k") == [
        ("a", 1, "other"),
        ("b", 2, "mine"),
    ]


async def test_what_a_policy_lets_nobody_update_is_not_applied(
    pg: PostgresDatabase, role: str
) -> None:
    conn: Any = pg.handle
    await pg.run(
        "CREATE TABLE t (k text PRIMARY KEY, v integer);"
        "INSERT INTO t VALUES ('a', 1);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY reading ON t FOR SELECT USING (true);"
        "CREATE POLICY writing ON t FOR UPDATE USING (false);"
        f"GRANT ALL ON t TO {role}"
    )
    await conn.execute(f"SET ROLE {role}")
    with pytest.raises(NotAppliedError, match="policy"):
        async with asyncio.timeout(GUARD):
            await create_or_update(conn, "t", key={"k": "a"}, defaults={"v": 2})
    assert await pg.query("SELECT * FROM t") == [("a", 1)]


NAIVE: Final = dt.datetime(2020, 1, 2, 3, 4, 5, 678901)  # noqa: DTZ001  # for a column without a zone

ROUNDED: Final[dict[str, Any]] = {
    "numeric(5,2)": Decimal("1.105"),
    "numeric(5,0)": Decimal("2.5"),
    "numeric(5,-1)": Decimal(127),
    "price": Decimal("1.105"),
    "timestamp(0)": NAIVE,
    "timestamptz(3)": NAIVE.replace(tzinfo=dt.UTC),
    "time(0)": NAIVE.time(),
    "timetz(1)": NAIVE.replace(tzinfo=dt.UTC).timetz(),
    "interval(0)": dt.timedelta(seconds=1, microseconds=600_000),
    "interval hour to minute": dt.timedelta(hours=1, seconds=59),
    "char(5)": "abc",
    "jsonb": {"b": 1, "a": 2},
}


@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("column", ROUNDED)
async def test_a_key_that_is_rounded_finds_its_row(
    pg: PostgresDatabase, column: str, strategy: Any, *, inside: bool
) -> None:
    conn: Any = pg.handle
    if not await created(
        conn,
        "CREATE DOMAIN price AS numeric(5, 2);"
        f"CREATE TABLE t (k {column} PRIMARY KEY, hits integer DEFAULT 0)",
    ):
        return
    if inside:
        await conn.execute("BEGIN")
    async with asyncio.timeout(GUARD):
        results = [
            await create_or_update(
                conn,
                "t",
                key={"k": ROUNDED[column]},
                defaults={"hits": F("hits") + 1},
                strategy=strategy,
            )
            for _ in range(2)
        ]
    if inside:
        await conn.execute("COMMIT")
    assert [result.created for result in results] == [True, False]
    assert await pg.query("SELECT hits FROM t") == [(2,)]


class Blocked(NamedTuple):
    """
    A row that no update by the key finds, and that blocks its insert.

    Attributes:
        tables: The definition of the table, with its rows.
        key: The key of the call.
        values: Its other values.
    """

    tables: str
    key: dict[str, Any]
    values: dict[str, Any]


BLOCKED: Final = {
    "expression": Blocked(
        "CREATE TABLE t (id serial, k text NOT NULL, v integer);"
        "CREATE UNIQUE INDEX ON t (lower(k)); INSERT INTO t (k) VALUES ('A')",
        {"k": "a"},
        {"v": 1},
    ),
    "expression of a default": Blocked(
        "CREATE TABLE t (id serial, k text PRIMARY KEY, v integer, w integer DEFAULT 7);"
        "CREATE UNIQUE INDEX ON t ((v + w)); INSERT INTO t (k, v) VALUES ('A', 1)",
        {"k": "a"},
        {"v": 1},
    ),
    "partial": Blocked(
        "CREATE TABLE t (id serial, k text PRIMARY KEY, v integer, w boolean);"
        "CREATE UNIQUE INDEX ON t (v) WHERE w; INSERT INTO t (k, v, w) VALUES ('A', 1, true)",
        {"k": "a"},
        {"v": 1, "w": True},
    ),
    "policy": Blocked(
        "CREATE TABLE t (id serial, k text PRIMARY KEY, v integer);"
        "INSERT INTO t (k, v) VALUES ('a', 1);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (v = 2);",
        {"k": "a"},
        {"v": 2},
    ),
}
_TRIGGER: Final = (
    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
    "CREATE TRIGGER g BEFORE {event} ON t FOR EACH ROW EXECUTE FUNCTION f();"
)
MOVED_INTO: Final = {
    "trigger that moves the key": Blocked(
        "CREATE TABLE t (id serial, k text PRIMARY KEY, v integer);"
        "INSERT INTO t (k, v) VALUES ('A', 1);"
        + _TRIGGER.format(body="new.k := upper(new.k); RETURN new;", event="INSERT"),
        {"k": "a"},
        {"v": 2},
    ),
    "trigger that sets a unique value": Blocked(
        "CREATE TABLE t (id serial, k text PRIMARY KEY, v integer UNIQUE);"
        "INSERT INTO t (k, v) VALUES ('A', 7);"
        + _TRIGGER.format(body="new.v := 7; RETURN new;", event="INSERT"),
        {"k": "a"},
        {"v": 2},
    ),
    "trigger beside a deferrable constraint": Blocked(
        "CREATE TABLE t (id serial, k text PRIMARY KEY, v integer UNIQUE,"
        " w integer UNIQUE DEFERRABLE); INSERT INTO t (k, v) VALUES ('A', 7);"
        + _TRIGGER.format(body="new.v := 7; RETURN new;", event="INSERT"),
        {"k": "a"},
        {"v": 2},
    ),
    "view that hides a row": Blocked(
        "CREATE TABLE s (k text PRIMARY KEY, v integer, id integer);"
        "CREATE SEQUENCE t_id_seq; INSERT INTO s VALUES ('a', 5);"
        "CREATE VIEW t AS SELECT k, v, id FROM s WHERE v < 3;"
        "ALTER VIEW t ALTER id SET DEFAULT nextval('t_id_seq')",
        {"k": "a"},
        {"v": 1},
    ),
}
REFUSED: Final = {
    "trigger that refuses updates": Blocked(
        "CREATE TABLE t (id serial, k text PRIMARY KEY, v integer);"
        "INSERT INTO t (k, v) VALUES ('a', 1);"
        + _TRIGGER.format(body="RETURN NULL;", event="UPDATE"),
        {"k": "a"},
        {"v": 2},
    ),
    "trigger that refuses all": Blocked(
        "CREATE TABLE t (id serial, k text PRIMARY KEY, v integer);"
        "INSERT INTO t (k, v) VALUES ('a', 1);"
        + _TRIGGER.format(body="RETURN NULL;", event="INSERT OR UPDATE"),
        {"k": "a"},
        {"v": 2},
    ),
    "policy that hides a row from updates": Blocked(
        "CREATE TABLE t (id serial, k text PRIMARY KEY, v integer);"
        "INSERT INTO t (k, v) VALUES ('a', 1);"
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY p ON t FOR SELECT USING (true);"
        "CREATE POLICY q ON t FOR INSERT WITH CHECK (true);"
        "CREATE POLICY r ON t FOR UPDATE USING (v = 2)",
        {"k": "a"},
        {"v": 2},
    ),
}
VIOLATIONS: Final = (asyncpg.UniqueViolationError, UniqueViolation)
MOST_STATEMENTS: Final = 12
MOST_SEQUENCE_VALUES: Final = 3


@pytest.mark.filterwarnings("ignore::aioupsert.MissingUniqueIndexWarning")
@pytest.mark.parametrize("inside", [False, True], ids=["own", "caller's"])
@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize("name", [*BLOCKED, *MOVED_INTO, *REFUSED])
@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_a_conflict_that_stays_costs_a_handful_of_statements(
    db: Database, name: str, strategy: Any, *, inside: bool
) -> None:
    case = {**BLOCKED, **MOVED_INTO, **REFUSED}[name]
    ((schema,),) = await db.query("SELECT current_schema()")
    other = f"r_{schema}"
    await db.run(
        f"{case.tables}; CREATE ROLE {other}; GRANT USAGE ON SCHEMA {schema} TO {other};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {other};"
        f"GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {other}"
    )
    used = await db.query("SELECT last_value FROM t_id_seq")
    sent: list[str] = []
    try:
        async with db.connect() as conn:
            await conn.execute(f"SET ROLE {other}")
            # It reads the description.
            await preview(conn, "t", key=case.key, defaults=case.values)
            await conn.execute("BEGIN" if inside else "SELECT 1")
            with (
                logged(sent),
                pytest.raises(NotAppliedError if name in REFUSED else VIOLATIONS),
            ):
                await create_or_update(
                    conn, "t", key=case.key, defaults=case.values, strategy=strategy
                )
            await conn.execute("ROLLBACK" if inside else "SELECT 1")
    finally:
        await db.run(f"DROP OWNED BY {other}; DROP ROLE {other}")
    # After an error of its own the library also asks whether the table has changed.
    assert len(sent) <= MOST_STATEMENTS + (name in REFUSED)
    now = await db.query("SELECT last_value FROM t_id_seq")
    assert now[0][0] - used[0][0] <= MOST_SEQUENCE_VALUES


@contextmanager
def logged(sent: list[str]) -> Iterator[None]:
    """Append every statement that the library sends."""

    class Recorder(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            sent.append(record.getMessage())

    logger, recorder = logging.getLogger("aioupsert"), Recorder()
    level = logger.level
    logger.addHandler(recorder)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.removeHandler(recorder)
        logger.setLevel(level)
