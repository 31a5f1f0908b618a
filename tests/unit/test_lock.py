"""The lock of a connection is handed on in order, whatever becomes of who waits for it."""

import asyncio

import pytest

from aioupsert import ConnectionHeldError
from aioupsert._drivers.lock import SHORTEST_WAIT, ConnectionLock


async def waiting(lock: ConnectionLock, number: int) -> list[asyncio.Task[None]]:
    """Tasks that wait for the lock, in order."""
    tasks = [asyncio.create_task(lock.acquire()) for _ in range(number)]
    await asyncio.sleep(0)
    return tasks


async def test_it_is_handed_on_in_order() -> None:
    lock = ConnectionLock()
    async with lock:
        first, second = await waiting(lock, 2)
    assert (await waiting(lock, 0), first.done(), second.done()) == ([], True, False)
    lock.release()
    await second
    lock.release()
    async with asyncio.timeout(1), lock:
        pass


@pytest.mark.parametrize("released", [False, True])
async def test_one_that_is_cancelled_leaves_it_to_the_next(*, released: bool) -> None:
    lock = ConnectionLock()
    await lock.acquire()
    gone, also_gone, other = await waiting(lock, 3)
    if released:
        lock.release()  # to one that is cancelled before it runs
        gone.cancel()
        also_gone.cancel()
    else:
        gone.cancel()
        await asyncio.sleep(0)  # it has gone
        also_gone.cancel()  # it has not seen it
        lock.release()
    async with asyncio.timeout(1):
        await other
    assert gone.cancelled()
    assert also_gone.cancelled()


async def test_who_waits_is_refused_unless_the_block_ends_in_time() -> None:
    lock = ConnectionLock()
    async with lock:
        with lock.refusing_after(None), lock.refusing_after(60), lock.refusing_after(0):
            (late,) = await waiting(lock, 1)
        with lock.refusing_after(0.01):
            gone, refused = await waiting(lock, 2)
            gone.cancel()
            await asyncio.wait([late, refused])
        (in_time,) = await waiting(lock, 1)
    assert SHORTEST_WAIT > 0.01
    for task in (late, refused):
        with pytest.raises(ConnectionHeldError):
            await task
    assert gone.cancelled()
    await in_time


async def test_one_that_is_cancelled_in_that_moment_is_not_refused() -> None:
    lock = ConnectionLock()
    async with lock:
        gone, refused = await waiting(lock, 2)
        gone.cancel()
        lock.refuse(1)
        await asyncio.wait([gone, refused])
    assert gone.cancelled()
    with pytest.raises(ConnectionHeldError):
        await refused
