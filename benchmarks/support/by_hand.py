"""What experts write by hand on PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import asyncpg

from benchmarks.support.rows import Row

ON_CONFLICT: Final = (
    "ON CONFLICT (path) DO UPDATE SET hits = excluded.hits, note = excluded.note"
)


def count_view(table: str) -> str:
    """Return the statement that adds hits to a page and keeps the note."""
    return (
        f"INSERT INTO {table} AS t (path, hits, note) VALUES ($1, $2, $3)"
        " ON CONFLICT (path) DO UPDATE SET hits = t.hits + $2, note = $3"
        " RETURNING (xmax = 0) AS created"
    )


async def copy_rows(
    conn: asyncpg.Connection[asyncpg.Record], table: str, rows: Sequence[Row]
) -> None:
    """Write many rows through COPY, the quickest way; it reports nothing."""
    async with conn.transaction():
        await conn.execute(
            "CREATE TEMP TABLE staged (path text, hits integer, note text)"
            " ON COMMIT DROP"
        )
        await conn.copy_records_to_table("staged", records=rows)
        await conn.execute(
            f"INSERT INTO {table} AS t (path, hits, note)"
            f" SELECT path, hits, note FROM staged {ON_CONFLICT}"
        )
