"""A coalescer gives every caller what it would have got alone, on every connection."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import Awaitable, Iterable
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioupsert import (
    Action,
    Coalescer,
    CoalescerClosedError,
    CoalescerStats,
    Excluded,
    F,
    MissingUniqueIndexError,
    Result,
    UnknownColumnError,
    UnknownTableError,
    UnsupportedConnectionError,
    UsageError,
    create_or_update,
)
from aioupsert._coalescer.dispatch import Pace
from tests.support.databases import (
    PSYCOPG,
    Database,
    PostgresDatabase,
    every_handle,
    execute,
    has_all_back,
)
from tests.support.model import Model, Row, Upsert, Value, given_values, literal
from tests.support.violations import CHECK, FOREIGN_KEY, driver_error

COLUMNS: Final = "n integer DEFAULT 7, v text, u text"
ADD: Final = {"n": F("n") + 1}


async def together(
    coalescer: Coalescer, calls: Iterable[dict[str, Any]]
) -> list[Result | BaseException]:
    """Make the calls at the same moment, in their order."""
    made = [coalescer.create_or_update(**call) for call in calls]
    return await asyncio.gather(*made, return_exceptions=True)


def actions(results: Iterable[Result | BaseException]) -> list[str]:
    return [
        str(result.action) if isinstance(result, Result) else type(result).__name__
        for result in results
    ]


@pytest.fixture
async def plain(db: Database) -> Database:
    await db.run(f"CREATE TABLE t (k text PRIMARY KEY, {COLUMNS})")
    return db


# --- Any calls, compared with a model -----------------------------------------------------


class Call(NamedTuple):
    """A call: what it sets, how, and what it asks for."""

    key: str
    sets: tuple[tuple[str, str, Any], ...]
    where: bool
    skip_unchanged: bool
    touch: Row | None
    create_defaults: Row | None
    returning: tuple[str, ...] | None

    @property
    def values(self) -> dict[str, Value]:
        return {column: value_of(column, *how) for column, *how in self.sets}

    @property
    def arguments(self) -> dict[str, Any]:
        return {
            "key": {"k": self.key},
            "defaults": given_values(self.values),
            "where": LOW.given if self.where else None,
            "skip_unchanged": self.skip_unchanged,
            "touch": self.touch,
            "create_defaults": self.create_defaults,
            "returning": self.returning,
        }

    @property
    def upsert(self) -> Upsert:
        """What it means."""
        created = literals(self.create_defaults)
        return Upsert(
            {**self.values, **created},
            self.values,
            literals(self.touch),
            LOW if self.where else None,
            self.skip_unchanged,
        )


LOW: Final = Value(F("n") < 9, lambda row, _: row["n"] is not None and row["n"] < 9)


def value_of(column: str, way: str, value: Any) -> Value:
    if way == "=":
        return literal(value)
    change = value if way == "+" else -value
    return Value(
        F(column) + value if way == "+" else F(column) - value,
        lambda row, _: None if row[column] is None else row[column] + change,
    )


def literals(values: Row | None) -> dict[str, Value]:
    return {name: literal(value) for name, value in (values or {}).items()}


SETS: Final = st.one_of(
    st.tuples(st.just("n"), st.sampled_from("++-"), st.sampled_from([1, 2, 5, -3])),
    st.tuples(st.just("n"), st.just("="), st.sampled_from([None, 1, 9, 2])),
    st.tuples(st.just("v"), st.just("="), st.sampled_from([None, "x", "y", "é"])),
)
# Most calls are plain, so that many of them are folded.
RARELY: Final = st.sampled_from([False, False, False, True])
CALLS: Final = st.builds(
    Call,
    st.sampled_from("aabc"),
    st.lists(SETS, max_size=2, unique_by=lambda item: item[0]).map(tuple),
    RARELY,
    RARELY,
    st.sampled_from([None, None, None, {"u": "touched"}]),
    st.sampled_from([None, None, {"v": "new"}, {"n": 3}, {"n": 30}]),
    st.sampled_from([None, None, None, ("k", "n", "v", "u"), ("n",)]),
)


class Schedule(NamedTuple):
    """What each of several tasks does: turns of the loop to wait, and calls."""

    tasks: list[list[tuple[int, Call]]]
    max_batch: int
    max_delay: float
    concurrency: int


SCHEDULES: Final = st.builds(
    Schedule,
    st.lists(
        st.lists(st.tuples(st.sampled_from([0, 0, 1, 5]), CALLS), max_size=6),
        min_size=2,
        max_size=8,
    ),
    st.sampled_from([1_000, 1_000, 3, 1]),
    st.sampled_from([0, 0, 0.001]),
    st.sampled_from([1, 2, 3]),
)
EMPTY: Final[Row] = {"n": 7, "v": None, "u": None}


def is_allowed(row: Row) -> bool:
    """Tell whether the row meets the CHECK."""
    return row["n"] is None or 0 <= row["n"] <= 15


TABLES: Final = {
    "plain": f"CREATE TABLE t (k text PRIMARY KEY, {COLUMNS})",
    "numbered": f"CREATE TABLE t (id {{serial}}, k text UNIQUE, {COLUMNS})",
    "indexless": f"CREATE TABLE t (k text, {COLUMNS})",
    "audited": (
        f"CREATE TABLE t (k text PRIMARY KEY, {COLUMNS});"
        " CREATE TABLE log (id {serial}, k text, n integer); {audit}"
    ),
    "checked": (
        f"CREATE TABLE t (k text PRIMARY KEY, {COLUMNS}, CHECK (n BETWEEN 0 AND 15))"
    ),
}
AUDIT: Final = {
    "postgresql": (
        "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO log (k, n) VALUES (new.k, new.n); RETURN new; END $$;"
        " CREATE TRIGGER audit AFTER INSERT OR UPDATE ON t"
        " FOR EACH ROW EXECUTE FUNCTION audit()"
    ),
    "sqlite": " ".join(
        f"CREATE TRIGGER {event}_audit AFTER {event} ON t BEGIN"
        " INSERT INTO log (k, n) VALUES (new.k, new.n); END;"
        for event in ("INSERT", "UPDATE")
    ),
}


async def make(db: Database, table: str) -> None:
    if table == "audited" and db.engine == "postgresql":
        await db.run("DROP FUNCTION IF EXISTS audit CASCADE")
    serial = db.sql(postgresql="bigserial PRIMARY KEY", sqlite="INTEGER PRIMARY KEY")
    await db.run("DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS log")
    await db.run(TABLES[table].format(serial=serial, audit=AUDIT[db.engine]))


async def check(db: Database, table: str, schedule: Schedule) -> None:
    if not await db.query(
        db.sql(
            postgresql="SELECT FROM pg_tables WHERE tablename = 't'"
            " AND schemaname = current_schema()",
            sqlite="SELECT 1 FROM sqlite_schema WHERE name = 't'",
        )
    ):
        await make(db, table)
    await db.run("DELETE FROM t" + ("; DELETE FROM log" * (table == "audited")))
    model = Model(EMPTY, is_allowed) if table == "checked" else Model(EMPTY)
    written: dict[str, list[Any]] = defaultdict(list)
    coalescer = Coalescer(
        db.handle,
        "t",
        key="k",
        max_batch=schedule.max_batch,
        max_delay=schedule.max_delay,
        concurrency=schedule.concurrency,
        without_unique_index="allow",
    )

    async def work(calls: list[tuple[int, Call]]) -> None:
        for turns, call in calls:
            for _ in range(turns):
                await asyncio.sleep(0)
            # The call is made before anything else runs.
            done = model.write(call.key, call.upsert, {})
            if done is None:
                with pytest.raises(CHECK):
                    await coalescer.create_or_update(**call.arguments)
                continue
            action, row = done
            is_written = action in {Action.CREATED, Action.UPDATED}
            if is_written:
                written[call.key].append(row["n"])
            asked = {n: {"k": call.key, **row}[n] for n in call.returning or ()}
            result = await coalescer.create_or_update(**call.arguments)
            assert (result.action, result.row) == (action, asked or None)
            assert result.rows_affected == is_written

    async with coalescer, asyncio.TaskGroup() as group:
        for calls in schedule.tasks:
            group.create_task(work(calls))
    stored = await db.query("SELECT k, n, v, u FROM t")
    assert sorted(stored) == sorted((k, *r.values()) for k, r in model.rows.items())
    if table == "audited":
        log: dict[str, list[Any]] = defaultdict(list)
        for k, n in await db.query("SELECT k, n FROM log ORDER BY id"):
            log[k].append(n)
        assert log == written


@every_handle
@given(schedule=SCHEDULES)
async def test_a_plain_table_is_like_the_model(
    db: Database, schedule: Schedule
) -> None:
    await check(db, "plain", schedule)


@given(schedule=SCHEDULES)
async def test_a_table_with_a_sequence_is_like_the_model(
    db: Database, schedule: Schedule
) -> None:
    await check(db, "numbered", schedule)


@given(schedule=SCHEDULES)
async def test_a_table_without_an_index_is_like_the_model(
    db: Database, schedule: Schedule
) -> None:
    await check(db, "indexless", schedule)


@given(schedule=SCHEDULES)
async def test_a_trigger_sees_every_write_as_in_the_model(
    db: Database, schedule: Schedule
) -> None:
    await check(db, "audited", schedule)


@given(schedule=SCHEDULES)
async def test_a_violated_check_is_its_caller_s_as_in_the_model(
    db: Database, schedule: Schedule
) -> None:
    await check(db, "checked", schedule)


# --- Meaning ------------------------------------------------------------------------------


ARGUMENTS: Final[list[dict[str, Any]]] = [
    {"defaults": {"n": 1}},
    {"defaults": {"n": F("n") + 1}, "returning": "*"},
    {"defaults": {"n": F("n") - 1, "v": "x"}, "returning": ("n", "v")},
    {"defaults": {"v": "y"}, "create_defaults": {"n": 3}, "returning": "n"},
    {"defaults": {"n": 5}, "where": F("n") > Excluded("n"), "returning": "*"},
    {"defaults": {"n": 6}, "skip_unchanged": True, "returning": "*"},
    {"defaults": {"n": 6}, "skip_unchanged": True},
    {"defaults": {"v": "z"}, "touch": {"u": "t"}, "returning": "*"},
    {"defaults": {"v": "z"}, "touch": {"u": "tt"}, "returning": "*"},
    {"create_defaults": {"v": "other"}, "returning": "k"},
    {"defaults": {"v": lambda: "called"}, "returning": "v"},
    {},
]


@pytest.fixture
def at_any_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """How large batches are does not depend on how busy the machine is."""
    for name in ("record", "suspect"):
        monkeypatch.setattr(Pace, name, lambda *_: None)


@pytest.mark.usefixtures("at_any_pace")
@every_handle
async def test_results_are_those_of_plain_calls_one_after_the_other(
    plain: Database,
) -> None:
    await plain.run(f"CREATE TABLE other (k text PRIMARY KEY, {COLUMNS})")
    calls: list[dict[str, Any]] = [
        {"key": {"k": key}, **arguments}
        for arguments in ARGUMENTS * 2
        for key in ("a", "b")
    ]
    expected = [await create_or_update(plain.handle, "other", **c) for c in calls]
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        assert await together(coalescer, calls) == expected
    assert {result.action for result in expected} == {*Action} - {Action.DELETED}
    assert coalescer.stats.largest_batch > 10
    of_both = [
        await plain.query(f"SELECT * FROM {t} ORDER BY k") for t in ("t", "other")
    ]
    assert of_both[0] == of_both[1]


@every_handle
async def test_one_of_many_creators_has_created_the_row(plain: Database) -> None:
    calls = [{"key": {"k": str(n % 7)}, "defaults": ADD} for n in range(100)]
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        results = await together(coalescer, calls)
    assert actions(results) == ["created"] * 7 + ["updated"] * 93
    stored = await plain.query("SELECT k, n FROM t ORDER BY k")
    assert stored == [(str(k), 7 + len(range(k, 100, 7))) for k in range(7)]


async def test_the_last_value_in_the_order_of_the_calls_stays(plain: Database) -> None:
    calls = [{"key": {"k": "a"}, "defaults": {"n": n}} for n in range(50)]
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        await together(coalescer, calls)
    assert await plain.query("SELECT n FROM t") == [(49,)]


async def test_a_row_is_returned_as_its_own_call_has_left_it(plain: Database) -> None:
    calls = [
        {"key": {"k": "a"}, "defaults": ADD, "returning": "n"} if n % 3 else
        {"key": {"k": "a"}, "defaults": ADD}
        for n in range(20)
    ]  # fmt: skip
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        results = await together(coalescer, calls)
    rows = [result.row for result in results if isinstance(result, Result)]
    assert rows == [{"n": n + 8} if n % 3 else None for n in range(20)]


async def test_callables_are_called_when_the_call_is_made(plain: Database) -> None:
    made: list[int] = []

    def number() -> int:
        made.append(len(made))
        return made[-1]

    async with Coalescer(plain.handle, "t", key="k", max_delay=60) as coalescer:
        calls = [
            asyncio.create_task(
                coalescer.create_or_update(key={"k": "a"}, defaults={"n": number})
            )
            for _ in range(3)
        ]
        await asyncio.sleep(0)
        assert made == [0, 1, 2]
    assert all(call.done() for call in calls)
    assert await plain.query("SELECT n FROM t") == [(2,)]


async def test_rows_that_share_a_key_are_all_written(db: Database) -> None:
    await db.run("CREATE TABLE t (k text, n integer)")
    await db.run("INSERT INTO t VALUES ('a', 1), ('a', 2), ('b', 3)")
    calls = [{"key": {"k": k}, "defaults": ADD, "returning": "n"} for k in "abcab"]
    async with Coalescer(
        db.handle, "t", key="k", without_unique_index="allow"
    ) as coalescer:
        results = await together(coalescer, calls)
    counts = [r.rows_affected for r in results if isinstance(r, Result)]
    assert counts == [2, 1, 1, 2, 1]
    stored = await db.query("SELECT k, n FROM t WHERE n IS NOT NULL ORDER BY k, n")
    assert stored == [("a", 3), ("a", 4), ("b", 5)]


async def test_an_index_that_is_missing_is_an_error_where_it_is_asked_for(
    db: Database,
) -> None:
    await db.run("CREATE TABLE t (k text, n integer)")
    calls = [{"key": {"k": "a"}, "defaults": ADD} for _ in range(4)]
    async with Coalescer(
        db.handle, "t", key="k", without_unique_index="error"
    ) as coalescer:
        results = await together(coalescer, calls)
    assert {type(result) for result in results} == {MissingUniqueIndexError}


@pytest.mark.parametrize(
    "db", ["asyncpg", "pool", "psycopg", "psycopg_pool"], indirect=True
)
async def test_a_lock_replaces_the_unique_index(db: Database) -> None:
    await db.run("CREATE TABLE t (k text, n integer DEFAULT 0)")
    calls = [{"key": {"k": k}, "defaults": ADD} for k in "abcab" * 3]
    async with Coalescer(
        db.handle, "t", key="k", without_unique_index="lock"
    ) as coalescer:
        results = await together(coalescer, calls)
    assert actions(results).count("created") == 3
    stored = await db.query("SELECT k, n FROM t ORDER BY k")
    assert stored == [("a", 6), ("b", 6), ("c", 3)]


async def test_a_key_of_several_columns_is_named_in_any_order(db: Database) -> None:
    await db.run(
        "CREATE TABLE t (a integer, b text, n integer DEFAULT 0, PRIMARY KEY (a, b))"
    )
    calls: list[dict[str, Any]] = [
        {"key": {"a": 1, "b": "x"}, "defaults": ADD},
        {"key": {"b": "x", "a": 1}, "defaults": ADD},
        {"key": {"b": "y", "a": 1}, "defaults": ADD},
    ]
    async with Coalescer(db.handle, "t", key=("a", "b")) as coalescer:
        results = await together(coalescer, calls)
    assert actions(results) == ["created", "updated", "created"]
    assert await db.query("SELECT * FROM t ORDER BY b") == [(1, "x", 2), (1, "y", 1)]


@pytest.mark.parametrize(
    "given", [{"a": 1}, {"a": 1, "c": 2}, {}, {"a": 1, "b": 2, "c": 3}]
)
async def test_a_key_of_other_columns_is_refused(db: Database, given: Row) -> None:
    async with Coalescer(db.handle, "t", key=("a", "b")) as coalescer:
        with pytest.raises(
            UsageError, match="key must have 'a', 'b', as the coalescer's"
        ):
            await coalescer.create_or_update(key=given)
    assert coalescer.stats == CoalescerStats()


async def test_a_key_that_is_null_is_a_row_of_its_own(db: Database) -> None:
    await db.run("CREATE TABLE t (k text, n integer DEFAULT 0)")
    calls = [{"key": {"k": k}, "defaults": ADD} for k in (None, "a", None, "a", None)]
    async with Coalescer(
        db.handle, "t", key="k", without_unique_index="allow"
    ) as coalescer:
        await together(coalescer, calls)
    assert sorted(await db.query("SELECT coalesce(k, ''), n FROM t")) == [
        ("", 3),
        ("a", 2),
    ]


@pytest.mark.parametrize(
    "db", ["asyncpg", "pool", "psycopg", "psycopg_pool"], indirect=True
)
async def test_a_key_that_cannot_be_hashed_is_a_key(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer[] PRIMARY KEY, n integer DEFAULT 0)")
    calls = [{"key": {"k": [n % 3]}, "defaults": ADD} for n in range(30)]
    async with Coalescer(db.handle, "t", key="k", max_batch=4) as coalescer:
        results = await together(coalescer, calls)
    assert actions(results).count("created") == 3
    assert await db.query("SELECT DISTINCT n FROM t") == [(10,)]


class Odd(str):
    """A text that refuses to be compared."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise ArithmeticError

    def __hash__(self) -> int:
        return 1


async def test_a_key_that_cannot_be_compared_is_a_key(plain: Database) -> None:
    calls = [{"key": {"k": Odd(n % 3)}, "defaults": ADD} for n in range(30)]
    async with asyncio.timeout(20):
        async with Coalescer(plain.handle, "t", key="k", max_batch=4) as coalescer:
            results = await together(coalescer, calls)
    assert actions(results).count("created") == 3
    assert await plain.query("SELECT DISTINCT n FROM t") == [(17,)]


class Bad(str):
    """A text that refuses to be hashed, in its own way."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        raise ArithmeticError


async def test_a_key_whose_hash_fails_is_a_key(plain: Database) -> None:
    calls = [{"key": {"k": k}, "defaults": ADD} for k in ("a", Bad("b"), "c")]
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        results = await together(coalescer, calls)
    assert actions(results) == ["created"] * 3
    assert coalescer.stats.failures == 0


# --- A bad call fails alone ---------------------------------------------------------------


@every_handle
async def test_a_bad_call_fails_alone_with_the_driver_s_error(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer CHECK (n < 100))")
    calls = [
        {"key": {"k": k}, "defaults": {"n": 100 if k in {3, 17} else k}}
        for k in range(20)
    ]
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        results = await together(coalescer, calls)
        again = await together(coalescer, calls)
    for some, action in ((results, "created"), (again, "updated")):
        errors = [n for n, result in enumerate(some) if isinstance(result, CHECK)]
        assert errors == [3, 17]
        assert actions(some).count(action) == 18
    assert await db.query("SELECT count(*) FROM t") == [(18,)]
    assert coalescer.stats.failures == 4


async def test_a_value_in_between_that_violates_a_check_fails_its_call_alone(
    db: Database,
) -> None:
    await db.run(
        "CREATE TABLE t (k text PRIMARY KEY, n integer DEFAULT 0 CHECK (n < 3))"
    )
    calls = [
        {"key": {"k": "a"}, "defaults": {"n": F("n") + d}} for d in (1, 1, 1, -1, 1)
    ]
    async with Coalescer(db.handle, "t", key="k", max_delay=0.01) as coalescer:
        results = await together(coalescer, calls)
    assert [isinstance(result, CHECK) for result in results] == [0, 0, 1, 0, 0]
    assert await db.query("SELECT n FROM t") == [(2,)]


async def test_so_it_is_with_a_check_of_the_whole_row(pg: PostgresDatabase) -> None:
    await pg.run(
        "CREATE TABLE t (k text PRIMARY KEY, n integer);"
        "CREATE FUNCTION is_small(t) RETURNS boolean LANGUAGE sql"
        " AS 'SELECT $1.n < 3';"
        "ALTER TABLE t ADD CHECK (is_small(t))"
    )
    calls = [{"key": {"k": "a"}, "defaults": {"n": n}} for n in (1, 5, 2)]
    async with Coalescer(pg.handle, "t", key="k", max_delay=0.01) as coalescer:
        results = await together(coalescer, calls)
    assert [isinstance(result, CHECK) for result in results] == [0, 1, 0]
    assert await pg.query("SELECT n FROM t") == [(2,)]


async def test_a_sum_that_overflows_fails_only_the_calls_that_are_too_many(
    db: Database,
) -> None:
    most = db.sql(postgresql="2147483644", sqlite="9223372036854775804")
    await db.run(
        "CREATE TABLE t (k text PRIMARY KEY, n bigint);"
        f"INSERT INTO t VALUES ('a', {most})"
    )
    if db.engine == "postgresql":
        await db.run("ALTER TABLE t ALTER n TYPE integer")
    calls = [{"key": {"k": "a"}, "defaults": ADD} for _ in range(6)]
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        results = await together(coalescer, calls)
    if db.engine == "postgresql":
        assert actions(results[:3]) == ["updated"] * 3
        errors = [found for found in results if isinstance(found, BaseException)]
        (error,) = {type(driver_error(found)).__name__ for found in errors}
        assert len(errors) == 3
        assert error in {"NumericValueOutOfRangeError", "NumericValueOutOfRange"}
        assert await db.query("SELECT n FROM t") == [(2147483647,)]
    else:
        assert set(actions(results)) == {"updated"}


@pytest.mark.parametrize(
    "db", ["asyncpg", "pool", "psycopg", "psycopg_pool"], indirect=True
)
async def test_a_sum_that_overflows_in_between_fails_the_call_that_overflows(
    plain: Database,
) -> None:
    await plain.run("INSERT INTO t VALUES ('a', 2147483646)")
    calls = [{"key": {"k": "a"}, "defaults": {"n": F("n") + d}} for d in (1, 1, -1)]
    async with Coalescer(plain.handle, "t", key="k", max_delay=0.01) as coalescer:
        results = await together(coalescer, calls)
    error = "NumericValueOutOfRange" + "Error" * (plain.kind not in PSYCOPG)
    assert actions(results) == ["updated", error, "updated"]
    assert await plain.query("SELECT n FROM t") == [(2147483646,)]


async def test_a_value_that_cannot_be_sent_fails_alone(plain: Database) -> None:
    values: list[Any] = ["a", object(), "b", "c"]
    calls: list[dict[str, Any]] = [
        {"key": {"k": str(n)}, "defaults": {"v": v}} for n, v in enumerate(values)
    ]
    calls += [{"key": {"k": "d"}, "returning": [["k"]]}, {"key": {"k": "e"}}]
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        results = await together(coalescer, calls)
    failed = [n for n, result in enumerate(results) if not isinstance(result, Result)]
    assert failed == [1, 4]
    assert await plain.query("SELECT k FROM t ORDER BY k") == [
        (k,) for k in ("0", "2", "3", "e")
    ]


@pytest.mark.parametrize(
    "db", ["asyncpg", "pool", "psycopg", "psycopg_pool"], indirect=True
)
async def test_a_folded_call_that_could_not_be_sent_alone_fails(
    plain: Database,
) -> None:
    calls = [
        {"key": {"k": "a"}, "defaults": ADD, "create_defaults": {"v": v}}
        for v in ("x", 5, "y")
    ]
    async with Coalescer(plain.handle, "t", key="k", max_delay=0.01) as coalescer:
        results = await together(coalescer, calls)
    # psycopg has the server make a text of the number.
    stored = plain.kind in PSYCOPG
    alone = "updated" if stored else "DataError"
    assert actions(results) == ["created", alone, "updated"]
    assert await plain.query("SELECT n, v FROM t") == [(9 + stored, "x")]


@pytest.mark.parametrize(
    "db", ["asyncpg", "pool", "psycopg", "psycopg_pool"], indirect=True
)
async def test_another_sum_on_create_is_kept_apart(plain: Database) -> None:
    call = {
        "key": {"k": "a"},
        "defaults": {"n": F("n") + 1},
        "create_defaults": {"n": F("n") + 5},
    }
    async with Coalescer(plain.handle, "t", key="k", max_delay=0.01) as coalescer:
        results = await together(coalescer, [call] * 4)
    assert actions(results) == ["created"] + ["updated"] * 3
    assert await plain.query("SELECT n FROM t") == [(7 + 5 + 3,)]


async def test_what_the_library_refuses_fails_alone(plain: Database) -> None:
    calls: list[dict[str, Any]] = [
        {"key": {"k": "a"}, "defaults": ADD},
        {"key": {"k": "b"}, "defaults": {"nn": 1}},
        {"key": {"k": "c"}, "defaults": {"n": F("v") + 1}},
        {"key": {"k": "d"}, "defaults": {"n": 1}, "where": "n > 1"},
        {"key": {"k": "e"}, "returning": "missing"},
        {"key": {"k": "f"}, "defaults": ADD},
    ]
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        results = await together(coalescer, calls)
    assert actions(results) == [
        "created",
        "UnknownColumnError",
        "UsageError",
        "UsageError",
        "UnknownColumnError",
        "created",
    ]


@pytest.mark.parametrize(
    "db", ["asyncpg", "pool", "psycopg", "psycopg_pool"], indirect=True
)
async def test_a_key_that_would_be_stored_as_another_fails_alone(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0)")
    calls = [{"key": {"k": k}, "defaults": ADD} for k in (1, 1.5, 2, 1, 1.5)]
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        results = await together(coalescer, calls)
    expected = ["created", "UsageError", "created", "updated", "UsageError"]
    assert actions(results) == expected


@every_handle
@pytest.mark.parametrize("number", [1, 2, 5])
async def test_a_table_or_key_that_is_not_there_fails_every_call(
    plain: Database, number: int
) -> None:
    async with Coalescer(plain.handle, "missing", key="k") as coalescer:
        results = await together(coalescer, [{"key": {"k": "a"}}] * number)
    assert {type(result) for result in results} == {UnknownTableError}
    async with Coalescer(plain.handle, "t", key="kk") as coalescer:
        results = await together(coalescer, [{"key": {"kk": "a"}}] * number)
    assert {type(result) for result in results} == {UnknownColumnError}
    # Each has one of its own.
    assert len({id(result) for result in results}) == number


@every_handle
async def test_a_column_that_has_come_meanwhile_is_found(plain: Database) -> None:
    calls: list[dict[str, Any]] = [
        {"key": {"k": "a"}, "defaults": {"late": 1}},
        {"key": {"k": "b"}, "defaults": {"late": 2}},
        {"key": {"k": "c"}, "defaults": {"never": 2}},
        {"key": {"k": "d"}, "defaults": {"n": 2}},
    ]
    expected = ["UnknownColumnError"] * 3 + ["created"]
    async with Coalescer(plain.handle, "t", key="k", max_delay=0.01) as coalescer:
        assert actions(await together(coalescer, calls)) == expected
        await plain.run("ALTER TABLE t ADD late integer")
        expected = ["created", "created", "UnknownColumnError", "updated"]
        assert actions(await together(coalescer, calls)) == expected


@every_handle
async def test_a_constraint_that_is_checked_at_commit_fails_its_call_alone(
    db: Database,
) -> None:
    await db.run("CREATE TABLE parent (id integer PRIMARY KEY)")
    await db.run(
        "INSERT INTO parent VALUES (1); CREATE TABLE t (k integer PRIMARY KEY,"
        " p integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
    )
    if db.engine == "sqlite":
        await execute(db.handle, "PRAGMA foreign_keys = ON")
    calls = [
        {"key": {"k": k}, "defaults": {"p": 2 if k in {4, 9} else 1}} for k in range(12)
    ]
    async with Coalescer(db.handle, "t", key="k", max_delay=0.01) as coalescer:
        results = await together(coalescer, calls)
    failed = [n for n, result in enumerate(results) if isinstance(result, FOREIGN_KEY)]
    assert failed == [4, 9]
    assert await db.query("SELECT count(*), min(p), max(p) FROM t") == [(10, 1, 1)]


# --- In a caller's transaction ------------------------------------------------------------


@every_handle
async def test_it_takes_part_in_the_caller_s_transaction(plain: Database) -> None:
    with pytest.raises(LookupError):
        async with plain.transaction() as conn:
            async with Coalescer(conn, "t", key="k") as coalescer:
                await together(coalescer, [{"key": {"k": k}} for k in "abcd"])
                await coalescer.create_or_update(key={"k": "e"})
            assert await plain.query("SELECT * FROM t") == []
            raise LookupError
    assert await plain.query("SELECT * FROM t") == []


@every_handle
@pytest.mark.parametrize("number", [1, 2, 5])
async def test_there_too_a_bad_call_fails_alone(db: Database, number: int) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, n integer CHECK (n < 3))")
    async with db.transaction() as conn, Coalescer(conn, "t", key="k") as coalescer:
        bad = await together(
            coalescer, [{"key": {"k": k}, "defaults": {"n": 3}} for k in range(number)]
        )
        assert all(isinstance(result, CHECK) for result in bad)
        good = await coalescer.create_or_update(key={"k": 9}, defaults={"n": 1})
        assert good.created
    assert await db.query("SELECT * FROM t") == [(9, 1)]


# --- When -------------------------------------------------------------------------------


# What keeps a batch over a pool from waiting for a row that others have locked.
_WITHOUT_WAITING: Final = re.compile(
    r"\(SELECT pg_catalog.set_config\('lock_timeout', '\d+', true\)\) IS NOT NULL AND "
)


_POOLS: Final = {"pool", "psycopg_pool", "engine of asyncpg", "engine of psycopg"}


@every_handle
async def test_a_lone_call_is_what_a_plain_call_is(
    plain: Database, caplog: pytest.LogCaptureFixture
) -> None:
    call: dict[str, Any] = {"key": {"k": "a"}, "defaults": ADD}
    await create_or_update(plain.handle, "t", **call)
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        with caplog.at_level(logging.DEBUG, "aioupsert"):
            await create_or_update(plain.handle, "t", **call)
            expected = list(caplog.messages)
            caplog.clear()
            await coalescer.create_or_update(**call)
    if plain.kind in _POOLS:
        assert "lock_timeout" not in expected[0]
        assert _WITHOUT_WAITING.sub("", caplog.messages[0]) == expected[0]
    else:
        assert caplog.messages == expected
    assert len(expected) == {"postgresql": 1, "sqlite": 3}[plain.engine]
    assert coalescer.stats.batches == coalescer.stats.rows == 1


@every_handle
@pytest.mark.usefixtures("at_any_pace")
async def test_calls_made_while_a_batch_is_under_way_make_the_next(
    plain: Database,
) -> None:
    calls = [{"key": {"k": str(n)}, "defaults": ADD} for n in range(100)]
    async with Coalescer(plain.handle, "t", key="k") as coalescer:
        await together(coalescer, calls)
    assert coalescer.stats.batches <= 3
    assert coalescer.stats.largest_batch >= 98


async def test_a_delay_gathers_more(plain: Database) -> None:
    async with (
        Coalescer(plain.handle, "t", key="k", max_delay=0.2) as coalescer,
        asyncio.TaskGroup() as group,
    ):
        for n in range(8):
            group.create_task(coalescer.create_or_update(key={"k": str(n)}))
            await asyncio.sleep(0.005)
        assert coalescer.stats.batches == 0
    assert (coalescer.stats.batches, coalescer.stats.largest_batch) == (1, 8)


async def test_a_full_batch_does_not_wait_for_the_delay(plain: Database) -> None:
    async with Coalescer(
        plain.handle, "t", key="k", max_delay=60, max_batch=3
    ) as coalescer:
        async with asyncio.timeout(20):
            await together(coalescer, [{"key": {"k": k}} for k in "abc"])
        last = asyncio.create_task(coalescer.create_or_update(key={"k": "d"}))
        await asyncio.sleep(0)
    # Leaving does not wait for it either.
    assert last.result().created
    assert (coalescer.stats.batches, coalescer.stats.largest_batch) == (2, 3)


async def test_no_batch_is_larger_than_it_may_be(plain: Database) -> None:
    calls = [{"key": {"k": str(n)}} for n in range(50)]
    async with Coalescer(plain.handle, "t", key="k", max_batch=7) as coalescer:
        await together(coalescer, calls)
    assert coalescer.stats.largest_batch == 7
    assert await plain.query("SELECT count(*) FROM t") == [(50,)]


@every_handle
@pytest.mark.usefixtures("at_any_pace")
@pytest.mark.parametrize("max_pending", [1, 2, 8])
async def test_callers_beyond_the_limit_wait_in_order(
    plain: Database, max_pending: int
) -> None:
    calls = [
        {"key": {"k": "a"}, "defaults": {"n": n}, "returning": "n"} for n in range(40)
    ]
    async with Coalescer(
        plain.handle, "t", key="k", max_pending=max_pending
    ) as coalescer:
        results = await together(coalescer, calls)
    assert [r.row for r in results if isinstance(r, Result)] == [
        {"n": n} for n in range(40)
    ]
    assert actions(results) == ["created"] + ["updated"] * 39
    stats = coalescer.stats
    assert stats.waits == 40 - max_pending
    assert stats.largest_batch <= max_pending
    # As many come in as there is room for, so that batches are as full as they may be.
    assert stats.batches <= 2 * 40 // max_pending + 2


@pytest.mark.parametrize(
    "db", ["asyncpg", "pooled", "pool", "psycopg", "psycopg_pool"], indirect=True
)
async def test_calls_for_one_row_are_one_write(plain: Database) -> None:
    calls = [
        {"key": {"k": str(n % 2)}, "defaults": {"n": F("n") + n, "v": str(n)}}
        for n in range(100)
    ]
    async with Coalescer(plain.handle, "t", key="k", max_delay=0.01) as coalescer:
        results = await together(coalescer, calls)
        assert actions(results) == ["created"] * 2 + ["updated"] * 98
        assert coalescer.stats.rows == 2
        await together(coalescer, calls)
    assert (coalescer.stats.calls, coalescer.stats.rows) == (200, 4)
    assert coalescer.stats.batches == 2
    stored = await plain.query("SELECT k, n, v FROM t ORDER BY k")
    sums = [2 * sum(range(k, 100, 2)) + 7 for k in (0, 1)]
    assert stored == [("0", sums[0], "98"), ("1", sums[1], "99")]


@every_handle
async def test_the_statistics_tell_what_was_done(db: Database) -> None:
    await db.run("CREATE TABLE t (k text PRIMARY KEY, n integer CHECK (n < 3))")
    async with Coalescer(db.handle, "t", key="k", max_delay=0.01) as coalescer:
        assert coalescer.stats == CoalescerStats()
        calls = [{"key": {"k": str(n)}, "defaults": {"n": n}} for n in range(5)]
        await together(coalescer, calls)
        with pytest.raises(CHECK):
            await coalescer.create_or_update(key={"k": "a"}, defaults={"n": 3})
    stats = coalescer.stats
    assert stats == CoalescerStats(
        calls=6,
        batches=2,
        rows=4,
        largest_batch=5,
        failures=3,
        seconds=stats.seconds,
    )
    assert 0 < stats.seconds < 20


# --- What is refused ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_batch": 0}, "max_batch must be 1 or more, not 0"),
        ({"max_pending": -1}, "max_pending must be 1 or more, not -1"),
        ({"concurrency": 0}, "concurrency must be 1 or more, not 0"),
        ({"max_delay": -0.1}, "max_delay is zero or more seconds, not -0.1"),
        ({"key": ()}, "key is empty: name the columns that identify a row"),
        ({"key": 5}, "key takes the names of columns, not 5"),
        ({"table": "a.b.c"}, "'a.b.c' is not a table name"),
        ({"without_unique_index": "x"}, "without_unique_index must be one of .* 'x'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_wrong_arguments_are_refused(
    db: Database, wrong: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"table": "t", "key": "k", **wrong}
    with pytest.raises(UsageError, match=message):
        Coalescer(db.handle, **arguments)


def test_what_is_no_connection_is_refused() -> None:
    with pytest.raises(UnsupportedConnectionError, match="open a connection first"):
        Coalescer("postgresql://", "t", key="k")  # type: ignore[arg-type]  # the test


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"key": 1}, "key must be a mapping"),
        ({"key": {"k": F("n")}}, "must be a plain value"),
        ({"key": {"k": 1}, "defaults": ["n"]}, "defaults must be a mapping"),
        ({"key": {"k": 1}, "where": True}, "where takes an expression"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
async def test_wrong_arguments_of_a_call_are_refused(
    db: Database, wrong: dict[str, Any], message: str
) -> None:
    async with Coalescer(db.handle, "t", key="k") as coalescer:
        with pytest.raises(UsageError, match=message):
            await coalescer.create_or_update(**wrong)
    assert coalescer.stats == CoalescerStats()


async def is_closed(awaitable: Awaitable[Any], message: str) -> None:
    with pytest.raises(CoalescerClosedError, match=message):
        await awaitable


@every_handle
async def test_it_must_be_entered_once(plain: Database) -> None:
    coalescer = Coalescer(plain.handle, "t", key="k")
    call: dict[str, Any] = {"key": {"k": "a"}}
    await is_closed(
        coalescer.create_or_update(**call), "not entered: use it in an async"
    )
    async with coalescer as entered:
        assert entered is coalescer
        with pytest.raises(UsageError, match="entered once; make another one"):
            await coalescer.__aenter__()
        assert (await coalescer.create_or_update(**call)).created
    await is_closed(coalescer.create_or_update(**call), "it is closed")
    with pytest.raises(UsageError, match="entered once"):
        await coalescer.__aenter__()
    await coalescer.aclose()
    assert coalescer.stats.calls == 1


@every_handle
async def test_it_belongs_to_one_event_loop(plain: Database) -> None:
    async with Coalescer(plain.handle, "t", key="k") as coalescer:

        def call() -> None:
            asyncio.run(
                is_closed(
                    coalescer.create_or_update(key={"k": "a"}), "another event loop"
                )
            )

        await asyncio.to_thread(call)
        assert (await coalescer.create_or_update(key={"k": "a"})).created


@pytest.mark.parametrize("db", ["pool", "psycopg_pool"], indirect=True)
async def test_a_pool_has_its_connections_back(db: PostgresDatabase) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY)")
    async with Coalescer(db.handle, "t", key="k", concurrency=3) as coalescer:
        await together(coalescer, [{"key": {"k": n}} for n in range(1_500)])
    assert await has_all_back(db.handle)
    assert coalescer.stats.batches >= 3
