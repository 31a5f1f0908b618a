"""
Transactions that make the same call, in every order of their steps.

Three of them, whose steps are the call and the commit. And two that are held inside of
their statements, as PostgreSQL's isolation test of speculative insertion holds them: an
index on a function has each of them wait for a lock when it looks for the row, and for
another when it enters it, so that both may be about to enter it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

from tests.stress.outcomes import Listed
from tests.stress.permutations import CALLS, LEVELS, Actor, end_done, orders
from tests.support.databases import PostgresDatabase, open_postgresql

CALL, GO, COMMIT = "call", "go", "commit"

TABLE: Final = "CREATE TABLE t (k integer NOT NULL, n integer DEFAULT 0);"
PRIMARY_KEY: Final = "ALTER TABLE t ADD PRIMARY KEY (k);"
# A lock for each of its calls in a session. A sequence counts them, as what it has given
# is not taken back with a savepoint.
FUNCTION: Final = """
CREATE FUNCTION held(k integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(
        pg_backend_pid(), nextval('calls_' || pg_backend_pid())::integer
    );
    RETURN k;
END $$;
"""
HELD: Final = "CREATE UNIQUE INDEX t_held ON t (held(k));"


class Race(NamedTuple):
    """
    Transactions that make the same call.

    Attributes:
        name: What happens.
        steps: Those of each transaction.
        table: How the table is made. Indexes are looked at in the order of their making.
        rows: The rows before.
    """

    name: str
    steps: tuple[tuple[str, ...], ...]
    table: str
    rows: str = ""


THREE: Final = ((CALL, COMMIT),) * 3
TWO_HELD: Final = ((CALL, GO, GO, COMMIT),) * 2

RACES: Final = (
    Race("three create the row", THREE, TABLE + PRIMARY_KEY),
    Race("three write a row that is there", THREE, TABLE + PRIMARY_KEY, "(1, 10)"),
    Race(
        "two are held by an index before the primary key",
        TWO_HELD,
        FUNCTION + TABLE + HELD + PRIMARY_KEY,
    ),
    Race(
        "two are held by an index after the primary key",
        TWO_HELD,
        FUNCTION + TABLE + PRIMARY_KEY + HELD,
    ),
)


class Taken(NamedTuple):
    """
    What became of an order.

    Attributes:
        said: What the calls said, sorted: which of two that wait is first is chance.
        rows: The rows in the end.
        again: Whether one of them had to begin anew, as the other was first to enter it.
    """

    said: list[str]
    rows: list[tuple[int, int]]
    again: bool

    def text(self) -> str:
        """As the documentation has it."""
        rows = ", ".join(f"{k}={n}" for k, n in self.rows)
        return f"{' / '.join(self.said)}; {rows}"


class Holder:
    """Holds the locks that the function waits for."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    async def hold(self, actor: Actor, times: int) -> None:
        """Hold the actor in each of its first calls of the function."""
        pid = actor.conn.get_server_pid()
        await self._conn.execute(f"CREATE SEQUENCE IF NOT EXISTS calls_{pid}")
        await self._conn.execute(f"ALTER SEQUENCE calls_{pid} RESTART")
        for n in range(times):
            await self._conn.execute(f"SELECT pg_advisory_lock({pid}, {n + 1})")

    async def let_go(self, actor: Actor, call: int) -> None:
        pid = actor.conn.get_server_pid()
        await self._conn.execute(f"SELECT pg_advisory_unlock({pid}, {call})")

    async def calls(self, actor: Actor) -> int:
        """How often the actor has called the function."""
        pid = actor.conn.get_server_pid()
        sql = f"SELECT last_value FROM calls_{pid} WHERE is_called"
        return await self._conn.fetchval(sql) or 0

    async def end(self) -> None:
        await self._conn.execute("SELECT pg_advisory_unlock_all()")


class Stage(NamedTuple):
    """Where the races are run."""

    pg: PostgresDatabase
    actors: list[Actor]
    holder: Holder


def every_order(race: Race) -> Iterator[list[tuple[int, str]]]:
    """Give the orders of the steps; which of the transactions is the first is the same."""
    tracks = [[(n, step) for step in steps] for n, steps in enumerate(race.steps)]
    for order in orders(*tracks):
        begins = [n for n, step in order if step == CALL]
        if begins == sorted(begins):
            yield [*order]


async def take(
    stage: Stage,
    order: list[tuple[int, str]],
    call: Callable[[Any], Awaitable[str]],
) -> list[str]:
    """Take the steps; a commit whose call still waits follows it as soon as it is done."""
    _, actors, holder = stage
    said: list[str] = []
    let_go = Counter[Actor]()
    ending: list[Actor] = []
    for n, step in order:
        actor = actors[n]
        if step == CALL:
            await actor.start(call(actor.conn))
        elif step == GO:
            let_go[actor] += 1
            await holder.let_go(actor, let_go[actor])
        else:
            ending.append(actor)
        said += await end_done(ending)
    assert not ending
    return sorted(said)


async def taken(
    stage: Stage, race: Race, call: Callable[[Any], Awaitable[str]], level: str
) -> list[Taken]:
    """What became of each order there can be."""
    pg, actors, holder = stage
    found: list[Taken] = []
    for order in every_order(race):
        await pg.run("TRUNCATE t")
        if race.rows:
            await pg.run(f"INSERT INTO t VALUES {race.rows}")
        for actor, steps in zip(actors, race.steps, strict=True):
            await holder.hold(actor, steps.count(GO))
            await actor.conn.execute(f"BEGIN ISOLATION LEVEL {level}")
        try:
            said = await take(stage, order, call)
        finally:
            for actor in actors:
                await actor.stop()
            await holder.end()
        calls = [await holder.calls(actor) for actor in actors]
        rows: Any = await pg.query("SELECT k, n FROM t ORDER BY k")
        again = max(calls) > 2  # looked for the row, and entered it
        found.append(Taken(said, rows, again))
    return found


async def taken_in(
    dsn: str, race: Race, calls: Iterable[str] = CALLS
) -> dict[tuple[str, str], list[Taken]]:
    """What happens, by call and level."""
    async with AsyncExitStack() as stack:
        pg = await stack.enter_async_context(open_postgresql(dsn, "asyncpg"))
        await pg.run(race.table)
        holder = Holder(await stack.enter_async_context(pg.connect()))
        conns = [await stack.enter_async_context(pg.connect()) for _ in race.steps]
        stage = Stage(pg, [Actor(conn, pg.handle) for conn in conns], holder)
        return {
            (name, level): await taken(stage, race, CALLS[name], level)
            for name in calls
            for level in LEVELS
        }


def race_listed(race: Race, found: dict[tuple[str, str], list[Taken]]) -> list[Listed]:
    """Return what the documentation lists: how many orders had which outcome."""
    setting = f"the steps of each are: {', '.join(race.steps[0])}"
    return [
        Listed(race.name, setting, "", name, level, str(number), text)
        for (name, level), some in found.items()
        for text, number in sorted(Counter(one.text() for one in some).items())
    ]
