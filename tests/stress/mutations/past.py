"""Faults that the library had once, each found by a test and fixed by the commit named."""

from __future__ import annotations

import re
from typing import Any

import asyncpg

from tests.stress.mutations.objects import let_cancellations_through
from tests.stress.mutations.registry import (
    changes_errors,
    changes_objects,
    changes_statements,
)


@changes_statements(
    "tests/matrix/test_bulk_tables.py::test_a_reload_uses_up_no_number_of_a_sequence",
    commit="c9ce6ac",
)
def autoincrement_is_not_seen(sql: str) -> str:
    """many rows that exist use up AUTOINCREMENT numbers on SQLite."""
    return re.sub(r"sql \|\| ''(?=.*'table')", "replace(sql, 'AUTOINCREMENT', '')", sql)


@changes_errors(
    "tests/hazards/test_bulk_retries.py::test_a_connection_that_is_in_use_is_no_fault_of_a_row",
    commit="dc0dd5d",
)
def unsent_rollbacks_end_the_connection(error: Exception, sql: str) -> Exception:
    """a connection that another task is using is closed."""
    if sql == "ROLLBACK" and isinstance(error, asyncpg.InterfaceError):
        return OSError(str(error))
    return error


@changes_statements(
    "tests/conformance/test_coalescer.py::test_so_it_is_with_a_check_of_the_whole_row",
    commit="3bd8a04",
)
def checks_of_the_row_are_not_seen(sql: str) -> str:
    """a coalescer merges calls although a CHECK of the whole row refuses one of them."""
    first = "pg_catalog.array_replace(x.conkey, 0::pg_catalog.int2, 1::pg_catalog.int2)"
    return re.sub(r"(?<=x\.contype, )x\.conkey", first, sql)


@changes_statements(
    "tests/topologies/test_sharded.py::test_many_rows", commit="10e913c"
)
def foreign_partitions_are_not_seen(sql: str) -> str:
    """a table whose partitions are on other servers is taken for a local one."""
    return re.sub(r"m\.relkind \S+ 'f'", "FALSE", sql)


@changes_objects(
    "tests/handles/test_sqlalchemy.py::test_cancelled_at_every_suspension_point",
    commit="8f5eb72",
)
def begins_can_be_cancelled() -> None:
    """a cancelled call leaves a transaction that SQLAlchemy does not know of."""

    def is_begin(future: Any) -> bool:
        return "_start_transaction" in repr(future)

    let_cancellations_through(is_begin)
