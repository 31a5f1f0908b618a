"""
Tests of the tests: break the library on purpose, and see which test notices.

    python -m tests.stress mutations

A mutation replaces a text of one file, in a copy of the library and of its tests, which
then run. The table is written to docs/mutations.md.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
DOCUMENT: Final = ROOT / "docs" / "mutations.md"
COPIED: Final = (
    "aioupsert",
    "tests",
    "pyproject.toml",
    "README.md",
    "docs",
    "examples",
)
# Seconds after which a test hangs.
PATIENCE: Final = 60


class Mutation(NamedTuple):
    """
    One way to break the library.

    Attributes:
        name: What is broken.
        file: Where, below the package.
        old: What is there, once.
        new: What takes its place.
        tests: Which should notice.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS: Final = (
    Mutation(
        "no savepoint around an insert in the caller's transaction",
        "_engines/postgresql/steps.py",
        "insert = _behind_savepoint if in_transaction else _plainly",
        "insert = _plainly",
        "tests/hazards/test_transactions.py",
    ),
    Mutation(
        "no second attempt after a unique violation",
        "_engines/postgresql/steps.py",
        'return getattr(error, "sqlstate", None) in _CONFLICTS',
        "return False",
        "tests/hazards/test_races.py",
    ),
    Mutation(
        "no second attempt after a serialization failure",
        "_drivers/asyncpg.py",
        "                if is_retryable(exc):\n                    raise TransientError",
        "                if False:\n                    raise TransientError",
        "tests/hazards/test_retries.py tests/hazards/test_isolation.py",
    ),
    Mutation(
        "a lost connection is tried again",
        "_drivers/asyncpg.py",
        "return sqlstate(error) in TRANSIENT",
        'return sqlstate(error)[:2] in {"40", "08", "57"}',
        "tests/hazards/test_lost_connections.py",
    ),
    Mutation(
        "a transaction of ours is left open after an error",
        "_engines/postgresql/steps.py",
        '    (Send("ROLLBACK", kind="undo"),),',
        "    (),",
        "tests/hazards",
    ),
    Mutation(
        "a ROLLBACK can be cancelled",
        "_drivers/asyncpg.py",
        "            await finish(task)\n        finally:",
        "            await task\n        finally:",
        "tests/hazards/test_cancellation.py tests/hazards/test_bulk_cancellation.py",
    ),
    Mutation(
        "a call on SQLite takes several jobs of the thread",
        "_drivers/aiosqlite.py",
        '_HAS_JOBS: Final = hasattr(aiosqlite.Connection, "_execute")',
        "_HAS_JOBS: Final = False",
        "tests/hazards/test_sqlite_jobs.py tests/hazards/test_sqlite_cancellation.py",
    ),
    Mutation(
        "an error on SQLite's thread is swallowed",
        "_drivers/aiosqlite.py",
        "        return _drive(connection, cursor, steps(inside), state)\n"
        "    except Exception as exc:\n"
        "        _explain(exc, connection, inside=inside)\n"
        "        raise",
        "        return _drive(connection, cursor, steps(inside), state)\n"
        "    except Exception as exc:\n"
        "        return _explain(exc, connection, inside=inside)",
        "tests/conformance/test_errors.py",
    ),
    Mutation(
        "SQLite's transaction begins without the lock",
        "_engines/sqlite/steps.py",
        "BEGIN IMMEDIATE",
        "BEGIN",
        "tests/hazards/test_sqlite_busy.py tests/stress/test_short.py",
    ),
    Mutation(
        "names are not quoted",
        "_engines/quoting.py",
        """return '"' + name.replace('"', '""') + '"'""",
        "return name",
        "tests/conformance/test_names.py",
    ),
    Mutation(
        "quotation marks in names are not doubled",
        "_engines/quoting.py",
        """return '"' + name.replace('"', '""') + '"'""",
        """return '"' + name + '"'""",
        "tests/conformance/test_names.py",
    ),
    Mutation(
        "updated is told as created by a native upsert",
        "_engines/postgresql/compiler.py",
        'created = f"{ALIAS}.xmax = 0"',
        'created = "true"',
        "tests/hazards/test_flags.py tests/conformance/test_several_rows.py"
        " tests/conformance/test_create_or_update.py",
    ),
    Mutation(
        "created means updated",
        "results.py",
        "return self.action is Action.CREATED",
        "return self.action is Action.UPDATED",
        "tests/unit/test_results.py",
    ),
    Mutation(
        "where is ignored",
        "_plan/plan.py",
        "where=None if where is None else on_update.condition(where),",
        "where=None,",
        "tests/conformance/test_create_or_update.py",
    ),
    Mutation(
        "skip_unchanged is ignored",
        "_plan/plan.py",
        "guarded = shape.skip_unchanged or bool(touch)",
        "guarded = bool(touch)",
        "tests/conformance/test_create_or_update.py",
    ),
    Mutation(
        "create_defaults are written on update",
        "_plan/plan.py",
        "written = {**defaults, **touch} if defaults else {}",
        "written = {**defaults, **touch, **create_defaults} if defaults else {}",
        "tests/conformance/test_create_or_update.py",
    ),
    Mutation(
        "the rows of a batch are inserted in any order",
        "_engines/postgresql/bulk_compiler.py",
        'f" FROM {writer.rows}{guard} ORDER BY {order}"',
        'f" FROM {writer.rows}{guard}"',
        "tests/hazards/test_bulk_races.py tests/unit/test_sql_postgresql.py",
    ),
    Mutation(
        "rows in the way of a concurrent call are dropped",
        "_engines/postgresql/bulk_steps.py",
        "        pending = left\n    return pending",
        "        pending = left\n    return []",
        "tests/hazards/test_bulk_races.py",
    ),
    Mutation(
        "without a unique constraint that is checked at once, nobody queues up",
        "_engines/postgresql/steps.py",
        "    if program.lock is None:",
        "    if True:",
        "tests/hazards/test_races.py tests/conformance/test_without_unique_index.py",
    ),
    Mutation(
        "a changed table is never noticed",
        "_drivers/base.py",
        "    if isinstance(error, UnknownTableError):\n        return False",
        "    if isinstance(error, Exception):\n        return False",
        "tests/hazards/test_schema_changes.py",
    ),
    Mutation(
        "the timeout is ignored",
        "_execution/retrying.py",
        "return self._end is not None and time.monotonic() >= self._end",
        "return False",
        "tests/conformance/test_transactions.py",
    ),
    Mutation(
        "of folded increments only the last counts",
        "_plan/merging.py",
        "total = sum(added)",
        "total = added[-1]",
        "tests/unit/test_calls.py tests/conformance/test_coalescer.py",
    ),
    Mutation(
        "a coalescer sends calls for one row at the same time",
        "_coalescer/queue.py",
        "elif identity not in held:",
        "elif True:",
        "tests/hazards/test_coalescer.py",
    ),
    Mutation(
        "calls that a coalescer leaves to another batch lose their order",
        "_coalescer/queue.py",
        "ready.extendleft(reversed([*chain.from_iterable(rest)]))",
        "ready.extend(chain.from_iterable(rest))",
        "tests/hazards/test_coalescer.py tests/conformance/test_coalescer.py",
    ),
    Mutation(
        "a coalescer keeps a connection as long as there are calls",
        "_coalescer/coalescer.py",
        "_IN_A_ROW: Final = 8",
        "_IN_A_ROW: Final = 1_000_000",
        "tests/hazards/test_coalescer.py",
    ),
    Mutation(
        "a batch of a coalescer has any size",
        "_coalescer/queue.py",
        "while ready and number < most and",
        "while ready and",
        "tests/hazards/test_coalescer.py tests/conformance/test_coalescer.py",
    ),
    Mutation(
        "what a statement by itself has left is lost",
        "_coalescer/coalescer.py",
        "again = {*tally.left}",
        "again = set[int]()",
        "tests/hazards/test_coalescer.py",
    ),
    Mutation(
        "what a statement by itself has written is sent again",
        "_execution/batches.py",
        "tally.left = due",
        "tally.left = [*due, *(due and group.places[:1])]",
        "tests/hazards/test_coalescer.py",
    ),
    Mutation(
        "a new counter is taken to begin at 0",
        "_engines/postgresql/bulk_compiler.py",
        ' and column.default == "0"',
        "",
        "tests/hazards/test_coalescer.py",
    ),
    Mutation(
        "a coalescer forgets the calls of a row that is under way",
        "_coalescer/queue.py",
        "self.ready.extendleft(reversed(waiting))",
        "pass",
        "tests/hazards/test_coalescer.py",
    ),
    Mutation(
        "a coalescer takes any number of calls",
        "_coalescer/coalescer.py",
        "is_full = self._pending >= self._max_pending",
        "is_full = False",
        "tests/conformance/test_coalescer.py tests/hazards/test_coalescer.py",
    ),
    Mutation(
        "a cancelled caller of a coalescer is written all the same",
        "_coalescer/coalescer.py",
        "calls = [call for call in batch if not call[FUTURE].done()]",
        "calls = [*batch]",
        "tests/hazards/test_coalescer.py",
    ),
    Mutation(
        "all callers of a failed batch share one error",
        "_coalescer/queue.py",
        "error if len(calls) == 1 else copied(error)",
        "error",
        "tests/hazards/test_coalescer.py tests/conformance/test_coalescer.py",
    ),
    Mutation(
        "a pool's connection of psycopg is lent as it is",
        "_drivers/psycopg.py",
        "    if connection.autocommit:\n        yield\n        return",
        "    if True:\n        yield\n        return",
        "tests/hazards/test_handles.py tests/handles tests/hazards/test_psycopg.py",
    ),
    Mutation(
        "a session of SQLAlchemy does not know of the transaction",
        "_sqlalchemy/connections.py",
        "    if not connection.in_transaction():\n        await connection.begin()\n",
        "",
        "tests/handles",
    ),
    Mutation(
        "a key that would be stored as another is taken",
        "_upsert.py",
        "        check(values[slot])",
        "        pass",
        "tests/matrix/test_keys.py",
    ),
)


def mutate(folder: Path, mutation: Mutation) -> None:
    """Break the copy."""
    file = folder / "aioupsert" / mutation.file
    text = file.read_text("utf-8")
    if text.count(mutation.old) != 1:
        msg = f"{mutation.name}: its text is {text.count(mutation.old)} times there"
        raise LookupError(msg)
    file.write_text(text.replace(mutation.old, mutation.new), "utf-8")


def caught(mutation: Mutation, dsn: str) -> str | None:
    """Run the tests on a broken copy; the first that notices, or None."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        for part in COPIED:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, folder / part)
        mutate(folder, mutation)
        done = subprocess.run(  # noqa: S603 - ours
            [
                *(sys.executable, "-m", "pytest", "-xv", "-p", "no:cacheprovider"),
                *("-o", f"faulthandler_timeout={PATIENCE}", *mutation.tests.split()),
            ],
            cwd=folder,
            env={**os.environ, "AIOUPSERT_TEST_DSN": dsn},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == 0:
        return None
    said = done.stdout + done.stderr
    failed = re.search(
        r"^(?:FAILED|ERROR) (\S+?)(?:\[.*)?(?: - .*)?$", said, re.MULTILINE
    )
    if failed:
        return failed[1]
    # One that hangs is ended, and is the last that was begun.
    begun = re.findall(r"^(tests/\S+?::\w+)", done.stdout, re.MULTILINE)
    assert begun, said
    return f"{begun[-1]} (hangs)"


def document(table: dict[str, str]) -> None:
    """Write what caught what."""
    lines = "\n".join(f"| {name} | `{test}` |" for name, test in table.items())
    DOCUMENT.write_text(
        f"""# Tests of the tests

The library is broken on purpose, in {len(table)} ways, and each time a test notices. `python -m tests.stress mutations` breaks copies of it, runs the tests that should notice, and writes this page; the exit code is 1 if none does.

| what is broken | the first test that noticed |
|---|---|
{lines}
""",
        "utf-8",
    )
