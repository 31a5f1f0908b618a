"""Rows of a table that refers to itself: parents are stored before their children."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal

from aioupsert._plan.schema import Column, Table
from aioupsert.cli.databases import SelfReference, Values
from aioupsert.cli.reading import Row
from aioupsert.typing import Value


class ParentsFirst:
    """
    Holds rows back until their parents are stored or come in the same batch.

    A row whose parent never comes is returned with the last batch, for the database to
    refuse. Rows with one key stay in their order.
    """

    def __init__(
        self,
        references: Sequence[SelfReference],
        key: Sequence[str],
        table: Table,
    ) -> None:
        """Begin without rows."""
        self._references = references
        self._key = key
        self._table = table
        self._waiting: list[Row] = []

    async def next(self, rows: Iterable[Row], *, is_last: bool) -> list[Row]:
        """Return what can be stored of the next batch and of the rows held back."""
        rows = [*self._waiting, *rows]
        before: list[set[int]] = [set() for _ in rows]
        waiting: set[int] = set()
        self._link_equal(rows, before)
        for reference in self._references:
            waiting |= await self._link(reference, rows, before)
        if is_last:
            waiting = set()
        waiting = _with_followers(waiting, before)
        self._waiting = [row for n, row in enumerate(rows) if n in waiting]
        return [rows[n] for n in _in_order(before) if n not in waiting]

    def _link_equal(self, rows: Sequence[Row], before: Sequence[set[int]]) -> None:
        """Note of each row the one before it that may have the same key."""
        found: dict[Values, int] = {}
        for number, row in enumerate(rows):
            # Letter case does not matter to all types.
            key = tuple(
                value.casefold() if isinstance(value, str) else value
                for value in self._read(row, self._key)
            )
            if key in found:
                before[number].add(found[key])
            found[key] = number

    async def _link(
        self, reference: SelfReference, rows: Sequence[Row], before: Sequence[set[int]]
    ) -> set[int]:
        """Note of each row its parent in the batch; return those that have none at all."""
        parents = {
            self._read(row, reference.referenced): n
            for n, row in reversed([*enumerate(rows)])
        }
        outside: dict[Values, list[int]] = {}
        given: dict[Values, Values] = {}
        for number, row in enumerate(rows):
            wanted = self._read(row, reference.columns)
            if None in wanted:
                continue
            parent = parents.get(wanted)
            if parent is None:
                outside.setdefault(wanted, []).append(number)
                given.setdefault(wanted, tuple(map(row.get, reference.columns)))
            elif parent != number:
                before[number].add(parent)
        exist = await reference.find_parents([*given.values()])
        return {
            number
            for numbers, exists in zip(outside.values(), exist, strict=True)
            for number in numbers
            if not exists
        }

    def _read(self, row: Row, names: Iterable[str]) -> Values:
        return tuple(
            _comparable(self._table.columns[name], row.get(name)) for name in names
        )


def _comparable(column: Column, value: Value) -> Value:
    """Return what is the same for most values that the column takes for the same."""
    if value is None:
        return None
    text = str(value)
    if column.family in {"integer", "number"}:
        try:
            return Decimal(text.strip())
        except ArithmeticError:
            return text
    return text


def _with_followers(chosen: set[int], before: Sequence[set[int]]) -> set[int]:
    """Add the rows that come after chosen ones, directly or not."""
    after: dict[int, list[int]] = {}
    for number, others in enumerate(before):
        for other in others:
            after.setdefault(other, []).append(number)
    found, pending = {*chosen}, [*chosen]
    while pending:
        new = [n for n in after.get(pending.pop(), ()) if n not in found]
        found.update(new)
        pending += new
    return found


def _in_order(before: Sequence[set[int]]) -> list[int]:
    """Return the rows with each after those that come before it, cycles excepted."""
    order: dict[int, None] = {}
    seen: set[int] = set()
    for first in range(len(before)):
        pending = [first]
        while pending:
            number = pending[-1]
            missing = [n for n in before[number] if n not in seen]
            seen.add(number)
            if missing:
                pending += missing
            else:
                order.setdefault(pending.pop())
    return [*order]
