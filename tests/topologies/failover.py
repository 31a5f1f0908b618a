"""A primary and a standby that the machine's PostgreSQL runs, and one for the other."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.support.servers import (
    INITDB_OPTIONS,
    account_for,
    free_port,
    temporary_folder,
)
from tests.topologies.nodes import Node, installed, stopped

PROGRAMS: Final = ("initdb", "pg_ctl", "pg_basebackup", "psql")


@contextmanager
def replicating() -> Iterator[tuple[Node, Node]]:
    """A primary, and a standby that has whatever the primary acknowledges."""
    binaries = installed(PROGRAMS)
    account = account_for(os.geteuid())
    with contextlib.ExitStack() as stack:
        folder = temporary_folder(account, stack)
        primary, standby = (Node(binaries, account, folder, free_port()) for _ in "12")
        primary.run("initdb", "-D", primary.data, *INITDB_OPTIONS)
        primary.start()
        stack.callback(stopped, primary)
        source = f"host=127.0.0.1 port={primary.port} user=postgres"
        options = ("-R", "-X", "stream", "-c", "fast", "--no-sync")
        primary.run("pg_basebackup", "-D", standby.data, "-d", source, *options)
        standby.start()
        stack.callback(stopped, standby)
        # Not before: the standby must not wait for another one when it is promoted.
        primary.query("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.control("reload")
        yield primary, standby
