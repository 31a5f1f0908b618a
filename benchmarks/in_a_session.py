"""
One call in a session of SQLAlchemy, and SQLAlchemy's own ON CONFLICT.

Both update the same row of the same mapped class, in turns of one run: many calls in one
transaction, and each call in a session and transaction of its own, as in a web handler.
SQLAlchemy's statement is built once, and its SQL is in SQLAlchemy's cache. The ratio is
the median over the turns, with the quartiles beside it: of the time by the clock, and of
the processor time of this process (user and system), which has the limit.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, Final

from rich.table import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from aioupsert import F, create_or_update
from benchmarks.support.databases import postgresql_server, sqlite_path
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import microseconds, show, show_versions, verdict
from benchmarks.support.timing import Elapsed, cpu, in_turns, ratio, stopwatch, wall

Write = Callable[[AsyncSession, int], Awaitable[object]]
Transactions = Callable[[AsyncEngine, Write, int], Awaitable[None]]

QUICK: Final = {"turns": 1, "number": 20}
# The highest ratio of processor time that is good enough.
LIMIT: Final = 1.0


class Base(DeclarativeBase):
    """What is mapped here."""


class Page(Base):
    """A page, and how often it was viewed."""

    __tablename__ = "measured_pages"

    path: Mapped[str] = mapped_column(primary_key=True)
    hits: Mapped[int] = mapped_column(server_default="0")
    note: Mapped[str | None]


async def by_aioupsert(session: AsyncSession, number: int) -> None:
    await create_or_update(
        session,
        Page,
        key={"path": "/"},
        defaults={"hits": F("hits") + 1, "note": f"note {number}"},
    )


@cache
def on_conflict(dialect: str) -> Any:
    """Return the statement, made once: its SQL is then in SQLAlchemy's cache as well."""
    dialects: dict[str, Any] = {"postgresql": postgresql, "sqlite": sqlite}
    statement = dialects[dialect].insert(Page)
    changes = {"hits": Page.hits + 1, "note": statement.excluded.note}
    return statement.on_conflict_do_update(index_elements=["path"], set_=changes)


async def by_sqlalchemy(session: AsyncSession, number: int) -> None:
    row = {"path": "/", "hits": 1, "note": f"note {number}"}
    await session.execute(on_conflict(session.get_bind().dialect.name), row)


async def one_for_all(engine: AsyncEngine, write: Write, calls: int) -> None:
    async with AsyncSession(engine) as session, session.begin():
        for number in range(calls):
            await write(session, number)


async def one_for_each(engine: AsyncEngine, write: Write, calls: int) -> None:
    for number in range(calls):
        async with AsyncSession(engine) as session, session.begin():
            await write(session, number)


TRANSACTIONS: Final[dict[str, Transactions]] = {
    "one for all calls": one_for_all,
    "one for each call": one_for_each,
}


@asynccontextmanager
async def engine_for(url: str) -> AsyncIterator[AsyncEngine]:
    """Yield an engine on a database with an empty table, which is dropped in the end."""
    engine = create_async_engine(url)
    async with engine.begin() as conn:
        await conn.run_sync(Base.metadata.drop_all)
        await conn.run_sync(Base.metadata.create_all)
    yield engine
    async with engine.begin() as conn:
        await conn.run_sync(Base.metadata.drop_all)
    await engine.dispose()


async def compare(engine: AsyncEngine, table: Table, options: Namespace) -> list[str]:
    """Fill in the table; return the names of the cases that take too long."""
    too_slow: list[str] = []

    async def timed(execute: Transactions, write: Write, _turn: int) -> Elapsed:
        with stopwatch() as elapsed:
            await execute(engine, write, options.number)
        return elapsed.each(options.number)

    for name, execute in TRANSACTIONS.items():
        times = await in_turns(
            {
                "theirs": partial(timed, execute, by_sqlalchemy),
                "ours": partial(timed, execute, by_aioupsert),
            },
            options.turns,
        )
        ours, theirs = times["ours"], times["theirs"]
        ratios = ratio(cpu(ours), cpu(theirs))
        table.add_row(
            engine.driver,
            name,
            *(microseconds(wall(way)) for way in (theirs, ours)),
            *ratio(wall(ours), wall(theirs)).cells(),
            *(microseconds(cpu(way)) for way in (theirs, ours)),
            *ratios.cells(),
            f"{LIMIT:.2f}",
        )
        if ratios.median > LIMIT:
            too_slow.append(f"{engine.driver}, {name}")
    return too_slow


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 9)
    parser.add_argument("--number", type=int, default=300, help="calls in a turn")
    add_check(parser)


async def measure_all(options: Namespace) -> int:
    table = Table(
        *("driver", "transaction", "SQLAlchemy, µs", "aioupsert, µs"),
        *("ratio", "quartiles", "CPU SQLAlchemy, µs", "CPU aioupsert, µs"),
        *("CPU ratio", "quartiles", "at most"),
    )
    too_slow: list[str] = []
    with postgresql_server() as server, sqlite_path() as path:
        # Without the options of asyncpg, which SQLAlchemy's dialects do not take.
        address = server.dsn.partition("?")[0].partition("://")[2]
        for url in (
            f"postgresql+asyncpg://{address}",
            f"postgresql+psycopg://{address}",
            f"sqlite+aiosqlite:///{path}",
        ):
            async with engine_for(url) as engine:
                too_slow += await compare(engine, table, options)
    show(table)
    show_versions(server)
    return verdict(too_slow, check=options.check)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
