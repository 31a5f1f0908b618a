"""Partial unique indexes make a key unique whose values are those of their predicates."""

import asyncio
import warnings
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import pytest

from aioupsert import (
    BulkError,
    BulkResult,
    Coalescer,
    MissingUniqueIndexError,
    MissingUniqueIndexWarning,
    create_or_update,
    create_or_update_many,
    get_or_create,
    preview,
)
from tests.support.databases import (
    CONNECTIONS,
    Database,
    PostgresDatabase,
    SQLiteDatabase,
)

engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)


class Case(NamedTuple):
    """
    An index of a table t (k, kind, n) that makes k unique where kind has some value.

    Attributes:
        type: The type of kind.
        predicate: The predicate.
        value: A value that the predicate asks for.
        other: One that it does not.
    """

    type: str
    predicate: str
    value: Any
    other: Any


CASES: Final = {
    "column": Case("boolean", "kind", True, False),
    "NOT": Case("boolean", "NOT kind", False, True),
    "IS TRUE": Case("boolean", "kind IS TRUE", True, False),
    "boolean": Case("boolean", "kind = true", True, False),
    "text": Case("text", "kind = 'it''s'", "it's", "its"),
    "varchar": Case("varchar(9)", "kind = 'open'", "open", "Open"),
    "number": Case("bigint", "kind = -1", -1, 1),
    "NULL": Case("date", "kind IS NULL", None, "2024-01-01"),
    "two tests": Case("integer", "kind IS NOT NULL AND kind = 3", 3, 4),
}


async def make(db: Database, case: Case) -> None:
    await db.run(f"CREATE TABLE t (k integer, kind {case.type}, n integer)")
    await db.run(f"CREATE UNIQUE INDEX i ON t (k) WHERE {case.predicate}")


def keys(case: Case, number: int) -> list[dict[str, Any]]:
    return [{"k": k, "kind": case.value} for k in range(number)]


@engines
@pytest.mark.parametrize("name", CASES)
async def test_no_call_misses_an_index(db: Database, name: str) -> None:
    case = CASES[name]
    await make(db, case)
    strict: dict[str, Any] = {"without_unique_index": "error"}
    for key in keys(case, 2) * 2:
        await create_or_update(db.handle, "t", key=key, defaults={"n": 1}, **strict)
    await get_or_create(db.handle, "t", key=keys(case, 1)[0], **strict)
    for number in (1, 2, 3, 20):
        rows = [{**key, "n": 2} for key in keys(case, number)]
        for _ in range(2):
            await create_or_update_many(
                db.handle, "t", rows, key=["k", "kind"], **strict
            )
    async with Coalescer(db.handle, "t", key=["k", "kind"], **strict) as coalescer:
        await asyncio.gather(
            *(
                coalescer.create_or_update(key=key, defaults={"n": 3})
                for key in keys(case, 25)
            )
        )
    assert await db.query("SELECT k, n FROM t ORDER BY k") == [
        (k, 3) for k in range(25)
    ]


@engines
@pytest.mark.parametrize("name", [n for n in CASES if n != "NULL"])
async def test_of_other_values_it_is_missed(db: Database, name: str) -> None:
    case = CASES[name]
    await make(db, case)
    key = {"k": 1, "kind": case.other}
    with pytest.raises(MissingUniqueIndexError):
        await create_or_update(db.handle, "t", key=key, without_unique_index="error")
    rows = [{"k": 1, "kind": case.value, "n": 1}, {**key, "n": 1}]
    with pytest.raises(BulkError) as caught:
        await create_or_update_many(
            db.handle, "t", rows, key=["k", "kind"], without_unique_index="error"
        )
    assert caught.value.index == 1
    assert isinstance(caught.value.__cause__, MissingUniqueIndexError)


@engines
@pytest.mark.parametrize("number", [2, 3, 20])
async def test_rows_of_both_kinds_are_what_single_calls_make_of_them(
    db: Database, number: int
) -> None:
    await make(db, CASES["column"])
    rows = [{"k": k // 2, "kind": k % 2 == 0, "n": k} for k in range(number)]
    rows += [{**row, "n": -1} for row in rows[::3]]
    with pytest.warns(MissingUniqueIndexWarning):
        result = await create_or_update_many(
            db.handle, "t", rows, key=["k", "kind"], update=["n"]
        )
    assert result == BulkResult(created=number, updated=len(rows) - number)
    expected = {(row["k"], row["kind"]): row["n"] for row in rows}
    found: Sequence[Any] = await db.query("SELECT k, kind, n FROM t")
    assert {(k, bool(kind)): n for k, kind, n in found} == expected


@pytest.mark.parametrize("name", CASES)
async def test_many_rows_are_found_by_it(pg: PostgresDatabase, name: str) -> None:
    case, conn = CASES[name], pg.handle
    await make(pg, case)
    await pg.run(
        "INSERT INTO t (k, kind, n) SELECT k, kind, 1 FROM generate_series(1, 300) k,"
        f" CAST(NULLIF('{case.value}', 'None') AS {case.type}) AS kind"
        if name != "text"
        else "INSERT INTO t SELECT k, 'it''s', 1 FROM generate_series(1, 300) k"
    )
    rows = [{**key, "n": 2} for key in keys(case, 3)]
    async with conn.transaction():
        await create_or_update_many(conn, "t", rows, key=["k", "kind"])
        read = await conn.fetchval(
            "SELECT seq_tup_read FROM pg_stat_xact_user_tables"
            " WHERE relid = 't'::regclass"
        )
    assert read == 0


@pytest.mark.parametrize("name", CASES)
async def test_so_is_one_on_sqlite(lite: SQLiteDatabase, name: str) -> None:
    await make(lite, CASES[name])
    key = keys(CASES[name], 1)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        statements = await preview(
            lite.handle, "t", key=key, defaults={"n": 1}, skip_unchanged=True
        )
    for statement in statements[:-1]:
        plan = await lite.handle.execute_fetchall(
            f"EXPLAIN QUERY PLAN {statement.sql}", statement.arguments
        )
        assert [str(row[-1]).partition(" (")[0] for row in plan] == [
            "SEARCH t USING INDEX i"
        ]
