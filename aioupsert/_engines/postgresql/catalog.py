"""
Reflection of a PostgreSQL table.

One query reads all that is needed of a plain table (`plain_table`), and another one any
table. They are not prepared, as the server would keep 0.3 and 1.3 MB for them. The name is
sent, and the JSON returned, as a cstring, so that no codecs that the caller has set on the
connection are applied. Compatible servers have modules of their own: `citus` and
`yugabytedb` add to these queries, `cockroachdb` has another one.

References:
    PostgreSQL, "System Catalogs".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from aioupsert._engines.commands import Command, NameArgument, Steps
from aioupsert._engines.partial_indexes import read_predicate
from aioupsert._engines.postgresql import citus, plain_table
from aioupsert._engines.postgresql.experimental import log_experimental
from aioupsert._engines.postgresql.qualifying import qualified
from aioupsert._engines.sql import quote_path
from aioupsert._plan.schema import (
    Column,
    Family,
    Storage,
    Table,
    TableName,
    UniqueIndex,
    constants_of,
)
from aioupsert.errors import UnknownTableError

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Mapping

    from aioupsert._engines.postgresql.plain_table import (
        FoundColumn,
        FoundIndex,
        FoundTable,
    )

# A domain is resolved to its base type. The expression of a generated column is in pg_attrdef
# too, but is not a default. Bits of a trigger's type: 1 row, 2 before, 4 insert, 16 update,
# 64 instead of. Rules of type 2 and 3 rewrite UPDATE and INSERT.
# From version 18 on NOT NULL is a constraint too, of type n. A check of the whole row has the
# column number 0.
_REFLECT: Final = qualified(
    """
SELECT json_build_object(
  {TABLE},
  'rules', EXISTS (
    SELECT FROM pg_catalog.pg_rewrite r
    WHERE r.ev_class = c.oid AND r.ev_type = ANY ('{2,3}'::"char"[]) AND r.ev_enabled <> 'D'),
  'instead', EXISTS (
    SELECT FROM pg_catalog.pg_trigger g
    WHERE g.tgrelid = c.oid AND g.tgtype & 64 <> 0 AND g.tgenabled <> 'D'),
  'before', b.on_insert,
  'statement', EXISTS (
    SELECT FROM pg_catalog.pg_trigger g
    WHERE g.tgrelid = c.oid AND g.tgtype & 5 = 4 AND g.tgenabled <> 'D'),
  'children', c.relkind <> 'p' AND EXISTS (
    SELECT FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid),
  'foldable', c.relkind = 'r' AND NOT c.relispartition AND NOT c.relrowsecurity
    AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_trigger g
      WHERE g.tgrelid = c.oid AND NOT g.tgisinternal)
    AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_constraint x
      WHERE x.conrelid = c.oid AND x.contype = 'c'
        AND coalesce(0 = ANY (x.conkey), true))
    AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_index i
      WHERE i.indrelid = c.oid AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)),
  'proposable', NOT EXISTS (
      SELECT FROM pg_catalog.pg_constraint x
      WHERE x.conrelid = c.oid AND x.contype = 'c')
    AND (
      SELECT count(*) = 1 FROM pg_catalog.pg_index i
      WHERE i.indrelid = c.oid AND i.indisunique),
  'many_partitions', c.relkind = 'p' AND (
    SELECT count(*) > 2 FROM pg_catalog.pg_inherits h WHERE h.inhparent = c.oid),
  'partitioned_by', (
    SELECT json_object_agg(pa.attname, p.partstrat)
    FROM pg_catalog.pg_partitioned_table p
    JOIN pg_catalog.pg_attribute pa ON pa.attrelid = c.oid AND pa.attnum = ANY (p.partattrs)
    WHERE p.partrelid = c.oid AND NOT EXISTS (
      SELECT FROM pg_catalog.pg_inherits h
      JOIN pg_catalog.pg_class hc ON hc.oid = h.inhrelid
      WHERE h.inhparent = c.oid AND hc.relkind = 'p')),
  'refuses', c.relrowsecurity OR b.on_update,
  'remote', b.is_remote,
  'columns', (
    SELECT json_agg(json_build_object(
      {COLUMN},
      'collation', CASE WHEN NOT l.collisdeterministic
        THEN quote_ident(ln.nspname::text) || '.' || quote_ident(l.collname::text) END,
      'primary', EXISTS (
        SELECT FROM pg_catalog.pg_index i
        WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)),
      'operators', CASE
        WHEN t.typnamespace = 'pg_catalog'::regnamespace OR t.typcategory = 'A'
          OR t.typtype = ANY ('{c,e,r,m}'::"char"[]) THEN 'pg_catalog'
        ELSE (
          SELECT quote_ident(sn.nspname::text)
          FROM pg_catalog.pg_opclass oc
          JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily
            AND ao.amoplefttype = t.oid AND ao.amoprighttype = t.oid
            AND ao.amopstrategy = 3
          JOIN pg_catalog.pg_operator so ON so.oid = ao.amopopr AND so.oprname = '='
          JOIN pg_catalog.pg_namespace sn ON sn.oid = so.oprnamespace
          JOIN pg_catalog.pg_am am ON am.oid = oc.opcmethod AND am.amname = 'btree'
          WHERE oc.opcintype = t.oid AND oc.opcdefault) END,
      'unchecked', a.atttypid = b.oid
        AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_constraint x
          WHERE x.conrelid = c.oid AND x.contype <> 'n' AND a.attnum = ANY (x.conkey))
        AND NOT EXISTS (
          SELECT FROM pg_catalog.pg_index i
          WHERE i.indrelid = c.oid AND a.attnum = ANY (i.indkey)
            AND (i.indisunique OR i.indisexclusion OR t.typlen < 0)),
      'default', CASE
        WHEN a.attgenerated <> '' THEN NULL
        WHEN a.attidentity <> '' THEN {NEXT}
        ELSE coalesce(
          pg_get_expr(d.adbin, d.adrelid), pg_get_expr(at.typdefaultbin, 0)) END
      ) ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_type at ON at.oid = a.atttypid
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
    LEFT JOIN pg_catalog.pg_namespace ln ON ln.oid = l.collnamespace
    CROSS JOIN LATERAL (
      WITH RECURSIVE base (oid, typmod) AS (
        SELECT a.atttypid, a.atttypmod
        UNION ALL
        SELECT dt.typbasetype, dt.typtypmod
        FROM base JOIN pg_catalog.pg_type dt ON dt.oid = base.oid
        WHERE dt.typtype = 'd')
      SELECT base.oid, base.typmod
      FROM base JOIN pg_catalog.pg_type bt ON bt.oid = base.oid
      WHERE bt.typtype <> 'd') b
    JOIN pg_catalog.pg_type t ON t.oid = b.oid
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'unique', (
    SELECT json_agg(json_build_object(
      {INDEX},
      'columns', (
        SELECT json_agg(CASE
          WHEN k.coll = ka.attcollation OR kl.collisdeterministic
          THEN ka.attname END ORDER BY k.place)
        FROM ROWS FROM (unnest(i.indkey::int2[]), unnest(i.indcollation::oid[]))
          WITH ORDINALITY AS k (attnum, coll, place)
        LEFT JOIN pg_catalog.pg_attribute ka
          ON ka.attrelid = c.oid AND ka.attnum = k.attnum AND k.attnum > 0
        LEFT JOIN pg_catalog.pg_collation kl ON kl.oid = ka.attcollation
        WHERE k.place <= i.indnkeyatts),
      'coarser', (
        SELECT bool_or(k.coll <> ka.attcollation AND NOT kl.collisdeterministic)
        FROM ROWS FROM (unnest(i.indkey::int2[]), unnest(i.indcollation::oid[]))
          AS k (attnum, coll)
        JOIN pg_catalog.pg_attribute ka
          ON ka.attrelid = c.oid AND ka.attnum = k.attnum AND k.attnum > 0
        JOIN pg_catalog.pg_collation kl ON kl.oid = k.coll),
      'equality', (
        SELECT bool_and(o.oprname = '=')
        FROM pg_catalog.pg_constraint x
        CROSS JOIN LATERAL unnest(x.conexclop) AS e (oid)
        JOIN pg_catalog.pg_operator o ON o.oid = e.oid
        WHERE x.conindid = i.indexrelid AND x.contype = 'x')
      ) ORDER BY i.indexrelid)
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisvalid
      AND (i.indisunique OR i.indisexclusion))
  )::text::cstring
FROM pg_catalog.pg_class c
CROSS JOIN LATERAL ({SIZE}) z
CROSS JOIN LATERAL (
  WITH RECURSIVE family (oid) AS (
    SELECT c.oid
    UNION ALL
    SELECT h.inhrelid FROM pg_catalog.pg_inherits h
    JOIN family ON family.oid = h.inhparent)
  SELECT coalesce(bool_or(g.tgtype & 7 = 7), false) AS on_insert,
    coalesce(bool_or(g.tgtype & 19 = 19), false) AS on_update,
    (SELECT bool_or(m.relkind = 'f')
      FROM pg_catalog.pg_class m JOIN family ON family.oid = m.oid) AS is_remote
  FROM pg_catalog.pg_trigger g JOIN family ON family.oid = g.tgrelid
  WHERE g.tgenabled <> 'D') b
WHERE c.oid = to_regclass($1::cstring::text)
""".replace("{TABLE}", plain_table.TABLE)
    .replace("{SIZE}", plain_table.SIZE)
    .replace("{COLUMN}", plain_table.COLUMN)
    .replace("{NEXT}", plain_table.NEXT)
    .replace("{INDEX}", plain_table.INDEX)
)

TABLES: Final = qualified("""
SELECT (CASE WHEN pg_table_is_visible(c.oid) THEN c.relname::text
  ELSE n.nspname::text || '.' || c.relname::text END)::cstring
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = ANY ('{r,p,v,f}'::"char"[])
  AND n.nspname <> ALL ('{pg_catalog,information_schema}'::name[])
LIMIT 1000
""")


def reflect(name: TableName) -> Steps[Table]:
    """
    Read a table from the catalog, with one query.

    One more if it is not a plain table, and one where Citus is installed.

    Raises:
        UnknownTableError: There is no such table; a second query found the closest.
    """
    rows = yield Command(plain_table.REFLECT, [_sent(name)], kind="once")
    parts: list[plain_table.FoundParts] = [json.loads(row[0]) for row in rows]
    found = plain_table.complete(parts[0]) if parts else None
    if found is None:
        return (yield from reflect_any(name))
    return (yield from _read(name, found))


def reflect_any(name: TableName) -> Steps[Table]:
    """
    Read a table, plain or not.

    Raises:
        UnknownTableError: As in `reflect`.
    """
    rows = yield Command(_REFLECT, [_sent(name)], kind="catalog")
    if not rows:
        known = yield Command(TABLES, kind="catalog")
        raise UnknownTableError(".".join(name), [row[0] for row in known])
    found: FoundTable = json.loads(rows[0][0])
    return (yield from _read(name, found))


def _sent(name: TableName) -> NameArgument:
    return NameArgument(quote_path(name))


def _read(name: TableName, found: FoundTable) -> Steps[Table]:
    if not found["xmax"]:
        log_experimental("YugabyteDB")
    if found["is_citus"]:
        distribution = yield from citus.read_distribution(found["oid"])
        if distribution is not None:
            found["cluster"] = citus.EXACT_BECAUSE
            found["distributed_by"] = distribution.column
    return read_table(name, found)


def identify(name: TableName) -> Steps[str]:
    """Return the oid of the relation that a name means now; empty if it is none."""
    relation = "pg_catalog.to_regclass($1::pg_catalog.text)"
    sql = f"SELECT {relation}::pg_catalog.oid::pg_catalog.text"
    rows = yield Command(sql, [_sent(name)])
    return str(rows[0][0] or "")


def read_table(name: TableName, found: FoundTable) -> Table:
    """Return the table that the query has found."""
    kind, remote = found["kind"], found["remote"]
    columns = found["columns"] or ()
    indexes = found["unique"] or ()
    texts = [c["name"] for c in columns if c["type"] in {"varchar", "text"}]
    unique = tuple(_unique(index, texts) for index in indexes)
    mergeable = (
        found["foldable"]
        and not found["children"]
        and not found["rules"]
        and not any(column["generated"] for column in columns)
    )
    return Table(
        name=name,
        relation_id=found["oid"],
        shape=tuple(found.get("shape", ())),
        # A cluster's other servers may not know the row type.
        row_type="" if "cluster" in found else found.get("row_type", ""),
        columns={
            column["name"]: _column(column, found.get("defaults") or {})
            for column in columns
        },
        unique=unique,
        constants=constants_of(unique),
        primary_key=frozenset(c["name"] for c in columns if c["primary"]),
        exact_because=next(_reasons_for_exact(found), None),
        needs_key_lock=any(i["exclusion"] or i["deferrable"] for i in indexes),
        supports_on_conflict_update=(kind == "r" and found["xmax"])
        or (kind in {"r", "p"} and found["returns_old"]),
        supports_do_nothing=not (
            "cluster" in found
            or found["rules"]
            or found["instead"]
            or any(index["deferrable"] for index in indexes)
        ),
        may_store_others=remote or found["before"] or found["rules"] or kind == "v",
        lockable=not ("cluster" in found or found["instead"] or kind == "m"),
        supports_returning_old=found["returns_old"],
        # On another server, the second part of a statement sees what the first one did.
        one_by_one_because=_FOREIGN.get(kind, "foreign tables inherit from it")
        if remote
        else None,
        temporary_tables_allowed=found["may_copy"],
        has_children=found["children"],
        mergeable=mergeable,
        # RETURNING xmax takes the right to read the whole row.
        may_propose=mergeable
        and found.get("proposable", False)
        and (found["returns_old"] or found.get("may_read", False))
        and not any(map(_is_domain, columns)),
        updates_may_be_refused=found["refuses"],
        row_security=found.get("row_security", False),
        is_utf8=found.get("utf8", False),
        is_small=found.get("small", False),
        min_size=0
        if kind != "r" or found.get("small", True)
        else plain_table.SMALL_SIZE,
        is_empty=found.get("empty", False),
        scan_limit=found.get("scan_limit", 0),
        is_partitioned=kind == "p",
        has_many_partitions=found.get("many_partitions", False),
        partitioned_by=found.get("partitioned_by") or {},
        has_remote_rows=remote,
        distribution_column=found.get("distributed_by"),
        all_indexes_known=kind != "v" and not (remote and kind in _FOREIGN),
    )


def _reasons_for_exact(found: FoundTable) -> Iterator[str]:
    """Yield why a call cannot be one statement, but has to take the classic steps."""
    indexes = found["unique"] or ()
    if "cluster" in found:
        yield found["cluster"]
    if found["instead"]:
        yield "it is a view with INSTEAD OF triggers"
    if found["rules"]:
        yield "it has rules"
    if found["kind"] == "m":
        yield "it is a materialized view"
    if any(index["exclusion"] for index in indexes):
        yield EXCLUDES
    if any(index["deferrable"] for index in indexes):
        yield DEFERS
    if not found["may_insert"]:
        yield MAY_NOT_INSERT
    if found["before"]:
        yield FIRES_BEFORE
    if found["statement"]:
        yield FIRES_FOR_STATEMENT


EXCLUDES: Final = "it has an exclusion constraint"
DEFERS: Final = "it has a deferrable unique constraint"
MAY_NOT_INSERT: Final = "this role may not insert into it"
FIRES_BEFORE: Final = "it has a BEFORE INSERT trigger"
FIRES_FOR_STATEMENT: Final = "it has a trigger for each INSERT statement"


_FOREIGN: Final = {
    "f": "it is a foreign table",
    "p": "it has foreign tables for partitions",
}


_FAMILIES: Final[dict[str, Family]] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), "integer"),
    **dict.fromkeys(("numeric", "float4", "float8"), "number"),
    **dict.fromkeys(("text", "varchar", "bpchar", "name", "citext"), "text"),
    **dict.fromkeys(("json", "jsonb"), "json"),
    "bool": "boolean",
    "bytea": "bytes",
}
_STORAGES: Final[dict[str, Storage]] = {
    **dict.fromkeys(("int2", "int4", "int8", "oid"), "integer"),
    "numeric": "numeric",
    "bool": "boolean",
    "text": "text",
    "varchar": "varchar",
    "bpchar": "bpchar",
    "date": "date",
    "time": "time",
    "timetz": "timetz",
    "timestamptz": "timestamptz",
    "uuid": "uuid",
}
# Types whose precision rounds. A length would cut, so it is never part of a cast.
_ROUNDED: Final = frozenset(
    {"numeric", "time", "timetz", "timestamp", "timestamptz", "interval"}
)
# unnest() expands arrays of all dimensions, and composite values into their columns.
_EXPANDED: Final = frozenset({"A", "C"})
# The typmod of varchar includes a header of four bytes.
_HEADER: Final = 4


def _column(found: FoundColumn, defaults: Mapping[str, str]) -> Column:
    kind, typmod = found["type"], found["typmod"]
    number = found.get("number", 0)
    consumes_sequence = "nextval(" in (found["default"] or "")
    builtin = found["catalog"] == "pg_catalog"
    # The type of an array is named like that of its elements, after an underscore.
    may_round = builtin and kind.removeprefix("_") in _ROUNDED
    is_known = builtin and found["collation"] is None
    return Column(
        name=found["name"],
        type=found["cast"],
        key_type=found["exact"] if may_round and typmod >= 0 else found["cast"],
        family=_FAMILIES.get(kind, "other") if builtin or kind == "citext" else "other",
        storage=_STORAGES.get(kind, "other") if is_known else "other",
        length=typmod - _HEADER if kind == "varchar" and typmod >= 0 else None,
        default=found["default"],
        number=number,
        default_id=defaults.get(str(number), ""),
        generated=found["generated"],
        always_identity=found["identity"] == "a",
        consumes_sequence=consumes_sequence,
        readable=found.get("readable", False),
        may_draw=consumes_sequence and bool(found["may_draw"]),
        required=found["not_null"]
        and found["default"] is None
        and not found["generated"],
        nullable=not found["not_null"],
        not_null=found["not_null"],
        unconstrained=found["unchecked"],
        supports_unnest=found["array"] and found["category"] not in _EXPANDED,
        type_id=found["type_id"],
        declared_type_id=found.get("declared_id", ""),
        modifier=found.get("declared_typmod")
        if may_round and not _is_domain(found)
        else None,
        collation=found["collation"] or "",
        operators=found.get("operators") or "",
    )


def _is_domain(found: FoundColumn) -> bool:
    return found.get("declared_id", "") != found["type_id"]


def _unique(found: FoundIndex, texts: Container[str]) -> UniqueIndex:
    columns = found["columns"] or []
    if found["exclusion"] and not found["equality"]:
        columns = [None] * len(columns)
    expressions = tuple(found.get("expressions") or ())
    return UniqueIndex(
        name=found["name"],
        columns=tuple(columns),
        expressions=expressions if any(expressions) else (),
        nulls_distinct=found["nulls_distinct"],
        predicate=found["predicate"],
        pins=read_predicate(found["predicate"], texts),
        deferrable=found["deferrable"],
        coarser=bool(found["coarser"]),
    )
