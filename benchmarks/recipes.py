"""
The recipes of the documentation, and what people write for the same.

That is a transaction with a SELECT, then an INSERT or an UPDATE, and Python in between;
for a webhook's inbox, INSERT ... ON CONFLICT DO NOTHING. On one connection, where nothing
comes between, so that both do the same: what they store is compared. Beside others, the
SELECT needs FOR UPDATE, which it has here on PostgreSQL, and finds no row to lock if there
is none yet; each recipe is right without it.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

import asyncpg
from rich.table import Table

from aioupsert import (
    Excluded,
    F,
    coalesce,
    create_or_update,
    create_or_update_many,
    get_or_create_many,
    least,
)
from benchmarks.support.databases import postgresql_server, sqlite, sqlite_path
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import microseconds, show, show_versions, verdict
from benchmarks.support.timing import Elapsed, cpu, in_turns, ratio, stopwatch, wall

QUICK: Final = {"turns": 1, "calls": 20}
LIMIT: Final = 2.0
"""Times the duration of what people write, at most; it is there to notice a cliff."""
NAMES: Final = ("prices", "price_history", "inbox", "tags", "post_tags", "limits")
TABLES: Final = """
CREATE TABLE prices{0} (sku text PRIMARY KEY, cents integer, note text, version integer);
CREATE TABLE price_history{0} (sku text, cents integer);
CREATE TABLE inbox{0} (event text PRIMARY KEY, kind text);
CREATE TABLE tags{0} (id {1}, name text NOT NULL UNIQUE);
CREATE TABLE post_tags{0} (post integer, tag integer, PRIMARY KEY (post, tag));
CREATE TABLE limits{0} (who text PRIMARY KEY, hits integer)
"""
TAGS: Final = 5


class Sql:
    """The same few methods for both drivers; ``?`` stands for an argument."""

    def __init__(self, conn: Any, *, is_postgresql: bool) -> None:
        self.conn = conn
        self.is_postgresql = is_postgresql
        self.for_update = " FOR UPDATE" if is_postgresql else ""
        self._kept: dict[str, str] = {}

    async def rows(self, sql: str, *arguments: object) -> list[Any]:
        if not self.is_postgresql:
            return list(await self.conn.execute_fetchall(sql, arguments))
        if sql not in self._kept:
            first, *others = sql.split("?")
            parts = (f"${n}{part}" for n, part in enumerate(others, 1))
            self._kept[sql] = first + "".join(parts)
        return list(await self.conn.fetch(self._kept[sql], *arguments))

    async def first(self, sql: str, *arguments: object) -> Any:
        rows = await self.rows(sql, *arguments)
        return rows[0] if rows else None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        if self.is_postgresql:
            async with self.conn.transaction():
                yield
            return
        await self.conn.execute("BEGIN IMMEDIATE")
        yield
        await self.conn.execute("COMMIT")


Recipe: TypeAlias = Callable[[Sql, str, int], Awaitable[object]]
"""Takes the end of the names of the tables, and a number that counts."""


async def price_history(db: Sql, end: str, n: int) -> None:
    async with db.transaction():
        result = await create_or_update(
            db.conn,
            f"prices{end}",
            {"sku": f"sku {n % 50}", "cents": n // 100},
            key="sku",
            skip_unchanged=True,
            returning=["sku", "cents"],
            old=True,
        )
        if "cents" in result.changed:
            await db.rows(f"INSERT INTO price_history{end} VALUES (?, ?)", *_of(result))


def _of(result: Any) -> tuple[str, int]:
    return result.row["sku"], result.row["cents"]


async def price_history_by_hand(db: Sql, end: str, n: int) -> None:
    sku, cents = f"sku {n % 50}", n // 100
    async with db.transaction():
        found = await db.first(
            f"SELECT cents FROM prices{end} WHERE sku = ?{db.for_update}", sku
        )
        if found is None:
            sql = f"INSERT INTO prices{end} (sku, cents) VALUES (?, ?)"
            await db.rows(sql, sku, cents)
        elif found[0] != cents:
            await db.rows(f"UPDATE prices{end} SET cents = ? WHERE sku = ?", cents, sku)
        else:
            return
        await db.rows(f"INSERT INTO price_history{end} VALUES (?, ?)", sku, cents)


async def put(db: Sql, end: str, n: int) -> int:
    row = {"sku": f"put {n % 50}", "note": f"note {n}"}
    result = await create_or_update(db.conn, f"prices{end}", row, key="sku")
    return 201 if result.created else 200


async def put_by_hand(db: Sql, end: str, n: int) -> int:
    sku, note = f"put {n % 50}", f"note {n}"
    async with db.transaction():
        sql = f"SELECT 1 FROM prices{end} WHERE sku = ?{db.for_update}"
        if await db.first(sql, sku) is None:
            sql = f"INSERT INTO prices{end} (sku, note) VALUES (?, ?)"
            await db.rows(sql, sku, note)
            return 201
        await db.rows(f"UPDATE prices{end} SET note = ? WHERE sku = ?", note, sku)
        return 200


async def inbox(db: Sql, end: str, n: int) -> bool:
    event = {"event": f"evt {n // 2}", "kind": "paid"}
    result = await create_or_update(
        db.conn, f"inbox{end}", event, key="event", update=[]
    )
    return result.created


async def inbox_by_hand(db: Sql, end: str, n: int) -> bool:
    sql = f"INSERT INTO inbox{end} VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING 1"
    return await db.first(sql, f"evt {n // 2}", "paid") is not None


def tags_of(n: int) -> list[str]:
    return [f"tag {(n * 3 + m) % 200}" for m in range(TAGS)]


async def tags(db: Sql, end: str, n: int) -> None:
    rows = [{"name": name} for name in tags_of(n)]
    found = await get_or_create_many(
        db.conn, f"tags{end}", rows, key="name", returning="id"
    )
    links = [{"post": n, "tag": tag.row["id"]} for tag in found]
    await create_or_update_many(
        db.conn, f"post_tags{end}", links, key=["post", "tag"], update=[]
    )


async def tags_by_hand(db: Sql, end: str, n: int) -> None:
    async with db.transaction():
        for name in tags_of(n):
            found = await db.first(f"SELECT id FROM tags{end} WHERE name = ?", name)
            if found is None:
                sql = f"INSERT INTO tags{end} (name) VALUES (?) RETURNING id"
                found = await db.first(sql, name)
            sql = f"INSERT INTO post_tags{end} VALUES (?, ?) ON CONFLICT DO NOTHING"
            await db.rows(sql, n, found[0])


async def newest_wins(db: Sql, end: str, n: int) -> None:
    row = {"sku": f"newest {n % 50}", "cents": n, "version": n * 7919 % 1000}
    await create_or_update(
        db.conn,
        f"prices{end}",
        row,
        key="sku",
        where=Excluded("version") > F("version"),
    )


async def newest_wins_by_hand(db: Sql, end: str, n: int) -> None:
    sku, version = f"newest {n % 50}", n * 7919 % 1000
    async with db.transaction():
        found = await db.first(
            f"SELECT version FROM prices{end} WHERE sku = ?{db.for_update}", sku
        )
        if found is None:
            sql = f"INSERT INTO prices{end} (sku, cents, version) VALUES (?, ?, ?)"
            await db.rows(sql, sku, n, version)
        elif version > found[0]:
            sql = f"UPDATE prices{end} SET cents = ?, version = ? WHERE sku = ?"
            await db.rows(sql, n, version, sku)


async def keep_what_is_there(db: Sql, end: str, n: int) -> None:
    note = None if n % 2 else f"note {n}"
    await create_or_update(
        db.conn,
        f"prices{end}",
        {"sku": f"keep {n % 49}", "note": note},
        key="sku",
        update={"note": coalesce(Excluded("note"), F("note"))},
    )


async def keep_what_is_there_by_hand(db: Sql, end: str, n: int) -> None:
    sku, note = f"keep {n % 49}", None if n % 2 else f"note {n}"
    async with db.transaction():
        sql = f"SELECT note FROM prices{end} WHERE sku = ?{db.for_update}"
        found = await db.first(sql, sku)
        if found is None:
            sql = f"INSERT INTO prices{end} (sku, note) VALUES (?, ?)"
            await db.rows(sql, sku, note)
        else:
            note = found[0] if note is None else note
            await db.rows(f"UPDATE prices{end} SET note = ? WHERE sku = ?", note, sku)


async def limit(db: Sql, end: str, n: int) -> None:
    await create_or_update(
        db.conn,
        f"limits{end}",
        key={"who": f"who {n % 50}"},
        defaults={"hits": least(F("hits") + 1, 10)},
        create_defaults={"hits": 1},
    )


async def limit_by_hand(db: Sql, end: str, n: int) -> None:
    who = f"who {n % 50}"
    async with db.transaction():
        sql = f"SELECT hits FROM limits{end} WHERE who = ?{db.for_update}"
        found = await db.first(sql, who)
        if found is None:
            await db.rows(f"INSERT INTO limits{end} VALUES (?, 1)", who)
        else:
            hits = min(found[0] + 1, 10)
            await db.rows(f"UPDATE limits{end} SET hits = ? WHERE who = ?", hits, who)


class Pair(NamedTuple):
    """A recipe, and what people write."""

    ours: Recipe
    by_hand: Recipe


RECIPES: Final = {
    "price history": Pair(price_history, price_history_by_hand),
    "201 or 200": Pair(put, put_by_hand),
    "webhook inbox": Pair(inbox, inbox_by_hand),
    "tags of a post": Pair(tags, tags_by_hand),
    "newest wins": Pair(newest_wins, newest_wins_by_hand),
    "None must not erase": Pair(keep_what_is_there, keep_what_is_there_by_hand),
    "a counter with a limit": Pair(limit, limit_by_hand),
}


async def measure(db: Sql, pair: Pair, options: Namespace) -> dict[str, list[Elapsed]]:
    async def timed(recipe: Recipe, end: str, turn: int) -> Elapsed:
        first = turn * options.calls
        with stopwatch() as elapsed:
            for n in range(first, first + options.calls):
                await recipe(db, end, n)
        return elapsed.each(options.calls)

    ways = {
        "ours": partial(timed, pair.ours, "_ours"),
        "by hand": partial(timed, pair.by_hand, "_by_hand"),
    }
    return await in_turns(ways, options.turns)


async def check_same(db: Sql, name: str) -> None:
    """Check that both ways have stored the same, whatever ids they have chosen."""
    for table in NAMES:
        columns = "name" if table == "tags" else "*"
        ours, by_hand = [
            sorted(map(repr, await db.rows(f"SELECT {columns} FROM {table}{end}")))
            for end in ("_ours", "_by_hand")
        ]
        assert ours == by_hand, (name, table)


async def compare(db: Sql, table: Table, options: Namespace) -> list[str]:
    """Fill in the table; return the recipes that take too long."""
    too_slow: list[str] = []
    where = "PostgreSQL" if db.is_postgresql else "SQLite"
    for name, pair in RECIPES.items():
        times = await measure(db, pair, options)
        await check_same(db, name)
        ours, by_hand = times["ours"], times["by hand"]
        ratios = ratio(wall(ours), wall(by_hand))
        table.add_row(
            f"{where}, {name}",
            *(microseconds(wall(way)) for way in (by_hand, ours)),
            *ratios.cells(),
            *ratio(cpu(ours), cpu(by_hand)).cells(),
        )
        if ratios.median > LIMIT:
            too_slow.append(f"{where}, {name}")
    return too_slow


async def measure_all(options: Namespace) -> int:
    table = Table(
        *("recipe", "by hand, µs", "aioupsert, µs", "ratio", "quartiles"),
        *("CPU ratio", "quartiles"),
    )
    ends = ("_ours", "_by_hand")
    with postgresql_server() as server:
        conn = await asyncpg.connect(server.dsn)
        identity = "bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY"
        tables = ", ".join(f"{name}{end}" for name in NAMES for end in ends)
        drop = f"DROP TABLE IF EXISTS {tables}"
        try:
            await conn.execute(drop)
            for end in ends:
                await conn.execute(TABLES.format(end, identity))
            db = Sql(conn, is_postgresql=True)
            too_slow = await compare(db, table, options)
            await conn.execute(drop)
        finally:
            await conn.close()
    with sqlite_path() as path:
        async with sqlite(path) as lite:
            for end in ends:
                await lite.executescript(TABLES.format(end, "INTEGER PRIMARY KEY"))
            db = Sql(lite, is_postgresql=False)
            too_slow += await compare(db, table, options)
    show(table)
    show_versions(server)
    return verdict(too_slow, check=options.check)


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 15)
    parser.add_argument("--calls", type=int, default=200, help="of each way in a turn")
    add_check(parser)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
