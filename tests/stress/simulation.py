"""
A coalescer in a world that a seed decides: deterministic simulation.

The event loop runs one callback at a time, any of those that are ready, and its time passes
only when none is. The database is a dict, behind connections that take any number of turns
to answer, refuse a row, end in a transient error, or are lost, before or after the COMMIT.
Callers are cancelled, and the coalescer is closed, at any moment. So one seed is one order
of events, which can be run again; many seeds are many orders that no clock would bring.

What must hold: every caller is answered; what was answered is stored once, in the order of
the calls for a row, and what was refused is not; a row has one creator; no two batches have
a row at once; no task and no connection is left over.
"""

from __future__ import annotations

import asyncio
import random
import selectors
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, Self, TypeVar

from aioupsert import Coalescer, CoalescerClosedError
from aioupsert._drivers import DRIVERS
from aioupsert._drivers.base import (
    YES,
    ConnectionKind,
    ConnectionState,
    TransientError,
    drive,
    state_of,
)
from aioupsert._engines.base import Engine, Fault
from aioupsert._engines.commands import Command, ResultRows, Steps
from tests.support.toy import ToyEngine

T = TypeVar("T")

# --- The loop ---------------------------------------------------------------------------


class SeededLoop(asyncio.SelectorEventLoop):
    """Runs one callback at a time, any of those that are ready; time is simulated."""

    _ready: Any
    _scheduled: Any

    def __init__(self, choose: random.Random) -> None:
        super().__init__(selectors.SelectSelector())
        self._choose = choose
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready:
            if not self._scheduled:
                msg = "everything waits for something else"
                raise RuntimeError(msg)
            self._now = max(self._now, self._scheduled[0].when())
        others: list[Any] = []
        if len(self._ready) > 1:
            others = [*self._ready]
            self._ready.clear()
            self._ready.append(others.pop(self._choose.randrange(len(others))))
        run_once: Any = getattr(super(), "_run_once")  # noqa: B009  # it is private
        run_once()
        self._ready.extendleft(reversed(others))


# --- The database -----------------------------------------------------------------------


@dataclass
class World:
    """
    The rows, and what was written to each, in order.

    Attributes:
        choose: Decides what happens.
        failing: How often a command fails.
        rows: The committed rows.
        history: The values that were committed for each.
        connections: The open connections.
        wrong: What must not have happened.
    """

    choose: random.Random
    failing: float
    rows: dict[Any, dict[str, Any]] = field(default_factory=dict)
    history: dict[Any, list[Any]] = field(default_factory=dict)
    connections: list[SimulatedConnection] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class LostError(OSError):
    """The connection is lost."""


@dataclass(eq=False)
class SimulatedConnection:
    """A connection, and the writes of its transaction and savepoints."""

    world: World
    levels: list[list[tuple[Any, dict[str, Any]]]] = field(default_factory=list)
    closed: bool = False

    async def send(self, command: Command) -> ResultRows:
        world, sql = self.world, command.sql
        if command.kind == "transaction":
            return YES if self.levels else ()
        if command.kind == "rollback":  # which no cancellation interrupts
            return () if self.closed else self._answer(command)
        for _ in range(world.choose.randrange(3)):
            await asyncio.sleep(world.choose.choice((0, 0, 0.001)))
        if self.closed:
            msg = "connection is closed"
            raise LostError(msg)
        fate = world.choose.random() / world.failing if world.failing else 1
        if fate < 0.3:  # of all failures
            if sql == "COMMIT" and fate < 0.1:  # so it is unknown
                self._answer(command)
            self.closed, self.levels = True, []
            msg = "connection lost"
            raise LostError(msg)
        if fate < 1 and sql in {"GET", "PUT"}:
            raise BlockingIOError
        return self._answer(command)

    def _answer(self, command: Command) -> ResultRows:
        match command.sql, [*command.arguments]:
            case "DESCRIBE", _:
                return [("k", "v")]
            case "GET", [key]:
                row = self._row(key)
                return [] if row is None else [(row,)]
            case "PUT", [_, {"v": "bad"}]:
                msg = "the row is refused"
                raise ValueError(msg)
            case "PUT", [key, row]:
                self._put(key, row)
            case "BEGIN", _:
                self.levels.append([])
            case "COMMIT", _:
                for key, row in self.levels.pop():
                    self._put(key, row)
            case _:
                if self.levels:
                    self.levels.pop()
        return []

    def _row(self, key: Any) -> dict[str, Any] | None:
        for level in reversed(self.levels):
            for written, row in reversed(level):
                if written == key:
                    return row
        return self.world.rows.get(key)

    def _put(self, key: Any, row: dict[str, Any]) -> None:
        world = self.world
        for other in world.connections:
            if other is not self and any(
                key == k for some in other.levels for k, _ in some
            ):
                world.wrong.append(f"two batches have the row {key}")
        if self.levels:
            self.levels[-1].append((key, row))
        else:
            world.rows[key] = row
            world.history.setdefault(key, []).append(row["v"])


class SimulatedSession:
    """A session on such a connection."""

    engine: Engine = ToyEngine()

    def __init__(self, connection: SimulatedConnection) -> None:
        self._connection = connection
        self.state: ConnectionState = state_of(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def run(self, steps: Steps[T]) -> T:
        async with self.state.lock:
            inside = self.in_transaction()
            try:
                return await drive(steps, self._connection.send)
            except BlockingIOError as exc:
                if inside:
                    raise
                raise TransientError from exc

    async def fetch(
        self, sql: str, arguments: Sequence[Any], caller_columns: int
    ) -> ResultRows:
        raise NotImplementedError

    def in_transaction(self) -> bool:
        return bool(self._connection.levels)

    def can_repeat(self, _error: Exception | None = None, /) -> bool:
        return True

    def may_be_stale(self, error: Exception) -> bool:  # noqa: ARG002  # of the protocol
        return False

    def fault_of(self, error: Exception) -> Fault:
        return "row" if isinstance(error, ValueError) else "connection"

    def as_host(self, error: Exception) -> Exception:
        return error

    async def forget(self) -> None:
        pass

    def terminate(self) -> None:
        self._connection.closed = True


class SimulatedPool:
    """A pool that replaces connections which are lost."""

    def __init__(self, world: World, size: int) -> None:
        self.world = world
        self.free = asyncio.Queue[SimulatedConnection]()
        self.size = size
        for _ in range(size):
            self.free.put_nowait(self._connect())

    def _connect(self) -> SimulatedConnection:
        connection = SimulatedConnection(self.world)
        self.world.connections.append(connection)
        return connection

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[SimulatedConnection]:
        connection = await self.free.get()
        try:
            yield connection
        finally:
            if connection.levels:
                self.world.wrong.append("a transaction is left open")
            if connection.closed:
                self.world.connections.remove(connection)
                connection = self._connect()
            self.free.put_nowait(connection)


KINDS: Final = (
    ConnectionKind(SimulatedConnection, SimulatedSession),
    ConnectionKind(
        SimulatedPool, SimulatedSession, SimulatedPool.acquire, is_pool=True
    ),
)


@contextmanager
def driver() -> Iterator[None]:
    """Let the library know the simulated connections."""
    module: Any = ModuleType("simulated_driver")
    module.KINDS = KINDS
    module.is_retryable = lambda error: isinstance(error, BlockingIOError)
    sys.modules["simulated_driver"] = module
    DRIVERS["simulated_driver"] = "simulated_driver"
    try:
        yield
    finally:
        del DRIVERS["simulated_driver"], sys.modules["simulated_driver"]


# --- What happens in it -----------------------------------------------------------------


@dataclass
class Call:
    """
    One call, and what its caller was told.

    Attributes:
        number: Its number, in the order in which calls are made.
        key: Its row.
        value: What it writes: its number, or what is refused.
        told: The result or error; None before.
    """

    number: int
    key: int
    value: Any
    told: Any = None

    def wrong(self, stored: int) -> str:
        """Return what is wrong if its value is stored so many times, or nothing."""
        if self.told is None:
            return "has no answer"
        failed = isinstance(self.told, BaseException)
        if self.value == "bad":
            return "" if failed and not stored else "is not refused"
        if failed:
            known = (LostError, CoalescerClosedError, asyncio.CancelledError)
            fits = stored <= 1 and isinstance(self.told, known)
            return "" if fits else f"is stored {stored} times after {self.told!r}"
        fits = stored == 1 and self.told.row == {"k": self.key, "v": self.value}
        return "" if fits else f"is stored {stored} times"


class Simulation:
    """The calls of one seed."""

    def __init__(self, seed: int) -> None:
        self.choose = choose = random.Random(seed)  # noqa: S311  # no secret
        self.world = World(choose, choose.choice((0, 0, 0.02, 0.1, 0.3)))
        self.calls: list[Call] = []
        self.in_order = choose.random() < 0.7  # no caller waits for a slot

    async def run(self) -> None:
        """Let callers call, and close the coalescer."""
        choose = self.choose
        pooled = choose.random() < 0.8  # most of them
        pool = SimulatedPool(self.world, choose.randint(1, 3))
        connection: Any = pool if pooled else pool.free.get_nowait()
        async with Coalescer(
            connection,
            "t",
            key="k",
            max_batch=choose.randint(1, 8),
            max_delay=choose.choice((0, 0, 0.002)),
            max_pending=10_000 if self.in_order else choose.randint(1, 5),
            concurrency=choose.randint(1, 3),
            timeout=None,
        ) as coalescer:
            keys, number = choose.randint(1, 5), choose.randint(3, 30)
            callers = [
                asyncio.create_task(self._caller(coalescer, choose.randrange(keys)))
                for _ in range(number)
            ]
            for _ in range(choose.choice((0, 0, 3))):
                await asyncio.sleep(choose.choice((0, 0.001, 0.003)))
                choose.choice(callers).cancel()
            end = choose.random()
            if end < 0.3:  # sometimes
                await asyncio.sleep(choose.choice((0, 0.001, 0.005)))
                await coalescer.aclose(timeout=choose.choice((0, 0.002, None)))
            await asyncio.wait(callers)
        if pooled and pool.free.qsize() != pool.size:
            self.world.wrong.append("a connection is not given back")
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if rest:
            self.world.wrong.append(f"{len(rest)} tasks are left")
        self._check()

    async def _caller(self, coalescer: Coalescer, key: int) -> None:
        for _ in range(self.choose.randint(1, 3)):
            await asyncio.sleep(self.choose.choice((0, 0, 0.001)))
            value: Any = len(self.calls)
            if self.choose.random() < 0.05:  # few
                value = "bad"
            call = Call(len(self.calls), key, value)
            self.calls.append(call)
            try:
                call.told = await coalescer.create_or_update(
                    key={"k": key}, defaults={"v": value}, returning="*"
                )
            except BaseException as exc:
                call.told = exc
                if isinstance(exc, asyncio.CancelledError):
                    raise

    def _check(self) -> None:
        """Compare what callers were told with what is stored."""
        history, wrong = self.world.history, self.world.wrong
        creators = Counter[int]()
        for call in self.calls:
            stored = history.get((call.key,), []).count(call.value)
            why = call.wrong(stored)
            if why:
                wrong.append(f"call {call.number} {why}")
            creators[call.key] += getattr(call.told, "created", False)
        for key, values in history.items():
            if self.in_order and values != sorted(values):
                wrong.append(f"row {key} has {values}")
        wrong += [f"row {k} has {n} creators" for k, n in creators.items() if n > 1]


def simulate(seed: int) -> list[str]:
    """Run one seed; return what went wrong."""
    simulation = Simulation(seed)
    loop = SeededLoop(simulation.choose)
    state = random.getstate()
    random.seed(seed)  # for the pauses between attempts
    try:
        with driver(), asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(simulation.run())
    except RuntimeError as error:
        simulation.world.wrong.append(str(error))
    finally:
        random.setstate(state)
    return simulation.world.wrong


def simulate_many(seeds: Sequence[int]) -> tuple[str, bool]:
    """Run seeds; return a line of figures, and whether nothing went wrong."""
    wrong = {seed: found for seed in seeds if (found := simulate(seed))}
    line = f"simulation: {len(seeds)} seeds, {len(wrong)} wrong"
    for seed, found in [*wrong.items()][:5]:
        line += f"; seed {seed}: {', '.join(found[:3])}"
    return line, not wrong
