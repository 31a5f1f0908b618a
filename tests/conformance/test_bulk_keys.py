"""Many rows under keys and in tables of many kinds, beside the same rows one by one."""

import datetime as dt
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeAlias

import pytest

from aioupsert import (
    Action,
    BulkError,
    BulkResult,
    Excluded,
    F,
    Result,
    create_or_update,
    create_or_update_many,
    get_or_create,
    get_or_create_many,
    iter_create_or_update,
)
from tests.support.databases import Database, PostgresDatabase
from tests.support.tables import trigger
from tests.support.versions import created

Rows: TypeAlias = Sequence[Mapping[str, Any]]


class Case(NamedTuple):
    """
    A table, and values of its key, of which some are repeated.

    Attributes:
        sql: The table, and what belongs to it.
        keys: The values of each column of the key.
        also: More arguments of the calls.
    """

    sql: str
    keys: Sequence[Sequence[Any]]
    also: Mapping[str, Any] = {"without_unique_index": "allow"}


TABLE: Final = (
    "CREATE TABLE t (id serial, a {a}, b {b}, n integer DEFAULT 0, v text);"
    "INSERT INTO t (a, b, n) VALUES {rows};"
)
SOME: Final = "(1, 1, 1), (1, NULL, 1), (2, NULL, 2), (2, NULL, 1), (NULL, NULL, 5)"
NUMBERS: Final[list[list[Any]]] = [[1, 2, 3, None], [1, 2, None]]
DECIMALS: Final[list[list[Any]]] = [
    [Decimal(1), Decimal("1.0"), Decimal(2), Decimal("2.50"), None],
    [1, 2, None],
]
MOMENTS: Final[list[list[Any]]] = [
    [dt.datetime(2020, 1, day) for day in (1, 2, 3)],  # noqa: DTZ001  # as the column
    [1, None],
]


def numbers(more: str, a: str = "integer", rows: str = SOME) -> str:
    return TABLE.format(a=a, b="integer", rows=rows) + more


SINGLE_ROWS: Final = "(1, 1, 1), (1, NULL, 1), (2, NULL, 2)"
SEES: Final = trigger("BEFORE INSERT OR UPDATE", "new.v = tg_op; RETURN new;")
CASES: Final = {
    "without an index": Case(numbers(""), NUMBERS),
    "locked": Case(numbers(""), NUMBERS, {"without_unique_index": "lock"}),
    "locked decimals": Case(
        numbers("", "numeric"), DECIMALS, {"without_unique_index": "lock"}
    ),
    "unique": Case(numbers("CREATE UNIQUE INDEX ON t (a, b)"), NUMBERS),
    "nulls not distinct": Case(
        numbers("CREATE UNIQUE INDEX ON t (a, b) NULLS NOT DISTINCT", rows=SINGLE_ROWS),
        NUMBERS,
    ),
    "unique where NULL": Case(
        numbers("CREATE UNIQUE INDEX ON t (a) WHERE b IS NULL", rows=SINGLE_ROWS),
        NUMBERS,
    ),
    "decimals": Case(numbers("CREATE INDEX ON t (a)", "numeric"), DECIMALS),
    "moments": Case(
        numbers("CREATE UNIQUE INDEX ON t (a, b)", "timestamp", "('2020-01-01', 1, 1)"),
        MOMENTS,
    ),
    "moments in a zone": Case(
        numbers("", "timestamptz", "('2020-01-01 00:00+0', 1, 1), (NULL, 1, 1)"),
        [[dt.datetime(2020, 1, 1, tzinfo=dt.UTC), None], [1, None]],
    ),
    # No array can carry these, so the database cannot be asked which are the same.
    "arrays": Case(
        numbers("", "integer[]", "('{1}', 1, 1), (NULL, 1, 1)"),
        [[[1], [1, 2], None], [1, 2, None]],
    ),
    "trigger": Case(numbers(SEES), NUMBERS),
    "trigger and decimals": Case(numbers(SEES, "numeric"), DECIMALS),
    "deferrable": Case(
        numbers("ALTER TABLE t ADD UNIQUE (a, b) DEFERRABLE INITIALLY DEFERRED"),
        NUMBERS,
    ),
    "exclusion": Case(
        numbers("ALTER TABLE t ADD EXCLUDE (a WITH =, b WITH =)"), NUMBERS
    ),
}
CALLS: Final[dict[str, dict[str, Any]]] = {
    "plain": {},
    "added": {"update": {"n": F("n") + Excluded("n")}},
    "under a condition": {"where": F("n") < Excluded("n")},
    "compared": {"skip_unchanged": True},
    "the key, too": {"update": ["a", "n"]},
    "not updated": {"update": []},
}


def rows_of(case: Case, number: int) -> list[dict[str, Any]]:
    """Rows of three layouts, with keys in no order."""
    choose = random.Random(number)  # noqa: S311  # no secret
    return [
        dict(zip("ab", map(choose.choice, case.keys), strict=True))
        | {"n": choose.randrange(4)}
        | choose.choice([{}, {"v": "x"}, {"v": None}])
        for _ in range(number)
    ]


async def stored(db: Database) -> list[Any]:
    return sorted(map(repr, await db.query("SELECT id, a, b, n, v FROM t")))


def said(results: Sequence[Result[Any]]) -> list[Any]:
    """What results tell; the order of several rows of one key tells nothing."""
    return [
        (
            r.action,
            r.rows_affected,
            sorted(repr(dict(row)) for row in r.rows),
            r.changed,
        )
        for r in results
    ]


async def made(db: Database, case: Case) -> bool:
    """Make the table, unless the server is too old for it."""
    await db.run("DROP TABLE IF EXISTS t; DROP FUNCTION IF EXISTS g")
    ((version,),) = await db.query("SHOW server_version_num")
    if "NULLS NOT DISTINCT" in case.sql and int(version) < 150_000:
        return False
    await db.run(case.sql)
    return True


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("number", [3, 40])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_rows_are_stored_and_counted_like_single_ones(
    pg: PostgresDatabase, case: Case, number: int, call: Mapping[str, Any]
) -> None:
    rows = rows_of(case, number)
    options: dict[str, Any] = {"key": ["a", "b"], **case.also, **call}
    if not await made(pg, case):
        return
    counts: Counter[Action] = Counter()
    async with pg.connect() as other:
        for row in rows:
            result = await create_or_update(other, "t", row, **options)
            counts[result.action] += 1
    expected = await stored(pg)
    await made(pg, case)
    done = await create_or_update_many(pg.handle, "t", rows, **options)
    assert {action: getattr(done, action) for action in counts} == counts
    assert done.rows == counts.total()
    assert await stored(pg) == expected


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.usefixtures("small_copies")
async def test_results_are_those_of_single_ones(
    db: Database, case: Case, *, old: bool
) -> None:
    rows = rows_of(case, 30)
    options: dict[str, Any] = {"key": ["a", "b"], "returning": "*", "old": old}
    options |= {**case.also, **CALLS["added"]}
    if not await made(db, case):
        return
    async with db.connect() as other:
        expected = [await create_or_update(other, "t", row, **options) for row in rows]
    await made(db, case)
    results = [
        result
        async for result in iter_create_or_update(db.handle, "t", rows, **options)
    ]
    assert said(results) == said(expected)


@pytest.mark.filterwarnings("ignore::aioupsert.MissingUniqueIndexWarning")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_rows_that_are_looked_up_are_those_of_single_calls(
    pg: PostgresDatabase, case: Case
) -> None:
    keys = [{name: row[name] for name in "ab"} for row in rows_of(case, 30)]
    if not await made(pg, case):
        return
    async with pg.connect() as other:
        expected = [await get_or_create(other, "t", key=key) for key in keys]
    await made(pg, case)
    results = await get_or_create_many(pg.handle, "t", keys, key=["a", "b"])
    assert said(results) == said(expected)


async def test_many_keys_are_locked_as_one(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k integer, n integer)")
    few, many = ([{"k": k, "n": 1} for k in range(number)] for number in (3, 1_001))
    locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    for rows, number in ((few, 4), (many, 1)):
        async with pg.transaction():
            await create_or_update_many(
                pg.handle, "t", rows, key="k", without_unique_index="lock"
            )
            assert await pg.handle.fetchval(locks) == number
    async with pg.transaction():
        await pg.handle.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(BulkError, match="needs a READ COMMITTED transaction"):
            await create_or_update_many(
                pg.handle, "t", few, key="k", without_unique_index="lock"
            )


async def test_keys_whose_texts_differ_have_one_lock(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k numeric, n integer)")
    rows = [{"k": Decimal(k), "n": 1} for k in range(5)]
    for counted in (BulkResult(created=5), BulkResult(updated=5)):
        done = await create_or_update_many(
            pg.handle, "t", rows, key="k", without_unique_index="lock"
        )
        assert done == counted


@pytest.mark.parametrize("always", ["ALWAYS", "BY DEFAULT"])
async def test_rows_are_updated_by_a_key_that_only_the_database_may_write(
    pg: PostgresDatabase, always: str
) -> None:
    await pg.run(
        f"CREATE TABLE t (k integer GENERATED {always} AS IDENTITY PRIMARY KEY,"
        " n integer); INSERT INTO t (n) SELECT 0 FROM generate_series(1, 20)"
    )
    rows = [{"k": k, "n": k} for k in range(1, 21)]
    done = await create_or_update_many(pg.handle, "t", rows, key="k")
    assert done == BulkResult(updated=20)
    assert await pg.query("SELECT count(*) FROM t WHERE n = k") == [(20,)]
    done = await create_or_update_many(
        pg.handle, "t", rows, key="k", skip_unchanged=True
    )
    assert done == BulkResult(unchanged=20)
    missing = [*rows[:8], {"k": 99, "n": 1}, *rows[8:]]
    load = create_or_update_many(pg.handle, "t", missing, key="k")
    if always == "BY DEFAULT":
        assert await load == BulkResult(created=1, updated=20)
        return
    with pytest.raises(BulkError, match='into column "k"') as caught:
        await load
    assert caught.value.index == 8
    with pytest.raises(BulkError, match='into column "k"'):
        await create_or_update_many(pg.handle, "t", missing, key="k", update=[])


async def test_keys_that_are_sent_as_several_types_keep_their_order(
    pg: PostgresDatabase,
) -> None:
    await pg.run("CREATE TABLE t (k numeric PRIMARY KEY, n integer)")
    keys = ["1", Decimal(1), Decimal("1.0"), "2", Decimal(2), "1.00"]
    rows = [{"k": key, "n": n} for n, key in enumerate(keys)]
    done = await create_or_update_many(pg.handle, "t", rows, key="k", convert_text=True)
    assert done == BulkResult(created=2, updated=4)
    assert await pg.query("SELECT k::int, n FROM t ORDER BY k") == [(1, 5), (2, 4)]


async def test_a_native_call_says_whether_a_row_under_null_was_created(
    pg: PostgresDatabase,
) -> None:
    sql = "CREATE TABLE t (a integer, b integer, n integer, UNIQUE NULLS NOT DISTINCT (a, b))"
    if not await created(pg.handle, sql):
        return
    for b in (1, None):
        native: dict[str, Any] = {"key": {"a": None, "b": b}, "defaults": {"n": 1}}
        native["strategy"] = "on_conflict"
        assert (await create_or_update(pg.handle, "t", **native)).created
        assert not (await create_or_update(pg.handle, "t", **native)).created
