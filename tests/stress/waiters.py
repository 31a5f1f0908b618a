"""
Two calls that wait for a third transaction, and are set free by its end.

What PostgreSQL's isolation tests ask where several sessions wait at once: values so
large that they are stored apart, conditions judged by the row that was waited for, rows
moved to another partition. Which of the two is first is nobody's to say, so that an
outcome does not say which of them it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

from aioupsert import F, create_or_update
from tests.stress.outcomes import Listed
from tests.stress.permutations import CALLS, LEVELS, PATIENCE, Actor, end_done, executed
from tests.support.databases import PostgresDatabase, open_postgresql

TABLE: Final = "CREATE TABLE t (k integer PRIMARY KEY, n integer DEFAULT 0, s text)"
PARTITIONED: Final = (
    f"{TABLE} PARTITION BY LIST (k);"
    "CREATE TABLE t_1 PARTITION OF t FOR VALUES IN (1);"
    "CREATE TABLE t_rest PARTITION OF t DEFAULT"
)
# More than a page, whatever compression makes of it.
LARGE: Final = (
    "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1000) AS i)"
)


class Scene(NamedTuple):
    """
    What the first transaction does while the two others wait for it.

    Attributes:
        name: What happens.
        first: Its statement.
        rows: The rows before.
        table: How the table is made.
        end: How the transaction ends.
        left: What it leaves in the row 1; 0 without that row.
    """

    name: str
    first: str
    left: int
    rows: str = ""
    table: str = TABLE
    end: str = "COMMIT"


INSERT: Final = "INSERT INTO t VALUES (1, 50)"
INSERT_LARGE: Final = f"INSERT INTO t VALUES (1, 50, {LARGE})"
DELETE: Final = "DELETE FROM t"
MOVE: Final = "UPDATE t SET k = 2 WHERE k = 1"
TEN: Final = "(1, 10)"

SCENES: Final = (
    Scene("two wait for a row that is created", INSERT, 50),
    Scene(
        "two wait for a row that is not created after all", INSERT, 0, end="ROLLBACK"
    ),
    Scene("two wait for a row with a large value", INSERT_LARGE, 50),
    Scene(
        "two wait for a row with a large value that is not created after all",
        INSERT_LARGE,
        0,
        end="ROLLBACK",
    ),
    Scene("two wait for a row that is deleted", DELETE, 0, TEN),
    Scene(
        "two wait for a row that is not deleted after all",
        DELETE,
        10,
        TEN,
        end="ROLLBACK",
    ),
    Scene(
        "two wait for a row that no longer meets the condition",
        "UPDATE t SET n = 50",
        50,
        TEN,
    ),
    Scene(
        "two find a row that does not meet the condition yet",
        "UPDATE t SET n = 10",
        10,
        "(1, 50)",
    ),
    Scene("two wait for a row that gets another key", MOVE, 0, TEN),
    Scene(
        "two wait for a row that moves to another partition", MOVE, 0, TEN, PARTITIONED
    ),
)


# From 18 on many rows of a partitioned table are written in another way, and create the
# row; before, they fail with 40001. The list is for every version.
VARYING: Final = {(PARTITIONED, "create_or_update_many")}


class Freed(NamedTuple):
    """What became of two calls: what they said, sorted, and the rows in the end."""

    call: str
    level: str
    waited: bool
    said: list[str]
    rows: list[tuple[int, int]]

    def text(self) -> str:
        """As the documentation has it."""
        rows = ", ".join(f"{k}={n}" for k, n in self.rows) or "no row"
        waited = "wait, then " if self.waited else ""
        said = " / ".join(self.said)
        return f"{waited}{said}; {rows}"


async def by_condition(conn: Any) -> str:
    result = await create_or_update(
        conn, "t", key={"k": 1}, defaults={"n": F("n") + 1}, where=F("n") < 20
    )
    return str(result.action)


WAITING_CALLS: Final[dict[str, Callable[[Any], Awaitable[str]]]] = {
    **CALLS,
    "create_or_update(where=F('n') < 20)": by_condition,
}


async def freed(
    pg: PostgresDatabase, actors: list[Actor], scene: Scene, name: str, level: str
) -> Freed:
    """Have both calls wait, end the first transaction, and commit each as it is done."""
    await pg.run("TRUNCATE t")
    if scene.rows:
        await pg.run(f"INSERT INTO t VALUES {scene.rows}")
    first, *others = actors
    try:
        for actor in actors:
            await actor.conn.execute(f"BEGIN ISOLATION LEVEL {level}")
        await executed(first.conn, scene.first)
        call = WAITING_CALLS[name]
        begun = [await actor.start(call(actor.conn)) for actor in others]
        assert begun[0] is None or begun[1] is not None
        await executed(first.conn, scene.end)
        said: list[str] = []
        async with asyncio.timeout(PATIENCE):
            while others:
                said += await end_done(others)
    finally:
        for actor in actors:
            await actor.stop()
    rows: Any = await pg.query("SELECT k, n FROM t ORDER BY k")
    return Freed(name, level, begun == [None, None], sorted(said), rows)


async def freed_in(dsn: str, scene: Scene) -> list[Freed]:
    """What happens, for each call and level."""
    async with AsyncExitStack() as stack:
        pg = await stack.enter_async_context(open_postgresql(dsn, "asyncpg"))
        await pg.run(scene.table)
        conns = [await stack.enter_async_context(pg.connect()) for _ in range(3)]
        actors = [Actor(conn, pg.handle) for conn in conns]
        return [
            await freed(pg, actors, scene, name, level)
            for name in WAITING_CALLS
            for level in LEVELS
            if (scene.table, name) not in VARYING
        ]


def scene_listed(scene: Scene, found: list[Freed]) -> list[Listed]:
    """Return what the documentation lists of a scene."""
    first = scene.first.replace(LARGE, "<32,000 characters>")
    setting = f"the first one is {first}, and ends with {scene.end}"
    return [
        Listed(scene.name, setting, "", one.call, one.level, "", one.text())
        for one in found
    ]
