"""
Two transactions in each other's way, in every order of their steps.

What PostgreSQL's own isolation tests ask of INSERT ... ON CONFLICT (insert-conflict-do-
nothing, -do-update and their kin) is asked here of every kind of call, at each isolation
level: who waits, what the calls say, and which rows are there in the end. That a step
waits is read from the server (`pg_blocking_pids`), never guessed from the time.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar

import asyncpg

from aioupsert import (
    AioupsertError,
    Coalescer,
    Excluded,
    F,
    SerializationConflictError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    is_retryable,
)
from tests.stress.outcomes import Listed
from tests.support.databases import PostgresDatabase, open_postgresql

LEVELS: Final = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
PATIENCE: Final = 20
FAILURES: Final = ("40001", SerializationConflictError.__name__)

Step = TypeVar("Step")


class Scenario(NamedTuple):
    """
    What is there before, and what the first transaction does to it.

    Attributes:
        name: What happens.
        rows: The rows before.
        first: What the first transaction does: a statement, or "" for the same call.
        reads: Whether the second one has read before, and so has its snapshot.
        end: How the first one ends.
    """

    name: str
    rows: str = ""
    first: str = ""
    reads: bool = False
    end: str = "COMMIT"


SCENARIOS: Final = (
    Scenario("both create the row"),
    Scenario("both create the row, the first rolls back", end="ROLLBACK"),
    Scenario("both create the row, the second has read before", reads=True),
    Scenario("both write a row that is there", "(1, 10)"),
    Scenario("both write a row, the second has read before", "(1, 10)", reads=True),
    Scenario("both write a row, the first rolls back", "(1, 10)", end="ROLLBACK"),
    Scenario("the first deletes the row", "(1, 10)", "DELETE FROM t WHERE k = 1"),
    Scenario(
        "the first deletes the row, the second has read before",
        "(1, 10)",
        "DELETE FROM t WHERE k = 1",
        reads=True,
    ),
    Scenario(
        "the first deletes the row, and rolls back",
        "(1, 10)",
        "DELETE FROM t WHERE k = 1",
        end="ROLLBACK",
    ),
    Scenario("the first updates the row", "(1, 10)", "UPDATE t SET n = 50"),
    Scenario("the first inserts the row", first="INSERT INTO t VALUES (1, 50)"),
    Scenario(
        "the first inserts the row, the second has read before",
        first="INSERT INTO t VALUES (1, 50)",
        reads=True,
    ),
    Scenario(
        "the first gives the row another key",
        "(1, 10)",
        "UPDATE t SET k = 2 WHERE k = 1",
    ),
    Scenario(
        "the first locks the row for a foreign key",
        "(1, 10)",
        "SELECT FROM t WHERE k = 1 FOR KEY SHARE",
    ),
)


async def by_create_or_update(conn: Any) -> str:
    result = await create_or_update(conn, "t", key={"k": 1}, defaults={"n": F("n") + 1})
    return str(result.action)


async def by_get_or_create(conn: Any) -> str:
    result = await get_or_create(conn, "t", key={"k": 1}, defaults={"n": 1})
    return str(result.action)


async def by_many(conn: Any) -> str:
    rows = [{"k": key, "n": 1} for key in (1, 7, 8)]
    add = {"n": F("n") + Excluded("n")}
    counts = await create_or_update_many(conn, "t", rows, key="k", update=add)
    return f"{counts.created} created, {counts.updated} updated"


async def by_coalescer(conn: Any) -> str:
    async with Coalescer(conn, "t", key="k") as coalescer:
        result = await coalescer.create_or_update(
            key={"k": 1}, defaults={"n": F("n") + 1}
        )
    return str(result.action)


CALLS: Final[dict[str, Callable[[Any], Awaitable[str]]]] = {
    "create_or_update": by_create_or_update,
    "get_or_create": by_get_or_create,
    "create_or_update_many": by_many,
    "Coalescer": by_coalescer,
}


class Actor:
    """A connection in a transaction, and the step it waits in."""

    def __init__(self, conn: Any, monitor: Any) -> None:
        self.conn = conn
        self.task: asyncio.Task[str] | None = None
        self._monitor = monitor

    async def start(self, work: Awaitable[str]) -> str | None:
        """Begin a step; what it says, or None when it waits for somebody."""
        self.task = asyncio.ensure_future(self._said(work))
        return await self.settled()

    async def settled(self) -> str | None:
        """Wait until the step is done, or is known to wait for another session."""
        assert self.task is not None
        sql = "SELECT cardinality(pg_blocking_pids($1)) > 0"
        async with asyncio.timeout(PATIENCE):
            while not self.task.done():
                await asyncio.wait([self.task], timeout=0.002)
                if not self.task.done() and await self._monitor.fetchval(
                    sql, self.conn.get_server_pid()
                ):
                    return None
        return self.task.result()

    async def stop(self) -> None:
        """End the step it waits in, and its transaction."""
        if self.task is not None and not self.task.done():
            pid = self.conn.get_server_pid()
            await self._monitor.fetch("SELECT pg_cancel_backend($1)", pid)
            await asyncio.wait([self.task])
            self.task.exception()  # which is that
        await self.conn.execute("ROLLBACK")

    async def _said(self, work: Awaitable[str]) -> str:
        try:
            return await work
        except Exception as exc:
            state = getattr(exc, "sqlstate", None)
            if not (is_retryable(exc) or state == "25P02"):
                raise
            return (
                type(exc).__name__ if isinstance(exc, AioupsertError) else state or ""
            )


def orders(*tracks: Sequence[Step]) -> Iterator[tuple[Step, ...]]:
    """Give every order in which the steps of all can follow each other."""
    if not any(tracks):
        yield ()
    for n, track in enumerate(tracks):
        if track:
            rest = (*tracks[:n], track[1:], *tracks[n + 1 :])
            for order in orders(*rest):
                yield (track[0], *order)


class Outcome(NamedTuple):
    """
    What became of an order.

    Attributes:
        order: The steps.
        said: What each step said; with "waits" before, if it did.
        rows: The rows in the end.
    """

    order: tuple[str, ...]
    said: dict[str, str]
    rows: list[tuple[int, int]]

    def text(self) -> str:
        """On one line: the calls, and how the second transaction ended."""
        parts = [f"{step}: {self.said[step]}" for step in ("1", "2")]
        if self.said["commit 2"] != "COMMIT":
            parts.append(f"commit 2: {self.said['commit 2']}")
        rows = ", ".join(f"{k}={n}" for k, n in self.rows) or "no row"
        return f"{'; '.join(parts)}; {rows}"


async def act(
    pg: PostgresDatabase,
    actors: tuple[Actor, Actor],
    scenario: Scenario,
    call: Callable[[Any], Awaitable[str]],
    order: tuple[str, ...],
) -> Outcome | None:
    """Take the steps in the order; None if a transaction would have to go on while it waits."""
    await pg.run("TRUNCATE t")
    if scenario.rows:
        await pg.run(f"INSERT INTO t VALUES {scenario.rows}")
    first, second = actors
    steps: dict[str, tuple[Actor, Callable[[], Awaitable[str]]]] = {
        "1": (first, lambda: did(first, scenario.first, call)),
        "end 1": (first, lambda: executed(first.conn, scenario.end)),
        "read 2": (second, lambda: executed(second.conn, "SELECT FROM t")),
        "2": (second, lambda: did(second, "", call)),
        "commit 2": (second, lambda: executed(second.conn, "COMMIT")),
    }
    said: dict[str, str] = {}
    waiting: dict[str, Actor] = {}
    for step in order:
        actor, work = steps[step]
        if actor in waiting.values():
            return None
        answer = await actor.start(work())
        if answer is None:
            waiting[step] = actor
        else:
            said[step] = answer
        for name, other in [*waiting.items()]:
            if other is not actor and (answer := await other.settled()) is not None:
                said[name] = f"waits, then {answer}"
                del waiting[name]
    assert not waiting
    return Outcome(order, said, await pg.query("SELECT k, n FROM t ORDER BY k"))


async def did(actor: Actor, sql: str, call: Callable[[Any], Awaitable[str]]) -> str:
    """Execute the statement, or else make the call."""
    return await (executed(actor.conn, sql) if sql else call(actor.conn))


async def executed(conn: Any, sql: str) -> str:
    """Execute a statement of the caller's; what it fails with is the caller's, too."""
    try:
        return str(await conn.execute(sql))
    except asyncpg.PostgresError as exc:
        return str(exc.sqlstate)


async def end_done(actors: list[Actor]) -> list[str]:
    """Commit what is done, roll back what failed; who is ended leaves the list."""
    said: list[str] = []
    # The end of one may set another free.
    while done := [actor for actor in actors if await actor.settled() is not None]:
        for actor in done:
            actors.remove(actor)
            answer = str(await actor.settled())
            failed = answer in FAILURES
            end = await executed(actor.conn, "ROLLBACK" if failed else "COMMIT")
            said.append(answer if failed or end == "COMMIT" else end)
    return said


@asynccontextmanager
async def begun(actors: tuple[Actor, Actor], level: str) -> AsyncIterator[None]:
    """Transactions of the level, which end with the block, wherever they are."""
    for actor in actors:
        await actor.conn.execute(f"BEGIN ISOLATION LEVEL {level}")
    try:
        yield
    finally:
        for actor in actors:
            await actor.stop()


async def outcomes(
    pg: PostgresDatabase,
    actors: tuple[Actor, Actor],
    scenario: Scenario,
    call: Callable[[Any], Awaitable[str]],
    level: str,
) -> list[Outcome]:
    """Take every order that there can be."""
    second = ["read 2"] * scenario.reads + ["2", "commit 2"]
    found: list[Outcome] = []
    for order in orders(["1", "end 1"], second):
        async with begun(actors, level):
            outcome = await act(pg, actors, scenario, call, order)
            found += [] if outcome is None else [outcome]
    return found


async def observed(
    dsn: str, scenario: Scenario, more: str = ""
) -> dict[tuple[str, str], list[Outcome]]:
    """What happens, by call and level; *more* is added to the table's columns."""
    columns = f"k integer PRIMARY KEY, n integer DEFAULT 0{more}"
    async with open_postgresql(dsn, "asyncpg") as pg:
        await pg.run(f"CREATE TABLE t ({columns})")
        async with pg.connect() as one, pg.connect() as other:
            actors = Actor(one, pg.handle), Actor(other, pg.handle)
            return {
                (name, level): await outcomes(pg, actors, scenario, call, level)
                for name, call in CALLS.items()
                for level in LEVELS
            }


def listed(
    scenario: Scenario, found: dict[tuple[str, str], list[Outcome]]
) -> list[Listed]:
    """Return what the documentation lists: the calls and levels of each outcome."""
    cases: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for case, its_outcomes in found.items():
        for outcome in its_outcomes:
            cases[", ".join(outcome.order), outcome.text()].append(case)
    # The orders one after the other, each with its outcomes.
    places = list(dict.fromkeys(order for order, _ in cases))
    setting = f"1 is {scenario.first}" if scenario.first else ""
    return [
        Listed(scenario.name, setting, order, calls, levels, "", text)
        for order, text in sorted(cases, key=lambda case: places.index(case[0]))
        for calls, levels in grouped(cases[order, text])
    ]


def grouped(cases: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the calls that have an outcome, with their levels; those of the same levels together."""
    by_levels: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for call in dict.fromkeys(call for call, _ in cases):
        mine = tuple(level for level in LEVELS if (call, level) in cases)
        by_levels[mine].append(call)
    return [
        (
            ", ".join(calls),
            "all" if len(mine) == len(LEVELS) else ", ".join(mine),
        )
        for mine, calls in by_levels.items()
    ]
