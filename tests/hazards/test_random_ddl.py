"""After any DDL a live connection does what one that has never seen the table does."""

import datetime as dt
import random
from decimal import Decimal
from typing import Any, Final

import pytest

from aioupsert import F, create_or_update, create_or_update_many
from tests.support.databases import Database

EXAMPLES: Final = 18
STEPS: Final = 6
MOMENT: Final = dt.datetime(2024, 1, 2, 15, 30, 0, 625_000)  # noqa: DTZ001  # for columns without a zone
TYPES: Final[dict[str, list[Any]]] = {
    "integer": [1, 2, 7],
    "bigint": [1, 2, 2**40],
    "smallint": [1, 2, 7],
    "numeric": [Decimal("1.25"), Decimal("1.234")],
    "numeric(6,1)": [Decimal("1.2"), Decimal("1.234")],
    "numeric(8,3)": [Decimal("1.2"), Decimal("1.234")],
    "real": [0.5, 0.1],
    "double precision": [0.5, 0.1],
    "text": ["a", "b "],
    "varchar(5)": ["a", "b"],
    "date": [MOMENT.date()],
    "timestamp": [MOMENT],
    "timestamp(0)": [MOMENT],
}
COLUMNS: Final = ("k", "v", "n")
DEFAULTS: Final = ("SET DEFAULT 3", "SET DEFAULT 7", "DROP DEFAULT")


async def execute(conn: Any, call: tuple[str, list[dict[str, Any]], bool]) -> str:
    """Make a call; return what it said."""
    form, rows, conditional = call
    try:
        if form == "bulk":
            bulk = await create_or_update_many(
                *(conn, "t", [{**row, "n": F("n") + 1} for row in rows]),
                key="k",
                skip_unchanged=conditional,
            )
            return str(bulk)
        result = await create_or_update(
            conn,
            "t",
            key={"k": rows[0]["k"]},
            defaults={"v": rows[0]["v"], "n": F("n") + 1},
            skip_unchanged=conditional,
            returning=COLUMNS,
        )
        return str((result.action, result.row))
    except Exception as exc:  # noqa: BLE001  # both connections must raise the same
        return type(exc).__name__


@pytest.mark.parametrize("seed", range(EXAMPLES))
@pytest.mark.parametrize("db", ["asyncpg", "psycopg"], indirect=True)
async def test_a_live_connection_does_as_a_new_one(db: Database, seed: int) -> None:
    chosen = random.Random(seed)  # noqa: S311  # not for secrets
    ((schema,),) = await db.query("SELECT current_schema()")
    twin = f"{schema}_twin"
    types = {"k": "integer", "v": "integer", "n": "integer"}

    async def change(sql: str) -> None:
        for name in (schema, twin):
            await db.run(f"SET search_path = {name}; {sql}; SET search_path = {schema}")

    def made() -> str:
        columns = f"k {types['k']} PRIMARY KEY, v {types['v']}, n {types['n']}"
        return f"DROP TABLE IF EXISTS t; CREATE TABLE t ({columns} DEFAULT 3)"

    await db.run(f"CREATE SCHEMA {twin}")
    try:
        await change(made())
        for _ in range(STEPS):
            rows = [
                {"k": k, "v": chosen.choice(TYPES[types["v"]])}
                for k in dict.fromkeys(TYPES[types["k"]])
            ]
            form = chosen.choice(["single", "single", "bulk"])
            call = (form, rows, chosen.random() < 0.5)
            async with db.connect() as fresh:
                await fresh.execute(f"SET search_path = {twin}")
                expected = await execute(fresh, call)
            assert await execute(db.handle, call) == expected
            (stored, known) = [
                await db.query(f"SELECT k, v, n FROM {name}.t ORDER BY k")
                for name in (schema, twin)
            ]
            assert stored == known
            column = chosen.choice(["k", "v", "v", "n"])
            if column == "n":
                await change(f"ALTER TABLE t ALTER n {chosen.choice(DEFAULTS)}")
                continue
            types[column] = chosen.choice(list(TYPES))
            if column == "k":
                await change(made())
            else:
                await change(f"ALTER TABLE t ALTER v TYPE {types['v']} USING NULL")
    finally:
        await db.run(f"DROP SCHEMA {twin} CASCADE")
