"""A table as the database describes it: columns, defaults and unique indexes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, compress, zip_longest
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from aioupsert.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from aioupsert.typing import Value

TableName: TypeAlias = tuple[str, ...]
"""``("table",)`` or ``("schema", "table")``, unquoted."""

Names: TypeAlias = tuple[str, ...]
"""Names of columns, unquoted."""


Family: TypeAlias = Literal[
    "integer", "number", "text", "boolean", "json", "bytes", "date", "list", "other", ""
]
"""
What expressions can do with a value.

``date`` is a date or time of SQLite, whose values are text or numbers; ``list`` a list
beside which no column states a type; ``other`` a type that only its own engine knows;
the empty string is unknown.
"""

Storage: TypeAlias = Literal[
    "integer",
    "numeric",
    "boolean",
    "text",
    "varchar",
    "bpchar",
    "date",
    "time",
    "timetz",
    "timestamptz",
    "uuid",
    "other",
    "sqlite number",
    "sqlite real",
    "sqlite text",
    "sqlite blob",
]
"""
How the driver and the database convert the value of a key.

The first ones are types of PostgreSQL, and ``other`` is the rest of them; those of SQLite
are its affinities.
"""


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column.

    Attributes:
        name: The name, unquoted.
        type: The SQL type that a bound value is cast to, without length or precision.
        key_type: The same for a key, with the precision of numbers and times.
        family: Which expressions it can take part in.
        storage: How the driver and the database convert the value of a key; selects the
            check of key values.
        length: The maximum number of characters, or None.
        default: The default as an SQL expression, or None.
        number: The number by which the catalog knows it, or 0.
        default_id: Distinguishes its default from the one before; "" if it has none of
            its own.
        generated: Whether the database computes it, so that it cannot be written.
        always_identity: Whether it is GENERATED ALWAYS AS IDENTITY: an insert cannot
            write it, and an update can set it only to DEFAULT.
        consumes_sequence: Whether a new row takes the next value of a sequence.
        required: Whether a new row must be given a value: NOT NULL without a default.
        nullable: Whether it is known that it can hold NULL.
        not_null: Whether it is known that it cannot.
        supports_unnest: Whether an array of its values can be unnested to them.
        unconstrained: Whether no constraint, index or domain may refuse its values.
        hidden: Whether ``returning="*"`` leaves it out (SQLite's rowid).
        type_id: Distinguishes its type from another of the same name.
        declared_type_id: The same for the type it was declared with, which is a domain
            where *type* is the type below it.
        modifier: What the precision of its type is stored as, or -1 without one; None if
            the type cannot have one that rounds, or is a domain, whose own cannot change.
        collation: Its collation as SQL if different texts may be equal by it, or "".
        readable: Whether it is known that this role may read it.
        may_draw: Whether this role may take the next value of its sequence beforehand.
        operators: The schema of its type's equality operator, quoted; "" if unknown.
    """

    name: str
    type: str
    key_type: str
    family: Family
    storage: Storage
    length: int | None = None
    default: str | None = None
    number: int = 0
    default_id: str = ""
    generated: bool = False
    always_identity: bool = False
    consumes_sequence: bool = False
    required: bool = False
    nullable: bool = False
    not_null: bool = False
    supports_unnest: bool = True
    unconstrained: bool = False
    hidden: bool = False
    type_id: str = ""
    declared_type_id: str = ""
    modifier: int | None = None
    collation: str = ""
    readable: bool = False
    may_draw: bool = False
    operators: str = ""

    @property
    def type_name(self) -> str:
        """The type's own name, without its schema."""
        return self.type.rpartition(".")[2].strip('"')

    @property
    def may_alter_values(self) -> bool:
        """Whether storing a value may round, truncate or pad it."""
        return (
            self.key_type != self.type
            or self.length is not None
            or self.storage == "bpchar"
        )


Constant: TypeAlias = bool | int | str | None
"""A value in the predicate of an index, which a key may have; None if unknown."""


class Pin(NamedTuple):
    """
    What the predicate of an index requires of a column.

    Attributes:
        column: The column.
        is_null: Whether it must be NULL; it must not otherwise.
        value: The value that it must have, or None for any other than NULL.
    """

    column: str
    is_null: bool = False
    value: Constant = None


_NONE: Final[Mapping[str, Constant]] = MappingProxyType({})


def same(value: Value, constant: Constant) -> bool:
    """Return whether a value is a constant, whatever the type of its column is."""
    if isinstance(constant, str):
        return type(value) is str and value == constant
    return type(value) in {bool, int} and value == constant


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """
    A unique index, or an exclusion constraint that behaves like one.

    Attributes:
        name: The index's name.
        columns: Its columns; None stands for an expression, or for a column with
            another collation than its own.
        expressions: For each column, the expression of the index as SQL, or None.
        nulls_distinct: Whether two NULLs count as different.
        predicate: The condition of a partial index as SQL, or None.
        pins: What the predicate requires of columns, if it says only that.
        deferrable: Whether it may be checked at commit.
        coarser: Whether values may be equal for it that are not for their columns, by
            another collation.
    """

    name: str
    columns: tuple[str | None, ...]
    expressions: tuple[str | None, ...] = ()
    nulls_distinct: bool = True
    predicate: str | None = None
    pins: tuple[Pin, ...] = ()
    deferrable: bool = False
    coarser: bool = False

    @property
    def parts(self) -> Iterator[tuple[str | None, str | None]]:
        """Each column, with the expression that stands in its place or None."""
        return zip_longest(self.columns, self.expressions)

    def covers(
        self, key: Mapping[str, bool], constants: Mapping[str, Constant] = _NONE
    ) -> bool:
        """
        Return whether at most one row can have a key.

        Args:
            key: The key's columns, each with whether its value is NULL.
            constants: The values that some of them have in every call.
        """
        nulls = {*compress(key, key.values())}
        return (
            key.keys() >= {*self.columns}
            and (self.predicate is None or bool(self.pins))
            and (not self.pins or self._are_pinned(key, constants))
            and (not self.nulls_distinct or nulls.isdisjoint(self.columns))
        )

    def _are_pinned(
        self, key: Mapping[str, bool], constants: Mapping[str, Constant]
    ) -> bool:
        """Return whether a key has what the predicate requires."""
        return all(
            key.get(pin.column) is pin.is_null
            and (pin.value is None or same(constants.get(pin.column), pin.value))
            for pin in self.pins
        )

    def may_cover(self, key: Collection[str]) -> bool:
        """Return whether a key with some values has what the predicate requires."""
        columns = {*self.columns, *(pin.column for pin in self.pins)}
        return bool(self.pins) and columns.issubset(key)

    def is_inferred_by(self, key: Mapping[str, bool]) -> bool:
        """Return whether ``ON CONFLICT`` may infer it, whatever its collation is."""
        return key.keys() >= {*filter(None, self.columns)}

    def matches(self, key: Mapping[str, bool]) -> bool:
        """Return whether ``ON CONFLICT`` with the key's columns infers this index."""
        return (
            self.predicate is None
            and not self.deferrable
            and not self.coarser
            and set(self.columns) == set(key)
            and self.covers(key)
        )


@dataclass(frozen=True, slots=True)
class Table:
    """
    A table, view or other relation.

    Attributes:
        name: As the caller wrote it, split and unquoted.
        relation_id: Distinguishes this relation from another of the same name.
        path: The name by which statements find it, if that is not *name*.
        identity: Queries by which the steps check that its name still means this table,
            each with the rows that it then returns. The last one tells whether it has
            changed itself.
        shape: The numbers of columns and CHECK constraints, and whether it has triggers,
            children, rules and policies, as the catalog keeps them in its row; empty
            where there is no such row.
        row_type: The type of its rows, quoted, by which a statement checks that columns
            still have their types; empty where it cannot.
        columns: By name, in their order.
        unique: The unique indexes.
        constants: The constants with which predicates of those compare columns.
        primary_key: The columns of the primary key.
        exact_because: Why the single statement cannot serve this table, or None.
        one_by_one_because: Why one statement cannot write many rows, or None.
        needs_key_lock: Whether concurrent inserts of one key must wait for each other.
        supports_on_conflict_update: Whether ``INSERT ... ON CONFLICT DO UPDATE`` works
            and can report whether it inserted or updated.
        supports_do_nothing: Whether ``ON CONFLICT DO NOTHING`` works.
        may_store_others: Whether an insert may store other values than it is given, or
            elsewhere, so that another row may be in the way than can be known here.
        lockable: Whether a query can lock rows.
        supports_returning: Whether RETURNING works.
        supports_returning_old: Whether RETURNING can also return the previous row.
        written_by_triggers: Whether INSTEAD OF triggers do the writing, so that only a
            query before and after a write can show what they did.
        has_before_insert_trigger: Whether a trigger runs for an insert that may yet
            turn out to be an update.
        updates_may_be_refused: Whether a trigger or policy may prevent the update of an
            existing row.
        is_plain: Whether a statement for a row writes that row and nothing else, or fails
            and leaves nothing: it has no triggers, and its constraints no conflict clauses.
        row_security: Whether it has policies, which hide rows from some roles.
        mergeable: Whether several updates of a row can become one: nothing but the
            columns themselves sees each of them.
        may_propose: Whether nothing but one unique index, and NOT NULL, looks at a row
            that is proposed to be inserted.
        is_utf8: Whether it is known that all Unicode text can be sent and stored.
        is_small: Whether it is so small that a statement may be planned to scan it.
        min_size: The number of bytes below which a statement for many rows must not be sent
            again, as it is planned for more; 0 if it is not planned so.
        is_empty: Whether it has pages but no rows, by its statistics.
        scan_limit: The number of bytes from which on a statement must not be sent again
            that was planned to scan it; 0 if it is not planned so.
        is_partitioned: Whether its rows are in partitions.
        has_many_partitions: Whether it has so many that a statement for one row had better
            be planned each time, for one of them.
        partitioned_by: The columns by which partitions are told apart, each with "h" for
            hash, "l" for list, or "r" for range; empty if that is not known.
        temporary_tables_allowed: Whether this role may create a temporary table, which
            rows are copied to.
        has_remote_rows: Whether other servers hold some of its rows. Every statement,
            and the whole transaction, sees them as of its first query.
        distribution_column: The column that decides which server holds a row, and that
            every key must include; None for a table that is not distributed.
        has_children: Whether other tables inherit from it, whose rows a key finds, too,
            and which its unique indexes do not cover.
        all_indexes_known: Whether *unique* is complete. That of a view is not, since
            the indexes are those of its tables; that of a foreign table is not either.
    """

    name: TableName
    relation_id: str
    columns: Mapping[str, Column]
    unique: tuple[UniqueIndex, ...] = ()
    path: TableName = ()
    identity: tuple[tuple[str, Sequence[Sequence[object]]], ...] = ()
    shape: tuple[int, ...] = ()
    row_type: str = ""
    constants: Mapping[str, frozenset[Constant]] = field(
        default_factory=dict[str, "frozenset[Constant]"]
    )
    primary_key: frozenset[str] = frozenset()
    exact_because: str | None = None
    one_by_one_because: str | None = None
    needs_key_lock: bool = False
    supports_on_conflict_update: bool = True
    supports_do_nothing: bool = True
    may_store_others: bool = False
    lockable: bool = True
    supports_returning: bool = True
    supports_returning_old: bool = False
    written_by_triggers: bool = False
    has_before_insert_trigger: bool = False
    updates_may_be_refused: bool = False
    is_plain: bool = False
    row_security: bool = False
    mergeable: bool = False
    may_propose: bool = False
    is_utf8: bool = False
    is_small: bool = False
    min_size: int = 0
    is_empty: bool = False
    scan_limit: int = 0
    is_partitioned: bool = False
    has_many_partitions: bool = False
    partitioned_by: Mapping[str, str] = field(default_factory=dict[str, str])
    temporary_tables_allowed: bool = False
    has_remote_rows: bool = False
    distribution_column: str | None = None
    has_children: bool = False
    all_indexes_known: bool = True

    @property
    def label(self) -> str:
        """The name as messages show it."""
        return ".".join(self.name)

    @property
    def visible(self) -> tuple[str, ...]:
        """The columns of ``returning="*"``."""
        return tuple(c.name for c in self.columns.values() if not c.hidden)

    def is_unique(
        self, key: Mapping[str, bool], constants: Mapping[str, Constant] = _NONE
    ) -> bool:
        """Return whether some unique index lets at most one row have the key."""
        return any(index.covers(key, constants) for index in self.unique)

    def unique_where(self, key: Collection[str]) -> str:
        """Return when a partial index makes the key unique, as SQL; empty if never."""
        predicates = (i.predicate for i in self.unique if i.may_cover(key))
        return " OR ".join(filter(None, predicates))

    def infers(self, key: Mapping[str, bool]) -> bool:
        """Return whether ``ON CONFLICT`` with the key's columns finds the key's row."""
        return (
            not self.has_children
            and any(index.matches(key) for index in self.unique)
            and not any(i.coarser and i.is_inferred_by(key) for i in self.unique)
        )


def constants_of(
    indexes: Iterable[UniqueIndex],
) -> Mapping[str, frozenset[Constant]]:
    """Return the constants with which predicates of indexes compare columns."""
    found: dict[str, frozenset[Constant]] = {}
    for pin in chain.from_iterable(index.pins for index in indexes):
        if pin.value is not None:
            found[pin.column] = found.get(pin.column, frozenset()) | {pin.value}
    return found


def table_name(table: object) -> TableName:
    """
    Split the name of a table: "table", "schema.table", or a tuple of one or two names.

    Raises:
        UsageError: It is something else, or a name is empty or contains NUL.
    """
    if isinstance(table, str):
        return NAMES[table]
    match table:
        case (str(),) | (str(), str()):
            return _checked(tuple(table), table)
        case _:
            msg = f"a table is a name or a tuple (schema, table), not {table!r}"
            raise UsageError(msg)


class _Names(dict[str, TableName]):
    def __missing__(self, table: str) -> TableName:
        name = _checked(tuple(table.split(".")), table)
        if len(self) >= _MAX_NAMES:
            self.clear()
        self[table] = name
        return name


NAMES: Final = _Names()
"""The names of tables by how they are written; it checks them."""
# Names that a program makes while it runs must not fill the memory.
_MAX_NAMES: Final = 256


def _checked(parts: TableName, table: object) -> TableName:
    if len(parts) > _MAX_PARTS or not all(parts) or any("\0" in p for p in parts):
        msg = (
            f"{table!r} is not a table name; a name that itself contains dots is written"
            ' as a tuple: ("schema", "my.table") or ("my.table",)'
        )
        raise UsageError(msg)
    return parts


_MAX_PARTS: Final = 2
