"""
Take orders in a session of SQLAlchemy, and count what each customer has spent.

One request is one transaction: the customer's row is created or updated by one call, the
order is an object that the session adds, and both are stored or neither. What a day has
brought is counted after the answer, by a background task with a session of its own. All
is stored in SQLite, or in the database that ORDERS_DB names.
"""

import datetime as dt
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException
from pydantic import Field as Limits
from sqlalchemy import DateTime, Numeric, func
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlmodel import Field, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

from aioupsert import F, create_or_update

engine = create_async_engine(
    os.environ.get("ORDERS_DB", "sqlite+aiosqlite:///orders.db")
)
sessions = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
# Types with arguments, which the annotations of SQLModel do not know.
MONEY: Any = Numeric(12, 2)
ZONED: Any = DateTime(timezone=True)


def now() -> dt.datetime:
    """Give the time, with its zone."""
    return dt.datetime.now(dt.UTC)


class Customer(SQLModel, table=True):
    """A customer, known by the address, and what was ordered so far."""

    id: int | None = Field(default=None, primary_key=True)
    email: str = Field(unique=True)
    name: str
    orders: int = Field(sa_column_kwargs={"server_default": "0"})
    spent: Decimal = Field(sa_type=MONEY, sa_column_kwargs={"server_default": "0"})
    since: dt.datetime = Field(sa_type=ZONED, sa_column_kwargs={"default": now})
    changed: dt.datetime | None = Field(
        default=None, sa_type=ZONED, sa_column_kwargs={"onupdate": now}
    )


class Order(SQLModel, table=True):
    """One order."""

    number: str = Field(primary_key=True)
    customer: int = Field(foreign_key="customer.id")
    amount: Decimal = Field(sa_type=MONEY)


class Day(SQLModel, table=True):
    """What a day has brought."""

    day: dt.date = Field(primary_key=True)
    orders: int = Field(sa_column_kwargs={"server_default": "0"})
    taken: Decimal = Field(sa_type=MONEY, sa_column_kwargs={"server_default": "0"})


class NewOrder(SQLModel):
    """What is sent to order."""

    number: str
    email: str
    name: str
    amount: Annotated[Decimal, Limits(gt=0, lt=10**9, decimal_places=2)]


class Account(SQLModel):
    """What is answered: the customer, and whether this order is the first."""

    id: int
    email: str
    name: str
    orders: int
    spent: Decimal
    created: bool


async def session() -> AsyncIterator[AsyncSession]:
    """One session and one transaction for each request."""
    async with sessions.begin() as opened:
        yield opened


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Create what is missing."""
    async with engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(title="Orders", lifespan=lifespan)
# Before the answer is sent, so that what it says is stored.
Session = Annotated[AsyncSession, Depends(session, scope="function")]


async def count(amount: Decimal) -> None:
    """Count an order, after its answer: the session of the request has ended."""
    async with sessions.begin() as own:
        await create_or_update(
            own,
            Day,
            key={"day": now().date()},
            defaults={"orders": F("orders") + 1, "taken": F("taken") + amount},
        )


@app.post("/orders")
async def order(new: NewOrder, session: Session, later: BackgroundTasks) -> Account:
    """Take an order, of a customer who may be new."""
    customer, created = await create_or_update(
        session,
        Customer,
        key={Customer.email: new.email},
        defaults={
            "name": new.name,
            "orders": F("orders") + 1,
            "spent": F("spent") + new.amount,
        },
        returning=Customer,
    )
    if await session.get(Order, new.number):
        raise HTTPException(409, "there is an order of this number")
    session.add(Order(number=new.number, customer=customer.id, amount=new.amount))
    later.add_task(count, new.amount)
    return Account(**customer.model_dump(), created=created)


@app.get("/total")
async def total(session: Session) -> Decimal:
    """Return the sum of all orders."""
    found = await session.exec(select(func.coalesce(func.sum(Order.amount), 0)))
    return Decimal(found.one())


@app.get("/days")
async def days(session: Session) -> list[Day]:
    """Return the totals of each day."""
    return [*(await session.exec(select(Day)))]
