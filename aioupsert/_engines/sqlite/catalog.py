"""
Reflection of a SQLite table.

A handful of queries of pragma functions and of sqlite_master, as one job on the
connection's thread. What only the SQL of the schema tells (STRICT, AUTOINCREMENT, the
events of triggers, the predicates of indexes) is read from its text.

References:
    SQLite, "PRAGMA Statements", "The Schema Table", "Datatypes In SQLite" (3, type
    affinity).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeAlias

from aioupsert._engines.commands import Command, Steps
from aioupsert._engines.partial_indexes import read_predicate
from aioupsert._engines.sql import quote, quote_path, quote_text
from aioupsert._plan.key_checks import looks_like_number
from aioupsert._plan.schema import (
    Column,
    Family,
    Pin,
    Storage,
    Table,
    TableName,
    UniqueIndex,
    constants_of,
)
from aioupsert.errors import UnknownTableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from aioupsert._engines.commands import ResultRow, ResultRows

ROWID_KEY: Final = "PRIMARY KEY"
"""The index of a primary key that is another name of the rowid, which has no index."""
_COLUMNS: Final = (
    'SELECT name, type, dflt_value, pk, hidden, "notnull"'
    " FROM pragma_table_xinfo(?, ?) ORDER BY cid"
)
_UNIQUE: Final = (
    "SELECT l.name, l.origin, l.partial, x.name, x.coll"
    " FROM pragma_index_list(?, ?) AS l, pragma_index_xinfo(l.name, ?) AS x"
    ' WHERE l."unique" AND x.key ORDER BY l.seq, x.seqno'
)


def reflect(name: TableName) -> Steps[Table]:
    """
    Read a table from the schema.

    Raises:
        UnknownTableError: There is no such table.
    """
    databases = yield _query("SELECT name FROM pragma_database_list")
    # An unqualified name is looked up in temp first, then in main, then in the attached
    # databases.
    order = ["temp", *(row[0] for row in databases if row[0] != "temp")]
    searched = [n for n in order if len(name) == 1 or n.lower() == name[0].lower()]
    for number, database in enumerate(searched):
        # First of all, so that what changes meanwhile is noticed later.
        identity = yield from _identity(name, database, searched[:number])
        columns = yield _query(_COLUMNS, (name[-1], database))
        if columns:
            return (yield from _table(name, database, identity, columns))
    known: list[str] = []
    for database in searched or order:
        rows = yield _query(f"SELECT name || '' FROM {quote(database)}.sqlite_master")
        known += [row[0] for row in rows]
    raise UnknownTableError(".".join(name), known)


_Identity: TypeAlias = tuple[tuple[str, "ResultRows"], ...]


def _identity(
    name: TableName, database: str, before: Sequence[str]
) -> Steps[_Identity]:
    """
    Return what tells whether a name still means a table, and the table is as it was.

    SQLite counts the changes of each schema. A name without a database may also come to
    mean a table of another one, most often a temporary table that hides it, and the name
    of an attached database another file. Temporary triggers are in another schema.
    """
    queries: list[str] = []
    if database != "temp":
        same_name = f"= {quote_text(name[-1])} COLLATE NOCASE"
        # Of a table or view this column has the name; of a trigger that of its table.
        temporary = f"type <> 'index' AND tbl_name {same_name}"
        tables = f"type IN ('table', 'view') AND name {same_name}"
        others = [
            f"SELECT 1 FROM {quote(other)}.sqlite_master WHERE {tables}"
            for other in before
            if other != "temp"
        ]
        query = f"SELECT sql || '' FROM temp.sqlite_master WHERE {temporary}"
        queries.append(" UNION ALL ".join([query, *others]))
    if database.lower() not in {"main", "temp"}:
        attached = f"FROM pragma_database_list WHERE name = {quote_text(database)}"
        files = yield _query(f"SELECT file || '' {attached}")
        queries += [
            f"SELECT 1 {attached} AND file = {quote_text(row[0])}" for row in files
        ]
    queries.append(f"PRAGMA {quote(database)}.schema_version")
    identity: list[tuple[str, ResultRows]] = []
    for query in queries:
        rows = yield _query(query)
        identity.append((query, rows))
    return tuple(identity)


def _one_by_one_because(sql: str, *, is_table: bool) -> str | None:
    if not is_table:
        return "it is a view or a virtual table"
    return "a constraint has a conflict clause" if _CLAUSE.search(sql) else None


def identify(name: TableName) -> Steps[str]:
    """Return the SQL of the table that a name means now."""
    return (yield from reflect(name)).relation_id


# A trigger without BEFORE or AFTER is BEFORE. A false match costs a query, no more.
_BEFORE_UPDATE: Final = re.compile(r"\bUPDATE\b.*?\bON\b", re.IGNORECASE | re.DOTALL)
_NAME: Final = (
    r"""(?:"(?:[^"]|"")*"|'(?:[^']|'')*'|`(?:[^`]|``)*`|\[[^\]]*\]|[^\s"'`\[.]+)"""
)
_AFTER_UPDATE: Final = re.compile(
    r"CREATE\s+(?:TEMP\s+|TEMPORARY\s+)?TRIGGER\s+(?:IF\s+NOT\s+EXISTS\s+)?"
    rf"(?:{_NAME}\s*\.\s*)?{_NAME}\s+AFTER\s+UPDATE\b",
    re.IGNORECASE,
)
_INSERT: Final = re.compile(r"\bINSERT\b.*?\bON\b", re.IGNORECASE | re.DOTALL)
_AFTER_INSERT: Final = re.compile(r"\bAFTER\s+INSERT\b", re.IGNORECASE)
_CLAUSE: Final = re.compile(r"\bCONFLICT\b", re.IGNORECASE)


# The || '' in queries removes the declared type of a column, so that converters which
# the caller has registered for that type are not applied.
def _query(sql: str, arguments: Sequence[str] = ()) -> Command:
    return Command(sql, arguments, "catalog")


def _table(
    name: TableName, database: str, identity: _Identity, columns: ResultRows
) -> Steps[Table]:
    master = f"{quote(database)}.sqlite_master"
    found = yield _query(
        f"SELECT type || '', sql || '' FROM {master} WHERE name = ? COLLATE NOCASE"
        " AND type IN ('table', 'view')",
        (name[-1],),
    )
    kind, sql = found[0] if found else ("table", "")
    indexed = yield _query(_UNIQUE, (name[-1], database, database))
    partial = yield _query(
        f"SELECT name || '', sql || '' FROM {master}"
        " WHERE type = 'index' AND sql IS NOT NULL"
        " AND tbl_name = ? COLLATE NOCASE",
        (name[-1],),
    )
    masters = dict.fromkeys((master, f"{quote('temp')}.sqlite_master"))
    triggers = yield _query(
        " UNION ALL ".join(
            f"SELECT sql || '' FROM {schema} WHERE type = 'trigger'"
            " AND tbl_name = ? COLLATE NOCASE"
            for schema in masters
        ),
        (name[-1],) * len(masters),
    )
    consumes_sequence = bool(re.search(r"\bAUTOINCREMENT\b", sql, re.IGNORECASE))
    strict = bool(re.search(r"\)[^)]*\bSTRICT\b[^)]*$", sql, re.IGNORECASE))
    reflected = {
        row[0]: _column(row, strict=strict, consumes_sequence=consumes_sequence)
        for row in columns
        if row[4] != _HIDDEN
    }
    definitions = dict(map(tuple, partial))
    collations: dict[str, str] = {}
    # Only where one is named can that of an index be another than its column's.
    if any(_COLLATE.search(text) for text in (sql, *definitions.values())):
        named = {row[3] for row in indexed if row[3] in reflected}
        collations = yield from _collations(name, sorted(named))
    unique = _unique_indexes(indexed, definitions, collations, reflected)
    virtual = bool(re.match(r"\s*CREATE\s+VIRTUAL\b", sql, re.IGNORECASE))
    is_table = kind == "table" and not virtual
    primary = [row[0] for row in columns if row[3]]
    by_index = any(row[1] == "pk" for row in indexed)
    if len(primary) == 1 and not by_index and kind == "table":
        # An INTEGER PRIMARY KEY is the rowid itself and has no index.
        unique = (*unique, UniqueIndex(ROWID_KEY, tuple(primary)))
    without_rowid = by_index and re.search(
        r"\bWITHOUT\s+ROWID\b[^)]*$", sql, re.IGNORECASE
    )
    if (
        kind == "table"
        and not without_rowid
        and "rowid" not in map(str.lower, reflected)
    ):
        reflected["rowid"] = Column(
            "rowid", "", "", "integer", "sqlite number", hidden=True
        )
        unique = (*unique, UniqueIndex("rowid", ("rowid",)))
    return Table(
        name=name,
        relation_id=sql,
        path=() if database.lower() == "main" else (database, name[-1]),
        identity=identity,
        columns=reflected,
        unique=unique,
        constants=constants_of(unique),
        primary_key=frozenset(primary),
        one_by_one_because=_one_by_one_because(sql, is_table=is_table),
        supports_on_conflict_update=is_table,
        supports_returning=is_table,
        written_by_triggers=kind == "view",
        updates_may_be_refused=any(
            _BEFORE_UPDATE.search(row[0]) and not _AFTER_UPDATE.match(row[0])
            for row in triggers
        ),
        has_before_insert_trigger=any(
            _INSERT.search(row[0]) and not _AFTER_INSERT.search(row[0])
            for row in triggers
        ),
        is_plain=is_table and not triggers and not _CLAUSE.search(sql),
        all_indexes_known=is_table,
    )


# "hidden" of table_xinfo: 1 is a hidden column of a virtual table, 2 and 3 are generated.
_HIDDEN: Final = 1
_GENERATED: Final = (2, 3)


def _column(row: ResultRow, *, strict: bool, consumes_sequence: bool) -> Column:
    name, declared, default, primary, hidden, not_null = row
    family, storage = _affinity(
        "" if strict and declared == "ANY" else declared.upper()
    )
    return Column(
        name=name,
        type="",
        key_type="",
        family=family,
        storage=storage,
        default=_default(default, storage),
        consumes_sequence=consumes_sequence and bool(primary),
        # SQLite numbers an INTEGER PRIMARY KEY by itself.
        required=bool(not_null)
        and default is None
        and not (primary and declared.upper() == "INTEGER"),
        not_null=bool(not_null),
        generated=hidden in _GENERATED,
        type_id=f"{declared} {primary} {not_null}",
    )


def _affinity(declared: str) -> tuple[Family, Storage]:
    """Return the family and the storage of a declared type, by SQLite's ordered rules."""
    if "INT" in declared:
        return "integer", "sqlite number"
    if any(word in declared for word in ("CHAR", "CLOB", "TEXT")):
        return "text", "sqlite text"
    if not declared:
        return "", "sqlite blob"
    if "BLOB" in declared:
        return "bytes", "sqlite blob"
    if any(word in declared for word in ("REAL", "FLOA", "DOUB")):
        return "number", "sqlite real"
    for word, family in _NUMERIC_FAMILIES.items():
        if word in declared:
            return family, "sqlite number"
    return "", "sqlite number"


_NUMERIC_FAMILIES: Final[dict[str, Family]] = {
    "BOOL": "boolean",
    "JSON": "json",
    "NUM": "number",
    "DEC": "number",
    "DATE": "date",
    "TIME": "date",
}
_KEYWORDS: Final = frozenset(
    {"null", "true", "false", "current_time", "current_date", "current_timestamp"}
)


# In the DEFAULT of a column a bare word is a string, and so is one in any quotes. In any
# other place it is the name of a column.
_WORD: Final = re.compile(r"(?:[A-Za-z_]|[^\x00-\x7f])(?:[\w$]|[^\x00-\x7f])*")
_QUOTES: Final = ("''", '""', "``", "[]")
_NUMERIC: Final[frozenset[Storage]] = frozenset({"sqlite number", "sqlite real"})


def _default(text: str | None, storage: Storage) -> str | None:
    """Return an expression with the value that a column's default stores."""
    if text is None:
        return None
    string = _string(text)
    if storage == "sqlite text":
        is_blob = re.match(r"\(*x'", text, re.IGNORECASE)
        expression = text if string is None else quote_text(string)
        return text if is_blob else f"CAST(({expression}) AS TEXT)"
    # The words could be names of columns.
    text = {"true": "1", "false": "0"}.get(text.lower(), text)
    if string is not None:
        number = storage in _NUMERIC and looks_like_number(string)
        text = string if number else quote_text(string)
    if storage not in _NUMERIC or re.fullmatch(r"-?\d+|'.*'", text, re.DOTALL):
        whole = storage != "sqlite real" or text.startswith("'")
        return text if whole else f"{text}.0"
    converted = _STORED_REAL if storage == "sqlite real" else _STORED_NUMBER
    return converted.format(text)


# The conversions of a numeric affinity when a value is stored.
_STORED_REAL: Final = (
    "CASE typeof({0}) WHEN 'integer' THEN CAST({0} AS REAL) ELSE {0} END"
)
_STORED_NUMBER: Final = (
    "CASE WHEN typeof({0}) = 'real' AND {0} = CAST({0} AS INTEGER)"
    " THEN CAST({0} AS INTEGER) ELSE {0} END"
)


def _string(text: str) -> str | None:
    """Return the string that a default is, however it is written; None if it is none."""
    for opening, closing in _QUOTES:
        inner = text[1:-1].replace(closing * 2, "")
        if text[0] == opening and text[-1] == closing and closing not in inner:
            return text[1:-1].replace(closing * 2, closing)
    if _WORD.fullmatch(text) and text.lower() not in _KEYWORDS:
        return text
    return None


_COLLATE: Final = re.compile(r"\bCOLLATE\b", re.IGNORECASE)
_BUILT_IN: Final = frozenset({"BINARY", "NOCASE", "RTRIM"})


def _collations(name: TableName, columns: Sequence[str]) -> Steps[dict[str, str]]:
    """
    Return the collation of each column, which the schema does not say.

    It is found by comparing texts as the column's values would be. A collation of the
    caller's own is taken for BINARY.
    """
    if not columns:
        return {}
    selected = ", ".join(f"{quote(c)} AS c{n}" for n, c in enumerate(columns))
    texts = ", ".join("'a'" for _ in columns)
    tests = ", ".join(f"'A' = c{n}, 'a ' = c{n}" for n in range(len(columns)))
    rows = yield _query(
        f"SELECT {tests} FROM (SELECT {selected} FROM {quote_path(name)} WHERE 0"
        f" UNION ALL SELECT {texts})"
    )
    answers = rows[0]
    return {
        column: "NOCASE" if is_nocase else "RTRIM" if is_rtrim else "BINARY"
        for column, is_nocase, is_rtrim in zip(
            columns, answers[::2], answers[1::2], strict=True
        )
    }


def _unique_indexes(
    rows: Iterable[ResultRow],
    definitions: dict[str, str],
    collations: dict[str, str],
    names: Iterable[str],
) -> tuple[UniqueIndex, ...]:
    columns: dict[str, list[str | None]] = {}
    predicates: dict[str, str | None] = {}
    coarser: set[str] = set()
    spelt = {column.lower(): column for column in names}
    for name, _, partial, column, collation in rows:
        sql = definitions.get(name, "")
        own = collations.get(column, collation)
        if collation != own and (collation in _BUILT_IN or _COLLATE.search(sql)):
            if own == "BINARY":
                coarser.add(name)
            else:
                # Values that are equal for the column may differ for the index.
                column = None  # noqa: PLW2901  # as that of an expression
        columns.setdefault(name, []).append(column)
        predicates[name] = _predicate(sql) if partial else None
    return tuple(
        UniqueIndex(
            name,
            tuple(parts),
            predicate=predicates[name],
            pins=_pins(predicates[name], spelt),
            coarser=name in coarser,
        )
        for name, parts in columns.items()
    )


def _pins(predicate: str | None, spelt: Mapping[str, str]) -> tuple[Pin, ...]:
    """Return what a predicate requires of columns, spelt as the table does."""
    pins = read_predicate(predicate)
    return tuple(p._replace(column=spelt.get(p.column.lower(), "")) for p in pins)


def _predicate(sql: str) -> str:
    found = _WHERE.search(sql)
    return found[1].strip() if found else sql


# WHERE follows the columns, and perhaps a comment.
_WHERE: Final = re.compile(
    r"\)(?:\s|--[^\n]*\n|/\*.*?\*/)*WHERE\b(.*)", re.IGNORECASE | re.DOTALL
)
