"""What catalog queries find of a table, as JSON."""

from __future__ import annotations

from typing import NotRequired, TypedDict


class FoundColumn(TypedDict):
    """A column as the query finds it."""

    name: str
    type_id: str
    catalog: str
    type: str
    cast: str
    exact: str
    typmod: int
    declared_id: NotRequired[str]
    declared_typmod: NotRequired[int]
    collation: str | None
    generated: bool
    identity: str
    may_draw: bool | None
    primary: bool
    not_null: bool
    category: str
    operators: NotRequired[str | None]
    array: bool
    unchecked: bool
    default: str | None


class FoundIndex(TypedDict):
    """A unique index, or an exclusion constraint, as the query finds it."""

    name: str
    columns: list[str | None] | None
    expressions: NotRequired[list[str | None] | None]
    coarser: bool | None
    nulls_distinct: bool
    predicate: str | None
    deferrable: bool
    exclusion: bool
    equality: bool | None


class FoundTable(TypedDict):
    """A table as the query finds it, with what is known of a cluster."""

    oid: str
    kind: str
    row_type: NotRequired[str]
    returns_old: bool
    xmax: bool
    is_citus: bool
    may_insert: bool
    may_copy: bool
    rules: bool
    instead: bool
    before: bool
    statement: bool
    children: bool
    foldable: bool
    utf8: NotRequired[bool]
    small: NotRequired[bool]
    empty: NotRequired[bool]
    scan_limit: NotRequired[int]
    refuses: bool
    row_security: NotRequired[bool]
    remote: bool
    columns: list[FoundColumn] | None
    unique: list[FoundIndex] | None
    cluster: NotRequired[str]
    distributed_by: NotRequired[str | None]
