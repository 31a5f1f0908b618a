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
from psycopg.rows import dict_row

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
admin_users = anybody
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


async def sessions_of(bouncer: str) -> list[int]:
    """
    The server's sessions that a PgBouncer has, by the number of their process.

    Their names do not tell: RESET ALL, which asyncpg's pool sends, takes the name away.
    """
    console = await psycopg.AsyncConnection.connect(
        bouncer, dbname="pgbouncer", autocommit=True, row_factory=dict_row
    )
    async with console, psycopg.AsyncClientCursor(console) as cursor:
        await cursor.execute("SHOW SERVERS")
        return [row["remote_pid"] for row in await cursor.fetchall()]


class Driver(NamedTuple):
    """
    How a driver is used behind PgBouncer in transaction mode.

    Attributes:
        connect: Opens a connection; its `transaction()` is a caller's.
        pool: Opens a pool.
        patient: Whether a connection survives to be cancelled again while the driver
            has the server end what was cancelled.
    """

    connect: Callable[[str], AbstractAsyncContextManager[Any]]
    pool: Callable[[str], AbstractAsyncContextManager[Any]]
    patient: bool


@asynccontextmanager
async def asyncpg_connected(dsn: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(dsn, statement_cache_size=0)
    try:
        yield connection
    finally:
        await close(connection)


@asynccontextmanager
async def asyncpg_pooling(dsn: str) -> AsyncIterator[Any]:
    pool = await asyncpg.create_pool(
        dsn, min_size=1, max_size=10, statement_cache_size=0
    )
    try:
        yield pool
    finally:
        await close(pool)


@asynccontextmanager
async def psycopg_connected(dsn: str) -> AsyncIterator[Any]:
    connection: Any = await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, prepare_threshold=None
    )
    async with connection:
        yield connection


@asynccontextmanager
async def psycopg_pooling(dsn: str) -> AsyncIterator[Any]:
    async with psycopg_pool.AsyncConnectionPool(
        dsn, kwargs={"prepare_threshold": None}, min_size=1, max_size=10
    ) as pool:
        yield pool


DRIVERS: Final = {
    "asyncpg": Driver(asyncpg_connected, asyncpg_pooling, patient=True),
    "psycopg": Driver(psycopg_connected, psycopg_pooling, patient=False),
}
