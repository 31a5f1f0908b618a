"""
Citus, an extension of PostgreSQL that distributes tables over several servers.

Experimental, by its documentation. A table's rows are distributed by one of its columns.
Every statement of a call goes to one server only if the key has that column, so the key
must have it. A statement that modifies a table in several of its WITH queries is not
supported for distributed tables, so the classic steps are used.

References:
    Citus, "Finding the distribution column for a table", "SQL Support and Workarounds".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from aioupsert._engines.commands import Command
from aioupsert._engines.postgresql.experimental import log_experimental
from aioupsert._engines.postgresql.qualifying import qualified

if TYPE_CHECKING:
    from aioupsert._engines.commands import Steps

IS_INSTALLED: Final = "to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL"
"""An expression of the catalog query."""
EXACT_BECAUSE: Final = "Citus manages it"
"""Why the classic steps are used."""

# No row for a table that Citus does not manage; NULL for a reference table.
_DISTRIBUTED_BY: Final = qualified("""
SELECT column_to_column_name(p.logicalrelid, p.partkey)::cstring
FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = {oid}::regclass
""")


class Distribution(NamedTuple):
    """
    How Citus distributes a table.

    Attributes:
        column: The distribution column; None for a reference table, of which every
            server has a copy.
    """

    column: str | None


def read_distribution(oid: str) -> Steps[Distribution | None]:
    """Read how a table is distributed; return None if Citus does not manage it."""
    sql = _DISTRIBUTED_BY.replace("{oid}", oid)
    rows = yield Command(sql, kind="catalog")
    if not rows:
        return None
    log_experimental("Citus")
    return Distribution(*rows[0])
