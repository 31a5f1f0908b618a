"""
CockroachDB, a distributed database that is compatible with PostgreSQL.

Experimental, by its documentation. It is recognised by ``crdb_version``, which it reports
when a client connects. A statement may modify a table only once, so the classic steps
are used, and many rows are written one by one. Its common table expressions cannot be
correlated, so a table is reflected by a query of its own, which claims the least where
the catalog does not say.

References:
    CockroachDB, "pg_catalog", "Common Table Expressions".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from aioupsert._engines.commands import Command, Steps
from aioupsert._engines.postgresql.catalog import TABLES, read_table
from aioupsert._engines.postgresql.engine import PostgresqlEngine
from aioupsert._engines.postgresql.experimental import log_experimental
from aioupsert._engines.sql import quote_escaped, quote_path
from aioupsert.errors import UnknownTableError

if TYPE_CHECKING:
    from aioupsert._engines.postgresql.plain_table import FoundTable
    from aioupsert._plan.schema import Table, TableName

_REFLECT: Final = """
SELECT json_build_object(
  'oid', c.oid::text,
  'kind', c.relkind::text,
  'cluster', 'CockroachDB lets a statement modify a table once',
  'returns_old', false, 'may_insert', true, 'may_copy', false, 'rules', false,
  'instead', false, 'before', false, 'statement', false, 'children', false, 'foldable', false,
  'refuses', false, 'remote', false, 'xmax', false,
  'columns', (
    SELECT json_agg(json_build_object(
      'name', a.attname,
      'type_id', t.oid::text,
      'catalog', tn.nspname,
      'type', t.typname,
      'cast', quote_ident(tn.nspname) || '.' || quote_ident(t.typname),
      'exact', format_type(t.oid, a.atttypmod),
      'typmod', a.atttypmod,
      'collation', NULL, 'may_draw', false,
      'primary', EXISTS (
        SELECT FROM pg_catalog.pg_index i
        WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey)),
      'generated', a.attgenerated <> '',
      'identity', a.attidentity,
      'not_null', a.attnotnull,
      'category', t.typcategory,
      'array', t.typarray <> 0,
      'unchecked', false,
      'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END
      ) ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    JOIN pg_catalog.pg_namespace tn ON tn.oid = t.typnamespace
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'unique', (
    SELECT json_agg(json_build_object(
      'name', ic.relname,
      'columns', (
        SELECT json_agg(ka.attname ORDER BY k.place)
        FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
        LEFT JOIN pg_catalog.pg_attribute ka
          ON ka.attrelid = c.oid AND ka.attnum = k.attnum AND k.attnum > 0
        WHERE k.place <= i.indnkeyatts),
      'nulls_distinct', true,
      'predicate', pg_get_expr(i.indpred, i.indrelid),
      'deferrable', false,
      'coarser', false,
      'exclusion', false,
      'equality', NULL
      ) ORDER BY i.indexrelid)
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class ic ON ic.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisunique)
  )::text
FROM pg_catalog.pg_class c
WHERE c.oid = to_regclass({name})::oid
"""


class CockroachdbEngine(PostgresqlEngine):
    """CockroachDB."""

    system: str = "cockroachdb"
    lock_limits: Command | None = None

    def reflect(self, name: TableName) -> Steps[Table]:
        """
        Read a table from the catalog.

        Raises:
            UnknownTableError: There is no such table; a second query found the closest.
        """
        return _reflect(name)


def _reflect(name: TableName) -> Steps[Table]:
    log_experimental("CockroachDB")
    sql = _REFLECT.replace("{name}", quote_escaped(quote_path(name)))
    rows = yield Command(sql, kind="catalog")
    if not rows:
        known = yield Command(
            TABLES.replace("pg_catalog.cstring", "pg_catalog.text"), kind="catalog"
        )
        raise UnknownTableError(".".join(name), [row[0] for row in known])
    found: FoundTable = json.loads(rows[0][0])
    return read_table(name, found)
