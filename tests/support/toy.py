"""An engine of a database that keeps rows in a dict: the least that an engine can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aioupsert import UnknownTableError
from aioupsert._engines.base import (
    CompiledBatch,
    CompiledCall,
    CompiledGroup,
    CompiledSync,
    read_each,
)
from aioupsert._engines.commands import Command, ScopeLevel, Steps, TransactionScope
from aioupsert._engines.outcomes import BatchOutcome, LostRace, read_result
from aioupsert._engines.sql import CompiledStatement, RowCode
from aioupsert._plan import Assignment, Plan, RowGroup
from aioupsert._plan.schema import Column, Names, Table, TableName, UniqueIndex
from aioupsert.results import Result


def toy_column(name: str) -> Column:
    return Column(name, "", "", "", "other")


@dataclass(frozen=True)
class ToyCall:
    """Get the row by its key; put it."""

    plan: Plan
    single: CompiledStatement | None = None
    at_any_level: CompiledCall | None = None
    create: CompiledStatement | None = None

    def statements(self) -> tuple[CompiledStatement, ...]:
        return ()

    def read_existing(self, values: Sequence[Any]) -> Steps[Result | None]:
        rows = yield Command("GET", [self._key(values)])
        return self._result(RowCode.UNCHANGED, rows[0][0]) if rows else None

    def attempt(
        self, values: Sequence[Any], _conflicts: int
    ) -> Steps[Result | LostRace]:
        return (yield from self.write(values))

    def write(self, values: Sequence[Any]) -> Steps[Result]:
        rows = yield Command("GET", [self._key(values)])
        if rows and not self.plan.update:
            return self._result(RowCode.UNCHANGED, rows[0][0])
        items = self.plan.update if rows else self.plan.insert
        row = {**(rows[0][0] if rows else {}), **dict(self._set(items, values))}
        yield Command("PUT", [self._key(values), row])
        return self._result(RowCode.UPDATED if rows else RowCode.CREATED, row)

    def _key(self, values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(values[key.parameter] for key in self.plan.key)

    def _set(
        self, items: Iterable[Assignment], values: Sequence[Any]
    ) -> Iterator[tuple[str, Any]]:
        for column, expression in items:
            assert expression is not None
            yield column.name, values[expression.parameter]

    def _result(self, code: RowCode, row: dict[str, Any]) -> Result:
        return read_result(
            self.plan, [(code, *(row[name] for name in self.plan.returning))]
        )


@dataclass(frozen=True)
class ToyBatch:
    """One row after the other."""

    per_row: ToyCall
    how: str = "one by one: it is a toy"

    def write(self, group: RowGroup, outcome: BatchOutcome) -> Steps[None]:
        for row, position in enumerate(group.positions):
            result = yield from self.per_row.write(group.values(row))
            outcome.add(position, result)

    def read_existing(
        self, group: RowGroup, outcome: BatchOutcome
    ) -> Steps[Sequence[int]]:
        return read_each(self.per_row, group, outcome)

    def find_locked(self, _group: RowGroup) -> None:
        return None

    def find_holders(self, _group: RowGroup) -> None:
        return None

    def write_autocommit(
        self, _group: RowGroup, _outcome: BatchOutcome, *, whole: bool
    ) -> None:
        del whole


class ToyEngine:
    system: str = "toy"
    lock_limits: None = None

    def reflect(self, name: TableName) -> Steps[Table]:
        rows = yield Command("DESCRIBE", [name[-1]], kind="catalog")
        if not rows:
            raise UnknownTableError(".".join(name))
        key, *others = rows[0]
        columns = {column: toy_column(column) for column in (key, *others)}
        return Table(name, "", columns, (UniqueIndex("key", (key,)),))

    def identify(self, name: TableName) -> Steps[str]:
        return (yield from self.reflect(name)).relation_id

    def compile_call(self, plan: Plan) -> CompiledCall:
        return ToyCall(plan)

    def compile_batch(self, plan: Plan, *, distinct: bool) -> CompiledBatch:
        del distinct
        return ToyBatch(ToyCall(plan))

    def write(
        self, groups: Sequence[CompiledGroup], outcome: BatchOutcome, *, own: bool
    ) -> Steps[None]:
        del own
        for compiled, group in groups:
            assert isinstance(compiled, ToyBatch)
            yield from compiled.write(group, outcome)

    def compile_sync(self, plan: Plan, scope: Names, number: int) -> CompiledSync:
        raise NotImplementedError

    def scope(self, level: ScopeLevel, *, in_transaction: bool) -> TransactionScope:
        del level, in_transaction
        return TransactionScope(
            Command("BEGIN", kind="command"),
            Command("COMMIT", kind="command"),
            (Command("ROLLBACK", kind="rollback"),),
        )

    def comparable_types(self, _column: Column) -> frozenset[type]:
        return frozenset()

    def python_equality_is_sql_equality(
        self, _column: Column, _types: Iterable[type]
    ) -> bool:
        return True

    def convert_text(self, _column: Column, _cells: object) -> None:
        return None
