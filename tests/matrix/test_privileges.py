"""Roles that may not do everything, and row-level security, on PostgreSQL."""

from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

import asyncpg
import pytest

from aioupsert import (
    Action,
    F,
    NotAppliedError,
    UsageError,
    create_or_update,
    create_or_update_many,
    get_or_create,
)
from tests.support.databases import PostgresDatabase

HIT: Final = {"hits": F("hits") + 1}
TABLE: Final = (
    "CREATE TABLE t (k text PRIMARY KEY, hits int DEFAULT 0, secret int);"
    " INSERT INTO t VALUES ('a', 1);"
)


@pytest.fixture
async def role(pg: PostgresDatabase) -> AsyncIterator[str]:
    """A role for the handle to act as: with `SET ROLE`."""
    name = f"r_{uuid4().hex}"
    await pg.run(f"CREATE ROLE {name}; GRANT USAGE ON SCHEMA {pg.schema} TO {name}")
    yield name
    await pg.handle.execute("RESET ROLE")
    await pg.run(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def act_as(pg: PostgresDatabase, role: str, ddl: str) -> Any:
    """Run what the owner does, then become the role."""
    await pg.run(ddl.format(role=role))
    await pg.handle.execute(f"SET ROLE {role}")
    return pg.handle


@pytest.mark.parametrize("strategy", ["auto", "exact"])
async def test_a_role_that_may_not_insert_updates(
    pg: PostgresDatabase, role: str, strategy: Any
) -> None:
    conn = await act_as(pg, role, TABLE + "GRANT SELECT, UPDATE ON t TO {role}")
    result = await create_or_update(
        conn, "t", key={"k": "a"}, defaults=HIT, returning="hits", strategy=strategy
    )
    assert (result.action, result.row) == (Action.UPDATED, {"hits": 2})
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await create_or_update(
            conn, "t", key={"k": "b"}, defaults=HIT, strategy=strategy
        )


async def test_the_single_statement_needs_the_right_to_insert(
    pg: PostgresDatabase, role: str
) -> None:
    conn = await act_as(pg, role, TABLE + "GRANT SELECT, UPDATE ON t TO {role}")
    with pytest.raises(UsageError, match="may not insert"):
        await create_or_update(conn, "t", key={"k": "a"}, defaults=HIT, strategy="fast")


async def test_a_right_granted_later_is_used(pg: PostgresDatabase, role: str) -> None:
    conn = await act_as(pg, role, TABLE + "GRANT SELECT, UPDATE ON t TO {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await create_or_update(conn, "t", key={"k": "b"}, defaults=HIT)
    await pg.run(f"GRANT INSERT ON t TO {role}")
    assert (await create_or_update(conn, "t", key={"k": "b"}, defaults=HIT)).created


async def test_a_role_that_may_not_update_gets_or_creates(
    pg: PostgresDatabase, role: str
) -> None:
    conn = await act_as(pg, role, TABLE + "GRANT SELECT, INSERT ON t TO {role}")
    results = [
        await get_or_create(conn, "t", key={"k": key}, returning="k")
        for key in ("a", "b", "b")
    ]
    assert [r.created for r in results] == [False, True, False]
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await create_or_update(conn, "t", key={"k": "a"}, defaults=HIT)


@pytest.mark.parametrize("strategy", ["auto", "exact"])
async def test_a_role_that_may_not_select_is_refused(
    pg: PostgresDatabase, role: str, strategy: Any
) -> None:
    conn = await act_as(pg, role, TABLE + "GRANT INSERT, UPDATE ON t TO {role}")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await create_or_update(
            conn, "t", key={"k": "a"}, defaults={"hits": 2}, strategy=strategy
        )
    assert await pg.query("SELECT * FROM t") == [("a", 1, None)]


COLUMNS: Final = (
    "GRANT SELECT (k, hits), INSERT (k, hits), UPDATE (hits) ON t TO {role}"
)


@pytest.mark.parametrize("strategy", ["auto", "exact", "fast"])
async def test_rights_on_the_columns_that_are_used_suffice(
    pg: PostgresDatabase, role: str, strategy: Any
) -> None:
    conn = await act_as(pg, role, TABLE + COLUMNS)
    for key, action in (("a", Action.UPDATED), ("b", Action.CREATED)):
        result = await create_or_update(
            conn,
            "t",
            key={"k": key},
            defaults=HIT,
            skip_unchanged=True,
            returning=("k", "hits"),
            strategy=strategy,
        )
        assert result.action is action
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await create_or_update(
            conn, "t", key={"k": "a"}, defaults=HIT, returning="*", strategy=strategy
        )


@pytest.mark.parametrize("number", [2, 3, 9])
@pytest.mark.usefixtures("small_copies")
async def test_they_suffice_for_many_rows(
    pg: PostgresDatabase, role: str, number: int
) -> None:
    conn = await act_as(pg, role, TABLE + COLUMNS)
    rows = [{"k": f"{n}", "hits": n} for n in range(number)]
    result = await create_or_update_many(conn, "t", rows, key="k", skip_unchanged=True)
    assert result.created == number


@pytest.mark.usefixtures("small_copies")
async def test_the_temporary_table_of_another_role_is_left_alone(
    pg: PostgresDatabase, role: str
) -> None:
    await pg.run(TABLE)
    rows = [{"k": f"{n}", "hits": n} for n in range(9)]
    await create_or_update_many(pg.handle, "t", rows, key="k")
    conn = await act_as(pg, role, COLUMNS)
    result = await create_or_update_many(conn, "t", rows, key="k")
    assert (result.created, result.updated) == (0, 9)


async def test_a_table_of_a_schema_without_usage_is_refused(
    pg: PostgresDatabase, role: str
) -> None:
    conn = await act_as(
        pg,
        role,
        TABLE + f"GRANT ALL ON t TO {{role}};"
        f" REVOKE USAGE ON SCHEMA {pg.schema} FROM {{role}}",
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await create_or_update(
            conn, (pg.schema, "t"), key={"k": "a"}, defaults={"hits": 2}
        )


@pytest.mark.parametrize("strategy", ["auto", "exact", "fast"])
async def test_an_update_needs_no_right_on_the_sequence(
    pg: PostgresDatabase, role: str, strategy: Any
) -> None:
    conn = await act_as(
        pg,
        role,
        "CREATE TABLE t (k text PRIMARY KEY, hits int, id serial);"
        " INSERT INTO t VALUES ('a', 1); GRANT ALL ON t TO {role}",
    )
    call: dict[str, Any] = {"defaults": {"hits": 2}, "strategy": strategy}
    assert not (await create_or_update(conn, "t", key={"k": "a"}, **call)).created
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await create_or_update(conn, "t", key={"k": "b"}, **call)


@pytest.mark.parametrize("strategy", ["auto", "exact", "fast"])
async def test_a_view_lends_the_rights_of_its_owner(
    pg: PostgresDatabase, role: str, strategy: Any
) -> None:
    conn = await act_as(
        pg, role, TABLE + "CREATE VIEW v AS SELECT * FROM t; GRANT ALL ON v TO {role}"
    )
    for key, created in (("a", False), ("b", True)):
        result = await create_or_update(
            conn, "v", key={"k": key}, defaults={"hits": 5}, strategy=strategy
        )
        assert result.created is created


# --- Row-level security ----------------------------------------------------------------

SECURED: Final = (
    "CREATE TABLE t (k text PRIMARY KEY, tenant int, hits int DEFAULT 0);"
    " INSERT INTO t VALUES ('mine', 1), ('theirs', 2);"
    " ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT ALL ON t TO {role};"
)
OWN: Final = "CREATE POLICY own ON t USING (tenant = 1);"
READ: Final = "CREATE POLICY r ON t FOR SELECT USING (true);"
WRITE: Final = "CREATE POLICY w ON t FOR UPDATE USING (true);"


@pytest.mark.parametrize("strategy", ["auto", "exact", "fast"])
async def test_rows_that_a_policy_allows_are_written(
    pg: PostgresDatabase, role: str, strategy: Any
) -> None:
    conn = await act_as(pg, role, SECURED + OWN)
    for key, action in (("mine", Action.UPDATED), ("new", Action.CREATED)):
        result = await create_or_update(
            conn,
            "t",
            key={"k": key},
            defaults={"tenant": 1, **HIT},
            returning="hits",
            strategy=strategy,
        )
        assert (result.action, result.row) == (action, {"hits": 1})


REFUSED: Final[dict[str, tuple[str, str, int, type[Exception]]]] = {
    "the row is hidden": (OWN, "theirs", 1, asyncpg.UniqueViolationError),
    "the row is hidden from updates": (
        READ
        + "CREATE POLICY w ON t FOR UPDATE USING (tenant = 1);"
        + "CREATE POLICY i ON t FOR INSERT WITH CHECK (true)",
        "theirs",
        1,
        NotAppliedError,
    ),
    "no policy for updates": (READ, "mine", 1, NotAppliedError),
    "the new row of an update": (OWN, "mine", 2, asyncpg.InsufficientPrivilegeError),
    "the new row of an insert": (OWN, "new", 2, asyncpg.InsufficientPrivilegeError),
    "no policy for inserts": (
        READ + WRITE,
        "new",
        1,
        asyncpg.InsufficientPrivilegeError,
    ),
}


@pytest.mark.parametrize("strategy", ["auto", "exact"])
@pytest.mark.parametrize(
    ("policies", "key", "tenant", "error"), REFUSED.values(), ids=REFUSED
)
async def test_rows_that_a_policy_refuses_are_an_error(
    pg: PostgresDatabase,
    role: str,
    *,
    policies: str,
    key: str,
    tenant: int,
    error: type[Exception],
    strategy: Any,
) -> None:
    conn = await act_as(pg, role, SECURED + policies)
    with pytest.raises(error) as caught:
        await create_or_update(
            conn,
            "t",
            key={"k": key},
            defaults={"tenant": tenant},
            strategy=strategy,
        )
    assert caught.type is error
    assert sorted(await pg.query("SELECT k, tenant FROM t")) == [
        ("mine", 1),
        ("theirs", 2),
    ]


@pytest.mark.parametrize("strategy", ["auto", "exact"])
async def test_a_policy_against_inserts_lets_updates_through(
    pg: PostgresDatabase, role: str, strategy: Any
) -> None:
    conn = await act_as(pg, role, SECURED + READ + WRITE)
    result = await create_or_update(
        conn, "t", key={"k": "mine"}, defaults=HIT, strategy=strategy
    )
    assert result.action is Action.UPDATED
