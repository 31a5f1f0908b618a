"""Rows of any kind are read, no further ahead than is needed, and left as they are."""

import asyncio
import sqlite3
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, make_dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, NamedTuple

import attrs
import pydantic
import pytest
from pydantic import v1

from aioupsert import (
    BulkError,
    BulkResult,
    Coalescer,
    ConnectionHeldError,
    F,
    UsageError,
    create_or_update,
    create_or_update_many,
    iter_create_or_update,
    sync_rows,
)
from tests.support.databases import (
    CONNECTIONS,
    Database,
    PostgresDatabase,
    every_handle,
    fetched,
)

TABLE: Final = "CREATE TABLE t (k integer PRIMARY KEY, a integer, b text)"
CONTENT: Final = "SELECT k, a, b FROM t ORDER BY k"

engines = pytest.mark.parametrize("db", CONNECTIONS, indirect=True)


@pytest.fixture(autouse=True)
async def made(db: Database) -> None:
    await db.run(TABLE)


async def load(db: Database, rows: Any, **options: Any) -> BulkResult:
    return await create_or_update_many(db.handle, "t", rows, key="k", **options)


# --- Kinds of row -----------------------------------------------------------------------


class OwnMapping(Mapping[str, Any]):
    def __init__(self, **cells: Any) -> None:
        self._cells = cells

    def __getitem__(self, name: str) -> Any:
        return self._cells[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)


class HasKeys:
    """No mapping, as the rows of drivers."""

    def __init__(self, **cells: Any) -> None:
        self._cells = cells

    def keys(self) -> Iterable[str]:
        return self._cells.keys()

    def __getitem__(self, name: str) -> Any:
        return self._cells[name]


class Tuple(NamedTuple):
    k: int
    a: int
    b: str | None


@dataclass
class Data:
    constant: ClassVar[int] = 5
    k: int
    a: int
    b: str | None


@dataclass(frozen=True, slots=True)
class Slots:
    b: str | None
    a: int
    k: int


@dataclass
class Computed:
    k: int
    a: int
    b: str | None = field(default=None, repr=False)

    @property
    def other(self) -> int:
        return 0


@dataclass
class Inherits(Computed):
    pass


@attrs.define
class Attrs:
    k: int
    a: int
    b: str | None


@attrs.frozen(slots=False)
class FrozenAttrs:
    k: int
    a: int
    b: str | None


class Model(pydantic.BaseModel):
    k: int
    a: int
    b: str | None
    _private: int = pydantic.PrivateAttr(5)


class FrozenModel(pydantic.BaseModel, frozen=True):
    k: int
    a: int
    b: str | None = None


@pydantic.dataclasses.dataclass
class ModelData:
    k: int
    a: int
    b: str | None


class OldModel(v1.BaseModel):
    k: int
    a: int
    b: str | None


def sqlite_row(k: int, a: int, b: str | None) -> sqlite3.Row:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        row: sqlite3.Row = connection.execute(
            "SELECT ? AS a, ? AS k, ? AS b", (a, k, b)
        ).fetchone()
        return row


KINDS: Final[dict[str, Callable[..., Any]]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "UserDict": UserDict,
    "MappingProxyType": lambda **cells: MappingProxyType(cells),
    "ChainMap": lambda k, **cells: ChainMap({"k": k}, cells),
    "mapping": OwnMapping,
    "keys()": HasKeys,
    "sqlite3.Row": sqlite_row,
    "named tuple": Tuple,
    "dataclass": Data,
    "dataclass with slots": Slots,
    "dataclass with defaults": Computed,
    "dataclass that inherits": Inherits,
    "attrs": Attrs,
    "attrs, frozen": FrozenAttrs,
    "pydantic": Model,
    "pydantic, frozen": FrozenModel,
    "pydantic dataclass": ModelData,
    "pydantic 1": OldModel,
}


@engines
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
async def test_every_kind_of_row_is_read(
    db: Database, make: Callable[..., Any]
) -> None:
    rows = [make(k=n, a=-n, b=None if n else "x") for n in range(5)]
    assert await load(db, rows, batch_size=3) == BulkResult(created=5)
    assert await load(db, rows, batch_size=1) == BulkResult(updated=5)
    assert await db.query(CONTENT) == [(n, -n, None if n else "x") for n in range(5)]
    one = make(k=5, a=-5, b="alone")
    for action in ("created", "updated"):
        result = await create_or_update(db.handle, "t", one, key="k", returning="*")
        assert (result.action, result.row) == (action, {"k": 5, "a": -5, "b": "alone"})


@engines
async def test_every_kind_may_be_in_one_batch(db: Database) -> None:
    rows = [make(k=n, a=-n, b="x") for n, make in enumerate(KINDS.values())]
    rows += [make(k=n, a=-n, b="y") for n, make in enumerate(KINDS.values())]
    number = len(KINDS)
    assert await load(db, rows) == BulkResult(created=number, updated=number)
    assert await db.query(CONTENT) == [(n, -n, "y") for n in range(number)]


@pytest.mark.parametrize("db", ["asyncpg", "pool", "psycopg"], indirect=True)
async def test_the_records_of_a_query_are_rows(db: PostgresDatabase) -> None:
    records = await fetched(
        db.handle, "SELECT 'x' AS b, n AS k, -n AS a FROM generate_series(1, 5) n"
    )
    assert await load(db, records) == BulkResult(created=5)
    assert await db.query(CONTENT) == [(n, -n, "x") for n in range(1, 6)]


@pytest.mark.parametrize("db", ["asyncpg"], indirect=True)
async def test_a_cursor_of_the_same_transaction_is_read(db: PostgresDatabase) -> None:
    sql = "SELECT n AS k, -n AS a FROM generate_series(1, 50) n"
    async with db.handle.transaction():
        rows = db.handle.cursor(sql, prefetch=7)
        assert await load(db, rows, batch_size=10) == BulkResult(created=50)
    assert len(await db.query(CONTENT)) == 50


@pytest.mark.parametrize("db", ["aiosqlite"], indirect=True)
async def test_a_cursor_of_the_same_connection_is_read(db: Database) -> None:
    await db.run(
        "CREATE TABLE s (k integer, a integer); INSERT INTO s"
        " WITH n(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 50)"
        " SELECT n, -n FROM n"
    )
    db.handle.row_factory = sqlite3.Row
    async with db.handle.execute("SELECT * FROM s") as rows:
        assert await load(db, rows, batch_size=10) == BulkResult(created=50)
    assert len(await db.query(CONTENT)) == 50


@engines
async def test_a_default_of_a_class_is_its_cell(db: Database) -> None:
    await db.run("INSERT INTO t VALUES (1, 1, 'stored')")
    await load(db, [Computed(k=1, a=2)])
    assert await db.query(CONTENT) == [(1, 2, None)]


@engines
async def test_a_name_that_is_no_column_of_the_table_is_told(db: Database) -> None:
    @dataclass
    class Wider(Data):
        c: int

    with pytest.raises(BulkError, match="no column 'c'") as caught:
        await load(db, [Data(1, 1, "x"), Wider(2, 2, "x", 5)])
    assert caught.value.index == 1


@engines
async def test_rows_are_left_as_they_are(db: Database) -> None:
    rows = [{"k": n, "a": F("a") + 1, "b": str} for n in range(3)]
    before = [dict(row) for row in rows]
    await load(db, rows)
    assert rows == before


class Gives(dict[str, Any]):
    def __missing__(self, name: str) -> Any:
        return 99


# Of each kind two rows with as many columns, but others.
OTHERS: Final[dict[str, Callable[..., Any]]] = {
    "dict": dict,
    "UserDict": UserDict,
    "keys()": HasKeys,
    "sqlite3.Row": lambda **cells: sqlite_row_of(cells),
    "defaultdict": lambda **cells: defaultdict(lambda: 99, cells),
    "dict that gives what is missing": Gives,
    "Counter": Counter,
}


def sqlite_row_of(cells: dict[str, Any]) -> sqlite3.Row:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.row_factory = sqlite3.Row
        columns = ", ".join(f"? AS {name}" for name in cells)
        row: sqlite3.Row = connection.execute(
            f"SELECT {columns}", (*cells.values(),)
        ).fetchone()
        return row


@engines
@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
async def test_each_row_has_columns_of_its_own(
    db: Database, make: Callable[..., Any]
) -> None:
    await db.run("INSERT INTO t VALUES (1, 10, 'x'), (2, 10, 'x')")
    rows = [make(k=1, a=0), make(k=2, b="y"), make(k=1, a=2)]
    await load(db, rows, update=["a"])
    assert await db.query("SELECT k, a, b FROM t ORDER BY k") == [
        (1, 2, "x"),
        (2, 10, "x"),
    ]
    assert [sorted(row.keys()) for row in rows] == [["a", "k"], ["b", "k"], ["a", "k"]]


# --- Kinds of iterable ------------------------------------------------------------------

ROWS: Final = [{"k": n, "a": -n, "b": str(n)} for n in range(5)]


async def asynchronous() -> AsyncIterator[Any]:
    for row in ROWS:
        await asyncio.sleep(0)
        yield row


class AsyncRows:
    """Can be iterated over more than once."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return asynchronous()


class IndexedRows:
    """Has no iterator of its own, as the results of some drivers."""

    def __getitem__(self, at: int) -> Any:
        return ROWS[at]


ITERABLES: Final[dict[str, Callable[[], Any]]] = {
    "list": lambda: ROWS,
    "tuple": lambda: tuple(ROWS),
    "deque": lambda: deque(ROWS),
    "values of a dict": lambda: dict(enumerate(ROWS)).values(),
    "generator": lambda: (row for row in ROWS),
    "map": lambda: map(dict, ROWS),
    "indexed": IndexedRows,
    "async generator": asynchronous,
    "async iterable": AsyncRows,
}


@pytest.mark.parametrize("size", [None, 1, 2, 5])
@pytest.mark.parametrize("make", ITERABLES.values(), ids=ITERABLES)
async def test_every_kind_of_iterable_is_read(
    db: Database, make: Callable[[], Any], size: int | None
) -> None:
    assert await load(db, make(), batch_size=size) == BulkResult(created=5)
    results = [
        result.row
        async for result in iter_create_or_update(
            db.handle, "t", make(), key="k", batch_size=size, returning="*"
        )
    ]
    assert results == ROWS
    assert await db.query(CONTENT) == [tuple(row.values()) for row in ROWS]


@engines
@pytest.mark.parametrize("atomic", [True, False])
@pytest.mark.parametrize("tasks", [0, 1, 3])
async def test_a_source_may_use_the_connection_itself(
    db: Database, tasks: int, *, atomic: bool
) -> None:
    async def write(k: int) -> None:
        await create_or_update(db.handle, "t", key={"k": k}, defaults={"a": 1})

    async def rows() -> AsyncIterator[Any]:
        for row in ROWS:
            if tasks:
                # In tasks of their own, which must not wait for the call's end.
                await asyncio.gather(*(write(10 + task) for task in range(tasks)))
            else:
                await write(10)
            yield row

    async with asyncio.timeout(20):
        counts = await load(db, rows(), batch_size=2, atomic=atomic)
    assert counts == BulkResult(created=5)
    assert await db.query("SELECT count(*) FROM t") == [(5 + max(tasks, 1),)]


async def through(coalescer: Coalescer) -> AsyncIterator[Any]:
    """Rows that come while a coalescer writes others."""
    for row in ROWS:
        await coalescer.create_or_update(key={"k": 10}, defaults={"a": row["a"]})
        yield row


@engines
async def test_a_source_that_waits_for_a_coalescer_of_its_connection_is_told(
    db: Database,
) -> None:
    async with asyncio.timeout(20), Coalescer(db.handle, "t", key="k") as coalescer:
        with pytest.raises(UsageError, match="give the coalescer a pool"):
            await load(db, through(coalescer), batch_size=2)
        # Those of the first batch were read before the transaction began.
        assert await db.query(CONTENT) == [(10, -2, None)]
        # Between two transactions there is nothing to wait for.
        counts = await load(db, through(coalescer), batch_size=2, atomic=False)
        assert counts == BulkResult(created=5)


@engines
@pytest.mark.parametrize("syncs", [False, True])
@pytest.mark.parametrize("coalesced", [False, True])
async def test_a_task_of_which_a_held_connection_needs_rows_is_refused(
    db: Database, *, syncs: bool, coalesced: bool
) -> None:
    conn, asked, made = db.handle, asyncio.Queue[int](), asyncio.Queue[Any]()

    async def make() -> None:
        while True:
            k = await asked.get()
            call = (
                coalescer.create_or_update(key={"k": k})
                if coalesced
                else create_or_update(conn, "t", key={"k": k})
            )
            (error,) = await asyncio.gather(call, return_exceptions=True)
            made.put_nowait(error if isinstance(error, Exception) else {"k": k + 10})

    async def rows() -> AsyncIterator[Any]:
        for k in range(5):
            asked.put_nowait(k)
            row = await made.get()
            if isinstance(row, Exception):
                raise row
            yield row

    write: Any = (
        sync_rows(conn, "t", rows(), key="k", scope={}, timeout=0.1)
        if syncs
        else load(db, rows(), batch_size=2, timeout=0.1)
    )
    async with asyncio.timeout(20), Coalescer(conn, "t", key="k") as coalescer:
        worker = asyncio.create_task(make())  # in a context of its own
        with pytest.raises(
            ConnectionHeldError, match=r"waited for its rows for 0\.1 s"
        ):
            await write
        # Rows of the first batch are read before there is a transaction.
        left = 0 if syncs else 3
        assert await db.query("SELECT count(*) FROM t") == [(left,)]
        # Nothing holds the connection any more.
        assert (await create_or_update(conn, "t", key={"k": 99})).created
        worker.cancel()


@pytest.mark.parametrize("db", ["asyncpg", "pool"], indirect=True)
async def test_a_coalescer_of_another_connection_is_not_in_its_way(
    db: Database,
) -> None:
    async with db.connect() as conn, Coalescer(db.handle, "t", key="k") as coalescer:
        rows = through(coalescer)
        await create_or_update_many(conn, "t", rows, key="k", batch_size=2)
    assert await db.query("SELECT count(*) FROM t") == [(6,)]


@every_handle
@pytest.mark.parametrize("rows", [[], (), {}.values(), iter(())])
async def test_no_rows_are_no_work(db: Database, rows: Any) -> None:
    assert await load(db, rows) == BulkResult()


NO_ROWS: Final = [None, 5, "rows", b"rows", {"k": 1}, object]


@engines
@pytest.mark.parametrize("rows", NO_ROWS, ids=str)
async def test_what_is_no_iterable_of_rows_is_refused(db: Database, rows: Any) -> None:
    with pytest.raises(UsageError, match="rows must be an iterable"):
        await load(db, rows)
    with pytest.raises(UsageError, match="rows must be an iterable"):
        await anext(iter_create_or_update(db.handle, "t", rows, key="k"))


# --- Laziness ---------------------------------------------------------------------------


class Produced:
    """Rows that are made when asked for, with a note of how many were stored then."""

    def __init__(self, db: Database, number: int) -> None:
        self.made = 0
        self.ahead: list[int] = []
        self._db = db
        self._number = number

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        for n in range(self._number):
            ((stored,),) = await self._db.query("SELECT count(*) FROM t")
            self.made = n + 1
            self.ahead.append(self.made - stored)
            yield {"k": n}


@every_handle
@pytest.mark.parametrize("size", [1, 3, 10])
async def test_no_more_than_two_batches_are_read_ahead(db: Database, size: int) -> None:
    # Each batch is committed, so that what is written can be seen.
    rows = Produced(db, 40)
    assert await load(db, rows, batch_size=size, atomic=False) == BulkResult(created=40)
    assert max(rows.ahead) <= 2 * size
    assert len(rows.ahead) == 40


@engines
async def test_nothing_is_read_before_results_are_asked_for(db: Database) -> None:
    rows = Produced(db, 40)
    results = iter_create_or_update(db.handle, "t", rows, key="k", batch_size=4)
    await asyncio.sleep(0)
    assert rows.made == 0
    async for _ in results:
        assert rows.made <= 2 * 4
        break
    await results.aclose()
    assert await db.query("SELECT count(*) FROM t") == [(4,)]


@engines
async def test_a_generator_may_never_end(db: Database) -> None:
    def endless() -> Iterator[dict[str, Any]]:
        n = 0
        while True:
            yield {"k": n}
            n += 1

    results = iter_create_or_update(db.handle, "t", endless(), key="k", batch_size=5)
    for _ in range(12):
        assert (await anext(results)).created
    await results.aclose()
    assert await db.query("SELECT count(*) FROM t") == [(15,)]


@engines
async def test_large_rows_make_smaller_batches(db: Database) -> None:
    # By default a batch is limited by its size in memory, too.
    read = 0

    async def rows() -> AsyncIterator[dict[str, Any]]:
        nonlocal read
        for n in range(100):
            read += 1
            if n == 60:
                # Some are written by now, at about 32 MB.
                assert await db.query("SELECT count(*) > 0 FROM t") == [(1,)]
            yield {"k": n, "b": "x" * 1_000_000}

    await load(db, rows(), atomic=False)
    assert read == 100
    assert await db.query("SELECT count(*) FROM t") == [(100,)]


@every_handle
async def test_other_tasks_run_while_rows_are_read(db: Database) -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await load(db, ({"k": n} for n in range(20_000)))
    task.cancel()
    await asyncio.wait([task])
    assert turns > 20


# --- A producer that fails --------------------------------------------------------------


class ProducerError(Exception):
    pass


def failing(number: int) -> Iterator[dict[str, Any]]:
    for n in range(number):
        yield {"k": n}
    raise ProducerError


async def failing_later(number: int) -> AsyncIterator[dict[str, Any]]:
    for row in [{"k": n} for n in range(number)]:
        await asyncio.sleep(0)
        yield row
    raise ProducerError


producers = pytest.mark.parametrize("make", [failing, failing_later])


@every_handle
@producers
@pytest.mark.parametrize("number", [0, 1, 25])
async def test_a_producers_error_ends_the_call_and_nothing_is_stored(
    db: Database, make: Callable[[int], Any], number: int
) -> None:
    with pytest.raises(ProducerError):
        await load(db, make(number), batch_size=10)
    assert await db.query("SELECT count(*) FROM t") == [(0,)]
    assert await load(db, ROWS) == BulkResult(created=5)


@every_handle
@producers
async def test_without_atomic_the_batches_before_it_are_stored(
    db: Database, make: Callable[[int], Any]
) -> None:
    with pytest.raises(ProducerError):
        await load(db, make(25), batch_size=10, atomic=False)
    assert await db.query("SELECT count(*) FROM t") in ([(10,)], [(20,)])
    assert (await load(db, ROWS)).updated == 5


@every_handle
@producers
async def test_in_a_callers_transaction_its_own_work_is_kept(
    db: Database, make: Callable[[int], Any]
) -> None:
    async with db.transaction() as conn:
        await create_or_update_many(conn, "t", [{"k": 100}], key="k")
        with pytest.raises(ProducerError):
            await create_or_update_many(conn, "t", make(25), key="k", batch_size=10)
        await create_or_update_many(conn, "t", [{"k": 101}], key="k")
    assert await db.query("SELECT k FROM t ORDER BY k") == [(100,), (101,)]


@every_handle
@producers
async def test_results_before_a_producers_error_are_true(
    db: Database, make: Callable[[int], Any]
) -> None:
    seen = 0
    with pytest.raises(ProducerError):
        async for _ in iter_create_or_update(
            db.handle, "t", make(25), key="k", batch_size=10
        ):
            seen += 1
    assert seen in {10, 20}
    assert await db.query("SELECT count(*) FROM t") == [(seen,)]


@engines
async def test_a_producer_may_use_the_connection_between_its_rows(db: Database) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        for n in range(10):
            sql = f"SELECT {n} * 2"
            if db.kind == "asyncpg":
                twice = await db.handle.fetchval(sql)
            else:
                (twice,) = await (await db.handle.execute(sql)).fetchone()
            yield {"k": n, "a": twice}

    await load(db, rows(), batch_size=3)
    assert await db.query("SELECT k, a FROM t ORDER BY k") == [
        (n, 2 * n) for n in range(10)
    ]


@engines
async def test_a_producer_may_call_this_library_on_the_connection(
    db: Database,
) -> None:
    await db.run("CREATE TABLE log (n integer PRIMARY KEY)")

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for n in range(6):
            await create_or_update_many(db.handle, "log", [{"n": n}], key="n")
            yield {"k": n}

    async with asyncio.timeout(20):
        await load(db, rows(), batch_size=2)
    assert await db.query("SELECT count(*) FROM log") == [(6,)]
    assert await db.query("SELECT count(*) FROM t") == [(6,)]


@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_so_it_may_within_a_call_on_another_connection(
    db: PostgresDatabase,
) -> None:
    await db.run("CREATE TABLE log (n integer PRIMARY KEY)")

    async def logged() -> AsyncIterator[dict[str, Any]]:
        for n in range(4):
            await create_or_update_many(db.handle, "log", [{"n": n}], key="n")
            yield {"n": 10 + n}

    async def rows() -> AsyncIterator[dict[str, Any]]:
        for n in range(4):
            await create_or_update_many(other, "log", logged(), key="n", batch_size=2)
            yield {"k": n}

    async with db.connect() as other, asyncio.timeout(20):
        await load(db, rows(), batch_size=2)
    assert await db.query("SELECT count(*) FROM log") == [(8,)]
    assert await db.query("SELECT count(*) FROM t") == [(4,)]


@pytest.mark.parametrize("db", ["aiosqlite"], indirect=True)
async def test_classes_that_a_program_makes_as_it_runs_are_rows(db: Database) -> None:
    rows = [make_dataclass(f"Row{n}", ["k", "a"])(n, n) for n in range(300)]
    assert await load(db, rows) == BulkResult(created=300)
