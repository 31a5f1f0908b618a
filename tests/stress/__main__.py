"""
The long forms of the stress tests, each by one command.

    python -m tests.stress races
    python -m tests.stress --help

Each prints its seed and ends with a line of figures; the exit code is 1 if a figure is
not what it must be. The server is that of the tests.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import sys
from collections.abc import Coroutine
from itertools import chain
from typing import Annotated, Any, TypeAlias

import typer

from tests.stress import cancellations as cancelling
from tests.stress import chains as chaining
from tests.stress import differential as differing
from tests.stress import faults as failing
from tests.stress import interleavings as alternating
from tests.stress import permutations as permuting
from tests.stress import processes as counting
from tests.stress import races as racing
from tests.stress import service as serving
from tests.stress import simulation as simulating
from tests.stress import soak as soaking
from tests.stress import syncs as synchronizing
from tests.stress import waiters as awaiting
from tests.stress.mutations import running as mutating
from tests.stress.mutations.faults import MUTATIONS
from tests.stress.outcomes import document
from tests.support.databases import CONNECTIONS
from tests.support.servers import NoServerError, session_server, stop_session_server

app = typer.Typer(help="The long forms of the stress tests.", no_args_is_help=True)

# Of a server that is gone for a moment, which is what is tried.
logging.getLogger("asyncpg").setLevel(logging.CRITICAL)

Seed: TypeAlias = Annotated[int | None, typer.Option(help="As printed by a run.")]


def seeded(seed: int | None) -> int:
    chosen = random.randrange(2**31) if seed is None else seed  # noqa: S311  # no secret
    typer.echo(f"seed {chosen}")
    return chosen


def server_dsn() -> str:
    server = session_server()
    if isinstance(server, NoServerError):
        raise typer.BadParameter(str(server))
    typer.echo(f"PostgreSQL {server.version} from {server.origin}")
    return server.dsn


def finish(*works: Coroutine[Any, Any, tuple[str, bool]]) -> None:
    """Run one after the other; the exit code tells whether all went well."""

    async def run() -> bool:
        good = True
        for work in works:
            line, is_good = await work
            typer.echo(line if is_good else f"WRONG {line}")
            good = good and is_good
        return good

    try:
        good = asyncio.run(run())
    finally:
        stop_session_server()
    raise typer.Exit(0 if good else 1)


@app.command()
def races(
    seed: Seed = None,
    name: Annotated[str | None, typer.Option(help="One of them, as printed.")] = None,
    operations: Annotated[
        int, typer.Option(help="Of each; plain has 5 times.")
    ] = 200_000,
    connections: int = 64,
    keys: int = 8,
) -> None:
    """Many connections add to few rows and delete them."""
    chosen, dsn = seeded(seed), server_dsn()
    sizes = {
        race: racing.Size(
            connections, keys, operations * 5 if race == "plain" else operations
        )
        for race in racing.RACES
        if name in {None, race}
    }
    finish(*(racing.race(dsn, race, size, chosen) for race, size in sizes.items()))


@app.command()
def fresh(seed: Seed = None, keys: int = 5_000, clients: int = 32) -> None:
    """All clients create the same rows."""
    chosen, dsn = seeded(seed), server_dsn()
    finish(racing.create_each_once(dsn, racing.Fresh(keys, clients), chosen))


@app.command()
def chains(
    calls: Annotated[int, typer.Option(help="Of each table and driver.")] = 100_000,
    writers: int = 32,
) -> None:
    """The old row of each call is the row of the call before."""
    dsn, size = server_dsn(), chaining.Size(writers, calls)
    finish(*(chaining.chain(dsn, *case, size) for case in chaining.CASES))


@app.command()
def syncs(
    seed: Seed = None,
    rounds: Annotated[int, typer.Option(help="Of each client.")] = 500,
    writers: int = 16,
    clients: Annotated[int, typer.Option(help="That synchronize.")] = 8,
) -> None:
    """Scopes equal one of their sources, and what others create stays."""
    chosen, dsn = seeded(seed), server_dsn()
    size = synchronizing.Size(clients, writers, rounds)
    finish(*(synchronizing.syncs(dsn, k, size, chosen) for k in synchronizing.KINDS))


@app.command()
def processes(
    seed: Seed = None,
    operations: Annotated[int, typer.Option(help="Of each task.")] = 10_000,
    tasks: Annotated[int, typer.Option(help="Of each process.")] = 8,
    number: Annotated[int, typer.Option(help="Of processes.")] = 8,
    python: Annotated[
        list[str] | None, typer.Option(help="One that has what is needed; several.")
    ] = None,
) -> None:
    """Processes count in one SQLite file."""
    chosen = seeded(seed)
    size = counting.Size(number, tasks, operations)
    pythons = tuple(python or [sys.executable])
    finish(
        counting.count_together("wal", size, chosen, pythons),
        counting.count_together("delete", size, chosen, pythons),
    )


@app.command()
def cancellations(
    seed: Seed = None,
    operations: Annotated[int, typer.Option(help="Of each driver.")] = 100_000,
    connections: int = 16,
) -> None:
    """Calls are cancelled at any instant."""
    chosen, dsn = seeded(seed), server_dsn()
    size = cancelling.Size(connections, operations=operations)
    finish(*(cancelling.cancel(dsn, k, size, chosen) for k in CONNECTIONS))


@app.command()
def faults(
    seed: Seed = None,
    times: Annotated[float, typer.Option(help="So many times as often.")] = 1.0,
) -> None:
    """Connections, the server and the table change under writers."""
    chosen = seeded(seed)
    often = failing.Size()
    size = failing.Size(
        *(max(1, round(times * number)) for number in dataclasses.astuple(often))
    )
    with failing.running() as node:
        finish(failing.fail(node, size, chosen), failing.fill(2_000))


@app.command()
def soak(seed: Seed = None, minutes: float = 30.0, clients: int = 32) -> None:
    """Everything at once for a long time, while the table changes."""
    chosen, dsn = seeded(seed), server_dsn()
    finish(soaking.soak(dsn, soaking.Size(clients, minutes * 60), chosen))


@app.command()
def service(
    seed: Seed = None,
    seconds: Annotated[float, typer.Option(help="In each situation.")] = 20.0,
    clients: int = 64,
) -> None:
    """An application under uvicorn: clients go away, rows are locked, it restarts."""
    chosen = seeded(seed)
    with failing.running() as node:
        finish(serving.serve(node, serving.Size(clients, seconds), chosen))


@app.command()
def differential(seed: Seed = None, cases: int = 50_000) -> None:
    """Generated calls, on both databases and on a model."""
    line, is_good = differing.differ(server_dsn(), cases, seeded(seed))
    stop_session_server()
    typer.echo(line if is_good else f"WRONG {line}")
    raise typer.Exit(int(not is_good))


@app.command()
def simulation(seed: Seed = None, seeds: int = 10_000) -> None:
    """A coalescer in a world that each of many seeds decides."""
    chosen = seeded(seed)
    line, is_good = simulating.simulate_many(range(chosen, chosen + seeds))
    typer.echo(line if is_good else f"WRONG {line}")
    raise typer.Exit(int(not is_good))


@app.command()
def permutations() -> None:
    """Transactions in each other's way, in every order; writes the list."""
    dsn = server_dsn()

    async def observe() -> list[dict[tuple[str, str], list[permuting.Outcome]]]:
        return [await permuting.observed(dsn, s) for s in permuting.SCENARIOS]

    async def observe_three() -> list[list[awaiting.Freed]]:
        return [await awaiting.freed_in(dsn, scene) for scene in awaiting.SCENES]

    async def observe_races() -> list[dict[tuple[str, str], list[alternating.Taken]]]:
        return [await alternating.taken_in(dsn, race) for race in alternating.RACES]

    try:
        found = asyncio.run(observe())
        freed = asyncio.run(observe_three())
        taken = asyncio.run(observe_races())
    finally:
        stop_session_server()
    permuted = map(permuting.listed, permuting.SCENARIOS, found)
    awaited = map(awaiting.scene_listed, awaiting.SCENES, freed)
    raced = map(alternating.race_listed, alternating.RACES, taken)
    document(chain.from_iterable((*permuted, *awaited, *raced)))
    number = sum(len(some) for each in found for some in each.values())
    number += sum(map(len, freed))
    number += sum(len(some) for each in taken for some in each.values())
    typer.echo(f"permutations: {number} orders, every outcome written down")


@app.command()
def mutations(
    word: Annotated[
        list[str] | None,
        typer.Argument(help="In the names of the faults to inject; else all."),
    ] = None,
    *,
    control: Annotated[bool, typer.Option(help="Pass without a fault first.")] = True,
) -> None:
    """Inject one fault after the other, and see which test notices; writes the page."""
    dsn = server_dsn()
    chosen = [
        m for m in MUTATIONS.values() if not word or any(w in m.name for w in word)
    ]
    tests: dict[str, str] = {}
    try:
        if control:
            failed = mutating.control(chosen, dsn)
            typer.echo(failed or "without a fault: all tests pass")
            if failed:
                raise typer.Exit(1)
        for mutation in chosen:
            outcome = mutating.inject(mutation, dsn)
            typer.echo(f"{mutation.name}: {outcome.verdict()}")
            if outcome.test and outcome.noticed:
                tests[mutation.name] = outcome.test
    finally:
        stop_session_server()
    typer.echo(f"mutations: {len(tests)} of {len(chosen)} noticed")
    if len(tests) == len(MUTATIONS):
        mutating.document(tests)
    raise typer.Exit(int(len(tests) < len(chosen)))


if __name__ == "__main__":
    app()
