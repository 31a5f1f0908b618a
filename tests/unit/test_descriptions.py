"""What is remembered of a table, and for how long."""

from typing import Any

import pytest

from aioupsert import SQL, UsageError, create_or_update, set_schema_cache_ttl
from aioupsert._drivers.base import state_of
from tests.support.databases import SQLiteDatabase


def test_a_time_to_live_is_not_negative() -> None:
    with pytest.raises(UsageError, match="takes zero or more seconds, not -1"):
        set_schema_cache_ttl(-1)


async def test_the_statements_of_a_table_do_not_fill_the_memory(
    lite: SQLiteDatabase,
) -> None:
    await lite.run("CREATE TABLE t (k INTEGER PRIMARY KEY)")
    for number in range(1_100):
        # Raw SQL that is made from data: every call has a shape of its own.
        where: Any = SQL(f"{number} = {number}")
        await create_or_update(lite.handle, "t", key={"k": 1}, where=where)
    cached = state_of(lite.handle).tables["t",]
    assert 0 < len(cached.calls) <= 1000
