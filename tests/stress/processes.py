"""
Several processes on one SQLite file: every count is there, and nobody hears of BUSY.

    python -m tests.stress.processes PATH SEED OPERATIONS TASKS

is one of the processes: it prints what it has counted, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import sys
import tempfile
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import aiosqlite

from aioupsert import F, create_or_update

KEYS: Final = 16
# A call has so many seconds; others have the file most of the time.
TIMEOUT: Final = 60


@dataclass(frozen=True)
class Size:
    """
    How many of each.

    Attributes:
        processes: How many processes there are.
        tasks: In each, on one connection.
        operations: Of each task.
    """

    processes: int = 8
    tasks: int = 8
    operations: int = 10_000


async def count(path: str, seed: int, operations: int, tasks: int) -> dict[str, Any]:
    """Count from several tasks on one connection, half of them often cancelled."""
    acknowledged: Counter[int] = Counter()
    cancelled: Counter[int] = Counter()
    errors: Counter[str] = Counter()

    async def task(conn: aiosqlite.Connection, number: int) -> None:
        choose = random.Random(seed * 1_000 + number)  # noqa: S311  # no secret
        for _ in range(operations):
            key = choose.randrange(KEYS)
            longest = choose.uniform(0, 0.02) if number % 2 else None
            try:
                async with asyncio.timeout(longest):
                    await create_or_update(
                        conn,
                        "t",
                        key={"k": key},
                        defaults={"n": F("n") + 1},
                        timeout=TIMEOUT,
                    )
            except TimeoutError:
                cancelled[key] += 1
            except Exception as exc:  # noqa: BLE001  # told to whoever started us
                errors[repr(exc)] += 1
            else:
                acknowledged[key] += 1

    async with aiosqlite.connect(path, isolation_level=None) as conn:
        await asyncio.gather(*(task(conn, number) for number in range(tasks)))
    return {
        "acknowledged": acknowledged,
        "cancelled": cancelled,
        "errors": errors,
    }


async def count_together(
    journal: Literal["wal", "delete"],
    size: Size,
    seed: int,
    pythons: tuple[str, ...] = (sys.executable,),
) -> tuple[str, bool]:
    """Start the processes, on each of the Pythons in turn, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "counted.db"
        with closing(sqlite3.connect(path)) as made:
            made.execute(f"PRAGMA journal_mode = {journal}")
            made.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, n INTEGER DEFAULT 0)")
        words = ["-m", __name__, str(path)]
        sizes = [str(size.operations), str(size.tasks)]
        started = [
            await asyncio.create_subprocess_exec(
                *(pythons[number % len(pythons)], *words, str(seed + number), *sizes),
                stdout=asyncio.subprocess.PIPE,
            )
            for number in range(size.processes)
        ]
        said = await asyncio.gather(*(process.communicate() for process in started))
        with closing(sqlite3.connect(path)) as look:
            stored = dict(look.execute("SELECT k, n FROM t"))
            ((integrity,),) = look.execute("PRAGMA integrity_check")
    acknowledged: Counter[int] = Counter()
    cancelled: Counter[int] = Counter()
    errors: Counter[str] = Counter()
    for output, _ in said:
        counts = json.loads(output or b"{}")
        for total, name in (
            (acknowledged, "acknowledged"),
            (cancelled, "cancelled"),
        ):
            total.update({int(k): n for k, n in counts.get(name, {}).items()})
        errors.update(counts.get("errors", {"a process failed": 1}))
    wrong = [
        key
        for key in range(KEYS)
        if not acknowledged[key]
        <= stored.get(key, 0)
        <= acknowledged[key] + cancelled[key]
    ]
    line = (
        f"{journal}: {size.processes} processes, {acknowledged.total():,} acknowledged,"
        f" {cancelled.total():,} cancelled, {sum(stored.values()):,} stored,"
        f" {len(wrong)} wrong sums, {errors.total()} errors, integrity {integrity}"
    )
    return line + f" {dict(errors)}" * bool(errors), not (
        wrong or errors or integrity != "ok"
    )


if __name__ == "__main__":
    database, first, *numbers = sys.argv[1:]
    result = asyncio.run(count(database, int(first), *map(int, numbers)))
    sys.stdout.write(json.dumps(result))
