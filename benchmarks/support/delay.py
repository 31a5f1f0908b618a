"""A slower network than this machine's own: a proxy in a process of its own."""

from __future__ import annotations

import multiprocessing
import queue
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

_SIZE = 1 << 16


def _carry(source: socket.socket, target: socket.socket, delay: float) -> None:
    """Pass on what arrives after a delay, without making what follows wait."""
    parts: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

    def deliver() -> None:
        with suppress(OSError):
            while True:
                due, data = parts.get()
                # Threads sleep more exactly than an event loop.
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)

    threading.Thread(target=deliver, daemon=True).start()
    data = b"."
    while data:
        try:
            data = source.recv(_SIZE)
        except OSError:
            data = b""
        parts.put((time.monotonic() + delay, data))


def _serve(host: str, port: int, delay: float, told: Connection) -> None:
    # Threads that take turns often, as there is little to do in each.
    sys.setswitchinterval(0.0001)
    with socket.create_server(("127.0.0.1", 0)) as server:
        told.send(server.getsockname()[1])
        while True:
            client, _ = server.accept()
            upstream = socket.create_connection((host, port))
            for end in (client, upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for ends in ((client, upstream), (upstream, client)):
                threading.Thread(
                    target=_carry, args=(*ends, delay), daemon=True
                ).start()


@contextmanager
def delayed(host: str, port: int, seconds: float) -> Iterator[int]:
    """Yield a port that leads there, with a round trip that is so much longer."""
    if not seconds:
        yield port
        return
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(
        target=_serve, args=(host, port, seconds / 2, there), daemon=True
    )
    process.start()
    yield here.recv()
    process.terminate()
    process.join()
