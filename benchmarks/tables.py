"""
Many rows in tables of several kinds, beside statements by hand.

By hand, rows go through COPY and ON CONFLICT, which report nothing. Each kind has two tables of the same rows, one for each way: all rows are created, then all
are updated, in turns of one run. A ratio is the median over the turns. The command fails if
one is beyond its limit.
"""

from __future__ import annotations

import asyncio
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from rich.table import Table

from aioupsert import create_or_update_many
from benchmarks.support.databases import postgresql, postgresql_server
from benchmarks.support.options import add_check, add_turns
from benchmarks.support.report import show, show_versions, verdict
from benchmarks.support.timing import Elapsed, cpu, in_turns, ratio, stopwatch, wall

QUICK: Final = {"rows": 200, "turns": 1}
LIMIT: Final = 2.0
BASE: Final = "CREATE TABLE {0} (k text PRIMARY KEY, v integer, s text)"
WIDE: Final = 100
TRIGGER: Final = (
    "; CREATE OR REPLACE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN new.s = new.s || ''!''; RETURN new; END'"
    "; CREATE TRIGGER stamp BEFORE {1} ON {0} FOR EACH ROW EXECUTE FUNCTION stamp()"
)
KINDS: Final[Mapping[str, str]] = {
    "plain": BASE,
    "a serial id": "CREATE TABLE {0} (id serial, k text PRIMARY KEY, v integer, s text)",
    "10 indexes": BASE
    + "".join(f"; CREATE INDEX {{0}}_{n} ON {{0}} (v)" for n in range(9)),
    "a second unique index": BASE + "; CREATE UNIQUE INDEX ON {0} (v, k)",
    "20 partitions": BASE
    + " PARTITION BY HASH (k)"
    + "".join(
        f"; CREATE TABLE {{0}}_{n} PARTITION OF {{0}}"
        f" FOR VALUES WITH (MODULUS 20, REMAINDER {n})"
        for n in range(20)
    ),
    "a trigger BEFORE INSERT OR UPDATE": BASE
    + TRIGGER.replace("{1}", "INSERT OR UPDATE"),
    "a trigger BEFORE UPDATE": BASE + TRIGGER.replace("{1}", "UPDATE"),
    "a CHECK and a computed column": (
        "CREATE TABLE {0} (k text PRIMARY KEY, v integer CHECK (v >= 0), s text,"
        " g text GENERATED ALWAYS AS (s || 'x') STORED)"
    ),
    "a key of two columns": (
        "CREATE TABLE {0} (k text, v integer, s text, PRIMARY KEY (k, v))"
    ),
    f"{WIDE} columns": "CREATE TABLE {0} (k text PRIMARY KEY, "
    + ", ".join(f"c{n} integer" for n in range(WIDE))
    + ")",
}


class Tables(NamedTuple):
    """
    The two tables of a kind, and the rows that are written to them.

    Attributes:
        conn: The connection.
        rows: The rows.
        key: The columns of the key.
    """

    conn: Any
    rows: Sequence[Mapping[str, Any]]
    key: Sequence[str]

    async def write(self) -> object:
        """Write the rows to the first table."""
        return await create_or_update_many(self.conn, "ours", self.rows, key=self.key)

    async def write_by_hand(self) -> object:
        """Write the rows to the second table."""
        columns = [*self.rows[0]]
        names = ", ".join(columns)
        updates = ", ".join(f"{c} = EXCLUDED.{c}" for c in columns if c not in self.key)
        async with self.conn.transaction():
            await self.conn.execute(
                f"CREATE TEMP TABLE staged ON COMMIT DROP AS SELECT {names} FROM by_hand"
                " WITH NO DATA"
            )
            await self.conn.copy_records_to_table(
                "staged", records=[tuple(row.values()) for row in self.rows]
            )
            return await self.conn.execute(
                f"INSERT INTO by_hand ({names}) SELECT {names} FROM staged"
                f" ON CONFLICT ({', '.join(self.key)}) DO UPDATE SET {updates}"
            )


def rows_of(kind: str, number: int) -> list[dict[str, Any]]:
    """Return rows of a kind of table; wide ones are fewer."""
    if kind == f"{WIDE} columns":
        values = {f"c{n}": n for n in range(WIDE)}
        return [{"k": f"/page/{n:08}", **values} for n in range(number // 5)]
    return [{"k": f"/page/{n:08}", "v": n, "s": "x" * 20} for n in range(number)]


async def measure(kind: str, conn: Any, options: Namespace, table: Table) -> list[str]:
    """Measure a kind of table; return what is beyond its limit."""
    for name in ("ours", "by_hand"):
        await conn.execute(f"DROP TABLE IF EXISTS {name} CASCADE")
        await conn.execute(KINDS[kind].format(name))
    key = ["k", "v"] if kind == "a key of two columns" else ["k"]
    tables = Tables(conn, rows_of(kind, options.rows), key)

    async def timed(
        write: Callable[[], Awaitable[object]], emptied: str, _turn: int
    ) -> Elapsed:
        if emptied:
            await conn.execute(f"TRUNCATE {emptied}")
        with stopwatch() as elapsed:
            await write()
        return elapsed

    missed: list[str] = []
    for case in ("created", "updated"):
        times = await in_turns(
            {
                name: partial(timed, write, name if case == "created" else "")
                for name, write in (
                    ("ours", tables.write),
                    ("by_hand", tables.write_by_hand),
                )
            },
            options.turns,
        )
        of_time = ratio(wall(times["ours"]), wall(times["by_hand"]))
        of_cpu = ratio(cpu(times["ours"]), cpu(times["by_hand"]))
        table.add_row(kind, case, *of_time.cells(), f"{LIMIT}", *of_cpu.cells())
        if of_time.median > LIMIT:
            missed.append(f"{kind}, {case}")
    return missed


def add_options(parser: ArgumentParser) -> None:
    add_turns(parser, 5)
    parser.add_argument("--rows", type=int, default=5_000, help="of each kind of table")
    add_check(parser)


async def measure_all(options: Namespace) -> int:
    table = Table(
        *("table", "rows", "ratio", "quartiles", "at most"),
        *("CPU ratio", "quartiles"),
    )
    missed: list[str] = []
    with postgresql_server() as server:
        async with postgresql(server.dsn) as conn:
            for kind in KINDS:
                missed += await measure(kind, conn, options, table)
            for name in ("ours", "by_hand"):
                await conn.execute(f"DROP TABLE {name} CASCADE")
    show(table)
    show_versions(server)
    return verdict(missed, check=options.check)


def run(options: Namespace) -> int:
    return asyncio.run(measure_all(options))
