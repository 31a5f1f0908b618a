"""
Reflection of a plain table, by a query that takes a quarter of the time of `catalog`'s.

A plain table has no children, no rules and no exclusion constraints. Its columns have types
of pg_catalog, enums, composite types, ranges, or arrays, but no domains, and collations that
come with the server. Most of the time of a catalog query is that of planning it, which grows
with the tables that it joins. So this one reads each by itself, and Python combines them.

References:
    PostgreSQL, "System Catalogs", "Object Identifiers (OIDs)" (System Catalog Initial Data).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NotRequired, TypedDict, cast

from aioupsert._engines.postgresql import citus, yugabytedb
from aioupsert._engines.postgresql.qualifying import qualified

if TYPE_CHECKING:
    from collections.abc import Sequence


# The pages below which a table counts as small. To look a row up by an index the server reads
# two or three, at four times the cost of the next page of a scan. Partitioned tables and those
# that were never vacuumed or analyzed have none.
_SMALL: Final = 64
SMALL_SIZE: Final = _SMALL * 8192
"""The same in bytes."""

# The pages up to which a table that has no rows, by its statistics, may be scanned. Then the
# scan is more expensive by the estimate, too. Of one row, a table has two in twice the pages.
_EMPTY: Final = 10

# --- What the query for any table has, too --------------------------------------------

# Of a row c of pg_class and a row z of `SIZE`.
TABLE: Final = f"""
  'oid', c.oid::text,
  'shape', json_build_array(c.relnatts, c.relchecks, c.relhastriggers, c.relhassubclass,
    c.relhasrules, c.relrowsecurity),
  'defaults', (
    SELECT json_object_agg(d.adnum, d.oid::text)
    FROM pg_catalog.pg_attrdef d WHERE d.adrelid = c.oid),
  'kind', c.relkind,
  'row_type', CASE
    WHEN c.reltype = 0 THEN ''
    WHEN to_regtype($1::cstring::text) = c.reltype THEN $1::cstring::text
    ELSE c.relnamespace::regnamespace::text || '.' || quote_ident(c.relname::text) END,
  'returns_old', current_setting('server_version_num')::int4 >= 180000,
  'xmax', {yugabytedb.HAS_XMAX},
  'is_citus', {citus.IS_INSTALLED},
  'may_insert', has_table_privilege(c.oid, 'INSERT')
    OR has_any_column_privilege(c.oid, 'INSERT'),
  'may_read', has_table_privilege(c.oid, 'SELECT'),
  'may_copy', has_database_privilege(current_database(), 'TEMPORARY'),
  'utf8', current_setting('server_encoding') = 'UTF8'
    AND current_setting('client_encoding') = 'UTF8',
  'small', c.relpages < {_SMALL}
    OR c.relkind = 'r' AND pg_relation_size(c.oid, 'main') < {SMALL_SIZE},
  'empty', c.relpages > 0 AND c.reltuples = 0,
  'scan_limit', CASE
    WHEN c.relkind <> 'r' OR c.relpages <= 0 OR c.reltuples > 1
      OR pg_relation_size(c.oid, 'main') >= z.size THEN 0
    ELSE z.size END,
  'row_security', c.relrowsecurity
"""
SIZE: Final = f"""
  SELECT CASE WHEN c.reltuples = 0 THEN {_EMPTY} ELSE c.relpages * 2 END * 8192 AS size
"""
_SEQUENCE: Final = """pg_get_serial_sequence(
  c.relnamespace::regnamespace::text || '.' || quote_ident(c.relname::text), a.attname::text)"""
COLUMN: Final = f"""
  'name', a.attname,
  'number', a.attnum,
  'type_id', t.oid::text,
  'catalog', t.typnamespace::regnamespace::text,
  'type', t.typname,
  'cast', t.typnamespace::regnamespace::text || '.' || quote_ident(t.typname::text),
  'exact', format_type(t.oid, b.typmod),
  'typmod', b.typmod,
  'declared_id', a.atttypid::text,
  'declared_typmod', a.atttypmod,
  'generated', a.attgenerated <> '',
  'identity', a.attidentity,
  'readable', has_column_privilege(c.oid, a.attnum, 'SELECT'),
  'may_draw', a.attidentity = '' OR has_sequence_privilege({_SEQUENCE}, 'USAGE'),
  'not_null', a.attnotnull,
  'category', t.typcategory,
  'array', t.typarray <> 0
"""
NEXT: Final = f"format('pg_catalog.nextval(%L::pg_catalog.regclass)', {_SEQUENCE})"
# indnullsnotdistinct exists from version 15 on, so it is read by name.
INDEX: Final = """
  'name', ic.relname,
  'expressions', (
    SELECT json_agg(CASE WHEN i.indkey[n - 1] = 0
      THEN pg_get_indexdef(i.indexrelid, n, false) END ORDER BY n)
    FROM generate_series(1, i.indnkeyatts) AS n),
  'nulls_distinct',
    NOT coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false),
  'predicate', pg_get_expr(i.indpred, i.indrelid),
  'deferrable', NOT i.indimmediate,
  'exclusion', i.indisexclusion
"""

# --- The query for a plain table ------------------------------------------------------

REFLECT: Final = qualified(f"""
SELECT json_build_object(
  'is_plain', c.relkind = 'r' AND NOT c.relhasrules AND NOT c.relhassubclass,
  'is_partition', c.relispartition,
  {TABLE},
  'columns', (
    SELECT json_agg(json_build_object(
      {COLUMN},
      'sort', t.typtype,
      'size', t.typlen,
      'collation', a.attcollation,
      'default', CASE
        WHEN a.attgenerated <> '' THEN NULL
        WHEN a.attidentity <> '' THEN {NEXT}
        WHEN a.atthasdef THEN (
          SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d
          WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum) END
      ) ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT a.atttypmod AS typmod) b
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'constraints', (
    SELECT json_agg(json_build_array(x.contype, x.conkey))
    FROM pg_catalog.pg_constraint x WHERE x.conrelid = c.oid),
  'triggers', (
    SELECT json_agg(json_build_array(g.tgtype, g.tgisinternal, g.tgenabled))
    FROM pg_catalog.pg_trigger g WHERE g.tgrelid = c.oid),
  'indexes', (
    SELECT json_agg(json_build_object(
      {INDEX},
      'numbers', i.indkey::int2[],
      'collations', i.indcollation::oid[],
      'keys', i.indnkeyatts,
      'primary', i.indisprimary,
      'is_valid', i.indisvalid,
      'is_unique', i.indisunique) ORDER BY i.indexrelid)
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
    WHERE i.indrelid = c.oid)
  )::text::cstring
FROM pg_catalog.pg_class c
CROSS JOIN LATERAL ({SIZE}) z
WHERE c.oid = to_regclass($1::cstring::text)
""")


# --- What they find -------------------------------------------------------------------


class FoundColumn(TypedDict):
    """A column as the query finds it."""

    name: str
    number: NotRequired[int]
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
    readable: NotRequired[bool]
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
    shape: NotRequired[list[int]]
    defaults: NotRequired[dict[str, str] | None]
    kind: str
    row_type: NotRequired[str]
    returns_old: bool
    xmax: bool
    is_citus: bool
    may_insert: bool
    may_read: NotRequired[bool]
    may_copy: bool
    rules: bool
    instead: bool
    before: bool
    statement: bool
    children: bool
    foldable: bool
    proposable: NotRequired[bool]
    many_partitions: NotRequired[bool]
    partitioned_by: NotRequired[dict[str, str] | None]
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


class FoundParts(TypedDict):
    """What the query for a plain table finds, beside what `FoundTable` has."""

    is_plain: bool
    is_partition: bool
    columns: list[_Column] | None
    constraints: list[tuple[str, list[int] | None]] | None
    triggers: list[tuple[int, bool, str]] | None
    indexes: list[_Index] | None
    row_security: bool


class _Column(TypedDict):
    number: int
    name: str
    catalog: str
    category: str
    sort: str
    size: int
    collation: str


class _Index(TypedDict):
    numbers: list[int]
    collations: list[str]
    keys: int
    primary: bool
    is_valid: bool
    is_unique: bool
    exclusion: bool
    predicate: str | None


# All collations with smaller oids come with the server, and tell all texts apart.
_FIRST_OF_USERS: Final = 16384
# Types that have no operators of their own: composite types, enums, ranges, multiranges.
_WITHOUT_OPERATORS: Final = frozenset("cerm")
# The bits of a trigger's type.
_ROW, _BEFORE, _INSERT, _UPDATE = 1, 2, 4, 16


def complete(found: FoundParts) -> FoundTable | None:
    """Return the description of a table; None if it is not a plain one."""
    columns, indexes = found["columns"] or [], found["indexes"] or []
    if not (found["is_plain"] and all(map(_is_plain, columns)) and _are_plain(indexes)):
        return None
    names = {column["number"]: column["name"] for column in columns}
    constraints = found["constraints"] or []
    triggers = found["triggers"] or []
    fired = [bits for bits, _, enabled in triggers if enabled != "D"]
    checked = {n for sort, on in constraints if sort != "n" for n in on or ()}
    unique = {n for index in indexes if index["is_unique"] for n in index["numbers"]}
    indexed = {n for index in indexes for n in index["numbers"]}
    # An index refuses values that are too long.
    indexed = {c["number"] for c in columns if c["size"] < 0} & indexed | unique
    primary = {n for index in indexes if index["primary"] for n in index["numbers"]}
    has_checks = any(sort == "c" for sort, _ in constraints)
    combined = {
        **found,
        "rules": False,
        "children": False,
        "remote": False,
        "instead": False,
        "before": _fires(fired, _ROW | _BEFORE | _INSERT),
        "statement": any(bits & (_ROW | _INSERT) == _INSERT for bits in fired),
        "refuses": found["row_security"] or _fires(fired, _ROW | _BEFORE | _UPDATE),
        "foldable": not (
            found["is_partition"]
            or found["row_security"]
            or any(not is_internal for _, is_internal, _ in triggers)
            or any(sort == "c" and 0 in (on or [0]) for sort, on in constraints)
            or any(i["predicate"] is not None or 0 in i["numbers"] for i in indexes)
        ),
        "proposable": not has_checks and sum(i["is_unique"] for i in indexes) == 1,
        "columns": [_column(c, primary, checked | indexed) for c in columns],
        "unique": [
            _index(index, names)
            for index in indexes
            if index["is_unique"] and index["is_valid"]
        ],
    }
    return cast("FoundTable", combined)


def _is_plain(column: _Column) -> bool:
    has_operators = (
        column["catalog"] == "pg_catalog"
        or column["category"] == "A"
        or column["sort"] in _WITHOUT_OPERATORS
    )
    is_domain = column["sort"] == "d"
    return has_operators and not is_domain and _come_with_server([column["collation"]])


def _are_plain(indexes: Sequence[_Index]) -> bool:
    return not any(
        index["exclusion"] or not _come_with_server(index["collations"])
        for index in indexes
    )


def _come_with_server(collations: Sequence[str]) -> bool:
    return all(int(collation) < _FIRST_OF_USERS for collation in collations)


def _fires(triggers: Sequence[int], bits: int) -> bool:
    return any(trigger & bits == bits for trigger in triggers)


def _column(column: _Column, primary: set[int], checked: set[int]) -> dict[str, object]:
    number = column["number"]
    return {
        **column,
        "collation": None,
        "operators": "pg_catalog",
        "primary": number in primary,
        "unchecked": number not in checked,
    }


def _index(index: _Index, names: dict[int, str]) -> dict[str, object]:
    columns = [names.get(n) for n in index["numbers"][: index["keys"]]]
    return {**index, "columns": columns, "coarser": None, "equality": None}
