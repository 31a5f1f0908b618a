"""The orders, under uvicorn and over HTTP, on every driver that SQLAlchemy has here."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.examples.programs import TIMEOUT, documented, started
from tests.support.databases import PostgresDatabase
from tests.support.servers import Server


@pytest.fixture
async def database(pg: PostgresDatabase) -> AsyncIterator[str]:
    """A database of the test's own, since a URL of SQLAlchemy names no schema."""
    name = f"db_{pg.schema}"
    await pg.run(f"CREATE DATABASE {name}")
    yield name
    await pg.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(params=["aiosqlite", "asyncpg", "psycopg"])
def url(
    request: pytest.FixtureRequest,
    lite_path: Path,
    database: str,
    pg_server: Server,
) -> str:
    if request.param == "aiosqlite":
        return f"sqlite+aiosqlite:///{lite_path}"
    plain = pg_server.dsn.partition("?")[0].partition("://")[2].rpartition("/")[0]
    return f"postgresql+{request.param}://{plain}/{database}"


@pytest.fixture
def site(url: str, tmp_path: Path) -> Iterator[str]:
    words = [*documented("orders", "venv .venv"), "--port=0"]
    with started(words, tmp_path / "uvicorn.log", ORDERS_DB=url) as program:
        yield program.wait_for(r"Uvicorn running on (http://\S+)")[1]


async def test_an_order_is_stored_with_its_customer_or_not_at_all(site: str) -> None:
    async with httpx.AsyncClient(
        base_url=site, timeout=TIMEOUT, trust_env=False
    ) as visitor:

        async def order(number: int, amount: str) -> httpx.Response:
            new = {
                "number": str(number),
                "email": "ada@example.org",
                "name": "Ada",
                "amount": amount,
            }
            return await visitor.post("/orders", json=new)

        first = await order(0, "12.50")
        answers: list[Any] = [first.json()]
        rest = await asyncio.gather(*(order(n, "1.25") for n in range(1, 11)))
        answers += [answer.raise_for_status().json() for answer in rest]
        assert [answer["created"] for answer in answers] == [True] + [False] * 10
        assert sorted(answer["orders"] for answer in answers) == list(range(1, 12))

        # Its number is taken: the customer is as before.
        assert (await order(3, "100.00")).status_code == 409
        last = (await order(11, "0.25")).json()
        assert (last["orders"], Decimal(last["spent"])) == (12, Decimal("25.25"))
        assert Decimal((await visitor.get("/total")).json()) == Decimal("25.25")
        # Counted after each answer, but for the one that was refused.
        taken: Any = None
        async with asyncio.timeout(TIMEOUT):
            while taken != (12, Decimal("25.25")):
                (day,) = (await visitor.get("/days")).json()
                taken = (day["orders"], Decimal(day["taken"]))
