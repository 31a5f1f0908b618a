"""What the commands need of a database, whatever its driver."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias

from aioupsert._plan.schema import Column, Table
from aioupsert.cli.errors import LoadError
from aioupsert.typing import Value

Engine = Literal["postgresql", "sqlite"]
TransactionEnd = Literal["COMMIT", "ROLLBACK"]
Values: TypeAlias = tuple[Value, ...]
"""The values of some columns of a row."""


class SelfReference(Protocol):
    """A foreign key of a table that refers to the same table."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the child."""
        ...

    @property
    def referenced(self) -> tuple[str, ...]:
        """The columns of the parent, in the same order."""
        ...

    async def find_parents(self, values: Sequence[Values], /) -> list[bool]:
        """Return whether the table has a row with these values; True if unknown."""
        ...


class Database(Protocol):
    """An open connection or pool, and what depends on its driver."""

    @property
    def engine(self) -> Engine:
        """The kind of database."""
        ...

    @property
    def handle(self) -> Any:
        """The connection or pool to pass to the library."""
        ...

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The exceptions that the driver raises."""
        ...

    async def execute(self, sql: str) -> None:
        """Execute a statement."""
        ...

    async def convert(
        self, columns: Sequence[Column], cells: Sequence[str | None], /
    ) -> list[Value]:
        """Return the values that columns would hold for the given text."""
        ...

    async def find_faulty_column(
        self, columns: Mapping[str, Column], row: Mapping[str, Value], error: object, /
    ) -> str | None:
        """Return the column that caused an error, or None if unknown."""
        ...

    async def self_references(self, table: Table, /) -> Sequence[SelfReference]:
        """Return the foreign keys to the table itself that each statement checks."""
        ...


async def end_transaction(command: Awaitable[object]) -> None:
    """Wait for a commit or rollback, even if cancelled: once sent, it takes effect."""
    task = asyncio.ensure_future(command)
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    task.result()


def import_driver(name: str, extra: str) -> ModuleType:
    """
    Import the driver of a database.

    Raises:
        LoadError: It is not installed; the message names the extra that has it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        msg = f"this database needs {name}: pip install 'aioupsert[{extra}]'"
        raise LoadError(msg) from exc
