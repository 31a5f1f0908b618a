"""Servers that speak as PostgreSQL does, as far as their documentation tells."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from aioupsert import (
    Action,
    BulkResult,
    F,
    UnknownTableError,
    UsageError,
    create_or_update,
    create_or_update_many,
)
from aioupsert._drivers.asyncpg import AsyncpgSession
from aioupsert._drivers.psycopg import PsycopgSession
from aioupsert._engines.postgresql import catalog as postgresql_catalog
from aioupsert._engines.postgresql import engine_of
from aioupsert._engines.postgresql.experimental import log_experimental
from aioupsert._execution.table_cache import read_table
from aioupsert._plan.schema import Table
from tests.support.databases import PostgresDatabase

TABLE = """
CREATE TABLE t (
    k bigint PRIMARY KEY,
    "n o" integer NOT NULL DEFAULT 5,
    s varchar(9),
    d numeric(6, 2),
    twice integer GENERATED ALWAYS AS ("n o" * 2) STORED,
    UNIQUE (s, d)
);
CREATE UNIQUE INDEX part ON t (s) WHERE d IS NULL
"""
ADD: dict[str, Any] = {"key": {"k": 1}, "defaults": {"n o": F("n o") + 1}}
COCKROACH = "CockroachDB CCL v25.2.0 (x86_64-pc-linux-gnu, built 2025/05/09)"


def test_the_server_says_what_it_is() -> None:
    assert engine_of(None).system == "postgresql"
    assert engine_of(COCKROACH).system == "cockroachdb"


async def test_both_drivers_are_asked(pg: PostgresDatabase) -> None:
    assert AsyncpgSession(pg.handle).engine.system == "postgresql"

    class Cockroach:
        """What a connection of either driver tells."""

        closed = False
        pgconn = None
        info = SimpleNamespace(parameter_status={"crdb_version": COCKROACH}.get)

        def is_closed(self) -> bool:
            return self.closed

        def get_settings(self) -> Any:
            return SimpleNamespace(crdb_version=COCKROACH)

    connection: Any = Cockroach()
    assert AsyncpgSession(connection).engine.system == "cockroachdb"
    assert PsycopgSession(connection).engine.system == "cockroachdb"
    connection.closed = True
    assert AsyncpgSession(connection).engine.system == "postgresql"
    assert PsycopgSession(connection).engine.system == "postgresql"


@pytest.fixture(autouse=True)
def nothing_logged_yet() -> None:
    """Have the log say again which servers are experimental."""
    log_experimental.cache_clear()


def experimental(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says so of."""
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    return [line.removeprefix("support for ") for line in lines]


@pytest.fixture
def as_cockroachdb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have PostgreSQL taken for it: every statement is one of PostgreSQL, too."""
    monkeypatch.setattr(AsyncpgSession, "engine", engine_of(COCKROACH))


@pytest.mark.usefixtures("as_cockroachdb")
async def test_its_catalog_query_describes_what_postgresql_s_does(
    pg: PostgresDatabase,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await pg.run(TABLE)
    theirs = (await read_table(AsyncpgSession(pg.handle), ("t",))).table
    with pytest.raises(UnknownTableError, match="did you mean 't'"):
        await read_table(AsyncpgSession(pg.handle), ("tt",))
    assert experimental(caplog) == ["CockroachDB is experimental"]
    monkeypatch.setattr(AsyncpgSession, "engine", engine_of(None))
    ours = (await read_table(AsyncpgSession(pg.handle), ("t",))).table
    assert list(theirs.columns) == list(ours.columns)
    for column in ours.columns.values():
        same = theirs.columns[column.name]
        for fact in ("type", "family", "storage", "default", "generated", "required"):
            assert getattr(same, fact) == getattr(column, fact), column.name
    assert theirs.unique == ours.unique
    assert not theirs.supports_on_conflict_update
    assert theirs.exact_because == "CockroachDB lets a statement modify a table once"


@pytest.mark.usefixtures("as_cockroachdb")
async def test_no_statement_for_it_modifies_a_table_twice(
    pg: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    await pg.run(TABLE)
    caplog.set_level("DEBUG", "aioupsert")
    for action in (Action.CREATED, Action.UPDATED):
        assert (await create_or_update(pg.handle, "t", **ADD)).action is action
    rows = [{"k": k, "n o": k} for k in range(8)]
    result = await create_or_update_many(pg.handle, "t", rows, key="k")
    assert result == BulkResult(created=7, updated=1)
    sent = [m for m in caplog.messages if "json_build_object" not in m]
    assert any(m.startswith("INSERT") for m in sent)
    assert not any(m.startswith("WITH") or "ON CONFLICT" in m for m in sent)


# What Citus adds to the catalog, here for a moment.
CITUS = """
SET LOCAL allow_system_table_mods = on;
CREATE TABLE pg_catalog.pg_dist_partition (
    logicalrelid regclass, partmethod "char", partkey text);
CREATE FUNCTION pg_catalog.column_to_column_name(regclass, text) RETURNS text LANGUAGE sql STRICT
    AS $$ SELECT attname::text FROM pg_attribute
        WHERE attrelid = $1 AND attnum = $2::int $$;
CREATE TABLE here (k integer PRIMARY KEY, n integer);
CREATE TABLE reference (k integer PRIMARY KEY, n integer);
CREATE TABLE t (tenant integer, k integer, n integer DEFAULT 0,
    PRIMARY KEY (tenant, k));
INSERT INTO pg_dist_partition VALUES ('t', 'h', '1'), ('reference', 'n', NULL)
"""


async def test_a_key_has_the_column_by_which_citus_distributes(
    pg: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    conn = pg.handle
    await conn.execute("BEGIN")
    try:
        await conn.execute(CITUS)
        add = {"n": F("n") + 1}
        with pytest.raises(UsageError, match="key must have 'tenant', by which t is d"):
            await create_or_update(conn, "t", key={"k": 1}, defaults=add)
        assert experimental(caplog) == ["Citus is experimental"]
        caplog.clear()
        caplog.set_level("DEBUG", "aioupsert")
        for key in ({"tenant": 1, "k": 1}, {"k": 1, "tenant": 1}):
            await create_or_update(conn, "t", key=key, defaults=add)
        await create_or_update(conn, "reference", key={"k": 1})
        assert experimental(caplog) == []  # said when the first table was read
        assert not any(m.startswith("WITH") for m in caplog.messages)
        caplog.clear()
        await create_or_update(conn, "here", key={"k": 1})
        assert any(m.startswith("WITH") for m in caplog.messages)
        assert [tuple(row) for row in await conn.fetch("SELECT * FROM t")] == [
            (1, 1, 2)
        ]
    finally:
        await conn.execute("ROLLBACK")


async def test_yugabytedb_is_not_asked_for_xmax(
    pg: PostgresDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    await pg.run("CREATE TABLE t (k integer PRIMARY KEY)")
    steps = postgresql_catalog.reflect(("t",))
    catalog = next(steps)
    ((answer,),) = await pg.handle.fetch(catalog.sql, *catalog.arguments)
    found = json.loads(answer)
    # By its version, such as 15.12-YB-2025.1.0.0-b0.
    assert found["xmax"]
    assert experimental(caplog) == []
    changed = json.dumps(found | {"xmax": False, "returns_old": False})
    with pytest.raises(StopIteration) as stop:
        steps.send([(changed,)])
    table: Table = stop.value.value
    assert experimental(caplog) == ["YugabyteDB is experimental"]
    assert not table.supports_on_conflict_update
    assert table.exact_because is None
