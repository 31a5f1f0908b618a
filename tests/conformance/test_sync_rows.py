"""`sync_rows` makes a scope of a table equal to its source, and leaves the rest alone."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import pytest

from aioupsert import (
    Action,
    BulkError,
    BulkResult,
    F,
    Result,
    SyncRefusedError,
    UnknownColumnError,
    UsageError,
    now,
    sync_rows,
)
from aioupsert.typing import Update
from tests.support.databases import Database, PostgresDatabase, every_handle

TABLE: Final = """
    CREATE TABLE prices (
        shop INTEGER, sku TEXT NOT NULL, cents INTEGER DEFAULT 5, note TEXT,
        gone_at TIMESTAMP, active BOOLEAN DEFAULT TRUE, PRIMARY KEY (shop, sku)
    )
"""
SCOPE: Final = {"shop": 7}
KEY: Final = ("shop", "sku")
STORED: Final = """
    INSERT INTO prices (shop, sku, cents) VALUES
        (7, 'a', 1), (7, 'b', 2), (7, 'c', 3), (7, 'd', 4), (8, 'a', 9), (8, 'z', 9)
"""
SOURCE: Final = [
    {"sku": "a", "cents": 1},
    {"sku": "b", "cents": 20},
    {"sku": "d", "cents": 4},
    {"sku": "e", "cents": 5},
]
OTHERS: Final = [(8, "a", 9), (8, "z", 9)]


@pytest.fixture
async def prices(db: Database) -> Database:
    """Two shops with a few prices."""
    await db.run(TABLE)
    await db.run(STORED)
    return db


async def stored(db: Database, columns: str = "shop, sku, cents") -> list[Any]:
    return await db.query(f"SELECT {columns} FROM prices ORDER BY shop, sku")


@every_handle
async def test_the_scope_equals_the_source(prices: Database) -> None:
    report = await sync_rows(prices.handle, "prices", SOURCE, key=KEY, scope=SCOPE)
    assert report == BulkResult(created=1, updated=1, unchanged=2, deleted=1)
    of_shop = [(7, "a", 1), (7, "b", 20), (7, "d", 4), (7, "e", 5)]
    assert await stored(prices) == of_shop + OTHERS
    again = await sync_rows(prices.handle, "prices", SOURCE, key=KEY, scope=SCOPE)
    assert again == BulkResult(unchanged=4)


async def test_a_scope_is_made_from_nothing_and_may_be_the_whole_table(
    prices: Database,
) -> None:
    new = await sync_rows(prices.handle, "prices", SOURCE, key=KEY, scope={"shop": 9})
    assert new == BulkResult(created=4)
    rows = [{**row, "shop": 9} for row in SOURCE] + [
        {"shop": 8, "sku": "a", "cents": 1}
    ]
    whole = await sync_rows(
        prices.handle, "prices", rows, key=KEY, scope={}, max_missing=5
    )
    assert whole == BulkResult(unchanged=4, updated=1, deleted=5)
    assert await stored(prices, "shop, sku") == [
        *((8, "a"), (9, "a"), (9, "b"), (9, "d"), (9, "e"))
    ]


async def test_the_scope_need_not_be_part_of_the_key(db: Database) -> None:
    await db.run("CREATE TABLE t (id INTEGER PRIMARY KEY, shop INTEGER, n INTEGER)")
    await db.run("INSERT INTO t VALUES (1, 7, 1), (2, 7, 2), (3, 8, 3), (4, NULL, 4)")
    rows = [{"id": 1, "n": 1}, {"id": 3, "n": 3}]
    # The third row moves into the scope.
    updates: list[Update] = [None, "n", ["n"], {"n": F("n") + 0}]
    for update in updates:
        await db.run("UPDATE t SET shop = 8 WHERE id = 3")
        report = await sync_rows(
            db.handle, "t", rows, key="id", scope=SCOPE, update=update
        )
        assert (report.updated, report.unchanged) == (1, 1)
        assert await db.query("SELECT * FROM t ORDER BY id") == [
            *((1, 7, 1), (3, 7, 3), (4, None, 4))
        ]
    report = await sync_rows(
        db.handle,
        "t",
        [{"id": 5, "n": 5}],
        key="id",
        scope={"shop": None},
        max_missing=1,
    )
    assert report == BulkResult(created=1, deleted=1)
    assert await db.query("SELECT * FROM t ORDER BY id") == [
        *((1, 7, 1), (3, 7, 3), (5, None, 5))
    ]


async def test_missing_rows_are_kept_if_that_is_said(prices: Database) -> None:
    report = await sync_rows(
        prices.handle, "prices", SOURCE, key=KEY, scope=SCOPE, missing="keep"
    )
    assert report == BulkResult(created=1, updated=1, unchanged=2)
    assert (7, "c", 3) in await stored(prices)


MARKS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a time": ({"gone_at": now()}, "gone_at IS NOT NULL"),
    "a value": ({"active": False}, "NOT active"),
    "a text": ({"note": "gone"}, "coalesce(note, '') = 'gone'"),
    "a callable": ({"note": lambda: "gone"}, "coalesce(note, '') = 'gone'"),
    "a time as text, and a value": (
        {"note": "2026-11-30 10:00:00", "active": False},
        "note IS NOT NULL AND NOT active",
    ),
}


@pytest.mark.parametrize(("marks", "is_marked"), MARKS.values(), ids=list(MARKS))
async def test_missing_rows_are_marked_once_and_revived(
    prices: Database, marks: dict[str, Any], is_marked: str
) -> None:
    await prices.run("UPDATE prices SET note = 'kept' WHERE sku = 'd' AND 'note' <> ''")
    values = f"gone_at, active, note, {is_marked}"

    async def sync(rows: list[dict[str, Any]], missing: Any = marks) -> BulkResult:
        return await sync_rows(
            prices.handle, "prices", rows, key=KEY, scope=SCOPE, missing=missing
        )

    rows = [row for row in SOURCE if row["sku"] != "d"] if "note" in marks else SOURCE
    if "note" in marks:
        await prices.run("DELETE FROM prices WHERE sku = 'd'")
    gone = await sync(rows)
    assert (gone.created, gone.updated, gone.deleted) == (1, 1, 1)
    marked = await prices.query(f"SELECT shop, sku FROM prices WHERE {is_marked}")
    assert marked == [(7, "c")]
    before = await prices.query(f"SELECT {values} FROM prices WHERE sku = 'c'")
    assert (await sync(rows)).deleted == 0
    assert await prices.query(f"SELECT {values} FROM prices WHERE sku = 'c'") == before
    # With another time, it is still marked.
    later = {**marks, "note": "2026-12-01 10:00:00"} if len(marks) > 1 else marks
    assert (await sync(rows, later)).deleted == 0
    revived = await sync([*rows, {"sku": "c", "cents": 3}])
    assert (revived.updated, revived.deleted) == (1, 0)
    assert await prices.query(
        "SELECT gone_at, active, note, cents FROM prices WHERE sku = 'c'"
    ) == [(None, True, None, 3)]


async def test_a_row_is_revived_after_a_call_without_marks(prices: Database) -> None:
    """Calls that differ in their marks only read the same rows in different ways."""
    ways: list[Any] = ["keep", {"gone_at": now()}, {"active": False}]
    call = partial(sync_rows, prices.handle, "prices", key=KEY, scope=SCOPE)
    back = [*SOURCE, {"sku": "c", "cents": 3}]
    for missing in ways:
        await call(SOURCE, missing=missing)
    for missing in reversed(ways[1:]):
        report = await call(back, missing=missing)
        assert report == BulkResult(updated=1, unchanged=4)
    columns = "shop, sku, gone_at, active"
    assert (7, "c", None, True) in await stored(prices, columns)


async def test_a_row_of_the_source_may_bring_a_marking_column(prices: Database) -> None:
    rows = [{"sku": sku, "active": sku == "a"} for sku in "abcd"]
    report = await sync_rows(
        prices.handle, "prices", rows, key=KEY, scope=SCOPE, missing={"active": False}
    )
    assert report == BulkResult(updated=3, unchanged=1)
    assert await prices.query("SELECT sku FROM prices WHERE shop = 7 AND active") == [
        ("a",)
    ]


async def test_a_marking_touches_as_an_update_does(prices: Database) -> None:
    report = await sync_rows(
        prices.handle,
        "prices",
        SOURCE,
        key=KEY,
        scope=SCOPE,
        missing={"active": False},
        touch={"note": "touched"},
    )
    assert report.deleted == 1
    touched = "SELECT sku FROM prices WHERE note = 'touched' ORDER BY sku"
    assert await prices.query(touched) == [("b",), ("c",), ("e",)]


LIMITS: Final[dict[str, tuple[Any, bool]]] = {
    "a share": (0.5, True),
    "a smaller share": (0.49, False),
    "a number": (2, True),
    "a smaller number": (1, False),
    "none": (0, False),
    "no share": (0.0, False),
}


@pytest.mark.parametrize(("limit", "passes"), LIMITS.values(), ids=list(LIMITS))
@pytest.mark.parametrize("missing", ["delete", {"active": False}], ids=["del", "mark"])
async def test_too_many_missing_rows_are_refused(
    prices: Database, missing: Any, limit: Any, *, passes: bool
) -> None:
    rows = [{"sku": "a", "cents": 100}, {"sku": "b", "cents": 200}]

    async def sync() -> BulkResult:
        return await sync_rows(
            *(prices.handle, "prices", rows),
            key=KEY,
            scope=SCOPE,
            missing=missing,
            max_missing=limit,
        )

    if passes:
        assert (await sync()).deleted == 2
        return
    before = await stored(prices, "*")
    with pytest.raises(SyncRefusedError, match=r"2 of 4 rows.*nothing") as refused:
        await sync()
    assert (refused.value.missing, refused.value.rows) == (2, 4)
    assert await stored(prices, "*") == before


async def test_an_empty_source_is_refused_unless_it_is_allowed(
    prices: Database,
) -> None:
    more: list[dict[str, Any]] = [{}, {"missing": "keep"}, {"allow_empty": True}]
    empty: list[dict[str, Any]] = []
    for options in more:
        with pytest.raises(SyncRefusedError):
            await sync_rows(
                prices.handle, "prices", empty, key=KEY, scope=SCOPE, **options
            )
    assert len(await stored(prices)) == 6
    report = await sync_rows(
        *(prices.handle, "prices", empty),
        key=KEY,
        scope=SCOPE,
        allow_empty=True,
        max_missing=1.0,
    )
    assert report == BulkResult(deleted=4)
    assert await stored(prices) == OTHERS


@pytest.mark.parametrize("missing", ["delete", {"active": False}], ids=["del", "mark"])
async def test_every_change_is_reported_in_a_dry_run_as_in_a_real_one(
    prices: Database, missing: Any
) -> None:
    before = await stored(prices, "*")
    runs: list[tuple[BulkResult, list[Any]]] = []
    for dry_run in (True, False):
        results: list[Any] = []
        report = await sync_rows(
            *(prices.handle, "prices", SOURCE),
            key=KEY,
            scope=SCOPE,
            missing=missing,
            dry_run=dry_run,
            on_result=results.append,
        )
        runs.append((report, results))
        assert (await stored(prices, "*") == before) is dry_run
    assert runs[0] == runs[1]
    report, results = runs[0]
    assert report == BulkResult(created=1, updated=1, unchanged=2, deleted=1)
    assert [(r.action, (r.row or r.old)["sku"]) for r in results] == [
        (Action.UPDATED, "b"),
        (Action.CREATED, "e"),
        (Action.DELETED, "c"),
    ]
    updated, created, deleted = results
    assert (updated.old["cents"], updated.row["cents"]) == (2, 20)
    assert updated.changed == ("cents",)
    assert created.old is None
    assert deleted.old["active"]
    if missing == "delete":
        assert deleted.row is None
    else:
        assert not deleted.row["active"]
        assert deleted.changed == ("active",)


async def test_many_changes_are_reported_in_parts(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aioupsert._sync.running._REPORTED_ROWS", 3)
    monkeypatch.setattr("aioupsert._sync.running._MARKED_ROWS", 3)
    monkeypatch.setattr("aioupsert._engines.postgresql.sync._AT_ONCE", 2)
    await db.run("CREATE TABLE t (id INTEGER PRIMARY KEY, old BOOLEAN DEFAULT FALSE)")
    await db.run(f"INSERT INTO t (id) VALUES {', '.join(f'({n})' for n in range(20))}")
    rows = [{"id": n} for n in range(12, 20)]
    cases: list[tuple[Any, int]] = [({"old": True}, 20), ("delete", 8)]
    for missing, left in cases:
        for on_result in (None, list[Result]().append):
            await db.run("UPDATE t SET old = FALSE")
            report = await sync_rows(
                *(db.handle, "t", rows),
                key="id",
                scope={},
                missing=missing,
                max_missing=12,
                on_result=on_result,
            )
            assert (report.unchanged, report.deleted) in {(8, 12), (8, 0)}
            assert await db.query("SELECT count(*) FROM t") == [(left,)]


async def test_nothing_is_stored_if_a_row_cannot_be(prices: Database) -> None:
    before = await stored(prices, "*")
    wrong = [
        {"sku": "x", "shop": 8},
        {"sku": "x", "shop": F("shop")},
        {"sku": None, "cents": 1},
        {"cents": 1},
    ]
    for row in wrong:
        with pytest.raises(BulkError) as failed:
            await sync_rows(
                *(prices.handle, "prices", [*SOURCE, row]),
                key=KEY,
                scope=SCOPE,
                batch_size=2,
            )
        assert failed.value.index == 4
        assert failed.value.committed == BulkResult()
    assert await stored(prices, "*") == before


SEATS: Final = """
    CREATE TABLE seats (k integer PRIMARY KEY, seat integer UNIQUE {when});
    INSERT INTO seats VALUES (1, 10), (2, 20)
"""
MOVED: Final = [{"k": 2, "seat": 10}, {"k": 3, "seat": 20}]


async def test_a_unique_value_of_a_removed_row_is_taken_until_the_end(
    db: Database,
) -> None:
    await db.run(SEATS.format(when=""))
    with pytest.raises(BulkError, match="row 0"):
        await sync_rows(db.handle, "seats", MOVED, key="k", scope={})
    assert await db.query("SELECT * FROM seats ORDER BY k") == [(1, 10), (2, 20)]


async def test_a_constraint_that_is_deferred_sees_what_is_left_in_the_end(
    pg: PostgresDatabase,
) -> None:
    await pg.run(SEATS.format(when="DEFERRABLE INITIALLY DEFERRED"))
    result = await sync_rows(pg.handle, "seats", MOVED, key="k", scope={})
    assert result == BulkResult(created=1, updated=1, deleted=1)
    assert await pg.query("SELECT * FROM seats ORDER BY k") == [(2, 10), (3, 20)]


async def test_a_source_that_fails_half_way_stores_nothing(prices: Database) -> None:
    before = await stored(prices, "*")

    def rows() -> Any:
        yield from SOURCE
        raise LookupError

    with pytest.raises(LookupError):
        await sync_rows(
            prices.handle, "prices", rows(), key=KEY, scope=SCOPE, batch_size=2
        )
    assert await stored(prices, "*") == before


async def test_it_is_a_part_of_the_callers_transaction(prices: Database) -> None:
    before = await stored(prices, "*")
    with pytest.raises(LookupError):
        async with prices.transaction() as conn:
            report = await sync_rows(conn, "prices", SOURCE, key=KEY, scope=SCOPE)
            assert report.deleted == 1
            with pytest.raises(SyncRefusedError):
                await sync_rows(
                    conn, "prices", SOURCE[:1], key=KEY, scope=SCOPE, max_missing=2
                )
            # What was refused is undone, the rest is not.
            again = await sync_rows(conn, "prices", SOURCE, key=KEY, scope=SCOPE)
            assert again == BulkResult(unchanged=4)
            raise LookupError
    assert await stored(prices, "*") == before


async def test_a_source_may_make_another_call_on_the_connection(
    prices: Database,
) -> None:
    async def rows() -> AsyncIterator[dict[str, Any]]:
        for row in SOURCE:
            yield row
        # Another scope, within the call.
        inner = [{"sku": "z", "cents": 9}]
        report = await sync_rows(conn, "prices", inner, key=KEY, scope={"shop": 8})
        assert report == BulkResult(unchanged=1, deleted=1)

    async with prices.transaction() as conn:
        report = await sync_rows(conn, "prices", rows(), key=KEY, scope=SCOPE)
    assert report == BulkResult(created=1, updated=1, unchanged=2, deleted=1)
    assert await stored(prices, "shop, sku") == [
        *((7, "a"), (7, "b"), (7, "d"), (7, "e"), (8, "z"))
    ]


WRONG: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a scope that is no mapping": ({"scope": "shop"}, "scope must be a mapping"),
    "an expression": (
        {"scope": {"shop": F("shop")}},
        r"scope\['shop'\] must be a plain",
    ),
    "a callable": ({"scope": {"shop": int}}, r"scope\['shop'\] must be a plain"),
    "another word": ({"missing": "drop"}, "missing must be 'delete'"),
    "no marks": ({"missing": {}}, "missing must be 'delete'"),
    "a mark in the key": ({"missing": {"sku": 1}}, "missing cannot set 'sku'"),
    "the scope set": ({"touch": {"shop": 1}}, "touch cannot set 'shop'"),
    "the scope updated": (
        {"scope": {"shop": 7}, "key": "sku", "update": {"shop": F("shop")}},
        "update cannot set 'shop'",
    ),
    "the scope created": ({"create_defaults": {"shop": 1}}, "create_defaults cannot"),
    "a mark touched": (
        {"missing": {"note": "x"}, "touch": {"note": "y"}},
        "both missing and update or touch",
    ),
    "a mark updated": (
        {"missing": {"note": "x"}, "update": {"note": F("note")}},
        "both missing and update or touch",
    ),
    "a share above one": ({"max_missing": 1.5}, "max_missing is a share"),
    "a negative number": ({"max_missing": -1}, "max_missing is a share"),
    "neither": ({"max_missing": True}, "max_missing is a share"),
}


@pytest.mark.parametrize(("options", "why"), WRONG.values(), ids=list(WRONG))
async def test_what_makes_no_sense_is_refused(
    lite: Any, options: dict[str, Any], why: str
) -> None:
    arguments: dict[str, Any] = {"key": KEY, "scope": SCOPE, **options}
    with pytest.raises(UsageError, match=why):
        await sync_rows(lite.handle, "prices", SOURCE, **arguments)


@pytest.mark.parametrize("options", [{"scope": {"shpo": 7}}, {"missing": {"shpo": 7}}])
async def test_unknown_columns_are_named(
    prices: Database, options: dict[str, Any]
) -> None:
    arguments: dict[str, Any] = {"key": KEY, "scope": {}, **options}
    with pytest.raises(UnknownColumnError, match="shpo"):
        await sync_rows(prices.handle, "prices", SOURCE, **arguments)


async def test_rows_of_a_view_can_only_be_kept(prices: Database) -> None:
    await prices.run("CREATE VIEW v AS SELECT * FROM prices")
    with pytest.raises(
        UsageError, match="cannot remove or mark rows of v: it is a view"
    ):
        await sync_rows(prices.handle, "v", SOURCE, key=KEY, scope=SCOPE)
