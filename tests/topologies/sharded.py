"""A table over three servers: partitions by hash, each a foreign table of the first."""

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

PROGRAMS: Final = ("initdb", "pg_ctl", "psql")
SHARDS: Final = 3

COLUMNS: Final = "k integer NOT NULL, n integer DEFAULT 0, note text"


@contextmanager
def sharding() -> Iterator[tuple[Node, list[Node]]]:
    """A coordinator, and the servers that hold the rows of its table "items"."""
    binaries = installed(PROGRAMS)
    account = account_for(os.geteuid())
    with contextlib.ExitStack() as stack:
        folder = temporary_folder(account, stack)
        nodes: list[Node] = []
        for _ in range(1 + SHARDS):
            node = Node(binaries, account, folder, free_port())
            node.run("initdb", "-D", node.data, *INITDB_OPTIONS)
            node.start()
            stack.callback(stopped, node)
            nodes.append(node)
        coordinator, *shards = nodes
        coordinator.query("CREATE EXTENSION postgres_fdw")
        for number, shard in enumerate(shards):
            coordinator.query(
                f"CREATE SERVER s{number} FOREIGN DATA WRAPPER postgres_fdw OPTIONS"
                f" (host '127.0.0.1', port '{shard.port}', dbname 'postgres')"
            )
            coordinator.query(f"CREATE USER MAPPING FOR postgres SERVER s{number}")
        yield coordinator, shards


def shard_table(coordinator: Node, shards: list[Node], columns: str = COLUMNS) -> None:
    """Make the table anew, with its key unique on every shard."""
    coordinator.query("DROP TABLE IF EXISTS items")
    coordinator.query(f"CREATE TABLE items ({columns}) PARTITION BY HASH (k)")
    for number, shard in enumerate(shards):
        name = f"items_{number}"
        shard.query(f"DROP TABLE IF EXISTS {name}")
        shard.query(f"CREATE TABLE {name} ({columns}, PRIMARY KEY (k))")
        coordinator.query(
            f"CREATE FOREIGN TABLE {name} PARTITION OF items FOR VALUES WITH"
            f" (MODULUS {SHARDS}, REMAINDER {number}) SERVER s{number}"
        )
