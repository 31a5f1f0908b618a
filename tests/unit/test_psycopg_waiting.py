"""Waiting for the socket of psycopg on behalf of its generators."""

import asyncio
import socket
from collections.abc import Generator, Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.waiting import Ready, Wait

from aioupsert._drivers import psycopg as driver


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


class Steps:
    """Waits for something of the socket, and once more for as long as it is in vain."""

    def __init__(self, *awaited: Wait) -> None:
        self.answers: list[Any] = []
        self.generator = self._steps(awaited)

    def _steps(self, awaited: tuple[Wait, ...]) -> Generator[Wait, Any, None]:
        for wait in awaited:
            self.answers.append((yield wait))

    async def run(self, end: socket.socket) -> None:
        libpq: Any = SimpleNamespace(socket=end.fileno())
        await driver._run(self.generator, libpq)


async def test_what_can_be_done_is_answered(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    steps = Steps(Wait.W, Wait.RW)
    await steps.run(ends[0])
    assert steps.answers == [Ready.W, Ready.W]
    ends[1].send(b"it")
    steps = Steps(Wait.R, Wait.RW)
    await steps.run(ends[0])
    assert steps.answers == [Ready.R, Ready.R]
    await Steps().run(ends[0])


async def test_a_generator_looks_from_time_to_time_whether_its_socket_is_open(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_LOOK_AGAIN", 0.001)
    steps = Steps(Wait.R, Wait.R)
    await steps.run(ends[0])
    assert steps.answers == [Ready.NONE, Ready.NONE]


async def test_a_cancelled_one_goes_on(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    steps = Steps(Wait.R, Wait.R)
    task = asyncio.create_task(steps.run(ends[0]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    ends[1].send(b"it")
    await steps.run(ends[0])
    # The first wait is answered by the look that begins it again.
    assert steps.answers == [None, Ready.R]


async def test_a_socket_that_was_closed_is_an_error_of_the_connection(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    steps = Steps(Wait.R)
    number = ends[0].fileno()
    ends[0].close()
    libpq: Any = SimpleNamespace(socket=number)
    with pytest.raises(psycopg.OperationalError, match="socket closed"):
        await driver._run(steps.generator, libpq)
