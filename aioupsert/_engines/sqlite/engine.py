"""SQLite as an `Engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioupsert._engines.sqlite import bulk_steps, catalog, steps, values
from aioupsert._engines.sqlite.bulk_compiler import compile_batch
from aioupsert._engines.sqlite.compiler import compile_call
from aioupsert._engines.sqlite.sync import compile_sync

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioupsert._engines.base import CompiledGroup
    from aioupsert._engines.commands import ScopeLevel, Steps, TransactionScope
    from aioupsert._engines.outcomes import BatchOutcome
    from aioupsert._engines.sqlite.bulk_steps import SqliteBatch
    from aioupsert._engines.sqlite.steps import SqliteCall
    from aioupsert._engines.sqlite.sync import SqliteSync
    from aioupsert._plan import Plan
    from aioupsert._plan.schema import Column, Names, Table, TableName
    from aioupsert.typing import Value


class SqliteEngine:
    """SQLite."""

    system: str = "sqlite"
    lock_limits: None = None

    def reflect(self, name: TableName) -> Steps[Table]:
        """Read a table from the schema."""
        return catalog.reflect(name)

    def identify(self, name: TableName) -> Steps[str]:
        """Return the SQL of the table that a name means now."""
        return catalog.identify(name)

    def compile_call(self, plan: Plan) -> SqliteCall:
        """Compile the plan of one row."""
        return compile_call(plan)

    def compile_batch(self, plan: Plan, *, distinct: bool) -> SqliteBatch:
        """Compile the plan of many rows, which are written in their order anyway."""
        del distinct
        return compile_batch(plan)

    def write(
        self, groups: Sequence[CompiledGroup], outcome: BatchOutcome, *, own: bool
    ) -> Steps[None]:
        """Write the rows of a batch, in their order, in the open transaction."""
        return bulk_steps.write(groups, outcome, is_locked=own)

    def compile_sync(self, plan: Plan, scope: Names, number: int) -> SqliteSync:
        """Compile the statements for the rows of a scope, which has no lock of its own."""
        del scope
        return compile_sync(plan, number)

    def scope(self, level: ScopeLevel, *, in_transaction: bool) -> TransactionScope:
        """Return a transaction, or a savepoint if one is open."""
        del level
        return steps.scope(in_transaction=in_transaction)

    def comparable_types(self, column: Column) -> frozenset[type]:
        """Return no types: rows are written in their order, equal keys or not."""
        del column
        return frozenset()

    def python_equality_is_sql_equality(
        self, column: Column, keys: Iterable[Value]
    ) -> bool:
        """Return False: rows are written in their order, equal keys or not."""
        del column, keys
        return False

    def convert_text(self, column: Column, cells: Sequence[Value]) -> Sequence[Value]:
        """Return cells with text converted as the column's affinity would."""
        return values.convert_text(column, cells)
