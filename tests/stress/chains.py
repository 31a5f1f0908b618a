"""The old row of each call is the row of the call before: a chain without gaps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, TypeAlias

from aioupsert import Action, Coalescer, F, create_or_update, iter_create_or_update
from tests.support.databases import Database, open_postgresql, open_sqlite
from tests.support.sessions import together

COLUMNS: Final = "k integer{}, n integer, who integer, seen integer"

TABLES: Final[dict[str, dict[str, str]]] = {
    "plain": {
        "postgresql": f"CREATE TABLE t ({COLUMNS.format(' PRIMARY KEY')})",
        "sqlite": f"CREATE TABLE t ({COLUMNS.format(' PRIMARY KEY')})",
    },
    "partitions": {
        "postgresql": f"CREATE TABLE t ({COLUMNS.format(' PRIMARY KEY')})"
        " PARTITION BY HASH (k);"
        " CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        " CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
    },
    "view with a trigger": {
        "postgresql": f"CREATE TABLE b ({COLUMNS.format(' PRIMARY KEY')});"
        " CREATE VIEW t AS SELECT * FROM b;"
        " CREATE FUNCTION put() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " UPDATE b SET n = NEW.n, who = NEW.who, seen = NEW.seen WHERE k = OLD.k;"
        " RETURN NEW; END $$;"
        " CREATE TRIGGER put INSTEAD OF UPDATE ON t FOR EACH ROW EXECUTE FUNCTION put()",
        "sqlite": f"CREATE TABLE b ({COLUMNS.format(' PRIMARY KEY')});"
        " CREATE VIEW t AS SELECT * FROM b;"
        " CREATE TRIGGER put INSTEAD OF UPDATE ON t BEGIN"
        " UPDATE b SET n = NEW.n, who = NEW.who, seen = NEW.seen WHERE k = OLD.k; END",
    },
    "a unique index elsewhere": {
        "postgresql": f"CREATE TABLE t ({COLUMNS.format('')}, id integer PRIMARY KEY"
        " GENERATED ALWAYS AS IDENTITY)",
        "sqlite": f"CREATE TABLE t ({COLUMNS.format('')}, id INTEGER PRIMARY KEY)",
    },
}
# Two rows that are always written together are the same but for their ids.
TABLES["two rows of one key"] = TABLES["a unique index elsewhere"]
# Those whose keys a call cannot change, or moves the row to another partition by it.
KEPT_KEYS: Final = frozenset({"partitions", "view with a trigger"})
CASES: Final = [
    (kind, name)
    for name, texts in TABLES.items()
    for kind in ("asyncpg", "psycopg", "aiosqlite")
    if ("sqlite" if kind == "aiosqlite" else "postgresql") in texts
]


@dataclass(frozen=True)
class Size:
    """How many writers, and calls in all."""

    writers: int = 32
    calls: int = 100_000


class Link(NamedTuple):
    """What a call has reported."""

    action: Action
    old: Any
    row: Any
    changed: tuple[str, ...]


Call: TypeAlias = Callable[[int, dict[str, Any]], Coroutine[Any, Any, Any]]


async def chain(dsn: str, kind: Any, name: str, size: Size) -> tuple[str, bool]:
    """Run it; a line of figures, and whether the chain has no gap."""
    links: list[Link] = []
    async with AsyncExitStack() as stack:
        db: Database
        if kind == "aiosqlite":
            folder = stack.enter_context(TemporaryDirectory())
            db = await stack.enter_async_context(open_sqlite(Path(folder) / "t.db"))
        else:
            db = await stack.enter_async_context(open_postgresql(dsn, kind))
        await db.run(TABLES[name][db.engine])
        table = "b" if name == "view with a trigger" else "t"
        keys = (1, 1, 2, 3) if name == "two rows of one key" else (1, 2, 3)
        values = ", ".join(f"({key}, 0, -1)" for key in keys)
        await db.run(f"INSERT INTO {table} (k, n, who) VALUES {values}")
        conns = [
            await stack.enter_async_context(connected(db)) for _ in range(size.writers)
        ]

        async def work(conn: Any, number: int) -> None:
            async with ways(db, conn) as calls:
                some = calls[:-1] if name in KEPT_KEYS else calls
                for at in range(size.calls // size.writers):
                    who = at * size.writers + number
                    call = some[who % len(some)]
                    results = await call(who, OPTIONS[who // 7 % len(OPTIONS)])
                    links.extend(
                        Link(result.action, result.old, result.row, result.changed)
                        for result in results
                    )

        await together(conns, work)
    gaps = sum(not is_linked(*pair) for pair in pairs(links))
    wrong = sum(not is_told(link) for link in links)
    line = (
        f"{name}, {kind}: {len(links):,} calls of {size.writers} writers, {gaps} gaps,"
        f" {wrong} wrong changes"
    )
    return line, not (gaps or wrong)


OPTIONS: Final[list[dict[str, Any]]] = [
    {},
    {"skip_unchanged": True},
    {"where": F("n") >= 0},
    {"touch": {"seen": 1}},
    {"where": F("n") < 0},
]


@asynccontextmanager
async def connected(db: Database) -> AsyncIterator[Any]:
    async with db.connect() as conn:
        if db.kind == "psycopg":
            await conn.set_autocommit(True)
        yield conn


@asynccontextmanager
async def written(db: Database, conn: Any) -> AsyncIterator[None]:
    """A caller's transaction that has the write lock of SQLite from its beginning."""
    if db.engine == "sqlite":
        await conn.execute("BEGIN IMMEDIATE")
        yield
        await conn.commit()
        return
    async with db.transaction(conn):
        yield


@asynccontextmanager
async def ways(db: Database, conn: Any) -> AsyncIterator[list[Call]]:
    """The ways to call, on a connection; the last one changes the key."""
    said: dict[str, Any] = {
        "returning": ["n", "who"],
        "old": True,
    }
    adds = {"n": F("n") + 1}

    async def once(key: int, defaults: dict[str, Any], options: dict[str, Any]) -> Any:
        return await create_or_update(
            conn,
            "t",
            key={"k": key},
            defaults={**adds, **defaults},
            without_unique_index="allow",
            **said,
            **options,
        )

    async def singly(who: int, options: dict[str, Any]) -> Any:
        return [await once(1, {"who": who}, options)]

    async def renamed(who: int, _options: dict[str, Any]) -> Any:
        # Nobody else sees it without its key.
        async with written(db, conn):
            there = await once(1, {"who": who, "k": 4}, {})
            back = await once(4, {"who": who, "k": 1}, {})
        return [there, back]

    async def exactly(who: int, options: dict[str, Any]) -> Any:
        return await singly(who, {**options, "strategy": "exact"})

    async def iterated(who: int, options: dict[str, Any]) -> Any:
        # Three are more than are written one by one.
        rows = [{"k": k, **adds, "who": who} for k in (1, 2, 3)]
        results = iter_create_or_update(
            conn,
            "t",
            rows,
            key="k",
            without_unique_index="allow",
            **said,
            **options,
        )
        first, *_ = [result async for result in results]
        return [first]

    async with Coalescer(conn, "t", key="k", without_unique_index="allow") as coalescer:

        async def coalesced(who: int, options: dict[str, Any]) -> Any:
            result = await coalescer.create_or_update(
                key={"k": 1}, defaults={**adds, "who": who}, **said, **options
            )
            return [result]

        yield [singly, coalesced, exactly, iterated, renamed]


def pairs(links: list[Link]) -> list[tuple[Link, Link]]:
    """Each call that wrote, and the one before it."""
    written = sorted(
        (link for link in links if link.action is Action.UPDATED),
        key=lambda link: link.row["n"],
    )
    first = Link(Action.CREATED, None, {"n": 0, "who": -1}, ())
    return [*zip([first, *written], written, strict=False)]


def is_linked(before: Link, link: Link) -> bool:
    return bool(link.old == before.row and link.row["n"] == before.row["n"] + 1)


def is_told(link: Link) -> bool:
    if link.action is not Action.UPDATED:
        return link.old == link.row and not link.changed
    changed = {*link.changed} - {"seen", "k"}
    # A writer that changes a key writes twice in a row.
    same = link.old["who"] == link.row["who"]
    return changed == ({"n"} if same else {"n", "who"})
