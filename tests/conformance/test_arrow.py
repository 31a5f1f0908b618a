"""Rows that are columns of Arrow: the same rows as dicts are written in the same way."""

import datetime as dt
import decimal
import importlib
import sys
import uuid
from typing import Any, Final
from zoneinfo import ZoneInfo

import pytest

from aioupsert import (
    Action,
    BulkError,
    BulkResult,
    UsageError,
    create_or_update_many,
    get_or_create_many,
    iter_create_or_update,
    sync_rows,
)
from aioupsert._bulk.batching import checked_size, source_of
from tests.support.databases import Database, PostgresDatabase, every_handle

pa: Final[Any] = importlib.import_module("pyarrow")
UTC: Final = dt.UTC
TEXTS: Final = ["a", "", None, 'x"y', "line\nline", "é, ü", "\r", "x'y", "NULL", "\\N"]
END_OF_DATA: Final = "\\."
DAYS: Final = [dt.date(2020, 1, 31), None, dt.date(2, 1, 1)]
MOMENTS: Final = [dt.datetime(2020, 7, 1, 12, 30, 1, 5, tzinfo=UTC), None]
NUMBERS: Final = [decimal.Decimal("1.50"), None, decimal.Decimal("-7.25")]


class Frame:
    """What others have: columns that can be read by Arrow's interface alone."""

    def __init__(self, **columns: Any) -> None:
        self.table = pa.table(columns)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def cycled(cells: list[Any], size: int) -> list[Any]:
    return [cells[number % len(cells)] for number in range(size)]


@every_handle
async def test_they_are_rows_of_every_call(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, a integer, b text)")
    rows = Frame(k=[1, 2, 2], a=[10, None, 30], b=["x", "y", None])
    done = await create_or_update_many(db.handle, "t", rows, key="k")
    assert done == BulkResult(created=2, updated=1)
    assert await db.query("SELECT k, a, b FROM t ORDER BY k") == [
        (1, 10, "x"),
        (2, 30, None),
    ]
    again = Frame(k=[2, 3], a=[4, 5])
    results = [
        (result.action, dict(result.row))
        async for result in iter_create_or_update(
            db.handle, "t", again, key="k", returning=["a", "b"]
        )
    ]
    assert results == [
        (Action.UPDATED, {"a": 4, "b": None}),
        (Action.CREATED, {"a": 5, "b": None}),
    ]
    found = await get_or_create_many(db.handle, "t", Frame(k=[3, 4]), key="k")
    assert [result.created for result in found] == [False, True]
    await sync_rows(db.handle, "t", Frame(k=[1, 5]), key="k", scope={}, max_missing=1.0)
    assert await db.query("SELECT k FROM t ORDER BY k") == [(1,), (5,)]


@pytest.mark.parametrize(
    ("db", "size"),
    [("asyncpg", 12), ("asyncpg", 6_000), ("psycopg", 6_000)],
    indirect=["db"],
    ids=["arrays", "copied", "copied by psycopg"],
)
async def test_values_are_stored_as_those_of_dicts(
    db: PostgresDatabase, size: int
) -> None:
    columns: dict[str, tuple[str, Any]] = {
        "k": ("integer PRIMARY KEY", pa.array(range(size), pa.uint32())),
        "small": ("smallint", pa.array(cycled([1, None, -5], size), pa.int8())),
        "label": ("text", pa.array(cycled(TEXTS, size))),
        "large": ("varchar", pa.array(cycled(TEXTS, size), pa.large_string())),
        "view": ("text", pa.array(cycled(TEXTS, size), pa.string_view())),
        "kind": ("text", pa.array(cycled(["x", None], size)).dictionary_encode()),
        "yes": ("boolean", pa.array(cycled([True, False, None], size))),
        "share": ("float8", pa.array(cycled([0.1, None, float("inf")], size))),
        "single": ("float8", pa.array(cycled([0.1, None], size), pa.float32())),
        "price": ("numeric", pa.array(cycled(NUMBERS, size))),
        "day": ("date", pa.array(cycled(DAYS, size))),
        "day64": ("date", pa.array(cycled(DAYS, size), pa.date64())),
        "at": (
            "timestamptz",
            pa.array(cycled(MOMENTS, size), pa.timestamp("us", "Europe/Rome")),
        ),
        "nanos": (
            "timestamptz",
            pa.array(cycled(MOMENTS, size), pa.timestamp("ns", "UTC")),
        ),
        "local": (
            "timestamp",
            pa.array(
                cycled([dt.datetime(2020, 1, 1), None], size),  # noqa: DTZ001  # it has no zone
                pa.timestamp("us"),
            ),
        ),
        "nothing": ("text", pa.nulls(size)),
    }
    await check(db, columns)


async def test_days_that_are_infinity_to_a_driver_are_so_here(
    pg: PostgresDatabase,
) -> None:
    days = pa.array(cycled([dt.date.min, dt.date.max, None], 6_000))
    columns = {"k": ("integer PRIMARY KEY", pa.array(range(6_000)))}
    await check(pg, {**columns, "day": ("date", days)})


async def test_a_text_that_would_end_a_copy_is_stored(pg: PostgresDatabase) -> None:
    texts = cycled(["a", f"\n{END_OF_DATA}\n", END_OF_DATA], 6_000)
    columns = {"k": ("integer PRIMARY KEY", pa.array(range(6_000)))}
    await check(pg, {**columns, "label": ("text", pa.array(texts))})


async def test_values_that_are_converted_are_stored_as_those_of_dicts(
    pg: PostgresDatabase,
) -> None:
    size = 6_000
    ids = [uuid.UUID(int=number) for number in range(3)]
    columns: dict[str, tuple[str, Any]] = {
        "k": ("text PRIMARY KEY", pa.array([f"{number}" for number in range(size)])),
        "raw": ("bytea", pa.array(cycled([b"a\0b", None], size))),
        "fixed": ("bytea", pa.array(cycled([b"ab", None], size), pa.binary(2))),
        "noon": (
            "time",
            pa.array(cycled([dt.time(12, 30), None], size), pa.time64("ns")),
        ),
        "span": (
            "interval",
            pa.array(cycled([dt.timedelta(days=1), None], size), pa.duration("ns")),
        ),
        "tags": ("text[]", pa.array(cycled([["a", "b"], None, []], size))),
        "more": ("jsonb", pa.array(cycled([{"a": [1]}, {"a": None}], size))),
        "id": ("uuid", pa.array(cycled([i.bytes for i in ids], size), pa.uuid())),
    }
    await check(pg, columns)


async def check(db: Database, columns: dict[str, tuple[str, Any]]) -> None:
    """Compare what is stored with what the same rows as dicts store."""
    described = ", ".join(f"{name} {kind}" for name, (kind, _) in columns.items())
    frame = Frame(**{name: array for name, (_, array) in columns.items()})
    size = frame.table.num_rows
    for table, rows in (("a", frame), ("d", frame.table.to_pylist())):
        await db.run(f"CREATE TABLE {table} ({described})")
        for expected in ({"created": size}, {"updated": size}):
            done = await create_or_update_many(db.handle, table, rows, key="k")
            assert done == BulkResult(**expected)
    for one, two in (("a", "d"), ("d", "a")):
        assert not await db.query(f"SELECT * FROM {one} EXCEPT SELECT * FROM {two}")
    assert await db.query("SELECT count(*) FROM a") == [(size,)]


@pytest.mark.parametrize("keys", [[1, 2, 1], [1, 2, None]], ids=["repeated", "NULL"])
async def test_keys_are_compared_as_those_of_dicts(
    db: Database, keys: list[Any]
) -> None:
    await db.run("CREATE TABLE t (k integer UNIQUE, a integer)")
    rows = Frame(k=keys, a=[1, 2, 3])
    done = await create_or_update_many(
        db.handle, "t", rows, key="k", without_unique_index="allow"
    )
    assert done.rows == 3
    stored = sorted(await db.query("SELECT k, a FROM t"), key=str)
    assert stored == sorted(dict(zip(keys, [1, 2, 3], strict=True)).items(), key=str)


async def test_moments_of_a_zone_are_keys(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k timestamptz PRIMARY KEY, a integer)")
    zone = ZoneInfo("Europe/Rome")
    moments = [
        dt.datetime(2020, 10, 25, 2, 30, fold=fold, tzinfo=zone) for fold in (0, 1)
    ]
    keys = pa.array(moments, pa.timestamp("us", "Europe/Rome"))
    await create_or_update_many(pg.handle, "t", Frame(k=keys, a=[1, 2]), key="k")
    assert await pg.query("SELECT a FROM t ORDER BY k") == [(1,), (2,)]


async def test_days_are_keys(pg: PostgresDatabase) -> None:
    await pg.run("CREATE TABLE t (k date PRIMARY KEY, a integer)")
    days = [dt.date(2020, 1, day) for day in (1, 2, 1)]
    done = await create_or_update_many(
        pg.handle, "t", Frame(k=days, a=[1, 2, 3]), key="k"
    )
    assert done == BulkResult(created=2, updated=1)
    assert await pg.query("SELECT a FROM t ORDER BY k") == [(3,), (2,)]


def test_columns_are_read_again_but_not_streams() -> None:
    frame = Frame(k=[1])
    again = source_of(frame, checked_size(None)).from_start()
    assert again is not None
    assert not again.is_empty
    stream = source_of(frame.table.to_reader(), checked_size(None))
    assert stream.from_start() is None


async def test_a_row_at_fault_is_a_dict(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, a integer CHECK (a < 5))")
    rows = Frame(k=[1, 2, 3, 4], a=[1, 9, 2, 3])
    with pytest.raises(BulkError) as caught:
        await create_or_update_many(db.handle, "t", rows, key="k")
    assert (caught.value.index, caught.value.row) == (1, {"k": 2, "a": 9})
    done = await create_or_update_many(
        db.handle, "t", rows, key="k", atomic=False, on_error="skip"
    )
    assert (done.created, len(done.rejected)) == (3, 1)


async def test_a_stream_is_read_batch_by_batch(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, a integer)")
    table = pa.table({"k": range(10), "a": range(10)})
    stream = pa.RecordBatchReader.from_batches(
        table.schema, table.to_batches(max_chunksize=3)
    )
    done = await create_or_update_many(db.handle, "t", stream, key="k", batch_size=4)
    assert done.created == 10
    assert await db.query("SELECT sum(a) FROM t") == [(45,)]
    empty = await create_or_update_many(db.handle, "t", table.slice(10), key="k")
    assert empty == BulkResult()


REFUSED: Final[dict[str, Any]] = {
    "a map": pa.array([[("x", 1)]], pa.map_(pa.string(), pa.int64())),
    "an interval": pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
    "nanoseconds": pa.array([1], pa.timestamp("ns")),
    "nested nanoseconds": pa.array([[1]], pa.list_(pa.timestamp("ns"))),
    "nested maps": pa.array(
        [{"m": [("x", 1)]}], pa.struct({"m": pa.map_(pa.string(), pa.int64())})
    ),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_what_python_has_not_is_refused_by_its_column(
    db: Database, case: str
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, odd text)")
    rows = Frame(k=[1], odd=REFUSED[case])
    with pytest.raises(UsageError, match="column 'odd'"):
        await create_or_update_many(db.handle, "t", rows, key="k")
    assert await db.query("SELECT * FROM t") == []


async def test_columns_are_named_once_and_the_keys_are_among_them(db: Database) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY, a integer)")
    twice = pa.table([[1], [2]], names=["k", "k"])
    with pytest.raises(UsageError, match="one twice: k, k"):
        await create_or_update_many(db.handle, "t", twice, key="k")
    with pytest.raises(BulkError, match="no 'k'"):
        await create_or_update_many(db.handle, "t", Frame(a=[1]), key="k")


async def test_without_pyarrow_it_is_told(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.run("CREATE TABLE t (k integer PRIMARY KEY)")
    rows = Frame(k=[1])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'aioupsert\[arrow\]'"):
        await create_or_update_many(db.handle, "t", rows, key="k")
