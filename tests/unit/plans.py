"""Tables and calls for the tests of plans and statements, which need no database."""

import re
import sqlite3
from typing import Any, Final

from hypothesis import strategies as st

from aioupsert import DEFAULT, SQL, F, coalesce, func, greatest, least
from aioupsert._engines.sqlite import catalog as sqlite_catalog
from aioupsert._plan import Plan, Request, RequestShape, make_plan, read_request
from aioupsert._plan.request import Arguments
from aioupsert._plan.schema import Column, Family, Storage, Table, UniqueIndex

SHAPE: Final = Request(
    *((), (), (), (), None, False, None, False), "warn", "auto", None, None, False
)
"""A shape for tests that only compare shapes."""


def read(**call: Any) -> tuple[RequestShape, list[Any]]:
    """A call about the row with id 1, if nothing else is said, read."""
    return read_request(Arguments(None, **{"key": {"id": 1}, **call}))


def plan(table: Table, **call: Any) -> Plan:
    """The plan of a call."""
    return make_plan(read(**call)[0], table)


def column(name: str, family: Family = "integer", **more: Any) -> Column:
    """A column of PostgreSQL."""
    of_family: dict[Family, tuple[str, Storage]] = {
        "integer": ("int4", "integer"),
        "number": ("numeric", "numeric"),
        "text": ("text", "text"),
        "boolean": ("bool", "boolean"),
        "json": ("jsonb", "other"),
        "bytes": ("bytea", "other"),
        "other": ("timestamptz", "timestamptz"),
    }
    type_, storage = of_family[family]
    cast = f"pg_catalog.{type_}"
    attributes: dict[str, Any] = {
        "type": cast,
        "key_type": cast,
        "storage": storage,
        "operators": "pg_catalog",
    }
    return Column(name=name, family=family, **(attributes | more))


def table(*columns: Column, **more: Any) -> Table:
    """A table of PostgreSQL; id is unique."""
    attributes: dict[str, Any] = {
        "name": ("s", "t"),
        "relation_id": "4711",
        "unique": (UniqueIndex("t_pkey", ("id",)),),
    }
    named = {c.name: c for c in (column("id"), *columns)}
    return Table(columns=named, **(attributes | more))


def described(sql: str, name: tuple[str, ...] = ("t",)) -> Table:
    """What SQLite itself says of a table, made by the statements."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(sql)
        steps = sqlite_catalog.reflect(name)
        send = next(steps)
        while True:
            send = steps.send(
                connection.execute(send.sql, tuple(send.arguments)).fetchall()
            )
    except StopIteration as stop:
        found: Table = stop.value
        return found
    finally:
        connection.close()


def flat(sql: str) -> str:
    """On one line, so that a test may lay it out."""
    return re.sub(r"(?<=\() | (?=\))", "", " ".join(sql.split()))


# --- Any call -------------------------------------------------------------------------

_NAMES = st.text(st.sampled_from("ab'\"\\?$1{}%:. é☃"), min_size=1, max_size=4)
_FAMILIES: st.SearchStrategy[Family] = st.sampled_from(
    ("integer", "number", "text", "boolean", "json", "other")
)
_DEFAULTS = st.sampled_from([None, "'?$9'", "NULL"])
_LITERALS: dict[str, list[Any]] = {
    "integer": [1, -(2**40), None],
    "number": [1.5, None],
    "text": ["?", "$1", None],
    "boolean": [True, None],
    "json": [{"?": "$1"}, [1], None],
    "other": ["x", None],
}


@st.composite
def drawn_calls(draw: st.DrawFn) -> tuple[Table, dict[str, Any]]:
    """A table with any names, and a call that it can serve."""
    names = draw(st.lists(_NAMES, min_size=2, max_size=5, unique=True))
    columns = [column(name, draw(_FAMILIES), default=draw(_DEFAULTS)) for name in names]
    keys = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    relation = Table(
        name=tuple(draw(st.lists(_NAMES, min_size=1, max_size=2))),
        relation_id="4711",
        columns={c.name: c for c in columns},
        unique=(UniqueIndex("i", tuple(keys)),),
        needs_key_lock=draw(st.booleans()),
    )
    others = [c for c in columns if c.name not in keys]
    given = [c for c in others if draw(st.booleans())]
    touched = [c for c in others if c not in given and draw(st.booleans())]
    call = {
        "key": {name: draw(st.sampled_from(["?", 1, {"a": 1}])) for name in keys},
        "defaults": {c.name: draw(_values(c, columns)) for c in given},
        "create_defaults": {
            c.name: draw(_values(c, columns)) for c in others if draw(st.booleans())
        },
        "touch": {c.name: draw(_values(c, columns)) for c in touched},
        "where": draw(st.none() | _conditions(columns)),
        "skip_unchanged": draw(st.booleans()),
        "returning": draw(st.none() | st.just("*") | st.lists(st.sampled_from(names))),
        "without_unique_index": draw(st.sampled_from(["allow", "lock"])),
        "strategy": draw(st.sampled_from(["auto", "exact", "on_conflict"])),
    }
    return relation, call


def _values(about: Column, columns: list[Column]) -> st.SearchStrategy[Any]:
    """A value for a column, plain or computed from columns of its kind."""
    alike = [c.name for c in columns if c.family == about.family]
    stored = st.sampled_from(alike).map(F)
    literals = st.sampled_from(_LITERALS[about.family])
    operands = st.one_of(stored, literals)
    raw = st.builds(SQL, st.just("f({}, {})"), stored, literals)
    made = [
        st.builds(coalesce, operands, stored),
        st.builds(func, st.just("f"), stored, literals),
        raw,
    ]
    if about.family in {"integer", "number"}:
        made.append(st.builds(lambda a, b: (a + b) / a, stored, operands))
        made.append(st.builds(greatest, stored, operands, stored))
    if about.family == "text":
        made.append(st.builds(least, operands, stored, operands))
        made.append(st.builds(lambda a, b: a.concat(b, "?"), stored, operands))
    if about.family == "json":
        made.append(st.builds(lambda a: a.merge({"?": 1}), stored))
    return st.one_of(literals, st.just(DEFAULT), stored, *made)


def _conditions(columns: list[Column]) -> st.SearchStrategy[Any]:
    stored = st.sampled_from([c.name for c in columns]).map(F)
    raw = st.builds(SQL, st.just("{} @ {}"), stored, st.sampled_from([1, "?", None]))
    is_null = stored.map(lambda value: value.is_null())
    return st.one_of(
        is_null, raw.map(lambda value: ~value), is_null.map(lambda c: c | c)
    )
