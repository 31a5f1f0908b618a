"""
One call in a session of SQLAlchemy, against SQLAlchemy's own ON CONFLICT.

    python benchmarks/in_a_session.py

Both update the same row of the same mapped class, in turns of one run: many in one
transaction, and each in a transaction of its own, as in a web handler.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

sys.path.insert(0, str(Path(__file__).parents[1]))

from aioupsert import F, create_or_update  # the checkout's, see above
from tests.support.servers import (  # as above
    NoServerError,
    session_server,
    stop_session_server,
)

Write = Callable[[AsyncSession, int], Awaitable[object]]


class Base(DeclarativeBase):
    """What is mapped here."""


class Page(Base):
    """A page, and how often it was viewed."""

    __tablename__ = "measured_pages"

    path: Mapped[str] = mapped_column(primary_key=True)
    hits: Mapped[int] = mapped_column(server_default="0")
    note: Mapped[str | None]


async def ours(session: AsyncSession, turn: int) -> None:
    await create_or_update(
        session,
        Page,
        key={"path": "/"},
        defaults={"hits": F("hits") + 1, "note": f"note {turn}"},
    )


async def theirs(session: AsyncSession, turn: int) -> None:
    dialects: dict[str, Any] = {"postgresql": postgresql, "sqlite": sqlite}
    insert: Any = dialects[session.get_bind().dialect.name].insert
    statement = insert(Page).values(path="/", hits=1, note=f"note {turn}")
    changes = {"hits": Page.hits + 1, "note": statement.excluded.note}
    await session.execute(
        statement.on_conflict_do_update(index_elements=["path"], set_=changes)
    )


async def together(engine: Any, write: Write, number: int) -> None:
    async with AsyncSession(engine) as session, session.begin():
        for turn in range(number):
            await write(session, turn)


async def apart(engine: Any, write: Write, number: int) -> None:
    for turn in range(number):
        async with AsyncSession(engine) as session, session.begin():
            await write(session, turn)


async def measure(url: str, turns: int, number: int, table: Table) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    for name, way in (("one for all", together), ("each its own", apart)):
        times: dict[Write, list[float]] = {theirs: [], ours: []}
        for turn in range(turns + 1):
            for write, found in times.items():
                started = time.perf_counter()
                await way(engine, write, number)
                if turn:  # the first one prepares statements and reads the catalog
                    found.append((time.perf_counter() - started) / number * 1e6)
        medians = [statistics.median(found) for found in times.values()]
        ratios = [b / a for a, b in zip(times[theirs], times[ours], strict=True)]
        table.add_row(
            engine.driver,
            name,
            *(f"{median:.0f}" for median in medians),
            f"{statistics.median(ratios):.2f}",
        )
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
    await engine.dispose()


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--number", type=int, default=300, help="calls in a turn")
    options = parser.parse_args()
    server = session_server()
    if isinstance(server, NoServerError):
        raise server
    table = Table("driver", "transaction", "theirs, us", "ours, us", "ratio")
    plain = server.dsn.partition("?")[0].partition("://")[2]
    with tempfile.TemporaryDirectory() as folder:
        for url in (
            f"postgresql+asyncpg://{plain}",
            f"postgresql+psycopg://{plain}",
            f"sqlite+aiosqlite:///{folder}/pages.db",
        ):
            await measure(url, options.turns, options.number, table)
    Console().print(table)
    print(f"{server.version} from {server.origin}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    finally:
        stop_session_server()
