"""PostgreSQL as an `Engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aioupsert._engines.commands import Command
from aioupsert._engines.postgresql import bulk_steps, catalog, steps, values
from aioupsert._engines.postgresql.bulk_compiler import compile_batch
from aioupsert._engines.postgresql.compiler import compile_call
from aioupsert._engines.postgresql.qualifying import qualified
from aioupsert._engines.postgresql.sync import compile_sync

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aioupsert._engines.base import CompiledGroup
    from aioupsert._engines.commands import ScopeLevel, Steps, TransactionScope
    from aioupsert._engines.outcomes import BatchOutcome
    from aioupsert._engines.postgresql.bulk_steps import PostgresqlBatch
    from aioupsert._engines.postgresql.steps import PostgresqlCall
    from aioupsert._engines.postgresql.sync import PostgresqlSync
    from aioupsert._plan import Plan
    from aioupsert._plan.schema import Column, Names, Table, TableName
    from aioupsert.typing import Value


# Each is a text such as 500ms or 2s.
_LOCK_LIMITS: Final = qualified(
    "SELECT (date_part('epoch', current_setting('lock_timeout')::interval) * 1000)::int8,"
    " (date_part('epoch', current_setting('statement_timeout')::interval) * 1000)::int8"
)


class PostgresqlEngine:
    """PostgreSQL, and servers that are compatible with it."""

    system: str = "postgresql"
    lock_limits: Command | None = Command(_LOCK_LIMITS)

    def reflect(self, name: TableName) -> Steps[Table]:
        """Read a table from the catalog."""
        return catalog.reflect(name)

    def identify(self, name: TableName) -> Steps[str]:
        """Return the oid of the relation that a name means now."""
        return catalog.identify(name)

    def compile_call(self, plan: Plan) -> PostgresqlCall:
        """Compile the plan of one row."""
        return compile_call(plan)

    def compile_batch(self, plan: Plan, *, distinct: bool) -> PostgresqlBatch:
        """Compile the plan of many rows."""
        return compile_batch(plan, distinct=distinct)

    def write(
        self, groups: Sequence[CompiledGroup], outcome: BatchOutcome, *, own: bool
    ) -> Steps[None]:
        """Write the groups of a batch in the open transaction."""
        del own
        return bulk_steps.write(groups, outcome)

    def compile_sync(self, plan: Plan, scope: Names, number: int) -> PostgresqlSync:
        """Compile the statements for the rows of a scope."""
        return compile_sync(plan, scope, number)

    def scope(self, level: ScopeLevel, *, in_transaction: bool) -> TransactionScope:
        """Return a transaction, or a savepoint if one is open."""
        return steps.scope(level, in_transaction=in_transaction)

    def comparable_types(self, column: Column) -> frozenset[type]:
        """Return the Python types whose equality is that of the column."""
        return values.comparable_types(column)

    def python_equality_is_sql_equality(
        self, column: Column, keys: Iterable[Value]
    ) -> bool:
        """Return whether these keys are the same row exactly if they are equal."""
        return values.python_equality_is_sql_equality(column, keys)

    def convert_text(self, column: Column, cells: Sequence[Value]) -> None:
        """Return None: the server converts text."""
