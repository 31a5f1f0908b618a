"""A table as the database describes it: columns, defaults, unique indexes, kind."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from aioupsert.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

TableName: TypeAlias = tuple[str, ...]
"""``("table",)`` or ``("schema", "table")``, unquoted."""


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column.

    Attributes:
        name: The name, unquoted.
        type: The SQL type that a bound value is cast to, without length or precision.
        key_type: The same for a key, with the precision of numbers and times.
        family: What expressions may do with it: integer, number, text, boolean, json,
            bytes, or other.
        storage: What the driver and the database do to a key's value; names a check.
        length: Characters that fit, or None.
        default: The default as an SQL expression, or None.
        generated: Whether the database computes it, so that nobody may write it.
        always_identity: GENERATED ALWAYS AS IDENTITY: written on update at most to
            DEFAULT, and never on insert.
        draws: Whether a new row draws a number from a sequence, which is then used up.
        required: Whether a new row must be given a value: NOT NULL, and no default.
        unnests: Whether an array of such values can be taken apart again.
        unchecked: Whether no constraint, index or domain looks at its values.
        hidden: Usable when named, but no part of ``returning="*"`` (SQLite's rowid).
        type_id: What tells this type from another of the same name.
    """

    name: str
    type: str
    key_type: str
    family: str
    storage: str
    length: int | None = None
    default: str | None = None
    generated: bool = False
    always_identity: bool = False
    consumes_sequence: bool = False
    required: bool = False
    unnests: bool = True
    unchecked: bool = False
    hidden: bool = False
    type_id: str = ""

    @property
    def type_name(self) -> str:
        """The type's own name, without its schema."""
        return self.type.rpartition(".")[2].strip('"')

    @property
    def modified(self) -> bool:
        """Whether storing a value may round, cut or pad it."""
        return (
            self.key_type != self.type
            or self.length is not None
            or self.storage == "bpchar"
        )


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """
    A unique index, or an exclusion constraint that behaves like one.

    Attributes:
        name: The index's name.
        columns: Its columns; None stands for an expression, or for a column under
            another collation than its own.
        nulls_distinct: Whether two NULLs count as different.
        predicate: The condition of a partial index as SQL, or None.
        null_predicate: The columns that must be NULL, where the predicate says no more.
        deferrable: Whether it may be checked at commit.
    """

    name: str
    columns: tuple[str | None, ...]
    nulls_distinct: bool = True
    predicate: str | None = None
    null_predicate: tuple[str, ...] = ()
    deferrable: bool = False

    def covers(self, key: Mapping[str, bool]) -> bool:
        """
        Tell whether at most one row can have a key.

        Args:
            key: The key's columns, each with whether its value is NULL.
        """
        nulls = {name for name, is_null in key.items() if is_null}
        columns = {*self.columns, *self.null_predicate}
        return (
            all(column in key for column in columns)
            and (self.predicate is None or bool(self.null_predicate))
            and nulls.issuperset(self.null_predicate)
            and (not self.nulls_distinct or nulls.isdisjoint(self.columns))
        )

    def matches(self, key: Mapping[str, bool]) -> bool:
        """Tell whether ``ON CONFLICT`` with the key's columns would choose it."""
        return (
            self.predicate is None
            and not self.deferrable
            and set(self.columns) == set(key)
            and self.covers(key)
        )


@dataclass(frozen=True, slots=True)
class Table:
    """
    A table, view or other relation.

    Attributes:
        name: As the caller wrote it, split and unquoted.
        identity: What tells this relation from another of the same name.
        columns: By name, in their order.
        unique: The unique indexes.
        needs_exact: Why the single statement cannot serve here, or None.
        needs_key_lock: Whether concurrent inserts of one key must queue up first.
        upserts: Whether ``INSERT ... ON CONFLICT DO UPDATE`` can tell what it did.
        returns_old: Whether RETURNING gives the row as it was before, too.
        returns_rows: Whether RETURNING works.
        reads_back: Whether only a query tells what is there, before and after a write.
        sees_inserts: Whether a trigger sees an insert before it is known to be one.
        one_by_one: Why many rows cannot be written by one statement, or None.
        may_copy: Whether this role may make a temporary table to copy rows to.
        refuses_updates: Whether a trigger or policy may keep an update from a row that
            is there.
        foldable: Whether nothing but the columns sees each of several updates of a row.
        remote: Whether rows of it are on other servers, of which each statement, and
            the whole transaction, sees what was there when it first asked.
        distributed_by: The column that tells which server has a row, and that every key
            must have; None where there is none.
        shows_indexes: Whether *unique* is the whole truth; a view's are its tables',
            and a foreign table's are elsewhere.
    """

    name: TableName
    identity: str
    columns: Mapping[str, Column]
    unique: tuple[UniqueIndex, ...] = ()
    exact_because: str | None = None
    needs_key_lock: bool = False
    upserts: bool = True
    returns_old: bool = False
    returns_rows: bool = True
    reads_back: bool = False
    refuses_updates: bool = False
    sees_inserts: bool = False
    one_by_one_because: str | None = None
    may_copy: bool = False
    mergeable: bool = False
    remote: bool = False
    distributed_by: str | None = None
    shows_indexes: bool = True

    @property
    def label(self) -> str:
        """The name as messages show it."""
        return ".".join(self.name)

    @property
    def visible(self) -> tuple[str, ...]:
        """The columns of ``returning="*"``."""
        return tuple(c.name for c in self.columns.values() if not c.hidden)

    def is_unique(self, key: Mapping[str, bool]) -> bool:
        """Tell whether some unique index lets at most one row have the key."""
        return any(index.covers(key) for index in self.unique)


def table_name(table: object) -> TableName:
    """
    Split what a caller wrote: "table", "schema.table", or a tuple of one or two names.

    Raises:
        UsageError: It is none of these, or a name is empty or contains NUL.
    """
    if isinstance(table, str):
        return split_name(table)
    match table:
        case (str(),) | (str(), str()):
            return _checked(tuple(table), table)
        case _:
            msg = f"a table is a name or a tuple (schema, table), not {table!r}"
            raise UsageError(msg)


@functools.lru_cache
def split_name(table: str) -> TableName:
    return _checked(tuple(table.split(".")), table)


def _checked(parts: TableName, table: object) -> TableName:
    if len(parts) > _MAX_PARTS or not all(parts) or any("\0" in p for p in parts):
        msg = (
            f"{table!r} is no table name; a name that itself contains dots is written"
            ' as a tuple: ("schema", "my.table") or ("my.table",)'
        )
        raise UsageError(msg)
    return parts


_MAX_PARTS: Final = 2
