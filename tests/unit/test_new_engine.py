"""
A new engine is a class, and a new driver a module and one line: here is one of each.

The toy database keeps rows in a dict. Nothing of the package but the list of drivers
knows it, and single calls, many rows, and a coalescer work on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Final, Self, TypeVar

import pytest

from aioupsert import (
    Action,
    BulkError,
    Coalescer,
    UnknownColumnError,
    UnknownTableError,
    create_or_update,
    create_or_update_many,
    get_or_create,
    is_retryable,
)
from aioupsert._drivers import DRIVERS, session_on
from aioupsert._drivers.base import ConnectionKind, ConnectionState, drive, state_of
from aioupsert._engines.base import Engine, Fault
from aioupsert._engines.commands import Command, ResultRows, Steps
from tests.support.databases import Database
from tests.support.toy import ToyEngine

T = TypeVar("T")

# --- The driver -------------------------------------------------------------------------


@dataclass(eq=False)
class ToyConnection:
    rows: dict[Any, dict[str, Any]] = field(default_factory=dict)
    before: list[dict[Any, dict[str, Any]]] = field(default_factory=list)

    async def send(self, command: Command) -> ResultRows:
        match command.sql, [*command.arguments]:
            case "DESCRIBE", ["t"]:
                return [("k", "v")]
            case "GET", [key]:
                return [(self.rows[key],)] if key in self.rows else []
            case "PUT", [_, {"v": "bad"}]:
                msg = "the toy does not take that"
                raise ValueError(msg)
            case "PUT", [key, row]:
                self.rows[key] = row
            case "BEGIN", _:
                self.before.append(dict(self.rows))
            case "COMMIT", _:
                self.before.pop()
            case "ROLLBACK", _:
                self.rows = self.before.pop()
            case _:
                pass
        return []


class ToySession:
    engine: Engine = ToyEngine()

    def __init__(self, connection: ToyConnection) -> None:
        self._connection = connection
        self.state: ConnectionState = state_of(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def run(self, steps: Steps[T]) -> T:
        return await drive(steps, self._connection.send)

    async def fetch(
        self, sql: str, arguments: Sequence[Any], caller_columns: int
    ) -> ResultRows:
        return await self._connection.send(
            Command(sql, arguments, caller_columns=caller_columns)
        )

    def in_transaction(self) -> bool:
        return False

    def can_repeat(self, _error: Exception | None = None) -> bool:
        return True

    def may_be_stale(self, _error: Exception) -> bool:
        return False

    def fault_of(self, error: Exception) -> Fault:
        return "row" if isinstance(error, ValueError) else "connection"

    def as_host(self, error: Exception) -> Exception:
        return error

    async def forget(self) -> None:
        pass

    def terminate(self) -> None:
        pass


KINDS: Final = (ConnectionKind(ToyConnection, ToySession),)


def toy_is_retryable(error: BaseException) -> bool:
    return isinstance(error, BlockingIOError)


@pytest.fixture
def conn(monkeypatch: pytest.MonkeyPatch) -> Any:
    module: Any = ModuleType("toy_driver")
    module.KINDS = KINDS
    module.is_retryable = toy_is_retryable
    monkeypatch.setitem(sys.modules, "toy_driver", module)
    # The line that a new driver takes.
    monkeypatch.setitem(DRIVERS, "toy_driver", "toy_driver")
    return ToyConnection()


# --- What works on it -------------------------------------------------------------------


async def test_single_calls(conn: Any) -> None:
    key = {"k": 1}
    first = await create_or_update(conn, "t", key=key, defaults={"v": "a"})
    row, created = await create_or_update(
        conn, "t", key=key, defaults={"v": "b"}, returning="*"
    )
    assert first.action is Action.CREATED
    assert (row, created) == ({"k": 1, "v": "b"}, False)
    found = await get_or_create(conn, "t", key=key)
    assert found.action is Action.UNCHANGED
    assert found.row == {"k": 1, "v": "b"}


async def test_names_are_checked(conn: Any) -> None:
    with pytest.raises(UnknownTableError, match="no table u"):
        await create_or_update(conn, "u", key={"k": 1})
    with pytest.raises(UnknownColumnError, match="'w'"):
        await create_or_update(conn, "t", key={"k": 1}, defaults={"w": 1})


async def test_many_rows(conn: Any) -> None:
    rows = [{"k": n % 3, "v": n} for n in range(5)]
    counts = await create_or_update_many(conn, "t", rows, key="k")
    assert (counts.created, counts.updated) == (3, 2)
    assert conn.rows[1,] == {"k": 1, "v": 4}


async def test_the_row_at_fault_is_named_and_nothing_is_stored(conn: Any) -> None:
    rows = [{"k": n, "v": "bad" if n == 5 else n} for n in range(9)]
    with pytest.raises(BulkError, match="row 5: the toy does not take that"):
        await create_or_update_many(conn, "t", rows, key="k")
    assert conn.rows == {}


async def test_a_coalescer(conn: Any) -> None:
    async with Coalescer(conn, "t", key="k") as coalescer:
        call: Callable[..., Any] = coalescer.create_or_update
        results = [await call(key={"k": 1}, defaults={"v": n}) for n in range(3)]
    assert [result.created for result in results] == [True, False, False]


async def test_every_driver_sends_a_statement_by_itself(db: Database) -> None:
    """As an engine wants for which a call is a single one."""
    async with session_on(db.handle) as session:
        rows = await session.fetch("SELECT 1", (), 1)
    assert [tuple(row) for row in rows] == [(1,)]


def test_its_errors_are_known(conn: Any) -> None:
    del conn
    assert is_retryable(BlockingIOError())
    assert not is_retryable(ValueError())
