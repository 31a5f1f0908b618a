"""A PgBouncer in front of the server of the run, as Debian and others package it."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import psycopg
import psycopg_pool
import pytest

from tests.support.databases import close
from tests.support.servers import account_for, free_port, temporary_folder

PROGRAM: Final = "pgbouncer"
# Seconds; long enough for a slow machine.
TIMEOUT: Final = 30

SETTINGS: Final = """
[databases]
* = {database}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 500
server_tls_sslmode = prefer
"""


def installed(program: str) -> str:
    """Where the program is; on a CI, it must be."""
    # Debian has it where only root looks.
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if path is not None:
        return path
    missing = f"{program} is not installed"
    if "CI" in os.environ:
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@contextmanager
def bouncing(dsn: str, *, size: int, mode: str = "transaction") -> Iterator[str]:
    """The DSN of a PgBouncer that has so many connections to the server at most."""
    program = installed(PROGRAM)
    account = account_for(os.geteuid())  # it refuses to run as root, as PostgreSQL does
    with contextlib.ExitStack() as stack:
        folder = temporary_folder(account, stack)
        target, port = asyncio.run(target_of(dsn)), free_port()
        settings = folder / "pgbouncer.ini"
        settings.write_text(
            SETTINGS.format(database=target, port=port, mode=mode, size=size)
        )
        settings.chmod(0o644)
        log = folder / "log"
        process = subprocess.Popen(  # noqa: S603 - what was found above, no shell
            [program, settings],
            cwd="/",  # ours may be closed to the other user
            extra_groups=[] if account else None,
            group=account.gid if account else None,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            stdout=stack.enter_context(log.open("wb")),
            user=account.uid if account else None,
        )
        stack.callback(process.wait, TIMEOUT)
        # SIGTERM would have it wait for its clients, and others may be ignored.
        stack.callback(process.kill)
        own = f"postgresql://anybody@127.0.0.1:{port}/bounced?sslmode=disable"
        if not asyncio.run(answers(own, process)):
            pytest.fail(f"{PROGRAM}: {log.read_text(errors='replace')}", pytrace=False)
        yield own


async def target_of(dsn: str) -> str:
    """The server that a DSN leads to, in the words of PgBouncer."""
    connection: Any = await asyncpg.connect(dsn)
    try:
        address, settings = connection._addr, connection._params
    finally:
        await connection.close()
    if isinstance(address, str):  # a Unix socket: /folder/.s.PGSQL.5432
        path = Path(address)
        address = path.parent, path.suffix[1:]
    words = {
        "host": address[0],
        "port": address[1],
        "dbname": settings.database,
        "user": settings.user,
        "password": settings.password or "",
    }
    return " ".join(f"{k}='{v}'" for k, v in words.items() if v)


async def answers(dsn: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until it takes connections; tell whether it does."""
    end = time.monotonic() + TIMEOUT
    while process.poll() is None and time.monotonic() < end:
        try:
            connection = await asyncpg.connect(dsn, statement_cache_size=0)
        except (OSError, asyncpg.PostgresError):
            await asyncio.sleep(0.02)
        else:
            await connection.close()
            return True
    return False


class Driver(NamedTuple):
    """
    How a driver is used behind PgBouncer in transaction mode.

    Both are given the DSN, and a name that tells the test's sessions from others.

    Attributes:
        connect: Opens a connection; its `transaction()` is a caller's.
        pool: Opens a pool.
        patient: Whether a connection survives to be cancelled again while the driver
            has the server end what was cancelled.
    """

    connect: Callable[[str, str], AbstractAsyncContextManager[Any]]
    pool: Callable[[str, str], AbstractAsyncContextManager[Any]]
    patient: bool


# PgBouncer takes no other setting of a session, so there is no search_path.
def asyncpg_options(name: str) -> dict[str, Any]:
    return {"statement_cache_size": 0, "server_settings": {"application_name": name}}


@asynccontextmanager
async def asyncpg_connected(dsn: str, name: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn, **asyncpg_options(name))
    try:
        yield connection
    finally:
        await close(connection)


@asynccontextmanager
async def asyncpg_pooling(dsn: str, name: str) -> AsyncIterator[Any]:
    pool = await asyncpg.create_pool(
        dsn, min_size=1, max_size=10, **asyncpg_options(name)
    )
    try:
        yield pool
    finally:
        await close(pool)


def psycopg_options(name: str) -> dict[str, Any]:
    return {"prepare_threshold": None, "application_name": name}


@asynccontextmanager
async def psycopg_connected(dsn: str, name: str) -> AsyncIterator[Any]:
    options = psycopg_options(name)
    connection: Any = await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, **options
    )
    async with connection:
        yield connection


@asynccontextmanager
async def psycopg_pooling(dsn: str, name: str) -> AsyncIterator[Any]:
    async with psycopg_pool.AsyncConnectionPool(
        dsn, kwargs=psycopg_options(name), min_size=1, max_size=10
    ) as pool:
        yield pool


DRIVERS: Final = {
    "asyncpg": Driver(asyncpg_connected, asyncpg_pooling, patient=True),
    "psycopg": Driver(psycopg_connected, psycopg_pooling, patient=False),
}
